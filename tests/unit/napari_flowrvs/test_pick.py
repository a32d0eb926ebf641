"""Marks become a preview and a person's step, without a screen."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.editing.pick import Mark
from flowrvs.errors import InputError, PluginError
from flowrvs.store import Project, Provenance
from flowrvs.video import open_video
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.job import consume
from napari_flowrvs.motion import Motion
from napari_flowrvs.pick.presenter import Picked, PickPresenter, Target
from napari_flowrvs.source import VideoSource
from napari_flowrvs.trackers import CLASSICAL, Trackers
from tests.fixtures.packages import install
from tests.fixtures.scene import FRAMES, FRAMES_OF_SCENE, TRUTH, iou
from tests.fixtures.trackers import ColorTracker


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """One object that is nowhere yet."""
    with open_video(FRAMES_OF_SCENE) as video:
        info = video.info
    with Project.create(tmp_path / "clip", info) as made:
        made.add_object("square", made.add_layer("by hand").id)
        yield made


@pytest.fixture
def pick(desk: Desk, motion: Motion) -> Iterator[PickPresenter]:
    presenter = PickPresenter(desk, motion)
    failures: list[object] = []
    presenter.job.failed.connect(failures.append)
    yield presenter
    presenter.close()
    motion.close()
    assert not failures


def test_a_click_is_shown_and_kept_as_one_step(
    pick: PickPresenter, desk: Desk, project: Project
) -> None:
    said: list[str] = []
    for job in (pick.job, pick.steps.job):
        job.progressed.connect(lambda event: said.append(event.message))
    desk.set_frame(4)
    pick.start()
    assert pick.active and pick.preview is None
    pick.add(Mark.point(30, 32))
    assert pick.preview is not None and pick.preview.frames == (4,)
    assert iou(pick.preview.mask(4), TRUTH[4]) > 0.9
    assert not project.present(1).any()  # nothing is written before
    noted: list[str] = []
    pick.noted.connect(noted.append)
    pick.keep()
    assert iou(project.object_mask(1, 4, 5)[0], TRUTH[4]) > 0.9
    assert project.provenance(1)[4] == Provenance.HUMAN
    assert noted == ["'square' picked on frame 4."]
    # What was kept changes what the next pick starts from.
    assert said == ["Looking at frame 4", "Writing the pick", "Looking at frame 4"]
    assert pick.active and not pick.marks and pick.preview is None
    assert project.undo_name == "pick on frame 4"
    project.undo()
    assert not project.present(1).any()


def test_marks_are_moved_removed_and_taken_back(pick: PickPresenter) -> None:
    pick.start()
    pick.add(Mark.point(20, 32))
    alone = pick.preview.found
    pick.add(Mark.point(80, 10, False))
    pick.move(1, 70, 12)
    assert pick.marks[1] == Mark.point(70, 12, False)
    pick.add(Mark.box(8, 18, 36, 46))
    assert [m.kind for m in pick.marks] == ["box", "point", "point"]
    pick.add(Mark.box(9, 17, 36, 46))
    assert [m.kind for m in pick.marks] == ["box", "point", "point"]
    pick.remove(0)
    pick.take_back()
    assert pick.marks == (Mark.point(20, 32),)
    assert np.array_equal(pick.preview.found, alone)
    pick.take_back()
    assert pick.preview is None and not pick.marks


def test_what_is_forgotten_leaves_no_trace(pick: PickPresenter, project: Project) -> None:
    pick.start()
    pick.add(Mark.point(20, 32))
    pick.discard()
    assert pick.preview is None and not pick.marks and pick.active
    pick.keep()
    assert not project.present(1).any() and project.undo_name is None


def test_a_new_object_is_made_when_it_is_kept_and_chosen(
    pick: PickPresenter, desk: Desk, project: Project
) -> None:
    pick.start()
    pick.choose(target=Target.NEW)
    pick.add(Mark.point(20, 32))
    assert list(project.objects) == [1]
    pick.keep()
    assert list(project.objects) == [1, 2] and desk.object_id == 2
    assert project.objects[2].layer == project.objects[1].layer
    assert iou(project.object_mask(2, 0, 1)[0], TRUTH[0]) > 0.9
    assert pick.target is Target.CHOSEN  # on the next frame it is mended
    project.undo()
    assert list(project.objects) == [1]
    # There is nothing yet to take away from: what was picked is what it is.
    pick.choose(target=Target.NEW, rule="subtract")
    pick.add(Mark.point(20, 32))
    pick.keep()
    assert iou(project.object_mask(desk.object_id, 0, 1)[0], TRUTH[0]) > 0.9


def test_the_chosen_object_is_mended_added_to_and_taken_away_from(
    pick: PickPresenter, project: Project
) -> None:
    flawed = TRUTH[0].copy()
    flawed[:30] = False
    project.write_masks(1, 0, flawed[None])
    pick.start()
    pick.add(Mark.point(22, 24))
    assert iou(pick.preview.found, TRUTH[0]) > 0.85
    pick.choose(rule="subtract")
    assert iou(pick.preview.found, TRUTH[0]) > 0.9  # by itself, not from what is there
    pick.keep()
    assert iou(project.object_mask(1, 0, 1)[0] | TRUTH[0], TRUTH[0]) > 0.9
    assert project.object_mask(1, 0, 1)[0].sum() < 0.2 * flawed.sum()
    pick.choose(rule="union")
    pick.add(Mark.point(22, 32))
    pick.keep()
    assert iou(project.object_mask(1, 0, 1)[0], TRUTH[0]) > 0.9


def test_clicks_choose_among_what_a_model_found(pick: PickPresenter, project: Project) -> None:
    found = TRUTH[0].copy()
    found[5:12, 70:90] = True
    project.write_model(project.objects[1].layer, 1, 0, found[None])
    pick.start()
    pick.add(Mark.point(20, 32))
    assert np.array_equal(pick.preview.found, TRUTH[0])


def test_marks_of_another_frame_are_not_lost(pick: PickPresenter, desk: Desk) -> None:
    pick.start()
    pick.add(Mark.point(20, 32))
    desk.set_frame(3)
    assert pick.preview is not None and pick.preview.frames == (0,)
    with pytest.raises(InputError, match="frame 0 waits: keep it"):
        pick.add(Mark.point(30, 32))
    pick.stop()
    assert pick.preview is not None  # it waits though the tool was put away
    pick.keep()
    assert pick.preview is None


def test_a_locked_frame_says_so_and_keeps_the_marks(
    desk: Desk, motion: Motion, project: Project
) -> None:
    pick = PickPresenter(desk, motion)
    failures: list[object] = []
    pick.steps.job.failed.connect(failures.append)
    project.lock_frames(1, 0, 1)
    pick.start()
    pick.add(Mark.point(20, 32))
    pick.keep()
    assert "is locked: unlock" in failures[0].summary
    assert pick.marks and pick.preview is not None and not project.present(1).any()
    pick.close()
    motion.close()


def test_marks_made_meanwhile_are_answered_together(
    desk: Desk, motion: Motion, project: Project
) -> None:
    """An answer that comes late is to other marks than there are: it is not shown."""
    pending: list[object] = []

    class Task:
        def wait(self, timeout: float) -> bool:
            return True

    def later(work, token, *, item, progress, done):
        pending.append(lambda: done(consume(work, token, item, progress)))
        return Task()

    pick = PickPresenter(desk, motion, later)
    shown: list[object] = []
    pick.preview_changed.connect(shown.append)
    pick.start()
    pick.add(Mark.point(20, 32))
    pick.add(Mark.point(80, 10, False))
    assert len(pending) == 1
    with pytest.raises(InputError, match="wait a moment"):
        pick.keep()
    pending.pop(0)()  # the frame was looked at
    assert len(pending) == 1 and not shown
    pick.add(Mark.point(85, 50, False))
    pending.pop(0)()  # an answer to two marks
    assert not shown
    pending.pop(0)()
    assert len(shown) == 1 and not pending
    pick.close()
    motion.close()


def test_without_a_project_it_says_what_to_do(motion: Motion) -> None:
    pick = PickPresenter(Desk(), motion)
    with pytest.raises(InputError, match="no project to pick in"):
        pick.start()


def test_nothing_of_it_holds_the_interface_up(desk: Desk, motion: Motion, project: Project) -> None:
    """All work is done by the runner: not on the thread that adds the mark."""
    threads: list[threading.Thread] = []

    def elsewhere(work, token, *, item, progress, done):
        def run() -> None:
            done(consume(work, token, item, progress))

        thread = threading.Thread(target=run)
        threads.append(thread)
        thread.start()
        thread.join()

        class Task:
            def wait(self, timeout: float) -> bool:
                return True

        return Task()

    pick = PickPresenter(desk, motion, elsewhere)
    pick.start()
    pick.add(Mark.point(20, 32))
    assert len(threads) >= 2 and pick.preview is not None
    pick.close()
    motion.close()


def test_a_tracker_encodes_ahead_and_answers_every_mark(
    desk: Desk, motion: Motion, project: Project
) -> None:
    tracker = ColorTracker(reach=90)
    trackers = Trackers(load=lambda name: tracker)
    pick = PickPresenter(desk, motion, trackers=trackers)
    trackers.choose("colours")
    assert tracker.encoded == 0  # nothing before the tool is taken up
    pick.start()
    assert tracker.encoded == 1 and tracker.previous == []
    pick.add(Mark.point(20, 30))
    assert tracker.encoded == 1 and tracker.previous == [None]
    assert pick.preview is not None and iou(pick.preview.found, TRUTH[0]) > 0.95
    assert pick.preview.name == "pick with colours on frame 0"
    pick.add(Mark.point(60, 10, False))
    assert tracker.previous[1] is not None  # refined from the last answer
    pick.keep()
    assert project.undo_name == "pick with colours on frame 0"
    desk.set_frame(3)
    pick.prepare()
    desk.set_frame(0)
    pick.prepare()
    assert tracker.encoded == 2  # both are kept
    trackers.choose(CLASSICAL)
    pick.add(Mark.point(20, 30))
    assert tracker.encoded == 2 and pick.preview is not None
    assert pick.preview.name == "pick on frame 0"
    pick.close()


def test_a_tracker_that_cannot_be_loaded_gives_way(desk: Desk, motion: Motion) -> None:
    def load(name: str) -> ColorTracker:
        raise InputError("The weights are not here: fetch them.")

    trackers = Trackers(load=load)
    pick = PickPresenter(desk, motion, trackers=trackers)
    failures: list = []
    pick.job.failed.connect(failures.append)
    trackers.choose("absent")
    pick.start()
    assert failures[0].summary == "The weights are not here: fetch them."
    assert trackers.name == CLASSICAL
    pick.add(Mark.point(20, 30))
    assert pick.preview is not None
    trackers.choose("absent")
    assert len(failures) == 2 and trackers.name == CLASSICAL and pick.answered, "of what was marked"
    pick.close()


def test_marks_outlast_what_goes_wrong(
    desk: Desk, motion: Motion, project: Project, tmp_path: Path
) -> None:
    """Neither an object that is removed nor a disk that is away takes a person's marks along."""
    pending: list[Callable[[], None]] = []

    def later(work: Any, token: Any, *, item: Any, progress: Any, done: Any) -> None:
        pending.append(lambda: done(consume(work, token, item, progress)))

    trackers = Trackers(load=lambda name: ColorTracker())
    trackers.choose("colours")
    pick = PickPresenter(desk, motion, later, trackers=trackers)
    failures: list[Any] = []
    pick.job.failed.connect(failures.append)
    pick.start()
    pick.add(Mark.point(20, 30))
    project.remove_object(1)
    pending.pop()()
    assert failures == [] and trackers.name == "colours", "it is not to blame"
    pending.pop()()
    assert pick.preview is not None and pick.object_id is None, "it would be a new object"
    project.undo()
    motion.set_source(VideoSource("away", FRAMES, str(tmp_path / "away.mp4")))
    pick.add(Mark.point(80, 10, False))
    while pending:
        pending.pop()()
    assert "away.mp4" in failures[0].summary and trackers.name == "colours"
    assert pick.marks == (Mark.point(20, 30), Mark.point(80, 10, False))
    with pytest.raises(InputError, match="wait a moment"):
        pick.keep()
    motion.set_source(VideoSource("scene", FRAMES, None, FRAMES_OF_SCENE))
    pending.pop()()
    with pytest.raises(InputError, match="wait a moment"):
        pick.keep()
    pending.pop()()
    assert pick.answered and pick.object_id == 1
    # A tracker has no part in an outline.
    pick.discard()
    while pending:
        pending.pop()()
    motion.set_source(VideoSource("away", FRAMES, str(tmp_path / "away.mp4")))
    pick.corner(20, 30)
    pending.pop()()
    assert "away.mp4" in failures.pop().summary and trackers.name == "colours"
    pick.discard()
    while pending:
        pending.pop()()
    failures.pop()
    motion.set_source(VideoSource("scene", FRAMES, None, FRAMES_OF_SCENE))
    # What was asked of another project says nothing any more.
    pick.add(Mark.point(85, 50, False))
    desk.set_project(None)
    assert not pick.job.busy and not pick.marks
    pending.pop()()
    assert len(failures) == 2 and pick.preview is None
    pick.close()


