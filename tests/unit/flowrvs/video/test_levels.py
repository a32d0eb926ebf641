"""The one straight line by which a video's numbers become bytes."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.errors import VideoError
from flowrvs.video.levels import Levels, choose_levels, sample_indices


@pytest.mark.parametrize(
    ("dtype", "values", "line"),
    [
        ("u1", [3, 9], (0, 255)),
        ("?", [False, False], (0, 1)),
        ("u2", [0, 255], (0, 255)),
        ("u2", [0, 256], (0, 511)),
        ("u2", [1, 2], (0, 255)),
        ("i2", [0, 5], (0, 255)),
        ("u8", [0, 2**40], (0, 2**41 - 1)),
        ("i2", [-1, 5], (-1, 5)),
        ("i4", [-5, -5], (-5, -4)),
        ("f4", [0, 1], (0, 1)),
        ("f4", [0, 1.0001], (0, 255)),
        ("f4", [0, 255], (0, 255)),
        ("f8", [0, 255.5], (0, 255.5)),
        ("f8", [-0.5, 0.5], (-0.5, 0.5)),
        ("f8", [300, 300], (300, 301)),
        ("f8", [np.nan, np.inf], (0, 1)),
        ("f4", [np.nan, 2, 4, -np.inf], (0, 255)),
        ("f4", [np.nan, -2, 4, np.inf], (-2, 4)),
    ],
)
def test_the_line_follows_from_type_and_values(dtype: str, values: list, line: tuple) -> None:
    frame = np.array([values], dtype)
    found = choose_levels(frame.dtype, 1, lambda n: frame)
    assert (found.low, found.high) == line


def test_extremes_of_any_sampled_frame_count() -> None:
    frames = [np.array([v]) for v in (5, -3, 900, 1)]
    assert choose_levels(np.dtype(int), 4, frames.__getitem__) == Levels(-3, 900)


@pytest.mark.parametrize(
    ("count", "frames"),
    [
        (1, [0]),
        (8, list(range(8))),
        (9, [0, 1, 2, 3, 5, 6, 7, 8]),
        (15, [0, 2, 4, 6, 8, 10, 12, 14]),
        (101, [0, 14, 29, 43, 57, 71, 86, 100]),
    ],
)
def test_eight_frames_are_looked_at_from_end_to_end(count: int, frames: list[int]) -> None:
    assert sample_indices(count) == frames
    asked: list[int] = []
    choose_levels(np.dtype("f4"), count, lambda n: (asked.append(n), np.zeros(3, "f4"))[1])
    assert asked == frames


def test_frames_are_not_looked_at_in_vain() -> None:
    def frame(n: int) -> np.ndarray:
        raise AssertionError(n)

    assert choose_levels(np.dtype("u1"), 9, frame) == choose_levels(np.dtype("u1"), 9, frame)
    assert choose_levels(np.dtype("?"), 9, frame) == Levels(0, 1)
    assert choose_levels(np.dtype("f4"), 9, frame, (-2, 3)) == Levels(-2, 3)
    assert choose_levels(np.dtype("u1"), 9, frame, (10, 20)) == Levels(10, 20)


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (np.nan, 1), (0, np.nan), (0, np.inf)])
def test_limits_are_two_rising_numbers(limits: tuple[float, float]) -> None:
    with pytest.raises(VideoError) as caught:
        choose_levels(np.dtype("f4"), 1, lambda n: np.zeros(1), limits)
    assert str(caught.value) == f"limits={limits!r} must be two numbers, the lower one first."


@pytest.mark.parametrize("dtype", ["c8", "U3", "M8[s]", "V4"])
def test_what_are_no_numbers_is_told(dtype: str) -> None:
    with pytest.raises(VideoError) as caught:
        choose_levels(np.dtype(dtype), 1, lambda n: np.zeros(1), where="the film")
    assert str(caught.value) == (
        f"the film holds {np.dtype(dtype)} values; pictures need bool, integer or float numbers."
    )


def test_numbers_become_bytes_by_the_line() -> None:
    values = np.array([-9, 10, 15, 20, 99, np.nan, np.inf, -np.inf], np.float32)
    before = values.copy()
    found = Levels(10, 20).to_uint8(values)
    assert found.dtype == np.uint8 and found.tolist() == [0, 0, 128, 255, 255, 0, 255, 0]
    np.testing.assert_array_equal(values, before)
    octets = np.array([10, 12, 20], np.uint8)
    assert Levels(0, 255).to_uint8(octets) is octets
    assert Levels(10, 20).to_uint8(octets).tolist() == [0, 51, 255]
    assert Levels(0, 256).to_uint8(octets).tolist() == [10, 12, 20]
    # Numbers of 64 bits are told apart where those of 32 would be alike.
    large = np.array([-(2**40), -(2**40) + 1, -(2**40) + 2])
    assert Levels(-(2**40), -(2**40) + 2).to_uint8(large).tolist() == [0, 128, 255]
