"""The frames of a layer in memory, who drew them, and writing both.

A cache of our own makes painting as quick as on an array in memory: tensorstore's would be asked
for a copy of a frame at every stamp of a brush.
"""

from __future__ import annotations

import math
import mmap
import threading
import time
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.disk import storage_error
from flowrvs.errors import FlowRVSError, ProjectError
from flowrvs.store.changes import Labels, Record
from flowrvs.store.moves import Move, is_file, run_moves
from flowrvs.store.storage import Provenance, Track, Tracks, check_chunk, failed, free_chunk

if TYPE_CHECKING:
    from flowrvs.store.state import State

__all__ = [
    "CROWDED",
    "FrameCache",
    "LayerFrames",
    "copy_frame",
    "count_values",
    "new_frame",
]

CROWDED = 16
"""So many changes are packed, or written, by who makes them."""

# Seconds that a person waits for a flush, and between tries on a disk that refuses.
_PATIENCE, _RETRY = 0.02, 2.0
# So many times what the cache holds may wait for the disk; so many moves count as one frame.
_OVERFULL, _LIGHT = 2, 16

# -- memory of frames ------------------------------------------------------------------

_SMALL = 64 * 1024
_SPARE_BYTES = 16 * 2**20  # what is kept of one size for the next frames

# Deques, not a list under a lock: a frame can be dropped at any moment, also while this
# thread takes another one.
_spare: defaultdict[int, deque[mmap.mmap]] = defaultdict(deque)


