"""Mask pictures, read straight into packed bits."""

from __future__ import annotations

import io
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.errors import DatasetError
from flowrvs.evaluation import _bits

__all__ = ["read_mask", "read_words"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNREADABLE = "{} is not a readable picture; predict it again."
_MAX_PIXELS = 1 << 27
_NONE, _SUB, _UP, _PAETH = 0, 1, 2, 4  # Filters of PNG; Average, 3, is left to Pillow.


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

    Colours, palettes included, count by their grey value, as the official script
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
            grey: Image.Image = picture
            if picture.mode not in ("1", "L", "I", "I;16", "F"):
                grey = picture.convert("RGB").convert("L")
            return np.asarray(grey) != 0
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
    elif np.isin(filters, (_NONE, _SUB, _UP, _PAETH)).all():
        rows_alone = flips.copy()
        rows_alone[filters == _SUB] = _bits.accumulate(flips[filters == _SUB], width)
        words = _unfilter(rows_alone, filters.tolist(), width)
    else:
        return None
    # Were a step up from 255, the picture would have other values.
    if ((words ^ _bits.pack(steps > 127)) & flips).any():
        return None
    return words


def _unfilter(flips: _bits.Words, filters: list[int], width: int) -> _bits.Words:
    """Undo the filters row by row; a row is one long integer, pixel x its bit x.

    Parameters
    ----------
    flips : Words
        Where a pixel is not what its filter foretells; of the filter Sub the row itself.
    filters : list of int
        The filter of each row.
    width : int
        Pixels in a row.
    """
    size = flips.shape[1] * 8
    data = flips.tobytes()
    nothing = bytes(size)
    row, octets = 0, nothing
    result = []
    for filter_, start in zip(filters, range(0, len(data), size), strict=True):
        part = data[start : start + size]
        if part == nothing and (filter_ == _UP or not row):
            result.append(octets)
            continue
        flip = int.from_bytes(part, "little")
        if filter_ == _UP:
            new = row ^ flip
        elif filter_ != _PAETH:
            new = flip
        else:
            new = _unpaeth(flip, row, width)
        if new != row:
            row, octets = new, new.to_bytes(size, "little")
        result.append(octets)
    return np.frombuffer(b"".join(result), flips.dtype).reshape(flips.shape)


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
