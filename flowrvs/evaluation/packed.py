"""Masks packed to one bit a pixel: what J and F cost is mostly moving memory.

A packed mask is an array of uint64, shape (H, ceil(W / 64)): pixel x of a row is bit
``x % 64`` of word ``x // 64``, and bits beyond the width are 0.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Counts",
    "Packed",
    "boundary",
    "count_pair",
    "count_pixels",
    "pack",
    "pack_runs",
    "prefix_xor",
    "unpack",
]

Packed = npt.NDArray[np.uint64]

_WORD = np.dtype("<u8")


def pack(mask: npt.NDArray[Any]) -> Packed:
    """Pack a mask of shape (H, W), where non-zero is foreground."""
    return _pad(np.packbits(np.asarray(mask, np.bool_), axis=1, bitorder="little"), mask.shape[1])


def unpack(words: Packed, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask of shape (H, `width`)."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(octets, axis=1, count=width, bitorder="little").view(np.bool_)


def pack_runs(runs: npt.NDArray[np.int64], height: int, width: int) -> Packed:
    """Pack a mask from its column-major run lengths, background first, as COCO has them."""
    flips = np.cumsum(runs[:-1])
    if not runs[1:-1].all():
        # Two flips at one place are none.
        flips, times = np.unique(flips, return_counts=True)
        flips = flips[times % 2 == 1]
    flips = flips[: np.searchsorted(flips, height * width)]
    words = np.zeros((height, _word_count(width)), dtype=_WORD)
    if not len(flips):
        return words
    columns, rows = np.divmod(flips, height)
    first, last = int(columns[0]), int(columns[-1])
    if len(flips) % 2:
        last = width - 1  # The last run is foreground.
    first -= first % 64
    plane = np.zeros((height, last + 1 - first), dtype=np.bool_)
    plane[rows, columns - first] = True
    # A column begins as the one before it ended.
    starts = np.arange(first, last + 1) * height
    plane[0] ^= (np.searchsorted(flips, starts) % 2).astype(np.bool_)
    part = _pad(np.packbits(plane, axis=1, bitorder="little"), plane.shape[1])
    np.bitwise_xor.accumulate(part, axis=0, out=words[:, first // 64 : first // 64 + part.shape[1]])
    return words


def prefix_xor(flips: Packed, width: int) -> Packed:
    """Return the mask whose rows begin as background and change at every bit of `flips`."""
    words = flips.copy()
    for shift in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(shift)
    ends = np.bitwise_xor.accumulate(words >> np.uint64(63), axis=1)
    words[:, 1:] ^= np.uint64(0) - ends[:, :-1]
    if width % 64:
        words[:, -1] &= np.uint64((1 << width % 64) - 1)
    return words


def count_pixels(words: Packed) -> int:
    """Return the number of foreground pixels."""
    return int(np.add.reduce(np.bitwise_count(words), axis=None, dtype=np.int64))


class Counts(NamedTuple):
    """What two masks of one shape have in common.

    Attributes
    ----------
    intersection, union : int
        Pixels.
    size_a, near_a, size_b, near_b : int
        Boundary pixels of each mask, and those with a boundary pixel of the other mask
        within the radius. All 0 for equal masks, which are not looked at.
    box : tuple of slice or None
        Rows and words that hold both masks and their boundaries; None when both are empty.
    """

    intersection: int
    union: int
    size_a: int = 0
    near_a: int = 0
    size_b: int = 0
    near_b: int = 0
    box: tuple[slice, slice] | None = None


def count_pair(a: Packed, b: Packed, width: int, radius: int) -> Counts:
    """Compare two masks, `width` pixels wide, and their boundaries.

    Parameters
    ----------
    a, b : Packed
        Masks of one shape.
    width : int
        Pixels in a row.
    radius : int
        How far a boundary pixel may be from one of the other mask.
    """
    either = a | b
    box = _box(either)
    if box is None:
        return Counts(0, 0)
    both = np.stack([a[box], b[box]])
    intersection, union = count_pixels(both[0] & both[1]), count_pixels(either[box])
    if intersection == union:
        return Counts(intersection, union, box=box)
    rest = width - box[1].start * 64
    edge_a, edge_b = both[0], both[1] = boundary(both[0], rest), boundary(both[1], rest)
    size_a, size_b = count_pixels(edge_a), count_pixels(edge_b)
    if not size_a or not size_b:
        return Counts(intersection, union, size_a, 0, size_b, 0, box)
    near = _dilate(both, radius)
    return Counts(
        intersection,
        union,
        size_a,
        count_pixels(edge_a & near[1]),
        size_b,
        count_pixels(edge_b & near[0]),
        box,
    )


def boundary(mask: Packed, width: int) -> Packed:
    """Return where a pixel differs from its E, S or SE neighbour.

    The last row compares E only, the last column S only, and the corner is 0. `mask` may
    be the left part of a mask, whose rest is empty.
    """
    east = mask >> np.uint64(1)
    east[:, :-1] |= mask[:, 1:] << np.uint64(63)
    east ^= mask
    word, bit = divmod(width - 1, 64)
    if word < mask.shape[1]:
        east[:, word] &= np.uint64((1 << bit) - 1)
    edge = east.copy()
    # Where S and its own E neighbour differ, E or SE or both differ from the pixel.
    edge[:-1] |= east[1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    return edge


def _word_count(width: int) -> int:
    return -(-width // 64)


def _pad(octets: npt.NDArray[np.uint8], width: int) -> Packed:
    whole = np.zeros((len(octets), _word_count(width) * 8), dtype=np.uint8)
    whole[:, : octets.shape[1]] = octets
    return whole.view(_WORD)


def _box(mask: Packed) -> tuple[slice, slice] | None:
    """Return the rows and words that hold the mask and its boundary; None when empty."""
    rows = np.flatnonzero(np.bitwise_or.reduce(mask, axis=1))
    if not len(rows):
        return None
    top, bottom = max(int(rows[0]) - 1, 0), int(rows[-1]) + 2
    columns = np.bitwise_or.reduce(mask[top:bottom], axis=0)
    found = np.flatnonzero(columns)
    left = int(found[0])
    if left and columns[left] & np.uint64(1):
        left -= 1
    # The next row is taken along: where it is there it is background, so that the last row
    # and column of the box are special only where they are the picture's own.
    return slice(top, bottom), slice(left, int(found[-1]) + 1)


@lru_cache(maxsize=16)
def _disk(radius: int) -> tuple[tuple[int, ...], ...]:
    """Return for each half width 0..radius the distances of the disk's rows that wide."""
    rows: list[list[int]] = [[] for _ in range(radius + 1)]
    for dy in range(radius + 1):
        rows[math.isqrt(radius * radius - dy * dy)].append(dy)
    return tuple(tuple(row) for row in rows)


