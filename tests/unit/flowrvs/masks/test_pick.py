"""Marks on a picture become a mask; marks that are taken back leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.masks import pick
from flowrvs.masks.marks import box_of, check_mark, choose_parts
from flowrvs.masks.pick import MEASURES, WEIGHTS, ColorCounts, Mark, Picker
from flowrvs.masks.superpixels import SuperpixelGraph

from .conftest import SIZE, round_mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


def test_a_point_finds_the_object_under_it(scene) -> None:
    frame, red, green = scene
    np.testing.assert_array_equal(Picker(frame).add(Mark.point(50, 60)), red)
    np.testing.assert_array_equal(Picker(frame).add(Mark.point(115, 50)), green)


def test_a_box_finds_the_object_in_it_and_nothing_outside(scene) -> None:
    frame, red, _ = scene
    mask = Picker(frame).add(Mark.box(24, 86, 78, 34))
    np.testing.assert_array_equal(mask, red)


def test_more_marks_take_in_and_take_away(scene) -> None:
    frame, red, green = scene
    picker = Picker(frame)
    picker.add(Mark.point(50, 60))
    both = picker.add(Mark.point(115, 50))
    np.testing.assert_array_equal(both, red | green)
    only = picker.add(Mark.point(115, 45, positive=False))
    assert not only[45, 115] and only[60, 50]


def test_scribbles_count_along_their_whole_way(scene) -> None:
    frame, red, green = scene
    mask = Picker(frame).add(Mark.scribble([(40, 60), (60, 60)]))
    np.testing.assert_array_equal(mask, red)
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
    rows, columns = np.nonzero(bound.mask & ~round_mask(115, 50, 10))
    assert columns.max() <= 81 and rows.max() <= 89  # a superpixel more or less


def test_not_this_alone_says_nothing(scene) -> None:
    frame, red, _ = scene
    picker = Picker(frame)
    assert not picker.add(Mark.point(115, 50, positive=False)).any()
    mask = picker.add(Mark.point(50, 60))
    assert iou(mask, red) > 0.85 and not mask[50, 115]


def test_a_start_is_mended_where_the_mark_is(scene) -> None:
    frame, red, _ = scene
    start = red.copy()
    start[:52] = False  # the upper part is missing
    start |= round_mask(50, 100, 9)  # and something else is taken in
    picker = Picker(frame, start=start)
    assert np.array_equal(picker.mask, start)
    mask = picker.add(Mark.point(50, 45))
    assert np.count_nonzero(mask ^ (start | red)) < 5
    mask = picker.add(Mark.point(50, 100, positive=False))
    assert iou(mask, red) > 0.98


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
    crumb = round_mask(20, 100, 3)  # small, and no colour speaks for it: a person may have drawn it
    start = red & ~round_mask(50, 75, 6) | green | crumb
    picker = Picker(frame, start=start)
    less = picker.add(Mark.point(115, 50, positive=False))
    assert not (less & ~start).any()
    assert iou(start & ~less, green) > 0.9 and np.array_equal(less & ~green, start & ~green)
    more = picker.add(Mark.point(50, 75))
    assert not (less & ~more).any() and iou(more, red | crumb) > 0.95
    assert picker.undo() == Mark.point(50, 75) and np.array_equal(picker.mask, less)


def test_a_first_click_on_another_thing_gives_a_models_mask_up(scene) -> None:
    frame, red, green = scene
    marks = [Mark.point(115, 50), Mark.point(115, 40, positive=False), Mark.point(40, 60)]
    picker, fresh = Picker(frame, start=red, doubtful=True), Picker(frame)
    for mark in marks:  # as if there had never been one
        np.testing.assert_array_equal(picker.add(mark), fresh.add(mark))
    picker.take(marks[:1])
    np.testing.assert_array_equal(picker.mask, green)
    picker.undo()
    np.testing.assert_array_equal(picker.mask, red)
    np.testing.assert_array_equal(Picker(frame, start=red).add(marks[0]), red | green)
    # A second click may add another thing, and so does a first one where there are two.
    picker = Picker(frame, start=red, doubtful=True)
    picker.add(Mark.point(50, 60))
    np.testing.assert_array_equal(picker.add(marks[0]), red | green)


@pytest.mark.parametrize(
    "mark",
    [
        Mark.point(60, 60),  # the half that is missing
        Mark.point(40, 60),
        Mark.point(110, 50, positive=False),
        Mark.box(95, 30, 135, 70),
        Mark.scribble([(40, 60), (115, 50)]),
    ],
)
def test_other_first_marks_mend_a_models_mask(scene, mark) -> None:
    frame, red, _ = scene
    half = red.copy()
    half[:, 50:] = False
    doubtful = Picker(frame, start=half, doubtful=True).add(mark)
    np.testing.assert_array_equal(doubtful, Picker(frame, start=half).add(mark))


def test_apart_is_half_of_its_size_away() -> None:
    other = np.zeros((200, 200), bool)
    other[50:150, :60] = True
    for width, apart in ((20, 11), (100, 51)):
        for gap in (0, apart - width // 10 - 1, apart + width // 10 + 1, 90):
            mask = np.zeros((200, 200), bool)
            mask[50 : 50 + width, 60 + gap : 60 + gap + width] = True
            size = np.sqrt(mask.sum())
            assert pick._apart(mask, other) == (gap >= 0.5 * size), (width, gap)
    assert not pick._apart(other, other) and not pick._apart(other, np.zeros_like(other))
    assert not pick._apart(np.zeros_like(other), other)
    speck = np.zeros_like(other)
    speck[101, 163] = True  # smaller than a step
    assert not pick._apart(other[:, ::-1], speck) and not pick._apart(np.roll(other, 100, 1), speck)
    assert pick._apart(other, speck)


def test_a_hole_that_shows_the_ground_takes_one_click(scene) -> None:
    frame, red, _ = scene
    hole = round_mask(50, 60, 9)
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
    truth = round_mask(80, 60, 25)
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[truth] = (0, 6)
    marks = Mark.box(50, 30, 110, 90)
    assert iou(Picker(frame, flow=flow).add(marks), truth) > 0.9
    assert iou(Picker(frame, flow=flow).add(marks), truth) > iou(Picker(frame).add(marks), truth)


def test_a_camera_that_zooms_does_not_hide_what_moves() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(60, 200, (*SIZE, 1)).repeat(3, 2).astype(np.uint8)
    truth = round_mask(80, 60, 25)
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
    assert iou(mask, red.repeat(9, 0).repeat(9, 1)) > 0.99


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


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("negative", [True, False])
def test_what_is_asked_of_a_superpixel(scene, boxed, negative) -> None:
    """Every measure by its name, from distances and colours that the graph gives."""
    frame, red, _ = scene
    flow = np.random.default_rng(0).normal(0, 4, (*SIZE, 2)).astype(np.float32)
    colors = ColorCounts.of(frame, red)
    picker = Picker(frame, flow=flow, colors=colors)
    graph = SuperpixelGraph(frame, (10, 10, 150, 110), 20_000, 150, picker._motion)
    marks = [Mark.scribble([(45, 60), (55, 62)])]
    marks += [Mark.point(115, 50, positive=False)] if negative else [Mark.point(52, 70)]
    marks = [Mark.box(24, 34, 90, 86), *marks] if boxed else marks
    share = np.random.default_rng(1).random(graph.count).astype(np.float32)
    inside, outside = pick._seeds(graph, marks)
    fixed = outside | picker._beyond(graph, marks, inside)
    found = picker._measures(graph, marks, share, inside, outside, fixed)

    these, others, border = np.flatnonzero(inside), np.flatnonzero(outside), graph.border
    soft = [0.1 * np.median(graph.border_distance[kind]) + 1e-3 for kind in (0, 1)]
    near = [graph.distance(these, kind) for kind in (0, 1)]
    log, zero = np.log, np.zeros(graph.count)
    expected = {"constant": zero + 1}
    alike = log(graph.likeness(these) + 0.01)
    expected["colors, marks against border"] = alike - log(graph.border_likeness + 0.01)
    for kind, name in ((0, "geodesic"), (1, "across motion")):
        far = graph.border_distance[kind]
        expected[f"{name}, border against marks"] = log(
            (far + soft[kind]) / (near[kind] + soft[kind])
        )
        away = np.flatnonzero(fixed)
        if boxed or not len(away):
            away = np.union1d(away, border)
        far = graph.distance(away, kind)
        typical = far[~fixed].mean()
        expected[f"{name}, from outside"] = log(far / (typical + 1e-3) + 0.1)
        expected[f"{name}, others against marks"] = zero
        if negative:
            far = graph.distance(others, kind)
            ratio = log((far + soft[kind]) / (near[kind] + soft[kind]))
            expected[f"{name}, others against marks"] = ratio
    expected["geodesic, from the marks"] = log(near[0] / (10 * soft[0]) + 0.1)
    expected["colors, marks against others"] = expected["space, others against marks"] = zero
    if negative:
        expected["colors, marks against others"] = alike - log(graph.likeness(others) + 0.01)
        expected["space, others against marks"] = log(
            (graph.spatial_distance(others) + 0.02) / (graph.spatial_distance(these) + 0.02)
        )
    here, sign = graph.under(marks[-1].points), -1 if negative else 1
    expected["geodesic, near the last mark"] = sign * np.exp(-graph.distance(here) / (2 * soft[0]))
    expected["space, near the last mark"] = sign * np.exp(-graph.spatial_distance(here) / 0.06)
    step = graph.highest_step(these)
    rest = graph.highest_step(np.union1d(np.flatnonzero(fixed), border))
    gap = log((rest + 0.02) / (step + 0.02))
    expected["highest step, outside against marks"] = np.clip(gap, -2, 2)
    expected["lower step to marks than outside"] = np.where(rest > step, 1, -1)
    sure = np.where(inside, 1, np.where(fixed, 0, share)).astype(np.float32)
    expected["colors, mask against rest"] = graph.color_ratio(sure, colors)
    expected["colors nearby, mask against rest"] = graph.local_color_ratio(sure)
    expected["mask so far, log odds"] = np.clip(log((sure + 0.02) / (1.02 - sure)), -4, 4)
    expected["mask so far, yes or no"] = sure > 0.5
    means = [(w[:, None] * graph.motion).sum(0) / (w.sum() + 1) for w in
             (sure * graph.area, (1 - sure) * graph.area)]  # fmt: skip
    off = [np.hypot(*(graph.motion - mean).T) for mean in means]
    expected["motion, rest against mask"] = off[1] - off[0]
    across, down = graph.within((24, 34, 90, 86))
    depth, middle = 1 - np.maximum(abs(across), abs(down)), 1 - across**2 - down**2
    expected["depth in the box"] = np.clip(depth, -0.4, 1) if boxed else zero
    expected["near the middle of the box"] = np.clip(middle, -1, 1) if boxed else zero
    assert sorted(expected) == sorted(MEASURES)
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[:, MEASURES.index(name)], values, rtol=1e-3, atol=1e-3, err_msg=name
        )
    # of a first mark there is no mask so far, nor one before it
    first = picker._measures(graph, marks[:1], None, inside, outside, fixed)
    unknown = [n for n in MEASURES if n.startswith(("mask so", "colors, mask ", "colors nearby"))]
    for name in [*unknown, "motion, rest against mask", "geodesic, near the last mark"]:
        assert not first[:, MEASURES.index(name)].any(), name
    np.testing.assert_allclose(
        picker._likely(3, found, graph), 1 / (1 + np.exp(-np.clip(found @ WEIGHTS[3], -30, 30)))
    )


def test_few_some_and_many_marks_are_judged_differently(scene) -> None:
    class Watched(Picker):
        def _solve(self, graph, marks, share, stage):
            stages.append(stage)
            return super()._solve(graph, marks, share, stage)

    stages: list[int] = []
    picker = Watched(scene[0])
    told = []
    for n in range(8):
        stages.clear()
        picker.add(Mark.point(45 + 2 * n, 60))
        told.append(stages.copy())
    few, some, many = ([stage] * 2 for stage in (pick._FEW, pick._SOME, pick._MANY))
    first = [pick._FIRST, pick._CLOSER, pick._CLOSER_AGAIN]
    assert told == [first, few, few, some, some, some, many, many]
    picker = Watched(scene[0])
    stages.clear()
    picker.add(Mark.box(24, 34, 78, 86))
    assert stages == [pick._BOX, pick._BOX_AGAIN]
    for mark in (Mark.point(50, 60), Mark.point(5, 5, False), Mark.point(52, 60)):
        picker.add(mark)
    assert stages[2:] == [*few, *few, *some], "the box is one of them"


def test_what_is_known_by_marks_and_by_a_box(scene) -> None:
    frame, _, _ = scene
    graph = SuperpixelGraph(frame, (0, 0, 160, 120), 20_000, 400)
    this, other = Mark.point(50, 60), Mark.point(52, 60, positive=False)
    way = Mark.scribble([(20, 20), (40, 22)])
    inside, outside = pick._seeds(graph, [Mark.box(0, 0, 90, 90), other, this, way])
    at = {name: graph.at(*mark.points[0]) for name, mark in (("this", this), ("other", other))}
    around = {*graph.around(50, 60)} | {*graph.under(way.points)}
    assert set(np.flatnonzero(inside)) == around - {at["other"]} | {at["this"]}
    expected = {*graph.around(52, 60)} - set(np.flatnonzero(inside))
    assert set(np.flatnonzero(outside)) == expected
    box, corner = Mark.box(30, 40, 90, 80), Mark.point(90, 80)
    across, down = graph.within((30, 40, 90, 80))
    beyond = (abs(across) > 1) | (abs(down) > 1)
    nothing = np.zeros(graph.count, bool)
    picker, bound = Picker(frame), Picker(frame, inside_box=True)
    assert not picker._beyond(graph, [this], nothing).any()
    np.testing.assert_array_equal(picker._beyond(graph, [box, this, corner], nothing), beyond)
    np.testing.assert_array_equal(picker._beyond(graph, [box, this], ~nothing), nothing)
    away = Mark.point(91, 60, positive=False)  # what is not this may lie outside
    np.testing.assert_array_equal(picker._beyond(graph, [box, this, away], nothing), beyond)
    for x, y in ((91, 60), (29, 60), (60, 81), (60, 39)):
        leaves = [box, this, Mark.scribble([(50, 60), (x, y)])]
        assert not picker._beyond(graph, leaves, nothing).any()
        np.testing.assert_array_equal(bound._beyond(graph, leaves, nothing), beyond)


def test_what_is_looked_at_around_marks_and_mask(scene) -> None:
    frame, red, green = scene
    picker = Picker(frame)
    crop, nothing = picker._crop, pick._Answer()
    # the mark's one pixel, 0.3 of its size and 16 around it
    assert crop([Mark.point(50, 60)], nothing) == (33, 43, 68, 78)
    assert crop([Mark.scribble([(40, 60), (70, 64)])], nothing) == (14, 34, 97, 91)
    assert crop([Mark.point(2, 118)], nothing) == (0, 101, 20, 120)
    start = pick._Answer(start=red)  # its columns 28 to 72, its rows 38 to 82
    assert crop([Mark.point(50, 60)], start) == (0, 8, 103, 113)
    assert crop([Mark.point(100, 60)], start) == (0, 0, 139, 120)
    # of a mask on superpixels, the parts under "this", else all; also where it was scaled down
    for pixels, scale in ((100_000, 1), (130 * 90 / 4, 0.5)):
        graph = SuperpixelGraph(frame, (20, 20, 150, 110), pixels, 2000)
        assert graph.scale == scale
        share = graph.shares((red | green).astype(np.float32))
        seen = (share > 0.5)[graph.labels]

        def around(mask, x, y, scale=scale):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x0, x1 = min(x, 20 + columns[0] / scale), max(x + 1, 20 + (columns[-1] + 1) / scale)
            y0, y1 = min(y, 20 + rows[0] / scale), max(y + 1, 20 + (rows[-1] + 1) / scale)
            margin = 0.3 * max(x1 - x0, y1 - y0) + 16
            return (
                max(0, int(x0 - margin)),
                max(0, int(y0 - margin)),
                min(160, int(x1 + margin) + 1),
                min(120, int(y1 + margin) + 1),
            )

        left = seen & (np.indices(seen.shape)[1] < 65 * scale)
        answer = pick._Answer(graph, share)
        assert crop([Mark.point(50, 60)], answer) == around(left, 50, 60)
        assert crop([Mark.point(115, 50)], answer) == around(seen & ~left, 115, 50)
        assert crop([Mark.point(50, 60, positive=False)], answer) == around(seen, 50, 60)
        assert crop([Mark.point(80, 100)], answer) == around(seen, 80, 100)


def test_a_new_look_is_taken_where_the_mask_is_cut_or_a_mark_lies_outside(scene) -> None:
    frame, red, _ = scene
    picker = Picker(frame)
    for box, sides in (((20, 20, 140, 100), 4), ((0, 0, 140, 100), 2), ((0, 0, 160, 120), 0)):
        graph = SuperpixelGraph(frame, box, 20_000, 300)
        edges = [graph.labels[:, 0], graph.labels[0], graph.labels[:, -1], graph.labels[-1]]
        cut = 0
        for edge in edges:
            middle = edge[len(edge) // 2]
            share = (np.arange(graph.count) == middle).astype(np.float32)
            cut += picker._cut(pick._Answer(graph, share))
            assert not picker._cut(pick._Answer(graph, share / 2))
        assert cut == sides
    graph = SuperpixelGraph(frame, (10, 10, 140, 110), 20_000, 300)
    answer = pick._Answer(graph, graph.shares(red.astype(np.float32)))
    for x, y, held in ((10, 10, True), (139, 109, True), (140, 60, False), (50, 110, False)):
        marks = [Mark.box(0, 0, 160, 120), Mark.point(50, 60), Mark.scribble([(50, 60), (x, y)])]
        assert (picker._graph(marks, answer) is graph) == held
    full = pick._Answer(graph, np.ones(graph.count, np.float32))
    assert picker._graph([Mark.point(50, 60)], full) is not graph
    # a frame that was looked at from afar is looked at closely
    picker.prepare()
    first = pick._Answer(picker._coarse, np.zeros(picker._coarse.count, np.float32))
    assert picker._graph([Mark.point(50, 60)], first).box == (33, 43, 68, 78)


def test_specks_and_holes_go_unless_a_mark_asks_for_them() -> None:
    base = np.zeros(SIZE, bool)
    base[30:90, 40:100] = True  # 3600 pixels, of which a fiftieth is 72 and a tenth 360
    wanted = base.copy()
    wanted[50:56, 60:66] = wanted[70:84, 70:86] = False  # a small hole and a large one
    wanted[20:26, 120:126] = True  # a speck
    wanted[60:90, 115:140] = True  # a part of 750
    frame = np.where(wanted[..., None], 200, (40, 60, 90)).astype(np.uint8)
    graph = SuperpixelGraph(frame, (20, 10, 150, 110), 100_000, 3000)
    picker = Picker(frame)
    share = graph.shares(wanted.astype(np.float32))
    drawn = picker._painted(pick._Answer(graph, share))
    whole = picker._whole(pick._Answer(graph, share)) > 0.5
    np.testing.assert_array_equal(whole, wanted)
    speck, hole = np.zeros((2, *SIZE), bool)
    speck[20:26, 120:126] = hole[50:56, 60:66] = True
    np.testing.assert_array_equal(drawn, whole & ~speck | hole)
    picker._marks = [Mark.point(63, 53, positive=False), Mark.box(0, 0, 160, 120)]
    np.testing.assert_array_equal(picker._painted(pick._Answer(graph, share)), whole & ~speck)
    picker._marks = [Mark.point(123, 23), Mark.scribble([(2, 2), (3, 3)], positive=False)]
    np.testing.assert_array_equal(picker._painted(pick._Answer(graph, share)), whole | hole)
    picker._marks = [Mark.point(63, 53), Mark.point(123, 23, positive=False)]  # the wrong way
    np.testing.assert_array_equal(picker._painted(pick._Answer(graph, share)), drawn)
    # what is mended keeps its outline where nothing changed
    before = graph.shares(base.astype(np.float32))
    answer = pick._Answer(graph, share, base, before)
    was = picker._whole(pick._Answer(graph, before)) > 0.5
    np.testing.assert_array_equal(picker._painted(answer), np.where(whole == was, base, whole))


def test_marks_beside_what_is_looked_at_ask_for_nothing_in_it() -> None:
    """Beyond each of its sides, where counting from the other side would hit a speck or a hole."""
    beside = [(60, 2), (60, 113), (5, 60), (155, 60)]
    for positive, block, odd in (
        (True, np.s_[30:80, 40:120], (np.s_[101:105, 58:62], np.s_[58:62, 133:137])),
        (False, np.s_[12:108, 22:148], (np.s_[103:106, 59:62], np.s_[59:62, 136:139])),
    ):
        wanted = np.zeros(SIZE, bool)
        wanted[block] = True
        whole = wanted.copy()
        for each in odd:
            wanted[each] = positive
        frame = np.where(wanted[..., None], 200, (40, 60, 90)).astype(np.uint8)
        graph = SuperpixelGraph(frame, (20, 10, 150, 110), 100_000, 3000)
        answer = pick._Answer(graph, graph.shares(wanted.astype(np.float32)))
        picker = Picker(frame)
        np.testing.assert_array_equal(picker._whole(answer) > 0.5, wanted)
        for mark in beside:
            picker._marks = [Mark.point(*mark, positive)]
            np.testing.assert_array_equal(picker._painted(answer), whole)


@pytest.mark.parametrize(
    ("marks", "chosen"),
    [
        ([(1, 1, True)], {1}),
        ([(1, 1, True), (5, 1, True)], {1, 2}),
        ([(1, 1, False)], {2, 3}),
        ([(1, 1, False), (9, 1, False)], {2}),
        ([(1, 1, True), (5, 1, False)], {1}),
        ([(3, 1, False)], {1, 2, 3}),  # beside all of them
        ([(3, 1, True)], None),
        ([(1, 1, True), (1.5, 1.9, False)], None),  # both of one part
        ([(1, 1, False), (5, 1, False), (9, 1, False)], None),
    ],
)
def test_which_parts_are_chosen(marks, chosen) -> None:
    parts = np.zeros((4, 12), int)
    parts[:3, 0:3], parts[:3, 4:7], parts[:3, 8:11] = 1, 2, 3
    found = choose_parts(parts, [Mark.point(*each) for each in marks])
    if chosen is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, np.isin(parts, list(chosen)))
    scribble = [Mark.point(1, 1), Mark.scribble([(1, 1), (2, 2)])]
    assert choose_parts(parts, scribble) is None


def test_motion_is_against_that_of_most() -> None:
    rows, columns = np.indices((60, 80), np.float32)
    flow = np.stack([2 + rows / 60, 1 - 3 * columns / 80 + rows / 30], axis=-1)
    thing = np.zeros((60, 80), bool)
    thing[20:40, 30:50] = True
    moved = flow.copy()
    moved[thing] += (-2, 4)
    off = pick._relative(moved)
    np.testing.assert_allclose(off[~thing], 0, atol=0.05)
    np.testing.assert_allclose(off[thing], np.broadcast_to([-2, 4], (400, 2)), atol=0.05)
    moved[thing] += (-8, 4)
    assert np.median(pick._relative(moved)[thing], axis=0).tolist() == [-6, 6]
    # in units of how much it varies
    noisy = flow + np.random.default_rng(0).choice([-3, 3], flow.shape)
    assert np.abs(pick._relative(noisy.astype(np.float32))).mean() == pytest.approx(0.75, abs=0.03)


def test_what_is_taken_again_is_not_solved_again(scene) -> None:
    frame, red, _ = scene
    picker = Picker(frame)
    first, other = Mark.point(50, 60), Mark.point(20, 20, positive=False)
    mask = picker.add(first)
    mask[:] = False  # the caller's own
    np.testing.assert_array_equal(picker.mask, red)
    answer = picker._answers[1]
    picker.take([first, other])
    assert picker._answers[1] is answer and picker.marks == (first, other)
    picker.take([Mark.point(50, 60), other])  # looks the same, and may be another's
    assert picker._answers[1] is not answer
    last = Mark.box(92, 28, 138, 72)
    picker.take([Mark.box(20, 30, 80, 90), first, last])
    assert picker.marks == (last, first), "of two boxes the later one counts"
    picker.take([])
    assert picker.marks == () and not picker.mask.any()
    with pytest.raises(InputError, match="outside"):
        picker.take([first, Mark.point(500, 1)])
    assert picker.marks == ()
    picker.take([first])
    with pytest.raises(InputError, match="cannot become a box"):
        picker.replace(0, last)
    with pytest.raises(InputError, match="outside"):
        picker.replace(0, Mark.point(-1, 1))
    assert picker.marks == (first,)


def test_marks_at_the_very_edge_lie_inside() -> None:
    for mark in (
        Mark.point(0, 0),
        Mark.point(159.9, 119.9),
        Mark.scribble([(0, 119), (159, 0)]),
        Mark.box(-50, -50, 1, 1),
        Mark.box(159, 119, 300, 300),
    ):
        check_mark(mark, (120, 160, 3))
    for mark in (
        Mark.point(160, 5),
        Mark.point(5, 120),
        Mark.point(-0.5, 5),
        Mark.point(5, -0.5),
        Mark.scribble([(5, 5), (5, 120)]),
        Mark.box(160, 0, 300, 300),
        Mark.box(0, 120, 300, 300),
        Mark.box(-50, 0, 0, 50),
        Mark.box(0, -50, 50, 0),
    ):
        with pytest.raises(InputError, match="lies outside.* 160 x 120 pixels"):
            check_mark(mark, (120, 160, 3))
    boxes = [Mark.point(1, 1), Mark.box(1, 2, 3, 4), Mark.box(5, 6, 7, 8)]
    assert box_of(boxes) == (1, 2, 3, 4) and box_of(boxes[:1]) is None
