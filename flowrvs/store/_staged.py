"""New pixels of many frames, made beside a project and put into it once all are ready."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.disk import sync_folder
from flowrvs.errors import StorageError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store._delta import decode, encode
from flowrvs.store._entry import Entry
from flowrvs.store._files import create_array, storage_error
from flowrvs.store._journal import Mark, Record
from flowrvs.store._layer import LayerVolume
from flowrvs.store._layer_state import count_values
from flowrvs.store._memory import copy_frame
from flowrvs.store.history import History

__all__ = ["Staged"]

Labels = npt.NDArray[np.uint16]

#: Frames of the layers, in their order, to what they become; None for one that stays.
Change = Callable[[int, list[Labels]], Sequence[Labels | None]]

_Stamp = tuple[tuple[int, int], ...]
_Said = tuple[int, Record, "_Part | None"]

# Frames that are made in place, that are moved at once, and that are being written.
_FEW, _BATCH, _WAITING = 16, 512, 16

# Frames that are moved under one lock, and threads that do it: each mostly waits.
_TOGETHER, _THREADS = 16, 8

# Seconds until a cancel is looked for again.
_MOMENT = 0.05


@dataclass(frozen=True, slots=True)
class _Part:
    """A frame of a layer that is ready.

    Attributes
    ----------
    layer : int
        Which of the layers.
    t : int
        The frame.
    place, size : int
        Where its difference lies in the spool.
    came, went : tuple of (int, int)
        Pixels of each object, by id.
    """

    layer: int
    t: int
    place: int
    size: int
    came: tuple[tuple[int, int], ...]
    went: tuple[tuple[int, int], ...]


class Staged:
    """Makes new frames in a folder of its own, and then moves them where they belong.

    Until `finish` nothing of the project has changed: whoever stops before has nothing to
    undo, however many frames are ready. `finish` costs little more than renaming files. A
    context manager; the folder goes with it, and those that a kill left are swept. A few
    frames need no folder: they are made when they are put in.

    Parameters
    ----------
    project : Path
        Its folder.
    volumes : sequence of LayerVolume
        The layers that change.
    history : History
        Takes what changes.
    """

    def __init__(self, project: Path, volumes: Sequence[LayerVolume], history: History) -> None:
        self._layers = [_Layer(volume, history) for volume in volumes]
        self._history = history
        self._project = project
        self._parts: dict[int, list[_Part]] = {}
        self._seen: dict[int, list[_Stamp] | None] = {}
        self._change: Change = lambda t, frames: [None] * len(frames)
        self._folder: Path | None = None
        self._waiting: deque[Any] = deque()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Staged:
        return self

    def _open(self) -> Path:
        for left in self._project.glob(".staged-*.partial"):
            if str(left) not in _active:
                shutil.rmtree(left, ignore_errors=True)
        try:
            folder = tempfile.mkdtemp(prefix=".staged-", suffix=".partial", dir=self._project)
            _active.add(folder)
            self._folder = Path(folder)
            self._spool = open(self._folder / "spool", "w+b")  # noqa: SIM115 - until __exit__
        except OSError as error:
            raise storage_error(error, self._project) from error
        shapes = [layer.volume.shape for layer in self._layers]
        self._arrays = [
            create_array(self._folder / str(i), shape, (1, *shape[1:]), "uint16", "tyx")
            for i, shape in enumerate(shapes)
        ]
        self._pool = ThreadPoolExecutor(_THREADS, "flowrvs-move")
        return self._folder

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._folder is not None:
            # Nobody need wait for writes of what is not wanted any more.
            waiting = [*self._waiting]
            threading.Thread(target=_sweep, args=(self._folder, waiting), daemon=True).start()
            with contextlib.suppress(AttributeError):
                self._spool.close()
        if self._pool is not None:
            self._pool.shutdown()

    # -- beside the project --------------------------------------------------------------

    def make(
        self,
        frames: Iterable[int],
        change: Change,
        message: str = "",
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Make new frames.

        Parameters
        ----------
        frames : iterable of int
            Which.
        change : callable
            ``change(t, frames)`` gives the new frames; it is called again for those that
            somebody draws on before `finish`.
        message : str
            What is being done, for `progress`.

        Raises
        ------
        Cancelled
            On request.
        StorageError
            There is no room.
        """
        frames = list(frames)
        self._change = change
        if len(frames) <= _FEW:
            self._seen = dict.fromkeys(frames)
            return
        folder = self._open()
        clock = ProgressClock(len(frames))
        for t in frames:
            self._waiting.extend(self._make(t))
            while len(self._waiting) > _WAITING:
                if not _written(self._waiting[0], folder, cancel):
                    continue
                self._waiting.popleft()
            if cancel is not None:
                cancel.raise_if_cancelled()
            if progress is not None:
                progress(clock.advance(message))
        while self._waiting:
            if _written(self._waiting[0], folder, cancel):
                self._waiting.popleft()

    def _make(self, t: int) -> list[Any]:
        with self._locked():
            self._seen[t] = [layer.stamp(t) for layer in self._layers]
            olds = [layer.volume.cache.read([t])[0] for layer in self._layers]
        found, writes = [], []
        for i, old, new, changed in self._changed(t, olds):
            data = encode(old, new)
            place = self._spool.seek(0, os.SEEK_END)
            self._write(data)
            came, went = count_values(new[changed]), count_values(old[changed])
            found.append(_Part(i, t, place, len(data), tuple(came.items()), tuple(went.items())))
            writes.append(self._arrays[i][t].write(new))
        if found:
            self._parts[t] = found
        return writes

    def _changed(
        self, t: int, olds: list[Labels]
    ) -> Iterator[tuple[int, Labels, Labels, npt.NDArray[np.bool_]]]:
        for i, (old, new) in enumerate(zip(olds, self._change(t, olds), strict=True)):
            if new is not None and (changed := old != new).any():
                yield i, old, new, changed

    def _write(self, data: bytes) -> None:
        try:
            self._spool.write(data)
        except OSError as error:
            raise storage_error(error, self._project) from error

    def _data(self, part: _Part) -> bytes:
        self._spool.seek(part.place)
        return self._spool.read(part.size)

    # -- into the project ----------------------------------------------------------------

    def finish(self, entry: Entry) -> None:
        """Put all that was made into the project, as a part of a step.

        Frames that somebody has drawn on meanwhile are made again from what they are now.

        Raises
        ------
        StorageError
            The journal or a folder cannot be written; the step is to be taken back then.
        """
        times = sorted(self._seen)
        for first in range(0, len(times), _BATCH):
            with contextlib.ExitStack() as stack:
                for layer in self._sorted():  # no flush may call safe what is being moved
                    stack.enter_context(layer.volume._flush_lock)
                ready = [
                    each for t in times[first : first + _BATCH] for each in self._say(t, entry)
                ]
                self._history.commit()
                for some in range(0, len(ready), _TOGETHER):
                    self._put(ready[some : some + _TOGETHER])
                for layer in self._layers if self._folder is not None else ():
                    with contextlib.suppress(OSError):
                        sync_folder(layer.volume.path)
        for layer in self._layers:
            layer.volume._relieve()
            layer.volume._wake()

    def _say(self, t: int, entry: Entry) -> list[_Said]:
        """Hand the changes of a frame to the history, before its pixels change."""
        with self._locked():
            if [layer.stamp(t) for layer in self._layers] == self._seen[t]:
                parts = self._parts.get(t, [])
                ids = [{i for i, _ in (*part.came, *part.went)} for part in parts]
                return [
                    (
                        part.layer,
                        self._layers[part.layer].say(entry, t, who, self._data(part)),
                        part,
                    )
                    for part, who in zip(parts, ids, strict=True)
                ]
            olds = [layer.volume.cache.read([t])[0] for layer in self._layers]
            return [
                (
                    i,
                    self._layers[i].say(
                        entry,
                        t,
                        {*count_values(new[changed]), *count_values(old[changed])},
                        encode(old, new),
                    ),
                    None,
                )
                for i, old, new, changed in self._changed(t, olds)
            ]

    def _put(self, ready: list[_Said]) -> None:
        """Change some frames: those in memory there, the others by their files."""
        with self._locked():
            moved = []
            for i, record, part in ready:
                if part is None or self._layers[i].holds(part.t) or self._pool is None:
                    self._layers[i].apply(record.start, record.pack())
                else:
                    moved.append(part)
            failures = [] if self._pool is None else list(self._pool.map(self._move, moved))
            for part, failure in zip(moved, failures, strict=False):
                if failure is None:
                    volume = self._layers[part.layer].volume
                    volume._count(part.t, dict(part.came), dict(part.went))
            for failure in failures:
                if failure is not None:
                    raise failure

    def _move(self, part: _Part) -> StorageError | None:
        assert self._folder is not None
        name = f"c.{part.t}.0.0"
        made = self._folder / str(part.layer) / name
        target = self._layers[part.layer].volume.path / name
        try:
            if made.exists():
                os.replace(made, target)
            else:  # a frame of background has no file
                target.unlink(missing_ok=True)
        except OSError as error:
            return storage_error(error, target)
        return None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for layer in self._sorted():
                stack.enter_context(layer.volume.cache.lock)
            yield

    def _sorted(self) -> list[_Layer]:
        """Return the layers in the one order in which they are locked."""
        return sorted(self._layers, key=lambda one: one.volume.id)


