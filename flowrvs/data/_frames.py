"""Write the frames of one video as JPEG files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data._names import frame_names, safe_name, sorted_and_unique
from flowrvs.errors import DatasetError
from flowrvs.video.encode import encode_jpeg

__all__ = ["Frame", "encode_frame", "write_frames"]

Frame = npt.NDArray[np.uint8] | bytes


def write_frames(
    folder: Path,
    video: str,
    frames: Iterable[Frame],
    names: Sequence[str] | None = None,
    *,
    quality: int = 95,
) -> tuple[list[str], tuple[int, int]]:
    """Write ``<folder>/<name>.jpg`` for every frame.

    Parameters
    ----------
    folder : Path
        Where to write; it exists and is empty.
    video : str
        The video's name, for messages.
    frames : iterable of ndarray of uint8, shape (H, W, 3), or of bytes
        RGB frames, or whole JPEG files, which are copied as they are.
    names : sequence of str, optional
        One ascending name a frame; zero-padded numbers by default.
    quality : int
        JPEG quality of frames that are arrays.

    Returns
    -------
    names : list of str
    size : (int, int)
        Height and width.

    Raises
    ------
    DatasetError
        Names or sizes do not fit.
    """
    if names is not None:
        names = [safe_name(n, "frame", video) for n in names]
        if not sorted_and_unique(names):
            raise DatasetError(
                f"The frame names of {video!r} are not ascending, so a sorted listing "
                "would mix them up; zero-pad them."
            )
    count = 0
    size: tuple[int, int] | None = None
    for index, frame in enumerate(frames):
        if names is not None and index >= len(names):
            raise DatasetError(f"{video!r} has more frames than the {len(names)} names for it.")
        data, this = encode_frame(frame, video, index, quality)
        size = size or this
        if this != size:
            raise DatasetError(
                f"Frame {index} of {video!r} is {this[1]}x{this[0]}, the first one "
                f"{size[1]}x{size[0]}; all frames must have one size."
            )
        stem = names[index] if names is not None else f"{index:05d}"
        (folder / f"{stem}.jpg").write_bytes(data)
        count = index + 1
    if size is None:
        raise DatasetError(f"{video!r} has no frames; a video needs one at least.")
    if names is not None and count != len(names):
        raise DatasetError(f"{video!r} has {count} frames for {len(names)} names.")
    if names is None:
        names = frame_names(count)
        # The padding is known only at the end; it matters from a hundred thousand on.
        if len(names[0]) > 5:
            for index, stem in enumerate(names):
                (folder / f"{index:05d}.jpg").rename(folder / f"{stem}.jpg")
    return list(names), size


def encode_frame(
    frame: Frame, video: str, index: int, quality: int
) -> tuple[bytes, tuple[int, int]]:
    """Return one frame as JPEG bytes, with its height and width."""
    if isinstance(frame, (bytes, bytearray, memoryview)):
        data = bytes(frame)
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                return data, (picture.height, picture.width)
        except OSError:
            raise DatasetError(f"Frame {index} of {video!r} is not a JPEG file.") from None
    array = np.asarray(frame)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DatasetError(
            f"Frame {index} of {video!r} must be (H, W, 3) uint8, not {array.shape} {array.dtype}."
        )
    return encode_jpeg(array, quality), (array.shape[0], array.shape[1])
