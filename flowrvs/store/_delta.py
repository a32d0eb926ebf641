"""What changed between two states of a frame, as compressed runs of pixels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DamagedError", "Labels", "Runs", "decode", "encode"]

Labels = npt.NDArray[np.uint16]


class DamagedError(ValueError):
    """The bytes of a change do not say what it was."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of pixels of a frame in row-major order that changed from one value to another.

    Attributes
    ----------
    starts, lengths : ndarray of uint32, shape (n,)
        Where each run begins in the flat frame, and how many pixels it has.
    old, new : ndarray of uint16, shape (n,)
        Their value before and after.
    """

    starts: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint32]
    old: Labels
    new: Labels

    def rows(self, width: int) -> tuple[int, int]:
        """Return the first row and one past the last row that they lie in."""
        if not len(self.starts):
            return 0, 0
        last = int((self.starts.astype(np.int64) + self.lengths - 1).max())
        return int(self.starts.min()) // width, last // width + 1

    def split(self, values: frozenset[int]) -> tuple[Runs, Runs]:
        """Return the runs that have nothing to do with some values, and those that have."""
        some = np.fromiter(values, np.uint16)
        hit = np.isin(self.old, some) | np.isin(self.new, some)
        return self._take(~hit), self._take(hit)

    def _take(self, which: npt.NDArray[np.bool_]) -> Runs:
        return Runs(self.starts[which], self.lengths[which], self.old[which], self.new[which])

    def joined(self, other: Runs) -> Runs:
        """Return these runs and other ones."""
        return Runs(
            np.concatenate((self.starts, other.starts)),
            np.concatenate((self.lengths, other.lengths)),
            np.concatenate((self.old, other.old)),
            np.concatenate((self.new, other.new)),
        )

    def places(self) -> npt.NDArray[np.int64]:
        """Return the pixels in the flat frame."""
        if not len(self.starts):
            return np.zeros(0, np.int64)
        ends = np.cumsum(self.lengths, dtype=np.int64)
        places: npt.NDArray[np.int64]
        places = np.arange(ends[-1]) + np.repeat(self.starts - (ends - self.lengths), self.lengths)
        return places

    def put(self, frame: Labels, values: Labels) -> None:
        """Give the pixels of each run one value, whatever they have."""
        frame.reshape(-1)[self.places()] = np.repeat(values, self.lengths)

    def pack(self) -> bytes:
        """Return what `decode` reads."""
        if not len(self.starts):
            return b""
        # Distances are small where starts are not, and compress better.
        starts = self.starts.astype("<u4")
        steps = np.diff(starts, prepend=starts.dtype.type(0))
        parts = (
            *(steps, self.lengths.astype("<u4")),
            *(self.old.astype("<u2"), self.new.astype("<u2")),
        )
        return zlib.compress(b"R" + b"".join(part.tobytes() for part in parts), 1)

    def apply(
        self, frame: Labels, *, back: bool = False, strict: bool = True, spare: frozenset[int]
    ) -> bool:
        """Give the pixels their value after, or `back` the one before; True if any changed.

        Parameters
        ----------
        frame : ndarray of uint16
            Changed in place; C-contiguous.
        back : bool
            Undo instead of redo.
        strict : bool
            Only pixels that still have the other value: what came later stays.
        spare : frozenset of int
            Runs that come from or go to these values are left alone.
        """
        runs = self.split(spare)[0] if spare else self
        if not len(runs.starts):
            return False
        places = runs.places()
        source, target = (runs.new, runs.old) if back else (runs.old, runs.new)
        values = np.repeat(target, runs.lengths)
        flat = frame.reshape(-1)
        if strict:
            free = flat[places] == np.repeat(source, runs.lengths)
            places, values = places[free], values[free]
        flat[places] = values
        return bool(len(places))


def encode(before: Labels, after: Labels, top: int = 0) -> bytes:
    """Return the difference of two frames of one shape; empty where there is none.

    `top` is the first row, where only some rows of the frames are given.
    """
    changed = before != after
    rows = np.flatnonzero(changed.any(axis=1))
    if not len(rows):
        return b""
    first, stop, width = int(rows[0]), int(rows[-1]) + 1, before.shape[1]
    places = np.flatnonzero(changed[first:stop])
    old = before[first:stop].reshape(-1)[places]
    new = after[first:stop].reshape(-1)[places]
    cut = (np.diff(places) != 1) | (np.diff(old) != 0) | (np.diff(new) != 0)
    heads = np.concatenate(([0], np.flatnonzero(cut) + 1))
    starts = (places[heads] + (top + first) * width).astype("<u4")
    lengths = np.diff(np.append(heads, len(places))).astype("<u4")
    if 12 * len(heads) > 4 * (stop - first) * width:  # noise: whole rows are shorter
        head = np.array([top + first, top + stop, width], "<u4").tobytes()
        rows_of = [
            np.ascontiguousarray(one[first:stop], "<u2").tobytes() for one in (before, after)
        ]
        return zlib.compress(b"D" + head + b"".join(rows_of), 1)
    return Runs(starts, lengths, old[heads], new[heads]).pack()


def decode(data: bytes) -> Runs:
    """Return what `encode` wrote.

    Raises
    ------
    DamagedError
        The bytes are damaged.
    """
    if not data:
        none = np.zeros(0, np.uint32)
        return Runs(none, none, none.astype(np.uint16), none.astype(np.uint16))
    try:
        raw = zlib.decompress(data)
    except zlib.error as error:
        raise DamagedError("a damaged difference of frames") from error
    if raw[:1] == b"D":
        first, stop, width = (int(n) for n in np.frombuffer(raw, "<u4", 3, offset=1))
        old, new = np.frombuffer(raw, "<u2", offset=13).reshape(2, (stop - first) * width)
        places = np.flatnonzero(old != new)
        starts = (places + first * width).astype(np.uint32)
        return Runs(starts, np.ones(len(places), np.uint32), old[places], new[places])
    count, rest = divmod(len(raw) - 1, 12)
    if rest or raw[:1] != b"R":
        raise DamagedError("a damaged difference of frames")
    steps, lengths = np.frombuffer(raw, "<u4", 2 * count, offset=1).reshape(2, count)
    old, new = np.frombuffer(raw, "<u2", 2 * count, offset=1 + 8 * count).reshape(2, count)
    return Runs(np.cumsum(steps, dtype=np.uint32), lengths, old, new)