def test_trackers_of_packages_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = {
        "flowrvs.trackers": {
            "colours": "tests.fixtures.trackers:load",
            "gone": "no_such_module.here:load",
        },
        "flowrvs.segmenters": {"words": "word_models.deep:load"},
    }
    install(monkeypatch, tmp_path, "colour-things", groups, {"word_models": ""})
    trackers = Trackers()
    found: dict[str, str] = {}
    trackers.segmenters_found.connect(lambda faults: found.update(faults))
    trackers.look()
    assert trackers.known["colours"] and trackers.known[CLASSICAL]
    assert found["words"] == "its module word_models.deep is not there"
    assert trackers.name == CLASSICAL  # another package's is not taken unasked
    assert trackers.text("colours") == "colours"
    encodings = trackers.encodings("colours", lambda _event: None)
    assert encodings is not None and encodings.tracker.name == "colours"
    assert trackers.encodings("colours", lambda _event: None) is encodings


def test_what_a_tracker_is_made_of_is_imported_once_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups = {"flowrvs.trackers": {"slow": "slow_things:load", "broken": "broken_things:load"}}
    slow = (
        "import threading\n"
        "by = []\n"
        "def warm_up(model):\n"
        "    by.append((model, threading.current_thread().name))\n"
    )
    modules = {
        "slow_things": f"{slow}from tests.fixtures.trackers import load",
        "broken_things": "x",
    }
    install(monkeypatch, tmp_path, "slow-things", groups, modules)
    trackers = Trackers()
    trackers.look()
    assert "slow_things" not in sys.modules  # another package's is not imported unasked

    def choose(name: str) -> None:
        trackers.choose(name)
        for thread in threading.enumerate():
            if thread.name == "flowrvs-imports":
                thread.join(20)

    choose("slow")
    assert sys.modules.pop("slow_things").by == [("slow", "flowrvs-imports")]
    choose("broken")
    with pytest.raises(PluginError, match="broken_things|NameError"):  # told to whoever loads it
        trackers.encodings("broken", lambda _event: None)


