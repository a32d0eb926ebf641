"""J and F against a plain transcription of the official definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flowrvs.errors import InputError
from flowrvs.evaluation import boundary_f, jaccard, packed, score_masks
from flowrvs.evaluation.metrics import boundary_map, boundary_radius
from flowrvs.masks import rle


def plain_boundary(mask):
    """Pixel by pixel, as the facts state it."""
    height, width = mask.shape
    edge = set()
    for y in range(height):
        for x in range(width):
            last_row, last_column = y == height - 1, x == width - 1
            if last_row and last_column:
                continue
            if last_row:
                neighbours = [(y, x + 1)]
            elif last_column:
                neighbours = [(y + 1, x)]
            else:
                neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(mask[y, x] != mask[n] for n in neighbours):
                edge.add((y, x))
    return edge


def plain_f(pred, truth):
    height, width = pred.shape
    radius = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    a, b = plain_boundary(pred), plain_boundary(truth)
    if not a and not b:
        return 1.0
    if not a or not b:
        return 0.0

    def inside(points, others):
        return sum(
            any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points
        )

    precision, recall = inside(a, b) / len(a), inside(b, a) / len(b)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_j(pred, truth):
    cells = [(bool(p), bool(t)) for p, t in zip(pred.ravel(), truth.ravel(), strict=True)]
    union = sum(p or t for p, t in cells)
    return sum(p and t for p, t in cells) / union if union else 1.0


def columns(start, stop):
    mask = np.zeros((4, 130), bool)
    mask[1:3, start:stop] = True
    return mask


@st.composite
def mask_pairs(draw):
    height = draw(st.integers(1, 22))
    # Wide strips reach a radius of several pixels while the plain version stays quick.
    width = draw(st.one_of(st.integers(1, 22), st.integers(120, 400)))
    if height * width > 2500:
        height = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def mask():
        kind = draw(st.sampled_from(["empty", "full", "noise", "dots", "boxes", "boxes"]))
        if kind == "empty":
            return np.zeros((height, width), bool)
        if kind == "full":
            return np.ones((height, width), bool)
        if kind == "noise":
            return rng.random((height, width)) < rng.random() * 0.3
        if kind == "dots":
            return rng.random((height, width)) < 2 / (height * width)
        result = np.zeros((height, width), bool)
        for _ in range(2):
            y, x = rng.integers(height), rng.integers(width)
            result[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] ^= True
        return result

    return mask(), mask()


@settings(max_examples=150, deadline=None)
@given(mask_pairs())
@example((np.zeros((1, 1), bool), np.ones((1, 1), bool)))
@example((np.ones((5, 7), bool), np.zeros((5, 7), bool)))
@example((np.eye(8, dtype=bool), np.eye(8, dtype=bool)[::-1]))
@example((columns(64, 80), columns(70, 90)))  # an edge in the word before the mask's own
@example((columns(128, 130), columns(129, 130)))  # at the right border, in the last word alone
def test_scores_agree_with_the_plain_definition(pair):
    pred, truth = pair
    assert jaccard(pred, truth) == pytest.approx(plain_j(pred, truth), abs=1e-12)
    assert boundary_f(pred, truth) == pytest.approx(plain_f(pred, truth), abs=1e-12)


def test_boundary_map_agrees_with_the_plain_definition():
    mask = np.random.default_rng(0).random((19, 23)) < 0.3
    assert set(map(tuple, np.argwhere(boundary_map(mask)).tolist())) == plain_boundary(mask)


@pytest.mark.parametrize("radius", [1, 2, 5, 8, 9, 18, 24, 25, 36, 70])
@pytest.mark.parametrize("density", [0.002, 0.4])
def test_dilation_agrees_with_opencv(radius, density):
    cv2 = pytest.importorskip("cv2")
    from skimage.morphology import disk

    rng = np.random.default_rng(1)
    a, b = (rng.random((90, 331)) < density for _ in range(2))
    near_a, near_b = (
        cv2.dilate(edge.astype(np.uint8), disk(radius).astype(np.uint8)).astype(bool)
        for edge in (boundary_map(a), boundary_map(b))
    )
    edge_a, edge_b = boundary_map(a), boundary_map(b)
    expected = (edge_a.sum(), (edge_a & near_b).sum(), edge_b.sum(), (edge_b & near_a).sum())
    assert packed.count_pair(packed.pack(a), packed.pack(b), 331, radius)[2:6] == expected


@pytest.mark.parametrize("shape, radius", [((48, 64), 1), ((480, 854), 8), ((2160, 3840), 36)])
def test_the_radius_is_a_share_of_the_diagonal(shape, radius):
    assert boundary_radius(shape) == radius


@settings(max_examples=200, deadline=None)
@given(
    arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=150)),
    st.lists(st.integers(0, 30), max_size=3),
)
def test_masks_are_packed_and_unpacked_from_pixels_and_from_runs(mask, empty_runs):
    height, width = mask.shape
    words = packed.pack(mask)
    assert np.array_equal(packed.unpack(words, width), mask)
    assert packed.count_pixels(words) == mask.sum()
    runs = rle.runs(rle.encode(mask))
    for place in empty_runs:
        # A run in two parts around an empty one, as a foreign writer may leave it.
        place %= len(runs)
        cut = runs[place] // 2
        runs = np.concatenate([runs[:place], [cut, 0, runs[place] - cut], runs[place + 1 :]])
    assert np.array_equal(packed.pack_runs(runs, height, width), words)


@pytest.mark.parametrize(
    "value", [np.uint8(255), np.uint16(256), np.int8(-1), np.float32(0.5), np.float64(-1e-300)]
)
def test_any_nonzero_value_is_foreground(value):
    pred = np.zeros((6, 8), value.dtype)
    pred[2:4, 2:5] = value
    truth = pred != 0
    assert jaccard(pred, truth) == boundary_f(pred, truth) == 1
    assert score_masks(pred[None], truth[None]) == (1, 1)
    assert boundary_map(pred).tolist() == boundary_map(truth).tolist()
    assert jaccard(pred, truth[:, ::-1]) == jaccard(truth, truth[:, ::-1]) == 0.5


def test_score_masks_is_the_mean_over_frames():
    truth = np.zeros((3, 10, 10), bool)
    truth[:, 2:6, 2:6] = True
    pred = truth.copy()
    pred[1] = False
    pred[2] = False
    pred[2, 2:6, 2:4] = True
    j, f = score_masks(pred, truth)
    assert j == pytest.approx((1 + 0 + 0.5) / 3)
    assert f == pytest.approx((1 + 0 + plain_f(pred[2], truth[2])) / 3, abs=1e-12)


@pytest.mark.parametrize(
    "pred, truth",
    [
        (np.zeros((2, 3, 4), bool), np.zeros((2, 3, 5), bool)),
        (np.zeros((3, 4), bool), np.zeros((3, 4), bool)),
        (np.zeros((0, 3, 4), bool), np.zeros((0, 3, 4), bool)),
    ],
)
def test_masks_that_do_not_fit_are_refused(pred, truth):
    with pytest.raises(InputError):
        score_masks(pred, truth)
