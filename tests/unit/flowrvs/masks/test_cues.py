from __future__ import annotations

import numpy as np
import pytest

from flowrvs.masks.cues import blurred, likeness, motion_cue
from flowrvs.masks.flow import Flows, block_mean
from flowrvs.masks.propagate import propagate

ROWS, COLUMNS = np.indices((96, 128), dtype=np.float32)
DISTANCE = 20 - np.hypot(ROWS - 48, COLUMNS - 64)  # of a disk's edge, positive inside


def test_motion_tells_the_object_from_what_stays_behind():
    flow = np.zeros((96, 128, 2), np.float32)
    flow[DISTANCE > 0] = (0, 6)
    flow[46:50, 50:54] = 0  # carried along by mistake: it rests like the ground
    says, slow = motion_cue(flow, DISTANCE, np.ones((96, 128), bool))
    assert says[48, 52] < -1 < 1 < says[48, 70]
    assert says[10, 10] < -1
    assert slow[48, 64] < 0.2


def test_without_relative_motion_nothing_is_said():
    flow = np.full((96, 128, 2), 3, np.float32)
    says, slow = motion_cue(flow, DISTANCE, np.ones((96, 128), bool))
    np.testing.assert_allclose(says, 0, atol=1e-3)
    np.testing.assert_allclose(slow, 1, atol=1e-3)


def test_light_does_not_make_a_picture_another():
    picture = np.random.default_rng(0).normal(50, 20, (40, 40, 3)).astype(np.float32)
    np.testing.assert_allclose(likeness(picture + 9, picture, 9.0), 1, atol=1e-4)
    assert np.median(likeness(picture[::-1], picture, 9.0)) < 0.01


def test_blurring_stays_within_the_band():
    where = np.zeros((20, 20), bool)
    where[:, 10:] = True
    values = np.where(where, 2.0, 100.0).astype(np.float32)
    np.testing.assert_allclose(blurred(values, where, 2.0)[5:15, 12:], 2, atol=0.02)


@pytest.mark.parametrize(("radius", "speed", "bar"), [(4, 2, 0.85), (14, 15, 0.95)])
def test_small_and_fast_objects_keep_their_size(radius, speed, bar):
    from .conftest import texture

    background, pattern = texture(1, (96, 224), 40, 170), texture(2, (96, 224), 110, 250)
    rows, columns = np.indices((96, 224))
    frames, masks = [], []
    for t in range(10):
        mask = np.hypot(rows - 48, columns - 24 - speed * t) < radius
        moved = np.roll(pattern, speed * t, axis=1)
        frames.append(np.where(mask[..., None], moved, background).astype(np.uint8))
        masks.append(mask)
    found = list(propagate(Flows(frames.__getitem__, (10, 96, 224)), {0: masks[0]}))
    assert [s.frame for s in found] == list(range(1, 10))
    scores = [(s.mask & masks[s.frame]).sum() / (s.mask | masks[s.frame]).sum() for s in found]
    assert np.mean(scores) > bar


def test_block_means_of_a_picture_that_does_not_divide():
    values = np.arange(5 * 7 * 3, dtype=np.float32).reshape(5, 7, 3)
    mean = block_mean(values, 3)
    assert mean.shape == (2, 3, 3)
    np.testing.assert_allclose(mean[0, 1], values[:3, 3:6].mean((0, 1)), rtol=1e-6)
    # beyond the edge the edge goes on
    np.testing.assert_allclose(mean[1, 2], (values[3, 6] + 2 * values[4, 6]) / 3, rtol=1e-6)
