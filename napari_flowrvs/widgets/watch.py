"""What open projects find out by themselves, and nobody asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from napari_flowrvs.presenters.job import Failure
from napari_flowrvs.projects import open_projects

__all__ = ["StorageWatch"]


class StorageWatch:
    """Tells of strokes that cannot be written, and once of anything else that is amiss.

    The store writes in the background: somebody has to look at how it goes.

    Parameters
    ----------
    folders : iterable of str
        The projects, looked at each time.
    show : callable
        Shows what is wrong.
    """

    def __init__(self, folders: Iterable[str], show: Callable[[Failure], None]) -> None:
        self._folders = folders
        self._show = show
        self._error: Exception | None = None
        self._noticed: set[tuple[Path, str]] = set()

    def check(self) -> None:
        """Look at every open project."""
        found = [open_projects.get(folder) for folder in self._folders]
        projects = [project for project in found if project is not None]
        for project in projects:
            for notice in (project.history.notice, project.confidence_notice):
                if notice and (project.path, notice) not in self._noticed:
                    self._noticed.add((project.path, notice))
                    self._show(Failure(f"{project.path.name}: {notice}", ""))
        errors = (project.storage_error for project in projects)
        error = next((each for each in errors if each is not None), None)
        if error is not None and error is not self._error:
            self._show(Failure.of(error))
        self._error = error
