"""The frames of a window, read when the model asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.records import Window

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["SelectedFrames", "WindowFrames"]


class SelectedFrames:
    """Some frames of a video, counted anew; reads as a video does.

    Parameters
    ----------
    video : Video
    frames : range
        Native frames.
    """

    def __init__(self, video: Video, frames: range) -> None:
        self._video = video
        self._frames = frames
        self.shape = (len(frames), *video.shape[1:])

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read frames by their place among the selected ones."""
        out = np.empty((stop - start, *self.shape[1:]), np.uint8)
        for place, frame in enumerate(self._frames[start:stop]):
            out[place] = self._video.read(frame, frame + 1)[0]
        return out


class WindowFrames:
    """A window of a video as a lazy array, so that its length costs no memory.

    Frames that two windows share come from the video's own cache of decoded frames.

    Parameters
    ----------
    video : Video or SelectedFrames
    window : Window

    Attributes
    ----------
    shape : tuple of int
        (T, H, W, 3).
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, video: Video | SelectedFrames, window: Window) -> None:
        self._video = video
        self._start = window.start
        self.shape = (window.stop - window.start, *video.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8]:
        """Read one frame, or consecutive ones."""
        if not isinstance(index, slice):
            place = range(len(self))[index]
            return self[place : place + 1][0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise IndexError("frames of a window are read consecutively")
        return np.asarray(self._video.read(self._start + start, self._start + max(start, stop)))

    def part(self, start: int, stop: int) -> WindowFrames:
        """Return frames `start` to `stop` of these, as lazy as they are."""
        first = self._start + start
        return WindowFrames(self._video, Window(0, first, first + stop - start))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)
