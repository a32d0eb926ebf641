"""What a change is: pixels as compressed runs, the record of a change, and the step around it."""

from __future__ import annotations

import json
import threading
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from flowrvs.disk import is_flat, parse_json

__all__ = [
    "ChangeRow",
    "Content",
    "DamagedError",
    "Entry",
    "Heirs",
    "Kind",
    "Labels",
    "Mark",
    "Pixels",
    "Record",
    "Role",
    "Spans",
    "Step",
    "decode",
    "encode",
    "frames_text",
    "runs",
    "unpack",
    "utc_now",
    "utf8",
]

Kind = Literal["human", "model"]
Labels = npt.NDArray[np.uint16]
# What a change of a frame is: its data, or the arguments of `encode`.
Content = bytes | tuple[Labels, Labels, int, npt.NDArray[np.bool_] | None]

_MAX_RECORDS = 64  # of one step, in memory


def utf8(text: str) -> str:
    """Return a text that can be saved: half a character becomes a question mark."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def frames_text(start: int, stop: int) -> str:
    """Name a range of frames."""
    return f"frame {start}" if stop - start == 1 else f"frames {start}-{stop - 1}"


def utc_now() -> str:
    """Return the time in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class DamagedError(ValueError):
    """The bytes of a change do not say what it was."""


# -- pixels ----------------------------------------------------------------------------


class Pixels(NamedTuple):
    """Pixels of a frame that changed: places in the flat frame, values before and after."""

    places: npt.NDArray[np.int64]
    old: Labels
    new: Labels

    def pack(self) -> bytes:
        """Return what `decode` reads: runs of neighbours that changed alike, compressed."""
        places, old, new = self
        if not len(places):
            return b""
        cut = (np.diff(places) != 1) | (np.diff(old) != 0) | (np.diff(new) != 0)
        heads = np.concatenate(([0], np.flatnonzero(cut) + 1))
        starts = places[heads].astype("<u4")
        # Distances are small where starts are not, and compress better.
        steps = np.diff(starts, prepend=starts.dtype.type(0))
        lengths = np.diff(np.append(heads, len(places))).astype("<u4")
        parts = (steps, lengths, old[heads].astype("<u2"), new[heads].astype("<u2"))
        return zlib.compress(b"R" + b"".join(part.tobytes() for part in parts), 1)


def encode(
    before: Labels, after: Labels, top: int = 0, also: npt.NDArray[np.bool_] | None = None
) -> bytes:
    """Return the difference of two frames, or of their rows from `top` on; empty without one.

    Pixels of `also` were drawn, too, though they had the value already.
    """
    changed = before != after
    if also is not None:
        changed |= also
    places = np.flatnonzero(changed)
    pixels = Pixels(places, before.reshape(-1)[places], after.reshape(-1)[places])
    return pixels._replace(places=places + top * before.shape[1]).pack()


def decode(data: bytes, size: int) -> Pixels:
    """Return what `encode` wrote of a frame of `size` pixels, or raise a `DamagedError`."""
    if not data:
        return Pixels(np.zeros(0, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.uint16))
    raw = unpack(data, 12 * size + 13)
    if raw[:1] == b"D" and len(raw) >= 13:  # whole rows, as version 0.1 wrote noise
        first, stop, width = (int(n) for n in np.frombuffer(raw, "<u4", 3, offset=1))
        count = (stop - first) * width
        if stop * width > size or len(raw) != 13 + 4 * count:
            raise DamagedError("a damaged difference of frames")
        old, new = np.frombuffer(raw, "<u2", offset=13).reshape(2, count)
        places = np.flatnonzero(old != new)
        return Pixels(places + first * width, old[places], new[places])
    starts, long, old, new = runs(raw, size)
    until = np.cumsum(long)
    places = np.arange(until[-1]) + np.repeat(starts - (until - long), long)
    return Pixels(places, np.repeat(old, long), np.repeat(new, long))


def runs(raw: bytes, size: int) -> tuple[npt.NDArray[Any], ...]:
    """Return starts, lengths, old and new values of the runs in what `unpack` returned."""
    count, rest = divmod(len(raw) - 1, 12)
    if rest or raw[:1] != b"R" or not count:
        raise DamagedError("a damaged difference of frames")
    steps, lengths = np.frombuffer(raw, "<u4", 2 * count, offset=1).reshape(2, count)
    old, new = np.frombuffer(raw, "<u2", 2 * count, offset=1 + 8 * count).reshape(2, count)
    starts, long = np.cumsum(steps, dtype=np.int64), lengths.astype(np.int64)
    ends = starts + long
    if (long < 1).any() or (starts[1:] < ends[:-1]).any() or ends[-1] > size:
        raise DamagedError("a damaged difference of frames")
    return starts, long, old, new


