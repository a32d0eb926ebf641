"""Where a video's shots change: hard cuts, by how much small pictures of it differ."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import frame_range

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["find_cuts"]

_BLOCK = 16
#: Sides of the small pictures, in pixels.
_ROWS, _COLUMNS = 18, 32
#: A cut changes a pixel of them by so many of 255 on average ...
_CHANGE = 14.0
#: ... and so many times as much as the frames around it change.
_TIMES = 3.0
_AROUND = 8
#: Shots are at least so many frames long.
_SHORTEST = 5


def find_cuts(
    video: Video,
    start: int = 0,
    stop: int | None = None,
    *,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[int, ...]:
    """Return the first frame of every shot but the first.

    A frame begins a shot where small pictures of it and the next frame differ from those of
    both frames before, several times more than frames around there differ: motion, a pan
    and a flash of one frame do not count. Fades and dissolves are not found. Every frame is
    read once; memory does not grow with the length.

    Parameters
    ----------
    video : Video
    start, stop : int
        Frames to look at; all by default.
    cancel : CancelToken, optional
        Checked every 16 frames.
    progress : callable, optional
        Called every 16 frames.

    Returns
    -------
    tuple of int
        Native frames, ascending.

    Raises
    ------
    VideoError
        A frame cannot be read.
    Cancelled
        `cancel` was set.
    """
    frames = frame_range(len(video), start, stop)
    clock = ProgressClock(len(frames))
    # Change to the frame before; and the least change across the place before a frame.
    change = np.zeros(len(frames), np.float32)
    across = np.zeros(len(frames), np.float32)
    recent: deque[npt.NDArray[np.float32]] = deque(maxlen=4)
    for first in range(frames.start, frames.stop, _BLOCK):
        if cancel is not None:
            cancel.raise_if_cancelled()
        last = min(first + _BLOCK, frames.stop)
        for t, picture in enumerate(_small(video.read(first, last)), first - frames.start):
            recent.append(picture)
            if t >= 1:
                change[t] = _difference(recent[-1], recent[-2])
                across[t] = change[t]
            if t >= 2:  # a last frame may still be a flash's
                across[t] = min(across[t], _difference(recent[-1], recent[-3]))
                across[t - 1] = min(across[t - 1], _difference(recent[-1], recent[-3]))
            if len(recent) == 4:
                across[t - 1] = min(across[t - 1], _difference(recent[-1], recent[-4]))
        if progress is not None:
            progress(clock.advance("looking for cuts", last - first))
    return tuple(frames.start + t for t in _peaks(change, across))


def _small(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return small pictures by means over blocks of pixels, float32 (n, rows, columns, 3)."""
    _, height, width, _ = frames.shape
    rows = np.linspace(0, height, min(_ROWS, height), endpoint=False).astype(int)
    columns = np.linspace(0, width, min(_COLUMNS, width), endpoint=False).astype(int)
    # Every fourth row is enough for a mean, where there are many.
    step = max(1, height // (4 * _ROWS))
    thin = frames[:, ::step].astype(np.float32)
    sums = np.add.reduceat(thin, np.minimum(rows // step, thin.shape[1] - 1), axis=1)
    sums = np.add.reduceat(sums, columns, axis=2)
    counts = np.diff(np.append(rows // step, thin.shape[1]))[:, None] * np.diff(
        np.append(columns, width)
    )
    small: npt.NDArray[np.float32] = sums / np.maximum(counts, 1)[None, :, :, None]
    return small


def _difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())


def _peaks(change: npt.NDArray[np.float32], across: npt.NDArray[np.float32]) -> list[int]:
    cuts: list[int] = []
    for t in np.flatnonzero(across > _CHANGE):
        around = np.concatenate([change[max(1, t - _AROUND) : t], change[t + 1 : t + 1 + _AROUND]])
        usual = float(np.median(around)) if len(around) else 0.0
        if across[t] < _TIMES * usual:
            continue
        if cuts and t - cuts[-1] < _SHORTEST:
            if across[t] > across[cuts[-1]]:
                cuts[-1] = int(t)
        elif t >= 1:
            cuts.append(int(t))
    return cuts
