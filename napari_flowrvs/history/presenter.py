"""Undo and redo of the project's steps, as a view-model."""

from __future__ import annotations

from psygnal import Signal

from flowrvs.store import Project, Step
from napari_flowrvs.desk import Desk
from napari_flowrvs.steps import Steps

__all__ = ["HistoryPresenter"]


class HistoryPresenter:
    """Undoes and redoes steps of the desk's project, in the order of the keys.

    Parameters
    ----------
    desk : Desk
        Whose project.
    steps : Steps, optional
        Where they are undone.
    """

    #: Other steps can be undone or redone.
    changed = Signal()
    #: A step was undone or redone; the text is for the user.
    done = Signal(str)

    def __init__(self, desk: Desk, steps: Steps | None = None) -> None:
        self.desk = desk
        self.steps = Steps() if steps is None else steps
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
        """Undo the last step, once those before have been written."""
        project = self.desk.project
        self.steps.ask(lambda: self._turn(project, back=True))

    def redo(self) -> None:
        """Redo the step that was undone last."""
        project = self.desk.project
        self.steps.ask(lambda: self._turn(project, back=False))

    def _turn(self, project: Project | None, *, back: bool) -> None:
        if project is None:
            return
        history = project.history
        step = history.undo_step if back else history.redo_step
        if step is None:
            self.done.emit(f"There is nothing to {'undo' if back else 'redo'}.")
            return
        action = history.undo if back else history.redo
        self.steps.run(
            f"{'Undoing' if back else 'Redoing'} {step.name}",
            lambda cancel, report: action(cancel=cancel, progress=report),
            lambda turned: self._tell(project, "Undone" if back else "Redone", turned),
        )

    def _tell(self, project: Project, word: str, step: Step | None) -> None:
        if step is None or project is not self.desk.project:
            return
        self.done.emit(f"{word}: {step.name}")
        for layer_id in step.layer_ids:
            self.desk.touched(layer_id, step.start, step.stop)
        if step.frames and not step.start <= self.desk.frame < step.stop:
            self.desk.go_to(step.start)  # nobody should wonder whether anything happened

    def _on_project(self, _project: object = None) -> None:
        self.changed.emit()
