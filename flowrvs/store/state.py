"""What the parts of a project share: its document, its layers, its history, and saving them."""

from __future__ import annotations

import colorsys
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flowrvs.errors import ProjectError, StorageError
from flowrvs.records import Expression
from flowrvs.store.changes import DamagedError, Entry, Record, utf8
from flowrvs.store.document import (
    SECTIONS,
    Document,
    ObjectRecord,
    ProjectEvent,
    WriterLock,
    clipped,
    from_row,
    login_name,
    plain_key,
    save_document,
)
from flowrvs.store.frames import LayerFrames
from flowrvs.store.history import History
from flowrvs.store.journal import Journal
from flowrvs.store.storage import (
    Provenance,
    Saver,
    Tracks,
    create_array,
    described,
    open_array,
    set_aside,
)
from flowrvs.store.volume import LayerVolume

__all__ = ["State"]

_MAX_OBJECT_ID = 65535
_PATIENCE = 0.02  # seconds that a commit waits for whoever draws in a layer
_OUT = ("undone", "redoing", "forgotten")  # whose names are not in force when a session begins


class State:
    """The state of an open project; what `History` and `LayerVolume` ask of it.

    Locks are taken in one order: a layer's (`LayerVolume.lock`), then the document's
    (`lock`), then the history's. A stroke with a new label takes all of them.
    """

    def __init__(self, path: Path, document: Document, writer: WriterLock | None) -> None:
        self.path = path
        self.document = document  # guarded by `lock`
        self.lock = threading.RLock()
        video = document.video
        self.shape = (video.frame_count, video.height, video.width)
        self.volumes: dict[int, LayerVolume] = {}  # also of removed layers: that may be undone
        self.open_runs: dict[int, Entry] = {}  # the step of every object that a model is drawing
        self._writer = writer
        self._closed = self._opened = self._dirty = False
        self._batches = 0
        self._placed = 0  # how often an object came to a layer or left it
        self._listeners: dict[object, Callable[[ProjectEvent], None]] = {}
        self._tracks = Tracks(path, video.frame_count)
        self._saver = Saver(self._save_all)
        # A second one: frames may take their time, the journal must not wait for them.
        self._scribe = Saver(self._journalise, interval=0.2)
        self.journal = Journal(path, self.shape, writable=writer is not None)
        try:
            self.history = History(self, self.journal, login_name(), document.moment)
            self._load()
        except BaseException:
            self.journal.close()  # a file that stays open keeps out who tries again
            raise
        self._opened = True

    def _load(self) -> None:
        for layer in self.document.layers:
            self._open_layer(layer)
        for record in self.document.objects.values():
            self._tracks.open(record.id)
            volume = self.volumes[record.layer]
            volume.frames.attach(record.id)
            if self._tracks.provenance[record.id].damaged:
                volume.frames.restore(record.id)
                self.journal.damaged(
                    f"Who drew {record.name!r} could not be read: all that is seen of it counts "
                    "as a person's now."
                )
        if self.document.damage:
            first, *more = self.document.damage
            rest = f" and {len(more)} more" if more else ""
            self.journal.damaged(f"{self.path / 'zarr.json'} holds {first}{rest}; it was left out.")
        if self._writer is not None:
            self._replay()

    @property
    def writable(self) -> bool:
        """False for a project that was opened for reading only, or closed."""
        return self._writer is not None and not self._closed

    @property
    def closed(self) -> bool:
        """True after `let_go`."""
        return self._closed

    def check_open(self) -> None:
        """Raise a `ProjectError` where the project was closed."""
        if self._closed:
            raise ProjectError(f"{self.path} was closed; open it again.")

    def check_writable(self) -> None:
        """Raise a `ProjectError` where the project cannot be changed."""
        self.check_open()
        if self._writer is None:
            raise ProjectError(f"{self.path} is open for reading only; open it for writing.")

    def check_there(self) -> None:
        """Raise a `StorageError` where the folder is gone: writing would make half a new one."""
        if self._writer is not None:
            self._writer.check()
        elif not self.path.exists():
            raise StorageError(f"{self.path} has vanished; put it back.")

    def check_range(self, start: int, stop: int) -> None:
        """Raise a `ProjectError` for frames that the video does not have."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ProjectError(
                f"Frames {start} to {stop - 1} are not all in the video, which has 0 to "
                f"{self.shape[0] - 1}."
            )

    # -- telling others ------------------------------------------------------------------

    def connect(self, callback: Callable[[ProjectEvent], None]) -> Callable[[], None]:
        """Call `callback` after every change, on the thread that made it; the result ends it.

        Keep it short: it is called at every stamp of a brush.
        """
        key = object()
        self._listeners[key] = callback

        def disconnect() -> None:
            self._listeners.pop(key, None)

        return disconnect

    def tell(self, kind: str, layer_id: int | None = None, start: int = 0, stop: int = 0) -> None:
        """Tell the listeners."""
        if self._listeners:
            event = ProjectEvent(kind, layer_id, start, stop)
            for callback in list(self._listeners.values()):
                callback(event)

    # -- what is there -------------------------------------------------------------------

    def volume(self, layer_id: int) -> LayerVolume:
        """Return a layer's pixels."""
        self.check_open()
        try:
            return self.volumes[self.document.layers[layer_id].id]
        except KeyError:
            raise ProjectError(f"{self.path} has no layer {layer_id}.") from None

    @property
    def sorted_volumes(self) -> list[LayerVolume]:
        """The layers in the one order in which they are locked."""
        return [volume for _, volume in sorted(self.volumes.items())]

    def volume_of(self, object_id: int) -> LayerVolume:
        """Return the layer that an object lives in."""
        return self.volume(self.object(object_id).layer)

    def object(self, object_id: int) -> ObjectRecord:
        """Return an object, or raise a `ProjectError`."""
        try:
            return self.document.objects[object_id]
        except KeyError:
            raise ProjectError(f"{self.path} has no object {object_id}.") from None

    def expression(self, exp_id: str) -> Expression:
        """Return a sentence, or raise a `ProjectError`."""
        try:
            return self.document.expressions[exp_id]
        except KeyError:
            raise ProjectError(f"{self.path} has no expression {exp_id!r}.") from None

    def describe(self, object_ids: frozenset[int]) -> str:
        """Name some objects."""
        with self.lock:
            objects = self.document.objects
            names = [repr(objects[i].name) for i in sorted(object_ids) if i in objects]
        if len(names) > 3:
            return f"{', '.join(names[:2])} and {len(names) - 2} others"
        return " and ".join(names) or "an object"

    # -- changing the document -----------------------------------------------------------

    def put(self, section: str, key: Any, value: Any, entry: Entry | None = None) -> None:
        """Set or remove (None) a value of the document, as a part of a step."""
        entry = entry or self.history.current()
        with self.lock:
            before = self.document.row(section, str(key))
            self._place(section, key, value)
            after = self.document.row(section, str(key))
            if entry is not None and before != after:
                self.history.note(entry, section, str(key), before, after)

    def _place(self, section: str, key: Any, value: Any) -> None:
        old = self.document.put(section, key, value)
        self._placed += section == "objects"
        if section == "layers" and value is not None and key not in self.volumes:
            self._open_layer(key)
        if section == "objects":
            if old is not None and (value is None or value.layer != old.layer):
                self.volumes[old.layer].frames.detach(key)
            if value is not None:
                # One that comes back has lost all pixels before it went.
                self._tracks.open(key, new=True)
                self.volumes[value.layer].frames.attach(key)
                following = max(self.document.next_ids.get("object", 1), key + 1)
                self.document.next_ids["object"] = following

    def new_object(
        self,
        object_id: int,
        name: str,
        layer_id: int,
        color: tuple[float, float, float] | None = None,
        entry: Entry | None = None,
    ) -> ObjectRecord:
        """Make an object without pixels; the locks of its layer and the document are held."""
        if object_id > _MAX_OBJECT_ID:
            raise ProjectError(f"{self.path} holds {_MAX_OBJECT_ID} objects; begin a new project.")
        if color is None:  # hues that stay far from each other however many there are
            color = colorsys.hsv_to_rgb((object_id * 0.618034 + 0.25) % 1.0, 0.75, 0.95)
        record = ObjectRecord(object_id, utf8(name), clipped(color), layer_id)
        self.put("objects", object_id, record, entry)
        self._dirty = True
        return record

    def new_layer_array(self, layer_id: int) -> None:
        """Make the empty label volume of a layer."""
        path = self.path / "layers" / str(layer_id)
        create_array(path, self.shape, (1, *self.shape[1:]), "uint16", ("t", "y", "x"))

    def claim(self, layer_id: int, ids: Iterable[int], entry: Entry) -> None:
        """Make objects of labels that a person draws and that are new."""
        document, new = self.document, []
        with self.lock:
            if layer_id not in document.layers:
                raise ProjectError(f"Layer {layer_id} was removed; choose another one to draw in.")
            for object_id in sorted(ids):
                known = document.objects.get(object_id)
                if known is None and object_id in document.removed:
                    raise ProjectError(
                        f"Label {object_id} was that of an object that was removed; choose "
                        f"another label, the next free one is {self.next_label}."
                    )
                if known is None:
                    new.append(object_id)
                elif known.layer != layer_id:
                    other = document.layers[known.layer].name
                    raise ProjectError(
                        f"Label {object_id} is {known.name!r} in the layer {other!r}; "
                        f"choose another label here, the next free one is {self.next_label}."
                    )
            for object_id in new:
                self.new_object(object_id, f"object {object_id}", layer_id, entry=entry)
        if new:
            self.tell("catalog")

    @property
    def next_label(self) -> int:
        """The id that the next new object gets, free in every layer."""
        return self.document.next_ids.get("object", 1)

    def end_run(self, object_id: int) -> None:
        """Say that the run of an object is over: all of it is now one step to undo.

        A run that is never ended is so when the next one of its object begins, or when the
        project closes.
        """
        entry = self.open_runs.pop(object_id, None)
        if entry is not None:
            self.history.end(entry, keep=bool(entry.layers))  # or it wrote nothing

    def end_runs(self, object_ids: frozenset[int]) -> None:
        """Say that the runs of some objects are over; see `end_run`."""
        for object_id in object_ids & self.open_runs.keys():
            self.end_run(object_id)

    # -- what the history asks for -------------------------------------------------------

    def settle_strokes(self) -> None:
        """Hand every change that is still being made to the history."""
        for volume in list(self.volumes.values()):
            volume.end_stroke()
        self.settle()

    def settle(self) -> None:
        """Hand what strokes have changed so far to the history."""
        for volume in list(self.volumes.values()):
            volume.settle()

    @contextlib.contextmanager
    def still(self) -> Iterator[bool]:
        """Let nobody draw, with all that was drawn handed to the history: one moment of all layers.

        False where somebody holds a layer for long: waiting for him could be for ever, as he may
        wait for whoever calls this.
        """
        with contextlib.ExitStack() as locked:
            volumes = self.sorted_volumes
            for volume in volumes:
                if not volume.lock.acquire(timeout=_PATIENCE):
                    yield False
                    return
                locked.callback(volume.lock.release)
            for volume in volumes:
                volume.settle()
            yield len(volumes) == len(self.volumes)  # or one has come meanwhile

    def turn_record(self, record: Record, back: bool, entry: Entry) -> None:
        """Take one change out of force, or put it in force again."""
        volume = self.volumes.get(record.layer)
        if volume is None or record.stop > self.shape[0]:
            raise DamagedError("a change of a layer or frame that is not there")
        volume.turn(record, back, entry)
        kind = "provenance" if record.role.is_range else "pixels"
        self.tell(kind, record.layer, record.start, record.stop)

    def turn_catalog(
        self, entry: Entry, back: bool, *, additions: bool, then: Callable[[], None] | None = None
    ) -> None:
        """Undo or redo what was done to names: additions before pixels, removals after.

        No document is saved between these and `then`.
        """
        with self.lock:
            turned = self._turn_rows(entry, back, additions=additions)
            if then is not None:
                then()
        if turned:
            self.wake()
            self.tell("catalog")

    def _turn_rows(self, entry: Entry, back: bool, *, additions: bool) -> bool:
        turned = False
        with self.lock:
            for section in SECTIONS if additions else reversed(SECTIONS):
                for key, (before, after) in list(entry.catalog.get(section, {}).items()):
                    have, want = (after, before) if back else (before, after)
                    if (want is None) == additions or self.document.row(section, key) != have:
                        continue
                    if want is None and section == "layers" and self._lived_in(key):
                        continue  # since, an object was made there
                    try:
                        value = None if want is None else from_row(section, want)
                        self._place(section, plain_key(section, key), value)
                    except (KeyError, TypeError, ValueError, AttributeError, ProjectError):
                        self.journal.damaged()
                    turned = True
            if turned:
                self._drop_dangling()
                self._dirty = True
        return turned

    def _lived_in(self, layer: str) -> bool:
        return any(str(record.layer) == layer for record in self.document.objects.values())

    def _drop_dangling(self) -> None:
        """Let no sentence mean an object that is gone: it was added while that was undone."""
        objects = self.document.objects.keys()
        for key, expression in self.document.expressions.items():
            if not expression.object_ids <= objects:
                left = expression.object_ids & objects
                kept = Expression(expression.exp_id, expression.text, left)
                self.document.expressions[key] = kept

    def steps_changed(self) -> None:
        """Tell that the steps are others now."""
        if self._writer is not None:
            self.wake()
        self.tell("history")

    # -- saving --------------------------------------------------------------------------

    @property
    def storage_error(self) -> StorageError | None:
        """Why the last write in the background failed; None while all is well."""
        return self._saver.error

    @property
    def unsaved(self) -> int:
        """Number of frames (and provenance chunks) that are not on the disk yet."""
        return sum(volume.frames.dirty for volume in list(self.volumes.values()))

    def wake(self) -> None:
        """Have what changed written soon."""
        self._scribe.wake()
        self._saver.wake()

    def hurry(self) -> None:
        """Have it written now."""
        self._saver.hurry()

    def flush(self) -> None:
        """Write everything that changed and wait until it is safe on the disk.

        Raises
        ------
        StorageError
            Something could not be written; it is kept and tried again by itself.
        """
        self.check_writable()
        try:
            self._save_all()
        except StorageError:
            self.wake()
            raise

    def _save_all(self) -> None:
        trouble, safe, placed = None, 0, self._placed
        self.check_there()
        self.settle()
        try:
            safe = self.history.commit()
        except StorageError as error:
            trouble = error  # what was drawn matters more than what can be undone
        self._save_if_dirty()
        written = True
        for volume in list(self.volumes.values()):
            try:
                volume.frames.flush()
            except StorageError as error:  # the other layers may lie on sound files
                written, trouble = False, trouble or error
        # Else one may have gone to a layer that was written before.
        if written and placed == self._placed:
            self.history.flushed(safe)
        if trouble is not None:
            raise trouble

    def _journalise(self) -> None:
        self.check_there()
        self.settle()
        self.history.commit()

    def before_pixels(self) -> None:
        """Save the changes and the objects that pixels mean, which are written next."""
        self.check_there()
        self.settle()
        with contextlib.suppress(StorageError):
            self.history.commit()
        self._save_if_dirty()

    @property
    def vanished(self) -> bool:
        """True where the project's folder is gone, or another one lies in its place."""
        try:
            self.check_there()
        except StorageError:
            return True
        return False

    def frame_missing(self, layer_id: int, t: int) -> bool:
        """Note that a frame is empty that should not be; False where that may be in order."""
        if self._writer is None or not self._opened:  # others write, or the journal is read
            return False
        path = f"{self.path}/layers/{layer_id}"
        self.journal.damaged(f"Frame {t} is missing in {path}: what was drawn there is lost.")
        return True

    def save_later(self) -> None:
        """Have the document written at the next flush."""
        with self.lock:
            self._dirty = True

    def save(self) -> None:
        """Write the document, unless `one_save` will, or soon where others are drawing."""
        with self.lock:
            self._dirty = True
            if self._batches:
                return
            # Changes first: names without their pixels mean less than pixels without names.
            with contextlib.suppress(StorageError):
                if self.history.try_commit() is None:
                    return self.wake()  # names go with what was drawn before them, in a moment
            try:
                self.check_there()
                self.document.moment = self.history.moment
                save_document(self.path, self.document.to_attributes())
            except StorageError:
                self.wake()  # it tries again until it fits
                raise
            self._dirty = False
            self.history.named(self.document.moment)

    @contextlib.contextmanager
    def one_save(self) -> Iterator[None]:
        """Save once at the end, so that a kill leaves all of it or nothing."""
        with self.lock:
            self._batches += 1
            try:
                yield
            finally:
                self._batches -= 1
            self.save()

    @contextlib.contextmanager
    def named_step(self, name: str) -> Iterator[None]:
        """Make the changes of the document inside one saved step."""
        self.check_writable()
        with self.history.step(name), self.one_save():
            yield
        self.tell("catalog")

    def _save_if_dirty(self) -> None:
        while True:
            with self.lock:
                if self._dirty and not self._batches:
                    self.save()
                if not self._dirty or self._batches:
                    return
            time.sleep(_PATIENCE)  # without the lock: who draws a new label waits for it

    def _replay(self) -> None:
        """Do what a killed process had in its journal and perhaps not in its frames."""
        steps = self.history.unsaved(self.document.moment)
        for entry in steps:  # names that were in the journal, and not in the document yet
            self._turn_rows(entry, entry.state in _OUT, additions=True)
        replayed = set()
        for record in self.history.unflushed():
            volume = self.volumes.get(record.layer)
            replayed |= set() if record.role.is_range else {record.start}
            if volume is None:
                continue
            try:
                volume.replay(record)
            except DamagedError:
                self.journal.damaged()
            except ProjectError as error:  # its frame cannot be read; the others can
                self.journal.damaged(str(error))
        for entry in steps:
            self._turn_rows(entry, entry.state in _OUT, additions=False)
        self.history.finish()
        for volume in self.volumes.values():
            for t in replayed:
                with contextlib.suppress(ProjectError):  # its frame cannot be read
                    volume.frames.recount(t)
            self._own(volume)
        if self._dirty or any(volume.frames.dirty for volume in self.volumes.values()):
            self.wake()

    def _own(self, volume: LayerVolume) -> None:
        """Count pixels that nobody seems to have drawn as a person's: no run draws over them."""
        for object_id, t in volume.frames.strays(count=self.document.version > 1):
            volume.frames.raise_to(Provenance.HUMAN, object_id, t)

    def _open_layer(self, layer_id: int) -> None:
        path = self.path / "layers" / str(layer_id)
        array = self._label_array(path)
        frames = LayerFrames(layer_id, array, path, self._tracks, self)
        volume = LayerVolume(frames, self.history, self)
        self.volumes[layer_id] = volume
        for each in self.volumes.values():
            each.frames.cache.share(len(self.volumes))

    def _label_array(self, path: Path) -> Any:
        chunk = (1, *self.shape[1:])
        try:
            return open_array(path, self.shape, "uint16", chunk)
        except ProjectError:
            chunks = next(path.glob("c.*"), None)
            if self._writer is None or path.is_symlink() or described(path) or chunks is None:
                raise
        set_aside(path / "zarr.json")
        self.journal.damaged(f"{path / 'zarr.json'} was damaged and made anew.")
        return create_array(path, self.shape, chunk, "uint16", ("t", "y", "x"), keep=True)

    # -- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """Write everything and let others in; a `StorageError` leaves the project open."""
        if self._writer is not None:
            self._seal(True)
            self._dirty |= self.document.moment != self.history.moment
            try:
                self._save_all()
                self.history.close()
            except BaseException:
                self._seal(False)
                raise
        self.let_go()

    def let_go(self) -> None:
        """Let others in, whatever is not written."""
        self._seal(True)
        if self._writer is not None:
            self._saver.stop()
            self._scribe.stop()
        self.journal.close()
        if self._writer is not None:
            self._writer.release()
        self._closed = True

    def _seal(self, sealed: bool) -> None:
        for volume in list(self.volumes.values()):
            volume.frames.seal(sealed)
