from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, map_coordinates

from flowrvs.errors import InputError
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


def plainly(a, b, share):
    """Distances to the edge, seen from where each shape would lie and as large as it would be."""
    places = [np.argwhere(mask) for mask in (a, b)]
    centers = [each.mean(0) for each in places]
    sizes = [np.maximum(each.std(0), 0.5) for each in places]
    center = centers[0] * (1 - share) + centers[1] * share
    size = sizes[0] ** (1 - share) * sizes[1] ** share
    grid = np.moveaxis(np.indices(a.shape), 0, -1)
    field = 0
    for weight, mask, own, extent in zip((1 - share, share), (a, b), centers, sizes, strict=True):
        signed = np.where(
            mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask)
        )
        at = own + (grid - center) * extent / size
        values = map_coordinates(signed, np.moveaxis(at, -1, 0), order=1, mode="nearest")
        beyond = np.maximum(-at, at - np.array(a.shape) + 1).max(-1)
        field = field + weight * np.where(beyond > 0.5, -beyond, values)
    return field


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (ellipse(30, 25, 10, 14), ellipse(85, 130, 24, 20)),
        (ellipse(0, 60, 30, 12), ellipse(100, 159, 14, 40)),  # cut by the picture's sides
        (ellipse(60, 5, 8, 30), ellipse(119, 20, 30, 8)),
    ],
)
def test_shapes_are_mixed_where_and_as_large_as_they_would_be(first, last):
    for t, mask in interpolate({0: first, 10: last}):
        field = plainly(first, last, t / 10)
        clear = np.abs(field) > 0.05
        np.testing.assert_array_equal(mask[clear], (field > 0)[clear])


def test_a_shape_that_only_moves_keeps_every_pixel():
    shape = np.zeros((80, 100), bool)
    shape[10:25, 60:80], shape[14:40, 66:70] = True, True
    keys = {9: np.roll(shape, (9, -12), (0, 1)), 6: shape, 12: np.roll(shape, (18, -6), (0, 1))}
    expected = {7: (3, -4), 8: (6, -8), 10: (12, -10), 11: (15, -8)}
    found = dict(interpolate(keys))  # in no order
    assert list(found) == [7, 8, 10, 11]
    for t, moved in expected.items():
        np.testing.assert_array_equal(found[t], np.roll(shape, moved, (0, 1)))


@pytest.mark.parametrize(
    ("start", "stop", "frames"),
    [
        (None, None, [1, 2, 9, 11, 12, 13]),
        (2, None, [2, 9, 11, 12, 13]),
        (None, 12, [1, 2, 9, 11]),
        (9, 10, [9]),
        (10, 12, [11]),
        (3, 9, []),
    ],
)
def test_only_what_is_asked_for_is_drawn(start, stop, frames):
    dot = ellipse(40, 40, 9, 9)
    keys = {0: dot, 3: dot, 5: dot & False, 8: dot, 10: dot, 14: dot, 15: dot}
    assert [t for t, _ in interpolate(keys, start, stop)] == frames


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
