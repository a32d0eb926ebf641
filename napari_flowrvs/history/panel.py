"""Undo and redo, by the names of the steps."""

from __future__ import annotations

from qtpy.QtWidgets import QHBoxLayout, QSizePolicy, QToolButton, QWidget

from napari_flowrvs.history.presenter import HistoryPresenter
from napari_flowrvs.widgets.parts import enable, plain

__all__ = ["HistoryBar"]


class HistoryBar(QWidget):
    """Two buttons that say what they would undo and redo.

    Parameters
    ----------
    presenter : HistoryPresenter
        The steps.
    """

    def __init__(self, presenter: HistoryPresenter) -> None:
        super().__init__()
        self.presenter = presenter
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        self.undo_button, self.redo_button = QToolButton(), QToolButton()
        for button, action, stretch in (
            (self.undo_button, presenter.undo, 2),
            (self.redo_button, presenter.redo, 1),
        ):
            button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            button.setMinimumWidth(40)
            button.clicked.connect(lambda _on=False, action=action: action())
            layout.addWidget(button, stretch)
        presenter.changed.connect(self.refresh)
        presenter.steps.busy_changed.connect(self.refresh)
        self.refresh()

    def refresh(self, _value: object = None) -> None:
        """Show the names of the steps."""
        busy = self.presenter.steps.busy
        for button, word, keys, name in (
            (self.undo_button, "undo", "Ctrl+Z", self.presenter.undo_name),
            (self.redo_button, "redo", "Ctrl+Shift+Z", self.presenter.redo_name),
        ):
            enable((button,), name is not None and not busy)
            button.setText(word if name is None else f"{word}: {name}".replace("&", "&&"))
            button.setToolTip(plain(f"{word.capitalize()} {name or 'nothing'} ({keys})"))