def new_frame(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Labels:
    """Return an array whose content is left to chance; a large one has pages of its own.

    malloc keeps freed frames for the thread that made them: a few threads that pass frames
    on to each other hold hundreds of MiB of free memory after a minute. Fresh pages cost up
    to 0.7 ms a frame, which is more than a stamp of a brush, so some are kept.
    """
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    if count * dtype.itemsize < _SMALL:
        return np.empty(shape, dtype)
    size = 1 << (count * dtype.itemsize - 1).bit_length()
    try:
        pages = _spare[size].pop()
    except IndexError:
        pages = mmap.mmap(-1, size)
    whole = np.frombuffer(pages, dtype, count)
    # Views refer to `whole`, so this happens after the last of them is gone.
    weakref.finalize(whole, _drop, size, pages).atexit = False
    frame: Labels = whole.reshape(shape)
    return frame


def copy_frame(frame: Labels) -> Labels:
    """Return a C-contiguous copy, in memory of its own if it is large."""
    copy = new_frame(frame.shape, frame.dtype)
    np.copyto(copy, frame)
    return copy


def _drop(size: int, pages: mmap.mmap) -> None:
    if (len(_spare[size]) + 1) * size <= _SPARE_BYTES:
        _spare[size].append(pages)


# -- frames ----------------------------------------------------------------------------

_MAX_FRAMES = 64
_MAX_BYTES = 128 * 2**20
_BATCH_BYTES = 32 * 2**20


class FrameCache:
    """Frames of a (T, H, W) array in memory, written back whole.

    It makes painting as quick as on an array in memory. Frames that wait to be written are
    never dropped, whatever becomes of the disk; the others leave in the order in which they
    were last used. Every method that hands out or takes the cache's own arrays must be called
    under `lock`.

    The tensorstore `array` has a chunk a frame. ``check(t)`` is called with a frame that is read
    as empty; it raises if the disk that it should lie on is gone.
    """

    def __init__(self, array: Any, path: Path, check: Callable[[int], None]) -> None:
        self._array = array
        self._check = check
        self.path = path
        self.shape: tuple[int, int, int] = tuple(array.shape)
        self.frame_bytes = self.shape[1] * self.shape[2] * 2
        self.share(1)
        self.lock = threading.RLock()  # held for one frame's work at most
        self.changed = np.zeros(self.shape[0], np.int64)  # others whenever frames have changed
        self._frames: OrderedDict[int, Labels] = OrderedDict()
        self._dirty: dict[int, int] = {}  # frame -> `changed` when it was last touched
        self._moves: dict[int, Move] = {}  # frames that are not in memory, and move by their files

    def share(self, caches: int) -> None:
        """Take an equal part of the memory that all caches of a project may use."""
        self.capacity = max(4, min(_MAX_FRAMES, _MAX_BYTES // caches // self.frame_bytes))

    @property
    def dirty(self) -> int:
        """Number of frames that wait to be written."""
        return len(self._dirty) + len(self._moves)

    @property
    def burden(self) -> int:
        """As `dirty`, but files to be moved need little memory, and count little."""
        return len(self._dirty) + len(self._moves) // _LIGHT

    def __contains__(self, t: int) -> bool:
        return t in self._frames or t in self._moves

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, t: int) -> Labels:
        """Return the cached frame itself; call `touch` after changing it. Needs `lock`."""
        frame = self._frames.get(t)
        if frame is None:
            move = self._moves.pop(t, None)
            loaded = self._loaded(self._load(t), t) if move is None else move.frame(self.shape[1:])
            frame = copy_frame(loaded)
            self._evict(room=1)  # before, or it might be the only one that can leave
            self._frames[t] = frame
            if move is not None:
                self._dirty[t] = move.change
        else:
            self._frames.move_to_end(t)
        return frame

    def touch(self, t: int) -> None:
        """Mark a frame as changed, to be written at the next flush. Needs `lock`."""
        self.changed[t] += 1
        self._dirty[t] = self.changed.item(t)

    def move(self, t: int, kept: str, record: Record | None) -> bool:
        """Empty a frame that is not in memory, or give an empty one what `record` drew.

        Its file is moved, at the next flush; False where the kept one is not there. Needs `lock`.
        """
        if record is not None and not is_file(kept):
            return False
        self.changed[t] += 1
        source, target = (str(self.file(t)), kept)[:: 1 if record is None else -1]
        self._moves[t] = Move(self.changed.item(t), source, target, record)
        return True

    def waiting(self) -> list[tuple[int, Labels]]:
        """Return copies of the frames that wait to be written. Needs `lock`."""
        moved = [(t, move.frame(self.shape[1:])) for t, move in self._moves.items()]
        return [*((t, copy_frame(self._frames[t])) for t in self._dirty), *moved]

    def file(self, t: int) -> Path:
        """Return where a frame lies."""
        return self.path / f"c.{t}.0.0"

    def stored(self) -> list[int]:
        """Return the frames that lie on the disk or in memory."""
        names = [entry.name.split(".") for entry in self.path.glob("c.*.0.0")]
        return [*(int(name[1]) for name in names if name[1].isdecimal()), *self._frames]

    def in_memory(self) -> list[tuple[int, Labels]]:
        """Return copies of the frames in memory. Needs `lock`."""
        return [(t, copy_frame(frame)) for t, frame in self._frames.items()]

    def read(self, frames: Sequence[int]) -> Labels:
        """Return copies of some frames, shape (n, H, W), without filling the cache."""
        out = np.empty((len(frames), *self.shape[1:]), np.uint16)
        step = max(1, _BATCH_BYTES // self.frame_bytes)
        for first in range(0, len(frames), step):
            self._read_into(out[first : first + step], frames[first : first + step])
        return out

    def _read_into(self, out: Labels, frames: Sequence[int]) -> None:
        missing = []
        with self.lock:
            for i, t in enumerate(frames):
                if t in self._moves:
                    out[i] = self._moves[t].frame(self.shape[1:])
                elif t in self._frames:
                    out[i] = self._frames[t]
                else:
                    missing.append((i, t, self._load(t)))
            # Waiting under the lock: a frame that left it could be changed, written and
            # read again by others while these reads are under way.
            for i, t, future in missing:
                out[i] = self._loaded(future, t)

    def flush(self, before: Callable[[], None], frames: int | None = None) -> None:
        """Write what was dirty when this began, or some frames of it; one thread at a time.

        `before` is called before each batch, after its frames were copied. A frame that could
        not be written, a `StorageError`, stays in memory, dirty, and is the last one next time:
        it does not keep the others from the disk.
        """
        with self.lock:
            waiting = list(self._dirty)[:frames]
        step = max(1, min(16, _BATCH_BYTES // self.frame_bytes))
        for first in range(0, len(waiting), step):
            self._write(waiting[first : first + step], before)
        if self._moves and frames is None:
            self._run_moves(before)

    def _run_moves(self, before: Callable[[], None]) -> None:
        with self.lock:
            moves = dict(self._moves)
        before()
        # Files that go are not read meanwhile, and what is drawn meanwhile is written later.
        missing = list(run_moves(moves))
        with self.lock:
            for t in missing:
                if self._moves.get(t) is moves[t]:
                    self.frame(t)  # written at the next flush
            self._moves = {t: m for t, m in self._moves.items() if moves.get(t) is not m}

    def _write(self, batch: list[int], before: Callable[[], None]) -> None:
        copies = []
        for t in batch:
            with self.lock:  # a frame at a time: a brush waits for it
                copies.append((t, self._dirty[t], copy_frame(self._frames[t])))
        before()
        failure: Exception | None = None
        futures = []
        for t, change, frame in copies:
            try:
                free_chunk(f"{self.path}/c.{t}.0.0")
                futures.append((t, change, self._array[t].write(frame)))
            except OSError as error:
                failure = error
        for t, change, future in futures:
            try:
                future.result()
            except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
                failure = error
                continue
            with self.lock:
                if self._dirty.get(t) == change:
                    del self._dirty[t]
        with self.lock:
            if failure is not None:
                for t in batch:
                    if t in self._dirty:
                        self._dirty[t] = self._dirty.pop(t)
            self._evict()
        if failure is not None:
            raise failed(failure, self.path) from failure

    def _evict(self, room: int = 0) -> None:
        excess = len(self._frames) + room - self.capacity
        if excess > 0:
            for t in [t for t in self._frames if t not in self._dirty][:excess]:
                del self._frames[t]

    def _load(self, t: int) -> Any:
        try:
            check_chunk(f"{self.path}/c.{t}.0.0", self.frame_bytes)
        except ValueError as error:
            raise self._unreadable(t, error) from None
        return self._array[t].read()

    def _loaded(self, future: Any, t: int) -> Labels:
        try:
            frame: Labels = future.result()
        except Exception as error:
            raise self._unreadable(t, error) from error
        if not frame.any():
            self._check(t)
        return frame

    def _unreadable(self, t: int, error: Exception) -> FlowRVSError:
        file = self.file(t)
        told = str(storage_error(error, file, doing="read"))
        reason = told.removeprefix(f"Cannot read {file}: ").rstrip(".")
        what_to_do = "the file itself may be whole: try again"
        # The name of a folder says nothing of what lies in it.
        said = str(error).replace(str(self.path), "").lower()
        broken = any(sign in said for sign in ("zstd", "data_loss", "invalid"))
        if broken or said.startswith("it is "):  # from `check_chunk`
            reason = "it is damaged" if broken else reason
            what_to_do = f"restore {file.name} from a copy, or delete it"
        return ProjectError(f"Frame {t} in {self.path} cannot be read: {reason}; {what_to_do}.")


def count_values(labels: Labels) -> dict[int, int]:
    """Return how often each value but 0 occurs; counting is ten times as quick as sorting."""
    flat = labels.ravel()
    if len(flat) and (flat == flat[0]).all():  # a brush over one object
        return {int(flat[0]): len(flat)} if flat[0] else {}
    counts = np.bincount(flat)
    return {int(i): int(counts[i]) for i in np.flatnonzero(counts) if i}


# -- a layer ---------------------------------------------------------------------------


class LayerFrames:
    """The pixels of a layer and, for each of its objects, provenance and area per frame.

    All of it is changed under `lock`, one frame at a time. `flush_lock` is held while frames are
    written, and taken before any layer's lock, by their ids. `tracks` are those of all objects of
    the project.
    """

    def __init__(self, layer_id: int, array: Any, path: Path, tracks: Tracks, host: State) -> None:
        self.id = layer_id
        self.path = path
        self.cache = FrameCache(array, path, self._check_frame)
        self.shape = self.cache.shape
        self.lock = self.cache.lock
        self.flush_lock = threading.Lock()
        self.tracks = tracks
        self.members: frozenset[int] = frozenset()  # the objects that live here
        self._host = host
        self._sealed = False
        self._stuck = 0.0
        self._written = threading.Event()

    def attach(self, object_id: int) -> None:
        """Take in an object whose tracks are open; the document's lock is held."""
        # Another set, no lock: a layer's lock comes before the document's.
        self.members = self.members | {object_id}

    def detach(self, object_id: int) -> None:
        """Let go of an object; its pixels and tracks are not touched. See `attach`."""
        self.members = self.members - {object_id}

    def provenance(self, object_id: int) -> npt.NDArray[np.uint8]:
        """Return a copy of an object's provenance, shape (T,)."""
        with self.lock:
            return self.tracks.provenance[object_id].values.copy()

    def locked(self, t: int) -> list[int]:
        """Return the objects that are locked on frame `t`."""
        with self.lock:
            return self.locked_of(self.members, t)

    def locked_of(self, object_ids: Iterable[int], t: int) -> list[int]:
        tracks, locked = self.tracks.provenance, Provenance.LOCKED
        return [i for i in object_ids if i in tracks and tracks[i].values.item(t) == locked]

    def areas(self, object_id: int) -> npt.NDArray[np.int32]:
        """Return a copy of an object's number of pixels per frame, shape (T,)."""
        self._measure()
        with self.lock:
            return self.tracks.areas[object_id].values.copy()

    def areas_on(self, t: int) -> dict[int, int] | None:
        """Return how many pixels of each object a frame has; None where that is not known."""
        areas = {i: self.tracks.areas[i] for i in self.members}
        known = all(area.known for area in areas.values())
        return {i: n for i, area in areas.items() if (n := area.values.item(t))} if known else None

    def masks(self, object_ids: Sequence[int], start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return the union of some objects' masks, shape (n, H, W)."""
        labels = self.cache.read(range(start, stop))
        if len(object_ids) == 1:
            mask: npt.NDArray[np.bool_] = labels == object_ids[0]
            return mask
        return np.isin(labels, list(object_ids))

    def restore(self, object_id: int) -> None:
        """Make provenance anew that could not be read: what is seen is a person's."""
        track = self.tracks.provenance[object_id]
        track.values[:] = Provenance.HUMAN  # where `_measure` looks
        present = self.areas(object_id) > 0
        track.values[:] = np.where(present, Provenance.HUMAN, Provenance.EMPTY)

    def strays(self, *, count: bool) -> list[tuple[int, int]]:
        """Return (object, frame) of pixels that nobody seems to have drawn.

        A kill between the pixels of a step and its provenance leaves such. `count` says that
        areas which the disk does not have are to be counted from the frames: a kill, not an
        earlier format, is the reason.
        """
        found: list[tuple[int, int]] = []
        with self.lock:
            for i in self.members if count else ():
                areas = self.tracks.areas[i]
                if not areas.known and not self.tracks.provenance[i].known:
                    areas.known = True  # it was never drawn, or the journal said where
        if count:
            self._measure(everywhere=True)
        with self.lock:
            for i in self.members:
                track, areas = self.tracks.provenance[i], self.tracks.areas[i]
                if not areas.known:
                    continue
                stray = np.flatnonzero((areas.values > 0) & (track.values == Provenance.EMPTY))
                found += [(i, t) for t in stray.tolist()]
        return found

    def recount(self, t: int) -> None:
        """Count the pixels of all objects on a frame anew."""
        with self.lock:
            counts = count_values(self.cache.frame(t))
            for area, i in ((self.tracks.areas[i], i) for i in self.members):
                area.values[t] = counts.get(i, 0)
                area.touch(t, t + 1)

    def _measure(self, *, everywhere: bool = False) -> None:
        """Count the pixels of objects whose areas are not known, on frames with provenance."""
        with self.lock:
            unknown = [i for i in self.members if not self.tracks.areas[i].known]
            drawn = np.zeros(self.shape[0], np.bool_)
            for i in unknown:
                drawn |= self.tracks.provenance[i].values > Provenance.EMPTY
            if everywhere and unknown:
                drawn[[t for t in self.cache.stored() if t < len(drawn)]] = True
        readable = True
        for t in np.flatnonzero(drawn):
            with self.lock:  # a frame at a time: painting goes on meanwhile
                try:
                    counts = count_values(self.cache.read([int(t)]))
                except ProjectError:  # it says so itself when it is asked for
                    readable = False
                    continue
                for i in unknown:
                    self.tracks.areas[i].values[t] = counts.get(i, 0)
        with self.lock:
            for i in unknown:
                self.tracks.areas[i].known = True
                if readable:  # else they are counted again another time
                    self.tracks.areas[i].touch(0, self.shape[0])

    def _check_frame(self, t: int) -> None:
        """Look twice at a frame that is empty: a disk that is gone looks the same."""
        areas = [self.tracks.areas[i] for i in self.members]
        if not any(not area.known or area.values[t] for area in areas):
            return
        self._host.check_there()
        drawn = [area for area in areas if area.known and area.values[t]]
        if drawn and self._host.frame_missing(self.id, t):
            for area in drawn:
                area.values[t] = 0
                area.touch(t, t + 1)

    def check_open(self) -> None:
        if self._sealed:
            raise ProjectError(f"{self.path.parents[1]} was closed; open it again to edit.")

    def raise_to(self, value: int, object_id: int, t: int) -> None:
        track = self.tracks.provenance[object_id]
        if track.values.item(t) < int(value):  # a lock stays a lock under a person's hand
            track.values[t] = value
            track.touch(t, t + 1)

    def count(self, t: int, came: dict[int, int], went: dict[int, int]) -> None:
        for object_id in came.keys() | went.keys():
            track = self.tracks.areas.get(object_id)
            if track is not None:
                track.values[t] += came.get(object_id, 0) - went.get(object_id, 0)
                track.touch(t, t + 1)

    def seal(self, sealed: bool) -> None:
        """Refuse edits from now on, or take them again."""
        with self.lock:
            self._sealed = sealed

    @property
    def dirty(self) -> int:
        """Number of frames and pieces of provenance that wait to be written."""
        with self.lock:
            waiting = sum(track.dirty for track in self._tracks())
        return self.cache.dirty + waiting

    def flush(self) -> None:
        """Write what changed; provenance first.

        A kill between the two then leaves a frame marked as a person's without its last
        stroke, never a person's stroke that the model would paint over. What could not be
        written, a `StorageError`, is kept and tried again at the next flush.
        """
        # Whoever flushes while another does waits for it: on return, all is on the disk.
        with self.flush_lock:
            try:
                self._flush_tracks()
                self.cache.flush(self._flush_tracks)
            except FlowRVSError:
                self._stuck = time.monotonic() + _RETRY
                raise
            finally:
                self._written.set()

    def waiting(self) -> tuple[list[tuple[int, Labels]], list[Track]]:
        """Return copies of frames and tracks that are not on the disk yet. Needs `lock`."""
        return self.cache.waiting(), [track.copy() for track in self._tracks() if track.dirty]

    def _tracks(self) -> list[Track]:
        areas = [self.tracks.areas[i] for i in self.members]
        # Areas that were never counted are none yet.
        return [self.tracks.provenance[i] for i in self.members] + [a for a in areas if a.known]

    def _flush_tracks(self) -> None:
        self._written.set()  # a batch, or all
        with self.tracks.writing:
            with self.lock:
                taken = [(track, track.take()) for track in self._tracks() if track.dirty]
            try:
                self._host.before_pixels()  # after the copies: the journal must hold what they do
                for wait in [track.write(pieces) for track, pieces in taken]:
                    wait()
            except BaseException:
                with self.lock:
                    for track, pieces in taken:
                        track.give_back(pieces)
                raise

    def relieve(self) -> None:
        """Write what changed if much is waiting: a slow disk must not fill the memory."""
        if self.cache.burden > max(CROWDED, self.cache.capacity // 2):
            self.flush()

    def make_room(self) -> None:
        """Slow a person down who changes frames more quickly than the disk takes them.

        Call it without locks. The thread that writes is told to hurry, and waited for no
        longer than a person notices; only much more than the cache holds is written here.
        What cannot be written stays in memory; the next flush tells why.
        """
        if self.cache.burden <= self.cache.capacity or time.monotonic() < self._stuck:
            return
        self._written.clear()
        self._host.hurry()
        if self.cache.burden <= _OVERFULL * self.cache.capacity:
            self._written.wait(_PATIENCE)
        elif self.flush_lock.acquire(timeout=_PATIENCE):
            try:
                self.cache.flush(self._flush_tracks, frames=CROWDED)
            except FlowRVSError:
                self._stuck = time.monotonic() + _RETRY
            finally:
                self.flush_lock.release()
