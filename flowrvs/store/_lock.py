"""One writer a project: a lock that the system drops when its process dies."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from flowrvs.errors import ProjectError, StorageError
from flowrvs.store._files import storage_error

__all__ = ["WriterLock"]

_SIZE = 512


class WriterLock:
    """Holds a project for writing.

    The lock is an advisory lock on ``writer/zarr.json``, an empty zarr group (so that
    zarr's readers know what it is) whose attributes name the process that holds it. The
    system releases the lock when that process ends, however it ends.

    Parameters
    ----------
    project : Path
        The project's folder.

    Raises
    ------
    ProjectError
        Another process, or this one, has the project open for writing.
    StorageError
        The folder cannot be written to.
    """

    def __init__(self, project: Path) -> None:
        self._path = path = project / "writer" / "zarr.json"
        try:
            path.parent.mkdir(exist_ok=True)
            # Made in place: of two that come at once, both must see the same file.
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise storage_error(error, project) from error
        if not _try_lock(handle):
            holder = _holder(handle)
            os.close(handle)
            raise ProjectError(f"{project} is open for writing in {holder}; close it there first.")
        self._handle: int | None = handle
        try:
            self._say({"pid": os.getpid(), "host": socket.gethostname()})
        except OSError as error:
            self.release()
            raise storage_error(error, project) from error

    def release(self) -> None:
        """Let others write; further calls do nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def check(self) -> None:
        """Make sure that what is written lands in the project that is locked.

        Raises
        ------
        StorageError
            Its folder was moved or deleted, or another one lies in its place.
        """
        assert self._handle is not None
        project = self._path.parents[1]
        try:
            same = os.path.samestat(os.stat(self._path), os.fstat(self._handle))
        except OSError as error:
            raise storage_error(error, project) from error
        if not same:
            raise StorageError(
                f"Cannot write to {project}: another folder lies in its place; put the old one "
                "back. Nothing in memory is lost."
            )

    def _say(self, attributes: dict[str, int | str]) -> None:
        # Written in place, padded to one size, in one call: the lock belongs to this inode,
        # and a kill must not leave half a document.
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        data = json.dumps(document).encode().ljust(_SIZE)
        assert self._handle is not None
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, data)


def _holder(handle: int) -> str:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        who = json.loads(os.read(handle, _SIZE))["attributes"]
        if who["pid"] == os.getpid() and who["host"] == socket.gethostname():
            return "this program"
        return f"another process (pid {who['pid']} on {who['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


try:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # Some network file systems know no locks; refusing them all helps nobody.
            return True
        return True

except ImportError:  # pragma: no cover - Windows
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            # Beyond the text, which others must be able to read.
            os.lseek(handle, 1 << 20, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
