"""Clean up masks: keep the largest part, fill holes, smooth, remove specks.

Every function takes one mask (H, W) or a stack (n, H, W), each frame by itself, and returns
a new array of bool. An empty mask stays empty.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from skimage.filters import gaussian
from skimage.measure import label

from flowrvs.errors import InputError
from flowrvs.masks.shape import bounding_box

__all__ = ["TOOLS", "components", "fill_holes", "largest_component", "remove_specks", "smooth"]

Mask = npt.NDArray[np.bool_]


def largest_component(mask: npt.ArrayLike) -> Mask:
    """Keep the largest connected part (diagonal neighbours count as connected)."""

    def apply(frame: Mask) -> Mask:
        labels, sizes = _parts(frame)
        kept: Mask = labels == 1 + int(np.argmax(sizes)) if len(sizes) else frame
        return kept

    return _each(mask, apply)


def fill_holes(mask: npt.ArrayLike, largest: int | None = None) -> Mask:
    """Fill what the object surrounds.

    Parameters
    ----------
    largest : int, optional
        Holes of more pixels than this stay open; all are filled by default.
    """
    if largest is not None and largest < 1:
        raise InputError(f"Holes of up to {largest} pixels cannot be filled; use 1 or more.")

    def apply(frame: Mask) -> Mask:
        filled: Mask = binary_fill_holes(frame)
        if largest is None:
            return filled
        labels = label(filled & ~frame, connectivity=1)
        sizes = np.bincount(labels.ravel())
        sizes[0] = largest + 1
        return frame | (sizes <= largest)[labels]

    return _each(mask, apply)


def smooth(mask: npt.ArrayLike, radius: float = 2.0) -> Mask:
    """Round an edge off: threshold the Gaussian-blurred mask at one half.

    Parameters
    ----------
    radius : float
        Standard deviation in pixels, above 0. Parts thinner than about twice this vanish.
    """
    if not 0 < radius < 1000:
        raise InputError(f"A radius of {radius} pixels cannot smooth; use 0.5 to 20.")
    return _each(
        mask,
        lambda frame: gaussian(frame.astype(np.float32), sigma=radius, mode="nearest") > 0.5,
    )


def remove_specks(mask: npt.ArrayLike, smallest: int = 64) -> Mask:
    """Remove connected parts of fewer than `smallest` pixels."""
    if smallest < 1:
        raise InputError(f"Specks below {smallest} pixels do not exist; use 1 or more.")

    def apply(frame: Mask) -> Mask:
        labels, sizes = _parts(frame)
        kept: Mask = np.concatenate([[False], sizes >= smallest])[labels]
        return kept

    return _each(mask, apply)


def components(mask: npt.ArrayLike, smallest: int = 16) -> list[Mask]:
    """Return the connected parts of one mask, largest first.

    Parameters
    ----------
    mask : array_like, shape (H, W)
        Not a stack: parts of different frames are matched by
        :func:`flowrvs.editing.split_components`.
    smallest : int
        Smaller parts belong to the nearest of the others, so that no pixel is lost.

    Returns
    -------
    list of ndarray of bool, shape (H, W)
        They exclude each other and make up the mask.
    """
    frame = np.asarray(mask, dtype=bool)
    if frame.ndim != 2:
        raise InputError(f"One mask (H, W) is split at a time, not an array of {frame.shape}.")
    labels, sizes = _parts(frame)
    if not len(sizes):
        return []
    order = [int(i) for i in np.argsort(-sizes, kind="stable")]
    kept = [i for i in order if sizes[i] >= smallest] or order[:1]
    parts = [labels == i + 1 for i in kept]
    rest = frame & ~np.logical_or.reduce(parts)
    if rest.any():
        owner = np.argmin([distance_transform_edt(~part) for part in parts], axis=0)
        parts = [part | (rest & (owner == i)) for i, part in enumerate(parts)]
    return parts


#: The clean-up tools by their short names.
TOOLS: dict[str, Callable[..., Mask]] = {
    "largest": largest_component,
    "fill": fill_holes,
    "smooth": smooth,
    "specks": remove_specks,
}


def _parts(frame: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    labels = label(frame, connectivity=2)
    return labels, np.bincount(labels.ravel())[1:]


def _each(mask: npt.ArrayLike, apply: Callable[[Mask], Mask]) -> Mask:
    stack = np.asarray(mask, dtype=bool)
    if stack.ndim not in (2, 3):
        raise InputError(f"A mask is (H, W) or a stack (n, H, W), not an array of {stack.shape}.")
    if stack.ndim == 2:
        return _cropped(stack, apply)
    return np.stack([_cropped(frame, apply) for frame in stack]) if len(stack) else stack.copy()


def _cropped(frame: Mask, apply: Callable[[Mask], Mask]) -> Mask:
    """Apply a tool to the box of the object; its size decides the time, not the video's."""
    result = np.zeros_like(frame)
    box = bounding_box(frame, margin=8)
    if box is not None:
        result[box] = apply(frame[box])
    return result
