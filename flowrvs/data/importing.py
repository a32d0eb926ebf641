"""Read videos of a dataset into projects, to be corrected and written back."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from flowrvs.data.clip import Clip, separate, whole_text
from flowrvs.data.formats import Dataset, open_dataset
from flowrvs.data.origin import Origin
from flowrvs.errors import (
    Cancelled,
    DatasetError,
    FlowRVSError,
    InputError,
    ProjectError,
    StorageError,
    counted,
    some_failed,
)
from flowrvs.folders import NewFolder, remove_leftovers
from flowrvs.locks import FileLock
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store import SUFFIX, Project

__all__ = ["default_folder", "import_split", "import_video", "list_videos"]

_FLUSH = 32


def list_videos(
    folder: str | os.PathLike[str], *, pictures: str | os.PathLike[str] | None = None
) -> dict[str, int]:
    """Return how many sentences each video of a dataset has.

    Parameters
    ----------
    folder : path-like
        A dataset in one of the formats that are read (docs/datasets.md): its folder, or the
        JSON file of those that are one.
    pictures : path-like, optional
        The folder that holds the videos' folders of frames, where it lies elsewhere.

    Raises
    ------
    MissingPathError
        There is nothing.
    DatasetError
        It is none of the formats, or damaged.
    """
    return open_dataset(folder, pictures).videos


def default_folder(folder: str | os.PathLike[str], video: str) -> Path:
    """Return where a video's project goes by default: ``<split>.projects``, beside the split."""
    root = Path(os.path.abspath(folder))
    return root.with_name(f"{root.name}.projects") / f"{video}{SUFFIX}"


