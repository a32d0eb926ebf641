"""The faults that `flowrvs check` knows; those of masks; and the repair of what is safe."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flowrvs.data import json_parts
from flowrvs.data.formats import MASKS, META, meta_path, split_folder
from flowrvs.disk import replacing
from flowrvs.errors import DatasetError, counted
from flowrvs.folders import NewFolder, remove_leftovers
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["FAULTS", "Finding", "MaskCheck", "repair_split"]

FAULTS: Mapping[str, str] = {
    # the files
    "bad-json": "A file is not readable JSON",
    "byte-order-mark": "A file begins with a byte order mark, which most loaders refuse",
    "repeated-key": "A key is there twice, so that loaders see the last one only",
    "no-videos": "There are no videos",
    "no-masks-file": "Sentences refer to masks, but mask_dict.json is missing",
    "leftover": "A killed export left something behind",
    # names
    "unsafe-name": "A name leads outside its folder or cannot be a file name",
    "same-name": "Names differ in case only, so that some disks mix them up",
    "link-outside": "A link leads outside the split",
    # videos and frames
    "bad-video": "A video lacks its frames or expressions",
    "no-frames": "A video lists no frames",
    "repeated-frame": "A frame is listed twice",
    "unsorted-frames": "Frames are not sorted: loaders sort them, and masks would shift",
    "uneven-names": "Frame numbers have different widths, so that they sort wrongly",
    "no-first-frame": "Frame numbers do not begin with 00000",
    "gap-in-frames": "Frame numbers leave some out",
    "no-folder": "The folder of a video is missing, or cannot be read",
    "missing-frame": "Listed frames are missing",
    "unlisted-frame": "There are pictures that are not listed",
    "not-jpg": "Frames do not end in .jpg, which loaders look for",
    "bad-picture": "A frame is not a readable picture",
    "cut-picture": "A frame is cut off",
    "frame-size": "Frames of one video have different sizes",
    "unlisted-video": "A folder belongs to no video",
    # sentences
    "no-sentences": "A video has no sentences",
    "bad-sentence": "An expression has no text",
    "empty-sentence": "A sentence is empty",
    "loose-sentence": "A sentence has white space at its ends or line breaks in it",
    "repeated-sentence": "A video has the same sentence twice",
    "bad-ids": "obj_id and anno_id are no lists of whole numbers",
    "null-ids": "obj_id or anno_id is null, where loaders want []",
    "uneven-ids": "obj_id and anno_id are not parallel",
    "repeated-id": "An anno_id is listed twice in one sentence",
    "dangling-id": "A sentence refers to masks that are not there",
    "foreign-id": "Videos share masks",
    "two-objects": "One anno_id goes by several obj_ids",
    # masks
    "bad-key": "A key of mask_dict.json is no whole number",
    "unused-masks": "No sentence refers to some masks",
    "bad-masks": "Masks are no list",
    "mask-count": "Masks and frames differ in number",
    "not-null": "An absent mask is written as something else than null, on which loaders fail",
    "bad-rle": "A mask is no valid RLE",
    "plain-rle": "A mask is an uncompressed RLE, which loaders cannot decode",
    "empty-rle": "An absent mask is written as an RLE without pixels",
    "turned-rle": "A mask has its width and height swapped",
    "mask-size": "A mask has another size than its frames",
    "never-seen": "An object is seen on no frame",
    "same-masks": "The same masks are stored twice",
    "overlap": "Objects overlap",
    # pictures of masks
    "not-binary": "A mask picture holds other values than 0 and 255",
    "mask-picture": "A mask picture is missing, unreadable or of another size",
}
"""Every fault by its name, in the words of a report."""

FIXED: frozenset[str] = frozenset(
    (
        "byte-order-mark leftover loose-sentence null-ids repeated-id not-null plain-rle empty-rle"
    ).split()
)
"""Those that ``--fix`` repairs: none of them changes what a mask or a sentence means."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes
    ----------
    severity : {"error", "warning"}
        An error breaks a loader or the scores; a warning looks like a slip.
    file : str
        Where, relative to the split's folder.
    key : str
        Which entry of the file: ``video/exp_id``, ``anno_id 17 frame 3``, ...
    problem : str
        What is wrong.
    remedy : str
        What to do about it.
    code : str
        The fault's name, a key of `FAULTS`.
    """

    severity: Literal["error", "warning"]
    file: str
    key: str
    problem: str
    remedy: str
    code: str = ""

    @property
    def fixable(self) -> bool:
        """True when ``flowrvs check --fix`` repairs it."""
        return self.code in FIXED

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{self.severity}: {self.file}:{key} {self.problem}; {self.remedy}"

    def to_dict(self) -> dict[str, str | bool]:
        """Return the finding as plain values."""
        return {**asdict(self), "fixable": self.fixable}


def _is_plain(entry: Any) -> bool:
    """True for an RLE whose counts are a list: COCO's uncompressed form."""
    return isinstance(entry, Mapping) and isinstance(entry.get("counts"), list)


