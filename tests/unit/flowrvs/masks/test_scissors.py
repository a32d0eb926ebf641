"""A polygon that snaps to edges: its corners and ways, where they are looked for, and its mask."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from skimage.draw import polygon2mask

from flowrvs.errors import InputError
from flowrvs.masks.scissors import Scissors
from flowrvs.masks.shape import iou

pytest.importorskip("cv2")


def test_scissors_follow_the_edge(scene) -> None:
    frame, red, _ = scene
    scissors = Scissors(frame)
    corners = [(50, 38), (72, 60), (50, 82), (28, 60)]
    for x, y in corners:
        scissors.add(x, y)
    snapped = iou(scissors.mask, red)
    assert snapped > 0.93  # the straight square has 2 / pi = 0.64
    assert scissors.corners == tuple((float(x), float(y)) for x, y in corners)
    scissors.undo()
    assert len(scissors.corners) == 3 and iou(scissors.mask, red) < snapped
    with pytest.raises(InputError, match="outside"):
        scissors.add(-1, 5)
    far = Scissors(frame.repeat(9, 0).repeat(9, 1))
    for x, y in corners:
        far.add(9 * x + 4, 9 * y + 4)
    assert iou(far.mask, red.repeat(9, 0).repeat(9, 1)) > 0.9


@pytest.fixture
def square() -> np.ndarray:
    """A bright square, rows 30 to 79, columns 40 to 109."""
    frame = np.full((120, 160, 3), (20, 60, 30), np.uint8)
    frame[30:80, 40:110] = (230, 200, 90)
    return frame


def test_ways_lead_from_corner_to_corner(square) -> None:
    scissors = Scissors(square)
    assert scissors.line.shape == scissors.polygon.shape == (0, 2)
    assert scissors.way_to(40, 30).tolist() == [[40, 30]] and not scissors.mask.any()
    assert scissors.add(40, 30).tolist() == [[40, 30]]
    assert scissors.polygon.tolist() == scissors.line.tolist() == [[40, 30]]
    assert not scissors.mask.any(), "a corner surrounds nothing"
    assert scissors.way_to(40, 30).tolist() == [[40, 30], [40, 30]]
    way = scissors.add(109, 79)
    assert way[0].tolist() == [40, 30] and way[-1].tolist() == [109, 79]
    # It goes along two sides of the square, not straight through it.
    sides = [np.abs(way[:, 0] - 40), np.abs(way[:, 0] - 109), np.abs(way[:, 1] - 30)]
    assert np.minimum.reduce([*sides, np.abs(way[:, 1] - 79)]).max() <= 1
    assert np.abs(np.diff(way, axis=0)).max() <= 2 and len(way) > 100
    np.testing.assert_array_equal(scissors.line, np.concatenate([[(40, 30)], way]))
    back = scissors.way_to(40, 30)
    np.testing.assert_array_equal(scissors.polygon, np.concatenate([way, back]))
    inside = polygon2mask((120, 160), scissors.polygon[:, ::-1])
    np.testing.assert_array_equal(scissors.mask, inside)
    third = scissors.add(109, 30)
    assert scissors.corners == ((40.0, 30.0), (109.0, 79.0), (109.0, 30.0))
    assert len(scissors.line) == 1 + len(way) + len(third)
    scissors.undo()
    np.testing.assert_array_equal(scissors.line, np.concatenate([[(40, 30)], way]))
    np.testing.assert_array_equal(scissors.way_to(109, 30), third), "from the corner before"
    for _ in range(3):
        scissors.undo()
    assert scissors.corners == () and len(scissors.line) == 0


def test_ways_are_looked_for_around_the_last_corner() -> None:
    frame = np.zeros((1200, 1600, 3), np.uint8)
    scissors = Scissors(frame)
    scissors.add(800, 600)
    assert scissors.look() == (500, 300, 201, 201)  # 300 pixels to each side, every third
    straight = scissors.way_to(1103, 600)
    assert straight.tolist() == [[800, 600], [1103, 600]]
    near = scissors.way_to(1000, 603)
    assert near[0].tolist() == [800, 600] and near[-1].tolist() == [1000, 603]
    assert len(near) > 50 and np.abs(near - [900, 601]).max(0).tolist() <= [101, 8]
    scissors.add(100, 1190)
    assert scissors.look() == (0, 890, 134, 104)
    assert Scissors(frame[:120, :160]).add(1, 1).tolist() == [[1, 1]]
    small = Scissors(frame[:300, :400])
    small.add(200, 150)
    assert small.look() == (72, 22, 257, 257)


def test_corners_lie_in_the_picture(square) -> None:
    scissors = Scissors(square)
    scissors.add(0, 0)
    scissors.add(159.5, 119.5)
    for x, y in ((160, 5), (5, 120), (-0.1, 5), (5, -0.1)):
        for call in (scissors.add, scissors.way_to):
            with pytest.raises(InputError, match="lies outside the picture of 160 x 120 pixels"):
                call(x, y)
    assert len(scissors.corners) == 2


def test_without_opencv_it_says_what_to_install(square, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'napari-flowrvs\[flow\]'"):
        Scissors(square)
