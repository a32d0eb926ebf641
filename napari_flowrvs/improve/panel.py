"""Improve the model with my corrections: what is used, how it goes, what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from flowrvs.checkpoints import MODELS
from flowrvs.checkpoints.placed import placed_models
from flowrvs.errors import FlowRVSError
from flowrvs.progress import Progress
from flowrvs.training.background import TrainingState
from napari_flowrvs.improve.curve import TrainingCurve
from napari_flowrvs.improve.presenter import (
    ImproveInputs,
    ImprovePresenter,
    plan_text,
    result_text,
)
from napari_flowrvs.job import Failure, Runner
from napari_flowrvs.layers import KEY
from napari_flowrvs.widgets import style
from napari_flowrvs.widgets.folders import FolderList
from napari_flowrvs.widgets.parts import (
    Problem,
    ProgressLine,
    Wrapped,
    bare,
    form_layout,
    pass_letters,
    row,
    scrolled,
)
from napari_flowrvs.worker import run_in_thread

__all__ = ["ImprovePanel"]

_LOOK_MS = 1000
_NEW = "new training"
_AUTO = "automatic"


class ImprovePanel(QWidget):
    """Chooses projects or a dataset, and lets a model learn from them.

    The training is a process of its own: this widget, or napari, may be closed meanwhile.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Its projects are offered.
    runner : Runner, optional
        Where counting is waited for.
    """

    def __init__(self, napari_viewer: Viewer, *, runner: Runner = run_in_thread) -> None:
        super().__init__()
        self.viewer = napari_viewer = bare(napari_viewer)
        self.presenter = ImprovePresenter(runner)
        self._shown: tuple[Path, int] | None = None
        self._build()
        self.setStyleSheet(style.sheet(napari_viewer.theme))
        napari_viewer.events.theme.connect(self._on_theme)
        self._listening = True
        presenter = self.presenter
        presenter.counted.connect(self._on_counted)
        presenter.changed.connect(self._on_state)
        presenter.job.progressed.connect(self.progress.show_progress)
        presenter.job.failed.connect(self._on_failed)
        self.timer = QTimer(self)
        self.timer.setInterval(_LOOK_MS)
        self.timer.timeout.connect(presenter.look)
        self.timer.start()
        for layer in napari_viewer.layers:
            folder = layer.metadata.get(KEY, {}).get("project")
            if folder:
                self.add_data(folder)
        self._list_trainings()
        self._on_state(presenter.state)
        names = presenter.names()
        if names:
            # What runs, or was done last, is what somebody comes back for.
            presenter.choose(names[0])
            if presenter.state.active:
                self.trainings.setCurrentText(names[0])
            else:
                presenter.choose("")
                self.problem.clear()  # of that one, which nobody asked about

    def _build(self) -> None:
        self.trainings = QComboBox()
        self.trainings.setAccessibleName("Training")
        self.trainings.setToolTip("A new one, or one that was begun before")
        self.trainings.currentTextChanged.connect(self._on_training)
        self.data = FolderList("Projects and datasets", 84)
        self.add_project = QPushButton("Add pro&jects or a dataset…")
        self.add_project.setToolTip(
            "A project (.flowrvs), a folder of projects, or the folder of a dataset"
        )
        self.add_project.clicked.connect(self._choose_folder)
        self.model = QComboBox()
        self.model.setToolTip(
            "What learns; automatic takes the official model where there is a GPU.\n"
            "Its weights stay as they are: the result is a model beside it."
        )
        for combo in (self.model, self.trainings):
            combo.setMinimumWidth(60)
            combo.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
            combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(1, 10_000)
        self.minutes.setDecimals(0)
        self.minutes.setValue(20)
        self.minutes.setSuffix(" min")
        self.minutes.setToolTip("How long it may train")
        self.name = QLineEdit()
        self.name.setToolTip("Under this name the result is found in the list of models")
        self.fields = QWidget()
        choice, form = form_layout(), form_layout()
        self.fields.setLayout(form)
        for layout, text, field in (
            (choice, "trainin&g:", self.trainings),
            (form, "fro&m:", self.data),
            (form, "", self.add_project),
            (form, "m&odel:", self.model),
            (form, "t&ime:", self.minutes),
            (form, "&name:", self.name),
        ):
            label = QLabel(text)
            label.setBuddy(field)
            layout.addRow(label, field)
        self.count_button = QPushButton("&Count")
        self.count_button.setToolTip("See what would be used, how long it takes, and what memory")
        self.count_button.clicked.connect(self.count)
        self.train_button = QPushButton("&Train")
        self.train_button.setObjectName("run")
        self.train_button.clicked.connect(self._train_or_stop)
        self.plan = Wrapped()
        self.plan.setAccessibleName("What would be used")
        self.progress = ProgressLine()
        self.problem = Problem()
        self.curve = TrainingCurve()
        self.picture = QLabel()
        self.picture.setAccessibleName("Held-out frames: truth on the left, masks on the right")
        self.picture.setToolTip("Held-out frames: the truth on the left, the model on the right")
        self.picture.setAlignment(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
        self.picture.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.result = Wrapped()
        page = QWidget()
        box = QVBoxLayout(page)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addLayout(choice)
        for part in (
            *(self.fields, row(self.count_button, self.train_button, stretch=1), self.plan),
            *(self.progress, self.problem, self.result, self.curve, self.picture),
        ):
            box.addWidget(part)
        box.addStretch(1)
        outer = QVBoxLayout(self)
        outer.addWidget(scrolled(page))
        pass_letters(self)

    # -- what is used --------------------------------------------------------------------

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Projects or a dataset")
        if folder:
            self.add_data(folder)

    def add_data(self, folder: str) -> None:
        """Offer a folder, ticked; a second time does nothing."""
        self.data.add(folder)

    def inputs(self) -> ImproveInputs:
        """Return what the form holds."""
        model = self.model.currentText()
        return ImproveInputs(
            self.data.ticked,
            self.name.text().strip(),
            "auto" if model == _AUTO else model,
            float(self.minutes.value()),
        )

    def count(self) -> None:
        """Count what would be used."""
        self.plan.setText("")
        self._attempt(lambda: self.presenter.count(self.inputs()))

    def _on_counted(self, plan: dict[str, Any]) -> None:
        self.progress.say("")
        self.plan.setText(plan_text(plan))

    def _list_trainings(self) -> None:
        names = self.presenter.names()
        self.trainings.blockSignals(True)
        self.trainings.clear()
        self.trainings.addItems([_NEW, *names])
        self.trainings.setCurrentText(self.presenter.name or _NEW)
        self.trainings.blockSignals(False)
        chosen = self.model.currentText()
        self.model.clear()
        placed = [model.name for model in placed_models() if not model.adapter]
        known = [name for name, model in MODELS.items() if model.kind == "segmenter"]
        self.model.addItems([_AUTO, *known, *placed])
        self.model.setCurrentText(chosen or _AUTO)
        if not self.name.text():
            self.name.setText(self.presenter.free_name())

    # -- the training --------------------------------------------------------------------

    def _on_training(self, text: str) -> None:
        self.problem.clear()
        if text == _NEW:
            self.name.setText(self.presenter.free_name())
        self.presenter.choose("" if text == _NEW else text)
        self._on_state(self.presenter.state)

    def _train_or_stop(self) -> None:
        state = self.presenter.state
        if state.active:
            self.presenter.stop()
        elif state.resumable:
            self._attempt(self.presenter.go_on)
        else:
            self.train()

    def train(self, inputs: ImproveInputs | None = None) -> None:
        """Start to train with what the form holds, or with `inputs`."""
        if self._attempt(lambda: self.presenter.begin(inputs or self.inputs())):
            self._list_trainings()

    def _attempt(self, action: Any) -> bool:
        self.problem.clear()
        try:
            action()
        except FlowRVSError as error:
            self._on_failed(Failure.of(error))
            return False
        return True

    def _on_failed(self, failure: Failure) -> None:
        self.progress.say("")
        self.problem.show_failure(failure)

    def _on_state(self, state: TrainingState) -> None:
        new = state.phase == "new"
        self.fields.setVisible(new)
        self.count_button.setVisible(new)
        texts = {"preparing": "&Stop", "running": "&Stop", "new": "&Train"}
        again = "&Go on" if state.resumable else "&Train"
        self.train_button.setText(texts.get(state.phase, again))
        stopping = self.presenter.stopping
        self.train_button.setEnabled((new or state.active or state.resumable) and not stopping)
        self.train_button.setToolTip(
            "Stop at its next step; the best state so far is kept" if state.active else ""
        )
        self._show_progress(state, stopping)
        if state.plan is not None and "frames" in state.plan:
            self.plan.setText(plan_text(state.plan))
        elif not new:
            self.plan.setText("")
        if state.phase == "failed":
            self.problem.show_failure(Failure(state.message, ""))
        card = state.card if state.phase == "finished" else None
        self.result.setText("" if card is None else result_text(self.presenter.name, card))
        self.result.setVisible(card is not None)
        if card is not None:
            self._list_trainings()
        self.curve.show_state(state)
        self.curve.setVisible(bool(state.losses or state.scores))
        self._show_picture(state.picture)

    def _show_progress(self, state: TrainingState, stopping: bool) -> None:
        if state.phase == "preparing":
            self.progress.show_progress(Progress(0, 0, "Preparing; this window may be closed"))
        elif state.phase == "running":
            loss = f", loss {state.losses[-1][1]:.3g}" if state.losses else ""
            score = f", J&F {state.scores[-1][1]['J&F']:.3f}" if state.scores else ""
            said = "Stopping" if stopping else f"Step {state.step} of {state.total}{loss}{score}"
            self.progress.show_progress(
                Progress(state.step, state.total, said, remaining=state.remaining)
            )
        elif state.phase == "stopped":
            more = " Go on takes it up again." if state.resumable else ""
            self.progress.say(f"{state.message}{more}")
        elif not self.presenter.job.busy:
            self.progress.say("")

    def _show_picture(self, path: Path | None) -> None:
        try:
            stamp = None if path is None else (path, path.stat().st_mtime_ns)
        except OSError:
            stamp = None
        if stamp == self._shown:
            return
        self._shown = stamp
        self.picture.setVisible(path is not None)
        if path is not None:
            self.picture.setPixmap(QPixmap(str(path)))

    # -- closing -------------------------------------------------------------------------

    def _on_theme(self, event: Any = None) -> None:
        self.setStyleSheet(style.sheet(self.viewer.theme))

    def close_all(self) -> None:
        """Stop looking; what is trained goes on."""
        self.timer.stop()
        self.presenter.close()
        if self._listening:
            self._listening = False
            self.viewer.events.theme.disconnect(self._on_theme)

    def event(self, event: QEvent) -> bool:
        """Stop looking when the dock was closed: napari then takes its content out of it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.close_all()
        return bool(super().event(event))
