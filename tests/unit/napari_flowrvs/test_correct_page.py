"""The page Correct and the bar that asks about a preview, as they follow what goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from psygnal import Signal
from qtpy.QtWidgets import QPushButton

from flowrvs.errors import InputError
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.correct.panel import CorrectPanel
from napari_flowrvs.correct.presenter import CorrectPresenter
from napari_flowrvs.correct.preview import PreviewBar
from napari_flowrvs.desk import Desk
from napari_flowrvs.job import Job, Phase
from napari_flowrvs.motion import Motion
from napari_flowrvs.projects import open_projects
from napari_flowrvs.trackers import CLASSICAL
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands
from tests.unit.napari_flowrvs.conftest import held


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Ten frames; a model was sure of the first object, and nobody drew the second."""
    info = VideoInfo(None, "array", 10, 6, 8)
    made = open_projects.ensure(tmp_path / "clip.flowrvs", info)
    cat = made.add_prompt("the cat")[1]
    made.add_prompt("the dog")
    scores = np.full((2, 6, 8), 200, np.uint8)
    made.write_model(cat.layer, cat.id, 3, scores > 100, confidence=scores)
    yield made
    open_projects.close(made)


def test_the_page_follows_the_object_and_what_runs(qtbot: Any, project: Project) -> None:
    desk, cluster = Desk(), list[str | None]([None])
    presenter = CorrectPresenter(desk, Motion(), lambda *_: None, held)  # type: ignore[arg-type,return-value]
    viewer = ViewerModel()
    panel = CorrectPanel(
        presenter, Commands(viewer), lambda: ("tiny", "cpu", "auto"), lambda: cluster[0]
    )
    qtbot.addWidget(panel)
    tools = [b for b in panel.findChildren(QPushButton) if b is not panel.threshold_button]

    def enabled() -> tuple[set[bool], list[bool]]:
        scored = (panel.slider, panel.threshold_button)
        return {tool.isEnabled() for tool in tools}, [part.isEnabled() for part in scored]

    assert len(tools) == 7 and enabled() == ({False}, [False, False])
    assert panel.object_label.text().startswith("There is no object yet: Run or Draw by hand")
    desk.set_project(project)
    assert enabled() == ({True}, [True, True]) and panel.object_label.text() == "object 1: the cat"
    sure = "Left: larger masks; right: only where the model is sure"
    assert panel.slider.toolTip() == sure and panel.sentence.text() == "the cat"
    assert (panel.first.maximum(), panel.last.maximum(), panel.last.value()) == (9, 9, 9)
    for job in (presenter.job, presenter.steps.job):
        for phase, free in ((Phase.RUNNING, False), (Phase.IDLE, True)):
            job._set_phase(phase)
            presenter.steps.busy_changed.emit(not free)
            assert enabled() == ({free}, [free, free])
    desk.set_object(2)
    assert enabled() == ({True}, [False, False]) and panel.sentence.text() == "the dog"
    assert panel.slider.toolTip().startswith("No model's confidence is kept")
    panel.sentence.setText("typed")
    panel.sentence.setModified(True)
    desk.set_object(1)
    assert panel.sentence.text() == "typed", "what somebody types stays"
    project.update_object(1, name="a cat")
    desk.catalog_changed.emit()
    assert panel.object_label.text() == "object 1: a cat"
    desk.set_object(None)
    assert panel.object_label.text() == "Choose an object on the page Objects."
    assert panel.slider.toolTip() == sure and enabled() == ({False}, [False, False])
    assert panel.together.isHidden()
    presenter.trackers.name = "colours"
    presenter.trackers.changed.emit()
    assert not panel.together.isHidden()
    panel.together.setChecked(True)
    assert presenter.together
    presenter.trackers.name = CLASSICAL
    presenter.trackers.changed.emit()
    assert panel.together.isHidden() and panel.away.isHidden()
    cluster[0] = ""
    panel.show_cluster("a cluster")
    assert not panel.away.isHidden()
    desk.set_span(2, 5)
    assert (panel.first.value(), panel.last.value()) == (2, 4)
    heard: list[Any] = []
    desk.span_changed.connect(heard.append)
    panel.last.setValue(7)
    assert heard == [], "while somebody types"
    panel.last.editingFinished.emit()
    assert heard == [(2, 8)] and panel.last.value() == 7
    panel.first.setValue(9)
    panel.first.editingFinished.emit()
    assert desk.span == (9, 10) and panel.last.value() == 9
    desk.set_project(None)
    assert (panel.first.maximum(), panel.last.maximum(), panel.last.value()) == (0, 0, 0)


