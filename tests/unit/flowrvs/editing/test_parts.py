"""A long way by flow in parts: each goes on exactly where the one before has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flowrvs.editing import pieces
from flowrvs.editing.pieces import Here, Piece, compute
from flowrvs.inference.cluster.wire import pack_arrays, unpack_arrays
from flowrvs.video import open_video

T, H, W = 16, 64, 96


@pytest.fixture(scope="module")
def film() -> tuple[np.ndarray, np.ndarray]:
    """Two textured squares that move side by side; the first is gone after frame 10."""
    rng = np.random.default_rng(3)
    frames = np.repeat(rng.integers(0, 80, (1, H, W, 3), np.uint8), T, axis=0)
    masks = np.zeros((2, T, H, W), bool)
    for place in (0, 1):
        pattern = rng.integers(0, 60, (14, 14, 3), np.uint8)
        pattern[..., place] += 190
        for t in range(T if place else 11):
            there = np.s_[6 + 30 * place : 20 + 30 * place, 4 + 3 * t : 18 + 3 * t]
            frames[t][there], masks[place, t][there] = pattern, True
    return frames, masks


def _piece(masks: np.ndarray, object_id: int, keys: tuple[int, ...], frames: range) -> Piece:
    drawn = {
        t: {i + 1: masks[i, t] for i in (0, 1) if masks[i, t].any() or i + 1 == object_id}
        for t in keys
    }
    return Piece("flow", frames, drawn, (object_id,))


def _computed(
    piece: Piece, frames: np.ndarray, limit: int | None, *, packed: bool = False
) -> tuple[list[Any], list[Any], int]:
    """Return what is found, what is lost, and the number of parts."""
    found: list[Any] = []
    lost: list[Any] = []
    left: list[Mapping[str, Any] | None] = [None]
    count = 0
    while left:
        begin: Any = left.pop()
        looks = set(piece.looks(count * (limit or T), limit or T))

        def read(t: int, looks: set[int] = looks) -> np.ndarray:
            assert t in looks, "this part is not sent with that frame"
            return np.asarray(frames[t])

        def carry(arrays: dict[str, Any]) -> None:
            left.append(unpack_arrays(pack_arrays(arrays)) if packed else arrays)

        parts = compute(
            *(piece, (T, H, W), read),
            lost=lambda *run: lost.append(run),
            begin=begin,
            limit=limit,
            carry=carry,
        )
        for _, part in parts:
            found.append((part.frame, part.final, part.certainty, part.mask.tobytes()))
        count += 1
    return found, lost, count


@pytest.mark.parametrize(
    ("keys", "frames", "parts"),
    [
        ((0,), range(1, 16), 4),
        ((15,), range(15), 4),
        ((0,), range(5, 12), 3),  # the first part finds none of the frames that are asked for
        ((15,), range(2, 9), 4),
        ((0, 15), range(1, 15), 1),  # both keys know of all frames
    ],
)
def test_parts_give_the_whole_to_the_bit(
    film: tuple[np.ndarray, np.ndarray], keys: tuple[int, ...], frames: range, parts: int
) -> None:
    piece = _piece(film[1], 2, keys, frames)
    whole = _computed(piece, film[0], None)
    assert whole[2] == 1 and {row[0] for row in whole[0]} == {*frames}
    assert _computed(piece, film[0], 4) == (*whole[:2], parts)
    assert _computed(piece, film[0], 4, packed=True) == (*whole[:2], parts)


def test_two_keys_are_cut_before_the_frames_that_both_know(
    film: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrvs.masks.propagate._BLENDED", 5)
    piece = _piece(film[1], 2, (0, 15), range(1, 15))
    whole = _computed(piece, film[0], None)
    parts = _computed(piece, film[0], 4, packed=True)
    assert parts == (*whole[:2], 3)
    assert [row[0] for row in parts[0] if not row[1]] == [10, 11, 12, 13, 14]


def test_what_a_later_part_loses_is_told_once(film: tuple[np.ndarray, np.ndarray]) -> None:
    piece = _piece(film[1], 1, (0,), range(1, 16))
    found, lost, parts = _computed(piece, film[0], 4, packed=True)
    assert [row[0] for row in found] == list(range(1, 11))
    assert lost == [(1, range(11, 16))] and parts == 3
    nothing = _piece(np.zeros_like(film[1]), 1, (0,), range(1, 16))
    assert _computed(nothing, film[0], 4) == ([], [], 1)


def test_this_process_goes_all_the_way(
    film: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PART", 4)
    all_pieces = [_piece(film[1], i, (0,), range(1, 16)) for i in (2, 1)]
    heard: list[Any] = []
    lost: list[Any] = []
    with open_video(film[0]) as video:
        found = list(
            Here().run(
                *(all_pieces, (T, H, W), video),
                lost=lambda *run: lost.append(run),
                progress=heard.append,
            )
        )
    assert [(i, part.frame) for i, part in found] == [
        *((2, t) for t in range(1, 16)),
        *((1, t) for t in range(1, 11)),
    ]
    assert lost == [(1, range(11, 16))]
    assert heard[-1].done == heard[-1].total == 30
