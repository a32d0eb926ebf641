"""One writer a project: a lock that the system drops when its process dies."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

from flowrvs.disk import FileLock, read_regular
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
        self._project = project
        self._lock = FileLock(project / "writer" / "zarr.json")
        try:
            self._lock.path.parent.mkdir(exist_ok=True)
            # Made in place: of two that come at once, both must see the same file.
            mine = self._lock.acquire()
        except StorageError:
            raise
        except OSError as error:
            raise storage_error(error, project) from error
        if not mine:
            holder = _holder(self._lock.path)
            raise ProjectError(f"{project} is open for writing in {holder}; close it there first.")
        # Written in place, padded to one size: a kill must not leave half a document.
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        document = {"zarr_format": 3, "node_type": "group", "attributes": who}
        try:
            self._lock.write(json.dumps(document).encode().ljust(_SIZE))
        except OSError as error:
            self.release()
            raise storage_error(error, project) from error

    def release(self) -> None:
        """Let others write; further calls do nothing."""
        self._lock.release()

    def check(self) -> None:
        """Make sure that what is written lands in the project that is locked.

        Raises
        ------
        StorageError
            Its folder was moved or deleted, or another one lies in its place.
        """
        if self._lock.in_place():
            return
        if not self._lock.path.exists():
            missing = FileNotFoundError(errno.ENOENT, "gone")
            raise storage_error(missing, self._project)
        raise StorageError(
            f"Cannot write to {self._project}: another folder lies in its place; put the old one "
            "back. Nothing in memory is lost."
        )


def _holder(path: Path) -> str:
    try:
        who = json.loads(read_regular(path, _SIZE))["attributes"]
        if who["pid"] == os.getpid() and who["host"] == socket.gethostname():
            return "this program"
        return f"another process (pid {who['pid']} on {who['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
