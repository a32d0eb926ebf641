"""Where the frames come from, and where their project lives by default."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from flowrvs.video import Video, open_video

__all__ = ["VideoSource", "default_project"]


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
    layer and its content: it reads three frames, so call it from a worker.
    """
    if source.path is not None:
        path = Path(source.path).expanduser().resolve()
        stem = path.name if path.is_dir() else path.stem
        if os.access(path.parent, os.W_OK):
            return path.with_name(f"{stem}.flowrvs")
        digest = hashlib.sha256(str(path).encode()).hexdigest()
        name = stem
    else:
        digest = _digest(source.array)
        name = source.name
    base = Path(
        platformdirs.user_data_dir("napari-flowrvs", appauthor=False)
        if data_dir is None
        else data_dir
    )
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "video"
    return base / f"{safe}-{digest[:8]}.flowrvs"


def _digest(array: Any) -> str:
    count = len(array)
    digest = hashlib.sha256(repr((tuple(array.shape), str(array.dtype))).encode())
    for index in sorted({0, count // 2, count - 1} if count else ()):
        digest.update(np.ascontiguousarray(np.asarray(array[index])).tobytes())
    return digest.hexdigest()
