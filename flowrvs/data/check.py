"""Lint a MeViS-style split: what would break a loader, and what looks like a slip."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flowrvs.data import json_parts
from flowrvs.data.faults import FAULTS, Finding, MaskCheck
from flowrvs.data.formats import MASKS, META, meta_path, split_folder
from flowrvs.data.json_parts import read_json
from flowrvs.data.pictures import PICTURES, is_safe_name, open_picture, values_in
from flowrvs.errors import DatasetError, counted
from flowrvs.folders import NewFolder
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["FAULTS", "Finding", "check_sentences", "check_split"]


def check_split(
    folder: str | os.PathLike[str],
    *,
    deep: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[Finding]:
    """Return everything that is wrong or odd with the split in `folder`.

    Masks are read one video at a time, so that a file of masks may exceed the memory.

    Parameters
    ----------
    folder : path-like
        The folder with ``meta_expressions.json``.
    deep : bool
        Decode every frame instead of reading its head and its end; takes much longer.
    progress : callable, optional
        Called after every video.
    cancel : CancelToken, optional
        Checked before every video.

    Returns
    -------
    list of Finding
        Errors first.

    Raises
    ------
    MissingPathError
        There is no such folder.
    DatasetError
        The folder has no ``meta_expressions.json``.
    Cancelled
        `cancel` was set.
    """
    root = split_folder(folder)
    findings = list(_check(root, deep, progress, cancel))
    return sorted(findings, key=lambda f: f.severity != "error")


def _check(
    root: Path, deep: bool, progress: ProgressCallback | None, cancel: CancelToken | None
) -> Iterator[Finding]:
    yield from _left(root)
    try:
        videos = read_json(meta_path(root)).get("videos")
        yield from _repeated(meta_path(root))
    except DatasetError as error:
        yield _error("bad-json", META, "", str(error), "write it again")
        return
    if not isinstance(videos, Mapping):
        yield _error("bad-json", META, "", "there is no object 'videos'", "write it again")
        return
    if not videos:
        yield _warning("no-videos", META, "", "there are no videos", "add some")
    yield from _same_names(videos)
    masks, unread = None, False
    if (root / MASKS).exists():
        try:
            masks = MaskCheck(root / MASKS)
            yield from masks.keys()
        except DatasetError as error:
            unread = True  # all but the masks can still be looked at
            yield _error("bad-json", MASKS, "", f"it is not readable JSON ({error})", "copy it")
    clock = ProgressClock(len(videos))
    for name, entry in videos.items():
        if cancel is not None:
            cancel.raise_if_cancelled()
        yield from _video(root, name, entry, masks, deep=deep, unread=unread)
        if progress is not None:
            progress(clock.advance(f"checked {name}"))
    if masks is not None:
        yield from masks.unused()
    pictures = root / "JPEGImages"
    if pictures.is_dir():
        for path in sorted(pictures.iterdir()):
            if path.name not in videos:
                where = f"JPEGImages/{path.name}"
                yield _warning(
                    "unlisted-video", where, "", f"{META} does not list it", "list or remove it"
                )


def _left(root: Path) -> Iterator[Finding]:
    for path in (*NewFolder.leftovers(root), *sorted(root.glob(".*.partial*"))):
        what = "it was left by an export that was killed"
        yield _warning("leftover", os.path.relpath(path, root), "", what, "remove it")
    for name, path in ((META, meta_path(root)), (MASKS, root / MASKS)):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(3) == b"\xef\xbb\xbf":
                    what = "it begins with a byte order mark, which json.load refuses"
                    yield _error("byte-order-mark", name, "", what, "save it as UTF-8 without")


def _repeated(path: Path) -> Iterator[Finding]:
    """Find keys that stand twice in one object: readers silently take the last one."""
    with json_parts.mapped(path) as data:
        top = list(json_parts.members(data))
        videos = next((m for m in top if m.key == "videos"), None)
        yield from _twice([m.key for m in top], "")
        if videos is None or data[videos.start : videos.start + 1] != b"{":
            return
        inside = list(json_parts.members(data, videos.start))
        yield from _twice([m.key for m in inside], "")
        for item in inside:
            if data[item.start : item.start + 1] != b"{":
                continue
            rows = json_parts.member(data, "expressions", item.start)
            if rows is not None and data[rows.start : rows.start + 1] == b"{":
                keys = [m.key for m in json_parts.members(data, rows.start)]
                yield from _twice(keys, f"{item.key}/")


def _twice(keys: list[str], before: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            what = "the key is there twice, loaders see the last one only"
            yield _error("repeated-key", META, f"{before}{key}", what, "give one another name")
        seen.add(key)


def _same_names(videos: Mapping[str, Any]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name in videos:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            what = f"it differs from {other!r} in case only"
            yield _warning("same-name", META, name, what, "rename one of them")


def _video(
    root: Path, name: str, entry: Any, masks: MaskCheck | None, *, deep: bool, unread: bool
) -> Iterator[Finding]:
    if not is_safe_name(name):
        yield _error("unsafe-name", META, repr(name), "the video name leaves its folder", _RENAME)
        return
    frames = entry.get("frames") if isinstance(entry, Mapping) else None
    rows = entry.get("expressions") if isinstance(entry, Mapping) else None
    if not isinstance(frames, list) or not isinstance(rows, Mapping):
        yield _error("bad-video", META, name, "it needs 'frames' and 'expressions'", "write them")
        return
    bad = [frame for frame in frames if not is_safe_name(frame)]
    if bad:
        what = f"the frame name {bad[0]!r} leaves its folder"
        yield _error("unsafe-name", META, name, what, _RENAME)
        return
    yield from _frame_list(name, frames)
    size, found = _check_pictures(root, name, frames, deep)
    yield from found
    yield from check_sentences(name, rows)
    yield from _check_mask_pictures(root, name, frames, list(rows), size)
    annotations: dict[str, set[str]] = {}
    for exp_id, row in rows.items():
        if isinstance(row, Mapping) and not unread:
            yield from _targets(f"{name}/{exp_id}", row, masks, annotations)
    if masks is not None:
        yield from masks.video(name, annotations, frames, size)


def _frame_list(name: str, frames: list[str]) -> Iterator[Finding]:
    if not frames:
        yield _error("no-frames", META, name, "it lists no frames", "list them")
        return
    if len(set(frames)) < len(frames):
        twice = next(frame for frame, count in Counter(frames).items() if count > 1)
        what = f"the frame {twice!r} is listed twice"
        yield _error("repeated-frame", META, name, what, "list it once")
        return
    if frames != sorted(frames):
        code, what = "unsorted-frames", "the frames are not sorted, masks would shift"
        if all(f.isdecimal() for f in frames) and frames == sorted(frames, key=int):
            code = "uneven-names"
            what = "the frame numbers are not sorted as text, masks would shift"
        yield _error(code, META, name, what, "sort them, masks as well, and zero-pad the names")
        return
    if all(f.isdecimal() for f in frames):
        numbers = [int(f) for f in frames]
        if numbers[0] != 0:
            what = f"the first frame is {frames[0]}, not 00000"
            yield _warning("no-first-frame", META, name, what, "see whether the beginning is lost")
        steps = [b - a for a, b in pairwise(numbers)]
        counts = Counter(steps)
        if len(counts) > 1:
            usual = max(counts, key=lambda step: (step > 0, counts[step]))
            place = next(n for n, step in enumerate(steps, 1) if step != usual)
            what = f"after frame {frames[place - 1]} comes {frames[place]}"
            yield _warning("gap-in-frames", META, name, what, "see whether frames are lost")


def check_sentences(video: str, rows: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the sentences of a video."""
    if not rows:
        what = "it has no expressions"
        yield _warning("no-sentences", META, video, what, "add some or remove the video")
    seen: dict[str, str] = {}
    for exp_id, row in rows.items():
        key = f"{video}/{exp_id}"
        if not is_safe_name(exp_id):
            yield _error("unsafe-name", META, repr(key), "the exp_id leaves its folder", _RENAME)
        if not isinstance(row, Mapping) or not isinstance(row.get("exp"), str):
            yield _error("bad-sentence", META, key, "there is no text 'exp'", "write it")
            continue
        text = " ".join(row["exp"].split()).casefold()
        if not text:
            yield _error("empty-sentence", META, key, "the sentence is empty", "write it")
            continue
        if row["exp"] != row["exp"].strip() or len(row["exp"].splitlines()) > 1:
            what = "the sentence has white space at its ends or a line break"
            yield _warning("loose-sentence", META, key, what, "remove it")
        if text in seen:
            what = f"it repeats the sentence of {seen[text]!r}"
            yield _warning("repeated-sentence", META, key, what, "keep one of them")
        seen.setdefault(text, exp_id)


