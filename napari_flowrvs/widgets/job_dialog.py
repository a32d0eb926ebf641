"""What the forms that run one job have in common: failures, Cancel, and opening above a window."""

from __future__ import annotations

from typing import Any, TypeVar

import napari
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDialog, QMainWindow, QWidget

from napari_flowrvs.job import Failure
from napari_flowrvs.widgets.parts import Problem, ProgressLine, bare

__all__ = ["JobDialog", "show_dialog"]

Form = TypeVar("Form", bound="JobDialog")


class JobDialog(QDialog):
    """A form whose `presenter` has one `job`; a subclass makes these attributes.

    Attributes
    ----------
    presenter : object
        With ``job`` (a `Job`) and ``close()``.
    progress : ProgressLine
    problem : Problem
    """

    presenter: Any
    progress: ProgressLine
    problem: Problem

    def _on_failed(self, failure: Failure) -> None:
        self.progress.say("")
        self.problem.show_failure(failure)

    def _cancel_or_close(self) -> None:
        if self.presenter.job.busy:
            self.presenter.job.cancel()
        else:
            self.reject()

    def done(self, result: int) -> None:
        """Stop what is running when the dialog closes."""
        self.presenter.close()
        super().done(result)


def show_dialog(kind: type[Form], viewer: Any = None, parent: QWidget | None = None) -> Form | None:
    """Open a form above `viewer`, the current one by default; None where there is none."""
    if viewer is None:
        viewer = napari.current_viewer()
    if viewer is None:
        return None
    if parent is None:
        windows = [w for w in QApplication.topLevelWidgets() if isinstance(w, QMainWindow)]
        parent = next((w for w in windows if w.isActiveWindow()), windows[0] if windows else None)
    dialog = kind(bare(viewer), parent=parent)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.show()
    return dialog
