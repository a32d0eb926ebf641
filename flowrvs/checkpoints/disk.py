"""Sizes, hashes and disk errors of model files."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowrvs.disk import storage_error
from flowrvs.errors import FlowRVSError
from flowrvs.progress import CancelToken

__all__ = [
    "appears_whole",
    "copy_file",
    "feed",
    "folder_bytes",
    "free_bytes",
    "sha256",
    "size_text",
    "write_text",
]

#: Bytes between two looks at a cancel token.
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
        with suppress(OSError):  # a disk that is read-only refuses this as well
            part.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def copy_file(source: Path, target: Path, step: Callable[[int], object]) -> None:
    """Copy a file, calling `step` with every count of bytes; it may raise to stop."""
    with source.open("rb") as stream, target.open("wb") as out:
        while block := stream.read(CHUNK):
            out.write(block)
            step(len(block))


@contextmanager
def appears_whole(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside `out`, which takes its name at the end or goes.

    Raises
    ------
    StorageError
        The disk is full, read-only or failing.
    """
    folder = out.with_name(f".{out.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(out)
        folder.mkdir()
        yield folder
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        if isinstance(error, FlowRVSError):
            raise
        raise storage_error(error, out) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(out: Path) -> None:
    """Remove what killed runs left beside `out`."""
    for left in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        pid = left.name.rpartition("partial-")[2].partition("-")[0]
        if pid.isdecimal() and int(pid) != os.getpid() and not _runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: int) -> bool:
    if os.name != "posix":  # there, asking would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