def import_video(
    folder: str | os.PathLike[str],
    video: str | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    pictures: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Project:
    """Make a project of one video of a dataset and open it.

    Objects become objects, those that overlap in different layers; sentences become
    expressions, also those that mean several objects or none. All masks count as drawn by
    a person, absence too; frames that the dataset does not annotate stay untouched. The
    project remembers where it comes from (``Origin``, with notes of what was not read):
    `write_back` brings corrections home.

    Parameters
    ----------
    folder : path-like
        As in `list_videos`.
    video : str, optional
        Name of the video; may be left out where there is only one.
    out : path-like, optional
        The project's folder; `default_folder` by default.
    pictures : path-like, optional
        As in `list_videos`.
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
    dataset = open_dataset(folder, pictures)
    names = dataset.videos
    if video is None:
        if len(names) != 1:
            raise InputError(
                f"{folder} has {counted(len(names), 'video')} ({_some(names)}): choose one of them."
            )
        video = next(iter(names))
    if video not in names:
        raise DatasetError(f"{folder} has no video {video!r}; it has {_some(names)}.")
    target = Path(out) if out is not None else default_folder(dataset.folder, video)
    return _to_project(dataset, video, target, progress, cancel)


def import_split(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    videos: Sequence[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    kept: Callable[[Path], object] | None = None,
    failed: Callable[[str, FlowRVSError], object] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[Path]:
    """Make a project of every video of a dataset, one at a time.

    A project that is there already, of the same video, is left as it is and yielded too: so the
    same call goes on after a stop. A video that cannot be read does not stop the others.

    Parameters
    ----------
    folder : path-like
        As in `list_videos`.
    out : path-like, optional
        Folder for the projects; ``<split>.projects`` by default.
    videos : sequence of str, optional
        These videos only.
    pictures : path-like, optional
        As in `list_videos`.
    kept : callable, optional
        Called with every project that was there already, before it is yielded.
    failed : callable, optional
        Called with every video that could not be read, and why, as soon as that is known.
    progress, cancel : optional
        As in `import_video`.

    Yields
    ------
    Path
        A project's folder, when it is complete.

    Raises
    ------
    DatasetError
        At the end: some videos could not be read; they are named. At the beginning: as in
        `import_video`.
    StorageError, Cancelled
        At once; projects that were yielded stay.
    """
    dataset = open_dataset(folder, pictures)
    names = list(dataset.videos)
    unknown = [name for name in videos or () if name not in names]
    if unknown:
        raise DatasetError(f"{folder} has no video {unknown[0]!r}; it has {_some(names)}.")
    lost: dict[str, FlowRVSError] = {}
    wanted = videos or names
    for name in wanted:
        target = default_folder(dataset.folder, name)
        if out is not None:
            target = Path(out) / target.name
        made = _is_made(target, dataset, name)
        try:
            if not made:
                with _to_project(dataset, name, target, progress, cancel):
                    pass
        except (StorageError, Cancelled):
            raise
        except FlowRVSError as error:
            made = _is_made(target, dataset, name)  # by another process, meanwhile
            if not made:
                lost[name] = error
                if failed is not None:
                    failed(name, error)
                continue
        if made and kept is not None:
            kept(Path(os.path.abspath(target)))
        yield Path(os.path.abspath(target))
    if lost:
        raise some_failed(lost, len(wanted), "imported")


def _is_made(target: Path, dataset: Dataset, video: str) -> bool:
    """Tell whether a project of this video of this dataset is there."""
    origin = Origin.load(target)
    place = None if origin is None else (origin.format, origin.split, origin.video)
    return place == (dataset.format, os.path.abspath(dataset.source), video)


def _some(names: Sequence[str] | dict[str, int]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")


def _to_project(
    dataset: Dataset,
    video: str,
    out: Path,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Project:
    """Write a video as a project and open it.

    Every mask is given truth: its provenance is a person, on every listed frame. Objects
    that overlap go into different layers.
    """
    from flowrvs.video import open_video

    target = out if out.suffix == SUFFIX else out.with_name(out.name + SUFFIX)
    target = Path(os.path.abspath(target))
    if target.exists():
        raise ProjectError(f"{target} already exists; open it, or choose another name.")
    clip = dataset.clip(video)
    if not clip.masks and not clip.sentences:
        why = f": {clip.notes[0]}" if clip.notes else ""
        raise DatasetError(f"{video} in {dataset.folder} has neither objects nor sentences{why}.")
    _remove_begun(target)
    with _named(target), NewFolder(target, refuse=ProjectError) as folder:
        with open_video(clip.pictures) as opened:
            positions = _positions(clip, opened.info.frame_names, len(opened))
            _check_sizes(clip, (opened.info.height, opened.info.width))
            info = opened.info
        with _building(folder.path) as building:
            project = Project.create(building, info)
            try:
                origin = _fill(project, clip, positions, progress, cancel)
                origin.format, origin.split = dataset.format, os.path.abspath(dataset.source)
                origin.pictures = os.path.abspath(dataset.pictures) if dataset.elsewhere else ""
                origin.save(building)
                project.close()
                folder.path.rmdir()
                building.rename(folder.path)
            finally:
                project.discard()  # what is left is of a folder that is about to be deleted
    return Project.open(target)


@contextlib.contextmanager
def _named(target: Path) -> Iterator[None]:
    """Let errors of the disk name the project, not where it is being made."""
    hidden = rf"{re.escape(str(target.parent))}/\.+{re.escape(target.name)}\.partial-[^\s:]*"
    try:
        yield
    except StorageError as error:
        said = re.sub(hidden, lambda _: str(target), str(error))
        raise StorageError(said.removesuffix(" Nothing in memory is lost.")) from error


@contextlib.contextmanager
def _building(hidden: Path) -> Iterator[Path]:
    """Give the place of a project that is being made, and keep those off who clean up.

    A project's name ends in .flowrvs, and it knows its video from where it lies.
    """
    place = hidden.with_name(hidden.name + SUFFIX)
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    lock.acquire()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()
        lock.path.unlink(missing_ok=True)


def _remove_begun(target: Path) -> None:
    """Remove what killed imports left of projects that were just begun."""
    for left in target.parent.glob(f"..{glob.escape(target.name)}.partial-*"):
        remove_leftovers(left.with_name(left.name[1:].rpartition(".partial-")[0]))


def _fill(
    project: Project,
    clip: Clip,
    positions: list[int],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Origin:
    # What was read is where a person begins; there is nothing before it to go back to.
    project.history.limit_bytes = -1
    groups = separate(clip.masks)
    clock = ProgressClock(len(groups) * len(positions) or 1)
    ids: dict[int, int] = {}
    for number, group in enumerate(groups, start=1):
        layer = project.add_layer("objects" if number == 1 else f"objects {number}")
        for key in group:
            ids[key] = project.add_object(_name(clip, key), layer.id).id
        labels = project.labels(layer.id)
        for step, position in enumerate(positions):
            if cancel is not None:
                cancel.raise_if_cancelled()
            frame = np.zeros(labels.shape[1:], np.uint16)
            for key in group:
                entry = clip.masks[key][step]
                if entry:
                    frame[rle.decode(entry)] = ids[key]
            if frame.any():
                labels[position] = frame
            if step % _FLUSH == _FLUSH - 1:
                project.flush()
            if progress is not None:
                progress(clock.advance(f"reading {clip.name}"))
    looked = [p for n, p in enumerate(positions) if clip.looked is None or clip.looked[n]]
    if len(looked) < len(positions) and clip.masks:
        clip.notes.append(
            f"on {len(positions) - len(looked)} of {len(positions)} frames there is no annotation: "
            "nobody has looked there yet"
        )
    for object_id in ids.values():
        # Where the truth says "absent", a person said so: the model keeps off there too.
        for start, stop in _runs(looked):
            project.lock_frames(object_id, start, stop)
            project.unlock_frames(object_id, start, stop)
    expressions, unknown = {}, []
    for exp_id, (text, keys) in clip.sentences.items():
        if text.strip():
            made = project.add_expression(whole_text(text), [ids[key] for key in keys or ()])
            expressions[made.exp_id] = exp_id
            if keys is None:
                unknown.append(made.exp_id)
    if unknown:
        clip.notes.append(
            f"the dataset does not say what is meant by {len(unknown)} of {len(clip.sentences)} "
            "sentences"
        )
    project.flush()
    return Origin(
        "",
        "",
        clip.name,
        list(clip.frames),
        {ids[key]: pair for key, pair in clip.ids.items()},
        expressions,
        dict(clip.digests),
        unknown,
        notes=clip.notes,
    )


def _name(clip: Clip, key: int) -> str:
    if key in clip.names:
        return whole_text(clip.names[key])
    for text, keys in clip.sentences.values():
        if keys == [key] and text.strip():
            return whole_text(" ".join(text.split())[:60])
    return f"object {clip.ids.get(key, (key, -1))[0]}"


def _positions(clip: Clip, names: Sequence[str], count: int) -> list[int]:
    """Return where each annotated frame lies in the video."""
    if not names:
        if count != len(clip.frames):
            raise DatasetError(
                f"{clip.pictures} has {counted(count, 'frame')}, the annotations of {clip.name} "
                f"{len(clip.frames)}: they belong to another cut of the video."
            )
        return list(range(count))
    twice = [frame for frame, count in Counter(clip.frames).items() if count > 1]
    if twice:
        raise DatasetError(f"The frame {twice[0]} of {clip.name} is listed twice; list it once.")
    where = {name: index for index, name in enumerate(names)}
    missing = [frame for frame in clip.frames if frame not in where]
    if missing:
        raise DatasetError(
            f"The frame {missing[0]} of {clip.name} is not in {clip.pictures}; copy it again."
        )
    return [where[frame] for frame in clip.frames]


def _check_sizes(clip: Clip, size: tuple[int, int]) -> None:
    for key, entries in clip.masks.items():
        if len(entries) != len(clip.frames):
            raise DatasetError(
                f"An object of {clip.name} has {counted(len(entries), 'mask')} for "
                f"{counted(len(clip.frames), 'frame')}; write one entry a frame."
            )
        for frame, entry in zip(clip.frames, entries, strict=True):
            if entry and tuple(entry["size"]) != size:
                height, width = entry["size"]
                raise DatasetError(
                    f"A mask of {clip.name}, object {key}, frame {frame}, is {width}x{height}, "
                    f"the frames are {size[1]}x{size[0]}; make both of one size."
                )


def _runs(positions: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[list[int]] = []
    for position in sorted(positions):
        if runs and runs[-1][1] == position:
            runs[-1][1] += 1
        else:
            runs.append([position, position + 1])
    return [(start, stop) for start, stop in runs]
