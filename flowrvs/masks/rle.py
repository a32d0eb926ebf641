"""COCO compressed run-length encoding, as MeViS and YouTube-VIS store masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from flowrvs.errors import DatasetError

__all__ = ["RLE", "area", "box", "decode", "encode", "merge", "overlaps"]

# As for frames, see flowrvs.video.probe: a file of a few bytes may claim any size.
MAX_PIXELS = 2**26
_DAMAGED = "The RLE's runs do not fill {}x{} pixels; it is damaged."


class RLE(TypedDict):
    """A mask in COCO's compressed run-length encoding (column-major).

    ``size`` is ``[height, width]``, ``counts`` the compressed runs as ``str``.
    """

    size: list[int]
    counts: str


def encode(mask: npt.ArrayLike) -> RLE:
    """Encode one mask.

    Parameters
    ----------
    mask : array_like of bool or integers, shape (H, W)
        Non-zero is foreground.

    Returns
    -------
    RLE
        Ready for ``json.dump``.

    Raises
    ------
    DatasetError
        `mask` is not two-dimensional or has no pixels.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or 0 in array.shape:
        raise DatasetError(f"A mask must be (H, W) with pixels in it, not of shape {array.shape}.")
    rle = coco_mask.encode(np.asfortranarray(array != 0, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rle: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Decode one mask.

    Parameters
    ----------
    rle : mapping
        ``size`` and ``counts``; the counts may be compressed (``str`` or ``bytes``)
        or COCO's plain list of run lengths.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    DatasetError
        The runs are malformed or do not fill the size they claim.
    """
    return np.ascontiguousarray(coco_mask.decode(_checked(rle)).astype(bool))


def area(rle: Mapping[str, Any]) -> int:
    """Return the number of foreground pixels of `rle` without decoding it."""
    return int(coco_mask.area(_checked(rle)))


def box(rle: Mapping[str, Any]) -> list[float]:
    """Return ``[left, top, width, height]`` in pixels of `rle`, without decoding it."""
    return [float(n) for n in coco_mask.toBbox(_checked(rle))]


def merge(rles: Iterable[Mapping[str, Any]]) -> RLE | None:
    """Return the union of masks of one size; None when there are none.

    Raises
    ------
    DatasetError
        The masks differ in size or one is malformed.
    """
    items = [_checked(rle) for rle in rles]
    if not items:
        return None
    sizes = {tuple(item["size"]) for item in items}
    if len(sizes) > 1:
        raise DatasetError(f"Masks of different sizes cannot be joined: {sorted(sizes)}.")
    union = coco_mask.merge(items)
    return {"size": [int(n) for n in union["size"]], "counts": union["counts"].decode("ascii")}


def overlaps(rles: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.bool_]:
    """Return which of some masks of one size share a pixel, shape (N, N), without decoding.

    Raises
    ------
    DatasetError
        One is malformed.
    """
    items = [_checked(rle) for rle in rles]
    if not items:
        return np.zeros((0, 0), np.bool_)
    return np.asarray(coco_mask.iou(items, items, [0] * len(items))) > 0


def runs(rle: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the lengths of the runs, column-major, background first; their sum is H * W.

    Raises
    ------
    DatasetError
        The runs are malformed or do not fill the size they claim.
    """
    return _parsed(rle)[2]


def _checked(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rle` as pycocotools wants it, its runs verified.

    pycocotools trusts its input: runs that end early or late leave memory
    uninitialised or written past the end, so they are summed here first.
    """
    size, counts, lengths = _parsed(rle)
    if counts is None:
        packed: dict[str, Any] = coco_mask.frPyObjects(
            {"size": size, "counts": lengths.tolist()}, *size
        )
        return packed
    return {"size": size, "counts": counts}


def _parsed(rle: Mapping[str, Any]) -> tuple[list[int], bytes | None, npt.NDArray[np.int64]]:
    """Return the size, the compressed counts where there are any, and the runs."""
    try:
        height, width = map(_whole, rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise DatasetError(
            "An RLE needs 'size' [height, width] and 'counts'; write it with pycocotools."
        ) from None
    if height <= 0 or width <= 0:
        raise DatasetError(f"An RLE of size [{height}, {width}] has no pixels.")
    if height * width > MAX_PIXELS:
        raise DatasetError(f"An RLE of size [{height}, {width}] is larger than any frame.")
    if isinstance(counts, (list, tuple)):
        try:
            plain = list(map(_whole, counts))
        except (TypeError, ValueError):
            plain = []
        if any(n < 0 for n in plain) or sum(plain) != height * width:
            raise DatasetError(_DAMAGED.format(height, width))
        return [height, width], None, np.asarray(plain, dtype=np.int64)
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError:
            counts = b"\x00"
    lengths = _lengths(counts) if isinstance(counts, bytes) else None
    if lengths is None or lengths.sum() != height * width:
        raise DatasetError(_DAMAGED.format(height, width))
    return [height, width], counts, lengths


def _whole(number: Any) -> int:
    """Return a whole number as int; JSON may hold 480.0 for it, or Infinity, null and text."""
    return int(number) if isinstance(number, float) and number.is_integer() else index(number)


def _lengths(counts: bytes) -> npt.NDArray[np.int64] | None:
    """Return the lengths of compressed runs, None when malformed.

    The code is COCO's: five bits a character (offset 48, bit 5 "more follows"), the
    last character's bit 4 the sign; from the fourth run on, a difference to the run
    before the last (pycocotools ``rleFrString``).
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    position = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if position.max() > 6:
        return None
    values = np.add.reduceat((codes & 0x1F) << (5 * position), starts)
    negative = (codes[ends] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * (ends - starts + 1)), 0)
    # Runs 1, 3, 5, ... and 2, 4, 6, ... are two running sums; run 0 stands alone.
    lengths = values.copy()
    lengths[1::2] = np.cumsum(values[1::2])
    lengths[2::2] = np.cumsum(values[2::2])
    return None if lengths.min() < 0 else lengths
