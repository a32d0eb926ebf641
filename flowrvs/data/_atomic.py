"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import filecmp
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from flowrvs.disk import storage_error
from flowrvs.errors import DatasetError, FlowRVSError

__all__ = [
    "WRITTEN_BY",
    "AtomicFolder",
    "hold",
    "leftovers",
    "sweep",
    "write_atomic",
]

_STALE_SECONDS = 24 * 3600.0
_MARKS = ("meta_expressions.json", "instances.json", "ImageSets")

WRITTEN_BY = "Written by flowrvs"
"""What the datasheet of an export says, by which it is known again."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, then rename.

    Raises
    ------
    StorageError
        The disk is full, read-only or failing; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a disk that is read-only refuses this as well
            temporary.unlink(missing_ok=True)
        raise storage_error(error, path) from error


class AtomicFolder:
    """Fill a hidden folder beside `target`, then give it its final name.

    A context manager: leaving it normally commits, leaving it by an exception
    removes everything, so that a crash, a cancel or a full disk never leaves a
    half-written folder under the final name.

    Parameters
    ----------
    target : path-like
        The folder to create; its parents are created.
    overwrite : bool
        Replace a split that is already there. Without it, a folder with the very
        same content is accepted as it is and any other is refused. A folder that is
        no split is never replaced.

    Attributes
    ----------
    path : Path
        The folder to write into.
    """

    def __init__(self, target: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.target = Path(target)
        self.overwrite = overwrite
        if self.target.exists() and not self.target.is_dir():
            raise DatasetError(f"{self.target} is a file; choose another folder to write to.")
        place, here = Path(os.path.abspath(self.target)), Path.cwd()
        if place in (here, *here.parents):
            raise DatasetError(
                f"{self.target} is the folder that you are in, or around it; name a folder to make."
            )
        self._created = _make_parents(self.target.parent)
        sweep(self.target)
        try:
            self._lock, name = _locked(self.target)
            self.path = self.target.with_name(name)
            self.path.mkdir()
        except OSError as error:
            raise storage_error(error, self.target) from error
        self._open = True

    def commit(self) -> None:
        """Give the folder its final name.

        Raises
        ------
        DatasetError
            Another folder is there and `overwrite` is false; nothing is changed.
        StorageError
            The folder cannot be renamed.
        """
        if not self._open:
            return
        try:
            if self.target.exists() and not _is_empty(self.target):
                if same_tree(self.path, self.target):
                    self.abort()
                    return
                if not self.overwrite:
                    self.abort()
                    raise DatasetError(
                        f"{self.target} already exists with other content; "
                        "choose another folder, or overwrite it (--overwrite)."
                    )
                if not _is_export(self.target):
                    self.abort()
                    raise DatasetError(
                        f"{self.target} holds something else than a split and is not replaced; "
                        "choose another folder."
                    )
                self._replace()
            else:
                if self.target.exists():
                    self.target.rmdir()
                self.path.rename(self.target)
        except OSError as error:
            self.abort()
            raise storage_error(error, self.target) from error
        self._open = False
        self._unlock()

    def _replace(self) -> None:
        """Let the new folder take the place of the old one, in one step where there is one."""
        if _exchange(self.path, self.target):
            shutil.rmtree(self.path, ignore_errors=True)
            return
        # Between two renames a kill leaves no target: the next export puts the old one back.
        old = self.target.with_name(self.path.name.replace(".partial-", ".old-"))
        self.target.rename(old)
        self.path.rename(self.target)
        shutil.rmtree(old, ignore_errors=True)

    def _unlock(self) -> None:
        os.close(self._lock)
        self.path.with_name(self.path.name + ".lock").unlink(missing_ok=True)

    def abort(self) -> None:
        """Remove what was written; the target is as it was."""
        if self._open:
            self._open = False
            shutil.rmtree(self.path, ignore_errors=True)
            self._unlock()
            for parent in self._created:
                if parent.is_dir() and _is_empty(parent):
                    parent.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
            return
        self.abort()
        # Errors of the exception tree, some of which are OSErrors too, say more.
        if isinstance(error, OSError) and not isinstance(error, FlowRVSError):
            raise storage_error(error, self.target) from error


def leftovers(target: Path) -> list[Path]:
    """Return the folders beside `target` that a killed export left."""
    found = []
    for left in target.parent.glob(f".{target.name}.partial-*"):
        if left.is_dir() and _is_dead(left):
            found.append(left)
    return sorted(found)


def sweep(target: Path) -> None:
    """Remove what killed exports left beside `target`, and put back what one took away."""
    for left in leftovers(target):
        shutil.rmtree(left, ignore_errors=True)
    for lock in target.parent.glob(f".{target.name}.partial-*.lock"):
        folder = lock.with_suffix("")
        if not folder.exists() and _is_dead(folder):
            lock.unlink(missing_ok=True)
    for old in sorted(target.parent.glob(f".{target.name}.old-*")):
        with contextlib.suppress(OSError):
            if target.exists():
                shutil.rmtree(old)
            else:
                old.rename(target)


def _is_dead(left: Path) -> bool:
    """True when the process that made a partial folder has ended."""
    lock = left.with_name(left.name + ".lock")
    try:
        handle = os.open(lock, os.O_RDWR)
        try:
            free = _try_lock(handle)
        finally:
            os.close(handle)
        if free is not None:
            return free
        stamp = lock.stat().st_mtime
    except OSError:
        stamp = None
    # Without a lock to ask, age decides.
    try:
        stamp = left.stat().st_mtime if stamp is None else stamp
    except OSError:
        return False
    return time.time() - stamp > _STALE_SECONDS


def _locked(target: Path) -> tuple[int, str]:
    """Make and hold the lock of a new partial folder; return it and the folder's name."""
    handle, path = tempfile.mkstemp(
        prefix=f".{target.name}.partial-", suffix=".lock", dir=target.parent
    )
    _try_lock(handle)
    return handle, Path(path).name.removesuffix(".lock")


def _is_export(folder: Path) -> bool:
    if any((folder / mark).exists() for mark in _MARKS):
        return True
    try:
        return WRITTEN_BY in (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def same_tree(one: Path, other: Path) -> bool:
    """True when two folders hold the same files with the same bytes."""
    listing = [
        sorted(p.relative_to(root).as_posix() for p in root.rglob("*")) for root in (one, other)
    ]
    if listing[0] != listing[1]:
        return False
    for name in listing[0]:
        a, b = one / name, other / name
        if a.is_dir() != b.is_dir():
            return False
        if a.is_file() and not filecmp.cmp(a, b, shallow=False):
            return False
    return True


def _make_parents(folder: Path) -> list[Path]:
    """Create `folder` and return the folders that were new, deepest first."""
    new = []
    probe = folder
    while not probe.exists():
        new.append(probe)
        probe = probe.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    return new


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


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
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True


@contextlib.contextmanager
def hold(target: Path) -> Iterator[None]:
    """Keep other processes from changing the same split meanwhile.

    Raises
    ------
    DatasetError
        Another one is at it.
    StorageError
        The folder cannot be written to.
    """
    path = target / ".writing.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise storage_error(error, target) from error
    try:
        if _try_lock(handle) is False:
            raise DatasetError(f"{target} is being written by another program; try again later.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)
