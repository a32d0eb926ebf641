from __future__ import annotations

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.masks.interpolate import between, interpolate


def ellipse(row, column, a, b, shape=(120, 160)):
    rows, columns = np.indices(shape)
    return ((rows - row) / a) ** 2 + ((columns - column) / b) ** 2 < 1


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_shape_that_moves_far_and_grows_stays_in_one_piece():
    first, last = ellipse(30, 25, 10, 14), ellipse(85, 130, 24, 20)
    for share in (0.25, 0.5, 0.8):
        mixed = lambda x, y, s=share: x + (y - x) * s  # noqa: E731
        grown = lambda x, y, s=share: x ** (1 - s) * y**s  # noqa: E731
        truth = ellipse(mixed(30, 85), mixed(25, 130), grown(10, 24), grown(14, 20))
        assert iou(between(first, last, share), truth) > 0.93


def test_ends_are_the_keys_themselves():
    first, last = ellipse(30, 25, 10, 14), ellipse(85, 130, 24, 20)
    np.testing.assert_array_equal(between(first, last, 0), first)
    np.testing.assert_array_equal(between(first, last, 1), last)
    near_first = between(first, last, 1e-6)
    assert iou(near_first, first) > 0.97


def test_frames_between_keys_but_not_next_to_an_absence():
    one, none = ellipse(40, 40, 12, 12), np.zeros((120, 160), bool)
    keys = {2: one, 5: ellipse(40, 70, 12, 12), 9: none, 12: one}
    found = dict(interpolate(keys))
    assert sorted(found) == [3, 4]
    assert iou(found[3], ellipse(40, 50, 12, 12)) > 0.95
    assert [t for t, _ in interpolate(keys, 4, 99)] == [4]


def test_full_pictures_and_single_pixels():
    full, dot = np.ones((9, 9), bool), np.zeros((9, 9), bool)
    dot[4, 4] = True
    assert between(full, full, 0.5).all()
    assert between(dot, dot, 0.5)[4, 4]
    assert 1 <= between(dot, full, 0.5).sum() <= 81


def test_bad_input_is_told():
    with pytest.raises(InputError):
        between(np.ones((3, 3)), np.ones((4, 4)), 0.5)
    with pytest.raises(InputError):
        between(np.ones((3, 3)), np.ones((3, 3)), 2)
    with pytest.raises(InputError):
        list(interpolate({0: np.ones((3, 3)), 4: np.ones((4, 4))}))
