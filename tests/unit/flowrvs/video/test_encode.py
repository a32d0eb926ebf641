"""Blended masks, overlay videos, JPEG and contact sheets."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from flowrvs.errors import MissingPathError, VideoError
from flowrvs.video import open_video
from flowrvs.video.encode import blend, contact_sheet, default_color, encode_jpeg, write_overlay

from .clips import coded_frame, number_in


def test_blend_changes_labelled_pixels_only():
    frame = coded_frame(3)
    labels = np.zeros((64, 96), np.uint16)
    labels[40:50, 10:20] = 7
    labels[50:60, 10:20] = 65535
    out = blend(frame, labels, {7: (1.0, 0.0, 0.0)}, alpha=0.5)
    assert np.array_equal(out[labels == 0], frame[labels == 0])
    expected = np.rint(frame[labels == 7] * 0.5 + np.array([127.5, 0, 0]))
    assert np.abs(out[labels == 7] - expected).max() <= 1
    opaque = blend(frame, labels == 7, alpha=1.0)
    assert np.abs(opaque[45, 15] - 255 * np.array(default_color(1))).max() <= 1
    assert np.array_equal(blend(frame, labels, alpha=0), frame)
    assert frame is not out and np.array_equal(frame, coded_frame(3))


def test_blend_refuses_what_does_not_fit():
    with pytest.raises(VideoError, match="does not fit"):
        blend(coded_frame(0), np.zeros((3, 3), bool))
    with pytest.raises(VideoError, match="alpha"):
        blend(coded_frame(0), np.zeros((64, 96), bool), alpha=2)
    with pytest.raises(VideoError, match="uint8"):
        blend(coded_frame(0).astype(float), np.zeros((64, 96), bool))


@pytest.mark.parametrize("size", [(64, 96), (61, 97)])
@pytest.mark.parametrize("rate", [30.0, 29.97, None])
def test_overlay_video(tmp_path, size, rate):
    frames = [coded_frame(n, *size) for n in range(15)]
    masks = [np.zeros(size, bool) for _ in frames]
    for mask in masks:
        mask[44:56, 30:60] = True
    path = write_overlay(
        tmp_path / "o.mp4", iter(frames), iter(masks), rate=rate, colors={1: (1, 0, 0)}, alpha=1.0
    )
    assert list(tmp_path.iterdir()) == [path]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(rate or 25, abs=0.01)
    with open_video(path) as video:
        assert (video.info.height, video.info.width) == (
            size[0] + size[0] % 2,
            size[1] + size[1] % 2,
        )
        assert [number_in(f[: size[0], : size[1]]) for f in video.read(0, 15)] == list(range(15))
        red = video.read(7, 8)[0, 48:52, 36:54].reshape(-1, 3).mean(axis=0)
        assert np.abs(red - [255, 0, 0]).max() < 12


def test_failed_overlay_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "o.mp4"
    path.write_bytes(b"old")
    frames = [coded_frame(n) for n in range(4)]
    masks = [np.zeros((64, 96), bool)] * 4

    def breaks():
        yield frames[0]
        raise KeyError("from the generator")

    for bad_frames, bad_masks, error, words in (
        (frames, masks[:3], VideoError, "more frames"),
        (frames[:3], masks, VideoError, "more masks"),
        ([], [], VideoError, "no frames"),
        ([*frames[:3], coded_frame(0, 32, 32)], masks, VideoError, "does not fit"),
        (breaks(), masks, KeyError, "generator"),
    ):
        with pytest.raises(error, match=words):
            write_overlay(path, bad_frames, bad_masks, rate=10)
        assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]
        assert path.read_bytes() == b"old"
    with pytest.raises(VideoError, match="rate"):
        write_overlay(path, frames, masks, rate=0)
    with pytest.raises(MissingPathError):
        write_overlay(tmp_path / "no" / "o.mp4", frames, masks, rate=10)


def test_jpeg_keeps_the_frame():
    data = encode_jpeg(coded_frame(77))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        back = np.asarray(image)
    assert number_in(back) == 77
    assert np.abs(back.astype(int) - coded_frame(77)).mean() < 3
    assert len(encode_jpeg(coded_frame(77), quality=40)) < len(data)
    for quality, sampling in ((89, 2), (90, 0)):  # 4:2:0, 4:4:4
        with Image.open(io.BytesIO(encode_jpeg(coded_frame(77), quality))) as image:
            assert JpegImagePlugin.get_sampling(image) == sampling


def test_rates_of_television_are_exact(tmp_path):
    rate = 30000 / 1001
    write_overlay(
        tmp_path / "o.mp4", [coded_frame(n) for n in range(3)], [np.zeros((64, 96))] * 3, rate=rate
    )
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)


def test_contact_sheet():
    frames = [coded_frame(n) for n in range(5)]
    nothing = [np.zeros((64, 96), bool)] * 5
    sheet = contact_sheet(frames, nothing, columns=3, captions=["0", "1"])
    assert sheet.shape == (2 * 64 + 4, 3 * 96 + 2 * 4, 3) and sheet.dtype == np.uint8
    assert np.array_equal(sheet[68:132, 100:196], frames[4])
    assert np.array_equal(sheet[:64, 200:296], frames[2])  # without a caption
    assert not np.array_equal(sheet[:64, 100:196], frames[1])
    assert (sheet[68:, 200:] == 255).all() and (sheet[64:68] == 255).all()
    labels = np.zeros((64, 96), np.uint8)
    labels[40:60, 20:60] = 1
    plain = contact_sheet(frames[:1], [labels], colors={1: (0, 0, 1)}, alpha=1.0)
    assert plain.shape == (64, 96, 3) and plain[50, 40].tolist() == [0, 0, 255]
    with pytest.raises(VideoError, match="at least one"):
        contact_sheet([], [])
    with pytest.raises(VideoError, match="at least one"):
        contact_sheet(frames, nothing, columns=0)
