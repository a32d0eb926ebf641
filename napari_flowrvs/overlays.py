"""Label arrays that are not on disk: outlines of neighbouring masks, and previews."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NeighbourOutlines", "NoLabels", "PreviewLabels", "outline"]

_MANY = 16


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


class _Frames(ABC):
    """A (T, H, W) array of small numbers that is computed frame by frame.

    A request for many frames at once, as the 3D view makes it, gives zeros: these are aids
    for looking at one frame.
    """

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @abstractmethod
    def frame(self, t: int) -> npt.NDArray[np.uint8]:
        """Return one frame, (H, W)."""

    def __getitem__(self, key: Any) -> npt.NDArray[np.uint8]:
        items = key if isinstance(key, tuple) else (key,)
        time, rest = (items[0], items[1:]) if items else (slice(None), ())
        if isinstance(time, slice):
            wanted = range(*time.indices(self.shape[0]))
            if len(wanted) > _MANY:
                empty = np.broadcast_to(np.uint8(0), (len(wanted), *self.shape[1:]))
                return empty[(slice(None), *rest)]
            frames = np.zeros((len(wanted), *self.shape[1:]), np.uint8)
            for i, t in enumerate(wanted):
                frames[i] = self.frame(t)
            return frames[(slice(None), *rest)]
        return self.frame(int(time))[rest]


class NoLabels(_Frames):
    """Nothing, in the shape of a video, (T, H, W): what a hidden layer holds."""

    def frame(self, t: int) -> npt.NDArray[np.uint8]:
        """Return zeros."""
        return np.zeros(self.shape[1:], np.uint8)


class NeighbourOutlines(_Frames):
    """Outlines of an object on the frame before (1) and the frame after (2).

    Parameters
    ----------
    labels : array of integers, shape (T, H, W)
        The labels; nothing without them.
    object_id : int
        Whose outlines.
    """

    def __init__(self, labels: Any, object_id: int) -> None:
        super().__init__(tuple(labels.shape))
        self._labels = labels
        self.object_id = object_id

    def frame(self, t: int) -> npt.NDArray[np.uint8]:
        """Return the outlines around frame `t`."""
        out = np.zeros(self.shape[1:], np.uint8)
        for other, value in ((t - 1, 1), (t + 1, 2)):
            if 0 <= other < self.shape[0]:
                mask = self._labels[other] == self.object_id
                box = _box(mask)
                if box is not None:
                    # Most objects are small beside the frame.
                    out[box][outline(mask[box])] = value
        return out


class PreviewLabels(_Frames):
    """Masks that wait to be kept: 1 is inside, 2 the outline.

    Parameters
    ----------
    shape : tuple of 3 int
        (T, H, W).
    mask_of : callable
        ``mask_of(t)`` gives the mask of a frame that is ready, (H, W) bool.
    draw : callable, optional
        ``draw(t, frame)`` draws other values over a frame that is ready.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        mask_of: Callable[[int], npt.NDArray[np.bool_]],
        draw: Callable[[int, npt.NDArray[np.uint8]], object] | None = None,
    ) -> None:
        super().__init__(shape)
        self._mask_of = mask_of
        self._draw = draw
        self.ready: set[int] = set()

    def frame(self, t: int) -> npt.NDArray[np.uint8]:
        """Return a frame; zeros where nothing waits."""
        if t not in self.ready:
            return np.zeros(self.shape[1:], np.uint8)
        mask = self._mask_of(t)
        out: npt.NDArray[np.uint8] = mask.astype(np.uint8) + outline(mask)
        if self._draw is not None:
            self._draw(t, out)
        return out
