"""The page "Find": sentences, options, Run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, SpinBox
from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPlainTextEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from flowrvs.errors import InputError
from napari_flowrvs.find.offers import LayerOffers
from napari_flowrvs.find.presenter import (
    CLUSTER,
    DEVICES,
    EVERY,
    LOOKS,
    MEMORY,
    PREVIEW,
    SegmentInputs,
    SegmentPresenter,
)
from napari_flowrvs.job import Phase
from napari_flowrvs.models.panel import ModelBox, ModelPanel
from napari_flowrvs.models.presenter import ModelPresenter
from napari_flowrvs.recent import Recent
from napari_flowrvs.source import VideoSource
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands
from napari_flowrvs.widgets.parts import (
    ProgressLine,
    Wrapped,
    form_layout,
    narrow,
    row,
    rule,
    tool_button,
)

__all__ = ["FindPanel", "OptionsPanel", "SentencesPanel"]

_SHOWN = 20
_BUSY = "A run is going on: wait for it, or cancel it."


class SentencesPanel(QWidget):
    """An edit with one sentence a line and a menu of recent ones.

    Tab leaves the edit, Ctrl+Return runs, Ctrl+Up and Ctrl+Down go through the history.

    Parameters
    ----------
    recent : Recent
        Where sentences are remembered.
    """

    run_requested = Signal()
    #: Somebody is about to type, for the first time.
    begun = Signal()

    def __init__(self, recent: Recent) -> None:
        super().__init__()
        self._recent = recent
        self._suggested: tuple[str, ...] = ()
        self._given: tuple[str, ...] = ()
        self._begun = False
        self._position = -1
        label = QLabel("se&ntences, one a line:")
        # Made as children in the order in which Tab visits them.
        self.edit = QPlainTextEdit(self)
        self.edit.setPlaceholderText("the red circle moving left")
        self.edit.setTabChangesFocus(True)
        self.edit.setFixedHeight(self.edit.fontMetrics().lineSpacing() * 4 + 14)
        self.edit.setMinimumWidth(40)
        self.edit.setAccessibleName("Sentences, one a line")
        self.edit.setToolTip(
            "What to find; every line becomes a layer of its own.\n"
            "Ctrl+Return runs, Ctrl+Up and Ctrl+Down bring back earlier sentences."
        )
        self.edit.installEventFilter(self)
        label.setBuddy(self.edit)
        self.history = QToolButton(self)
        self.history.setText("histor&y")
        self.history.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.history.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.history.setToolTip("Sentences used before, and those that come with a sample")
        self._menu = QMenu(self)
        self._menu.aboutToShow.connect(self._fill_menu)
        self.history.setMenu(self._menu)
        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 0, 0)
        head.addWidget(label, 1)
        head.addWidget(self.history)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.edit)

    @property
    def texts(self) -> tuple[str, ...]:
        """The lines as they stand, blank ones included."""
        return tuple(self.edit.toPlainText().splitlines())

    def set_texts(self, texts: tuple[str, ...]) -> None:
        """Replace all lines."""
        self.edit.setPlainText("\n".join(texts))

    def offer(self, texts: tuple[str, ...]) -> None:
        """Show the sentences of a project, unless others were typed."""
        if not any(self.texts) or self.texts == self._given:
            self._given = texts
            self.set_texts(texts)

    def suggest(self, texts: tuple[str, ...]) -> None:
        """Offer `texts` (of a sample clip) at the top of the history."""
        self._suggested = texts

    def remember(self, texts: tuple[str, ...]) -> None:
        """Add `texts` to the history."""
        self._recent.add_sentences(texts)
        self._position = -1

    def _offered(self) -> list[str]:
        return list(dict.fromkeys([*self._suggested, *self._recent.sentences]))

    def _fill_menu(self) -> None:
        self._menu.clear()
        offered = self._offered()[:_SHOWN]
        for text in offered:
            shown = text if len(text) <= 60 else f"{text[:59]}\u2026"
            action = self._menu.addAction(shown.replace("&", "&&"))
            action.triggered.connect(lambda _=False, t=text: self.insert(t))
        if not offered:
            self._menu.addAction("no sentences yet").setEnabled(False)
        elif self._recent.sentences:
            self._menu.addSeparator()
            self._menu.addAction("forget all").triggered.connect(self._recent.forget_sentences)

    def insert(self, text: str) -> None:
        """Put `text` on a line of its own, after what is there."""
        lines = [line for line in self.texts if line.strip()]
        if text not in lines:
            self.set_texts((*lines, text))
        self.edit.setFocus()
        cursor = self.edit.textCursor()
        cursor.movePosition(cursor.MoveOperation.End)
        self.edit.setTextCursor(cursor)

    def _recall(self, step: int) -> None:
        offered = self._offered()
        if not offered:
            return
        self._position = min(max(self._position + step, -1), len(offered) - 1)
        cursor = self.edit.textCursor()
        cursor.setPosition(cursor.block().position())
        cursor.movePosition(cursor.MoveOperation.EndOfBlock, cursor.MoveMode.KeepAnchor)
        cursor.insertText("" if self._position < 0 else offered[self._position])

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Take the edit's shortcuts before the edit does."""
        if event.type() == QEvent.Type.FocusIn and not self._begun:
            self._begun = True
            self.begun.emit()
        if watched is self.edit and isinstance(event, QKeyEvent):
            if event.type() not in (QEvent.Type.KeyPress, QEvent.Type.ShortcutOverride):
                return False
            control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            key = event.key()
            ours = control and key in (
                Qt.Key.Key_Return,
                Qt.Key.Key_Enter,
                Qt.Key.Key_Up,
                Qt.Key.Key_Down,
            )
            if not ours:
                return False
            if event.type() == QEvent.Type.ShortcutOverride:
                event.accept()
            elif key == Qt.Key.Key_Up:
                self._recall(1)
            elif key == Qt.Key.Key_Down:
                self._recall(-1)
            else:
                self.run_requested.emit()
            return True
        return super().eventFilter(watched, event)


