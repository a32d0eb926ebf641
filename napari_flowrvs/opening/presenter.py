"""Opening videos and projects, and copying them, away from the interface's thread."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Generator
from pathlib import Path

import numpy as np
from psygnal import Signal

from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.store import Project
from napari_flowrvs.job import Failure, Job, Runner, run_here
from napari_flowrvs.layers import LayerTuple, layers_of
from napari_flowrvs.projects import Projects, open_projects
from napari_flowrvs.source import VideoSource, existing_project

__all__ = ["OpenPresenter"]


class OpenPresenter:
    """Reads anything the plugin knows into layer data; probing and hashing happen in the job.

    Copies of projects are written here, too.

    Parameters
    ----------
    runner : Runner
        Where jobs run.
    """

    #: Layers of the path, to be added by the interface.
    opened = Signal(list)  # list[LayerTuple]
    #: Something the user should know although it went well.
    noted = Signal(str)
    #: A project lies where that of a video would: the project, and who asked.
    found = Signal(object, object)

    def __init__(self, runner: Runner = run_here, projects: Projects = open_projects) -> None:
        self.job = Job(runner)
        self.looking = Job(runner)
        self._projects = projects
        self._copied = ""  # the project of which a copy is being written
        self._asked: deque[tuple[VideoSource, object]] = deque()
        self.looking.completed.connect(self._look_next)
        self.looking.failed.connect(self._on_unfit)

    def open(self, path: str | Path) -> None:
        """Start to open a video, an image folder, a MeViS folder or a project."""
        path, self._copied = Path(path).expanduser(), ""

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Opening {path.name}"))
            notes: list[str] = []
            layers = layers_of(path, notes.append)
            _look_ahead()
            for data, _, _ in layers:
                np.asarray(data[(len(data) - 1) // 2])  # what napari shows first
            yield layers
            yield from notes

        self.job.start(work, self._on_item)

    def copy(self, project: Project | None, path: str | Path) -> None:
        """Start to write a copy of a project; work goes on in the project itself.

        Raises
        ------
        InputError
            There is no project.
        """
        if project is None:
            raise InputError("There is no project yet: Run, Draw by hand, or open one first.")
        self._copied = project.path.name

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Copying {project.path.name}"))
            target = project.copy_to(Path(path).expanduser())
            yield f"A copy was saved: {target}. You go on working in {project.path.name}."

        self.job.start(work, self._on_item)

    @property
    def losing_text(self) -> str:
        """What is lost with the window, for people; "" for nothing."""
        copying = self.job.busy and self._copied
        return f"A copy of {self._copied} is being written" if copying else ""

    def look_beside(self, source: VideoSource, asker: object) -> None:
        """Start to open the project that a video has from an earlier session, if any."""
        self._asked.append((source, asker))
        if not self.looking.busy:
            self._look_next()

    def _look_next(self) -> None:
        if not self._asked:
            return
        source, asker = self._asked.popleft()

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            folder = existing_project(source)
            if folder is None:
                return
            _look_ahead()
            was_open = self._projects.get(folder) is not None
            project = self._projects.open(folder)
            try:
                with source.open() as video:
                    project.check_video(video.info)
                cancel.raise_if_cancelled()
            except BaseException:
                if not was_open:
                    self._projects.close(project)
                raise
            yield project

        def found(project: object) -> None:
            self.found.emit(project, asker)

        self.looking.start(work, found)

    def _on_unfit(self, failure: Failure) -> None:
        self.noted.emit(f"The project of an earlier session is not shown: {failure.summary}")
        self._look_next()

    def _on_item(self, item: object) -> None:
        if isinstance(item, str):
            self.noted.emit(item)
        elif isinstance(item, list):
            layers: list[LayerTuple] = item
            self.opened.emit(layers)

    def close(self, timeout: float = 5.0) -> bool:
        """Drop what is being opened."""
        self._asked.clear()
        return self.looking.close(timeout) and self.job.close(timeout)


def _look_ahead() -> None:
    """Import here what napari imports on the interface's thread for its first labels."""
    importlib.import_module("pandas")
