"""Bring the corrections of an imported project home to the dataset that it was read from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.data.clip import Clip, Source, free_id, was_not_looked_for, whole_text
from flowrvs.data.formats import Dataset, reader
from flowrvs.data.json_parts import locked
from flowrvs.data.origin import Origin
from flowrvs.errors import DatasetError, InputError, counted
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    from flowrvs.store import Project

__all__ = ["Changes", "WriteBackResult", "can_write_back", "check_write_back", "write_back"]


@dataclass(frozen=True, slots=True)
class WriteBackResult:
    """What was changed in a dataset.

    Attributes
    ----------
    path : Path
        The dataset's folder.
    video : str
        The video.
    masks : int
        Masks (of an object on a frame) that differ now.
    sentences : int
        Sentences that were changed, added or removed.
    added, removed : int
        Objects that are new, and that are gone.
    notes : tuple of str
        What a person should know, one line each.
    """

    path: Path
    video: str
    masks: int
    sentences: int
    added: int
    removed: int
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Changes:
    """How a project differs from its video in a dataset, in the dataset's keys.

    Attributes
    ----------
    masks : dict of int to dict of int to RLE or None
        The masks that differ, by object and index of the frame.
    whole : dict of int to list of RLE or None
        All masks of the objects in `masks`, those of `gone` left out.
    added : list of int
        Objects that are new; they are in `masks` with all their frames.
    gone : list of int
        Objects without a pixel left.
    sentences : dict of str to (text, list of int) or None
        Sentences that differ or are new, by exp_id; None for those to remove.
    names : dict of int to str
        What people call the objects that are new.
    ids : dict of int to int
        The obj_id of the objects that are new.
    looked : list of int
        Frames that nobody had looked at in the dataset, and that somebody has looked at here.
    """

    masks: dict[int, dict[int, rle.RLE | None]] = field(default_factory=dict)
    whole: dict[int, list[rle.RLE | None]] = field(default_factory=dict)
    added: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    sentences: dict[str, tuple[str, list[int]] | None] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    ids: dict[int, int] = field(default_factory=dict)
    looked: list[int] = field(default_factory=list)

    def frames(self) -> list[int]:
        """Return the frames on which some mask differs, or that were looked at."""
        found = {index for masks in self.masks.values() for index in masks}
        return sorted(found.union(self.looked))

    def objects(self, before: Clip) -> dict[int, list[rle.RLE | None]]:
        """Return the masks of all objects as they are to be."""
        kept = {key: masks for key, masks in before.masks.items() if key not in self.gone}
        return {**kept, **self.whole}

    def texts(self, before: Clip) -> dict[str, tuple[str, list[int] | None]]:
        """Return all sentences as they are to be."""
        rows = {**before.sentences, **self.sentences}
        return {exp_id: row for exp_id, row in rows.items() if row is not None}


def can_write_back(project: Project) -> bool:
    """Tell whether `write_back` brings a project's corrections home: whether it was imported
    from a format that can be changed in place."""
    origin = Origin.load(Path(project.path))
    return origin is not None and origin.goes_home


def write_back(
    project: Project,
    into: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> WriteBackResult:
    """Write what was corrected in an imported project into its dataset.

    Untouched masks keep their bytes, untouched videos their entries, and the frames are not
    written at all; keys stay in their order, with the ids that they had. Objects that are new
    get the next free id. An object without a pixel left is taken out of its sentences. The
    dataset is changed whole or not at all.

    Parameters
    ----------
    project : Project
        One that `import_video` made; see `can_write_back`.
    into : path-like, optional
        The dataset, where it lies elsewhere now.
    overwrite : bool
        Write although the video was changed by somebody else since it was read: what this
        project says wins.
    progress, cancel : optional
        Called and checked as masks are compared.

    Returns
    -------
    WriteBackResult

    Raises
    ------
    InputError
        The project was not imported, or from a format that is not changed in place.
    DatasetError
        The dataset lacks the video, was changed meanwhile, is damaged, or cannot hold what
        was drawn, such as objects that overlap.
    StorageError
        The disk is full, read-only or failing.
    """
    known, dataset = _home(project, into)
    with locked(dataset.folder):
        before = _before(known, dataset, overwrite)
        origin = replace(known, objects=dict(known.objects), expressions=dict(known.expressions))
        changes, result = _compare(project, origin, before, dataset, progress, cancel)
        if changes.masks or changes.sentences or changes.looked:
            _note_begun(known, origin, before, Path(project.path))
            try:
                renamed = dataset.write_back(before, changes) or {}
            except DatasetError:  # it was refused; a disk may have failed half-way
                known.save(Path(project.path))
                raise
            for own, exp_id in origin.expressions.items():
                origin.expressions[own] = renamed.get(exp_id, exp_id)
            _, dataset = _home(project, into)
            drawn = changes.objects(before)
            before = dataset.clip(origin.video, also=_keys(origin).values())
            if dataset.sentences_only:
                _number(origin, drawn, before)
        place = os.path.abspath(into or origin.split)
        fresh = replace(origin, split=place, digests=before.digests, begun=False)
        fresh.save(Path(project.path))
    return result


def _note_begun(known: Origin, origin: Origin, before: Clip, folder: Path) -> None:
    """Note the ids before they are written: after a kill they are not given a second time.

    What is to be removed keeps its own: where a kill comes too soon, it is still to be removed.
    """
    keys = _keys(known)
    objects = {own: pair for own, pair in known.objects.items() if keys[own] in before.masks}
    sentences = {own: i for own, i in known.expressions.items() if i in before.sentences}
    begun = replace(
        origin,
        objects=objects | origin.objects,
        expressions=sentences | origin.expressions,
        begun=True,
    )
    begun.save(folder)


def check_write_back(
    project: Project, into: str | os.PathLike[str] | None = None, *, overwrite: bool = False
) -> None:
    """Raise what `write_back` would raise before it compares anything."""
    origin, dataset = _home(project, into)
    _before(origin, dataset, overwrite)


def _home(project: Project, into: str | os.PathLike[str] | None) -> tuple[Origin, Dataset]:
    """Return where a project comes from, and the dataset there."""
    origin = Origin.load(Path(project.path))
    if origin is None:
        raise InputError(
            f"{project.path} was not read from a dataset; export it with --append instead."
        )
    if not can_write_back(project):
        raise InputError(
            f"{project.path} comes from the format {origin.format}, which is not written back to: "
            "export it as a new split instead."
        )
    place = Path(into) if into is not None else Path(origin.split)
    kind = reader(origin.format)
    if not kind.recognises(place):
        raise DatasetError(
            f"{place} is no dataset of the format {origin.format}; say where it lies now (--into)."
        )
    return origin, kind(place, Path(origin.pictures) if origin.pictures else None)


def _before(origin: Origin, dataset: Dataset, overwrite: bool) -> Clip:
    """Return the video as the dataset has it, unless somebody else has changed it."""
    if origin.video not in dataset.videos:
        raise DatasetError(
            f"{dataset.folder} has no video {origin.video!r}; export with --append instead."
        )
    before = dataset.clip(origin.video, also=_keys(origin).values())
    if before.digests != origin.digests and origin.begun and not overwrite:
        raise DatasetError(
            f"Writing {origin.video} into {dataset.folder} was stopped half-way; unless somebody "
            "else has changed it since, let this project win (--overwrite)."
        )
    if before.digests != origin.digests and not overwrite:
        raise DatasetError(
            f"{origin.video} in {dataset.folder} was changed since it was read; import it again, "
            "or let this project win (--overwrite)."
        )
    if before.frames != origin.frames:
        raise DatasetError(
            f"{origin.video} in {dataset.folder} has other frames now; import it again."
        )
    # Of objects that no sentence means the dataset may not say the obj_id.
    for own, key in _keys(origin).items():
        if key in before.silent():
            before.ids[key] = origin.objects[own]
    return before


def _keys(origin: Origin) -> dict[int, int]:
    """Return the dataset's key of every object of the project that comes from it."""
    return {own: anno if anno >= 0 else obj for own, (obj, anno) in origin.objects.items()}


