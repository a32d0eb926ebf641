"""Model, device, memory, frame range, steps and project folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from magicgui.widgets import ComboBox, FileEdit, SpinBox
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFileDialog,
    QLabel,
    QSizePolicy,
    QToolButton,
    QWidget,
)

from flowrvs.checkpoints import MODELS
from napari_flowrvs.presenters.memory import Memory
from napari_flowrvs.presenters.segment import DEVICES, MEMORY, SegmentInputs
from napari_flowrvs.source import VideoSource
from napari_flowrvs.widgets.models import ModelNames
from napari_flowrvs.widgets.parts import Wrapped, form_layout, row

__all__ = ["OptionsPanel", "choose_button"]


def choose_button(name: str, tip: str) -> QToolButton:
    """Return the small button beside a path."""
    button = QToolButton()
    button.setText("\u2026")
    button.setToolTip(tip)
    button.setAccessibleName(name)
    button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return button


class OptionsPanel(QWidget):
    """The form below the sentences; its values go into a `SegmentInputs`.

    Parameters
    ----------
    memory : Memory
        Model folders that were used before.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory
        self._count = 0
        self._chosen = False
        self._video: str | int | None = None
        self._build_model()
        self.device = ComboBox(choices=DEVICES, value="auto")
        self.device.tooltip = "Where the model runs; auto takes a GPU when there is one"
        self.memory = ComboBox(choices=MEMORY, value="auto")
        self.memory.tooltip = (
            "What stays on the GPU: full is the quickest, low the smallest;\n"
            "auto takes the first that fits"
        )
        self.memory.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.memory.native.setMinimumWidth(60)
        self.device.native.setAccessibleName("Device")
        self.memory.native.setAccessibleName("Memory mode")
        self.estimate = Wrapped()
        self.estimate.setAccessibleName("Expected memory")
        self.estimate.hide()
        self.first = SpinBox(min=0, max=0, value=0)
        self.last = SpinBox(min=0, max=0, value=0)
        self.first.tooltip = "First frame, as the slider counts"
        self.last.tooltip = "Last frame, included"
        self.steps = SpinBox(min=1, max=100, value=1)
        self.steps.tooltip = "Euler steps of the flow; the public recipe takes one"
        for spin in (self.first.native, self.last.native, self.steps.native):
            # Buttons would leave no room for the frame numbers of an hour at 300 px.
            spin.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            spin.setProperty("bare", True)
        self.first.native.setAccessibleName("First frame")
        self.last.native.setAccessibleName("Last frame")
        self.project = FileEdit(mode="d")
        self.project.tooltip = "Where masks, corrections and sentences are kept"
        self._prepare_project()
        # A range beyond a later, shorter video must not be kept silently.
        self.first.changed.connect(self._on_range)
        self.last.changed.connect(self._on_range)
        frames = row(self.first.native, QLabel("to"), self.last.native)
        frames.layout().setStretch(2, 1)
        pair = row(self.steps.native, QLabel("memory:"), self.memory.native, stretch=2)
        layout = form_layout()
        for text, field, buddy in (
            ("&model:", row(self.model, self.model_button), self.model),
            ("&device:", self.device.native, self.device.native),
            ("fr&ames:", frames, self.first.native),
            ("s&teps:", pair, self.steps.native),
            ("pro&ject:", self.project.native, self.project.line_edit.native),
        ):
            label = QLabel(text)
            label.setBuddy(buddy)
            layout.addRow(label, field)
            if field is pair:
                layout.addRow(self.estimate)
        self.setLayout(layout)
        for chooser in (self.device, self.memory):
            chooser.changed.connect(lambda _value: self.show_estimate(""))
        self.model.currentTextChanged.connect(lambda _text: self.show_estimate(""))

    def _build_model(self) -> None:
        self.model = QComboBox()
        self.model.setEditable(True)
        self.model.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.model.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.model.setMinimumWidth(60)
        self.model.setToolTip("tiny (bundled, moving shapes only), mevis (official), or a folder")
        self.model.setAccessibleName("Model")
        for name in dict.fromkeys([*MODELS, *self._memory.models]):
            self.model.addItem(name)
        self.model.setItemDelegate(ModelNames(self.model))
        self.model_button = choose_button("Choose a model folder", "Choose a model folder")
        self.model_button.clicked.connect(self._choose_model)

    def _choose_model(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Model folder")
        if folder:
            self.model.setEditText(folder)

    def _prepare_project(self) -> None:
        edit = self.project.line_edit.native
        edit.setPlaceholderText("beside the video")
        edit.setMinimumWidth(60)
        edit.setAccessibleName("Project folder")
        edit.setToolTip(
            "Where masks, corrections and sentences are kept; empty for the usual place"
        )
        button = self.project.choose_btn.native
        button.setText("\u2026")
        button.setAccessibleName("Choose a project folder")
        button.setToolTip("Choose a project folder, or the folder to make one in")
        # The width of the "Choose directory" that was there.
        self.project.choose_btn.max_width = 32
        self.project.choose_btn.min_width = 0

    def _on_range(self) -> None:
        if self.first.value > self.last.value:
            self.last.value = self.first.value
        self._chosen = (self.first.value, self.last.value) != (0, self._count - 1)

    def show_estimate(self, line: str) -> None:
        """Say what memory the loaded model needs; "" where nothing is known."""
        self.estimate.setText(line)
        self.estimate.setVisible(bool(line))

    def set_video(self, source: VideoSource | None) -> None:
        """Offer the frames of `source`; the whole of it when the range was not narrowed."""
        self._count = source.frame_count if source else 0
        key = None if source is None else source.path or id(source.array)
        if key != self._video:
            # A folder chosen for one video cannot be right for another.
            self._video = key
            self.project.line_edit.value = ""
        top = max(self._count - 1, 0)
        keep = self._chosen and self.last.value <= top
        with self.first.changed.blocked(), self.last.changed.blocked():
            for spin in (self.first, self.last):
                spin.max = top
            if not keep:
                self.first.value, self.last.value = 0, top
        self._chosen = keep
        hint = "beside the video" if source is None or source.path else "in your data folder"
        self.project.line_edit.native.setPlaceholderText(hint)

    def project_path(self, source: VideoSource | None) -> str | None:
        """Return the project folder that was chosen; None for the default one."""
        text = self.project.line_edit.value.strip()
        if not text or text == ".":
            return None
        path = Path(text).expanduser()
        if path.suffix != ".flowrvs" and path.is_dir() and source is not None:
            stem = Path(source.path).stem if source.path else source.name
            path = path / f"{stem}.flowrvs"
        return str(path)

    def fill(self, inputs: SegmentInputs) -> SegmentInputs:
        """Return `inputs` with the values of this form."""
        whole = not self._chosen
        return replace(
            inputs,
            model=self.model.currentText().strip(),
            device=str(self.device.value),
            memory=str(self.memory.value),
            start=0 if whole else int(self.first.value),
            stop=None if whole else int(self.last.value) + 1,
            steps=int(self.steps.value),
            project=self.project_path(inputs.video),
        )

    def remember(self) -> None:
        """Keep the model that was used for the next session."""
        name = self.model.currentText().strip()
        self._memory.add_model(name)
        if self.model.findText(name) < 0:
            self.model.addItem(name)
