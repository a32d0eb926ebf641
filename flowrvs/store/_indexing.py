"""What numpy takes as an index, split into frames and what is taken from each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["compact", "has_arrays", "is_detached", "split"]

_PLAIN = (slice, int)


def split(
    key: Any, shape: tuple[int, int, int]
) -> tuple[int | list[int] | npt.NDArray[np.intp], tuple[Any, ...]]:
    """Split an index into its frames and what it takes from each of them.

    The frames are an int, a list (a slice or a 1-D array of them) or an index array that
    belongs to the arrays of the rest.
    """
    if not isinstance(key, tuple):
        key = (key,)
    if len(key) == 3:  # what a brush asks for, sixty times a stroke
        first, *others = key
        if type(first) is slice and type(others[0]) in _PLAIN and type(others[1]) in _PLAIN:
            return list(range(*first.indices(shape[0]))), (others[0], others[1])
        if _is_number(first) and 0 <= first < shape[0]:
            if all(isinstance(item, slice) or _is_number(item) for item in others):
                return int(first), (others[0], others[1])
    items: list[Any] = []
    for item in _fill_ellipsis(key):
        if isinstance(item, slice):
            items.append(item)
        elif item.dtype == np.bool_:
            axes = shape[len(items) : len(items) + item.ndim]
            if item.shape != axes:
                raise IndexError(f"A mask of shape {item.shape} does not fit axes of {axes}.")
            items.extend(item.nonzero())
        else:
            items.append(int(item) if item.ndim == 0 else item.astype(np.intp))
    first, rest = items[0], (items[1], items[2])
    if isinstance(first, slice):
        return list(range(*first.indices(shape[0]))), rest
    indices = np.asarray(first)
    if ((indices < -shape[0]) | (indices >= shape[0])).any():
        raise IndexError(f"Frame {first} lies outside the {shape[0]} frames.")
    indices = np.where(indices < 0, indices + shape[0], indices)
    if isinstance(first, int):
        return int(indices), rest
    if indices.ndim == 1 and not has_arrays(rest):
        return [int(t) for t in indices], rest
    return indices, rest


def _is_number(item: Any) -> bool:
    return isinstance(item, int | np.integer) and type(item) is not bool


def _fill_ellipsis(key: tuple[Any, ...]) -> list[Any]:
    """Return slices and index arrays that name all three axes."""
    items: list[Any] = []
    axes, place = 0, None
    for item in key:
        if item is None:
            raise IndexError("Labels take no new axes; add them to the result.")
        if item is Ellipsis:
            if place is not None:
                raise IndexError("An index can only have a single ellipsis ('...').")
            place = len(items)
            continue
        if not isinstance(item, slice):
            item = np.asarray(item)
            if item.dtype == np.bool_ and item.ndim == 0 or item.dtype.kind not in "biu":
                if item.size:
                    raise IndexError("Labels are indexed by whole numbers, slices and masks.")
                item = item.astype(np.intp)  # an empty list is float to numpy
        axes += item.ndim if not isinstance(item, slice) and item.dtype == np.bool_ else 1
        items.append(item)
    if axes > 3:
        raise IndexError(f"Labels have 3 axes, but {axes} were indexed.")
    place = len(items) if place is None else place
    items[place:place] = [slice(None)] * (3 - axes)
    return items


def has_arrays(rest: Sequence[Any]) -> bool:
    return any(isinstance(item, np.ndarray) for item in rest)


def is_detached(rest: Sequence[Any]) -> bool:
    """Tell whether numpy would move an axis: ``labels[5, :, columns]``."""
    return isinstance(rest[0], slice) and isinstance(rest[1], np.ndarray)


def compact(
    frames: int | list[int] | npt.NDArray[np.intp], rest: tuple[Any, ...]
) -> tuple[list[int], tuple[Any, ...]]:
    """Return the frames that are needed and the index into a block of just those."""
    if isinstance(frames, list):
        return frames, (slice(None), *rest)
    if isinstance(frames, int):
        return [frames], (0, *rest)
    visited, inverse = np.unique(frames, return_inverse=True)
    return [int(t) for t in visited], (inverse.reshape(frames.shape), *rest)
