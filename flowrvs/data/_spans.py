"""Where the values of a JSON file lie, so that one can be read or replaced alone.

A ``mask_dict.json`` may be larger than the memory, and what was not touched should stay
byte for byte as it is; so these functions look for brackets and strings only, and leave
what is between them to `json`.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flowrvs.errors import DatasetError, MissingPathError

__all__ = [
    "Member",
    "Piece",
    "copy",
    "elements",
    "joined",
    "mapped",
    "member",
    "members",
    "splice",
    "splice_list",
    "value",
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


@dataclass(frozen=True, slots=True)
class Member:
    """A key of an object and where it and its value lie: ``data[start:stop]``."""

    key: str
    key_start: int
    key_stop: int
    start: int
    stop: int


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
        at = _skip(data, end)
        mark = data[at : at + 1]
        if mark == b"}":
            return
        if mark != b",":
            raise _damaged(at)
        at = _skip(data, at + 1)


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
        at = _skip(data, end)
        mark = data[at : at + 1]
        if mark == b"]":
            return
        if mark != b",":
            raise _damaged(at)
        at = _skip(data, at + 1)


def member(data: Buffer, key: str, start: int = 0) -> Member | None:
    """Return the member `key` of the object at `start`, the last one of that name."""
    found = None
    for one in members(data, start):
        if one.key == key:
            found = one
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
    for before, one in zip([None, *found], found, strict=False):
        new = changes.get(one.key, b"")
        if new is None:
            continue
        if not empty:
            assert before is not None
            yield before.stop, one.key_start
        empty = False
        yield (one.key_start, one.stop) if not new else (one.key_start, one.start)
        if new:
            yield new
    for key, new in extra.items() if isinstance(extra, Mapping) else extra:
        yield (b"" if empty else gap) + json.dumps(key).encode() + colon + new
        empty = False
    yield found[-1].stop if found else opened, stop + 1


def splice_list(data: Buffer, start: int, changes: Mapping[int, bytes]) -> Iterator[Piece]:
    """Yield the list at `start` with some elements replaced; the rest is as it was."""
    done = start
    end = _opened(data, start, b"[", "a JSON list")
    for index, (begin, end) in enumerate(elements(data, start)):
        if index in changes:
            yield done, begin
            yield changes[index]
            done = end
    yield done, _skip(data, end) + 1


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


def _opened(data: Buffer, start: int, bracket: bytes, what: str) -> int:
    if start == 0 and data[:3] == b"\xef\xbb\xbf":
        start = 3
    at = _skip(data, start)
    if data[at : at + 1] != bracket:
        raise DatasetError(f"byte {at} should begin {what}")
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
