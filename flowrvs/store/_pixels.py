"""Labels, masks and provenance: what a project knows by pixel and frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store._confidence import Confidence
from flowrvs.store._document import ObjectRecord
from flowrvs.store._tracks import Provenance
from flowrvs.store.labels import LabelsArray

__all__ = ["ObjectCounts", "Pixels"]

_LIMITS = {"model": Provenance.MODEL, "human": Provenance.HUMAN}


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    """On how many frames an object is seen, and who drew it.

    Attributes
    ----------
    present : int
        Frames with at least one pixel.
    empty, model, human, locked : int
        Frames of each provenance; they add up to the video.
    first, last : int or None
        First and last frame with a pixel; None for an object that is never seen.
    """

    present: int
    empty: int
    model: int
    human: int
    locked: int
    first: int | None
    last: int | None


class Pixels(Confidence):
    """The part of `Project` that holds masks."""

    # -- writing -------------------------------------------------------------------------

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
        *,
        overwrite: Literal["model", "human"] = "model",
    ) -> npt.NDArray[np.bool_]:
        """Replace an object's masks by a model's, but never on a frame that a person touched.

        The masks become part of the object's run (`begin_run`), or of the step that this
        thread is making, or else a step of their own.

        Parameters
        ----------
        layer_id, object_id : int
            What to draw.
        start : int
            Frame of the first mask.
        masks : ndarray of bool, shape (n, H, W)
            Its masks. Pixels of the layer's other objects that a person drew stay theirs.
        confidence : ndarray of uint8, shape (n, H, W), optional
            Kept beside the masks, for the same frames, while the disk has room.
        overwrite : {"model", "human"}
            ``"human"`` draws over what a person drew, too; locked frames stay.

        Returns
        -------
        ndarray of bool, shape (n,)
            The frames that were written; the others are a person's.
        """
        one = self._object(object_id)
        if one.layer != layer_id:
            raise ProjectError(f"{one.name!r} lives in layer {one.layer}, not in {layer_id}.")
        if confidence is not None and np.shape(confidence) != np.shape(masks):
            raise ProjectError(
                f"Confidence of shape {np.shape(confidence)} does not fit masks of "
                f"{np.shape(masks)}."
            )
        written = self._write(one, start, masks, Provenance.MODEL, overwrite)
        if confidence is not None:
            self._keep_confidence(one, start, confidence, written)
        return written

    def write_masks(
        self,
        object_id: int,
        start: int,
        masks: npt.NDArray[np.bool_],
        *,
        provenance: Provenance = Provenance.HUMAN,
        overwrite: Literal["model", "human"] = "model",
    ) -> npt.NDArray[np.bool_]:
        """Replace an object's masks, as a tool that a person uses does.

        Parameters
        ----------
        object_id : int
            The object.
        start : int
            Frame of the first mask.
        masks : ndarray of bool, shape (n, H, W)
            Its masks. As `Provenance.HUMAN` they take pixels of other objects as a brush
            does, but not locked ones; as `Provenance.MODEL` they spare what a person drew.
        provenance : Provenance
            What the frames become: `HUMAN` where a person answers for them, `MODEL` where
            they may be replaced by a better guess.
        overwrite : {"model", "human"}
            ``"model"`` fills frames only that are empty or the model's; ``"human"`` those of a
            person, too. Locked frames always stay.

        Returns
        -------
        ndarray of bool, shape (n,)
            The frames that were written.
        """
        return self._write(self._object(object_id), start, masks, provenance, overwrite)

    def _write(
        self,
        one: ObjectRecord,
        start: int,
        masks: npt.NDArray[np.bool_],
        provenance: Provenance,
        overwrite: str,
    ) -> npt.NDArray[np.bool_]:
        self._check_writable()
        masks = np.asarray(masks, dtype=np.bool_)
        self._check_range(start, start + len(masks))
        if masks.shape[1:] != self._shape[1:]:
            raise ProjectError(
                f"Masks of shape {masks.shape} do not fit the video's {self._shape[1:]} pixels."
            )
        if overwrite not in _LIMITS:
            raise ProjectError(f"overwrite={overwrite!r}: choose 'model' or 'human'.")
        name = f"masks of {one.name!r}, {frames_text(start, start + len(masks))}"
        kind: Literal["human", "model"] = "human" if provenance >= Provenance.HUMAN else "model"
        run = self._open_runs.get(one.id) if kind == "model" else None
        volume = self._volume(one.layer)
        arguments = (one.id, start, masks, provenance, _LIMITS[overwrite])
        if run is not None and self.history.current() is None:
            written = volume.write(run, *arguments)
        else:
            who = self._doc.model if kind == "model" else None
            with self.history.step(name, kind, who, on_error="keep") as entry:
                written = volume.write(entry, *arguments)
        self._tell("pixels", one.layer, start, start + len(masks))
        return written

    # -- provenance ----------------------------------------------------------------------

    def provenance(self, object_id: int) -> npt.NDArray[np.uint8]:
        """Return where an object's mask comes from, per frame: `Provenance` values, (T,)."""
        return self._volume(self._object(object_id).layer).provenance(object_id)

    def lock_frames(self, object_id: int, start: int, stop: int) -> None:
        """Protect an object's masks on frames ``start`` to ``stop - 1`` as they are."""
        self._mark("lock", object_id, start, stop, lambda old: np.full_like(old, Provenance.LOCKED))

    def unlock_frames(self, object_id: int, start: int, stop: int) -> None:
        """Undo `lock_frames`; the frames stay a person's."""
        human, locked = np.uint8(Provenance.HUMAN), Provenance.LOCKED
        self._mark(
            "unlock", object_id, start, stop, lambda old: np.where(old == locked, human, old)
        )

    def release_frames(self, object_id: int, start: int, stop: int) -> None:
        """Hand frames back to the model: its next run may draw over what a person drew."""
        model = np.uint8(Provenance.MODEL)
        self._mark("release", object_id, start, stop, lambda old: np.minimum(old, model))

    def accept_frames(self, object_id: int, start: int, stop: int) -> None:
        """Say that a person looked at the masks and found them right, also where none is."""
        human = np.uint8(Provenance.HUMAN)
        self._mark("accept", object_id, start, stop, lambda old: np.maximum(old, human))

    def _mark(
        self, verb: str, object_id: int, start: int, stop: int, change: Callable[[Any], Any]
    ) -> None:
        self._check_writable()
        self._check_range(start, stop)
        one = self._object(object_id)
        with self.history.step(f"{verb} {one.name!r}, {frames_text(start, stop)}") as entry:
            if start < stop:
                volume = self._volume(one.layer)
                volume.set_provenance(entry, object_id, start, stop, change)
        self._tell("provenance", one.layer, start, stop)

    def areas(self, object_id: int) -> npt.NDArray[np.int32]:
        """Return an object's number of pixels per frame, (T,).

        They are kept up to date while masks change. In a project of format 1 the first call
        reads the masks, about a millisecond a frame: make it in a worker thread.
        """
        return self._volume(self._object(object_id).layer).areas(object_id)

    def present(self, object_id: int) -> npt.NDArray[np.bool_]:
        """Return on which frames an object has pixels, (T,); see `areas`."""
        seen: npt.NDArray[np.bool_] = self.areas(object_id) > 0
        return seen

    def counts(self, object_id: int) -> ObjectCounts:
        """Return on how many frames an object is seen, and who drew it; see `areas`."""
        seen = np.flatnonzero(self.present(object_id))
        rows = np.bincount(self.provenance(object_id), minlength=4)
        empty, model, human, locked = (int(n) for n in rows[:4])
        first, last = (int(seen[0]), int(seen[-1])) if len(seen) else (None, None)
        return ObjectCounts(len(seen), empty, model, human, locked, first, last)

    # -- reading -------------------------------------------------------------------------

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


def frames_text(start: int, stop: int) -> str:
    """Name a range of frames."""
    return f"frame {start}" if stop - start == 1 else f"frames {start}-{stop - 1}"
