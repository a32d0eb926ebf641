"""Cuts, on shots of the synthetic world put one after the other, and on what is no cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flowrvs.data.synthetic import generate_clip
from flowrvs.errors import Cancelled
from flowrvs.progress import CancelToken, Progress
from flowrvs.video import open_video
from flowrvs.video.cuts import _peaks, _small, find_cuts

Frames = npt.NDArray[np.uint8]


def cuts(frames: Frames, **options: int) -> tuple[int, ...]:
    with open_video(frames) as video:
        return find_cuts(video, **options)


@pytest.fixture(scope="module")
def shots() -> list[Frames]:
    lengths = (9, 30, 17, 6, 21)
    return [generate_clip(seed, frames=33).frames[:n] for seed, n in enumerate(lengths)]


def test_every_cut_is_found_and_nothing_else(shots: list[Frames]) -> None:
    assert cuts(np.concatenate(shots)) == (9, 39, 56, 62)
    assert cuts(np.concatenate(shots), start=20, stop=60) == (39, 56)


def greys(*shots: tuple[int, int]) -> Frames:
    return np.concatenate([np.full((n, 40, 60, 3), level, np.uint8) for level, n in shots])


def test_of_two_close_cuts_the_harder_one_counts() -> None:
    assert cuts(greys((20, 8), (60, 4), (220, 8))) == (12,)
    assert cuts(greys((20, 8), (180, 4), (220, 8))) == (8,)
    assert cuts(greys((20, 8), (120, 5), (220, 8))) == (8, 13)


def test_a_shot_of_its_own_has_none(shots: list[Frames]) -> None:
    for shot in shots:
        assert cuts(shot) == ()


def test_what_is_no_cut(shots: list[Frames]) -> None:
    flash = shots[1].copy()
    flash[15] = 255
    assert cuts(flash) == ()
    assert cuts(greys((100, 1), (255, 1), (100, 20))) == ()
    assert cuts(greys((100, 8), (113, 1), (200, 1), (95, 1), (100, 8))) == ()  # begins softly
    ground = np.random.default_rng(0).integers(0, 256, (12, 90, 3), np.uint8)
    wide = np.kron(ground, np.ones((8, 8, 1), np.uint8))
    assert cuts(np.stack([wide[:, 12 * i : 12 * i + 160] for i in range(40)])) == ()  # a pan
    assert cuts(np.random.default_rng(1).integers(0, 256, (20, 40, 60, 3), np.uint8)) == ()
    fade = np.linspace(0, 1, 40)[:, None, None, None] * shots[1][0]
    assert cuts(fade.astype(np.uint8)) == ()


@pytest.mark.parametrize("size", [(3, 5), (17, 200), (100, 31)])
def test_any_size(size: tuple[int, int]) -> None:
    dark, light = np.full((8, *size, 3), 20, np.uint8), np.full((8, *size, 3), 220, np.uint8)
    assert cuts(np.concatenate([dark, light])) == (8,)
    assert cuts(light[:1]) == () and cuts(np.concatenate([dark[:1], light])) == (1,)


def test_a_real_shot_has_none(chair_clip: Path) -> None:
    with open_video(chair_clip) as video:
        assert find_cuts(video, 0, 40) == ()


def test_it_tells_and_stops(shots: list[Frames]) -> None:
    events: list[Progress] = []
    token = CancelToken()
    with open_video(shots[1]) as video:
        find_cuts(video, progress=events.append)
        token.cancel()
        with pytest.raises(Cancelled):
            find_cuts(video, cancel=token)
    assert events[-1].done == events[-1].total == 30


@pytest.mark.parametrize(
    ("shots", "found"),
    [
        (((100, 8), (114, 8)), ()),  # so much is no cut yet
        (((100, 8), (115, 8)), (8,)),
        (((100, 8), (86, 8)), ()),
        (((100, 8), (85, 8)), (8,)),
        (((20, 8), (120, 5), (220, 8)), (8, 13)),
        (((20, 8), (120, 4), (219, 8)), (8,)),  # of equals the first one
        (((20, 1), (200, 9)), (1,)),
        (((20, 9), (200, 1)), (9,)),
        (((20, 8), (200, 2), (60, 8)), (8,)),  # two frames are no flash
        (((20, 15), (200, 3), (20, 14)), (15,)),
        (((20, 16), (200, 16), (20, 17), (90, 8)), (16, 32, 49)),
    ],
)
def test_how_much_and_how_far_apart(
    shots: tuple[tuple[int, int], ...], found: tuple[int, ...]
) -> None:
    assert cuts(greys(*shots)) == found


@pytest.mark.parametrize(
    ("change", "across", "found"),
    [
        ({5: 20}, {5: 20}, [5]),
        ({5: 20}, {5: 14}, []),
        ({1: 20}, {1: 20}, [1]),
        ({29: 20}, {29: 20}, [29]),
        # Three times what is usual within eight frames on either side.
        (dict.fromkeys(range(1, 30), 10) | {15: 30}, {15: 30}, [15]),
        (dict.fromkeys(range(1, 30), 10) | {15: 30}, {15: 29.9}, []),
        (dict.fromkeys(range(7, 15), 10), {15: 29}, [15]),  # half of them stand still: 5
        (dict.fromkeys(range(7, 16), 10), {15: 29}, [15]),
        (dict.fromkeys([*range(7, 15), 16], 10), {15: 29}, []),
        (dict.fromkeys([*range(6, 15)], 10), {15: 29}, [15]),  # the ninth before is too far
        (dict.fromkeys([*range(8, 15), 24], 10), {15: 29}, [15]),  # and the ninth behind
        (dict.fromkeys([*range(8, 15), 23, 22], 10), {15: 29}, []),
        ({1: 90, 2: 90, 3: 90}, {2: 100, 3: 20}, [2]),
        # Of two within five frames the harder one, else both.
        ({}, {5: 20, 9: 30}, [9]),
        ({}, {5: 30, 9: 20}, [5]),
        ({}, {5: 20, 9: 20}, [5]),
        ({}, {5: 20, 10: 30}, [5, 10]),
        ({}, {5: 20, 9: 30, 13: 25, 14: 15}, [9, 14]),
    ],
)
def test_what_stands_out_is_a_cut(
    change: dict[int, float], across: dict[int, float], found: list[int]
) -> None:
    tables = np.zeros((2, 30), np.float32)
    for table, values in zip(tables, (change, across), strict=True):
        for t, value in values.items():
            table[t] = value
    assert _peaks(*tables) == found


def test_small_pictures_are_means_of_blocks() -> None:
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 256, (2, 36, 96, 3), np.uint8)
    means = frames.reshape(2, 18, 2, 32, 3, 3).mean((2, 4))
    np.testing.assert_allclose(_small(frames), means, rtol=1e-5)
    tiny = frames[:, :5, :7]
    np.testing.assert_array_equal(_small(tiny), tiny)
    # Of a large one every fourth row or so is enough: four of a block.
    large = np.repeat(rng.integers(0, 256, (1, 18, 32, 3), np.uint8), 16, 1).repeat(4, 2)
    assert large.shape == (1, 288, 128, 3)
    np.testing.assert_allclose(_small(large), large[:, ::16, ::4], rtol=1e-5)
    rows = np.broadcast_to(np.arange(144, dtype=np.uint8)[None, :, None, None], (1, 144, 32, 3))
    expected = np.arange(144).reshape(18, 8)[:, ::2].mean(1)
    np.testing.assert_allclose(_small(rows)[0, :, 0, 0], expected, rtol=1e-5)


def test_progress_is_told_every_sixteen_frames() -> None:
    events: list[Progress] = []
    with open_video(greys((20, 20), (200, 20))) as video:
        assert find_cuts(video, 3, 38, progress=events.append) == (20,)
    assert [(e.done, e.total, e.message) for e in events] == [
        (done, 35, "looking for cuts") for done in (16, 32, 35)
    ]
    token = CancelToken()
    seen: list[Progress] = []
    with open_video(greys((20, 40))) as video, pytest.raises(Cancelled):
        find_cuts(video, cancel=token, progress=lambda e: (seen.append(e), token.cancel()))
    assert len(seen) == 1