def choose_button(name: str, tip: str, take: Callable[[str], object]) -> QToolButton:
    """Return the small button beside a path: ``take(folder)`` gets what is chosen."""
    button = tool_button("\u2026", tip, lambda: choose())
    button.setAccessibleName(name)
    button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def choose() -> None:
        folder = QFileDialog.getExistingDirectory(button, name)
        if folder:
            take(folder)

    return button


class OptionsPanel(QWidget):
    """The form below the sentences; its values go into a `SegmentInputs`.

    Parameters
    ----------
    recent : Recent
        Model folders that were used before.
    """

    def __init__(self, recent: Recent) -> None:
        super().__init__()
        self._recent = recent
        self._count = 0
        self._chosen = False
        self._video: str | int | None = None
        self.model = ModelBox(recent.models)
        name = "Choose a model folder"
        self.model_button = choose_button(name, name, self.model.setEditText)
        tip = (
            "Where the model runs: auto takes a GPU of this computer when there is one;\n"
            "a cluster is a dask scheduler and its workers"
        )
        self.device = ComboBox(choices=(*DEVICES, CLUSTER), value="auto", tooltip=tip)
        tip = "Where the scheduler of the cluster listens, as it says itself"
        self.scheduler = narrow(QLineEdit(), "Address of the cluster's scheduler", tip)
        self.scheduler.setPlaceholderText("tls://HOST:PORT")
        self.scheduler.hide()
        self.device.changed.connect(lambda value: self.scheduler.setVisible(value == CLUSTER))
        self.memory = ComboBox(choices=MEMORY, value="auto")
        narrow(
            self.memory.native,
            "Memory mode",
            "What stays on the GPU: full is the quickest, low the smallest;\n"
            "auto takes the first that fits",
        )
        self.device.native.setAccessibleName("Device")
        self.estimate = Wrapped()
        self.estimate.setAccessibleName("Expected memory")
        self.estimate.hide()
        self.first = SpinBox(max=0, tooltip="First frame, as the slider counts")
        self.last = SpinBox(max=0, tooltip="Last frame, included")
        self._build_look()
        tip = "Euler steps of the flow; the public recipe takes one"
        self.steps = SpinBox(min=1, max=100, value=1, tooltip=tip)
        spins = (self.first, self.last, self.steps, self.every)
        for spin in (spin.native for spin in spins):
            # Buttons would leave no room for the frame numbers of an hour at 300 px.
            spin.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            spin.setProperty("bare", True)
        self.first.native.setAccessibleName("First frame")
        self.last.native.setAccessibleName("Last frame")
        tip = "Where masks, corrections and sentences are kept; empty for the usual place"
        self.project = narrow(QLineEdit(), "Project folder", tip)
        self.project.setPlaceholderText("beside the video")
        tip = "Choose a project folder, or the folder to make one in"
        self.project_button = choose_button("Choose a project folder", tip, self.project.setText)
        # A range beyond a later, shorter video must not be kept silently.
        self.first.changed.connect(self._on_range)
        self.last.changed.connect(self._on_range)
        frames = row(self.first.native, QLabel("to"), self.last.native)
        frames.layout().setStretch(2, 1)
        self.memory.native.setMinimumWidth(78)  # "auto", beside the arrow
        pair = row(self.steps.native, QLabel("memory:"), self.memory.native, stretch=2)
        layout = form_layout()
        for text, field, buddy in (
            ("&model:", row(self.model, self.model_button), self.model),
            ("&device:", self.device.native, self.device.native),
            ("fr&ames:", frames, self.first.native),
            (
                "look at:",
                row(self.look.native, self.every_label, self.every.native),
                self.look.native,
            ),
            ("", self.cuts.native, self.cuts.native),
            ("s&teps:", pair, self.steps.native),
            ("pro&ject:", row(self.project, self.project_button), self.project),
        ):
            label = QLabel(text)
            label.setBuddy(buddy)
            layout.addRow(label, field)
            if field is self.device.native:
                layout.addRow(self.scheduler)
            if field is pair:
                layout.addRow(self.estimate)
        self.setLayout(layout)
        for chooser in (self.device, self.memory):
            chooser.changed.connect(lambda _value: self.show_estimate(""))
        self.model.currentTextChanged.connect(lambda _text: self.show_estimate(""))

    def _build_look(self) -> None:
        self.look = ComboBox(choices=LOOKS, value=LOOKS[0])
        narrow(
            self.look.native,
            "Which frames to look at",
            "Some frames: the model sees every n-th frame alone, n times as quick.\n"
            "Some, then all: a preview of the whole range first. Around this frame: one window.",
        )
        tip = "MeViS and Ref-YouTube-VOS label every fifth frame"
        self.every = SpinBox(min=2, max=1000, value=5, tooltip=tip)
        self.every.native.setAccessibleName("Every how many frames")
        self.every_label = QLabel("every")
        self.look.changed.connect(self._on_look)
        self._on_look(LOOKS[0])
        tip = (
            "Cuts are looked for once, at the first run, and kept in the project.\n"
            "A model that sees two shots as one moves masks from one into the other."
        )
        self.cuts = CheckBox(value=True, text="windows stop at cuts", tooltip=tip)

    def _on_look(self, look: str) -> None:
        for part in (self.every_label, self.every.native):
            part.setVisible(look in (EVERY, PREVIEW))

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
            self.project.clear()
        top = max(self._count - 1, 0)
        keep = self._chosen and self.last.value <= top
        with self.first.changed.blocked(), self.last.changed.blocked():
            for spin in (self.first, self.last):
                spin.max = top
            if not keep:
                self.first.value, self.last.value = 0, top
        self._chosen = keep
        hint = "beside the video" if source is None or source.path else "in your data folder"
        self.project.setPlaceholderText(hint)

    def project_path(self, source: VideoSource | None) -> str | None:
        """Return the project folder that was chosen; None for the default one."""
        text = self.project.text().strip()
        if not text:
            return None
        path = Path(text).expanduser()
        if path.suffix != ".flowrvs" and path.is_dir() and source is not None:
            stem = Path(source.path).stem if source.path else source.name
            path = path / f"{stem}.flowrvs"
        return str(path)

    def place(self) -> str:
        """Return the device, or the address of the cluster, "" where it is still missing."""
        address = self.cluster()
        return str(self.device.value) if address is None else address

    def cluster(self) -> str | None:
        """Return the address of the cluster that is to compute; None where this computer is."""
        return self.scheduler.text().strip() if self.device.value == CLUSTER else None

    def inputs(self, source: VideoSource | None, texts: tuple[str, ...]) -> SegmentInputs:
        """Return what a run of these sentences over `source` would take."""
        whole = not self._chosen
        return SegmentInputs(
            source,
            texts,
            model=self.model.currentText().strip(),
            device=self.place(),
            memory=str(self.memory.value),
            start=0 if whole else int(self.first.value),
            stop=None if whole else int(self.last.value) + 1,
            steps=int(self.steps.value),
            look=str(self.look.value),
            every=int(self.every.value),
            cuts=bool(self.cuts.value),
            project=self.project_path(source),
        )

    def remember(self) -> None:
        """Keep the model that was used for the next session."""
        name = self.model.currentText().strip()
        self._recent.add_model(name)
        if self.model.findText(name) < 0:
            self.model.addItem(name)


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


