from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flowrvs.errors import InputError
from flowrvs.masks.clean import (
    TOOLS,
    components,
    fill_holes,
    largest_component,
    remove_specks,
    smooth,
)
from flowrvs.masks.compose import combine

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@pytest.fixture
def dirty():
    mask = np.zeros((40, 50), bool)
    mask[5:25, 6:30] = True
    mask[10:12, 10:12] = False  # a hole of 4
    mask[15:21, 15:21] = False  # a hole of 36
    mask[30:34, 40:44] = True  # a part of 16
    mask[37, 2] = True  # a speck
    return mask


def test_largest_component(dirty):
    kept = largest_component(dirty)
    assert kept[5:25, 6:30].sum() == kept.sum() == 20 * 24 - 40


def test_fill_holes(dirty):
    assert fill_holes(dirty).sum() == dirty.sum() + 40
    assert fill_holes(dirty, largest=10).sum() == dirty.sum() + 4
    assert fill_holes(dirty, largest=3).sum() == dirty.sum()
    assert fill_holes(dirty, largest=4).sum() == dirty.sum() + 4  # as large as may be
    assert fill_holes(dirty, largest=36).sum() == dirty.sum() + 40
    assert fill_holes(dirty, largest=10_000).sum() == dirty.sum() + 40  # around it is no hole


def test_remove_specks(dirty):
    assert remove_specks(dirty, 2).sum() == dirty.sum() - 1
    assert remove_specks(dirty, 16).sum() == dirty.sum() - 1  # a part of 16 is no smaller
    assert remove_specks(dirty, 17).sum() == dirty.sum() - 17
    assert not remove_specks(dirty, 10_000).any()


def test_smooth_takes_off_spikes_and_keeps_the_area():
    mask = np.zeros((60, 60), bool)
    mask[15:45, 15:45] = True
    spiky = mask.copy()
    spiky[5:15, 30] = True
    spiky[30, 30:45] = False
    assert not smooth(spiky)[5:13].any()
    assert smooth(spiky)[30, 30:43].all()
    assert smooth(mask).sum() == pytest.approx(mask.sum(), rel=0.02)


def test_smooth_does_not_eat_at_the_pictures_edge():
    mask = np.zeros((30, 30), bool)
    mask[:, :10] = True
    np.testing.assert_array_equal(smooth(mask, 3), mask)


@pytest.mark.parametrize("tool", TOOLS)
def test_stacks_are_cleaned_frame_by_frame(dirty, tool):
    stack = np.stack([dirty, np.zeros_like(dirty), np.rot90(dirty, 2)])
    before = stack.copy()
    done = TOOLS[tool](stack)
    for one, frame in zip(done, stack, strict=True):
        np.testing.assert_array_equal(one, TOOLS[tool](frame))
    assert not done[1].any()
    np.testing.assert_array_equal(stack, before)
    assert TOOLS[tool](stack[:0]).shape == (0, 40, 50)


@given(MASKS, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_components_make_up_the_mask_and_exclude_each_other(mask, smallest):
    parts = components(mask, smallest)
    total = np.sum(parts, axis=0) if parts else np.zeros(mask.shape)
    np.testing.assert_array_equal(total, mask)


def test_components_by_size(dirty):
    assert len(components(dirty, 16)) == 2 and len(components(dirty, 17)) == 1
    corners = np.eye(3, dtype=bool)
    assert len(components(corners, 1)) == 1, "diagonal neighbours are connected"
    assert fill_holes(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))[1, 1], "and surround a hole"
    parts = components(dirty, 5)
    assert [int(part.sum()) for part in parts] == [441, 16]  # the speck goes with the nearest
    assert parts[0][37, 2]
    dirty[37, 46] = True  # and another one is nearer to the smaller part
    parts = components(dirty, 5)
    assert [int(part.sum()) for part in parts] == [441, 17] and parts[1][37, 46]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("keep", [1, 1, 0, 0]),
        ("replace", [0, 1, 1, 0]),
        ("union", [1, 1, 1, 0]),
        ("intersect", [0, 1, 0, 0]),
        ("subtract", [1, 0, 0, 0]),
    ],
)
def test_rules(rule, expected):
    old, new = np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 0]])
    np.testing.assert_array_equal(combine(old, new, rule), np.array([expected], bool))


def test_keep_decides_by_frame():
    old, new = np.zeros((2, 2, 2)), np.ones((2, 2, 2))
    old[0, 0, 0] = 1
    assert combine(old, new, "keep").sum((1, 2)).tolist() == [1, 4]


def test_bad_input_is_told_in_one_line():
    mask = np.ones((4, 4))
    for call in [
        lambda: largest_component(np.ones(4)),
        lambda: fill_holes(mask, largest=0),
        lambda: smooth(mask, -1),
        lambda: remove_specks(mask, 0),
        lambda: components(np.ones((2, 4, 4))),
        lambda: combine(mask, np.ones((3, 3))),
        lambda: combine(mask, mask, "xor"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)
