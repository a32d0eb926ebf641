"""Masks, who drew them, and how sure the model was: what a project knows by pixel and frame."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError, ProjectError, StorageError
from flowrvs.store.changes import Spans, frames_text
from flowrvs.store.document import ConfidenceRecord, ObjectRecord, run_frames
from flowrvs.store.labels import LabelsArray
from flowrvs.store.state import State
from flowrvs.store.storage import (
    Provenance,
    check_chunk,
    create_array,
    failed,
    free_chunk,
    open_array,
    write_group,
)

__all__ = ["Confidence", "Masks", "ObjectCounts"]

_LIMITS = {"model": Provenance.MODEL, "human": Provenance.HUMAN}
_SPARE_BYTES = 2 * 2**30
_BLOCK = 16
_CHUNK = 4096
_PARTS = 1000  # in which a disagreement is kept, from 1 on
_ALONE = -1  # one window alone saw the frame


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


class Masks:
    """Labels, masks and provenance."""

    def __init__(self, state: State, confidence: Confidence) -> None:
        self._state = state
        self.confidence = confidence
        self._arrays: dict[int, LabelsArray] = {}

    # -- writing -------------------------------------------------------------------------

    def labels(self, layer_id: int) -> LabelsArray:
        """Return a layer's labels, an array for a *person's* edits; always the same one."""
        volume = self._state.volume(layer_id)
        with self._state.lock:
            if layer_id not in self._arrays:
                self._arrays[layer_id] = LabelsArray(
                    volume, self._state.tell, writable=self._state.writable
                )
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
        record = self._state.object(object_id)
        if record.layer != layer_id:
            raise ProjectError(f"{record.name!r} lives in layer {record.layer}, not in {layer_id}.")
        if confidence is not None and np.shape(confidence) != np.shape(masks):
            raise ProjectError(
                f"Confidence of shape {np.shape(confidence)} does not fit masks of "
                f"{np.shape(masks)}."
            )
        written = self.write_masks(
            object_id, start, masks, provenance=Provenance.MODEL, overwrite=overwrite
        )
        if confidence is not None:
            self.confidence.keep(record, start, confidence, written)
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
        self._state.check_writable()
        record = self._state.object(object_id)
        masks = np.asarray(masks, dtype=np.bool_)
        self._state.check_range(start, start + len(masks))
        if masks.shape[1:] != self._state.shape[1:]:
            raise ProjectError(
                f"Masks of shape {masks.shape} do not fit the video's "
                f"{self._state.shape[1:]} pixels."
            )
        if overwrite not in _LIMITS:
            raise ProjectError(f"overwrite={overwrite!r}: choose 'model' or 'human'.")
        name = f"masks of {record.name!r}, {frames_text(start, start + len(masks))}"
        kind: Literal["human", "model"] = "human" if provenance >= Provenance.HUMAN else "model"
        run = self._state.open_runs.get(record.id) if kind == "model" else None
        volume = self._state.volume(record.layer)
        arguments = (record.id, start, masks, provenance, _LIMITS[overwrite])
        if run is not None and self._state.history.current() is None:
            written = volume.write(run, *arguments)
        else:
            who = self._state.document.model if kind == "model" else None
            with self._state.history.step(name, kind, who, on_error="keep") as entry:
                written = volume.write(entry, *arguments)
        self._state.history.tell_ended()
        self._state.tell("pixels", record.layer, start, start + len(masks))
        return written

    def remove_run(self, run_id: str) -> None:
        """Erase what the model drew of a run's object on its frames, as one step.

        Frames that a person drew, corrected, accepted or locked stay as they are.

        Raises
        ------
        ProjectError
            There is no such run.
        """
        state = self._state
        state.check_writable()
        run = state.document.runs.get(run_id)
        if run is None:
            raise ProjectError(f"{state.path} has no run {run_id}.")
        state.end_run(run.object_id)
        record = state.object(run.object_id)
        frames = run.key.get("range")
        start, stop = (0, state.shape[0]) if frames is None else (int(frames[0]), int(frames[1]))
        nothing = np.zeros((1, *state.shape[1:]), np.bool_)
        volume, limit = state.volume(record.layer), Provenance.MODEL
        with state.history.step(f"remove the run of {record.name!r}{run_frames(run.key)}") as entry:
            provenance = self.provenance(record.id)[:stop]
            for t in start + np.flatnonzero(provenance[start:] == Provenance.MODEL):
                volume.write(entry, record.id, int(t), nothing, Provenance.EMPTY, limit)
                self.confidence.note(record.layer, None, [int(t)])
            state.put("runs", run_id, None)
            state.save()
        state.tell("pixels", record.layer, start, stop)

    # -- provenance ----------------------------------------------------------------------

    def provenance(self, object_id: int) -> npt.NDArray[np.uint8]:
        """Return where an object's mask comes from, per frame: `Provenance` values, (T,)."""
        return self._state.volume_of(object_id).frames.provenance(object_id)

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
        self._state.check_writable()
        self._state.check_range(start, stop)
        record = self._state.object(object_id)
        with self._state.history.step(
            f"{verb} {record.name!r}, {frames_text(start, stop)}"
        ) as entry:
            if start < stop:
                volume = self._state.volume(record.layer)
                volume.set_provenance(entry, object_id, start, stop, change)
        self._state.tell("provenance", record.layer, start, stop)

    def areas(self, object_id: int) -> npt.NDArray[np.int32]:
        """Return an object's number of pixels per frame, (T,).

        They are kept up to date while masks change. In a project of format 1 the first call
        reads the masks, about a millisecond a frame: make it in a worker thread.
        """
        return self._state.volume_of(object_id).frames.areas(object_id)

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
        self._state.check_range(start, stop)
        record = self._state.object(object_id)
        return self._state.volume(record.layer).frames.masks([object_id], start, stop)

    def expression_mask(self, exp_id: str, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return the union of the masks of all objects that a sentence means."""
        self._state.check_range(start, stop)
        by_layer: dict[int, list[int]] = {}
        for object_id in self._state.expression(exp_id).object_ids:
            by_layer.setdefault(self._state.object(object_id).layer, []).append(object_id)
        union = np.zeros((stop - start, *self._state.shape[1:]), np.bool_)
        for layer_id, ids in by_layer.items():
            union |= self._state.volume(layer_id).frames.masks(ids, start, stop)
        return union


class Confidence:
    """What tells how sure a model was, by pixel where the disk has room, and by frame.

    A person's frames have none.
    """

    def __init__(self, state: State) -> None:
        self.notice: str | None = None  # why confidence is not kept any more
        self._state = state
        self._arrays: dict[int, Any] = {}
        self._disagreement: dict[int, Any] = {}
        self._disagreement_lock = threading.Lock()  # not the document's: a brush may want that

    def confidence(self, layer_id: int, start: int, stop: int) -> npt.NDArray[np.uint8] | None:
        """Return a layer's confidence, (n, H, W) uint8, or None where none was kept.

        It is ``round(255 * sigmoid(logit))``; frames without are 0: `confidence_frames` tells.

        Raises
        ------
        ProjectError
            What was kept is damaged.
        """
        self._state.volume(layer_id)
        self._state.check_range(start, stop)
        with self._state.lock:
            if layer_id not in self._state.document.confidence:
                return None
            array = self._array(layer_id)
        try:
            pixels = math.prod(self._state.shape[1:])
            for t in range(start, stop):
                check_chunk(f"{self._state.path}/confidence/{layer_id}/c.{t}.0.0", pixels)
            values: npt.NDArray[np.uint8] = array[start:stop].read().result()
        except Exception as error:
            raise ProjectError(
                f"The confidence in {self._state.path / 'confidence' / str(layer_id)} is damaged "
                f"within frames {start} to {stop - 1}; ask again there to have it anew."
            ) from error
        return values

    def confidence_frames(self, object_id: int) -> npt.NDArray[np.bool_]:
        """Return on which frames the confidence of an object is kept, (T,)."""
        record = self._state.object(object_id)
        kept = np.zeros(self._state.shape[0], np.bool_)
        with self._state.lock:
            known = self._state.document.confidence.get(record.layer)
            if known is None or object_id not in known.frames:
                return kept
            runs = known.frames[object_id]
        if runs is None:  # format 1
            return self._state.volume(record.layer).frames.provenance(object_id) == Provenance.MODEL
        for start, stop in runs:
            kept[start:stop] = True
        return kept

    def rethreshold(
        self, object_id: int, start: int, stop: int, threshold: int
    ) -> npt.NDArray[np.bool_]:
        """Draw an object again from its confidence, as one step, with another threshold.

        Frames of a person, and frames without confidence, stay as they are.

        Parameters
        ----------
        object_id : int
            The object.
        start, stop : int
            The frames.
        threshold : int
            0 to 255; pixels above it are drawn. 127 is what a run draws by default.

        Returns
        -------
        ndarray of bool, shape (stop - start,)
            The frames that were drawn.
        """
        self._state.check_writable()
        self._state.check_range(start, stop)
        if not 0 <= threshold <= 255:
            raise InputError(f"The threshold {threshold} is not in 0 to 255; choose another.")
        record = self._state.object(object_id)
        volume = self._state.volume(record.layer)
        kept = self.confidence_frames(object_id)[start:stop]
        written = np.zeros(stop - start, np.bool_)
        share = min(max(threshold, 0.5), 254.5) / 255
        level = math.log(share / (1 - share))  # as a logit, which is what the window shows
        name = f"threshold {level:+.2f} of {record.name!r}, frames {start}-{stop - 1}"
        with self._state.history.step(name, "human") as entry:
            for first in range(start, stop, _BLOCK):
                last = min(stop, first + _BLOCK)
                if not kept[first - start : last - start].any():
                    continue
                values = self.confidence(record.layer, first, last)
                assert values is not None
                for t in range(first, last):
                    if kept[t - start]:
                        mask = values[t - first : t - first + 1] > threshold
                        limit = Provenance.MODEL
                        done = volume.write(entry, object_id, t, mask, limit, limit)
                        written[t - start] = done[0]
        self._state.tell("pixels", record.layer, start, stop)
        return written

    # -- windows that overlap ------------------------------------------------------------

    def keep_disagreement(
        self,
        object_id: int,
        start: int,
        disagreement: npt.NDArray[np.float32],
        written: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Keep how far windows disagreed about the masks that a model has just written.

        It is safe on the disk when this returns. A disk without room for these few bytes
        ends it, as it does for the confidence; `confidence_notice` tells.

        Parameters
        ----------
        object_id : int
            The object.
        start : int
            Frame of the first value.
        disagreement : ndarray of float32, shape (n,)
            0 to 1; NaN where a single window saw the frame (`WindowMasks.disagreement`).
        written : ndarray of bool, shape (n,), optional
            The frames that were written, as `write_model` returned; all by default.
        """
        self._state.check_writable()
        stop = start + len(disagreement)
        self._state.check_range(start, stop)
        record = self._state.object(object_id)
        if self.notice is not None:
            return
        areas = self._state.volume(record.layer).frames.areas(object_id)[start:stop]
        with self._spare("disagreement", object_id):
            with self._disagreement_lock:
                array = self._seams(object_id, make=True)
                kept = np.array(array[start:stop].read().result())
                rows = np.stack([_parts(disagreement), areas], axis=1)
                kept = rows if written is None else np.where(written[:, None], rows, kept)
                array[start:stop].write(kept.astype(np.int32)).result()

    def disagreement(self, object_id: int, *, between: bool = False) -> npt.NDArray[np.float32]:
        """Return how far windows disagreed about an object's masks, (T,), 0 to 1.

        NaN where a single window saw the frame, where nothing was kept, and where the mask is
        another one by now. With `between`, frames of a single window have what lies between the
        frames before and after them that two windows saw.
        """
        record = self._state.object(object_id)
        values = np.full(self._state.shape[0], np.nan, np.float32)
        try:
            with self._disagreement_lock:
                array = self._seams(object_id)
            if array is None:
                return values
            parts, areas = np.array(array.read().result()).T
        except Exception:  # a hint for the reviewer: nothing is lost without it
            return values
        # Whatever changed a mask since then - a tool, an undo - has changed its area.
        kept = areas == self._state.volume(record.layer).frames.areas(object_id)
        told = np.flatnonzero(parts > 0)
        if between and len(told):
            wanted = np.flatnonzero(kept & (parts == _ALONE))
            values[wanted] = np.interp(wanted, told, (parts[told] - 1) / _PARTS)
        known = kept & (parts > 0)
        values[known] = (parts[known] - 1) / np.float32(_PARTS)
        return values

    # -- inside --------------------------------------------------------------------------

    @contextmanager
    def _spare(self, kind: str, number: int) -> Iterator[None]:
        """Tell why something cannot be kept: masks are worth more, the run goes on without."""
        try:
            yield
        except Exception as error:
            told = failed(error, self._state.path / kind / str(number))
            self.notice = f"Confidence is not kept any more: {told}"

    def _seams(self, object_id: int, *, make: bool = False) -> Any:
        path = self._state.path / "disagreement" / str(object_id)
        frames = self._state.shape[0]
        chunk = (min(frames, _CHUNK), 2)
        if object_id not in self._disagreement and (path / "zarr.json").exists():
            for k in range(-(-frames // _CHUNK)):
                check_chunk(f"{path}/c.{k}.0", 8 * _CHUNK)
                free_chunk(f"{path}/c.{k}.0")
            self._disagreement[object_id] = open_array(path, (frames, 2), "int32", chunk)
        elif make and object_id not in self._disagreement:
            if not (path.parent / "zarr.json").exists():  # a project of before
                write_group(path.parent, {})
            array = create_array(path, (frames, 2), chunk, "int32", ("t", "value"))
            self._disagreement[object_id] = array
        return self._disagreement.get(object_id)

    def keep(
        self,
        record: ObjectRecord,
        start: int,
        confidence: npt.NDArray[np.uint8],
        written: npt.NDArray[np.bool_],
    ) -> None:
        if self.notice is not None:
            return
        path = self._state.path / "confidence" / str(record.layer)
        with self._spare("confidence", record.layer):
            if shutil.disk_usage(self._state.path).free < _SPARE_BYTES:
                raise StorageError("the disk has less than 2 GiB left")
            with self._state.lock:
                if record.layer not in self._state.document.confidence:
                    shape = self._state.shape
                    create_array(path, shape, (1, *shape[1:]), "uint8", ("t", "y", "x"))
                    self._state.document.confidence[record.layer] = ConfidenceRecord(
                        record.layer, {}
                    )
                array = self._array(record.layer)
            frames = np.flatnonzero(written)
            for i in frames:
                free_chunk(f"{path}/c.{start + int(i)}.0.0")
            for future in [array[start + int(i)].write(confidence[i]) for i in frames]:
                future.result()
        if self.notice is None:
            self.note(record.layer, record.id, start + frames)

    def note(self, layer_id: int, object_id: int | None, frames: Any) -> None:
        """Count frames as the confidence of an object, and of no other one of its layer."""
        with self._state.lock:
            record = self._state.document.confidence.get(layer_id)
            if record is None:
                return
            kept: dict[int, list[list[int]] | None] = dict(record.frames)
            if object_id is not None:
                kept.setdefault(object_id, [])
            for other, runs in kept.items():
                if runs is not None:
                    spans = Spans([list(run) for run in runs])
                    for run in Spans.of(frames).runs:
                        (spans.add if other == object_id else spans.remove)(*run)
                    kept[other] = spans.runs
            self._state.document.confidence[layer_id] = ConfidenceRecord(layer_id, kept)
            self._state.save_later()

    def _array(self, layer_id: int) -> Any:
        if layer_id not in self._arrays:
            shape = self._state.shape
            path = self._state.path / "confidence" / str(layer_id)
            self._arrays[layer_id] = open_array(path, shape, "uint8", (1, *shape[1:]))
        return self._arrays[layer_id]


def _parts(disagreement: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return disagreements as whole numbers."""
    known = np.isfinite(disagreement)
    values = np.rint(_PARTS * np.clip(np.where(known, disagreement, 0), 0, 1)) + 1
    return np.where(known, values, _ALONE).astype(np.int32)
