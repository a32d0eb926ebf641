"""Files of a dataset that are pictures: what they are called, frames as JPEG, masks as PNG."""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.errors import DatasetError, FlowRVSError
from flowrvs.masks import rle
from flowrvs.video.encode import encode_jpeg

__all__ = [
    "LARGEST",
    "PICTURES",
    "Frame",
    "blank_mask",
    "encode_frame",
    "frame_file",
    "frame_names",
    "is_safe_name",
    "jpeg_bytes",
    "link_folder",
    "listed_names",
    "object_ids",
    "open_picture",
    "read_codes",
    "repaint",
    "safe_name",
    "sorted_and_unique",
    "values_in",
    "write_frames",
    "write_masks",
]

PICTURES = (".jpg", ".jpeg", ".png")
"""Suffixes of frames, in lower case."""

Frame = npt.NDArray[np.uint8] | bytes | Path
"""RGB pixels, a whole JPEG file, or the path of one that is to be hard-linked."""

_EXIF_ORIENTATION = 0x0112
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_UNREADABLE = (OSError, SyntaxError, ValueError)
LARGEST = 40_000_000
"""Pixels of a picture, a little more than 8K: what is larger costs more memory than it is worth."""

_PART = 1 << 20  # pixels looked at together: temporary arrays are several times larger
_MOST = 1000  # values in a picture of masks
_COLOR = 1 << 24  # marks the code of a colour
_OPAQUE = {"LA": "L", "RGBA": "RGB"}


# -- names -----------------------------------------------------------------------------


def is_safe_name(name: object) -> bool:
    """True when `name` names one entry of a folder on every system.

    Blanks, dots and any script are fine; separators, drive letters, ``.``, ``..``,
    control characters and names longer than 240 bytes are not.
    """
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return False
    try:
        if len(name.encode()) > 240:
            return False
    except UnicodeEncodeError:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def safe_name(name: object, what: str, where: object = "") -> str:
    """Return `name` when it is safe.

    Parameters
    ----------
    name : object
        The name as it was read or handed in.
    what : str
        What it names, for the message: ``"video"``, ``"frame"``, ``"exp_id"``.
    where : object, optional
        The file or folder it comes from.

    Raises
    ------
    DatasetError
        The name could lead outside its folder or cannot be stored.
    """
    if not is_safe_name(name):
        place = f" in {where}" if where else ""
        shown = repr(name)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise DatasetError(
            f"The {what} name {shown}{place} cannot be a file name; "
            "use one without slashes, '..' or control characters."
        )
    return str(name)


def listed_names(frames: object, video: str, where: object) -> list[str]:
    """Return the names of frames that a dataset lists.

    Raises
    ------
    DatasetError
        It is no list, it is empty, or a name is unsafe.
    """
    if not isinstance(frames, list) or not frames:
        raise DatasetError(f"The video {video!r} in {where} lists no frames.")
    return [safe_name(frame, "frame", where) for frame in frames]


def frame_names(count: int) -> list[str]:
    """Return `count` zero-padded names, five digits or more, that sort as they count."""
    width = max(5, len(str(max(count - 1, 0))))
    return [f"{index:0{width}d}" for index in range(count)]


def sorted_and_unique(names: Sequence[str]) -> bool:
    """True when `names` are strictly ascending, so that a sorted listing keeps them."""
    return all(a < b for a, b in zip(names, names[1:], strict=False))


# -- reading ---------------------------------------------------------------------------


def frame_file(folder: Path, name: str) -> Path | None:
    """Return the picture of a frame, its suffix in small or large letters; None without one."""
    suffixes = (*PICTURES, *map(str.upper, PICTURES))
    paths = (folder / f"{name}{suffix}" for suffix in suffixes)
    return next((path for path in paths if path.is_file()), None)


@contextmanager
def open_picture(
    path: Path | io.BytesIO, formats: Sequence[str] = ("JPEG", "PNG")
) -> Iterator[Image.Image]:
    """Open a picture as one of these formats and as no other, whatever its content says.

    Pillow knows formats that start other programs; none of them is ever tried.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DatasetError
        It is not readable, in its head or, when its pixels are asked for, behind.
    """
    try:
        # A pipe or device would be waited for, or read without an end.
        if isinstance(path, Path) and os.path.lexists(path) and not path.is_file():
            raise DatasetError(f"{path} is no plain file; copy the picture again.")
        with Image.open(path, formats=list(formats)) as picture:
            if picture.width * picture.height > LARGEST:
                raise DatasetError(f"{path} is larger than any video frame; it is not opened.")
            yield picture
    except (FileNotFoundError, FlowRVSError):
        raise
    except _TOO_LARGE:
        raise DatasetError(f"{path} is larger than any video frame; it is not opened.") from None
    except _UNREADABLE:
        raise DatasetError(f"{path} is not a readable picture; copy it again.") from None


