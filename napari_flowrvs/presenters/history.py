"""Undo and redo of the project's steps, as a view-model."""

from __future__ import annotations

from collections.abc import Callable, Generator

from psygnal import Signal

from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.store import Project, Step
from napari_flowrvs.presenters.desk import Desk
from napari_flowrvs.presenters.job import Job, Runner, run_here

__all__ = ["HistoryPresenter"]

#: A step of more frames is undone in the background.
_MANY = 20


class HistoryPresenter:
    """Undoes and redoes steps of the desk's project, the large ones in a job.

    Parameters
    ----------
    desk : Desk
        Whose project.
    runner : Runner
        Where jobs run.
    """

    #: Other steps can be undone or redone.
    changed = Signal()
    #: A step was undone or redone; the text is for the user.
    done = Signal(str)

    def __init__(self, desk: Desk, runner: Runner = run_here) -> None:
        self.desk = desk
        self.job = Job(runner)
        desk.project_changed.connect(self._on_project)
        desk.history_changed.connect(self._on_project)

    @property
    def undo_name(self) -> str | None:
        """What would be undone; None for nothing."""
        return None if self.desk.project is None else self.desk.project.undo_name

    @property
    def redo_name(self) -> str | None:
        """What would be redone; None for nothing."""
        return None if self.desk.project is None else self.desk.project.redo_name

    def undo(self) -> None:
        """Undo the last step; nothing happens while another is being undone."""
        project = self.desk.project
        if project is not None and not self.job.busy:
            self._run(project, project.history.undo_step, project.history.undo, "Undone")

    def redo(self) -> None:
        """Redo the step that was undone last."""
        project = self.desk.project
        if project is not None and not self.job.busy:
            self._run(project, project.history.redo_step, project.history.redo, "Redone")

    def _run(
        self,
        project: Project,
        step: Step | None,
        action: Callable[..., Step | None],
        word: str,
    ) -> None:
        if step is None:
            self.done.emit(f"There is nothing to {'undo' if word == 'Undone' else 'redo'}.")
            return
        if step.frames <= _MANY:
            action()
            self._tell(word, step)
            return

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            yield action(cancel=cancel, progress=report)

        self.job.start(work, lambda _step: self._tell(word, step))

    def _tell(self, word: str, step: Step) -> None:
        self.done.emit(f"{word}: {step.name}")
        for layer_id in step.layer_ids:
            self.desk.touched(layer_id, step.start, step.stop)
        if step.frames and not step.start <= self.desk.frame < step.stop:
            self.desk.go_to(step.start)  # nobody should wonder whether anything happened

    def _on_project(self, _project: object = None) -> None:
        self.changed.emit()

    def close(self, timeout: float = 5.0) -> bool:
        """Let go of a running job."""
        return self.job.close(timeout)
