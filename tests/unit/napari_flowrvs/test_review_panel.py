"""The page "Review" as a widget: its list, its progress, and what an open list survives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.desk import Desk
from napari_flowrvs.job import Phase
from napari_flowrvs.review.panel import ReviewPanel
from napari_flowrvs.review.presenter import ReviewPresenter
from napari_flowrvs.widgets.keys import Commands

FRAMES = 20


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A square that is gone on frame 9, and two sentences that mean it."""
    masks = np.zeros((FRAMES, 40, 60), bool)
    masks[:, 8:24, 8:24] = True
    masks[9] = False
    with Project.create(tmp_path / "clip", VideoInfo(None, "array", FRAMES, 40, 60)) as made:
        _, one = made.add_prompt("the square")
        made.add_expression("the thing", [one.id])
        made.add_expression("no thing at all", [])
        made.write_model(one.layer, one.id, 0, masks)
        yield made


@pytest.fixture
def panel(qtbot: Any, project: Project) -> Iterator[ReviewPanel]:
    desk = Desk()
    desk.frame_requested.connect(desk.set_frame)
    presenter = ReviewPresenter(desk)
    desk.set_project(project)
    viewer = ViewerModel()
    commands = Commands(viewer, lambda failure: pytest.fail(failure.summary))
    made = ReviewPanel(presenter, commands)
    qtbot.addWidget(made)
    made.resize(300, 320)
    made.show()
    yield made
    made.hide()
    commands.close()
    presenter.close()


def test_the_list_and_the_progress_of_each_sentence(panel: ReviewPanel, project: Project) -> None:
    assert [panel.model.data(panel.model.index(0, c)) for c in range(3)][0] == "9"
    assert panel.scope.itemText(1) == "the square  (0 %)"
    project.accept_frames(1, 0, 5)
    panel.desk.touched(1, 0, 5)
    panel.refresh()
    texts = [panel.scope.itemText(i) for i in range(panel.scope.count())]
    assert texts == [
        "object 1",
        "the square  (25 %)",
        "the thing  (25 %)",
        "no thing at all  (no object)",
    ]
    assert panel.bar.text() == "5 of 20 frames checked"
    panel.scope.setCurrentIndex(3)
    panel.scope.activated.emit(3)
    panel.refresh()
    assert panel.model.rowCount() == 0 and not panel.buttons["accept"].isEnabled()
    assert panel.bar.text() == "0 of 0 frames checked"


def test_a_refresh_leaves_the_place_in_the_list(panel: ReviewPanel, qtbot: Any) -> None:
    bar = panel.table.verticalScrollBar()
    qtbot.waitUntil(lambda: bar.maximum() > 4)
    bar.setValue(4)
    panel.refresh()
    assert bar.value() == 4
    panel.presenter.accept()
    panel.refresh()
    assert bar.value() == 4 and panel.model.rowCount() == FRAMES - 1


def test_buttons_lead_through_the_queue(panel: ReviewPanel, project: Project, qtbot: Any) -> None:
    left = Qt.MouseButton.LeftButton
    qtbot.mouseClick(panel.buttons["next"], left)
    assert panel.desk.frame == 9
    qtbot.mouseClick(panel.buttons["accept"], left)
    assert panel.desk.frame != 9 and panel.presenter.progress() == (1, FRAMES)
    panel.desk.go_to(FRAMES - 1)
    qtbot.mouseClick(panel.buttons["accept_here"], left)
    panel.refresh()
    assert panel.presenter.progress() == (FRAMES, FRAMES) and panel.model.rowCount() == 0
    for name in ("next", "previous", "accept", "absent"):
        qtbot.mouseClick(panel.buttons[name], left)
    assert not project.object_mask(1, FRAMES - 1, FRAMES).any()
    assert project.object_mask(1, 0, 1).any()


def test_the_list_follows_and_leads(panel: ReviewPanel, project: Project, qtbot: Any) -> None:
    desk, presenter, table = panel.desk, panel.presenter, panel.table

    def marked() -> list[int]:
        return [panel.model.rows[i.row()].frame for i in table.selectionModel().selectedRows()]

    def cells(row: int) -> list[Any]:
        return [panel.model.index(row, column).data() for column in range(3)]

    frames = [each.frame for each in panel.model.rows]
    assert sorted(frames) == list(range(FRAMES)) and frames[0] == 9
    doubts = presenter.doubts.of(1)
    assert cells(0) == ["9", "1 the square", f"{doubts[9]:.2f}"]
    assert panel.model.index(0, 0).data(Qt.ItemDataRole.ToolTipRole) is None
    assert marked() == [0], "the frame that is shown"
    desk.set_frame(9)
    assert marked() == [9]
    table.clicked.emit(panel.model.index(3, 0))
    assert desk.frame == frames[3] and marked() == [frames[3]]
    table.setCurrentIndex(panel.model.index(5, 1))
    assert desk.frame == frames[5], "by the arrow keys, too"
    desk.set_object(None)
    qtbot.waitUntil(lambda: panel.model.rowCount() == 0)
    assert panel.scope.itemText(0) == "the chosen object"
    desk.set_object(1)
    qtbot.waitUntil(lambda: panel.model.rowCount() == FRAMES)
    busy: list[list[bool]] = []
    presenter.steps.busy_changed.connect(
        lambda _on: busy.append([button.isEnabled() for button in panel.buttons.values()])
    )
    presenter.steps.job._set_phase(Phase.RUNNING)
    presenter.steps.busy_changed.emit(True)
    presenter.steps.job._set_phase(Phase.IDLE)
    presenter.steps.busy_changed.emit(False)
    assert busy == [[False] * 6, [True] * 6]
    project.update_object(1, name="the box")
    presenter.doubts._doubts[1][frames[0]] = np.nan
    presenter._on_catalog()
    qtbot.waitUntil(lambda: cells(0)[1] == "1 the box")
    place = panel.model.place((frames[0], 1))
    assert cells(place)[2] == "", "not measured yet"
    panel.scope.setCurrentIndex(2)
    panel.scope.activated.emit(2)
    assert presenter.scope == "1"
    panel.hide()
    assert not presenter.doubts._measuring
    presenter.set_scope(None)
    qtbot.wait(250)
    assert panel.scope.currentIndex() == 2, "nobody looks at it"
    panel.show()
    assert presenter.doubts._measuring and panel.scope.currentIndex() == 0
