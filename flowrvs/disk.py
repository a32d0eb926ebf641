"""Files that appear whole or not at all, plain files alone, and what a disk's errors mean.

Whoever writes beside a name and renames does it here, folders in `flowrvs.folders`. What another
program may have put there (a symbolic link, a pipe, a device) is never followed or opened.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowrvs.errors import FlowRVSError, MissingPathError, StorageError

__all__ = [
    "free_bytes",
    "is_flat",
    "open_regular",
    "own_token",
    "parse_json",
    "read_json",
    "read_regular",
    "replacing",
    "storage_error",
    "sync_folder",
    "write_bytes",
]

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your disk quota is used up; free some space",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EACCES: "no permission; choose another folder, or change the permissions",
    errno.EPERM: "no permission; choose another folder, or change the permissions",
    errno.EFBIG: "the file system refuses so large a file; choose another disk",
    errno.ENOENT: "the folder has vanished; put it back",
    errno.EMFILE: "too many files are open; close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this computer; close other programs",
    errno.ENOMEM: "the memory is full; close other programs",
    errno.EEXIST: "a file of that name is in the way; choose another folder",
    errno.ENOTDIR: "a file is in the way of a folder; choose another folder",
    errno.ELOOP: "it is a symbolic link; put the file itself there",
    **dict.fromkeys(
        (errno.EISDIR, errno.ENXIO, errno.ENODEV), "it is no plain file; put one there"
    ),
}
# tensorstore puts errors into words, mostly with the number.
_CODE = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")
_STATUS = {"RESOURCE_EXHAUSTED": errno.ENOSPC, "PERMISSION_DENIED": errno.EACCES}


def storage_error(
    error: BaseException, path: str | os.PathLike[str], *, doing: str = "write to", note: str = ""
) -> StorageError:
    """Return the one-line `StorageError` that says why `path` could not be used.

    Parameters
    ----------
    error : exception
        An `OSError`, or what tensorstore raises in its place.
    path : path-like
        The file or folder.
    doing : str
        What was tried: ``"write to"`` or ``"read"``.
    note : str
        A sentence to end with.
    """
    code = error.errno if isinstance(error, OSError) else None
    text = " ".join(str(error).split())
    if code is None and (said := _CODE.search(text)):
        code = int(said[1] or said[2])
    if code is None:
        code = next((c for word, c in _STATUS.items() if text.startswith(word)), None)
    if code is None and isinstance(error, MemoryError):
        code = errno.ENOMEM
    reason = _REASONS.get(code) if code is not None else None
    if reason is None and isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    reason = reason or text[:200] or type(error).__name__
    return StorageError(f"Cannot {doing} {os.fspath(path)}: {reason}.{note and ' '}{note}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "nt":  # pragma: no cover - Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_bytes(folder: Path) -> int:
    """Return the free bytes where `folder` is, or will be."""
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return shutil.disk_usage(Path.cwd()).free


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the bytes of a plain file of at most `limit` bytes.

    It is never read through a symbolic link (the folders above it may be links), and is no pipe,
    device or folder.

    Raises
    ------
    MissingPathError
        Nothing is there.
    StorageError
        It is no plain file, larger than `limit`, or cannot be read.
    """
    with os.fdopen(open_regular(Path(path), os.O_RDONLY), "rb") as stream:
        try:
            data = stream.read(limit + 1)
        except OSError as error:
            raise storage_error(error, path, doing="read") from error
    if len(data) > limit:
        reason = f"it is larger than {limit} bytes; put the right file there"
        raise StorageError(f"Cannot read {os.fspath(path)}: {reason}.")
    return data


def parse_json(data: bytes | str) -> Any:
    """Return what JSON says.

    Raises
    ------
    ValueError
        It is none, or nested so deep that nobody would have written it.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def is_flat(value: Any, depth: int = 50) -> bool:
    """Tell whether lists and objects of JSON are nested at most so deep: writing recurses, too."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(is_flat(item, depth - 1) for item in inner)


def read_json(path: Path, limit: int) -> Any:
    """Return what a JSON file says; a link to a plain file is followed.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no plain file, larger than `limit` bytes, damaged or cannot be read; the text says
        which.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no plain file")
        if path.stat().st_size > limit:
            raise ValueError(f"it is larger than {limit} bytes")
        return parse_json(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def open_regular(path: Path, flags: int) -> int:
    """Open a plain file by flags of `os.open` and return its handle; see `read_regular`."""
    doing = "read" if flags == os.O_RDONLY else "write to"
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():  # pragma: no cover - Windows
            raise OSError(errno.ELOOP, "a symbolic link")
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.ENODEV, "no plain file")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not flags & os.O_CREAT:
            raise MissingPathError(f"There is no file {path}.") from error
        raise storage_error(error, path, doing=doing) from error
    return handle


def write_bytes(path: str | os.PathLike[str], data: bytes, *, durable: bool = True) -> None:
    """Write a file so that its name always holds the old or the new bytes, never a part.

    Parameters
    ----------
    path : path-like
        The file; its folder exists.
    data : bytes
        All of its content.
    durable : bool
        Wait until a power cut cannot take it back.

    Raises
    ------
    StorageError
        The disk is full, read-only or failing; `path` is as it was.
    """
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to fill; it takes the name at the end.

    It has the same suffix, for writers that look at it. Where the block fails, `path` is as
    it was and the temporary file is gone. A symbolic link at `path` is replaced, not followed.

    Raises
    ------
    StorageError
        The disk is full, read-only or failing. Errors of the exception tree pass as they are.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{own_token()}.partial{path.suffix}")
    try:
        yield temporary
        if durable:
            with open(temporary, "r+b") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FlowRVSError):
            raise
        raise storage_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # a disk that is read-only refuses this as well
            temporary.unlink(missing_ok=True)


def own_token() -> str:
    """Return what no other temporary name holds; it begins with the number of this process."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"
