"""Spreading by a tracker's memory, with a small real tracker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.editing import Preview, quick_doubt, spread, spread_together
from flowrvs.editing.memory import WARM_UP, _walks
from flowrvs.editing.pieces import certainty_of
from flowrvs.errors import Cancelled, InputError
from flowrvs.progress import CancelToken, Progress
from flowrvs.records import TrackedObject, VideoInfo
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.video import Video, open_video
from tests.fixtures.trackers import ColorTracker

RED, GREEN = (220, 40, 40), (40, 200, 60)
HIDDEN = range(14, 20)


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forty frames: a red square that hides for a while, and a green one."""
    frames = np.full((40, 40, 64, 3), 25, np.uint8)
    red, green = np.zeros((2, 40, 40, 64), bool)
    for t in range(40):
        if t not in HIDDEN:
            red[t, 4:14, 2 + t : 14 + t] = True
        green[t, 22:34, 50 - t : 60 - t] = True
    frames[red], frames[green] = RED, GREEN
    return frames, red, green


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scene()


@pytest.fixture
def film(clip: tuple[np.ndarray, ...]) -> Iterator[Video]:
    with open_video(clip[0]) as opened:
        yield opened


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "b.flowrvs", VideoInfo(None, "array", 40, 40, 64)) as opened:
        yield opened


@pytest.fixture
def thing(book: Project) -> ObjectRecord:
    return book.add_object("red", book.add_layer("one").id)


def draw(project: Project, thing: ObjectRecord, t: int, mask: np.ndarray) -> None:
    labels = project.labels(thing.layer)
    labels[t] = np.where(mask, thing.id, labels[t])


def keep(preview: Preview) -> list[int]:
    return [int(t) for t in preview.accept()]


