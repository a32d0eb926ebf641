"""One video of a dataset as it is read, whatever the format, and a project made of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flowrvs.data._origin import Origin
from flowrvs.disk import storage_error
from flowrvs.errors import DatasetError, ProjectError
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store import SUFFIX, Project

__all__ = ["Clip", "clip_to_project", "separate"]

_FLUSH = 32


@dataclass(frozen=True, slots=True)
class Clip:
    """A video of a dataset with its objects and sentences.

    Attributes
    ----------
    name : str
        The video.
    pictures : Path
        The folder or video file with its frames.
    frames : list of str
        Names of the annotated frames, in order.
    objects : dict of int to list of RLE or None
        Masks by a key that is unique in the clip, one entry for each of `frames`.
    expressions : dict of str to (text, list of int)
        By exp_id; the ids are keys of `objects`.
    ids : dict of int to (obj_id, anno_id)
        What the dataset calls the objects.
    names : dict of int to str
        What people call them, where the dataset says so.
    digests : dict of str to str
        See `Origin`.
    """

    name: str
    pictures: Path
    frames: list[str]
    objects: dict[int, list[rle.RLE | None]]
    expressions: dict[str, tuple[str, list[int]]]
    ids: dict[int, tuple[int, int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def separate(objects: Mapping[int, Sequence[rle.RLE | None]]) -> list[list[int]]:
    """Arrange objects into as few groups as a first fit finds, without overlap within one."""
    keys = list(objects)
    crossing: dict[int, set[int]] = {key: set() for key in keys}
    for entries in zip(*objects.values(), strict=True):
        here = [(key, entry) for key, entry in zip(keys, entries, strict=True) if entry]
        if len(here) < 2:
            continue
        shared = rle.overlaps([entry for _, entry in here])
        for row, column in np.argwhere(np.triu(shared, 1)):
            crossing[here[row][0]].add(here[column][0])
            crossing[here[column][0]].add(here[row][0])
    groups: list[list[int]] = []
    for key in keys:
        for group in groups:
            if not crossing[key] & set(group):
                group.append(key)
                break
        else:
            groups.append([key])
    return groups


def clip_to_project(
    clip: Clip,
    out: Path,
    *,
    format: str,
    split: Path,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Project:
    """Write a clip as a project and open it.

    Every mask is given truth: its provenance is a person, on every listed frame. Objects
    that overlap go into different layers.

    Raises
    ------
    ProjectError
        There is something under the project's name already.
    DatasetError
        The masks do not fit the frames.
    """
    from flowrvs.video import open_video

    target = out if out.suffix == SUFFIX else out.with_name(out.name + SUFFIX)
    target = Path(os.path.abspath(target))
    if target.exists():
        raise ProjectError(f"{target} already exists; open it, or choose another name.")
    building = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.partial{SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_video(clip.pictures) as video:
            positions = _positions(clip, video.info.frame_names, len(video))
            _check_sizes(clip, (video.info.height, video.info.width))
            info = video.info
        project = Project.create(building, info)
        try:
            origin = _fill(project, clip, positions, progress, cancel)
            origin.format, origin.split = format, os.path.abspath(split)
            origin.save(project.path)
            project.close()
        finally:
            project.discard()  # what is left is of a folder that is about to be deleted
        building.rename(target)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # only where it is empty: it was made for this
        if isinstance(error, OSError) and type(error).__module__ == "builtins":
            raise storage_error(error, target) from error
        raise
    return Project.open(target)


def _fill(
    project: Project,
    clip: Clip,
    positions: list[int],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Origin:
    # What was read is where a person begins; there is nothing before it to go back to.
    project.history.limit_bytes = -1
    groups = separate(clip.objects)
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
                entry = clip.objects[key][step]
                if entry:
                    frame[rle.decode(entry)] = ids[key]
            if frame.any():
                labels[position] = frame
            if step % _FLUSH == _FLUSH - 1:
                project.flush()
            if progress is not None:
                progress(clock.advance(f"reading {clip.name}"))
    for object_id in ids.values():
        # Where the truth says "absent", a person said so: the model keeps off there too.
        for start, stop in _runs(positions):
            project.lock_frames(object_id, start, stop)
            project.unlock_frames(object_id, start, stop)
    expressions = {}
    for exp_id, (text, keys) in clip.expressions.items():
        if text.strip():
            made = project.add_expression(text, [ids[key] for key in keys])
            expressions[made.exp_id] = exp_id
    project.flush()
    known = {ids[key]: pair for key, pair in clip.ids.items()}
    return Origin("", "", clip.name, list(clip.frames), known, expressions, dict(clip.digests))


def _name(clip: Clip, key: int) -> str:
    if key in clip.names:
        return clip.names[key]
    for text, keys in clip.expressions.values():
        if keys == [key] and text.strip():
            return " ".join(text.split())[:60]
    return f"object {clip.ids.get(key, (key, -1))[0]}"


def _positions(clip: Clip, names: Sequence[str], count: int) -> list[int]:
    """Return where each annotated frame lies in the video."""
    if not names:
        if count != len(clip.frames):
            raise DatasetError(
                f"{clip.pictures} has {count} frames, the annotations of {clip.name} "
                f"{len(clip.frames)}; run 'flowrvs check'."
            )
        return list(range(count))
    where = {name: index for index, name in enumerate(names)}
    missing = [frame for frame in clip.frames if frame not in where]
    if missing:
        raise DatasetError(
            f"The frame {missing[0]} of {clip.name} is not in {clip.pictures}; copy it again or "
            "run 'flowrvs check'."
        )
    return [where[frame] for frame in clip.frames]


def _check_sizes(clip: Clip, size: tuple[int, int]) -> None:
    for key, entries in clip.objects.items():
        if len(entries) != len(clip.frames):
            raise DatasetError(
                f"An object of {clip.name} has {len(entries)} masks for {len(clip.frames)} "
                "frames; run 'flowrvs check'."
            )
        for frame, entry in zip(clip.frames, entries, strict=True):
            if entry and tuple(entry["size"]) != size:
                height, width = entry["size"]
                raise DatasetError(
                    f"A mask of {clip.name}, object {key}, frame {frame}, is {width}x{height}, "
                    f"the frames are {size[1]}x{size[0]}; run 'flowrvs check'."
                )


def _runs(positions: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[list[int]] = []
    for position in sorted(positions):
        if runs and runs[-1][1] == position:
            runs[-1][1] += 1
        else:
            runs.append([position, position + 1])
    return [(start, stop) for start, stop in runs]
