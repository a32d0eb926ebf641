"""The project folders that are open in this process, each opened once.

Layers, jobs and exports share one `Project` per folder: two would not see each
other's unsaved strokes.
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path

from flowrvs.errors import FlowRVSError
from flowrvs.records import VideoInfo
from flowrvs.store import Project

__all__ = ["Projects", "open_projects"]


class Projects:
    """Open projects by folder; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[Path, Project] = {}

    @staticmethod
    def _key(path: str | os.PathLike[str]) -> Path:
        return Path(path).expanduser().resolve()

    def get(self, path: str | os.PathLike[str]) -> Project | None:
        """Return the project of `path` when it is open."""
        with self._lock:
            return self._open.get(self._key(path))

    def open(self, path: str | os.PathLike[str]) -> Project:
        """Return the project of `path`, opening it when it is not.

        Raises
        ------
        ProjectError, MissingPathError
            There is no project that can be read.
        """
        key = self._key(path)
        with self._lock:
            project = self._open.get(key)
            if project is None:
                project = self._open[key] = Project.open(key)
            return project

    def ensure(self, path: str | os.PathLike[str], video: VideoInfo) -> Project:
        """Return the project of `path`, made when there is none.

        Raises
        ------
        ProjectError
            The folder belongs to another video, or is no project.
        """
        key = self._key(path)
        with self._lock:
            if key not in self._open and not key.exists():
                self._open[key] = Project.create(key, video)
            project = self.open(key)
        project.check_video(video)
        return project

    def close(self, project: Project) -> None:
        """Flush and close `project`; a second call does nothing."""
        with self._lock:
            for key, known in list(self._open.items()):
                if known is project:
                    del self._open[key]
                    known.close()

    def flush(self) -> None:
        """Write what every open project still holds in memory."""
        with self._lock:
            known = list(self._open.values())
        for project in known:
            project.flush()

    def close_all(self) -> None:
        """Flush and close all of them; one that fails does not keep the others open."""
        with self._lock:
            known = list(self._open.values())
            self._open.clear()
        for project in known:
            try:
                project.close()
            except FlowRVSError:
                continue


#: The projects that are open in this process.
open_projects = Projects()
atexit.register(open_projects.close_all)
