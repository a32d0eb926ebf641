"""Marks on a picture become a mask; marks that are taken back leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.masks.mending import mended
from flowrvs.masks.pick import MEASURES, WEIGHTS, ColorCounts, Mark, Picker
from flowrvs.masks.scissors import Scissors
from flowrvs.masks.superpixels import SuperpixelGraph

SIZE = (120, 160)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


def disk(x: int, y: int, radius: int, shape: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two textured disks, a red and a green one, on a textured ground."""
    rng = np.random.default_rng(3)
    frame = rng.integers(90, 120, (*SIZE, 3)).astype(np.uint8)
    red, green = disk(50, 60, 22), disk(115, 50, 18)
    frame[red] = rng.integers(0, 30, (red.sum(), 3)) + (190, 30, 30)
    frame[green] = rng.integers(0, 30, (green.sum(), 3)) + (30, 170, 40)
    return frame, red, green


def test_a_point_finds_the_object_under_it(scene) -> None:
    frame, red, green = scene
    assert iou(Picker(frame).add(Mark.point(50, 60)), red) > 0.9
    assert iou(Picker(frame).add(Mark.point(115, 50)), green) > 0.9


def test_a_box_finds_the_object_in_it_and_nothing_outside(scene) -> None:
    frame, red, _ = scene
    mask = Picker(frame).add(Mark.box(24, 86, 78, 34))
    assert iou(mask, red) > 0.9
    outside = mask.copy()
    outside[34:86, 24:78] = False
    assert not outside.any()


def test_more_marks_take_in_and_take_away(scene) -> None:
    frame, red, green = scene
    picker = Picker(frame)
    picker.add(Mark.point(50, 60))
    both = picker.add(Mark.point(115, 50))
    assert iou(both, red | green) > 0.85
    assert both[50, 115] and both[60, 50]
    only = picker.add(Mark.point(115, 45, positive=False))
    assert not only[45, 115] and only[60, 50]


def test_scribbles_count_along_their_whole_way(scene) -> None:
    frame, red, green = scene
    mask = Picker(frame).add(Mark.scribble([(40, 60), (60, 60)]))
    assert iou(mask, red) > 0.9
    mask = Picker(frame).add(Mark.scribble([(50, 58), (114, 50)]))
    assert all(
        mask[int(y), int(x)] for x, y in zip(range(50, 115), np.linspace(58, 50, 65), strict=True)
    )


def test_undo_gives_what_was_there_before(scene) -> None:
    frame, _, _ = scene
    picker = Picker(frame)
    masks = [picker.mask]
    marks = [Mark.point(50, 60), Mark.point(115, 50), Mark.point(80, 20, positive=False)]
    for mark in marks:
        masks.append(picker.add(mark))
    for n in (2, 1, 0):
        assert picker.undo() is marks[n]
        assert np.array_equal(picker.mask, masks[n])
    assert picker.undo() is None and not picker.mask.any()


def test_a_mark_removed_or_moved_is_as_if_it_had_never_been(scene) -> None:
    frame, _, _ = scene
    first, wrong, last = Mark.point(50, 60), Mark.point(115, 50), Mark.point(100, 90, False)
    straight = Picker(frame)
    straight.add(first)
    expected = straight.add(last)
    picker = Picker(frame)
    for mark in (first, wrong, last):
        picker.add(mark)
    assert np.array_equal(picker.remove(1), expected)
    assert picker.marks == (first, last)
    moved = picker.replace(1, Mark.point(20, 20, False))
    fresh = Picker(frame)
    fresh.add(first)
    assert np.array_equal(moved, fresh.add(Mark.point(20, 20, False)))


def test_a_new_box_replaces_the_old_one_and_comes_first(scene) -> None:
    frame, _, green = scene
    picker = Picker(frame)
    picker.add(Mark.box(20, 30, 80, 90))
    picker.add(Mark.point(90, 100, positive=False))
    mask = picker.add(Mark.box(92, 28, 138, 72))
    assert [m.kind for m in picker.marks] == ["box", "point"]
    assert iou(mask, green) > 0.85


def test_only_inside_the_box_is_kept_to(scene) -> None:
    frame, red, green = scene
    marks = Mark.box(24, 34, 78, 86), Mark.point(115, 50)
    free, bound = Picker(frame), Picker(frame, inside_box=True)
    for mark in marks:
        free.add(mark), bound.add(mark)
    assert (free.mask & green).sum() > 0.5 * green.sum()
    rows, columns = np.nonzero(bound.mask & ~disk(115, 50, 10))
    assert columns.max() <= 81 and rows.max() <= 89  # a superpixel more or less


