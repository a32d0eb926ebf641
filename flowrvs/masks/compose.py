"""Put masks together: unions, label pictures of several objects, rules for old and new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError

__all__ = ["Rule", "combine", "paint", "union"]

Rule = Literal["keep", "replace", "union", "intersect", "subtract"]

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


def combine(
    old: npt.ArrayLike, new: npt.ArrayLike, rule: Rule = "replace"
) -> npt.NDArray[np.bool_]:
    """Return what becomes of an object's mask.

    Parameters
    ----------
    old, new : array_like
        Masks or stacks of equal shape; non-zero is the object.
    rule : {"keep", "replace", "union", "intersect", "subtract"}
        ``"keep"`` takes the new mask only on frames where the old one is empty;
        ``"subtract"`` removes the new mask from the old one.

    Returns
    -------
    ndarray of bool
        A new array.

    Raises
    ------
    InputError
        The shapes differ, or the rule is unknown.
    """
    before, after = np.asarray(old, dtype=bool), np.asarray(new, dtype=bool)
    if before.shape != after.shape:
        raise InputError(f"Masks of shape {before.shape} and {after.shape} cannot be combined.")
    if rule == "keep":
        drawn = before.any(axis=(-2, -1), keepdims=True)
        return np.where(drawn, before, after)
    if rule == "replace":
        return after.copy()
    if rule == "union":
        return before | after
    if rule == "intersect":
        return before & after
    if rule == "subtract":
        return before & ~after
    raise InputError(f"Rule {rule!r} is unknown; use one of {', '.join(get_args(Rule))}.")


def _as_mask(mask: npt.ArrayLike, shape: tuple[int, ...]) -> Mask:
    array = np.asarray(mask)
    if array.shape != tuple(shape):
        raise InputError(f"A mask of shape {array.shape} does not fit the shape {tuple(shape)}.")
    return array.astype(bool, copy=False)
