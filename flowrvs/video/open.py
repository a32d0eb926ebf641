"""`open_video` and the `Video` that it returns: the one way in for every kind of source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeGuard

import av
import dask.array as da
import numpy as np
import numpy.typing as npt

from flowrvs.errors import VideoError
from flowrvs.records import VideoInfo
from flowrvs.video.arrays import ArrayFrames, open_npy
from flowrvs.video.cache import DEFAULT_CACHE_BYTES
from flowrvs.video.file import GO_ON, VideoFile
from flowrvs.video.images import ImageFiles
from flowrvs.video.probe import (
    edits_not_followed,
    fingerprint,
    incomplete,
    is_joined,
    kind_of,
    list_images,
)

__all__ = ["Video", "open_video"]

# A dask chunk larger than this would be decoded whole for one window of 4K video.
MAX_CHUNK_BYTES = 128 * 2**20


class _Source(Protocol):
    height: int
    width: int

    def __len__(self) -> int: ...
    def read_into(self, out: npt.NDArray[np.uint8], start: int) -> None: ...
    def close(self) -> None: ...


class Video:
    """A video, whatever it is stored as: native frames as RGB, on request.

    Made by :func:`open_video`; a context manager. All methods may be called from any
    thread. It can be pickled where its source is a path: the copy opens the file again.

    Attributes
    ----------
    info : VideoInfo
        What it is.
    frames : dask.array.Array, shape (T, H, W, 3), uint8
        The frames, lazily; several frames a chunk. Slicing reads only what is asked for.
    """

    def __init__(
        self, source: _Source, info: VideoInfo, chunk: int, recipe: dict[str, Any] | None = None
    ) -> None:
        self.info = info
        self._source: _Source | None = source
        self._recipe = recipe
        frame_bytes = info.height * info.width * 3
        chunk = max(1, min(chunk, MAX_CHUNK_BYTES // frame_bytes, info.frame_count))
        self.frames: da.Array = da.from_array(
            _Lazy(self),
            chunks=(chunk, info.height, info.width, 3),
            name=False,
            # Only so does dask push a slice down to here instead of reading whole chunks.
            asarray=False,
            fancy=True,
            meta=np.empty((0, 0, 0, 0), np.uint8),
        )

    def __len__(self) -> int:
        return self.info.frame_count

    def __repr__(self) -> str:
        i = self.info
        return f"<Video {i.path or 'array'}: {i.frame_count} frames of {i.width}x{i.height}>"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        return self.info.frame_count, self.info.height, self.info.width, 3

    @property
    def recipe(self) -> dict[str, Any] | None:
        """What `open_video` opens it again with, in values that JSON holds; None for arrays."""
        return None if self._recipe is None else dict(self._recipe)

    @property
    def times(self) -> npt.NDArray[np.float64] | None:
        """Presentation time of every frame in seconds; None where frames have no times."""
        return self._source.index.times if isinstance(self._source, VideoFile) else None

    @property
    def damaged_frames(self) -> frozenset[int]:
        """Frames found damaged so far."""
        return getattr(self._source, "damaged_frames", frozenset())

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read consecutive frames, exactly; the fastest way when called in order.

        Parameters
        ----------
        start, stop : int
            First native frame index and one past the last, ``0 <= start <= stop <= T``.

        Returns
        -------
        ndarray of uint8, shape (stop - start, H, W, 3)

        Raises
        ------
        VideoError
            The range is not in the video, a frame is damaged, or the video is closed.
        """
        start, stop = int(start), int(stop)
        if not 0 <= start <= stop <= len(self):
            raise VideoError(
                f"Frames {start} to {stop} were asked for, but the video has 0 to {len(self)}."
            )
        source = self._source
        if source is None:
            raise VideoError(f"{self.info.path or 'The video'} was closed; open it again.")
        out = np.empty((stop - start, *self.shape[1:]), np.uint8)
        source.read_into(out, start)
        return out

    def close(self) -> None:
        """Close the files beneath; `frames` can no longer be computed."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._recipe is None:
            raise TypeError("A Video over an array in memory cannot be pickled.")
        return partial(open_video, **self._recipe), ()


class _Lazy:
    """The duck array beneath `Video.frames`: numpy slices, read on request."""

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, video: Video) -> None:
        self._video = video
        self.shape = video.shape

    def __getitem__(self, index: Any) -> npt.NDArray[np.uint8]:
        index = index if isinstance(index, tuple) else (index,)
        time, rest = (index[0], index[1:]) if index else (slice(None), ())
        if isinstance(time, (int, np.integer)):
            return self._video.read(int(time), int(time) + 1)[0][rest]
        wanted = np.arange(len(self._video))[time if isinstance(time, slice) else np.asarray(time)]
        frames = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        at = 0
        # Consecutive frames are read together.
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1):
            if len(run):
                frames[at : at + len(run)] = self._video.read(run[0], run[-1] + 1)
                at += len(run)
        return frames[(slice(None), *rest)]


def open_video(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Any,
    *,
    chunk: int = 16,
    limits: tuple[float, float] | None = None,
    damaged: Literal["raise", "repeat"] = "raise",
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Video:
    """Open a video lazily; frames keep their native indices and are never resampled.

    Parameters
    ----------
    source : path, sequence of paths, or array
        - a video file or an animation (see docs/video.md); rotation metadata is applied;
        - a folder of images in natural order (a MeViS ``JPEGImages/<video>`` among them),
          a list of image files, or one image; their sizes must agree;
        - a zarr v2 or v3 array (T, H, W) or (T, H, W, C), or an OME-Zarr image (level 0);
        - a multi-page TIFF or a ``.npy`` file;
        - a numpy, dask or zarr array (T, H, W) or (T, H, W, 1 | 3 | 4).
    chunk : int
        Frames a chunk of `Video.frames`; fewer where a chunk would exceed 128 MiB.
    limits : (float, float), optional
        Native values shown as 0 and 255, for sources other than uint8; see
        :mod:`flowrvs.video.levels` for what is chosen without it.
    damaged : {"raise", "repeat"}
        Frames of a video file that cannot be decoded raise a `VideoError` when they are
        read, or are replaced by the last good frame, with a warning. ``"repeat"`` also
        opens the readable part of a file that was cut off.
    cache_bytes : int
        Memory for decoded frames.

    Returns
    -------
    Video

    Notes
    -----
    Alpha is dropped: colours come as they are stored, as PIL, OpenCV and FFmpeg do it.
    Pixels are never scaled to a square aspect ratio. Colour without a tag is BT.601 at any
    size, as FFmpeg and OpenCV take it; HDR is not tone-mapped.

    Raises
    ------
    MissingPathError
        Nothing is at the path.
    VideoError
        It cannot be read as a video; the message says why, in one line.
    """
    if damaged not in ("raise", "repeat"):
        raise VideoError(f"damaged={damaged!r} is not known; use 'raise' or 'repeat'.")
    if chunk < 1:
        raise VideoError(f"chunk={chunk} must be at least 1 frame.")
    reading = dict(limits=limits, cache_bytes=cache_bytes)
    recipe = dict(chunk=chunk, damaged=damaged, **reading)
    again: Any = None
    if isinstance(source, (list, tuple)) and source and all(map(_is_path, source)):
        paths = [Path(os.path.abspath(os.fspath(p))) for p in source]
        for path in paths:
            if kind_of(path) not in ("image", "tiff"):
                raise VideoError(f"{path} is no image; a list must name one image a frame.")
        opened = _open_images(paths, paths[0].parent, reading)
        again = [str(p) for p in paths]
    elif _is_path(source):
        path = Path(os.path.abspath(os.path.expanduser(os.fspath(source))))
        opened = _open_path(path, reading, damaged)
        again = str(path)
    else:
        opened = _open_array(source, reading)
    return Video(*opened, chunk, None if again is None else {"source": again, **recipe})


def _is_path(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(source, (str, os.PathLike))


def _open_array(source: Any, reading: dict[str, Any]) -> tuple[_Source, VideoInfo]:
    if not all(hasattr(source, name) for name in ("shape", "dtype", "__getitem__")):
        raise VideoError(f"A {type(source).__name__} is no video; give a path or an array.")
    chunks = getattr(source, "chunks", None) or ((1,),)
    first = chunks[0] if isinstance(chunks[0], int) else chunks[0][0]
    frames = ArrayFrames(source, block=int(first), **reading)
    return frames, VideoInfo(None, "array", len(frames), frames.height, frames.width)


def _open_images(
    paths: list[Path], where: Path, reading: dict[str, Any]
) -> tuple[_Source, VideoInfo]:
    images = ImageFiles(paths, alone=where == paths[0], **reading)
    single = len(images) != len(paths)
    info = VideoInfo(
        str(where),
        "video" if single else "images",
        len(images),
        images.height,
        images.width,
        rate=images.rate,
        frame_names=() if single else _frame_names(paths),
        fingerprint=fingerprint(paths),
    )
    return images, info


def _frame_names(paths: list[Path]) -> tuple[str, ...]:
    """Return the stems, fit to be written into any dataset: in Unicode, without a backslash."""
    stems = [os.fsencode(p.stem).decode("utf-8", "backslashreplace") for p in paths]
    names = tuple(stem.replace("\\", "_") for stem in stems)
    return names if len(set(names)) == len(names) else tuple(f"{n:05d}" for n in range(len(paths)))


def _open_path(path: Path, reading: dict[str, Any], damaged: str) -> tuple[_Source, VideoInfo]:
    kind = kind_of(path)
    if kind in ("image", "images"):
        paths = [path] if kind == "image" else list_images(path)
        return _open_images(paths, path, reading)
    if kind == "video":
        return _open_file(path, damaged, reading["cache_bytes"])
    frames: ArrayFrames | ImageFiles
    if kind == "tiff":
        from flowrvs.video.tiff import open_tiff

        frames = open_tiff(path, **reading)
    elif kind == "zarr":
        from flowrvs.video.zarr_store import open_zarr

        frames = open_zarr(path, **reading)
    else:
        kind, frames = "array", open_npy(path, **reading)
    mark = _zarr_fingerprint(frames) if kind == "zarr" else fingerprint([path])
    info = VideoInfo(str(path), kind, len(frames), frames.height, frames.width, fingerprint=mark)
    return frames, info


def _zarr_fingerprint(frames: _Source) -> str:
    """Hash up to four frames and the shape: listing a store's chunks can take minutes."""
    count = len(frames)
    data = [f"{count} {frames.height} {frames.width}".encode()]
    out = np.empty((1, frames.height, frames.width, 3), np.uint8)
    for n in sorted({0, count // 3, 2 * count // 3, count - 1}):
        frames.read_into(out, n)
        data.append(out.tobytes())
    return fingerprint([], data)


def _open_file(path: Path, damaged: str, cache_bytes: int) -> tuple[_Source, VideoInfo]:
    repair = "get a complete copy, or repair it with 'ffmpeg -i IN -c copy OUT'"
    try:
        missing = incomplete(path)
        if "moov" in missing:
            raise VideoError(f"{path} was cut off: {missing}; {repair}.")
        if missing and damaged == "raise":
            raise VideoError(f"{path} was cut off: {missing}; {repair}, or {GO_ON}.")
        if edits := edits_not_followed(path):
            raise VideoError(
                f"{path} has an edit list with {edits}, which cannot be followed; write it anew "
                "with all its frames: 'ffmpeg -ignore_editlist 1 -i IN -c copy OUT'."
            )
        file = VideoFile(str(path), damaged=damaged, cut=bool(missing), cache_bytes=cache_bytes)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise VideoError(
            f"{path} cannot be read as a video ({reason}); it is damaged or of another kind."
        ) from error
    index = file.index
    if is_joined(path, int(index.stamps[-1, 2])):
        file.close()
        raise VideoError(
            f"{path} holds several recordings joined end to end; give them one by one, or join "
            "them with 'ffmpeg -f concat -i LIST -c copy OUT'."
        )
    if index.cut and damaged == "raise":
        file.close()
        last = len(file) - 1
        raise VideoError(
            f"{path} breaks off after frame {last} ({index.cut}); {repair}, or {GO_ON}."
        )
    rate = index.rate
    if len(index.times) > 1:
        mean = (len(index.times) - 1) / float(index.times[-1] - index.times[0])
        rate = rate if rate and abs(rate - mean) < 0.01 * mean else mean
    size = (len(file), file.height, file.width)
    return file, VideoInfo(str(path), "video", *size, rate=rate, fingerprint=fingerprint([path]))
