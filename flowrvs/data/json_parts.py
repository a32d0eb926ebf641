"""JSON files changed in place: values are found, read and replaced alone.

A ``mask_dict.json`` may be larger than the memory, and what was not touched has to stay byte
for byte as it is, whoever wrote it: no JSON library keeps that. So these functions look for
brackets and strings only, and leave what is between them to `json`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flowrvs import disk
from flowrvs.data.formats import MASKS, META
from flowrvs.disk import replacing, storage_error
from flowrvs.errors import DatasetError, FlowRVSError, MissingPathError, first_line
from flowrvs.folders import remove_leftovers
from flowrvs.locks import FileLock

__all__ = [
    "Member",
    "Piece",
    "amend",
    "copy",
    "elements",
    "joined",
    "list_keys",
    "locked",
    "mapped",
    "member",
    "members",
    "nested",
    "next_number",
    "read_json",
    "rewrite",
    "splice",
    "splice_list",
    "style",
    "value",
    "whole",
    "whole_number",
]


Buffer = bytes | mmap.mmap
Piece = bytes | tuple[int, int]

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# A whole RLE is one token: eight times fewer steps than string by string.
_TOKEN = re.compile(
    rb'\{(?:[^{}\[\]"]++|' + _STRING + rb"|\[[^\[\]{}\"]*+\])*+\}|" + _STRING + rb"|[{}\[\]]", re.S
)
_KEY = re.compile(_STRING, re.S)
_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb"[^\s,\]}]+")
_CHUNK = 1 << 20
_LARGE, _LARGEST = 1 << 26, 1 << 33


@dataclass(frozen=True, slots=True)
class Member:
    """A key of an object and where it and its value lie: ``data[start:stop]``."""

    key: str
    key_start: int
    key_stop: int
    start: int
    stop: int


def whole_number(value: object) -> int:
    """Return an id that a dataset gives as a number or as text; 7.0 is 7, as pandas writes it.

    Raises
    ------
    DatasetError
        It is no whole number of a sensible size.
    """
    try:
        whole = not isinstance(value, float) or value.is_integer()
        number = int(value) if isinstance(value, (int, str, float)) and whole else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 31 or isinstance(value, bool):
        raise DatasetError(f"The id {str(value)[:40]!r} is no whole number; number the objects.")
    return number


def next_number(keys: Iterable[str]) -> int:
    """Return the number after the highest of those that `whole_number` takes; 0 without any."""
    numbers = (int(key) for key in keys if key.isdecimal() and len(key) <= 10)
    return max((n for n in numbers if n < 1 << 31), default=-1) + 1


@contextmanager
def mapped(path: Path) -> Iterator[Buffer]:
    """Give a file's bytes without reading them into the memory.

    Raises
    ------
    MissingPathError
        There is no such file.
    DatasetError
        It cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DatasetError(f"{path} is no plain file; copy it again.")
    try:
        with path.open("rb") as file:
            # An empty file cannot be mapped.
            empty = path.stat().st_size == 0
            data = None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise MissingPathError(f"{path} is missing.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror or error}).") from error
    if data is None:
        yield b""
        return
    with data:
        yield data


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    MissingPathError
        There is no such file.
    DatasetError
        It cannot be read, is not JSON, or not an object.
    """
    try:
        if path.stat().st_size > _LARGE:
            with mapped(path) as data:  # what is damaged is not read into the memory
                _check_ends(data)
        value = disk.read_json(path, _LARGEST)
    except FileNotFoundError:
        raise MissingPathError(f"{path} is missing.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise DatasetError(
            f"{path} is not readable JSON ({first_line(error)}); copy it again."
        ) from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path} must hold a JSON object.")
    return value


def members(data: Buffer, start: int = 0) -> Iterator[Member]:
    """Yield the members of the object at `start`, in the file's order, repeated keys too.

    Raises
    ------
    DatasetError
        It is no object, or cut off.
    """
    at = _opened(data, start, b"{", "a JSON object")
    if data[at : at + 1] == b"}":
        return
    while True:
        match = _KEY.match(data, at)
        if match is None:
            raise _damaged(at)
        begin = _skip(data, match.end())
        if data[begin : begin + 1] != b":":
            raise _damaged(begin)
        begin = _skip(data, begin + 1)
        end = _end(data, begin)
        yield Member(_text(match.group(), at), at, match.end(), begin, end)
        following = _following(data, end, b"}")
        if following is None:
            return
        at = following


def list_keys(path: Path) -> set[str]:
    """Return the keys of a JSON object that hold lists; none where it is something else."""
    try:
        if path.suffix != ".json" or not path.is_file():
            return set()
        with mapped(path) as data:
            return {m.key for m in members(data) if data[m.start : m.start + 1] == b"["}
    except (DatasetError, OSError):
        return set()


def elements(data: Buffer, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield where the elements of the list at `start` lie.

    Raises
    ------
    DatasetError
        It is no list, or cut off.
    """
    at = _opened(data, start, b"[", "a JSON list")
    if data[at : at + 1] == b"]":
        return
    while True:
        end = _end(data, at)
        yield at, end
        following = _following(data, end, b"]")
        if following is None:
            return
        at = following


