"""The forms beside the dock, without a window: what they hold, ask for and say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QWidget

from flowrvs.data import MevisWriter
from flowrvs.data.export import ExportResult
from flowrvs.data.faults import Finding
from flowrvs.data.preview import Preview, PreviewRow
from flowrvs.errors import InputError
from flowrvs.progress import Progress
from flowrvs.training.background import BackgroundTraining, TrainingState
from napari_flowrvs.compare.panel import ComparePanel
from napari_flowrvs.compare.presenter import ComparePresenter, Curve, Side
from napari_flowrvs.export import presenter as export_presenter
from napari_flowrvs.export.panel import ExportDialog
from napari_flowrvs.export.presenter import Checked, ExportInputs, ExportPresenter
from napari_flowrvs.importing.panel import ImportDialog
from napari_flowrvs.improve.panel import ImprovePanel
from napari_flowrvs.improve.presenter import ImproveInputs
from napari_flowrvs.job import Failure, run_here
from napari_flowrvs.widgets import style
from tests.unit.napari_flowrvs.conftest import held, make_clip


def close_as_a_dock(panel: QWidget, qtbot: Any) -> None:
    """Do as napari does when a dock is closed."""
    holder = QWidget()
    qtbot.addWidget(holder)
    panel.setParent(holder)
    assert panel._listening, "it is put into its dock"
    panel.setParent(None)


# -- comparing ------------------------------------------------------------------------------------


@pytest.fixture
def layers() -> tuple[Any, Any]:
    """Labels of 20 frames; the second drifts away and loses the object on frame 15."""
    first = np.zeros((20, 40, 60), np.uint16)
    first[:, 10:30, 10:30] = 3
    first[:, 32:36, 40:50] = 4
    other = np.stack([np.roll(frame, t // 6, axis=1) for t, frame in enumerate(first)])
    other[15] = 0
    return first, other


def test_two_layers_are_compared(qtbot: Any, layers: tuple[Any, Any]) -> None:
    viewer = ViewerModel()
    panel = ComparePanel(viewer, runner=run_here)
    qtbot.addWidget(panel)

    def chosen() -> tuple[str, str]:
        return panel.first.currentText(), panel.second.currentText()

    def steps() -> list[bool]:
        return [b.isEnabled() for b in (panel.before, panel.worst, panel.after)]

    assert chosen() == ("", "") and not panel.button.isEnabled()
    viewer.add_labels(layers[0], name="a")
    assert chosen() == ("a", "a") and not panel.button.isEnabled()
    panel.compare()
    assert panel.problem.line.text() == "Choose two different labels layers."
    viewer.add_labels(layers[1], name="b")
    viewer.add_image(layers[0], name="clip")
    assert chosen() == ("a", "b") and panel.button.isEnabled() and steps() == [False] * 3
    viewer.add_labels(layers[0][:3], name="short")
    panel.first.setCurrentText("short")
    viewer.layers.move(0, 4)
    names = [panel.second.itemText(i) for i in range(panel.second.count())]
    assert names == ["b", "short", "a"] and chosen() == ("short", "b"), "a choice is kept"
    panel.button.click()
    assert panel.problem.line.text() == (
        "short (3, 40, 60) and b (20, 40, 60) cannot be compared: choose two labels layers of the "
        "same frames, height and width."
    )
    del viewer.layers["short"]
    assert chosen() == ("b", "b") and panel.first.count() == 2
    panel.first.setCurrentText("a")
    told: list[Progress] = []
    panel.presenter.job.progressed.connect(told.append)
    panel.button.click()
    assert panel.problem.isHidden() and steps() == [True] * 3
    assert [(e.message, e.done, e.total) for e in told] == [
        (f"Comparing frame {t}", t + 1, 20) for t in range(20)
    ]
    curve = panel.presenter.curve
    assert curve is not None and curve.names == ("a", "b") and panel.curve.curve is curve
    assert panel.summary.text() == curve.text() and panel.progress.bar.isHidden()
    assert panel.progress.status.text() == ""
    # Through the frames that are worse than half.
    viewer.dims.set_current_step(0, 3)
    assert panel.curve.frame == 3
    panel.after.click()
    assert viewer.dims.current_step[0] == panel.curve.frame == 15
    panel.after.click()
    assert panel.progress.status.text() == "There is no such frame on this side."
    viewer.dims.set_current_step(0, 18)
    panel.before.click()
    assert viewer.dims.current_step[0] == 15 and panel.progress.status.text() == ""
    viewer.dims.set_current_step(0, 0)
    panel.worst.click()
    assert viewer.dims.current_step[0] == 15
    panel.curve.frame_chosen.emit(7)
    assert viewer.dims.current_step[0] == 7
    # A layer that has another name by now.
    viewer.layers["a"].name = "c"
    assert chosen() == ("c", "b") and panel.first.count() == 2
    viewer.layers["c"].name = "a"
    # One label of each.
    panel.selected.setChecked(True)
    viewer.layers["a"].selected_label, viewer.layers["b"].selected_label = 3, 4
    panel.compare()
    assert panel.presenter.curve.mean_j == 0
    viewer.layers["b"].selected_label = 3
    panel.compare()
    assert panel.presenter.curve.j[0] == 1 and panel.presenter.curve.j[14] < 1
    panel.first.setCurrentText("b")
    panel.compare()
    assert panel.summary.text() == "" and not panel.problem.isHidden()
    panel.close_all()


def test_a_comparison_is_stopped_and_its_page_closed(qtbot: Any, layers: tuple[Any, Any]) -> None:
    viewer = ViewerModel()
    viewer.dims.set_range(0, (0, 19, 1))
    for name, data in zip("ab", layers, strict=True):
        viewer.add_labels(data, name=name)
    viewer.dims.set_current_step(0, 4)
    panel = ComparePanel(viewer, runner=held)
    qtbot.addWidget(panel)
    assert panel.curve.frame == 4, "the frame that is shown already"
    panel.compare()
    assert panel.button.text() == "&Cancel" and panel.button.isEnabled()
    del viewer.layers["b"]
    assert panel.button.isEnabled(), "it stops what runs"
    panel.button.click()
    assert panel.button.text() == "&Cancel" and not panel.button.isEnabled()
    viewer.add_labels(layers[1], name="c")
    assert not panel.button.isEnabled()
    panel.progress.say("Comparing")
    panel.presenter.job._end(InputError("No."))
    assert panel.button.text() == "&Compare" and panel.button.isEnabled()
    assert panel.problem.line.text() == "No." and panel.progress.status.text() == ""
    viewer.theme = "light"
    assert panel.styleSheet() == style.sheet("light")
    close_as_a_dock(panel, qtbot)
    viewer.theme = "dark"
    viewer.add_labels(layers[1], name="d")
    viewer.dims.set_current_step(0, 9)
    assert panel.styleSheet() == style.sheet("light") and panel.first.count() == 2
    assert panel.curve.frame == 4
    panel.close_all()


def test_what_is_said_of_a_comparison() -> None:
    nothing = Curve(("a", "b"), np.full(3, np.nan), np.full(3, np.nan))
    assert nothing.text() == "No frame is scored yet." and nothing.done == 0
    assert np.isnan(nothing.mean_j) and np.isnan(nothing.mean_f)
    some = Curve(("a", "b"), np.array([0.5, np.nan, 0.25]), np.array([0.75, np.nan, 0.25]))
    assert len(some) == 3 and some.text() == (
        "J 0.375, F 0.500, J&F 0.438 over 2 frames; lowest on frame 2 (J 0.250, F 0.250)."
    )
    read: list[int] = []

    class Frames:
        shape = (20, 4, 5)

        def __len__(self) -> int:
            return 20

        def __getitem__(self, t: int) -> Any:
            read.append(t)
            return np.zeros((4, 5), np.uint8)

    presenter, ended = ComparePresenter(), list[str]()
    presenter.job.cancelled.connect(lambda: ended.append("cancelled"))
    presenter.scored.connect(lambda _curve: presenter.job._token.cancel())
    presenter.run(Side("a", Frames()), Side("b", np.zeros((20, 4, 5), np.uint8)))
    assert ended == ["cancelled"] and read == list(range(8)), "stopped at the next frame"
    with pytest.raises(InputError, match=r"a \(4, 5\) and b \(4, 5\) cannot be compared"):
        presenter.run(Side("a", np.zeros((4, 5))), Side("b", np.zeros((4, 5))))


# -- datasets -------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Two videos of two objects."""
    clip = make_clip(6)
    folder = tmp_path / "set" / "valid_u"
    with MevisWriter(folder) as writer:
        for name in ("Boats", "bike race"):
            writer.add_video(
                name,
                clip,
                objects={1: clip[..., 0] > 150, 2: clip[..., 1] > 150},
                expressions={"0": ("red", [1])} | ({"1": ("x", [2])} if name == "Boats" else {}),
            )
    return folder


