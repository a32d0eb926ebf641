"""Sizes, hashes and copies of model files, which may be gigabytes long."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowrvs import disk
from flowrvs.progress import CancelToken

__all__ = [
    "CHUNK",
    "copy_file",
    "feed",
    "fingerprint",
    "folder_bytes",
    "read_json",
    "sha256",
    "size_text",
]

#: Bytes between two looks at a cancel token.
CHUNK = 4 * 1024 * 1024
#: Bytes at a file's beginning and end that its fingerprint looks at.
_SAMPLE = 4 * 1024 * 1024
#: Bytes of a config or an index, at most; those of the official weights take a few hundred kB.
_LARGEST_JSON = 16 * 1024 * 1024

Step = Callable[[int], object]


def feed(
    digest: hashlib._Hash,
    path: Path,
    *,
    cancel: CancelToken | None = None,
    step: Step = lambda count: None,
) -> None:
    """Feed the content of `path` to `digest`; call `step` with every count of bytes read.

    Raises
    ------
    Cancelled
        On request, within a few MB.
    """
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            if cancel is not None:
                cancel.raise_if_cancelled()
            digest.update(block)
            step(len(block))


def sha256(
    path: Path, *, cancel: CancelToken | None = None, step: Step = lambda count: None
) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits; see `feed`."""
    digest = hashlib.sha256()
    feed(digest, path, cancel=cancel, step=step)
    return digest.hexdigest()


def fingerprint(*places: Path) -> str:
    """Hash of model files and of all files in folders, found without reading them whole.

    Of every file the size, the first and the last 4 MiB count: other weights differ
    everywhere, and eleven gigabytes need not be read for a sentence.
    """
    digest = hashlib.sha256()
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if not path.is_file():
                continue
            size = path.stat().st_size
            digest.update(f"{path.relative_to(place).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE))
                if size > _SAMPLE:
                    file.seek(max(_SAMPLE, size - _SAMPLE))
                    digest.update(file.read())
    return digest.hexdigest()[:32]


def copy_file(source: Path, target: Path, step: Step) -> None:
    """Copy a file, calling `step` with every count of bytes; it may raise to stop."""
    with source.open("rb") as stream, target.open("wb") as out:
        while block := stream.read(CHUNK):
            out.write(block)
            step(len(block))


def size_text(count: int) -> str:
    """Return a count of bytes as people say it: "812 B", "4.1 MB", "14.0 GB"."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`; 0 when there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is not readable, too large, damaged, or no object; the text says which.
    """
    content = disk.read_json(path, _LARGEST_JSON)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, not an object")
    return content
