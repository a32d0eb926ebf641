"""A dataset's videos opened for correction, as a view-model."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from psygnal import Signal

from flowrvs.data.formats import open_dataset
from flowrvs.data.importing import default_folder, import_video
from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from napari_flowrvs.job import Job, Last, Runner, run_here
from napari_flowrvs.layers import LayerTuple, project_layers
from napari_flowrvs.projects import Projects, open_projects

__all__ = ["ImportPresenter"]


class ImportPresenter:
    """Lists the videos of a dataset and opens one as a project.

    Parameters
    ----------
    runner : Runner
        Where jobs run.
    projects : Projects
        The open projects of this process.
    """

    #: Number of sentences by video.
    listed = Signal(dict)
    #: Layers of the project, to be added by the interface.
    opened = Signal(list)  # list[LayerTuple]
    #: Something the user should know although it went well.
    noted = Signal(str)

    def __init__(self, runner: Runner = run_here, projects: Projects = open_projects) -> None:
        self.job = Job(runner)
        self._projects = projects

    def list_videos(self, folder: str) -> None:
        """Start to list a dataset's videos.

        Raises
        ------
        InputError
            There is no folder.
        """
        place = _place(folder)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Reading {place.name}"))
            yield dict(open_dataset(place).videos)

        self.job.start(work, self._on_item)

    def open(self, folder: str, video: str) -> None:
        """Start to open a video; one that was opened before is gone on with.

        Raises
        ------
        InputError
            There is no folder or no video.
        """
        place = _place(folder)
        if not video:
            raise InputError("There is no video: choose one of the list.")

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, f"Opening {video}"))
            target = default_folder(open_dataset(place).folder, video)
            if target.exists():
                yield f"{video} was opened before: going on with {target.name}."
            else:
                import_video(place, video, target, cancel=cancel, progress=report).close()
            notes: list[str] = []
            yield Last(project_layers(self._projects.open(target), notes.append))
            yield from map(Last, notes)

        self.job.start(work, self._on_item)

    def _on_item(self, item: object) -> None:
        if isinstance(item, dict):
            self.listed.emit(item)
        elif isinstance(item, str):
            self.noted.emit(item)
        elif isinstance(item, list):
            layers: list[LayerTuple] = item
            self.opened.emit(layers)

    def close(self, timeout: float = 5.0) -> bool:
        """Drop what is being read."""
        return self.job.close(timeout)


def _place(folder: str) -> Path:
    if not folder.strip() or folder.strip() == ".":
        raise InputError("There is no dataset: choose the folder of a split.")
    return Path(folder.strip()).expanduser()
