"""Files and folders that appear whole or not at all, locks, and what a disk's errors mean.

The only module that knows how to write beside a name and rename. A file that another
program may have put there (a symbolic link, a pipe, a device) is never followed or opened.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import filecmp
import glob
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from flowrvs.errors import FlowRVSError, InputError, MissingPathError, StorageError

__all__ = [
    "FileLock",
    "NewFolder",
    "free_bytes",
    "is_flat",
    "parse_json",
    "read_json",
    "read_regular",
    "remove_leftovers",
    "replacing",
    "same_tree",
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
}
# tensorstore puts errors into words, mostly with the number.
_CODE = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")
_STATUS = {"RESOURCE_EXHAUSTED": errno.ENOSPC, "PERMISSION_DENIED": errno.EACCES}

_STALE_SECONDS = 24 * 3600.0

_LOCK_AT = 1 << 40  # where Windows locks a file: beyond any text, which others may then read


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
    with os.fdopen(_open(Path(path), os.O_RDONLY), "rb") as stream:
        try:
            data = stream.read(limit + 1)
        except OSError as error:
            raise storage_error(error, path, doing="read") from error
    if len(data) > limit:
        raise StorageError(f"Cannot read {os.fspath(path)}: it is larger than {limit} bytes.")
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


def _open(path: Path, flags: int) -> int:
    """Open a plain file and return its handle."""
    doing = "read" if flags == os.O_RDONLY else "write to"
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():  # pragma: no cover - Windows
            raise OSError(errno.ELOOP, "a symbolic link")
        handle = os.open(path, flags, 0o666)
    except FileNotFoundError as error:
        if flags & os.O_CREAT:
            raise storage_error(error, path, doing=doing) from error
        raise MissingPathError(f"There is no file {path}.") from error
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENXIO, errno.ENODEV):
            raise StorageError(f"Cannot {doing} {path}: it is no plain file.") from error
        raise storage_error(error, path, doing=doing) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StorageError(f"Cannot {doing} {path}: it is no plain file; put one there.")
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
    temporary = path.with_name(f".{path.name}.{_token()}.partial{path.suffix}")
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


def _token() -> str:
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def remove_leftovers(path: str | os.PathLike[str], *, age: float = 60.0) -> None:
    """Remove what killed processes left beside a file or folder; put back what one took away.

    Parameters
    ----------
    path : path-like
        The file or folder that was to be written. Nothing happens to it, except that a folder
        which was being replaced gets its name back.
    age : float
        Seconds that a temporary file of an ended process must have lain still: another
        computer may be writing it. 0 where a lock keeps others out.
    """
    path = Path(path)
    with contextlib.suppress(OSError):
        for left in _beside(path, ".*.partial*"):
            pid = left.name.removeprefix(f".{path.name}.").partition("-")[0]
            ended = pid.isdecimal() and int(pid) != os.getpid() and not _runs(int(pid))
            if ended and time.time() - left.lstat().st_mtime >= age:
                left.unlink(missing_ok=True)
        for left in NewFolder.leftovers(path):
            shutil.rmtree(left, ignore_errors=True)
        for lock in _beside(path, ".partial-*.lock"):
            if not lock.with_suffix("").exists() and _is_free(lock):
                lock.unlink(missing_ok=True)
        for old in _beside(path, ".old-*"):
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(path)


def _beside(path: Path, pattern: str) -> list[Path]:
    return sorted(path.parent.glob(f".{glob.escape(path.name)}{pattern}"))


def _runs(pid: int) -> bool:
    if os.name != "posix":  # pragma: no cover - there, asking would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


class NewFolder:
    """Fill a hidden folder beside `target`, then give it its final name.

    A context manager: leaving it normally commits, leaving it by an exception removes
    everything, so that a crash, a cancel or a full disk never leaves a half-written folder
    under the final name.

    Parameters
    ----------
    target : path-like
        The folder to create; its parents are created.
    replace : callable or None
        Tells whether a folder that is there may be replaced by the new one. None: never.
        A folder with the very same content is accepted as it is.
    refuse : type of FlowRVSError
        What to raise where the target cannot be made.

    Attributes
    ----------
    path : Path
        The folder to write into.
    target : Path
        The final name.

    Raises
    ------
    InputError (or `refuse`)
        The target is a file, or the folder that the program runs in.
    StorageError
        The disk is full, read-only or failing.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        replace: Callable[[Path], bool] | None = None,
        refuse: type[FlowRVSError] = InputError,
    ) -> None:
        self.target = Path(target)
        self._may_replace = replace
        self._refuse = refuse
        if self.target.exists() and not self.target.is_dir():
            raise refuse(f"{self.target} is a file; choose another folder to write to.")
        place, here = Path(os.path.abspath(self.target)), Path.cwd()
        if place in here.parents or (place == here and any(here.iterdir())):
            raise refuse(
                f"{self.target} is the folder that you are in, or around it; name a folder to make."
            )
        self._parents = _make_parents(self.target.parent)
        remove_leftovers(self.target)
        self._take_name()
        self._open = True

    def _take_name(self) -> None:
        """Make and lock a hidden folder."""
        self.path = self.target.with_name(f".{self.target.name}.partial-{_token()}")
        self._lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))
        try:
            if not self._lock.acquire():  # somebody looks whether it is a leftover
                self._take_name()
                return
            self.path.mkdir()
        except OSError as error:
            self._unlock()
            raise storage_error(error, self.target) from error

    @staticmethod
    def leftovers(target: Path) -> list[Path]:
        """Return the folders beside `target` that killed processes left."""
        found = (left for left in _beside(target, ".partial-*") if left.is_dir())
        return [left for left in found if _is_free(left.with_name(f"{left.name}.lock"))]

    def commit(self) -> None:
        """Give the folder its final name.

        Raises
        ------
        InputError (or the class given as `refuse`)
            Another folder is there and may not be replaced; nothing is changed.
        StorageError
            The folder cannot be renamed.
        """
        if not self._open:
            return
        try:
            if self.target.exists() and next(self.target.iterdir(), None) is not None:
                if same_tree(self.path, self.target):
                    self.abort()
                    return
                if self._may_replace is None or not self._may_replace(self.target):
                    raise self._refuse(
                        f"{self.target} already exists with other content; choose another folder."
                    )
                self._replace()
            else:
                if self.target.exists():
                    self.target.rmdir()
                self.path.rename(self.target)
        except (OSError, FlowRVSError) as error:
            self.abort()
            if isinstance(error, FlowRVSError):
                raise
            raise storage_error(error, self.target) from error
        self._open = False
        self._unlock()
        with contextlib.suppress(OSError):
            sync_folder(self.target.parent)

    def _replace(self) -> None:
        """Let the new folder take the place of the old one, in one step where there is one."""
        if _exchange(self.path, self.target):
            shutil.rmtree(self.path, ignore_errors=True)
            return
        # Between two renames a kill leaves no target: `remove_leftovers` puts the old one back.
        old = self.target.with_name(self.path.name.replace(".partial-", ".old-"))
        self.target.rename(old)
        try:
            self.path.rename(self.target)
        except OSError:
            old.rename(self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _unlock(self) -> None:
        # Nobody else ever takes this name: it may go once it is free.
        self._lock.release()
        with contextlib.suppress(OSError):
            self._lock.path.unlink(missing_ok=True)

    def abort(self) -> None:
        """Remove what was written; the target is as it was."""
        if self._open:
            self._open = False
            shutil.rmtree(self.path, ignore_errors=True)
            self._unlock()
            for parent in self._parents:
                with contextlib.suppress(OSError):  # something else lies there now
                    parent.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.commit()
            return
        self.abort()
        # Errors of the exception tree, some of which are OSErrors too, say more.
        if isinstance(error, OSError) and not isinstance(error, FlowRVSError):
            raise storage_error(error, self.target) from error


def _make_parents(folder: Path) -> list[Path]:
    """Create `folder` and return the folders that were new, deepest first."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    return new


def same_tree(a: Path, b: Path) -> bool:
    """True when two folders hold the same files with the same bytes."""
    names, others = (
        sorted(p.relative_to(root).as_posix() for p in root.rglob("*")) for root in (a, b)
    )
    files = [name for name in names if (a / name).is_file()]
    return (
        names == others
        and files == [name for name in names if (b / name).is_file()]
        and filecmp.cmpfiles(a, b, files, shallow=False)[0] == files
    )


def _exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(call(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)


class FileLock:
    """One process at a time: a lock that the system drops when its holder dies.

    An advisory lock on a plain file, which is made where there is none and is never
    truncated, unlinked or reached through a symbolic link. (``filelock`` truncates or unlinks
    the file in most of its modes and cannot say which inode it holds.) Holders may keep a
    text in it. As a context manager it raises where another one holds it.

    Parameters
    ----------
    path : path-like
        The lock's file; its folder exists.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; return False where another one holds it.

        Raises
        ------
        StorageError
            It is a link, a pipe or a folder, or the file cannot be made.
        """
        while self._handle is None:
            handle = _open(self.path, os.O_RDWR | os.O_CREAT)
            # Some network file systems know no locks (None); refusing them all helps nobody.
            if _try_lock(handle) is False:
                os.close(handle)
                return False
            self._handle = handle
            if not self.in_place():  # it was replaced before it was ours
                self.release()
        return True

    def release(self) -> None:
        """Let others have it; further calls do nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def in_place(self) -> bool:
        """Tell whether the file that is locked still lies at its path."""
        assert self._handle is not None, "not held"
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self._handle))
        except FileNotFoundError:
            return False

    def write(self, data: bytes) -> None:
        """Write the file's first bytes in place, in one call; the lock belongs to this inode."""
        assert self._handle is not None, "not held"
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, data)

    def __enter__(self) -> Self:
        if not self.acquire():
            raise StorageError(
                f"{self.path.parent} is being written by another program; try again later."
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _is_free(lock: Path) -> bool:
    """True where the process that held a lock has ended, or there is no lock."""
    try:
        handle = _open(lock, os.O_RDWR)
    except MissingPathError:
        return True
    except StorageError:
        return False
    try:
        free = _try_lock(handle)
        if free is None:  # nobody to ask: age decides
            free = time.time() - os.fstat(handle).st_mtime > _STALE_SECONDS
        return free
    finally:
        os.close(handle)


try:
    import fcntl

    def _try_lock(handle: int) -> bool | None:
        """True: it is ours now; False: another's; None: this file system knows no locks."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

except ImportError:  # pragma: no cover - Windows
    import msvcrt

    def _try_lock(handle: int) -> bool | None:
        try:
            os.lseek(handle, _LOCK_AT, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
