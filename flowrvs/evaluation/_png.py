"""Mask pictures, read straight into packed bits."""

from __future__ import annotations

import io
import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.errors import DatasetError
from flowrvs.evaluation import _bits

__all__ = ["read_mask", "read_words"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY = np.array([9798, 19235, 3735])  # libpng's shares of red, green and blue, of 2 ** 15
_UNREADABLE = "{} is not a readable picture; predict it again."
_MAX_PIXELS = 1 << 27
_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4  # Filters of PNG; Average is left to Pillow.


def read_words(data: bytes, where: str) -> tuple[_bits.Words, int]:
    """Read a mask picture as a packed mask and its width.

    Parameters
    ----------
    data : bytes
        The picture's file.
    where : str
        Its name, for the message.

    Raises
    ------
    DatasetError
        It is damaged or no picture.
    """
    # Reading is most of scoring: black and white goes straight from the deflated stream into
    # bits, in half of Pillow's time.
    plain = _plain_grey(data)
    if plain is not None:
        try:
            words = _inflate(*plain)
        except zlib.error:
            raise DatasetError(_UNREADABLE.format(where)) from None
        if words is not None:
            return words, plain[1]
    mask = read_mask(data, where)
    return _bits.pack(mask), mask.shape[1]


def read_mask(data: bytes, where: str) -> npt.NDArray[np.bool_]:
    """Read a mask picture: any pixel that is not black is foreground.

    Colours, palettes included, count by their 8-bit grey value, as the official script
    (``cv2.IMREAD_GRAYSCALE``) takes them.

    Parameters
    ----------
    data : bytes
        The picture's file.
    where : str
        Its name, for the message.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    DatasetError
        It is damaged or no picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.mode in ("1", "L"):
                return np.asarray(picture) != 0
            if picture.mode in ("I", "I;16", "F"):  # 16 bits, of which the upper 8 count
                return np.asarray(picture) >= 256
            return np.asarray(picture.convert("RGB")) @ _GREY >= 1 << 15
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise DatasetError(_UNREADABLE.format(where)) from None


def _plain_grey(data: bytes) -> tuple[int, int, bytes] | None:
    """Return height, width and the deflated stream of a PNG of 8-bit grey.

    None when it is damaged, transparent, interlaced or anything else.
    """
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 45:
        return None
    height, width = int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    if data[24:29] != b"\x08\x00\x00\x00\x00" or not 0 < height * width <= _MAX_PIXELS:
        return None
    position = 8
    stream: list[bytes] = []
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        if zlib.crc32(data[position + 4 : end]).to_bytes(4) != data[end : end + 4]:
            return None
        if kind == b"IEND":
            return height, width, b"".join(stream)
        if kind == b"IDAT":
            stream.append(data[position + 8 : end])
        elif kind in (b"tRNS", b"acTL"):
            return None
        position = end + 4
    return None


@lru_cache(maxsize=8)  # Empty masks, and those that stand still, are equal files.
def _inflate(height: int, width: int, stream: bytes) -> _bits.Words | None:
    """Read the rows of a PNG of 8-bit grey; None unless all are 0 and 255.

    Raises
    ------
    zlib.error
        The stream is damaged or ends early, which Pillow and FFmpeg pass over.
    """
    # The two bytes of zlib's header and its checksum are left out; PNG has its own.
    octets = zlib.decompress(stream[2:], -15, height * (width + 1) + 1)
    if len(octets) < height * (width + 1):
        raise zlib.error("too few rows")
    octets = octets[: height * (width + 1)]
    rows = np.frombuffer(octets, np.uint8).reshape(height, width + 1)
    # A row holds differences to what its filter foretells: 255 and 1, which is -255 modulo
    # 256, are the steps up and down of a picture of 0 and 255, and 2 is none of them.
    steps = rows[:, 1:]
    if (steps + np.uint8(1)).max() > 2:
        return None
    flips = _bits.pack(steps)
    filters = rows[:, 0]
    if (filters == _SUB).all():
        words = _bits.accumulate(flips, width)
    elif filters.max() <= _PAETH and not (filters == _AVERAGE).any():
        words = _unfilter(flips, filters, width)
    else:
        return None
    # Were a step up from 255, the picture would have other values.
    if ((words ^ _bits.pack(steps > 127)) & flips).any():
        return None
    words.flags.writeable = False
    return words


def _unfilter(flips: _bits.Words, filters: npt.NDArray[np.uint8], width: int) -> _bits.Words:
    """Undo the filters of the rows.

    Parameters
    ----------
    flips : Words
        Where a pixel is not what its filter foretells.
    filters : ndarray of uint8, shape (H,)
        The filter of each row.
    width : int
        Pixels in a row.
    """
    rows = flips.copy()
    alone = filters != _UP
    alone[0] = True
    heads = np.maximum.accumulate(np.where(alone, np.arange(len(rows)), 0))
    differences = filters == _SUB
    rows[differences] = _bits.accumulate(flips[differences], width)
    # A row as a long integer: pixel x is bit x.
    for index in np.flatnonzero(filters == _PAETH).tolist():
        above = 0
        if index:
            head = heads[index - 1]
            last = rows[head] if head == index - 1 else np.bitwise_xor.reduce(rows[head:index])
            above = _to_int(last)
        row = _unpaeth(_to_int(rows[index]), above, width)
        rows[index] = np.frombuffer(row.to_bytes(rows[index].nbytes, "little"), rows.dtype)
    # A row of the filter Up is all the flips since the row that stands alone.
    sums = np.zeros((len(rows) + 1, rows.shape[1]), rows.dtype)
    np.bitwise_xor.accumulate(rows, axis=0, out=sums[1:])
    return sums[1:] ^ sums[heads]


def _to_int(row: _bits.Words) -> int:
    return int.from_bytes(row.tobytes(), "little")


def _unpaeth(flips: int, above: int, width: int) -> int:
    """Undo the Paeth filter of a row.

    For 0 and 255 it foretells the majority of left, above and not above-left. A sum's
    carry is a majority as well: of the carry before it and of the two bits that are added.
    So between two flips a row is the carries of above + not above-left.
    """
    other = ~(above << 1)
    row = start = left = 0
    while start < width:
        end = (flips & -flips).bit_length() if flips else width
        ones = (1 << (end - start)) - 1
        a, b = (above >> start) & ones, (other >> start) & ones
        part = ((a + b + left) ^ a ^ b) >> 1
        if flips:
            part ^= 1 << (end - start - 1)
            flips &= flips - 1
        left = part >> (end - start - 1)
        row |= part << start
        start = end
    return row
