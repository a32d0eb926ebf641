"""Turned, odd-sized, transparent, grey, deep and tagged files show what they should."""

from __future__ import annotations

import av
import numpy as np
import pytest

from flowrvs.errors import VideoError
from flowrvs.video import open_video

from .clips import coded_frame, number_in, write_clip


def colour_chart(height: int, width: int) -> np.ndarray:
    """Four flat quadrants: red, green, blue and grey; nothing that chroma blurs but edges."""
    chart = np.empty((height, width, 3), np.uint8)
    chart[: height // 2, : width // 2] = (200, 40, 40)
    chart[: height // 2, width // 2 :] = (40, 190, 60)
    chart[height // 2 :, : width // 2] = (40, 60, 210)
    chart[height // 2 :, width // 2 :] = (128, 128, 128)
    return chart


def assert_chart(frame: np.ndarray, tolerance: int = 6) -> None:
    height, width = frame.shape[:2]
    chart = colour_chart(height, width)
    flat = np.ones((height, width), bool)
    flat[height // 2 - 9 : height // 2 + 9] = flat[:, width // 2 - 9 : width // 2 + 9] = False
    assert np.abs(frame[flat].astype(int) - chart[flat]).max() <= tolerance


def test_phone_rotation_follows_ffmpegs_own_sense(tmp_path):
    path = write_clip(tmp_path / "p.mp4", count=2, prepare=lambda s: s.set_display_rotation(90))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    with open_video(path) as video:
        assert np.array_equal(video.read(0, 1)[0], expected)


@pytest.mark.parametrize("size", [(97, 61), (99, 64), (96, 63), (101, 35), (33, 33)])
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("ffv1", "yuv420p", "mkv"),
        ("mjpeg", "yuvj420p", "avi"),
        ("libx264", "yuv444p", "mp4"),
        ("libvpx-vp9", "yuv420p", "webm"),
    ],
)
def test_odd_sizes(tmp_path, size, codec, pix_fmt, suffix):
    options = {"deadline": "realtime"} if "vpx" in codec else {}
    path = write_clip(
        tmp_path / f"o.{suffix}",
        codec,
        size=size,
        pix_fmt=pix_fmt,
        count=3,
        options=options | ({"qscale": "2"} if codec == "mjpeg" else {}),
        convert=lambda f: av.VideoFrame.from_ndarray(colour_chart(*f.shape[:2]), format="rgb24"),
    )
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == size
        tolerance = 6 if codec == "ffv1" else 24
        for frame in video.read(0, 3):
            assert_chart(frame, tolerance)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("qtrle", "argb"), ("png", "rgba"), ("prores_ks", "yuva444p10le")]
)
def test_alpha_is_dropped_and_colours_stay(tmp_path, codec, pix_fmt):
    def transparent(frame: np.ndarray) -> av.VideoFrame:
        alpha = np.linspace(0, 255, frame.shape[1]).astype(np.uint8)
        alpha = np.broadcast_to(alpha[:, None], (*frame.shape[:2], 1))
        rgba = np.concatenate([colour_chart(*frame.shape[:2]), alpha], axis=2)
        return av.VideoFrame.from_ndarray(rgba, format="rgba")

    path = write_clip(
        tmp_path / "a.mov", codec, pix_fmt=pix_fmt, count=3, size=(97, 61), convert=transparent
    )
    with open_video(path) as video:
        assert video.shape == (3, 61, 97, 3)
        assert_chart(video.read(1, 2)[0])


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("ffv1", "gray", "mkv"),
        ("ffv1", "gray10le", "mkv"),
        ("ffv1", "gray16le", "mkv"),
        ("png", "gray", "mov"),
    ],
)
def test_grey_is_repeated_into_rgb(tmp_path, codec, pix_fmt, suffix):
    ramp = np.tile(np.linspace(0, 255, 96).round().astype(np.uint8), (64, 1))
    path = write_clip(
        tmp_path / f"g.{suffix}",
        codec,
        pix_fmt=pix_fmt,
        count=2,
        convert=lambda f: av.VideoFrame.from_ndarray(ramp, format="gray"),
    )
    with open_video(path) as video:
        frame = video.read(0, 1)[0]
    assert (frame == frame[..., :1]).all()
    assert np.abs(frame[..., 0].astype(int) - ramp).max() <= 2


