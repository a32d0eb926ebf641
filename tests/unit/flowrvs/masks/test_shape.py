from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flowrvs.masks import shape

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(MASKS, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_box_holds_the_mask_and_a_margin(mask, margin):
    box = shape.bounding_box(mask, margin)
    assert (box is None) == (not mask.any())
    if box is not None:
        places = np.argwhere(mask)
        first, last = places.min(0) - margin, places.max(0) + margin
        assert [(side.start, side.stop) for side in box] == [
            (max(0, a), b + 1) for a, b in zip(first, last, strict=True)
        ]
        exact = shape.bounding_box(mask)
        assert exact is not None and mask[exact].sum() == mask.sum()


@pytest.mark.parametrize("there", [True, False])
def test_edges_lie_between_pixels(monkeypatch, there):
    if there:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(shape, "opencv", lambda: None)
    row = np.array([[0, 0, 1, 1, 1, 0]], bool)
    assert shape.signed_distance(row, 9.0).tolist() == [[-1.5, -0.5, 0.5, 1.5, 0.5, -0.5]]
    assert shape.signed_distance(row | True, 9.0).tolist() == [[9.0] * 6]
    assert shape.signed_distance(row & False, 9.0).tolist() == [[-9.0] * 6]
    mask = np.random.default_rng(0).random((13, 17)) < 0.3
    mask[4:11, 5:12] = True
    found = shape.signed_distance(mask, 9.0)
    assert found.dtype == np.float32
    for place in np.ndindex(mask.shape):
        others = np.argwhere(mask != mask[place])
        nearest = np.hypot(*(others - place).T).min() - 0.5
        assert found[place] == pytest.approx(nearest if mask[place] else -nearest, abs=1e-4)


def test_iou():
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    assert shape.iou(a, b) == 1
    a[:2] = 1
    assert shape.iou(a, b) == 0
    b[1:3] = 7
    assert shape.iou(a, b) == pytest.approx(1 / 3)
