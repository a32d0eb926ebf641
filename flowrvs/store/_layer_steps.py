"""Steps of a label volume: handing changes to the history, undoing and replaying them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from flowrvs.store._delta import DamagedError, decode, encode
from flowrvs.store._entry import Entry
from flowrvs.store._handing import hand_on, hand_on_range, hand_over
from flowrvs.store._journal import Mark, Record
from flowrvs.store._layer_state import BACKPRESSURE, Labels, LayerState, Pending, count_values
from flowrvs.store._memory import copy_frame, new_frame

__all__ = ["NO_ROWS", "LayerSteps"]

NO_ROWS = np.zeros((1, 1), np.uint16)


class LayerSteps(LayerState):
    """The part of `LayerVolume` that makes, undoes and replays steps."""

    # -- what the history gets -----------------------------------------------------------

    def _begin(
        self,
        t: int,
        frame: Labels,
        touched: Iterable[int],
        entry: Entry,
        rows: tuple[int, int],
    ) -> None:
        pending = self._pending.get(t)
        if pending is not None and pending.entry is not entry:
            self._cut(t)
            pending = None
        if pending is None:
            pending = self._pending[t] = Pending(entry, new_frame(frame.shape, frame.dtype), {})
        pending.keep(frame, *rows)
        for object_id in touched:
            if object_id in self._members:
                if object_id not in pending.marks:
                    pending.marks[object_id] = int(self._provenance[object_id].values[t])
                entry.touch(self.id, object_id, t, t + 1)

    def _cut(self, t: int) -> Record:
        """Hand what happened to a frame to the history."""
        pending = self._pending.pop(t)
        top, stop = pending.top, pending.stop
        after = copy_frame(self.cache.frame(t)[top:stop])
        frames = (pending.before[top:stop], after, top) if top < stop else (NO_ROWS, NO_ROWS, 0)
        return self._push(pending.entry, t, pending.marks, frames)

    def _push(
        self, entry: Entry, t: int, before: dict[int, int], frames: tuple[Labels, Labels, int]
    ) -> Record:
        marks = tuple(
            Mark(i, old, int(self._provenance[i].values[t]), self._versions.get(i, t))
            for i, old in before.items()
            if i in self._provenance
        )
        record = self._history.push(entry, self.id, (t, t + 1), "pixels", marks, frames)
        for mark in marks:
            self._versions.set(mark.object_id, t, record.seq)
        return record

    def settle(self, *, pack: bool = False) -> None:
        """Hand all that strokes changed to the history; `pack` it here and now."""
        while True:
            # Looked for under the lock: what another thread is handing over is not there yet.
            with self.cache.lock:
                if not self._pending:
                    return
                record = self._cut(next(iter(self._pending)))
            if pack:
                record.pack()

    # -- undo and redo -------------------------------------------------------------------

    def turn(self, record: Record, back: bool, entry: Entry) -> None:
        """Undo or redo one change; what others wrote since then stays."""
        if record.role == "range":
            self._turn_range(record, back, entry)
        if record.role != "pixels":
            return
        t = record.start
        if t >= self.shape[0]:
            raise DamagedError("a change of a frame that the video does not have")
        runs = decode(record.pack())
        with self.cache.lock:
            if t in self._pending:
                self._cut(t)
            live: list[Mark] = []
            later: list[Mark] = []
            for mark in record.marks:
                known = mark.object_id in self._provenance
                # A later number is somebody else's: what was undone gave its number back.
                mine = known and self._versions.get(mark.object_id, t) <= record.seq
                (live if mine else later).append(mark)
            spare = {mark.object_id for mark in later}
            frame = self.cache.frame(t)
            top, stop = runs.rows(frame.shape[1])
            if back:
                now = {m.object_id: int(self._provenance[m.object_id].values[t]) for m in live}
                if hand_over(self._history, record, now):
                    return
                runs, places = hand_on(self._history, record, runs, later, frame)
                if len(places):
                    # Should a kill come now: what is seen, for pixels that nobody changes.
                    other = frame.copy()
                    other.reshape(-1)[places] = ~other.reshape(-1)[places]
                    data = encode(other, frame)
                    self._history.push(entry, self.id, (t, t + 1), "back", (), data)
            part = frame[top:stop]
            old = copy_frame(part)
            if runs.apply(frame, back=back, spare=frozenset(spare)):
                self.cache.touch(t)
                changed = old != part
                self._count(t, count_values(part[changed]), count_values(old[changed]))
            marks = []
            for mark in live:
                track = self._provenance[mark.object_id]
                have, want = (mark.new, mark.old) if back else (mark.old, mark.new)
                if track.values[t] == have != want:
                    track.values[t] = want
                    track.touch(t, t + 1)
                self._versions.set(mark.object_id, t, mark.before if back else record.seq)
                marks.append(Mark(mark.object_id, have, int(track.values[t])))
            copies = (old, copy_frame(part), top) if top < stop else (NO_ROWS, NO_ROWS, 0)
            done = self._history.push(entry, self.id, (t, t + 1), "back", tuple(marks), copies)
        if entry.count > BACKPRESSURE:  # else the flusher does it: a person waits for this
            done.pack()
            self._relieve()
        else:
            self.make_room()
        self._wake()

    def _turn_range(self, record: Record, back: bool, entry: Entry) -> None:
        (mark,) = record.marks
        old, new = record.unpack_range()
        have, want = (new, old) if back else (old, new)
        with self.cache.lock:
            track = self._provenance.get(mark.object_id)
            if track is None:
                return
            values = track.values[record.start : record.stop]
            since = self._versions.part(mark.object_id, record.start, record.stop)
            free = values == have
            if back:
                free &= since < record.seq
                later = np.flatnonzero((old != new) & (since >= record.seq))
                if len(later):
                    hand_on_range(self._history, record, old, new, later)
            before = values.copy()
            values[free] = want[free]
            track.touch(record.start, record.stop)
            span = (record.start, record.stop)
            data = Record.pack_range(before, values)
            self._history.push(entry, self.id, span, "back-range", record.marks, data)
        self._wake()

    def replay(self, record: Record) -> None:
        """Do again what a killed process had in its journal but perhaps not in its frames."""
        with self.cache.lock:
            if record.role.endswith("range"):
                for mark in record.marks:
                    track = self._provenance.get(mark.object_id)
                    if track is not None:
                        track.values[record.start : record.stop] = record.unpack_range()[1]
                        track.touch(record.start, record.stop)
                return
            t = record.start
            frame = self.cache.frame(t)
            if decode(record.pack()).apply(frame, strict=False, spare=frozenset()):
                self.cache.touch(t)
            counts = np.bincount(frame.ravel())
            for object_id in self._members:
                track = self._areas[object_id]
                track.values[t] = counts[object_id] if object_id < len(counts) else 0
                track.touch(t, t + 1)
            for mark in record.marks:
                if mark.object_id in self._provenance:
                    self._provenance[mark.object_id].values[t] = mark.new
                    self._provenance[mark.object_id].touch(t, t + 1)
        self._relieve()
