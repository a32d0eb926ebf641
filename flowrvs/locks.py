"""Locks between processes, on plain files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Self

from flowrvs.disk import open_regular
from flowrvs.errors import MissingPathError, StorageError

__all__ = ["FileLock", "is_free"]

_STALE_SECONDS = 24 * 3600.0
_LOCK_AT = 1 << 40  # where Windows locks a file: beyond any text, which others may then read


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
            handle = open_regular(self.path, os.O_RDWR | os.O_CREAT)
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


def is_free(lock: Path) -> bool:
    """Return True where the process that held a lock has ended, or there is no lock."""
    try:
        handle = open_regular(lock, os.O_RDWR)
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
