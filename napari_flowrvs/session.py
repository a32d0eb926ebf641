"""What goes on in a dock: its presenters, connected with each other."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from flowrvs.errors import FlowRVSError
from flowrvs.store import Project
from napari_flowrvs.correct.presenter import CorrectPresenter
from napari_flowrvs.desk import Desk
from napari_flowrvs.find.presenter import SegmenterFactory, SegmentPresenter
from napari_flowrvs.history.presenter import HistoryPresenter
from napari_flowrvs.job import Job, Runner, run_here
from napari_flowrvs.links.presenter import LinksPresenter
from napari_flowrvs.models.presenter import ModelPresenter
from napari_flowrvs.motion import Motion
from napari_flowrvs.objects.presenter import ObjectsPresenter
from napari_flowrvs.opening.presenter import OpenPresenter
from napari_flowrvs.pick.presenter import PickPresenter
from napari_flowrvs.projects import open_projects
from napari_flowrvs.review.presenter import ReviewPresenter
from napari_flowrvs.steps import Steps
from napari_flowrvs.strip.presenter import StripPresenter
from napari_flowrvs.trackers import Trackers

__all__ = ["Session", "closer"]


class Session:
    """What happens around one desk.

    Parameters
    ----------
    load : callable
        Makes a segmenter from a model and a device.
    runner : Runner
        Where long jobs run.
    soon : Runner
        Where steps run that are mostly short.
    """

    def __init__(
        self, load: SegmenterFactory, runner: Runner = run_here, soon: Runner = run_here
    ) -> None:
        self.desk = Desk()
        self.motion = Motion()
        self.steps = Steps(soon)
        self.trackers = Trackers(runner)
        self.segment = SegmentPresenter(runner, load)
        self.models = ModelPresenter(runner)
        self.opener = OpenPresenter(runner)
        self.history = HistoryPresenter(self.desk, self.steps)
        self.links = LinksPresenter(self.desk, runner)
        self.review = ReviewPresenter(self.desk, self.motion, runner, self.steps)
        self.correct = CorrectPresenter(
            self.desk,
            self.motion,
            self.segment.segmenter_for,
            runner,
            self.steps,
            self.trackers,
        )
        self.pick = PickPresenter(self.desk, self.motion, runner, self.steps, self.trackers)
        self.objects = ObjectsPresenter(self.desk, self.steps)
        self.strip = StripPresenter(self.desk)
        self.correct.kept.connect(self.review.doubts.note_certainty)
        self.review.doubts.shown_changed.connect(self.strip.set_doubt)

    def jobs(self) -> list[Job]:
        """Return all that may run in the background."""
        parts = (self.segment, self.opener, self.correct, self.pick)
        return [part.job for part in (*parts, self.steps, self.review, self.links)]

    def stoppable(self) -> list[Job]:
        """Return the running jobs that Esc stops."""
        return [job for job in (self.segment.job, self.correct.job, self.steps.job) if job.busy]

    def cancel(self) -> bool:
        """Stop what a person has started; False where nothing runs."""
        running = self.stoppable()
        for job in running:
            job.cancel()
        return bool(running)

    def close(self, timeout: float = 5.0) -> bool:
        """Stop everything; each part is waited for up to `timeout` seconds."""
        parts = (self.review, self.links, self.steps, self.correct, self.pick)
        others = (self.motion, self.opener, self.models, self.trackers)
        ended = [part.close(timeout) for part in (*parts, *others)]
        return self.segment.close(timeout) and all(ended)


def closer(
    session: Session,
    projects: set[Project],
    holder: object,
    place: dict[str, bool],
    let_go: Callable[[], object],
) -> Callable[..., None]:
    """Return what to do once the dock has gone; `place` says whether its viewer has, too.

    `let_go`, which is held weakly, lets go of the viewer: it would speak to widgets that are no
    more.
    """
    leave = weakref.WeakMethod(let_go)

    def close(_: object = None) -> None:
        _closing.discard(close)
        left = leave()
        if left is not None:
            left()
        session.close(1.0)
        if not place["docked"]:
            return  # only the dock was closed: the viewer goes on showing the layers
        for project in projects:
            try:
                open_projects.release(project, holder)
            except FlowRVSError:
                continue  # it stays open: another attempt is made when Python ends

    _closing.add(close)
    return close


# What is called when a widget goes must not go with it in the same collection of garbage.
_closing: set[Callable[..., None]] = set()
