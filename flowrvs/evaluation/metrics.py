"""Region similarity J and boundary measure F, as the official scripts compute them.

Both follow the DAVIS toolkit (Perazzi et al., CVPR 2016) as MeViS's ``eval_mevis.py``
uses it. The numbers are equal; the work is done on packed bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.evaluation import packed

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
    return _score(*_pair(pred, truth, 2)).j


def boundary_f(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return F of one frame: the harmonic mean of boundary precision and recall.

    A boundary pixel counts as matched when the other mask has a boundary pixel within
    :func:`boundary_radius` of it; arguments and errors are those of :func:`jaccard`.
    """
    return _score(*_pair(pred, truth, 2)).f


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
    scores = np.array(list(compare_masks(a, b)))
    return float(scores[:, 0].mean()), float(scores[:, 1].mean())


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
    for index, (first, second) in enumerate(zip_longest(a, b, fillvalue=end)):
        if first is end or second is end:
            short = "first" if first is end else "second"
            raise InputError(f"The {short} run of masks ends before frame {index}.")
        yield _score(*_pair(first, second, 2))


@lru_cache(maxsize=64)
def boundary_radius(shape: tuple[int, int]) -> int:
    """Return the matching tolerance in pixels: ``ceil(0.008 * sqrt(h**2 + w**2))``."""
    return int(np.ceil(BOUND_TH * np.linalg.norm(shape)))


def boundary_map(mask: npt.ArrayLike) -> Mask:
    """Return where a pixel differs from its E, S or SE neighbour.

    The last row compares E only, the last column S only, and the corner is False.

    Parameters
    ----------
    mask : array_like, shape (H, W)
        Non-zero is foreground.
    """
    array = np.asarray(mask)
    width = array.shape[1]
    return packed.unpack(packed.boundary(packed.pack(array), width), width)


def count_pair(pred: packed.Packed, truth: packed.Packed, width: int) -> packed.Counts:
    """Compare packed masks, `width` pixels wide, within :func:`boundary_radius`."""
    return packed.count_pair(pred, truth, width, boundary_radius((len(pred), width)))


def frame_score(counts: packed.Counts) -> FrameScore:
    """Return J and F."""
    if counts.intersection == counts.union:
        return FrameScore(1.0, 1.0)
    j = counts.intersection / counts.union
    if not counts.near_a or not counts.near_b:
        # Neither has a boundary (one covers the picture and the other is empty), one has
        # none, or nothing is near.
        return FrameScore(j, float(not counts.size_a and not counts.size_b))
    precision, recall = counts.near_a / counts.size_a, counts.near_b / counts.size_b
    return FrameScore(j, 2 * precision * recall / (precision + recall))


def _pair(
    pred: npt.ArrayLike, truth: npt.ArrayLike, ndim: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    a, b = np.asarray(pred), np.asarray(truth)
    if a.shape != b.shape or a.ndim != ndim:
        raise InputError(
            f"Prediction and truth must share one shape of {ndim} axes, "
            f"not {a.shape} and {b.shape}."
        )
    return a, b


def _score(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> FrameScore:
    return frame_score(count_pair(packed.pack(a), packed.pack(b), a.shape[1]))
