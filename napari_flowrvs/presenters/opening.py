"""Opening videos and projects away from the interface's thread, as a view-model."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
from psygnal import Signal

from flowrvs.progress import CancelToken, Progress, ProgressCallback
from napari_flowrvs.layers import LayerTuple, layers_of
from napari_flowrvs.presenters.job import Job, Runner, run_here

__all__ = ["OpenPresenter"]


class OpenPresenter:
    """Reads anything the plugin knows into layer data; probing and hashing happen in the job.

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

    def _on_item(self, item: object) -> None:
        if isinstance(item, str):
            self.noted.emit(item)
        elif isinstance(item, list):
            layers: list[LayerTuple] = item
            self.opened.emit(layers)

    def close(self, timeout: float = 5.0) -> bool:
        """Drop what is being opened."""
        return self.job.close(timeout)