def _dilate(masks: Packed, radius: int) -> Packed:
    """Dilate masks (N, H, K) by a disk; bits beyond the width may be set."""
    # Packed are spread so that each carries `halo` bytes of its neighbours on both sides:
    # shifting by up to 8 * halo then needs no carry.
    halo = -(-radius // 8)
    inner = 8 - 2 * halo
    if inner < 2:
        return _dilate_far(masks, radius)
    number, height, length = masks.shape
    parts = -(-length * 8 // inner)
    padded = np.zeros((number, height, 2 * halo + parts * inner), dtype=np.uint8)
    padded[:, :, halo : halo + length * 8] = masks.view(np.uint8)
    row = padded.shape[2]
    spread = np.ndarray(
        (number, height, parts, 8), np.uint8, padded, strides=(height * row, row, inner, 1)
    )
    run = np.ascontiguousarray(spread).view(_WORD)[..., 0]
    wide = np.empty_like(run)
    result = np.zeros_like(run)
    shifted = np.empty_like(wide)
    by_one, by_two = np.uint64(1), np.uint64(2)
    for half, distances in enumerate(_disk(radius)):
        # A run begins at a pixel and grows to 2 * half + 1 pixels; moved back by half of it,
        # it lies around the pixel.
        if half == 1:
            run |= np.left_shift(run, by_one, out=shifted)
            run |= np.left_shift(run, by_one, out=shifted)
        elif half:
            run |= np.left_shift(run, by_two, out=shifted)
        if distances:
            np.right_shift(run, np.uint64(half), out=wide)
        _or_rows(result, wide, distances)
    octets = result.view(np.uint8).reshape(number, height, parts, 8)
    whole = octets[..., halo : halo + inner].reshape(number, height, parts * inner)
    return np.ascontiguousarray(whole[:, :, : length * 8]).view(_WORD)


def _or_rows(result: Packed, wide: Packed, distances: tuple[int, ...]) -> None:
    """OR `wide`, moved up and down by each of `distances`, into `result`."""
    for dy in distances:
        if dy == 0:
            result |= wide
        elif dy < result.shape[1]:
            result[:, dy:] |= wide[:, :-dy]
            result[:, :-dy] |= wide[:, dy:]


def _dilate_far(masks: Packed, radius: int) -> Packed:
    """The same for a disk so wide (pictures beyond 1440p) that words need carries."""
    wide, result = masks.copy(), np.zeros_like(masks)
    for half, distances in enumerate(_disk(radius)):
        if half:
            _or_shifted(wide, masks, half)
        _or_rows(result, wide, distances)
    return result


def _or_shifted(target: Packed, masks: Packed, pixels: int) -> None:
    """OR `masks`, moved by `pixels` to both sides, into `target`."""
    words, bits = divmod(pixels, 64)
    near, far = np.uint64(bits), np.uint64(64 - bits)
    length = masks.shape[2]
    # A shift by all 64 bits gives 0 in numpy.
    for skip, up, down in (
        (words, masks << near, masks >> near),
        (words + 1, masks >> far, masks << far),
    ):
        if skip < length:
            target[:, :, skip:] |= up[:, :, : length - skip]
            target[:, :, : length - skip] |= down[:, :, skip:]
