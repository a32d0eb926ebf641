"""One label volume with its provenance: where a person's edits and the model's masks meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store.changes import (
    Content,
    DamagedError,
    Entry,
    Heirs,
    Labels,
    Mark,
    Pixels,
    Record,
    Role,
    decode,
)
from flowrvs.store.frames import (
    CROWDED,
    LayerFrames,
    copy_frame,
    count_values,
    new_frame,
)
from flowrvs.store.history import History
from flowrvs.store.moves import backwards
from flowrvs.store.storage import Provenance

if TYPE_CHECKING:
    from flowrvs.store.state import State

__all__ = ["LayerVolume"]

# While a person's brush is down, a model waits up to so many seconds before each frame.
_BRUSH, _PAUSE, _PATIENT = 0.03, 0.005, 0.05

_NO_ROWS = np.zeros((1, 1), np.uint16)


@dataclass(slots=True)
class _Pending:
    """A frame that a step is still changing: as it was before, and what it touched."""

    entry: Entry
    before: Labels  # only the rows that may have changed
    marks: dict[int, int]  # object -> provenance before
    top: int = 0
    stop: int = 0

    def keep(self, frame: Labels, top: int, stop: int) -> None:
        """Copy the rows that are about to change, before they do."""
        if top >= stop:
            return
        if self.top >= self.stop:
            self.top = self.stop = top
        if top < self.top:
            self.before[top : self.top] = frame[top : self.top]
            self.top = top
        if stop > self.stop:
            self.before[self.stop : stop] = frame[self.stop : stop]
            self.stop = stop


class LayerVolume:
    """What changes a layer, and hands each change to the history.

    A person's strokes on a frame are handed over together, when the step ends, another one
    touches the frame, or it is time to write: a stamp of a brush costs no more than its pixels.
    A model and a painter exclude each other for one frame at a time.
    """

    def __init__(self, frames: LayerFrames, history: History, host: State) -> None:
        self.id = frames.id
        self.frames = frames
        self.lock = frames.lock
        self.shape = frames.shape
        self._cache = frames.cache
        self._provenance = frames.tracks.provenance
        self._history = history
        self._host = host
        self._pixels = self.shape[1] * self.shape[2]
        self._pending: dict[int, _Pending] = {}
        self._stroke: Entry | None = None
        self._stroke_name: str | None = None
        self._painted = 0.0

    # -- a person ------------------------------------------------------------------------

    def edit(self, t: int, index: Any, value: Labels, entry: Entry) -> None:
        """Assign to a part of frame `t` as a person does.

        The objects whose pixels came or went become `Provenance.HUMAN` on this frame. An
        assignment that changes nothing says "this is right" about the values assigned, or
        about every object of the layer if it assigned background only. Pixels that belong,
        or would belong, to an object that is locked here stay as they are.
        """
        self._painted = time.monotonic()
        locked: list[int] = []
        with self.lock:
            self.frames.check_open()
            frame = self._cache.frame(t)
            old = np.asarray(frame[index])
            new = value if value.shape == old.shape else np.broadcast_to(value, old.shape)
            changed = old != new
            came, went = _counts(old, new, changed)
            if came or went:
                locked = self.frames.locked_of({*came, *went}, t)
                if locked:
                    changed &= ~(np.isin(old, locked) | np.isin(new, locked))
                    came, went = _counts(old, new, changed)
            if came or went:
                self._check_still(came)
                if not came.keys() <= self.frames.members:
                    self._host.claim(self.id, came.keys(), entry)
                touched = {*came, *went}
                self._begin(t, frame, touched, entry, _rows(index, len(frame)))
                frame[index] = np.where(changed, new, old) if locked else new
                self._cache.touch(t)
                self.frames.count(t, came, went)
            elif locked:
                return
            else:
                touched = {*count_values(new)} or {*self.frames.members}
                self._begin(t, frame, touched, entry, (0, 0))
            for object_id in touched & self.frames.members:
                self.frames.raise_to(Provenance.HUMAN, object_id, t)
        self._after_edit()

    def stamp(
        self,
        t: int,
        rows: slice,
        columns: slice,
        mask: npt.NDArray[np.bool_],
        label: int,
        only: int | None,
        entry: Entry,
    ) -> tuple[Labels, npt.NDArray[np.bool_]] | None:
        """Give the pixels of a brush a label; see `LabelsArray.paint`."""
        self._painted = time.monotonic()
        with self.lock:
            self.frames.check_open()
            frame = self._cache.frame(t)
            part = frame[rows, columns]
            changed = mask & (part != label)
            if only is not None:
                changed &= part == only
            locked = self.frames.locked_of(self.frames.members, t)
            if locked:
                changed &= label not in locked and ~np.isin(part, locked)
            old = part[changed]
            if not old.size:
                return None
            came = {label: old.size} if label else {}
            self._check_still(came)
            if label and label not in self.frames.members:
                self._host.claim(self.id, [label], entry)
            went = count_values(old) if old.any() else {}
            before = part.copy()
            self._begin(t, frame, {*came, *went}, entry, (rows.start, rows.stop))
            part[changed] = label
            self._cache.touch(t)
            self.frames.count(t, came, went)
            for object_id in {*came, *went} & self.frames.members:
                self.frames.raise_to(Provenance.HUMAN, object_id, t)
        self._after_edit()
        return before, changed

    def _check_still(self, came: Collection[int]) -> None:
        if self._history.placing(came):
            raise ProjectError("What is drawn here is being undone; try again in a moment.")

    def _after_edit(self) -> None:
        if len(self._pending) > CROWDED:
            self.settle(pack=True)
        self._host.wake()

    def _begin(
        self, t: int, frame: Labels, touched: Iterable[int], entry: Entry, rows: tuple[int, int]
    ) -> None:
        pending = self._pending.get(t)
        if pending is not None and pending.entry is not entry:
            self._cut(t)
            pending = None
        if pending is None:
            pending = self._pending[t] = _Pending(entry, new_frame(frame.shape, frame.dtype), {})
        pending.keep(frame, *rows)
        for object_id in touched:
            if object_id in self.frames.members:
                if object_id not in pending.marks:
                    pending.marks[object_id] = int(self._provenance[object_id].values[t])
                entry.touch(self.id, object_id, t, t + 1)

    def _cut(self, t: int) -> Record:
        """Hand what happened to a frame to the history."""
        pending = self._pending.pop(t)
        top, stop = pending.top, pending.stop
        before, after = _NO_ROWS, _NO_ROWS
        if top < stop:
            before, after = pending.before[top:stop], copy_frame(self._cache.frame(t)[top:stop])
        return self._push(pending.entry, t, pending.marks, (before, after, top, None))

    def _push(
        self,
        entry: Entry,
        t: int,
        before: dict[int, int],
        content: Content,
        role: Role = Role.PIXELS,
    ) -> Record:
        tracks = self._provenance
        known = ((i, old) for i, old in before.items() if i in tracks)
        marks = tuple(Mark(i, old, int(tracks[i].values[t])) for i, old in known)
        return self._history.push(entry, self.id, (t, t + 1), role, marks, content)

    def settle(self, *, pack: bool = False) -> None:
        """Hand all that strokes changed to the history; `pack` it here and now."""
        while True:
            # Looked for under the lock: what another thread is handing over is not there yet.
            with self.lock:
                if not self._pending:
                    return
                record = self._cut(next(iter(self._pending)))
            if pack:
                record.pack()

    # -- strokes -------------------------------------------------------------------------

    def begin_stroke(self, name: str) -> None:
        """Let edits be one step from now on; see `LabelsArray.begin_stroke`."""
        self.end_stroke()
        self._stroke_name = name

    def end_stroke(self) -> None:
        """End the step of a stroke, if there is one."""
        self._stroke_name = None
        stroke, self._stroke = self._stroke, None
        if stroke is not None:
            self._history.end(stroke)

    def cancel_stroke(self) -> None:
        """Take back what the stroke has drawn, as if it had never begun."""
        self._stroke_name = None
        stroke, self._stroke = self._stroke, None
        if stroke is not None:
            self._history.take_back(stroke)

    @contextmanager
    def step(self) -> Iterator[Entry]:
        """Give the step that an edit belongs to: this thread's, the stroke's, or its own."""
        current = self._history.current()
        if current is not None:
            yield current
        elif self._stroke_name is not None:
            if self._stroke is None:
                self._stroke = self._history.begin(None, "human", tool=self._stroke_name)
            yield self._stroke
        else:
            entry = self._history.begin(None, "human")
            try:
                yield entry
            finally:
                self._history.end(entry)

    # -- whole masks ---------------------------------------------------------------------

    def write(
        self,
        entry: Entry,
        object_id: int,
        start: int,
        masks: npt.NDArray[np.bool_],
        provenance: Provenance,
        limit: Provenance,
    ) -> npt.NDArray[np.bool_]:
        """Replace masks on frames whose provenance is at most `limit`; tell which these were."""
        written = np.zeros(len(masks), np.bool_)
        for i, mask in enumerate(masks):
            self._give_way()
            with self._still(object_id):
                self.frames.check_open()
                record = self._write_frame(entry, object_id, start + i, mask, provenance, limit)
            if record is not None:
                written[i] = True
                record.pack()
            self.frames.relieve()
        self._host.wake()
        return written

    def _give_way(self) -> None:
        """Let a person who is painting go first; neither a lock nor the GIL is fair."""
        start = time.monotonic()
        while (now := time.monotonic()) - self._painted < _BRUSH and now - start < _PATIENT:
            time.sleep(_PAUSE)

    @contextmanager
    def _still(self, object_id: int) -> Iterator[None]:
        """Hold the lock while undo takes the object nowhere."""
        while True:
            with self.lock:
                if not self._history.placing([object_id]):
                    yield
                    return
            time.sleep(_PAUSE)

    def _write_frame(
        self,
        entry: Entry,
        object_id: int,
        t: int,
        mask: npt.NDArray[np.bool_],
        provenance: Provenance,
        limit: Provenance,
    ) -> Record | None:
        if object_id not in self.frames.members:
            raise ProjectError(f"Object {object_id} has left layer {self.id}; try again.")
        track = self._provenance[object_id]
        if track.values[t] > limit:
            return None
        if t in self._pending:
            self._cut(t)
        frame = self._cache.frame(t)
        # A model spares what a person drew of other objects; a person's mask what is locked.
        floor = Provenance.LOCKED if provenance == Provenance.HUMAN else Provenance.HUMAN
        others = self.frames.members - {object_id}
        wanted = mask
        for i in others:
            if self._provenance[i].values[t] >= floor:
                wanted = wanted & (frame != i)
        before = {object_id: int(track.values[t])}
        # Pixels that it had already are drawn again: whatever is undone below, they stay.
        changed = (frame == object_id) != wanted
        rows = np.flatnonzero((changed | wanted).any(axis=1))
        content: tuple[Labels, Labels, int, Any] = (_NO_ROWS, _NO_ROWS, 0, None)
        if len(rows):
            top, stop = int(rows[0]), int(rows[-1]) + 1
            part, cut, new = frame[top:stop], changed[top:stop], wanted[top:stop]
            old = copy_frame(part)
            if cut.any():
                went = count_values(old[cut])
                np.copyto(part, np.where(new, np.uint16(object_id), np.uint16(0)), where=cut)
                self._cache.touch(t)
                self.frames.count(t, {object_id: int(np.count_nonzero(cut & new))}, went)
                for i in went.keys() & others:
                    before[i] = int(self._provenance[i].values[t])
                    if provenance == Provenance.HUMAN:
                        self.frames.raise_to(Provenance.HUMAN, i, t)
            content = (old, copy_frame(part), top, new)
        track.values[t] = provenance
        track.touch(t, t + 1)
        self._history.drew(entry, object_id)
        for i in before:
            entry.touch(self.id, i, t, t + 1)
        return self._push(entry, t, before, content)

    def set_provenance(
        self,
        entry: Entry,
        object_id: int,
        start: int,
        stop: int,
        change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
    ) -> None:
        """Replace a range of an object's provenance by ``change(old)``."""
        with self.lock:
            self.frames.check_open()
            for t in [t for t in self._pending if start <= t < stop]:
                self._cut(t)
            track = self._provenance[object_id]
            old = track.values[start:stop].copy()
            new = change(old).astype(np.uint8)
            differ = np.flatnonzero(old != new)
            if not len(differ):
                return
            # Only as far as it changes: a lock over a locked video is no change.
            start, stop = start + int(differ[0]), start + int(differ[-1]) + 1
            old, new = old[differ[0] : differ[-1] + 1], new[differ[0] : differ[-1] + 1]
            track.values[start:stop] = new
            track.touch(start, stop)
            self._cache.changed[start:stop] += 1
            entry.touch(self.id, object_id, start, stop)
            marks = (Mark(object_id, 0, 0),)
            data = Record.pack_range(old, new)
            self._history.push(entry, self.id, (start, stop), Role.RANGE, marks, data)
        self._host.wake()

    # -- frames that were made beside the project (`surgery`) ----------------------------

    def version(self, t: int) -> int:
        """Return a number that is another one once anybody has changed a frame. Needs `lock`."""
        self.frames.check_open()
        if t in self._pending:
            self._cut(t)
        return self._cache.changed.item(t)

    def announce(self, entry: Entry, t: int, object_ids: Iterable[int], data: bytes) -> Record:
        """Hand a change to the history before its pixels change. Needs `lock`."""
        before = {
            i: int(self._provenance[i].values[t]) for i in object_ids if i in self._provenance
        }
        for i in before:
            entry.touch(self.id, i, t, t + 1)
        return self._push(entry, t, before, data)

    def apply(self, t: int, data: bytes) -> None:
        """Change a frame in memory; what others have drawn since then stays. Needs `lock`."""
        self._apply(t, decode(data, self._pixels))

    def moved(self, t: int, came: dict[int, int], went: dict[int, int]) -> None:
        """Note that the file of a frame that is not in memory was replaced. Needs `lock`."""
        self._cache.changed[t] += 1
        self.frames.count(t, came, went)

    # -- undo and redo -------------------------------------------------------------------

    def _apply(self, t: int, pixels: Pixels, *, strict: bool = True) -> None:
        """Give pixels that have their old value the new one; all of them, uncounted, if not strict.

        What is replayed is counted when all of it is: objects may live in other layers by then.
        """
        flat = self._cache.frame(t).reshape(-1)
        places, old, new = pixels
        now = flat[places]
        free = (now == old if strict else True) & (now != new)
        if free.any():
            flat[places[free]] = new[free]
            self._cache.touch(t)
            if strict:
                self.frames.count(t, count_values(new[free]), count_values(now[free]))

    def turn(self, record: Record, back: bool, entry: Entry) -> None:
        """Take one change out of force (`back`), or put it in force again.

        What other steps drew over it since stays; what they would bring back when they are
        undone themselves is what this change leaves.
        """
        with self.lock:
            if record.start in self._pending:
                self._cut(record.start)
            heirs = Heirs(self._history.later(record), back, self._pixels)
            if record.role is Role.RANGE:
                if record.marks[0].object_id not in self._provenance:
                    raise DamagedError("provenance of an object that is not there")
                done = self._turn_range(record, heirs, back, entry)
            else:
                moved = None if heirs else self._turn_file(record, back, entry)
                done = moved or self._turn_pixels(record, heirs, back, entry)
            self._history.rewrite(heirs.rewritten())
        if entry.count > CROWDED:  # else the flusher does it: a person waits for this
            done.pack()
            self.frames.relieve()
        else:
            self.frames.make_room()
        self._host.wake()

    def _turn_file(self, record: Record, back: bool, entry: Entry) -> Record | None:
        """Turn a change that is all that its frame holds, unread; None for any other.

        Most changes of a long run are such: the file is moved away, or back (`moves`).
        """
        t, tracks, cache = record.start, self._provenance, self._cache
        turned = None if t in cache else backwards(record.pack(), self._pixels)
        if turned is None:
            return None
        counts, data = turned
        before = {mark.object_id: mark.new if back else mark.old for mark in record.marks}
        if self.frames.areas_on(t) != (counts if back else {}) or any(
            i not in tracks or tracks[i].values.item(t) != value for i, value in before.items()
        ):
            return None
        if counts and not cache.move(t, self._history.kept.file(record), None if back else record):
            return None
        self.frames.count(t, *(({}, counts) if back else (counts, {})))
        for mark in record.marks:
            tracks[mark.object_id].values[t] = mark.old if back else mark.new
            tracks[mark.object_id].touch(t, t + 1)
        return self._push(entry, t, before, data if back else record.pack(), Role.BACK)

    def _turn_pixels(self, record: Record, heirs: Heirs, back: bool, entry: Entry) -> Record:
        t = record.start
        pixels = heirs.left(decode(record.pack(), self._pixels))
        if back:
            pixels = Pixels(pixels.places, pixels.new, pixels.old)
        frame = self._cache.frame(t)
        top, stop = 0, 0
        if len(pixels.places):
            top, stop = (int(p) // frame.shape[1] for p in (pixels.places[0], pixels.places[-1]))
            stop += 1
        old = copy_frame(frame[top:stop]) if top < stop else _NO_ROWS
        self._apply(t, pixels)
        before = {}
        for mark in record.marks:
            track = self._provenance.get(mark.object_id)
            if track is None:
                continue
            have, want = (mark.new, mark.old) if back else (mark.old, mark.new)
            before[mark.object_id] = int(track.values[t])
            if not heirs.inherit(mark.object_id, t, want) and track.values[t] == have:
                track.values[t] = want
                track.touch(t, t + 1)
        new = copy_frame(frame[top:stop]) if top < stop else _NO_ROWS
        return self._push(entry, t, before, (old, new, top, None), Role.BACK)

    def _turn_range(self, record: Record, heirs: Heirs, back: bool, entry: Entry) -> Record:
        (mark,) = record.marks
        have, want = record.unpack_range()[:: -1 if back else 1]
        track, span = self._provenance[mark.object_id], (record.start, record.stop)
        values = track.values[slice(*span)]
        free = (values == have) & (have != want)
        for i in np.flatnonzero(have != want) if heirs else ():
            if heirs.inherit(mark.object_id, record.start + int(i), int(want[i])):
                free[i] = False
        before = values.copy()
        values[free] = want[free]
        track.touch(*span)
        self._cache.changed[slice(*span)] += 1
        data = Record.pack_range(before, values)
        return self._history.push(entry, self.id, span, Role.BACK_RANGE, record.marks, data)

    def replay(self, record: Record) -> None:
        """Do again what a killed process had in its journal but perhaps not in its frames."""
        with self.lock:
            if record.role.is_range:
                for mark in record.marks:
                    track = self._provenance.get(mark.object_id)
                    if track is not None:
                        track.values[record.start : record.stop] = record.unpack_range()[1]
                        track.touch(record.start, record.stop)
                return
            t = record.start
            self._apply(t, decode(record.pack(), self._pixels), strict=False)
            for mark in record.marks:
                if mark.object_id in self._provenance:
                    self._provenance[mark.object_id].values[t] = mark.new
                    self._provenance[mark.object_id].touch(t, t + 1)
        self.frames.relieve()


def _counts(
    old: Labels, new: Labels, changed: npt.NDArray[np.bool_]
) -> tuple[dict[int, int], dict[int, int]]:
    """Return how many pixels of each value came, and how many went."""
    went = old[changed]
    # Two values that differ cannot both be background.
    return (count_values(new[changed]), count_values(went)) if went.size else ({}, {})


def _rows(index: Any, height: int) -> tuple[int, int]:
    """Return rows that hold all that an index of a frame means."""
    rows = index[0] if isinstance(index, tuple) and index else slice(None)
    if isinstance(rows, slice):
        found = range(*rows.indices(height))
        return (min(found), max(found) + 1) if found else (0, 0)
    return 0, height
