"""Labels, masks, confidence and provenance: what a project knows by pixel and frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store._core import ProjectCore
from flowrvs.store._files import create_array, open_array, storage_error
from flowrvs.store._layer import Provenance
from flowrvs.store.labels import LabelsArray

__all__ = ["Pixels"]


class Pixels(ProjectCore):
    """The part of `Project` that holds masks."""

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
