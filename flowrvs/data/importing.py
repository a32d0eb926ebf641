"""Read videos of a dataset into projects, to be corrected and written back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flowrvs.data._clips import clip_to_project
from flowrvs.data._readers import open_dataset
from flowrvs.errors import DatasetError, InputError
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.store import SUFFIX, Project

__all__ = ["default_folder", "import_split", "import_video", "list_videos"]


def list_videos(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Return how many sentences each video of a dataset has.

    Parameters
    ----------
    folder : path-like
        A split in the formats MeViS, Ref-YouTube-VOS, Ref-DAVIS17, DAVIS 2017, plain PNG
        or COCO-video (the folder or the JSON file).

    Raises
    ------
    MissingPathError
        There is nothing.
    DatasetError
        It is none of the formats, or damaged.
    """
    return open_dataset(folder).videos


def default_folder(folder: str | os.PathLike[str], video: str) -> Path:
    """Return where a video's project goes by default: ``<split>.projects``, beside the split."""
    root = Path(os.path.abspath(folder))
    return root.with_name(f"{root.name}.projects") / f"{video}{SUFFIX}"


def import_video(
    folder: str | os.PathLike[str],
    video: str | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Project:
    """Make a project of one video of a dataset and open it.

    Objects become objects, those that overlap in different layers; sentences become
    expressions, also those that mean several objects or none. All masks count as drawn by
    a person. The project remembers where it comes from: `write_back` brings corrections
    home.

    Parameters
    ----------
    folder : path-like
        As in `list_videos`.
    video : str, optional
        Name of the video; may be left out where there is only one.
    out : path-like, optional
        The project's folder; `default_folder` by default.
    progress, cancel : optional
        Called and checked at every frame of a layer.

    Returns
    -------
    Project
        Open for writing; close it.

    Raises
    ------
    MissingPathError, DatasetError
        The dataset, or this video of it, is not there or broken.
    ProjectError
        There is something under the project's name already.
    StorageError
        The project cannot be written.
    Cancelled
        `cancel` was set; nothing is left.
    """
    dataset = open_dataset(folder)
    names = dataset.videos
    if video is None:
        if len(names) != 1:
            some = ", ".join(list(names)[:5])
            raise InputError(f"{folder} has {len(names)} videos ({some}, ...): choose one of them.")
        video = next(iter(names))
    if video not in names:
        raise DatasetError(f"{folder} has no video {video!r}; it has {_some(names)}.")
    target = Path(out) if out is not None else default_folder(dataset.folder, video)
    return clip_to_project(
        dataset.clip(video),
        target,
        format=dataset.format,
        split=dataset.folder,
        progress=progress,
        cancel=cancel,
    )


def import_split(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    videos: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[Path]:
    """Make a project of every video of a dataset, one at a time.

    Parameters
    ----------
    folder : path-like
        As in `list_videos`.
    out : path-like, optional
        Folder for the projects; ``<split>.projects`` by default.
    videos : sequence of str, optional
        These videos only.
    progress, cancel : optional
        As in `import_video`.

    Yields
    ------
    Path
        A project's folder, when it is complete.

    Raises
    ------
    FlowRVSError
        As in `import_video`; projects that were yielded stay.
    """
    dataset = open_dataset(folder)
    names = list(dataset.videos)
    unknown = [name for name in videos or () if name not in names]
    if unknown:
        raise DatasetError(f"{folder} has no video {unknown[0]!r}; it has {_some(names)}.")
    for name in videos or names:
        target = default_folder(dataset.folder, name)
        if out is not None:
            target = Path(out) / target.name
        with clip_to_project(
            dataset.clip(name),
            target,
            format=dataset.format,
            split=dataset.folder,
            progress=progress,
            cancel=cancel,
        ) as project:
            pass
        yield project.path


def _some(names: Sequence[str] | dict[str, int]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
