"""Arrays as videos: numpy, dask, zarr and OME-Zarr.

Axes. Three axes are (T, H, W), four are (T, H, W, C) with 1, 3 or 4 channels. Stores that
name their axes (OME-Zarr, zarr dimension names, TIFF) may have them in another order, and
further axes of length 1; a stack over Z alone counts as time. A fourth channel is alpha
and is dropped. How other types than uint8 are shown: :mod:`flowrvs.video.levels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import FlowRVSError, VideoError, first_line
from flowrvs.video.cache import DEFAULT_CACHE_BYTES, FrameCache
from flowrvs.video.levels import choose_levels
from flowrvs.video.probe import is_too_large

__all__ = ["ArrayFrames", "axis_letters", "open_npy"]


# Four days at 30 frames a second; a store of a few bytes may claim any number.
MAX_FRAMES = 10**7


class ArrayFrames:
    """Frames of a sliceable array, readable from any thread.

    Parameters
    ----------
    array : array-like
        Anything with ``shape``, ``dtype`` and numpy slicing.
    axes : str, optional
        One letter an axis out of ``TZYXC`` and others (of length 1).
    limits : (float, float), optional
        See `choose_levels`.
    where : str
        What errors call it.
    block : int
        Frames that lie together in storage and are read at once.
    cache_bytes : int
        Memory for frames read ahead; unused where `block` is 1.

    Raises
    ------
    VideoError
        The shape or the number type cannot be a video.
    """

    def __init__(
        self,
        array: Any,
        axes: str | None = None,
        *,
        limits: tuple[float, float] | None = None,
        where: str = "the array",
        block: int = 1,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        owner: Any = None,
    ) -> None:
        self._array = array
        self._where = where
        self._owner = owner
        self._axes = _checked_axes(tuple(array.shape), axes, where)
        sizes = dict(zip(self._axes, array.shape, strict=True))
        self._count, self.height, self.width = (int(sizes[a]) for a in "TYX")
        if is_too_large(self.width, self.height) or self._count > MAX_FRAMES:
            raise VideoError(
                f"{where} claims {self._count} frames of {self.width}x{self.height}, more than "
                "can be read; give a part of it."
            )
        self._cache: FrameCache[npt.NDArray[np.uint8]] = FrameCache(cache_bytes)
        frame_bytes = self.height * self.width * 3
        self._block = max(1, min(block, cache_bytes // 4 // max(1, frame_bytes)))
        dtype = np.dtype(array.dtype)
        self._levels = choose_levels(
            dtype, self._count, lambda n: self._native(n, n + 1), limits, where=where
        )

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Let go of the array and of the file beneath it."""
        self._cache.clear()
        self._array = None
        if self._owner is not None:
            self._owner.close()

    def read_into(self, out: npt.NDArray[np.uint8], start: int) -> None:
        """Write the frames from `start` on into `out`, uint8 of shape (n, H, W, 3)."""
        at, stop = start, start + len(out)
        alone = max(1, 2**26 // (self.height * self.width * 3))
        while at < stop:
            if (frame := self._cache.get(at)) is not None:
                out[at - start] = frame
                at += 1
                continue
            # Frames that lie together are read together, and kept.
            first = at - at % self._block
            last = first + self._block if self._block > 1 else min(stop, at + alone)
            block = self._rgb(first, min(last, self._count))
            upto = min(stop, first + len(block))
            out[at - start : upto - start] = block[at - first : upto - first]
            if self._block > 1:
                for n, picture in enumerate(block, first):
                    self._cache.put(n, picture.copy(), picture.nbytes)
            at = upto

    def _rgb(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        frames = self._levels.to_uint8(self._native(start, stop)[..., :3])
        return frames if frames.shape[3] == 3 else np.repeat(frames, 3, axis=3)

    def _native(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return frames as (n, H, W, C) of the native type."""
        array = self._array
        if array is None:
            raise VideoError(f"{self._where} was closed; open it again.")
        index = tuple(
            slice(start, stop) if a == "T" else slice(None) if a in "YXC" else 0 for a in self._axes
        )
        try:
            frames = np.asarray(array[index])
        except FlowRVSError:
            raise
        # Stores raise whatever their codecs raise.
        except Exception as error:
            raise VideoError(
                f"Frames {start} to {stop - 1} of {self._where} cannot be read ({error})."
            ) from error
        kept = [a for a in self._axes if a in "TYXC"]
        if "C" not in kept:
            frames, kept = frames[..., None], [*kept, "C"]
        return frames.transpose([kept.index(a) for a in "TYXC"])


def _checked_axes(shape: tuple[int, ...], axes: str | None, where: str) -> str:
    size = "x".join(map(str, shape))
    if axes is None:
        if len(shape) not in (3, 4):
            raise VideoError(
                f"{where} has the shape {size}; a video is (T, H, W) or (T, H, W, channels)."
            )
        axes = "TYXC"[: len(shape)]
    if "T" not in axes and axes.count("Z") == 1:
        axes = axes.replace("Z", "T")
    sizes = dict(zip(axes, shape, strict=False))
    if len(axes) != len(shape) or len(sizes) != len(axes) or not {"T", "Y", "X"} <= sizes.keys():
        raise VideoError(f"{where} has the axes {axes} ({size}); a video needs T, Y and X.")
    extra = [a for a in axes if a not in "TYXC" and sizes[a] != 1]
    if extra:
        raise VideoError(
            f"{where} has {sizes[extra[0]]} planes along {extra[0]} ({axes} {size}); "
            "choose one of them and give that array."
        )
    if sizes.get("C", 1) not in (1, 3, 4):
        raise VideoError(
            f"{where} has {sizes['C']} channels ({axes} {size}); "
            "pictures have 1 (grey), 3 (RGB) or 4 (RGBA): choose some and give that array."
        )
    if 0 in shape:
        raise VideoError(f"{where} holds no pixels ({size}); a video needs at least one frame.")
    return axes


def axis_letters(names: Sequence[str | None] | None) -> str | None:
    """Turn axis names such as ``time`` or ``height`` into letters."""
    known = {
        "time": "T", "t": "T", "frame": "T", "frames": "T", "z": "Z", "depth": "Z",
        "y": "Y", "height": "Y", "row": "Y", "rows": "Y",
        "x": "X", "width": "X", "column": "X", "columns": "X",
        "c": "C", "channel": "C", "channels": "C", "rgb": "C", "band": "C", "s": "C",
    }  # fmt: skip
    letters = [known.get(str(name).lower()) for name in names or ()]
    return "".join(a for a in letters if a) if letters and None not in letters else None


def open_npy(path: Path, **options: Any) -> ArrayFrames:
    """Open a ``.npy`` file, mapped into memory.

    Raises
    ------
    VideoError
        Truncated, holds Python objects, or no video shape.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # A damaged header makes numpy raise OverflowError, TypeError, SyntaxError and others.
    except Exception as error:
        raise VideoError(
            f"{path} cannot be read as a numpy array ({first_line(error)})."
        ) from error
    return ArrayFrames(array, where=str(path), **options)