def test_a_video_of_a_dataset_is_chosen_and_opened(qtbot: Any, split: Path) -> None:
    viewer = ViewerModel()
    form = ImportDialog(viewer, runner=run_here)
    qtbot.addWidget(form)
    told: list[str] = []
    form.presenter.job.progressed.connect(lambda event: told.append(event.message))

    def shown() -> list[str]:
        items = [form.videos.item(i) for i in range(form.videos.count())]
        return [item.text() for item in items if not item.isHidden()]

    def row() -> str:
        return form.videos.currentItem().data(Qt.ItemDataRole.UserRole)

    assert not form.open_button.isEnabled()
    form.open_video()
    assert form.problem.line.text() == "There is no dataset: choose the folder of a split."
    form.filter.setText("oat")
    form.folder.value = str(split)
    assert form.problem.isHidden() and told == ["Reading valid_u"]
    assert shown() == ["Boats   (2 sentences)"], "what was typed before narrows the list, too"
    assert form.progress.status.text() == "2 videos" and row() == "Boats"
    assert form.open_button.isEnabled()
    for text, wanted in (("", 2), ("RACE bi", 1), ("race x", 0), ("b", 2)):
        form.filter.setText(text)
        assert len(shown()) == wanted, text
    assert shown()[1] == "bike race   (1 sentence)"
    form.videos.setCurrentRow(1)
    form.videos.itemActivated.emit(form.videos.currentItem())
    assert [type(layer).__name__ for layer in viewer.layers] == ["Image", "ProjectLabels"]
    assert "Opening bike race" in told
    opened = "Opened. 'Export' can write the corrections back into the dataset."
    assert form.progress.status.text() == opened and form.progress.bar.isHidden()
    said: list[str] = []
    form.presenter.noted.connect(said.append)
    viewer.layers.clear()
    form.open_button.click()
    assert said == ["bike race was opened before: going on with bike race.flowrvs."]
    assert len(viewer.layers) == 2
    form.videos.setCurrentRow(-1)
    assert not form.open_button.isEnabled()
    form.open_video()
    assert form.problem.line.text() == "There is no video: choose one of the list."
    form.folder.value = str(split.parent / "nowhere")
    assert form.videos.count() == 0 and "nowhere" in form.problem.line.text()
    assert form.progress.status.text() == ""
    form.folder.line_edit.value = " . "
    form._list()
    assert form.problem.isHidden() and form.videos.count() == 0
    form.close_button.click()
    assert form.result() == 0 and not form.isVisible()


