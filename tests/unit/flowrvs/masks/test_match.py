from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(1, 3))))
@settings(max_examples=60, deadline=None)
def test_any_union_is_counted_as_pixels(stack):
    """The first mask is the new one; frames come one by one, and objects may overlap."""
    overlaps = Overlaps()
    frames = stack.shape[2]
    new, drawn = stack[0], {3 * n + 1: each for n, each in enumerate(stack[1:])}
    for t in range(frames):
        overlaps.add(new[:, t], {n: each[:, t] for n, each in drawn.items()})
    for count in range(len(drawn) + 1):
        for ids in combinations(drawn, count):
            union = np.logical_or.reduce([new & False, *(drawn[n] for n in ids)])
            either = (union | new).sum()
            expected = (union & new).sum() / either if either else 0
            assert overlaps.iou(ids) == expected


def test_a_union_grows_by_what_helps_most_and_only_by_what_helps():
    mask = box(0, 10, 0, 20)  # of 200 pixels
    parts = {8: box(0, 10, 0, 9), 4: box(0, 10, 9, 17), 6: box(0, 10, 17, 20)}
    match = best_match(mask, parts | {2: box(30, 40, 0, 20)}, threshold=0.99)
    assert match is not None and match.object_ids == (4, 6, 8) and match.iou == 1
    # Below the threshold anything that helps is taken; from it on it must help by 0.02.
    crumb = {1: box(0, 1, 17, 20)}  # 3 pixels of 200
    few = {8: parts[8], 4: parts[4]} | crumb
    assert best_match(mask, few, threshold=0.85).object_ids == (4, 8)  # 170 of 200
    assert best_match(mask, few, threshold=0.86).object_ids == (1, 4, 8)  # 173 of 200
    crumb = {1: box(0, 2, 17, 19)}  # 4 pixels are 0.02
    assert best_match(mask, few | crumb, threshold=0.85).object_ids == (1, 4, 8)
    assert best_match(mask, few, threshold=0.87) is None


def test_frames_are_matched_alone_or_as_a_stack():
    stack = np.stack([OBJECTS[1], OBJECTS[2]])
    overlaps = Overlaps()
    overlaps.add(stack, {7: stack, 9: stack[::-1]})
    assert overlaps.iou([7]) == 1 and overlaps.iou([9]) == 0 and overlaps.iou([7, 9]) == 0.5
    assert overlaps.iou([5]) == 0 and Overlaps().iou([]) == 0
    with pytest.raises(InputError, match=r"Object 4 is \(2, 2\), the mask \(3, 3\)"):
        overlaps.add(np.ones((3, 3)), {4: np.ones((2, 2))})
