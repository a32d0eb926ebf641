"""Marks answered by a tracker, with a small real one."""

from __future__ import annotations

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