def unpack(data: bytes, limit: int) -> bytes:
    """Return what was compressed, unless it is more than `limit` bytes."""
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(data, limit)
    except zlib.error as error:
        raise DamagedError("a damaged change") from error
    if not unpacker.eof or unpacker.unused_data:
        raise DamagedError("a change that is too long, or cut off")
    return raw


# -- changes ---------------------------------------------------------------------------


class Role(StrEnum):
    """What a record tells: a change of a step, or what undo and redo wrote."""

    PIXELS = "pixels"  # of one frame, and the provenance of its objects
    RANGE = "range"  # the provenance of one object on some frames
    # What undo or redo wrote, kept only until it is safe on the disk.
    BACK = "back"
    BACK_RANGE = "back-range"

    @property
    def of_step(self) -> bool:
        """True for what can be undone."""
        return self in (Role.PIXELS, Role.RANGE)

    @property
    def is_range(self) -> bool:
        """True for provenance alone."""
        return self in (Role.RANGE, Role.BACK_RANGE)


@dataclass(frozen=True, slots=True)
class Mark:
    """The provenance of one object on one frame, before and after a change."""

    object_id: int
    old: int
    new: int


@dataclass(slots=True)
class Record:
    """One change of a frame, or of the provenance of an object on a range."""

    seq: int  # changes of one frame happened in the order of their numbers
    step: int  # the undoable step that it belongs to
    layer: int
    start: int  # the frames; a change of pixels has one
    stop: int
    role: Role
    marks: tuple[Mark, ...]  # the objects that it touched
    #: The difference of the two frames, or the old and new provenance of the range.
    data: bytes | None = None
    #: Until `pack` was called: arguments of `encode`.
    frames: tuple[Labels, Labels, int, npt.NDArray[np.bool_] | None] | None = None
    counted: int = 0  # how many bytes its step counts for it
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def pack(self) -> bytes:
        """Return `data`, made from the frames the first time."""
        with self._lock:
            if self.data is None:
                assert self.frames is not None
                self.data = encode(*self.frames)
                self.frames = None
            return self.data

    def with_data(self, data: bytes | None = None, marks: tuple[Mark, ...] | None = None) -> Record:
        """Return the same change with another content."""
        data = self.pack() if data is None else data
        marks = self.marks if marks is None else marks
        where = (self.seq, self.step, self.layer, self.start, self.stop, self.role)
        return Record(*where, marks, data, counted=self.counted)

    @staticmethod
    def pack_range(old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8]) -> bytes:
        """Return `data` of a change of provenance."""
        return zlib.compress(old.tobytes() + new.tobytes(), 1)

    def unpack_range(self) -> npt.NDArray[np.uint8]:
        """Return old and new provenance of the range, shape (2, n), or raise a `DamagedError`."""
        count = 2 * (self.stop - self.start)
        values = np.frombuffer(unpack(self.pack(), count), np.uint8)
        if len(values) != count or (values > 3).any():
            raise DamagedError("a damaged range of provenance")
        return values.reshape(2, -1)


class Heirs:
    """Later changes in force, in their order, which take over what a change below them leaves.

    `back` says that this one goes out of force; a frame has `size` pixels.
    """

    def __init__(self, later: list[Record], back: bool, size: int) -> None:
        self._later = {record.seq: record for record in later}
        self._changed: set[int] = set()
        self._back = back
        self._size = size

    def __bool__(self) -> bool:
        return bool(self._later)

    def left(self, pixels: Pixels) -> Pixels:
        """Hand pixels on to the first change that drew them again; return the others."""
        places, old, new = pixels
        for heir in list(self._later.values()):
            if heir.role.is_range or not len(places):
                continue
            try:
                own = decode(heir.pack(), self._size)
            except DamagedError:
                continue
            shared, mine, theirs = np.intersect1d(
                places, own.places, assume_unique=True, return_indices=True
            )
            if not len(shared):
                continue
            inherited = own.old.copy()
            inherited[theirs] = (old if self._back else new)[mine]
            self._set(heir.with_data(own._replace(old=inherited).pack()))
            kept = np.ones(len(places), np.bool_)
            kept[mine] = False
            places, old, new = places[kept], old[kept], new[kept]
        return Pixels(places, old, new)

    def inherit(self, object_id: int, t: int, value: int) -> bool:
        """Hand a provenance on to the first change that set it again; False without one."""
        for heir in self._later.values():
            if heir.role.is_range:
                i = t - heir.start
                if heir.marks[0].object_id == object_id and 0 <= i < heir.stop - heir.start:
                    before, after = heir.unpack_range().copy()
                    if before[i] != after[i]:
                        before[i] = value
                        self._set(heir.with_data(Record.pack_range(before, after)))
                        return True
            elif heir.start == t and any(mark.object_id == object_id for mark in heir.marks):
                marks = tuple(
                    Mark(object_id, value, mark.new) if mark.object_id == object_id else mark
                    for mark in heir.marks
                )
                self._set(heir.with_data(marks=marks))
                return True
        return False

    def _set(self, record: Record) -> None:
        self._later[record.seq] = record
        self._changed.add(record.seq)

    def rewritten(self) -> list[Record]:
        """Return the changes that are others now."""
        return [self._later[seq] for seq in sorted(self._changed)]


