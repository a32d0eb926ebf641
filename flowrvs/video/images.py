"""Image files as videos: one file a frame (MeViS video folders), or one animation or TIFF."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from flowrvs.errors import VideoError
from flowrvs.video.cache import DEFAULT_CACHE_BYTES, FrameCache
from flowrvs.video.levels import Levels, choose_levels
from flowrvs.video.probe import is_too_large

__all__ = ["ImageFiles", "open_image", "read_image"]

# What PIL may try. Of its other readers some start programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "TGA", "GIF", "AVIF")
# PIL modes with more than 8 bits a pixel; `convert("RGB")` would clip them.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# EXIF orientations that swap height and width.
SIDEWAYS = (5, 6, 7, 8)


def open_image(path: str | Path) -> Image.Image:
    """Open an image of a known format and a sane size, not decoded yet; errors are PIL's."""
    Image.init()
    image = Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN])
    if is_too_large(*image.size):
        image.close()
        raise Image.DecompressionBombError
    return image


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turn whatever PIL raises into a `VideoError`."""
    try:
        yield
    except VideoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise VideoError(f"{path} has more pixels than can be read; make it smaller.") from None
    except MemoryError as error:
        raise VideoError(f"{path} needs more memory than there is; make it smaller.") from error
    # Damaged files make PIL raise OSError, SyntaxError, struct.error, KeyError and others.
    except Exception as error:
        reason = getattr(error, "strerror", None) or "damaged or not an image"
        raise VideoError(f"{path} cannot be read as an image ({reason}).") from error


def read_image(path: str | Path, levels: Levels | None = None) -> npt.NDArray[np.uint8]:
    """Read one image as RGB.

    Alpha is dropped (colours as stored), grey is repeated, a palette is looked up, the
    EXIF orientation is applied.

    Parameters
    ----------
    path : str or Path
        JPEG, PNG, TIFF, BMP, WebP, PPM, JPEG 2000, TGA, GIF or AVIF.
    levels : Levels, optional
        How 16-bit and float images become uint8; by default by their own values, see
        :mod:`flowrvs.video.levels`.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    VideoError
        The file is missing, truncated, too large or no image.
    """
    with _reading(path), open_image(path) as image:
        return _pixels(image, levels)


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


class ImageFiles:
    """Frames that are image files, or the pictures in one of them, readable from any thread.

    Parameters
    ----------
    paths : sequence of Path
        One file a frame, in order.
    alone : bool
        The only file may be an animation (WebP, AVIF) or TIFF, whose pictures are the frames.
    limits : (float, float), optional
        See `choose_levels`.
    cache_bytes : int
        Memory for decoded frames.

    Attributes
    ----------
    rate : float or None
        Frames per second, where an animation states them.

    Raises
    ------
    VideoError
        An image cannot be read, their sizes differ, or one of several holds more than one.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        alone: bool = False,
        limits: tuple[float, float] | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.paths = list(paths)
        self.rate: float | None = None
        self._cache: FrameCache[npt.NDArray[np.uint8]] = FrameCache(cache_bytes)
        # Kept open, for each frame of an animation builds upon the one before.
        self._animation: Image.Image | None = None
        self._lock = threading.Lock()
        self._count = len(self.paths)
        sizes: list[tuple[int, int]] = []
        deep = False
        for path in self.paths:
            with _reading(path), open_image(path) as image:
                sideways = image.getexif().get(0x0112, 1) in SIDEWAYS
                sizes.append(image.size if sideways else image.size[::-1])
                deep = deep or image.mode in DEEP_MODES
                # The further pictures of a camera's JPEG (MPO) are previews or another eye.
                pages = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
            if pages > 1 and not alone:
                raise VideoError(
                    f"{path} has {pages} pages in it; open it by itself, "
                    "or keep one picture a file."
                )
            if pages > 1:
                with _reading(path):
                    self._animation = open_image(path)
                    self._animation.load()
                duration = self._animation.info.get("duration")
                self._count, self.rate = pages, 1000 / duration if duration else None
        self.height, self.width = Counter(sizes).most_common(1)[0][0]
        for n, (height, width) in enumerate(sizes):
            if (height, width) != (self.height, self.width):
                like = self.paths[sizes.index((self.height, self.width))].name
                raise VideoError(
                    f"{self.paths[n]} is {width}x{height} but {like} is "
                    f"{self.width}x{self.height}; frames of one video share one size."
                )
        self._levels: Levels | None = None
        if deep:
            first = self._native(0)
            self._levels = choose_levels(first.dtype, len(self), self._native, limits)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Close the file and drop the cached frames."""
        with self._lock:
            if self._animation is not None:
                self._animation.close()
        self._cache.clear()

    def read_into(self, out: npt.NDArray[np.uint8], start: int) -> None:
        """Write the frames from `start` on into `out`, uint8 of shape (n, H, W, 3)."""
        for n in range(start, start + len(out)):
            frame = self._cache.get(n)
            if frame is None:
                with self._picture(n) as image:
                    frame = _pixels(image, self._levels)
                if frame.shape[:2] != (self.height, self.width):
                    raise VideoError(
                        f"Frame {n} of {self.paths[0].parent} is {frame.shape[1]}x"
                        f"{frame.shape[0]}, not {self.width}x{self.height}; frames of one "
                        "video share one size."
                    )
                self._cache.put(n, frame, frame.nbytes)
            out[n - start] = frame

    @contextmanager
    def _picture(self, n: int) -> Iterator[Image.Image]:
        if self._animation is None:
            with _reading(self.paths[n]), open_image(self.paths[n]) as image:
                yield image
        else:
            with self._lock, _reading(f"Picture {n} of {self.paths[0]}"):
                self._animation.seek(n)
                yield self._animation

    def _native(self, n: int) -> npt.NDArray[np.generic]:
        with self._picture(n) as image:
            return np.asarray(image)
