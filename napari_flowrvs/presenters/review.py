"""The review queue: doubtful frames first, accepted one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs import editing
from flowrvs.errors import FlowRVSError, InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.store import Project, Provenance
from napari_flowrvs.presenters.desk import Changed, Desk
from napari_flowrvs.presenters.job import Job, Runner, run_here
from napari_flowrvs.presenters.motion import Motion
from napari_flowrvs.presenters.steps import Steps

__all__ = ["Doubtful", "Measured", "ReviewPresenter"]

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An unchecked frame of an object.

    Attributes
    ----------
    frame, object_id : int
        What to look at.
    doubt : float
        0 to 1; 0 where it was not measured yet.
    """

    frame: int
    object_id: int
    doubt: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Doubts of one object, as they come."""

    object_id: int
    frames: tuple[int, ...]
    doubts: tuple[float, ...]


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
    #: The doubt of the desk's object is known better now.
    doubt_changed = Signal(object)  # ndarray of float32 | None
    #: Somebody wants to paint an object.
    fix_requested = Signal(int)

    def __init__(
        self,
        desk: Desk,
        motion: Motion | None = None,
        runner: Runner = run_here,
        steps: Steps | None = None,
    ) -> None:
        self.desk = desk
        self.steps = Steps() if steps is None else steps
        self._motion = motion
        self.job = Job(runner)
        self._doubts: dict[int, npt.NDArray[np.float32]] = {}
        self._stale: dict[int, tuple[int, int]] = {}
        self._certainty: dict[int, dict[int, float]] = {}
        self._scope: str | None = None
        self._measuring = False
        self._queue: list[Doubtful] | None = None
        self._led: tuple[int, int | None] | None = None
        self.job.completed.connect(self._on_measured)
        desk.project_changed.connect(self._on_project)
        desk.object_changed.connect(self._on_object)
        desk.contents_changed.connect(self._on_contents)
        desk.masks_written.connect(self._on_contents)
        desk.catalog_changed.connect(self._on_catalog)

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
        if self.scope is not None:
            return tuple(sorted(project.expressions[self.scope].object_ids))
        return () if self.desk.object_id is None else (self.desk.object_id,)

    def queue(self) -> list[Doubtful]:
        """Return the unchecked frames, most doubtful first."""
        if self._queue is None:
            found: list[tuple[int, Doubtful]] = []
            for object_id in self.objects():
                provenance = self._project().provenance(object_id)
                doubts = self._doubts.get(object_id)
                if doubts is None:
                    doubts = np.zeros(len(provenance), np.float32)
                order = editing.review_order(np.nan_to_num(doubts), provenance)
                found += [
                    (place, Doubtful(t, object_id, float(np.nan_to_num(doubts[t]))))
                    for place, t in enumerate(order)
                ]
            # The first of every object, then the second ones: each order is kept.
            found.sort(key=lambda pair: (pair[0], -pair[1].doubt))
            self._queue = [each for _, each in found]
        return self._queue

    def progress(self) -> tuple[int, int]:
        """Return how many frames were checked, and how many there are to check."""
        checked = total = 0
        for object_id in self.objects():
            provenance = self._project().provenance(object_id)
            checked += int((provenance >= Provenance.HUMAN).sum())
            total += len(provenance)
        return checked, total

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
        """Go to the most doubtful frame; once there, to the one after it in the queue."""
        place = self._place()
        self._show(0 if place is None else place + 1)

    def previous(self) -> None:
        """Go one back in the queue."""
        place = self._place()
        self._show(0 if place is None else place - 1)

    def accept(self) -> None:
        """Accept the frame that is shown, of every object under review, and go on."""
        self.steps.ask(
            lambda: self._judge(
                "accept",
                self._reviewed(),
                lambda project, one, t: project.accept_frames(one, t, t + 1),
            )
        )

    def absent(self) -> None:
        """Say that the desk's object is not on the frame that is shown, and go on."""
        self.steps.ask(
            lambda: self._judge(
                "absent",
                (self._chosen(),),
                lambda project, one, t: project.mark_absent(one, t, t + 1),
            )
        )

    def accept_here(self) -> None:
        """Accept every frame up to the one that is shown."""
        self.steps.ask(self._accept_here)

    def _accept_here(self) -> None:
        stop = self.desk.frame + 1
        self._write(
            f"accept frames 0-{stop - 1}",
            self._reviewed(),
            lambda project, one: project.accept_frames(one, 0, stop),
            0,
            stop,
        )

    def fix(self) -> None:
        """Ask for the brush on the desk's object."""
        self.fix_requested.emit(self._chosen())

    def _judge(
        self, word: str, ids: tuple[int, ...], verdict: Callable[[Project, int, int], object]
    ) -> None:
        t, place = self.desk.frame, self._place()
        self._write(
            f"{word} frame {t}",
            ids,
            lambda project, one: verdict(project, one, t),
            t,
            t + 1,
            # The judged frame has left the queue, so that the next one has its place.
            lambda: self._show(0 if place is None else place),
        )

    def _write(
        self,
        name: str,
        ids: tuple[int, ...],
        verdict: Callable[[Project, int], object],
        start: int,
        stop: int,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Write one verdict about some objects as one step."""
        project = self._project()

        def action(cancel: CancelToken, report: ProgressCallback) -> None:
            with project.edit(name):
                for one in ids:
                    verdict(project, one)

        def told(_result: None) -> None:
            if project is self.desk.project:
                self.desk.touched_objects(ids, start, stop)
                if then is not None:
                    then()

        self.steps.run(name.capitalize(), action, told)

    def _project(self) -> Project:
        if self.desk.project is None:
            raise InputError("There is no project yet: run a sentence, or open a project.")
        return self.desk.project

    def _reviewed(self) -> tuple[int, ...]:
        found = self.objects()
        if not found:
            raise InputError("There is nothing to review: choose an object or a sentence.")
        return found

    def _chosen(self) -> int:
        if self.desk.object_id is None:
            raise InputError("There is no object to work on: choose one.")
        return self.desk.object_id

    # -- measuring -----------------------------------------------------------------------

    def set_measuring(self, on: bool) -> None:
        """Measure doubts while somebody looks at the queue."""
        self._measuring = on
        self.measure()

    def note_certainty(self, object_id: int, certainty: dict[int, float]) -> None:
        """Remember how sure a spread was, which tells where it went astray."""
        self._certainty.setdefault(object_id, {}).update(certainty)

    def measure(self) -> None:
        """Measure what is not known, or has changed, in the background."""
        project = self.desk.project
        if not self._measuring or project is None or self.job.busy:
            return
        wanted = []
        for object_id in self.objects():
            if object_id not in self._doubts:
                self._doubts[object_id] = np.full(self.desk.frame_count, np.nan, np.float32)
                self._stale[object_id] = (0, self.desk.frame_count)
            if object_id in self._stale:
                wanted.append((object_id, *self._stale.pop(object_id)))
        if not wanted:
            return

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, "Looking for doubtful frames"))
            flows = self._flows(project)
            for object_id, start, stop in wanted:
                sure = dict(self._certainty.get(object_id, {}))
                yield from _measure(project, object_id, start, stop, flows, sure, cancel)

        self.job.start(work, self._on_item)

    def _flows(self, project: Project) -> editing.Flows | None:
        try:
            if self._motion is None:
                return None
            video, flows = self._motion.open()
            project.check_video(video.info)
        except FlowRVSError:
            return None  # the queue is worth having without motion, too
        return flows

    def _on_item(self, item: object) -> None:
        if isinstance(item, Measured) and item.object_id in self._doubts:
            self._doubts[item.object_id][list(item.frames)] = item.doubts
            if item.object_id == self.desk.object_id:
                self.doubt_changed.emit(self._doubts[item.object_id])

    def _on_measured(self) -> None:
        self._on_catalog()
        self.measure()  # what has changed meanwhile

    # -- what others do ------------------------------------------------------------------

    def _on_project(self, _project: object) -> None:
        self.job.close(0.0)
        self._doubts.clear()
        self._stale.clear()
        self._certainty.clear()
        self._scope = None
        self._on_catalog()

    def _on_object(self, object_id: int | None) -> None:
        known = None if object_id is None else self._doubts.get(object_id)
        self.doubt_changed.emit(known)
        if self._scope is None:
            self._on_catalog()

    def _on_catalog(self) -> None:
        self._queue = None
        self.changed.emit()
        self.measure()

    def _on_contents(self, change: Changed) -> None:
        project = self.desk.project
        for one in project.objects.values() if project is not None else ():
            if one.id in self._doubts and change.layer_id in (None, one.layer):
                start, stop = self._stale.get(one.id, (change.start, change.stop))
                # The frames on either side are compared with what has changed.
                low = max(min(start, change.start - 1), 0)
                high = min(max(stop, change.stop + 1), self.desk.frame_count)
                self._stale[one.id] = (low, high)
        self._queue = None
        self.changed.emit()

    def close(self, timeout: float = 5.0) -> bool:
        """Stop measuring."""
        self._measuring = False
        return self.job.close(timeout)


def _measure(
    project: Project,
    object_id: int,
    start: int,
    stop: int,
    flows: editing.Flows | None,
    certainty: dict[int, float],
    cancel: CancelToken,
) -> Generator[Measured, None, None]:
    frames: list[int] = []
    doubts: list[float] = []
    parts = editing.doubt(
        project, object_id, start, stop, flows=flows, certainty=certainty, cancel=cancel
    )
    with closing(parts):
        for frame, doubt in parts:
            frames.append(frame)
            doubts.append(doubt)
            if len(frames) == _BATCH:
                yield Measured(object_id, tuple(frames), tuple(doubts))
                frames, doubts = [], []
    yield Measured(object_id, tuple(frames), tuple(doubts))
