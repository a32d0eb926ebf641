"""Doubts of objects: measured in the background, and again where masks change."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from flowrvs import editing
from flowrvs.errors import FlowRVSError, InputError, MissingPathError, VideoError
from flowrvs.masks.doubt import FAR
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.store import Project
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.job import Job, Runner
from napari_flowrvs.motion import Motion

__all__ = ["Doubts", "Measured"]

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """Doubts of one object on consecutive frames, as they come."""

    object_id: int
    start: int
    doubts: npt.NDArray[np.float32]


class Doubts:
    """Knows how doubtful each frame of some objects is.

    Parameters
    ----------
    desk : Desk
        What is looked at.
    motion : Motion or None
        The video; without one, masks are not compared with their neighbours.
    runner : Runner
        Where doubts are measured.
    objects : callable
        Gives the objects whose doubts are wanted.
    """

    #: More is known of an object, or something at all for the first time.
    changed = Signal(int, bool)
    #: The same of the desk's object: its doubts, or None.
    shown_changed = Signal(object)  # ndarray of float32 | None
    #: Everything that was wanted is known.
    all_measured = Signal()

    def __init__(
        self,
        desk: Desk,
        motion: Motion | None,
        runner: Runner,
        objects: Callable[[], tuple[int, ...]],
    ) -> None:
        self.desk = desk
        self.job = Job(runner)
        self._objects = objects
        self._motion = motion
        self._doubts: dict[int, npt.NDArray[np.float32]] = {}
        self._stale: dict[int, npt.NDArray[np.bool_]] = {}
        self._pending: dict[int, npt.NDArray[np.bool_]] = {}  # what the job has still to measure
        self._certainty: dict[int, dict[int, tuple[float, int]]] = {}
        self._measuring = False
        #: Somebody waits for doubts although nobody looks at the queue.
        self.eager = False
        self._switching = False  # the job makes way for an object that is looked at now
        self.job.completed.connect(self._on_measured)
        self.job.cancelled.connect(self._on_cancelled)

    def of(self, object_id: int) -> npt.NDArray[np.float32] | None:
        """Return the doubt of every frame, 0 to 1, (T,), NaN where not measured; None: unknown."""
        return self._doubts.get(object_id)

    def known(self) -> bool:
        """True when something is known of every object that is wanted."""
        return all(i in self._doubts for i in self._objects())

    def set_measuring(self, on: bool) -> None:
        """Measure doubts while somebody looks at the queue."""
        self._measuring = on
        self.measure()

    def note_certainty(self, object_id: int, certainty: dict[int, float]) -> None:
        """Remember how sure a spread was, which tells where it went astray."""
        project = self.desk.project
        if project is None:
            return
        with _skip_removed(project, object_id):
            areas = project.areas(object_id)
            noted = {t: (sure, int(areas[t])) for t, sure in certainty.items()}
            self._certainty.setdefault(object_id, {}).update(noted)

    def _sure(self, project: Project, object_id: int) -> dict[int, float]:
        """Return what is known of masks that are still those that a spread drew."""
        noted = dict(self._certainty.get(object_id, {}))
        if not noted or object_id not in project.objects:
            return {}
        areas = project.areas(object_id)
        return {t: sure for t, (sure, area) in noted.items() if areas[t] == area}

    def measure(self) -> None:
        """Measure what is not known, or has changed, in the background."""
        project = self.desk.project
        if not (self._measuring or self.eager) or project is None:
            return
        if self.job.busy:
            known = self._doubts.keys() | self._pending.keys()
            if not self._switching and not known.issuperset(self._objects()):
                self._switching = True
                self.job.cancel()
            return
        self._pending.clear()
        wanted: list[tuple[int, bool, list[tuple[int, int]]]] = []
        for object_id in self._objects():
            new = object_id not in self._doubts
            stale = self._stale.pop(object_id, np.zeros(self.desk.frame_count, np.bool_))
            stale |= new
            if stale.any():
                self._pending[object_id] = stale.copy()
                wanted.append((object_id, new, _runs(stale)))
        if not wanted:
            return

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, "Looking for doubtful frames"))
            for object_id, new, _ in wanted:
                if new:  # a first order, at once
                    with _skip_removed(project, object_id):
                        sure = self._sure(project, object_id)
                        quick = editing.quick_doubt(project, object_id, certainty=sure)
                        yield Measured(object_id, 0, quick)
            flows = self._flows(project)
            for object_id, _, runs in wanted:
                with _skip_removed(project, object_id):
                    sure = self._sure(project, object_id)
                    for start, stop in runs:
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
        if not isinstance(item, Measured) or self.desk.project is None:
            return
        first = item.object_id not in self._doubts
        unknown = np.full(self.desk.frame_count, np.nan, np.float32)
        doubts = self._doubts.setdefault(item.object_id, unknown)
        stop = item.start + len(item.doubts)
        doubts[item.start : stop] = item.doubts
        if not first and item.object_id in self._pending:
            self._pending[item.object_id][item.start : stop] = False
        if item.object_id == self.desk.object_id:
            self.shown_changed.emit(doubts)
        self.changed.emit(item.object_id, first)

    def _on_cancelled(self) -> None:
        for object_id, left in self._pending.items():
            if object_id in self._doubts:
                stale = self._stale.setdefault(object_id, np.zeros_like(left))
                stale |= left
        self._pending.clear()
        if self._switching:
            self._switching = False
            self.measure()

    def _on_measured(self) -> None:
        self._pending.clear()
        self.all_measured.emit()
        self.measure()  # what has changed meanwhile

    def forget(self) -> None:
        """Stop, and know nothing any more."""
        self.job.close(0.0)
        for known in (self._doubts, self._stale, self._pending, self._certainty):
            known.clear()
        self.eager = self._switching = False

    def mark_stale(self, object_id: int, change: Changed) -> None:
        """Measure an object again where it has changed, when it is looked at."""
        if object_id in self._doubts:
            stale = self._stale.setdefault(object_id, np.zeros(self.desk.frame_count, np.bool_))
            # The frames on either side are compared with what has changed.
            stale[max(change.start - FAR, 0) : change.stop + FAR] = True

    def close(self, timeout: float = 5.0) -> bool:
        """Stop measuring."""
        self._measuring = False
        return self.job.close(timeout)


@contextmanager
def _skip_removed(project: Project, object_id: int) -> Iterator[None]:
    """Leave out an object that a person removes meanwhile."""
    try:
        yield
    except InputError:
        if object_id in project.objects:
            raise


def _runs(frames: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of true frames, first and one past the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames, [0]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _measure(
    project: Project,
    object_id: int,
    start: int,
    stop: int,
    flows: editing.Flows | None,
    certainty: dict[int, float],
    cancel: CancelToken,
) -> Generator[Measured, None, None]:
    found: list[float] = []
    looked: editing.Flows | None = flows
    while start < stop:
        parts = editing.doubt(
            project, object_id, start, stop, flows=looked, certainty=certainty, cancel=cancel
        )
        try:
            with closing(parts):
                for t, doubt in parts:
                    found.append(doubt)
                    if len(found) == _BATCH or t + 1 == stop or looked is not flows:
                        yield Measured(object_id, start, np.array(found, np.float32))
                        start, found = t + 1, []
                    if looked is not flows:
                        break
            looked = flows
        except (VideoError, MissingPathError):
            if looked is None:
                raise
            if found:
                yield Measured(object_id, start, np.array(found, np.float32))
                start, found = start + len(found), []
            looked = None  # this frame, or one near it, cannot be read
