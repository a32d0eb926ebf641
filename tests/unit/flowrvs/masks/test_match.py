from __future__ import annotations

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.masks.match import Overlaps


def box(top, bottom, left, right):
    mask = np.zeros((40, 40), bool)
    mask[top:bottom, left:right] = True
    return mask


def best_match(mask, objects, threshold=0.8):
    overlaps = Overlaps()
    overlaps.add(mask, objects)
    return overlaps.best(threshold)


OBJECTS = {1: box(0, 10, 0, 10), 2: box(0, 10, 10, 20), 5: box(20, 40, 0, 40)}


def test_one_object():
    match = best_match(box(0, 10, 0, 9), OBJECTS)
    assert match is not None
    assert match.object_ids == (1,)
    assert match.iou == pytest.approx(0.9)


def test_a_union():
    match = best_match(box(0, 10, 0, 20), OBJECTS)
    assert match is not None and match.object_ids == (1, 2) and match.iou == 1


def test_nothing_coincides():
    assert best_match(box(0, 10, 5, 15), OBJECTS) is None
    assert best_match(np.zeros((40, 40)), OBJECTS) is None
    assert best_match(box(0, 9, 0, 9), {}) is None


def test_the_lower_threshold_and_the_exact_edge():
    mask = box(0, 8, 0, 10)
    match = best_match(mask, OBJECTS)
    assert match is not None and match.iou == pytest.approx(0.8)
    assert best_match(mask, OBJECTS, threshold=0.81) is None


def test_a_single_object_is_preferred_to_a_hardly_better_union():
    match = best_match(box(0, 20, 0, 20), {1: box(0, 20, 0, 20), 2: box(0, 20, 19, 20)})
    assert match is not None and match.object_ids == (1,)


def test_overlapping_objects_are_counted_once():
    objects = {1: box(0, 10, 0, 12), 2: box(0, 10, 8, 20)}
    match = best_match(box(0, 10, 0, 20), objects)
    assert match is not None and match.iou == 1


def test_frames_add_up_and_presence_elsewhere_counts_against():
    overlaps = Overlaps()
    overlaps.add(OBJECTS[1], OBJECTS)
    assert overlaps.iou([1]) == 1
    overlaps.add(np.zeros((40, 40)), {1: OBJECTS[1]})
    assert overlaps.iou([1]) == 0.5
    assert overlaps.best() is None


def test_sizes_must_agree():
    with pytest.raises(InputError):
        best_match(np.ones((3, 3)), OBJECTS)


def test_of_equal_objects_the_first_is_meant():
    mask = np.ones((3, 4), bool)
    overlaps = Overlaps()
    overlaps.add(mask, {5: mask, 2: mask, 9: mask})
    assert overlaps.best().object_ids == (2,)
