"""Where the frames come from, and where their project lives by default."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from flowrvs.errors import FlowRVSError
from flowrvs.video import Video, open_video

__all__ = ["ShownVideo", "VideoSource", "default_project", "existing_project"]

#: Arrays of no more bytes are told apart by all of their pixels.
_HASHED = 2**31

Picture = npt.NDArray[np.uint8]


class ShownVideo:
    """A video as a viewer takes it: an array that is read on the thread that asks.

    napari would have dask read each frame on a thread of its own, and wait for that. The
    frame read last is kept, for a viewer asks for it again; those that `hold` has read are
    at hand without decoding.

    Parameters
    ----------
    video : Video
        What is shown.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, video: Video) -> None:
        self.video = video
        self.shape = video.shape
        # Replaced, never changed: any thread may look while another one holds frames.
        self._held: dict[int, Picture] = {}
        self._last: tuple[int, Picture] | None = None
        #: Gets a line where frames cannot be read, which are shown black then; None raises.
        self.notify: Callable[[str], object] | None = None
        self._failing = False

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all frames would need in memory."""
        return self.size

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return math.prod(self.shape[1:])

    def hold(self, t: int) -> None:
        """Read a frame and keep it at hand; on any one thread."""
        if t not in self._held:
            self._held = {**self._held, t: self._read(t)}

    def let_go(self, but: Collection[int] = ()) -> None:
        """Keep no more frames at hand than those of `but`; on the thread that holds."""
        self._held = {t: frame for t, frame in self._held.items() if t in but}

    def frame(self, t: int) -> Picture:
        """Return a frame, (H, W, 3), for reading only."""
        held, last = self._held.get(t), self._last
        if held is None and last is not None and last[0] == t:
            held = last[1]
        try:
            held = self._read(t) if held is None else held
        except FlowRVSError as error:
            if self.notify is None:
                raise
            if not self._failing:  # a viewer asks again at every step
                self._failing = True
                self.notify(str(error))
            return np.zeros(self.shape[1:], np.uint8)
        self._failing, self._last = False, (t, held)
        return held

    def _read(self, t: int) -> Picture:
        frame: Picture = self.video.read(t, t + 1)[0]
        frame.flags.writeable = False  # it will be shown again
        return frame

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("The frames lie in a file; reading them makes a copy.")
        return np.asarray(self.video.frames).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        """Return some of it, as `Video.frames` would."""
        items = key if isinstance(key, tuple) else (key,)
        first, rest = (items[0], items[1:]) if items else (slice(None), ())
        if isinstance(first, int | np.integer) and 0 <= first < len(self):
            return self.frame(int(first))[rest]
        if isinstance(first, slice):
            wanted = range(*first.indices(len(self)))
            if len(wanted) == 1:
                return self.frame(wanted[0])[None][(slice(None), *rest)]
        return np.asarray(self.video.frames[key])


@dataclass(frozen=True, eq=False)
class VideoSource:
    """A video that the widget offers.

    Attributes
    ----------
    name : str
        As the user knows it: the name of the layer.
    frame_count : int
        Number of frames.
    path : str or None
        What to open; None for an array.
    array : array or None
        Frames, shape (T, H, W) or (T, H, W, 3), where there is no path.
    """

    name: str
    frame_count: int
    path: str | None = None
    array: Any = None

    def open(self) -> Video:
        """Open it anew, so that a job does not share a decoder with the canvas.

        Raises
        ------
        VideoError, MissingPathError
            It cannot be read (any more).
        """
        return open_video(self.array if self.path is None else self.path)


def default_project(source: VideoSource, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the project folder that a video gets when the user chose none.

    It lies beside a file or folder as ``<stem>.flowrvs``. Arrays, and videos in a place
    that cannot be written, get a folder in the user's data directory, named after the
    layer and the content; an array whose layer was renamed is known by its content. That is
    read for it, so call it from a worker.
    """
    base = Path(
        platformdirs.user_data_dir("napari-flowrvs", appauthor=False)
        if data_dir is None
        else data_dir
    )
    if source.path is not None:
        path = Path(source.path).expanduser().resolve()
        name = path.name if path.is_dir() else path.stem
        if os.access(path.parent, os.W_OK):
            return path.with_name(f"{name}.flowrvs")
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    else:
        name, digest = source.name, _digest(source.array)
        for known in sorted(base.glob(f"*-{digest}.flowrvs")):
            return known
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "video"
    return base / f"{safe}-{digest}.flowrvs"


def existing_project(source: VideoSource) -> Path | None:
    """Return the default project of a video where there is one; from a worker, too."""
    if source.path is None:
        base = Path(platformdirs.user_data_dir("napari-flowrvs", appauthor=False))
        if next(base.glob("*.flowrvs"), None) is None:
            return None  # nobody's frames are computed for nothing
    folder = default_project(source)
    return folder if folder.is_dir() else None


def _digest(array: Any) -> str:
    """Tell arrays apart: by all that is in memory, of anything else by some frames."""
    digest = hashlib.sha256(repr((tuple(array.shape), str(array.dtype))).encode())
    count = len(array)
    whole = isinstance(array, np.ndarray) and array.nbytes <= _HASHED
    for index in range(count) if whole else sorted({i * (count - 1) // 31 for i in range(32)}):
        digest.update(np.ascontiguousarray(np.asarray(array[index])).data)
    return digest.hexdigest()[:12]
