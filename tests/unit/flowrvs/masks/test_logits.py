"""Seams and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.inference import kept_frames, plan_windows
from flowrvs.masks.logits import Stitcher, confidence, crossfade, threshold


def test_crossfade_goes_from_one_to_the_other() -> None:
    before, after = np.full((3, 2, 2), -1, np.float32), np.full((3, 2, 2), 1, np.float32)
    blended = crossfade(before, after)
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended[:, 0, 0], [-0.5, 0, 0.5])
    np.testing.assert_array_equal(crossfade(after, after), after)
    # the second and third of seven shared frames
    some = crossfade(before[:2], after[:2] * 3, first=1, shared=7)
    np.testing.assert_allclose(some[:, 1, 1], [-1 + 4 * 2 / 8, -1 + 4 * 3 / 8])


@pytest.mark.parametrize(("size", "overlap"), [(5, 0), (5, 2), (5, 4), (20, 3), (7, 6)])
def test_windows_that_agree_are_joined_without_a_trace(size: int, overlap: int) -> None:
    logits = np.random.default_rng(0).normal(size=(17, 3, 4)).astype(np.float32)
    windows = plan_windows(17, size, overlap)
    stitcher = Stitcher(windows)
    parts = [stitcher.push(w.index, logits[w.start : w.stop]) for w in windows]
    kept = [(k.start, len(k)) for k in kept_frames(windows)]
    assert [(start, len(final)) for start, final, _ in parts] == kept
    np.testing.assert_allclose(np.concatenate([final for _, final, _ in parts]), logits, atol=1e-6)


@pytest.mark.parametrize("piece", [1, 2, 3, 5])
@pytest.mark.parametrize(("size", "overlap"), [(5, 0), (6, 3), (7, 6)])
def test_pieces_give_what_whole_windows_give(size: int, overlap: int, piece: int) -> None:
    windows = plan_windows(17, size, overlap)
    random = np.random.default_rng(1)
    shape = (len(windows), size, 3, 4)
    logits = random.normal(size=shape).astype(np.float32)  # windows that disagree
    whole, other = Stitcher(windows), Stitcher(windows)
    for window in windows:
        start, expected, doubted = whole.push(window.index, logits[window.index])
        position, parts, apart = start, [], []
        for first in range(0, size, piece):
            piece_of = logits[window.index, first : first + piece]
            at, final, known = other.push(window.index, piece_of)
            assert at == position or not len(final)
            position += len(final)
            parts.append(final)
            apart.append(known)
        np.testing.assert_array_equal(np.concatenate(parts), expected)
        np.testing.assert_array_equal(np.concatenate(apart), doubted)


def test_a_gap_begins_anew() -> None:
    windows = plan_windows(13, 5, 2)
    ones = np.ones((5, 1, 1), np.float32)
    stitcher = Stitcher(windows)
    stitcher.push(0, -ones)
    start, final, apart = stitcher.push(2, ones)
    assert start == windows[2].start and np.isnan(apart).all()
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


def test_windows_that_disagree_are_told_where_they_overlap() -> None:
    windows = plan_windows(8, 5, 2)
    left, right = np.full((5, 2, 2), -1, np.float32), np.full((5, 2, 2), -1, np.float32)
    left[:, 0], right[:, :, 0] = 1, 1
    stitcher = Stitcher(windows)
    assert np.isnan(stitcher.push(0, left)[2]).all()
    apart = stitcher.push(1, right)[2]
    np.testing.assert_allclose(apart, [2 / 3, 2 / 3, np.nan, np.nan, np.nan], rtol=1e-6)


def test_the_largest_of_several_disagreements_counts() -> None:
    windows = plan_windows(7, 5, 4)
    stitcher = Stitcher(windows)
    ones = np.ones((5, 1, 1), np.float32)
    stitcher.push(0, ones)
    stitcher.push(1, -ones)
    apart = stitcher.push(2, -3 * ones)[2]
    # Frames 2 and 3: the first window saw them too, and blended with the second one they are
    # still its; frame 5 was seen by windows that agree, frame 6 by the last one alone.
    np.testing.assert_array_equal(apart[:3], [1, 1, 1])
    assert apart[3] == 0 and np.isnan(apart[4])
    known = np.array([0.25, np.nan, 0.5, np.nan, np.nan], np.float32)
    np.testing.assert_array_equal(Stitcher(windows[:1]).push(0, ones, known)[2], known)


def test_what_is_asked_of_windows_is_a_threshold_of_their_own() -> None:
    windows = plan_windows(6, 4, 2)
    ones = np.ones((4, 1, 1), np.float32)
    for level, apart in ((0.0, 0), (2.0, 1), (3.0, 0)):
        stitcher = Stitcher(windows, level)
        stitcher.push(0, ones)
        assert stitcher.push(1, 3 * ones)[2][:2].tolist() == [apart] * 2


def test_frames_that_are_passed_over_are_counted() -> None:
    """Of a window that is there already the shared end alone is computed."""
    windows = plan_windows(8, 5, 2)
    logits = np.arange(8, dtype=np.float32)[:, None, None]
    stitcher = Stitcher(windows)
    stitcher.skip(0, 2)
    start, final, _ = stitcher.push(0, logits[2:5])
    assert start == 2 and final.ravel().tolist() == [2]
    start, final, _ = stitcher.push(1, logits[3:] + 3)
    assert start == 3
    np.testing.assert_allclose(final.ravel(), [3 + 1, 4 + 2, 8, 9, 10])
    whole = Stitcher(windows)
    whole.skip(0, 5)  # nothing is left to be blended with
    start, final, apart = whole.push(1, logits[3:])
    assert start == 3 and final.ravel().tolist() == [3, 4, 5, 6, 7] and np.isnan(apart).all()


def test_what_was_handed_over_is_left_alone_and_kept() -> None:
    windows = plan_windows(8, 5, 2)
    first, apart = np.ones((5, 1, 1), np.float32), np.zeros(5, np.float32)
    stitcher = Stitcher(windows)
    stitcher.push(0, first, apart)
    first[:] = -9  # as where a buffer is used again
    second, known = -np.ones((5, 1, 1), np.float32), np.full(5, np.nan, np.float32)
    _, final, said = stitcher.push(1, second, known)
    np.testing.assert_allclose(final[:2].ravel(), [1 / 3, -1 / 3], rtol=1e-6)
    assert said[:2].tolist() == [1, 1] and np.isnan(said[2:]).all()
    assert np.isnan(known).all() and (second == -1).all() and not apart.any()
