"""What is known of each object per frame: provenance, area, and the last change."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import FlowRVSError
from flowrvs.store._files import create_array, open_array, storage_error

__all__ = ["Provenance", "Track", "Tracks", "Versions"]

_CHUNK = 4096


class Provenance(IntEnum):
    """Where an object's mask on a frame comes from.

    ``EMPTY``: nowhere yet. ``MODEL``: a run. ``HUMAN``: a person drew, erased or accepted
    it. ``LOCKED``: a person protected it. The model changes the first two only.
    """

    EMPTY = 0
    MODEL = 1
    HUMAN = 2
    LOCKED = 3


class Track:
    """One number a frame, in memory, whose changed pieces are written to a zarr array.

    The array is made when it is first written: a stroke with a new label must not wait for
    the disk, or fail by it.

    Parameters
    ----------
    path : Path
        Folder of the array.
    frames : int
        Its length.
    dtype : str
        ``"uint8"`` or ``"int32"``.
    new : bool
        Begin with zeros, whatever a crash left there.

    Attributes
    ----------
    values : ndarray, shape (T,)
        Call `touch` after changing them.
    known : bool
        False where the disk held nothing, as in projects of an earlier format.
    damaged : bool
        The disk held something that cannot be read; it is zero and made anew.
    """

    def __init__(self, path: Path, frames: int, dtype: str, *, new: bool) -> None:
        self._path = path
        self._frames = frames
        self._dtype = dtype
        self._array: Any = None
        self._dirty: set[int] = set()
        # A folder without it is one that a kill left behind.
        self.known = new or (path / "zarr.json").exists()
        self.damaged = False
        self.values: npt.NDArray[Any] = np.zeros(frames, dtype)
        if new or not self.known:
            if new and path.exists():
                self.touch(0, frames)
            return
        try:
            self._array = open_array(path, (frames,), dtype)
            self.values = np.array(self._array.read().result())
        except Exception:  # tensorstore raises ValueError, RuntimeError, ...
            self._array, self.known, self.damaged = None, False, True
            self.touch(0, frames)

    @property
    def dirty(self) -> int:
        """Number of pieces that wait to be written."""
        return len(self._dirty)

    def touch(self, start: int, stop: int) -> None:
        """Have a range written at the next flush."""
        if start < stop:
            self._dirty.update(range(start // _CHUNK, (stop - 1) // _CHUNK + 1))

    @property
    def path(self) -> Path:
        """Folder of the array."""
        return self._path

    def copy(self) -> Track:
        """Return another track of the same values, which nothing changes."""
        other = copy.copy(self)
        other.values = self.values.copy()
        return other

    def write_at(self, path: Path) -> None:
        """Write all of it to another place."""
        frames = len(self.values)
        chunk = (min(frames, _CHUNK),)
        array = create_array(path, (frames,), chunk, self._dtype, ("t",))
        array.write(self.values).result()

    def take(self) -> list[tuple[int, npt.NDArray[Any]]]:
        """Return copies of the pieces that changed, and count them as written."""
        waiting, self._dirty = self._dirty, set()
        return [(c, self.values[c * _CHUNK : (c + 1) * _CHUNK].copy()) for c in sorted(waiting)]

    def give_back(self, pieces: Iterable[tuple[int, Any]]) -> None:
        """Count pieces as changed again."""
        self._dirty.update(chunk for chunk, _ in pieces)

    def write(self, pieces: list[tuple[int, npt.NDArray[Any]]]) -> Callable[[], None]:
        """Begin to write pieces; the result waits for them.

        Raises
        ------
        StorageError
            They cannot be written.
        """
        try:
            if self._array is None:
                chunk = (min(self._frames, _CHUNK),)
                self._array = create_array(self._path, (self._frames,), chunk, self._dtype, ("t",))
            futures = [
                self._array[c * _CHUNK : c * _CHUNK + len(values)].write(values)
                for c, values in pieces
            ]
        except Exception as error:
            raise _told(error, self._path) from error

        def wait() -> None:
            try:
                for future in futures:
                    future.result()
            except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
                raise _told(error, self._path) from error

        return wait


def _told(error: Exception, path: Path) -> FlowRVSError:
    return error if isinstance(error, FlowRVSError) else storage_error(error, path)


class Versions:
    """Number of the last change of each object on each frame that is in force; 0 for none.

    What earlier sessions changed is read from the journal, a frame at a time when it is first
    asked for.

    Parameters
    ----------
    frames : int
        Of the video.

    Attributes
    ----------
    source : callable
        ``source(start, stop)`` yields the (object, frame, number) of changes of frames.
    """

    def __init__(self, frames: int) -> None:
        self._chunks: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self._learned = np.zeros(frames, np.bool_)
        self._lock = threading.Lock()
        self.source: Callable[[int, int], Iterable[tuple[int, int, int]]] = lambda start, stop: ()

    def _learn(self, start: int, stop: int) -> None:
        with self._lock:  # two layers may ask for one frame at once
            unknown = start + np.flatnonzero(~self._learned[start:stop])
            if not len(unknown):
                return
            first, last = int(unknown[0]), int(unknown[-1]) + 1
            for object_id, t, seq in self.source(first, last):
                if not self._learned[t] and self._get(object_id, t) < seq:
                    self.set(object_id, t, seq)
            self._learned[first:last] = True

    def get(self, object_id: int, t: int) -> int:
        """Return the number of the last change."""
        if not self._learned[t]:
            self._learn(t, t + 1)
        return self._get(object_id, t)

    def _get(self, object_id: int, t: int) -> int:
        chunk = self._chunks.get((object_id, t // _CHUNK))
        return 0 if chunk is None else int(chunk[t % _CHUNK])

    def set(self, object_id: int, t: int, seq: int) -> None:
        """Note a change."""
        key = (object_id, t // _CHUNK)
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunks[key] = np.zeros(_CHUNK, np.int64)
        chunk[t % _CHUNK] = seq

    def part(self, object_id: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the numbers of a range."""
        self._learn(start, stop)
        out = np.zeros(stop - start, np.int64)
        for chunk in range(start // _CHUNK, (max(start, stop - 1)) // _CHUNK + 1):
            values = self._chunks.get((object_id, chunk))
            if values is not None:
                first, last = max(start, chunk * _CHUNK), min(stop, (chunk + 1) * _CHUNK)
                out[first - start : last - start] = values[
                    first - chunk * _CHUNK : last - chunk * _CHUNK
                ]
        return out


class Tracks:
    """What is known of every object of a project; the lock of its layer guards it.

    Attributes
    ----------
    provenance, areas : dict of int to Track
        By object id; objects that were removed stay, should the removal be undone.
    versions : Versions
        Numbers of the last changes.
    """

    def __init__(self, project: Path, frames: int) -> None:
        self._project = project
        self._frames = frames
        self.provenance: dict[int, Track] = {}
        self.areas: dict[int, Track] = {}
        self.versions = Versions(frames)

    def open(self, object_id: int, *, new: bool = False) -> None:
        """Take in an object, a `new` one or one that the disk knows."""
        if object_id not in self.provenance:
            name, frames = str(object_id), self._frames
            self.provenance[object_id] = Track(
                self._project / "provenance" / name, frames, "uint8", new=new
            )
            self.areas[object_id] = Track(self._project / "areas" / name, frames, "int32", new=new)
