"""`History`: undo and redo of everything that is done to a project, also across sessions."""

from __future__ import annotations

import getpass
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store._entry import Entry, now
from flowrvs.store._journal import Journal, Mark, Record, StepRow
from flowrvs.store._steps import ChangeRow, Kind, Step

__all__ = ["History"]

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


class History:
    """The steps of a project, to be undone and redone.

    Steps are undone in the order in which they were finished, the last one first. What a
    model still writes is no step yet: it neither stands in the way nor is it touched. Undoing
    a step gives back only pixels that nobody has drawn over since, so that old pixels never
    come back over newer ones.

    The steps survive closing, and a killed process. Those beyond `limit_bytes` are dropped,
    the oldest first.

    Attributes
    ----------
    limit_bytes : int
        What the undo history may take on the disk.
    author : str
        Name of the person, as noted with every change; the user's login name at first.
    """

    def __init__(self, host: Host, journal: Journal) -> None:
        self._host = host
        self._journal = journal
        self._lock = threading.RLock()  # the innermost lock of all
        self._turning = threading.Lock()
        self._commit_lock = threading.Lock()
        self._local = threading.local()
        self._open: dict[int, Entry] = {}
        self._done: deque[Entry] = deque()
        self._undone: list[Entry] = []
        self._queue: list[Record] = []
        self._committing: list[Record] = []
        self._changed: dict[int, Entry] = {}
        self._dropped: list[int] = []
        self._forgotten: list[int] = []
        self._kept: deque[tuple[Entry, int]] = deque()
        self._kept_bytes = 0
        self._bytes = 0
        self.limit_bytes = 256 * 2**20
        self.author = _login()
        rows, self._flushed, self._seq = journal.load()
        self._saved_flushed = self._flushed
        self._next_step = max(journal.last_step(), max((row.id for row in rows), default=0)) + 1
        self._place = max((row.place for row in rows), default=0)
        self._interleaved: set[int] = set()
        self._load(rows)

    # -- what there is -------------------------------------------------------------------

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step that can be undone, oldest first, then those that can be redone."""
        with self._lock:
            return tuple(_step(one) for one in [*self._done, *reversed(self._undone)])

    @property
    def undo_step(self) -> Step | None:
        """What `undo` would take back."""
        with self._lock:
            return _step(self._done[-1]) if self._done else None

    @property
    def redo_step(self) -> Step | None:
        """What `redo` would do again."""
        with self._lock:
            return _step(self._undone[-1]) if self._undone else None

    @property
    def can_undo(self) -> bool:
        """True if there is a step to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """True if there is a step to redo."""
        return bool(self._undone)

    @property
    def notice(self) -> str | None:
        """One line on a history that could not be read; None where all is well."""
        return self._journal.notice

    def changes(self, object_id: int, t: int) -> list[ChangeRow]:
        """Return who touched an object on a frame, newest first, dropped steps included."""
        with self._lock:
            undone = {one.id for one in self._undone}
            fresh = [
                one for one in self._changed.values() if not one.logged and one.id not in undone
            ]
        rows = [
            ChangeRow(one.time, one.who, one.kind, one.name or one.tool)
            for one in sorted(fresh, key=lambda one: -one.id)
            if one.touches(object_id, t)
        ]
        known = self._journal.changes(object_id, t)
        return rows + [ChangeRow(*row) for step, *row in known if step not in undone]

    # -- making steps --------------------------------------------------------------------

    def current(self) -> Entry | None:
        """Return the step that this thread is making."""
        stack: list[Entry] = getattr(self._local, "stack", [])
        return stack[-1] if stack else None

    def begin(self, name: str | None, kind: Kind, who: str | None = None) -> Entry:
        """Open a step; its name may be made at its end."""
        with self._lock:
            who = who or (self.author if kind == "human" else "model")
            entry = Entry(self._next_step, name, kind, who, now())
            self._next_step += 1
            self._open[entry.id] = entry
            return entry

    def end(self, entry: Entry) -> None:
        """Close a step; one that touched nothing is forgotten."""
        with self._lock:
            if self._open.pop(entry.id, None) is None:
                return
            if entry.empty:
                return
            if not entry.name:
                entry.name = self._name(entry)
            self._place += 1
            entry.place = self._place
            entry.state = "dropped" if entry.too_big else "done"
            self._changed[entry.id] = entry
            if entry.too_big:
                self._dropped.append(entry.id)
            else:
                self._done.append(entry)
            if entry.kind == "human":
                self._forget(self._undone)
                self._undone = []
            self._keep(entry)
        self._host.steps_changed()

    def drop(self, entry: Entry) -> None:
        """Close a step that is not to be kept."""
        with self._lock:
            if self._open.pop(entry.id, None) is not None:
                self._forget([entry])

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
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        entry = self.begin(name, kind, who)
        self._local.stack.append(entry)
        try:
            yield entry
        except BaseException:
            self._local.stack.pop()
            if on_error == "undo":
                self._take_back(entry)
            else:
                self.end(entry)
            raise
        self._local.stack.pop()
        self.end(entry)

    def _take_back(self, entry: Entry) -> None:
        with self._turning:
            self._host.settle_strokes()
            self._turn_all(entry, True, None, None)
            with self._lock:
                self._open.pop(entry.id, None)
                self._forget([entry])
        self._host.steps_changed()

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
            if entry.too_big and role[:4] != "back":
                return record
            self._queue.append(record)
            if role[:4] != "back":
                entry.add(record)
                self._changed[entry.id] = entry
            return record

    # -- undo and redo -------------------------------------------------------------------

    def undo(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Step | None:
        """Take back the last step; None where there is none.

        Parameters
        ----------
        cancel : CancelToken, optional
            Checked at every frame.
        progress : callable, optional
            Gets the frames that are done.

        Raises
        ------
        ProjectError
            The project is closed or open for reading only, or this thread is in the middle
            of a step.
        Cancelled
            Everything is as it was.
        """
        return self._turn(True, cancel, progress)

    def redo(
        self, cancel: CancelToken | None = None, progress: ProgressCallback | None = None
    ) -> Step | None:
        """Do again what `undo` took back last; None where there is nothing.

        A new step of a person ends what can be redone; one of a model does not.
        """
        return self._turn(False, cancel, progress)

    def _turn(
        self, back: bool, cancel: CancelToken | None, progress: ProgressCallback | None
    ) -> Step | None:
        self._host.check_turn()
        if self.current() is not None:
            raise ProjectError("A step is being made; finish it before undoing another one.")
        with self._turning:
            self._host.settle_strokes()
            with self._lock:
                source = self._done if back else self._undone
                if not source:
                    return None
                entry = source[-1]
            self._turn_all(entry, back, cancel, progress)
            with self._lock:
                source.remove(entry)
                (self._undone if back else self._done).append(entry)
                entry.state = "undone" if back else "done"
                self._place += 1
                entry.place = self._place
                self._changed[entry.id] = entry
        self._host.steps_changed()
        return _step(entry)

    def _turn_all(
        self,
        entry: Entry,
        back: bool,
        cancel: CancelToken | None,
        progress: ProgressCallback | None,
    ) -> None:
        self._host.turn_catalog(entry, back, additions=True)
        clock = ProgressClock(entry.count)
        turned = 0
        try:
            for record in self._records(entry, back):
                if cancel is not None:
                    cancel.raise_if_cancelled()
                self._host.turn_record(record, back, entry)
                turned += 1
                if progress is not None:
                    progress(clock.advance("Undoing" if back else "Doing again"))
        except BaseException:
            for i, record in enumerate(self._records(entry, back)):
                if i < turned:
                    self._host.turn_record(record, not back, entry)
            self._host.turn_catalog(entry, not back, additions=False)
            raise
        self._host.turn_catalog(entry, back, additions=False)

    def _records(self, entry: Entry, back: bool) -> Iterator[Record]:
        """Yield the changes of a step one by one, so that a long one needs no memory."""
        with self._lock:
            kept = entry.records
            waiting = [r for r in [*self._committing, *self._queue] if r.step == entry.id]
            waiting = [r for r in waiting if r.role[:4] != "back"]
        if kept is not None:
            yield from reversed(kept) if back else list(kept)
            return
        seen = {record.seq for record in waiting}
        if back:
            yield from reversed(waiting)
        yield from (r for r in self._journal.records(entry.id, back=back) if r.seq not in seen)
        if not back:
            yield from waiting

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
            with self._lock:
                self._committing, self._queue = self._queue, []
                changed, self._changed = self._changed, {}
                dropped, self._dropped = self._dropped, []
                forgotten, self._forgotten = self._forgotten, []
                seq, flushed = self._seq, self._flushed
                rows = [one.row() for one in changed.values() if one.state != "forgotten"]
                closing = [
                    one
                    for one in changed.values()
                    if not one.logged and one.state not in ("open", "forgotten")
                ]
            if not (self._committing or changed or dropped or forgotten):
                return seq
            gone = {*dropped, *forgotten}
            records = [r for r in self._committing if r.step not in gone or r.role[:4] == "back"]
            log = [(o, a, b, one.id) for one in closing for o, a, b in one.spans()]
            try:
                self._journal.commit(
                    steps=rows,
                    records=records,
                    changes=log,
                    dropped=dropped,
                    forgotten=forgotten,
                    flushed=flushed,
                )
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
                    owner = self._open.get(record.step) or changed.get(record.step)
                    if owner is not None and record.role[:4] != "back":
                        owner.bytes += len(record.data or b"") + 64
                        self._bytes += len(record.data or b"") + 64
                self._trim()
            return seq

    def flushed(self, seq: int) -> None:
        """Note that the pixels of all changes up to `seq` are safe."""
        with self._lock:
            self._flushed = max(self._flushed, seq)

    def close(self) -> None:
        """End what is still open and write everything.

        Raises
        ------
        StorageError
            It could not be written.
        """
        for entry in list(self._open.values()):
            self.end(entry)
        self.commit()
        if self._flushed > self._saved_flushed:
            self._journal.commit(flushed=self._flushed)
            self._saved_flushed = self._flushed
        self._journal.close()

    def settle(self) -> None:
        """Make the journal's file complete, to be copied."""
        self._journal.settle()

    def unflushed(self) -> Iterator[Record]:
        """Yield the changes whose pixels may not have been written when the process ended."""
        if self._seq > self._flushed:
            yield from self._journal.after(self._flushed)

    def interleaved(self) -> Iterator[Record]:
        """Yield, once, the changes of old steps that were made while others were."""
        with self._lock:
            wanted, self._interleaved = self._interleaved, set()
        for step in sorted(wanted):
            yield from self._journal.records(step)

    # -- inside --------------------------------------------------------------------------

    def _load(self, rows: list[StepRow]) -> None:
        sizes = self._journal.sizes() if rows else {}
        done = [row for row in rows if row.state != "undone"]
        newest = 0
        for i, row in enumerate(done):
            # Steps end in an order that need not be that of their changes.
            if newest > row.first_seq > 0:
                earlier = (one.id for one in done[:i] if one.last_seq > row.first_seq)
                self._interleaved |= {row.id, *earlier}
            newest = max(newest, row.last_seq)
        for row in rows:
            entry = Entry.read(row, sizes.get(row.id, 0))
            if entry.state == "open":  # its process was killed
                if not entry.name:
                    entry.name = self._name(entry)
                self._place += 1
                entry.place, entry.state, entry.logged = self._place, "done", False
                self._changed[entry.id] = entry
            (self._done if entry.state == "done" else self._undone).append(entry)
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
            self._changed.pop(entry.id, None)
            self._forgotten.append(entry.id)

    def _keep(self, entry: Entry) -> None:
        """Keep the changes of the newest steps in memory: undo does not wait for the disk."""
        if entry.records is not None:
            self._kept.append((entry, entry.weight))
            self._kept_bytes += entry.weight
        while self._kept_bytes > _CACHED_BYTES:
            oldest, weight = self._kept.popleft()
            self._kept_bytes -= weight
            oldest.records = None

    def _trim(self) -> None:
        """Drop the oldest steps over the limit."""
        while self._done and (self._bytes > self.limit_bytes or len(self._done) > _MAX_STEPS):
            self._drop(self._done.popleft())
        for entry in self._open.values():
            if self._bytes > self.limit_bytes and entry.bytes > self.limit_bytes // 2:
                entry.too_big = True
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        entry.records = None
        self._bytes -= entry.bytes
        entry.bytes = 0
        if entry.state != "open":
            entry.state = "dropped"
        self._changed[entry.id] = entry  # who touched what is kept
        self._dropped.append(entry.id)


def _step(entry: Entry) -> Step:
    return Step(
        id=entry.id,
        name=entry.name or entry.tool,
        kind=entry.kind,  # type: ignore[arg-type]
        who=entry.who,
        when=entry.time,
        start=entry.span[0],
        stop=entry.span[1],
        layer_ids=frozenset(entry.layers),
        object_ids=frozenset(entry.touched),
        frames=entry.count,
        state=entry.state,
    )


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "a person"
