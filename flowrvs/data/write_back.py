"""Bring the corrections of an imported project home to its MeViS-style split."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.data import json_parts
from flowrvs.data.clip import Clip, Origin, Source
from flowrvs.data.formats import MASKS, META
from flowrvs.data.json_parts import amend, style
from flowrvs.data.mevis import digests
from flowrvs.errors import DatasetError, InputError
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    from flowrvs.store import Project

__all__ = ["WriteBackResult", "write_back"]

Coded = dict[int, list[rle.RLE | None]]


@dataclass(frozen=True, slots=True)
class WriteBackResult:
    """What was changed in a split.

    Attributes
    ----------
    path : Path
        The split.
    video : str
        The video.
    masks : int
        Masks (of an object on a frame) that differ now.
    sentences : int
        Sentences that were changed, added or removed.
    added, removed : int
        Objects that are new, and that are gone.
    """

    path: Path
    video: str
    masks: int
    sentences: int
    added: int
    removed: int


def write_back(
    project: Project,
    into: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> WriteBackResult:
    """Write what was corrected in an imported project into its split.

    Untouched masks keep their bytes, untouched videos their entries, and the pictures are
    not written at all; keys stay in their order, with the ids that they had. Objects that
    are new get the next free anno_id. An object without a pixel left is taken out of its
    sentences. The split is changed whole or not at all.

    Parameters
    ----------
    project : Project
        One that `import_video` made from a MeViS-style split.
    into : path-like, optional
        The split, where it lies elsewhere now.
    overwrite : bool
        Write although the split's video was changed by somebody else since it was read:
        what this project says wins.
    progress, cancel : optional
        Called and checked as masks are compared.

    Returns
    -------
    WriteBackResult

    Raises
    ------
    InputError
        The project was not imported from a MeViS-style split.
    DatasetError
        The split lacks the video, was changed meanwhile, or is damaged.
    StorageError
        The disk is full, read-only or failing.
    """
    origin = Origin.load(Path(project.path))
    if origin is None:
        raise InputError(
            f"{project.path} was not read from a dataset; export it with --append instead."
        )
    if origin.format != "mevis":
        raise InputError(
            f"{project.path} comes from the format {origin.format}; only MeViS-style splits are "
            "written back to: export it as a new split instead."
        )
    split = Path(into) if into is not None else Path(origin.split)
    if not (split / META).is_file() or not (split / MASKS).is_file():
        raise DatasetError(
            f"{split} is no MeViS-style split with masks; say where it lies now (--into)."
        )
    kept = [anno for _, anno in origin.objects.values()]
    with json_parts.locked(split):
        now = digests(split, origin.video, kept)
        if "video" not in now:
            raise DatasetError(
                f"{split} has no video {origin.video!r}; export with --append instead."
            )
        if now != origin.digests and not overwrite:
            raise DatasetError(
                f"{origin.video} in {split} was changed since it was read; import it again, or "
                "let this project win (--overwrite)."
            )
        change = _Change(project, split, origin)
        change.compare(progress, cancel)
        result = change.write()
    fresh = replace(change.origin, split=os.path.abspath(split))
    fresh.digests = digests(split, origin.video, [a for _, a in fresh.objects.values()])
    fresh.save(Path(project.path))
    return result


class _Change:
    """What differs between a project and its video in a split."""

    def __init__(self, project: Project, split: Path, origin: Origin) -> None:
        self.project = project
        self.split = split
        self.origin = replace(
            origin, objects=dict(origin.objects), expressions=dict(origin.expressions)
        )
        self.masks: dict[str, bytes | None] = {}
        self.new_masks: list[tuple[str, bytes]] = []
        self.changed = self.added = self.removed = self.sentences = 0
        self.gone: set[int] = set()

    def compare(self, progress: ProgressCallback | None, cancel: CancelToken | None) -> None:
        """Find the masks that differ and give new objects their ids."""
        clip = self._clip(progress, cancel)
        absent: list[rle.RLE | None] = [None] * len(clip.frames)
        drawn = {key: clip.masks.get(key, absent) for key in self.project.objects}
        meant = {i for e in self.project.expressions.values() for i in e.object_ids}
        known = self.origin.objects
        with json_parts.mapped(self.split / MASKS) as data:
            places = {m.key: (m.start, m.stop) for m in json_parts.members(data)}
            for object_id, (_, anno) in list(known.items()):
                place = places.get(str(anno))
                if place is None:
                    raise DatasetError(f"{self.split / MASKS} has no anno_id {anno} any more.")
                if object_id in drawn:
                    self._compare(data, place, anno, drawn[object_id])
                else:
                    self.gone.add(anno)
                if anno in self.gone:
                    del known[object_id]
            following = max((int(k) for k in places if k.isdecimal()), default=-1) + 1
            encoder = style(data[:4096])
        next_object = max((obj for obj, _ in self._ids()), default=-1) + 1
        for object_id in sorted(drawn):
            if object_id in known or object_id not in meant or not any(drawn[object_id]):
                continue
            if any(object_id == old for old in self._erased):
                continue
            known[object_id] = (next_object, following)
            text = encoder.encode(drawn[object_id])
            self.new_masks.append((str(following), text.encode("ascii")))
            next_object, following = next_object + 1, following + 1
            self.added += 1
        self.removed = len(self.gone)

    def _compare(
        self, data: Any, place: tuple[int, int], anno: int, drawn: list[rle.RLE | None]
    ) -> None:
        changes = {}
        encoder = style(data[place[0] : place[0] + 4096])
        before = json_parts.value(data, *place)
        if len(before) != len(drawn):
            raise DatasetError(
                f"anno_id {anno} in {self.split / MASKS} has {len(before)} entries for "
                f"{len(drawn)} frames; run 'flowrvs check'."
            )
        for index, (old, new) in enumerate(zip(before, drawn, strict=True)):
            if not _same(old or None, new):
                changes[index] = encoder.encode(new).encode("ascii")
        if not changes:
            return
        self.changed += len(changes)
        if not any(drawn):
            self.gone.add(anno)
            return
        pieces = json_parts.splice_list(data, place[0], changes)
        self.masks[str(anno)] = json_parts.joined(data, pieces)

    def write(self) -> WriteBackResult:
        """Write the differences."""
        with json_parts.mapped(self.split / META) as data:
            videos = json_parts.member(data, "videos")
            entry = json_parts.member(data, self.origin.video, videos.start) if videos else None
            assert entry is not None
            raw = data[entry.start : entry.stop]
            everything = json_parts.value(data, 0, len(data))["videos"]
        after = self._video(raw)
        everything[self.origin.video] = json.loads(after)
        used = {
            str(anno)
            for video in everything.values()
            for item in video["expressions"].values()
            for anno in item.get("anno_id") or ()
        }
        for anno in self.gone:
            if str(anno) not in used:
                self.masks[str(anno)] = None
        if after != raw or self.masks or self.new_masks:
            amend(
                self.split,
                videos={self.origin.video: after} if after != raw else {},
                masks=self.masks,
                new_masks=self.new_masks or None,
            )
        return WriteBackResult(
            self.split, self.origin.video, self.changed, self.sentences, self.added, self.removed
        )

    def _video(self, raw: bytes) -> bytes:
        """Return the video's entry with the sentences as the project has them."""
        video = json.loads(raw)
        rows: dict[str, Any] = video["expressions"]
        encoder = style(raw)
        here = {exp_id: own for own, exp_id in self.origin.expressions.items()}
        changes: dict[str, bytes | None] = {}
        extra: dict[str, bytes] = {}
        for exp_id, row in rows.items():
            own = here.get(exp_id)
            if own is None:
                continue  # not read (a blank sentence), so not touched
            expression = self.project.expressions.get(own)
            if expression is None:
                changes[exp_id] = None
                del self.origin.expressions[own]
                continue
            new = self._row(row, expression.text, expression.object_ids)
            if new != row:
                changes[exp_id] = encoder.encode(new).encode("ascii")
        for own, expression in self.project.expressions.items():
            if own in self.origin.expressions:
                continue
            number = len(rows)
            while str(number) in rows or str(number) in extra:
                number += 1
            self.origin.expressions[own] = str(number)
            new = self._row({}, expression.text, expression.object_ids)
            extra[str(number)] = encoder.encode(new).encode("ascii")
        self.sentences = len(changes) + len(extra)
        if not self.sentences:
            return raw
        found = json_parts.member(raw, "expressions")
        assert found is not None
        middle = json_parts.joined(raw, json_parts.splice(raw, found.start, changes, extra))
        return raw[: found.start] + middle + raw[found.stop :]

    def _row(self, row: Mapping[str, Any], text: str, meant: frozenset[int]) -> dict[str, Any]:
        pairs = {a: o for o, a in (self.origin.objects.get(i, (-1, -1)) for i in meant) if a >= 0}
        before = dict(zip(row.get("anno_id") or (), row.get("obj_id") or (), strict=False))
        if {int(a) for a in before} == set(pairs):
            return {**row, "exp": text}
        chosen = {a: o for a, o in before.items() if int(a) in pairs}
        have = {int(a) for a in chosen}
        chosen.update({a: o for a, o in sorted(pairs.items()) if a not in have})
        lists = {"obj_id": list(chosen.values()), "anno_id": list(chosen)}
        return {**row, "exp": text, **lists}

    def _clip(self, progress: ProgressCallback | None, cancel: CancelToken | None) -> Clip:
        """Encode what the project has now, by its own ids."""
        info = self.project.video
        where = {name: index for index, name in enumerate(info.frame_names)}
        frames = self.origin.frames
        positions = [where[f] for f in frames] if where else list(range(len(frames)))
        source = Source(self.origin.video, info, frames, positions, projects=[self.project])
        source.objects = {key: (0, record) for key, record in self.project.objects.items()}
        self._erased = set(self.origin.objects)
        clock = ProgressClock(len(source.objects) * len(source.frames) or 1)

        def advance(count: int) -> None:
            if progress is not None:
                progress(clock.advance(f"comparing {source.name}", count))

        return source.clip(cancel, advance)

    def _ids(self) -> list[tuple[int, int]]:
        with json_parts.mapped(self.split / META) as data:
            videos = json_parts.member(data, "videos")
            entry = json_parts.member(data, self.origin.video, videos.start) if videos else None
            assert entry is not None
            video = json_parts.value(data, entry.start, entry.stop)
        return [
            (int(obj), 0)
            for row in video["expressions"].values()
            for obj in row.get("obj_id") or ()
        ]


def _same(old: Mapping[str, Any] | None, new: rle.RLE | None) -> bool:
    if old is None or new is None:
        return (old is None or rle.area(old) == 0) and (new is None or rle.area(new) == 0)
    return old["counts"] == new["counts"] or bool(np.array_equal(rle.decode(old), rle.decode(new)))
