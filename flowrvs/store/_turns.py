"""Undo and redo: taking steps back and doing them again, change by change."""

from __future__ import annotations

from collections.abc import Iterator

from flowrvs.errors import ProjectError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store._delta import DamagedError
from flowrvs.store._entry import Entry
from flowrvs.store._journal import Record
from flowrvs.store._step_log import StepLog
from flowrvs.store._steps import Step

__all__ = ["Turns", "as_step"]


class Turns(StepLog):
    """The part of `History` that undoes and redoes."""

    def current(self) -> Entry | None:
        """Return the step that this thread is making."""
        stack: list[Entry] = getattr(self._local, "stack", [])
        return stack[-1] if stack else None

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
        return as_step(entry)

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
                self._turn_one(record, back, entry)
                turned += 1
                if progress is not None:
                    progress(clock.advance("Undoing" if back else "Doing again"))
        except BaseException:
            for i, record in enumerate(self._records(entry, back)):
                if i < turned:
                    self._turn_one(record, not back, entry)
            self._host.turn_catalog(entry, not back, additions=False)
            raise
        self._host.turn_catalog(entry, back, additions=False)

    def _turn_one(self, record: Record, back: bool, entry: Entry) -> None:
        try:
            self._host.turn_record(record, back, entry)
        except DamagedError:
            self._journal.damaged()  # one frame stays; the others need not

    def _records(self, entry: Entry, back: bool) -> Iterator[Record]:
        """Yield the changes of a step one by one, so that a long one needs no memory."""
        with self._lock:
            kept = entry.records
            queued = {r.seq: r for r in [*self._committing, *self._queue] if r.role[:4] != "back"}
            waiting = {seq: record for seq, record in queued.items() if record.step == entry.id}
            others = queued.keys() - waiting.keys()  # the journal may not know that it moved
        if kept is not None:
            yield from reversed(kept) if back else list(kept)
            return
        # What waits may be new, or the newer form of what the journal has.
        seqs = waiting.keys() | set(self._journal.seqs(entry.id)) - others
        for seq in sorted(seqs, reverse=back):
            if seq in waiting:
                yield waiting[seq]
            else:
                yield from self._journal.by_seq([seq])


def as_step(entry: Entry) -> Step:
    """Return what others get to know of a step."""
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
