"""Marks answered by a tracker, with a small real one."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from flowrvs.editing.pick import open_picker
from flowrvs.editing.trackers import Encodings, TrackerPicker
from flowrvs.errors import DeviceMemoryError, InputError
from flowrvs.protocols import Mark
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.video import Video
from tests.fixtures.trackers import ColorTracker

FRAME = np.full((48, 64, 3), 30, np.uint8)
FRAME[6:22, 2:18] = (220, 40, 40)
FRAME[26:36, 40:54] = (40, 200, 60)
RED, GREEN = (FRAME[..., 0] > 200), (FRAME[..., 1] > 150)


class Listening(ColorTracker):
    """Keeps the marks that it was asked with."""

    def pick(self, encoded: Any, marks: Any, previous: Any = None) -> np.ndarray:
        self.__dict__.setdefault("asked", []).append(list(marks))
        return super().pick(encoded, marks, previous).astype(float)


def picker(tracker: ColorTracker, **how: object) -> TrackerPicker:
    return TrackerPicker(Encodings(tracker), 0, lambda: FRAME, (48, 64), **how)  # type: ignore[arg-type]


def test_the_frame_is_encoded_once_and_refined_with_the_last_answer() -> None:
    tracker = ColorTracker()
    mine = picker(tracker)
    assert not mine.mask.any() and tracker.encoded == 0
    mine.prepare()
    np.testing.assert_array_equal(mine.add(Mark.point(9.5, 12.5)), RED)
    np.testing.assert_array_equal(mine.add(Mark.point(45, 30)), RED | GREEN)
    assert tracker.encoded == 1
    first, second = tracker.previous
    assert first is None and second is not None
    np.testing.assert_array_equal(second > 0, RED)
    assert second.dtype == np.float32


def test_marks_taken_back_or_moved_are_as_if_they_had_been_so() -> None:
    tracker = ColorTracker()
    mine = picker(tracker)
    red, green = Mark.point(9, 12), Mark.point(45, 30)
    mine.take([red, green])
    asked = len(tracker.previous)
    np.testing.assert_array_equal(mine.take([red]), RED)
    assert len(tracker.previous) == asked  # what begins alike is not asked again
    np.testing.assert_array_equal(mine.take([green]), GREEN)
    assert mine.undo() == green and not mine.mask.any() and mine.undo() is None
    box = Mark.box(38, 24, 56, 38)
    assert mine.take([red, box])[30, 45] and mine.marks[0] is box


def test_only_inside_the_box() -> None:
    mine = picker(ColorTracker(), inside_box=True)
    mask = mine.take([Mark.box(38, 24, 56, 30), Mark.point(9, 12)])
    assert mask.any() and not mask[30:].any() and not (mask & RED).any()


def test_clicks_choose_among_parts_then_mend() -> None:
    tracker = ColorTracker()
    mine = picker(tracker, start=RED | GREEN, choose=True)
    np.testing.assert_array_equal(mine.add(Mark.point(45, 30)), GREEN)
    assert tracker.previous == [] and tracker.encoded == 0  # a choice needs no model
    mask = mine.add(Mark.point(30, 40))  # on neither: mend what was chosen
    assert tracker.encoded == 1
    np.testing.assert_array_equal(tracker.previous[0] > 0, GREEN)
    assert mask[40, 30] and mask[30, 45] and not mask[12, 9]


def test_not_this_alone_mends_what_is_there_and_says_nothing_without() -> None:
    tracker = ColorTracker()
    assert not picker(tracker).add(Mark.point(9, 12, False)).any()
    mine = picker(tracker, start=RED | GREEN)
    mask = mine.add(Mark.point(9, 12, False))
    assert not mask[12, 9]
    tracker.reach = 1.0
    np.testing.assert_array_equal(mine.take([]), RED | GREEN)


def test_few_frames_are_kept_and_room_is_made() -> None:
    tracker = ColorTracker()
    kept = Encodings(tracker, size=2)
    for key in (1, 2, 1, 3, 1):
        kept.of(key, lambda: FRAME)
    assert tracker.encoded == 3 and 2 not in kept and 1 in kept
    tracker.full = True
    with pytest.raises(DeviceMemoryError):
        kept.of(9, lambda: FRAME)
    assert tracker.encoded == 5 and 1 not in kept  # once more with all the room there is


def test_what_does_not_fit_is_refused() -> None:
    mine = picker(ColorTracker())
    with pytest.raises(InputError, match="lies outside"):
        mine.add(Mark.point(64, 3))
    assert mine.marks == ()

    class Crooked(ColorTracker):
        def pick(self, *_: object) -> np.ndarray:  # type: ignore[override]
            return np.zeros((3, 3), np.float32)

    with pytest.raises(InputError, match=r"colours gave logits of shape \(3, 3\)"):
        picker(Crooked()).add(Mark.point(5, 5))


def test_what_a_project_knows_is_mended(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    project.write_masks(red.id, 3, shapes_masks["green"][3][None], provenance=Provenance.MODEL)
    tracker = ColorTracker()
    mine = open_picker(project, video, 3, red.id, encodings=Encodings(tracker))
    assert isinstance(mine, TrackerPicker)
    np.testing.assert_array_equal(mine.mask, shapes_masks["green"][3])
    mask = mine.add(Mark.point(18, 14))
    np.testing.assert_array_equal(mask, shapes_masks["green"][3] | shapes_masks["red"][3])


def test_who_asks_for_a_frame_that_is_being_encoded_waits_for_it() -> None:
    tracker, kept = ColorTracker(), Encodings(ColorTracker())
    kept.tracker = tracker
    begun, again, go_on = threading.Event(), threading.Event(), threading.Event()

    def image() -> np.ndarray:
        (again if begun.is_set() else begun).set()
        assert go_on.wait(10)
        return FRAME

    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(kept.of(1, image))) for _ in "ab"]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    assert not again.wait(0.02)
    go_on.set()
    for thread in threads:
        thread.join()
    assert tracker.encoded == 1 and found[0] is found[1]


def test_four_frames_are_kept_and_a_full_device_drops_the_others() -> None:
    class Small(ColorTracker):
        """Has room for no frame beside those of `kept`."""

        def encode(self, image: np.ndarray) -> np.ndarray:
            self.full = self.room is not None and len(self.room._kept) > 0
            return super().encode(image)

    tracker = Small()
    tracker.room = None
    kept = Encodings(tracker)
    for key in range(5):
        kept.of(key, lambda: FRAME)
    assert [key for key in range(5) if key in kept] == [1, 2, 3, 4]
    tracker.room = kept
    np.testing.assert_array_equal(kept.of(9, lambda: FRAME), FRAME)
    assert [key for key in range(10) if key in kept] == [9] and tracker.encoded == 7
    tracker.room, empty = None, Encodings(ColorTracker(full=True))
    with pytest.raises(DeviceMemoryError):
        empty.of(0, lambda: FRAME)
    assert empty.tracker.encoded == 1, "there was no room to be made"


def test_what_was_given_is_ten_on_its_side_and_what_was_answered_goes_on() -> None:
    tracker = Listening()
    mine = picker(tracker, start=RED.astype(np.uint8))
    assert mine.name == "colours" and mine.mask.dtype == bool
    np.testing.assert_array_equal(mine.mask, RED)
    marks = [Mark.point(45, 30), Mark.point(9, 12, False)]
    for mark in marks:
        mine.add(mark)
    first, second = tracker.previous
    np.testing.assert_array_equal(first, np.where(RED, 10, -10))
    assert first.dtype == second.dtype == np.float32
    np.testing.assert_array_equal(second > 0, RED | GREEN)
    assert tracker.asked == [marks[:1], marks]
    np.testing.assert_array_equal(mine.mask, GREEN)
    mine.undo()
    np.testing.assert_array_equal(mine.mask, RED | GREEN)
    assert mine.marks == (marks[0],) and len(tracker.asked) == 2
    # a mask without a pixel is none
    nothing = picker(tracker, start=RED & False, choose=True)
    assert not nothing.add(Mark.point(9, 12, False)).any()
    np.testing.assert_array_equal(nothing.add(Mark.point(9, 12)), RED)
    assert tracker.previous[2:] == [None]
    with pytest.raises(InputError, match=r"mask \(3, 4\) does not fit a frame \(48, 64\)"):
        picker(tracker, start=np.ones((3, 4)))


def test_not_this_alone_comes_with_a_click_in_the_middle_of_the_rest() -> None:
    start = np.zeros((48, 64), bool)
    start[:20, 40:], start[30:37, 3:30] = True, True
    ways = [[(50, 6)], [(62.9, 0.5), (41, 18)], [(45.2, 9.9), (55.7, 9.9), (50, 3)]]
    for points in ways:
        tracker = Listening()
        mine = picker(tracker, start=start)
        kind = Mark.scribble(points, positive=False)
        mine.add(kind)
        free = start.copy()
        for x, y in points:
            free[int(y), int(x)] = False
        others = np.argwhere(np.pad(~free, 1, constant_values=True)) - 1  # and beyond the sides
        depth = {(r, c): ((others - (r, c)) ** 2).sum(1).min() for r, c in np.argwhere(free)}
        (row, column) = max(depth, key=lambda place: (depth[place], (-place[0], -place[1])))
        assert tracker.asked == [[Mark.point(column + 0.5, row + 0.5), kind]]
    # with a "this" among them there is no need for one
    both = [Mark.point(50, 6, False), Mark.point(45, 12)]
    mine.take(both)
    assert tracker.asked[-1] == both
    dot = np.zeros((48, 64), bool)
    dot[5, 7] = True
    mine, count = picker(tracker, start=dot), len(tracker.asked)
    np.testing.assert_array_equal(mine.add(Mark.point(7.5, 5.5, False)), dot)
    assert len(tracker.asked) == count, "nothing is left to ask about"


def test_choices_end_with_the_first_answer_of_the_tracker() -> None:
    tracker = Listening()
    corner = np.zeros((48, 64), bool)
    corner[0:3, 60:64], corner[3, 59] = True, True  # it hangs together by its corner
    mine = picker(tracker, start=RED | GREEN | corner, choose=True)
    np.testing.assert_array_equal(mine.add(Mark.point(59, 3)), corner)
    np.testing.assert_array_equal(mine.add(Mark.point(9, 12)), RED | corner)
    assert mine.add(Mark.point(30, 40))[40, 30] and len(tracker.asked) == 1
    mine.add(Mark.point(45, 30))
    assert len(tracker.asked) == 2 and len(tracker.asked[1]) == 4
    without = picker(tracker, start=RED | GREEN)
    assert (without.add(Mark.point(45, 30)) & RED).any() and len(tracker.asked) == 3


def test_marks_that_are_refused_change_nothing() -> None:
    tracker = Listening()
    mine = picker(tracker)
    red, box = Mark.point(9, 12), Mark.box(0, 0, 20, 24)
    assert mine.take([red, Mark.box(38, 24, 56, 38), box]).any()
    assert mine.marks == (box, red), "of two boxes the later one counts, and before all else"
    before = mine.mask
    with pytest.raises(InputError, match="lies outside"):
        mine.take([Mark.point(45, 30), Mark.point(64, 3)])
    assert mine.marks == (box, red)
    np.testing.assert_array_equal(mine.mask, before)
    asked = len(tracker.asked)
    mine.take([Mark.box(0, 0, 20, 24), red, Mark.point(45, 30)])  # equal ones are the same
    assert len(tracker.asked) == asked + 1
    mine.take([box, Mark.point(45, 30)])
    assert len(tracker.asked) == asked + 2

    class Broken(ColorTracker):
        def pick(self, *_: object) -> np.ndarray:  # type: ignore[override]
            raise DeviceMemoryError("no room")

    mine._encodings.tracker = Broken()
    with pytest.raises(DeviceMemoryError):
        mine.add(red)
    assert mine.marks == (box, Mark.point(45, 30)) and len(mine._answers) == 3
    assert mine.undo() == Mark.point(45, 30)


def test_only_where_it_is_asked_for_the_box_is_a_border() -> None:
    marks = [Mark.box(38, 24, 56, 30), Mark.point(9, 12)]
    np.testing.assert_array_equal(picker(ColorTracker()).take(marks), RED | GREEN)
