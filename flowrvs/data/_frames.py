"""Write the frames of one video as JPEG files, several at a time."""

from __future__ import annotations

import io
import os
import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.data._names import frame_names, safe_name, sorted_and_unique
from flowrvs.errors import DatasetError
from flowrvs.records import VideoInfo
from flowrvs.video.encode import encode_jpeg

__all__ = [
    "Frame",
    "encode_frame",
    "jpeg_bytes",
    "jpeg_files",
    "link_or_copy",
    "workers",
    "write_frames",
]

_EXIF_ORIENTATION = 0x0112

Frame = npt.NDArray[np.uint8] | bytes | Path
"""RGB pixels, a whole JPEG file, or the path of one that is to be hard-linked."""


def workers(jobs: int | None = None) -> int:
    """Return how many threads encode: PIL lets others run meanwhile."""
    return max(1, min(8, os.cpu_count() or 1)) if jobs is None else max(1, jobs)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link of `source`, or a copy where the disk has no links."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        if target.exists():
            raise
        shutil.copyfile(source, target)


def write_frames(
    folder: Path,
    video: str,
    frames: Iterable[Frame],
    names: Sequence[str] | None = None,
    *,
    quality: int = 95,
    jobs: int | None = None,
) -> tuple[list[str], tuple[int, int]]:
    """Write ``<folder>/<name>.jpg`` for every frame.

    Parameters
    ----------
    folder : Path
        Where to write; it exists and is empty.
    video : str
        The video's name, for messages.
    frames : iterable of ndarray of uint8, shape (H, W, 3), of bytes, or of Path
        RGB frames, or whole JPEG files, which are copied as they are, or linked.
    names : sequence of str, optional
        One ascending name a frame; zero-padded numbers by default.
    quality : int
        JPEG quality of frames that are arrays.
    jobs : int, optional
        Threads that encode; one a core by default.

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
    threads = workers(jobs)
    waiting: deque[Future[tuple[int, int]]] = deque()

    def finish(index: int) -> None:
        nonlocal size
        this = waiting.popleft().result()
        size = size or this
        if this != size:
            raise DatasetError(
                f"Frame {index} of {video!r} is {this[1]}x{this[0]}, the first one "
                f"{size[1]}x{size[0]}; all frames must have one size."
            )

    with ThreadPoolExecutor(threads, "flowrvs-jpeg") as pool:
        try:
            for index, frame in enumerate(frames):
                if names is not None and index >= len(names):
                    raise DatasetError(
                        f"{video!r} has more frames than the {len(names)} names for it."
                    )
                stem = names[index] if names is not None else f"{index:05d}"
                target = folder / f"{stem}.jpg"
                waiting.append(pool.submit(_write, target, frame, video, index, quality))
                count = index + 1
                # A few frames ahead, so that memory does not grow with the video.
                if len(waiting) > 2 * threads:
                    finish(count - len(waiting))
            while waiting:
                finish(count - len(waiting))
        finally:
            for future in waiting:
                future.cancel()
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


def _write(path: Path, frame: Frame, video: str, index: int, quality: int) -> tuple[int, int]:
    if isinstance(frame, Path):
        link_or_copy(frame, path)
        with Image.open(path, formats=["JPEG"]) as picture:
            return picture.height, picture.width
    data, size = encode_frame(frame, video, index, quality)
    path.write_bytes(data)
    return size


def encode_frame(
    frame: npt.NDArray[np.uint8] | bytes, video: str, index: int, quality: int
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


def jpeg_files(info: VideoInfo, positions: Sequence[int]) -> list[Path]:
    """Return the video's JPEG files, one a position; empty when it is something else."""
    named = len(info.frame_names) == info.frame_count
    if info.kind != "images" or info.path is None or not named:
        return []
    folder = Path(info.path)
    files = []
    for position in positions:
        for suffix in (".jpg", ".jpeg", ".JPG", ".JPEG"):
            path = folder / f"{info.frame_names[position]}{suffix}"
            if path.is_file():
                files.append(path)
                break
        else:
            return []
    return files


def jpeg_bytes(path: Path, size: tuple[int, int]) -> bytes | None:
    """Return the file's bytes when any reader shows them as this video does."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) != 1
            if turned or picture.mode not in ("RGB", "L"):
                return None
            return data if (picture.height, picture.width) == size else None
    except OSError:
        return None
