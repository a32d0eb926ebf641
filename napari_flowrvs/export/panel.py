"""The form that writes a dataset split; from the dock and from the File menu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, FileEdit, LineEdit, SpinBox
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from flowrvs.data.export import ExportResult
from flowrvs.data.faults import Finding
from flowrvs.data.preview import Preview
from flowrvs.data.write_back import WriteBackResult
from flowrvs.errors import InputError
from napari_flowrvs.export.presenter import (
    DESCRIPTIONS,
    FORMATS,
    Checked,
    ExportInputs,
    ExportPresenter,
)
from napari_flowrvs.export.preview import PreviewTable
from napari_flowrvs.job import Failure, Phase, Runner
from napari_flowrvs.layers import KEY, source_of
from napari_flowrvs.widgets import style
from napari_flowrvs.widgets.folders import FolderList
from napari_flowrvs.widgets.job_dialog import JobDialog, show_dialog
from napari_flowrvs.widgets.parts import (
    Fold,
    Problem,
    ProgressLine,
    Wrapped,
    counted,
    form_layout,
    scrolled,
)
from napari_flowrvs.worker import run_in_thread

__all__ = ["ExportDialog", "show_export"]

#: Fits on a screen of 720 pixels, with a bar and the window's title.
_HEIGHT = 640


class ExportDialog(JobDialog):
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
        self.setWindowTitle("Export a dataset")
        self._viewer = viewer
        self._remarks: list[Finding] = []
        self._written = ""
        self.presenter = ExportPresenter(runner)
        self._build()
        self.presenter.homes_found.connect(lambda found: self.home.native.setVisible(found))
        found = (layer.metadata.get(KEY, {}).get("project") for layer in viewer.layers)
        for folder in dict.fromkeys(path for path in found if path):
            self.add_project(folder)
        if self.projects.count():
            first = Path(self.projects.folders[0])
            self.to.line_edit.value = str(first.parent / "mevis")
        self.setStyleSheet(style.sheet(viewer.theme))
        self.presenter.job.phase_changed.connect(self._on_phase)
        self.presenter.job.progressed.connect(self.progress.show_progress)
        self.presenter.job.failed.connect(self._on_failed)
        self.presenter.job.cancelled.connect(self._on_cancelled)
        self.presenter.finished.connect(self._on_finished)
        self.presenter.checked.connect(self._on_checked)
        self.presenter.returned.connect(self._on_returned)
        self.presenter.previewed.connect(self._on_previewed)
        self.presenter.preview_job.failed.connect(self._on_failed)
        self._on_phase(Phase.IDLE)
        self._on_format()
        if self.projects.count():
            self.preview()

    def _build(self) -> None:
        self.projects = FolderList("Projects", 90)
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
        self.format.changed.connect(self._on_format)
        self.about_format = Wrapped()
        self.about_format.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self.home = CheckBox(text="&write back to the dataset", value=False)
        self.home.tooltip = "Corrections of imported projects go into the split they come from"
        self.home.changed.connect(self._on_home)
        self.home.native.hide()  # until a project is known to come from a dataset
        self.overwrite = CheckBox(text="&replace a split that is there", value=False)
        self.names = CheckBox(text="&names as sentences", value=False)
        self.names.tooltip = "An object that no sentence means gets its name as a sentence"
        self.annotated = CheckBox(text="only ann&otated frames", value=False)
        self.annotated.tooltip = "Leave out the frames on which nobody looked for every object"
        for choice in (self.names, self.annotated):
            choice.changed.connect(self._on_choice)
        self.shares = LineEdit(value="")
        self.shares.native.setPlaceholderText("one split; or 0.8,0.1,0.1")
        self.shares.tooltip = "Shares of train, valid_u and test, assigned by video; or name=share"
        self.seed = SpinBox(value=0, min=0, max=2**31 - 1)
        self.quality = SpinBox(value=95, min=1, max=100)
        self.link = CheckBox(text="&hard links of JPEG files", value=False)
        self.link.tooltip = "No copies of frames that are JPEG files already"
        self.licence = LineEdit(value="")
        self.licence.native.setPlaceholderText("of the data, for its README")
        self.date = LineEdit(value="")
        self.date.native.setPlaceholderText("for its README")
        more_form = form_layout()
        for text, field in (
            ("", self.names),
            ("", self.annotated),
            ("sp&lits:", self.shares),
            ("see&d:", self.seed),
            ("&quality:", self.quality),
            ("", self.link),
            ("l&icence:", self.licence),
            ("d&ate:", self.date),
        ):
            label = QLabel(text)
            label.setBuddy(field.native)
            more_form.addRow(label, field.native)
        more = QWidget()
        more.setLayout(more_form)
        self.more = Fold("&more", more)
        self.table = PreviewTable()
        self.preview_button = QPushButton("Pre&view")
        self.preview_button.setAutoDefault(False)
        self.preview_button.clicked.connect(self.preview)
        form = form_layout()
        for text, field, buddy in (
            ("&projects:", self.projects, self.projects),
            ("", add, add),
            ("&to:", self.to.native, self.to.line_edit.native),
            ("&split:", self.split.native, self.split.native),
            ("&format:", self.format.native, self.format.native),
            ("", self.about_format, self.about_format),
            ("", self.home.native, self.home.native),
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
        buttons.addWidget(self.preview_button)
        buttons.addStretch(1)
        buttons.addWidget(self.cancel_button)
        buttons.addWidget(self.export_button)
        self.progress = ProgressLine()
        self.problem = Problem()
        page = QWidget()
        inner = QVBoxLayout(page)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(8)
        inner.addLayout(form)
        inner.addWidget(self.more)
        inner.addWidget(self.table, 1)
        layout = QVBoxLayout(self)
        layout.setSpacing(8)
        layout.addWidget(scrolled(page), 1)  # all of it is higher than a small screen
        layout.addWidget(self.progress)
        layout.addWidget(self.problem)
        layout.addLayout(buttons)
        self.setMinimumWidth(300)
        self.resize(440, _HEIGHT)

    def _choose_project(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Add a project (.flowrvs)")
        if folder:
            self.add_project(folder)

    def add_project(self, folder: str) -> None:
        """Offer the project in `folder`, ticked; a second time does nothing."""
        if self.projects.add(folder):
            self.presenter.look_for_homes(self.projects.folders)

    def inputs(self) -> ExportInputs:
        """Return what the form holds."""
        videos = [source_of(layer) for layer in self._viewer.layers if isinstance(layer, Image)]
        return ExportInputs(
            self.projects.ticked,
            str(self.to.line_edit.value),
            self.split.value,
            str(self.format.value),
            bool(self.overwrite.value),
            tuple(source for source in videos if source is not None and source.path is None),
            str(self.shares.value),
            int(self.seed.value),
            int(self.quality.value),
            bool(self.link.value),
            str(self.licence.value),
            str(self.date.value),
            bool(self.home.value) and not self.home.native.isHidden(),
            bool(self.names.value),
            bool(self.annotated.value),
        )

    def preview(self) -> None:
        """Show what would be written."""
        self.problem.clear()
        try:
            self.presenter.preview(self.inputs())
        except InputError as error:
            self._on_failed(Failure.of(error))

    def run(self) -> None:
        """Start the export."""
        if self.presenter.job.busy:
            return
        self.problem.clear()
        self._remarks, self._written = [], ""
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
        self._written = (
            f"Written: {counted(result.videos, 'video')}, "
            f"{counted(result.expressions, 'sentence')}, {counted(result.objects, 'object')} "
            f"in {result.path}"
        )
        self.progress.say(" ".join([self._written, *result.notes]))

    def _on_checked(self, checked: Checked) -> None:
        self._remarks += checked.findings
        self.progress.say(" ".join([self._written, *checked.result.notes]))
        self.table.show_findings(self._remarks, "The linter finds nothing in what was written.")

    def _on_returned(self, result: WriteBackResult) -> None:
        self._written = (
            f"{result.video}: {counted(result.masks, 'mask')} and "
            f"{counted(result.sentences, 'sentence')} changed in {result.path}"
        )
        self.progress.say(self._written)

    def _on_previewed(self, preview: Preview) -> None:
        self.table.show_preview(preview)

    def _on_format(self, value: Any = None) -> None:
        self.about_format.setText(DESCRIPTIONS[str(self.format.value)])

    def _on_choice(self, value: Any = None) -> None:
        if self.projects.count():
            self.preview()

    def _on_home(self, value: Any = None) -> None:
        home = bool(self.home.value)
        fields = (self.to, self.split, self.format, self.shares, self.link, self.quality)
        for field in (*fields, self.names, self.annotated):
            field.enabled = not home

    def _on_failed(self, failure: Failure) -> None:
        super()._on_failed(failure)
        self.progress.say(self._written)  # before it failed

    def _on_cancelled(self) -> None:
        if self._written:
            self.progress.say(f"Stopped before the rest. {self._written}")
        else:
            self.progress.say("Stopped; nothing was written.")


def show_export(viewer: Any = None, parent: QWidget | None = None) -> ExportDialog | None:
    """Open the export form of `viewer`, the current one by default."""
    return show_dialog(ExportDialog, viewer, parent)