@pytest.mark.parametrize(
    ("space", "span"), [(1, 1), (1, 2), (5, 1), (5, 2)], ids=["709", "709full", "601", "601full"]
)
def test_colour_tags_are_followed(tmp_path, space, span):
    def tagged(frame: np.ndarray) -> av.VideoFrame:
        rgb = av.VideoFrame.from_ndarray(colour_chart(*frame.shape[:2]), format="rgb24")
        return rgb.reformat(format="yuv444p", dst_colorspace=space, dst_color_range=span)

    def prepare(stream) -> None:
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = span

    path = write_clip(
        tmp_path / "c.mkv", "ffv1", pix_fmt="yuv444p", count=1, convert=tagged, prepare=prepare
    )
    with open_video(path) as video:
        assert_chart(video.read(0, 1)[0], tolerance=3)


def test_rgb_and_ten_bit_files(tmp_path):
    exact = write_clip(
        tmp_path / "rgb.mkv", "libx264rgb", pix_fmt="rgb24", count=3, options={"crf": "0"}
    )
    with open_video(exact) as video:
        assert np.array_equal(video.read(2, 3)[0], coded_frame(2))
    deep = write_clip(tmp_path / "deep.mkv", "ffv1", pix_fmt="yuv444p10le", count=3)
    with open_video(deep) as video:
        assert np.abs(video.read(2, 3)[0].astype(int) - coded_frame(2)).max() <= 3


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])  # whose decoder drops a picture
def test_a_change_of_size_is_refused_at_the_frame_where_it_happens(tmp_path, codec):
    one = write_clip(tmp_path / "1.ts", codec, count=30, options={"g": "10"})
    two = write_clip(tmp_path / "2.ts", codec, count=30, size=(128, 96), options={"g": "10"})
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    with open_video(both) as video:
        assert number_in(video.read(20, 21)[0]) == 20
        with pytest.raises(VideoError, match="size at frame 30, from 96x64 to 128x96"):
            video.read(50, 51)
        with pytest.raises(VideoError):
            video.frames.compute()


def test_cover_art_is_not_taken_for_the_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("libmp3lame", rate=44100)
        cover = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        out.mux(cover.encode(picture))
        out.mux(cover.encode(None))
        tone = np.zeros((1, 44100), np.int16)
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.rate = 44100
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with pytest.raises(VideoError, match="only sound"):
        open_video(path)


def test_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    from flowrvs.video.file import VideoFile

    path = write_clip(tmp_path / "l.mp4", count=40)
    asked: list[tuple[int, int]] = []
    read = VideoFile.read_into
    monkeypatch.setattr(
        VideoFile, "read_into", lambda s, o, at: (asked.append((at, len(o))), read(s, o, at))[1]
    )
    with open_video(path) as video:
        assert video.frames.chunks[0] == (16, 16, 8)
        assert asked == []
        video.frames[18].compute()
        assert asked == [(18, 1)]
        video.frames[10:20, ::2, :5].compute()
        assert sorted(asked[1:]) == [(10, 6), (16, 4)]
        picked = video.frames[[30, 3, 4]].compute()
        assert [number_in(f) for f in picked] == [30, 3, 4]
        assert [number_in(f) for f in video.frames[12:3:-4].compute()] == [12, 8, 4]
        assert video.frames[5:5].compute().shape == (0, 64, 96, 3)


def test_chunks_of_large_frames_hold_fewer_frames():
    zeros = np.broadcast_to(np.uint8(0), (40, 2160, 3840, 3))
    with open_video(zeros) as video:
        assert video.frames.chunksize[0] == 5
