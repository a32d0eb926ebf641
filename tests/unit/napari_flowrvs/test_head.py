"""The head of the dock, the list and the strip of models, rows that are added: without a window."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QColorDialog, QFileDialog, QMessageBox, QWidget

from flowrvs.checkpoints.registry import MODELS
from flowrvs.errors import Cancelled
from flowrvs.progress import Progress
from flowrvs.records import VideoInfo
from napari_flowrvs.job import Failure, Phase
from napari_flowrvs.models.panel import ModelBox, ModelPanel
from napari_flowrvs.models.presenter import ModelPresenter, Stage, is_absent
from napari_flowrvs.projects import open_projects
from tests.unit.napari_flowrvs.conftest import MakeDock, held


def test_a_list_of_models_offers_what_was_trained(
    qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    box = ModelBox(["/models/own", "tiny"])
    qtbot.addWidget(box)
    known = [name for name, model in MODELS.items() if model.kind == "segmenter"]

    def names() -> list[str]:
        return [box.itemText(i) for i in range(box.count())]

    assert names() == [*known, "/models/own"]
    made = tmp_path / "home" / "models" / "mine"
    made.mkdir(parents=True)
    card = {"base": "/m/tiny", "step": 3, "samples": 4, "date": "2026-11-29T22:00:00"}
    (made / "training.json").write_text(json.dumps(card))
    box.showPopup()
    box.hidePopup()
    assert names() == [*known, "/models/own", "mine"]
    tip = box.itemData(len(known) + 1, Qt.ItemDataRole.ToolTipRole)
    assert "3 steps" in tip and box.itemData(0, Qt.ItemDataRole.ToolTipRole) == ""


def test_files_and_folders_are_asked_for(
    make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    viewer, dock = make_dock()
    head, opened, copied = dock.head, list[str](), list[Any]()
    monkeypatch.setattr(head.presenter, "open", opened.append)
    monkeypatch.setattr(
        head.presenter, "copy", lambda project, path: copied.append((project, path))
    )
    asked: list[tuple[Any, ...]] = []

    def answer(name: str, value: Any) -> None:
        monkeypatch.setattr(QFileDialog, name, lambda *a: asked.append(a[1:]) or value)

    answer("getOpenFileName", ("/clip.mp4", ""))
    answer("getExistingDirectory", "/folder")
    answer("getSaveFileName", (str(tmp_path / "c.flowrvs"), ""))
    texts = {action.text(): action for action in head.menu.actions()}
    for text in ("&video file…", "&image folder or MeViS folder…", "&project (.flowrvs)…"):
        texts[text].trigger()
    assert opened == ["/clip.mp4", "/folder", "/folder"]
    assert asked[0][0] == "Open a video" and asked[0][2].startswith("Videos (*.mp4 ")
    assert asked[1:] == [("Open a folder of images",), ("Open a project (.flowrvs)",)]
    head.copy_project(str(tmp_path / "c.flowrvs"))
    assert copied == [(None, str(tmp_path / "c.flowrvs"))]
    project = open_projects.ensure(tmp_path / "a.flowrvs", VideoInfo(None, "array", 3, 4, 5))
    other = open_projects.ensure(tmp_path / "b.flowrvs", VideoInfo(None, "array", 3, 4, 5))
    dock.session.desk.set_project(project)
    asked.clear()
    texts["save a co&py of the project…"].trigger()
    head._copy(other)
    wanted = [str(tmp_path / f"{name}-copy.flowrvs") for name in "ab"]
    kinds = "Projects (*.flowrvs)"
    assert asked == [("Save a copy of the project", path, kinds) for path in wanted]
    assert [each for each, _ in copied[1:]] == [project, other]
    # An answer of nothing is nothing; and one thing at a time.
    answer("getOpenFileName", ("", ""))
    answer("getSaveFileName", ("", ""))
    texts["&video file…"].trigger()
    head._copy()
    with monkeypatch.context() as patch:
        patch.setattr(head.presenter, "job", SimpleNamespace(busy=True))
        head.open_path("/other.mp4")
        head.copy_project("/copy.flowrvs")
    assert len(opened) == 3 and len(copied) == 3
    # The rest of the menu, and the other buttons that open something.
    seen: list[Any] = []
    monkeypatch.setattr(type(viewer), "open_sample", lambda self, *a: seen.append(a), raising=False)
    monkeypatch.setattr("napari_flowrvs.opening.panel.show_import", lambda *a: seen.append(a))
    monkeypatch.setattr("napari_flowrvs.dock.show_export", lambda *a: seen.append(a))
    texts["&sample clip"].trigger()
    texts["&correct a dataset…"].trigger()
    dock.find.export_button.click()
    assert seen == [("napari-flowrvs", "shapes"), (viewer, dock), (viewer, dock)]
    answer("getExistingDirectory", str(tmp_path))
    options = dock.find.options
    options.project_button.click()
    assert options.project.text() == str(tmp_path)
    options.model_button.click()
    assert options.model.currentText() == str(tmp_path)
    answer("getExistingDirectory", "")
    options.project_button.click()
    assert options.project.text() == str(tmp_path)


@pytest.mark.parametrize("answer", ["copy", "close", "cancel"])
def test_what_is_asked_before_work_is_lost(
    make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    _, dock = make_dock()
    boxes: list[QMessageBox] = []
    monkeypatch.setattr(QMessageBox, "exec", lambda self: boxes.append(self) or 0)

    def clicked(self: QMessageBox) -> Any:
        roles = {"copy": "AcceptRole", "close": "DestructiveRole", "cancel": "RejectRole"}
        wanted = getattr(QMessageBox.ButtonRole, roles[answer])
        return next(button for button in self.buttons() if self.buttonRole(button) == wanted)

    monkeypatch.setattr(QMessageBox, "clickedButton", clicked)
    assert dock.head.ask("<b>a.flowrvs</b> cannot be saved") == answer
    (box,) = boxes
    assert box.text() == "<b>a.flowrvs</b> cannot be saved"
    assert box.textFormat() == Qt.TextFormat.PlainText
    assert {button.text() for button in box.buttons()} >= {"Save a copy…", "Close anyway"}


def test_rows_are_added_edited_and_coloured(
    make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, dock = make_dock()
    page = dock.objects
    project = open_projects.ensure(tmp_path / "a.flowrvs", VideoInfo(None, "array", 3, 4, 5))
    project.add_prompt("the cat")
    dock.session.desk.set_project(project)
    dock.tabs.setCurrentWidget(page)
    dock.show()
    edited: list[tuple[str, int, int]] = []
    for name in ("sentences", "objects"):
        table = getattr(page, name)
        monkeypatch.setattr(
            table, "edit", lambda at, name=name: edited.append((name, at.row(), at.column()))
        )
    page.add_sentence.click()
    assert edited == [("sentences", 1, 0)] and dock.focusWidget() is page.sentences
    assert project.expressions["1"].text == "new sentence"
    page.add_object.click()
    assert edited[1:] == [("objects", 1, 1)] and dock.focusWidget() is page.objects
    assert page.presenter.desk.object_id == 2
    asked: list[str] = []

    def color(given: Any, parent: Any, title: str) -> Any:
        asked.append(given.name())
        return answers.pop(0)

    answers = [QColor(), QColor(10, 20, 30)]
    before = project.objects[2].color
    monkeypatch.setattr(QColorDialog, "getColor", color)
    cells = page.objects_model
    page.objects.doubleClicked.emit(cells.index(1, 1))
    assert asked == [], "a name is typed, not coloured"
    page.objects.doubleClicked.emit(cells.index(1, 0))
    assert project.objects[2].color == before and len(asked) == 1
    page.objects.doubleClicked.emit(cells.index(1, 0))
    np.testing.assert_allclose(project.objects[2].color, np.array([10, 20, 30]) / 255, atol=1e-4)
    assert asked[1] == QColor.fromRgbF(*before).name()


def test_the_strip_of_a_model_says_what_can_be_done(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    presenter = ModelPresenter(held)
    panel = ModelPanel(presenter)
    qtbot.addWidget(panel)
    done: list[str] = []
    for name in ("ask", "fetch", "decline"):
        monkeypatch.setattr(presenter, name, lambda name=name: done.append(name))

    def shown(*parts: QWidget) -> list[bool]:
        return [not part.isHidden() for part in (panel, panel.line, panel.go, panel.stop)]

    def look(stage: Stage, text: str = "Text.") -> tuple[Any, ...]:
        panel.progress.say("Before")
        presenter._show(stage, text)
        return shown(), panel.go.text(), panel.stop.text(), panel.progress.status.text()

    ask = "Ask how large it is; nothing is downloaded yet"
    assert shown()[0] is False
    panel.choose(" mevis ")
    assert look(Stage.ABSENT) == ([True, True, True, False], "&Get mevis…", "Stop", "")
    assert panel.go.toolTip() == ask and panel.stop.toolTip() == ""
    panel.go.click()
    assert look(Stage.PLANNED) == ([True, True, True, True], "&Get it", "Not now", "")
    assert panel.go.toolTip() == "Download and convert; it can be stopped and gone on with"
    panel.go.click()
    panel.stop.click()
    assert done == ["ask", "fetch", "decline"]
    panel.problem.show_failure(Failure("No room.", ""))
    assert look(Stage.READY) == ([True, True, False, False], "&Get mevis…", "Stop", "")
    panel.go.clicked.emit()
    assert len(done) == 3, "there is nothing to get"
    presenter.installed.emit("mevis")
    assert panel.problem.isHidden()
    assert look(Stage.READY, "")[0] == [True, False, False, False]
    assert look(Stage.NOTHING, "")[0] == [False, False, False, False]
    # While something is fetched.
    presenter.job.start(lambda *_: iter(()), lambda _: None)  # type: ignore[arg-type,return-value]
    wanted = ([True, False, False, True], "&Get mevis…", "Stop", "Before")
    assert look(Stage.FETCHING) == wanted and panel.stop.toolTip() == "What has arrived is kept"
    assert look(Stage.ASKING) == ([True, True, False, True], "&Get mevis…", "Stop", "Before")
    panel.go.clicked.emit()
    told: list[Progress] = []
    presenter.progressed.connect(told.append)
    presenter.job.progressed.emit(Progress(3 * 10**9, 4 * 10**9, "Fetching", remaining=2.0))
    presenter.job.progressed.emit(Progress(0, 0, "Asking"))
    assert told == [
        Progress(750, 1000, "Fetching (3.0 GB of 4.0 GB)", remaining=2.0),
        Progress(0, 0, "Asking"),
    ]
    panel.problem.show_failure(Failure("Odd.", ""))
    panel.choose("tiny")
    assert presenter.name == "mevis" and not panel.problem.isHidden(), "it waits for the end"
    panel.stop.click()
    assert len(done) == 3 and presenter.job.phase is Phase.STOPPING
    assert panel.progress.status.text() == "Stopping" and not panel.stop.isHidden()
    presenter.job.progressed.emit(Progress(4, 4, "Late"))
    assert len(told) == 2
    presenter.job._end(Cancelled())
    assert presenter.name == "tiny" and panel.isHidden()
    assert panel.progress.status.text().startswith("Stopped. What has arrived is kept; Get goes on")
    assert panel.progress.bar.isHidden()
    panel.choose("mevis")
    assert panel.problem.isHidden() and panel.progress.status.text() == ""
    panel.problem.show_failure(Failure("Odd.", ""))
    panel.choose(" mevis")
    assert not panel.problem.isHidden(), "of the same model it stays"
    panel.progress.say("Fetching")
    presenter.job.failed.emit(Failure("The hub is away.", "T"))
    assert panel.problem.line.text() == "The hub is away." and panel.progress.status.text() == ""
    presenter.job.start(lambda *_: iter(()), lambda _: None)  # type: ignore[arg-type,return-value]
    assert presenter.close(0.0) and presenter.stage is Stage.ABSENT
    begun = tmp_path / "home" / "models" / ".mevis.download"
    begun.mkdir(parents=True)
    (begun / "part").write_bytes(bytes(5 * 10**6))
    presenter.choose("mevis")
    assert presenter.text == "mevis is not installed; 5.0 MB of it are here."
    assert [is_absent(name) for name in ("mevis", " mevis ", "tiny", "/a/folder")] == [
        *(True, True, False, False)
    ]
