"""Ref-YouTube-VOS and Ref-DAVIS17: sentences in JSON, masks in palette PNGs.

A pixel's value is the object, and a sentence means one object. What a video has beyond that
(sentences for several objects, objects that overlap) goes into further parts of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.data.clip import Clip, painted, union, unused
from flowrvs.data.formats import MASKS, META, Dataset, meta_path
from flowrvs.data.json_parts import (
    Buffer,
    Piece,
    mapped,
    member,
    nested,
    read_json,
    rewrite,
    splice,
    style,
    whole_number,
)
from flowrvs.data.parts import Part, parts_of
from flowrvs.data.pictures import (
    PICTURES,
    blank_mask,
    is_safe_name,
    link_folder,
    listed_names,
    object_ids,
    read_codes,
    repaint,
    safe_name,
    write_masks,
)
from flowrvs.disk import replacing
from flowrvs.errors import DatasetError, counted
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.job import Job
    from flowrvs.data.write_back import Changes

__all__ = [
    "PaletteVideos",
    "RefYtvos",
    "Sentences",
    "change_palette",
    "folders_in",
    "frames_in",
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
_MOST = 1000  # objects of a video
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
            rows = _at(entry, "expressions")
            if not isinstance(rows, Mapping):
                raise DatasetError(f"The video {name!r} in {path} has no 'expressions'.")
            for exp_id, row in rows.items():
                if not isinstance(_at(row, "exp"), str):
                    raise DatasetError(f"{name}/{exp_id} in {path} has no text 'exp'.")
        return dict(videos)

    @property
    def videos(self) -> dict[str, int]:
        return {name: len(entry["expressions"]) for name, entry in self._videos.items()}

    def _begin(self, name: str) -> tuple[Clip, Mapping[str, Mapping[str, Any]]]:
        """Return a clip without masks, and the rows of its sentences."""
        entry = self._videos[name]
        frames = listed_names(entry.get("frames"), name, self.folder)
        return Clip(name, frames, pictures=self.pictures / name), entry["expressions"]

    def _change_sentences(self, video: str, changes: Changes, stack: contextlib.ExitStack) -> None:
        """Write the sentences that differ; the file takes its name when `stack` ends."""
        if not changes.sentences:
            return
        rows = self._videos[video]["expressions"]
        path = meta_path(self.folder)
        copy = self.folder.parent / META.removesuffix(".json") / self.folder.name / META
        with mapped(path) as data:
            encoder = style(data[:4096])
            values = {
                exp_id: None
                if change is None
                else encoder.encode(self._row(rows.get(exp_id, {}), *change)).encode("ascii")
                for exp_id, change in changes.sentences.items()
            }
            for place in {path, copy} if copy.is_file() else {path}:
                temporary = stack.enter_context(replacing(place))
                rewrite(path, temporary, partial(within, video=video, rows=rows, values=values))

    def _row(self, row: Mapping[str, Any], text: str, keys: Sequence[int]) -> dict[str, Any]:
        """Return the row of a sentence as it is to be."""
        return {**row, "exp": text}


def within(
    data: Buffer,
    *,
    video: str,
    rows: Mapping[str, Any],
    values: Mapping[str, bytes | None],
) -> Iterator[Piece]:
    """Yield a file of sentences in which some of one video are replaced, removed or added."""
    videos = member(data, "videos")
    entry = member(data, video, videos.start) if videos else None
    found = member(data, "expressions", entry.start) if entry else None
    if found is None:
        raise DatasetError(f"there is no video {video!r} any more")
    yield 0, found.start
    extra = {key: new for key, new in values.items() if key not in rows and new is not None}
    yield from splice(data, found.start, {k: values[k] for k in values if k in rows}, extra)
    yield found.stop, len(data)


class RefYtvos(Sentences):
    """Ref-YouTube-VOS and Ref-DAVIS17: a pixel's value is the object."""

    format = "ytvos"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        if not meta_path(root).is_file() or (root / MASKS).is_file():
            return False
        # Elsewhere a folder a sentence lies between the video and its pictures.
        return (root / "meta.json").is_file() or _has_masks(root)

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        clip, rows = self._begin(name)
        self._codes = read_palette(clip, self._masks(name), categories(self.folder))
        for exp_id, row in rows.items():
            meant, given = None, row.get("obj_id")
            if given is not None and given != "":
                try:
                    ids = [whole_number(i) for i in (given if isinstance(given, list) else [given])]
                except DatasetError as error:
                    raise DatasetError(f"{name}/{exp_id} in {self.folder}: {error}") from None
                # An id without a pixel says "no target", as the writer of this format has it.
                meant = [i for i in ids if i in clip.masks]
            clip.sentences[exp_id] = (row["exp"], meant)
        clip.digests = {"clip": clip.fingerprint()}
        return clip

    def _masks(self, name: str) -> Path:
        return self.folder / "Annotations" / name

    def write_back(self, before: Clip, changes: Changes) -> None:
        with contextlib.ExitStack() as stack:
            change_palette(self._masks(before.name), before, changes, self._codes, stack)
            change_categories(self.folder, before, changes, stack)
            self._change_sentences(before.name, changes, stack)

    def _row(self, row: Mapping[str, Any], text: str, keys: Sequence[int]) -> dict[str, Any]:
        if len(keys) > 1:
            raise DatasetError(
                f"the sentence {text!r} means {len(keys)} objects, which this format cannot hold; "
                "export to mevis."
            )
        # An id without a pixel says "no target".
        value: Any = str(keys[0]) if keys else "255"
        if isinstance(row.get("obj_id"), int):
            value = int(value)
        return {**row, "exp": text, "obj_id": value}


