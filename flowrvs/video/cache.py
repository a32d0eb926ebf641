"""A thread-safe store of the frames used last, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["DEFAULT_CACHE_BYTES", "FrameCache"]

DEFAULT_CACHE_BYTES = 256 * 2**20

T = TypeVar("T")


class FrameCache(Generic[T]):
    """Least-recently-used store of frames by their native index.

    Parameters
    ----------
    max_bytes : int
        Frames beyond it are dropped, the one used longest ago first; a single frame
        larger than this is not kept at all.

    Attributes
    ----------
    nbytes : int
        Bytes held at present.
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._items: OrderedDict[int, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, index: int) -> T | None:
        """Return a frame and mark it as just used; None when it is not held."""
        with self._lock:
            if index not in self._items:
                return None
            self._items.move_to_end(index)
            return self._items[index][0]

    def put(self, index: int, frame: T, nbytes: int) -> None:
        """Keep `frame`, which takes `nbytes`, dropping older ones for it."""
        with self._lock:
            self.nbytes += nbytes - self._items.pop(index, (frame, 0))[1]
            self._items[index] = (frame, nbytes)
            while self.nbytes > self.max_bytes:
                self.nbytes -= self._items.popitem(last=nbytes > self.max_bytes)[1][1]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._items.clear()
            self.nbytes = 0
