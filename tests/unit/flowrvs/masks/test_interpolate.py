from __future__ import annotations

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.masks import shape
from flowrvs.masks.interpolate import interpolate


def ellipse(row, column, a, b, shape=(120, 160)):
    rows, columns = np.indices(shape)
    return ((rows - row) / a) ** 2 + ((columns - column) / b) ** 2 < 1


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def between(a, b, share):
    """The shape at a share of the way, in hundredths."""
    return dict(interpolate({0: a, 100: b}))[round(100 * share)]


def test_a_shape_that_moves_far_and_grows_stays_in_one_piece():
    first, last = ellipse(30, 25, 10, 14), ellipse(85, 130, 24, 20)
    for share in (0.25, 0.5, 0.8):
        mixed = lambda x, y, s=share: x + (y - x) * s  # noqa: E731
        grown = lambda x, y, s=share: x ** (1 - s) * y**s  # noqa: E731
        truth = ellipse(mixed(30, 85), mixed(25, 130), grown(10, 24), grown(14, 20))
        assert iou(between(first, last, share), truth) > 0.93


def test_shapes_begin_and_end_as_the_keys_do():
    first, last = ellipse(30, 25, 10, 14), ellipse(85, 130, 24, 20)
    assert iou(between(first, last, 0.01), first) > 0.85
    assert iou(between(first, last, 0.99), last) > 0.9


def test_frames_between_keys_but_not_next_to_an_absence():
    first, none = ellipse(40, 40, 12, 12), np.zeros((120, 160), bool)
    keys = {2: first, 5: ellipse(40, 70, 12, 12), 9: none, 12: first}
    found = dict(interpolate(keys))
    assert sorted(found) == [3, 4]
    assert iou(found[3], ellipse(40, 50, 12, 12)) > 0.95
    (inside,) = interpolate(keys, 4, 99)  # asked for from inside the gap: the same shape
    assert inside[0] == 4
    np.testing.assert_array_equal(inside[1], found[4])
    np.testing.assert_array_equal(dict(interpolate(keys, 0, 4))[3], found[3])


def test_a_shape_that_comes_from_the_border_is_no_wider_than_it_was():
    first, last = np.zeros((2, 12, 40), bool)
    first[:, :10], last[:, 20:30] = True, True
    halfway = between(first, last, 0.5)
    assert np.flatnonzero(halfway.all(axis=0)).tolist() == list(range(10, 20))
    assert np.array_equal(halfway.any(axis=0), halfway.all(axis=0))


def test_full_pictures_and_single_pixels():
    full, dot = np.ones((9, 9), bool), np.zeros((9, 9), bool)
    dot[4, 4] = True
    assert between(full, full, 0.5).all()
    assert between(dot, dot, 0.5)[4, 4]
    assert 1 <= between(dot, full, 0.5).sum() <= 81


def test_bad_input_is_told():
    with pytest.raises(InputError):
        list(interpolate({0: np.ones((3, 3)), 4: np.ones((4, 4))}))


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
