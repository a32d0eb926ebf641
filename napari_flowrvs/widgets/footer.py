"""The foot of the dock: what all pages share."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

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
        self.stop_button = QToolButton()
        self.stop_button.setText("stop")
        self.stop_button.setToolTip("Stop, and leave everything as it was (Esc)")
        self.stop_button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.stop_button.clicked.connect(self._stop)
        self.stop_button.hide()
        self.problem = Problem()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        line = QHBoxLayout()
        line.setSpacing(4)
        line.addWidget(self.progress, 1)
        line.addWidget(self.stop_button, 0, Qt.AlignmentFlag.AlignTop)
        for part in (self.question, self.preview, self.transport, self.history):
            layout.addWidget(part)
        layout.addLayout(line)
        layout.addWidget(self.problem)
        self._follow(on_failed)

    def _follow(self, on_failed: Callable[[Failure], None]) -> None:
        room = self._room
        room.correct.job.progressed.connect(self.progress.show_progress)
        room.steps.job.progressed.connect(self._on_step)
        for job in (room.correct.job, room.steps.job):
            job.failed.connect(on_failed)
            job.failed.connect(self._on_failed_end)
            job.cancelled.connect(self._on_end)
            job.completed.connect(self._on_end)
        room.steps.job.cancelled.connect(self._on_stopped)
        for other in (room.review.job, room.links.job):
            other.failed.connect(on_failed)
        for presenter in (room.correct, room.review):
            presenter.told.connect(self.progress.say)
        room.history.done.connect(self.progress.say)

    def _on_step(self, event: object) -> None:
        if not self._room.segment.job.busy:  # the bar is the run's
            self.progress.show_late(event)  # type: ignore[arg-type]
            self.stop_button.setVisible(self.progress.bar.isVisible())

    def _on_failed_end(self, _failure: Failure) -> None:
        self.stop_button.hide()

    def _stop(self) -> None:
        self._room.steps.job.cancel()

    def _on_stopped(self) -> None:
        if not self._room.segment.job.busy:
            self.progress.say("Stopped: everything is as it was.")

    def _on_end(self) -> None:
        self.stop_button.hide()
        if not self._room.segment.job.busy:
            self.progress.rest()

    def close_all(self) -> None:
        """Stop playing, and take what is drawn over the video away."""
        self.transport.close_all()
        self.preview.close_all()
