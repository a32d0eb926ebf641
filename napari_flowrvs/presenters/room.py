"""All presenters of the dock, connected with each other."""

from __future__ import annotations

from napari_flowrvs.presenters.correct import CorrectPresenter
from napari_flowrvs.presenters.desk import Desk
from napari_flowrvs.presenters.history import HistoryPresenter
from napari_flowrvs.presenters.job import Job, Runner, run_here
from napari_flowrvs.presenters.links import LinksPresenter
from napari_flowrvs.presenters.motion import Motion
from napari_flowrvs.presenters.objects import ObjectsPresenter
from napari_flowrvs.presenters.opening import OpenPresenter
from napari_flowrvs.presenters.review import ReviewPresenter
from napari_flowrvs.presenters.segment import SegmenterFactory, SegmentPresenter
from napari_flowrvs.presenters.steps import Steps
from napari_flowrvs.presenters.strip import StripPresenter

__all__ = ["Room"]


class Room:
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
        self.segment = SegmentPresenter(runner, load)
        self.opener = OpenPresenter(runner)
        self.history = HistoryPresenter(self.desk, self.steps)
        self.links = LinksPresenter(self.desk, runner)
        self.review = ReviewPresenter(self.desk, self.motion, runner, self.steps)
        self.correct = CorrectPresenter(
            self.desk, self.motion, self.segment.segmenter_for, runner, self.steps
        )
        self.objects = ObjectsPresenter(self.desk, self.steps)
        self.strip = StripPresenter(self.desk)
        self.correct.kept.connect(self.review.note_certainty)
        self.review.doubt_changed.connect(self.strip.set_doubt)

    def stoppable(self) -> list[Job]:
        """Return the running jobs that Esc stops."""
        return [job for job in (self.segment.job, self.correct.job, self.steps.job) if job.busy]

    def close(self, timeout: float = 5.0) -> bool:
        """Stop everything; each part is waited for up to `timeout` seconds."""
        parts = (self.review, self.links, self.steps, self.correct, self.motion, self.opener)
        ended = [part.close(timeout) for part in parts]
        return self.segment.close(timeout) and all(ended)
