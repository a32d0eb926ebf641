"""The form that opens a video of a dataset to be corrected."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import FileEdit
from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from flowrvs.errors import InputError
from napari_flowrvs.importing.presenter import ImportPresenter
from napari_flowrvs.job import Failure, Phase, Runner
from napari_flowrvs.layers import LayerTuple
from napari_flowrvs.project_labels import make_layer
from napari_flowrvs.widgets import style
from napari_flowrvs.widgets.job_dialog import JobDialog, show_dialog
from napari_flowrvs.widgets.parts import Problem, ProgressLine, counted, form_layout
from napari_flowrvs.worker import run_in_thread

__all__ = ["ImportDialog", "show_import"]


class ImportDialog(JobDialog):
    """Chooses a dataset and a video of it, and opens it as a project.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    runner : Runner, optional
        Where datasets are read.
    parent : QWidget, optional
        The window above which it stays.
    """

    def __init__(
        self, viewer: Viewer, *, runner: Runner = run_in_thread, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Correct a dataset")
        self._viewer = viewer
        self.presenter = ImportPresenter(runner)
        self._build()
        self.setStyleSheet(style.sheet(viewer.theme))
        job = self.presenter.job
        job.phase_changed.connect(self._on_phase)
        job.progressed.connect(self.progress.show_progress)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(lambda: self.progress.say("Stopped; nothing was written."))
        self.presenter.listed.connect(self._on_listed)
        self.presenter.opened.connect(self._on_opened)
        self.presenter.noted.connect(self._on_noted)
        self._on_phase(Phase.IDLE)

    def _build(self) -> None:
        self.folder = FileEdit(mode="d")
        self.folder.choose_btn.native.setText("\u2026")
        self.folder.choose_btn.native.setAccessibleName("Choose a dataset")
        self.folder.choose_btn.native.setAutoDefault(False)
        self.folder.choose_btn.max_width = 32
        line = self.folder.line_edit.native
        line.setMinimumWidth(60)
        line.setAccessibleName("Folder of the split")
        line.setPlaceholderText("folder of a split")
        self.folder.changed.connect(self._list)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("type to narrow the list")
        self.filter.setAccessibleName("Filter")
        self.filter.textChanged.connect(self._narrow)
        self.videos = QListWidget()
        self.videos.setAccessibleName("Videos")
        self.videos.setMinimumSize(40, 120)
        self.videos.itemActivated.connect(lambda item: self.open_video())
        self.videos.currentItemChanged.connect(lambda *_: self._on_phase(self.presenter.job.phase))
        form = form_layout()
        for text, field, buddy in (
            ("&dataset:", self.folder.native, line),
            ("&filter:", self.filter, self.filter),
            ("&videos:", self.videos, self.videos),
        ):
            label = QLabel(text)
            label.setBuddy(buddy)
            form.addRow(label, field)
        self.open_button = QPushButton("&Open to correct")
        self.open_button.setObjectName("run")
        self.open_button.setToolTip(
            "Makes a project beside the split; 'Export' writes corrections back"
        )
        self.open_button.clicked.connect(self.open_video)
        self.close_button = QPushButton("&Close")
        self.close_button.setAutoDefault(False)
        self.close_button.clicked.connect(self._cancel_or_close)
        buttons = QHBoxLayout()
        buttons.addStretch(1)
        buttons.addWidget(self.close_button)
        buttons.addWidget(self.open_button)
        self.progress = ProgressLine()
        self.problem = Problem()
        layout = QVBoxLayout(self)
        layout.addLayout(form, 1)
        layout.addWidget(self.progress)
        layout.addWidget(self.problem)
        layout.addLayout(buttons)
        self.setMinimumWidth(300)
        self.resize(420, 380)

    def _list(self, value: Any = None) -> None:
        """List the videos of the folder that was chosen."""
        self.videos.clear()
        self.problem.clear()
        folder = str(self.folder.line_edit.value)
        if self.presenter.job.busy or folder.strip() in ("", "."):
            return
        self._start(lambda: self.presenter.list_videos(folder))

    def _on_listed(self, videos: dict[str, int]) -> None:
        for name, count in videos.items():
            item = QListWidgetItem(f"{name}   ({counted(count, 'sentence')})")
            item.setData(Qt.ItemDataRole.UserRole, name)
            self.videos.addItem(item)
        self.progress.say(counted(len(videos), "video"))
        if videos:
            self.videos.setCurrentRow(0)
        self._narrow(self.filter.text())

    def _narrow(self, text: str) -> None:
        words = text.casefold().split()
        for row in range(self.videos.count()):
            item = self.videos.item(row)
            name = str(item.data(Qt.ItemDataRole.UserRole)).casefold()
            item.setHidden(not all(word in name for word in words))

    def open_video(self) -> None:
        """Open the chosen video."""
        item = self.videos.currentItem()
        video = "" if item is None else str(item.data(Qt.ItemDataRole.UserRole))
        self.problem.clear()
        self._start(lambda: self.presenter.open(str(self.folder.line_edit.value), video))

    def _start(self, begin: Any) -> None:
        if self.presenter.job.busy:
            return
        try:
            begin()
        except InputError as error:
            self._on_failed(Failure.of(error))

    def _on_opened(self, layers: list[LayerTuple]) -> None:
        for layer in layers:
            self._viewer.add_layer(make_layer(layer))
        self.progress.say("Opened. 'Export' can write the corrections back into the dataset.")

    def _on_noted(self, text: str) -> None:
        self.progress.say(text)

    def _on_phase(self, phase: Phase) -> None:
        idle = phase is Phase.IDLE
        self.folder.enabled = idle
        self.open_button.setEnabled(idle and self.videos.currentItem() is not None)
        self.close_button.setText("&Close" if idle else "&Cancel")
        self.close_button.setEnabled(phase is not Phase.STOPPING)


def show_import(viewer: Any = None, parent: QWidget | None = None) -> ImportDialog | None:
    """Open the form above `viewer`, the current one by default."""
    return show_dialog(ImportDialog, viewer, parent)
