"""Marks on a project's frame become a person's step."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.editing.pick import _known, _moved, _region, find_object, keep_pick, open_picker
from flowrvs.editing.trackers import Encodings
from flowrvs.errors import InputError
from flowrvs.masks.flow import Flows, Region
from flowrvs.masks.pick import ColorCounts
from flowrvs.protocols import Mark
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.video import Video, open_video
from tests.fixtures.trackers import ColorTracker


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_pick_is_kept_as_a_persons_step(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    picker = open_picker(project, video, 3)
    mask = picker.add(Mark.point(18, 14))
    assert iou(mask, shapes_masks["red"][3]) > 0.95
    assert keep_pick(project, 3, mask, red.id) is True
    assert np.array_equal(project.object_mask(red.id, 3, 4)[0], mask)
    assert project.provenance(red.id)[3] == Provenance.HUMAN
    assert project.undo_name == "pick 'red', frame 3"
    project.undo()
    assert not project.present(red.id).any()


@pytest.mark.parametrize(
    ("rule", "expected"), [("union", [True, True]), ("subtract", [True, False])]
)
def test_rules_for_what_is_there(
    project: Project, red: ObjectRecord, rule: str, expected: list[bool]
) -> None:
    old, new = np.zeros((2, 48, 64), bool)
    old[10:20, 10:30] = True
    new[10:20, 20:40] = True
    project.write_masks(red.id, 5, old[None])
    assert keep_pick(project, 5, new, red.id, rule)
    drawn = project.object_mask(red.id, 5, 6)[0]
    assert [drawn[15, 15], drawn[15, 25]] == expected


def test_a_locked_frame_stays(project: Project, red: ObjectRecord) -> None:
    mask = np.ones((48, 64), bool)
    project.lock_frames(red.id, 2, 3)
    assert keep_pick(project, 2, mask, red.id) is False
    assert not project.present(red.id).any()


def test_a_pick_takes_pixels_as_a_brush_does(project: Project, red: ObjectRecord) -> None:
    other = project.add_object("other", red.layer)
    left, middle = np.zeros((2, 48, 64), bool)
    left[:, :30], middle[:, 20:40] = True, True
    for thing, mask in ((other, left), (red, ~left)):
        project.write_masks(thing.id, 3, mask[None], provenance=Provenance.HUMAN)
    assert keep_pick(project, 3, middle, red.id, tool="sam2.1-tiny")
    assert project.undo_name == "pick 'red' with sam2.1-tiny, frame 3"
    np.testing.assert_array_equal(project.object_mask(red.id, 3, 4)[0], middle)
    np.testing.assert_array_equal(project.object_mask(other.id, 3, 4)[0], left & ~middle)
    assert project.changes(red.id, 3)[0].kind == "human"


def test_an_object_on_the_frame_is_mended(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    flawed = shapes_masks["red"][3].copy()
    flawed[14:] = False
    project.write_masks(red.id, 3, flawed[None], provenance=Provenance.MODEL)
    picker = open_picker(project, video, 3, red.id)
    assert np.array_equal(picker.mask, flawed)
    assert iou(picker.add(Mark.point(18, 18)), shapes_masks["red"][3]) > 0.9


@pytest.mark.parametrize("owner", [Provenance.MODEL, Provenance.HUMAN])
def test_a_click_on_another_thing_gives_up_a_mask_that_a_model_drew(
    project: Project,
    video: Video,
    red: ObjectRecord,
    shapes_masks: dict[str, np.ndarray],
    owner: Provenance,
) -> None:
    wrong, meant = shapes_masks["red"][3], shapes_masks["green"][3]
    project.write_masks(red.id, 3, wrong[None], provenance=owner)
    rows, columns = (int(np.median(places)) for places in np.nonzero(meant))
    click = Mark.point(columns, rows)
    mask = open_picker(project, video, 3, red.id).add(click)
    if owner == Provenance.MODEL:
        assert iou(mask, meant) > 0.9
    else:
        assert (mask & wrong).sum() > 0.9 * wrong.sum()
    shown = open_picker(project, video, 3, red.id, start=wrong).add(click)  # a person's outline
    assert (shown & wrong).sum() > 0.9 * wrong.sum()


def test_an_object_on_the_next_frame_gives_the_place(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    project.write_masks(red.id, 4, shapes_masks["red"][4][None])
    picker = open_picker(project, video, 5, red.id)
    assert iou(picker.mask, shapes_masks["red"][5]) > 0.7
    far = open_picker(project, video, 11, red.id)
    assert not far.mask.any()


def test_what_is_known_of_an_object_from_the_frames_beside_it(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    truth, flows = shapes_masks["red"], Flows(lambda t: video.read(t, t + 1)[0], (12, 48, 64))

    def draw(*frames: int) -> None:
        for t in frames:
            project.write_masks(red.id, t, truth[t : t + 1])

    def colors(*frames: int) -> ColorCounts:
        counts = [ColorCounts.of(video.read(t, t + 1)[0], truth[t]) for t in frames]
        found = ColorCounts.together(counts)  # type: ignore[arg-type]
        assert found is not None
        return found

    def known(t: int) -> tuple[np.ndarray | None, ColorCounts | None]:
        return _known(project, video, t, red.id, flows)

    draw(0)
    assert known(0)[1] is None and known(9) == (None, None)
    np.testing.assert_array_equal(known(0)[0], truth[0])
    mask, found = known(8)  # its colours are known from eight frames away
    assert mask is None and found is not None
    np.testing.assert_array_equal(found.inside, colors(0).inside)
    assert known(3)[0] is None, "and its place from two"
    moved = known(2)[0]
    assert moved is not None and iou(moved, truth[2]) > 0.7
    draw(4, 11)
    # of several the two nearest ones count, and the nearest one's place
    for t, near in ((2, (0, 4)), (3, (4, 0)), (5, (4, 0)), (6, (4, 11)), (10, (11, 4))):
        mask, found = known(t)
        assert found is not None
        np.testing.assert_allclose(found.inside, colors(*near).inside, atol=1e-7)
        np.testing.assert_allclose(found.outside, colors(*near).outside, atol=1e-7)
        flow = flows.between(t, near[0], _region(flows))
        np.testing.assert_array_equal(mask, _moved(truth[near[0]], flow))
    np.testing.assert_array_equal(known(4)[0], truth[4])  # where it is, is known


def test_a_mask_is_looked_up_where_the_flow_points() -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:20] = True
    for shape, down, right in (((48, 64), 1, 1), ((24, 32), 2, 2), ((12, 64), 4, 1)):
        flow = np.broadcast_to(np.array([1, -3], np.float32), (*shape, 2)).copy()
        expected = np.roll(mask, (-down, 3 * right), (0, 1))
        np.testing.assert_array_equal(_moved(mask, flow), expected)
        flow[: shape[0] // 2] = 0  # the upper half rests
        np.testing.assert_array_equal(_moved(mask, flow)[:20], mask[:20])
        flow[:], flow[:, : shape[1] // 4 + 1] = 0, (0, 40)  # the left quarter looks at nothing
        assert not _moved(mask, flow)[:, :16].any() and _moved(mask, flow)[10:20, 19].all()


def test_flow_is_looked_at_as_large_as_four_hundred_pixels_across() -> None:
    sizes = {(48, 64): (48, 64, 1), (900, 1200): (300, 400, 3), (2, 2399): (1, 479, 5)}
    for (height, width), (rows, columns, step) in sizes.items():
        flows = Flows(lambda t: np.zeros((1, 1, 3), np.uint8), (1, height, width))
        assert _region(flows) == Region(0, rows, 0, columns, step)


def test_what_moves_is_seen_from_the_next_frame_or_the_one_before_the_last(
    project: Project, video: Video, shapes_frames: np.ndarray
) -> None:
    class Watched(Flows):
        def between(self, t: int, other: int, region: Region) -> np.ndarray:
            asked.append((t, other))
            return super().between(t, other, region)

    asked: list[tuple[int, int]] = []
    flows = Watched(lambda t: video.read(t, t + 1)[0], (12, 48, 64))
    for t in (0, 10, 11):
        open_picker(project, video, t, flows=flows)
    assert asked == [(0, 1), (10, 11), (11, 10)]
    with open_video(shapes_frames[:1]) as still:
        picker = open_picker(None, still, 0)
        assert iou(picker.add(Mark.point(10, 14)), shapes_frames[0, ..., 0] > 200) > 0.95


@pytest.mark.parametrize("tracked", [False, True])
def test_how_marks_are_taken_is_handed_on(
    project: Project, video: Video, shapes_masks: dict[str, np.ndarray], tracked: bool
) -> None:
    kept = Encodings(ColorTracker()) if tracked else None
    both = shapes_masks["red"][3] | shapes_masks["green"][3]
    picker = open_picker(project, video, 3, start=both, choose=True, encodings=kept)
    np.testing.assert_array_equal(picker.mask, both)
    np.testing.assert_array_equal(picker.add(Mark.point(45, 34)), shapes_masks["green"][3])
    bound = open_picker(project, video, 3, inside_box=True, encodings=kept)
    mask = bound.take([Mark.box(14, 8, 22, 20), Mark.point(12, 14)])
    inside = np.zeros((48, 64), bool)
    inside[8:20, 14:22] = True
    assert mask.any() and not (mask & ~inside).any()
    free = open_picker(project, video, 3, encodings=kept)
    assert free.take([Mark.box(14, 8, 22, 20), Mark.point(12, 14)])[14, 12]
    if kept is not None:
        assert (video, 3) in kept and kept.tracker.encoded == 1


def test_which_of_several_objects_marks_mean(project: Project, red: ObjectRecord) -> None:
    green = project.add_object("green", project.add_layer("two").id)
    left, right = np.zeros((2, 48, 64), bool)
    left[:, :30], right[:, 20:] = True, True
    for t, thing, mask in ((0, red, left), (0, green, right), (1, green, right), (3, red, left)):
        project.write_masks(thing.id, t, mask[None])
    project.add_expression("both", [red.id])
    project.add_expression(" both ", [green.id])  # twice the same sentence
    asked = "'both' means several objects, and the marks do not say which; name it by its number."

    def found(t: int, *marks: Mark) -> ObjectRecord | None:
        return find_object(project, "both", t, marks)

    assert found(0, Mark.point(19.9, 5)) == red and found(0, Mark.point(30, 5)) == green
    assert found(1) == found(1, Mark.point(5, 5)) == green and found(3) == red
    assert found(0, Mark.scribble([(25, 1), (25, 2), (35, 3)])) == green  # three of them, not two
    assert found(0, Mark.point(25, 1), Mark.point(5, 5)) == red
    for t, marks in (
        (0, []),
        (0, [Mark.point(25, 5)]),
        (0, [Mark.point(5, 5, False)]),
        (0, [Mark.box(0, 0, 9, 9)]),
        (2, [Mark.point(5, 5)]),
    ):
        with pytest.raises(InputError, match=asked):
            found(t, *marks)


def test_which_object_a_sentence_means(
    project: Project, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    green = project.add_object("green", red.layer)
    project.write_masks(red.id, 0, shapes_masks["red"][:1])
    project.write_masks(green.id, 0, shapes_masks["green"][:1])
    project.add_expression("the squares", [red.id, green.id])
    project.add_expression("nothing at all")
    assert find_object(project, "the  squares", 0, (Mark.point(45, 30),)) == green
    assert find_object(project, "nothing at all", 0, ()) is None
    assert find_object(project, "not said", 0, ()) is None
    project.add_expression("the red one", [red.id])
    assert find_object(project, "the red one", 7, (Mark.point(45, 30),)) == red
    with pytest.raises(InputError, match="several objects"):
        find_object(project, "the squares", 0, (Mark.point(1, 1),))


def test_unknown_frames_and_objects(project: Project, video: Video) -> None:
    with pytest.raises(InputError, match="no frame 12; the video has frames 0 to 11"):
        open_picker(project, video, 12)
    with pytest.raises(InputError, match="no frame -1"):
        open_picker(project, video, -1)
    with pytest.raises(InputError, match="no object 1 without a project"):
        open_picker(None, video, 0, 1)
    with pytest.raises(InputError, match="no object 9 in"):
        open_picker(project, video, 0, 9)
    with pytest.raises(InputError, match="no object 9"):
        keep_pick(project, 0, np.ones((48, 64), bool), 9)
