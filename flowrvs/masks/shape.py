"""What is measured of a mask's shape: overlap with another, its box, distances to its edge."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

__all__ = ["bounding_box", "iou", "opencv", "signed_distance"]


@cache
def opencv() -> Any:
    """Return the module cv2 where it is installed (the ``flow`` extra), else None."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return intersection over union of two masks of one shape; 1 for two empty ones."""
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    either = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / either if either else 1.0


def bounding_box(mask: npt.NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice] | None:
    """Return the rows and columns that hold a mask (H, W) and a margin; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )


def signed_distance(mask: npt.NDArray[np.bool_], most: float) -> npt.NDArray[np.float32]:
    """Return distances to the edge in pixels, positive inside; `most` where there is no edge."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, most if mask.any() else -most, np.float32)
    cv2 = opencv()
    if cv2 is None:
        inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    else:  # the same distances in a quarter of the time
        inside, outside = (
            cv2.distanceTransform(side.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for side in (mask, ~mask)
        )
    # Edges lie between pixels: without the half, a mask would lose half a pixel a frame.
    signed: npt.NDArray[np.float32] = np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32)
    return signed
