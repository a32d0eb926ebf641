"""What several formats write alike: frames, JSON, and videos split into parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowrvs.data._clips import separate
from flowrvs.data._content import Content, Work
from flowrvs.data._frames import link_or_copy, write_frames
from flowrvs.data._sources import Source
from flowrvs.errors import DatasetError
from flowrvs.masks import rle

__all__ = ["Part", "link_pictures", "parts_of", "write_json", "write_pictures"]


@dataclass(frozen=True, slots=True)
class Part:
    """A video in which a pixel means one target at most.

    Attributes
    ----------
    name : str
        The video's own for the first part, with a suffix for the others.
    masks : dict of int to list of RLE or None
        By pixel value, from 1.
    expressions : dict of str to (text, int)
        The pixel value that each sentence means, by exp_id.
    members : dict of int to list of int
        The objects that each pixel value stands for; empty for "no target".
    """

    name: str
    masks: dict[int, list[rle.RLE | None]]
    expressions: dict[str, tuple[str, int]]
    members: dict[int, list[int]]


def parts_of(
    source: Source,
    content: Content,
    unused: Callable[[str], str],
    work: Work,
    *,
    singles: bool = False,
) -> list[Part]:
    """Arrange a video for formats that know one object a sentence and one a pixel.

    Sentences that mean several objects get an object that is their union. Targets that
    overlap, such as this union and its members, go into a further part: the same frames
    again under another name, so that no sentence and no pixel is lost. With `singles`,
    objects that are only meant together with others get a value of their own as well.
    """
    targets: dict[tuple[int, ...], int] = {}
    for key in content.masks:
        if singles or any(ids == [key] for _, ids in content.expressions.values()):
            targets[(key,)] = len(targets) + 1
    for _, ids in content.expressions.values():
        if len(ids) > 1:
            targets.setdefault(tuple(sorted(ids)), len(targets) + 1)
    unions = {
        number: list(content.masks[keys[0]]) if len(keys) == 1 else _union(content, keys)
        for keys, number in targets.items()
    }
    members = {number: list(keys) for keys, number in targets.items()}
    groups = separate(unions)
    empty = {e: text for e, (text, ids) in content.expressions.items() if not ids}
    parts = []
    for place, group in enumerate(groups or [[]]):
        values = {number: value for value, number in enumerate(group, start=1)}
        wanted = {
            exp_id: (text, values[targets[tuple(sorted(ids))]])
            for exp_id, (text, ids) in content.expressions.items()
            if ids and targets[tuple(sorted(ids))] in values
        }
        owners = {values[number]: members[number] for number in group}
        if place == 0 and empty:
            owners[len(values) + 1] = []
            wanted.update({exp_id: (text, len(values) + 1) for exp_id, text in empty.items()})
        if len(owners) > 254:
            raise DatasetError(
                f"{source.name} has {len(owners)} objects, a palette PNG holds 254; "
                "export to mevis or coco."
            )
        wanted = {e: wanted[e] for e in content.expressions if e in wanted}
        name = source.name if place == 0 else unused(f"{source.name} part {place + 1}")
        masks = {values[number]: unions[number] for number in group}
        parts.append(Part(name, masks, wanted, owners))
    if len(parts) > 1:
        work.notes.append(
            f"{source.name}: written as {len(parts)} videos of the same frames, because some "
            "targets (groups of objects, or objects that overlap) share pixels"
        )
    if empty:
        count = "a sentence without target refers"
        if len(empty) > 1:
            count = f"{len(empty)} sentences without target refer"
        work.notes.append(
            f"{source.name}: {count} to an object id without a pixel; this format has no other way"
        )
    return parts


def _union(content: Content, keys: Sequence[int]) -> list[rle.RLE | None]:
    columns = zip(*(content.masks[key] for key in keys), strict=True)
    return [rle.merge([entry for entry in column if entry]) for column in columns]


def write_pictures(folder: Path, source: Source, work: Work) -> None:
    """Write the frames of a video."""
    folder.mkdir(parents=True)
    write_frames(
        folder,
        source.name,
        work.pictures(source),
        source.frames,
        quality=work.quality,
        jobs=work.jobs,
    )


def link_pictures(folder: Path, written: Path) -> None:
    """Show frames that are written already under another video's name too."""
    folder.mkdir(parents=True)
    for path in written.iterdir():
        link_or_copy(path, folder / path.name)


def write_json(path: Path, value: object) -> None:
    """Write plain values as ASCII JSON, parents included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="ascii")