class PaletteVideos(Dataset):
    """YouTube-VOS, MOSE, LVOS: ``JPEGImages/<video>`` and ``Annotations/<video>``, no sentences."""

    format = "vos"
    masks_only = True

    @classmethod
    def recognises(cls, root: Path) -> bool:
        # The frames may lie elsewhere.
        places = ("JPEGImages", "Annotations")
        return all(folders_in(root / name) for name in places) or _has_masks(root)

    @property
    def videos(self) -> dict[str, int]:
        if not self.pictures.is_dir():
            raise DatasetError(f"There is no folder {self.pictures}; say where it is (--frames).")
        return {path.name: 0 for path in folders_in(self.folder / "Annotations")}

    def clip(self, name: str, *, also: Iterable[int] = ()) -> Clip:
        clip = Clip(name, frames_in(self.pictures / name), pictures=self.pictures / name)
        place = self.folder / "Annotations" / name
        self._codes = read_palette(clip, place, categories(self.folder))
        clip.digests = {"clip": clip.fingerprint()}
        return clip

    def write_back(self, before: Clip, changes: Changes) -> None:
        place = self.folder / "Annotations" / before.name
        with contextlib.ExitStack() as stack:
            change_palette(place, before, changes, self._codes, stack)
            change_categories(self.folder, before, changes, stack)


def _has_masks(root: Path) -> bool:
    """Tell whether pictures lie in ``Annotations/<video>``; the first few videos say so."""
    folders = folders_in(root / "Annotations")[:3]
    return any(path.suffix == ".png" for folder in folders for path in _listed(folder))


def categories(root: Path) -> dict[str, Any]:
    """Return ``meta.json``, in which YouTube-VOS has the categories of objects."""
    path = root / "meta.json"
    return read_json(path) if path.is_file() else {}


def folders_in(place: Path) -> list[Path]:
    """Return the folders in a folder, sorted; none where there is no such folder."""
    return [p for p in _listed(place) if p.is_dir() and is_safe_name(p.name)]


def _listed(place: Path) -> list[Path]:
    """Return what lies in a folder, sorted, hidden things left out; nothing where there is none."""
    try:
        return sorted(p for p in place.iterdir() if not p.name.startswith("."))
    except OSError:
        return []


