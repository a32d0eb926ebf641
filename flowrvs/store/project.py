"""`Project`: the folder ``<name>.flowrvs`` with everything known of one video's masks."""

from __future__ import annotations

import atexit
import colorsys
import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError, MissingPathError, ProjectError, StorageError
from flowrvs.records import Expression, VideoInfo
from flowrvs.store._cache import FrameCache
from flowrvs.store._document import Document, LayerRecord, ObjectRecord, RunRecord
from flowrvs.store._files import (
    create_array,
    open_array,
    read_group,
    storage_error,
    write_group,
)
from flowrvs.store._flusher import Flusher
from flowrvs.store._layer import PROVENANCE_CHUNK, LayerVolume, Provenance
from flowrvs.store._lock import WriterLock
from flowrvs.store.labels import LabelsArray

__all__ = ["SUFFIX", "Project"]

SUFFIX = ".flowrvs"
"""What the name of a project's folder ends in."""

_GROUPS = ("layers", "provenance", "confidence")
_MAX_OBJECT_ID = 65535


class Project:
    """A project on disk; make one with `create` or `open`, and close it.

    It is a zarr v3 group that any zarr reader opens: ``layers/<n>`` are label volumes
    (T, H, W) uint16 whose pixel values are object ids, ``provenance/<object id>`` is
    (T,) uint8, ``confidence/<n>`` is (T, H, W) uint8 where it was kept; the attributes hold
    the rest. Nothing of it is ever half written: a process that is killed loses at most the
    last quarter of a second of painting.

    All methods may be called from any thread. One process at a time writes to a project;
    any number may read.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from flowrvs.records import VideoInfo
    >>> folder = os.path.join(tempfile.mkdtemp(), "clip.flowrvs")
    >>> with Project.create(folder, VideoInfo(None, "array", 4, 6, 8)) as project:
    ...     expression, cat = project.add_prompt("the cat that jumps")
    ...     written = project.write_model(cat.layer, cat.id, 0, np.ones((4, 6, 8), bool))
    ...     project.labels(cat.layer)[2, :3] = 0   # a person erases
    ...     print(project.provenance(cat.id), project.object_mask(cat.id, 2, 3).sum())
    [1 1 2 1] 24
    """

    def __init__(self, path: Path, document: Document, lock: WriterLock | None) -> None:
        """Use `create` or `open`."""
        self._path = path
        self._doc = document
        self._writer = lock
        self._lock = threading.RLock()  # the document's; taken after a layer's, never before
        self._doc_dirty = False
        self._batches = 0
        self._closed = False
        self._volumes: dict[int, LayerVolume] = {}
        self._arrays: dict[int, LabelsArray] = {}
        self._confidence: dict[int, Any] = {}
        self._flusher = Flusher(self._flush_all)
        for layer in document.layers.values():
            self._open_layer(layer.id)
        for one in document.objects.values():
            self._open_object(one)
        _OPEN.add(self)

    # -- opening and closing -------------------------------------------------------------

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], video: VideoInfo, *, overwrite: bool = False
    ) -> Project:
        """Make an empty project for a video and open it for writing.

        Parameters
        ----------
        path : path-like
            The folder to make; ``.flowrvs`` is added to a name without it.
        video : VideoInfo
            The video that it is about.
        overwrite : bool
            Replace a project that is already there, masks and edits included.

        Raises
        ------
        ProjectError
            Something is already there, or the video has no frames.
        StorageError
            The folder cannot be made.
        """
        folder = _with_suffix(Path(path))
        if min(video.frame_count, video.height, video.width) < 1:
            raise ProjectError(f"{video.path or 'The video'} has no frames to make masks for.")
        if folder.exists() or folder.is_symlink():
            if not overwrite:
                raise ProjectError(f"{folder} already exists; open it or choose another name.")
            # Opening it proves that it is ours to delete and that nobody is writing to it.
            cls.open(folder).close()
        document = Document(video=video)
        document.history.append(_event("created"))
        building = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            for name in _GROUPS:
                write_group(building / name, {})
            write_group(building, document.to_attributes())
            if folder.exists():
                old = building.with_suffix(".old")
                folder.rename(old)
                building.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
            else:
                building.rename(folder)
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            raise (
                error if isinstance(error, StorageError) else storage_error(error, folder)
            ) from None
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, read_only: bool = False) -> Project:
        """Open a project.

        Parameters
        ----------
        path : path-like
            Its folder; ``.flowrvs`` may be left out.
        read_only : bool
            Read what is on the disk, also while another process writes to it.

        Raises
        ------
        MissingPathError
            Nothing is there.
        ProjectError
            It is no project, damaged, newer than this version, or open for writing elsewhere.
        StorageError
            It lies on a disk that cannot be written to.
        """
        folder = Path(path)
        if not folder.exists() and _with_suffix(folder).exists():
            folder = _with_suffix(folder)
        if not folder.exists():
            raise MissingPathError(f"There is no project at {folder}.")
        if not folder.is_dir():
            raise ProjectError(f"{folder} is a file; a project is a folder named *{SUFFIX}.")
        folder = folder.absolute()
        document = Document.from_attributes(read_group(folder), folder)
        lock = None
        if not read_only:
            lock = WriterLock(folder)
            # Once more under the lock: another writer may have closed it just now.
            document = Document.from_attributes(read_group(folder), folder)
        try:
            project = cls(folder, document, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        if lock is not None:
            for stale in folder.glob(".zarr.json.*.partial"):
                stale.unlink(missing_ok=True)
        return project

    def close(self) -> None:
        """Write what is left and let others in; further calls do nothing.

        Raises
        ------
        StorageError
            Something could not be written. The project stays open, so that nothing is lost:
            free some space and close it again.
        """
        if self._closed:
            return
        if self._writer is not None:
            self._seal(True)
            try:
                self._flush_all()
            except StorageError:
                self._seal(False)
                raise
            self._flusher.stop()
            self._writer.release()
        self._closed = True
        _OPEN.discard(self)

    def _seal(self, closed: bool) -> None:
        for volume in list(self._volumes.values()):
            volume.seal(closed)

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Project {self._path} {len(self._doc.objects)} objects>"

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
            self._flusher.wake()
            raise

    def _flush_all(self) -> None:
        self._save_if_dirty()
        for volume in list(self._volumes.values()):
            if volume.dirty:
                volume.flush(before=self._save_if_dirty)

    def copy_to(self, path: str | os.PathLike[str]) -> Path:
        """Write a copy of the project as it is now; return its folder.

        Raises
        ------
        ProjectError
            Something is already there.
        StorageError
            The copy cannot be written; nothing is left under its name.
        """
        target = _with_suffix(Path(path)).absolute()
        if target.exists():
            raise ProjectError(f"{target} already exists; choose another name.")
        if self._writer is not None:
            self.flush()
        building = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(
                self._path, building, ignore=shutil.ignore_patterns("*.partial", "writer")
            )
            building.rename(target)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(building, ignore_errors=True)
            raise storage_error(error, target) from error
        return target

    # -- what is known -------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The project's folder."""
        return self._path

    @property
    def writable(self) -> bool:
        """False for a project that was opened for reading only, or closed."""
        return self._writer is not None and not self._closed

    @property
    def video(self) -> VideoInfo:
        """The video that the masks belong to."""
        return self._doc.video

    @property
    def model(self) -> str | None:
        """Name of the model that ran last."""
        return self._doc.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was done and when (``time`` in ISO 8601, UTC; ``event``), oldest first."""
        with self._lock:
            return [dict(row) for row in self._doc.history]

    @property
    def layers(self) -> dict[int, LayerRecord]:
        """Every layer by its id."""
        with self._lock:
            return dict(self._doc.layers)

    @property
    def objects(self) -> dict[int, ObjectRecord]:
        """Every object by its id."""
        with self._lock:
            return dict(self._doc.objects)

    @property
    def expressions(self) -> dict[str, Expression]:
        """Every expression by its id."""
        with self._lock:
            return dict(self._doc.expressions)

    @property
    def storage_error(self) -> StorageError | None:
        """Why the last write in the background failed; None while all is well."""
        error = self._flusher.error
        return error if isinstance(error, StorageError) else None

    @property
    def unsaved(self) -> int:
        """Number of frames (and provenance chunks) that are not on the disk yet."""
        return sum(volume.dirty for volume in list(self._volumes.values()))

    def check_video(self, info: VideoInfo) -> None:
        """Make sure that a video is the one of this project; note where it lies now.

        Raises
        ------
        ProjectError
            It is another video.
        """
        own = self._doc.video
        size = (own.frame_count, own.height, own.width)
        other = (info.frame_count, info.height, info.width)
        same = own.fingerprint is None or info.fingerprint in (None, own.fingerprint)
        if size != other or not same:
            raise ProjectError(
                f"{self._path} holds the masks of {own.path or 'another video'} ({own.frame_count} "
                f"frames, {own.width}x{own.height}), not of {info.path or 'this one'} "
                f"({info.frame_count} frames, {info.width}x{info.height}); choose another project."
            )
        if self.writable and info.path is not None and info.path != own.path:
            with self._lock:
                self._doc.video = replace(own, path=info.path)
                self._save()

    # -- layers, objects, expressions ----------------------------------------------------

    def add_layer(self, name: str) -> LayerRecord:
        """Make an empty layer."""
        self._check_writable()
        with self._lock:
            layer = LayerRecord(self._doc.new_id("layer", 1), str(name))
            shape = self._shape
            path = self._path / "layers" / str(layer.id)
            create_array(path, shape, (1, *shape[1:]), "uint16", ("t", "y", "x"))
            self._open_layer(layer.id)
            self._doc.layers[layer.id] = layer
            self._save()
            return layer

    def add_object(
        self, name: str, layer_id: int, color: tuple[float, float, float] | None = None
    ) -> ObjectRecord:
        """Make an object without pixels.

        Parameters
        ----------
        name : str
            As shown to the user.
        layer_id : int
            The layer that will hold its pixels.
        color : tuple of 3 floats, optional
            Red, green, blue, 0 to 1; one that stands out from the others by default.

        Raises
        ------
        ProjectError
            There is no such layer, or 65535 objects exist already.
        """
        self._check_writable()
        # A layer's lock comes before the document's: a stroke takes them in this order too.
        with self._volume(layer_id).cache.lock, self._lock:
            one = self._new_object(self._doc.new_id("object", 1), name, layer_id, color)
            self._save()
            return one

    def _new_object(
        self,
        object_id: int,
        name: str,
        layer_id: int,
        color: tuple[float, float, float] | None = None,
    ) -> ObjectRecord:
        if object_id > _MAX_OBJECT_ID:
            raise ProjectError(f"{self._path} holds {_MAX_OBJECT_ID} objects; begin a new project.")
        if color is None:
            color = _color(object_id)
        red, green, blue = (min(1.0, max(0.0, float(c))) for c in color)
        one = ObjectRecord(object_id, str(name), (red, green, blue), layer_id)
        self._doc.objects[object_id] = one
        self._open_object(one, new=True)
        self._doc_dirty = True
        return one

    def _claim(self, layer_id: int, ids: Iterable[int]) -> None:
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
                self._new_object(object_id, f"object {object_id}", layer_id)
                follow = max(self._doc.next_ids.get("object", 1), object_id + 1)
                self._doc.next_ids["object"] = follow

    @property
    def next_label(self) -> int:
        """The id that the next new object gets, free in every layer."""
        return self._doc.next_ids.get("object", 1)

    def update_object(
        self,
        object_id: int,
        *,
        name: str | None = None,
        color: tuple[float, float, float] | None = None,
    ) -> ObjectRecord:
        """Rename or recolour an object."""
        self._check_writable()
        with self._lock:
            one = self._object(object_id)
            if name is not None:
                one = replace(one, name=str(name))
            if color is not None:
                red, green, blue = (min(1.0, max(0.0, float(c))) for c in color)
                one = replace(one, color=(red, green, blue))
            self._doc.objects[object_id] = one
            self._save()
            return one

    def rename_layer(self, layer_id: int, name: str) -> LayerRecord:
        """Give a layer another name."""
        self._check_writable()
        with self._lock:
            self._volume(layer_id)
            self._doc.layers[layer_id] = LayerRecord(layer_id, str(name))
            self._save()
            return self._doc.layers[layer_id]

    def remove_object(self, object_id: int) -> None:
        """Erase an object: its pixels, provenance, runs, and its place in expressions."""
        self._check_writable()
        one = self._object(object_id)
        self._volume(one.layer).detach(object_id)
        with self._lock:
            del self._doc.objects[object_id]
            for key, expression in self._doc.expressions.items():
                left = expression.object_ids - {object_id}
                self._doc.expressions[key] = replace(expression, object_ids=left)
            self._doc.prompts = {k: v for k, v in self._doc.prompts.items() if v != object_id}
            self._doc.runs = {k: r for k, r in self._doc.runs.items() if r.object_id != object_id}
            self._save()
        shutil.rmtree(self._path / "provenance" / str(object_id), ignore_errors=True)

    def add_expression(self, text: str, object_ids: Iterable[int] = ()) -> Expression:
        """Add a sentence and the objects that it means, none of them for a sentence without.

        Raises
        ------
        InputError
            The sentence is blank.
        ProjectError
            An object is not there.
        """
        self._check_writable()
        if not text.strip():
            raise InputError("The sentence is blank; describe what to find.")
        with self._lock:
            expression = Expression(
                str(self._doc.new_id("expression", 0)), text, self._existing(object_ids)
            )
            self._doc.expressions[expression.exp_id] = expression
            self._save()
            return expression

    def set_expression_objects(self, exp_id: str, object_ids: Iterable[int]) -> Expression:
        """Say which objects a sentence means."""
        self._check_writable()
        with self._lock:
            expression = replace(self._expression(exp_id), object_ids=self._existing(object_ids))
            self._doc.expressions[exp_id] = expression
            self._save()
            return expression

    def remove_expression(self, exp_id: str) -> None:
        """Forget a sentence; its objects and their masks stay."""
        self._check_writable()
        with self._lock:
            self._expression(exp_id)
            del self._doc.expressions[exp_id]
            self._doc.prompts.pop(exp_id, None)
            self._save()

    def add_prompt(self, text: str) -> tuple[Expression, ObjectRecord]:
        """Add a sentence with a new object in a new layer, for a model to draw.

        A text that was prompted before (white space aside) gives what it gave then.
        """
        self._check_writable()
        words = text.split()
        if not words:
            raise InputError("The sentence is blank; describe what to find.")
        with self._lock:
            for exp_id, object_id in self._doc.prompts.items():
                if self._doc.expressions[exp_id].text.split() == words:
                    return self._doc.expressions[exp_id], self._doc.objects[object_id]
            with self._one_save():
                name = " ".join(words)
                one = self.add_object(name, self.add_layer(name).id)
                expression = self.add_expression(text.strip(), [one.id])
                self._doc.prompts[expression.exp_id] = one.id
            return expression, one

    # -- pixels --------------------------------------------------------------------------

    def labels(self, layer_id: int) -> LabelsArray:
        """Return a layer's labels, an array for a *person's* edits; always the same one."""
        self._volume(layer_id)
        return self._arrays[layer_id]

    def write_model(
        self,
        layer_id: int,
        object_id: int,
        start: int,
        masks: npt.NDArray[np.bool_],
        confidence: npt.NDArray[np.uint8] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Replace an object's masks by a model's, but never on a frame that a person touched.

        Parameters
        ----------
        layer_id, object_id : int
            What to draw.
        start : int
            Frame of the first mask.
        masks : ndarray of bool, shape (n, H, W)
            Its masks. Pixels of the layer's other objects that a person drew stay theirs.
        confidence : ndarray of uint8, shape (n, H, W), optional
            Kept beside the masks, for the same frames.

        Returns
        -------
        ndarray of bool, shape (n,)
            The frames that were written; the others are a person's.
        """
        self._check_writable()
        one = self._object(object_id)
        if one.layer != layer_id:
            raise ProjectError(f"{one.name!r} lives in layer {one.layer}, not in {layer_id}.")
        masks = np.asarray(masks, dtype=np.bool_)
        self._check_range(start, start + len(masks))
        if masks.shape[1:] != self._shape[1:] or (
            confidence is not None and confidence.shape != masks.shape
        ):
            raise ProjectError(
                f"Masks of shape {masks.shape} do not fit the video's {self._shape[1:]} pixels."
            )
        written = self._volume(layer_id).write_model(object_id, start, masks)
        if confidence is not None:
            self._write_confidence(layer_id, start, confidence, written)
        return written

    def _write_confidence(
        self,
        layer_id: int,
        start: int,
        confidence: npt.NDArray[np.uint8],
        written: npt.NDArray[np.bool_],
    ) -> None:
        path = self._path / "confidence" / str(layer_id)
        with self._lock:
            if layer_id not in self._doc.confidence:
                shape = self._shape
                create_array(path, shape, (1, *shape[1:]), "uint8", ("t", "y", "x"))
                self._doc.confidence.append(layer_id)
                self._save()
            array = self._confidence_array(layer_id)
        try:
            futures = [array[start + int(i)].write(confidence[i]) for i in np.flatnonzero(written)]
            for future in futures:
                future.result()
        except Exception as error:
            raise storage_error(error, path) from error

    def _confidence_array(self, layer_id: int) -> Any:
        if layer_id not in self._confidence:
            path = self._path / "confidence" / str(layer_id)
            self._confidence[layer_id] = open_array(path, self._shape, "uint8")
        return self._confidence[layer_id]

    def confidence(self, layer_id: int, start: int, stop: int) -> npt.NDArray[np.uint8] | None:
        """Return a layer's confidence, (n, H, W) uint8, or None where none was kept."""
        self._volume(layer_id)
        self._check_range(start, stop)
        with self._lock:
            if layer_id not in self._doc.confidence:
                return None
            array = self._confidence_array(layer_id)
        values: npt.NDArray[np.uint8] = array[start:stop].read().result()
        return values

    def provenance(self, object_id: int) -> npt.NDArray[np.uint8]:
        """Return where an object's mask comes from, per frame: `Provenance` values, (T,)."""
        return self._volume(self._object(object_id).layer).provenance(object_id)

    def lock_frames(self, object_id: int, start: int, stop: int) -> None:
        """Protect an object's masks on frames ``start`` to ``stop - 1`` as they are."""
        self._set_provenance(
            object_id, start, stop, lambda old: np.full_like(old, Provenance.LOCKED)
        )

    def unlock_frames(self, object_id: int, start: int, stop: int) -> None:
        """Undo `lock_frames`; the frames stay a person's."""
        human, locked = np.uint8(Provenance.HUMAN), Provenance.LOCKED
        self._set_provenance(
            object_id, start, stop, lambda old: np.where(old == locked, human, old)
        )

    def release_frames(self, object_id: int, start: int, stop: int) -> None:
        """Hand frames back to the model: its next run may draw over what a person drew."""
        model = np.uint8(Provenance.MODEL)
        self._set_provenance(object_id, start, stop, lambda old: np.minimum(old, model))

    def _set_provenance(self, object_id: int, start: int, stop: int, change: Any) -> None:
        self._check_writable()
        self._check_range(start, stop)
        if start < stop:
            volume = self._volume(self._object(object_id).layer)
            volume.set_provenance(object_id, start, stop, change)

    def object_mask(self, object_id: int, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return an object's masks on frames ``start`` to ``stop - 1``, (n, H, W) bool."""
        self._check_range(start, stop)
        one = self._object(object_id)
        return self._volume(one.layer).masks([object_id], start, stop)

    def expression_mask(self, exp_id: str, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return the union of the masks of all objects that a sentence means."""
        self._check_range(start, stop)
        by_layer: dict[int, list[int]] = {}
        for object_id in self._expression(exp_id).object_ids:
            by_layer.setdefault(self._object(object_id).layer, []).append(object_id)
        union = np.zeros((stop - start, *self._shape[1:]), np.bool_)
        for layer_id, ids in by_layer.items():
            union |= self._volume(layer_id).masks(ids, start, stop)
        return union

    # -- runs ----------------------------------------------------------------------------

    def begin_run(
        self, key: Mapping[str, Any], object_id: int, *, resume: bool = True
    ) -> RunRecord:
        """Note that a model is about to draw an object.

        Parameters
        ----------
        key : mapping
            Everything that the masks depend on, in values that JSON can hold. ``"range"``
            (first frame, one past the last) says which frames it draws.
        object_id : int
            The object.
        resume : bool
            Go on with the run of an equal key, if there is one; else draw all of it again.

        Returns
        -------
        RunRecord
            With the windows that are finished. Other runs of the object on the same frames
            are forgotten, as their masks are about to be replaced.
        """
        self._check_writable()
        one = self._object(object_id)
        wanted = _plain(key)
        with self._lock:
            found = None
            for run in list(self._doc.runs.values()):
                if run.object_id != one.id:
                    continue
                if resume and found is None and _plain(run.key) == wanted:
                    found = run
                elif _overlap(run.key, wanted):
                    del self._doc.runs[run.id]
            self._doc.model = str(key.get("model", self._doc.model))
            if found is None:
                found = RunRecord(str(self._doc.new_id("run", 1)), one.id, wanted)
                self._doc.runs[found.id] = found
                self._doc.history.append(_event("run", run=found.id, **wanted))
            self._save()
            return found

    @property
    def runs(self) -> dict[str, RunRecord]:
        """Every run by its id, finished windows included."""
        with self._lock:
            return dict(self._doc.runs)

    def mark_window_done(self, run_id: str, index: int) -> None:
        """Make the masks of a window safe on the disk, then note that it is finished.

        Raises
        ------
        StorageError
            They are not safe; the window does not count as finished.
        """
        self.flush()
        with self._lock:
            run = self._doc.runs.get(run_id)
            if run is not None:  # its object may have been removed meanwhile
                self._doc.runs[run_id] = replace(run, done=run.done | {index})
                self._save()

    # -- inside --------------------------------------------------------------------------

    @property
    def _shape(self) -> tuple[int, int, int]:
        video = self._doc.video
        return (video.frame_count, video.height, video.width)

    def _open_layer(self, layer_id: int) -> None:
        path = self._path / "layers" / str(layer_id)
        cache = FrameCache(open_array(path, self._shape, "uint16"), path)
        volume = LayerVolume(cache, lambda ids: self._claim(layer_id, ids), self._flusher.wake)
        self._volumes[layer_id] = volume
        for each in self._volumes.values():
            each.cache.share(len(self._volumes))
        self._arrays[layer_id] = LabelsArray(volume, layer_id, writable=self._writer is not None)

    def _open_object(self, one: ObjectRecord, *, new: bool = False) -> None:
        path = self._path / "provenance" / str(one.id)
        frames = self._shape[0]

        def make() -> Any:
            chunk = (min(frames, PROVENANCE_CHUNK),)
            if path.exists() and not new:
                return open_array(path, (frames,), "uint8")
            return create_array(path, (frames,), chunk, "uint8", ("t",))

        values = None
        if not new and path.exists():
            values = np.array(make().read().result())
        self._volumes[one.layer].attach(one.id, make, values)

    def _volume(self, layer_id: int) -> LayerVolume:
        if self._closed:
            raise ProjectError(f"{self._path} was closed; open it again.")
        try:
            return self._volumes[layer_id]
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
            try:
                write_group(self._path, self._doc.to_attributes())
            except StorageError:
                self._flusher.wake()  # it tries again until it fits
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


_OPEN: set[Project] = set()


@atexit.register
def _close_all() -> None:
    """Save what forgotten projects still hold when the program ends."""
    for project in list(_OPEN):
        with contextlib.suppress(StorageError):
            project.close()


def _with_suffix(path: Path) -> Path:
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)


def _event(event: str, **details: Any) -> dict[str, Any]:
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details}


def _plain(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key as JSON gives it back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in key.items()}


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if "range" not in one or "range" not in other:
        return True
    return bool(one["range"][0] < other["range"][1] and other["range"][0] < one["range"][1])


def _color(number: int) -> tuple[float, float, float]:
    """Return hues that stay far from each other however many there are."""
    return colorsys.hsv_to_rgb((number * 0.618034 + 0.25) % 1.0, 0.75, 0.95)
