"""The review queue and the history, without a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowrvs.errors import Cancelled, InputError, ProjectError, VideoError
from flowrvs.progress import CancelToken
from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.history.presenter import HistoryPresenter
from napari_flowrvs.job import consume
from napari_flowrvs.motion import Motion
from napari_flowrvs.review import doubts as module
from napari_flowrvs.review.presenter import ReviewPresenter
from napari_flowrvs.source import VideoSource
from napari_flowrvs.steps import Steps
from napari_flowrvs.strip.presenter import StripPresenter

FRAMES = 16
BROKEN = 9


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A square that moves right and is a quarter as large on one frame; and its shadow."""
    masks = np.zeros((FRAMES, 40, 60), bool)
    for t in range(FRAMES):
        masks[t, 8:24, 4 + 2 * t : 20 + 2 * t] = True
    broken = masks.copy()
    broken[BROKEN, 16:] = False
    broken[BROKEN, :, : 4 + 2 * BROKEN + 8] = False
    with Project.create(tmp_path / "clip", VideoInfo(None, "array", FRAMES, 40, 60)) as made:
        for text, drawn in (("the square", broken), ("the shadow", masks)):
            _, one = made.add_prompt(text)
            made.write_model(one.layer, one.id, 0, drawn)
        yield made


@pytest.fixture
def desk(project: Project) -> Desk:
    desk = Desk()
    desk.frame_requested.connect(desk.set_frame)
    return desk


@pytest.fixture
def review(desk: Desk, project: Project) -> ReviewPresenter:
    presenter = ReviewPresenter(desk)
    desk.set_project(project)
    presenter.doubts.set_measuring(True)
    return presenter


def test_the_most_doubtful_frame_comes_first(review: ReviewPresenter, desk: Desk) -> None:
    queue = review.queue()
    assert len(queue) == FRAMES and queue[0].frame == BROKEN and queue[0].doubt > 0.1
    assert {each.object_id for each in queue} == {1}
    assert queue[0].doubt == max(each.doubt for each in queue)
    review.next()
    assert desk.frame == BROKEN
    review.next()
    assert desk.frame == queue[1].frame
    review.previous()
    assert desk.frame == BROKEN


def test_the_strip_shows_the_doubt(review: ReviewPresenter, desk: Desk) -> None:
    strip = StripPresenter(desk)
    review.doubts.shown_changed.connect(strip.set_doubt)
    desk.set_object(2)
    desk.set_object(1)
    assert strip.doubt is not None and int(strip.doubt.argmax()) == BROKEN


