"""The foot of the dock: what all pages share."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_flowrvs.presenters.ahead import Ahead
from napari_flowrvs.presenters.job import Failure
from napari_flowrvs.presenters.room import Room
from napari_flowrvs.widgets.desk_link import DeskLink
from napari_flowrvs.widgets.history import HistoryBar
from napari_flowrvs.widgets.keys import Commands
from napari_flowrvs.widgets.links import LinkBar
from napari_flowrvs.widgets.parts import Problem, ProgressLine
from napari_flowrvs.widgets.preview import PreviewBar
from napari_flowrvs.widgets.transport import OnionSkin, Transport
from napari_flowrvs.worker import run_in_thread

__all__ = ["Footer"]


class Footer(QWidget):
    """Questions, previews, playing, undo, progress and problems.

    Parameters
    ----------
    room : Room
        What goes on.
    desk_link : DeskLink
        The viewer.
    commands : Commands
        Where keys are heard.
    on_failed : callable
        Shows what went wrong, with the whole dock at hand.
    """

    def __init__(
        self,
        room: Room,
        desk_link: DeskLink,
        commands: Commands,
        on_failed: Callable[[Failure], None],
    ) -> None:
        super().__init__()
        self._room = room
        self.question = LinkBar(room.links, commands.attempt)
        self.preview = PreviewBar(room.correct, desk_link, commands)
        self.transport = Transport(
            room.desk, OnionSkin(desk_link), commands, Ahead(desk_link.readers, run_in_thread)
        )
        self.history = HistoryBar(room.history)
        self.progress = ProgressLine()
        self.problem = Problem()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for part in (
            self.question,
            self.preview,
            self.transport,
            self.history,
            self.progress,
            self.problem,
        ):
            layout.addWidget(part)
        self._follow(on_failed)

    def _follow(self, on_failed: Callable[[Failure], None]) -> None:
        room = self._room
        room.correct.job.progressed.connect(self.progress.show_progress)
        room.steps.job.progressed.connect(self._on_step)
        for job in (room.correct.job, room.steps.job):
            job.failed.connect(on_failed)
            job.cancelled.connect(self._on_end)
            job.completed.connect(self._on_end)
        for other in (room.review.job, room.links.job):
            other.failed.connect(on_failed)
        room.correct.told.connect(self.progress.say)
        room.history.done.connect(self.progress.say)

    def _on_step(self, event: object) -> None:
        if not self._room.segment.job.busy:  # the bar is the run's
            self.progress.show_late(event)  # type: ignore[arg-type]

    def _on_end(self) -> None:
        if not self._room.segment.job.busy:
            self.progress.rest()

    def close_all(self) -> None:
        """Stop playing, and take what is drawn over the video away."""
        self.transport.close_all()
        self.preview.close_all()
