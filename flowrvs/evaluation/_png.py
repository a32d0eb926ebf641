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
_MAX_PIXELS = 1 << 27


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
    if _is_plain_grey(data):
        # FFmpeg reads these in half of Pillow's time, and reading is most of scoring.
        grey = _grey_by_ffmpeg(data)
        if grey is not None:
            return _bits.pack(grey), grey.shape[1]
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
        raise DatasetError(f"{where} is not a readable picture; predict it again.") from None


def _is_plain_grey(data: bytes) -> bool:
    """True for an undamaged PNG of 8-bit grey without transparency or interlacing."""
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 45:
        return False
    height, width = int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    if data[24:29] != b"\x08\x00\x00\x00\x00" or not 0 < height * width <= _MAX_PIXELS:
        return False
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        if zlib.crc32(data[position + 4 : end]).to_bytes(4) != data[end : end + 4]:
            return False
        if kind == b"IEND":
            return True
        if kind in (b"tRNS", b"acTL"):
            return False
        position = end + 4
    return False


def _grey_by_ffmpeg(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the picture, shape (H, W); None where Pillow must judge."""
    import av

    # A decoder that is used twice mixes the pictures: one for each.
    decoder = av.CodecContext.create("png", "r")
    try:
        frames = decoder.decode(av.Packet(data))
    except (av.FFmpegError, ValueError):
        return None
    if len(frames) != 1 or frames[0].format.name != "gray" or frames[0].is_corrupt:
        return None
    plane = frames[0].planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