def member(data: Buffer, key: str, start: int = 0) -> Member | None:
    """Return the member `key` of the object at `start`, the last one of that name."""
    found = None
    for item in members(data, start):
        if item.key == key:
            found = item
    return found


def value(data: Buffer, start: int, stop: int) -> Any:
    """Return a value as Python has it.

    Raises
    ------
    DatasetError
        It is not JSON.
    """
    try:
        return json.loads(data[start:stop])
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"the JSON is damaged near byte {start} ({error})") from None


def splice(
    data: Buffer,
    start: int,
    changes: Mapping[str, bytes | None],
    extra: Mapping[str, bytes] | Iterable[tuple[str, bytes]] = (),
) -> Iterator[Piece]:
    """Yield the object at `start` with some values replaced, removed (None) or added.

    Everything else, white space and order included, is as it was.

    Yields
    ------
    bytes or (int, int)
        New bytes, or a range of `data` to copy.
    """
    found = list(members(data, start))
    opened = _opened(data, start, b"{", "a JSON object")
    stop = _skip(data, found[-1].stop) if found else opened
    first = found[0] if found else None
    gap = data[found[0].stop : found[1].key_start] if len(found) > 1 else b", "
    colon = data[first.key_stop : first.start] if first else b": "
    yield start, first.key_start if first else opened
    empty = True
    for before, item in zip([None, *found], found, strict=False):
        new = changes.get(item.key, b"")
        if new is None:
            continue
        if not empty:
            assert before is not None
            yield before.stop, item.key_start
        empty = False
        yield (item.key_start, item.stop) if not new else (item.key_start, item.start)
        if new:
            yield new
    for key, new in extra.items() if isinstance(extra, Mapping) else extra:
        yield (b"" if empty else gap) + json.dumps(key).encode() + colon + new
        empty = False
    yield found[-1].stop if found else opened, stop + 1


def splice_list(
    data: Buffer,
    start: int,
    changes: Mapping[int, bytes | None],
    extra: Iterable[bytes] = (),
) -> Iterator[Piece]:
    """Yield the list at `start` with some elements replaced, removed (None) or added.

    The rest is as it was.
    """
    found = list(elements(data, start))
    opened = _opened(data, start, b"[", "a JSON list")
    gap = data[found[0][1] : found[1][0]] if len(found) > 1 else b", "
    yield start, found[0][0] if found else opened
    empty = True
    for index, (begin, end) in enumerate(found):
        new = changes.get(index, b"")
        if new is None:
            continue
        if not empty:
            yield found[index - 1][1], begin
        empty = False
        yield new or (begin, end)
    for new in extra:
        yield (b"" if empty else gap) + new
        empty = False
    end = found[-1][1] if found else opened
    yield end, _skip(data, end) + 1


def nested(
    data: Buffer,
    inside: str,
    changes: Mapping[str, bytes | None],
    extra: Mapping[str, bytes] | Iterable[tuple[str, bytes]] = (),
) -> Iterator[Piece]:
    """Yield a whole file in which members of the object `inside` are changed; see `splice`.

    Raises
    ------
    DatasetError
        There is no such object.
    """
    found = member(data, inside)
    if found is None:
        raise DatasetError(f"there is no {inside!r}")
    yield 0, found.start
    yield from splice(data, found.start, changes, extra)
    yield found.stop, len(data)


def joined(data: Buffer, pieces: Iterable[Piece]) -> bytes:
    """Return pieces as one run of bytes."""
    return b"".join(p if isinstance(p, bytes) else data[p[0] : p[1]] for p in pieces)


def copy(data: Buffer, pieces: Iterable[Piece], out: IO[bytes]) -> None:
    """Write pieces to a file, a little at a time."""
    for piece in pieces:
        if isinstance(piece, bytes):
            out.write(piece)
            continue
        for begin in range(piece[0], piece[1], _CHUNK):
            out.write(data[begin : min(begin + _CHUNK, piece[1])])


def rewrite(path: Path, target: Path, pieces: Callable[[Buffer], Iterable[Piece]]) -> None:
    """Write `target` from the pieces of `path`, and read it again.

    Raises
    ------
    DatasetError
        `path` is damaged.
    OSError
        The disk is full, read-only or failing.
    """
    try:
        with mapped(path) as data, target.open("wb") as out:
            copy(data, pieces(data), out)
        with mapped(target) as data:
            for _ in members(data):
                pass
    except DatasetError as error:
        raise DatasetError(f"{path} cannot be changed ({error}); run 'flowrvs check'.") from None