def test_not_this_alone_says_nothing(scene) -> None:
    frame, red, _ = scene
    picker = Picker(frame)
    assert not picker.add(Mark.point(115, 50, positive=False)).any()
    mask = picker.add(Mark.point(50, 60))
    assert iou(mask, red) > 0.85 and not mask[50, 115]


def test_what_other_marks_say_does_not_turn_over(scene) -> None:
    frame, red, _ = scene
    graph = SuperpixelGraph(frame, (0, 0, SIZE[1], SIZE[0]), 20_000, 200)
    mine, theirs = graph.under([(40, 60), (44, 60)]), graph.under([(58, 50), (58, 70)])
    stays = np.zeros(graph.count, bool)
    stays[theirs] = True
    mark, colors = Mark.point(40, 60), ColorCounts.of(frame, red)
    nothing = np.zeros(graph.count, np.float32)
    free = mended(graph, mark, nothing, np.zeros_like(stays), colors)
    assert free[mine].all() and free[theirs].all(), "it has one colour"
    kept = mended(graph, mark, nothing, stays, colors)
    assert kept[mine].all() and not kept[theirs].any()


def test_a_start_is_mended_where_the_mark_is(scene) -> None:
    frame, red, _ = scene
    start = red.copy()
    start[:52] = False  # the upper part is missing
    start |= disk(50, 100, 9)  # and something else is taken in
    picker = Picker(frame, start=start)
    assert np.array_equal(picker.mask, start)
    mask = picker.add(Mark.point(50, 45))
    mask = picker.add(Mark.point(50, 100, positive=False))
    assert iou(mask, red) > 0.85


def test_mending_keeps_the_exact_outline_elsewhere(scene) -> None:
    frame, red, _ = scene
    start = red.copy()
    start[60:, :] = False  # the lower half is missing
    start[45:47, 50:90] = True  # and there is a thin arm that no colour speaks for
    mask = Picker(frame, start=start).add(Mark.point(50, 70))
    assert mask[70, 50] and iou(mask, red) > 0.7 > iou(start, red)
    assert mask[45:47, 75:90].all()
    assert np.array_equal(mask[:40], start[:40])


def test_a_click_mends_the_piece_that_it_lies_in_and_nothing_else(scene) -> None:
    frame, red, green = scene
    crumb = disk(20, 100, 3)  # small, and no colour speaks for it: a person may have drawn it
    start = red & ~disk(50, 75, 6) | green | crumb
    picker = Picker(frame, start=start)
    less = picker.add(Mark.point(115, 50, positive=False))
    assert not (less & ~start).any()
    assert iou(start & ~less, green) > 0.9 and np.array_equal(less & ~green, start & ~green)
    more = picker.add(Mark.point(50, 75))
    assert not (less & ~more).any() and iou(more, red | crumb) > 0.95
    assert picker.undo() == Mark.point(50, 75) and np.array_equal(picker.mask, less)


def test_a_hole_that_shows_the_ground_takes_one_click(scene) -> None:
    frame, red, _ = scene
    hole = disk(50, 60, 9)
    frame[hole] = np.roll(frame, 60, axis=1)[hole]  # the ground beside it
    mask = Picker(frame, start=red).add(Mark.point(50, 60, positive=False))
    assert iou(mask, red & ~hole) > 0.95 > iou(red, red & ~hole)


def test_points_choose_among_parts_before_they_mend(scene) -> None:
    frame, red, green = scene
    picker = Picker(frame, start=red | green, choose=True)
    assert np.array_equal(picker.add(Mark.point(50, 60)), red)
    assert np.array_equal(picker.add(Mark.point(115, 50)), red | green)
    picker.undo()
    picker.undo()
    assert np.array_equal(picker.add(Mark.point(115, 50, positive=False)), red)
    mended = picker.add(Mark.point(50, 20))  # on no part: now it is mended
    assert mended[20, 50] and not mended[50, 115]


def test_motion_tells_apart_what_looks_alike() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(60, 200, (*SIZE, 1)).repeat(3, 2).astype(np.uint8)
    truth = disk(80, 60, 25)
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[truth] = (0, 6)
    marks = Mark.box(50, 30, 110, 90)
    assert iou(Picker(frame, flow=flow).add(marks), truth) > 0.9
    assert iou(Picker(frame, flow=flow).add(marks), truth) > iou(Picker(frame).add(marks), truth)


def test_a_camera_that_zooms_does_not_hide_what_moves() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(60, 200, (*SIZE, 1)).repeat(3, 2).astype(np.uint8)
    truth = disk(80, 60, 25)
    flow = np.moveaxis(np.indices(SIZE), 0, -1).astype(np.float32) * 0.3 - (18, 24)
    flow[truth] += (0, 6)
    marks = Mark.box(50, 30, 110, 90)
    assert iou(Picker(frame, flow=flow).add(marks), truth) > 0.9


