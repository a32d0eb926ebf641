"""What helps to look at a frame: outlines of neighbouring masks, and previews."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Frames", "NeighbourOutlines", "PreviewLabels", "Shown", "dots", "outline", "stamp"]


def outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels of a mask, (H, W), that touch what is outside of it."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = (
        mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:] & mask[1:-1, 1:-1]
    )
    edge: npt.NDArray[np.bool_] = mask & ~inner
    return edge


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Return the rows and columns that hold all of a mask; None for an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    top, stop = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:stop].any(axis=0))
    return slice(top, stop), slice(int(columns[0]), int(columns[-1]) + 1)


def dots(way: npt.NDArray[np.float64], apart: float) -> npt.NDArray[np.float64]:
    """Return points (x, y) along a way of straight lines."""
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(way, axis=0).T))])
    along = np.linspace(0, lengths[-1], int(lengths[-1] / apart) + 2)
    return np.stack([np.interp(along, lengths, way[:, i]) for i in (0, 1)], axis=1)


def stamp(out: npt.NDArray[np.uint8], points: npt.ArrayLike, radius: float, value: int) -> None:
    """Draw discs around points (x, y)."""
    reach = np.arange(-int(radius), int(radius) + 1)
    disc = np.argwhere(reach[:, None] ** 2 + reach**2 < radius**2) - int(radius)
    places = np.reshape(points, (-1, 1, 2))[..., ::-1].astype(int) + disc
    places = places[((places >= 0) & (places < out.shape)).all(axis=2)]
    out[places[:, 0], places[:, 1]] = value


class Shown(Protocol):
    """What a preview is to the desk."""

    @property
    def name(self) -> str:
        """What the step would be called."""
        ...

    @property
    def frames(self) -> tuple[int, ...]:
        """The frames that have a mask, sorted."""
        ...

    def mask(self, t: int) -> npt.NDArray[np.bool_]:
        """Return the mask of a frame, (H, W)."""
        ...


class Frames(Protocol):
    """Small numbers, computed frame by frame."""

    def frame(self, t: int) -> npt.NDArray[np.uint8]:
        """Return one frame, (H, W)."""
        ...


class NeighbourOutlines:
    """Outlines of an object on the frame before (1) and the frame after (2).

    Parameters
    ----------
    labels : array of integers, shape (T, H, W)
        The labels; nothing without them.
    object_id : int
        Whose outlines.
    """

    def __init__(self, labels: Any, object_id: int) -> None:
        self.shape = tuple(labels.shape)
        self._labels = labels
        self.object_id = object_id

    def frame(self, t: int) -> npt.NDArray[np.uint8]:
        """Return the outlines around frame `t`."""
        out = np.zeros(self.shape[1:], np.uint8)
        for other, value in ((t - 1, 1), (t + 1, 2)):
            if 0 <= other < self.shape[0]:
                mask = self._labels[other, :, :] == self.object_id
                box = _box(mask)
                if box is not None:
                    # Most objects are small beside the frame.
                    out[box][outline(mask[box])] = value
        return out


class PreviewLabels:
    """Masks that wait to be kept: 1 is inside, 2 the outline.

    Parameters
    ----------
    shape : tuple of 2 int
        (H, W).
    mask_of : callable
        ``mask_of(t)`` gives the mask of a frame that is ready, (H, W) bool.
    draw : callable, optional
        ``draw(t, frame)`` draws other values over a frame that is ready.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        mask_of: Callable[[int], npt.NDArray[np.bool_]],
        draw: Callable[[int, npt.NDArray[np.uint8]], object] | None = None,
    ) -> None:
        self.shape = shape
        self._mask_of = mask_of
        self._draw = draw
        self.ready: set[int] = set()

    def frame(self, t: int) -> npt.NDArray[np.uint8]:
        """Return a frame; zeros where nothing waits."""
        out = np.zeros(self.shape, np.uint8)
        if t in self.ready:
            mask = self._mask_of(t)
            box = _box(mask)
            if box is not None:
                out[box] = mask[box].astype(np.uint8) + outline(mask[box])
            if self._draw is not None:
                self._draw(t, out)
        return out
