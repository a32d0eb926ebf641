"""The steps of a project in memory and in the journal, and what is kept of them where."""

from __future__ import annotations

import getpass
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flowrvs.errors import StorageError
from flowrvs.store._entry import Entry
from flowrvs.store._journal import Journal, Mark, Record, StepRow

__all__ = ["Host", "Labels", "StepLog"]

Labels = npt.NDArray[np.uint16]

_MAX_STEPS = 20_000
_CACHED_BYTES = 16 * 2**20


class Host(Protocol):
    """What the history needs of its project."""

    def check_turn(self) -> None:
        """Raise a `ProjectError` where the project cannot be changed."""

    def settle_strokes(self) -> None:
        """Hand every change that is still being made to the history."""

    def turn_record(self, record: Record, back: bool, entry: Entry) -> None:
        """Undo or redo one change."""

    def turn_catalog(self, entry: Entry, back: bool, *, additions: bool) -> None:
        """Undo or redo what was done to names: additions before pixels, removals after."""

    def describe(self, object_ids: frozenset[int]) -> str:
        """Name some objects."""

    def steps_changed(self) -> None:
        """Tell that the steps are others now; called without locks."""


class StepLog:
    """The part of `History` that keeps steps: the newest in memory, all in the journal."""

    def __init__(self, host: Host, journal: Journal) -> None:
        self._host = host
        self._journal = journal
        self._lock = threading.RLock()  # the innermost lock of all
        self._turning = threading.Lock()
        self._commit_lock = threading.Lock()
        self._local = threading.local()
        self._known: dict[int, Entry] = {}  # every step that can be undone or redone
        self._open: dict[int, Entry] = {}
        self._done: deque[Entry] = deque()
        self._undone: list[Entry] = []
        self._queue: list[Record] = []
        self._committing: list[Record] = []
        self._changed: dict[int, Entry] = {}
        self._dropped: list[int] = []
        self._forgotten: list[int] = []
        self._kept: deque[Entry] = deque()
        self._kept_bytes = 0
        self._bytes = 0
        self.limit_bytes = 256 * 2**20
        self.author = _login()
        rows, self._flushed, self._seq = journal.load()
        self._damages = journal.damages
        self._saved_flushed = self._flushed
        self._next_step = max(journal.last_step(), max((row.id for row in rows), default=0)) + 1
        self._place = max((row.place for row in rows), default=0)
        self._load(rows)

    # -- taking changes in ----------------------------------------------------------------

    def push(
        self,
        entry: Entry,
        layer: int,
        span: tuple[int, int],
        role: str,
        marks: tuple[Mark, ...],
        content: bytes | tuple[Labels, Labels, int],
    ) -> Record:
        """Take one change of a step; the layer's lock is held."""
        data, frames = (content, None) if isinstance(content, bytes) else (None, content)
        with self._lock:
            self._seq += 1
            record = Record(self._seq, entry.id, layer, *span, role, marks, data, frames)
            if (entry.too_big or entry.state == "forgotten") and role[:4] != "back":
                return record
            self._queue.append(record)
            if role[:4] != "back":
                entry.add(record)
                self._changed[entry.id] = entry
            return record

    def successor(
        self, layer: int, t: int, object_id: int, seq: int, *, any_before: bool = False
    ) -> Record | None:
        """Return the change of an object on a frame that came right after change `seq`.

        With `any_before` it is the first one that is in force, whatever it says of `seq`.
        """
        with self._lock:
            fresh = {
                record.seq: record
                for record in [*self._committing, *self._queue]
                if record.layer == layer and record.start == t and record.role == "pixels"
            }
        found = dict(self._journal.of_frame(layer, t, seq))
        found.update({one: record.step for one, record in fresh.items() if one > seq})
        for one, step in sorted(found.items()):
            with self._lock:
                entry = self._known.get(step)
                if entry is None or entry.state not in ("open", "done"):
                    continue
                kept = entry.records
                record = fresh.get(one) or next((r for r in kept or () if r.seq == one), None)
            if record is None:
                record = next(self._journal.by_seq([one]), None)
            if record is not None and any(
                mark.object_id == object_id and (any_before or mark.before == seq)
                for mark in record.marks
            ):
                return record
        return None

    def range_after(self, layer: int, t: int, object_id: int, seq: int) -> Entry | None:
        """Return the first step that changed the provenance of an object there after `seq`."""
        with self._lock:
            found = {
                record.seq: record
                for record in [*self._committing, *self._queue]
                if record.role == "range" and record.seq > seq
            }
        for record in self._journal.ranges(layer, t, seq):
            found.setdefault(record.seq, record)
        for _, record in sorted(found.items()):
            inside = record.layer == layer and record.start <= t < record.stop
            if inside and record.marks[0].object_id == object_id:
                old, new = record.unpack_range()[:, t - record.start]
                with self._lock:
                    entry = self._known.get(record.step)
                if old != new and entry is not None and entry.state in ("open", "done"):
                    return entry
        return None

    def move(self, record: Record, heir: Entry) -> None:
        """Make a change a part of another step, which was made later."""
        moved = replace(record, step=heir.id, data=record.pack(), frames=None, counted=0)
        with self._lock:
            owner = self._known.get(record.step)
            if owner is not None:
                owner.bytes -= record.counted
                self._bytes -= record.counted
                if owner.records is not None:
                    nothing = replace(moved, step=owner.id, role="nothing", marks=(), data=b"")
                    for i, one in enumerate(owner.records):
                        if one.seq == record.seq:
                            owner.records[i] = nothing
            self._queue = [one for one in self._queue if one.seq != record.seq]
            self._queue.append(moved)
            heir.first_seq = min(heir.first_seq, record.seq)
            for mark in record.marks:
                heir.touch(record.layer, mark.object_id, record.start, record.stop)
            if heir.records is not None:
                heir.records = sorted([*heir.records, moved], key=lambda one: one.seq)
            self._changed[heir.id] = heir

    def rewrite(self, records: list[Record]) -> None:
        """Put changes in the place of those with the same numbers, all of them at once."""
        with self._lock:
            for record in records:
                entry = self._known.get(record.step)
                if entry is None:
                    continue
                if entry.records is not None:
                    for i, old in enumerate(entry.records):
                        if old.seq == record.seq:
                            entry.records[i] = record
                self._queue.append(record)

    # -- the disk ------------------------------------------------------------------------

    @property
    def seq(self) -> int:
        """Number of the last change."""
        return self._seq

    def commit(self) -> int:
        """Write what is new, durably; return the number up to which all is written.

        Raises
        ------
        StorageError
            It stays in memory and is written at the next call.
        """
        with self._commit_lock:
            for _ in range(2):
                if self._journal.damages != self._damages:
                    self._begin_anew()
                try:
                    return self._commit()
                except StorageError:
                    if self._journal.damages == self._damages:
                        raise
            return self._commit()

    def _commit(self) -> int:
        with self._lock:
            self._committing, self._queue = self._queue, []
            changed, self._changed = self._changed, {}
            dropped, self._dropped = self._dropped, []
            forgotten, self._forgotten = self._forgotten, []
            seq, flushed = self._seq, self._flushed
            entries = list(changed.values())
            closing = _closing(entries)
            content = self._content(self._committing, entries, dropped, forgotten)
        if not (self._committing or changed or dropped or forgotten):
            return seq
        records = content["records"]
        try:
            self._journal.commit(**content)
        except BaseException:
            with self._lock:
                self._queue = self._committing + self._queue
                self._committing = []
                self._changed = {**changed, **self._changed}
                self._dropped = dropped + self._dropped
                self._forgotten = forgotten + self._forgotten
            raise
        with self._lock:
            self._committing = []
            self._saved_flushed = flushed
            for one in closing:
                one.logged = True
            for record in records:
                owner = self._known.get(record.step)
                if owner is None or owner.state in ("forgotten", "dropped"):
                    continue
                if record.role[:4] != "back":
                    size = len(record.data or b"") + 64 - record.counted
                    record.counted += size
                    owner.bytes += size
                    self._bytes += size
                    if owner.kept:
                        owner.kept += size
                        self._kept_bytes += size
            self._trim()
        return seq

    def _content(
        self, queue: list[Record], entries: list[Entry], dropped: list[int], forgotten: list[int]
    ) -> dict[str, Any]:
        """Return what `Journal.commit` takes."""
        gone = {*dropped, *forgotten}
        return {
            "steps": [one.row() for one in entries if one.state != "forgotten"],
            "records": [r for r in queue if r.step not in gone or r.role[:4] == "back"],
            "changes": [(o, a, b, one.id) for one in _closing(entries) for o, a, b in one.spans()],
            "dropped": dropped,
            "forgotten": forgotten,
            "flushed": self._flushed,
        }

    def flushed(self, seq: int) -> None:
        """Note that the pixels of all changes up to `seq` are safe."""
        with self._lock:
            self._flushed = max(self._flushed, seq)

    def damaged(self, text: str | None = None) -> None:
        """Note, for `History.notice`, what could not be read."""
        self._journal.damaged(text)

    def let_go(self) -> None:
        """Close the journal as it is."""
        self._journal.close()

    def settle(self) -> None:
        """Make the journal's file complete."""
        self._journal.settle()

    def copy(self, project: Path) -> Callable[[], None]:
        """Copy the journal to another project; the result adds what is in memory only."""
        with self._commit_lock:
            self._journal.copy(project)
            with self._lock:
                content = self._content(
                    *(list(self._queue), list(self._changed.values())),
                    *(list(self._dropped), list(self._forgotten)),
                )

        def add() -> None:
            if not any(content[name] for name in ("steps", "records", "dropped", "forgotten")):
                return
            journal = Journal(project, writable=True)
            try:
                journal.commit(**content)
            finally:
                journal.close()

        return add

    def unsaved(self) -> list[Entry]:
        """Return the steps that were made, undone or redone shortly before a kill, in order."""
        late = self._journal.steps_after(self._flushed)
        known = [*self._done, *self._undone]
        first = min((one.place for one in known if one.id in late), default=None)
        if first is None:
            return []
        return sorted((one for one in known if one.place >= first), key=lambda one: one.place)

    def unflushed(self) -> Iterator[Record]:
        """Yield the changes whose pixels may not have been written when the process ended."""
        if self._seq > self._flushed:
            yield from self._journal.after(self._flushed)

    def in_force(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (object, frame, number) of the changes of frames that are not undone."""
        try:
            for seq, step, t, marks in self._journal.marks_of(start, stop):
                entry = self._known.get(step)
                if entry is not None and entry.state in ("open", "done"):
                    yield from ((mark.object_id, t, seq) for mark in marks)
        except StorageError:  # painting goes on without
            return

    # -- inside --------------------------------------------------------------------------

    def _load(self, rows: list[StepRow]) -> None:
        sizes = self._journal.sizes() if rows else {}
        # A step has its place when it ends: those that a kill left open are the latest.
        rows = sorted(rows, key=lambda row: (row.state == "open", row.place, row.first_seq))
        for row in rows:
            entry = Entry.read(row, sizes.get(row.id, 0))
            if entry.state == "open":  # its process was killed
                if not entry.name:
                    entry.name = self._name(entry)
                self._place += 1
                entry.place, entry.state, entry.logged = self._place, "done", False
                self._changed[entry.id] = entry
            (self._done if entry.state == "done" else self._undone).append(entry)
            self._known[entry.id] = entry
            self._bytes += entry.bytes

    def _name(self, entry: Entry) -> str:
        start, stop = entry.span
        name = entry.tool
        if entry.touched:
            name += f" on {self._host.describe(frozenset(entry.touched))}"
        if stop - start == 1:
            return f"{name}, frame {start}"
        return f"{name}, frames {start}-{stop - 1}" if stop else name

    def _forget(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.state, entry.records = "forgotten", None
            self._bytes -= entry.bytes
            self._unkeep(entry)
            self._known.pop(entry.id, None)
            self._changed.pop(entry.id, None)
            self._forgotten.append(entry.id)

    def _begin_anew(self) -> None:
        """Fill a new journal with what is in memory: the old one turned out to be damaged."""
        with self._lock:
            self._damages = self._journal.damages
            queued = {record.seq for record in self._queue}
            again: list[Record] = []
            for entry in [*self._done, *self._undone, *self._open.values()]:
                self._bytes -= entry.bytes
                entry.bytes, entry.logged = 0, False
                for record in entry.records or ():
                    record.counted = 0
                if entry.records is not None:
                    again += [one for one in entry.records if one.seq not in queued]
                    self._changed[entry.id] = entry
                elif entry.state == "open":
                    entry.too_big = True
                else:
                    entry.state = "dropped"
            self._queue = again + self._queue
            self._done = deque(one for one in self._done if one.state == "done")
            self._undone = [one for one in self._undone if one.state == "undone"]
            self._known = {
                one.id: one for one in [*self._done, *self._undone, *self._open.values()]
            }

    def _keep(self, entry: Entry) -> None:
        """Keep the changes of the newest steps in memory: undo does not wait for the disk."""
        if entry.records is not None:
            entry.kept = entry.bytes + 300 * (1 + len(entry.records))
            self._kept.append(entry)
            self._kept_bytes += entry.kept
        while self._kept and (self._kept_bytes > _CACHED_BYTES or not self._kept[0].kept):
            oldest = self._kept.popleft()
            self._unkeep(oldest)
            oldest.records = None

    def _unkeep(self, entry: Entry) -> None:
        self._kept_bytes -= entry.kept
        entry.kept = 0

    def _trim(self) -> None:
        """Drop the oldest steps over the limit."""
        while self._done and (self._bytes > self.limit_bytes or len(self._done) > _MAX_STEPS):
            self._drop(self._done.popleft())
        for entry in self._open.values():
            if self._bytes > self.limit_bytes and entry.bytes > self.limit_bytes // 2:
                entry.too_big = True
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._known.pop(entry.id, None)
        self._unkeep(entry)
        entry.records = None
        self._bytes -= entry.bytes
        entry.bytes = 0
        if entry.state != "open":
            entry.state = "dropped"
        self._changed[entry.id] = entry  # who touched what is kept
        self._dropped.append(entry.id)


def _closing(entries: list[Entry]) -> list[Entry]:
    """Return the steps that ended since the last time."""
    return [one for one in entries if not one.logged and one.state not in ("open", "forgotten")]


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "a person"
