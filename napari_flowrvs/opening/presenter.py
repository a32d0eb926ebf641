"""Opening videos and projects, and copying them, away from the interface's thread."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
from psygnal import Signal

from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.store import Project
from napari_flowrvs.job import Job, Runner, run_here
from napari_flowrvs.layers import LayerTuple, layers_of

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

    def __init__(self, runner: Runner = run_here) -> None:
        self.job = Job(runner)

    def open(self, path: str | Path) -> None:
        """Start to open a video, an image folder, a MeViS folder or a project."""
        path = Path(path).expanduser()

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Opening {path.name}"))
            notes: list[str] = []
            layers = layers_of(path, notes.append)
            for data, _, kind in layers:
                if kind == "image":
                    # napari shows the middle frame first: decode it here, not in the interface.
                    np.asarray(data[(len(data) - 1) // 2])
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

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Copying {project.path.name}"))
            target = project.copy_to(Path(path).expanduser())
            yield f"A copy was saved: {target}. You go on working in {project.path.name}."

        self.job.start(work, self._on_item)

    def _on_item(self, item: object) -> None:
        if isinstance(item, str):
            self.noted.emit(item)
        elif isinstance(item, list):
            layers: list[LayerTuple] = item
            self.opened.emit(layers)

    def close(self, timeout: float = 5.0) -> bool:
        """Drop what is being opened."""
        return self.job.close(timeout)
