"""TIFF stacks as videos: OME-TIFF, ImageJ and others, and files written page by page.

tifffile reads them; palettes, and LZW or JPEG without its codecs, are left to PIL.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from xml.sax.saxutils import unescape

import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from flowrvs.errors import VideoError, first_line
from flowrvs.video.arrays import ArrayFrames
from flowrvs.video.images import ImageFiles
from flowrvs.video.probe import is_too_large
from flowrvs.video.zarr_store import unpacked_size

__all__ = ["open_tiff"]

# Compressions that tifffile unpacks without a limit.
CODECS = {8: "zlib", 32946: "zlib", 34925: "lzma", 50000: "zstd", 34926: "zstd"}
# Planes that the metadata may speak of: tifffile makes lists as long as the text says.
MAX_PLANES = 10**7


class _Pages:
    """Pages of one shape and type as an array, read on request."""

    def __init__(self, pages: list[Any]) -> None:
        self._pages = pages
        self._lock = threading.Lock()
        self.shape = (len(pages), *pages[0].shape)
        self.dtype = pages[0].dtype

    def __getitem__(self, index: tuple[Any, ...]) -> npt.NDArray[Any]:
        with self._lock:
            return np.stack([page.asarray() for page in self._pages[index[0]]])


def open_tiff(path: Path, **options: Any) -> ArrayFrames | ImageFiles:
    """Open a TIFF stack.

    Raises
    ------
    VideoError
        Not a readable TIFF, its pages differ in size, or files that belong to it are missing.
    """
    # Its warnings would reach the terminal of a program that has set up no logging.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    file = None
    frames = None
    try:
        # Micro-Manager's own indices name further files; its pages are found without them.
        file = tifffile.TiffFile(path, is_mmstack=False, is_ndtiff=False)
        if not file.pages:
            raise VideoError(f"{path} holds no pages; it is damaged or empty.")
        first = file.pages[0]
        _check_page(first, path)
        _check_companions(file, path)
        photometric = str(getattr(first.photometric, "name", ""))
        # Grey with alpha (two samples) and the rest is what PIL knows.
        if photometric == "RGB" or (photometric == "MINISBLACK" and first.samplesperpixel != 2):
            array, axes = _array(file, path)
            if _has_codec(array):
                frames = ArrayFrames(array, axes, where=str(path), owner=file, **options)
    except VideoError:
        raise
    except MemoryError as error:
        raise VideoError(f"{path} needs more memory than there is; make it smaller.") from error
    # Damaged files make tifffile raise whatever its many readers of metadata raise.
    except Exception as error:
        raise VideoError(f"{path} cannot be read as TIFF ({first_line(error)}).") from error
    finally:
        if file is not None and frames is None:
            file.close()
    return frames or ImageFiles([path], alone=True, **options)


def _array(file: tifffile.TiffFile, path: Path) -> tuple[Any, str]:
    """Return the array of frames, read on request, and its axes."""
    series = file.series
    if len(series) == 1 or file.is_ome:
        _check_page(series[0].keyframe, path)
        array, axes = zarr.open(series[0].aszarr(level=0), mode="r"), _axes(series[0].axes)
        return (array, axes) if "T" in axes else (np.asarray(array)[None], f"T{axes}")
    pages = [page for page in file.pages if not page.is_reduced] or list(file.pages)
    for page in pages:
        _check_page(page, path)
    alike = Counter((page.shape, page.dtype) for page in pages).most_common(1)[0][0]
    for n, page in enumerate(pages):
        if (page.shape, page.dtype) != alike:
            sizes = ["x".join(map(str, shape)) for shape in (page.shape, alike[0])]
            raise VideoError(
                f"Page {n} of {path} differs in size or type: {sizes[0]} {page.dtype}, others are "
                f"{sizes[1]} {alike[1]}; give one stack a file."
            )
    return _Pages(pages), f"T{pages[0].axes.replace('S', 'C')}"


def _axes(axes: str) -> str:
    """Name the axis along which the pages follow each other T, and samples C."""
    for pages in "TZIQC":
        if pages in axes:
            axes = axes.replace(pages, "T", 1)
            break
    return axes.replace("S", "C") if "C" not in axes else axes


def _has_codec(array: Any) -> bool:
    try:
        array[tuple(slice(0, 1) for _ in array.shape)]
    except Exception:
        return False
    return True


def _check_page(page: Any, path: Path) -> None:
    """Refuse a page that is too large, and make reading it refuse strips that are."""
    samples = math.prod(page.chunks)
    if is_too_large(page.imagewidth, page.imagelength * page.imagedepth) or samples > 2**28:
        raise VideoError(f"{path} has more pixels than can be read; make it smaller.")
    if page.samplesperpixel > 4:
        raise VideoError(f"{path} has {page.samplesperpixel} samples a pixel; give 1, 3 or 4.")
    codec = CODECS.get(int(page.compression))
    decode, limit = page.decode, 2 * samples * getattr(page.dtype, "itemsize", 8) + 2**16

    def decode_bounded(data: bytes | None, *arguments: Any, **options: Any) -> Any:
        if codec and data and unpacked_size(codec, data, limit) > limit:
            raise VideoError(f"{path} unpacks to more than its pages allow; get another copy.")
        return decode(data, *arguments, **options)

    page.__dict__["decode"] = decode_bounded


def _check_companions(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse an OME-TIFF that lacks a part, reaches out of its folder or claims too much.

    tifffile shows black frames for files that are not there.
    """
    text = file.ome_metadata or ""
    numbers = re.findall(r'(?:Size[TCZ]|First[TCZ]|IFD|NumPlanes|PlaneCount)="(\d+)"', text)
    planes = [re.findall(rf'Size{axis}="(\d+)"', text) or ["1"] for axis in "TCZ"]
    claims = [*map(int, numbers), math.prod(max(map(int, sizes)) for sizes in planes)]
    for along in re.findall(r"<ModuloAlong[^>]*>", text):
        start, end, step = (
            float(found[1]) if (found := re.search(rf'{key}="([^"]*)"', along)) else default
            for key, default in (("Start", 0.0), ("End", 0.0), ("Step", 1.0))
        )
        claims.append(int((end - start) / step))
    if max(claims) > MAX_PLANES:
        raise VideoError(f"{path} claims {max(claims)} planes; save it as a plain TIFF.")
    for name in dict.fromkeys(re.findall(r'FileName="([^"]*)"', text)):
        beside = path.parent / unescape(name)
        if name.lower() == path.name.lower():
            continue
        if beside.parent != path.parent or not beside.is_file() or beside.is_symlink():
            raise VideoError(
                f"{path} is a part of an OME-TIFF; {name}, which belongs to it, is not beside it. "
                "Put it there, or save this part as a plain TIFF."
            )