def test_scissors_snap_close_and_are_mended(
    pick: PickPresenter, project: Project, desk: Desk
) -> None:
    corners = [(11, 21), (32, 22), (33, 42), (11, 43)]  # a pixel or two inside the square
    for x, y in corners[:2]:
        pick.corner(x, y)
    assert pick.corners == ((11.0, 21.0), (32.0, 22.0)) and pick.waiting
    assert pick.preview is not None and not pick.preview.found.any()
    assert len(pick.preview.line) > 10  # along the edge, not straight
    drawn = np.zeros((64, 96), np.uint8)
    pick.preview.draw(0, drawn)
    assert (drawn == 4).sum() > 20
    with pytest.raises(InputError, match="three corners"):
        pick.keep()
    with pytest.raises(InputError, match="not closed"):
        pick.add(Mark.point(3, 3))
    pick.corner(80, 60)
    pick.take_back()
    assert len(pick.corners) == 2
    for x, y in corners[2:]:
        pick.corner(x, y)
    pick.keep()  # closes it
    assert pick.corners == () and pick.waiting and not project.present(1).any()
    assert iou(pick.preview.found, TRUTH[0]) > 0.8
    with pytest.raises(InputError, match="Marks wait"):
        pick.corner(3, 3)
    desk.set_frame(4)
    with pytest.raises(InputError, match="on frame 0 waits"):
        pick.add(Mark.point(3, 3))
    desk.set_frame(0)
    pick.add(Mark.point(80, 10))  # and this
    assert pick.preview.found[10, 80] and pick.preview.found[30, 20]
    pick.take_back()
    assert not pick.preview.found[10, 80]
    pick.keep()
    assert iou(project.object_mask(1, 0, 1)[0], TRUTH[0]) > 0.8
    assert not pick.waiting and pick.preview is None


