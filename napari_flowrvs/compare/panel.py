"""Compare two layers: J and F by frame, a click goes there."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.viewer import Viewer
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from flowrvs.errors import InputError
from napari_flowrvs.compare.curve import CurveView
from napari_flowrvs.compare.presenter import ComparePresenter, Curve, Side
from napari_flowrvs.job import Failure, Phase, Runner
from napari_flowrvs.widgets import style
from napari_flowrvs.widgets.parts import Problem, ProgressLine, Wrapped, bare, form_layout, row
from napari_flowrvs.worker import run_in_thread

__all__ = ["ComparePanel"]


class ComparePanel(QWidget):
    """Chooses two labels layers, scores one against the other and shows where they differ.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Its labels layers are offered.
    runner : Runner, optional
        Where the comparison runs.
    """

    def __init__(self, napari_viewer: Viewer, *, runner: Runner = run_in_thread) -> None:
        super().__init__()
        self._listening = False
        self.viewer = napari_viewer = bare(napari_viewer)
        self.presenter = ComparePresenter(runner)
        self._build()
        self.setStyleSheet(style.sheet(napari_viewer.theme))
        job = self.presenter.job
        job.phase_changed.connect(self._on_phase)
        job.progressed.connect(self.progress.show_progress)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_end)
        job.completed.connect(self._on_end)
        self.presenter.scored.connect(self._on_scored)
        events = napari_viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.connect(self._refresh)
        napari_viewer.events.theme.connect(self._on_theme)
        napari_viewer.dims.events.current_step.connect(self._on_step)
        self._listening = True
        self._refresh()
        self._on_step()

    def _build(self) -> None:
        self.first, self.second = QComboBox(), QComboBox()
        for box, name in ((self.first, "First layer"), (self.second, "Second layer")):
            box.setAccessibleName(name)
            box.setMinimumWidth(60)
            box.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.selected = QCheckBox("&selected labels only")
        self.selected.setToolTip(
            "Compare the label that is selected in each layer; without it, all labels count"
        )
        self.button = QPushButton("&Compare")
        self.button.setObjectName("run")
        self.button.clicked.connect(self._compare_or_cancel)
        self.before = QPushButton("< lo&wer")
        self.after = QPushButton("lowe&r >")
        self.worst = QPushButton("&lowest")
        self.before.setToolTip("The frame before this one whose J&F is below 0.5")
        self.after.setToolTip("The next frame whose J&F is below 0.5")
        self.worst.setToolTip("The frame with the lowest J&F")
        self.before.clicked.connect(lambda: self._go(-1))
        self.after.clicked.connect(lambda: self._go(1))
        self.worst.clicked.connect(self._go_worst)
        form = form_layout()
        for text, box in (("&first:", self.first), ("secon&d:", self.second)):
            label = QLabel(text)
            label.setBuddy(box)
            form.addRow(label, box)
        form.addRow("", self.selected)
        self.curve = CurveView()
        self.curve.frame_chosen.connect(self._show_frame)
        self.summary = Wrapped()
        self.progress = ProgressLine()
        self.problem = Problem()
        layout = QVBoxLayout(self)
        layout.setSpacing(6)
        layout.addLayout(form)
        layout.addWidget(self.button)
        layout.addWidget(self.progress)
        layout.addWidget(self.problem)
        layout.addWidget(self.curve, 1)
        layout.addWidget(row(self.before, self.worst, self.after))
        layout.addWidget(self.summary)
        self._enable_steps()

    def _refresh(self, event: Any = None) -> None:
        """Offer the labels layers that are there; keep what was chosen."""
        layers = [layer for layer in self.viewer.layers if isinstance(layer, Labels)]
        for place, box in enumerate((self.first, self.second)):
            chosen, could_choose = box.currentData(), box.count() > place
            box.blockSignals(True)
            box.clear()
            for layer in layers:
                box.addItem(str(layer.name), layer)
            if could_choose and chosen in layers:
                box.setCurrentIndex(layers.index(chosen))
            elif len(layers) > place:
                box.setCurrentIndex(place)
            box.blockSignals(False)
        if self.presenter.job.phase is Phase.IDLE:
            self.button.setEnabled(len(layers) > 1)

    def _side(self, box: QComboBox) -> Side:
        layer = box.currentData()
        value = int(layer.selected_label) if self.selected.isChecked() else None
        return Side(str(layer.name), layer.data, value)

    def _compare_or_cancel(self) -> None:
        if self.presenter.job.busy:
            self.presenter.job.cancel()
            return
        self.compare()

    def compare(self) -> None:
        """Compare the chosen layers."""
        self.problem.clear()
        self.summary.setText("")
        try:
            if (
                not self.first.currentText()
                or self.first.currentText() == self.second.currentText()
            ):
                raise InputError("Choose two different labels layers.")
            self.presenter.run(self._side(self.first), self._side(self.second))
        except InputError as error:
            self._on_failed(Failure.of(error))

    def _on_phase(self, phase: Phase) -> None:
        idle = phase is Phase.IDLE
        self.button.setText("&Compare" if idle else "&Cancel")
        self.button.setEnabled(phase is not Phase.STOPPING)

    def _on_scored(self, curve: Curve) -> None:
        self.curve.show_curve(curve)
        self._enable_steps()

    def _on_end(self) -> None:
        self.progress.say("")
        curve = self.presenter.curve
        self.summary.setText("" if curve is None else curve.text())

    def _on_failed(self, failure: Failure) -> None:
        self.progress.say("")
        self.problem.show_failure(failure)

    def _enable_steps(self) -> None:
        known = self.curve.curve is not None and self.curve.curve.done > 0
        for button in (self.before, self.worst, self.after):
            button.setEnabled(known)

    def _go(self, step: int) -> None:
        curve = self.curve.curve
        target = None if curve is None else curve.next_worse(self.curve.frame, step=step)
        if target is None:
            self.progress.say("There is no such frame on this side.")
            return
        self.progress.say("")
        self._show_frame(target)

    def _go_worst(self) -> None:
        target = None if self.curve.curve is None else self.curve.curve.worst()
        if target is not None:
            self._show_frame(target)

    def _show_frame(self, frame: int) -> None:
        if self.viewer.dims.ndim > 2:
            self.viewer.dims.set_current_step(0, frame)
        self.curve.set_frame(frame)

    def _on_step(self, event: Any = None) -> None:
        if self.viewer.dims.ndim > 2:
            self.curve.set_frame(int(np.asarray(self.viewer.dims.current_step)[0]))

    def _on_theme(self, event: Any = None) -> None:
        self.setStyleSheet(style.sheet(self.viewer.theme))

    def close_all(self) -> None:
        """Stop what runs and let go of the viewer."""
        self.presenter.close()
        if not self._listening:
            return
        self._listening = False
        events = self.viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered, events.renamed):
            event.disconnect(self._refresh)
        self.viewer.events.theme.disconnect(self._on_theme)
        self.viewer.dims.events.current_step.disconnect(self._on_step)

    def event(self, event: QEvent) -> bool:
        """Stop when the dock was closed: napari then takes its content out of it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.close_all()
        return bool(super().event(event))
