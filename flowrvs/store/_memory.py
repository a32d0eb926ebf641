"""Frames in memory of their own, which is used again for the next ones."""

from __future__ import annotations

import math
import mmap
import weakref
from collections import defaultdict, deque

import numpy as np
import numpy.typing as npt

__all__ = ["copy_frame", "new_frame"]

_SMALL = 64 * 1024
#: What is kept of one size for the next frames.
_SPARE_BYTES = 16 * 2**20

# Deques, not a list under a lock: a frame can be dropped at any moment, also while this
# thread takes another one.
_spare: defaultdict[int, deque[mmap.mmap]] = defaultdict(deque)


def new_frame(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.uint16]:
    """Return an array whose content is left to chance; a large one has pages of its own.

    malloc keeps freed frames for the thread that made them: a few threads that pass frames
    on to each other hold hundreds of MiB of free memory after a minute. Fresh pages cost up
    to 0.7 ms a frame, which is more than a stamp of a brush, so some are kept.
    """
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    if count * dtype.itemsize < _SMALL:
        return np.empty(shape, dtype)
    size = 1 << (count * dtype.itemsize - 1).bit_length()
    try:
        pages = _spare[size].pop()
    except IndexError:
        pages = mmap.mmap(-1, size)
    whole = np.frombuffer(pages, dtype, count)
    # Views refer to `whole`, so this happens after the last of them is gone.
    weakref.finalize(whole, _drop, size, pages).atexit = False
    frame: npt.NDArray[np.uint16] = whole.reshape(shape)
    return frame


def copy_frame(frame: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return a C-contiguous copy, in memory of its own if it is large."""
    copy = new_frame(frame.shape, frame.dtype)
    np.copyto(copy, frame)
    return copy


def _drop(size: int, pages: mmap.mmap) -> None:
    if (len(_spare[size]) + 1) * size <= _SPARE_BYTES:
        _spare[size].append(pages)