def read_codes(path: Path) -> tuple[npt.NDArray[Any], list[int]] | None:
    """Read a picture of masks.

    Palettes, grey pictures of 8 or 16 bits, black and white, and colours are told apart; what
    cannot be read without guessing is refused.

    Returns
    -------
    pixels : ndarray, shape (H, W)
        A code for every pixel; `object_ids` says which object it is.
    codes : list of int
        Those that are in it, without 0.

    None where there is no file.

    Raises
    ------
    DatasetError
        It is not readable, or no picture of masks.
    """
    try:
        with open_picture(path, ["PNG"]) as picture:
            if picture.mode in _OPAQUE:
                if picture.getchannel("A").getextrema() != (255, 255):
                    raise DatasetError(
                        f"{path} is see-through in places, which says nothing of objects; save it "
                        "as a palette or grey picture."
                    )
                picture = picture.convert(_OPAQUE[picture.mode])
            pixels = np.asarray(picture)
            if picture.mode == "RGB":
                pixels = _color_codes(pixels)
    except FileNotFoundError:
        return None
    codes = [code for code in values_in(pixels) if code]
    most = 255 if codes and codes[-1] >= _COLOR else _MOST
    if len(codes) > most or (codes and codes[0] < 0):
        raise DatasetError(f"{path} has {len(codes)} values: it is no picture of masks.")
    if pixels.dtype == np.bool_:
        return pixels, [1] if codes else []
    return pixels, codes


