"""What tells how sure a model was: by pixel where the disk has room, and by frame."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError, ProjectError, StorageError
from flowrvs.store._core import ProjectCore
from flowrvs.store._document import ConfidenceRecord, Document, ObjectRecord
from flowrvs.store._entry import Spans
from flowrvs.store._files import create_array, open_array, storage_error, write_group
from flowrvs.store._lock import WriterLock
from flowrvs.store._tracks import Provenance

__all__ = ["Confidence"]

_SPARE_BYTES = 2 * 2**30
_BLOCK = 16
_CHUNK = 4096
_PARTS = 1000  # in which a disagreement is kept, from 1 on
_ALONE = -1  # one window alone saw the frame


class Confidence(ProjectCore):
    """The part of `Project` that keeps confidence; a person's frames have none."""

    #: Why confidence is not kept any more; None while it is.
    confidence_notice: str | None = None

    def __init__(self, path: Path, document: Document, lock: WriterLock | None) -> None:
        self._disagreement: dict[int, Any] = {}
        self._disagreement_lock = threading.Lock()  # not the document's: a brush may want that
        super().__init__(path, document, lock)

    def confidence(self, layer_id: int, start: int, stop: int) -> npt.NDArray[np.uint8] | None:
        """Return a layer's confidence, (n, H, W) uint8, or None where none was kept.

        It is ``round(255 * sigmoid(logit))``; frames without are 0: `confidence_frames` tells.

        Raises
        ------
        ProjectError
            What was kept is damaged.
        """
        self._volume(layer_id)
        self._check_range(start, stop)
        with self._lock:
            if layer_id not in self._doc.confidence:
                return None
            array = self._confidence_array(layer_id)
        try:
            values: npt.NDArray[np.uint8] = array[start:stop].read().result()
        except Exception as error:
            raise ProjectError(
                f"The confidence in {self._path / 'confidence' / str(layer_id)} is damaged within "
                f"frames {start} to {stop - 1}; ask again there to have it anew."
            ) from error
        return values

    def confidence_frames(self, object_id: int) -> npt.NDArray[np.bool_]:
        """Return on which frames the confidence of an object is kept, (T,)."""
        one = self._object(object_id)
        kept = np.zeros(self._shape[0], np.bool_)
        with self._lock:
            record = self._doc.confidence.get(one.layer)
            if record is None or object_id not in record.frames:
                return kept
            runs = record.frames[object_id]
        if runs is None:  # format 1
            return self._volume(one.layer).provenance(object_id) == Provenance.MODEL
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
        self._check_writable()
        self._check_range(start, stop)
        if not 0 <= threshold <= 255:
            raise InputError(f"The threshold {threshold} is not in 0 to 255; choose another.")
        one = self._object(object_id)
        volume = self._volume(one.layer)
        kept = self.confidence_frames(object_id)[start:stop]
        written = np.zeros(stop - start, np.bool_)
        share = min(max(threshold, 0.5), 254.5) / 255
        level = math.log(share / (1 - share))  # as a logit, which is what the window shows
        name = f"threshold {level:+.2f} of {one.name!r}, frames {start}-{stop - 1}"
        with self.history.step(name, "human") as entry:
            for first in range(start, stop, _BLOCK):
                last = min(stop, first + _BLOCK)
                if not kept[first - start : last - start].any():
                    continue
                values = self.confidence(one.layer, first, last)
                assert values is not None
                for t in range(first, last):
                    if kept[t - start]:
                        mask = values[t - first : t - first + 1] > threshold
                        limit = Provenance.MODEL
                        done = volume.write(entry, object_id, t, mask, limit, limit)
                        written[t - start] = done[0]
        self._tell("pixels", one.layer, start, stop)
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
            0 to 1; NaN where one window alone saw the frame (`WindowMasks.disagreement`).
        written : ndarray of bool, shape (n,), optional
            The frames that were written, as `write_model` returned; all by default.
        """
        self._check_writable()
        stop = start + len(disagreement)
        self._check_range(start, stop)
        one = self._object(object_id)
        if self.confidence_notice is not None:
            return
        path = self._seams_path(object_id)
        areas = self._volume(one.layer).areas(object_id)[start:stop]
        try:
            with self._disagreement_lock:
                array = self._seams(object_id)
                if array is None:
                    array = self._make_seams(object_id)
                kept = np.array(array[start:stop].read().result())
                rows = np.stack([_parts(disagreement), areas], axis=1)
                kept = rows if written is None else np.where(written[:, None], rows, kept)
                array[start:stop].write(kept.astype(np.int32)).result()
        except Exception as error:  # masks are worth more: the run goes on without
            told = error if isinstance(error, StorageError) else storage_error(error, path)
            self.confidence_notice = f"Confidence is not kept any more: {told}"

    def disagreement(self, object_id: int, *, between: bool = False) -> npt.NDArray[np.float32]:
        """Return how far windows disagreed about an object's masks, (T,), 0 to 1.

        NaN where one window alone saw the frame, where nothing was kept, and where the mask
        is another one by now. With `between`, frames of one window have what lies between
        the frames before and after them that two windows saw.
        """
        one = self._object(object_id)
        values = np.full(self._shape[0], np.nan, np.float32)
        try:
            with self._disagreement_lock:
                array = self._seams(object_id)
            if array is None:
                return values
            parts, areas = np.array(array.read().result()).T
        except Exception:  # a hint for the reviewer: nothing is lost without it
            return values
        # Whatever changed a mask since then - a tool, an undo - has changed its area.
        kept = areas == self._volume(one.layer).areas(object_id)
        told = np.flatnonzero(parts > 0)
        if between and len(told):
            wanted = np.flatnonzero(kept & (parts == _ALONE))
            values[wanted] = np.interp(wanted, told, (parts[told] - 1) / _PARTS)
        known = kept & (parts > 0)
        values[known] = (parts[known] - 1) / np.float32(_PARTS)
        return values

    # -- inside --------------------------------------------------------------------------

    def _seams_path(self, object_id: int) -> Path:
        return self._path / "disagreement" / str(object_id)

    def _seams(self, object_id: int) -> Any:
        path = self._seams_path(object_id)
        if object_id not in self._disagreement and (path / "zarr.json").exists():
            self._disagreement[object_id] = open_array(path, (self._shape[0], 2), "int32")
        return self._disagreement.get(object_id)

    def _make_seams(self, object_id: int) -> Any:
        path, frames = self._seams_path(object_id), self._shape[0]
        if not (path.parent / "zarr.json").exists():  # a project of before
            write_group(path.parent, {})
        chunk = (min(frames, _CHUNK), 2)
        array = create_array(path, (frames, 2), chunk, "int32", ("t", "value"))
        self._disagreement[object_id] = array
        return array

    def _keep_confidence(
        self,
        one: ObjectRecord,
        start: int,
        confidence: npt.NDArray[np.uint8],
        written: npt.NDArray[np.bool_],
    ) -> None:
        if self.confidence_notice is not None:
            return
        path = self._path / "confidence" / str(one.layer)
        try:
            if shutil.disk_usage(self._path).free < _SPARE_BYTES:
                raise StorageError("the disk has less than 2 GiB left")
            with self._lock:
                if one.layer not in self._doc.confidence:
                    shape = self._shape
                    create_array(path, shape, (1, *shape[1:]), "uint8", ("t", "y", "x"))
                    self._doc.confidence[one.layer] = ConfidenceRecord(one.layer, {})
                array = self._confidence_array(one.layer)
            frames = np.flatnonzero(written)
            for future in [array[start + int(i)].write(confidence[i]) for i in frames]:
                future.result()
        except Exception as error:  # masks are worth more: the run goes on without
            told = error if isinstance(error, StorageError) else storage_error(error, path)
            self.confidence_notice = f"Confidence is not kept any more: {told}"
            return
        self._note_confidence(one.layer, one.id, start + frames)

    def _note_confidence(self, layer_id: int, object_id: int | None, frames: Any) -> None:
        """Count frames as the confidence of an object, and of no other one of its layer."""
        with self._lock:
            record = self._doc.confidence.get(layer_id)
            if record is None:
                return
            kept: dict[int, list[list[int]] | None] = dict(record.frames)
            if object_id is not None and kept.get(object_id, []) is not None:
                spans = Spans([list(run) for run in kept.get(object_id) or []])
                for start, stop in _runs(frames):
                    spans.add(start, stop)
                kept[object_id] = spans.runs
            for other, runs in kept.items():
                if other != object_id and runs is not None:
                    left = Spans([list(run) for run in runs])
                    for start, stop in _runs(frames):
                        left.remove(start, stop)
                    kept[other] = left.runs
            self._doc.confidence[layer_id] = ConfidenceRecord(layer_id, kept)
            self._doc_dirty = True

    def _confidence_array(self, layer_id: int) -> Any:
        if layer_id not in self._confidence:
            path = self._path / "confidence" / str(layer_id)
            self._confidence[layer_id] = open_array(path, self._shape, "uint8")
        return self._confidence[layer_id]


def _runs(frames: Iterable[int]) -> list[tuple[int, int]]:
    runs = Spans()
    for t in frames:
        runs.add(int(t), int(t) + 1)
    return [(start, stop) for start, stop in runs.runs]


def _parts(disagreement: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return disagreements as whole numbers."""
    known = np.isfinite(disagreement)
    values = np.rint(_PARTS * np.clip(np.where(known, disagreement, 0), 0, 1)) + 1
    return np.where(known, values, _ALONE).astype(np.int32)
