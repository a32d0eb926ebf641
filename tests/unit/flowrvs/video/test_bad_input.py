"""What cannot be read gets one clear line, and no wrong frame is handed out silently."""

from __future__ import annotations

import random
import subprocess
import sys

import av
import numpy as np
import pytest

from flowrvs.errors import FlowRVSError, MissingPathError, VideoError
from flowrvs.video import open_video
from flowrvs.video.file import Cursor

from .clips import decode_in_order, number_in, write_clip

X264 = "keyint=20:min-keyint=20:scenecut=0:bframes=3:b-adapt=0"


def one_line(path, kind=VideoError, **options) -> str:
    with pytest.raises(kind) as caught:
        open_video(path, **options)
    text = str(caught.value)
    assert "\n" not in text and 20 < len(text) < 400
    return text


def test_missing(tmp_path):
    assert "no.mp4" in one_line(tmp_path / "no.mp4", MissingPathError)
    (tmp_path / "file").write_text("x")
    one_line(tmp_path / "file" / "no.mp4", MissingPathError)
    one_line("http://example.invalid/v.mp4", MissingPathError)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.png", "v.tif", "v.txt", "v"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert one_line(tmp_path / name) == f"{tmp_path / name} is empty (0 bytes); get another copy."


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "txt", "bin", "h264", "png", "tif", "jpg"])
@pytest.mark.parametrize("content", ["noise", "text", "zeros"])
def test_files_that_are_no_videos(tmp_path, suffix, content):
    data = {
        "noise": random.Random(5).randbytes(20_000),
        "text": b"Ceci n'est pas une video.\n" * 500,
        "zeros": bytes(20_000),
    }[content]
    path = tmp_path / f"v.{suffix}"
    path.write_bytes(data)
    assert path.name in one_line(path)


