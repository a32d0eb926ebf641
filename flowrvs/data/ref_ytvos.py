"""Ref-YouTube-VOS and Ref-DAVIS17: sentences in JSON, masks in palette PNGs.

A pixel's value is the object, and a sentence means one object. What a video has beyond that
(sentences for several objects, objects that overlap) goes into further parts of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.data.clip import Clip, painted, separate, unused
from flowrvs.data.formats import META, Dataset, meta_path
from flowrvs.data.json_parts import read_json
from flowrvs.data.pictures import (
    is_safe_name,
    link_folder,
    listed_names,
    read_values,
    safe_name,
    write_masks,
)
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.export import Job

__all__ = [
    "Part",
    "RefYtvos",
    "Sentences",
    "parts_of",
    "read_palette",
    "write_palette",
    "write_refdavis",
    "write_ytvos",
]

# Loaders look the category up in their own list and fail on any other; these are words of
# theirs that people use for an object.
_YTVOS = (
    "airplane ape bear bike bird boat bucket bus camel cat cow crocodile deer dog dolphin duck "
    "eagle elephant fish fox frisbee frog giraffe hand hat hedgehog horse knife leopard lion "
    "lizard monkey motorbike mouse owl paddle parachute parrot penguin person plant rabbit "
    "raccoon sedan shark sheep sign skateboard snail snake snowboard squirrel surfboard tiger "
    "toilet train truck turtle umbrella whale zebra"
).split()
_DAVIS = (
    "airplane backpack ball bear bicycle bird boat bottle box bus camel car carriage cat "
    "cellphone cow deer dog dolphin drone elephant excavator fish goat grass guitar gun "
    "helicopter horse hoverboard kart key kite koala leash lion lock mask microphone monkey "
    "motorcycle oar paper person pig pole puck rack rhino rope sail scale scooter sheep "
    "skateboard ski snake snowboard stick stroller surfboard swing tractor trailer train truck "
    "turtle violin wheelchair"
).split()
_PEOPLE = frozenset("man woman boy girl child kid people men women player rider person".split())


# -- reading ---------------------------------------------------------------------------


class Sentences(Dataset):
    """Sentences in ``meta_expressions.json``, masks in pictures."""

    @cached_property
    def _videos(self) -> dict[str, Any]:
        path = meta_path(self.folder)
        videos = read_json(path).get("videos")
        if not isinstance(videos, Mapping):
            raise DatasetError(f"{path} has no 'videos'; it is no dataset of sentences.")
        for name, entry in videos.items():
            safe_name(name, "video", path)
            rows = entry.get("expressions") if isinstance(entry, Mapping) else None
            if not isinstance(rows, Mapping) or not all(
                isinstance(row, Mapping) for row in rows.values()
            ):
                raise DatasetError(f"The video {name!r} in {path} has no 'expressions'.")
        return dict(videos)

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(entry["expressions"]) for name, entry in self._videos.items()}

    def _begin(self, name: str) -> tuple[Clip, Mapping[str, Mapping[str, Any]]]:
        """Return a clip without masks, and the rows of its sentences."""
        entry = self._videos[name]
        frames = listed_names(entry.get("frames"), name, self.folder)
        return Clip(name, frames, pictures=self.folder / "JPEGImages" / name), entry["expressions"]


class RefYtvos(Sentences):
    """Ref-YouTube-VOS and Ref-DAVIS17: a pixel's value is the object."""

    format = "ytvos"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (
            meta_path(root).is_file()
            and (root / "Annotations").is_dir()
            and (root / "meta.json").is_file()
        )

    def clip(self, name: str) -> Clip:
        clip, rows = self._begin(name)
        meant: dict[str, list[int]] = {}
        for exp_id, row in rows.items():
            given = row.get("obj_id")
            given = given if isinstance(given, list) else [] if given is None else [given]
            try:
                meant[exp_id] = [int(i) for i in given]
            except (TypeError, ValueError):
                raise DatasetError(f"{name}/{exp_id} has an obj_id that is no number.") from None
        wanted = {value for values in meant.values() for value in values}
        read_palette(clip, self.folder / "Annotations" / name, wanted)
        for exp_id, row in rows.items():
            # An id without a pixel says "no target", as the writer of this format has it.
            seen = [i for i in meant[exp_id] if i in clip.masks]
            clip.sentences[exp_id] = (str(row.get("exp", "")), seen)
        return clip


def read_palette(clip: Clip, folder: Path, wanted: set[int] | None = None) -> None:
    """Add the objects of palette PNGs to a clip: of all values but 0 by default.

    Raises
    ------
    MissingPathError
        There is no such folder.
    DatasetError
        A picture is not readable.
    """
    if not folder.is_dir():
        raise MissingPathError(f"The masks {folder} are missing; copy them again.")
    masks: dict[int, list[rle.RLE | None]] = {}
    for index, frame in enumerate(clip.frames):
        values = read_values(folder / f"{frame}.png") if is_safe_name(frame) else None
        if values is None:
            continue
        for value in np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist():
            if value == 0 or value == 255 or (wanted is not None and value not in wanted):
                continue
            masks.setdefault(value, [None] * len(clip.frames))[index] = rle.encode(values == value)
    clip.masks = dict(sorted(masks.items()))
    clip.ids = {key: (key, -1) for key in clip.masks}