class Proposes:
    """Masks that wait, and what was asked for."""

    preview_changed = Signal(object)

    def __init__(self, desk: Desk) -> None:
        self.desk, self.job = desk, Job(held)
        self.preview: Any = None
        self.object_id: int | None = 1
        self.asked: list[str] = []

    def keep(self) -> None:
        self.asked.append("keep")

    def discard(self) -> None:
        self.asked.append("discard")
        raise InputError("Not now.")


def test_a_bar_asks_about_what_waits(qtbot: Any, project: Project) -> None:
    viewer, desk, refused = ViewerModel(), Desk(), list[str]()
    link = ViewerLink(viewer, desk, Bridge(desk), lambda back: None)
    presenter = Proposes(desk)
    commands = Commands(viewer, lambda failure: refused.append(failure.summary))
    bar = PreviewBar(presenter, link, commands)
    qtbot.addWidget(bar)
    masks = np.zeros((10, 6, 8), bool)
    masks[3:6, 1:5, 1:5] = True
    shown = SimpleNamespace(name="spread", frames=(3,), mask=lambda t: masks[t])

    def propose(preview: Any) -> None:
        presenter.preview = preview
        presenter.preview_changed.emit(preview)

    propose(shown)
    assert bar.overlay.data is None, "there is no project"
    desk.set_project(project)
    propose(shown)
    assert not bar.isHidden() and bar.text.text() == "spread"
    assert bar.keep_button.isEnabled() and bar.discard_button.text() == "discard"
    data = bar.overlay.data
    assert data is not None and data.shape == (6, 8) and data.ready == {3}
    np.testing.assert_array_equal(np.bincount(data.frame(3).ravel()), [32, 4, 12])
    drawn: list[int] = []
    bar.overlay.refresh = lambda: drawn.append(1)  # type: ignore[method-assign]
    bar.note_frames(4, 5)
    bar.note_frames(5, 7)
    assert drawn == [] and data.ready == {3, 4, 5, 6}
    qtbot.waitUntil(lambda: bar.text.text() == "spread: 4 frames")
    assert drawn == [1], "once for many"
    presenter.job._set_phase(Phase.RUNNING)
    assert not bar.keep_button.isEnabled() and bar.discard_button.text() == "cancel"
    presenter.job._set_phase(Phase.IDLE)
    assert bar.keep_button.isEnabled() and bar.discard_button.text() == "discard"
    bar.keep_button.click()
    bar.discard_button.click()
    assert presenter.asked == ["keep", "discard"] and refused == ["Not now."]
    propose(SimpleNamespace(name="nothing yet", frames=(), mask=None, draw=None))
    assert bar.text.text() == "nothing yet: 0 frames"
    marks: list[int] = []
    propose(
        SimpleNamespace(
            name="pick", frames=(2,), mask=lambda t: masks[t], draw=lambda t, out: marks.append(t)
        )
    )
    assert bar.overlay.data.frame(2).sum() == 0 and marks == [2]
    propose(None)
    assert bar.isHidden() and bar.overlay.data is None and not bar.keep_button.isEnabled()
    bar.note_frames(0, 3)
    qtbot.wait(90)
    assert bar.text.text() == "pick", "nothing waits"
