"""The page "Review" as a widget: its list, its progress, and what an open list survives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.desk import Desk
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
    from qtpy.QtCore import Qt

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
