"""The foot of the dock: what all pages share."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from napari_flowrvs.correct.presenter import CorrectPresenter
from napari_flowrvs.correct.preview import PreviewBar
from napari_flowrvs.history.panel import HistoryBar
from napari_flowrvs.job import Failure, Phase
from napari_flowrvs.links.panel import LinkBar
from napari_flowrvs.pick.presenter import PickPresenter
from napari_flowrvs.session import Session
from napari_flowrvs.transport.panel import Transport
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands
from napari_flowrvs.widgets.parts import Problem, ProgressLine

__all__ = ["Footer"]


class Footer(QWidget):
    """Questions, previews, playing, undo, progress and problems.

    Parameters
    ----------
    session : Session
        What goes on.
    link : ViewerLink
        The viewer.
    commands : Commands
        Where keys are heard; what cannot be done is shown here.
    """

    def __init__(self, session: Session, link: ViewerLink, commands: Commands) -> None:
        super().__init__()
        self._session = session
        self._told: tuple[str, tuple[str | None, str | None]] = ("", (None, None))
        self.question = LinkBar(session.links, commands.attempt)
        self.preview = PreviewBar(session.correct, link, commands)
        self.picked = PreviewBar(session.pick, link, commands)
        commands.add(keep=lambda: self._waiting().keep(), discard=lambda: self._waiting().discard())
        self.transport = Transport(link, commands)
        self.history = HistoryBar(session.history)
        self.progress = ProgressLine()
        self.stop_button = QToolButton()
        self.stop_button.setText("stop")
        self.stop_button.setToolTip("Stop, and leave everything as it was (Esc)")
        self.stop_button.clicked.connect(session.steps.job.cancel)
        self.stop_button.hide()
        self.problem = Problem()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        line = QHBoxLayout()
        line.setSpacing(4)
        line.addWidget(self.progress, 1)
        line.addWidget(self.stop_button, 0, Qt.AlignmentFlag.AlignTop)
        for part in (self.question, self.preview, self.picked, self.transport, self.history):
            layout.addWidget(part)
        layout.addLayout(line)
        layout.addWidget(self.problem)
        self._follow()

    def _follow(self) -> None:
        session = self._session
        session.correct.frames_ready.connect(self.preview.note_frames)
        session.correct.job.progressed.connect(self.progress.show_progress)
        session.steps.job.progressed.connect(self._on_step)
        session.steps.job.cancelled.connect(self._on_stopped)
        for job in (session.correct.job, session.steps.job):
            job.phase_changed.connect(self._on_phase)
        for job in session.jobs():
            job.failed.connect(self.show_failure)
        for presenter in (session.correct, session.review, session.pick):
            presenter.noted.connect(self._tell)
        session.history.done.connect(self._tell)
        session.history.changed.connect(self._on_history)

    def _steps(self) -> tuple[str | None, str | None]:
        return self._session.history.undo_name, self._session.history.redo_name

    def _tell(self, text: str) -> None:
        """Say what a step was about, until there is another one."""
        self.progress.say(text)
        self._told = (text, self._steps())

    def _on_history(self) -> None:
        text, steps = self._told
        if self.progress.status.text() == text and steps != self._steps():
            self.progress.say("")

    def _waiting(self) -> CorrectPresenter | PickPresenter:
        """Return whose masks the keys mean: marks are what was made last."""
        pick = self._session.pick
        return pick if pick.waiting or pick.preview is not None else self._session.correct

    def show_failure(self, failure: Failure) -> None:
        """Show what went wrong, or why something cannot be done."""
        if not self._session.segment.job.busy:
            self.progress.say("")
        self.problem.show_failure(failure, passing=failure.refused)

    def show_refusal(self, failure: Failure) -> None:
        """Show why something cannot be done, until something else is."""
        self.problem.show_failure(failure, passing=True)

    def _on_step(self, event: object) -> None:
        if not self._session.segment.job.busy:  # the bar is the run's
            self.progress.show_late(event)  # type: ignore[arg-type]
            self.stop_button.setVisible(self.progress.bar.isVisible())

    def _on_phase(self, phase: Phase) -> None:
        if phase is Phase.IDLE:
            self.stop_button.hide()
            if not self._session.segment.job.busy:
                self.progress.rest()

    def _on_stopped(self) -> None:
        if not self._session.segment.job.busy:
            self.progress.say("Stopped: everything is as it was.")

    def close_all(self) -> None:
        """Stop playing, and take what is drawn over the video away."""
        self.transport.close_all()
        self.preview.overlay.close()
        self.picked.overlay.close()