# -- what others get to know -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """What one undo takes back.

    Attributes
    ----------
    id : int
        Unique in the project, growing.
    name : str
        In the user's words: ``"brush stroke on 'the red circle', frame 12"``.
    kind : str
        ``"human"`` or ``"model"``.
    who, when : str
        Who did it, and when (ISO 8601, UTC).
    start, stop : int
        First frame that it touched and one past the last; both 0 for a change of names only.
    layer_ids, object_ids : frozenset of int
        What it touched.
    frames : int
        Number of frames that it touched: undoing takes a few milliseconds each.
    state : str
        ``"open"`` while it is being made, ``"done"`` or ``"undone"``.
    """

    id: int
    name: str
    kind: Kind
    who: str
    when: str
    start: int
    stop: int
    layer_ids: frozenset[int]
    object_ids: frozenset[int]
    frames: int
    state: str


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """Who touched an object on a frame.

    Attributes
    ----------
    when : str
        ISO 8601, UTC.
    who : str
        A person's or a model's name.
    kind : str
        ``"human"`` or ``"model"``.
    name : str
        The step's name.
    """

    when: str
    who: str
    kind: str
    name: str


# -- a step while it is made and kept --------------------------------------------------


class Spans:
    """Frames as sorted ``[first, one past the last]`` runs: a long run stays short."""

    __slots__ = ("runs",)

    def __init__(self, runs: list[list[int]] | None = None) -> None:
        self.runs = [] if runs is None else runs

    @classmethod
    def of(cls, frames: Iterable[int]) -> Spans:
        """Return the runs of some frames."""
        spans = cls()
        for t in frames:
            spans.add(int(t), int(t) + 1)
        return spans

    def add(self, start: int, stop: int) -> None:
        """Take in ``start <= t < stop``."""
        runs = self.runs
        if runs and runs[-1][0] <= start <= runs[-1][1]:  # a model writes in order
            runs[-1][1] = max(runs[-1][1], stop)
            return
        first = bisect_left(runs, start, key=lambda run: run[1])
        last = bisect_right(runs, stop, key=lambda run: run[0])
        if first < last:
            start, stop = min(start, runs[first][0]), max(stop, runs[last - 1][1])
        runs[first:last] = [[start, stop]]

    def remove(self, start: int, stop: int) -> None:
        """Leave out ``start <= t < stop``."""
        kept = []
        for a, b in self.runs:
            if a < start:
                kept.append([a, min(b, start)])
            if b > stop:
                kept.append([max(a, stop), b])
        self.runs = [run for run in kept if run[0] < run[1]]

    def __contains__(self, t: int) -> bool:
        place = bisect_right(self.runs, t, key=lambda run: run[0])
        return place > 0 and t < self.runs[place - 1][1]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.runs)


@dataclass(slots=True, eq=False)
class Entry:
    """The changeable side of a `Step`, with the same `id`, `kind`, `who` and `time`.

    Other states are ``"undoing"`` and ``"redoing"``, ``"dropped"`` (too old to be undone) and
    ``"forgotten"``.
    """

    id: int
    name: str | None  # None until the end where it is made of what was touched
    kind: Kind
    who: str
    time: str
    place: int  # in the order in which steps are undone, or redone
    state: str = "open"
    tool: str = "edit"  # how such a name begins
    moment: int = 0  # when it ended or turned last: a document that was saved after knows it
    first_seq: int = 0
    last_seq: int = 0
    layers: set[int] = field(default_factory=set)
    touched: dict[int, Spans] = field(default_factory=dict)  # frames of every object
    #: ``{section: {key: [before, after]}}`` of the document.
    catalog: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    #: While there are few; None once they are read from the journal only.
    records: list[Record] | None = field(default_factory=list)
    bytes: int = 0  # that its changes take in the journal
    logged: bool = False  # whether the journal knows who touched what
    too_big: bool = False  # it alone takes most of the room, and cannot be undone
    whole: bool = False  # half of it would be wrong: where a kill came, all of it is taken back
    half: bool = False  # that is being done
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def in_force(self) -> bool:
        """True if its changes are part of what is seen."""
        return self.state not in ("undone", "dropped", "forgotten")

    @property
    def placed(self) -> frozenset[int]:
        """Objects that it makes, removes, or takes to another layer."""

        def layer(row: Any) -> Any:
            return row.get("layer") if isinstance(row, dict) else None

        rows = [row for row in list(self.catalog.get("objects", {}).items()) if row[0].isdecimal()]
        return frozenset(int(key) for key, pair in rows if layer(pair[0]) != layer(pair[1]))

    @property
    def empty(self) -> bool:
        """True if nothing was touched."""
        return not (self.touched or self.layers or self.catalog)

    @property
    def span(self) -> tuple[int, int]:
        """First frame and one past the last; (0, 0) without frames."""
        with self.lock:
            runs = [spans.runs for spans in self.touched.values() if spans.runs]
        if not runs:
            return 0, 0
        return min(r[0][0] for r in runs), max(r[-1][1] for r in runs)

    @property
    def count(self) -> int:
        """Number of frames, those of the object that has most of them."""
        with self.lock:
            return max((len(spans) for spans in self.touched.values()), default=0)

    def touch(self, layer: int, object_id: int, start: int, stop: int) -> None:
        """Note that an object was touched on some frames."""
        with self.lock:
            self.layers.add(layer)
            spans = self.touched.get(object_id)
            if spans is None:
                spans = self.touched[object_id] = Spans()
            spans.add(start, stop)

    def note(self, section: str, key: str, before: Any, after: Any) -> None:
        """Note a change of the document."""
        with self.lock:
            rows = self.catalog.setdefault(section, {})
            if key in rows:
                rows[key][1] = after
            else:
                rows[key] = [before, after]

    def add(self, record: Record) -> None:
        """Take in a change."""
        self.first_seq = self.first_seq or record.seq
        self.last_seq = record.seq
        if self.records is not None:
            self.records.append(record)
            if len(self.records) > _MAX_RECORDS:
                self.records = None

    def step(self) -> Step:
        """Return what others get to know."""
        start, stop = self.span
        return Step(
            *(self.id, self.name or self.tool, self.kind, self.who, self.time, start, stop),
            layer_ids=frozenset(self.layers),
            object_ids=frozenset(self.touched),
            frames=self.count,
            state=self.state,
        )

    def row(self) -> tuple[Any, ...]:
        """Return what the journal keeps."""
        with self.lock:
            objects = {str(i): spans.runs for i, spans in self.touched.items()}
            frames = {"tool": self.tool, "moment": self.moment, "layers": sorted(self.layers)}
            frames["objects"], state = objects, self.state
            if state == "forgotten":  # until the document is saved
                frames["gone"], state = True, "undone"
            if self.whole:
                frames["whole"] = True
            if self.half and state == "undoing":  # killed again, the next session does the same
                state = "open"
            return (
                *(self.id, self.name or "", self.kind, self.who, self.time, state),
                *(self.place, self.first_seq, self.last_seq),
                *(json.dumps(frames), json.dumps(self.catalog)),
            )

    @classmethod
    def read(cls, row: tuple[Any, ...], size: int) -> Entry:
        """Return what `row` wrote; a damaged one raises whatever Python finds."""
        number, name, kind, who, time, state, place, first, last, frames, catalog = row
        frames, catalog = parse_json(frames), parse_json(catalog)
        if not is_flat(catalog):
            raise ValueError("a damaged step")
        runs = {int(i): [[int(a), int(b)] for a, b in r] for i, r in frames["objects"].items()}
        pairs = [pair for rows in catalog.values() for pair in rows.values()]
        if (
            not all(isinstance(value, int) for value in (number, place, first, last))
            or not all(isinstance(value, str) for value in (name, kind, who, time, frames["tool"]))
            or state not in ("open", "done", "undone", "undoing", "redoing")
            or any(len(pair) != 2 for pair in pairs)
        ):
            raise ValueError("a damaged step")
        state = "forgotten" if frames.get("gone") else state
        return cls(
            *(number, name or None, kind, who, time, place, state, frames["tool"]),
            moment=int(frames.get("moment", 0)),
            whole=bool(frames.get("whole")),
            first_seq=first,
            last_seq=last,
            layers={int(i) for i in frames["layers"]},
            touched={i: Spans(spans) for i, spans in runs.items()},
            catalog=catalog,
            records=None,
            bytes=size,
            logged=True,
        )
