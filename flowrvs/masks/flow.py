"""Dense optical flow between frames, computed around an object and kept for the next one.

DIS flow (OpenCV, the ``flow`` extra) where it is installed: `benchmarks/annotator.py`
measures it as quicker and better than scikit-image's iterative Lucas-Kanade, which
is what runs without it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2lab
from skimage.registration import optical_flow_ilk

from flowrvs.errors import InputError
from flowrvs.masks.shape import opencv

__all__ = ["Flows", "Region", "has_dis", "sample"]

Floats = npt.NDArray[np.float32]
FrameReader = Callable[[int], npt.NDArray[np.uint8]]

#: Sides of regions are multiples of this, so that neighbouring spreads ask for the same ones.
_GRID = 32
#: Regions of fewer pixels are doubled for DIS, whose patches are 8 pixels wide.
_DOUBLE_BELOW = 320 * 320
_REMAPPED = 2**15  # OpenCV counts the sides of pictures in 16 bits


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the picture, in working pixels of `step` by `step` source pixels.

    Attributes
    ----------
    top, bottom, left, right : int
        First row and column and one past the last, in working pixels.
    step : int
        Side of a working pixel in source pixels, 1 or more.
    """

    top: int
    bottom: int
    left: int
    right: int
    step: int = 1

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the region in a working picture."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns in working pixels."""
        return self.bottom - self.top, self.right - self.left

    def holds(self, other: Region) -> bool:
        """Tell whether `other` lies within this region, at the same step."""
        return (
            self.step == other.step
            and self.top <= other.top
            and self.bottom >= other.bottom
            and self.left <= other.left
            and self.right >= other.right
        )

    def part(self, other: Region) -> tuple[slice, slice]:
        """Index of `other` within an array of this region."""
        return (
            slice(other.top - self.top, other.bottom - self.top),
            slice(other.left - self.left, other.right - self.left),
        )


class Flows:
    """Optical flow between frames of one video, and the pictures it is made of.

    Flow is computed for a region and remembered by pair of frames, so that several objects
    and later spreads share it. Safe to use from several threads.

    Parameters
    ----------
    read : callable
        ``read(t)`` returns frame `t`, uint8, shape (H, W, 3), RGB.
    shape : tuple of int
        (T, H, W) of the video.
    method : {"auto", "dis", "ilk"}
        ``"dis"`` needs OpenCV; ``"auto"`` takes it where it is installed.
    cache_bytes : int
        Memory for flow and pictures.

    Raises
    ------
    InputError
        `method` is unknown or OpenCV is missing.
    """

    def __init__(
        self,
        read: FrameReader,
        shape: tuple[int, int, int],
        *,
        method: Literal["auto", "dis", "ilk"] = "auto",
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        if method not in ("auto", "dis", "ilk"):
            raise InputError(f"Flow method {method!r} is unknown; use 'auto', 'dis' or 'ilk'.")
        if method == "dis" and not has_dis():
            raise InputError("DIS flow needs OpenCV: pip install 'napari-flowrvs[flow]'.")
        self.shape = shape
        self.method = "dis" if method != "ilk" and has_dis() else "ilk"
        self._read = read
        self._limit = cache_bytes
        self._used = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], list[tuple[Region, Floats]]] = OrderedDict()

    def between(self, a: int, b: int, region: Region) -> Floats:
        """Return where the pixels of frame `a` lie in frame `b`.

        Parameters
        ----------
        a, b : int
            Frames.
        region : Region
            The pixels of frame `a` that are asked for.

        Returns
        -------
        ndarray of float32, shape (h, w, 2)
            Rows and columns to add, in working pixels.
        """
        return self._cached(("flow", a, b), region, lambda: self._flow(a, b, region))

    def lab(self, t: int, region: Region) -> Floats:
        """Return a region of frame `t` in CIE Lab, float32, shape (h, w, 3)."""
        return self._cached(("lab", t), region, lambda: rgb2lab(self._rgb(t, region) / 255.0))

    # -- inside --------------------------------------------------------------------------

    def _cached(self, key: tuple[Any, ...], region: Region, make: Callable[[], Any]) -> Floats:
        with self._lock:
            for held, values in self._kept.get(key, ()):
                if held.holds(region):
                    self._kept.move_to_end(key)
                    return values[held.part(region)]
        values = np.ascontiguousarray(make(), dtype=np.float32)
        with self._lock:
            self._kept.setdefault(key, []).append((region, values))
            self._kept.move_to_end(key)
            self._used += values.nbytes
            while self._used > self._limit and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._used -= sum(each.nbytes for _, each in dropped)
        return values

    def _rgb(self, t: int, region: Region) -> Floats:
        """Return block means of a region, 0 to 255; beyond the edge the edge goes on."""
        step = region.step
        rows, columns = region.slices
        part = self._read(t)[
            rows.start * step : rows.stop * step, columns.start * step : columns.stop * step
        ]
        return block_mean(part.astype(np.float32), step)

    def _gray(self, t: int, region: Region) -> Floats:
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        return self._cached(("gray", t), region, lambda: self._rgb(t, region) @ weights)

    def _flow(self, a: int, b: int, region: Region) -> npt.NDArray[Any]:
        return self.match(self._gray(a, region), self._gray(b, region))

    def match(self, first: Floats, second: Floats) -> npt.NDArray[Any]:
        """Return where the pixels of one picture, 0 to 255, lie in another of equal size."""
        if min(first.shape) < 16:  # too small for either method's patches
            return np.zeros((*first.shape, 2), np.float32)
        if self.method == "dis":
            return _dis(first, second)
        rows, columns = optical_flow_ilk(first / 255, second / 255, radius=5, num_warp=5)
        return np.stack([rows, columns], axis=-1)