def test_a_form_with_a_job_cancels_before_it_closes(qtbot: Any, split: Path) -> None:
    form = ImportDialog(ViewerModel(), runner=held)
    qtbot.addWidget(form)
    form.show()
    form.folder.value = str(split)
    assert form.close_button.text() == "&Cancel" and form.presenter.job.busy
    assert not form.folder.enabled, "another folder would be listed by nobody"
    form.videos.addItem("late")
    form._list()
    assert form.videos.count() == 0, "what is listed is not what is chosen any more"
    form.open_video()
    assert form.problem.isHidden(), "one thing at a time"
    form.close_button.click()
    assert form.isVisible() and not form.close_button.isEnabled()
    form.presenter.job.cancelled.emit()
    assert form.progress.status.text() == "Stopped; nothing was written."
    form.presenter.job._end(InputError("It is no dataset."))
    assert form.close_button.text() == "&Close" and form.close_button.isEnabled()
    assert form.folder.enabled
    assert form.problem.line.text() == "It is no dataset."
    form.folder.value = str(split.parent)
    assert form.presenter.job.busy
    form.reject()
    assert not form.presenter.job.busy and not form.isVisible(), "closing stops it"


# -- exporting ------------------------------------------------------------------------------------


def test_what_an_export_says(qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = ExportDialog(ViewerModel(), runner=held)
    qtbot.addWidget(form)
    assert form.table.isHidden() and form.projects.count() == 0
    form._on_choice()
    assert form.problem.isHidden(), "there is nothing to preview yet"
    form.preview()
    assert form.problem.line.text() == (
        "There is no project: run a sentence first, or add a project folder."
    )
    folder = str(tmp_path / "a.flowrvs")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    form._choose_project()
    assert form.projects.count() == 0
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: folder)
    form._choose_project()
    form._choose_project()
    assert form.projects.folders == [folder]
    form.format.value = "davis"
    assert form.about_format.text().startswith("DAVIS")
    form.run()
    assert "destination" in form.problem.line.text()
    form.to.line_edit.value = str(tmp_path)
    form.split.value = " "
    form.run()
    assert form.problem.line.text() == "The split has no name: call it train, for instance."
    form.split.value = "train"
    form.run()
    assert form.presenter.job.busy and form.cancel_button.text() == "&Cancel"
    assert not form.export_button.isEnabled() and form.problem.isHidden()
    form.run()
    form.presenter.job.cancelled.emit()
    assert form.progress.status.text() == "Stopped; nothing was written."
    form.presenter.job.close()
    rows = (
        PreviewRow("train", "a", 24, 2, 3, 1, 0.25),
        PreviewRow("valid", "b", 1, 1, 1, 0, 1.0),
    )
    findings = (Finding("warning", "m.json", "a/0", "Said twice.", "Say it <b>once</b>."),)
    form.table.show_preview(Preview(rows, findings))
    cells = [[form.table.table.item(r, c).text() for c in range(6)] for r in range(2)]
    assert cells == [["train", "a", "24", "2", "3", "25%"], ["valid", "b", "1", "1", "1", "100%"]]
    right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
    aligned = [form.table.table.item(0, c).textAlignment() == right for c in range(6)]
    assert aligned == [False, False, True, True, True, True]
    assert (
        form.table.total.text() == "2 videos, 25 frames, 3 objects, 4 sentences; 1 without target"
    )
    assert form.table.findings.item(0).text() == "warning: a/0: Said twice."
    assert form.table.findings.item(0).toolTip() == "<qt>Say it &lt;b&gt;once&lt;/b&gt;.</qt>"
    form.table.show_preview(Preview(rows[1:], ()))
    assert form.table.total.text() == "1 video, 1 frame, 1 object, 1 sentence"
    assert form.table.table.rowCount() == 1 and not form.table.isHidden()
    assert form.table.findings.item(0).text() == "The linter has no remarks."


