"""Sizes, hashes and disk errors of model files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from flowrvs.errors import StorageError
from flowrvs.progress import CancelToken

__all__ = [
    "feed",
    "folder_bytes",
    "free_bytes",
    "sha256",
    "size_text",
    "storage_error",
    "write_text",
]

#: Bytes between two looks at the cancel token.
CHUNK = 4 * 1024 * 1024


def feed(
    digest: hashlib._Hash,
    path: Path,
    *,
    cancel: CancelToken | None = None,
    step: Callable[[int], object] | None = None,
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
            if step is not None:
                step(len(block))


def sha256(
    path: Path,
    *,
    cancel: CancelToken | None = None,
    step: Callable[[int], object] | None = None,
) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits; see `feed`."""
    digest = hashlib.sha256()
    feed(digest, path, cancel=cancel, step=step)
    return digest.hexdigest()


def free_bytes(folder: Path) -> int:
    """Return the free bytes where `folder` is, or will be."""
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return shutil.disk_usage(Path.cwd()).free


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


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return the one-line error for a failed write under `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"The disk is full while writing {path}; free some space, run again.")
    reason = error.strerror or str(error)
    return StorageError(f"Cannot write {path}: {reason}; choose a folder that you can write to.")


def write_text(path: Path, text: str) -> None:
    """Write `text` under a temporary name beside `path`, then rename.

    Raises
    ------
    StorageError
        The disk is full, read-only or failing; `path` is as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise storage_error(error, path) from error
