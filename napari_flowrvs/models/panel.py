"""The list of models, and the strip that gets one which is not installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qtpy.QtCore import QLocale, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QPushButton,
    QStyledItemDelegate,
    QVBoxLayout,
    QWidget,
)

from flowrvs.checkpoints import MODELS
from flowrvs.checkpoints.placed import placed_models
from napari_flowrvs.job import Failure, Phase
from napari_flowrvs.models.presenter import ModelPresenter, Stage, is_absent
from napari_flowrvs.widgets.parts import Problem, ProgressLine, Wrapped, narrow, plain

__all__ = ["ModelBox", "ModelNames", "ModelPanel"]


class ModelNames(QStyledItemDelegate):
    """Shows in a list of models which of them are not installed."""

    def displayText(self, value: Any, locale: QLocale) -> str:  # noqa: N802
        """Return the name, and what is to be known about it."""
        text = str(super().displayText(value, locale))
        return f"{text} (not installed)" if is_absent(text) else text


class ModelBox(QComboBox):
    """Names of models; those that were trained meanwhile are there when it opens.

    Parameters
    ----------
    recent : iterable of str
        Folders that were used before.
    """

    def __init__(self, recent: Iterable[str]) -> None:
        super().__init__()
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        tip = "tiny (bundled, moving shapes only), mevis (official), or a folder"
        narrow(self, "Model", tip)
        known = [name for name, model in MODELS.items() if model.kind == "segmenter"]
        self.offer([*known, *recent])
        self.setItemDelegate(ModelNames(self))

    def offer(self, names: Iterable[str]) -> None:
        """Add names that are not there yet, and the models that lie beside the known ones."""
        told = {model.name: model.summary for model in placed_models()}
        for name in dict.fromkeys([*names, *told]):
            if self.findText(name) < 0:
                self.addItem(name)
                tip = plain(told.get(name, ""))
                self.setItemData(self.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)

    def showPopup(self) -> None:  # noqa: N802
        """Look for new models first."""
        self.offer(())
        super().showPopup()


class ModelPanel(QWidget):
    """Hidden, unless the chosen model can be fetched and is not here.

    Says how large it is before anything is fetched; then progress, time left and Stop.

    Parameters
    ----------
    presenter : ModelPresenter
        Asks the hub.
    """

    def __init__(self, presenter: ModelPresenter) -> None:
        super().__init__()
        self.presenter = presenter
        self.line = Wrapped()
        self.line.setAccessibleName("Model to fetch")
        self.go = QPushButton()
        self.stop = QPushButton()
        self.progress = ProgressLine()
        self.problem = Problem()
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        buttons.addWidget(self.go, 1)
        buttons.addWidget(self.stop, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.line)
        layout.addWidget(self.progress)
        layout.addWidget(self.problem)
        layout.addLayout(buttons)
        self.go.clicked.connect(self._go)
        self.stop.clicked.connect(self._stop)
        self.presenter.changed.connect(self._on_changed)
        self.presenter.progressed.connect(self.progress.show_progress)
        self.presenter.installed.connect(self._on_installed)
        self.presenter.job.failed.connect(self._on_failed)
        self.presenter.job.cancelled.connect(self._on_cancelled)
        self._on_changed()

    def choose(self, name: str) -> None:
        """Speak of the model `name`."""
        if not self.presenter.job.busy and name.strip() != self.presenter.name:
            self.problem.clear()
            self.progress.say("")
        self.presenter.choose(name)

    def _go(self) -> None:
        if self.presenter.job.busy:
            return
        self.problem.clear()
        if self.presenter.stage is Stage.PLANNED:
            self.presenter.fetch()
        elif self.presenter.stage is Stage.ABSENT:
            self.presenter.ask()

    def _stop(self) -> None:
        if self.presenter.job.busy:
            self.presenter.job.cancel()
        else:
            self.presenter.decline()

    def _on_changed(self) -> None:
        stage, busy = self.presenter.stage, self.presenter.job.busy
        held = self.window().focusWidget() in (self.go, self.stop)
        self.line.setText(self.presenter.text)
        self.line.setVisible(bool(self.presenter.text) and stage is not Stage.FETCHING)
        if not busy:
            self.progress.say("")
        self.go.setText("&Get it" if stage is Stage.PLANNED else f"&Get {self.presenter.name}…")
        self.go.setToolTip(
            "Download and convert; it can be stopped and gone on with"
            if stage is Stage.PLANNED
            else "Ask how large it is; nothing is downloaded yet"
        )
        self.go.setVisible(stage in (Stage.ABSENT, Stage.PLANNED))
        self.stop.setText("Not now" if stage is Stage.PLANNED else "Stop")
        self.stop.setToolTip("What has arrived is kept" if busy else "")
        # It stays enabled while stopping: disabled, it would drop the keyboard's focus.
        self.stop.setVisible(stage in (Stage.ASKING, Stage.PLANNED, Stage.FETCHING))
        if self.presenter.job.phase is Phase.STOPPING:
            self.progress.status.setText("Stopping")
        shown = stage is not Stage.NOTHING
        self.setVisible(shown)
        if held and shown:
            # A button that hides drops the focus; the keyboard should stay where it was.
            (self.stop if self.go.isHidden() else self.go).setFocus()

    def _on_installed(self, name: str) -> None:
        self.problem.clear()

    def _on_failed(self, failure: Failure) -> None:
        self.progress.say("")
        self.problem.show_failure(failure)

    def _on_cancelled(self) -> None:
        self.progress.say("Stopped. What has arrived is kept; Get goes on with it.")
