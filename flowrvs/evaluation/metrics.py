"""Region similarity J and boundary measure F, as the official scripts compute them.

Both follow the DAVIS toolkit (Perazzi et al., CVPR 2016) as MeViS's ``eval_mevis.py``
uses it; the numbers agree to rounding, the boundary matching is arranged to be quick.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError

__all__ = [
    "FrameScore",
    "boundary_f",
    "boundary_map",
    "boundary_radius",
    "compare_masks",
    "jaccard",
    "score_masks",
]

Mask = npt.NDArray[np.bool_]

BOUND_TH = 0.008
"""Matching tolerance of F as a share of the picture's diagonal."""


def jaccard(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return J of one frame: intersection over union, 1 where the union is empty.

    Parameters
    ----------
    pred, truth : array_like, shape (H, W)
        Non-zero is foreground.

    Raises
    ------
    InputError
        The masks differ in shape.
    """
    a, b = _pair(pred, truth, 2)
    union = _count(a | b)
    return _count(a & b) / union if union else 1.0


def boundary_f(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return F of one frame: the harmonic mean of boundary precision and recall.

    A boundary pixel counts as matched when the other mask has a boundary pixel within
    :func:`boundary_radius`. 1 where neither mask has a boundary, 0 where one has none.

    Parameters
    ----------
    pred, truth : array_like, shape (H, W)
        Non-zero is foreground.

    Raises
    ------
    InputError
        The masks differ in shape.
    """
    a, b = _pair(pred, truth, 2)
    radius = boundary_radius(a.shape)
    either = a | b
    if not either.any():
        return 1.0
    box = _box(either)
    edge_a, edge_b = boundary_map(a[box]), boundary_map(b[box])
    count_a, count_b = _count(edge_a), _count(edge_b)
    if count_a == 0 and count_b == 0:
        return 1.0
    if count_a == 0 or count_b == 0:
        return 0.0
    precision = _near(edge_a, edge_b, radius) / count_a
    recall = _near(edge_b, edge_a, radius) / count_b
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def score_masks(pred: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[float, float]:
    """Return the mean J and F over the frames of one expression.

    Parameters
    ----------
    pred, truth : array_like, shape (T, H, W)
        Non-zero is foreground.

    Returns
    -------
    J, F : float
        Fractions of 1.

    Raises
    ------
    InputError
        The masks differ in shape or have no frames.
    """
    a, b = _pair(pred, truth, 3)
    if not len(a):
        raise InputError("Masks of no frames cannot be scored.")
    j = float(np.mean([jaccard(p, t) for p, t in zip(a, b, strict=True)]))
    f = float(np.mean([boundary_f(p, t) for p, t in zip(a, b, strict=True)]))
    return j, f


class FrameScore(NamedTuple):
    """J and F of one frame, fractions of 1."""

    j: float
    f: float


def compare_masks(a: Iterable[npt.ArrayLike], b: Iterable[npt.ArrayLike]) -> Iterator[FrameScore]:
    """Score two runs of masks frame by frame, holding one frame of each at a time.

    Which of the two is the truth makes no difference: J and F are symmetric.

    Parameters
    ----------
    a, b : iterable of array_like, shape (H, W)
        One mask a frame, or an array (T, H, W). Non-zero is foreground.

    Yields
    ------
    FrameScore

    Raises
    ------
    InputError
        One run is longer than the other, or two masks differ in shape.
    """
    end: Any = object()
    for index, (one, other) in enumerate(zip_longest(a, b, fillvalue=end)):
        if one is end or other is end:
            short = "first" if one is end else "second"
            raise InputError(f"The {short} run of masks ends before frame {index}.")
        yield FrameScore(jaccard(one, other), boundary_f(one, other))


def boundary_radius(shape: tuple[int, ...]) -> int:
    """Return the matching tolerance in pixels: ``ceil(0.008 * sqrt(h**2 + w**2))``."""
    return int(np.ceil(BOUND_TH * np.linalg.norm(shape[:2])))


def boundary_map(mask: Mask) -> Mask:
    """Return where a pixel differs from its E, S or SE neighbour.

    The last row compares E only, the last column S only, and the corner is False.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
    """
    edge = np.zeros_like(mask)
    east = mask[:, :-1] ^ mask[:, 1:]
    south = mask[:-1] ^ mask[1:]
    edge[:-1, :-1] = east[:-1] | south[:, :-1] | (mask[:-1, :-1] ^ mask[1:, 1:])
    edge[-1, :-1] = east[-1]
    edge[:-1, -1] = south[:, -1]
    return edge


def _pair(pred: npt.ArrayLike, truth: npt.ArrayLike, ndim: int) -> tuple[Mask, Mask]:
    a, b = np.asarray(pred), np.asarray(truth)
    if a.shape != b.shape or a.ndim != ndim:
        raise InputError(
            f"Prediction and truth must share one shape of {ndim} axes, "
            f"not {a.shape} and {b.shape}."
        )
    return a.astype(bool, copy=False), b.astype(bool, copy=False)


def _box(mask: Mask) -> tuple[slice, slice]:
    """Return the box of a mask, which is not empty, and one pixel around it."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # Where the picture goes on, the box ends in background, so the last row and column
    # of a box are special only where they are the picture's own.
    return (
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(cols[0] - 1, 0), cols[-1] + 2),
    )


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _near(points: Mask, others: Mask, radius: int) -> int:
    """Count the pixels of `points` within `radius` of a pixel of `others`."""
    todo = points & ~others
    near = _count(points) - _count(todo)
    ys, xs = np.nonzero(todo)
    if not len(ys):
        return near
    # Only what lies around the open points can match them: the box bounds the work.
    top, left = max(ys.min() - radius, 0), max(xs.min() - radius, 0)
    box = others[top : ys.max() + radius + 1, left : xs.max() + radius + 1]
    oy, ox = np.nonzero(box)
    if not len(oy):
        return near
    offsets = _disk(radius)
    if min(len(ys), len(oy)) * len(offsets) > 4 * radius * box.size:
        dilated = _dilate(box, radius)
        return near + _count(dilated[ys - top, xs - left])
    padded = np.zeros((box.shape[0] + 2 * radius, box.shape[1] + 2 * radius), dtype=bool)
    flat = padded.reshape(-1)
    width = padded.shape[1]
    shifts = offsets[:, 0] * width + offsets[:, 1]
    mine = (ys - top + radius) * width + (xs - left + radius)
    theirs = (oy + radius) * width + (ox + radius)
    if len(oy) <= len(ys):
        for shift in shifts:
            flat[theirs + shift] = True
        return near + _count(flat[mine])
    flat[theirs] = True
    hit = np.zeros(len(mine), dtype=bool)
    for shift in shifts:
        hit |= flat[mine + shift]
    return near + _count(hit)


def _dilate(mask: Mask, radius: int) -> Mask:
    """Dilate by a disk: every row by the disk's width at each distance, then OR."""
    height, width = mask.shape
    sums = np.zeros((height, width + 2 * radius + 1), dtype=np.int32)
    np.cumsum(mask, axis=1, out=sums[:, radius + 1 : radius + 1 + width])
    sums[:, radius + 1 + width :] = sums[:, radius + width : radius + width + 1]
    result = np.zeros_like(mask)
    for dy in range(radius + 1):
        half = math.isqrt(radius * radius - dy * dy)
        wide = (
            sums[:, radius + half + 1 : radius + half + 1 + width]
            != sums[:, radius - half : radius - half + width]
        )
        if dy < height:
            result[: height - dy] |= wide[dy:]
            result[dy:] |= wide[: height - dy]
    return result


@lru_cache(maxsize=16)
def _disk(radius: int) -> npt.NDArray[np.int64]:
    """Return the (dy, dx) offsets of ``skimage.morphology.disk``."""
    grid = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.argwhere((grid**2).sum(axis=0) <= radius * radius) - radius
