"""From projects, which change on any thread, to the desk and the user, on the interface's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from qtpy.QtCore import QObject, Qt, Signal

from flowrvs.store import Project, ProjectEvent
from napari_flowrvs.desk import Desk
from napari_flowrvs.job import Failure
from napari_flowrvs.projects import open_projects
from napari_flowrvs.widgets.parts import later

__all__ = ["Bridge", "StorageWatch"]

_DEBOUNCE_MS = 40


class Bridge(QObject):
    """Gathers what changes in the desk's project and tells the desk a moment later.

    A stroke or a run changes a project hundreds of times a second; the panels hear of it
    twenty-five times at most.

    Parameters
    ----------
    desk : Desk
        Who is told.
    parent : QObject, optional
        Its owner.
    """

    _woken = Signal()

    def __init__(self, desk: Desk, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self._lock = threading.Lock()
        self._frames: dict[tuple[int | None, bool], tuple[int, int]] = {}
        self._kinds: set[str] = set()
        self._disconnect: Callable[[], None] | None = None
        self._home = threading.current_thread()
        self._painted: set[int] = set()
        soon = later(self._pass_on, _DEBOUNCE_MS, self)
        self._woken.connect(soon, Qt.ConnectionType.QueuedConnection)
        desk.project_changed.connect(self._on_project)

    def _on_project(self, project: Project | None) -> None:
        self.close()
        if project is not None:
            self._disconnect = project.connect(self._on_change)

    def painted(self, layer_id: int) -> None:
        """Note that napari has drawn a stroke, which needs no second drawing."""
        self._painted.add(layer_id)

    def _on_change(self, change: ProjectEvent) -> None:
        """Note a change; called on the thread that made it."""
        drawn = threading.current_thread() is not self._home  # its job says what to draw
        with self._lock:
            first = not self._kinds
            self._kinds.add(change.kind)
            if change.kind in ("pixels", "provenance"):
                key = (change.layer_id, drawn)
                start, stop = self._frames.get(key, (change.start, change.stop))
                self._frames[key] = (min(start, change.start), max(stop, change.stop))
        if first:
            try:
                self._woken.emit()
            except RuntimeError:  # the application has gone
                return

    def _pass_on(self) -> None:
        with self._lock:
            frames, self._frames = self._frames, {}
            kinds, self._kinds = self._kinds, set()
        painted, self._painted = self._painted, set()
        for (layer_id, drawn), (start, stop) in frames.items():
            stroke = layer_id in painted and stop - start == 1
            if (drawn or stroke) and layer_id is not None:
                self._desk.wrote(layer_id, start, stop)
            else:
                self._desk.touched(layer_id, start, stop)
        if "catalog" in kinds:
            self._desk.catalog_changed.emit()
        if "history" in kinds:
            self._desk.history_changed.emit()

    def close(self) -> None:
        """Listen no more."""
        disconnect, self._disconnect = self._disconnect, None
        if disconnect is not None:
            disconnect()
        with self._lock:
            self._frames.clear()
            self._kinds.clear()


_GONE = (
    "its folder was moved or deleted. What is in memory is not lost: put it back, or choose open > "
    "save a copy of the project now."
)


class StorageWatch:
    """Tells of strokes that cannot be written, and once of anything else that is amiss.

    The store writes in the background: somebody has to look at how it goes.

    Parameters
    ----------
    projects : iterable of Project
        Looked at each time.
    show : callable
        Shows what is wrong.
    """

    def __init__(self, projects: Iterable[Project], show: Callable[[Failure], None]) -> None:
        self._projects = projects
        self._show = show
        self._error: Exception | None = None
        self._noticed: set[tuple[Path, str]] = set()

    def check(self) -> None:
        """Look at every open project."""
        projects = [p for p in self._projects if open_projects.get(p.path) is p]
        for project in projects:
            gone = "" if project.path.is_dir() else _GONE
            for notice in (gone, project.history.notice, project.confidence_notice):
                if notice and (project.path, notice) not in self._noticed:
                    self._noticed.add((project.path, notice))
                    self._show(Failure(f"{project.path.name}: {notice}", ""))
        errors = (project.storage_error for project in projects)
        error = next((each for each in errors if each is not None), None)
        if error is not None and error is not self._error:
            self._show(Failure.of(error))
        self._error = error