def amend(
    split: Path,
    *,
    meta: Path | None = None,
    videos: Mapping[str, bytes] | None = None,
    new_videos: Mapping[str, bytes] | None = None,
    masks: Mapping[str, bytes | None] | None = None,
    new_masks: Iterable[tuple[str, bytes]] | None = None,
    folders: Iterable[tuple[Path, Path]] = (),
) -> None:
    """Replace and add entries of a MeViS-style split; every other byte of its files stays.

    New files are written beside the old ones first. They take their places in an order in
    which a kill at any moment leaves a split that loads: new frames, then masks (old ones
    stay), then sentences; masks that nothing refers to any more go last. Call it within
    `locked`.

    Parameters
    ----------
    split : Path
        The split.
    meta : Path, optional
        The file of sentences, where it has another name.
    videos, new_videos : mapping of str to bytes
        JSON of entries of ``meta_expressions.json`` to replace, and to add.
    masks : mapping of str to bytes or None
        JSON of entries of ``mask_dict.json`` to replace, None for those to remove.
    new_masks : iterable of (str, bytes)
        Those to add.
    folders : iterable of (Path, Path)
        Folders to move into the split.

    Raises
    ------
    DatasetError
        The files are damaged.
    StorageError
        The disk is full, read-only or failing. The split is as it was.
    """
    changed = {key: new for key, new in (masks or {}).items() if new is not None}
    removed: dict[str, bytes | None] = {k: None for k, new in (masks or {}).items() if new is None}
    moved: list[tuple[Path, Path]] = []
    try:
        # Left in the opposite order: the masks take their place before the sentences.
        with contextlib.ExitStack() as stack:
            if videos or new_videos:
                path = meta or split / META
                rewrite(
                    path,
                    stack.enter_context(replacing(path)),
                    lambda data: nested(data, "videos", videos or {}, (new_videos or {}).items()),
                )
            if changed or new_masks is not None:
                path = split / MASKS
                rewrite(
                    path,
                    stack.enter_context(replacing(path)),
                    lambda data: whole(data, changed, new_masks or ()),
                )
            for source, target in folders:
                source.rename(target)
                moved.append((source, target))
    except BaseException as error:
        for source, target in moved:
            with contextlib.suppress(OSError):
                target.rename(source)
        if isinstance(error, OSError) and not isinstance(error, FlowRVSError):
            raise storage_error(error, split) from error
        raise
    if removed:
        path = split / MASKS
        with replacing(path) as temporary:
            rewrite(path, temporary, lambda data: whole(data, removed, ()))


def whole(
    data: Buffer, changes: Mapping[str, bytes | None], extra: Iterable[tuple[str, bytes]]
) -> Iterator[Piece]:
    """Yield a whole file whose outermost object is changed."""
    last = 0
    for piece in splice(data, 0, changes, extra):
        yield piece
        last = last if isinstance(piece, bytes) else piece[1]
    yield last, len(data)


def style(raw: bytes) -> json.JSONEncoder:
    """Return an encoder that spaces as a piece of JSON does."""
    if b'": ' in raw[:4096] or b'":' not in raw[:4096]:
        return json.JSONEncoder()
    return json.JSONEncoder(separators=(",", ":"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the same dataset meanwhile.

    Raises
    ------
    DatasetError
        Another one is at it.
    StorageError
        The folder cannot be written to.
    """
    lock = FileLock(folder / ".writing.lock")
    if not lock.acquire():
        raise DatasetError(f"{folder} is being written by another program; try again later.")
    try:
        for path in folder.glob("*.json"):
            remove_leftovers(path, age=0)
        yield
    finally:
        # Safe while it is held: who waited for this inode sees that its name is gone.
        with contextlib.suppress(OSError):
            lock.path.unlink(missing_ok=True)
        lock.release()


def _opened(data: Buffer, start: int, bracket: bytes, what: str) -> int:
    if start == 0 and data[:3] == b"\xef\xbb\xbf":
        start = 3
    at = _skip(data, start)
    if data[at : at + 1] != bracket:
        raise DatasetError(f"byte {at} should begin {what}")
    return _skip(data, at + 1)


def _check_ends(data: Buffer) -> None:
    """Raise where this is no object from the first byte to the last."""
    at = _skip(data, 3 if data[:3] == b"\xef\xbb\xbf" else 0)
    if data[at : at + 1] != b"{" or _skip(data, _end(data, at)) != len(data):
        raise _damaged(at)


def _following(data: Buffer, end: int, closing: bytes) -> int | None:
    """Return where the next item begins after one that ends at `end`; None after the last."""
    at = _skip(data, end)
    mark = data[at : at + 1]
    if mark == closing:
        return None
    if mark != b",":
        raise _damaged(at)
    return _skip(data, at + 1)


def _skip(data: Buffer, at: int) -> int:
    match = _SPACE.match(data, at)
    return match.end() if match else at


def _end(data: Buffer, start: int) -> int:
    head = data[start : start + 1]
    if head not in (b"{", b"[", b'"'):
        plain = _PLAIN.match(data, start)
        if plain is None:
            raise _damaged(start)
        return plain.end()
    depth = 0
    for token in _TOKEN.finditer(data, start):
        begin = data[token.start() : token.start() + 1]
        if begin == b"[" or (begin == b"{" and token.end() == token.start() + 1):
            depth += 1
        elif begin in (b"]", b"}"):
            depth -= 1
        if depth == 0:
            return token.end()
    raise DatasetError(f"the JSON that begins at byte {start} is cut off")


def _text(token: bytes, at: int) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        raise _damaged(at) from None


def _damaged(at: int) -> DatasetError:
    return DatasetError(f"the JSON is damaged near byte {at}")
