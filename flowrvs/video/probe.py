"""What a path holds, its content hash, and the one-line errors for what cannot be read."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from flowrvs.errors import MissingPathError, VideoError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "edits_not_followed",
    "fingerprint",
    "incomplete",
    "is_joined",
    "is_too_large",
    "kind_of",
    "list_images",
    "natural_key",
]

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in "jpg jpeg jpe jfif png bmp tif tiff webp ppm pgm pbm pnm jp2 tga gif avif".split()
)
# Pixels of a frame (8192 x 8192) and of its side, at most: a file of a few bytes may claim any.
MAX_PIXELS = 2**26
MAX_SIDE = 2**15
ZARR_MARKERS = ("zarr.json", ".zarray", ".zgroup")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
# Of FLV, ASF and PNG.
HEADS = (b"FLV\x01", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), b"\x89PNG\r\n\x1a\n")
# Boxes of a level that are looked at: more than the fragments of hours.
MAX_BOXES = 2**20
# Bytes of an edit list that are looked at.
MAX_EDITS = 2**20
WHOLE_FILE = 32 * 2**20
SAMPLES = 32
SAMPLE_BYTES = 2**20


def is_too_large(width: int, height: int) -> bool:
    """Tell whether frames of this size are refused."""
    return width * height > MAX_PIXELS or max(width, height) > MAX_SIDE


def kind_of(path: Path) -> str:
    """Tell what to read a path as.

    Returns
    -------
    str
        ``"video"``, ``"images"``, ``"image"`` (one file), ``"zarr"``, ``"tiff"`` or
        ``"npy"``.

    Raises
    ------
    MissingPathError
        Nothing is there.
    VideoError
        It may not be read, is empty, or is a folder without pictures.
    """
    start = b""
    try:
        status = os.stat(path)
        plain, folder = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
        names = os.listdir(path) if folder else []
        if plain and status.st_size:
            with open(path, "rb") as file:
                start = file.read(64)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingPathError(f"Nothing is at {path}; check the path.") from None
    except PermissionError:
        raise VideoError(f"{path} may not be read; change its permissions.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path} cannot be read ({reason}).") from None
    if folder:
        return _kind_of_folder(path, names)
    if not plain:
        raise VideoError(f"{path} is no regular file; give a video file or a folder.")
    if not start:
        raise VideoError(f"{path} is empty (0 bytes); get another copy.")
    if start.startswith(TIFF_STARTS):
        return "tiff"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"GIF8"):
        return "video"
    if start.startswith(b"\x89PNG"):
        return "video" if _is_animated_png(path) else "image"
    if start[4:8] == b"ftyp":
        if b"avif" in start or b"avis" in start:
            return "image"
        if start[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1"):
            raise VideoError(f"{path} is a HEIC picture; convert it to JPEG or PNG.")
        return "video"
    return "image" if path.suffix.lower() in IMAGE_SUFFIXES else "video"


def _is_animated_png(path: Path) -> bool:
    """Tell whether a PNG holds an animation (an ``acTL`` chunk before its pixels)."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            if head[4:] in (b"acTL", b"IDAT"):
                return head[4:] == b"acTL"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _kind_of_folder(path: Path, names: list[str]) -> str:
    if path.suffix.lower() == ".flowrvs":
        raise VideoError(f"{path} is a project, not a video; open it as a project.")
    if any(marker in names for marker in ZARR_MARKERS):
        return "zarr"
    if any(_is_image(name) and not (path / name).is_dir() for name in names):
        return "images"
    if not names:
        raise VideoError(f"{path} is an empty folder; give one with images in it.")
    if "JPEGImages" in names or path.name == "JPEGImages":
        inside = path if path.name == "JPEGImages" else path / "JPEGImages"
        raise VideoError(f"{path} holds many videos; open one of the folders in {inside}.")
    if any(name.lower().endswith((".heic", ".heif")) for name in names):
        raise VideoError(f"{path} holds HEIC pictures; convert them to JPEG or PNG.")
    raise VideoError(
        f"{path} holds no images ({', '.join(sorted(s.lstrip('.') for s in IMAGE_SUFFIXES))}); "
        "give a folder of frames or a video file."
    )


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key under which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p)) if p.isdigit() and p.isascii() else (1, p) for p in parts if p]


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order; folders with such names are left out.

    Raises
    ------
    VideoError
        A frame is there twice, under two suffixes; it is a pipe or a device, or a link that
        leads out of the folder: what somebody else packed must not reach for other files.
    """
    with os.scandir(folder) as entries:
        found = sorted((e for e in entries if _is_image(e.name)), key=lambda e: natural_key(e.name))
    stems: dict[str, str] = {}
    paths = []
    for entry in found:
        if entry.is_dir():
            continue
        if not entry.is_file():
            raise VideoError(f"{entry.path} is no regular file; remove it, or put the image there.")
        if entry.is_symlink() and not _is_inside(Path(entry.path), folder):
            raise VideoError(
                f"{entry.path} is a link that leads out of its folder; put the image there, or "
                "give the images as a list."
            )
        other = stems.setdefault(os.path.splitext(entry.name)[0], entry.name)
        if other != entry.name:
            raise VideoError(f"{folder} holds both {other} and {entry.name}; keep one of them.")
        paths.append(folder / entry.name)
    return paths


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def fingerprint(paths: Sequence[Path], extra: Iterable[bytes] = ()) -> str:
    """Return a sha256 (hex) of the content of files, independent of where they lie.

    A single file of at most 32 MiB is hashed whole. From larger ones, 32 pieces of 1 MiB
    are taken at even distances, the first and the last included, together with the size.
    Of several files, all names and sizes and the content of up to 16 of them count.

    Parameters
    ----------
    paths : sequence of Path
        The files, in the order of the video.
    extra : iterable of bytes
        Further content.
    """
    digest = hashlib.sha256()
    for data in extra:
        digest.update(data)
    if len(paths) == 1:
        _digest_file(digest, paths[0])
        return digest.hexdigest()
    for path in paths:
        digest.update(f"{path.name}\0{os.stat(path).st_size}\0".encode("utf-8", "surrogateescape"))
    for n in sorted({round(i * (len(paths) - 1) / 15) for i in range(16)} if paths else ()):
        _digest_file(digest, paths[n])
    return digest.hexdigest()


def _digest_file(digest: hashlib._Hash, path: Path) -> None:
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        if size <= WHOLE_FILE:
            while block := file.read(SAMPLE_BYTES):
                digest.update(block)
            return
        digest.update(f"{size}\0".encode())
        for n in range(SAMPLES):
            file.seek(n * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))


def incomplete(path: Path) -> str:
    """Tell what shows that a video file was cut off; empty when nothing does.

    Looks at the outermost structure of MP4/QuickTime and Matroska/WebM, whose headers
    say how long their parts should be. Other containers do not say it.
    """
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        start = file.read(12)
        if start[4:8] in BOXES:
            end, indexed = 0, False
            for kind, _, box_end in _boxes(file, 0, size):
                end, indexed = box_end, indexed or kind == b"moov"
            if end > size:
                return f"{end - size} bytes are missing at its end"
            if not indexed:
                return "its index (moov) is missing"
        elif start[:4] == b"\x1aE\xdf\xa3":
            file.seek(0)
            data = file.read(4096)
            at, header = _ebml_size(data, 4)
            at += header or 0
            if data[at : at + 4] == b"\x18S\x80g":
                at, body = _ebml_size(data, at + 4)
                if body is not None and at + body > size:
                    return f"{at + body - size} bytes are missing at its end"
    return ""


def is_joined(path: Path, last: int) -> bool:
    """Tell whether a second file begins behind the first one, where no reader would see it.

    Recordings joined with ``cat`` go on in most containers, but not in MP4/QuickTime, FLV, ASF
    and APNG.

    Parameters
    ----------
    path : Path
        A video file.
    last : int
        Where its last packet begins.
    """
    with open(path, "rb") as file:
        start = file.read(16)
        if start[4:8] in BOXES:
            boxes = _boxes(file, 0, os.stat(path).st_size)
            return sum(kind == b"moov" for kind, _, _ in boxes) > 1
        head = next((h for h in HEADS if start.startswith(h)), None)
        if head is None or last < len(head):
            return False
        file.seek(last)
        return start[: max(9, len(head))] in file.read(2 * SAMPLE_BYTES)


def edits_not_followed(path: Path) -> str:
    """Tell what in the edit list of an MP4 or QuickTime file FFmpeg does not follow.

    It follows those that cut, reorder and repeat parts, and a pause in front. Behind a pause
    in the middle it shows frames that are not meant, and it knows no change of speed: of what
    is shown in half its time it would show the first half.

    Returns
    -------
    str
        Empty where nothing is wrong.
    """
    with open(path, "rb") as file:
        if file.read(8)[4:] not in BOXES:
            return ""
        for edits in _edit_lists(file, os.stat(path).st_size):
            begun = False
            for time, rate in edits:
                if time == -1 and begun:
                    return "a pause in the middle"
                begun = begun or time != -1
                if time != -1 and rate != 1:
                    return f"a speed of {rate:g}"
    return ""


def _edit_lists(file: BinaryIO, size: int) -> Iterator[list[tuple[int, float]]]:
    """Yield the edits of each video track: where in it they begin (-1: a pause), their rates."""
    for kind, *track in _inside(file, b"moov", _boxes(file, 0, size)):
        if kind != b"trak":
            continue
        for kind, begin, _ in _inside(file, b"mdia", _boxes(file, *track)):
            file.seek(begin + 8)
            if kind == b"hdlr" and file.read(4) == b"vide":
                break
        else:
            continue
        for kind, begin, end in _inside(file, b"edts", _boxes(file, *track)):
            if kind == b"elst":
                file.seek(begin)
                data = file.read(min(end - begin, MAX_EDITS))
                entry = struct.Struct(">Qqi" if data[:1] == b"\1" else ">Iii")
                rows = data[8 : len(data) - (len(data) - 8) % entry.size]
                edits = [(time, rate / 2**16) for _, time, rate in entry.iter_unpack(rows)]
                yield edits[: int.from_bytes(data[4:8], "big")]


Boxes = Iterator[tuple[bytes, int, int]]


def _inside(file: BinaryIO, wanted: bytes, boxes: Boxes) -> Boxes:
    """Yield the boxes within those of a kind."""
    for kind, at, end in boxes:
        if kind == wanted:
            yield from _boxes(file, at, end)


def _boxes(file: BinaryIO, at: int, end: int) -> Boxes:
    """Yield the kind of each MP4 box between two places, where its content begins and ends."""
    for _ in range(MAX_BOXES):
        if at + 8 > end:
            return
        file.seek(at)
        head = file.read(16)
        length, begin = int.from_bytes(head[:4], "big"), at + 8
        if length == 1:
            length, begin = int.from_bytes(head[8:16], "big"), at + 16
        elif length == 0:
            length = end - at
        if length < 8:
            return
        at += length
        yield head[4:8], begin, at


def _ebml_size(data: bytes, at: int) -> tuple[int, int | None]:
    """Read an EBML size; None where the writer left it open."""
    if at >= len(data) or not data[at]:
        return at, None
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return at + width, None if value == (1 << 7 * width) - 1 else value
