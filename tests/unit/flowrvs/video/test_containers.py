"""What an MP4 says about its frames: edit lists, and how the picture is turned."""

from __future__ import annotations

import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable

import av
import numpy as np
import pytest
from PIL import Image

from flowrvs.data.export import export_projects
from flowrvs.errors import VideoError
from flowrvs.inference import segment, segment_into
from flowrvs.store import Project
from flowrvs.video import open_video
from flowrvs.video.probe import edits_not_followed, incomplete
from tests.fixtures.segmenters import ThresholdSegmenter

from .clips import decode_in_order, number_in, write_clip

COUNT = 24
X264 = "keyint=8:min-keyint=8:scenecut=0:b-adapt=0:bframes="
# With B-frames, FFmpeg's own edit list begins as late as frames are decoded ahead.
CLIPS = {"plain": X264 + "0", "B-frames": X264 + "3", "open groups": X264 + "3:open-gop=1"}
Change = Callable[[bytes, bytes], bytes]


def boxed(data: bytes, change: Change) -> bytes:
    """Rebuild an MP4 file whose index is at its end, with the contents of boxes changed."""
    out, at = b"", 0
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        content = data[at + 8 : at + size]
        if kind in (b"moov", b"trak", b"edts", b"mdia"):
            content = boxed(content, change)
        content = change(kind, content)
        out += struct.pack(">I", len(content) + 8) + kind + content
        at += size
    return out


def edit(path, *edits, fps=25, rate=1.0, version=0):
    """Give a file another edit list: (frames, first frame), None for a pause."""
    data = path.read_bytes()
    clock = int.from_bytes(data[(at := data.index(b"mdhd") + 16) : at + 4], "big")
    # As FFmpeg writes it: one edit, which begins where the first frame is shown.
    start = int.from_bytes(data[(at := data.index(b"elst") + 16) : at + 4], "big")
    content = struct.pack(">B3xI", version, len(edits))
    for count, first in edits:
        time = -1 if first is None else start + round(first * clock / fps)
        content += struct.pack(
            ">QqI" if version else ">IiI", round(count * 1000 / fps), time, int(rate * 2**16)
        )
    path.write_bytes(boxed(data, lambda kind, old: content if kind == b"elst" else old))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: write_clip(folder / f"{name}.mp4", count=COUNT, options={"x264-params": params})
        for name, params in CLIPS.items()
    }


@pytest.fixture(params=list(CLIPS))
def clip(request, clips):
    return clips[request.param]


@pytest.fixture
def plain(clips, tmp_path):
    return shutil.copy(clips["plain"], tmp_path / "plain.mp4")


F = range(COUNT)
EDITS = {
    "cut in front": ([(19, 5)], [*F[5:]]),
    "cut on both sides": ([(9, 11)], [*F[11:20]]),
    "a pause in front": ([(10, None), (24, 0)], [*F]),
    "two pauses and a cut": ([(5, None), (5, None), (7, 13)], [*F[13:20]]),
    "two parts": ([(5, 5), (6, 17)], [*F[5:10], *F[17:23]]),
    "in another order": ([(6, 17), (9, 0)], [*F[17:23], *F[:9]]),
    "repeated": ([(9, 0), (9, 0)], [*F[:9], *F[:9]]),
    # The rest of a frame that was cut through is left out, as FFmpeg does it.
    "between two frames": ([(8, 5.5)], [*F[6:14]]),
}


@pytest.mark.parametrize("name", list(EDITS))
def test_edit_lists_are_followed(tmp_path, clip, name):
    edits, expected = EDITS[name]
    version = list(EDITS).index(name) % 2
    path = edit(shutil.copy(clip, tmp_path / "edited.mp4"), *edits, version=version)
    reference = decode_in_order(path)
    with open_video(path, cache_bytes=0) as video:
        frames = video.read(0, len(video))
        assert [number_in(f) for f in frames] == expected
        assert np.array_equal(frames, reference)
        for n in random.Random(4).sample(range(len(video)), 6):
            assert np.array_equal(video.frames[n].compute(), frames[n])
        pause = sum(count for count, first in edits if first is None)
        assert video.times[0] == pytest.approx(pause / 25)
        assert not video.damaged_frames and video.info.frame_count == len(expected)