def test_the_wire_follows_the_mouse_along_edges(pick: PickPresenter) -> None:
    pick.hover(30, 30)
    assert pick.preview is None, "there is no corner to begin at"
    pick.corner(11, 21)
    pick.hover(33, 42)
    assert pick.preview is not None and pick.preview.line is not None
    wire = pick.preview.line
    assert tuple(wire[0]) == (11, 21) and tuple(wire[-1]) == (33, 42) and len(wire) > 30
    assert len(pick.corners) == 1 and not pick.preview.found.any()
    inside = ((wire > (16, 26)) & (wire < (28, 38))).all(axis=1)
    assert not inside.any(), "it goes along the square's edges, not across"
    pick.hover(32, 22)
    assert tuple(pick.preview.line[-1]) == (32, 22)
    pick.discard()
    pick.hover(32, 22)
    assert pick.preview is None


def test_an_outline_is_forgotten(pick: PickPresenter, project: Project) -> None:
    for x, y in [(11, 21), (32, 22), (33, 42)]:
        pick.corner(x, y)
    pick.discard()
    assert not pick.waiting and pick.preview is None
    pick.corner(11, 21)
    pick.take_back()
    assert not pick.waiting and pick.preview is None
    pick.add(Mark.point(20, 30))
    assert pick.preview is not None and pick.preview.found.any()