def _number(origin: Origin, drawn: Mapping[int, Sequence[rle.RLE | None]], after: Clip) -> None:
    """Give objects the numbers that they have now, where their masks alone tell them apart."""
    found = {json.dumps(masks): after.ids[key] for key, masks in after.masks.items()}
    numbers = {own: found.pop(json.dumps(drawn.get(i)), None) for own, i in _keys(origin).items()}
    origin.objects.clear()
    origin.objects.update({own: pair for own, pair in numbers.items() if pair is not None})


def _compare(
    project: Project,
    origin: Origin,
    before: Clip,
    dataset: Dataset,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> tuple[Changes, WriteBackResult]:
    """Find what differs, and give new objects and sentences their ids in `origin`."""
    keys, records = _keys(origin), project.objects  # as they are now: one may be removed meanwhile
    for own in [own for own, key in keys.items() if key not in before.masks]:
        # Somebody else has removed it; what this project has of it counts as new.
        del keys[own], origin.objects[own]
    new = [own for own in records if own not in keys]
    for own, pair in zip(new, dataset.free_ids(before, len(new)), strict=True):
        origin.objects[own] = pair
        keys[own] = pair[1] if pair[1] >= 0 else pair[0]
    drawn = _drawn(project, origin, keys, progress, cancel)
    spoken_of = {own for e in project.expressions.values() for own in e.object_ids}
    homeless = [own for own in new if dataset.sentences_only and own not in spoken_of]
    changes = Changes()
    differing = 0
    absent: Sequence[rle.RLE | None] = [None] * len(before.frames)
    for own, key in list(keys.items()):
        after, old = drawn.masks.get(key, absent), before.masks.get(key, absent)
        found = {
            index: now
            for index, (then, now) in enumerate(zip(old, after, strict=True))
            if not _same(then, now)
        }
        if own in new:
            if not any(after) or own in homeless:
                del origin.objects[own], keys[own]
                continue
            changes.added.append(key)
            changes.names[key] = records[own].name
            changes.ids[key] = origin.objects[own][0]
        else:
            differing += len(found)
        if found:
            changes.masks[key], changes.whole[key] = found, list(after)
        if key in before.masks and any(old) and not any(after):
            changes.gone.append(key)
            changes.whole.pop(key, None)
            del origin.objects[own], keys[own]
    if before.looked is not None and drawn.looked is not None:
        # Where some mask was, somebody had looked for that object, and not for all of them.
        drawn_on = [any(column) for column in zip(*before.masks.values(), strict=True)]
        looked = before.looked | np.array(drawn_on or before.looked)
        changes.looked = np.flatnonzero(drawn.looked & ~looked).tolist()
    if not dataset.masks_only:
        _sentences(project, origin, before, keys, changes)
    notes = list(drawn.notes)
    notes += [
        f"no sentence means {changes.names[key]!r}: it was added all the same"
        for own, key in keys.items()
        if key in changes.added and own not in spoken_of and origin.expressions
    ]
    notes += [
        f"no sentence means {records[own].name!r}, and {dataset.format} has no place for "
        "such objects: it was not written"
        for own in homeless
    ]
    if not dataset.masks_only:
        notes += [
            f"nobody has looked for what {expression.text!r} means: it was not written"
            for own, expression in project.expressions.items()
            if own not in origin.expressions
        ]
    if dataset.masks_only and project.expressions:
        notes.append(
            f"{dataset.format} has no place for sentences: not written is "
            f"{counted(len(project.expressions), 'sentence')} of this project"
        )
    result = WriteBackResult(
        dataset.folder,
        origin.video,
        differing,
        len(changes.sentences),
        len(changes.added),
        len(changes.gone),
        tuple(notes),
    )
    return changes, result


def _drawn(
    project: Project,
    origin: Origin,
    keys: Mapping[int, int],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Clip:
    """Encode what the project has now, by the dataset's keys."""
    info = project.video
    where = {name: index for index, name in enumerate(info.frame_names)}
    frames = origin.frames
    positions = [where.get(f, -1) for f in frames] if where else list(range(len(frames)))
    if not all(0 <= position < info.frame_count for position in positions):
        raise DatasetError(
            f"{project.path} lacks frames of {origin.video} that the dataset has; import it again."
        )
    source = Source(origin.video, info, frames, positions, projects=[project])
    records = project.objects
    source.objects = {key: (0, records[own]) for own, key in keys.items() if own in records}
    clock = ProgressClock(len(source.objects) * len(frames) or 1)

    def advance(count: int) -> None:
        if progress is not None:
            progress(clock.advance(f"comparing {source.name}", count))

    source.beyond = sorted(set(range(info.frame_count)) - set(positions))
    clip = source.clip(cancel, advance)
    if clip.notes:  # masks are missing: the dataset keeps its own
        raise DatasetError(f"{project.path}: {clip.notes[0]}.")
    clip.notes = [beyond] if (beyond := source.unlisted()) else []
    return clip


def _sentences(
    project: Project, origin: Origin, before: Clip, keys: Mapping[int, int], changes: Changes
) -> None:
    here = {exp_id: own for own, exp_id in origin.expressions.items()}
    for exp_id, (text, ids) in before.sentences.items():
        own = here.get(exp_id)
        if own is None:
            continue  # not read (a blank sentence), so not touched
        expression = project.expressions.get(own)
        if expression is None:
            changes.sentences[exp_id] = None
            del origin.expressions[own]
            continue
        meant = sorted(keys[i] for i in expression.object_ids if i in keys)
        if expression.text != whole_text(text) or set(meant) != set(ids or ()):
            changes.sentences[exp_id] = (expression.text, meant)
    for own in [o for o, exp_id in origin.expressions.items() if exp_id not in before.sentences]:
        del origin.expressions[own]  # somebody else has removed it: as with objects
    for own, expression in project.expressions.items():
        if own not in origin.expressions and not was_not_looked_for(project, expression.object_ids):
            exp_id = free_id(before.sentences, changes.sentences)
            origin.expressions[own] = exp_id
            meant = sorted(keys[i] for i in expression.object_ids if i in keys)
            changes.sentences[exp_id] = (expression.text, meant)


def _same(old: Mapping[str, Any] | None, new: rle.RLE | None) -> bool:
    if old is None or new is None:
        return old is new
    return old["counts"] == new["counts"] or bool(np.array_equal(rle.decode(old), rle.decode(new)))
