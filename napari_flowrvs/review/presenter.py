"""The review queue: doubtful frames first, accepted one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from psygnal import Signal

from flowrvs import editing
from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.store import Project, Provenance
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.job import Job, Runner, run_here
from napari_flowrvs.motion import Motion
from napari_flowrvs.review.doubts import Doubts
from napari_flowrvs.steps import Steps

__all__ = ["Doubtful", "ReviewPresenter"]

_LONGEST = 2000  # entries of a queue: more are looked for when these are done
_REORDER = 2.0  # seconds between two orders while doubts are measured


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An unchecked frame of an object.

    Attributes
    ----------
    frame, object_id : int
        What to look at.
    doubt : float
        0 to 1; NaN where nothing was measured yet.
    """

    frame: int
    object_id: int
    doubt: float


class ReviewPresenter:
    """Orders frames by doubt and takes a person's verdicts.

    The queue is that of one sentence, with all the objects that it means, or of the desk's
    object alone.

    Parameters
    ----------
    desk : Desk
        What is looked at.
    motion : Motion, optional
        The video; without one, masks are not compared with their neighbours.
    runner : Runner
        Where doubts are measured.
    steps : Steps, optional
        Where verdicts are written.
    """

    #: The queue or the progress has changed.
    changed = Signal()
    #: Somebody wants to paint an object.
    fix_requested = Signal(int)
    #: What a verdict about many frames was about.
    noted = Signal(str)

    def __init__(
        self,
        desk: Desk,
        motion: Motion | None = None,
        runner: Runner = run_here,
        steps: Steps | None = None,
    ) -> None:
        self.desk = desk
        self.doubts = Doubts(desk, motion, runner, self.objects)
        self.steps = Steps() if steps is None else steps
        self._scope: str | None = None
        self._orders: dict[int, list[int]] = {}
        self._queue: list[Doubtful] | None = None
        self._ordered = 0.0
        self._led: tuple[int, int | None] | None = None
        self.doubts.changed.connect(self._on_doubt)
        self.doubts.all_measured.connect(self._on_all_measured)
        desk.project_changed.connect(self._on_project)
        desk.object_changed.connect(self._on_object)
        desk.contents_changed.connect(self._on_contents)
        desk.masks_written.connect(self._on_contents)
        desk.catalog_changed.connect(self._on_catalog)

    @property
    def job(self) -> Job:
        """Where doubts are measured."""
        return self.doubts.job

    # -- what is reviewed ----------------------------------------------------------------

    @property
    def scope(self) -> str | None:
        """The sentence whose objects are reviewed; None for the desk's object."""
        project = self.desk.project
        return self._scope if project is not None and self._scope in project.expressions else None

    def set_scope(self, exp_id: str | None) -> None:
        """Review the objects of a sentence, or the desk's object."""
        self._scope = exp_id
        self._on_catalog()

    def objects(self) -> tuple[int, ...]:
        """The objects that are reviewed."""
        project = self.desk.project
        if project is None:
            return ()
        said = project.expressions.get(self._scope or "")
        if said is not None:
            return tuple(sorted(said.object_ids))
        thing = self.desk.object
        return () if thing is None else (thing.id,)

    def queue(self) -> list[Doubtful]:
        """Return the unchecked frames, most doubtful first; of a long video those to begin with."""
        if self._queue is None:
            ids = self.objects()
            orders = [self._order(i) for i in ids]
            places = np.concatenate([np.zeros(0), *(np.arange(len(each)) for each in orders)])
            frames = np.concatenate([np.zeros(0, np.intp), *orders]).astype(np.intp)
            owners = np.repeat(np.arange(len(ids)), [len(each) for each in orders])
            unknown = np.full(self.desk.frame_count, np.nan, np.float32)
            known = [unknown if (found := self.doubts.of(i)) is None else found for i in ids]
            doubts = np.concatenate(
                [
                    np.zeros(0, np.float32),
                    *(values[each] for values, each in zip(known, orders, strict=True)),
                ]
            )
            # The first of every object, then the second ones: each order is kept.
            order = np.lexsort((-np.nan_to_num(doubts), places))
            self._queue = [
                Doubtful(int(frames[i]), ids[owners[i]], float(doubts[i])) for i in order[:_LONGEST]
            ]
        return self._queue

    def _order(self, object_id: int) -> list[int]:
        if object_id not in self._orders:
            provenance = self.desk.provenance(object_id)
            doubts = self.doubts.of(object_id) if len(provenance) else None
            known = np.zeros(len(provenance)) if doubts is None else np.nan_to_num(doubts)
            self._orders[object_id] = editing.review_order(known, provenance, most=_LONGEST)
        return self._orders[object_id]

    def progress(self, exp_id: str | None = None) -> tuple[int, int]:
        """Return how many frames were checked, and how many there are to check.

        Frames of two objects count twice. A sentence can be named; by default it is what is
        reviewed.
        """
        project = self.desk.project
        if project is None:
            return 0, 0
        named = None if exp_id is None else project.expressions.get(exp_id)
        ids = self.objects() if named is None else tuple(named.object_ids)
        checked = sum(
            int(np.count_nonzero(self.desk.provenance(i) >= Provenance.HUMAN)) for i in ids
        )
        return checked, len(ids) * self.desk.frame_count

    # -- going through it ----------------------------------------------------------------

    def _place(self) -> int | None:
        """Return where the frame that is shown stands, if the queue has led there."""
        here = (self.desk.frame, self.desk.object_id)
        if here != self._led:
            return None
        for i, each in enumerate(self.queue()):
            if (each.frame, each.object_id) == here:
                return i
        return None

    def _show(self, place: int) -> None:
        queue = self.queue()
        if queue:
            self.show(queue[min(max(place, 0), len(queue) - 1)])

    def show(self, each: Doubtful) -> None:
        """Go to a frame of the queue."""
        self._led = (each.frame, each.object_id)
        if each.object_id != self.desk.object_id:
            self.desk.choose(each.object_id)
        self.desk.go_to(each.frame)

    def next(self) -> None:
        """Go to the most doubtful frame; once there, to the one after it in the queue.

        Where no doubt was measured yet, it is now, and the frame is shown once it is known.
        """
        if not self.doubts.known():
            self.doubts.eager = True
            self.doubts.measure()
            return
        place = self._place()
        self._show(0 if place is None else place + 1)

    def previous(self) -> None:
        """Go one back in the queue."""
        place = self._place()
        self._show(0 if place is None else place - 1)

    def accept(self) -> None:
        """Accept the frame that is shown, of every object under review, and go on."""
        self._ask(
            lambda: self._judge(
                "accept",
                self._reviewed(),
                lambda project, i, t: project.accept_frames(i, t, t + 1),
            )
        )

    def absent(self) -> None:
        """Say that the desk's object is not on the frame that is shown, and go on."""
        self._ask(
            lambda: self._judge(
                "absent",
                (self.desk.need_object().id,),
                lambda project, i, t: project.mark_absent(i, t, t + 1),
            )
        )

    def accept_here(self) -> None:
        """Accept every frame up to the one that is shown."""
        self._ask(self._accept_here)

    def _ask(self, verdict: Callable[[], object]) -> None:
        self.steps.ask(self.desk.here(verdict))

    def _accept_here(self) -> None:
        stop, ids = self.desk.frame + 1, self._reviewed()
        nobodys = sum(
            int(np.count_nonzero(self.desk.provenance(i)[:stop] == Provenance.EMPTY)) for i in ids
        )

        def then() -> None:
            # A model does not fill in what a person has accepted: say so while undo is near.
            empty = f"; nobody had drawn on {nobodys} of them" if nobodys else ""
            self.noted.emit(f"Accepted frames 0 to {stop - 1}{empty}.")

        self._write(
            f"accept frames 0-{stop - 1}",
            ids,
            lambda project, i: project.accept_frames(i, 0, stop),
            0,
            stop,
            then,
        )

    def fix(self) -> None:
        """Ask for the brush on the desk's object."""
        self.fix_requested.emit(self.desk.need_object().id)

    def _judge(
        self, word: str, ids: tuple[int, ...], verdict: Callable[[Project, int, int], object]
    ) -> None:
        t, place = self.desk.frame, self._place()
        # What is judged leaves the queue, so that the one after it gets its place.
        before = self.queue()[: place or 0]
        target = len([each for each in before if each.frame != t or each.object_id not in ids])
        self._write(
            f"{word} frame {t}",
            ids,
            lambda project, i: verdict(project, i, t),
            t,
            t + 1,
            lambda: self._show(target),
            pixels=word == "absent",
        )

    def _write(
        self,
        name: str,
        ids: tuple[int, ...],
        verdict: Callable[[Project, int], object],
        start: int,
        stop: int,
        then: Callable[[], object] | None = None,
        *,
        pixels: bool = False,
    ) -> None:
        """Write one verdict about some objects as one step; it may change their `pixels`."""
        project = self.desk.need_project()

        def action(cancel: CancelToken, report: ProgressCallback) -> None:
            with project.edit(name):
                for object_id in ids:
                    verdict(project, object_id)

        def end(_result: None) -> None:
            if project is self.desk.project:
                if pixels:
                    self.desk.touched_objects(ids, start, stop)
                else:  # nothing has to be drawn again
                    for layer_id in {project.objects[i].layer for i in ids if i in project.objects}:
                        self.desk.wrote(layer_id, start, stop)
                if then is not None:
                    then()

        self.steps.run(name.capitalize(), action, end)

    def _reviewed(self) -> tuple[int, ...]:
        found = self.objects()
        if not found:
            raise InputError("There is nothing to review: choose an object or a sentence.")
        return found

    # -- what others do ------------------------------------------------------------------

    def _on_doubt(self, object_id: int, first: bool) -> None:
        # A list that is always in motion cannot be read.
        if first or time.monotonic() - self._ordered > _REORDER:
            self._ordered = time.monotonic()
            self._forget_order(object_id)
            self.changed.emit()
        if self.doubts.eager and self.doubts.known():
            self.doubts.eager = False
            self.next()

    def _on_all_measured(self) -> None:
        self._forget_order()
        self.changed.emit()

    def _forget_order(self, object_id: int | None = None) -> None:
        self._queue = None
        if object_id is None:
            self._orders.clear()
        else:
            self._orders.pop(object_id, None)

    def _on_project(self, _project: object) -> None:
        self.doubts.forget()
        self._scope = None
        self._on_catalog()

    def _on_object(self, object_id: int | None) -> None:
        known = None if object_id is None else self.doubts.of(object_id)
        self.doubts.shown_changed.emit(known)
        if self._scope is None:
            self._on_catalog()

    def _on_catalog(self) -> None:
        self._forget_order()
        self.changed.emit()
        self.doubts.measure()

    def _on_contents(self, change: Changed) -> None:
        project = self.desk.project
        for record in project.objects.values() if project is not None else ():
            if change.layer_id in (None, record.layer):
                self._orders.pop(record.id, None)
                self.doubts.mark_stale(record.id, change)
        self._queue = None
        self.changed.emit()

    def close(self, timeout: float = 5.0) -> bool:
        """Stop measuring."""
        return self.doubts.close(timeout)
