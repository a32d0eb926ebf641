"""The page Find while a run is asked for, goes on and ends; nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QFocusEvent, QKeyEvent

from flowrvs.errors import InputError
from flowrvs.progress import Progress
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Desk
from napari_flowrvs.find.panel import FindPanel, SentencesPanel
from napari_flowrvs.find.presenter import SegmentInputs, SegmentPresenter
from napari_flowrvs.job import Phase
from napari_flowrvs.models.presenter import ModelPresenter
from napari_flowrvs.recent import Recent
from napari_flowrvs.source import VideoSource
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands
from napari_flowrvs.widgets.parts import ProgressLine
from tests.unit.napari_flowrvs.conftest import held


class Page(SimpleNamespace):
    """The page, what it was asked for, and what it refused."""

    panel: FindPanel
    line: ProgressLine
    recent: Recent
    refused: list[str]
    asked: list[SegmentInputs]


@pytest.fixture
def page(qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    viewer, desk, refused = ViewerModel(), Desk(), list[str]()
    link = ViewerLink(viewer, desk, Bridge(desk), lambda back: None)
    commands = Commands(viewer, lambda failure: refused.append(failure.summary))
    presenter, recent, line = SegmentPresenter(held), Recent(tmp_path / "m.json"), ProgressLine()
    panel = FindPanel(presenter, ModelPresenter(held), recent, commands, line, link)
    qtbot.addWidget(panel)
    qtbot.addWidget(line)
    panel.set_video(VideoSource("clip", 9, None, np.zeros((9, 4, 5), np.uint8)), ("of a sample",))
    asked: list[SegmentInputs] = []
    start = presenter.job.start

    def begin(work: Any, on_item: Any) -> None:
        asked.append(panel.inputs())
        start(work, on_item)

    monkeypatch.setattr(presenter.job, "start", begin)
    panel.show()
    panel.activateWindow()
    qtbot.waitUntil(panel.isActiveWindow)
    yield Page(panel=panel, line=line, recent=recent, refused=refused, asked=asked)
    presenter.job.close(0.0)


def test_what_waits_while_a_run_goes_on(page: Page) -> None:
    panel, job, idle = page.panel, page.panel.presenter.job, list[bool]()
    panel.idle_changed.connect(idle.append)

    def enabled() -> list[bool]:
        parts = (panel.run_button, panel.draw_button, panel.offers, panel.options)
        return [part.isEnabled() for part in (*parts, panel.sentences.history)]

    assert enabled() == [True] * 5 and not panel.cancel_button.isEnabled()
    panel.run_button.setFocus()
    panel.sentences.set_texts((" red  one ", ""))
    panel.run_button.click()
    assert len(page.asked) == 1 and page.recent.sentences == ("red one",) and idle == [False]
    assert enabled() == [False] * 5 and panel.cancel_button.isEnabled()
    assert panel.sentences.edit.isReadOnly() and panel.focusWidget() is panel.cancel_button
    panel.run()
    panel.draw()
    assert len(page.asked) == 1 and page.refused == [], "nothing happens while one is running"
    for ask in (panel.model, panel.begin_drawing):
        with pytest.raises(InputError, match="A run is going on: wait for it, or cancel it."):
            ask()
    job.progressed.emit(Progress(1, 4, "Frame 1"))
    assert page.line.status.text() == "Frame 1"
    panel.cancel_button.click()
    assert job.phase is Phase.STOPPING and panel.focusWidget() is panel.cancel_button
    assert page.line.status.text() == "Stopping at the end of this step"
    job.progressed.emit(Progress(2, 4, "Frame 2"))
    assert page.line.status.text() == "Stopping at the end of this step"
    job._set_phase(Phase.IDLE)
    job.cancelled.emit()
    stopped = "Stopped. Finished frames are kept; Run goes on where it stopped."
    assert page.line.status.text() == stopped and enabled() == [True] * 5
    assert panel.focusWidget() is panel.run_button, "the keyboard stays where it was"
    panel.sentences.edit.setFocus()
    panel.run()
    assert panel.focusWidget() is not panel.cancel_button
    page.line.say("")
    panel.close_all()
    assert page.line.status.text() == stopped and not job.busy and enabled() == [True] * 5
    page.line.say("")
    panel.close_all()
    assert page.line.status.text() == "", "nothing was stopped"


def test_what_a_run_needs_is_asked_for(page: Page) -> None:
    panel = page.panel
    panel.options.model.setFocus()
    panel.sentences.run_requested.emit()
    assert "There is no sentence" in page.refused[0] and page.asked == []
    assert panel.focusWidget() is panel.sentences.edit

    def busy() -> None:
        raise InputError("Something else is going on.")

    panel.check_free = busy
    panel.sentences.set_texts(("red",))
    panel.options.model.setFocus()
    panel.run()
    assert page.refused[1:] == ["Something else is going on."] and page.asked == []
    assert panel.focusWidget() is panel.options.model and page.recent.sentences == ()
    panel.draw()
    assert len(page.asked) == 1 and len(page.refused) == 2, "drawing needs no model"
    panel.presenter.job.close(0.0)
    panel.check_free = lambda: None
    panel.set_video(None)
    panel.sentences.set_texts(())
    panel.run_button.setFocus()
    panel.run()
    assert "There is no video" in page.refused[2]
    assert panel.focusWidget() is panel.run_button, "it is the video that is missing"
    panel._link.desk.set_frame(7)
    assert panel.inputs().frame == 7 and panel.inputs().project is None
    panel.presenter.estimated.emit("8 GB of 24")
    assert panel.options.estimate.text() == "8 GB of 24" and page.recent.models == ("tiny",)
    panel.options.model.setEditText("/a/folder")
    assert panel.options.estimate.isHidden(), "of another model nothing is known"
    panel.options.remember()
    assert panel.options.model.findText("/a/folder") > 0
    panel.options.show_estimate("x")
    panel.options.memory.value = "low"
    assert panel.options.estimate.isHidden()
    panel.options.show_estimate("x")
    panel.options.device.value = "cpu"
    assert panel.options.estimate.isHidden()
    panel.offer_models({"good": "", "bad": "It is broken."})
    box = panel.options.model
    tips = [box.itemData(box.findText(n), Qt.ItemDataRole.ToolTipRole) for n in ("good", "bad")]
    assert tips == [None, "It is broken."]
    panel.presenter.finished.emit("Done.")
    assert page.line.status.text() == "Done."


def test_the_history_is_a_menu(qtbot: Any, tmp_path: Path) -> None:
    recent = Recent(tmp_path / "memory.json")
    panel = SentencesPanel(recent)
    qtbot.addWidget(panel)

    def menu() -> list[tuple[str, bool]]:
        panel._menu.aboutToShow.emit()
        actions = panel._menu.actions()
        return [("---" if a.isSeparator() else a.text(), a.isEnabled()) for a in actions]

    assert menu() == [("no sentences yet", False)]
    for typed, given, wanted in (
        ((), ("a", "b"), ("a", "b")),  # nothing was typed
        (("a", "b"), ("c",), ("c",)),  # what another project gave
        (("x", "", "y"), ("d",), ("x", "", "y")),  # somebody types
        (("", ""), ("e",), ("e",)),
    ):
        panel.set_texts(typed)
        panel.offer(given)
        assert panel.texts == wanted
    panel.set_texts(())
    panel.suggest(("a & b", "x" * 60, "y" * 61))
    assert [text for text, _ in menu()] == ["a && b", "x" * 60, "y" * 59 + "…"], "nobody's own"
    recent.add_sentences([f"number {i}" for i in range(30)])
    found = [text for text, _ in menu()]
    assert found[3:] == [*(f"number {i}" for i in range(17)), "---", "forget all"]
    panel._menu.actions()[2].trigger()
    panel._menu.actions()[0].trigger()
    assert panel.texts == ("y" * 61, "a & b"), "whole, each on a line of its own"
    assert panel.edit.textCursor().atEnd()
    panel.insert("a & b")
    assert len(panel.texts) == 2
    panel._menu.actions()[-1].trigger()
    assert recent.sentences == () and len(menu()) == 3


def test_keys_of_the_edit(qtbot: Any, tmp_path: Path) -> None:
    panel = SentencesPanel(Recent(tmp_path / "memory.json"))
    qtbot.addWidget(panel)
    heard: list[str] = []
    panel.run_requested.connect(lambda: heard.append("run"))
    panel.begun.connect(lambda: heard.append("begun"))
    for _ in range(2):
        panel.eventFilter(panel.edit, QFocusEvent(QEvent.Type.FocusIn))
    assert heard == ["begun"], "once"
    control, none = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.NoModifier

    def key(key: Any, modifier: Any, kind: Any = QEvent.Type.KeyPress) -> tuple[bool, bool]:
        event = QKeyEvent(kind, key, modifier)
        event.setAccepted(False)
        return panel.eventFilter(panel.edit, event), event.isAccepted()

    keys, override = Qt.Key, QEvent.Type.ShortcutOverride
    ours = (keys.Key_Return, keys.Key_Enter, keys.Key_Up, keys.Key_Down)
    assert [key(each, control, override) for each in ours] == [(True, True)] * 4
    assert heard == ["begun"], "a shortcut is only claimed"
    assert [key(each, none) for each in ours] == [(False, False)] * 4
    assert key(keys.Key_A, control) == (False, False)
    assert key(keys.Key_Return, control, QEvent.Type.KeyRelease) == (False, False)
    for each in (keys.Key_Return, keys.Key_Enter):
        assert key(each, control)[0]
    assert heard == ["begun", "run", "run"]
    assert key(keys.Key_Up, control) == (True, False) and panel.texts == (), "there is no history"
    panel.suggest(("one", "two"))
    panel.edit.setPlainText("first\nsecond")
    cursor = panel.edit.textCursor()
    cursor.setPosition(8)
    panel.edit.setTextCursor(cursor)
    seen = []
    for each in (*([keys.Key_Up] * 3), *([keys.Key_Down] * 3), keys.Key_Up):
        key(each, control)
        seen.append(panel.texts[1:])
    assert seen == [("one",), ("two",), ("two",), ("one",), (), (), ("one",)]
    assert panel.texts[0] == "first"
    panel.remember(("three",))
    key(keys.Key_Up, control)
    assert panel.texts[1] == "one", "from the newest again"