# -- improving ------------------------------------------------------------------------------------


@pytest.fixture
def improve(qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImprovePanel]:
    """The page, with a home of models that is empty."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    viewer = ViewerModel()
    metadata = {"flowrvs": {"project": str(tmp_path / "mine.flowrvs")}}
    viewer.add_labels(np.zeros((2, 3, 4), np.uint8), metadata=metadata)
    viewer.add_labels(np.zeros((2, 3, 4), np.uint8))
    panel = ImprovePanel(viewer, runner=run_here)
    qtbot.addWidget(panel)
    yield panel
    panel.close_all()


def test_the_page_follows_a_training(
    improve: ImprovePanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, presenter = improve, improve.presenter
    states = [TrainingState()]
    monkeypatch.setattr(BackgroundTraining, "look", lambda self: states[-1])
    monkeypatch.setattr(BackgroundTraining, "stopping", False, raising=False)
    assert panel.timer.isActive() and panel.timer.interval() == 1000
    assert panel.data.ticked == (str(tmp_path / "mine.flowrvs"),)
    panel.name.setText(" mine ")
    panel.minutes.setValue(7)
    wanted = ImproveInputs(panel.data.ticked, "mine", "auto", 7.0)
    assert panel.inputs() == wanted
    panel.model.setCurrentText("tiny")
    assert panel.inputs() == replace(wanted, model="tiny")
    begun: list[Any] = []
    monkeypatch.setattr(presenter, "begin", begun.append)
    panel.train_button.click()
    panel.train(wanted)
    assert begun == [replace(wanted, model="tiny"), wanted]
    assert panel.model.currentText() == "tiny", "the lists are made anew, and the choice is kept"

    def show(**more: Any) -> str:
        states.append(replace(TrainingState(), **more))
        presenter.look()
        return panel.progress.status.text()

    presenter.choose("mine")
    assert show(phase="preparing") == "Preparing; this window may be closed"
    assert panel.progress.bar.maximum() == 0 and panel.train_button.text() == "&Stop"
    assert panel.fields.isHidden() and panel.count_button.isHidden()
    tip = "Stop at its next step; the best state so far is kept"
    assert panel.train_button.toolTip() == tip
    assert show(phase="running", step=3, total=40, remaining=70.0) == "Step 3 of 40"
    assert panel.progress.bar.format() == "8%, 1 min 10 s left"
    losses, scores = ((1, 0.51234), (2, 0.25)), ((1, {"J&F": 0.5}),)
    said = show(phase="running", step=4, total=40, losses=losses, scores=scores)
    assert said == "Step 4 of 40, loss 0.25, J&F 0.500" and not panel.curve.isHidden()
    panel.plan.setText("What was counted")
    assert show(phase="stopped", message="Stopped.") == "Stopped."
    assert panel.plan.text() == "" and panel.curve.isHidden()
    assert not panel.train_button.isEnabled() and panel.train_button.toolTip() == ""
    said = show(phase="stopped", message="Stopped.", resumable=True)
    assert said == "Stopped. Go on takes it up again." and panel.train_button.isEnabled()
    gone: list[str] = []
    monkeypatch.setattr(presenter, "go_on", lambda: gone.append("on"))
    monkeypatch.setattr(presenter, "stop", lambda: gone.append("stop"))
    panel.train_button.click()
    show(phase="running")
    panel.train_button.click()
    assert gone == ["on", "stop"]
    assert show(phase="failed", message="No room.") == ""
    assert panel.problem.line.text() == "No room." and not panel.train_button.isEnabled()
    card = {"base": "tiny", "step": 3, "samples": 4, "date": "2026-11-29T22"}
    show(phase="finished", card=card)
    assert panel.result.text().startswith("mine is ready: Learned from tiny in 3 steps")
    assert not panel.result.isHidden() and panel.train_button.text() == "&Train"
    presenter.choose("")
    panel._on_training("new training")
    assert panel.result.isHidden() and not panel.fields.isHidden()
    assert panel.problem.isHidden() and panel.name.text() == "improved"


def test_a_picture_of_a_training_is_read_when_it_has_changed(
    improve: ImprovePanel, tmp_path: Path
) -> None:
    path = tmp_path / "example.png"
    improve._show_picture(path)
    assert improve.picture.pixmap().isNull(), "it is not there yet"
    Image.new("RGB", (30, 9), "green").save(path)
    improve._show_picture(path)
    shown = improve.picture.pixmap()
    assert shown.width() == 30 and not improve.picture.isHidden()
    path.write_bytes(b"half")
    stamp = improve._shown[1]
    os.utime(path, ns=(stamp, stamp))
    improve._show_picture(path)
    assert improve.picture.pixmap().width() == 30, "the same file is not read again"
    improve._show_picture(None)
    assert improve.picture.isHidden()


def test_the_page_improve_says_what_is_wrong_and_is_closed(
    improve: ImprovePanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    panel = improve
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "more"))
    panel.add_project.click()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    panel.add_project.click()
    assert [Path(folder).name for folder in panel.data.folders] == ["mine.flowrvs", "more"]
    for i in range(2):
        panel.data.item(i).setCheckState(Qt.CheckState.Unchecked)
    panel.plan.setText("before")
    panel.count_button.click()
    assert panel.problem.line.text().startswith("There is no data") and panel.plan.text() == ""
    panel.data.item(1).setCheckState(Qt.CheckState.Checked)
    plan = {"left_out": {}, "frames": 1, "objects": 1, "sentences": 1, "videos": 1}
    plan |= {"held_out_videos": 0, "held_out_sentences": 0, "model": "tiny", "steps": 3}
    plan |= {"seconds": 60.0, "memory": 1e9, "note": ""}
    asked: list[Any] = []

    def count(data: Any, **more: Any) -> Any:
        more.pop("cancel")
        asked.append((data, more))
        return plan

    monkeypatch.setattr("napari_flowrvs.improve.presenter.plan_in_process", count)
    told: list[str] = []
    panel.presenter.job.progressed.connect(lambda event: told.append(event.message))
    panel.count_button.click()
    assert asked == [((str(tmp_path / "more"),), {"model": "auto", "minutes": 20.0})]
    assert panel.problem.isHidden() and told == ["Counting what can be used"]
    assert panel.plan.text().startswith("1 masks of 1 objects") and panel.progress.bar.isHidden()
    panel.progress.say("Counting")
    panel.presenter.job.failed.emit(Failure("It broke.", "Traceback"))
    assert panel.problem.line.text() == "It broke." and panel.progress.status.text() == ""
    panel.viewer.theme = "light"
    assert panel.styleSheet() == style.sheet("light")
    close_as_a_dock(panel, qtbot)
    panel.viewer.theme = "dark"
    assert panel.styleSheet() == style.sheet("light") and not panel.timer.isActive()


def test_an_export_that_was_checked_says_so(qtbot: Any, tmp_path: Path) -> None:
    form = ExportDialog(ViewerModel(), runner=held)
    qtbot.addWidget(form)
    result = ExportResult(
        tmp_path / "train", "mevis", videos=1, frames=9, expressions=2, objects=3, notes=("Note.",)
    )
    form.presenter.job.cancelled.emit()
    assert form.progress.status.text() == "Stopped; nothing was written."
    form._on_finished(result)
    written = f"Written: 1 video, 2 sentences, 3 objects in {tmp_path / 'train'} Note."
    assert form.progress.status.text() == written
    finding = Finding("warning", "m.json", "", "Odd.", "Mend it.")
    form._on_checked(Checked(result, (finding,)))
    form._on_checked(Checked(result, (finding,)))
    texts = [form.table.findings.item(i).text() for i in range(form.table.findings.count())]
    assert texts == ["warning: m.json: Odd."] * 2 and form.progress.status.text() == written
    written = written.removesuffix(" Note.")
    form.presenter.job.cancelled.emit()  # while it was checked
    assert form.progress.status.text() == f"Stopped before the rest. {written}"
    form.presenter.job.failed.emit(Failure("The disk is away.", ""))
    assert form.progress.status.text() == written and not form.problem.isHidden()
    form.to.line_edit.value = str(tmp_path)
    form.projects.add(str(tmp_path / "a.flowrvs"))
    form.run()
    assert form._remarks == [] and form._written == "", "of the export that begins"


def test_closing_the_form_of_exports_waits_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits, tokens = [100.0], list[float](), list[Any]()

    class Task:
        def wait(self, timeout: float) -> bool:
            assert all(token.cancelled for token in tokens), (
                "all are asked before one is waited for"
            )
            waits.append(timeout)
            now[0] += 3.0
            return False

    def begin(work: Any, token: Any, **_: Any) -> Task:
        tokens.append(token)
        return Task()

    monkeypatch.setattr(export_presenter, "monotonic", lambda: now[0])
    presenter = ExportPresenter(begin)
    assert presenter.close(), "nothing was begun"
    presenter.preview(ExportInputs(("a",)))
    presenter.look_for_homes(("a",))
    presenter.run(ExportInputs(("a",), "to"))
    assert not presenter.close() and waits == [5.0, 2.0, 0.0]
    assert not presenter.job.busy and not presenter.preview_job.busy