class FindPanel(QWidget):
    """What a run needs, the buttons that start and stop it, and what comes after it.

    Parameters
    ----------
    presenter : SegmentPresenter
        Runs.
    models : ModelPresenter
        Fetches models.
    recent : Recent
        Sentences and models of earlier sessions.
    commands : Commands
        Shows what cannot be done.
    progress : ProgressLine
        Says how it goes.
    link : ViewerLink
        The viewer.
    """

    #: Whether the video may be changed: not while a run is going on.
    idle_changed = Signal(bool)

    def __init__(
        self,
        presenter: SegmentPresenter,
        models: ModelPresenter,
        recent: Recent,
        commands: Commands,
        progress: ProgressLine,
        link: ViewerLink,
    ) -> None:
        super().__init__()
        self.presenter = presenter
        self._link = link
        self.source: VideoSource | None = None
        #: Raises when something else is going on that a model's run would disturb.
        self.check_free: Callable[[], object] = lambda: None
        self._commands = commands
        self._progress = progress
        self._build(recent, models)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(presenter.job.cancel)
        self.draw_button.clicked.connect(self.draw)
        self.sentences.run_requested.connect(self.run)
        presenter.job.phase_changed.connect(self._on_phase)
        presenter.job.progressed.connect(self._on_progress)
        presenter.job.cancelled.connect(self._on_cancelled)
        presenter.finished.connect(progress.say)
        presenter.estimated.connect(self._on_loaded)
        self._on_phase(Phase.IDLE)

    def _build(self, recent: Recent, models: ModelPresenter) -> None:
        self.sentences = SentencesPanel(recent)
        self.options = OptionsPanel(recent)
        self.models = ModelPanel(models)
        self.options.model.currentTextChanged.connect(self.models.choose)
        self.run_button = _button("&Run", "Find what the sentences say (Ctrl+Return)")
        self.run_button.setObjectName("run")
        # No letter of its own: Alt+C is napari's, and Esc does it.
        self.cancel_button = _button("Cancel", "Stop; finished frames are kept (Esc)")
        self.draw_button = _button(
            "Draw &by hand",
            "Without any model: an object for each sentence, or one without a sentence,\n"
            "and the brush. Draw it on a few frames; the page Correct does those between.",
        )
        self.offers = LayerOffers(self._link, self._progress)
        self.offers.take_asked.connect(self.take_over)
        tip = "Write masks and sentences as MeViS, COCO, DAVIS or another format"
        self.export_button = _button("E&xport a dataset…", tip)
        tip = "J and F of every frame of two label layers"
        self.compare_button = _button("Compare two layers…", tip)
        tip = "Let a model learn from what was corrected"
        self.improve_button = _button("Improve the model…", tip)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 6, 0, 0)
        box.setSpacing(8)
        for part in (
            *(self.sentences, self.options, self.models),
            row(self.run_button, self.cancel_button, stretch=0),
            *(self.draw_button, self.offers, rule(), self.export_button, self.compare_button),
            self.improve_button,
        ):
            box.addWidget(part)
        box.addStretch(1)

    def set_video(self, source: VideoSource | None, sentences: tuple[str, ...] = ()) -> None:
        """Take the video that is looked at, and the sentences that come with it."""
        self.source = source
        self.options.set_video(source)
        self.sentences.suggest(sentences)

    def take_over(self) -> None:
        """Copy the labels that are offered into the project of the video."""
        stray = self.offers.stray()
        if stray is not None:
            self._start(lambda inputs: self.presenter.take_over(inputs, stray), self.inputs())

    def inputs(self) -> SegmentInputs:
        """Return what the form holds."""
        inputs = self.options.inputs(self.source, self.sentences.texts)
        inputs = replace(inputs, frame=self._link.desk.frame)
        if inputs.project is None and inputs.video is not None:
            # A project that was opened from elsewhere goes on being used.
            project = self._link.project_of(self._link.video)
            inputs = replace(inputs, project=None if project is None else str(project.path))
        return inputs

    def offer_models(self, faults: dict[str, str]) -> None:
        """Show models of other packages; why one cannot be used is its tip."""
        box = self.options.model
        box.offer(faults)
        for name, fault in faults.items():
            box.setItemData(box.findText(name), fault or None, Qt.ItemDataRole.ToolTipRole)

    def model(self) -> tuple[str, str, str]:
        """Return model, device and memory mode, when they are free."""
        if self.presenter.job.busy:
            raise InputError(_BUSY)
        inputs = self.inputs()
        return inputs.model, inputs.device, inputs.memory

    def run(self) -> None:
        """Start a run with what the form holds; nothing happens while one is running."""
        inputs = self.inputs()
        begun = self._start(self._run, inputs)
        if not begun and not inputs.sentences and inputs.video is not None:
            self.sentences.edit.setFocus()

    def _run(self, inputs: SegmentInputs) -> None:
        self.check_free()
        self.presenter.run(inputs)

    def draw(self) -> None:
        """Make objects to draw by hand, without a model."""
        self._start(self.presenter.begin_by_hand, self.inputs())

    def begin_drawing(self) -> None:
        """Do as `draw`, and raise where that cannot be."""
        if self.presenter.job.busy:
            raise InputError(_BUSY)
        self._begin(self.presenter.begin_by_hand, self.inputs())

    def _start(self, begin: Callable[[SegmentInputs], object], inputs: SegmentInputs) -> bool:
        if self.presenter.job.busy:
            return True
        return self._commands.attempt(lambda: self._begin(begin, inputs))

    def _begin(self, begin: Callable[[SegmentInputs], object], inputs: SegmentInputs) -> None:
        begin(inputs)
        self.sentences.remember(inputs.sentences)

    def _on_phase(self, phase: Phase) -> None:
        idle = phase is Phase.IDLE
        held = self.cancel_button.hasFocus() or self.run_button.hasFocus()
        # It stays enabled while stopping: disabled, it would hand the keyboard to Export.
        self.cancel_button.setEnabled(not idle)
        for part in (self.run_button, self.draw_button, self.offers, self.options):
            part.setEnabled(idle)
        self.sentences.history.setEnabled(idle)
        self.sentences.edit.setReadOnly(not idle)
        if held:
            # A disabled button drops the focus; the keyboard should stay where it was.
            (self.run_button if idle else self.cancel_button).setFocus()
        if phase is Phase.STOPPING:
            self._progress.status.setText("Stopping at the end of this step")
        self.idle_changed.emit(idle)

    def _on_progress(self, event: Any) -> None:
        if self.presenter.job.phase is not Phase.STOPPING:
            self._progress.show_progress(event)

    def _on_cancelled(self) -> None:
        self._progress.say(
            "Stopped: everything is as it was."
            if self.presenter.by_hand
            else "Stopped. Finished frames are kept; Run goes on where it stopped."
        )

    def _on_loaded(self, memory: str) -> None:
        self.options.remember()
        self.options.show_estimate(memory)

    def close_all(self) -> None:
        """Say that a run was stopped."""
        if self.presenter.job.busy:
            self.presenter.job.close()
            self._on_phase(Phase.IDLE)
            self._on_cancelled()