class MaskCheck:
    """Checks ``mask_dict.json``.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    DatasetError
        It is cut off or no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._twice: list[str] = []
        self._owners: dict[str, str] = {}
        with json_parts.mapped(path) as data:
            for item in json_parts.members(data):
                if item.key in self._places:
                    self._twice.append(item.key)
                self._places[item.key] = (item.start, item.stop)

    def __contains__(self, anno_id: str) -> bool:
        return anno_id in self._places

    def keys(self) -> Iterator[Finding]:
        """Check the keys alone."""
        for key in self._twice:
            what = "the key is there twice, loaders see the last one only"
            yield _error("repeated-key", f"anno_id {key}", what, "number one of them anew")
        for key in self._places:
            if not key.isdecimal():
                what = "the key is no whole number"
                yield _warning("bad-key", f"anno_id {key}", what, "number the masks")

    def unused(self) -> Iterator[Finding]:
        """Name the annotations that no video asked for; their masks are checked too."""
        for key in sorted(set(self._places) - set(self._owners), key=_number):
            what = "no expression uses it"
            yield _warning("unused-masks", f"anno_id {key}", what, "remove it or refer to it")

    def video(
        self,
        video: str,
        annotations: Mapping[str, set[str]],
        frames: Sequence[str],
        size: tuple[int, int] | None,
    ) -> Iterator[Finding]:
        """Check the annotations of a video.

        Parameters
        ----------
        video : str
            Its name.
        annotations : mapping of str to set of str
            The obj_ids by which its sentences call each anno_id.
        frames : sequence of str
            Its frames.
        size : (int, int) or None
            Their height and width.
        """
        entries: dict[str, list[Any]] = {}
        seen: dict[str, str] = {}
        for anno_id, objects in annotations.items():
            key = f"anno_id {anno_id}"
            owner = self._owners.setdefault(anno_id, video)
            if owner != video:
                what = f"{key} belongs to the video {owner!r}"
                remedy = "give every video its own masks"
                yield Finding("error", META, video, what, remedy, "foreign-id")
                continue
            if len(objects) > 1:
                what = f"{key} goes by the obj_ids {', '.join(sorted(objects, key=_number))}"
                yield Finding("warning", META, video, what, "use one", "two-objects")
            found: list[Finding] = []
            masks = self._annotation(key, anno_id, frames, size, found)
            yield from found
            if masks is None:
                continue
            text = repr(masks)
            if any(masks) and text in seen:
                what = f"its masks are those of anno_id {seen[text]}"
                remedy = "store them once and refer to them twice"
                yield _warning("same-masks", key, what, remedy)
            seen.setdefault(text, anno_id)
            if not any(f.severity == "error" for f in found):
                entries[anno_id] = masks
        yield from _overlaps(video, entries, frames)

    def _annotation(
        self,
        key: str,
        anno_id: str,
        frames: Sequence[str],
        size: tuple[int, int] | None,
        found: list[Finding],
    ) -> list[Any] | None:
        """Check one annotation; return its masks, None where nothing can be said of them."""
        try:
            with json_parts.mapped(self.path) as data:
                entries = json_parts.value(data, *self._places[anno_id])
        except DatasetError as error:
            found.append(_error("bad-json", key, str(error), "copy the file again"))
            return None
        if not isinstance(entries, list):
            found.append(_error("bad-masks", key, "it is no list", "write one entry a frame"))
            return None
        if len(entries) != len(frames):
            count = counted(len(entries), "entry", "entries")
            what = f"it has {count} for {counted(len(frames), 'frame')}"
            remedy = "write one entry a frame, null where the object is absent"
            found.append(_error("mask-count", key, what, remedy))
        falsy = [n for n, e in enumerate(entries) if not e and e is not None]
        if falsy:
            what = f"absent masks written as {entries[falsy[0]]!r} or the like: {len(falsy)}"
            where = f"{key} frame {falsy[0]}"
            found.append(_error("not-null", where, what, "write null: loaders test for it"))
        for code, what, remedy in (
            ("plain-rle", "uncompressed masks", "compress them with pycocotools"),
            ("empty-rle", "masks without a pixel", "write null where the object is absent"),
        ):
            places = [n for n, e in enumerate(entries) if e and _IS[code](e)]
            if places:
                make = _error if code == "plain-rle" else _warning
                where = f"{key} frame {places[0]}"
                found.append(make(code, where, f"{what}: {len(places)}", remedy))
        masks: list[Any] = []
        for index, entry in enumerate(entries):
            fault = _fault(entry, size) if entry else None
            if fault is not None:
                code, what, remedy = fault
                found.append(_error(code, f"{key} frame {index}", what, remedy))
                return None
            masks.append(entry if entry and rle.area(entry) else None)
        if not any(masks):
            what = "the object is seen on no frame"
            found.append(_warning("never-seen", key, what, "use empty lists for no target"))
        return masks


def _fault(entry: Any, size: tuple[int, int] | None) -> tuple[str, str, str] | None:
    try:
        rle.area(entry)
    except (DatasetError, TypeError, ValueError, OverflowError) as error:
        return "bad-rle", str(error).rstrip("."), "encode the mask again"
    height, width = entry["size"]
    if size is None or (height, width) == size:
        return None
    what = f"the mask is {width}x{height}, the frames {size[1]}x{size[0]}"
    if (width, height) == size:
        return "turned-rle", what, "'size' is [height, width]: encode the mask again, not turned"
    return "mask-size", what, "encode masks at the frames' size"


def _is_empty(entry: Any) -> bool:
    try:
        return rle.area(entry) == 0
    except (DatasetError, TypeError, ValueError, OverflowError):
        return False


_IS = {"plain-rle": _is_plain, "empty-rle": _is_empty}


def _overlaps(
    video: str, entries: Mapping[str, list[Any]], frames: Sequence[str]
) -> Iterator[Finding]:
    """Say once for each pair of objects on how many frames they share pixels."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for index in range(len(frames)):
        here = [(key, masks[index]) for key, masks in entries.items() if masks[index]]
        if len(here) < 2:
            continue
        try:
            shared = rle.overlaps([entry for _, entry in here])
        except DatasetError:
            continue
        for row in range(len(here)):
            for column in range(row + 1, len(here)):
                if shared[row, column]:
                    pair = (here[row][0], here[column][0])
                    pairs.setdefault(pair, []).append(index)
    for (key, other), places in pairs.items():
        what = f"it overlaps anno_id {other}, first on frame {frames[places[0]]} (of {len(places)})"
        remedy = "see whether both are meant; palette PNGs could not hold it"
        yield _warning("overlap", f"anno_id {key}", what, remedy)


