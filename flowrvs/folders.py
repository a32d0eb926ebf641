"""Folders that appear whole or not at all, and what killed processes left, files included."""

from __future__ import annotations

import contextlib
import ctypes
import filecmp
import glob
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from flowrvs.disk import own_token, storage_error, sync_folder
from flowrvs.errors import FlowRVSError, InputError
from flowrvs.locks import FileLock, is_free

__all__ = ["NewFolder", "remove_leftovers", "remove_temporaries", "same_tree"]

_TEMPORARY = re.compile(r"\.(\d+)-[0-9a-f]+\.partial")  # see `flowrvs.disk.own_token`


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
        if _holds_program(self.target):
            raise refuse(
                f"{self.target} is the folder that you are in, or around it; name a folder to make."
            )
        self._parents = _make_parents(self.target.parent)
        remove_leftovers(self.target)
        self._take_name()
        self._open = True

    def _take_name(self) -> None:
        """Make and lock a hidden folder."""
        self.path = self.target.with_name(f".{self.target.name}.partial-{own_token()}")
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
        return [left for left in found if is_free(left.with_name(f"{left.name}.lock"))]

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


def _holds_program(folder: Path) -> bool:
    """True for the folder that the program runs in, and those around it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # somebody has removed it, and a long work goes on
        return False
    return Path(os.path.abspath(folder)) in (here, *here.parents)


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
            _remove_file(left, age)
        for left in NewFolder.leftovers(path):
            shutil.rmtree(left, ignore_errors=True)
        for lock in _beside(path, ".partial-*.lock"):
            if not lock.with_suffix("").exists() and is_free(lock):
                lock.unlink(missing_ok=True)
        for old in _beside(path, ".old-*"):
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(path)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of ended processes from a folder of many files.

    Those of processes that run stay: two may write into it. Who writes on another computer is not
    seen.
    """
    with contextlib.suppress(OSError):
        for left in folder.glob(".*.partial*"):
            _remove_file(left, 0.0)


def _remove_file(left: Path, age: float) -> None:
    """Remove a temporary file whose process has ended, and that has lain still for so long."""
    found = _TEMPORARY.search(left.name)
    ended = found and int(found[1]) != os.getpid() and not _runs(int(found[1]))
    if ended and time.time() - left.lstat().st_mtime >= age:
        left.unlink(missing_ok=True)


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