def _color_codes(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return a number for every pixel, shape (H, W): 0 for black."""
    pixels = np.empty(colors.shape[0] * colors.shape[1], np.uint32)
    flat = colors.reshape(-1, 3)
    for start in range(0, len(pixels), _PART):
        red, green, blue = flat[start : start + _PART].T.astype(np.uint32)
        part = (red << 16) | (green << 8) | blue
        part[part > 0] |= _COLOR
        pixels[start : start + _PART] = part
    return pixels.reshape(colors.shape[:2])


def values_in(pixels: npt.NDArray[Any]) -> list[int]:
    """Return the values of a picture, ascending, without sorting all of a large one at once."""
    flat = pixels.reshape(-1)
    parts = (np.unique(flat[n : n + _PART]) for n in range(0, len(flat), _PART))
    return sorted(set().union(*(part.tolist() for part in parts)))


def object_ids(codes: Iterable[int], *, wide: bool) -> dict[int, int]:
    """Return which object each code of a video's pictures of masks is, background left out.

    A lone 255 (65535 with `wide`, in pictures of 16 bits) is one object, as in pictures of 0 and
    255; beside others it is the border that nobody decides on. Colours are those of DAVIS and
    PASCAL VOC; others are numbered as they come. Grey stands for its own value.

    Raises
    ------
    DatasetError
        Some pictures have numbers and some other colours: nothing says which mean the same.
    """
    values: dict[int, int | None] = {}
    codes = list(codes)
    colored = any(code >= _COLOR and not _is_grey(code) for code in codes)
    for code in codes:
        if code < _COLOR:
            values[code] = code
        elif not colored:
            values[code] = code & 255
        else:
            values[code] = _COLORS.get(code - _COLOR)
    void = 65535 if wide else 255
    known = {code: v for code, v in values.items() if v not in (0, void, None)}
    if not known and void in values.values():
        return {code: 1 for code, value in values.items() if value == void}
    if None in values.values() and min(codes) < _COLOR:
        raise DatasetError(
            "objects are numbers in some pictures and colours in others; save all of them as "
            "palette pictures."
        )
    following = max(known.values(), default=0) + 1
    for code, value in values.items():
        if value is None:
            known[code] = following
            following += 1
    return {code: value for code, value in known.items() if value}


def _is_grey(code: int) -> bool:
    return code & 255 == (code >> 8) & 255 == (code >> 16) & 255


def jpeg_bytes(path: Path, size: tuple[int, int]) -> bytes | None:
    """Return the bytes of a JPEG file that any reader shows upright, in RGB and at `size`.

    None for others: their pixels have to be decoded and compressed again.
    """
    try:
        data = path.read_bytes()
        with open_picture(io.BytesIO(data), ["JPEG"]) as picture:
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) != 1
            if turned or picture.mode not in ("RGB", "L"):
                return None
            return data if (picture.height, picture.width) == size else None
    except (OSError, DatasetError):
        return None


# -- writing ---------------------------------------------------------------------------


def write_frames(
    folder: Path,
    video: str,
    frames: Iterable[Frame],
    names: Sequence[str] | None = None,
    *,
    quality: int = 95,
    jobs: int | None = None,
) -> tuple[list[str], tuple[int, int]]:
    """Write the frames of one video as JPEG files, several at a time.

    Parameters
    ----------
    folder : Path
        Where they go; it exists.
    video : str
        For messages.
    frames : iterable of Frame
        At least one, all of one size.
    names : sequence of str, optional
        One ascending name a frame; zero-padded numbers by default.
    quality : int
        JPEG quality of frames that are arrays.
    jobs : int, optional
        Threads that encode; one a core by default.

    Returns
    -------
    names : list of str
    size : (int, int)
        Height and width.

    Raises
    ------
    DatasetError
        Names or sizes do not fit.
    """
    if names is not None:
        names = [safe_name(n, "frame", video) for n in names]
        if not sorted_and_unique(names):
            raise DatasetError(
                f"The frame names of {video!r} are not ascending, so a sorted listing "
                "would mix them up; zero-pad them."
            )
    count = 0
    size: tuple[int, int] | None = None
    threads = _workers(jobs)
    waiting: deque[Future[tuple[int, int]]] = deque()

    def finish(index: int) -> None:
        nonlocal size
        this = waiting.popleft().result()
        size = size or this
        if this != size:
            raise DatasetError(
                f"Frame {index} of {video!r} is {this[1]}x{this[0]}, the first one "
                f"{size[1]}x{size[0]}; all frames must have one size."
            )

    with ThreadPoolExecutor(threads, "flowrvs-jpeg") as pool:
        try:
            for index, frame in enumerate(frames):
                if names is not None and index >= len(names):
                    raise DatasetError(
                        f"{video!r} has more frames than the {len(names)} names for it."
                    )
                stem = names[index] if names is not None else f"{index:05d}"
                target = folder / f"{stem}.jpg"
                waiting.append(pool.submit(_write, target, frame, video, index, quality))
                count = index + 1
                # A few frames ahead, so that memory does not grow with the video.
                if len(waiting) > 2 * threads:
                    finish(count - len(waiting))
            while waiting:
                finish(count - len(waiting))
        finally:
            for future in waiting:
                future.cancel()
    if size is None:
        raise DatasetError(f"{video!r} has no frames; a video needs one at least.")
    if names is not None and count != len(names):
        raise DatasetError(f"{video!r} has {count} frames for {len(names)} names.")
    if names is None:
        names = frame_names(count)
        # The padding is known only at the end; it matters from a hundred thousand on.
        if len(names[0]) > 5:
            for index, stem in enumerate(names):
                (folder / f"{index:05d}.jpg").rename(folder / f"{stem}.jpg")
    return list(names), size


def _write(path: Path, frame: Frame, video: str, index: int, quality: int) -> tuple[int, int]:
    if isinstance(frame, Path):
        _link_or_copy(frame, path)
        with open_picture(path, ["JPEG"]) as picture:
            return picture.height, picture.width
    data, size = encode_frame(frame, video, index, quality)
    path.write_bytes(data)
    return size


def encode_frame(
    frame: npt.NDArray[np.uint8] | bytes, video: str, index: int, quality: int
) -> tuple[bytes, tuple[int, int]]:
    """Return one frame as JPEG bytes, with its height and width."""
    if isinstance(frame, (bytes, bytearray, memoryview)):
        data = bytes(frame)
        try:
            with open_picture(io.BytesIO(data), ["JPEG"]) as picture:
                return data, (picture.height, picture.width)
        except DatasetError:
            raise DatasetError(f"Frame {index} of {video!r} is not a JPEG file.") from None
    array = np.asarray(frame)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DatasetError(
            f"Frame {index} of {video!r} must be (H, W, 3) uint8, not {array.shape} {array.dtype}."
        )
    return encode_jpeg(array, quality), (array.shape[0], array.shape[1])


def write_masks(
    folder: Path,
    names: Mapping[int, str],
    paint: Callable[[int], npt.NDArray[np.uint8]],
    *,
    palette: bool = True,
    jobs: int | None = None,
) -> None:
    """Write pictures of masks as PNG files, several at a time.

    Parameters
    ----------
    folder : Path
        Where they go; it is created.
    names : mapping of int to str
        Of the pictures, without suffix, by their position in the video.
    paint : callable
        Returns the values of the picture at a position, (H, W) uint8.
    palette : bool
        Give them the colours of DAVIS; grey otherwise.
    jobs : int, optional
        Threads; one a core by default.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def write(index: int) -> None:
        picture = Image.fromarray(paint(index))
        if palette:
            picture.putpalette(_PALETTE)
        # Half the time of zlib's usual way, and smaller.
        picture.save(folder / f"{names[index]}.png", "PNG", compress_type=zlib.Z_RLE)

    with ThreadPoolExecutor(_workers(jobs), "flowrvs-png") as pool:
        for _ in pool.map(write, names):
            pass


def blank_mask(path: Path | None) -> Image.Image:
    """Return a picture of no object, of the kind and size of another one; DAVIS's by default."""
    if path is None:
        picture = Image.new("P", (1, 1))
        picture.putpalette(_PALETTE)
        return picture
    with open_picture(path, ["PNG"]) as picture:
        found = _plain(picture)
        blank = Image.new(found.mode, found.size)
        if found.mode == "P":
            blank.putpalette(found.palette or _PALETTE)
        return blank


def repaint(
    path: Path,
    target: Path,
    blank: Image.Image,
    size: Sequence[int] | None,
    changed: Mapping[int, tuple[rle.RLE | None, rle.RLE | None]],
    codes: Mapping[int, int],
) -> None:
    """Write a picture of masks with some objects drawn anew; other pixels stay.

    Parameters
    ----------
    path, target : Path
        The picture, which need not be there, and the file to write.
    blank : Image
        What to begin with where there is none; see `blank_mask`.
    size : (int, int) or None
        Height and width of the frames, where some mask says them.
    changed : mapping of int to (RLE or None, RLE or None)
        The mask that was there and the one to draw, by object.
    codes : mapping of int to int
        The code of every object that the pictures have; see `read_codes`.

    Raises
    ------
    DatasetError
        The picture holds no further object.
    """
    if path.is_file():
        with open_picture(path, ["PNG"]) as picture:
            shown = _plain(picture).copy()
    elif size is not None and blank.size != (size[1], size[0]):
        shown = blank.resize((size[1], size[0]))
    else:
        shown = blank
    pixels = np.array(shown)
    if size is not None and pixels.shape[:2] != tuple(size):
        raise DatasetError(
            f"{path} is {shown.width}x{shown.height}, the frames {size[1]}x{size[0]}; make both of "
            "one size."
        )
    for old, _ in changed.values():
        if old is not None:
            pixels[rle.decode(old)] = 0
    for key, (_, new) in changed.items():
        if new is not None:
            pixels[rle.decode(new)] = _value(key, codes, shown.mode, path)
    drawn = Image.fromarray(pixels)
    if shown.mode == "P":
        drawn.putpalette(shown.palette or _PALETTE)
    drawn.save(target, "PNG")


def _plain(picture: Image.Image) -> Image.Image:
    """Return a picture of masks in a kind that can be drawn into."""
    kinds = {**_OPAQUE, "I": "I;16"}
    if picture.mode == "1":
        return Image.fromarray(np.asarray(picture).astype(np.uint8))
    return picture.convert(kinds[picture.mode]) if picture.mode in kinds else picture


def _value(key: int, codes: Mapping[int, int], mode: str, path: Path) -> Any:
    """Return the pixel value of an object."""
    code = codes.get(key)
    if mode == "RGB":
        grey = bool(codes) and all(_is_grey(other) for other in codes.values())
        if code is None and key < 255:
            return (key, key, key) if grey else tuple(_PALETTE[3 * key : 3 * key + 3])
        return ((code >> 16) & 255, (code >> 8) & 255, code & 255) if code else _full(path)
    if code is None:
        # Beside 255 for the only object another one would make it a border.
        if any(other in (255, 65535) for other in codes.values()) or key > 65534:
            return _full(path)
        return key if mode == "I;16" or key < 255 else _full(path)
    return code


def _full(path: Path) -> Any:
    raise DatasetError(f"{path.parent} holds pictures that have no room for another object.")


def link_folder(folder: Path, written: Path) -> None:
    """Show files that are written already in another folder too."""
    folder.mkdir(parents=True)
    for path in written.iterdir():
        _link_or_copy(path, folder / path.name)


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link of `source`, or a copy where the disk has no links."""
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise  # written over, a link there would change the file that it is a link of
    except OSError:
        shutil.copyfile(source, target)


def _workers(jobs: int | None) -> int:
    """Return how many threads encode: PIL lets others run meanwhile."""
    return max(1, min(8, os.cpu_count() or 1)) if jobs is None else max(1, jobs)


def _davis_palette() -> bytes:
    """The PASCAL VOC colours that DAVIS uses: the bits of the index, spread over RGB."""
    return bytes(
        sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) & 255
        for index in range(256)
        for channel in range(3)
    )


_PALETTE = _davis_palette()
_COLORS = {
    int.from_bytes(_PALETTE[3 * index : 3 * index + 3], "big"): index for index in range(256)
}