def _targets(
    key: str, row: Mapping[str, Any], masks: MaskCheck | None, found: dict[str, set[str]]
) -> Iterator[Finding]:
    objects, annotations = row.get("obj_id"), row.get("anno_id")
    if masks is None:
        if annotations:
            what = f"it has anno_ids, but {MASKS} is missing"
            yield _error("no-masks-file", META, key, what, "add the file")
        return
    if "obj_id" in row and "anno_id" in row and None in (objects, annotations):
        what = "'obj_id' or 'anno_id' is null, loaders want a list"
        yield _error("null-ids", META, key, what, "write [] for no target")
        return
    if not isinstance(objects, list) or not isinstance(annotations, list):
        what = "'obj_id' and 'anno_id' must be lists"
        yield _error("bad-ids", META, key, what, "write [] for no target")
        return
    wrong = [i for i in (*objects, *annotations) if not _whole(i)]
    if wrong:
        what = f"the id {wrong[0]!r} is no whole number"
        yield _error("bad-ids", META, key, what, "number objects and masks")
        return
    if len(objects) != len(annotations):
        what = f"{counted(len(objects), 'obj_id')} beside {counted(len(annotations), 'anno_id')}"
        yield _error("uneven-ids", META, key, what, "make the lists parallel")
    if len(set(map(str, annotations))) < len(annotations):
        yield _warning("repeated-id", META, key, "an anno_id is listed twice", "list it once")
    for place, anno_id in enumerate(map(str, annotations)):
        if anno_id not in masks:
            what = f"anno_id {anno_id} is not in {MASKS}"
            yield _error("dangling-id", META, key, what, "add its masks or remove the id")
            continue
        names = found.setdefault(anno_id, set())
        if place < len(objects):
            names.add(str(objects[place]))


