"""The frame cache over tensorstore: what makes painting as quick as on an array in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store._files import storage_error
from flowrvs.store._memory import copy_frame

__all__ = ["FrameCache"]

_MAX_FRAMES = 64
_MAX_BYTES = 128 * 2**20
_BATCH_BYTES = 32 * 2**20


class FrameCache:
    """Frames of a (T, H, W) array in memory, written back whole.

    Frames that wait to be written are never dropped, whatever becomes of the disk; the
    others leave in the order in which they were last used. Every method that hands out or
    takes the cache's own arrays must be called under `lock`.

    Parameters
    ----------
    array : tensorstore.TensorStore, shape (T, H, W)
        One frame a chunk.
    path : Path
        Where it lies, for messages.

    Attributes
    ----------
    lock : RLock
        Guards the cached frames; hold it for one frame's work at most.
    """

    def __init__(self, array: Any, path: Path) -> None:
        self._array = array
        self.path = path
        self.shape: tuple[int, int, int] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype.numpy_dtype)
        self.frame_bytes = self.shape[1] * self.shape[2] * self.dtype.itemsize
        self.share(1)
        self.lock = threading.RLock()
        self._frames: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()
        self._dirty: dict[int, int] = {}  # frame -> number of its last change
        self._changes = 0

    #: Called with a frame that is read as empty: raises if the disk it should lie on is gone.
    check: Callable[[int], None] = staticmethod(lambda t: None)

    def share(self, caches: int) -> None:
        """Take an equal part of the memory that all caches of a project may use."""
        self.capacity = max(4, min(_MAX_FRAMES, _MAX_BYTES // caches // self.frame_bytes))

    @property
    def dirty(self) -> int:
        """Number of frames that wait to be written."""
        return len(self._dirty)

    def frame(self, t: int) -> npt.NDArray[Any]:
        """Return the cached frame itself; call `touch` after changing it. Needs `lock`."""
        frame = self._frames.get(t)
        if frame is None:
            frame = copy_frame(self._result(self._array[t].read(), t))
            if not frame.any():
                self.check(t)
            self._evict(room=1)  # before, or it might be the only one that can leave
            self._frames[t] = frame
        else:
            self._frames.move_to_end(t)
        return frame

    def touch(self, t: int) -> None:
        """Mark a frame as changed, to be written at the next flush. Needs `lock`."""
        self._changes += 1
        self._dirty[t] = self._changes

    def waiting(self) -> list[tuple[int, npt.NDArray[Any]]]:
        """Return copies of the frames that wait to be written. Needs `lock`."""
        return [(t, copy_frame(self._frames[t])) for t in self._dirty]

    def read(self, frames: Sequence[int]) -> npt.NDArray[Any]:
        """Return copies of some frames, shape (n, H, W), without filling the cache."""
        out = np.empty((len(frames), *self.shape[1:]), self.dtype)
        step = max(1, _BATCH_BYTES // self.frame_bytes)
        for first in range(0, len(frames), step):
            self._read_into(out[first : first + step], frames[first : first + step])
        return out

    def _read_into(self, out: npt.NDArray[Any], frames: Sequence[int]) -> None:
        missing = []
        with self.lock:
            for i, t in enumerate(frames):
                cached = self._frames.get(t)
                if cached is None:
                    missing.append((i, t, self._array[t].read()))
                else:
                    out[i] = cached
            # Waiting under the lock: a frame that left it could be changed, written and
            # read again by others while these reads are under way.
            for i, t, future in missing:
                out[i] = self._result(future, t)
                if not out[i].any():
                    self.check(t)

    def flush(self, before: Callable[[], None] | None = None, frames: int | None = None) -> None:
        """Write every frame that was dirty when this began; one thread at a time.

        Parameters
        ----------
        before : callable, optional
            Called before each batch, after its frames were copied.
        frames : int, optional
            At most so many, those that wait longest; all by default.

        Raises
        ------
        StorageError
            A frame could not be written; it stays in memory, dirty.
        """
        with self.lock:
            waiting = list(self._dirty)[:frames]
        step = max(1, min(16, _BATCH_BYTES // self.frame_bytes))
        for first in range(0, len(waiting), step):
            self._write(waiting[first : first + step], before)

    def _write(self, batch: list[int], before: Callable[[], None] | None) -> None:
        copies = []
        for t in batch:
            with self.lock:  # a frame at a time: a brush waits for it
                copies.append((t, self._dirty[t], copy_frame(self._frames[t])))
        if before is not None:
            before()
        futures = [(t, change, self._array[t].write(copy)) for t, change, copy in copies]
        failure: Exception | None = None
        for t, change, future in futures:
            try:
                future.result()
            except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
                failure = error
                continue
            with self.lock:
                if self._dirty.get(t) == change:
                    del self._dirty[t]
        with self.lock:
            self._evict()
        if failure is not None:
            raise storage_error(failure, self.path) from failure

    def _evict(self, room: int = 0) -> None:
        excess = len(self._frames) + room - self.capacity
        if excess > 0:
            for t in [t for t in self._frames if t not in self._dirty][:excess]:
                del self._frames[t]

    def _result(self, future: Any, t: int) -> npt.NDArray[Any]:
        try:
            frame: npt.NDArray[Any] = future.result()
        except Exception as error:
            raise ProjectError(
                f"Frame {t} in {self.path} cannot be read: "
                f"{' '.join(str(error).split())[:160]}; delete its file to start it anew."
            ) from error
        return frame
