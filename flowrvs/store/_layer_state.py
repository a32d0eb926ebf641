"""The state of a label volume: its frames, the tracks of its objects, and writing both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowrvs.errors import FlowRVSError, ProjectError
from flowrvs.store._cache import FrameCache
from flowrvs.store._entry import Entry
from flowrvs.store._tracks import Provenance, Track, Tracks
from flowrvs.store.history import History

__all__ = ["BACKPRESSURE", "Labels", "LayerState", "Pending", "count_values"]

BACKPRESSURE = 16
# Seconds that a person waits for a flush, and between tries on a disk that refuses.
_PATIENCE, _RETRY = 0.02, 2.0
# So many times what the cache holds may wait for the disk.
_OVERFULL = 2

Labels = npt.NDArray[np.uint16]


@dataclass(slots=True)
class Pending:
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


class LayerState:
    """The part of `LayerVolume` that knows objects and the disk."""

    def __init__(
        self,
        layer_id: int,
        cache: FrameCache,
        tracks: Tracks,
        history: History,
        claim: Callable[[Iterable[int], Entry], None],
        wake: Callable[[], None],
    ) -> None:
        self.id = layer_id
        self.cache = cache
        self.shape = cache.shape
        self.path = cache.path
        self._history = history
        self._claim = claim
        self._wake = wake
        self._sealed = False
        self._provenance = tracks.provenance
        self._areas = tracks.areas
        self._versions = tracks.versions
        self._members: set[int] = set()
        self._pending: dict[int, Pending] = {}
        self._painted = 0.0
        self._stuck = 0.0
        self._written = threading.Event()
        self._flush_lock = threading.Lock()
        cache.check = self._check_frame

    # -- objects -------------------------------------------------------------------------

    def attach(self, object_id: int) -> None:
        """Take in an object whose tracks are open; the document's lock is held."""
        # Another set, no lock: a layer's lock comes before the document's.
        self._members = self._members | {object_id}

    def detach(self, object_id: int) -> None:
        """Let go of an object; its pixels and tracks are not touched. See `attach`."""
        self._members = self._members - {object_id}

    def provenance(self, object_id: int) -> npt.NDArray[np.uint8]:
        """Return a copy of an object's provenance, shape (T,)."""
        with self.cache.lock:
            return self._provenance[object_id].values.copy()

    def locked(self, t: int) -> list[int]:
        """Return the objects that are locked on frame `t`."""
        with self.cache.lock:
            return self._locked_of(self._members, t)

    def _locked_of(self, object_ids: Iterable[int], t: int) -> list[int]:
        tracks, locked = self._provenance, Provenance.LOCKED
        return [i for i in object_ids if i in tracks and tracks[i].values.item(t) == locked]

    def areas(self, object_id: int) -> npt.NDArray[np.int32]:
        """Return a copy of an object's number of pixels per frame, shape (T,)."""
        self.measure()
        with self.cache.lock:
            return self._areas[object_id].values.copy()

    def restore(self, object_id: int) -> None:
        """Make provenance anew that could not be read: what is seen is a person's."""
        track = self._provenance[object_id]
        track.values[:] = Provenance.HUMAN  # where `measure` looks
        present = self.areas(object_id) > 0
        track.values[:] = np.where(present, Provenance.HUMAN, Provenance.EMPTY)

    def measure(self) -> None:
        """Count the pixels of objects whose areas were never counted (earlier formats)."""
        with self.cache.lock:
            unknown = [i for i in self._members if not self._areas[i].known]
            drawn = np.zeros(self.shape[0], np.bool_)
            for i in unknown:
                drawn |= self._provenance[i].values > Provenance.EMPTY
        for t in np.flatnonzero(drawn):
            with self.cache.lock:  # a frame at a time: painting goes on meanwhile
                counts = np.bincount(self.cache.read([int(t)]).ravel(), minlength=1)
                for i in unknown:
                    self._areas[i].values[t] = counts[i] if i < len(counts) else 0
        with self.cache.lock:
            for i in unknown:
                self._areas[i].known = True
                self._areas[i].touch(0, self.shape[0])

    #: Raises where the project's folder is gone.
    there: Callable[[], None] = staticmethod(lambda: None)
    #: Notes that a frame is empty that should not be, if so; see `ProjectCore`.
    missing: Callable[[int, int], bool] = staticmethod(lambda layer, t: False)

    def _check_frame(self, t: int) -> None:
        """Look twice at a frame that is empty: a disk that is gone looks the same."""
        areas = [self._areas[i] for i in self._members]
        if not any(not one.known or one.values[t] for one in areas):
            return
        self.there()
        drawn = [one for one in areas if one.known and one.values[t]]
        if drawn and self.missing(self.id, t):
            for one in drawn:
                one.values[t] = 0
                one.touch(t, t + 1)

    def own(self) -> None:
        """Count pixels that nobody seems to have drawn as a person's.

        A kill between the pixels of a step and its provenance leaves such; a run would draw
        over them.
        """
        with self.cache.lock:
            for i in self._members:
                track, areas = self._provenance[i], self._areas[i]
                if not areas.known:
                    continue
                stray = np.flatnonzero((areas.values > 0) & (track.values == Provenance.EMPTY))
                if len(stray):
                    track.values[stray] = Provenance.HUMAN
                    track.touch(int(stray[0]), int(stray[-1]) + 1)

    def _check_open(self) -> None:
        if self._sealed:
            raise ProjectError(f"{self.path.parents[1]} was closed; open it again to edit.")

    def _set(self, object_id: int, t: int, value: int) -> None:
        track = self._provenance[object_id]
        if track.values.item(t) < int(value):  # a lock stays a lock under a person's hand
            track.values[t] = value
            track.touch(t, t + 1)

    def _count(self, t: int, came: dict[int, int], went: dict[int, int]) -> None:
        for object_id in came.keys() | went.keys():
            track = self._areas.get(object_id)
            if track is not None:
                track.values[t] += came.get(object_id, 0) - went.get(object_id, 0)
                track.touch(t, t + 1)

    # -- the disk ------------------------------------------------------------------------

    def seal(self, sealed: bool) -> None:
        """Refuse edits from now on, or take them again."""
        with self.cache.lock:
            self._sealed = sealed

    @property
    def dirty(self) -> int:
        """Number of frames and pieces of provenance that wait to be written."""
        with self.cache.lock:
            waiting = sum(track.dirty for track in self._tracks())
        return self.cache.dirty + waiting

    #: Called before pixels are written, to save the objects and the changes that they mean.
    before: Callable[[], None] = staticmethod(lambda: None)

    #: Has the thread that writes begin at once.
    hurry: Callable[[], None] = staticmethod(lambda: None)

    def flush(self) -> None:
        """Write what changed; provenance first.

        A kill between the two then leaves a frame marked as a person's without its last
        stroke, never a person's stroke that the model would paint over.

        Raises
        ------
        StorageError
            Something could not be written; it is kept and tried again at the next flush.
        """

        # Whoever flushes while another does waits for it: on return, all is on the disk.
        with self._flush_lock:
            self.flush_held()

    def flush_held(self) -> None:
        """Do what `flush` does, for one who holds `flush_lock`."""
        try:
            self._flush_tracks()
            self.cache.flush(before=self._flush_tracks)
        except FlowRVSError:
            self._stuck = time.monotonic() + _RETRY
            raise
        finally:
            self._written.set()

    def waiting(self) -> tuple[list[tuple[int, Labels]], list[Track]]:
        """Return copies of frames and tracks that are not on the disk yet. Needs `cache.lock`."""
        return self.cache.waiting(), [track.copy() for track in self._tracks() if track.dirty]

    @property
    def flush_lock(self) -> threading.Lock:
        """Held while frames are written; taken before any layer's lock, by their ids."""
        return self._flush_lock

    def _tracks(self) -> list[Track]:
        areas = [self._areas[i] for i in self._members]
        # Areas that were never counted are none yet.
        return [self._provenance[i] for i in self._members] + [a for a in areas if a.known]

    def _flush_tracks(self) -> None:
        self._written.set()  # a batch, or all
        with self.cache.lock:
            taken = [(track, track.take()) for track in self._tracks() if track.dirty]
        try:
            self.before()  # after the copies: what they hold must be in the journal
            for wait in [track.write(pieces) for track, pieces in taken]:
                wait()
        except BaseException:
            with self.cache.lock:
                for track, pieces in taken:
                    track.give_back(pieces)
            raise

    def _relieve(self) -> None:
        """Write what changed if much is waiting: a slow disk must not fill the memory."""
        if self.cache.dirty > max(BACKPRESSURE, self.cache.capacity // 2):
            self.flush()

    def make_room(self) -> None:
        """Slow a person down who changes frames more quickly than the disk takes them.

        Call it without locks. The thread that writes is told to hurry, and waited for no
        longer than a person notices; only much more than the cache holds is written here.
        What cannot be written stays in memory; the next flush tells why.
        """
        if self.cache.dirty <= self.cache.capacity or time.monotonic() < self._stuck:
            return
        self._written.clear()
        self.hurry()
        if self.cache.dirty <= _OVERFULL * self.cache.capacity:
            self._written.wait(_PATIENCE)
        elif self._flush_lock.acquire(timeout=_PATIENCE):
            try:
                self.cache.flush(before=self._flush_tracks, frames=BACKPRESSURE)
            except FlowRVSError:
                self._stuck = time.monotonic() + _RETRY
            finally:
                self._flush_lock.release()


def count_values(labels: npt.NDArray[np.uint16]) -> dict[int, int]:
    """Return how often each value but 0 occurs; counting is ten times as quick as sorting."""
    flat = labels.ravel()
    if len(flat) and (flat == flat[0]).all():  # a brush over one object
        return {int(flat[0]): len(flat)} if flat[0] else {}
    counts = np.bincount(flat)
    return {int(i): int(counts[i]) for i in np.flatnonzero(counts) if i}