def test_a_pick_is_written_to_what_it_was_answered_for(
    desk: Desk, motion: Motion, project: Project
) -> None:
    """Another object is chosen, and the key that keeps it comes before the new answer."""
    pending: list[Callable[[], None]] = []

    def later(work: Any, token: Any, *, item: Any, progress: Any, done: Any) -> None:
        pending.append(lambda: done(consume(work, token, item, progress)))

    def answer() -> None:
        while pending:
            pending.pop(0)()

    other = project.add_object("other", 1)
    trackers = Trackers()
    pick = PickPresenter(desk, motion, later, trackers=trackers)
    pick.start()
    pick.add(Mark.point(20, 32))
    answer()
    desk.set_object(other.id)
    with pytest.raises(InputError, match="wait a moment"):
        pick.keep()
    answer()
    pick.choose(inside_box=True)
    with pytest.raises(InputError, match="wait a moment"):
        pick.keep()
    answer()
    pick.keep()
    assert project.present(other.id)[0] and not project.present(1).any()
    pick.add(Mark.point(20, 32))
    answer()
    assert pick.waiting
    desk.set_project(None)
    assert not pick.waiting and pick.preview is None and not pick.active
    answer()
    pick.close()
    motion.close()


def test_an_outline_is_closed_though_the_tool_was_put_away(
    pick: PickPresenter, project: Project
) -> None:
    for x, y in [(11, 21), (32, 22), (33, 42), (11, 43)]:
        pick.corner(x, y)
    assert pick.preview is not None
    assert pick.preview.name == "outline on frame 0 (4 corners, Enter closes it)"
    pick.stop()
    pick.keep()
    assert pick.corners == () and iou(pick.preview.found, TRUTH[0]) > 0.8
    kept = pick.preview.found
    pick.keep()
    assert np.array_equal(project.object_mask(1, 0, 1)[0], kept) and not pick.waiting


