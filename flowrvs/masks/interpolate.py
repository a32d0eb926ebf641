"""Shapes between key frames without a look at the video: signed distance and motion.

For a long gap, a blurred or a drawn video, or no video at hand. Both keys are moved and
scaled onto the place and size that lie between them; there their signed distances to the
edge are mixed (Raya and Udupa, 1990).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.masks.flow import sample
from flowrvs.masks.shape import signed_distance

__all__ = ["interpolate"]

Mask = npt.NDArray[np.bool_]


def interpolate(
    keys: Mapping[int, npt.ArrayLike], start: int | None = None, stop: int | None = None
) -> Iterator[tuple[int, Mask]]:
    """Yield the shapes of the frames between neighbouring keys, in order.

    Parameters
    ----------
    keys : mapping of int to array_like, shape (H, W)
        Masks by frame. Next to an empty one nothing is drawn: when the object comes or goes
        cannot be known from shapes.
    start, stop : int, optional
        Yield frames of this range only.

    Yields
    ------
    frame : int
    mask : ndarray of bool, shape (H, W)
    """
    masks = {t: np.asarray(mask, dtype=bool) for t, mask in sorted(keys.items())}
    if len({mask.shape for mask in masks.values()}) > 1:
        raise InputError("The key frames' masks differ in size; they must be of one video.")
    frames = list(masks)
    for before, after in zip(frames, frames[1:], strict=False):
        if not masks[before].any() or not masks[after].any():
            continue
        first = before + 1 if start is None else max(start, before + 1)
        last = after if stop is None else min(stop, after)
        if first >= last:
            continue
        pair = _Pair(masks[before], masks[after])
        for t in range(first, last):
            yield t, pair.at((t - before) / (after - before))


class _Pair:
    """Two masks with what their mixtures share: distances, centres and sizes."""

    def __init__(self, a: Mask, b: Mask) -> None:
        self._fields = [signed_distance(mask, float(max(mask.shape))) for mask in (a, b)]
        self._centers, self._sizes = zip(*(_moments(mask) for mask in (a, b)), strict=True)
        self._shape = a.shape

    def at(self, share: float) -> Mask:
        mix = (1 - share, share)
        center = sum(w * c for w, c in zip(mix, self._centers, strict=True))
        size = np.exp(sum(w * np.log(s) for w, s in zip(mix, self._sizes, strict=True)))
        rows, columns = np.indices(self._shape, dtype=np.float32)
        field = np.zeros(self._shape, np.float32)
        for w, values, own, extent in zip(
            mix, self._fields, self._centers, self._sizes, strict=True
        ):
            scale = extent / size
            at_rows = own[0] + (rows - center[0]) * scale[0]
            at_columns = own[1] + (columns - center[1]) * scale[1]
            h, w_ = self._shape
            outside = np.maximum(
                np.maximum(-at_rows, at_rows - (h - 1)),
                np.maximum(-at_columns, at_columns - (w_ - 1)),
            )
            moved = sample(values, at_rows.astype(np.float32), at_columns.astype(np.float32))
            field += w * np.where(outside > 0.5, -outside, moved).astype(np.float32)
        return field > 0


def _moments(mask: Mask) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return centre and standard deviation along rows and columns."""
    places = np.argwhere(mask)
    return places.mean(0), np.maximum(places.std(0), 0.5)
