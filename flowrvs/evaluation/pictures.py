"""Predicted masks, from a folder or from the zip file that would be submitted.

Reading them is half of scoring, so that black and white goes straight from the deflated
stream into packed bits here. Measured with ``benchmarks/bench_scores.py``, rounds in turns:
against the official script's work scoring is 4.7 and 5.3 times as fast (PNGs by Pillow, by
OpenCV), with Pillow as the reader 3.6 and 2.7 times, with OpenCV 3.8 and 2.8 times.
"""

from __future__ import annotations

import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.disk import read_regular
from flowrvs.errors import DatasetError, InputError, MissingPathError, StorageError
from flowrvs.evaluation import packed

if TYPE_CHECKING:
    from flowrvs.data.mevis import MevisSplit

__all__ = [
    "ZIP_ERRORS",
    "Predictions",
    "choose_videos",
    "read_entry",
    "read_mask",
    "read_packed",
]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY = np.array([9798, 19235, 3735])  # libpng's shares of red, green and blue, of 2 ** 15
_UNREADABLE = "{} is not a readable picture; predict it again."
_MAX_PIXELS = 1 << 26  # of a frame in 8K: no picture may ask for more memory
_MAX_BYTES = 1 << 26
ZIP_ERRORS = (  # what zipfile raises for files that are damaged, encrypted or made up
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4  # Filters of PNG; Average is left to Pillow.


def choose_videos(split: MevisSplit, videos: Sequence[str] | None) -> list[str]:
    """Return the names of `videos`, each once; all of the split's where it is None.

    Raises
    ------
    InputError
        The split has no such video.
    """
    unknown = [name for name in videos or () if name not in split.videos]
    if unknown:
        raise InputError(f"{split.folder} has no video {unknown[0]!r}; see its JPEGImages folder.")
    return list(split.videos) if videos is None else list(dict.fromkeys(videos))


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a picture of a zip file, unless it would unpack to more than any mask has."""
    size = archive.getinfo(name).file_size
    if size > _MAX_BYTES:
        raise DatasetError(
            f"{name} in {archive.filename} would unpack to {size} bytes: that is no mask."
        )
    return archive.read(name)


class Predictions:
    """The pictures ``<video>/<exp_id>/<frame>.png`` under a folder or in a zip file.

    A context manager. A top folder ``Annotations`` (Ref-YouTube-VOS) is looked through.

    Raises
    ------
    MissingPathError
        There is nothing at `path`.
    DatasetError
        `path` is neither a folder nor a zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._prefix = ""
        if not path.exists():
            raise MissingPathError(f"No predictions at {path}; run 'flowrvs predict' first.")
        if path.is_dir():
            if (path / "Annotations").is_dir():
                self._prefix = "Annotations/"
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except ZIP_ERRORS:
            raise DatasetError(
                f"{path} is neither a folder nor a zip file of predictions."
            ) from None
        self._names = set(self._zip.namelist())
        if any(name.startswith("Annotations/") for name in self._names):
            self._prefix = "Annotations/"

    def has(self, name: str) -> bool:
        """True when the picture ``<video>/<exp_id>/<frame>.png`` is there."""
        if self._zip is not None:
            return self._prefix + name in self._names
        return (self.path / (self._prefix + name)).is_file()

    def data(self, name: str) -> bytes:
        """Return the bytes of the picture ``<video>/<exp_id>/<frame>.png``.

        Raises
        ------
        DatasetError
            The zip file is damaged.
        MissingPathError, KeyError
            The folder, the zip file does not have it.
        StorageError
            The file cannot be read.
        """
        name = self._prefix + name
        if self._zip is None:
            return read_regular(f"{self.path}{os.sep}{name}", _MAX_BYTES)
        try:
            return read_entry(self._zip, name)
        except (KeyError, DatasetError):
            raise
        except ZIP_ERRORS:
            raise DatasetError(f"{name} in {self.path} is damaged; zip it again.") from None

    def read(self, name: str) -> tuple[packed.Packed, int] | None:
        """Return one predicted mask, packed, and its width; None when it is missing.

        Raises
        ------
        DatasetError
            The picture is damaged.
        """
        try:
            data = self.data(name)
        except (MissingPathError, KeyError):
            return None
        except StorageError as error:
            raise DatasetError(str(error)) from None
        return read_packed(data, f"{self.path}{os.sep}{self._prefix}{name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()


def read_packed(data: bytes, where: str) -> tuple[packed.Packed, int]:
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
    return packed.pack(mask), mask.shape[1]


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
        with Image.open(io.BytesIO(data), formats=["PNG", "BMP", "JPEG"]) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise DatasetError(f"{where} is {picture.width}x{picture.height}: too large.")
            if picture.mode in ("1", "L"):
                return np.asarray(picture) != 0
            if picture.mode in ("I", "I;16", "F"):  # 16 bits, of which the upper 8 count
                return np.asarray(picture) >= 256
            return np.asarray(picture.convert("RGB")) @ _GREY >= 1 << 15
    except DatasetError:
        raise
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
def _inflate(height: int, width: int, stream: bytes) -> packed.Packed | None:
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
    flips = packed.pack(steps)
    filters = rows[:, 0]
    if (filters == _SUB).all():
        words = packed.prefix_xor(flips, width)
    elif filters.max() <= _PAETH and not (filters == _AVERAGE).any():
        words = _unfilter(flips, filters, width)
    else:
        return None
    # Were a step up from 255, the picture would have other values.
    if ((words ^ packed.pack(steps > 127)) & flips).any():
        return None
    words.flags.writeable = False
    return words


def _unfilter(flips: packed.Packed, filters: npt.NDArray[np.uint8], width: int) -> packed.Packed:
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
    rows[differences] = packed.prefix_xor(flips[differences], width)
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


def _to_int(row: packed.Packed) -> int:
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
