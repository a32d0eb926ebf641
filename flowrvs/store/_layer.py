"""One label volume with its provenance: where a person's edits and the model's masks meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store._entry import Entry
from flowrvs.store._journal import Mark, Record
from flowrvs.store._layer_state import BACKPRESSURE, Labels, count_values
from flowrvs.store._layer_steps import NO_ROWS, LayerSteps
from flowrvs.store._memory import copy_frame
from flowrvs.store._tracks import Provenance

__all__ = ["LayerVolume", "drop_axes"]

# While a person's brush is down, a model waits up to so many seconds before each frame.
_BRUSH, _PAUSE, _PATIENT = 0.03, 0.005, 0.05


class LayerVolume(LayerSteps):
    """The pixels of a layer and, for each of its objects, provenance and area per frame.

    Everything that changes either happens under `cache.lock`, one frame at a time, so that
    the model and a painter exclude each other without making one wait for a whole window.

    A person's strokes on a frame are handed to the history together, when the step ends,
    another one touches the frame, or it is time to write: a stamp of a brush costs no more
    than its pixels.

    Parameters
    ----------
    layer_id : int
        Its id.
    cache : FrameCache
        Its label volume, (T, H, W) uint16.
    tracks : Tracks
        Provenance and areas of all objects of the project.
    history : History
        Takes what changes.
    claim : callable
        ``claim(ids, entry)`` is called with pixel values that a person draws; it registers
        new objects, and raises `ProjectError` for an object of another layer.
    wake : callable
        Called after a change, to have it written soon.
    """

    # -- a person ------------------------------------------------------------------------

    def edit(
        self, t: int, index: Any, value: Any, entry: Entry, base: Labels | None = None
    ) -> None:
        """Assign to a part of frame `t` as a person does.

        The objects whose pixels came or went become `Provenance.HUMAN` on this frame. An
        assignment that changes nothing says "this is right" about the values assigned, or
        about every object of the layer if it assigned background only. Pixels that belong,
        or would belong, to an object that is locked here stay as they are.

        Parameters
        ----------
        t : int
            The frame.
        index : index of a frame
            The part.
        value : int or array of int
            What it is given.
        entry : Entry
            The step.
        base : ndarray of uint16, optional
            The part as it was when the person's tool read it: only what the tool changed is
            assigned, so that what a model wrote in between is not taken back.

        Raises
        ------
        ProjectError
            A value is no uint16, or the object of another layer.
        """
        self._painted = time.monotonic()
        locked: list[int] = []
        with self.cache.lock:
            self._check_open()
            frame = self.cache.frame(t)
            old = np.asarray(frame[index])
            new = drop_axes(_as_labels(value), old.ndim)
            if new.shape != old.shape:
                new = np.broadcast_to(new, old.shape)
            changed = old != new
            whole = base is None
            if base is not None:
                changed &= drop_axes(base, old.ndim) != new
            came, went = _counts(old, new, changed)
            if came or went:
                locked = self._locked_of({*came, *went}, t)
                if locked:
                    whole = False
                    changed &= ~(np.isin(old, locked) | np.isin(new, locked))
                    came, went = _counts(old, new, changed)
            if came or went:
                if not came.keys() <= self._members:
                    self._claim(came.keys(), entry)
                touched = {*came, *went}
                self._begin(t, frame, touched, entry, _rows(index, len(frame)))
                frame[index] = new if whole else np.where(changed, new, old)
                self.cache.touch(t)
                self._count(t, came, went)
            elif locked:
                return
            else:
                touched = {*count_values(new)} or set(self._members)
                self._begin(t, frame, touched, entry, (0, 0))
            for object_id in touched & self._members:
                self._set(object_id, t, Provenance.HUMAN)
            crowded = len(self._pending) > BACKPRESSURE
        if crowded:
            self.settle(pack=True)
        self._wake()

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
        with self.cache.lock:
            self._check_open()
            frame = self.cache.frame(t)
            part = frame[rows, columns]
            changed = mask & (part != label)
            if only is not None:
                changed &= part == only
            locked = self._locked_of(self._members, t)
            if locked:
                changed &= label not in locked and ~np.isin(part, locked)
            old = part[changed]
            if not old.size:
                return None
            came = {label: old.size} if label else {}
            if label and label not in self._members:
                self._claim([label], entry)
            went = count_values(old) if old.any() else {}
            before = part.copy()
            self._begin(t, frame, {*came, *went}, entry, (rows.start, rows.stop))
            part[changed] = label
            self.cache.touch(t)
            self._count(t, came, went)
            for object_id in {*came, *went} & self._members:
                self._set(object_id, t, Provenance.HUMAN)
            crowded = len(self._pending) > BACKPRESSURE
        if crowded:
            self.settle(pack=True)
        self._wake()
        return before, changed

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
        """Replace an object's masks on frames whose provenance is at most `limit`.

        Returns
        -------
        ndarray of bool, shape (n,)
            The frames that were written.
        """
        written = np.zeros(len(masks), np.bool_)
        for i, mask in enumerate(masks):
            self._give_way()
            with self.cache.lock:
                self._check_open()
                record = self._write_frame(entry, object_id, start + i, mask, provenance, limit)
            if record is not None:
                written[i] = True
                record.pack()
            self._relieve()
        self._wake()
        return written

    def _give_way(self) -> None:
        """Let a person who is painting go first; neither a lock nor the GIL is fair."""
        start = time.monotonic()
        while (now := time.monotonic()) - self._painted < _BRUSH and now - start < _PATIENT:
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
        track = self._provenance[object_id]
        if track.values[t] > limit:
            return None
        if t in self._pending:
            self._cut(t)
        frame = self.cache.frame(t)
        # A model spares what a person drew of other objects; a person's mask what is locked.
        floor = Provenance.LOCKED if provenance == Provenance.HUMAN else Provenance.HUMAN
        others = self._members - {object_id}
        wanted = mask
        for i in others:
            if self._provenance[i].values[t] >= floor:
                wanted = wanted & (frame != i)
        before = {object_id: int(track.values[t])}
        changed = (frame == object_id) != wanted
        rows = np.flatnonzero(changed.any(axis=1))
        frames = (NO_ROWS, NO_ROWS, 0)
        if len(rows):
            top, stop = int(rows[0]), int(rows[-1]) + 1
            part, cut, new = frame[top:stop], changed[top:stop], wanted[top:stop]
            old = copy_frame(part)
            went = count_values(old[cut])
            np.copyto(part, np.where(new, np.uint16(object_id), np.uint16(0)), where=cut)
            self.cache.touch(t)
            self._count(t, {object_id: int(np.count_nonzero(cut & new))}, went)
            for i in went.keys() & others:
                before[i] = int(self._provenance[i].values[t])
                if provenance == Provenance.HUMAN:
                    self._set(i, t, Provenance.HUMAN)
            frames = (old, copy_frame(part), top)
        track.values[t] = provenance
        track.touch(t, t + 1)
        for i in before:
            entry.touch(self.id, i, t, t + 1)
        return self._push(entry, t, before, frames)

    def remap(self, entry: Entry, t: int, change: Callable[[Labels], Labels | None]) -> bool:
        """Replace frame `t` by ``change(frame)``, whoever drew what; True if it changed.

        Provenance is not touched: call `set_provenance`.
        """
        with self.cache.lock:
            self._check_open()
            if t in self._pending:
                self._cut(t)
            frame = self.cache.frame(t)
            new = change(frame)
            if new is None:
                return False
            changed = frame != new
            if not changed.any():
                return False
            went, came = count_values(frame[changed]), count_values(new[changed])
            old = copy_frame(frame)
            frame[...] = new
            self.cache.touch(t)
            self._count(t, came, went)
            before = {
                i: int(self._provenance[i].values[t])
                for i in came.keys() | went.keys()
                if i in self._provenance
            }
            for i in before:
                entry.touch(self.id, i, t, t + 1)
            record = self._push(entry, t, before, (old, copy_frame(frame), 0))
        record.pack()
        self._relieve()
        self._wake()
        return True

    def set_provenance(
        self,
        entry: Entry,
        object_id: int,
        start: int,
        stop: int,
        change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
    ) -> None:
        """Replace a range of an object's provenance by ``change(old)``."""
        with self.cache.lock:
            self._check_open()
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
            entry.touch(self.id, object_id, start, stop)
            data = Record.pack_range(old, new)
            marks = (Mark(object_id, 0, 0),)
            self._history.push(entry, self.id, (start, stop), "range", marks, data)
        self._wake()

    # -- reading -------------------------------------------------------------------------

    def masks(self, object_ids: Sequence[int], start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return the union of some objects' masks, shape (n, H, W)."""
        labels = self.cache.read(range(start, stop))
        if len(object_ids) == 1:
            mask: npt.NDArray[np.bool_] = labels == object_ids[0]
            return mask
        return np.isin(labels, list(object_ids))


def _counts(
    old: npt.NDArray[np.uint16], new: npt.NDArray[np.uint16], changed: npt.NDArray[np.bool_]
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


def drop_axes(value: npt.NDArray[Any], ndim: int) -> npt.NDArray[Any]:
    """Drop leading axes of length 1 beyond `ndim`, as numpy's assignment does."""
    while value.ndim > ndim and value.shape[0] == 1:
        value = value[0]
    return value


def _as_labels(value: Any) -> npt.NDArray[np.uint16]:
    labels = np.asarray(value)
    if labels.dtype == np.uint16:
        return labels
    if labels.dtype.kind not in "biuf" or (
        labels.size and not (labels.min() >= 0 and labels.max() <= 65535)
    ):
        raise ProjectError("A label is a whole number from 0 to 65535; choose one of those.")
    return labels.astype(np.uint16)
