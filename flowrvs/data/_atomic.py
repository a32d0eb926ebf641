"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from flowrvs.errors import DatasetError, FlowRVSError, StorageError

__all__ = ["AtomicFolder", "storage_error", "write_atomic"]

_STALE_SECONDS = 24 * 3600.0
_MARKS = ("meta_expressions.json", "instances.json", "ImageSets")


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return the one-line error for a failed write under `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"The disk is full while writing {path}; free some space, run again.")
    reason = error.strerror or str(error)
    return StorageError(f"Cannot write {path}: {reason}; choose a folder that you can write to.")


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
        self._created = _make_parents(self.target.parent)
        self._remove_stale()
        try:
            self.path = Path(
                tempfile.mkdtemp(prefix=f".{self.target.name}.partial-", dir=self.target.parent)
            )
            # mkdtemp makes it private; the dataset follows the user's umask.
            os.chmod(self.path, 0o777 & ~_umask())
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
                if not any((self.target / mark).exists() for mark in _MARKS):
                    self.abort()
                    raise DatasetError(
                        f"{self.target} holds something else than a split and is not replaced; "
                        "choose another folder."
                    )
                old = Path(
                    tempfile.mkdtemp(prefix=f".{self.target.name}.old-", dir=self.target.parent)
                )
                self.target.rename(old / "old")
                self.path.rename(self.target)
                shutil.rmtree(old, ignore_errors=True)
            else:
                if self.target.exists():
                    self.target.rmdir()
                self.path.rename(self.target)
        except OSError as error:
            self.abort()
            raise storage_error(error, self.target) from error
        self._open = False

    def abort(self) -> None:
        """Remove what was written; the target is as it was."""
        if self._open:
            self._open = False
            shutil.rmtree(self.path, ignore_errors=True)
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

    def _remove_stale(self) -> None:
        """Remove what a killed run left, once it is a day old."""
        for left in self.target.parent.glob(f".{self.target.name}.partial-*"):
            try:
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
            except OSError:
                continue


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
