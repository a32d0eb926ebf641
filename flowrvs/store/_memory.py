"""Frames in memory of their own, which goes back to the system when they are dropped."""

from __future__ import annotations

import math
import mmap

import numpy as np
import numpy.typing as npt

__all__ = ["copy_frame", "new_frame"]

_SMALL = 64 * 1024


def new_frame(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.uint16]:
    """Return zeros; a large frame takes memory only for the rows that are written to.

    malloc keeps freed frames for the thread that made them: a few threads that pass frames
    on to each other hold hundreds of MiB of free memory after a minute. Pages of their own
    cost 0.1 ms a frame and are given back at once.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALL:
        return np.zeros(shape, dtype)
    frame: npt.NDArray[np.uint16] = np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)
    return frame


def copy_frame(frame: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return a C-contiguous copy, in memory of its own if it is large."""
    if frame.nbytes < _SMALL:
        return np.array(frame, order="C")
    copy = new_frame(frame.shape, frame.dtype)
    np.copyto(copy, frame)
    return copy
