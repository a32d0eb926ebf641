"""Objects cut, joined, exchanged and moved: each one step to undo.

New frames are made beside the project and put into it when all are ready (`_Staged`), so that
stopping leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from flowrvs.disk import sync_folder
from flowrvs.errors import ProjectError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.store.catalog import Catalog
from flowrvs.store.changes import Entry, Labels, Record, encode, frames_text, utf8
from flowrvs.store.document import LayerRecord, ObjectRecord
from flowrvs.store.frames import count_values
from flowrvs.store.history import History
from flowrvs.store.masks import Masks
from flowrvs.store.state import State
from flowrvs.store.storage import Provenance, create_array, failed
from flowrvs.store.volume import LayerVolume

__all__ = ["Surgery"]

#: Frames of the layers, of which two objects may share one, to what they become.
Change = Callable[[int, list[Labels]], Sequence[Labels]]

# Frames that are made in place, that are moved at once, being written, and under one lock.
_FEW, _BATCH, _WAITING, _TOGETHER = 16, 512, 16, 16
_MOMENT = 0.05  # seconds until a cancel is looked for again

_HUMAN = np.uint8(Provenance.HUMAN)


class _How(TypedDict, total=False):
    cancel: CancelToken | None
    progress: ProgressCallback | None


class Surgery:
    """Changes what belongs to which object.

    A person asked for it, so all of it also touches frames of a person; only locked frames
    are refused, before anything is done. All of it takes ``cancel`` (a `CancelToken`) and
    ``progress``, and raises `Cancelled` on request, at once and with everything as it was.
    """

    def __init__(self, state: State, catalog: Catalog, masks: Masks) -> None:
        self._state = state
        self._catalog = catalog
        self._masks = masks

    def mark_absent(self, object_id: int, start: int, stop: int, **how: Unpack[_How]) -> None:
        """Erase an object on frames ``start`` to ``stop - 1``: a person says it is not there."""
        record = self._checked(object_id, start, stop)

        def then(entry: Entry) -> None:
            self._provide(entry, record, start, stop, lambda old: np.maximum(old, _HUMAN))

        text = f"{record.name!r} absent"
        self._operate(text, [record], start, stop, _eraser(object_id), then, **how)

    def start_object(self, object_id: int, t: int, **how: Unpack[_How]) -> None:
        """Say that an object appears on frame `t`: it is absent before."""
        self.mark_absent(object_id, 0, t, **how)

    def end_object(self, object_id: int, t: int, **how: Unpack[_How]) -> None:
        """Say that frame ``t - 1`` is the last one of an object: it is absent from `t` on."""
        self.mark_absent(object_id, t, self._state.shape[0], **how)

    def split_object(
        self,
        object_id: int,
        start: int,
        stop: int,
        masks: npt.NDArray[np.bool_] | None = None,
        name: str | None = None,
        **how: Unpack[_How],
    ) -> ObjectRecord:
        """Make a new object of a part of another one, in the same layer.

        Parameters
        ----------
        object_id : int
            The object.
        start, stop : int
            The frames to take from.
        masks : ndarray of bool, shape (stop - start, H, W), optional
            Its pixels under these masks; all of its pixels by default.
        name : str, optional
            Name of the new object.

        Returns
        -------
        ObjectRecord
            The new one. Its frames have the provenance of the old one's.
        """
        state, record = self._state, self._checked(object_id, start, stop)
        if masks is not None and masks.shape != (stop - start, *state.shape[1:]):
            raise ProjectError(
                f"Masks of shape {masks.shape} do not fit {stop - start} frames of "
                f"{state.shape[1:]} pixels."
            )
        taken = np.zeros(stop - start, np.bool_)

        def cut(t: int, frames: list[Labels]) -> list[Labels]:
            part = frames[0] == object_id
            if masks is not None:
                part &= masks[t - start]
            taken[t - start] |= part.any()
            return [np.where(part, np.uint16(new_id), frames[0])]

        def then(entry: Entry) -> None:
            old = self._masks.provenance(object_id)[start:stop]
            self._provide(entry, new, start, stop, lambda _: np.where(taken, old, 0))

        with self._staged([record.layer], start, stop) as staged:
            with state.lock:
                new_id = state.document.new_id("object", 1)
            try:
                frames = self._frames_of([object_id], start, stop)
                staged.make(frames, cut, f"split {record.name!r}", **how)
            except BaseException:
                with state.lock:  # nobody has seen it
                    if state.document.next_ids["object"] == new_id + 1:
                        state.document.next_ids["object"] = new_id
                raise
            with state.history.step(f"split {record.name!r}, {frames_text(start, stop)}") as entry:
                entry.whole = True
                self._checked(object_id, start, stop)
                with state.volume(record.layer).lock, state.lock:
                    new = state.new_object(new_id, name or f"{record.name} (part)", record.layer)
                state.save()
                staged.finish(entry, then)
        self._tell([record.layer], start, stop)
        return new

    def merge_objects(
        self, keep: int, gone: int, start: int = 0, stop: int | None = None, **how: Unpack[_How]
    ) -> None:
        """Give the pixels of one object to another, also one of another layer.

        Parameters
        ----------
        keep, gone : int
            The object that gets the pixels, and the one that loses them.
        start, stop : int
            The frames. On all of them, by default, `gone` is removed, and sentences that
            meant it mean `keep`.
        """
        if keep == gone:
            raise ProjectError("An object cannot be merged with itself; choose another one.")
        state = self._state
        stop = state.shape[0] if stop is None else stop
        kept, lost = self._checked(keep, start, stop), self._checked(gone, start, stop)
        volume = state.volume(kept.layer)

        def change(t: int, frames: list[Labels]) -> list[Labels]:
            to, source = (new := [frame.copy() for frame in frames])[0], new[-1]
            part = source == gone
            locked = [i for i in volume.frames.locked(t) if i != gone]
            free = part & ~np.isin(to, locked)
            source[part] = 0
            to[free] = keep
            return new

        def then(entry: Entry) -> None:
            was = self._masks.provenance(gone)[start:stop]
            self._provide(entry, kept, start, stop, lambda old: np.maximum(old, was))
            self._provide(entry, lost, start, stop, np.zeros_like)
            if (start, stop) == (0, state.shape[0]):
                with state.one_save():
                    for expression in list(state.document.expressions.values()):
                        if gone in expression.object_ids:
                            ids = (expression.object_ids - {gone}) | {keep}
                            meant = replace(expression, object_ids=ids)
                            state.put("expressions", expression.exp_id, meant)
                    self._catalog.forget_object(gone)

        text = f"merge {lost.name!r} into {kept.name!r}"
        self._operate(text, [kept, lost], start, stop, change, then, drawn=[gone], **how)

    def swap_objects(
        self, a: int, b: int, start: int, stop: int | None = None, **how: Unpack[_How]
    ) -> None:
        """Exchange two objects from a frame on: their masks, and who drew them.

        They may be of different layers.
        """
        stop = self._state.shape[0] if stop is None else stop
        first, second = self._checked(a, start, stop), self._checked(b, start, stop)
        if a == b:
            raise ProjectError("An object cannot be swapped with itself; choose another one.")

        def change(t: int, frames: list[Labels]) -> list[Labels]:
            new = [frame.copy() for frame in frames]
            of_a, of_b = frames[0] == a, frames[-1] == b
            new[0][of_a] = new[-1][of_b] = 0
            for frame, part, to, record in (
                (new[0], of_b, a, first),
                (new[-1], of_a, b, second),
            ):
                locked = self._state.volume(record.layer).frames.locked(t)
                frame[part & ~np.isin(frame, locked)] = to
            return new

        def then(entry: Entry) -> None:
            was_a, was_b = (self._masks.provenance(i)[start:stop] for i in (a, b))
            self._provide(entry, first, start, stop, lambda _: was_b)
            self._provide(entry, second, start, stop, lambda _: was_a)

        text = f"swap {first.name!r} and {second.name!r}"
        self._operate(text, [first, second], start, stop, change, then, once=True, **how)

    def move_object(
        self, object_id: int, layer_id: int | None = None, **how: Unpack[_How]
    ) -> ObjectRecord:
        """Move an object to another layer, so that it may overlap those of its old one.

        Parameters
        ----------
        object_id : int
            The object.
        layer_id : int, optional
            The layer; a new one of the object's name by default. Objects that are there
            keep their pixels where the two overlap.
        """
        state, frames = self._state, self._state.shape[0]
        record = self._checked(object_id, 0, frames)

        def change(t: int, frames: list[Labels]) -> list[Labels]:
            source, there = frames
            part = source == object_id
            free = part & (there == 0)
            moved = np.where(free, np.uint16(object_id), there)
            return [np.where(part, np.uint16(0), source), moved]

        def then(entry: Entry) -> None:
            with state.one_save():
                state.put("objects", object_id, replace(state.object(object_id), layer=target))

        # What a model draws there later is not the run's step: it is undone before this one.
        state.end_run(object_id)
        with state.history.step(f"move {record.name!r} to another layer") as entry:
            entry.whole = True
            # A stroke in the old layer must come before, or undo would leave it behind.
            state.settle()
            if layer_id is None:
                with state.lock:
                    layer_id = state.document.new_id("layer", 1)
                    state.new_layer_array(layer_id)
                    state.put("layers", layer_id, LayerRecord(layer_id, utf8(record.name)))
            target = layer_id
            state.volume(target)
            if target == record.layer:
                return record
            with self._staged([record.layer, target], 0, frames) as staged:
                drawn = self._frames_of([object_id], 0, frames)
                staged.make(drawn, change, f"move {record.name!r}", **how)
                staged.finish(entry, then)
        self._tell((record.layer, target), 0, frames)
        return state.object(object_id)

    def remove_object(self, object_id: int, **how: Unpack[_How]) -> None:
        """Erase an object: its pixels, provenance, runs, and its place in expressions.

        A layer in which nothing else lives goes with it.
        """
        state, frames = self._state, self._state.shape[0]
        state.check_writable()
        record = state.object(object_id)

        def then(entry: Entry) -> None:
            self._provide(entry, record, 0, frames, np.zeros_like)
            self._catalog.forget_object(object_id)

        text = f"remove {record.name!r}"
        self._operate(text, [record], 0, frames, _eraser(object_id), then, locked=True, **how)

    # -- inside --------------------------------------------------------------------------

    def _operate(
        self,
        text: str,
        objects: Sequence[ObjectRecord],
        start: int,
        stop: int,
        change: Change,
        then: Callable[[Entry], None],
        *,
        drawn: list[int] | None = None,
        once: bool = False,
        locked: bool = False,
        **how: Unpack[_How],
    ) -> None:
        """Change the frames on which some objects (or those of `drawn`) are seen, as a step."""
        ids = [record.id for record in objects]
        layers = list(dict.fromkeys(record.layer for record in objects))
        with self._staged(layers, start, stop, once=once) as staged:
            staged.make(self._frames_of(drawn or ids, start, stop), change, text, **how)
            name = text if locked else f"{text}, {frames_text(start, stop)}"
            with self._state.history.step(name) as entry:
                for object_id in () if locked else ids:
                    self._checked(object_id, start, stop)
                staged.finish(entry, then)
        self._tell(layers, start, stop)

    def _checked(self, object_id: int, start: int, stop: int) -> ObjectRecord:
        self._state.check_writable()
        self._state.check_range(start, stop)
        record = self._state.object(object_id)
        provenance = self._masks.provenance(object_id)[start:stop]
        locked = np.flatnonzero(provenance == Provenance.LOCKED)
        if len(locked):
            raise ProjectError(
                f"{record.name!r} is locked on {len(locked)} of these frames, the first is "
                f"{start + int(locked[0])}: unlock them first."
            )
        return record

    def _frames_of(self, object_ids: list[int], start: int, stop: int) -> list[int]:
        seen = np.zeros(stop - start, np.bool_)
        for object_id in object_ids:
            seen |= self._masks.present(object_id)[start:stop]
        return [start + int(t) for t in np.flatnonzero(seen)]

    def _staged(
        self, layer_ids: list[int], start: int, stop: int, *, once: bool = False
    ) -> _Staged:
        volumes = [self._state.volume(layer_id) for layer_id in dict.fromkeys(layer_ids)]
        return _Staged(self._state.path, volumes, self._state.history, range(start, stop), once)

    def _provide(
        self,
        entry: Entry,
        record: ObjectRecord,
        start: int,
        stop: int,
        change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
    ) -> None:
        if start < stop:
            volume = self._state.volume(record.layer)
            volume.set_provenance(entry, record.id, start, stop, change)
            self._masks.confidence.note(record.layer, None, range(start, stop))

    def _tell(self, layer_ids: Iterable[int], start: int, stop: int) -> None:
        self._state.tell("catalog")
        for layer_id in layer_ids:
            self._state.tell("pixels", layer_id, start, stop)


def _eraser(object_id: int) -> Change:
    return lambda t, frames: [np.where(frames[0] == object_id, np.uint16(0), frames[0])]


# -- frames beside the project ---------------------------------------------------------


class _Part(NamedTuple):
    """A frame of a layer that is ready, and where its difference lies in the spool."""

    layer: int
    t: int
    place: int
    size: int
    came: dict[int, int]  # pixels of each object
    went: dict[int, int]


class _Staged:
    """Makes new frames in a folder of its own, and then moves them where they belong.

    Until `finish` nothing of the project has changed. It costs little more than renaming
    files. The folder goes with the block, and what a kill left of others is swept; a few frames
    need none. With `once`, frames that somebody draws on after they were put in are not made
    again: doing it twice would take it back.
    """

    def __init__(
        self,
        project: Path,
        volumes: Sequence[LayerVolume],
        history: History,
        frames: range,
        once: bool,
    ) -> None:
        self._project = project
        self._volumes = volumes
        self._in_order = sorted(volumes, key=lambda volume: volume.id)  # as they are locked
        self._history = history
        self._range = frames
        self._once = once
        self._frames: list[int] = []
        self._parts: dict[int, list[_Part]] = {}
        # What `LayerVolume.version` says while nobody else changes a frame.
        self._versions = [volume.frames.cache.changed.copy() for volume in volumes]
        self._change: Change = lambda t, frames: frames
        self._folder: Path | None = None
        self._writes: deque[Any] = deque()

    def __enter__(self) -> _Staged:
        return self

    def _open(self) -> None:
        for left in self._project.glob(".staged-*.partial"):
            if str(left) not in _active:
                shutil.rmtree(left, ignore_errors=True)
        try:
            folder = tempfile.mkdtemp(prefix=".staged-", suffix=".partial", dir=self._project)
            _active.add(folder)
            self._folder = Path(folder)
            self._spool = open(self._folder / "spool", "w+b")  # noqa: SIM115 - until __exit__
        except OSError as error:
            raise failed(error, self._project) from error
        shape = self._volumes[0].shape
        self._arrays = [
            create_array(self._folder / str(i), shape, (1, *shape[1:]), "uint16", "tyx")
            for i in range(len(self._volumes))
        ]

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            # Nobody need wait for writes of what is not wanted any more.
            what = (self._folder, [*self._writes])
            threading.Thread(target=_sweep, args=what, daemon=True).start()
            with contextlib.suppress(AttributeError):
                self._spool.close()

    def make(
        self,
        frames: Iterable[int],
        change: Change,
        message: str = "",
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Make new frames; `change` is called again for those drawn on before `finish`."""
        self._frames, self._change = sorted(frames), change
        if len(self._frames) <= _FEW:
            return
        self._open()
        clock = ProgressClock(len(self._frames))
        for t in self._frames:
            self._make(t)
            self._wait(_WAITING, cancel)
            if progress is not None:
                progress(clock.advance(message))
        self._wait(0, cancel)

    def _wait(self, count: int, cancel: CancelToken | None) -> None:
        """Wait until only so many frames are still being written."""
        while True:
            if cancel is not None:
                cancel.raise_if_cancelled()
            if len(self._writes) <= count:
                return
            try:
                self._writes[0].result(timeout=_MOMENT)
            except TimeoutError:
                continue
            except Exception as error:  # tensorstore raises ValueError, RuntimeError, ...
                raise failed(error, self._project) from error
            self._writes.popleft()

    def _make(self, t: int) -> None:
        with self._locked():
            self._note_versions(t)
            olds = self._read(t)
        for i, old, new, changed in self._changed(t, olds):
            data = encode(old, new)
            place = self._spool.seek(0, os.SEEK_END)
            try:
                self._spool.write(data)
            except OSError as error:
                raise failed(error, self._project) from error
            came, went = count_values(new[changed]), count_values(old[changed])
            self._parts.setdefault(t, []).append(_Part(i, t, place, len(data), came, went))
            self._writes.append(self._arrays[i][t].write(new))

    def _read(self, t: int) -> list[Labels]:
        return [volume.frames.cache.read([t])[0] for volume in self._volumes]

    def _changed(
        self, t: int, olds: list[Labels]
    ) -> Iterator[tuple[int, Labels, Labels, npt.NDArray[np.bool_]]]:
        for i, (old, new) in enumerate(zip(olds, self._change(t, olds), strict=True)):
            if (changed := old != new).any():
                yield i, old, new, changed

    def _note_versions(self, t: int) -> None:
        for volume, versions in zip(self._volumes, self._versions, strict=True):
            versions[t] = volume.version(t)

    def _is_as_seen(self, t: int) -> bool:
        pairs = zip(self._volumes, self._versions, strict=True)
        return all(volume.version(t) == versions[t] for volume, versions in pairs)

    def finish(self, entry: Entry, then: Callable[[Entry], None]) -> None:
        """Put all that was made into the project, as a part of a step, and call `then`.

        Frames that somebody has drawn on meanwhile are made again from what they are now.
        Nobody draws between the last look at them and `then`.
        """
        entry.whole = True  # an object whose pixels are in another layer is none
        for first in range(0, len(self._frames), _BATCH):
            with contextlib.ExitStack() as stack:
                for volume in self._in_order:  # no flush may call safe what is being moved
                    stack.enter_context(volume.frames.flush_lock)
                batch = self._frames[first : first + _BATCH]
                ready = [each for t in batch for each in self._announce(t, entry)]
                self._history.commit()
                for some in range(0, len(ready), _TOGETHER):
                    self._put(ready[some : some + _TOGETHER])
                for volume in self._volumes if self._folder is not None else ():
                    with contextlib.suppress(OSError):
                        sync_folder(volume.frames.path)
        with self._locked():
            differ = [
                np.flatnonzero(volume.frames.cache.changed != versions)
                for volume, versions in zip(self._volumes, self._versions, strict=True)
            ]
            seen = set(self._frames) if self._once else set()
            for t in sorted({*np.concatenate(differ).tolist()} - seen):
                if t in self._range:
                    self._put([*self._announce(t, entry)])
            then(entry)
        for volume in self._volumes:
            volume.frames.relieve()

    def _announce(self, t: int, entry: Entry) -> Iterator[tuple[LayerVolume, Record, _Part | None]]:
        """Hand the changes of a frame to the history, before its pixels change."""
        with self._locked():
            if t in self._parts and self._is_as_seen(t):
                for part in self._parts.pop(t):
                    volume = self._volumes[part.layer]
                    self._spool.seek(part.place)
                    data = self._spool.read(part.size)
                    ids = {*part.came, *part.went}
                    yield volume, volume.announce(entry, t, ids, data), part
                return
            self._note_versions(t)
            for i, old, new, changed in self._changed(t, self._read(t)):
                ids = {*count_values(new[changed]), *count_values(old[changed])}
                volume = self._volumes[i]
                yield volume, volume.announce(entry, t, ids, encode(old, new)), None

    def _put(self, ready: Sequence[tuple[LayerVolume, Record, _Part | None]]) -> None:
        """Change some frames: those in memory there, the others by their files."""
        with self._locked():
            # Where somebody has drawn since `_announce`, `finish` looks once more.
            as_seen = {t for t in {r.start for _, r, _ in ready} if self._is_as_seen(t)}
            for volume, record, part in ready:
                t = record.start
                if part is None or t not in as_seen or t in volume.frames.cache:
                    volume.apply(t, record.pack())
                else:
                    self._move(part, volume.frames.cache.file(t))
                    volume.moved(t, part.came, part.went)
            for t in as_seen:
                self._note_versions(t)

    def _move(self, part: _Part, target: Path) -> None:
        assert self._folder is not None
        made = self._folder / str(part.layer) / target.name
        try:
            if made.exists():
                os.replace(made, target)
            else:  # a frame of background has no file
                target.unlink(missing_ok=True)
        except OSError as error:
            raise failed(error, target) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for volume in self._in_order:
                stack.enter_context(volume.lock)
            yield


_active: set[str] = set()  # folders in use


def _sweep(folder: Path, writes: list[Any]) -> None:
    for write in writes:
        write.exception()  # one that comes later would make its folder again
    shutil.rmtree(folder, ignore_errors=True)
    _active.discard(str(folder))