def _error(code: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("error", MASKS, key, problem.rstrip("."), remedy, code)


def _warning(code: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("warning", MASKS, key, problem.rstrip("."), remedy, code)


def _number(key: str) -> tuple[int, str]:
    """Sort keys as numbers; `int` refuses those of thousands of digits."""
    return (len(key), key) if key.isdecimal() else (-1, key)


# -- repairing --------------------------------------------------------------------------

BACKUP = ".before-fix"
Find = Callable[[Any, dict[str, int]], Iterator[json_parts.Piece]]
_MARK = b"\xef\xbb\xbf"


def repair_split(
    folder: str | os.PathLike[str],
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[str]:
    """Repair what can be repaired without a decision.

    These are: byte order marks; absent masks written as something else than null, or as
    an RLE without a pixel; uncompressed RLEs; null instead of an empty list of ids; an
    anno_id twice in one sentence; white space at the ends of sentences and line breaks in
    them; what killed exports left. Everything else in the files keeps its bytes. Before a
    file is replaced, a copy is kept beside it as ``<name>.before-fix``.

    Parameters
    ----------
    folder : path-like
        The split.
    progress, cancel : optional
        Called and checked at every annotation.

    Returns
    -------
    list of str
        What was done, one line each; empty when there was nothing.

    Raises
    ------
    MissingPathError, DatasetError
        There is no split, or its files are too damaged to be repaired.
    StorageError
        The disk is full, read-only or failing; the files are as they were.
    Cancelled
        `cancel` was set; the files are as they were.
    """
    root = split_folder(folder)
    done: list[str] = []
    with json_parts.locked(root):
        with contextlib.ExitStack() as stack:
            done += _repair_file(meta_path(root), _meta, stack)
            find = partial(_masks, progress=progress, cancel=cancel)
            done += _repair_file(root / MASKS, find, stack)
        left = [*NewFolder.leftovers(root), *sorted(root.glob(".*.partial*"))]
        remove_leftovers(root)
        for path in left:
            if path.parent == root:  # nobody else writes here while it is locked
                path.unlink(missing_ok=True)
            done.append(f"removed {path.name}, which a killed export left")
    return done


def _keep(path: Path) -> None:
    backup = path.with_name(path.name + BACKUP)
    if backup.exists():
        return  # the oldest is what the person had
    try:
        os.link(path, backup)
    except OSError:
        shutil.copyfile(path, backup)


def _repair_file(path: Path, find: Find, stack: contextlib.ExitStack) -> list[str]:
    """Write the repaired file beside `path`, to take its name when `stack` ends."""
    if not path.is_file():
        return []
    counts: dict[str, int] = {}
    try:
        with json_parts.mapped(path) as data:
            marked = data[:3] == _MARK
            if marked:
                counts[f"{path.name}: removed the byte order mark"] = 1
            pieces = list(find(data, counts))
    except DatasetError as error:
        raise DatasetError(f"{path} is too damaged to be repaired ({error}).") from None
    if marked and isinstance(pieces[0], tuple):
        pieces[0] = (len(_MARK), pieces[0][1])
    if counts:
        temporary = stack.enter_context(replacing(path))
        json_parts.rewrite(path, temporary, lambda _: pieces)
        _keep(path)
    return [f"{what} ({count})" if count > 1 else what for what, count in counts.items()]


def _masks(
    data: Any,
    counts: dict[str, int],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Iterator[json_parts.Piece]:
    done = 0
    places = list(json_parts.members(data))
    clock = ProgressClock(len(places) or 1)
    for place in places:
        if cancel is not None:
            cancel.raise_if_cancelled()
        if data[place.start : place.start + 1] == b"[":
            changes = _entries(data, place.start, counts)
            if changes:
                yield done, place.start
                yield json_parts.joined(data, json_parts.splice_list(data, place.start, changes))
                done = place.stop
        if progress is not None:
            progress(clock.advance(f"repairing anno_id {place.key}"))
    yield done, len(data)


def _entries(data: Any, start: int, counts: dict[str, int]) -> dict[int, bytes]:
    changes = {}
    for index, (begin, end) in enumerate(json_parts.elements(data, start)):
        if data[begin:end] == b"null":
            continue
        entry = json_parts.value(data, begin, end)
        try:
            if not entry:
                changes[index] = b"null"
                _count(counts, f"{MASKS}: wrote absent masks as null")
            elif rle.area(entry) == 0:
                changes[index] = b"null"
                _count(counts, f"{MASKS}: wrote masks without a pixel as null")
            elif _is_plain(entry):
                encoder = json_parts.style(data[begin:end])
                changes[index] = encoder.encode(rle.merge([entry])).encode("ascii")
                _count(counts, f"{MASKS}: compressed masks")
        except (DatasetError, TypeError, ValueError, OverflowError):
            continue  # what is no mask is a person's to judge
    return changes


def _meta(data: Any, counts: dict[str, int]) -> Iterator[json_parts.Piece]:
    done = 0
    videos = json_parts.member(data, "videos")
    if videos is None or data[videos.start : videos.start + 1] != b"{":
        yield 0, len(data)
        return
    for video in json_parts.members(data, videos.start):
        if data[video.start : video.start + 1] != b"{":
            continue
        rows = json_parts.member(data, "expressions", video.start)
        if rows is None or data[rows.start : rows.start + 1] != b"{":
            continue
        for row in json_parts.members(data, rows.start):
            before = json_parts.value(data, row.start, row.stop)
            if not isinstance(before, dict):  # NaN is not even equal to itself
                continue
            after = _row(before, counts)
            if after != before:
                yield done, row.start
                raw = data[row.start : row.stop]
                ascii_only = all(byte < 128 for byte in raw)
                encoder = json_parts.style(raw)
                encoder.ensure_ascii = ascii_only
                changes = {
                    key: encoder.encode(after[key]).encode()
                    for key in after
                    if after[key] is not before[key]
                }
                yield json_parts.joined(raw, json_parts.splice(raw, 0, changes))
                done = row.stop
    yield done, len(data)


def _row(row: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    new = dict(row)
    if isinstance(row.get("exp"), str):
        text = " ".join(row["exp"].splitlines()).strip()
        if text and text != row["exp"]:
            new["exp"] = text
            _count(counts, f"{META}: removed white space around sentences and line breaks in them")
    objects, annotations = row.get("obj_id", []), row.get("anno_id", [])
    if "anno_id" in row and not objects and not annotations:
        for key in ("obj_id", "anno_id"):
            if key in row and row[key] is None:
                new[key] = []
                _count(counts, f"{META}: wrote 'no target' as []")
    elif isinstance(objects, list) and isinstance(annotations, list):
        if len(objects) == len(annotations):
            pairs: dict[str, tuple[Any, Any]] = {}
            for anno, obj in zip(annotations, objects, strict=True):
                name = anno if isinstance(anno, str) else json.dumps(anno)  # 7 and "7" are one key
                pairs.setdefault(name, (anno, obj))
            if len(pairs) < len(annotations):
                new["anno_id"] = [a for a, _ in pairs.values()]
                new["obj_id"] = [o for _, o in pairs.values()]
                _count(counts, f"{META}: listed anno_ids once")
    return new


def _count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1
