"""The page "Correct": spread, fill in, clean up, threshold, ask again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_flowrvs.correct.presenter import RULES, TOOLS, CorrectPresenter, Reprompt, Scope
from napari_flowrvs.trackers import CLASSICAL
from napari_flowrvs.widgets.keys import Commands, key_of, set_tip
from napari_flowrvs.widgets.parts import Wrapped, enable, narrow, row, rule, tool_button
from napari_flowrvs.widgets.trackers import TrackerBox

__all__ = ["CorrectPanel"]


_SLIDE = "Left: larger masks; right: only where the model is sure"
_NO_SCORES = "No model's confidence is kept for this object: it was drawn by hand"


def _button(text: str, name: str, commands: Commands) -> QPushButton:
    button = QPushButton(text)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    set_tip(button, name)
    button.clicked.connect(lambda: commands.run(name))
    return button


def _choices(options: Mapping[Any, str], name: str, tip: str) -> QComboBox:
    combo = narrow(QComboBox(), name, tip)
    for key, text in options.items():
        combo.addItem(text, key)
    return combo


def _scopes(name: str, chosen: Scope) -> QComboBox:
    tip = "Which frames; locked ones, and mostly your own, stay as they are"
    combo = _choices({scope.name: scope.value for scope in Scope}, name, tip)
    combo.setCurrentText(chosen.value)
    return combo


def _scope(combo: QComboBox) -> Scope:
    return Scope[combo.currentData()]


def _bare(spin: QSpinBox | QDoubleSpinBox, name: str, tip: str) -> None:
    spin.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
    spin.setProperty("bare", True)
    spin.setAccessibleName(name)
    spin.setToolTip(tip)


class CorrectPanel(QWidget):
    """Tools for the chosen object; all but the copy show a preview first.

    Parameters
    ----------
    presenter : CorrectPresenter
        What the tools do.
    commands : Commands
        Where its keys are heard.
    model : callable
        ``model()`` gives the name or folder of the model, the device and the memory mode,
        as chosen on the page Find.
    cluster : callable
        ``cluster()`` gives the address of the cluster that is chosen there; None for none.
    """

    def __init__(
        self,
        presenter: CorrectPresenter,
        commands: Commands,
        model: Callable[[], tuple[str, str, str]],
        cluster: Callable[[], str | None],
    ) -> None:
        super().__init__()
        self.presenter = presenter
        self.desk = presenter.desk
        self._model = model
        self._cluster = cluster
        self._commands = commands
        self.object_label = Wrapped()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 6, 0, 0)
        box.setSpacing(5)
        box.addWidget(self.object_label)
        box.addLayout(self._build_range(commands))
        box.addWidget(rule())
        box.addLayout(self._build_spread(commands))
        box.addWidget(rule())
        box.addLayout(self._build_clean(commands))
        box.addWidget(rule())
        box.addLayout(self._build_threshold())
        box.addWidget(rule())
        box.addLayout(self._build_reprompt())
        box.addStretch(1)
        scored = (self.threshold_button,)
        self._tools = [b for b in self.findChildren(QPushButton) if b not in scored]
        commands.add(
            spread=lambda: self.spread("both"),
            spread_forward=lambda: self.spread("forward"),
            spread_back=lambda: self.spread("back"),
            interpolate=presenter.interpolate,
            copy=presenter.copy_to_next,
            clean=self.clean,
        )
        self.desk.object_changed.connect(self._on_object)
        self.desk.catalog_changed.connect(self._on_object)
        self.desk.project_changed.connect(self.show_span)
        self.desk.span_changed.connect(self.show_span)
        presenter.job.phase_changed.connect(self._on_object)
        presenter.steps.busy_changed.connect(self._on_object)
        presenter.trackers.changed.connect(self._on_object)
        self._on_object()
        self.show_span()
        self.show_cluster()

    # -- building --------------------------------------------------------------------

    def _build_range(self, commands: Commands) -> QGridLayout:
        self.first, self.last = QSpinBox(), QSpinBox()
        here = "The tools work on these frames; the keys take the frame that is shown"
        _bare(self.first, "First frame of the range", f"{here} ({key_of('range_start')})")
        _bare(self.last, "Last frame of the range", f"{here} ({key_of('range_stop')})")
        self.first.editingFinished.connect(self._on_first)
        self.last.editingFinished.connect(self._on_last)
        self.all_button = tool_button("all", "", lambda: commands.run("range_all"))
        set_tip(self.all_button, "range_all")
        grid = QGridLayout()
        grid.setSpacing(4)
        for i, widget in enumerate(
            (QLabel("range:"), self.first, QLabel("to"), self.last, self.all_button)
        ):
            grid.addWidget(widget, 0, i)
        grid.setColumnStretch(1, 1)
        grid.setColumnStretch(3, 1)
        return grid

    def _build_spread(self, commands: Commands) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(4)
        self.tracker = TrackerBox(
            self.presenter.trackers,
            "By the video's motion, or by the memory of a tracker, through occlusion",
            {CLASSICAL: "by motion"},
        )
        self.together = QCheckBox("all that I drew, together")
        self.together.setToolTip("Not the chosen object alone, but every one that you drew")
        self.together.toggled.connect(lambda on: setattr(self.presenter, "together", on))
        self.away = QCheckBox("on the cluster")
        self.away.setToolTip("Spread there, not on this computer; its address is on the page Find")
        grid.addWidget(row(QLabel("spread what you drew"), self.tracker, stretch=1), 0, 0, 1, 6)
        grid.addWidget(self.together, 3, 0, 1, 6)
        grid.addWidget(self.away, 4, 0, 1, 6)
        grid.addWidget(_button("← back", "spread_back", commands), 1, 0, 1, 2)
        grid.addWidget(_button("both ways", "spread", commands), 1, 2, 1, 2)
        grid.addWidget(_button("on →", "spread_forward", commands), 1, 4, 1, 2)
        grid.addWidget(_button("fill in between", "interpolate", commands), 2, 0, 1, 3)
        grid.addWidget(_button("copy to next", "copy", commands), 2, 3, 1, 3)
        return grid

    def _build_clean(self, commands: Commands) -> QGridLayout:
        self.tool = _choices(TOOLS, "Clean-up tool", "What to clean; a preview comes first")
        self.clean_scope = _scopes("Frames to clean up", Scope.FRAME)
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(QLabel("clean up"), 0, 0, 1, 2)
        grid.addWidget(self.tool, 1, 0, 1, 2)
        grid.addWidget(row(QLabel("on"), self.clean_scope, stretch=1), 2, 0)
        grid.addWidget(_button("clean", "clean", commands), 2, 1)
        grid.setColumnStretch(0, 1)
        return grid

    def _build_threshold(self) -> QGridLayout:
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(-95, 95)
        self.slider.setAccessibleName("Threshold of the model's confidence")
        self.slider.valueChanged.connect(self._on_slider)
        self.threshold_scope = _scopes("Frames for the threshold", Scope.RANGE)
        self.threshold_button = QPushButton("apply")
        self.threshold_button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.threshold_button.setToolTip("Draw the model's frames again with this threshold")
        self.threshold_button.clicked.connect(self._apply_threshold)
        grid = QGridLayout()
        grid.setSpacing(4)
        self.threshold_label = QLabel("threshold 0.00")
        grid.addWidget(row(self.threshold_label, self.slider, stretch=1), 0, 0, 1, 2)
        grid.addWidget(row(QLabel("on"), self.threshold_scope, stretch=1), 1, 0)
        grid.addWidget(self.threshold_button, 1, 1)
        grid.setColumnStretch(0, 1)
        return grid

    def _build_reprompt(self) -> QGridLayout:
        self.sentence = QLineEdit()
        self.sentence.setPlaceholderText("another sentence for this object")
        self.sentence.setMinimumWidth(60)
        self.sentence.setAccessibleName("Sentence for this object")
        self.sentence.setToolTip("What to look for; the object keeps its sentences and its name")
        self.steps = QSpinBox()
        self.steps.setRange(1, 100)
        _bare(self.steps, "Steps", "Euler steps of the flow; the public recipe takes one")
        self.cut = QDoubleSpinBox()
        self.cut.setRange(-0.95, 0.95)
        self.cut.setSingleStep(0.05)
        _bare(self.cut, "Threshold", "Below 0: larger masks; above: only where it is sure")
        meeting = "How the answer meets the masks that are there"
        self.rule = _choices(RULES, meeting, meeting)
        self.ask_scope = _scopes("Frames to ask about", Scope.RANGE)
        self.ask_button = QPushButton("ask")
        self.ask_button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.ask_button.setToolTip("Run the model of the page Find for this object and range")
        self.ask_button.clicked.connect(self._ask)
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(QLabel("ask again"), 0, 0, 1, 2)
        grid.addWidget(self.sentence, 1, 0, 1, 2)
        grid.addWidget(row(QLabel("steps"), self.steps, QLabel("threshold"), self.cut), 2, 0, 1, 2)
        grid.addWidget(self.rule, 3, 0, 1, 2)
        grid.addWidget(row(QLabel("on"), self.ask_scope, stretch=1), 4, 0)
        grid.addWidget(self.ask_button, 4, 1)
        grid.setColumnStretch(0, 1)
        return grid

    # -- the desk ----------------------------------------------------------------------

    def _on_object(self, _value: object = None) -> None:
        thing = self.desk.object
        self.object_label.setText(self._about())
        free = not self.presenter.job.busy and not self.presenter.steps.busy
        enable(self._tools, thing is not None and free)
        self.together.setVisible(self.presenter.trackers.name != CLASSICAL)
        kept = thing is not None and free and self.presenter.has_confidence()
        enable((self.slider, self.threshold_button), kept)
        self.slider.setToolTip(_SLIDE if kept or thing is None else _NO_SCORES)
        if not self.sentence.isModified():
            self.sentence.setText(self.presenter.own_sentence())

    def show_cluster(self, _device: object = None) -> None:
        """Offer the cluster where the page Find has chosen it."""
        self.away.setVisible(self._cluster() is not None)

    def _about(self) -> str:
        thing = self.desk.object
        if thing is not None:
            return f"object {thing.id}: {thing.name}"
        if self.desk.project is None:
            return (
                "There is no object yet: Run or Draw by hand on the page Find, or open a project."
            )
        return "Choose an object on the page Objects."

    def show_span(self, _span: object = None) -> None:
        """Show the range as it is now, of the video that there is now."""
        start, stop = self.desk.span
        for spin, value in ((self.first, start), (self.last, max(stop - 1, 0))):
            blocked = spin.blockSignals(True)
            spin.setMaximum(max(self.desk.frame_count - 1, 0))
            spin.setValue(value)
            spin.blockSignals(blocked)

    def _on_first(self) -> None:
        self.desk.set_span(self.first.value(), None)

    def _on_last(self) -> None:
        self.desk.set_span(None, self.last.value() + 1)

    # -- tools -------------------------------------------------------------------------

    def spread(self, direction: str) -> None:
        """Spread where it was chosen to: here, or on the cluster."""
        self.presenter.spread(direction, self._cluster() if self.away.isChecked() else None)

    def clean(self) -> None:
        """Clean up as chosen."""
        self.presenter.clean(self.tool.currentData(), _scope(self.clean_scope))

    @property
    def threshold(self) -> float:
        """What the slider says, as a logit."""
        return self.slider.value() / 100

    def _on_slider(self, _value: int) -> None:
        self.threshold_label.setText(f"threshold {self.threshold:+.2f}")
        self._commands.attempt(lambda: self.presenter.try_threshold(self.threshold))

    def _apply_threshold(self) -> None:
        scope = _scope(self.threshold_scope)
        self._commands.attempt(lambda: self.presenter.apply_threshold(self.threshold, scope))

    def _ask(self) -> None:
        self._commands.attempt(self._reprompt)

    def _reprompt(self) -> None:
        model, device, memory = self._model()
        inputs = Reprompt(
            self.sentence.text(),
            model,
            device,
            self.steps.value(),
            self.cut.value(),
            self.rule.currentData(),
            _scope(self.ask_scope),
            memory,
        )
        self.presenter.reprompt(inputs)