def test_marks_are_drawn_where_they_are(pick: PickPresenter) -> None:
    pick.add(Mark.point(20, 32))
    pick.add(Mark.point(80, 10, False))
    drawn = np.zeros((64, 96), np.uint8)
    pick.preview.draw(0, drawn)
    assert np.bincount(drawn.ravel()).tolist() == [64 * 96 - 42, 0, 0, 24, 9, 9]
    assert (drawn[31:34, 19:22] == 4).all() and (drawn[9:12, 79:82] == 5).all()
    pick.discard()
    pick.add(Mark.box(8, 18, 36, 46))
    pick.move(0, 10, 15)
    assert pick.marks == (Mark.box(10, 15, 38, 43),), "both corners go along"
    drawn[:] = 0
    pick.preview.draw(0, drawn)
    rows, columns = np.nonzero(drawn)
    assert set(drawn[rows, columns]) == {4}
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 43, 10, 38)
    for row in (15, 43):
        assert (rows == row).sum() >= 8
    pick.remove(0)
    assert pick.preview is None
    pick.choose(inside_box=True)
    pick.add(Mark.box(15, 25, 25, 35))
    rows, columns = np.nonzero(pick.preview.found)
    assert len(rows) and 25 <= rows.min() and rows.max() < 35
    assert 15 <= columns.min() and columns.max() < 25


def test_the_first_object_of_a_project_brings_its_layer(
    pick: PickPresenter, desk: Desk, tmp_path: Path, project: Project
) -> None:
    with Project.create(tmp_path / "new", project.video) as made:
        desk.set_project(made)
        told: list[Any] = []
        desk.contents_changed.connect(told.append)
        desk.set_frame(3)
        pick.add(Mark.point(28, 32))
        pick.keep()
        assert [o.name for o in made.objects.values()] == ["object 1"]
        assert [row.name for row in made.layers.values()] == ["object 1"]
        assert desk.object_id == 1 and told == [Changed(1, 3, 4)]
        assert made.provenance(1)[3] == Provenance.HUMAN and made.present(1).sum() == 1
        desk.set_project(None)


def test_an_outline_is_drawn_as_wide_as_the_picture_is_high() -> None:
    line, corners = np.array([(2.0, 3.0), (20.0, 3.0)]), ((2.0, 3.0),)
    drawn, wanted = np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint8)
    picked = Picked("outline", 0, np.zeros((64, 96), bool), (), line, corners)
    picked.draw(0, drawn)
    wanted[3, 2:21] = 4
    wanted[2:5, 2] = wanted[3, 1:4] = 4
    np.testing.assert_array_equal(drawn, wanted)
    assert picked.frames == (0,) and not picked.mask(0).any()
    high = np.zeros((1300, 96), np.uint8)  # ten pixels, of which the line has a third
    replace(picked, line=np.array([(20.0, 600.0), (60.0, 600.0)]), corners=()).draw(0, high)
    rows, columns = np.nonzero(high)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (597, 603, 17, 63)
    high[:] = 0
    replace(picked, line=None, marks=(Mark.point(50, 600),)).draw(0, high)
    assert [int((high == value).sum()) for value in (3, 4)] == [68, 305]
