"""Undo and redo of everything that is done to a project, also across sessions.

The rules are on one page, ``docs/undo.md``: a frame is what the changes in force make of it, in
the order in which they were made; undoing a step takes its changes out of force.
"""

from __future__ import annotations

import heapq
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flowrvs.errors import ProjectError, StorageError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store.changes import (
    ChangeRow,
    Content,
    DamagedError,
    Entry,
    Kind,
    Labels,
    Mark,
    Record,
    Role,
    Step,
    decode,
    frames_text,
    utc_now,
    utf8,
)
from flowrvs.store.journal import Batch, Journal, by_beginning
from flowrvs.store.moves import KeptFrames

if TYPE_CHECKING:
    from flowrvs.store.state import State

__all__ = ["History"]

_MAX_STEPS = 20_000
_PAUSE = 0.002  # seconds until a commit looks again whether nobody draws
_CACHED_STEPS = 256  # whose changes are in memory, too: undo does not wait for the disk


_How = tuple[CancelToken | None, ProgressCallback | None]


class History:
    """The steps of a project, to be undone and redone; they survive closing and kills.

    `limit_bytes` is what they may take on the disk, `author` the name of the person, as noted
    with every change: the login name at first.
    """

    def __init__(self, host: State, journal: Journal, author: str, moment: int) -> None:
        self._host = host
        self._journal = journal
        self._lock = threading.RLock()  # the innermost lock of all
        self._turning = threading.Lock()
        self._commit_lock = threading.Lock()
        self._local = threading.local()
        self._known: dict[int, Entry] = {}  # every step that can be undone or redone
        self._open: dict[int, Entry] = {}
        self._done: list[Entry] = []  # by place
        self._undone: list[Entry] = []  # the last one is redone first
        self._waiting, self._committing = Batch(), Batch()
        self._cached: deque[Entry] = deque()  # steps whose changes are in memory
        self._turned: Entry | None = None  # what is being undone or redone
        self._ended = False  # see `drew`
        self._rivals: list[Entry] = []  # see `later`
        self._rivals_until = 0
        self._bytes = 0
        self._leaving: list[Entry] = []  # see `_forget`
        self._named = moment  # what the saved document knows
        self.moment = moment  # of the last step that ended, was undone or redone
        self.limit_bytes = 256 * 2**20
        self.author = author
        entries, self._flushed, self._seq, last_step = journal.load()
        self._damages = journal.damages
        self._saved_flushed = self._flushed
        self._next_step, self._place = last_step + 1, 0
        self.kept = KeptFrames(journal.path.parent / "undone")
        self._load(entries)
        if journal.writable:
            self.kept.sweep(self._known)

    def _load(self, entries: list[Entry]) -> None:
        # A kill came before the changes of some.
        self._waiting.forgotten += [e.id for e in entries if not (e.bytes or e.catalog)]
        entries = [entry for entry in entries if entry.bytes or entry.catalog]
        # Version 0.1 gave a step its place when it ended: those that a kill left open had none.
        entries.sort(key=lambda entry: (entry.state == "open" and not entry.place, entry.place))
        self.moment = max([self.moment, *(entry.moment for entry in entries)])
        self._leaving = [entry for entry in entries if entry.state == "forgotten"]
        drew = False
        for entry in [entry for entry in entries if entry.state != "forgotten"]:
            self._known[entry.id] = entry
            if entry.state in ("open", "undoing", "redoing"):  # its process was killed
                entry.moment = self._next("moment")
            self._bytes += entry.bytes
            if entry.state in ("undone", "redoing"):
                self._undone.append(entry)
                continue
            if entry.state == "open":
                entry.name = entry.name or self._name(entry)
                entry.half = entry.whole
                entry.state, entry.logged = "undoing" if entry.half else "done", False
                drew |= entry.kind == "human" and not entry.half
                self._waiting.entries[entry.id] = entry
            self._done.append(entry)
        if drew and self._journal.writable:  # `end` would have said so
            self._forget([entry for entry in self._undone if entry.state == "undone"])
            self._undone = [entry for entry in self._undone if entry.state != "forgotten"]
        if self._journal.old:
            self._done = by_beginning(self._done)
            for entry in [*self._done, *self._undone]:
                entry.place = self._next("_place")
                self._waiting.entries[entry.id] = entry
        self._place = max((entry.place for entry in entries), default=0)

    def _next(self, counter: str) -> int:
        vars(self)[counter] += 1
        return int(vars(self)[counter])

    # -- what there is -------------------------------------------------------------------

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step that can be undone, oldest first, then those that can be redone."""
        with self._lock:
            return tuple(entry.step() for entry in [*self._done, *reversed(self._undone)])

    @property
    def undo_step(self) -> Step | None:
        """What `undo` would take back."""
        return self._last(self._done)

    @property
    def redo_step(self) -> Step | None:
        """What `redo` would do again."""
        return self._last(self._undone)

    def _last(self, entries: list[Entry]) -> Step | None:
        with self._lock:
            return entries[-1].step() if entries else None

    @property
    def notice(self) -> str | None:
        """One line on what could not be read; None where all is well."""
        return self._journal.notice

    def changes(self, object_id: int, t: int) -> list[ChangeRow]:
        """Return who touched an object on a frame, newest first, dropped steps included."""
        with self._lock:
            undone = {entry.id for entry in [*self._undone, *self._leaving]}
            entries = self._committing.entries | self._waiting.entries
            fresh = [e for e in entries.values() if not e.logged and e.id not in undone]
        rows = [
            ChangeRow(entry.time, entry.who, entry.kind, entry.name or entry.tool)
            for entry in sorted(fresh, key=lambda entry: -entry.id)
            if t in entry.touched.get(object_id, ())
        ]
        logged = self._journal.changes(object_id, t)
        return rows + [ChangeRow(*row) for step, *row in logged if step not in undone]

    # -- making steps --------------------------------------------------------------------

    def current(self) -> Entry | None:
        """Return the step that this thread is making."""
        stack: list[Entry] = getattr(self._local, "stack", [])
        return stack[-1] if stack else None

    def begin(
        self, name: str | None, kind: Kind, who: str | None = None, tool: str = "edit"
    ) -> Entry:
        """Open a step; its name may be made at its end."""
        with self._lock:
            who = utf8(who or (self.author if kind == "human" else "model"))
            number, place = self._next_step, self._next("_place")
            entry = Entry(number, name and utf8(name), kind, who, utc_now(), place, tool=tool)
            self._next_step += 1
            self._open[entry.id] = self._known[entry.id] = entry
            return entry

    def end(self, entry: Entry, *, keep: bool = True) -> None:
        """Close a step; one that touched nothing, or is not to be kept, is forgotten."""
        # Asks the document, whose lock comes before the history's.
        name = entry.name or self._name(entry)
        with self._lock:
            if self._open.pop(entry.id, None) is None:
                return
            if entry.empty or not keep:
                return self._forget([entry])
            entry.name, entry.moment = name, self._next("moment")
            entry.state = "dropped" if entry.too_big else "done"
            self._waiting.entries[entry.id] = entry
            if entry.too_big:
                self._waiting.dropped.append(entry.id)
            else:
                insort(self._done, entry, key=lambda entry: entry.place)
                self._cached.append(entry)
                if len(self._cached) > _CACHED_STEPS:
                    self._cached.popleft().records = None
            if entry.kind == "human":
                self._forget([other for other in self._undone if other is not self._turned])
                self._undone[:] = [other for other in self._undone if other is self._turned]
        self._host.steps_changed()

    @contextmanager
    def step(
        self,
        name: str | None,
        kind: Kind = "human",
        who: str | None = None,
        on_error: Literal["undo", "keep"] = "undo",
    ) -> Iterator[Entry]:
        """Collect what this thread changes; see `Project.edit`."""
        outer = self.current()
        if outer is not None:
            yield outer
            return
        self._local.stack = getattr(self._local, "stack", [])
        entry = self.begin(name, kind, who)
        self._local.stack.append(entry)
        try:
            yield entry
        except BaseException:
            self._local.stack.pop()
            if on_error == "undo":
                self.take_back(entry)
            else:
                self.end(entry)
            raise
        self._local.stack.pop()
        self.end(entry)

    def take_back(self, entry: Entry) -> None:
        """Undo a step that is still being made, and forget it."""
        with self._turning:
            self._host.settle_strokes()
            entry.half = entry.whole
            self._turn(entry, True, self._take_away)
        self._host.steps_changed()

    def _take_away(self, entry: Entry, _: bool) -> None:
        with self._lock:
            self._open.pop(entry.id, None)
            self._done = [other for other in self._done if other is not entry]
            entry.moment = self._next("moment")
            self._forget([entry])

    def _forget(self, entries: list[Entry]) -> None:
        self.kept.forget(entry.id for entry in entries)
        for entry in entries:
            turned, entry.state = entry.state in ("undone", "undoing"), "forgotten"
            entry.records = None
            self._bytes -= entry.bytes
            self._known.pop(entry.id, None)
            if turned and entry.catalog and entry.moment > self._named:
                # Killed now, the next session must take its names out of the document.
                self._waiting.entries[entry.id] = entry
                self._leaving.append(entry)
            else:
                self._waiting.entries.pop(entry.id, None)
                self._waiting.forgotten.append(entry.id)

    def named(self, moment: int) -> None:
        """Note that the saved document knows the names of all steps up to a moment."""
        with self._lock:
            self._named = moment
            known = [entry for entry in self._leaving if entry.moment <= moment]
            self._leaving = [entry for entry in self._leaving if entry.moment > moment]
            self._waiting.forgotten += [entry.id for entry in known]

    def _name(self, entry: Entry) -> str:
        start, stop = entry.span
        name = entry.tool
        if entry.touched:
            name += f" on {self._host.describe(frozenset(entry.touched))}"
        return f"{name}, {frames_text(start, stop)}" if stop else name

    # -- taking changes in ---------------------------------------------------------------

    def note(self, entry: Entry, section: str, key: str, before: Any, after: Any) -> None:
        """Take in what a step made of a name."""
        entry.note(section, key, before, after)
        with self._lock:
            self._waiting.entries[entry.id] = entry

    def push(
        self,
        entry: Entry,
        layer: int,
        span: tuple[int, int],
        role: Role,
        marks: tuple[Mark, ...],
        content: Content,
    ) -> Record:
        """Take one change of a step; the layer's lock is held."""
        data, frames = (content, None) if isinstance(content, bytes) else (None, content)
        with self._lock:
            self._seq += 1
            record = Record(self._seq, entry.id, layer, *span, role, marks, data, frames)
            if role.of_step and (entry.too_big or entry.state == "forgotten"):
                return record
            self._waiting.records.append(record)
            if role.of_step:
                entry.add(record)
                self._waiting.entries[entry.id] = entry
            return record

    def drew(self, entry: Entry, object_id: int) -> None:
        """End the redo of what would take an object from where a model draws it now.

        Its layer's lock is held: see `tell_ended`.
        """
        with self._lock:
            undone = enumerate(self._undone if entry.kind == "model" else [])
            end = max((i + 1 for i, other in undone if object_id in other.placed), default=0)
            self._forget(self._undone[:end])
            del self._undone[:end]
            self._ended |= end > 0

    def tell_ended(self) -> None:
        """Tell of what `drew` has ended; without locks."""
        ended, self._ended = self._ended, False
        if ended:
            self._host.steps_changed()

    def placing(self, object_ids: Collection[int]) -> bool:
        """Return whether one of some objects is being taken elsewhere by undo or redo."""
        turned = self._turned
        return turned is not None and not turned.placed.isdisjoint(object_ids)

    def later(self, record: Record) -> list[Record]:
        """Return what other steps in force changed of the same frames after `record`, in order."""
        with self._lock:
            for number in range(self._rivals_until, self._next_step):
                if number in self._known:
                    self._rivals.append(self._known[number])
            self._rivals_until = self._next_step
            rivals = {
                entry.id: entry
                for entry in self._rivals
                if entry.last_seq > record.seq and entry.id != record.step and entry.in_force
            }
        if not rivals:
            return []
        fresh = self._queued(
            lambda other: (
                other.step in rivals
                and other.role.of_step
                and other.layer == record.layer
                and other.seq > record.seq
                and other.start < record.stop
                and record.start < other.stop
            )
        )
        rows = self._journal.of_frames(record.layer, record.start, record.stop, record.seq)
        return [*self._merged(fresh, (seq for seq, step in rows if step in rivals))]

    def _queued(self, wanted: Callable[[Record], bool]) -> dict[int, Record]:
        """Return changes, by number, that may not be in the journal yet."""
        with self._lock:
            records = (*self._committing.records, *self._waiting.records)
            return {record.seq: record for record in records if wanted(record)}

    def _merged(
        self, queued: dict[int, Record], stored: Iterable[int], back: bool = False
    ) -> Iterator[Record]:
        """Yield changes in their order, those that are stored read one by one: they may be many."""
        waiting = [queued[seq] for seq in sorted(queued, reverse=back)]
        others = self._journal.by_seq(sorted({*stored} - queued.keys(), reverse=back))
        return heapq.merge(waiting, others, key=lambda record: record.seq, reverse=back)

    def rewrite(self, records: list[Record]) -> None:
        """Put changes in the place of those with the same numbers, all of them at once."""
        with self._lock:
            for record in records:
                entry = self._known.get(record.step)
                if entry is None:
                    continue
                if entry.records is not None:
                    entry.records = [
                        record if old.seq == record.seq else old for old in entry.records
                    ]
                self._waiting.records.append(record)

    # -- undo and redo -------------------------------------------------------------------

    def undo(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Step | None:
        """Take back the last step; None where there is none.

        `cancel` is looked at, and `progress` told, at every frame. Stopped by `Cancelled`,
        everything is as it was. A `ProjectError` says that this thread is making a step, or
        that the project is closed or open for reading only.
        """
        return self._turn_last(True, (cancel, progress))

    def redo(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Step | None:
        """Do again what `undo` took back last, unless a person has made a new step since."""
        return self._turn_last(False, (cancel, progress))

    def _turn_last(self, back: bool, how: _How) -> Step | None:
        self._host.check_writable()
        if self.current() is not None:
            raise ProjectError("A step is being made; finish it before undoing another one.")
        with self._turning:
            self._host.settle_strokes()
            try:
                entry = self._choose(back)
                if entry is None:
                    return None
                self._turn(entry, back, self._move, how)
            finally:
                self._turned = None
        self._host.steps_changed()
        return entry.step()

    def _choose(self, back: bool) -> Entry | None:
        """Return what is undone, or redone, next; nobody draws what it takes elsewhere now."""
        while True:
            with self._lock:
                source = self._done if back else self._undone
                if not source:
                    return None
                entry = self._turned = source[-1]
            self._host.settle()  # who saw no `placing` has drawn when this is through all layers
            if back:
                self._host.end_runs(entry.placed)
            with self._lock:
                if source[-1:] == [entry]:
                    return entry

    def finish(self) -> None:
        """Complete what was being undone, or redone, when a kill came; take halves back."""
        for entry in [*self._done, *self._undone]:
            if entry.state in ("undoing", "redoing"):
                then = self._take_away if entry.half else self._move
                self._turn(entry, entry.state == "undoing", then)

    def _move(self, entry: Entry, back: bool) -> None:
        with self._lock:
            (self._done if back else self._undone).remove(entry)
            (self._undone if back else self._done).append(entry)
            entry.place, entry.moment = self._next("_place"), self._next("moment")
            entry.state = "undone" if back else "done"
            self._waiting.entries[entry.id] = entry

    def _turn(
        self,
        entry: Entry,
        back: bool,
        then: Callable[[Entry, bool], None],
        how: _How = (None, None),
    ) -> None:
        cancel, progress = how
        with self._lock:
            self._rivals = [
                other
                for other in self._known.values()
                if other is not entry
                and (other.last_seq > entry.first_seq or other.id in self._open)
            ]
            self._rivals_until = self._next_step
            # A kill in between leaves this: the next session completes it.
            state, entry.state = entry.state, "undoing" if back else "redoing"
            self._waiting.entries[entry.id] = entry
        self._host.turn_catalog(entry, back, additions=True)
        clock = ProgressClock(entry.count)
        turned = 0
        try:
            for record in self._records(entry, back):
                if cancel is not None:
                    cancel.raise_if_cancelled()
                self._turn_one(record, back, entry)
                turned += 1
                if progress is not None:
                    progress(clock.advance("Undoing" if back else "Doing again"))
        except BaseException:
            done = [record for i, record in enumerate(self._records(entry, back)) if i < turned]
            for record in reversed(done):
                self._turn_one(record, not back, entry)
            self._host.turn_catalog(entry, not back, additions=False)
            with self._lock:  # a kill from now on must not complete what was stopped
                entry.state, entry.moment = state, self._next("moment")
                self._waiting.entries[entry.id] = entry
            raise
        # One with the removals: no document may lack what `finish` still asks for.
        self._host.turn_catalog(entry, back, additions=False, then=lambda: then(entry, back))

    def _turn_one(self, record: Record, back: bool, entry: Entry) -> None:
        try:
            self._host.turn_record(record, back, entry)
        except DamagedError:
            self._journal.damaged()  # one frame stays; the others need not

    def _records(self, entry: Entry, back: bool) -> Iterator[Record]:
        """Return the changes of a step, one by one."""
        with self._lock:
            if entry.records is not None:
                return iter(entry.records[:: -1 if back else 1])
            queued = self._queued(lambda record: record.step == entry.id and record.role.of_step)
        return self._merged(queued, self._journal.seqs(entry.id), back)

    # -- the disk ------------------------------------------------------------------------

    def commit(self) -> int:
        """Write all that was done up to now, durably, or keep it; return the last change's number.

        All of one moment, in one transaction: nothing is durable without what came before it.
        """
        while (seq := self.try_commit()) is None:
            time.sleep(_PAUSE)
        return seq

    def try_commit(self) -> int | None:
        """Do as `commit`, or nothing, and return None, where others are drawing just now.

        Who holds a lock that they may wait for calls this one.
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

    def _commit(self) -> int | None:
        with self._host.still() as still, self._lock:
            if not still:
                return None
            taken = self._committing = self._waiting
            self._waiting = Batch()
            seq, flushed = self._seq, self._flushed
            closing = taken.freeze(flushed)
        try:
            if taken:
                self._journal.commit(taken)
        except BaseException:
            with self._lock:
                self._waiting = self._waiting.after(taken)
                self._committing = Batch()
            raise
        with self._lock:
            self._committing = Batch()
            if taken:
                self._saved_flushed = flushed
            for entry in closing:
                entry.logged = True
            for record in taken.frozen:
                owner = self._known.get(record.step)
                if owner is not None and record.role.of_step:
                    size = len(record.data or b"") + 64 - record.counted
                    record.counted += size
                    owner.bytes += size
                    self._bytes += size
            self._trim()
        return seq

    def flushed(self, seq: int) -> None:
        """Note that the pixels of all changes up to `seq` are safe."""
        with self._lock:
            self._flushed = max(self._flushed, seq)

    def _trim(self) -> None:
        """Drop the oldest steps over the limit."""
        while self._done and (self._bytes > self.limit_bytes or len(self._done) > _MAX_STEPS):
            self._drop(self._done.pop(0))
        for entry in self._open.values():
            if self._bytes > self.limit_bytes and entry.bytes > self.limit_bytes // 2:
                entry.too_big = True
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._known.pop(entry.id, None)
        entry.records = None
        self._bytes -= entry.bytes
        entry.bytes = 0
        if entry.state != "open":
            entry.state = "dropped"
        self._waiting.entries[entry.id] = entry  # who touched what is kept
        self._waiting.dropped.append(entry.id)

    def _begin_anew(self) -> None:
        """Fill a new journal with what is in memory: the old one turned out to be damaged."""
        with self._lock:
            self._damages = self._journal.damages
            queued = {record.seq for record in self._waiting.records}
            again: list[Record] = []
            for entry in [*self._done, *self._undone, *self._open.values()]:
                self._bytes -= entry.bytes
                entry.bytes, entry.logged = 0, False
                if entry.records is not None:
                    for record in entry.records:
                        record.counted = 0
                    again += [record for record in entry.records if record.seq not in queued]
                    self._waiting.entries[entry.id] = entry
                elif entry.state == "open":
                    entry.too_big = True
                else:
                    entry.state = "dropped"
            self._waiting.records = again + self._waiting.records
            self._done = [entry for entry in self._done if entry.state == "done"]
            self._undone = [entry for entry in self._undone if entry.state == "undone"]
            kept = [*self._done, *self._undone, *self._open.values()]
            self._known = {entry.id: entry for entry in kept}

    def copy(self, project: Path) -> Batch:
        """Copy the journal to another project; return what is in memory only."""
        with self._commit_lock:
            self._journal.copy(project)
            with self._lock:
                batch = Batch().after(self._waiting)
                batch.freeze(self._flushed)
                return batch

    def frame(self, layer: int, t: int, size: int) -> Labels:
        """Return what the changes in force make of a frame that was empty at first."""
        flat = np.zeros(size, np.uint16)
        with self._lock:
            known = {entry.id for entry in self._known.values() if entry.in_force}
        queued = self._queued(lambda record: (record.layer, record.start) == (layer, t))
        rows = self._journal.of_frames(layer, t, t + 1, 0)
        for record in self._merged(queued, (seq for seq, _ in rows)):
            if record.role is Role.PIXELS and record.step in known:
                places, _, new = decode(record.pack(), size)
                flat[places] = new
        return flat

    def unsaved(self, moment: int) -> list[Entry]:
        """Return the steps that a document saved at a moment may not know, in order."""
        steps = [*self._done, *self._undone, *self._leaving]
        known = sorted(steps, key=lambda e: (e.moment, e.place))
        if moment:
            return [entry for entry in known if entry.moment > moment]
        # Version 0.1 had no moments. What is done twice must not be done where they are known:
        # a name that went there and back since looks like one that has yet to go.
        late = self._journal.steps_after(self._flushed)
        first = [i for i, e in enumerate(known) if e.moment > moment or e.id in late]
        return known[min(first) :] if first else []

    def unflushed(self) -> Iterator[Record]:
        """Yield the changes whose pixels may not have been written when the process ended."""
        if self._seq > self._flushed:
            yield from self._journal.after(self._flushed)

    def close(self) -> None:
        """End what is still open and write everything; a `StorageError` says that it is not."""
        for entry in list(self._open.values()):
            self.end(entry)
        self.commit()
        if self._flushed > self._saved_flushed:
            self._journal.commit(Batch(flushed=self._flushed))
            self._saved_flushed = self._flushed
        self._journal.close()
