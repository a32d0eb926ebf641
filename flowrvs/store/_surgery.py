"""Objects cut, joined, exchanged and moved: each one step to undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.store._document import LayerRecord, ObjectRecord
from flowrvs.store._entry import Entry
from flowrvs.store._files import create_array
from flowrvs.store._pixels import Pixels, frames_text
from flowrvs.store._staged import Staged
from flowrvs.store._tracks import Provenance

__all__ = ["Surgery"]

Labels = npt.NDArray[np.uint16]


class How(TypedDict, total=False):
    """Arguments that all of it takes."""

    cancel: CancelToken | None
    progress: ProgressCallback | None


class Surgery(Pixels):
    """The part of `Project` that changes what belongs to which object.

    A person asked for it, so all of it also touches frames of a person; only locked frames
    are refused, before anything is done.

    What takes long takes a `CancelToken` and reports `Progress`. It raises `Cancelled` on
    request, at once and with everything as it was: new frames are made beside the project
    and put into it when all are ready.
    """

    def mark_absent(
        self,
        object_id: int,
        start: int,
        stop: int,
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Erase an object on frames ``start`` to ``stop - 1``: a person says it is not there."""
        one = self._checked(object_id, start, stop)
        human = np.uint8(Provenance.HUMAN)
        text = f"{one.name!r} absent, {frames_text(start, stop)}"
        with self._staged([one.layer]) as staged:
            frames = self._frames_of([object_id], start, stop)
            staged.make(frames, _mapper({object_id: 0}), f"Emptying {one.name!r}", cancel, progress)
            with self.history.step(text) as entry:
                self._checked(object_id, start, stop)
                staged.finish(entry)
                self._provide(entry, one, start, stop, lambda old: np.maximum(old, human))
        self._tell("pixels", one.layer, start, stop)

    def start_object(self, object_id: int, t: int, **how: Unpack[How]) -> None:
        """Say that an object appears on frame `t`: it is absent before."""
        self.mark_absent(object_id, 0, t, **how)

    def end_object(self, object_id: int, t: int, **how: Unpack[How]) -> None:
        """Say that frame ``t - 1`` is the last one of an object: it is absent from `t` on."""
        self.mark_absent(object_id, t, self._shape[0], **how)

    def split_object(
        self,
        object_id: int,
        start: int,
        stop: int,
        masks: npt.NDArray[np.bool_] | None = None,
        name: str | None = None,
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
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
        taken = np.zeros(stop - start, np.bool_)
        new_id = self.next_label

        def cut(t: int, frames: list[Labels]) -> list[Labels]:
            part = frames[0] == object_id
            if masks is not None:
                part &= masks[t - start]
            taken[t - start] = part.any()
            return [np.where(part, np.uint16(new_id), frames[0])]

        with self._staged([one.layer]) as staged:
            with self._lock:
                new_id = self._doc.new_id("object", 1)
            try:
                frames = self._frames_of([object_id], start, stop)
                staged.make(frames, cut, f"Splitting {one.name!r}", cancel, progress)
            except BaseException:
                with self._lock:
                    if self._doc.next_ids["object"] == new_id + 1:
                        self._doc.next_ids["object"] = new_id
                raise
            text = f"split {one.name!r}, {frames_text(start, stop)}"
            with self.history.step(text) as entry:
                self._checked(object_id, start, stop)
                with self._volume(one.layer).cache.lock, self._lock:
                    new = self._new_object(new_id, name or f"{one.name} (part)", one.layer)
                self._save()
                staged.finish(entry)
                old = self.provenance(object_id)[start:stop]
                self._provide(entry, new, start, stop, lambda _: np.where(taken, old, 0))
        self._told_all(one.layer, start, stop)
        return new

    def merge_objects(
        self,
        keep: int,
        gone: int,
        start: int = 0,
        stop: int | None = None,
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
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
        volume = self._volume(one.layer)

        def across(t: int, frames: list[Labels]) -> list[Labels]:
            to, source = frames
            part = source == gone
            free = part & ~np.isin(to, volume.locked(t))
            return [np.where(free, np.uint16(keep), to), np.where(part, np.uint16(0), source)]

        within = one.layer == other.layer
        with self._staged([one.layer, other.layer]) as staged:
            staged.make(
                self._frames_of([gone], start, stop),
                _mapper({gone: keep}) if within else across,
                f"Merging {other.name!r} into {one.name!r}",
                cancel,
                progress,
            )
            with self.history.step(text) as entry:
                for object_id in (keep, gone):
                    self._checked(object_id, start, stop)
                staged.finish(entry)
                was = self.provenance(gone)[start:stop]
                self._provide(entry, one, start, stop, lambda old: np.maximum(old, was))
                self._provide(entry, other, start, stop, np.zeros_like)
                if (start, stop) == (0, self._shape[0]):
                    for expression in list(self._doc.expressions.values()):
                        if gone in expression.object_ids:
                            ids = (expression.object_ids - {gone}) | {keep}
                            meant = replace(expression, object_ids=ids)
                            self._put("expressions", expression.exp_id, meant)
                    self._forget_object(gone)
        self._told_all(one.layer, start, stop)
        if other.layer != one.layer:
            self._tell("pixels", other.layer, start, stop)

    def swap_objects(
        self,
        a: int,
        b: int,
        start: int,
        stop: int | None = None,
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Exchange two objects from a frame on: their masks, and who drew them.

        They may be of different layers.
        """
        stop = self._shape[0] if stop is None else stop
        one, other = self._checked(a, start, stop), self._checked(b, start, stop)
        if a == b:
            raise ProjectError("An object cannot be swapped with itself; choose another one.")
        text = f"swap {one.name!r} and {other.name!r}, {frames_text(start, stop)}"

        def across(t: int, frames: list[Labels]) -> list[Labels]:
            of_a, of_b = frames[0] == a, frames[1] == b
            return [
                _replaced(frames[0], a, of_a, of_b),
                _replaced(frames[1], b, of_b, of_a),
            ]

        within = one.layer == other.layer
        with self._staged([one.layer, other.layer]) as staged:
            staged.make(
                self._frames_of([a, b], start, stop),
                _mapper({a: b, b: a}) if within else across,
                f"Swapping {one.name!r} and {other.name!r}",
                cancel,
                progress,
            )
            with self.history.step(text) as entry:
                for object_id in (a, b):
                    self._checked(object_id, start, stop)
                staged.finish(entry)
                first, second = self.provenance(a)[start:stop], self.provenance(b)[start:stop]
                self._provide(entry, one, start, stop, lambda _: second)
                self._provide(entry, other, start, stop, lambda _: first)
        for layer in {one.layer, other.layer}:
            self._tell("pixels", layer, start, stop)

    def move_object(
        self,
        object_id: int,
        layer_id: int | None = None,
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
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
        one = self._checked(object_id, 0, self._shape[0])
        with self.history.step(f"move {one.name!r} to another layer") as entry:
            # A stroke in the old layer must come before, or undo would leave it behind.
            self._settle_volumes()
            if layer_id is None:
                with self._lock:
                    layer = LayerRecord(self._doc.new_id("layer", 1), one.name)
                    path = self._path / "layers" / str(layer.id)
                    create_array(path, self._shape, (1, *self._shape[1:]), "uint16", "tyx")
                    self._put("layers", layer.id, layer)
                layer_id = layer.id
            self._volume(layer_id)
            if layer_id == one.layer:
                return one
            moved = replace(one, layer=layer_id)

            def change(t: int, frames: list[Labels]) -> list[Labels]:
                source, there = frames
                part = source == object_id
                free = part & (there == 0)
                return [
                    np.where(part, np.uint16(0), source),
                    np.where(free, np.uint16(object_id), there),
                ]

            with self._staged([one.layer, layer_id]) as staged:
                staged.make(
                    self._frames_of([object_id], 0, self._shape[0]),
                    change,
                    f"Moving {one.name!r}",
                    cancel,
                    progress,
                )
                staged.finish(entry)
            with self._lock:
                self._put("objects", object_id, moved)
                self._save()
        for layer_number in (one.layer, layer_id):
            self._told_all(layer_number, 0, self._shape[0])
        return moved

    def remove_object(
        self,
        object_id: int,
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Erase an object: its pixels, provenance, runs, and its place in expressions."""
        self._check_writable()
        one = self._object(object_id)
        frames = self._shape[0]
        with self._staged([one.layer]) as staged:
            drawn = self._frames_of([object_id], 0, frames)
            staged.make(drawn, _mapper({object_id: 0}), f"Deleting {one.name!r}", cancel, progress)
            with self.history.step(f"remove {one.name!r}") as entry:
                staged.finish(entry)
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

    def _staged(self, layer_ids: list[int]) -> Staged:
        volumes = [self._volume(layer_id) for layer_id in dict.fromkeys(layer_ids)]
        return Staged(self._path, volumes, self.history)

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


def _mapper(values: dict[int, int]) -> Callable[[int, list[Labels]], list[Labels]]:
    """Return what gives pixels of a value another one."""

    def change(t: int, frames: list[Labels]) -> list[Labels]:
        (frame,) = frames
        new = frame.copy()
        for old, value in values.items():
            new[frame == old] = value
        return [new]

    return change


def _replaced(
    frame: Labels, number: int, old: npt.NDArray[np.bool_], new: npt.NDArray[np.bool_]
) -> Labels:
    out = frame.copy()
    out[old] = 0
    out[new] = number
    return out
