"""The project folders that are open in this process, each opened once.

Layers, jobs and exports share one `Project` per folder: two would not see each
other's unsaved strokes.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowrvs.errors import FlowRVSError
from flowrvs.records import VideoInfo
from flowrvs.store import Project

__all__ = ["Projects", "open_projects"]


class Projects:
    """Open projects by folder; every method may be called from any thread.

    Opening and closing take a while: nobody waits for that who only asks what is open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, Project] = {}
        self._changing: dict[Path, threading.RLock] = {}
        self._holders: dict[Path, set[object]] = {}
        self._users: Counter[Path] = Counter()
        self._let_go: set[Path] = set()  # to be closed when nobody uses them any more

    @staticmethod
    def _key(path: str | os.PathLike[str]) -> Path:
        return Path(path).expanduser().resolve()

    def _turn(self, key: Path) -> threading.RLock:
        """Return the lock of those who open or close a folder."""
        with self._lock:
            return self._changing.setdefault(key, threading.RLock())

    def get(self, path: str | os.PathLike[str]) -> Project | None:
        """Return the project of `path` when it is open."""
        key = self._key(path)
        with self._lock:
            return self._open.get(key)

    def open(self, path: str | os.PathLike[str]) -> Project:
        """Return the project of `path`, opening it when it is not.

        Raises
        ------
        ProjectError, MissingPathError
            There is no project that can be read.
        """
        key = self._key(path)
        with self._turn(key):
            project = self.get(key)
            if project is None:
                project = Project.open(key)
            with self._lock:
                self._open[key] = project
                self._let_go.discard(key)  # whoever asks for it is about to show it
            return project

    def ensure(self, path: str | os.PathLike[str], video: VideoInfo) -> Project:
        """Return the project of `path`, made when there is none.

        Raises
        ------
        ProjectError
            The folder belongs to another video, or is no project.
        """
        key = self._key(path)
        with self._turn(key):
            if self.get(key) is None and not key.exists():
                made = Project.create(key, video)
                with self._lock:
                    self._open[key] = made
            project = self.open(key)
        project.check_video(video)
        return project

    def hold(self, project: Project, holder: object) -> None:
        """Note that somebody, a viewer for instance, shows a project."""
        with self._lock:
            key = self._key(project.path)
            self._holders.setdefault(key, set()).add(holder)
            self._let_go.discard(key)

    @contextmanager
    def use(self, path: str | os.PathLike[str]) -> Iterator[Project | None]:
        """Keep the project of `path` open meanwhile; None where it is not open."""
        key = self._key(path)
        with self._turn(key), self._lock:  # one that is being closed is not open any more
            project = self._open.get(key)
            self._users[key] += project is not None
        try:
            yield project
        finally:
            if project is not None:
                with self._lock:
                    self._users[key] -= 1
                with suppress(FlowRVSError):  # it stays known, and is tried again at the end
                    self._close_unused(project)

    def release(self, project: Project, holder: object) -> None:
        """Note that `holder` shows it no more; the last one closes it, once nobody uses it."""
        key = self._key(project.path)
        with self._lock:
            holders = self._holders.get(key, set())
            holders.discard(holder)
            if not holders and self._open.get(key) is project:
                self._let_go.add(key)
        self._close_unused(project)

    def _close_unused(self, project: Project) -> None:
        key = self._key(project.path)
        with self._turn(key):
            with self._lock:
                unused = key in self._let_go and not self._users[key]
            if unused:
                self.close(project)

    def close(self, project: Project) -> None:
        """Flush and close `project`; a second call does nothing.

        It stays known when that fails, so that what is in memory can still be saved.
        """
        key = self._key(project.path)
        with self._turn(key):
            if self.get(key) is project:
                project.close()
                with self._lock:
                    self._open.pop(key, None)
                    self._holders.pop(key, None)
                    self._let_go.discard(key)

    def close_all(self) -> None:
        """Flush and close all of them; one that fails does not keep the others open."""
        with self._lock:
            known = list(self._open.values())
            self._open.clear()
            self._holders.clear()
            self._let_go.clear()
        for project in known:
            try:
                project.close()
            except FlowRVSError:
                continue


#: The projects that are open in this process.
open_projects = Projects()
atexit.register(open_projects.close_all)
