"""Formats of palette PNGs: Ref-YouTube-VOS, Ref-DAVIS17, DAVIS 2017."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowrvs.data._content import Work
from flowrvs.data._frames import workers
from flowrvs.data._parts import Part, link_pictures, parts_of, write_json, write_pictures
from flowrvs.data._sources import Source, unused
from flowrvs.masks import rle
from flowrvs.masks.compose import paint

__all__ = ["write_davis", "write_refdavis", "write_ytvos"]

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


def write_ytvos(folder: Path, work: Work) -> None:
    """Ref-YouTube-VOS: palette PNGs, one object a sentence, ``meta.json``."""
    _write_referring(folder, work, _YTVOS, "others")


def write_refdavis(folder: Path, work: Work) -> None:
    """Ref-DAVIS17: as Ref-YouTube-VOS with the categories of DAVIS."""
    _write_referring(folder, work, _DAVIS, "box")
    work.notes.append(
        "DAVIS's categories have no 'other': an object whose name holds none of them is a 'box'"
    )


def _write_referring(folder: Path, work: Work, known: list[str], other: str) -> None:
    expressions: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    taken = {source.name.casefold() for source in work.sources}
    for source in work.sources:
        content = work.content(source)
        parts = parts_of(source, content, partial(unused, taken=taken), work)
        first = folder / "JPEGImages" / source.name
        write_pictures(first, source, work)
        for part in parts:
            if part.name != source.name:
                link_pictures(folder / "JPEGImages" / part.name, first)
            _write_palette(folder / "Annotations" / part.name, source, part, work)
            expressions[part.name] = {
                "expressions": {
                    exp_id: {"exp": text, "obj_id": str(value)}
                    for exp_id, (text, value) in part.expressions.items()
                },
                "frames": source.frames,
            }
            meta[part.name] = {
                "objects": {
                    str(value): {
                        "category": _category(source, owners, known, other),
                        "frames": _seen(source, part.masks.get(value)),
                    }
                    for value, owners in part.members.items()
                }
            }
        work.wrote(source, content)
    write_json(folder / "meta_expressions.json", {"videos": expressions})
    write_json(folder / "meta.json", {"videos": meta})


def write_davis(folder: Path, work: Work) -> None:
    """DAVIS 2017: palette PNGs, ``ImageSets``, and the sentences as a text file."""
    # The tools look into this folder by default; pictures keep their own size.
    size_name = "480p"
    lines, names = [], []
    taken = {source.name.casefold() for source in work.sources}
    for source in work.sources:
        content = work.content(source)
        parts = parts_of(source, content, partial(unused, taken=taken), work, singles=True)
        first = folder / "JPEGImages" / size_name / source.name
        write_pictures(first, source, work)
        for part in parts:
            if part.name != source.name:
                link_pictures(folder / "JPEGImages" / size_name / part.name, first)
            _write_palette(folder / "Annotations" / size_name / part.name, source, part, work)
            names.append(part.name)
            for text, value in part.expressions.values():
                lines.append(f'{part.name} {value} "{" ".join(text.split())}"')
        work.wrote(source, content)
    sets = folder / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    text = "".join(f"{name}\n" for name in names)
    (sets / f"{work.target.name}.txt").write_text(text, encoding="utf-8")
    text = "".join(f"{line}\n" for line in lines)
    (folder / "text_annotations.txt").write_text(text, encoding="utf-8")


def _write_palette(folder: Path, source: Source, part: Part, work: Work) -> None:
    folder.mkdir(parents=True)

    def write(index: int) -> None:
        seen = {
            value: rle.decode(mask)
            for value, masks in part.masks.items()
            if (mask := masks[index]) is not None
        }
        picture = Image.fromarray(paint(seen, source.size, np.uint8))
        picture.putpalette(_PALETTE)
        picture.save(folder / f"{source.frames[index]}.png")

    with ThreadPoolExecutor(workers(work.jobs), "flowrvs-png") as pool:
        for _ in pool.map(write, range(len(source.frames))):
            pass


def _category(source: Source, owners: Iterable[int], known: list[str], other: str) -> str:
    for owner in owners:
        for word in re.findall(r"[a-z]+", source.object_name(owner).casefold()):
            if word in known:
                return word
            if word in _PEOPLE and "person" in known:
                return "person"
    return other


def _seen(source: Source, masks: list[rle.RLE | None] | None) -> list[str]:
    if masks is None:
        return []
    return [frame for frame, mask in zip(source.frames, masks, strict=True) if mask]


def _davis_palette() -> bytes:
    """The PASCAL VOC colours that DAVIS uses: the bits of the index, spread over RGB."""
    colors = []
    for index in range(256):
        for channel in range(3):
            colors.append(
                sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) & 255
            )
    return bytes(colors)


_PALETTE = _davis_palette()
