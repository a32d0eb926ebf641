"""One label volume with its provenance: where a person's edits and the model's masks meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import FlowRVSError, ProjectError
from flowrvs.store._cache import FrameCache
from flowrvs.store._files import storage_error

__all__ = ["LayerVolume", "Provenance", "drop_axes"]

PROVENANCE_CHUNK = 4096
_BACKPRESSURE = 16


class Provenance(IntEnum):
    """Where an object's mask on a frame comes from.

    ``EMPTY``: nowhere yet. ``MODEL``: a run. ``HUMAN``: a person drew, erased or accepted
    it. ``LOCKED``: a person protected it. The model changes the first two only.
    """

    EMPTY = 0
    MODEL = 1
    HUMAN = 2
    LOCKED = 3


class LayerVolume:
    """The pixels of a layer and, for each of its objects, the provenance per frame.

    Everything that changes either happens under `cache.lock`, one frame at a time, so that
    the model and a painter exclude each other without making one wait for a whole window.

    Parameters
    ----------
    cache : FrameCache
        Its label volume, (T, H, W) uint16.
    claim : callable
        ``claim(ids)`` is called with pixel values that a person draws; it registers new
        objects, and raises `ProjectError` for an object of another layer.
    wake : callable
        Called after a change, to have it written soon.
    """

    def __init__(
        self,
        cache: FrameCache,
        claim: Callable[[Iterable[int]], None],
        wake: Callable[[], None],
    ) -> None:
        self.cache = cache
        self.shape = cache.shape
        self.path = cache.path
        self._claim = claim
        self._wake = wake
        self._sealed = False
        self._provenance: dict[int, npt.NDArray[np.uint8]] = {}
        self._makers: dict[int, Callable[[], Any]] = {}
        self._stores: dict[int, Any] = {}
        self._dirty: set[tuple[int, int]] = set()  # object, chunk
        self._flush_lock = threading.Lock()

    # -- provenance ----------------------------------------------------------------------

    def attach(
        self,
        object_id: int,
        make: Callable[[], Any],
        values: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Take in an object; ``make()`` opens the array for its provenance when it is needed.

        Not before: a stroke with a new label must not wait for the disk, or fail by it.
        """
        with self.cache.lock:
            self._makers[object_id] = make
            self._provenance[object_id] = (
                np.zeros(self.shape[0], np.uint8) if values is None else values
            )

    def detach(self, object_id: int) -> None:
        """Forget an object and erase its pixels."""
        with self.cache.lock:
            drawn = np.flatnonzero(self._provenance[object_id])
        for t in drawn:
            with self.cache.lock:
                frame = self.cache.frame(int(t))
                own = frame == object_id
                if own.any():
                    frame[own] = 0
                    self.cache.touch(int(t))
        with self.cache.lock:
            del self._provenance[object_id], self._makers[object_id]
            self._stores.pop(object_id, None)
            self._dirty = {(one, chunk) for one, chunk in self._dirty if one != object_id}
        self._wake()

    def provenance(self, object_id: int) -> npt.NDArray[np.uint8]:
        """Return a copy of an object's provenance, shape (T,)."""
        with self.cache.lock:
            return self._provenance[object_id].copy()

    def set_provenance(
        self, object_id: int, start: int, stop: int, change: Callable[..., npt.NDArray[np.uint8]]
    ) -> None:
        """Replace a range of an object's provenance by ``change(old)``."""
        with self.cache.lock:
            values = self._provenance[object_id]
            values[start:stop] = change(values[start:stop])
            first, last = start // PROVENANCE_CHUNK, max(start, stop - 1) // PROVENANCE_CHUNK
            self._dirty.update((object_id, chunk) for chunk in range(first, last + 1))
        self._wake()

    def _mark(self, object_id: int, t: int, value: Provenance) -> None:
        values = self._provenance[object_id]
        if values[t] < value:  # a lock stays a lock under a person's hand
            values[t] = value
            self._dirty.add((object_id, t // PROVENANCE_CHUNK))

    # -- a person ------------------------------------------------------------------------

    def edit(self, t: int, index: Any, value: Any) -> None:
        """Assign to a part of frame `t` as a person does.

        The objects whose pixels came or went become `Provenance.HUMAN` on this frame. An
        assignment that changes nothing says "this is right" about the values assigned, or
        about every object of the layer if it assigned background only.

        Raises
        ------
        ProjectError
            A value is no uint16, or the object of another layer.
        """
        with self.cache.lock:
            if self._sealed:
                raise ProjectError(f"{self.path.parents[1]} was closed; open it again to edit.")
            frame = self.cache.frame(t)
            old = np.asarray(frame[index])
            new = drop_axes(_as_labels(value), old.ndim)
            if new.shape != old.shape:
                new = np.broadcast_to(new, old.shape)
            changed = old != new
            if changed.any():
                drawn = _ids(new[changed])
                if not drawn <= self._provenance.keys():
                    self._claim(drawn)
                touched = drawn | _ids(old[changed])
                frame[index] = new
                self.cache.touch(t)
            else:
                touched = _ids(new) or set(self._provenance)
            for object_id in touched & self._provenance.keys():
                self._mark(object_id, t, Provenance.HUMAN)
        self._wake()

    # -- the model -----------------------------------------------------------------------

    def write_model(
        self, object_id: int, start: int, masks: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Replace an object's masks on frames that no person has touched.

        Returns
        -------
        ndarray of bool, shape (n,)
            The frames that were written.
        """
        written = np.zeros(len(masks), np.bool_)
        for i, mask in enumerate(masks):
            with self.cache.lock:
                written[i] = self._write_frame(object_id, start + i, mask)
            # A disk that is slower than the model must not fill the memory.
            if self.cache.dirty > max(_BACKPRESSURE, self.cache.capacity // 2):
                self.flush()
        self._wake()
        return written

    def _write_frame(self, object_id: int, t: int, mask: npt.NDArray[np.bool_]) -> bool:
        if self._provenance[object_id][t] >= Provenance.HUMAN:
            return False
        frame = self.cache.frame(t)
        own = frame == object_id
        wanted = mask
        kept = [k for k, v in self._provenance.items() if v[t] >= Provenance.HUMAN]
        if kept:
            wanted = mask & ~np.isin(frame, kept)
        if not np.array_equal(own, wanted):
            frame[own] = 0
            frame[wanted] = object_id
            self.cache.touch(t)
        self._mark(object_id, t, Provenance.MODEL)
        return True

    # -- reading -------------------------------------------------------------------------

    def masks(self, object_ids: Sequence[int], start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return the union of some objects' masks, shape (n, H, W)."""
        labels = self.cache.read(range(start, stop))
        if len(object_ids) == 1:
            mask: npt.NDArray[np.bool_] = labels == object_ids[0]
            return mask
        return np.isin(labels, list(object_ids))

    # -- the disk ------------------------------------------------------------------------

    def seal(self, sealed: bool) -> None:
        """Refuse edits from now on, or take them again."""
        with self.cache.lock:
            self._sealed = sealed

    @property
    def dirty(self) -> int:
        """Number of frames and provenance chunks that wait to be written."""
        return self.cache.dirty + len(self._dirty)

    def flush(self, before: Callable[[], None] | None = None) -> None:
        """Write what changed; provenance first.

        A kill between the two then leaves a frame marked as a person's without its last
        stroke, never a person's stroke that the model would paint over.

        Parameters
        ----------
        before : callable, optional
            Called before pixels are written, to save the objects that they may mean.

        Raises
        ------
        StorageError
            Something could not be written; it is kept and tried again at the next flush.
        """

        def first() -> None:
            if before is not None:
                before()
            self._flush_provenance()

        # Whoever flushes while another does waits for it: on return, all is on the disk.
        with self._flush_lock:
            first()
            self.cache.flush(before=first)

    def _flush_provenance(self) -> None:
        with self.cache.lock:
            waiting, self._dirty = self._dirty, set()
            copies = []
            for object_id, chunk in waiting:
                part = slice(chunk * PROVENANCE_CHUNK, (chunk + 1) * PROVENANCE_CHUNK)
                copies.append((object_id, part.start, self._provenance[object_id][part].copy()))
        try:
            futures = []
            for object_id, start, values in copies:
                if object_id not in self._stores:
                    self._stores[object_id] = self._makers[object_id]()
                store = self._stores[object_id]
                futures.append(store[start : start + len(values)].write(values))
            for future in futures:
                future.result()
        except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
            with self.cache.lock:
                self._dirty |= waiting
            if isinstance(error, FlowRVSError):
                raise
            raise storage_error(error, self.path) from error


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


def _ids(labels: npt.NDArray[np.uint16]) -> set[int]:
    """Return the values other than 0; counting is ten times as quick as sorting."""
    return {int(i) for i in np.flatnonzero(np.bincount(labels.ravel())) if i}