def test_sound_only(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        tone = np.zeros((1, 44100), np.float32)
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert "only sound" in one_line(path)


def test_header_without_frames(tmp_path):
    whole = write_clip(tmp_path / "w.mkv", count=4)
    with av.open(str(whole)) as container:
        first = min(p.pos for p in container.demux(video=0) if p.size)
    path = tmp_path / "none.mkv"
    path.write_bytes(whole.read_bytes()[: first - 20])
    one_line(path)
    one_line(path, damaged="repeat")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", ["t.mp4", "front.mp4", "t.mkv", "t.mov"])
def test_cut_off_files(tmp_path, name, share):
    whole = write_clip(
        tmp_path / name,
        count=60,
        options={"x264-params": X264},
        container={"movflags": "faststart"} if name == "front.mp4" else {},
    )
    reference = decode_in_order(whole)
    data = whole.read_bytes()
    path = tmp_path / f"cut_{name}"
    path.write_bytes(data[: int(len(data) * share)])
    assert "cut off" in one_line(path) or share == 0.02
    try:
        video = open_video(path, damaged="repeat")
    except VideoError as error:
        assert "\n" not in str(error)
        # Their index is at the end, or after it come too few frames.
        assert share < {"t.mkv": 0.3, "front.mp4": 0.7}.get(name, 1)
    else:
        with video:
            assert np.array_equal(video.read(0, len(video)), reference[: len(video)])
            assert len(video) >= 60 * (share - 0.3)


def test_permission(tmp_path):
    path = write_clip(tmp_path / "v.mp4", count=2)
    path.chmod(0)
    code = (
        "import os, sys\n"
        "from flowrvs.video import open_video\n"
        "from flowrvs.errors import VideoError\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: open_video(sys.argv[1])\n"
        "except VideoError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "may not be read" in done.stdout and done.stdout.count("\n") == 1


def test_folders_without_frames(tmp_path):
    assert "empty folder" in one_line(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert "no images" in one_line(tmp_path)
    (tmp_path / "JPEGImages" / "a").mkdir(parents=True)
    assert "many videos" in one_line(tmp_path)
    assert "many videos" in one_line(tmp_path / "JPEGImages")
    (tmp_path / "p.flowrvs").mkdir()
    assert "project" in one_line(tmp_path / "p.flowrvs")


def test_odd_arguments(tmp_path):
    path = write_clip(tmp_path / "v.mp4", count=5)
    one_line(path, damaged="ignore")
    one_line(path, chunk=0)
    one_line(3.5)
    one_line([])
    with open_video(path) as video:
        for start, stop in ((-1, 2), (3, 2), (0, 6), (6, 7)):
            with pytest.raises(VideoError, match="the video has 0 to 5"):
                video.read(start, stop)
        assert video.read(5, 5).shape == (0, 64, 96, 3)


# What the decoder notices; and a frame that a damaged one may have spoiled is refused too.
DAMAGE = {
    "d.mp4": dict(codec="libx264", options={"x264-params": X264}),
    "d.mkv": dict(codec="libx264", options={"x264-params": X264 + ":open-gop=1"}),
    "d.avi": dict(codec="mpeg4", options={"g": "20", "b": "2M"}),
    "d.mov": dict(codec="mpeg2video", options={"g": "15", "bf": "2", "b": "2M"}),
    "p.mov": dict(codec="png", pix_fmt="rgb24"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize("frame_threads", [False, True])
def test_damage_in_the_middle_is_refused_and_the_rest_is_exact(
    tmp_path, name, fill, frame_threads, monkeypatch
):
    if frame_threads:
        monkeypatch.setattr("flowrvs.video.index.SMALL", 0)
    whole = write_clip(tmp_path / name, count=70, **DAMAGE[name])
    reference = decode_in_order(whole)
    with av.open(str(whole)) as container:
        target = [p for p in container.demux(video=0) if p.size][33]
        at, size = target.pos, target.size
    data = bytearray(whole.read_bytes())
    begin, end = at + size // 8, at + size * 7 // 8
    noise = random.Random(9).randbytes(end - begin)
    data[begin:end] = bytes(end - begin) if fill == "zeros" else noise
    path = tmp_path / f"bad_{name}"
    path.write_bytes(data)

    with open_video(path) as video:
        assert len(video) in (69, 70)
        refused = set()
        for n in random.Random(4).sample(range(len(video)), len(video)):
            try:
                frame = video.read(n, n + 1)[0]
            except VideoError as error:
                assert "damaged" in str(error) and "\n" not in str(error)
                refused.add(n)
            else:
                assert np.array_equal(frame, reference[n]), n
        assert refused and len(refused) <= 25
        assert refused <= video.damaged_frames
        for n in refused:
            with pytest.raises(VideoError, match="is damaged"):
                video.read(n, n + 1)
        last = max(refused)
        assert np.array_equal(video.read(last + 1, len(video)), reference[last + 1 : len(video)])
        with pytest.raises(VideoError, match="is damaged"):
            video.frames[: last + 1].compute()

    with open_video(path, damaged="repeat") as video, pytest.warns(UserWarning, match="is shown"):
        frames = video.read(0, len(video))
        first = min(refused)
        assert np.array_equal(frames[:first], reference[:first])
        assert number_in(frames[first]) == first - 1


@pytest.mark.parametrize("packet", [0, 1, 5])
def test_damage_at_the_start_does_not_shift_the_frames_behind_it(tmp_path, packet):
    whole = write_clip(tmp_path / "w.mp4", count=70, options={"x264-params": X264})
    reference = decode_in_order(whole)
    with av.open(str(whole)) as container:
        target = [p for p in container.demux(video=0) if p.size][packet]
    data = bytearray(whole.read_bytes())
    at = target.pos + target.size // 3
    data[at : target.pos + target.size] = bytes(target.pos + target.size - at)
    whole.write_bytes(data)
    with open_video(whole) as video:
        assert len(video) == 70
        assert np.array_equal(video.read(20, 70), reference[20:])
        with pytest.raises(VideoError, match="damaged"):
            video.read(0, 20)


def test_a_group_with_an_error_is_left_to_the_decoder_with_a_single_thread(tmp_path, monkeypatch):
    """What comes before an error may be of the same confused decoder, so none is asked again."""
    path = write_clip(tmp_path / "d.mp4", count=40, options={"x264-params": X264})
    with av.open(str(path)) as container:
        target = [p for p in container.demux(video=0) if p.size][30]
    data = bytearray(path.read_bytes())
    data[target.pos + 20 : target.pos + target.size] = bytes(target.size - 20)
    path.write_bytes(data)
    begun = []
    go = Cursor.go
    monkeypatch.setattr(Cursor, "go", lambda self, k: (begun.append((self, k)), go(self, k))[1])
    with open_video(path, cache_bytes=0) as video:
        with pytest.raises(VideoError, match="is damaged"):
            video.read(39, 40)
        begun.clear()
        for n in (22, 21, 20):
            assert number_in(video.read(n, n + 1)[0]) == n
        assert begun and {cursor for cursor, _ in begun} == {video._source._careful_cursor}


def test_file_that_vanishes_while_it_is_open(tmp_path):
    path = write_clip(tmp_path / "v.mp4", count=60, options={"x264-params": X264})
    video = open_video(path)
    frame = video.read(50, 51)
    path.unlink()
    with video:
        assert np.array_equal(video.read(50, 51), frame)
        try:
            for n in range(0, 60, 7):
                assert number_in(video.read(n, n + 1)[0]) == n
        except FlowRVSError as error:
            assert "\n" not in str(error)
