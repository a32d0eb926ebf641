"""`History`: undo and redo of everything that is done to a project, also across sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from flowrvs.store._entry import Entry, now
from flowrvs.store._steps import ChangeRow, Kind, Step
from flowrvs.store._turns import Turns, as_step

__all__ = ["History"]


class History(Turns):
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

    # -- what there is -------------------------------------------------------------------

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step that can be undone, oldest first, then those that can be redone."""
        with self._lock:
            return tuple(as_step(one) for one in [*self._done, *reversed(self._undone)])

    @property
    def undo_step(self) -> Step | None:
        """What `undo` would take back."""
        with self._lock:
            return as_step(self._done[-1]) if self._done else None

    @property
    def redo_step(self) -> Step | None:
        """What `redo` would do again."""
        with self._lock:
            return as_step(self._undone[-1]) if self._undone else None

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

    def begin(self, name: str | None, kind: Kind, who: str | None = None) -> Entry:
        """Open a step; its name may be made at its end."""
        with self._lock:
            who = who or (self.author if kind == "human" else "model")
            entry = Entry(self._next_step, name, kind, who, now())
            self._next_step += 1
            self._open[entry.id] = self._known[entry.id] = entry
            return entry

    def end(self, entry: Entry) -> None:
        """Close a step; one that touched nothing is forgotten."""
        # Asks the document, whose lock comes before the history's.
        name = entry.name or self._name(entry)
        with self._lock:
            if self._open.pop(entry.id, None) is None:
                return
            if entry.empty:
                self._forget([entry])
                return
            entry.name = name
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