def test_small_holes_are_filled_unless_a_mark_asks_for_them(scene) -> None:
    frame, red, _ = scene
    frame = frame.copy()
    frame[57:62, 40:45] = frame[2:7, 2:7]  # the ground seen through it
    picker = Picker(frame)
    assert picker.add(Mark.point(56, 60))[57:62, 40:45].all()
    mask = picker.add(Mark.point(42, 59, positive=False))
    assert not mask[59, 42] and iou(mask, red) > 0.9


def test_colors_of_other_frames_count(scene) -> None:
    frame, red, green = scene
    counts = ColorCounts.of(frame, red)
    assert counts is not None
    assert counts.inside.sum() == pytest.approx(1) and counts.outside.sum() == pytest.approx(1)
    assert float(counts.inside @ counts.outside) < 1e-3  # the disk's colours are its own
    assert ColorCounts.of(frame, np.zeros_like(red)) is None
    both = ColorCounts.together([counts, ColorCounts.of(frame, green)])
    assert both.inside.sum() == pytest.approx(1)
    assert ColorCounts.together([]) is None
    box = Mark.box(20, 20, 140, 95)  # around both disks
    mask = Picker(frame, colors=counts).add(box)
    assert (mask & red).sum() > 0.9 * red.sum()
    assert (mask & green).sum() < (Picker(frame).add(box) & green).sum() + 1


def test_large_frames_are_looked_at_in_part_and_answered_in_full(scene) -> None:
    frame, red, _ = scene
    large = frame.repeat(9, 0).repeat(9, 1)
    mask = Picker(large).add(Mark.point(450, 540))
    assert mask.shape == large.shape[:2]
    assert iou(mask, red.repeat(9, 0).repeat(9, 1)) > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 5), (40, 1)])
def test_tiny_frames_answer(shape: tuple[int, int]) -> None:
    frame = np.full((*shape, 3), 80, np.uint8)
    mask = Picker(frame).add(Mark.point(0, 0))
    assert mask.shape == shape and mask[0, 0]


def test_a_flat_frame_answers() -> None:
    frame = np.full((50, 70, 3), 128, np.uint8)
    picker = Picker(frame)
    assert picker.add(Mark.point(35, 25))[25, 35]
    assert not picker.add(Mark.point(5, 5, positive=False))[5, 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mark.point(float("nan"), 1), "numbers"),
        (lambda: Mark.box(3, 3, 3, 9), "one pixel"),
        (lambda: Mark.scribble([]), "cannot have 0 points"),
        (lambda: Mark("circle", ((1, 2),)), "point, box or scribble"),
        (lambda: Picker(np.zeros((4, 4), np.uint8)), "RGB"),
        (lambda: Picker(np.zeros((4, 4, 3), np.uint8), start=np.zeros((5, 5))), "does not fit"),
        (lambda: Picker(np.zeros((4, 4, 3), np.uint8), flow=np.zeros((4, 4))), "Flow is"),
    ],
)
def test_what_cannot_be_is_said(make, message) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_mark_outside_changes_nothing(scene) -> None:
    picker = Picker(scene[0])
    before = picker.add(Mark.point(50, 60))
    with pytest.raises(InputError, match=r"\(160, 60\) lies outside the picture of 160 x 120"):
        picker.add(Mark.point(160, 60))
    with pytest.raises(InputError, match="outside"):
        picker.add(Mark.box(200, 10, 300, 20))
    assert len(picker.marks) == 1 and np.array_equal(picker.mask, before)


def test_every_measure_has_its_weights() -> None:
    assert WEIGHTS.shape == (8, len(MEASURES)) and len(set(MEASURES)) == 22
    assert np.isfinite(WEIGHTS).all()


def test_scissors_follow_the_edge(scene) -> None:
    pytest.importorskip("cv2")
    frame, red, _ = scene
    scissors = Scissors(frame)
    corners = [(50, 38), (72, 60), (50, 82), (28, 60)]
    for x, y in corners:
        scissors.add(x, y)
    snapped = iou(scissors.mask, red)
    assert snapped > 0.93  # the straight square has 2 / pi = 0.64
    assert scissors.corners == tuple((float(x), float(y)) for x, y in corners)
    scissors.undo()
    assert len(scissors.corners) == 3 and iou(scissors.mask, red) < snapped
    with pytest.raises(InputError, match="outside"):
        scissors.add(-1, 5)
    far = Scissors(frame.repeat(9, 0).repeat(9, 1))
    for x, y in corners:
        far.add(9 * x + 4, 9 * y + 4)
    assert iou(far.mask, red.repeat(9, 0).repeat(9, 1)) > 0.9
