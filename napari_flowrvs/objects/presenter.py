"""The objects and the sentences of a project as tables, and what can be done to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs import editing
from flowrvs.errors import InputError, ProjectError
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.store import ObjectCounts, ObjectRecord, Project
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.steps import Steps

__all__ = ["ExpressionRow", "ObjectRow", "ObjectsPresenter"]


class How(TypedDict):
    """What every long change of a project takes."""

    cancel: CancelToken
    progress: ProgressCallback


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A line of the table of objects.

    Attributes
    ----------
    id : int
        Of the object.
    name : str
        As shown to the user.
    color : tuple of 3 floats
        Red, green, blue, 0 to 1.
    layer : str
        Name of the layer that holds it.
    frames : ObjectCounts
        On how many frames it is, and who drew them.
    meant : bool
        The chosen sentence means it.
    """

    id: int
    name: str
    color: tuple[float, float, float]
    layer: str
    frames: ObjectCounts
    meant: bool


@dataclass(frozen=True, slots=True)
class ExpressionRow:
    """A line of the table of sentences.

    Attributes
    ----------
    exp_id, text : str
        Of the expression.
    object_ids : frozenset of int
        The objects that it means.
    checked, total : int
        Frames of its objects that a person has drawn or accepted, and all of them.
    """

    exp_id: str
    text: str
    object_ids: frozenset[int]
    checked: int
    total: int

    @property
    def objects(self) -> str:
        """The ids: "1 + 2", or "none"."""
        return " + ".join(str(i) for i in sorted(self.object_ids)) or "none"