def block_mean(values: Floats, step: int) -> Floats:
    """Return the means of blocks of `step` by `step`; incomplete ones repeat the edge."""
    if step == 1:
        return values
    cv2 = opencv()
    if cv2 is not None and not (values.shape[0] % step or values.shape[1] % step):
        size = values.shape[1] // step, values.shape[0] // step
        blocks: Floats = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        return blocks
    rows, columns = (-n % step for n in values.shape[:2])
    rest = [(0, 0)] * (values.ndim - 2)
    if rows or columns:
        values = np.pad(values, [(0, rows), (0, columns), *rest], mode="edge")
    rows_added = np.add.reduce([values[i::step] for i in range(step)])
    mean: Floats = np.add.reduce([rows_added[:, i::step] for i in range(step)]) / step**2
    return mean


def region_around(
    mask: npt.NDArray[np.bool_],
    margin: int,
    step: int,
    *,
    shape: tuple[int, int] | None = None,
    last: Region | None = None,
) -> Region:
    """Return a region that holds a working mask and a margin around it.

    Parameters
    ----------
    mask : ndarray of bool, shape (h, w)
        In working pixels, not empty; the whole picture, or that of the region `last`.
    margin : int
        Working pixels around it.
    step : int
        Source pixels a working pixel.
    shape : tuple of int, optional
        Rows and columns of the working picture, if the mask is that of `last`.
    last : Region, optional
        The last region, kept while half the margin is left in it and it is not far too large.
    """
    h, w = shape or mask.shape
    top, left = (last.top, last.left) if last is not None else (0, 0)
    rows = [top + int(i) for i in np.flatnonzero(mask.any(1))[[0, -1]]]
    columns = [left + int(i) for i in np.flatnonzero(mask.any(0))[[0, -1]]]

    def around(m: int, grid: int) -> Region:
        return Region(
            max(0, (rows[0] - m) // grid * grid),
            min(h, -(-(rows[1] + 1 + m) // grid) * grid),
            max(0, (columns[0] - m) // grid * grid),
            min(w, -(-(columns[1] + 1 + m) // grid) * grid),
            step,
        )

    wanted = around(margin, _GRID)
    if last is not None:
        needed = around(margin // 2, 1)
        large = last.shape[0] * last.shape[1] > 2 * wanted.shape[0] * wanted.shape[1]
        if last.holds(needed) and not large:
            return last
    return wanted


def sample(image: npt.NDArray[Any], rows: Floats, columns: Floats) -> Floats:
    """Return an image at fractional positions, bilinear; outside, the edge goes on.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, C)
    rows, columns : ndarray of float32, equal shapes

    Returns
    -------
    ndarray of float32, shape of `rows` (and C)
    """
    h, w = image.shape[:2]
    cv2 = opencv()
    if cv2 is not None and rows.ndim == 2 and image.dtype == np.float32 and max(h, w) < _REMAPPED:
        # Ten times as quick; positions are rounded to 1/32 of a pixel.
        maps = columns.astype(np.float32, copy=False), rows.astype(np.float32, copy=False)
        parts = (
            [image] if image.ndim == 2 else np.array_split(image, -(-image.shape[2] // 4), axis=2)
        )
        found = [
            cv2.remap(part, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(
                *rows.shape, *part.shape[2:]
            )
            for part in map(np.ascontiguousarray, parts)
        ]
        moved: Floats = found[0] if len(found) == 1 else np.concatenate(found, axis=2)
        return moved
    rows = np.clip(rows, 0, h - 1)
    columns = np.clip(columns, 0, w - 1)
    top = np.minimum(rows.astype(np.intp), max(0, h - 2))
    left = np.minimum(columns.astype(np.intp), max(0, w - 2))
    down, right = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    flat = image.reshape(h * w, *image.shape[2:])
    if image.ndim == 3:
        down, right = down[..., None], right[..., None]
    at = top * w + left
    below, beside = (w if h > 1 else 0), (1 if w > 1 else 0)
    upper = flat[at] * (1 - right) + flat[at + beside] * right
    lower = flat[at + below] * (1 - right) + flat[at + below + beside] * right
    mixed: Floats = (upper * (1 - down) + lower * down).astype(np.float32, copy=False)
    return mixed


def has_dis() -> bool:
    """Tell whether OpenCV's DIS flow is installed."""
    return hasattr(opencv(), "DISOpticalFlow")


def _dis(first: Floats, second: Floats) -> npt.NDArray[np.float32]:
    cv2 = opencv()
    h, w = first.shape
    double = h * w < _DOUBLE_BELOW
    pictures = []
    for gray in (first, second):
        if double:
            gray = cv2.resize(gray, (2 * w, 2 * h), interpolation=cv2.INTER_CUBIC)
        pictures.append(np.clip(np.rint(gray), 0, 255).astype(np.uint8))
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setPatchStride(3)
    flow = dis.calc(pictures[0], pictures[1], None)
    if double:
        flow = cv2.resize(flow, (w, h), interpolation=cv2.INTER_LINEAR) / 2
    result: npt.NDArray[np.float32] = flow[..., ::-1]
    return result
