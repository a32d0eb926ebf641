"""The real clip: 60 frames of 720x480, one GOP, 30 frames per second."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from flowrvs.video import open_video
from flowrvs.video.encode import encode_jpeg, write_overlay

from .clips import decode_in_order


def test_real_clip_in_every_order(chair_clip):
    reference = decode_in_order(chair_clip)
    with open_video(chair_clip) as video:
        assert video.info.kind == "video" and video.info.rate == 30
        assert video.shape == (60, 480, 720, 3) == reference.shape
        for n in random.Random(0).sample(range(60), 12):
            assert np.array_equal(video.frames[n].compute(), reference[n])
        assert np.array_equal(video.frames[20:37].compute(), reference[20:37])
        assert np.array_equal(video.read(0, 60), reference)
        assert len(video.times) == 60


def test_real_clip_to_jpegs_and_to_an_overlay(chair_clip, chair_masks, tmp_path):
    with open_video(chair_clip) as video:
        frames = video.read(0, 8)
    masks = []
    for path in chair_masks[:8]:
        with Image.open(path) as image:
            masks.append(np.asarray(image).copy())
    for n, frame in enumerate(frames):
        (tmp_path / f"{n:05d}.jpg").write_bytes(encode_jpeg(frame))
    with open_video(tmp_path) as copy:
        assert copy.shape == (8, 480, 720, 3)
        assert np.abs(copy.read(0, 8).astype(int) - frames).mean() < 2
    out = write_overlay(tmp_path / "o.mp4", frames, masks, rate=30, alpha=0.5)
    with open_video(out) as video:
        shown = video.read(0, 8).astype(int)
    masks = np.stack(masks) > 0
    assert np.abs(shown[~masks] - frames[~masks]).mean() < 4
    assert np.abs(shown[masks] - frames[masks]).mean() > 30
