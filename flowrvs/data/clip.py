"""A video with its objects and sentences: what every format reads, and what it writes.

`Clip` is the one record that passes between projects and formats, in both directions.
`Source` makes it of one or several projects, which are open only while they are read: a
hundred videos need no more memory than one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.data.origin import Origin
from flowrvs.data.pictures import LARGEST, Frame, is_safe_name, jpeg_bytes
from flowrvs.errors import DatasetError, ProjectError, counted
from flowrvs.masks import rle
from flowrvs.masks.compose import paint
from flowrvs.progress import CancelToken
from flowrvs.records import VideoInfo

if TYPE_CHECKING:
    from flowrvs.store import ObjectRecord, Project
    from flowrvs.video import Video

__all__ = [
    "Clip",
    "Source",
    "coded_masks",
    "digest",
    "free_id",
    "painted",
    "separate",
    "union",
    "unused",
    "was_not_looked_for",
    "whole_text",
]

_CHUNK = 16
_FEW = 6  # up to which comparing with each costs less than counting all


@dataclass(slots=True)
class Clip:
    """A video with its objects and sentences.

    Attributes
    ----------
    name : str
        The video.
    frames : list of str
        Names of the frames, in order, without suffix.
    size : (int, int)
        Height and width, where it is known.
    masks : dict of int to list of RLE or None
        By a key that is unique in the clip, one entry for each of `frames`, None where the
        object is absent.
    sentences : dict of str to (text, list of int or None)
        By exp_id; the ids are keys of `masks`, none for a sentence without target. None in
        place of the list: the target is not known, as in hidden test splits.
    looked : ndarray of bool, shape (T,), or None
        On which frames somebody has said where the objects are; None for all of them.
    notes : list of str
        What a person should know of how it was read, one line each.
    names : dict of int to str
        What people call the objects.
    ids : dict of int to (obj_id, anno_id)
        What the dataset calls the objects; of clips that are read.
    digests : dict of str to str
        See `flowrvs.data.origin.Origin`; of clips that are read.
    pictures : Path
        The folder or video file with the frames; of clips that are read.
    rate : float or None
        Frames per second; of clips that are written, as are the following ones.
    colors : dict of int to (float, float, float)
        Red, green and blue of the objects, 0 to 1.
    provenance : dict of int to ndarray of uint8, shape (T,)
        Who made an object's masks, as `flowrvs.store.Provenance`.
    """

    name: str
    frames: list[str]
    size: tuple[int, int] = (0, 0)
    masks: dict[int, list[rle.RLE | None]] = field(default_factory=dict)
    sentences: dict[str, tuple[str, list[int] | None]] = field(default_factory=dict)
    looked: npt.NDArray[np.bool_] | None = None
    notes: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    ids: dict[int, tuple[int, int]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    pictures: Path = Path()
    rate: float | None = None
    colors: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    provenance: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def spoken_of(self, key: int) -> list[str]:
        """Return the sentences that mean an object, alone or with others."""
        return [text for text, ids in self.sentences.values() if ids and key in ids]

    def silent(self) -> list[int]:
        """Return the objects that no sentence means."""
        meant = {key for _, ids in self.sentences.values() for key in ids or ()}
        return [key for key in self.masks if key not in meant]

    def fingerprint(self) -> str:
        """Return a hash of the frames, masks and sentences."""
        rows = [self.frames, list(self.masks.items()), list(self.sentences.items())]
        return digest(json.dumps(rows, sort_keys=True).encode())


def coded(entry: Any) -> rle.RLE | None:
    """Return a mask in the compressed encoding; None for an absent or an empty one.

    Raises
    ------
    DatasetError
        It is no RLE, or of a size that no frame has.
    """
    if not entry:
        return None
    try:
        height, width = (int(n) for n in entry["size"])
        if not 0 < height * width <= LARGEST:
            raise DatasetError(f"an RLE of the size [{height}, {width}] is no mask of a frame")
        if not rle.area(entry):
            return None
        return entry if isinstance(entry.get("counts"), str) else rle.merge([entry])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError("it is no RLE: 'size' [height, width] and 'counts'") from None


def coded_masks(entries: Any, clip: Clip, key: object) -> list[rle.RLE | None]:
    """Return the masks of an annotation, one for each of the clip's frames.

    Raises
    ------
    DatasetError
        They are no list, of another number, or one is damaged; it is named.
    """
    where = f"{clip.name}, annotation {key}"
    if not isinstance(entries, list):
        raise DatasetError(f"{where}: its masks are no list; write one entry a frame.")
    if len(entries) != len(clip.frames):
        raise DatasetError(
            f"{where}: it has {counted(len(entries), 'mask')} for "
            f"{counted(len(clip.frames), 'frame')}; write one entry a frame, null where the object "
            "is absent."
        )
    found = []
    for frame, entry in zip(clip.frames, entries, strict=True):
        try:
            found.append(coded(entry))
        except DatasetError as error:
            reason = str(error).rstrip(".")
            raise DatasetError(f"{where}, frame {frame}: {reason}; encode it again.") from None
    return found


def whole_text(text: str) -> str:
    """Return a text without halves of characters, which nothing can store."""
    return text.encode("utf-8", "replace").decode("utf-8")


def painted(
    masks: Mapping[int, Sequence[rle.RLE | None]],
    index: int,
    size: tuple[int, int],
    dtype: npt.DTypeLike = np.uint16,
) -> npt.NDArray[Any]:
    """Return a label picture of one frame: each object's key, 0 is background."""
    seen = {key: rle.decode(mask) for key, entries in masks.items() if (mask := entries[index])}
    return paint(seen, size, dtype)


