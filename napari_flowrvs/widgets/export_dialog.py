"""The form that writes a dataset split; from the dock and from the File menu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari
from magicgui.widgets import CheckBox, ComboBox, FileEdit, LineEdit
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMainWindow,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from flowrvs.data.export import ExportResult
from flowrvs.errors import InputError
from napari_flowrvs.layers import KEY, source_of
from napari_flowrvs.presenters.export import FORMATS, ExportInputs, ExportPresenter
from napari_flowrvs.presenters.job import Failure, Phase, Runner
from napari_flowrvs.widgets import style
from napari_flowrvs.widgets.parts import Problem, ProgressLine, counted, form_layout
from napari_flowrvs.worker import run_in_thread

__all__ = ["ExportDialog", "show_export"]


class ExportDialog(QDialog):
    """Chooses projects, a destination and a split name, and writes.

    Parameters
    ----------
    viewer : napari.Viewer
        Its projects are offered.
    runner : Runner, optional
        Where the export runs.
    parent : QWidget, optional
        The window above which it stays.
    """

    def __init__(
        self, viewer: Viewer, *, runner: Runner = run_in_thread, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Export a MeViS split")
        self._viewer = viewer
        self.presenter = ExportPresenter(runner)
        self._build()
        found = (layer.metadata.get(KEY, {}).get("project") for layer in viewer.layers)
        for folder in dict.fromkeys(path for path in found if path):
            self.add_project(folder)
        if self.projects.count():
            first = Path(self.projects.item(0).data(Qt.ItemDataRole.UserRole))
            self.to.line_edit.value = str(first.parent / "mevis")
        self.setStyleSheet(style.sheet(viewer.theme))
        self.presenter.job.phase_changed.connect(self._on_phase)
        self.presenter.job.progressed.connect(self.progress.show_progress)
        self.presenter.job.failed.connect(self._on_failed)
        self.presenter.job.cancelled.connect(self._on_cancelled)
        self.presenter.finished.connect(self._on_finished)
        self._on_phase(Phase.IDLE)

    def _build(self) -> None:
        self.projects = QListWidget()
        self.projects.setAccessibleName("Projects")
        self.projects.setFixedHeight(90)
        self.projects.setMinimumWidth(40)
        add = QPushButton("&Add project…")
        add.clicked.connect(self._choose_project)
        self.to = FileEdit(mode="d")
        self.to.choose_btn.native.setText("\u2026")
        self.to.choose_btn.native.setAccessibleName("Choose a destination")
        self.to.choose_btn.max_width = 32
        self.to.line_edit.native.setMinimumWidth(60)
        self.to.line_edit.native.setAccessibleName("Destination folder")
        self.to.tooltip = "A folder named after the split is made in it"
        self.split = LineEdit(value="train")
        self.split.tooltip = "train, valid_u, valid, or a name of your own"
        self.format = ComboBox(choices=FORMATS, value=FORMATS[0])
        self.overwrite = CheckBox(text="&replace a split that is there", value=False)
        form = form_layout()
        for text, field, buddy in (
            ("&projects:", self.projects, self.projects),
            ("", add, add),
            ("&to:", self.to.native, self.to.line_edit.native),
            ("&split:", self.split.native, self.split.native),
            ("&format:", self.format.native, self.format.native),
            ("", self.overwrite.native, self.overwrite.native),
        ):
            label = QLabel(text)
            label.setBuddy(buddy)
            form.addRow(label, field)
        self.export_button = QPushButton("&Export")
        self.export_button.setObjectName("run")
        self.export_button.setDefault(True)
        self.export_button.clicked.connect(self.run)
        self.cancel_button = QPushButton("&Close")
        self.cancel_button.setAutoDefault(False)
        add.setAutoDefault(False)
        self.cancel_button.clicked.connect(self._cancel_or_close)
        buttons = QHBoxLayout()
        buttons.addStretch(1)
        buttons.addWidget(self.cancel_button)
        buttons.addWidget(self.export_button)
        self.progress = ProgressLine()
        self.problem = Problem()
        layout = QVBoxLayout(self)
        layout.setSpacing(8)
        layout.addLayout(form)
        layout.addWidget(self.progress)
        layout.addWidget(self.problem)
        layout.addLayout(buttons)
        self.setMinimumWidth(300)
        self.resize(420, self.sizeHint().height())

    def _choose_project(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Add a project (.flowrvs)")
        if folder:
            self.add_project(folder)

    def add_project(self, folder: str) -> None:
        """Offer the project in `folder`, ticked; a second time does nothing."""
        for i in range(self.projects.count()):
            if self.projects.item(i).data(Qt.ItemDataRole.UserRole) == folder:
                return
        item = QListWidgetItem(Path(folder).name)
        item.setData(Qt.ItemDataRole.UserRole, folder)
        item.setToolTip(folder)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked)
        self.projects.addItem(item)

    def inputs(self) -> ExportInputs:
        """Return what the form holds."""
        items = [self.projects.item(i) for i in range(self.projects.count())]
        chosen = tuple(
            str(item.data(Qt.ItemDataRole.UserRole))
            for item in items
            if item.checkState() == Qt.CheckState.Checked
        )
        videos = [source_of(layer) for layer in self._viewer.layers if isinstance(layer, Image)]
        return ExportInputs(
            chosen,
            str(self.to.line_edit.value),
            self.split.value,
            str(self.format.value),
            bool(self.overwrite.value),
            tuple(source for source in videos if source is not None and source.path is None),
        )

    def run(self) -> None:
        """Start the export."""
        if self.presenter.job.busy:
            return
        self.problem.clear()
        try:
            self.presenter.run(self.inputs())
        except InputError as error:
            self._on_failed(Failure.of(error))

    def _on_phase(self, phase: Phase) -> None:
        idle = phase is Phase.IDLE
        self.export_button.setEnabled(idle)
        self.cancel_button.setText("&Close" if idle else "&Cancel")
        self.cancel_button.setEnabled(phase is not Phase.STOPPING)

    def _on_finished(self, result: ExportResult) -> None:
        self.progress.say(
            f"Written: {counted(result.videos, 'video')}, "
            f"{counted(result.expressions, 'sentence')}, {counted(result.objects, 'object')} "
            f"in {result.path}"
        )

    def _on_cancelled(self) -> None:
        self.progress.say("Stopped; nothing was written.")

    def _on_failed(self, failure: Failure) -> None:
        self.progress.say("")
        self.problem.show_failure(failure)

    def _cancel_or_close(self) -> None:
        if self.presenter.job.busy:
            self.presenter.job.cancel()
        else:
            self.reject()

    def done(self, result: int) -> None:
        """Stop a running export when the dialog closes."""
        self.presenter.close()
        super().done(result)


def show_export(viewer: Any = None, parent: QWidget | None = None) -> ExportDialog | None:
    """Open the export form of `viewer`, the current one by default."""
    if viewer is None:
        viewer = napari.current_viewer()
    if viewer is None:
        return None
    if parent is None:
        windows = [w for w in QApplication.topLevelWidgets() if isinstance(w, QMainWindow)]
        parent = next((w for w in windows if w.isActiveWindow()), windows[0] if windows else None)
    dialog = ExportDialog(viewer, parent=parent)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.show()
    return dialog
