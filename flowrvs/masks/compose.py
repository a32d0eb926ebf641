"""Put masks together: unions, and label pictures of several objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError

__all__ = ["overlap", "paint", "union"]

Mask = npt.NDArray[np.bool_]


def union(masks: Iterable[npt.ArrayLike], shape: tuple[int, ...]) -> Mask:
    """Return where any of `masks` is non-zero.

    Parameters
    ----------
    masks : iterable of array_like
        Of the given shape; none of them gives an empty mask.
    shape : tuple of int
        Shape of the result.

    Returns
    -------
    ndarray of bool

    Raises
    ------
    InputError
        A mask has another shape.
    """
    result = np.zeros(shape, dtype=bool)
    for mask in masks:
        result |= _as_mask(mask, shape)
    return result


def paint(
    masks: Mapping[int, npt.ArrayLike],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike = np.uint16,
) -> npt.NDArray[np.unsignedinteger]:
    """Return a label picture; where objects overlap, the one named later is seen.

    Parameters
    ----------
    masks : mapping of int to array_like
        By label, 1 or more; non-zero is the object.
    shape : tuple of int
        Shape of the result.
    dtype : dtype
        Unsigned integers that hold the largest label.

    Returns
    -------
    ndarray of unsigned integers
        0 is background.

    Raises
    ------
    InputError
        A mask has another shape or a label does not fit into `dtype`.
    """
    result = np.zeros(shape, dtype=dtype)
    largest = np.iinfo(result.dtype).max
    for label, mask in masks.items():
        if not 0 < label <= largest:
            raise InputError(f"The label {label} is not within 1 to {largest}.")
        result[_as_mask(mask, shape)] = label
    return result


def overlap(masks: Iterable[npt.ArrayLike], shape: tuple[int, ...]) -> Mask:
    """Return where two or more of `masks` are non-zero.

    Parameters and errors are those of :func:`union`.
    """
    once = np.zeros(shape, dtype=bool)
    twice = np.zeros(shape, dtype=bool)
    for mask in masks:
        array = _as_mask(mask, shape)
        twice |= once & array
        once |= array
    return twice


def _as_mask(mask: npt.ArrayLike, shape: tuple[int, ...]) -> Mask:
    array = np.asarray(mask)
    if array.shape != tuple(shape):
        raise InputError(f"A mask of shape {array.shape} does not fit the shape {tuple(shape)}.")
    return array.astype(bool, copy=False)
