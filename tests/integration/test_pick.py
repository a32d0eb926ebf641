"""Picking an object with the mouse in a shown viewer, from nothing but a video.

The pictures go to ``$FLOWRVS_PICTURES``, where it is set, to be looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from qtpy.QtCore import Qt

from flowrvs.editing.pick import Mark
from flowrvs.store import Provenance
from napari_flowrvs.pick.presenter import PickPresenter
from tests.fixtures.trackers import ColorTracker
from tests.integration.annotator import SIDE, TRUTH, Person, corner, iou

MakePerson = Callable[..., Person]
SHIFT, ALT = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.AltModifier
CONTROL = Qt.KeyboardModifier.ControlModifier


def middle(t: int) -> tuple[float, float]:
    y, x = corner(t)
    return y + SIDE / 2, x + SIDE / 2


def answered(person: Person) -> PickPresenter:
    """Wait until the last mark is answered."""
    pick = person.dock.session.pick
    person.until(lambda: not pick.job.busy and pick.answered)
    return pick


def test_an_object_is_picked_with_the_mouse(make_person: MakePerson) -> None:
    person = make_person()
    dock, viewer, desk = person.dock, person.viewer, person.dock.session.desk
    dock.find.sentences.set_texts(())
    person.page("Pick")
    # One key from anywhere: there is no project yet, and one is made.
    person.press("W")
    person.until(lambda: dock.session.pick.active)
    person.rest()
    project = desk.project
    assert project is not None and len(project.objects) == 1
    desk.go_to(0)
    center = viewer.scene.camera.center
    # A click: this.
    person.stroke(middle(0))
    pick = answered(person)
    assert [m.kind for m in pick.marks] == ["point"] and pick.marks[0].positive
    y, x = middle(0)
    assert pick.marks[0].points[0] == pytest.approx((x + 0.5, y + 0.5), abs=0.6)
    seen = pick.preview.found
    assert (seen & TRUTH[0]).sum() / (seen | TRUTH[0]).sum() > 0.9
    overlay = dock.footer.picked.overlay
    assert overlay.shown and overlay.data.frame(0).max() == 4  # its mark is drawn, too
    assert dock.footer.picked.isVisible() and not project.present(1).any()
    # Shift-click and the right button: not this. A drag: a box. With Ctrl: a scribble.
    person.stroke((100, 150), modifier=SHIFT)
    person.stroke((110, 180), button=Qt.MouseButton.RightButton)
    y, x = corner(0)
    person.stroke((y - 4, x - 4), (y + 20, x + 20), (y + SIDE + 4, x + SIDE + 4), lost=1)
    person.stroke((y + 8, x + 8), (y + 10, x + 25), modifier=CONTROL)
    pick = answered(person)
    kinds = [(m.kind, m.positive) for m in pick.marks]
    assert kinds == [
        ("box", True), ("point", True), ("point", False), ("point", False), ("scribble", True)
    ]  # fmt: skip
    person.look("pick")
    assert viewer.scene.camera.center == center  # dragging did not move the picture
    # A mark is moved, another one taken away.
    person.stroke((100, 150), (90, 140))
    assert pick.marks[2].points[0] == pytest.approx((140.5, 90.5), abs=1.5)
    person.stroke((110, 180), modifier=ALT)
    person.press("Shift+W")
    pick = answered(person)
    assert [m.kind for m in pick.marks] == ["box", "point", "point"]
    # Kept by Enter, as a person's step; the next frame by Y; Esc forgets.
    person.press("Return")
    person.rest()
    assert iou(project, 0) > 0.9 and project.provenance(1)[0] == Provenance.HUMAN
    assert not pick.marks and pick.active and not overlay.shown
    desk.go_to(12)
    person.stroke(middle(12))
    answered(person)
    person.press("Y")
    person.rest()
    assert iou(project, 12) > 0.9
    desk.go_to(20)
    person.stroke(middle(20))
    answered(person)
    person.press("Escape")
    person.rest()
    assert not pick.marks and pick.active and project.provenance(1)[20] == Provenance.EMPTY
    person.press("Escape")
    assert not pick.active and viewer.layers.selection.active.mouse_pan
    # Undo takes back the last pick.
    person.press("Ctrl+Z")
    person.rest()
    assert not project.present(1)[12] and iou(project, 0) > 0.9
    # The brush is the brush again, and taking it puts the tool away.
    person.press("W")
    assert pick.active
    person.press("2")
    assert not pick.active and viewer.layers.selection.active.mode == "paint"
    assert not overlay.shown and len(viewer.layers) == 2
    t = desk.frame
    before = project.object_mask(1, t, t + 1)[0].sum()
    person.stroke((100, 20), (100, 30))
    assert project.object_mask(1, t, t + 1)[0].sum() > before and not pick.marks


def test_the_interface_is_not_held_up(make_person: MakePerson) -> None:
    """What a mark and its answer cost on the interface's own thread, drawing aside."""
    person = make_person()
    person.dock.session.desk.go_to(0)
    person.press("W")
    person.until(lambda: person.dock.session.pick.active)
    person.rest()
    pick = person.dock.session.pick
    seconds: list[float] = []
    answer = pick._on_answer

    def timed(item: object) -> None:
        began = time.thread_time()
        answer(item)
        seconds.append(time.thread_time() - began)

    pick._on_answer = timed  # type: ignore[method-assign]
    for y, x in (middle(0), (100, 150), (20, 150), (60, 120)):
        began = time.thread_time()
        pick.add(Mark.point(x, y, (y, x) == middle(0)))
        seconds.append(time.thread_time() - began)
        answered(person)
    assert len(seconds) >= 8
    assert float(np.median(seconds)) < 0.05