def test_verdicts_shorten_the_queue_and_go_on(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    review.next()
    second = review.queue()[1].frame
    review.accept()
    assert project.provenance(1)[BROKEN] == Provenance.HUMAN
    assert project.object_mask(1, BROKEN, BROKEN + 1).any(), "accepted as it is"
    assert desk.frame == second and len(review.queue()) == FRAMES - 1
    review.absent()
    assert not project.object_mask(1, second, second + 1).any()
    assert project.provenance(1)[second] == Provenance.HUMAN
    assert review.progress() == (2, FRAMES)
    desk.set_frame(FRAMES - 1)
    review.accept_here()
    assert review.queue() == [] and review.progress() == (FRAMES, FRAMES)
    asked: list[int] = []
    desk.frame_requested.connect(asked.append)
    review.next()
    review.previous()
    assert not asked and desk.frame == FRAMES - 1, "nothing is left: stay"


def test_only_verdicts_that_change_pixels_draw_them_again(
    review: ReviewPresenter, desk: Desk
) -> None:
    drawn: list[Changed] = []
    written: list[Changed] = []
    desk.contents_changed.connect(drawn.append)
    desk.masks_written.connect(written.append)
    desk.set_frame(3)
    review.accept()
    desk.set_frame(5)
    review.accept_here()
    assert drawn == [] and written == [Changed(1, 3, 4), Changed(1, 0, 6)]
    desk.set_frame(7)
    review.absent()
    assert drawn == [Changed(1, 7, 8)]


def test_accepting_off_the_queue_takes_that_frame_and_leads_to_the_first(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    worst, *others = [each.frame for each in review.queue()]
    here = others[-1]
    desk.set_frame(here)
    review.accept()
    drawn = np.flatnonzero(project.provenance(1) == Provenance.HUMAN)
    assert drawn.tolist() == [here] and desk.frame == worst
    assert [each.frame for each in review.queue()] == [worst, *others[:-1]]
    # The one that was led to is judged: what comes after it takes its place.
    review.next()
    led = desk.frame
    desk.set_frame(others[-2])
    review.absent()
    assert project.provenance(1)[led] == Provenance.MODEL, "the frame that is shown is meant"
    assert not project.object_mask(1, others[-2], others[-2] + 1).any()


def test_a_sentence_is_reviewed_with_all_its_objects(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    project.set_expression_objects("0", [1, 2])
    review.set_scope("0")
    assert review.objects() == (1, 2) and review.progress() == (0, 2 * FRAMES)
    assert {each.object_id for each in review.queue()} == {1, 2}
    desk.set_frame(3)
    review.accept()
    assert project.provenance(1)[3] == project.provenance(2)[3] == Provenance.HUMAN
    assert project.undo_name == "accept frame 3", "one step for both"
    other = next(each for each in review.queue() if each.object_id == 2)
    review.show(other)
    assert (desk.object_id, desk.frame) == (2, other.frame)


def test_fixing_asks_for_the_brush(review: ReviewPresenter, desk: Desk) -> None:
    asked: list[int] = []
    review.fix_requested.connect(asked.append)
    review.fix()
    assert asked == [1]
    desk.set_object(None)
    with pytest.raises(InputError, match="choose one"):
        review.fix()
    with pytest.raises(InputError, match="nothing to review"):
        review.accept()


def test_a_corrected_frame_is_measured_again(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    before = {each.frame: each.doubt for each in review.queue()}
    project.labels(1)[BROKEN] = 0
    project.labels(1)[BROKEN, 8:24, 4 + 2 * BROKEN : 20 + 2 * BROKEN] = 1
    desk.touched(1, BROKEN, BROKEN + 1)
    review.doubts.measure()
    after = {each.frame: each.doubt for each in review.queue()}
    assert BROKEN not in after, "it is a person's now"
    assert after[BROKEN - 1] <= before[BROKEN - 1]


def test_undo_and_redo_go_to_where_something_happened(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    history = HistoryPresenter(desk)
    told: list[str] = []
    history.done.connect(told.append)
    desk.set_frame(4)
    review.accept()
    desk.set_frame(12)
    assert history.undo_name == "accept frame 4"
    history.undo()
    assert project.provenance(1)[4] == Provenance.MODEL
    assert desk.frame == 4 and told == ["Undone: accept frame 4"]
    assert history.redo_name == "accept frame 4"
    desk.set_frame(5)  # the frame behind is none of the step's
    history.redo()
    assert project.provenance(1)[4] == Provenance.HUMAN and desk.frame == 4
    desk.set_frame(FRAMES - 1)
    review.accept_here()
    history.undo()
    assert review.progress() == (1, FRAMES)


def test_what_was_undone_of_another_project_is_not_told(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    held: list[Callable[[], None]] = []

    def later(work, cancel, *, item, progress, done):
        held.append(lambda: done(consume(work, cancel, item, progress)))
        return None

    history = HistoryPresenter(desk, Steps(later))
    told: list[str] = []
    history.done.connect(told.append)
    review.accept()
    history.undo()
    desk.set_project(None)
    desk.set_frame(3)
    held.pop()()
    assert project.redo_name == "accept frame 0" and told == [] and desk.frame == 3


def test_what_waits_for_its_turn_is_of_the_project_that_was_looked_at(
    desk: Desk, project: Project, tmp_path: Path
) -> None:
    """Keys pressed while a long step is written must not change another project."""
    held: list[Callable[[], None]] = []

    def later(work, cancel, *, item, progress, done):
        held.append(lambda: done(consume(work, cancel, item, progress)))
        return None

    steps = Steps(later)
    review, history = ReviewPresenter(desk, steps=steps), HistoryPresenter(desk, steps)
    desk.set_project(project)
    with Project.create(tmp_path / "other", project.video) as other:
        thing = other.add_object("thing", other.add_layer("one").id)
        other.accept_frames(thing.id, 3, 4)
        before = other.undo_name
        for act in (review.accept, review.accept, review.absent, review.accept_here, history.undo):
            act()
        desk.set_project(other)
        while held:
            held.pop(0)()
        assert other.undo_name == before and other.redo_name is None
        assert other.provenance(thing.id).tolist().count(Provenance.HUMAN) == 1
    assert project.redo_name == "accept frame 0", "what was asked to be undone is"
    assert not steps.busy


def test_without_the_page_open_the_first_key_measures(desk: Desk, project: Project) -> None:
    presenter = ReviewPresenter(desk)
    desk.set_project(project)
    assert all(np.isnan(each.doubt) for each in presenter.queue())
    presenter.next()
    assert desk.frame == BROKEN and presenter.queue()[0].doubt > 0.1


def test_accepting_for_two_objects_skips_no_entry(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    project.set_expression_objects("0", [1, 2])
    review.set_scope("0")
    queue = review.queue()
    place = next(i for i, each in enumerate(queue) if (each.frame, each.object_id) == (BROKEN, 2))
    assert place > 0, "the broken one comes first"
    review.show(queue[place])
    review.accept()
    after = [each for each in queue[place + 1 :] if each.frame != BROKEN]
    assert (desk.frame, desk.object_id) == (after[0].frame, after[0].object_id)


def test_progress_of_each_sentence(review: ReviewPresenter, desk: Desk, project: Project) -> None:
    project.set_expression_objects("1", [1])  # two sentences mean one object
    desk.set_frame(3)
    review.accept()
    assert review.progress("0") == review.progress("1") == review.progress() == (1, FRAMES)
    project.set_expression_objects("1", [])
    assert review.progress("1") == (0, 0)
    review.set_scope("1")
    assert review.queue() == [] and review.progress() == (0, 0)
    with pytest.raises(InputError, match="nothing to review"):
        review.accept()


def test_accepting_what_nobody_drew_is_told(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    new = project.add_object("late", project.add_layer("late").id)
    project.labels(new.layer)[10, :5] = new.id
    desk.set_object(new.id)
    told: list[str] = []
    review.noted.connect(told.append)
    desk.set_frame(11)
    review.accept_here()
    assert told == ["Accepted frames 0 to 11; nobody had drawn on 11 of them."]
    assert project.undo_name == "accept frames 0-11"
    assert (project.provenance(new.id)[12:] == Provenance.EMPTY).all()
    assert review.queue()[0].frame == 13, "the middle of what nobody drew"
    desk.set_object(2)
    review.accept_here()
    assert told[1] == "Accepted frames 0 to 11."


def test_a_video_of_one_frame(tmp_path: Path, desk: Desk) -> None:
    with Project.create(tmp_path / "one", VideoInfo(None, "array", 1, 40, 60)) as made:
        presenter = ReviewPresenter(desk)
        _, one = made.add_prompt("the square")
        desk.set_project(made)
        presenter.doubts.set_measuring(True)
        assert [(e.frame, e.object_id) for e in presenter.queue()] == [(0, one.id)]
        made.write_model(one.layer, one.id, 0, np.ones((1, 40, 60), bool))
        desk.touched(one.layer, 0, 1)
        presenter.doubts.measure()
        presenter.next()
        presenter.previous()
        presenter.accept()
        assert presenter.queue() == [] and presenter.progress() == (1, 1)
        presenter.accept_here()
        presenter.absent()
        assert not made.object_mask(one.id, 0, 1).any()


def test_only_what_has_changed_is_measured_again(
    review: ReviewPresenter, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    measure = module._measure

    def noted(*arguments):
        asked.append(arguments[2:4])
        return measure(*arguments)

    monkeypatch.setattr(module, "_measure", noted)
    # A first order would be worse than what is known already.
    monkeypatch.setattr(module.editing, "quick_doubt", lambda *_, **__: pytest.fail("known"))
    known = review.doubts.of(1).copy()
    desk.touched(1, 0, 1)
    desk.touched(1, FRAMES - 1, FRAMES)
    desk.touched(2, 4, 5)  # of an object that nobody has looked at
    review.doubts.measure()
    assert asked == [(0, 5), (FRAMES - 5, FRAMES)]
    np.testing.assert_array_equal(review.doubts.of(1), known)


def test_a_spread_that_was_undone_was_unsure_of_nothing(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    def doubt_of(t: int) -> float:
        return next(each.doubt for each in review.queue() if each.frame == t)

    before = doubt_of(3)
    project.write_masks(1, 3, np.ones((1, 40, 60), bool), provenance=Provenance.MODEL)
    review.doubts.note_certainty(1, {3: 0.0})
    desk.touched(1, 3, 4)
    review.doubts.measure()
    assert doubt_of(3) > before
    project.undo()
    desk.touched(1, 3, 4)
    review.doubts.measure()
    assert doubt_of(3) == pytest.approx(before)


def test_a_frame_that_cannot_be_read_leaves_the_rest(tmp_path: Path, desk: Desk) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, 40, 60, 3), np.uint8)
    for t, frame in enumerate(noise):
        Image.fromarray(frame).save(folder / f"{t:02}.png")
    motion = Motion()
    motion.set_source(VideoSource("frames", FRAMES, str(folder)))
    video, _ = motion.open()
    with Project.create(tmp_path / "noise", video.info) as made:
        _, one = made.add_prompt("the square")
        made.write_model(one.layer, one.id, 0, noise[..., 0] > 99)
        (folder / "07.png").unlink()
        presenter = ReviewPresenter(desk, motion)
        failed: list[object] = []
        presenter.job.failed.connect(failed.append)
        desk.set_project(made)
        presenter.doubts.set_measuring(True)
        doubts = {each.frame: each.doubt for each in presenter.queue()}
        assert failed == [] and len(doubts) == FRAMES
        seen = {t for t, doubt in doubts.items() if doubt > 0.3}  # noise moves nowhere
        unseen = {3, 6, 7, 8, 11}  # these need the frame that is gone
        assert seen == set(range(FRAMES)) - unseen
    motion.close()


def test_the_queue_of_an_hour_is_there_at_once(tmp_path: Path, desk: Desk) -> None:
    count = 108_000
    with Project.create(tmp_path / "long", VideoInfo(None, "array", count, 8, 8)) as made:
        presenter = ReviewPresenter(desk)
        made.add_object("far", made.add_layer("one").id)
        desk.set_project(made)
        queue = presenter.queue()
        assert len(queue) == len({each.frame for each in queue}) == 2000
        assert queue[1].frame == 5, "of equal doubts the earlier ones"
        assert presenter.progress() == (0, count)
        near = made.add_object("near", 1)
        presenter.set_scope(made.add_expression("both of them", [1, near.id]).exp_id)
        both = presenter.queue()
        assert [each.object_id for each in both[:4]] == [1, near.id, 1, near.id]
        assert len(both) == 2000 and {each.frame for each in both[::2]} == {
            each.frame for each in queue[:1000]
        }


def test_another_object_does_not_wait_for_a_long_one(desk: Desk, project: Project) -> None:
    held: list[Callable[[], None]] = []

    def later(work, cancel, *, item, progress, done):
        """Run as far as the first item, and the rest when the test says so."""
        parts = consume(work, cancel, item, progress, done)
        next(parts, None)
        held.append(lambda: [None for _ in parts])
        return Waiting()

    class Waiting:
        def wait(self, timeout: float) -> bool:
            return True

    def consume(work, cancel, item, progress, done):
        try:
            for part in work(cancel, progress):
                item(part)
                yield
                cancel.raise_if_cancelled()
        except Cancelled as error:
            done(error)
            return
        done(None)

    presenter = ReviewPresenter(desk, runner=later)
    desk.set_project(project)
    presenter.doubts.set_measuring(True)
    assert len(held) == 1 and np.isfinite(presenter.queue()[0].doubt), "a first order is known"
    desk.set_object(2)
    assert all(np.isnan(each.doubt) for each in presenter.queue())
    held.pop()()  # it stops, and the other object has its turn
    assert len(held) == 1 and np.isfinite(presenter.queue()[0].doubt)
    held.pop()()
    desk.set_object(1)
    assert len(held) == 1, "what was left is measured when it is looked at again"
    held.pop()()
    assert presenter.queue()[0].frame == BROKEN and held == []


@pytest.mark.parametrize("at_once", [True, False])
def test_an_object_that_is_removed_while_it_is_measured(
    review: ReviewPresenter, project: Project, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    failed: list[object] = []
    review.job.failed.connect(failed.append)
    quick = module.editing.quick_doubt

    def remove(*arguments, **keywords):
        values = None if at_once else quick(*arguments, **keywords)
        project.remove_object(2)
        return quick(*arguments, **keywords) if at_once else values

    monkeypatch.setattr(module.editing, "quick_doubt", remove)
    review.desk.set_object(2)
    assert failed == [] and 2 not in project.objects


def test_an_object_that_went_just_now_is_not_reviewed(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    """The panels hear of it a moment later; until then nothing is said of it."""
    failed: list[object] = []
    review.job.failed.connect(failed.append)
    sentence = project.add_expression("both", [1, 2])
    assert review.progress(sentence.exp_id) == (0, 2 * FRAMES)
    desk.set_object(2)
    project.remove_object(2)
    assert review.objects() == () and review.queue() == [] and review.progress() == (0, 0)
    review.next()
    with pytest.raises(InputError, match="There is nothing to review"):
        review.accept()
    review.set_scope(sentence.exp_id)
    assert {each.object_id for each in review.queue()} == {1} and failed == []
    # Between two looks at the project.
    review.objects = lambda: (1, 2)  # type: ignore[method-assign]
    review.doubts.known = lambda: True  # type: ignore[method-assign]
    review._on_catalog()
    assert {each.object_id for each in review.queue()} == {1}
    assert review.progress() == (0, 2 * FRAMES)


def test_the_queue_is_not_in_motion_while_it_is_measured(
    desk: Desk, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    presenter, heard = ReviewPresenter(desk), list[int]()
    presenter.changed.connect(lambda: heard.append(1))
    monkeypatch.setattr(module, "_BATCH", 4)
    desk.set_project(project)
    heard.clear()
    presenter.doubts.set_measuring(True)
    assert len(heard) == 2, "a first order, and the one of all"
    monkeypatch.setattr("napari_flowrvs.review.presenter._REORDER", -1.0)
    heard.clear()
    desk.set_object(2)
    assert len(heard) == 1 + 1 + FRAMES // 4 + 1, "of the object, the first, each batch, all"
    presenter.set_scope("0")
    heard.clear()
    desk.set_object(1)
    assert heard == [], "the queue is the sentence's"
    presenter.doubts.set_measuring(False)
    desk.touched(1, 0, 1)
    before = presenter.queue()[0]
    presenter.doubts.measure()
    assert presenter.queue()[0] == before and len(heard) == 1, "nobody looks"


def test_how_sure_spreads_were_is_remembered_of_all_of_them(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    doubts = review.doubts
    plain = {each.frame: each.doubt for each in review.queue()}
    doubts.note_certainty(1, {3: 0.0})
    doubts.note_certainty(1, {5: 0.0})
    doubts.note_certainty(77, {5: 0.0})
    desk.touched(1, 0, FRAMES)
    doubts.measure()
    unsure = {each.frame: each.doubt for each in review.queue()}
    assert {t for t in plain if unsure[t] > plain[t] + 1e-6} == {3, 5}
    desk.set_project(None)
    desk.set_project(project)
    doubts.measure()
    again = {each.frame: each.doubt for each in review.queue()}
    assert again == pytest.approx(plain), "another project, or the same one anew"


def test_where_there_is_nothing_to_turn_back(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    history, told = HistoryPresenter(desk), list[str]()
    drawn: list[Changed] = []
    history.done.connect(told.append)
    desk.contents_changed.connect(drawn.append)
    history.redo()
    assert told.pop() == "There is nothing to redo."
    for _ in range(len(project.history.steps)):
        project.undo()
    history.undo()
    assert told.pop() == "There is nothing to undo." and drawn == []
    project.write_masks(2, 3, np.ones((2, 40, 60), bool))
    desk.set_frame(4)
    history.undo()
    assert drawn == [Changed(2, 3, 5)] and desk.frame == 4, "it is seen from here"
    assert told == [f"Undone: {history.redo_name}"]
    desk.set_project(None)
    history.undo()
    history.redo()
    assert len(told) == 1 and history.undo_name is history.redo_name is None


def test_the_queue_ends_and_begins(review: ReviewPresenter, desk: Desk) -> None:
    queue = review.queue()
    desk.set_frame(queue[-1].frame)
    review.previous()
    assert desk.frame == queue[0].frame, "from elsewhere to the most doubtful one"
    review.previous()
    assert desk.frame == queue[0].frame
    review.show(queue[-2])
    review.next()
    review.next()
    assert desk.frame == queue[-1].frame
    review.previous()
    assert desk.frame == queue[-2].frame
    assert [each.frame for each in review.queue()] == [each.frame for each in queue]
    desk.set_object(2)
    desk.set_object(1)
    desk.set_frame(queue[3].frame)
    review.next()
    assert desk.frame == queue[0].frame, "a person went to that one"


def test_what_cannot_be_read_is_measured_without_motion(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows, bad = object(), {20, 21}
    cancel, asked = CancelToken(), list[Any]()

    def doubt(
        where: Any, object_id: int, start: int, stop: int, **more: Any
    ) -> Iterator[tuple[int, float]]:
        asked.append((start, more["flows"] is flows, more["certainty"], more["cancel"]))
        for t in range(start, stop):
            if more["flows"] is not None and t in bad:
                raise VideoError("This frame is damaged.")
            yield t, t / 100

    monkeypatch.setattr(module.editing, "doubt", doubt)
    parts = list(module._measure(project, 1, 2, 40, flows, {3: 0.5}, cancel))  # type: ignore[arg-type]
    ways = [(part.start, part.start + len(part.doubts)) for part in parts]
    assert ways == [(2, 18), (18, 20), (20, 21), (21, 22), (22, 38), (38, 40)]
    measured = np.concatenate([part.doubts for part in parts])
    np.testing.assert_allclose(measured, np.arange(2, 40) / 100, atol=1e-6)
    assert [each[:2] for each in asked] == [
        *((2, True), (20, False), (21, True), (21, False), (22, True))
    ]
    assert all(each[2:] == ({3: 0.5}, cancel) for each in asked)

    def gone(*_: Any, **__: Any) -> Iterator[tuple[int, float]]:
        raise ProjectError("There is no object.")
        yield

    monkeypatch.setattr(module.editing, "doubt", gone)
    with pytest.raises(ProjectError):
        list(module._measure(project, 1, 0, 4, None, {}, cancel))
    with module._skip_removed(project, 99):
        list(module._measure(project, 99, 0, 4, None, {}, cancel))

    def never(*_: Any, **__: Any) -> Iterator[tuple[int, float]]:
        raise VideoError("All of it is damaged.")
        yield

    monkeypatch.setattr(module.editing, "doubt", never)
    with pytest.raises(VideoError):
        list(module._measure(project, 1, 0, 4, None, {}, cancel))
