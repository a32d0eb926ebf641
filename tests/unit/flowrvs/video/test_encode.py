"""Blended masks, overlay videos, JPEG and contact sheets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
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
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    left = tmp_path / f".o.mp4.{ended.pid}-aaaaaaaa.partial.mp4"  # by one that was killed
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 61,) * 2)
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


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16])
def test_blended_colours_are_exact(alpha, kind):
    rng = np.random.default_rng(5)
    frame = rng.integers(0, 256, (9, 11, 3), np.uint8)
    labels = rng.integers(0, 2 if kind is bool else 4, (9, 11)).astype(kind)
    colors = {1: (0.2, 0.4, 1.0), 3: (1.0, 0.0, 0.6)}
    table = {0: (0, 0, 0), **{n: default_color(n) for n in (1, 2, 3)}, **colors}
    layer = 255 * np.array([[table[int(v)] for v in row] for row in labels])
    mixed = np.where((labels != 0)[..., None], (1 - alpha) * frame + alpha * layer, frame)
    found = blend(frame, labels, colors, alpha)
    assert found.dtype == np.uint8
    # Halves may go either way: colours are numbers of 32 bits.
    off = np.abs(found - mixed)
    assert off.max() <= 0.5 + 1e-4


def test_colours_of_labels_are_always_the_same():
    found = [tuple(round(c, 3) for c in default_color(n)) for n in (1, 2, 3, 8)]
    assert found == [(1.0, 0.1, 0.1), (0.1, 0.363, 1.0), (0.625, 1.0, 0.1), (0.138, 1.0, 0.1)]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 5), np.uint8), "(4, 5) uint8"),
        (np.zeros((4, 5, 4), np.uint8), "(4, 5, 4) uint8"),
        (np.zeros((4, 5, 3)), "(4, 5, 3) float64"),
        (np.zeros((0, 5, 3), np.uint8), "(0, 5, 3) uint8"),
    ],
)
def test_what_is_no_picture_is_told(frame, message):
    for use in (lambda: blend(frame, np.zeros((4, 5))), lambda: encode_jpeg(frame)):
        with pytest.raises(VideoError) as caught:
            use()
        assert str(caught.value) == f"A picture must be (H, W, 3) uint8, not {message}; convert it."


def test_limits_of_numbers():
    frame, mask = coded_frame(0), np.zeros((64, 96), bool)
    for alpha in (-0.01, 1.01, float("nan")):
        with pytest.raises(VideoError, match=f"^alpha={alpha} must be between 0 and 1"):
            blend(frame, mask, alpha=alpha)
    with pytest.raises(VideoError) as caught:
        blend(frame, mask.T)
    assert str(caught.value) == (
        "A mask of shape (96, 64) does not fit a frame of (64, 96); masks have the height and "
        "width of their frame."
    )


@pytest.mark.parametrize("rate", [0, -1, 10000, float("nan"), float("inf")])
def test_rates_that_cannot_be(tmp_path, rate):
    with pytest.raises(VideoError, match=f"^rate={rate} must be frames per second, above 0"):
        write_overlay(tmp_path / "o.mp4", [coded_frame(0)], [np.zeros((64, 96))], rate=rate)
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_says_of_its_colours_and_times_what_they_are(tmp_path):
    colours = {1: (0, 1, 0), 2: (0, 0, 1), 3: (0.5, 0.5, 0.5)}
    labels = np.repeat(np.repeat([[1, 2, 3]], 32, 0), [32, 32, 33], 1)
    labels = np.concatenate([labels, labels[:1]])  # 33 x 97: both odd
    frames = [np.full((33, 97, 3), 90, np.uint8)] * 5
    path = write_overlay(
        tmp_path / "o.mp4", frames, [labels] * 5, rate=10, colors=colours, alpha=1.0
    )
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "players can begin at once"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.width, context.height, stream.pix_fmt) == (98, 34, "yuv420p")
        assert (context.colorspace, context.color_range) == (1, 1)  # BT.709, limited
        assert (context.color_primaries, context.color_trc) == (1, 1)
        times = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    with open_video(path) as video:
        shown = video.read(2, 3)[0].astype(int)
    for place, colour in ((16, (0, 255, 0)), (48, (0, 0, 255)), (80, (128, 128, 128))):
        assert np.abs(shown[8:24, place - 4 : place + 4] - colour).max() <= 6
    assert np.abs(shown[33] - shown[32]).max() <= 6 and np.abs(shown[:, 97] - 128).max() <= 6


def test_captions_are_written_into_their_own_tile():
    frames, nothing = [np.full((40, 60, 3), 120, np.uint8)] * 3, [np.zeros((40, 60))] * 3
    sheet = contact_sheet(frames, nothing, columns=2, captions=["", "I", "I", "I"])
    assert sheet.shape == (84, 124, 3)
    assert (sheet[:40, :60] == 120).all(), "an empty one writes nothing"
    written = np.argwhere((sheet[:40, 64:] != 120).any(-1))
    assert 0 < len(written) < 200 and (written.max(0) < 20).all()
    assert np.array_equal(sheet[:40, 64:], sheet[44:, :60])
    assert (sheet[40:44] == 255).all() and (sheet[:, 60:64] == 255).all()
    assert (sheet[44:, 64:] == 255).all()
    assert np.array_equal(
        contact_sheet(frames[:2], nothing[:2]), contact_sheet(frames[:2], nothing[:2], columns=2)
    )


def test_frames_of_an_overlay_share_one_size(tmp_path):
    frames = [coded_frame(0), coded_frame(1), coded_frame(2, 32, 48)]
    masks = [np.zeros(frame.shape[:2]) for frame in frames]
    with pytest.raises(VideoError) as caught:
        write_overlay(tmp_path / "o.mp4", frames, masks)
    assert str(caught.value) == "Frame 2 is (32, 48, 3), the first was (64, 96, 3)."
    assert list(tmp_path.iterdir()) == []
    for less, message in (
        ((frames[:2], masks[:1]), "There are more frames: 1 of the others; give one mask a frame."),
        ((frames[:1], masks[:2]), "There are more masks: 1 of the others; give one mask a frame."),
        (([], []), "There are no frames to write; choose a range with frames in it."),
    ):
        with pytest.raises(VideoError) as caught:
            write_overlay(tmp_path / "o.mp4", *less)
        assert str(caught.value) == message
    with pytest.raises(MissingPathError) as missing:
        write_overlay(tmp_path / "no" / "o.mp4", frames, masks)
    assert str(missing.value) == f"The folder {tmp_path / 'no'} does not exist; create it first."
