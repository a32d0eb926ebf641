"""A video in parts, for formats in which a pixel and a sentence mean one object each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowrvs.data.clip import Clip, separate, union
from flowrvs.errors import DatasetError
from flowrvs.masks import rle

__all__ = ["Part", "parts_of"]


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
        if ids and len(ids) > 1:
            targets.setdefault(tuple(sorted(ids)), len(targets) + 1)
    unions = {number: union([clip.masks[key] for key in keys]) for keys, number in targets.items()}
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
        name = clip.name if place == 0 else unused(f"{clip.name}_part{place + 1}")
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
