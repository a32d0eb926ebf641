"""Export projects as a dataset split: a walk over their objects and sentences."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.data._content import ExportResult, Work
from flowrvs.data._formats import WRITERS
from flowrvs.data._names import safe_name
from flowrvs.data._sources import collect
from flowrvs.errors import InputError, ProjectError
from flowrvs.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = ["FORMATS", "ExportResult", "export_projects"]

FORMATS = tuple(WRITERS)
"""Formats that :func:`export_projects` writes."""


def export_projects(
    projects: Sequence[Project],
    to: str | os.PathLike[str],
    *,
    format: str = "mevis",
    split: str = "train",
    videos: Sequence[Video | None] | None = None,
    overwrite: bool = False,
    quality: int = 95,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ExportResult:
    """Write projects as the split ``<to>/<split>``.

    A mask that several sentences mean is stored once; a sentence whose objects have
    no pixel is one without target. Projects of the same video become one video. The
    frames of a folder of JPEG files are copied byte by byte under their own names;
    others are compressed. The split appears whole or not at all.

    Parameters
    ----------
    projects : sequence of Project
        Open projects.
    to : path-like
        The dataset's folder; created when it is not there.
    format : str
        One of `FORMATS`.
    split : str
        Name of the split: ``train``, ``valid_u``, or another. ``valid`` is written
        without masks in the MeViS format, as MeViS's own is.
    videos : sequence of Video or None, optional
        The frames of each project where they are open already, or where the project
        was made from an array.
    overwrite : bool
        Replace a split that is already there. Without it, the very same content is
        accepted and any other is refused.
    quality : int
        JPEG quality, 1 to 100.
    progress : callable, optional
        Called as frames and masks are written.
    cancel : CancelToken, optional
        Checked every few frames.

    Returns
    -------
    ExportResult

    Raises
    ------
    InputError
        The format, the quality or the split's name is unusable, or there is nothing
        to export.
    DatasetError
        Another split is there already.
    ProjectError, VideoError, MissingPathError
        A project's video is gone or is another one.
    StorageError
        The disk is full, read-only or failing.
    Cancelled
        `cancel` was set; nothing is left behind.
    """
    if format not in FORMATS:
        raise InputError(f"Unknown format {format!r}; choose one of {', '.join(FORMATS)}.")
    if not 1 <= quality <= 100:
        raise InputError(f"JPEG quality must be 1 to 100, not {quality}.")
    safe_name(split, "split")
    if not projects:
        raise InputError("There is no project to export; give one at least.")
    target = Path(to) / split
    _keep_apart(target, projects)
    with contextlib.ExitStack() as stack:
        sources = collect(projects, _open_videos(projects, videos, stack))
        work = Work(sources, quality=quality, overwrite=overwrite, progress=progress, cancel=cancel)
        return WRITERS[format](target, work)


def _open_videos(
    projects: Sequence[Project],
    videos: Sequence[Video | None] | None,
    stack: contextlib.ExitStack,
) -> list[Video]:
    from flowrvs.video import open_video

    given = list(videos) if videos is not None else [None] * len(projects)
    if len(given) != len(projects):
        raise InputError(f"{len(given)} videos were given for {len(projects)} projects.")
    opened = []
    for project, video in zip(projects, given, strict=True):
        if video is None:
            if project.video.path is None:
                raise ProjectError(
                    f"{project.path} was made from an array in memory; hand its frames in as well."
                )
            video = stack.enter_context(open_video(_find(project, project.video.path)))
        opened.append(video)
    return opened


def _find(project: Project, path: str) -> str:
    """Return where the video lies: where it was, or beside a project that was moved."""
    beside = Path(project.path).parent / Path(path).name
    return str(beside) if not Path(path).exists() and beside.exists() else path


def _keep_apart(target: Path, projects: Sequence[Project]) -> None:
    """Refuse a target that replacing would destroy the sources."""
    place = target.resolve()
    for project in projects:
        folder = Path(project.path).resolve()
        sources = [folder]
        if project.video.path is not None:
            sources.append(Path(project.video.path).resolve())
        if folder in place.parents or any(place in (s, *s.parents) for s in sources):
            raise InputError(
                f"{target} would replace or lie in what is being exported; choose another folder."
            )
