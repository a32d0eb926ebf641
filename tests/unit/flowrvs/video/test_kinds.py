"""Kinds of files that were misread once: pages, animations, joined recordings, odd names."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, features

from flowrvs.errors import VideoError
from flowrvs.store import Project
from flowrvs.video import open_video
from flowrvs.video.cache import FrameCache
from flowrvs.video.file import ROTATIONS, orientation_of, turn
from flowrvs.video.index import PacketIndex, _agree, open_stream, slices_are_whole
from flowrvs.video.probe import fingerprint, incomplete, is_too_large
from flowrvs.video.search import find_video

from .clips import coded_frame, decode_in_order, number_in, write_clip

RGB = np.stack([coded_frame(n) for n in range(12)])
GREY = RGB[..., 0]


def numbers(path, **options) -> list[int]:
    with open_video(path, **options) as video:
        found = [number_in(frame) for frame in video.read(0, len(video))]
        # Backwards too: animations build each frame upon the one before.
        for n in range(len(video) - 1, -1, -3):
            assert number_in(video.read(n, n + 1)[0]) == found[n]
        assert found == [number_in(video.frames[n].compute()) for n in range(len(video))]
    return found


# -- TIFF ------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [GREY, RGB, GREY.astype(np.uint16)], ids=["grey", "rgb", "deep"])
def test_a_tiff_written_page_by_page_is_one_video(tmp_path, pages):
    for page in pages:
        tifffile.imwrite(tmp_path / "p.tif", page, append=True)
    assert numbers(tmp_path / "p.tif") == list(range(12))


def test_thumbnails_between_the_pages_are_no_frames(tmp_path):
    with tifffile.TiffWriter(tmp_path / "t.tif") as out:
        out.write(GREY[0, ::4, ::4], photometric="minisblack", subfiletype=1)
        for page in GREY:
            out.write(page, photometric="minisblack")
    assert numbers(tmp_path / "t.tif") == list(range(12))


def test_the_page_that_differs_is_named_even_if_it_is_the_first(tmp_path):
    with tifffile.TiffWriter(tmp_path / "d.tif") as out:
        out.write(GREY[0, :32], photometric="minisblack")
        for page in GREY:
            out.write(page, photometric="minisblack")
    with pytest.raises(VideoError, match=r"Page 0 of .*: 32x96 uint8, others are 64x96 uint8"):
        open_video(tmp_path / "d.tif")


def test_grey_with_alpha(tmp_path):
    Image.fromarray(GREY[5]).convert("LA").save(tmp_path / "la.tif")
    assert numbers(tmp_path / "la.tif") == [5]


def ome(folder, names, *, claim="") -> str:
    """Write two files of six planes each, described by both as one series."""
    body = "".join(
        f'<TiffData FirstT="{t}" IFD="{t % 6}" PlaneCount="1">'
        f'<UUID FileName="{names[t // 6]}">urn:uuid:{t // 6}</UUID></TiffData>'
        for t in range(12)
    )
    for n in range(2):
        text = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{n}"><Image ID="Image:0"><Pixels ID="Pixels:0" Type="uint8" '
            f'DimensionOrder="XYCZT" SizeX="96" SizeY="64" SizeC="1" SizeZ="1" SizeT="12">{claim}'
            f"{body}</Pixels></Image></OME>"
        )
        tifffile.imwrite(
            folder / f"{n}.ome.tif",
            GREY[6 * n : 6 * n + 6],
            photometric="minisblack",
            metadata=None,
            description=text,
        )
    return folder / "0.ome.tif"


def test_ome_tiff_of_two_files_needs_both(tmp_path):
    first = ome(tmp_path, ["0.ome.tif", "1.ome.tif"])
    assert numbers(first) == list(range(12))
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(VideoError, match=r"1\.ome\.tif, which belongs to it, is not beside it"):
        open_video(first)


def test_ome_tiff_reaches_for_no_file_outside_its_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", GREY[:6], photometric="minisblack")
    first = ome(tmp_path / "sub", ["0.ome.tif", "../secret.tif"])
    with pytest.raises(VideoError, match="is not beside it"):
        open_video(first)
    os.mkfifo(tmp_path / "sub" / "pipe.tif")
    with pytest.raises(VideoError, match="is not beside it"):
        open_video(ome(tmp_path / "sub", ["0.ome.tif", "pipe.tif"]))


@pytest.mark.parametrize(
    "claim",
    [
        '<TiffData FirstT="0" IFD="0" PlaneCount="99999999999"/>',
        '<ModuloAlongT Start="0" End="9e9" Step="0.001"/>',
    ],
)
def test_ome_metadata_that_claims_too_much_is_refused(tmp_path, claim):
    with pytest.raises(VideoError, match="claims .* planes"):
        open_video(ome(tmp_path, ["0.ome.tif", "1.ome.tif"], claim=claim))


# -- animations and stills -------------------------------------------------------------


def save_animation(path, count=12, mode="RGB", **options):
    pictures = [Image.fromarray(frame).convert(mode) for frame in RGB[:count]]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.png", {"blend": 1}),
        ("a.webp", {}),
        ("a.webp", {"lossless": True, "minimize_size": True}),
        ("a.gif", {}),
        ("a.avif", {}),
    ],
)
def test_animations_are_opened_whole(tmp_path, name, options, mode):
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = save_animation(tmp_path / name, mode=mode, **options)
    assert numbers(path) == list(range(12))
    with open_video(path) as video:
        assert video.info.kind == "video" and video.info.frame_names == ()
        assert video.info.rate == pytest.approx(25)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif"])
def test_animations_among_frames_are_refused(tmp_path, name):
    save_animation(tmp_path / name, count=3)
    with pytest.raises(VideoError, match="has 3 pages in it"):
        open_video(tmp_path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_stills(tmp_path):
    for n in range(3):
        Image.fromarray(RGB[n]).save(tmp_path / f"{n}.avif")
    assert numbers(tmp_path) == [0, 1, 2]
    assert numbers(tmp_path / "1.avif") == [1]


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_heic_says_that_it_is_heic(tmp_path, brand):
    data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0\0\0\x20meta" + bytes(900)
    (tmp_path / "a.heic").write_bytes(data)
    with pytest.raises(VideoError, match=r"HEIC picture; convert it to JPEG or PNG"):
        open_video(tmp_path / "a.heic")
    with pytest.raises(VideoError, match=r"HEIC pictures; convert them to JPEG or PNG"):
        open_video(tmp_path)


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "tga", "gif", "pbm", "pnm", "jp2"])
def test_further_kinds_of_images_in_folders(tmp_path, suffix):
    for n in range(3):
        picture = Image.fromarray(RGB[n])
        kind = "JPEG" if suffix in ("jfif", "jpe") else None
        picture.convert("1" if suffix == "pbm" else "RGB").save(tmp_path / f"{n}.{suffix}", kind)
    assert numbers(tmp_path) == [0, 1, 2]


def test_a_folder_named_like_a_picture_is_no_frame(tmp_path):
    (tmp_path / "sub.png").mkdir()
    with pytest.raises(VideoError, match="holds no images"):
        open_video(tmp_path)
    Image.fromarray(RGB[4]).save(tmp_path / "0.png")
    assert numbers(tmp_path) == [4]


def test_the_odd_size_among_frames_is_named_even_if_it_is_the_first(tmp_path):
    Image.new("RGB", (96, 65)).save(tmp_path / "0.png")
    for n in (1, 2, 3):
        Image.fromarray(RGB[n]).save(tmp_path / f"{n}.png")
    with pytest.raises(VideoError, match=r"0\.png is 96x65 but 1\.png is 96x64"):
        open_video(tmp_path)


# -- names -----------------------------------------------------------------------------

NAMES = [
    b"a\\b.mp4",
    b"caf\xe9.mp4",
    b"x" * 251 + b".mp4",
    b"a.flowrvs.mp4",
    b"concat:a|b.mp4",
    b"%03d.mp4",
    b"a\nb.mp4",
    b"-o.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(tmp_path, name):
    clip = write_clip(tmp_path / "clip.mp4", count=3)
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    try:
        shutil.copy(clip, path)
    except OSError:
        pytest.skip("this file system has no such names")
    assert numbers(path) == [0, 1, 2]
    # A project keeps the name, and finds the video again.
    with open_video(path) as video, Project.create(tmp_path / "p", video.info):
        pass
    with Project.open(tmp_path / "p") as project:
        assert project.video.path == path and os.fspath(project.find_video()) == path


def test_frames_with_odd_names_get_names_that_datasets_can_hold(tmp_path):
    folder = os.fsencode(tmp_path)
    for n, name in enumerate([b"a\\0.png", b"caf\xe9 1.png", b"x" * 251 + b".png"]):
        Image.fromarray(RGB[n]).save(tmp_path / "new.png")
        try:
            os.rename(tmp_path / "new.png", os.path.join(folder, name))
        except OSError:
            pytest.skip("this file system has no such names")
    with open_video(tmp_path) as video:
        assert video.info.frame_names == ("a_0", "caf_xe9 1", "x" * 251)
        assert [number_in(f) for f in video.read(0, 3)] == [0, 1, 2]
    shutil.copy(tmp_path / ("x" * 251 + ".png"), tmp_path / "a_0.png")
    with open_video(tmp_path) as video:  # two would have one name
        assert video.info.frame_names == ("00000", "00001", "00002", "00003")


# -- recordings ------------------------------------------------------------------------

JOINED = {
    "h264": dict(options={"x264-params": "keyint=12:bframes=2:scenecut=0"}),
    "open": dict(options={"x264-params": "keyint=12:bframes=2:scenecut=0:open-gop=1"}),
    "mpeg2": dict(codec="mpeg2video", options={"g": "12", "bf": "2", "b": "2M"}),
    "hevc": dict(
        codec="libx265",
        options={"x265-params": "log-level=none:pools=none:frame-threads=1:keyint=12"},
    ),
}


@pytest.mark.parametrize("kind", list(JOINED))
@pytest.mark.parametrize("parts", [(20, 20), (13, 30, 7)])
def test_joined_recordings_are_whole(tmp_path, kind, parts):
    joined = tmp_path / "joined.ts"
    expected: list[int] = []
    with joined.open("wb") as out:
        for count in parts:
            one = write_clip(tmp_path / "part.ts", count=count, **JOINED[kind])
            expected += [number_in(f) for f in decode_in_order(one)]
            out.write(one.read_bytes())
    found = numbers(joined)
    assert len(found) == len(decode_in_order(joined))
    if kind == "h264":
        assert found == expected == [n for count in parts for n in range(count)]


def test_a_recording_whose_clock_goes_on_later_is_no_damage(tmp_path):
    joined = tmp_path / "joined.ts"
    with joined.open("wb") as out:
        for late in (0, 100):
            part = write_clip(
                tmp_path / "part.ts",
                count=40,
                pts=lambda n, late=late: 10 * (n + late),
                **JOINED["open"],
            )
            out.write(part.read_bytes())
    assert numbers(joined) == [*range(40), *range(40)]


UNSEEN = {
    "mp4": dict(),
    "fast.mp4": dict(container={"movflags": "faststart"}),
    "fragments.mp4": dict(container={"movflags": "frag_keyframe+empty_moov"}),
    "mov": dict(codec="mpeg4"),
    "flv": dict(codec="flv1"),
    "wmv": dict(codec="wmv2"),
    "png": dict(codec="apng", pix_fmt="rgb24", format="apng"),
}


@pytest.mark.parametrize("kind", list(UNSEEN))
def test_joined_recordings_of_which_only_the_first_would_be_seen(tmp_path, kind):
    one = write_clip(tmp_path / f"one.{kind}", count=12, **UNSEEN[kind])
    with open_video(one) as video:
        assert len(video) == 12
    (tmp_path / f"both.{kind}").write_bytes(one.read_bytes() * 2)
    with pytest.raises(VideoError, match="several recordings joined end to end; give them one"):
        open_video(tmp_path / f"both.{kind}", damaged="repeat")


def test_packets_that_were_lost_far_from_a_join_are_noticed(tmp_path):
    whole = write_clip(tmp_path / "w.ts", count=40, options={"g": "10", "b": "2M"}).read_bytes()
    lost = bytearray(whole)
    # The middle of the three packets and more that a picture in the middle takes.
    starts = [at for at in range(0, len(whole), 188) if whole[at + 1] & 0x5F == 0x41]
    at = next(a for a, b in zip(starts[15:], starts[16:], strict=False) if b - a > 4 * 188)
    assert whole[at + 188 + 1] & 0x5F == 0x01
    del lost[at + 188 : at + 2 * 188]
    (tmp_path / "lost.ts").write_bytes(bytes(lost) + whole)
    with open_video(tmp_path / "lost.ts") as video:
        with pytest.raises(VideoError, match="is damaged"):
            video.read(0, 40)
        assert [number_in(f) for f in video.read(len(video) - 30, len(video))] == list(
            range(10, 40)
        )


FFV1 = {"one slice": {"slices": "4", "g": "1"}, "groups": {"g": "12"}, "many": {"slices": "9"}}


@pytest.mark.parametrize("name", list(FFV1))
@pytest.mark.parametrize("changed", [1, 40])
def test_damage_in_ffv1_is_noticed(tmp_path, name, changed):
    """Its decoder only logs a wrong checksum, and shows what it made of the slice."""
    path = write_clip(
        tmp_path / "f.mkv", "ffv1", count=30, options={"level": "3", "slicecrc": "1", **FFV1[name]}
    )
    reference = decode_in_order(path)
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    assert all(map(slices_are_whole, packets))
    data = bytearray(path.read_bytes())
    at = data.index(packets[14]) + len(packets[14]) // 2
    for n in range(at, at + changed):
        data[n] ^= 0x10
    path.write_bytes(data)
    with open_video(path) as video:
        refused = set()
        for n in random.Random(1).sample(range(30), 30):
            try:
                assert np.array_equal(video.read(n, n + 1)[0], reference[n]), n
            except VideoError:
                refused.add(n)
        assert 14 in refused and refused <= set(range(14, 24))
        for n in refused:  # however often it is asked for
            with pytest.raises(VideoError, match="is damaged"):
                video.read(n, n + 1)


@pytest.mark.parametrize("bad", [0, 6, 7, 8])
def test_that_ffv1_has_checksums_is_known_from_any_of_its_first_packets(tmp_path, bad):
    options = {"level": "3", "slicecrc": "1", "g": "1", "slices": "4"}
    path = write_clip(tmp_path / "f.mkv", "ffv1", count=10, options=options)
    reference = decode_in_order(path)
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    data[data.index(packets[bad]) + len(packets[bad]) // 2] ^= 0x10
    path.write_bytes(data)
    with open_video(path) as video:
        for n in (*range(10), bad):
            if n == bad:
                with pytest.raises(VideoError, match=f"^Frame {n} of f.mkv is damaged"):
                    video.read(n, n + 1)
            else:
                assert np.array_equal(video.read(n, n + 1)[0], reference[n])


@pytest.mark.parametrize("options", [{"level": "1"}, {"level": "3", "slicecrc": "0"}])
def test_ffv1_without_checksums(tmp_path, options):
    path = write_clip(tmp_path / "f.mkv", "ffv1", count=20, options=options)
    assert numbers(path) == list(range(20))


def test_rotation_without_the_side_data_list(tmp_path):
    """PyAV cannot list side data of kinds that it does not know; the angle it can tell."""

    class Unlisted:
        def __init__(self, rotation: int) -> None:
            self.rotation = rotation

        @property
        def side_data(self):
            raise ValueError("31 is not a valid Type")

    picture = RGB[3]
    for rotation, quarters in ((0, 0), (90, 1), (-180, 2), (180, 2), (-90, 3)):
        turned = turn(picture, orientation_of(Unlisted(rotation)))
        assert np.array_equal(turned, np.rot90(picture, quarters))
    assert ROTATIONS[0] == (False, False, False)
    path = write_clip(tmp_path / "t.mov", "tiff", pix_fmt="rgb24", count=4)
    assert numbers(path) == [0, 1, 2, 3]


def test_names_in_the_container_that_are_not_utf8(tmp_path):
    path = write_clip(tmp_path / "m.mkv", count=4, prepare=lambda s: None)
    with av.open(str(tmp_path / "n.mkv"), "w") as out, av.open(str(path)) as source:
        stream = out.add_stream_from_template(source.streams.video[0])
        out.metadata["title"] = "XXXXXXXX"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    data = (tmp_path / "n.mkv").read_bytes()
    assert b"XXXXXXXX" in data
    (tmp_path / "n.mkv").write_bytes(data.replace(b"XXXXXXXX", b"\xff\xfe\xe9\x80XXXX"))
    assert numbers(tmp_path / "n.mkv") == [0, 1, 2, 3]


def test_colours_without_a_tag_are_601(tmp_path):
    """As FFmpeg, PyAV and OpenCV take them, whatever the size: see docs/video.md."""
    chart = np.zeros((720, 1280, 3), np.uint8)
    chart[:] = (200, 40, 40)

    def coded(space):
        def convert(frame):
            rgb = av.VideoFrame.from_ndarray(chart, format="rgb24")
            return rgb.reformat(format="yuv444p", dst_colorspace=space, dst_color_range=1)

        return convert

    size, colours = (1280, 720), {}
    for space in (1, 5):
        path = write_clip(
            tmp_path / f"{space}.mkv",
            "ffv1",
            pix_fmt="yuv444p",
            count=1,
            size=size,
            convert=coded(space),
        )
        with open_video(path) as video:
            colours[space] = video.read(0, 1)[0, 300, 600].astype(int)
    assert np.abs(colours[5] - (200, 40, 40)).max() <= 3
    assert np.abs(colours[1] - (200, 40, 40)).max() > 10


# -- what is small and easily got wrong ------------------------------------------------


def test_the_largest_frames():
    assert not is_too_large(8192, 8192) and is_too_large(8193, 8192)
    assert not is_too_large(32768, 2048) and not is_too_large(2048, 32768)
    assert is_too_large(32769, 1) and is_too_large(1, 32769)


def test_a_live_recording_states_no_length(tmp_path):
    path = write_clip(tmp_path / "live.webm", "libvpx", count=6, container={"live": "1"})
    data = path.read_bytes()
    assert b"\x18S\x80g\x01" + b"\xff" * 7 in data  # the segment's length is left open
    assert incomplete(path) == "" and numbers(path) == list(range(6))


@pytest.mark.parametrize("length", [4, 5, 8, 12, 40, 48, 60])
def test_matroska_that_ends_within_its_header(tmp_path, length):
    whole = write_clip(tmp_path / "w.mkv", count=3).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[:length])
    said = incomplete(path)
    assert said == "" or said.endswith("bytes are missing at its end")
    begin = whole.index(b"\x18S\x80g") + 12
    if length >= begin:
        assert said == f"{len(whole) - length} bytes are missing at its end"


def test_mp4_that_lacks_bytes_says_how_many(tmp_path):
    path = write_clip(tmp_path / "w.mp4", count=3)
    whole = path.read_bytes()
    assert incomplete(path) == ""
    path.write_bytes(whole[:-7])
    assert incomplete(path) == "7 bytes are missing at its end"
    at = whole.index(b"moov") - 4
    path.write_bytes(whole[:at])
    assert incomplete(path) == "its index (moov) is missing"
    path.write_bytes(whole[:at] + b"\0\0\0\x08moof")  # a piece of a stream
    assert incomplete(path) == "its index (moov) is missing"
    size = int.from_bytes(whole[at : at + 4], "big")
    wide = (1).to_bytes(4, "big") + b"moov" + (size + 8).to_bytes(8, "big") + whole[at + 8 :]
    path.write_bytes(whole[:at] + wide)  # the length in eight bytes
    assert incomplete(path) == ""
    path.write_bytes(whole[:at] + bytes(4) + whole[at + 4 :])  # 0: up to the end
    assert incomplete(path) == ""
    # What is in such a box is no box of its own.
    path.write_bytes(whole[at:] + b"\0\0\0\0mdat" + (2**30).to_bytes(4, "big") + bytes(40))
    assert incomplete(path) == ""


def test_threads_of_the_decoder(tmp_path, monkeypatch):
    path = str(write_clip(tmp_path / "t.mp4", count=3))

    def threads(asked: int) -> tuple[str, int]:
        container, stream = open_stream(path, asked)
        with container:
            context = stream.codec_context
            return context.thread_type.name, context.thread_count

    assert threads(8) == ("SLICE", 2) and threads(1) == ("SLICE", 1)
    monkeypatch.setattr("flowrvs.video.index.SMALL", 0)
    assert threads(8) == ("AUTO", 8) and threads(1) == ("SLICE", 1)


def test_damage_reaches_the_leading_frames_of_an_open_group():
    """Packets K P K B B P, shown as K P B B K P: both B refer to the second K and to what was
    before it."""
    order = np.array([0, 1, 3, 4, 2, 5])
    position = np.argsort(order)
    stamps = np.repeat(position[:, None], 4, axis=1)
    index = PacketIndex(
        order, position, np.array([0, 2]), stamps, 0, position / 25, frozenset(), ""
    )
    assert sorted(index.spoiled_by(1)) == [1, 2, 3]
    assert sorted(index.spoiled_by(2)) == [2, 3, 4, 5]
    assert [index.start_for(frame) for frame in range(6)] == [0, 0, 0, 0, 1, 1]


def test_what_the_decoder_shows_may_lack_an_eighth_of_the_packets():
    """A frame that is missing is damaged; many mean that packets are no frames of their own."""
    order = np.arange(40)
    for missing, agrees in ((2, True), (3, True), (4, False)):
        shown = [n for n in range(24 + missing) if not 5 <= n < 5 + missing]
        assert len(shown) == 24
        assert (_agree(order, shown, 0, damaged=False) is order) == agrees
        assert _agree(order, shown, 0, damaged=True) is order
    assert _agree(order, [0, 2, 1], 0, damaged=True) is None, "shown in another order"
    assert _agree(order, [0, 99], 0, damaged=True) is None, "a packet that is none of the first"
    # What is before the first keyframe belongs to what was cut off.
    order = np.array([0, 1, 3, 4, 2, 5])
    assert _agree(order, [2, 5], 2, damaged=False).tolist() == [2, 5]


def test_of_a_large_file_the_size_and_pieces_from_end_to_end_count(tmp_path, monkeypatch):
    monkeypatch.setattr("flowrvs.video.probe.WHOLE_FILE", 100)
    monkeypatch.setattr("flowrvs.video.probe.SAMPLE_BYTES", 10)
    path, data = tmp_path / "v", bytes(1000)

    def mark(content: bytes) -> str:
        path.write_bytes(content)
        return fingerprint([path])

    marks = {mark(data[:at] + b"x" + data[at + 1 :]) for at in (0, 9, 990, 999)}
    # One byte more moves no piece but by one: of zeros, the size alone tells.
    assert len({*marks, mark(data), mark(data + b"\0")}) == 6
    pieces = 32 * 10
    found = sum(mark(data[:at] + b"x" + data[at + 1 :]) != mark(data) for at in range(0, 1000, 10))
    assert 30 <= found <= 32, f"{pieces} of 1000 bytes are looked at"


def test_cache_keeps_what_was_used_last():
    cache: FrameCache[str] = FrameCache(100)
    for n in range(4):
        cache.put(n, str(n), 30)
    assert cache.get(0) is None and cache.nbytes == 90
    assert cache.get(1) == "1"
    cache.put(5, "5", 30)
    assert cache.get(2) is None and cache.get(1) == "1"
    cache.put(1, "new", 10)
    assert cache.get(1) == "new" and cache.nbytes == 70
    cache.put(9, "large", 101)  # not kept, and nothing goes for it
    assert cache.get(9) is None and cache.nbytes == 70 and cache.get(5) == "5"
    cache.put(8, "all", 100)
    assert cache.get(8) == "all" and cache.nbytes == 100
    cache.clear()
    assert cache.get(8) is None and cache.nbytes == 0


def test_a_video_that_moved_is_looked_for_by_its_name_first(tmp_path, monkeypatch):
    monkeypatch.setattr("flowrvs.video.search._MAX_OPENED", 1)
    for name in ("aaa", "sub/cat"):
        (tmp_path / name).mkdir(parents=True)
        for n, frame in enumerate(RGB[:3]):
            Image.fromarray(frame).save(tmp_path / name / f"{n}.png")
    with open_video(tmp_path / "sub" / "cat") as video:
        info = replace(video.info, path=str(tmp_path / "gone" / "cat"))
    assert find_video(info, tmp_path) == tmp_path / "sub" / "cat"
    # One that was renamed is known by its kind; a zarr is a folder.
    zarr.create_array(tmp_path / "in" / "new.zarr", data=GREY)
    with open_video(tmp_path / "in" / "new.zarr") as video:
        info = replace(video.info, path=str(tmp_path / "in" / "old.zarr"))
    assert find_video(info, tmp_path / "in") == tmp_path / "in" / "new.zarr"