# -- writing ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A video in which a pixel means one target at most.

    Attributes
    ----------
    name : str
        The video's own for the first part, with a suffix for the others.
    masks : dict of int to list of RLE or None
        By pixel value, from 1.
    sentences : dict of str to (text, int)
        The pixel value that each sentence means, by exp_id.
    members : dict of int to list of int
        The objects that each pixel value stands for; empty for "no target".
    """

    name: str
    masks: dict[int, list[rle.RLE | None]]
    sentences: dict[str, tuple[str, int]]
    members: dict[int, list[int]]


def write_ytvos(folder: Path, job: Job) -> None:
    """Ref-YouTube-VOS: palette PNGs, one object a sentence, ``meta.json``."""
    _write_referring(folder, job, _YTVOS, "others")


def write_refdavis(folder: Path, job: Job) -> None:
    """Ref-DAVIS17: as Ref-YouTube-VOS with the categories of DAVIS."""
    _write_referring(folder, job, _DAVIS, "box")
    job.notes.append(
        "DAVIS's categories have no 'other': an object whose name holds none of them is a 'box'"
    )


def _write_referring(folder: Path, job: Job, known: list[str], other: str) -> None:
    sentences: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    for clip, part in write_palette(folder, job):
        sentences[part.name] = {
            "expressions": {
                exp_id: {"exp": text, "obj_id": str(value)}
                for exp_id, (text, value) in part.sentences.items()
            },
            "frames": clip.frames,
        }
        meta[part.name] = {
            "objects": {
                str(value): {
                    "category": _category([clip.names[key] for key in owners], known, other),
                    "frames": [
                        frame
                        for frame, mask in zip(clip.frames, part.masks.get(value, ()), strict=False)
                        if mask
                    ],
                }
                for value, owners in part.members.items()
            }
        }
    job.write_json(META, {"videos": sentences})
    job.write_json("meta.json", {"videos": meta})
    # Where the loaders of these formats look for the sentences.
    job.beside.append((Path("meta_expressions") / job.target.name / META, META))


def write_palette(folder: Path, job: Job, within: str = "") -> Iterable[tuple[Clip, Part]]:
    """Write frames and palette PNGs of all videos, and yield the parts that each became.

    Parameters
    ----------
    folder : Path
        Of the split.
    job : Job
        What is written.
    within : str
        A folder between ``JPEGImages`` or ``Annotations`` and the video, such as ``480p``.
    """
    taken = {name.casefold() for name in job.names}
    for clip in job.clips():
        first = folder / "JPEGImages" / within / clip.name
        job.write_pictures(first, clip)
        for part in parts_of(clip, partial(unused, taken=taken), job.notes):
            if part.name != clip.name:
                link_folder(folder / "JPEGImages" / within / part.name, first)
            place = folder / "Annotations" / within / part.name
            values = partial(painted, part.masks, size=clip.size, dtype=np.uint8)
            write_masks(place, clip.frames, values, jobs=job.options.jobs)
            yield clip, part


def parts_of(clip: Clip, unused: Callable[[str], str], notes: list[str]) -> list[Part]:
    """Arrange a video for formats that know one object a sentence and one a pixel.

    Sentences that mean several objects get an object that is their union. Targets that
    overlap, such as this union and its members, go into a further part: the same frames
    again under another name, so that no sentence and no pixel is lost.
    """
    targets: dict[tuple[int, ...], int] = {}
    for key in clip.masks:
        targets[(key,)] = len(targets) + 1
    for _, ids in clip.sentences.values():
        if len(ids) > 1:
            targets.setdefault(tuple(sorted(ids)), len(targets) + 1)
    unions = {
        number: list(clip.masks[keys[0]]) if len(keys) == 1 else _union(clip, keys)
        for keys, number in targets.items()
    }
    members = {number: list(keys) for keys, number in targets.items()}
    empty = {exp_id: text for exp_id, (text, ids) in clip.sentences.items() if not ids}
    parts = []
    for place, group in enumerate(separate(unions) or [[]]):
        values = {number: value for value, number in enumerate(group, start=1)}
        wanted = {
            exp_id: (text, values[targets[tuple(sorted(ids))]])
            for exp_id, (text, ids) in clip.sentences.items()
            if ids and targets[tuple(sorted(ids))] in values
        }
        owners = {values[number]: members[number] for number in group}
        if place == 0 and empty:
            owners[len(values) + 1] = []
            wanted.update({exp_id: (text, len(values) + 1) for exp_id, text in empty.items()})
        if len(owners) > 254:
            raise DatasetError(
                f"{clip.name} has {len(owners)} objects, a palette PNG holds 254; "
                "export to mevis or coco."
            )
        wanted = {exp_id: wanted[exp_id] for exp_id in clip.sentences if exp_id in wanted}
        name = clip.name if place == 0 else unused(f"{clip.name} part {place + 1}")
        masks = {values[number]: unions[number] for number in group}
        parts.append(Part(name, masks, wanted, owners))
    if len(parts) > 1:
        notes.append(
            f"{clip.name}: written as {len(parts)} videos of the same frames, because some "
            "targets (groups of objects, or objects that overlap) share pixels"
        )
    if empty:
        count = "a sentence without target refers"
        if len(empty) > 1:
            count = f"{len(empty)} sentences without target refer"
        notes.append(
            f"{clip.name}: {count} to an object id without a pixel; this format has no other way"
        )
    return parts


def _union(clip: Clip, keys: Iterable[int]) -> list[rle.RLE | None]:
    columns = zip(*(clip.masks[key] for key in keys), strict=True)
    return [rle.merge([entry for entry in column if entry]) for column in columns]


def _category(names: Iterable[str], known: list[str], other: str) -> str:
    for name in names:
        for word in re.findall(r"[a-z]+", name.casefold()):
            if word in known:
                return word
            if word in _PEOPLE and "person" in known:
                return "person"
    return other