def test_scissors_and_a_tracker_with_the_mouse(
    make_person: MakePerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = make_person()
    dock, desk = person.dock, person.dock.session.desk
    tracker = ColorTracker(reach=80)
    monkeypatch.setattr(dock.session.trackers, "_load", lambda name: tracker)
    dock.find.sentences.set_texts(())
    person.page("Pick")
    person.press("W")
    person.until(lambda: dock.session.pick.active)
    person.rest()
    pick, project = dock.session.pick, desk.project
    assert project is not None
    desk.go_to(0)
    # Clicks are corners; Enter closes the outline, a second Enter keeps it.
    dock.pick.drag.setCurrentIndex(2)
    dock.pick.drag.activated.emit(2)
    y, x = corner(0)
    for dy, dx in ((1, 1), (0, SIDE - 1), (SIDE - 2, SIDE - 1), (SIDE - 1, 1)):
        person.stroke((y + dy, x + dx))
        settled = len(pick.corners)
        person.until(lambda n=settled: not pick.job.busy and len(pick._outline.corners) == n)
        if settled == 1:
            # Before the next corner, the way to the mouse is shown.
            overlay = dock.footer.picked.overlay
            assert overlay.data.frame(0)[y + SIDE // 2, x + SIDE - 1] == 0
            person.hover(y + SIDE - 2, x + SIDE - 1)
            wire = overlay.data.frame(0) == 4
            assert wire[y + SIDE - 2, x + SIDE - 1] and len(pick.corners) == 1
            assert wire[y + 2 : y + SIDE - 2].any(axis=1).all(), "the way has no gap"
            person.look("wire")
            person.hover(y + 1, x + SIDE + 9)
            assert not (overlay.data.frame(0) == 4)[y + SIDE - 2, x + SIDE - 1]
    assert len(pick.corners) == 4
    assert [dock.pick.list.item(i).text()[:6] for i in range(4)] == ["corner"] * 4
    person.look("scissors")
    person.press("Return")
    person.until(
        lambda: not pick.job.busy and pick.preview is not None and pick.preview.found.any()
    )
    assert not pick.corners and not project.present(1).any()
    person.press("Return")
    person.rest()
    assert iou(project, 0) > 0.85 and not pick.waiting
    dock.pick.drag.setCurrentIndex(0)
    dock.pick.drag.activated.emit(0)
    # A tracker that is chosen on the page looks at the frame at once, and answers the clicks.
    dock.session.trackers.known["colours"] = True
    dock.session.trackers.changed.emit()
    box = dock.pick.tracker
    box.setCurrentIndex(box.findData("colours"))
    box.activated.emit(box.currentIndex())
    desk.go_to(10)
    person.until(lambda: tracker.encoded > 0 and not pick.job.busy)
    assert dock.correct.tracker.currentData() == "colours"
    person.stroke(middle(10))
    answered(person)
    assert pick.preview is not None and "with colours" in pick.preview.name
    person.press("Y")
    person.rest()
    assert iou(project, 10) > 0.9
    # It spreads from both frames by memory, as a preview that is kept.
    person.page("Correct")
    assert dock.correct.together.isVisibleTo(dock.correct)
    person.press("S")
    person.until(lambda: dock.session.correct.preview is not None)
    person.rest()
    assert len(dock.session.correct.preview.frames) == len(TRUTH) - 2
    person.press("Y")
    person.rest()
    assert iou(project, 30) > 0.9
    assert "spread" in project.undo_name and "with colours" in project.undo_name
