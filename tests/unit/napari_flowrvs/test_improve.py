"""A model learns from corrections in a process of its own, seen from the window."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from qtpy.QtCore import Qt

from flowrvs.checkpoints.placed import placed_models
from flowrvs.cli import main
from flowrvs.errors import InputError
from flowrvs.locks import FileLock
from flowrvs.training.background import BackgroundTraining, TrainingState
from flowrvs.training.journal import Journal
from napari_flowrvs.find.panel import OptionsPanel
from napari_flowrvs.improve.panel import ImprovePanel
from napari_flowrvs.improve.presenter import (
    ImproveInputs,
    ImprovePresenter,
    plan_text,
    result_text,
)
from napari_flowrvs.layers import layers_of
from napari_flowrvs.project_labels import make_layer
from napari_flowrvs.recent import Recent
from tests.fixtures.training_data import make_project

MakePanel = Callable[[], ImprovePanel]

PLAN = {
    "model": "tiny",
    "note": "There is no GPU here.",
    "videos": 3,
    "sentences": 9,
    "objects": 4,
    "frames": 60,
    "held_out_videos": 1,
    "held_out_sentences": 3,
    "left_out": {"sentences without a frame": 2},
    "steps": 700,
    "seconds": 1200.0,
    "memory": 3e8,
    "data": ["a.flowrvs"],
    "config": {"max_steps": 40},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models; processes find the packages."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    return tmp_path / "home" / "models"


@pytest.fixture
def make_panel(make_napari_viewer: Callable[..., Any], qtbot: Any, home: Path) -> MakePanel:
    """Make the page, in a viewer without layers."""
    viewer = make_napari_viewer()

    def make() -> ImprovePanel:
        panel = ImprovePanel(viewer)
        qtbot.addWidget(panel, before_close_func=lambda page: page.close_all())
        return panel

    return make


@pytest.fixture
def micro_model(tmp_path: Path) -> str:
    """A folder with a model of random weights."""
    from tests.fixtures.micro import micro_pipeline

    micro_pipeline().save_pretrained(tmp_path / "micro")
    return str(tmp_path / "micro")


def write_training(home: Path, name: str, *, steps: int = 20) -> Path:
    """What a training leaves in its folder while it runs."""
    work = home / f".{name}.training"
    work.mkdir(parents=True)
    (work / "plan.json").write_text(json.dumps(PLAN))
    journal = Journal(work)
    journal.report(step=0, **{"J": 0.1, "F": 0.2, "J&F": 0.15, "old J&F": 0.7})
    for step in range(10, steps + 1, 10):
        journal.add(loss=2.0 / step)
        journal.report(step=step)
    return work


@pytest.mark.timeout(600)
def test_a_real_training_outlives_the_page_and_is_found_again(
    make_panel: MakePanel, qtbot: Any, home: Path, micro_model: str, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "mine")
    panel = make_panel()
    for layer in layers_of(project):
        panel.viewer.add_layer(make_layer(layer))
    panel.close_all()
    panel = make_panel()  # the open project is chosen already
    assert panel.inputs().data == (str(project),)
    assert panel.inputs().name == "improved" and panel.inputs().model == "auto"
    inputs = ImproveInputs((str(project),), "mine", micro_model, 1, max_steps=30)
    panel.train(inputs)
    assert panel.trainings.currentText() == "mine"
    assert panel.train_button.text() == "&Stop"
    with pytest.raises(InputError, match="mine is being trained"):
        panel.presenter.begin(ImproveInputs((str(project),), "other", micro_model))
    assert panel.presenter.state.phase == "preparing"
    child = psutil.Process(panel.presenter._training._process.pid)  # type: ignore[union-attr]
    panel.close_all()

    again = make_panel()
    assert again.trainings.currentText() == "mine"
    ready: list[str] = []
    again.presenter.finished.connect(ready.append)
    qtbot.waitUntil(lambda: again.presenter.state.phase == "running", timeout=240_000)
    assert again.fields.isHidden()
    assert "4 masks of 1 objects and 2 sentences" in again.plan.text()
    assert "Step " in again.progress.status.text()
    qtbot.waitUntil(lambda: again.presenter.state.phase == "finished", timeout=240_000)
    assert ready == ["mine"]
    assert "mine is ready" in again.result.text()
    assert again.presenter.state.losses[-1][0] == 30
    qtbot.waitUntil(lambda: not child.is_running(), timeout=20_000)  # and no zombie is left
    assert [model.name for model in placed_models()] == ["mine"]
    options = OptionsPanel(Recent(tmp_path / "memory.json"))
    qtbot.addWidget(options)
    place = options.model.findText("mine")
    tip = options.model.itemData(place, Qt.ItemDataRole.ToolTipRole)
    # The best state is kept, which need not be the last.
    assert re.match(r"from micro, [1-9]\d* steps on 2 samples", tip)


def test_what_can_be_used_is_counted_in_a_process(
    make_panel: MakePanel, qtbot: Any, micro_model: str, tmp_path: Path
) -> None:
    make_project(tmp_path / "mine", "a", 3)
    make_project(tmp_path / "mine", "b", 4)
    panel = make_panel()
    panel.add_data(str(tmp_path / "mine"))
    panel.model.addItem(micro_model)
    panel.model.setCurrentText(micro_model)
    qtbot.mouseClick(panel.count_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(panel.plan.text()), timeout=240_000)
    assert "4 masks of 1 objects and 2 sentences in 1 videos" in panel.plan.text()
    assert "1 videos (2 sentences) are kept apart" in panel.plan.text()
    assert not panel.progress.bar.isVisible()


def test_what_is_wrong_is_one_line(
    make_panel: MakePanel,
    qtbot: Any,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    panel = make_panel()
    qtbot.mouseClick(panel.train_button, Qt.MouseButton.LeftButton)
    assert "There is no data" in panel.problem.line.text()
    panel.add_data(str(tmp_path))
    panel.name.setText("a/b")
    qtbot.mouseClick(panel.train_button, Qt.MouseButton.LeftButton)
    assert "no name for a model" in panel.problem.line.text()
    # What the process says itself, here without a process.
    arguments = ["--data", str(tmp_path), "--name", "broken", "--json"]
    assert main(["train", "improve", *arguments]) == 2
    work = home / ".broken.training"
    assert work.is_dir()  # it was locked before it was planned
    (work / "result.json").write_text(capsys.readouterr().out)
    panel.presenter.choose("broken")
    assert panel.presenter.state.phase == "failed"
    assert panel.problem.line.text().endswith("no *.flowrvs project.")
    panel.close_all()
    again = make_panel()  # for a new training: what went wrong before is told where it is chosen
    assert again.trainings.currentText() == "new training" and again.problem.line.text() == ""


def test_stop_asks_the_process_and_what_was_stopped_goes_on(
    make_panel: MakePanel, qtbot: Any, home: Path
) -> None:
    work = write_training(home, "mine")
    with FileLock(work / "lock"):
        panel = make_panel()
        assert panel.train_button.text() == "&Stop"
        qtbot.mouseClick(panel.train_button, Qt.MouseButton.LeftButton)
        assert (work / "cancel").is_file()
        assert panel.presenter.stopping and not panel.train_button.isEnabled()
        assert panel.progress.status.text() == "Stopping"
    (work / "cancel").unlink()
    (work / "checkpoints" / "step-00000020").mkdir(parents=True)
    panel.presenter.look()
    assert panel.presenter.state.phase == "stopped"
    assert panel.train_button.text() == "&Go on" and panel.train_button.isEnabled()
    assert "Go on takes it up again" in panel.progress.status.text()


def test_the_page_shows_what_the_folder_tells(
    make_panel: MakePanel, qtbot: Any, home: Path
) -> None:
    work = write_training(home, "mine")
    Image.new("RGB", (320, 90), "green").save(work / "example.png")
    with FileLock(work / "lock"):
        panel = make_panel()
        assert panel.trainings.currentText() == "mine"
        assert panel.progress.bar.maximum() == 40 and panel.progress.bar.value() == 20
        assert panel.progress.status.text() == "Step 20 of 40, loss 0.1, J&F 0.150"
        assert panel.picture.pixmap().width() == 320
        assert panel.curve.text() == "loss 0.1, J&F 0.150, old J&F 0.700"
        panel.curve.resize(300, 130)
        image = panel.curve.grab().toImage()
        colours = {image.pixelColor(x, y).name() for x in range(300) for y in range(130)}
        assert len(colours) > 5  # lines were drawn
        Image.new("RGB", (200, 90), "red").save(work / "example.png")
        os.utime(work / "example.png", (1, 1))
        panel.presenter.look()
        panel._on_state(panel.presenter.state)
        assert panel.picture.pixmap().width() == 200
        panel.trainings.setCurrentText("new training")
        assert panel.train_button.text() == "&Train" and not panel.fields.isHidden()
    assert panel.presenter.free_name("mine") == "mine-2"


def test_a_result_is_told_with_scores_before_and_after() -> None:
    card = {
        "J&F": 0.61,
        "old J&F": 0.74,
        "before": {"J&F": 0.42, "old J&F": 0.75},
        "base": "/somewhere/tiny",
        "step": 700,
        "samples": 432,
        "date": "2026-11-29T22:00:00",
    }
    assert result_text("mine", card) == (
        "mine is ready: J&F 0.420 to 0.610 on your clips, 0.750 to 0.740 on what it knew, held "
        "out. Learned from tiny in 700 steps on 432 samples, 2026-11-29. Choose it on the page "
        "Find."
    )
    assert result_text("mine", card | {"before": None, "old J&F": None}).startswith(
        "mine is ready: J&F 0.610 on your clips, held out. Learned"
    )
    assert result_text("mine", {"base": "b"}).startswith("mine is ready: Learned from b in")
    assert plan_text(PLAN).splitlines() == [
        "a.flowrvs:",
        "60 masks of 4 objects and 9 sentences in 3 videos to learn from.",
        "1 videos (3 sentences) are kept apart and scored.",
        "Left out: 2 sentences without a frame.",
        "From tiny: 700 steps in about 20 min (a step was timed here), 0.3 GB (reckoned from the "
        "model's size).",
        "There is no GPU here.",
    ]
    nothing = {"held_out_videos": 0, "left_out": {}, "note": "", "data": [], "seconds": 3.0}
    lines = plan_text(PLAN | nothing).splitlines()
    assert lines[1] == "Nothing is kept apart to be scored: that takes two videos at least."
    assert len(lines) == 3 and "in about 1 min" in lines[2]


def test_a_training_is_resumed_with_what_it_was_begun_with(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = write_training(home, "mine")
    (work / "checkpoints" / "step-00000020").mkdir(parents=True)
    begun: list[Any] = []
    monkeypatch.setattr(
        BackgroundTraining, "begin", lambda self, data, **more: begun.append((data, more))
    )
    presenter = ImprovePresenter()
    with pytest.raises(InputError, match="no training to go on"):
        presenter.go_on()
    presenter.choose("mine")
    assert presenter.state.resumable
    presenter.go_on()
    assert begun == [(("a.flowrvs",), {"model": "tiny", "resume": True})]


def test_how_a_training_stands_is_told_when_it_changes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        write_training(home, name)
    states = [TrainingState()]
    monkeypatch.setattr(BackgroundTraining, "look", lambda self: states[-1])
    presenter, heard, ready = ImprovePresenter(), list[str](), list[str]()
    presenter.changed.connect(lambda state: heard.append(state.phase))
    presenter.finished.connect(ready.append)
    assert presenter.name == "" and not presenter.stopping
    presenter.stop()
    assert heard == []
    presenter.choose("one")
    for phase, told in (
        *(("running", 1), ("running", 0), ("finished", 1), ("finished", 0)),
        *(("stopped", 1), ("finished", 1)),
    ):
        states.append(replace(TrainingState(), phase=phase))
        heard.clear()
        presenter.look()
        assert heard == [phase] * told
    assert ready == ["one"], "once, and not where it was not running"
    held = presenter._training
    presenter.choose("one")
    assert presenter._training is held, "it knows its process"
    presenter.choose("two")
    assert presenter.name == "two" and presenter._training is not held
    presenter.choose("")
    assert presenter.name == "" and presenter.state == TrainingState()
    for begin in (presenter.begin, presenter.count):
        with pytest.raises(InputError, match="There is no data: choose a project or the folder"):
            begin(ImproveInputs((), "x"))
    assert presenter.free_name("one") == "one-2" and presenter.free_name("new") == "new"
