"""What the parts of a project share: its document, its volumes, and saving both."""

from __future__ import annotations

import colorsys
import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flowrvs.errors import ProjectError, StorageError
from flowrvs.records import Expression
from flowrvs.store._cache import FrameCache
from flowrvs.store._document import Document, ObjectRecord
from flowrvs.store._files import create_array, open_array, write_group
from flowrvs.store._flusher import Flusher
from flowrvs.store._layer import PROVENANCE_CHUNK, LayerVolume
from flowrvs.store._lock import WriterLock
from flowrvs.store.labels import LabelsArray

__all__ = ["ProjectCore"]

_MAX_OBJECT_ID = 65535


class ProjectCore:
    """The state of an open project.

    Locks are taken in one order: a layer's (`FrameCache.lock`), then the document's
    (`_lock`). A stroke with a new label takes both.
    """

    def __init__(self, path: Path, document: Document, lock: WriterLock | None) -> None:
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
            volume.flush(before=self._save_if_dirty)

    def _seal(self, closed: bool) -> None:
        for volume in list(self._volumes.values()):
            volume.seal(closed)

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
        stored = path / "zarr.json"  # a folder without it is one that a kill left behind
        frames = self._shape[0]

        def make() -> Any:
            chunk = (min(frames, PROVENANCE_CHUNK),)
            if stored.exists() and not new:
                return open_array(path, (frames,), "uint8")
            return create_array(path, (frames,), chunk, "uint8", ("t",))

        values = None
        if not new and stored.exists():
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


def _color(number: int) -> tuple[float, float, float]:
    """Return hues that stay far from each other however many there are."""
    return colorsys.hsv_to_rgb((number * 0.618034 + 0.25) % 1.0, 0.75, 0.95)
