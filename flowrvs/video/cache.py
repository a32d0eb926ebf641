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
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[int, tuple[T, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held at present."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, index: int) -> bool:
        return index in self._items

    def get(self, index: int) -> T | None:
        """Return a frame and mark it as just used; None when it is not held."""
        with self._lock:
            item = self._items.get(index)
            if item is None:
                return None
            self._items.move_to_end(index)
            return item[0]

    def put(self, index: int, frame: T, nbytes: int) -> None:
        """Keep `frame`, which takes `nbytes`, dropping older ones for it."""
        with self._lock:
            old = self._items.pop(index, None)
            if old is not None:
                self._bytes -= old[1]
            if nbytes > self.max_bytes:
                return
            self._items[index] = (frame, nbytes)
            self._bytes += nbytes
            while self._bytes > self.max_bytes:
                self._bytes -= self._items.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._items.clear()
            self._bytes = 0
