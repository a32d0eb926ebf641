from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from flowrvs.errors import InputError
from flowrvs.masks.clean import (
    TOOLS,
    components,
    fill_holes,
    largest_component,
    remove_specks,
    smooth,
)

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


EVERYWHERE = np.ones((3, 3))


def parts_of(mask, structure=EVERYWHERE):
    """The connected parts of a whole picture in reading order."""
    labels, count = ndimage.label(mask, structure)
    return [labels == n for n in range(1, count + 1)]


def union(parts, like):
    return np.logical_or.reduce([np.zeros_like(like), *parts])


@given(MASKS, st.integers(1, 6))
@settings(max_examples=40, deadline=None)
@example(np.eye(4, dtype=bool), 2)  # diagonal neighbours hang together
@example(np.array([[1, 0, 1]], bool), 1)  # of equal parts the first is kept
def test_tools_do_to_the_box_what_they_say_of_the_picture(mask, size):
    """Only the box of the object is worked on; the picture around it must not be missed."""
    mask = np.pad(mask, ((0, 12), (13, 0)))
    parts = parts_of(mask)
    np.testing.assert_array_equal(
        largest_component(mask), union(sorted(parts, key=lambda part: -part.sum())[:1], mask)
    )
    np.testing.assert_array_equal(
        remove_specks(mask, size), union([part for part in parts if part.sum() >= size], mask)
    )
    # a hole is what neither diagonals nor the sides of the picture open
    edge = np.pad(np.zeros(np.subtract(mask.shape, 2), bool), 1, constant_values=True)
    holes = [part for part in parts_of(~mask, None) if not (part & edge).any()]
    np.testing.assert_array_equal(fill_holes(mask), union(holes, mask) | mask)
    np.testing.assert_array_equal(
        fill_holes(mask, largest=size),
        union([hole for hole in holes if hole.sum() <= size], mask) | mask,
    )


@pytest.mark.parametrize("radius", [0.5, 2.0, 6.0])
def test_smoothing_is_a_blurred_mask_above_one_half(dirty, radius):
    blurred = ndimage.gaussian_filter(dirty.astype(np.float32), radius, mode="nearest")
    np.testing.assert_array_equal(smooth(dirty, radius), blurred > 0.5)
    if radius == 2:
        np.testing.assert_array_equal(smooth(dirty), blurred > 0.5)


def test_tools_by_their_own_measure(dirty):
    assert fill_holes(dirty, largest=4).sum() == dirty.sum() + 4  # as large as may be
    assert fill_holes(dirty, largest=3).sum() == dirty.sum()
    assert fill_holes(dirty, largest=10_000).sum() == dirty.sum() + 40  # around it is no hole
    assert remove_specks(dirty).sum() == 20 * 24 - 40  # below 64 pixels by itself
    dot = np.zeros((3, 70), bool)
    dot[1, :64] = True
    assert remove_specks(dot).sum() == 64
    assert np.array_equal(remove_specks(dirty, 1), dirty)
    assert smooth(dirty, 999.0).shape == dirty.shape


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
    whole = sorted(parts_of(mask), key=lambda part: -part.sum())
    kept = [part for part in whole if part.sum() >= smallest] or whole[:1]
    assert len(parts) == len(kept)
    assert all((part & own).sum() == own.sum() for part, own in zip(parts, kept, strict=True))


def test_components_by_size(dirty):
    assert len(components(dirty)) == 2, "16 pixels by itself"
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


def test_bad_input_is_told_in_one_line():
    mask = np.ones((4, 4))
    for call in [
        lambda: largest_component(np.ones(4)),
        lambda: largest_component(np.ones((1, 1, 4, 4))),
        lambda: fill_holes(mask, largest=0),
        lambda: smooth(mask, -1),
        lambda: smooth(mask, 0),
        lambda: smooth(mask, 1000),
        lambda: remove_specks(mask, 0),
        lambda: components(np.ones((2, 4, 4))),
    ]:
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)