def frames_in(folder: Path) -> list[str]:
    """Return the names of the pictures in a folder, sorted, without suffix.

    Raises
    ------
    DatasetError
        There is none, or the folder cannot be read.
    """
    try:
        pictures = (p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
        found = {p.stem for p in pictures if not p.is_dir()}
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read ({error.strerror or error}).") from None
    shown = sorted(name for name in found if not name.startswith("."))
    if not shown:
        raise DatasetError(f"{folder} holds no frames; copy them again.")
    return listed_names(shown, folder.name, folder.parent)


def read_palette(
    clip: Clip, folder: Path, about: Mapping[str, Any] | None = None
) -> dict[int, int]:
    """Add the objects of pictures of masks to a clip; frames without one were not looked at.

    Parameters
    ----------
    clip : Clip
        Gets masks, ids, names and ``looked``.
    folder : Path
        With ``<frame>.png``.
    about : mapping, optional
        ``meta.json`` of YouTube-VOS, for the objects' categories.

    Returns
    -------
    dict of int to int
        The code of every object's pixels; see `read_codes`.

    Raises
    ------
    DatasetError
        A picture is not readable, or no picture of masks.
    """
    found: dict[int, list[rle.RLE | None]] = {}
    clip.looked = np.zeros(len(clip.frames), bool)
    wide = False
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(clip.frames):
        read = read_codes(folder / f"{frame}.png")
        if read is None:
            continue
        clip.looked[index] = True
        pixels, codes = read
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise DatasetError(
                f"{folder / frame}.png is {pixels.shape[1]}x{pixels.shape[0]}, those before it "
                f"{shape[1]}x{shape[0]}; make all of one size."
            )
        wide = wide or pixels.dtype.itemsize == 2
        for code in codes:
            masks = found.setdefault(code, [None] * len(clip.frames))
            masks[index] = rle.encode(pixels == code)
        if len(found) > _MOST:
            raise DatasetError(f"The masks of {clip.name} have over {_MOST} values; they are none.")
    unread = {p.name for p in _listed(folder) if p.is_file()}
    unread -= {f"{frame}.png" for frame in clip.frames}
    if unread:
        clip.notes.append(
            f"not read, as no mask of a frame: {counted(len(unread), 'file')} in {folder} "
            f"({', '.join(sorted(unread)[:3])})"
        )
    inner = [path.name for path in folders_in(folder)]
    if inner and not clip.looked.any():
        clip.notes.append(f"{folder} holds folders ({', '.join(inner[:3])}), not a mask a frame")
    try:
        ids = object_ids(found, wide=wide)
    except DatasetError as error:
        raise DatasetError(f"{folder}: {error}") from None
    borders = [code for code in found if code not in ids]
    count = sum(mask is not None for code in borders for mask in found[code])
    if borders:
        objects = [any(found[code][n] for code in ids) for n in range(len(clip.frames))]
        alone = [n for n, seen in enumerate(objects) if not seen and found[borders[0]][n]]
        if count == len(alone):
            raise DatasetError(
                f"{folder}: {clip.frames[alone[0]]}.png is a mask of 0 and 255, other pictures "
                "number their objects; save all of them in one way."
            )
        void = 65535 if wide else 255
        clip.notes.append(
            f"{void} is a border that nobody decides on, no object: it is in "
            f"{counted(count, 'picture')}"
        )
    for key in sorted(set(ids.values())):
        clip.masks[key] = union([found[code] for code, value in ids.items() if value == key])
        clip.ids[key] = (key, -1)
    named = _at(about, "videos", clip.name, "objects")
    for key in clip.masks:
        category = _at(named, str(key), "category")
        if isinstance(category, str) and category.strip():
            clip.names[key] = f"{' '.join(category.split())[:60]} {key}"
    return {value: code for code, value in reversed(ids.items())}


def change_palette(
    folder: Path,
    before: Clip,
    changes: Changes,
    codes: Mapping[int, int],
    stack: contextlib.ExitStack,
) -> None:
    """Write the pictures of masks that differ; they take their names when `stack` ends.

    Pixels that no object of the clip has, such as borders that nobody decides on, stay.

    Raises
    ------
    DatasetError
        Objects overlap, or there are more than the pictures hold.
    """
    objects = changes.objects(before)
    there = [frame for frame in before.frames if (folder / f"{frame}.png").is_file()]
    blank = blank_mask(folder / f"{there[0]}.png" if there else None)
    for index in changes.frames():
        here = {key: mask for key, masks in objects.items() if (mask := masks[index])}
        shared = np.argwhere(np.triu(rle.overlaps(list(here.values())), 1))
        frame = before.frames[index]
        if len(shared):
            a, b = (list(here)[n] for n in shared[0])
            raise DatasetError(
                f"{before.name}, frame {frame}: the objects {a} and {b} overlap, which a picture "
                "of masks cannot hold; cut one of them, or export to mevis."
            )
        path = folder / f"{frame}.png"
        folder.mkdir(parents=True, exist_ok=True)
        size = next((m["size"] for masks in objects.values() for m in masks if m), None)
        changed = {
            key: (before.masks.get(key, {index: None})[index], here.get(key))
            for key, found in changes.masks.items()
            if index in found
        }
        temporary = stack.enter_context(replacing(path, durable=False))
        repaint(path, temporary, blank, size, changed, codes)


def change_categories(
    root: Path, before: Clip, changes: Changes, stack: contextlib.ExitStack
) -> None:
    """Write what ``meta.json`` says of the objects that differ, where there is one."""
    path = root / "meta.json"
    entry = _at(categories(root), "videos", before.name)
    objects = _at(entry, "objects")
    if not changes.masks or not isinstance(objects, Mapping):
        return
    new = {key: row for key, row in objects.items() if key not in map(str, changes.gone)}
    for key, masks in changes.whole.items():
        seen = [frame for frame, mask in zip(before.frames, masks, strict=True) if mask]
        row = new.get(str(key))
        known = row if isinstance(row, dict) else {"category": "others"}
        new[str(key)] = {**known, "frames": seen}
    with mapped(path) as data:
        text = style(data[:4096]).encode({**entry, "objects": new}).encode("ascii")
    temporary = stack.enter_context(replacing(path))
    rewrite(path, temporary, lambda data: nested(data, "videos", {before.name: text}))


def _at(value: Any, *keys: str) -> Any:
    """Return what lies at nested keys, None where something else does."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


# -- writing ---------------------------------------------------------------------------


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


def write_palette(
    folder: Path, job: Job, within: str = "", *, gaps: bool = False
) -> Iterable[tuple[Clip, Part]]:
    """Write frames and palette PNGs of all videos, and yield the parts that each became.

    Parameters
    ----------
    folder : Path
        Of the split.
    job : Job
        What is written.
    within : str
        A folder between ``JPEGImages`` or ``Annotations`` and the video, such as ``480p``.
    gaps : bool
        Write no picture for a frame that nobody has looked at.
    """
    taken = {name.casefold() for name in job.names}
    for clip in job.clips():
        first = folder / "JPEGImages" / within / clip.name
        job.write_pictures(first, clip)
        names = dict(enumerate(clip.frames))
        if gaps and clip.looked is not None:
            names = {index: name for index, name in names.items() if clip.looked[index]}
        for part in parts_of(clip, partial(unused, taken=taken), job.notes):
            if part.name != clip.name:
                link_folder(folder / "JPEGImages" / within / part.name, first)
            place = folder / "Annotations" / within / part.name
            values = partial(painted, part.masks, size=clip.size, dtype=np.uint8)
            write_masks(place, names, values, jobs=job.options.jobs)
            yield clip, part


def _category(names: Iterable[str], known: list[str], other: str) -> str:
    for name in names:
        for word in re.findall(r"[a-z]+", name.casefold()):
            if word in known:
                return word
            if word in _PEOPLE and "person" in known:
                return "person"
    return other
