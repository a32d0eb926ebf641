"""What the parts of a project share: its document, its volumes, and saving both."""

from __future__ import annotations

import colorsys
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flowrvs.errors import ProjectError, StorageError
from flowrvs.records import Expression
from flowrvs.store._backup import keep_copy
from flowrvs.store._cache import FrameCache
from flowrvs.store._delta import DamagedError
from flowrvs.store._document import Document, ObjectRecord, from_row, to_row
from flowrvs.store._entry import Entry
from flowrvs.store._files import create_array, open_array, set_aside, unreadable, write_group
from flowrvs.store._flusher import Flusher
from flowrvs.store._journal import Journal, Record
from flowrvs.store._layer import LayerVolume
from flowrvs.store._lock import WriterLock
from flowrvs.store._steps import Change
from flowrvs.store._tracks import Tracks
from flowrvs.store.history import History
from flowrvs.store.labels import LabelsArray

__all__ = ["ProjectCore"]

_MAX_OBJECT_ID = 65535

SECTIONS = ("layers", "objects", "expressions", "prompts", "runs", "confidence")
"""Parts of the document that steps change; each needs the ones before it."""


class ProjectCore:
    """The state of an open project.

    Locks are taken in one order: a layer's (`FrameCache.lock`), then the document's
    (`_lock`), then the history's. A stroke with a new label takes all of them.
    """

    def __init__(self, path: Path, document: Document, lock: WriterLock | None) -> None:
        self._path = path
        self._doc = document
        self._writer = lock
        self._lock = threading.RLock()  # the document's; taken after a layer's, never before
        self._doc_dirty = False
        self._batches = 0
        self._opened = False
        self._closed = False
        self._volumes: dict[int, LayerVolume] = {}
        self._arrays: dict[int, LabelsArray] = {}
        self._confidence: dict[int, Any] = {}
        self._open_runs: dict[int, Entry] = {}
        self._listeners: dict[object, Callable[[Change], None]] = {}
        self._tracks = Tracks(path, document.video.frame_count)
        self._flusher = Flusher(self._flush_all)
        # A second one: frames may take their time, the journal must not wait for them.
        self._scribe = Flusher(self._journalise, interval=0.2)
        journal = Journal(path, writable=lock is not None)
        self.history = History(self, journal)
        try:
            self._load(document)
        except BaseException:
            journal.close()  # a file that stays open keeps out who tries again
            raise
        self._opened = True

    def _load(self, document: Document) -> None:
        self._tracks.versions.source = self.history.in_force
        for layer in document.layers.values():
            self._open_layer(layer.id)
        for one in document.objects.values():
            self._tracks.open(one.id)
            self._volumes[one.layer].attach(one.id)
            if self._tracks.provenance[one.id].damaged:
                self._volumes[one.layer].restore(one.id)
                self.history.damaged(
                    f"Who drew {one.name!r} could not be read: all that is seen of it counts "
                    "as a person's now."
                )
        if self._writer is not None:
            self._replay()

    # -- saving --------------------------------------------------------------------------

    def flush(self) -> None:
        """Write everything that changed and wait until it is safe on the disk.

        Raises
        ------
        StorageError
            Something could not be written; it is kept and tried again by itself.
        """
        self._check_writable()
        try:
            self._flush_all()
        except StorageError:
            self._wake()
            raise

    def _flush_all(self) -> None:
        trouble: StorageError | None = None
        self._check_there()
        self._settle_volumes()
        safe = 0
        try:
            safe = self.history.commit()
        except StorageError as error:
            trouble = error  # what was drawn matters more than what can be undone
        self._save_if_dirty()
        for volume in list(self._volumes.values()):
            volume.flush()
        self.history.flushed(safe)
        if trouble is not None:
            raise trouble

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Write no frame until the end; painting goes on in memory."""
        with contextlib.ExitStack() as still:
            for _, volume in sorted(self._volumes.items()):
                still.enter_context(volume.flush_lock)
            yield

    def _complete(self, copy: Path) -> dict[str, Any]:
        """Write into a copy of the files what only the memory holds; return the attributes.

        Call it within `_still`. All of it is of one moment: pixels, provenance, areas, history
        and names.
        """
        volumes = [volume for _, volume in sorted(self._volumes.items())]
        with contextlib.ExitStack() as locked:
            for volume in volumes:
                locked.enter_context(volume.cache.lock)
            locked.enter_context(self._lock)
            self._settle_volumes()
            attributes = self._doc.to_attributes()
            waiting = [volume.waiting() for volume in volumes]
            write_journal = self.history.copy(copy)
        write_journal()
        for volume, (frames, tracks) in zip(volumes, waiting, strict=True):
            if frames:
                path = copy / volume.path.relative_to(self._path)
                array = open_array(path, self._shape, "uint16")
                for t, frame in frames:
                    array[t].write(frame).result()
            for track in tracks:
                track.write_at(copy / track.path.relative_to(self._path))
        return attributes

    def _before_pixels(self) -> None:
        self._check_there()
        self._settle_volumes()
        with contextlib.suppress(StorageError):
            self.history.commit()
        self._save_if_dirty()

    def _check_there(self) -> None:
        """Raise a `StorageError` where the folder is gone: writing would make half a new one."""
        if self._writer is not None:
            self._writer.check()
        elif not self._path.exists():
            raise StorageError(f"{self._path} has vanished; put it back.")

    def _frame_missing(self, layer_id: int, t: int) -> bool:
        """Note that a frame is empty that should not be; False where that may be in order."""
        if self._writer is None or not self._opened:  # others write, or the journal is read
            return False
        path = self._path / "layers" / str(layer_id)
        self.history.damaged(f"Frame {t} is missing in {path}: what was drawn there is lost.")
        return True

    def _wake(self) -> None:
        self._scribe.wake()
        self._flusher.wake()

    def _journalise(self) -> None:
        self._check_there()
        self._settle_volumes()
        self.history.commit()

    def _settle_volumes(self) -> None:
        for volume in list(self._volumes.values()):
            volume.settle()

    def _replay(self) -> None:
        """Do what a killed process had in its journal and perhaps not in its frames."""
        steps = self.history.unsaved()
        for entry in steps:  # names that were in the journal, and not in the document yet
            self._turn_rows(entry, entry.state == "undone", additions=True)
        for record in self.history.unflushed():
            volume = self._volumes.get(record.layer)
            if volume is None:
                continue
            try:
                volume.replay(record)
            except DamagedError:
                self.history.damaged()
            except ProjectError as error:  # its frame cannot be read; the others can
                self.history.damaged(str(error))
        for entry in steps:
            self._turn_rows(entry, entry.state == "undone", additions=False)
        for volume in self._volumes.values():
            volume.own()
        if self._doc_dirty or any(volume.dirty for volume in self._volumes.values()):
            self._wake()

    def _seal(self, closed: bool) -> None:
        for volume in list(self._volumes.values()):
            volume.seal(closed)

    # -- telling others ------------------------------------------------------------------

    def connect(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call `callback` after every change, on the thread that made it.

        Keep it short: it is called at every stamp of a brush.

        Returns
        -------
        callable
            Ends it.
        """
        key = object()
        self._listeners[key] = callback

        def disconnect() -> None:
            self._listeners.pop(key, None)

        return disconnect

    def _tell(self, kind: str, layer_id: int | None = None, start: int = 0, stop: int = 0) -> None:
        if self._listeners:
            change = Change(kind, layer_id, start, stop)
            for callback in list(self._listeners.values()):
                callback(change)

    # -- what the history asks for -------------------------------------------------------

    def check_turn(self) -> None:
        """Raise a `ProjectError` where the project cannot be changed."""
        self._check_writable()

    def settle_strokes(self) -> None:
        """Hand every change that is still being made to the history."""
        for array in list(self._arrays.values()):
            array.end_stroke()
        self._settle_volumes()

    def turn_record(self, record: Record, back: bool, entry: Entry) -> None:
        """Undo or redo one change."""
        volume = self._volumes.get(record.layer)
        if volume is not None:
            volume.turn(record, back, entry)
            kind = "provenance" if record.role == "range" else "pixels"
            self._tell(kind, record.layer, record.start, record.stop)

    def turn_catalog(self, entry: Entry, back: bool, *, additions: bool) -> None:
        """Undo or redo what was done to names: additions before pixels, removals after."""
        if self._turn_rows(entry, back, additions=additions):
            self._wake()
            self._tell("catalog")

    def _turn_rows(self, entry: Entry, back: bool, *, additions: bool) -> bool:
        turned = False
        with self._lock:
            for section in SECTIONS if additions else reversed(SECTIONS):
                for key, (before, after) in entry.catalog.get(section, {}).items():
                    have, want = (after, before) if back else (before, after)
                    if (want is not None) == additions and self._row(section, key) == have:
                        value = None if want is None else from_row(section, want)
                        self._place(section, _plain_key(section, key), value)
                        turned = True
            if turned:
                self._doc_dirty = True
        return turned

    def describe(self, object_ids: frozenset[int]) -> str:
        """Name some objects."""
        with self._lock:
            known = (self._doc.objects.get(i) for i in sorted(object_ids))
            names = [repr(one.name) for one in known if one is not None]
        if len(names) > 3:
            return f"{', '.join(names[:2])} and {len(names) - 2} others"
        return " and ".join(names) or "an object"

    def steps_changed(self) -> None:
        """Tell that the steps are others now."""
        if self._writer is not None:
            self._wake()
        self._tell("history")

    # -- the document --------------------------------------------------------------------

    def _put(self, section: str, key: Any, value: Any, entry: Entry | None = None) -> None:
        """Set or remove (None) a value of the document, as a part of a step."""
        entry = entry or self.history.current()
        with self._lock:
            if entry is not None:
                before = self._row(section, str(key))
                after = None if value is None else to_row(section, value)
                if before != after:
                    entry.note(section, str(key), before, after)
            self._place(section, key, value)

    def _row(self, section: str, key: str) -> Any:
        value = getattr(self._doc, section).get(_plain_key(section, key))
        return None if value is None else to_row(section, value)

    def _place(self, section: str, key: Any, value: Any) -> None:
        table = getattr(self._doc, section)
        old = table.get(key)
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
        if section == "layers" and value is not None and key not in self._volumes:
            self._open_layer(key)
        if section == "objects":
            if old is not None and (value is None or value.layer != old.layer):
                self._volumes[old.layer].detach(key)
            if value is not None:
                # One that comes back has lost all pixels before it went.
                self._tracks.open(key, new=True)
                self._volumes[value.layer].attach(key)

    def _new_object(
        self,
        object_id: int,
        name: str,
        layer_id: int,
        color: tuple[float, float, float] | None = None,
        entry: Entry | None = None,
    ) -> ObjectRecord:
        if object_id > _MAX_OBJECT_ID:
            raise ProjectError(f"{self._path} holds {_MAX_OBJECT_ID} objects; begin a new project.")
        if color is None:
            color = _color(object_id)
        red, green, blue = (min(1.0, max(0.0, float(c))) for c in color)
        one = ObjectRecord(object_id, str(name), (red, green, blue), layer_id)
        self._put("objects", object_id, one, entry)
        self._doc_dirty = True
        return one

    def _claim(self, layer_id: int, ids: Iterable[int], entry: Entry | None) -> None:
        """Make objects of labels that a person draws and that are new."""
        with self._lock:
            new = []
            for object_id in sorted(ids):
                known = self._doc.objects.get(object_id)
                if known is None:
                    new.append(object_id)
                elif known.layer != layer_id:
                    other = self._doc.layers[known.layer].name
                    raise ProjectError(
                        f"Label {object_id} is {known.name!r} in the layer {other!r}; "
                        f"choose another label here, the next free one is {self.next_label}."
                    )
            for object_id in new:
                self._new_object(object_id, f"object {object_id}", layer_id, entry=entry)
                follow = max(self._doc.next_ids.get("object", 1), object_id + 1)
                self._doc.next_ids["object"] = follow
        if new:
            self._tell("catalog")

    @property
    def next_label(self) -> int:
        """The id that the next new object gets, free in every layer."""
        return self._doc.next_ids.get("object", 1)

    # -- inside --------------------------------------------------------------------------

    @property
    def _shape(self) -> tuple[int, int, int]:
        video = self._doc.video
        return (video.frame_count, video.height, video.width)

    def _label_array(self, path: Path) -> Any:
        try:
            return open_array(path, self._shape, "uint16")
        except ProjectError:
            if self._writer is None or not unreadable(path):
                raise
        set_aside(path / "zarr.json")
        self.history.damaged(f"{path / 'zarr.json'} was damaged and made anew.")
        chunk = (1, *self._shape[1:])
        return create_array(path, self._shape, chunk, "uint16", ("t", "y", "x"), keep=True)

    def _open_layer(self, layer_id: int) -> None:
        path = self._path / "layers" / str(layer_id)
        cache = FrameCache(self._label_array(path), path)
        volume = LayerVolume(
            layer_id,
            cache,
            self._tracks,
            self.history,
            lambda ids, entry: self._claim(layer_id, ids, entry),
            self._wake,
        )
        volume.before, volume.hurry = self._before_pixels, self._flusher.hurry
        volume.there, volume.missing = self._check_there, self._frame_missing
        self._volumes[layer_id] = volume
        for each in self._volumes.values():
            each.cache.share(len(self._volumes))
        self._arrays[layer_id] = LabelsArray(
            volume, layer_id, self.history, self._tell, writable=self._writer is not None
        )

    def _volume(self, layer_id: int) -> LayerVolume:
        if self._closed:
            raise ProjectError(f"{self._path} was closed; open it again.")
        try:
            return self._volumes[self._doc.layers[layer_id].id]
        except KeyError:
            raise ProjectError(f"{self._path} has no layer {layer_id}.") from None

    def _object(self, object_id: int) -> ObjectRecord:
        try:
            return self._doc.objects[object_id]
        except KeyError:
            raise ProjectError(f"{self._path} has no object {object_id}.") from None

    def _expression(self, exp_id: str) -> Expression:
        try:
            return self._doc.expressions[exp_id]
        except KeyError:
            raise ProjectError(f"{self._path} has no expression {exp_id!r}.") from None

    def _existing(self, object_ids: Iterable[int]) -> frozenset[int]:
        return frozenset(self._object(int(i)).id for i in object_ids)

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self._shape[0]:
            raise ProjectError(
                f"Frames {start} to {stop - 1} are not all in the video, which has 0 to "
                f"{self._shape[0] - 1}."
            )

    def _check_writable(self) -> None:
        if self._closed:
            raise ProjectError(f"{self._path} was closed; open it again.")
        if self._writer is None:
            raise ProjectError(f"{self._path} is open for reading only; open it for writing.")

    def _save(self) -> None:
        with self._lock:
            self._doc_dirty = True
            if self._batches:
                return
            # Changes first: names without their pixels mean less than pixels without names.
            with contextlib.suppress(StorageError):
                self.history.commit()
            try:
                self._check_there()
                attributes = self._doc.to_attributes()
                write_group(self._path, attributes)
                keep_copy(self._path, attributes)
            except StorageError:
                self._wake()  # it tries again until it fits
                raise
            self._doc_dirty = False

    @contextlib.contextmanager
    def _one_save(self) -> Iterator[None]:
        """Save once at the end, so that a kill leaves all of it or nothing."""
        with self._lock:
            self._batches += 1
            try:
                yield
            finally:
                self._batches -= 1
            self._save()

    def _save_if_dirty(self) -> None:
        with self._lock:
            if self._doc_dirty and not self._batches:
                self._save()


def _plain_key(section: str, key: str) -> Any:
    return key if section in ("expressions", "prompts", "runs") else int(key)


def _color(number: int) -> tuple[float, float, float]:
    """Return hues that stay far from each other however many there are."""
    return colorsys.hsv_to_rgb((number * 0.618034 + 0.25) % 1.0, 0.75, 0.95)