class _Layer:
    """What a layer needs besides: all of it under the lock of its cache."""

    def __init__(self, volume: LayerVolume, history: History) -> None:
        self.volume = volume
        self._history = history

    def stamp(self, t: int) -> _Stamp:
        """Return numbers that are others once anybody has changed a frame."""
        volume = self.volume
        volume._check_open()
        if t in volume._pending:
            volume._cut(t)
        numbers = ((i, volume._versions.get(i, t)) for i in sorted(volume._members))
        return tuple((i, number) for i, number in numbers if number)

    def holds(self, t: int) -> bool:
        """Tell whether a frame is in memory: a file in its place would not be read."""
        return t in self.volume.cache._frames

    def say(self, entry: Entry, t: int, ids: set[int], data: bytes) -> Record:
        """Hand a change to the history."""
        volume = self.volume
        known = [i for i in ids if i in volume._provenance]
        marks = []
        for i in known:
            value = int(volume._provenance[i].values[t])
            marks.append(Mark(i, value, value, volume._versions.get(i, t)))
            entry.touch(volume.id, i, t, t + 1)
        record = self._history.push(entry, volume.id, (t, t + 1), "pixels", tuple(marks), data)
        for i in known:
            volume._versions.set(i, t, record.seq)
        return record

    def apply(self, t: int, data: bytes) -> None:
        """Change a frame in memory; what others have drawn since `say` stays."""
        volume = self.volume
        frame = volume.cache.frame(t)
        old = copy_frame(frame)
        if decode(data).apply(frame, spare=frozenset()):
            volume.cache.touch(t)
            changed = old != frame
            volume._count(t, count_values(frame[changed]), count_values(old[changed]))


#: Folders in use, by path.
_active: set[str] = set()


def _written(future: Any, folder: Path, cancel: CancelToken | None) -> bool:
    """Wait a moment for a write; raise why it failed, or `Cancelled`."""
    if cancel is not None:
        cancel.raise_if_cancelled()
    try:
        future.result(timeout=_MOMENT)
    except TimeoutError:
        return False
    except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
        raise storage_error(error, folder) from error
    return True


def _sweep(folder: Path, waiting: list[Any]) -> None:
    for future in waiting:
        future.exception()  # a write that comes later would make its folder again
    shutil.rmtree(folder, ignore_errors=True)
    _active.discard(str(folder))