def test_frame_threads_leave_out_what_was_cut(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("flowrvs.video.index.SMALL", 0)
    path = edit(shutil.copy(clip, tmp_path / "cut.mp4"), (9, 11))
    with open_video(path, cache_bytes=0) as video:
        assert [number_in(video.read(n, n + 1)[0]) for n in (8, 0, 4)] == [19, 11, 15]


@pytest.mark.parametrize(
    ("edits", "rate", "why"),
    [
        ([(10, 0), (5, None), (9, 10)], 1, "has an edit list with a pause in the middle, which"),
        ([(10, 0), (5, None)], 1, "has an edit list with a pause in the middle, which"),
        ([(12, 0)], 2, "has an edit list with a speed of 2, which"),
        ([(5, None), (48, 0)], 0.5, "has an edit list with a speed of 0.5, which"),
        ([(24, 3)], 0, "has an edit list with a speed of 0, which"),
        ([(0, 3)], 1, "shows no frame: its edit list leaves all of them out;"),
    ],
)
def test_edit_lists_that_ffmpeg_does_not_follow_are_refused(tmp_path, plain, edits, rate, why):
    path = edit(plain, *edits, rate=rate, version=len(edits) % 2)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(caught.value).startswith(f"{path} {why}")
    assert str(caught.value).endswith("'ffmpeg -ignore_editlist 1 -i IN -c copy OUT'.")
    # What the advice does: all packets without the list.
    with av.open(str(path), options={"ignore_editlist": "1"}) as source:
        stream = source.streams.video[0]
        with av.open(str(tmp_path / "anew.mp4"), "w") as out:
            copy = out.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    with open_video(tmp_path / "anew.mp4") as video:
        assert [number_in(f) for f in video.read(0, len(video))] == [*F]


def test_the_edit_list_of_the_sound_is_its_own_affair(plain):
    path = edit(plain, (8, 0), rate=2)
    with pytest.raises(VideoError, match="a speed of 2"):
        open_video(path)
    path.write_bytes(path.read_bytes().replace(b"vide", b"soun"))
    with pytest.raises(VideoError, match="holds only sound"):
        open_video(path)


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"\0\0\0\0\xff\xff\xff\xff" + b"\x11" * 30])
def test_a_broken_edit_list_ends_in_one_line_or_is_passed_over(plain, content):
    data = plain.read_bytes()
    plain.write_bytes(boxed(data, lambda kind, old: content if kind == b"elst" else old))
    try:
        with open_video(plain) as video:
            assert [number_in(f) for f in video.read(0, len(video))] == [*F]
    except VideoError as error:
        assert "\n" not in str(error)


# How x and y become x' = a x + c y and y' = b x + d y (ISO 14496-12), and numpy's way.
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable]] = {
    "0": ((1, 0, 0, 1), lambda f: f),
    "90": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "180": ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    "270": ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "mirrored and 90": ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
    "mirrored and 180": ((1, 0, 0, -1), lambda f: f[::-1]),
    "mirrored and 270": ((0, -1, -1, 0), lambda f: f.swapaxes(0, 1)[::-1, ::-1]),
}


def turned(path, name: str, box: bytes = b"tkhd"):
    """Write the matrix into the track's header, or the movie's."""
    a, b, c, d = (n * 2**16 for n in TURNS[name][0])
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    at = {b"tkhd": 40, b"mvhd": 36}[box]

    def change(kind: bytes, old: bytes) -> bytes:
        return old[:at] + matrix + old[at + 36 :] if kind == box else old

    path.write_bytes(boxed(path.read_bytes(), change))
    return path


@pytest.mark.parametrize(
    ("name", "box"), [*((name, b"tkhd") for name in TURNS), ("90", b"mvhd"), ("mirrored", b"mvhd")]
)
def test_pictures_stand_as_the_container_says(plain, name, box):
    upright = np.stack([TURNS[name][1](f) for f in decode_in_order(plain)])
    with open_video(turned(plain, name, box)) as video:
        assert video.shape == upright.shape
        assert (video.info.height, video.info.width) == upright.shape[1:3]
        assert np.array_equal(video.read(9, 12), upright[9:12])
        assert np.array_equal(video.frames[2:5].compute(), upright[2:5])


@pytest.mark.parametrize("name", ["90", "mirrored and 270"])
def test_a_cut_and_turned_clip_is_annotated_and_exported_as_it_is_seen(
    tmp_path, shapes_mp4, shapes_frames, name
):
    """Frame 0 of everything is the first one that is shown, and everything stands upright."""
    path = turned(shutil.copy(shapes_mp4, tmp_path / "phone.mp4"), name)
    edit(path, (7, 3), fps=12)
    straighten = TURNS[name][1]
    with open_video(shapes_mp4) as video:
        (part,) = segment(video, ["the red one"], ThresholdSegmenter(), window=13)
    red = np.stack([straighten(mask) for mask in part.masks[3:10]])
    with (
        open_video(path) as video,
        Project.create(tmp_path / "p.flowrvs", video.info) as project,
    ):
        assert video.shape == (7, 64, 48, 3)
        for _ in segment_into(project, video, ["the red one"], ThresholdSegmenter()):
            pass
        assert np.array_equal(project.object_mask(1, 0, 7), red)
        result = export_projects([project], tmp_path / "out", format="davis")
    pictures = sorted(result.path.glob("JPEGImages/**/*.jpg"))
    labels = sorted(result.path.glob("Annotations/**/*.png"))
    names = [f"{n:05d}" for n in range(7)]
    assert [p.stem for p in pictures] == [p.stem for p in labels] == names
    for n in range(7):
        with Image.open(pictures[n]) as image, Image.open(labels[n]) as mask:
            shown = straighten(shapes_frames[3 + n]).astype(int)
            assert np.abs(np.asarray(image) - shown).mean() < 4
            assert np.array_equal(np.asarray(mask), red[n])


def test_a_million_boxes_are_passed_over_without_keeping_them(tmp_path):
    inside = struct.pack(">I4s", 8, b"free") * 50_000
    path = tmp_path / "boxes.mp4"
    path.write_bytes(
        struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", 8 + len(inside), b"moov")
    )
    with path.open("ab") as file:
        file.write(inside)
    tracemalloc.start()
    assert edits_not_followed(path) == incomplete(path) == ""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
