"""From projects to a dataset split, as a view-model."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from psygnal import Signal

from flowrvs.data.check import Finding, check_split
from flowrvs.data.export import (
    DESCRIPTIONS,
    FORMATS,
    ExportResult,
    export_projects,
    export_splits,
)
from flowrvs.data.origin import Origin
from flowrvs.data.preview import Preview, parse_shares, preview_export
from flowrvs.data.write_back import WriteBackResult, write_back
from flowrvs.errors import InputError, StorageError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.store import Project
from flowrvs.video import Video
from napari_flowrvs.job import Job, Last, Runner, run_here
from napari_flowrvs.projects import Projects, open_projects
from napari_flowrvs.source import VideoSource, default_project

__all__ = ["DESCRIPTIONS", "FORMATS", "Checked", "ExportInputs", "ExportPresenter"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the linter says of a split that was written."""

    result: ExportResult
    findings: tuple[Finding, ...]


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
    shares : str
        ``0.8,0.1,0.1`` or ``train=0.8,...`` for several splits, assigned by video; blank
        for one.
    seed : int
        Of the assignment.
    quality : int
        JPEG quality, 1 to 100.
    link : bool
        Hard links of source frames that are JPEG files.
    licence, date : str
        For the datasheet.
    home : bool
        Write imported projects back into the split that they come from instead.
    name_as_sentence : bool
        Give an object that no sentence means its name as a sentence.
    annotated_only : bool
        Leave out the frames on which nobody, and no model, has looked for every object.
    """

    projects: tuple[str, ...] = ()
    to: str = ""
    split: str = "train"
    format: str = "mevis"
    overwrite: bool = False
    arrays: tuple[VideoSource, ...] = ()
    shares: str = ""
    seed: int = 0
    quality: int = 95
    link: bool = False
    licence: str = ""
    date: str = ""
    home: bool = False
    name_as_sentence: bool = False
    annotated_only: bool = False

    def check(self) -> None:
        """Raise when an export cannot start with these inputs.

        Raises
        ------
        InputError
            Something is missing; the message says what to do.
        """
        if not self.projects:
            raise InputError("There is no project: run a sentence first, or add a project folder.")
        if self.home:
            return
        if not self.to.strip() or self.to.strip() == ".":
            raise InputError("There is no destination: choose the folder to write to.")
        if not self.split.strip():
            raise InputError("The split has no name: call it train, for instance.")
        self.parsed_shares()

    def parsed_shares(self) -> dict[str, float] | None:
        """Return the share of every split, None for one split.

        Raises
        ------
        InputError
            They are not understood.
        """
        return parse_shares(self.shares, self.format) if self.shares.strip() else None


def _goes_home(project: str) -> bool:
    origin = Origin.load(Path(project))
    return origin is not None and origin.goes_home


def _check_homes(projects: Sequence[str]) -> None:
    """Raise, before anything is written, where one of them has no dataset to go back to."""
    for path in projects:
        if not _goes_home(path):
            raise InputError(
                f"{Path(path).name} does not come from a dataset that can be written back to: "
                "untick it, or 'write back'."
            )


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
    #: The linter has read it.
    checked = Signal(Checked)
    #: Corrections went home.
    returned = Signal(WriteBackResult)
    #: What would be written is known.
    previewed = Signal(Preview)
    #: Whether corrections of any project can go back to the dataset that it came from.
    homes_found = Signal(bool)

    def __init__(self, runner: Runner = run_here, projects: Projects = open_projects) -> None:
        self.job = Job(runner)
        self.preview_job = Job(runner)
        self.home_job = Job(runner)
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
                if inputs.home:
                    _check_homes(inputs.projects)
                    for project in projects:
                        yield Last(
                            write_back(
                                project, overwrite=inputs.overwrite, cancel=cancel, progress=report
                            )
                        )
                    return
                videos = [_array_of(project, inputs.arrays, stack) for project in projects]
                results = _write(inputs, projects, videos, cancel, report)
            for result in results:
                yield Last(result)
                if result.format == "mevis":
                    findings = check_split(result.path, cancel=cancel, progress=report)
                    yield Last(Checked(result, tuple(findings)))

        self.job.start(work, self._on_item)

    def preview(self, inputs: ExportInputs) -> None:
        """Start to find out what would be written.

        Raises
        ------
        InputError
            There is no project, or the shares are not understood.
        """
        if not inputs.projects:
            raise InputError("There is no project: run a sentence first, or add a project folder.")
        shares = inputs.parsed_shares()
        self.preview_job.close(0.0)  # one that was begun with other choices goes on unheard

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, "Looking at the projects"))
            with contextlib.ExitStack() as stack:
                projects = [self._project(path, stack) for path in inputs.projects]
                videos = [_array_of(project, inputs.arrays, stack) for project in projects]
                yield preview_export(
                    projects,
                    split=inputs.split.strip() or "train",
                    shares=shares,
                    seed=inputs.seed,
                    format=inputs.format,
                    videos=videos,
                    name_as_sentence=inputs.name_as_sentence,
                    annotated_only=inputs.annotated_only,
                )

        self.preview_job.start(work, self._on_item)

    def look_for_homes(self, projects: Sequence[str]) -> None:
        """Start to find out whether corrections of any project can be written back."""
        folders = tuple(projects)
        self.home_job.close(0.0)

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            yield any(_goes_home(path) for path in folders)

        self.home_job.start(work, lambda found: self.homes_found.emit(bool(found)))

    def _project(self, path: str, stack: contextlib.ExitStack) -> Project:
        known = stack.enter_context(self._projects.use(path))
        if known is None:
            # Not shown here: read it without keeping others from writing to it.
            return stack.enter_context(Project.open(path, read_only=True))
        with contextlib.suppress(StorageError):  # it is read here, where the memory has all of it
            known.flush()
        return known

    def _on_item(self, item: object) -> None:
        if isinstance(item, ExportResult):
            self.finished.emit(item)
        elif isinstance(item, Checked):
            self.checked.emit(item)
        elif isinstance(item, WriteBackResult):
            self.returned.emit(item)
        elif isinstance(item, Preview):
            self.previewed.emit(item)

    def close(self, timeout: float = 5.0) -> bool:
        """Cancel what runs and wait for all of it; True when no work is left behind."""
        jobs, until = (self.job, self.preview_job, self.home_job), monotonic() + timeout
        for job in jobs:
            job.cancel()
        ended = [job.close(max(until - monotonic(), 0.0)) for job in jobs]
        return all(ended)


def _write(
    inputs: ExportInputs,
    projects: Sequence[Project],
    videos: Sequence[Video | None],
    cancel: CancelToken,
    report: ProgressCallback,
) -> list[ExportResult]:
    to = Path(inputs.to.strip()).expanduser()
    options: dict[str, Any] = {
        "format": inputs.format,
        "videos": videos,
        "overwrite": inputs.overwrite,
        "quality": inputs.quality,
        "link": inputs.link,
        "name_as_sentence": inputs.name_as_sentence,
        "annotated_only": inputs.annotated_only,
        "licence": inputs.licence,
        "date": inputs.date,
        "cancel": cancel,
        "progress": report,
    }
    shares = inputs.parsed_shares()
    if shares is not None:
        return export_splits(projects, to, shares, seed=inputs.seed, **options)
    return [export_projects(projects, to, split=inputs.split.strip(), **options)]


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