def test_both_ways_through_hiding_and_return(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    draw(book, thing, 8, clip[1][8])
    tracker, events = ColorTracker(), list[Progress]()
    preview = spread(book, film, thing.id, method="memory", tracker=tracker)
    assert preview.frames == () and tracker.walked == []  # nothing is asked before it runs
    found = [part.frame for part in preview.run(progress=events.append)]
    assert found == [*range(9, 40), *range(7, -1, -1)]  # as soon as each is known
    assert tracker.walked == [*range(8, 40), *range(8, -1, -1)]
    assert [event.done for event in events] == list(range(1, 42)) and events[-1].fraction == 1
    assert events[5].remaining is not None
    for t in range(40):
        if t != 8:
            np.testing.assert_array_equal(preview.mask(t), clip[1][t])
    assert all(preview.certainty(t) == pytest.approx(0.96) for t in HIDDEN)  # sure: not there
    assert all(preview.certainty(t) > 0.8 for t in (0, 7, 9, 39))
    assert len(keep(preview)) == 39
    provenance = book.provenance(thing.id)
    assert provenance[8] == Provenance.HUMAN
    assert (np.delete(provenance, 8) == Provenance.MODEL).all()  # also where it is not there
    assert book.undo_name == "spread 'red' with colours, frames 0 to 39"
    row = book.changes(thing.id, 20)[0]
    assert row.who.startswith("colours, keys ") and row.kind == "human"
    book.undo()
    assert book.areas(thing.id).astype(bool).sum() == 1


def test_a_cancel_within_a_frame_keeps_what_there_is_and_the_next_goes_on(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    draw(book, thing, 0, clip[1][0])
    tracker = ColorTracker(stop_at=25)
    preview = spread(book, film, thing.id, method="memory", tracker=tracker)
    with pytest.raises(Cancelled):
        preview.finish(CancelToken())
    assert preview.frames == tuple(range(1, 25))
    assert keep(preview) == list(range(1, 25))
    tracker.stop_at, tracker.walked = None, []
    again = spread(book, film, thing.id, method="memory", tracker=tracker).finish()
    assert again.frames == tuple(range(25, 40))
    assert tracker.walked == list(range(25 - WARM_UP, 40))  # a memory of the frames before
    keep(again)
    assert spread(book, film, thing.id, method="memory", tracker=tracker).finish().frames == ()
    for t in range(40):
        np.testing.assert_array_equal(book.object_mask(thing.id, t, t + 1)[0], clip[1][t])
    tracker.walked = []
    whole = spread(book, film, thing.id, method="memory", tracker=tracker, resume=False).finish()
    assert whole.frames == tuple(range(1, 40))


def test_a_correction_in_the_middle_changes_what_follows(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    draw(book, thing, 2, clip[1][2])
    tracker = ColorTracker()
    keep(spread(book, film, thing.id, method="memory", tracker=tracker).finish())
    draw(book, thing, 30, clip[2][30])  # from now on it is the green one
    labels = book.labels(thing.layer)
    labels[30] = np.where(clip[2][30], thing.id, 0)
    preview = spread(book, film, thing.id, method="memory", tracker=tracker).finish()
    assert preview.frames == tuple(t for t in range(40) if t not in (2, 30))
    np.testing.assert_array_equal(preview.mask(33), clip[2][33])
    np.testing.assert_array_equal(preview.mask(5), clip[1][5])
    assert keep(preview)[-1] == 39
    book.undo()  # undone masks are not taken for done
    assert spread(book, film, thing.id, method="memory", tracker=tracker).finish().frames[-1] == 39


def test_what_another_tracker_wrote_is_asked_for_again(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    draw(book, thing, 0, clip[1][0])
    keep(spread(book, film, thing.id, method="memory", tracker=ColorTracker()).finish())
    other = ColorTracker(name="other colours")
    preview = spread(book, film, thing.id, method="memory", tracker=other).finish()
    assert len(preview.frames) == 39


def test_only_the_range_is_drawn_after_a_short_way_to_it(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    draw(book, thing, 1, clip[1][1])
    tracker = ColorTracker()
    preview = spread(
        book, film, thing.id, method="memory", tracker=tracker, start=30, stop=33
    ).finish()
    assert preview.frames == (30, 31, 32)
    assert tracker.walked == list(range(30 - WARM_UP, 33))
    draw(book, thing, 38, clip[1][38])
    tracker.walked = []
    spread(
        book, film, thing.id, method="memory", tracker=tracker, keys=[38], start=3, stop=5
    ).finish()
    assert tracker.walked == list(range(4 + WARM_UP, 2, -1))


def test_it_ends_where_the_object_is_absent_and_at_other_frames_of_a_person(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    draw(book, thing, 5, clip[1][5])
    book.mark_absent(thing.id, 12, 13)
    tracker = ColorTracker()
    preview = spread(book, film, thing.id, method="memory", tracker=tracker).finish()
    assert preview.frames == (*range(5), *range(6, 12))
    draw(book, thing, 30, clip[1][30])
    preview = spread(book, film, thing.id, method="memory", tracker=tracker, keys=[30]).finish()
    assert preview.frames == (*range(13, 30), *range(31, 40))


def test_frames_of_a_person_and_locked_ones_stay(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    wrong = np.zeros((40, 64), bool)
    wrong[30:36, 2:9] = True
    draw(book, thing, 0, clip[1][0])
    book.write_masks(thing.id, 10, wrong[None], provenance=Provenance.MODEL)
    book.lock_frames(thing.id, 10, 11)
    preview = spread(book, film, thing.id, method="memory", tracker=ColorTracker()).finish()
    assert 10 not in preview.frames and 11 in preview.frames
    draw(book, thing, 4, wrong)  # a person who paints meanwhile
    written = keep(preview)
    assert 10 not in written and 4 not in written
    np.testing.assert_array_equal(book.object_mask(thing.id, 10, 11)[0], wrong)
    assert book.provenance(thing.id)[10] == Provenance.LOCKED


def test_several_objects_at_once_are_one_step(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    green = book.add_object("green", thing.layer)
    draw(book, thing, 3, clip[1][3])
    draw(book, green, 36, clip[2][36])
    tracker = ColorTracker()
    group = spread_together(book, film, [thing.id, green.id], tracker)
    seen = list(group.run())
    assert seen[0][0] == thing.id and seen[0][1].frame == 4
    assert tracker.walked == [*range(3, 40), *range(36, -1, -1)]  # each frame for both
    assert group.frames == tuple(range(40))
    np.testing.assert_array_equal(group.mask(20), clip[1][20] | clip[2][20])
    written = group.accept()
    assert len(written[thing.id]) == len(written[green.id]) == 39
    assert book.undo_name == "spread 'red', 'green' with colours, frames 0 to 39"
    np.testing.assert_array_equal(book.object_mask(green.id, 7, 8)[0], clip[2][7])
    np.testing.assert_array_equal(book.object_mask(thing.id, 30, 31)[0], clip[1][30])
    book.undo()
    assert [book.areas(i).astype(bool).sum() for i in (thing.id, green.id)] == [1, 1]


def test_one_of_several_is_removed_while_they_are_worked_out(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    green = book.add_object("green", thing.layer)
    draw(book, thing, 3, clip[1][3])
    draw(book, green, 36, clip[2][36])
    group = spread_together(book, film, [thing.id, green.id], ColorTracker())
    run = group.run()
    next(run)
    book.remove_object(green.id)
    list(run)
    assert {i: len(frames) for i, frames in group.accept().items()} == {thing.id: 39}
    np.testing.assert_array_equal(book.object_mask(thing.id, 0, 40), clip[1])


class Rivals(ColorTracker):
    """Both objects want the same pixels; the second one is surer of some."""

    def follow(self, read: Any, keys: Any, frames: Sequence[int], **_: Any) -> Iterator[Any]:
        for t in frames:
            first, second = np.full((2, 40, 64), -5, np.float32)
            first[:, 10:30], second[:, 20:40] = 3, 3
            second[:5, 20:30] = 4
            yield t, {1: TrackedObject(first), 2: TrackedObject(second)}


def test_objects_of_a_layer_do_not_overlap_and_those_of_others_may(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    second = book.add_object("second", thing.layer)
    for i in (thing, second):
        draw(book, i, 0, clip[i.id][0])
    group = spread_together(book, film, [1, 2], Rivals(), stop=2).finish()
    first, other = (group.previews[i].mask(1) for i in (1, 2))
    assert not (first & other).any()
    assert first[0, 10:20].all() and not first[:5, 20:30].any() and first[5:, 20:30].all()
    assert other[:5, 20:30].all() and not other[5:, 20:30].any() and other[:, 30:40].all()
    book.move_object(second.id, book.add_layer("two").id)
    group = spread_together(book, film, [1, 2], Rivals(), stop=2).finish()
    assert (group.previews[1].mask(1) & group.previews[2].mask(1)).any()


def test_how_sure_it_was_reaches_the_review_queue(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    logits = np.full((4, 4), -8, np.float32)
    logits[:2], logits[2] = 8, 0.5
    assert certainty_of(TrackedObject(logits, 0.9)) == pytest.approx(0.8 * 8 / 12)
    assert certainty_of(TrackedObject(logits, 0.1)) == pytest.approx(0.8)  # not there
    assert certainty_of(TrackedObject(logits, 0.5)) == 0
    assert certainty_of(TrackedObject(logits - 20, 1.0)) == 1
    draw(book, thing, 0, clip[1][0])
    # A small reach is a soft edge: nothing beyond one logit.
    preview = spread(book, film, thing.id, method="memory", tracker=ColorTracker()).finish()
    sure = {int(t): preview.certainty(int(t)) for t in preview.accept()}
    sure[7] = 0.1
    values = quick_doubt(book, thing.id, certainty=sure)
    assert values[7] > values[6] and values[7] > values[25]


class Wrong(ColorTracker):
    """Answers in a way that is not agreed."""

    how: str = ""

    def follow(self, read: Any, keys: Any, frames: Sequence[int], **_: Any) -> Iterator[Any]:
        answer = {1: TrackedObject(np.zeros((3, 3), np.float32))}
        if self.how == "order":
            yield frames[-1], {}
        elif self.how == "size":
            yield from ((t, answer) for t in frames)
        elif self.how == "short":
            yield from ((t, {}) for t in frames[:5])


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("order", "colours answered for frame 39 out of turn"),
        ("size", r"colours gave logits of shape \(3, 3\), not \(40, 64\)"),
        ("short", "colours gave no answer for frame 5"),
    ],
)
def test_answers_that_do_not_fit_are_one_line(
    book: Project,
    film: Video,
    thing: ObjectRecord,
    clip: tuple[np.ndarray, ...],
    how: str,
    line: str,
) -> None:
    draw(book, thing, 0, clip[1][0])
    tracker = Wrong()
    tracker.how = how
    with pytest.raises(InputError, match=line):
        spread(book, film, thing.id, method="memory", tracker=tracker).finish()


def test_what_is_missing_is_said(
    book: Project, film: Video, thing: ObjectRecord, clip: tuple[np.ndarray, ...]
) -> None:
    with pytest.raises(InputError, match="no key frame"):
        spread(book, film, thing.id, method="memory", tracker=ColorTracker())
    book.mark_absent(thing.id, 3, 4)
    with pytest.raises(InputError, match="no key frame"):
        spread(book, film, thing.id, method="memory", tracker=ColorTracker())
    draw(book, thing, 0, clip[1][0])
    with pytest.raises(InputError, match="needs a tracker"):
        spread(book, film, thing.id, method="memory")
    with pytest.raises(InputError, match="needs the video"):
        spread(book, None, thing.id, method="memory", tracker=ColorTracker())


@pytest.mark.parametrize("way", [1, -1])
def test_a_walk_has_a_memory_of_what_comes_before(way):
    def walked(wanted, anchors):
        found = _walks({50 + way * t for t in wanted}, [50 + way * t for t in anchors], way)
        return [[way * (t - 50) for t in walk] for walk in found]

    assert WARM_UP == 6
    assert walked([20, 21], [0, 18]) == [[*range(14, 22)]]  # not beyond the first key
    assert walked([2, 3], [0, 18]) == [[0, 1, 2, 3]]
    # A gap that two memories would fill is walked; a longer one is not.
    assert walked([20, 32], [0]) == [[*range(14, 33)]]
    assert walked([20, 33], [0]) == [[*range(14, 21)], [*range(27, 34)]]