class ObjectsPresenter:
    """Feeds the two tables.

    Parameters
    ----------
    desk : Desk
        What is looked at.
    steps : Steps, optional
        Where masks are changed: that takes its time in a long video.
    """

    #: Rows were added, changed or removed.
    changed = Signal()
    #: Only the counts of a layer's objects have changed.
    counted = Signal()
    #: Somebody wants to paint an object.
    brush_requested = Signal(int)

    def __init__(self, desk: Desk, steps: Steps | None = None) -> None:
        self.desk = desk
        self.steps = Steps() if steps is None else steps
        self._counts: dict[int, ObjectCounts] = {}
        self._expression: str | None = None
        desk.project_changed.connect(self._on_project)
        desk.catalog_changed.connect(self._on_catalog)
        desk.contents_changed.connect(self._on_contents)
        desk.masks_written.connect(self._on_contents)

    # -- rows ----------------------------------------------------------------------------

    def _count(self, project: Project, object_id: int) -> ObjectCounts | None:
        """Return an object's counts; None where it was removed just now."""
        if object_id not in self._counts:
            try:
                self._counts[object_id] = project.counts(object_id)
            except ProjectError:
                if object_id in project.objects:
                    raise
        return self._counts.get(object_id)

    def objects(self) -> list[ObjectRow]:
        """Return a row for every object, by id."""
        project = self.desk.project
        if project is None:
            return []
        known, layers, meant = project.objects, project.layers, self.meant
        return [
            ObjectRow(record.id, record.name, record.color, layer.name, counts, record.id in meant)
            for _, record in sorted(known.items())
            if (layer := layers.get(record.layer)) is not None
            and (counts := self._count(project, record.id)) is not None
        ]

    def expressions(self) -> list[ExpressionRow]:
        """Return a row for every sentence, in the order in which they were added."""
        project = self.desk.project
        rows: list[ExpressionRow] = []
        if project is None:
            return rows
        for said in project.expressions.values():
            counts = [self._count(project, i) for i in said.object_ids]
            found = [each for each in counts if each is not None]
            checked = sum(c.human + c.locked for c in found)
            total = len(found) * self.desk.frame_count
            rows.append(ExpressionRow(said.exp_id, said.text, said.object_ids, checked, total))
        return rows

    @property
    def expression_id(self) -> str | None:
        """The chosen sentence."""
        project = self.desk.project
        known = {} if project is None else project.expressions
        return self._expression if self._expression in known else None

    @property
    def meant(self) -> frozenset[int]:
        """The objects that the chosen sentence means."""
        project = self.desk.project
        chosen = None if project is None else project.expressions.get(self._expression or "")
        return frozenset() if chosen is None else chosen.object_ids

    def choose_expression(self, exp_id: str | None) -> None:
        """Choose the sentence whose objects are ticked."""
        if exp_id != self._expression:
            self._expression = exp_id
            self.changed.emit()

    # -- sentences -----------------------------------------------------------------------

    def add_expression(self, text: str) -> None:
        """Add a sentence that means the desk's object, if there is one.

        Raises
        ------
        InputError
            The sentence is blank.
        """
        project = self.desk.need_project()
        ids = [] if self.desk.object is None else [self.desk.object.id]
        self._expression = project.add_expression(text.strip(), ids).exp_id
        self.desk.catalog_changed.emit()

    def remove_expression(self) -> None:
        """Forget the chosen sentence; its objects stay."""
        if self.expression_id is not None:
            self.desk.need_project().remove_expression(self.expression_id)
            self.desk.catalog_changed.emit()

    def set_meant(self, object_id: int, meant: bool) -> None:
        """Say whether the chosen sentence means an object."""
        if self.expression_id is not None:
            ids = self.meant | {object_id} if meant else self.meant - {object_id}
            self.desk.need_project().set_expression_objects(self.expression_id, ids)
            self.desk.catalog_changed.emit()

    def set_text(self, exp_id: str, text: str) -> None:
        """Give a sentence other words; a blank one is ignored."""
        words = " ".join(text.split())
        if words:
            self.desk.need_project().set_expression_text(exp_id, words)
            self.desk.catalog_changed.emit()

    # -- objects -------------------------------------------------------------------------

    def rename(self, object_id: int, name: str) -> None:
        """Give an object another name; a blank one is ignored."""
        if name.strip():
            self.desk.need_project().update_object(object_id, name=name.strip())
            self.desk.catalog_changed.emit()

    def recolor(self, object_id: int, color: tuple[float, float, float]) -> None:
        """Give an object another colour, in all layers."""
        self.desk.need_project().update_object(object_id, color=color)
        self.desk.catalog_changed.emit()

    def add(self) -> ObjectRecord:
        """Make a new object in the layer of the desk's object, and choose it.

        It may begin on any frame: where nothing is drawn, it is not there.
        """
        project, thing = self.desk.need_project(), self.desk.object
        name, layers = f"object {project.next_label}", project.layers
        layer_id = min(layers, default=None) if thing is None else thing.layer
        layer_id = project.add_layer(name).id if layer_id is None else layer_id
        made = project.add_object(name, layer_id)
        self.desk.catalog_changed.emit()
        self.desk.choose(made.id)
        return made

    def delete(self) -> None:
        """Delete the desk's object with its masks; a step that can be undone."""

        def then(project: Project, thing: ObjectRecord) -> None:
            self.desk.set_object(min(project.objects, default=None))
            self._changed({thing.layer}, 0, self.desk.frame_count)

        self._do("Deleting", lambda p, thing, **how: p.remove_object(thing.id, **how), then)

    def absent(self) -> None:
        """Say that the object is not there on the chosen range."""
        self._on_range("Emptying", lambda p, i, a, b, **how: p.mark_absent(i, a, b, **how))

    def lock(self) -> None:
        """Protect the object's masks on the range."""
        self._on_range("Locking", lambda p, i, a, b, **_: p.lock_frames(i, a, b))

    def unlock(self) -> None:
        """Undo `lock`; the frames stay a person's."""
        self._on_range("Unlocking", lambda p, i, a, b, **_: p.unlock_frames(i, a, b))

    def release(self) -> None:
        """Let the model draw again over what a person drew on the range."""
        self._on_range("Releasing", lambda p, i, a, b, **_: p.release_frames(i, a, b))

    def start_here(self) -> None:
        """Let the object begin on the frame that is shown."""
        frame = self.desk.frame
        self._do(
            "Cutting",
            lambda p, thing, **how: p.start_object(thing.id, frame, **how),
            lambda _, thing: self._changed({thing.layer}, 0, frame),
        )

    def end_here(self) -> None:
        """Let the object end on the frame that is shown."""
        frame = self.desk.frame
        self._do(
            "Cutting",
            lambda p, thing, **how: p.end_object(thing.id, frame + 1, **how),
            lambda _, thing: self._changed({thing.layer}, frame + 1, self.desk.frame_count),
        )

    def split_pieces(self) -> None:
        """Make every connected piece but the largest an object of its own, on the range."""
        start, stop = self.desk.span

        def split(project: Project, thing: ObjectRecord, **how: Unpack[How]) -> None:
            if not editing.split_components(project, thing.id, start, stop, **how):
                raise InputError(f"{thing.name!r} is in one piece on frames {start} to {stop - 1}.")

        self._do("Splitting", split, lambda _, thing: self._changed({thing.layer}, start, stop))

    def split_by_painting(self) -> None:
        """Make a new object in the same layer and ask for the brush: what it covers is cut."""
        self.desk.need_object()
        self.brush_requested.emit(self.add().id)

    def cut_others(self) -> None:
        """Let the object win where others lie over it, on the range: theirs is cut there."""
        start, stop = self.desk.span

        def cut(project: Project, thing: ObjectRecord, **how: Unpack[How]) -> set[int]:
            parts: list[tuple[int, int, npt.NDArray[np.uint16]]] = []
            for t in range(start, stop):
                how["cancel"].raise_if_cancelled()
                mask = project.object_mask(thing.id, t, t + 1)[0]
                for layer_id in project.layers if mask.any() else ():
                    frame = project.labels(layer_id)[t]
                    covered = mask & (frame > 0) & (frame != thing.id)
                    if covered.any():
                        parts.append((layer_id, t, np.where(covered, 0, frame).astype(np.uint16)))
            if not parts:
                raise InputError(
                    f"Nothing lies over {thing.name!r} on frames {start} to {stop - 1}."
                )
            with project.edit(f"cut others where {thing.name!r} is"):
                for layer_id, t, frame in parts:
                    project.labels(layer_id)[t] = frame
            return {layer_id for layer_id, _, _ in parts}

        self._do("Cutting others by", cut, lambda *_: self._changed(set(), start, stop))

    def merge(self, other: int) -> None:
        """Give the desk's object all masks of another one, which goes."""
        layers = self._layers(other)
        self._do(
            "Merging",
            lambda p, thing, **how: p.merge_objects(thing.id, other, **how),
            lambda _, thing: self._changed({*layers, thing.layer}, 0, self.desk.frame_count),
        )

    def swap(self, other: int) -> None:
        """Exchange the masks of the desk's object and another one, from this frame on."""
        layers, frame = self._layers(other), self.desk.frame
        self._do(
            "Swapping",
            lambda p, thing, **how: p.swap_objects(thing.id, other, frame, **how),
            lambda _, thing: self._changed({*layers, thing.layer}, frame, self.desk.frame_count),
        )

    # -- inside --------------------------------------------------------------------------

    def _layers(self, other: int) -> set[int]:
        thing = self.desk.need_project().objects.get(other)
        if thing is None:
            raise InputError(f"There is no object {other} any more.")
        return {thing.layer}

    def _do(
        self,
        word: str,
        action: Callable[..., object],
        then: Callable[[Project, ObjectRecord], object],
    ) -> None:
        """Call ``action(project, thing, cancel=, progress=)`` when its turn comes.

        `thing` is the object that is chosen now.
        """
        project, thing = self.desk.need_project(), self.desk.need_object()

        def end(_result: object) -> None:
            if project is self.desk.project:
                then(project, thing)

        self.steps.ask(
            lambda: self.steps.run(
                f"{word} {thing.name!r}",
                lambda cancel, report: action(project, thing, cancel=cancel, progress=report),
                end,
            )
        )

    def _on_range(self, word: str, action: Callable[..., object]) -> None:
        self.desk.need_object()
        if not self.desk.span_chosen:
            raise InputError("Choose a range first: on its first and last frame (keys I, Shift+I).")
        start, stop = self.desk.span
        self._do(
            word,
            lambda project, thing, **how: action(project, thing.id, start, stop, **how),
            lambda _, thing: self._changed({thing.layer}, start, stop),
        )

    def _changed(self, layer_ids: set[int], start: int, stop: int) -> None:
        """Tell of changed layers, of any where none is named."""
        for layer_id in layer_ids or (None,):
            self.desk.touched(layer_id, start, stop)
        self.desk.catalog_changed.emit()

    def _on_project(self, _project: object) -> None:
        self._expression = None
        self._on_catalog()

    def _on_catalog(self) -> None:
        self._counts.clear()
        self.changed.emit()

    def _on_contents(self, change: Changed) -> None:
        project = self.desk.project
        for record in project.objects.values() if project is not None else ():
            if change.layer_id in (None, record.layer):
                self._counts.pop(record.id, None)
        self.counted.emit()
