"""How arrays of any number type become the uint8 pictures that everything else uses.

uint8 is never touched. Every other type is mapped by one straight line for the whole
video (never per frame, which would flicker), chosen like this:

====================  =========================================================
bool                  False → 0, True → 255
integers, none < 0    0 → 0 and ``2**bits - 1`` → 255, where ``bits`` (8 to 64) is the
                      fewest that hold the largest sample: 12-bit camera data kept in
                      uint16 is shown as 12-bit data
integers, some < 0    smallest sample → 0, largest sample → 255
floats in [0, 1]      0 → 0, 1 → 255
floats in [0, 255]    kept, rounded
other floats          smallest finite sample → 0, largest → 255
====================  =========================================================

*Sample* means the pixels of up to eight frames, evenly spread over the video; values
beyond the line are clipped, NaN becomes 0. ``limits=(low, high)`` of
:func:`flowrvs.video.open_video` overrides the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import VideoError

__all__ = ["Levels", "choose_levels", "sample_indices"]

SAMPLED_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Levels:
    """The straight line that maps `low` to 0 and `high` to 255.

    Attributes
    ----------
    low, high : float
        Native values shown as black and as white, ``low < high``.
    """

    low: float
    high: float

    def to_uint8(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return `values` as uint8; uint8 comes back as it is.

        Parameters
        ----------
        values : ndarray of bool, integers or floats, any shape

        Returns
        -------
        ndarray of uint8, same shape
        """
        if values.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return values
        small = values.dtype.itemsize <= 2 or values.dtype == np.float32
        scaled: npt.NDArray[Any] = values.astype(np.float32 if small else np.float64)
        scaled -= self.low
        scaled *= 255.0 / (self.high - self.low)
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
        return scaled.astype(np.uint8)


def sample_indices(frame_count: int) -> list[int]:
    """Return the frames whose pixels decide the levels, at most eight."""
    if frame_count <= SAMPLED_FRAMES:
        return list(range(frame_count))
    return [int(i) for i in np.linspace(0, frame_count - 1, SAMPLED_FRAMES).round()]


def choose_levels(
    dtype: np.dtype,
    frame_count: int,
    frame: Callable[[int], npt.NDArray[Any]],
    limits: tuple[float, float] | None = None,
    *,
    where: str = "the array",
) -> Levels:
    """Choose the line for a whole video, as the table of this module says.

    Parameters
    ----------
    dtype : dtype
        Number type of the frames.
    frame_count : int
        Number of frames, at least 1.
    frame : callable
        Returns the native pixels of a frame index; called for a few frames, and not
        at all for uint8, bool or given `limits`.
    limits : (float, float), optional
        The line itself.
    where : str
        Named in errors.

    Raises
    ------
    VideoError
        `dtype` holds no real numbers, or `limits` are not two rising numbers.
    """
    if dtype.kind not in "buif":
        raise VideoError(
            f"{where} holds {dtype} values; pictures need bool, integer or float numbers."
        )
    if limits is not None:
        low, high = (float(v) for v in limits)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise VideoError(f"limits={limits!r} must be two numbers, the lower one first.")
        return Levels(low, high)
    if dtype == np.uint8:
        return Levels(0, 255)
    if dtype.kind == "b":
        return Levels(0, 1)
    low, high = _extent(frame(i) for i in sample_indices(frame_count))
    if dtype.kind == "f":
        if low >= 0 and high <= 255:
            return Levels(0, 1 if high <= 1 else 255)
    elif low >= 0:
        return Levels(0, float(2 ** max(8, int(high).bit_length()) - 1))
    return Levels(low, high if high > low else low + 1)


def _extent(samples: Iterable[npt.NDArray[Any]]) -> tuple[float, float]:
    """Return the smallest and the largest finite value of the samples."""
    low, high = np.inf, -np.inf
    for values in samples:
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 1.0)