def union(masks: Sequence[Sequence[rle.RLE | None]]) -> list[rle.RLE | None]:
    """Return the union of several objects, one entry a frame."""
    if len(masks) == 1:
        return list(masks[0])
    return [rle.merge([m for m in column if m]) for column in zip(*masks, strict=True)]


def separate(masks: Mapping[int, Sequence[rle.RLE | None]]) -> list[list[int]]:
    """Arrange objects into as few groups as a first fit finds, without overlap within one."""
    keys = list(masks)
    crossing: dict[int, set[int]] = {key: set() for key in keys}
    for entries in zip(*masks.values(), strict=True):
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


def digest(raw: bytes) -> str:
    """Return a hash of a part of a file."""
    return hashlib.sha256(raw).hexdigest()


# -- out of projects -------------------------------------------------------------------


@dataclass
class Source:
    """One video to export, annotated by one or several projects.

    Attributes
    ----------
    name : str
        The video's folder name.
    info : VideoInfo
        What it is.
    frames : list of str
        Frame names.
    positions : list of int
        Index of each of them in the video.
    given : Video or None
        Its frames where somebody else has opened them.
    projects : list of Project or path
        What is known of it.
    objects : dict of int to (int, ObjectRecord)
        Index into `projects` and the object there, by the id that the export gives.
    sentences : dict of str to (text, list of int or None)
        By exp_id, in the projects' order; the ids are those of `objects`, None where the
        target is not known.
    folders : list of Path
        Of the projects.
    origins : list of Origin or None
        Where the projects were imported from.
    beyond : list of int
        Frames of the video that the dataset it was imported from does not list.
    notices : list of str
        What of the projects was damaged.
    """

    name: str
    info: VideoInfo
    frames: list[str]
    positions: list[int]
    given: Video | None = None
    projects: list[Project | str | os.PathLike[str]] = field(default_factory=list)
    objects: dict[int, tuple[int, ObjectRecord]] = field(default_factory=dict)
    sentences: dict[str, tuple[str, list[int] | None]] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    origins: list[Origin | None] = field(default_factory=list)
    beyond: list[int] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    _video: Video | None = None
    _opened: dict[int, Project] = field(default_factory=dict)

    def project(self, number: int) -> Project:
        """Return one of the projects, opened for reading when it is not."""
        given = self.projects[number]
        if not isinstance(given, (str, os.PathLike)):
            return given
        if number not in self._opened:
            from flowrvs.store import Project

            self._opened[number] = Project.open(given, read_only=True)
        return self._opened[number]

    @property
    def video(self) -> Video:
        """The frames, opened when they are not."""
        from flowrvs.video import open_video

        if self.given is not None:
            return self.given
        if self._video is None:
            self._video = open_video(str(self.info.path))
        return self._video

    def release(self) -> None:
        """Close what was opened here; it opens again by itself."""
        video, self._video = self._video, None
        if video is not None:
            video.close()
        while self._opened:
            self._opened.popitem()[1].close()

    def _values(
        self, key: int, values: Callable[[Project, int], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Return what a project says of an object on all frames: 0 of one that was removed."""
        number, record = self.objects[key]
        project = self.project(number)
        try:
            return values(project, record.id)
        except ProjectError:
            if record.id in project.objects:
                raise
            return np.zeros(self.info.frame_count, np.uint8)

    def provenance(self, key: int) -> npt.NDArray[np.uint8]:
        """Return where an object's masks come from, one value for each of `frames`."""
        return self._values(key, lambda project, i: project.provenance(i))[self.positions]

    def seen(self) -> list[int]:
        """Return the objects that are seen on some frame."""
        return [key for key in self.objects if self.present(key).any()]

    def meant(self) -> set[int]:
        """Return the objects that some sentence means."""
        return {key for _, ids in self.sentences.values() for key in ids or ()}

    def unlisted(self) -> str:
        """Say on how many frames that a dataset does not list something was drawn; blank: none."""
        seen = np.zeros(self.info.frame_count, bool)
        for key in self.objects if self.beyond else ():
            seen |= self._present(key)
        count = int(seen[self.beyond].sum())
        frames = f"on {counted(count, 'frame')} that the dataset does not list"
        return f"{frames} something was drawn: it is left out" if count else ""

    def unlooked(self) -> npt.NDArray[np.bool_]:
        """Return on which frames some object was not looked for that was on others."""
        found = np.zeros(len(self.frames), bool)
        for key in self.objects:
            made_by = self.provenance(key)
            if made_by.any():
                found |= made_by == 0
        return found

    def looked(self) -> npt.NDArray[np.bool_]:
        """Return on which of `frames` somebody, or a model, has looked for some object."""
        found = np.zeros(len(self.frames), bool)
        for key in self.objects:
            found |= self.provenance(key) > 0
        return found

    def keep_every(self, step: int) -> None:
        """Keep every `step`-th frame alone."""
        self.frames, self.positions = self.frames[::step], self.positions[::step]

    def keep_looked_at(self) -> None:
        """Leave out the frames on which some object that is seen was not looked for."""
        keep = ~self.unlooked()
        self.frames = [frame for frame, kept in zip(self.frames, keep, strict=True) if kept]
        self.positions = [index for index, kept in zip(self.positions, keep, strict=True) if kept]

    def name_silent(self) -> None:
        """Give every object that is seen and that no sentence means its name as a sentence."""
        meant = self.meant()
        for key in self.seen():
            record = self.objects[key][1]
            if key not in meant and record.name.strip():
                self.sentences[free_id(self.sentences)] = (record.name.strip(), [key])

    def present(self, key: int) -> npt.NDArray[np.bool_]:
        """Return on which of `frames` an object is seen."""
        return self._present(key)[self.positions]

    def _present(self, key: int) -> npt.NDArray[np.bool_]:
        return self._values(key, lambda project, i: project.present(i)).astype(bool)

    def clip(
        self, cancel: CancelToken | None = None, advance: Callable[[int], None] | None = None
    ) -> Clip:
        """Encode the masks; objects without a pixel on any frame are left out."""
        clip = Clip(self.name, self.frames, (self.info.height, self.info.width))
        spacing = (self.positions[-1] - self.positions[0]) / max(1, len(self.positions) - 1)
        clip.rate = None if self.info.rate is None else self.info.rate / max(1.0, spacing)
        found = self._masks(cancel, advance)
        clip.notes += self._lost(found)
        clip.masks = {key: entries for key, entries in found.items() if any(entries)}
        for key in clip.masks:
            _, record = self.objects[key]
            clip.names[key], clip.colors[key] = record.name, record.color
            clip.provenance[key] = self.provenance(key)
        for exp_id, (text, ids) in self.sentences.items():
            seen = None if ids is None else [i for i in ids if i in clip.masks]
            clip.sentences[exp_id] = (text, seen)
        # Where there is no object at all, sentences without target speak of the whole video.
        none = not clip.masks and any(ids == [] for _, ids in clip.sentences.values())
        clip.looked = np.ones(len(self.frames), bool) if none else self.looked()
        return clip

    def _masks(
        self, cancel: CancelToken | None, advance: Callable[[int], None] | None
    ) -> dict[int, list[rle.RLE | None]]:
        """Encode the masks; once more where a person moved or removed objects meanwhile."""
        while True:
            layers = self._layers()
            found: dict[int, list[rle.RLE | None]] = {
                key: [None] * len(self.frames) for key in self.objects
            }
            try:
                for index, key, mask in self._drawn(layers, cancel, advance):
                    found[key][index] = rle.encode(mask)
            except ProjectError:  # perhaps of a layer that is gone
                if layers == self._layers():
                    raise
            if layers == self._layers():
                return found

    def _lost(self, found: Mapping[int, Sequence[rle.RLE | None]]) -> Iterator[str]:
        """Say of which objects files of masks are missing, as after half a copy of a project."""
        for key, entries in found.items():
            seen = np.flatnonzero(self.present(key)).tolist()
            lost = [n for n in seen if entries[n] is None and not self._is_drawn(key, n)]
            if lost:
                yield (
                    f"{self.objects[key][1].name!r} has lost its masks on "
                    f"{counted(len(lost), 'frame')}, the first is {self.frames[lost[0]]}: files of "
                    "the project are missing; restore them, or mark it as absent there"
                )

    def _is_drawn(self, key: int, index: int) -> bool:
        """Whether there is a mask by now: a person may have drawn it after its frame was read."""
        t = self.positions[index]
        mask = self._values(key, lambda project, i: project.object_mask(i, t, t + 1))
        return bool(mask.any())

    def _layers(self) -> dict[tuple[int, int], dict[int, int]]:
        """Return the layers to read, by project and id, and the objects there, by their ids."""
        layers: dict[tuple[int, int], dict[int, int]] = {}
        there = {n: self.project(n).objects for n in {n for n, _ in self.objects.values()}}
        for key, (number, record) in self.objects.items():
            now = there[number].get(record.id)
            if now is not None:
                layers.setdefault((number, now.layer), {})[record.id] = key
        return layers

    def _drawn(
        self,
        layers: Mapping[tuple[int, int], Mapping[int, int]],
        cancel: CancelToken | None,
        advance: Callable[[int], None] | None,
    ) -> Iterator[tuple[int, int, npt.NDArray[np.bool_]]]:
        """Yield (index into `frames`, object, mask) of every object that is seen.

        Layers are read once, however many objects they hold.
        """
        for (number, layer), keys in layers.items():
            labels = self.project(number).labels(layer)
            for start, part in self._chunks(cancel):
                # Runs of frames go by the project's cache, which is for painting.
                frames = (frame for first, last in _runs(part) for frame in labels[first:last])
                for index, frame in enumerate(frames, start):
                    for value in _seen(frame, keys):
                        yield index, keys[value], frame == value
                    if advance is not None:
                        advance(len(keys))

    def pictures(
        self,
        cancel: CancelToken | None = None,
        advance: Callable[[int], None] | None = None,
        *,
        link: bool = False,
    ) -> Iterator[Frame]:
        """Yield the frames: JPEG files as they are (or their paths), anything else as arrays."""
        files = _jpeg_files(self.info, self.positions)
        size = (self.info.height, self.info.width)
        for start, part in self._chunks(cancel):
            here = files[start : start + len(part)]
            copies = [jpeg_bytes(path, size) for path in here]
            if copies and all(copies):
                yield from here if link else (data for data in copies if data is not None)
            else:
                for first, last in _runs(part):
                    yield from self.video.read(first, last)
            if advance is not None:
                advance(len(part))

    def arrays(
        self, cancel: CancelToken | None = None, advance: Callable[[int], None] | None = None
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames as RGB arrays, whatever they are stored as."""
        for _, part in self._chunks(cancel):
            for first, last in _runs(part):
                yield from self.video.read(first, last)
            if advance is not None:
                advance(len(part))

    def _chunks(self, cancel: CancelToken | None) -> Iterator[tuple[int, list[int]]]:
        """Yield (index of the first, positions) a few frames at a time."""
        for start in range(0, len(self.positions), _CHUNK):
            if cancel is not None:
                cancel.raise_if_cancelled()
            yield start, self.positions[start : start + _CHUNK]

    def add(
        self, given: Project | str | os.PathLike[str], project: Project, origin: Origin | None
    ) -> None:
        """Add a project's objects and sentences, renumbering only what collides.

        An imported project keeps the ids that its dataset gave.
        """
        number = len(self.projects)
        self.projects.append(given)
        self.folders.append(Path(project.path))
        self.origins.append(origin)
        if project.history.notice:
            self.notices.append(project.history.notice)
        known = origin.objects if origin else {}
        names = origin.expressions if origin else {}
        records, sentences = project.objects, project.expressions
        meant = [i for e in sentences.values() for i in sorted(e.object_ids)]
        ids: dict[int, int] = {}
        for object_id in dict.fromkeys((*meant, *records)):
            key = known.get(object_id, (object_id, -1))[0]
            if key in self.objects:
                key = max(*self.objects, *records, *(obj for obj, _ in known.values()), 0) + 1
            ids[object_id] = key
            self.objects[key] = (number, records[object_id])
        for expression in sentences.values():
            exp_id = names.get(expression.exp_id, expression.exp_id)
            if exp_id in self.sentences or not is_safe_name(exp_id):
                exp_id = free_id(self.sentences, sentences)
            targets = [ids[i] for i in sorted(expression.object_ids)]
            unknown = origin and expression.exp_id in origin.unknown and not targets
            unknown = unknown or was_not_looked_for(project, expression.object_ids)
            self.sentences[exp_id] = (expression.text, None if unknown else targets)


def was_not_looked_for(project: Project, object_ids: Collection[int]) -> bool:
    """Tell whether nobody has looked for objects: their sentence was typed and never run."""
    return bool(object_ids) and not any(project.provenance(i).any() for i in object_ids)


def free_id(*taken: Collection[str]) -> str:
    """Return the next number that is no exp_id yet."""
    number = len(taken[0])
    while any(str(number) in ids for ids in taken):
        number += 1
    return str(number)


def unused(name: str, taken: set[str]) -> str:
    """Return `name`, numbered when it is taken; case makes no difference."""
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate, number = f"{name}-{number}", number + 1
    taken.add(candidate.casefold())
    return candidate


def _jpeg_files(info: VideoInfo, positions: Sequence[int]) -> list[Path]:
    """Return the video's JPEG files, one a position; empty when it is something else."""
    named = len(info.frame_names) == info.frame_count
    if info.kind != "images" or info.path is None or not named:
        return []
    files = []
    for position in positions:
        stem = Path(info.path) / info.frame_names[position]
        suffixes = (".jpg", ".jpeg", ".JPG", ".JPEG")
        path = next((p for s in suffixes if (p := Path(f"{stem}{s}")).is_file()), None)
        if path is None:
            return []
        files.append(path)
    return files


def _seen(frame: npt.NDArray[np.uint16], ids: Collection[int]) -> list[int]:
    """Return those of `ids` that are on a frame, ascending."""
    if len(ids) <= _FEW:
        return [value for value in sorted(ids) if (frame == value).any()]
    return [value for value in np.flatnonzero(np.bincount(frame.ravel())).tolist() if value in ids]


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive positions, first and one past the last."""
    first = 0
    for n in range(1, len(positions) + 1):
        if n == len(positions) or positions[n] != positions[n - 1] + 1:
            yield positions[first], positions[n - 1] + 1
            first = n
