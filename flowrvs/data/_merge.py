"""Change a MeViS-style split in place: entry by entry, whole or not at all.

New files are written beside the old ones first. They take their places in an order in
which a kill at any moment leaves a split that loads: new frames, then masks (old ones
stay), then sentences; masks that nothing refers to any more go last.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flowrvs.data import _spans
from flowrvs.data._atomic import hold
from flowrvs.disk import storage_error
from flowrvs.errors import DatasetError

__all__ = ["amend", "style"]

META, MASKS = "meta_expressions.json", "mask_dict.json"


def amend(
    split: Path,
    *,
    videos: Mapping[str, bytes] | None = None,
    new_videos: Mapping[str, bytes] | None = None,
    masks: Mapping[str, bytes | None] | None = None,
    new_masks: Iterable[tuple[str, bytes]] = (),
    folders: Sequence[tuple[Path, Path]] = (),
) -> None:
    """Replace and add entries; every other byte of the two files stays.

    Parameters
    ----------
    split : Path
        The split.
    videos, new_videos : mapping of str to bytes
        JSON of entries of ``meta_expressions.json`` to replace, and to add.
    masks : mapping of str to bytes or None
        JSON of entries of ``mask_dict.json`` to replace, None for those to remove.
    new_masks : iterable of (str, bytes)
        Those to add.
    folders : sequence of (Path, Path)
        Folders to move into the split.

    Raises
    ------
    DatasetError
        Another process is writing to the split, or its files are damaged.
    StorageError
        The disk is full, read-only or failing. The split is as it was.
    """
    masks = masks or {}
    changed = {key: new for key, new in masks.items() if new is not None}
    removed: dict[str, bytes | None] = {key: None for key, new in masks.items() if new is None}
    new_masks = list(new_masks) if isinstance(new_masks, (list, tuple)) else new_masks
    with hold(split):
        moved: list[tuple[Path, Path]] = []
        made: list[Path] = []
        try:
            if (split / MASKS).is_file():
                made.append(_write(split / MASKS, (), changed, new_masks))
            made.append(_write(split / META, ("videos",), videos or {}, (new_videos or {}).items()))
            for source, target in folders:
                source.rename(target)
                moved.append((source, target))
        except BaseException as error:
            for path in made:
                path.unlink(missing_ok=True)
            for source, target in moved:
                with contextlib.suppress(OSError):
                    target.rename(source)
            if isinstance(error, OSError) and type(error).__module__ == "builtins":
                raise storage_error(error, split) from error
            raise
        for path in made:
            path.replace(split / path.name.removeprefix(".").removesuffix(_PART))
        if removed:
            path = _write(split / MASKS, (), removed, ())
            path.replace(split / MASKS)


_PART = ".partial"


def _write(
    path: Path,
    inside: Sequence[str],
    changes: Mapping[str, bytes | None],
    extra: Iterable[tuple[str, bytes]],
) -> Path:
    """Write the amended file beside `path` and read it again; return where it lies."""
    temporary = path.with_name(f".{path.name}{_PART}")
    try:
        with _spans.mapped(path) as data, temporary.open("wb") as out:
            start, stop = 0, len(data)
            for key in inside:
                found = _spans.member(data, key, start)
                if found is None:
                    raise DatasetError(f"{path} has no {key!r}; run 'flowrvs check'.")
                start, stop = found.start, found.stop
            pieces: Iterator[_spans.Piece] = _spans.splice(data, start, changes, extra)
            if start:
                _spans.copy(data, [(0, start)], out)
            last = 0
            for piece in pieces:
                _spans.copy(data, [piece], out)
                last = last if isinstance(piece, bytes) else piece[1]
            _spans.copy(data, [(stop if inside else last, len(data))], out)
            out.flush()
            os.fsync(out.fileno())
        with _spans.mapped(temporary) as data:
            for _ in _spans.members(data):
                pass
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def style(raw: bytes) -> json.JSONEncoder:
    """Return an encoder that spaces as a piece of JSON does."""
    if b'": ' in raw[:4096] or b'":' not in raw[:4096]:
        return json.JSONEncoder()
    return json.JSONEncoder(separators=(",", ":"))
