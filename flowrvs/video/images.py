"""Folders of images as videos: one file a frame, MeViS video folders among them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from flowrvs.errors import VideoError
from flowrvs.video.cache import DEFAULT_CACHE_BYTES, FrameCache
from flowrvs.video.levels import Levels, choose_levels

__all__ = ["ImageFiles", "read_image"]

# PIL modes with more than 8 bits a pixel; `convert("RGB")` would clip them.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# EXIF orientations that swap height and width.
SIDEWAYS = (5, 6, 7, 8)
# PIL's guard against huge images; frames beyond it are refused, not decoded.
MAX_PIXELS = 2**28


def read_image(path: str | Path, levels: Levels | None = None) -> npt.NDArray[np.uint8]:
    """Read one image as RGB.

    Alpha is dropped (colours as stored), grey is repeated, a palette is looked up, the
    EXIF orientation is applied.

    Parameters
    ----------
    path : str or Path
        JPEG, PNG, TIFF or another format that PIL reads.
    levels : Levels, optional
        How 16-bit and float images become uint8; by default by their own values, see
        :mod:`flowrvs.video.levels`.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    VideoError
        The file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return _pixels(image, levels)
    except Image.DecompressionBombError:
        raise VideoError(f"{path} has more pixels than can be read; make it smaller.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "damaged or not an image"
        raise VideoError(f"{path} cannot be read as an image ({reason}).") from error


def _pixels(image: Image.Image, levels: Levels | None = None) -> npt.NDArray[np.uint8]:
    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in DEEP_MODES:
        deep = np.asarray(image)
        if levels is None:
            levels = choose_levels(deep.dtype, 1, lambda _: deep)
        return np.repeat(levels.to_uint8(deep)[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image, dtype=np.uint8)


def _head(path: Path) -> tuple[int, int, str, int]:
    """Return height, width, mode and page count of an image without decoding it."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise VideoError(f"{path} has more pixels than can be read; make it smaller.")
            if image.getexif().get(0x0112, 1) in SIDEWAYS:
                height, width = width, height
            return height, width, image.mode, getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise VideoError(f"{path} has more pixels than can be read; make it smaller.") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "damaged or not an image"
        raise VideoError(f"{path} cannot be read as an image ({reason}).") from error


class ImageFiles:
    """Frames that are image files, or the pages of one TIFF, readable from any thread.

    Parameters
    ----------
    paths : sequence of Path
        One file a frame, in order; or a single file together with `pages`.
    pages : bool
        Take the pages of the only file as frames.
    limits : (float, float), optional
        See `choose_levels`.
    cache_bytes : int
        Memory for decoded frames.

    Raises
    ------
    VideoError
        An image cannot be read, or their sizes differ.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        pages: bool = False,
        limits: tuple[float, float] | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.paths = list(paths)
        self._pages = pages
        self._lock = threading.Lock()
        self._cache: FrameCache[npt.NDArray[np.uint8]] = FrameCache(cache_bytes)
        self.height, self.width, mode, count = _head(self.paths[0])
        self._count = count if pages else len(self.paths)
        deep = mode in DEEP_MODES
        if not pages:
            for path in self.paths:
                height, width, other, inside = _head(path)
                if (height, width) != (self.height, self.width):
                    raise VideoError(
                        f"{path} is {width}x{height} but {self.paths[0].name} is "
                        f"{self.width}x{self.height}; frames of one video share one size."
                    )
                if inside > 1 and path.suffix.lower() in (".tif", ".tiff"):
                    raise VideoError(
                        f"{path} has {inside} pages in it; open it by itself, "
                        "or keep one picture a file."
                    )
                deep = deep or other in DEEP_MODES
        self._levels: Levels | None = None
        if deep:
            first = self._native(0)
            self._levels = choose_levels(first.dtype, len(self), self._native, limits)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Drop the cached frames."""
        self._cache.clear()

    def read_into(self, out: npt.NDArray[np.uint8], start: int) -> None:
        """Write the frames from `start` on into `out`, uint8 of shape (n, H, W, 3)."""
        for n in range(start, start + len(out)):
            frame = self._cache.get(n)
            if frame is None:
                frame = self._read(n)
                self._cache.put(n, frame, frame.nbytes)
            out[n - start] = frame

    def _read(self, n: int) -> npt.NDArray[np.uint8]:
        if self._pages:
            frame = self._page(n, self._levels)
        else:
            frame = read_image(self.paths[n], self._levels)
        if frame.shape[:2] != (self.height, self.width):
            raise VideoError(
                f"Frame {n} of {self.paths[0].parent} is {frame.shape[1]}x{frame.shape[0]}, "
                f"not {self.width}x{self.height}; frames of one video share one size."
            )
        return frame

    def _page(self, n: int, levels: Levels | None) -> npt.NDArray[np.uint8]:
        try:
            with Image.open(self.paths[0]) as image:
                image.seek(n)
                return _pixels(image, levels)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise VideoError(f"Page {n} of {self.paths[0]} cannot be read ({error}).") from error

    def _native(self, n: int) -> npt.NDArray[np.generic]:
        try:
            with Image.open(self.paths[0 if self._pages else n]) as image:
                if self._pages:
                    image.seek(n)
                return np.asarray(image)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise VideoError(f"{self.paths[n]} cannot be read as an image ({error}).") from error
