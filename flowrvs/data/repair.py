"""Repair what is safe in a split: nothing that a mask or a sentence means is changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowrvs.data import _spans
from flowrvs.data._atomic import hold, sweep
from flowrvs.data._check_masks import is_plain
from flowrvs.data._merge import MASKS, META, style
from flowrvs.data.mevis import split_folder
from flowrvs.disk import storage_error
from flowrvs.errors import DatasetError, FlowRVSError
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["repair_split"]

_MARK = b"\xef\xbb\xbf"
BACKUP = ".before-fix"


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
    with hold(root):
        made: list[tuple[Path, Path]] = []
        try:
            for name, rewrite in ((META, _meta), (MASKS, _masks)):
                path = root / name
                if path.is_file():
                    temporary = path.with_name(f".{name}.partial")
                    made.append((temporary, path))
                    lines = _rewrite(path, temporary, rewrite, progress, cancel)
                    if not lines:
                        temporary.unlink(missing_ok=True)
                        made.pop()
                    done += lines
            for temporary, path in made:
                _keep(path)
                temporary.replace(path)
        except BaseException as error:
            for temporary, _ in made:
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, FlowRVSError):
                raise storage_error(error, root) from error
            raise
    before = set(root.parent.glob(f".{root.name}.*"))
    sweep(root)
    for path in sorted(before - set(root.parent.glob(f".{root.name}.*"))):
        if not path.name.endswith(".lock"):
            done.append(f"removed {path.name}, which a killed export left")
    for path in sorted(root.glob(".*.partial")):
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


def _rewrite(
    path: Path,
    temporary: Path,
    rewrite: Any,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> list[str]:
    counts: dict[str, int] = {}
    try:
        with _spans.mapped(path) as data, temporary.open("wb") as out:
            marked = data[:3] == _MARK
            if marked:
                counts[f"{path.name}: removed the byte order mark"] = 1
            for piece in rewrite(data, counts, progress, cancel):
                if marked and not isinstance(piece, bytes) and piece[0] == 0:
                    piece = (3, piece[1])
                _spans.copy(data, [piece], out)
            out.flush()
            os.fsync(out.fileno())
    except DatasetError as error:
        raise DatasetError(f"{path} is too damaged to be repaired ({error}).") from None
    return [f"{what} ({count})" if count > 1 else what for what, count in counts.items()]


def _masks(
    data: Any,
    counts: dict[str, int],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Iterator[_spans.Piece]:
    done = 0
    places = list(_spans.members(data))
    clock = ProgressClock(len(places) or 1)
    for one in places:
        if cancel is not None:
            cancel.raise_if_cancelled()
        if data[one.start : one.start + 1] == b"[":
            changes = _entries(data, one.start, counts)
            if changes:
                yield done, one.start
                yield _spans.joined(data, _spans.splice_list(data, one.start, changes))
                done = one.stop
        if progress is not None:
            progress(clock.advance(f"repairing anno_id {one.key}"))
    yield done, len(data)


def _entries(data: Any, start: int, counts: dict[str, int]) -> dict[int, bytes]:
    changes = {}
    for index, (begin, end) in enumerate(_spans.elements(data, start)):
        if data[begin:end] == b"null":
            continue
        entry = _spans.value(data, begin, end)
        try:
            if not entry:
                changes[index] = b"null"
                _count(counts, f"{MASKS}: wrote absent masks as null")
            elif rle.area(entry) == 0:
                changes[index] = b"null"
                _count(counts, f"{MASKS}: wrote masks without a pixel as null")
            elif is_plain(entry):
                encoder = style(data[begin:end])
                changes[index] = encoder.encode(rle.merge([entry])).encode("ascii")
                _count(counts, f"{MASKS}: compressed masks")
        except (DatasetError, TypeError, ValueError, OverflowError):
            continue  # what is no mask is a person's to judge
    return changes


def _meta(
    data: Any,
    counts: dict[str, int],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Iterator[_spans.Piece]:
    done = 0
    videos = _spans.member(data, "videos")
    if videos is None or data[videos.start : videos.start + 1] != b"{":
        yield 0, len(data)
        return
    for video in _spans.members(data, videos.start):
        if data[video.start : video.start + 1] != b"{":
            continue
        rows = _spans.member(data, "expressions", video.start)
        if rows is None or data[rows.start : rows.start + 1] != b"{":
            continue
        for row in _spans.members(data, rows.start):
            before = _spans.value(data, row.start, row.stop)
            after = _row(before, counts)
            if after != before:
                yield done, row.start
                raw = data[row.start : row.stop]
                ascii_only = all(byte < 128 for byte in raw)
                encoder = style(raw)
                encoder.ensure_ascii = ascii_only
                changes = {
                    key: encoder.encode(after[key]).encode()
                    for key in after
                    if after[key] != before[key]
                }
                yield _spans.joined(raw, _spans.splice(raw, 0, changes))
                done = row.stop
    yield done, len(data)


def _row(row: Any, counts: dict[str, int]) -> Any:
    if not isinstance(row, dict):
        return row
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
                pairs.setdefault(json.dumps(anno), (anno, obj))
            if len(pairs) < len(annotations):
                new["anno_id"] = [a for a, _ in pairs.values()]
                new["obj_id"] = [o for _, o in pairs.values()]
                _count(counts, f"{META}: listed anno_ids once")
    return new


def _count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1