def _whole(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())


_RENAME = "rename it"


def _error(code: str, file: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("error", file, key, problem.rstrip("."), remedy, code)


def _warning(code: str, file: str, key: str, problem: str, remedy: str) -> Finding:
    return Finding("warning", file, key, problem.rstrip("."), remedy, code)


# -- pictures --------------------------------------------------------------------------

Size = tuple[int, int]


def _check_pictures(
    root: Path, name: str, frames: Sequence[str], deep: bool
) -> tuple[Size | None, list[Finding]]:
    """Return the height and width of a video's frames, and what is wrong with them."""
    place = f"JPEGImages/{name}"
    folder = root / place
    if not folder.is_dir():
        return None, [
            _error("no-folder", place, "", "the folder is missing", "copy the frames again")
        ]
    found: list[Finding] = []
    if not folder.resolve().is_relative_to(root.resolve()):
        what = "the folder is a link that leads outside the split"
        found.append(_warning("link-outside", place, "", what, "copy the frames"))
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        what = f"the folder cannot be read ({error.strerror})"
        return None, [_error("no-folder", place, "", what, "change its permissions")]
    there = {path.stem: path for path in paths if path.suffix.lower() in PICTURES}
    missing = [frame for frame in frames if frame not in there]
    if missing:
        count = f"{len(missing)} of {counted(len(frames), 'frame')}"
        what = f"{count} missing, the first is {missing[0]!r}"
        found.append(_error("missing-frame", place, "", what, "copy the frames again"))
    extra = sorted(set(there) - set(frames))
    if extra:
        what = f"pictures that are not listed: {len(extra)}, the first is {extra[0]!r}"
        found.append(_warning("unlisted-frame", place, "", what, "list or remove them"))
    other = [frame for frame in frames if frame in there and there[frame].suffix != ".jpg"]
    if other:
        what = f"frames without .jpg: {len(other)}, the first is {there[other[0]].name!r}"
        remedy = "convert them: loaders look for <frame>.jpg"
        found.append(_error("not-jpg", place, "", what, remedy))
    first: Size | None = None
    for path in (there[frame] for frame in frames if frame in there):
        where = f"{place}/{path.name}"
        try:
            with open_picture(path) as picture:
                if deep:
                    picture.load()
                size = picture.height, picture.width
        except (OSError, DatasetError):
            found.append(
                _error("bad-picture", where, "", "it is no readable picture", "copy it again")
            )
            continue
        if _is_cut(path):
            found.append(_error("cut-picture", where, "", "it is cut off", "copy it again"))
        first = first or size
        if size != first:
            what = f"it is {size[1]}x{size[0]}, the first frame {first[1]}x{first[0]}"
            found.append(_error("frame-size", where, "", what, "use one size a video"))
    return first, found


def _is_cut(path: Path) -> bool:
    """True for a JPEG file without its end; some cameras write a little behind it."""
    if path.suffix.lower() == ".png":
        return False
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        return b"\xff\xd9" not in file.read()


def _check_mask_pictures(
    root: Path, video: str, frames: Sequence[str], exp_ids: Sequence[str], size: Size | None
) -> Iterator[Finding]:
    """Yield what is wrong with ``Annotations/<video>/<exp_id>/<frame>.png``, where it is."""
    folders = [Path("Annotations", video, exp_id) for exp_id in exp_ids if is_safe_name(exp_id)]
    for folder in (folder for folder in folders if (root / folder).is_dir()):
        for frame in frames:
            file = (folder / f"{frame}.png").as_posix()
            try:
                with open_picture(root / file) as picture:
                    values = values_in(np.asarray(picture))
                    this = (picture.height, picture.width)
            except FileNotFoundError:
                yield _error("mask-picture", file, "", "it is missing", "write it")
                continue
            except DatasetError:
                what = "it is no readable picture"
                yield _error("mask-picture", file, "", what, "write it again")
                continue
            if size is not None and this != size:
                what = f"it is {this[1]}x{this[0]}, the frames {size[1]}x{size[0]}"
                yield _error("mask-picture", file, "", what, "write masks at the frames' size")
            odd = [v for v in values if v not in (0, 255)]
            if odd:
                what = f"it holds the value {odd[0]}, where scorers want 0 and 255 only"
                yield _error("not-binary", file, "", what, "write 0 and 255")
