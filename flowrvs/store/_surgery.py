"""Objects cut, joined, exchanged and moved: each one step to undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.store._document import LayerRecord, ObjectRecord
from flowrvs.store._entry import Entry
from flowrvs.store._files import create_array
from flowrvs.store._pixels import Pixels, frames_text
from flowrvs.store._tracks import Provenance

__all__ = ["Surgery"]

Labels = npt.NDArray[np.uint16]


class Surgery(Pixels):
    """The part of `Project` that changes what belongs to which object.

    A person asked for it, so all of it also touches frames of a person; only locked frames
    are refused, before anything is done.
    """

    def mark_absent(self, object_id: int, start: int, stop: int) -> None:
        """Erase an object on frames ``start`` to ``stop - 1``: a person says it is not there."""
        one = self._checked(object_id, start, stop)
        human = np.uint8(Provenance.HUMAN)
        with self.history.step(f"{one.name!r} absent, {frames_text(start, stop)}") as entry:
            self._remap(entry, one.layer, start, stop, [object_id], {object_id: 0})
            self._provide(entry, one, start, stop, lambda old: np.maximum(old, human))
        self._tell("pixels", one.layer, start, stop)

    def start_object(self, object_id: int, t: int) -> None:
        """Say that an object appears on frame `t`: it is absent before."""
        self.mark_absent(object_id, 0, t)

    def end_object(self, object_id: int, t: int) -> None:
        """Say that frame ``t - 1`` is the last one of an object: it is absent from `t` on."""
        self.mark_absent(object_id, t, self._shape[0])

    def split_object(
        self,
        object_id: int,
        start: int,
        stop: int,
        masks: npt.NDArray[np.bool_] | None = None,
        name: str | None = None,
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
        one = self._checked(object_id, start, stop)
        if masks is not None and masks.shape != (stop - start, *self._shape[1:]):
            raise ProjectError(
                f"Masks of shape {masks.shape} do not fit {stop - start} frames of "
                f"{self._shape[1:]} pixels."
            )
        volume = self._volume(one.layer)
        taken = np.zeros(stop - start, np.bool_)
        with self.history.step(f"split {one.name!r}, {frames_text(start, stop)}") as entry:
            with volume.cache.lock, self._lock:
                new_id = self._doc.new_id("object", 1)
                new = self._new_object(new_id, name or f"{one.name} (part)", one.layer)
            self._save()
            for t in self._frames_of([object_id], start, stop):

                def cut(frame: Labels, t: int = t) -> Labels:
                    part = frame == object_id
                    if masks is not None:
                        part &= masks[t - start]
                    taken[t - start] = part.any()
                    return np.where(part, np.uint16(new_id), frame)

                volume.remap(entry, t, cut)
            old = self.provenance(object_id)[start:stop]
            self._provide(entry, new, start, stop, lambda _: np.where(taken, old, 0))
        self._told_all(one.layer, start, stop)
        return new

    def merge_objects(self, keep: int, gone: int, start: int = 0, stop: int | None = None) -> None:
        """Give the pixels of one object to another, also one of another layer.

        Parameters
        ----------
        keep, gone : int
            The object that gets the pixels, and the one that loses them. On the whole video
            `gone` is removed, and sentences that meant it mean `keep`.
        start, stop : int
            The frames; all by default.
        """
        if keep == gone:
            raise ProjectError("An object cannot be merged with itself; choose another one.")
        stop = self._shape[0] if stop is None else stop
        one, other = self._checked(keep, start, stop), self._checked(gone, start, stop)
        text = f"merge {other.name!r} into {one.name!r}, {frames_text(start, stop)}"
        with self.history.step(text) as entry:
            was = self.provenance(gone)[start:stop]
            if one.layer == other.layer:
                self._remap(entry, one.layer, start, stop, [gone], {gone: keep})
            else:
                for t in self._frames_of([gone], start, stop):
                    part = self.object_mask(gone, t, t + 1)[0]
                    self._volume(one.layer).remap(
                        entry,
                        t,
                        lambda frame, part=part: np.where(part, np.uint16(keep), frame),  # type: ignore[misc]
                    )
                self._remap(entry, other.layer, start, stop, [gone], {gone: 0})
            self._provide(entry, one, start, stop, lambda old: np.maximum(old, was))
            self._provide(entry, other, start, stop, np.zeros_like)
            if (start, stop) == (0, self._shape[0]):
                for expression in list(self._doc.expressions.values()):
                    if gone in expression.object_ids:
                        ids = (expression.object_ids - {gone}) | {keep}
                        self._put(
                            "expressions", expression.exp_id, replace(expression, object_ids=ids)
                        )
                self._forget_object(gone)
        self._told_all(one.layer, start, stop)
        if other.layer != one.layer:
            self._tell("pixels", other.layer, start, stop)

    def swap_objects(self, a: int, b: int, start: int, stop: int | None = None) -> None:
        """Exchange two objects from a frame on: their masks, and who drew them.

        They may be of different layers.
        """
        stop = self._shape[0] if stop is None else stop
        one, other = self._checked(a, start, stop), self._checked(b, start, stop)
        if a == b:
            raise ProjectError("An object cannot be swapped with itself; choose another one.")
        text = f"swap {one.name!r} and {other.name!r}, {frames_text(start, stop)}"
        with self.history.step(text) as entry:
            first, second = self.provenance(a)[start:stop], self.provenance(b)[start:stop]
            if one.layer == other.layer:
                self._remap(entry, one.layer, start, stop, [a, b], {a: b, b: a})
            else:
                for t in self._frames_of([a, b], start, stop):
                    of_a, of_b = self.object_mask(a, t, t + 1)[0], self.object_mask(b, t, t + 1)[0]
                    for layer, number, old, new in (
                        (one.layer, a, of_a, of_b),
                        (other.layer, b, of_b, of_a),
                    ):
                        self._volume(layer).remap(entry, t, _replacer(number, old, new))
            self._provide(entry, one, start, stop, lambda _: second)
            self._provide(entry, other, start, stop, lambda _: first)
        for layer in {one.layer, other.layer}:
            self._tell("pixels", layer, start, stop)

    def move_object(self, object_id: int, layer_id: int | None = None) -> ObjectRecord:
        """Move an object to another layer, so that it may overlap those of its old one.

        Parameters
        ----------
        object_id : int
            The object.
        layer_id : int, optional
            The layer; a new one of the object's name by default. Objects that are there
            keep their pixels where the two overlap.
        """
        one = self._checked(object_id, 0, self._shape[0])
        with self.history.step(f"move {one.name!r} to another layer") as entry:
            if layer_id is None:
                with self._lock:
                    layer = LayerRecord(self._doc.new_id("layer", 1), one.name)
                    path = self._path / "layers" / str(layer.id)
                    create_array(path, self._shape, (1, *self._shape[1:]), "uint16", "tyx")
                    self._put("layers", layer.id, layer)
                layer_id = layer.id
            target = self._volume(layer_id)
            if layer_id == one.layer:
                return one
            moved = replace(one, layer=layer_id)
            present = self._frames_of([object_id], 0, self._shape[0])
            with self._lock:
                self._put("objects", object_id, moved)
                self._save()
            for t in present:
                part = self._volume(one.layer).masks([object_id], t, t + 1)[0]
                self._volume(one.layer).remap(
                    entry,
                    t,
                    lambda frame, part=part: np.where(part, np.uint16(0), frame),  # type: ignore[misc]
                )
                target.remap(
                    entry,
                    t,
                    lambda frame, part=part: np.where(  # type: ignore[misc]
                        part & (frame == 0), np.uint16(object_id), frame
                    ),
                )
        for layer_number in (one.layer, layer_id):
            self._told_all(layer_number, 0, self._shape[0])
        return moved

    def remove_object(self, object_id: int) -> None:
        """Erase an object: its pixels, provenance, runs, and its place in expressions."""
        self._check_writable()
        one = self._object(object_id)
        frames = self._shape[0]
        with self.history.step(f"remove {one.name!r}") as entry:
            self._remap(entry, one.layer, 0, frames, [object_id], {object_id: 0})
            self._provide(entry, one, 0, frames, np.zeros_like)
            self._forget_object(object_id)
        self._told_all(one.layer, 0, frames)

    # -- inside --------------------------------------------------------------------------

    def _checked(self, object_id: int, start: int, stop: int) -> ObjectRecord:
        self._check_writable()
        self._check_range(start, stop)
        one = self._object(object_id)
        locked = np.flatnonzero(self.provenance(object_id)[start:stop] == Provenance.LOCKED)
        if len(locked):
            raise ProjectError(
                f"{one.name!r} is locked on {len(locked)} of these frames, the first is "
                f"{start + int(locked[0])}: unlock them first."
            )
        return one

    def _frames_of(self, object_ids: list[int], start: int, stop: int) -> list[int]:
        seen = np.zeros(stop - start, np.bool_)
        for object_id in object_ids:
            seen |= self.present(object_id)[start:stop]
        return [start + int(t) for t in np.flatnonzero(seen)]

    def _remap(
        self,
        entry: Entry,
        layer_id: int,
        start: int,
        stop: int,
        object_ids: list[int],
        values: dict[int, int],
    ) -> None:
        table = np.arange(65536, dtype=np.uint16)
        for old, new in values.items():
            table[old] = new
        volume = self._volume(layer_id)
        for t in self._frames_of(object_ids, start, stop):
            volume.remap(entry, t, lambda frame: table[frame])

    def _provide(
        self,
        entry: Entry,
        one: ObjectRecord,
        start: int,
        stop: int,
        change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
    ) -> None:
        if start < stop:
            self._volume(one.layer).set_provenance(entry, one.id, start, stop, change)
            self._note_confidence(one.layer, None, range(start, stop))

    def _forget_object(self, object_id: int) -> None:
        with self._lock:
            for run in [r for r in self._doc.runs.values() if r.object_id == object_id]:
                self._put("runs", run.id, None)
            for exp_id in [k for k, v in self._doc.prompts.items() if v == object_id]:
                self._put("prompts", exp_id, None)
            for expression in list(self._doc.expressions.values()):
                if object_id in expression.object_ids:
                    left = expression.object_ids - {object_id}
                    self._put(
                        "expressions", expression.exp_id, replace(expression, object_ids=left)
                    )
            self._put("objects", object_id, None)
            self._save()

    def _told_all(self, layer_id: int, start: int, stop: int) -> None:
        self._tell("catalog")
        self._tell("pixels", layer_id, start, stop)


def _replacer(
    number: int, old: npt.NDArray[np.bool_], new: npt.NDArray[np.bool_]
) -> Callable[[Labels], Labels]:
    def change(frame: Labels) -> Labels:
        out = frame.copy()
        out[old] = 0
        out[new] = number
        return out

    return change
