"""From projects to a dataset split, as a view-model."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from psygnal import Signal

from flowrvs.data.export import FORMATS, ExportResult, export_projects
from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.store import Project
from flowrvs.video import Video
from napari_flowrvs.presenters.job import Job, Runner, run_here
from napari_flowrvs.projects import Projects, open_projects
from napari_flowrvs.source import VideoSource, default_project

__all__ = ["FORMATS", "ExportInputs", "ExportPresenter"]


@dataclass(frozen=True)
class ExportInputs:
    """What the export form holds.

    Attributes
    ----------
    projects : tuple of str
        Project folders.
    to : str
        Folder that will hold the split.
    split : str
        Name of the split: ``train``, ``valid_u``...
    format : str
        One of `FORMATS`.
    overwrite : bool
        Replace a split that is already there.
    arrays : tuple of VideoSource
        Videos in memory, for projects that were made from one.
    """

    projects: tuple[str, ...] = ()
    to: str = ""
    split: str = "train"
    format: str = "mevis"
    overwrite: bool = False
    arrays: tuple[VideoSource, ...] = ()

    def check(self) -> None:
        """Raise when an export cannot start with these inputs.

        Raises
        ------
        InputError
            Something is missing; the message says what to do.
        """
        if not self.projects:
            raise InputError("There is no project: run a sentence first, or add a project folder.")
        if not self.to.strip() or self.to.strip() == ".":
            raise InputError("There is no destination: choose the folder to write to.")
        if not self.split.strip():
            raise InputError("The split has no name: call it train, for instance.")


class ExportPresenter:
    """Writes projects as a split; what is painted but not yet on disk is flushed first.

    Parameters
    ----------
    runner : Runner
        Where jobs run.
    projects : Projects
        The open projects of this process.
    """

    #: The split was written.
    finished = Signal(ExportResult)

    def __init__(self, runner: Runner = run_here, projects: Projects = open_projects) -> None:
        self.job = Job(runner)
        self._projects = projects

    def run(self, inputs: ExportInputs) -> None:
        """Start an export.

        Raises
        ------
        InputError
            The inputs are not complete; nothing was started.
        """
        inputs.check()

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, "Saving the projects"))
            with contextlib.ExitStack() as stack:
                projects = [self._project(path, stack) for path in inputs.projects]
                videos = [_array_of(project, inputs.arrays, stack) for project in projects]
                result = export_projects(
                    projects,
                    Path(inputs.to.strip()).expanduser(),
                    format=inputs.format,
                    split=inputs.split.strip(),
                    videos=videos,
                    overwrite=inputs.overwrite,
                    cancel=cancel,
                    progress=report,
                )
            yield result

        self.job.start(work, self._on_item)

    def _project(self, path: str, stack: contextlib.ExitStack) -> Project:
        known = self._projects.get(path)
        if known is None:
            # Not shown here: read it without keeping others from writing to it.
            return stack.enter_context(Project.open(path, read_only=True))
        known.flush()
        return known

    def _on_item(self, item: object) -> None:
        if isinstance(item, ExportResult):
            self.finished.emit(item)

    def close(self, timeout: float = 5.0) -> bool:
        """Cancel a running export and wait for it; True when no work is left behind."""
        return self.job.close(timeout)


def _array_of(
    project: Project, arrays: Sequence[VideoSource], stack: contextlib.ExitStack
) -> Video | None:
    """Return the frames of a project that was made from an array; None for any other."""
    info = project.video
    if info.path is not None:
        return None
    size = (info.frame_count, info.height, info.width)
    fitting = [source for source in arrays if tuple(source.array.shape[:3]) == size]
    # Clips of one size are told apart by the folder that their content gives them.
    named = [source for source in fitting if default_project(source).name == project.path.name]
    for source in named or (fitting if len(fitting) == 1 else []):
        return stack.enter_context(source.open())
    return None
