"""Undoing and redoing a frame by its file: moved out of its layer, and back.

Where a step drew on nothing, its frame is a file that need not be made again. That is most
of a long run, and moving a file takes a hundredth of writing it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowrvs.disk import sync_folder
from flowrvs.store.changes import Labels, Record, decode, runs, unpack
from flowrvs.store.storage import failed, free_chunk, is_plain

__all__ = ["KeptFrames", "Move", "backwards", "is_file", "run_moves"]


def backwards(data: bytes, size: int) -> tuple[dict[int, int], bytes] | None:
    """Return the other way round what `encode` wrote of pixels that were background.

    With it comes how many pixels each value had; None where other pixels changed, too.
    """
    if not data:
        return {}, data
    raw = unpack(data, 12 * size + 13)
    if raw[:1] != b"R":
        return None
    _, long, old, new = runs(raw, size)
    if old.any():
        return None
    counts = {int(value): int(long[new == value].sum()) for value in {*new.tolist()}}
    middle, half = 1 + 8 * len(long), 2 * len(long)
    turned = raw[:middle] + raw[middle + half :] + raw[middle : middle + half]
    return counts, zlib.compress(turned, 1)


@dataclass(frozen=True, slots=True)
class Move:
    """A frame whose file waits to be moved."""

    change: int  # `FrameCache.changed` of the frame
    source: str
    target: str
    record: Record | None  # all that the frame holds then; None for one that is empty

    def frame(self, shape: tuple[int, int]) -> Labels:
        """Return what the frame holds when it has been moved."""
        frame = np.zeros(shape, np.uint16)
        if self.record is not None:
            pixels = decode(self.record.pack(), frame.size)
            frame.reshape(-1)[pixels.places] = pixels.new
        return frame


def run_moves(moves: dict[int, Move]) -> Iterator[int]:
    """Move files, durably; yield the frames whose file was not there to be moved back.

    Raises
    ------
    StorageError
        A file cannot be moved; doing all of it again is right.
    """
    folders: set[str] = set()
    try:
        for t, move in moves.items():
            here = {os.path.dirname(move.source), os.path.dirname(move.target)}
            for folder in here - folders:
                os.makedirs(folder, exist_ok=True)
            folders |= here
            if move.record is not None:
                free_chunk(move.target)
            try:
                os.replace(move.source, move.target)
            except FileNotFoundError:
                if move.record is not None:
                    yield t
        for folder in sorted(folders):
            sync_folder(Path(folder))
    except OSError as error:
        raise failed(error, move.target) from error


class KeptFrames:
    """The files that undone steps left, a folder a step, while they can be redone.

    They spare work only: what is not here is made from the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, record: Record) -> str:
        """Return where the frame of a change lies while its step is undone."""
        name = f"{record.layer}.{record.start}.{record.seq}"
        return f"{self._folder}/{record.step}/{name}"

    def sweep(self, steps: Collection[int]) -> None:
        """Remove all but the files of some steps, and whatever is no folder of ours."""
        known = {str(step) for step in steps}
        with contextlib.suppress(OSError):
            if self._folder.is_symlink():
                self._folder.unlink()
            for path in self._folder.iterdir():
                if not is_plain(str(path)) or not path.is_dir():
                    path.unlink()
                elif path.name not in known:
                    self._remove([path])

    def forget(self, steps: Iterable[int]) -> None:
        """Remove the files of steps that cannot be redone any more."""
        self._remove([path for step in steps if (path := self._folder / str(step)).exists()])

    def _remove(self, folders: list[Path]) -> None:
        gone = []
        for folder in folders:  # another name at once: steps of that number may come again
            with contextlib.suppress(OSError):
                gone.append(folder.rename(folder.with_name(f"gone-{uuid.uuid4().hex}")))
        if gone:  # a file may take milliseconds
            threading.Thread(target=_delete, args=(gone,), daemon=True).start()


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def is_file(path: str) -> bool:
    """Tell whether a regular file, no link, lies at a path."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
