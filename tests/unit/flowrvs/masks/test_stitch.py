"""Seams and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.inference import kept_frames, plan_windows
from flowrvs.masks.stitch import Stitcher, crossfade
from flowrvs.masks.threshold import confidence, threshold


def test_crossfade_goes_from_one_to_the_other() -> None:
    before, after = np.full((3, 2, 2), -1, np.float32), np.full((3, 2, 2), 1, np.float32)
    blended = crossfade(before, after)
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended[:, 0, 0], [-0.5, 0, 0.5])
    np.testing.assert_array_equal(crossfade(after, after), after)


@pytest.mark.parametrize(("size", "overlap"), [(5, 0), (5, 2), (5, 4), (20, 3), (7, 6)])
def test_windows_that_agree_are_joined_without_a_trace(size: int, overlap: int) -> None:
    logits = np.random.default_rng(0).normal(size=(17, 3, 4)).astype(np.float32)
    windows = plan_windows(17, size, overlap)
    stitcher = Stitcher(windows)
    parts = [stitcher.push(w.index, logits[w.start : w.stop]) for w in windows]
    kept = [(k.start, len(k)) for k in kept_frames(windows)]
    assert [(start, len(final)) for start, final in parts] == kept
    np.testing.assert_allclose(np.concatenate([final for _, final in parts]), logits, atol=1e-6)


@pytest.mark.parametrize("piece", [1, 2, 3, 5])
@pytest.mark.parametrize(("size", "overlap"), [(5, 0), (6, 3), (7, 6)])
def test_pieces_give_what_whole_windows_give(size: int, overlap: int, piece: int) -> None:
    windows = plan_windows(17, size, overlap)
    random = np.random.default_rng(1)
    shape = (len(windows), size, 3, 4)
    logits = random.normal(size=shape).astype(np.float32)  # windows that disagree
    whole, other = Stitcher(windows), Stitcher(windows)
    for window in windows:
        start, expected = whole.push(window.index, logits[window.index])
        position, parts = start, []
        for first in range(0, size, piece):
            at, final = other.push(window.index, logits[window.index, first : first + piece])
            assert at == position or not len(final)
            position += len(final)
            parts.append(final)
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_a_gap_begins_anew() -> None:
    windows = plan_windows(13, 5, 2)
    ones = np.ones((5, 1, 1), np.float32)
    stitcher = Stitcher(windows)
    stitcher.push(0, -ones)
    start, final = stitcher.push(2, ones)
    assert start == windows[2].start
    np.testing.assert_array_equal(final, ones[:2])


def test_threshold() -> None:
    logits = np.array([-1, 0, 1e-6, 1, np.nan], np.float32)
    assert threshold(logits).tolist() == [False, False, True, True, False]
    assert threshold(logits, 0.5).tolist() == [False, False, False, True, False]


def test_confidence_is_the_rounded_sigmoid() -> None:
    logits = np.linspace(-1, 1, 101, dtype=np.float32)
    np.testing.assert_array_equal(confidence(logits), np.rint(255 / (1 + np.exp(-logits))))
    assert confidence(np.array([-1e9, 1e9, np.nan])).tolist() == [0, 255, 0]
    assert confidence(logits).dtype == np.uint8
