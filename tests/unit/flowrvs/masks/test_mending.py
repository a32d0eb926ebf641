"""A mark turns over the piece that it lies in; what is asked of each superpixel, by its name."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.masks.mending import MENDING, mended, mending_measures
from flowrvs.masks.pick import ColorCounts, Mark
from flowrvs.masks.superpixels import SuperpixelGraph

from .conftest import SIZE


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


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("moving", [True, False])
def test_what_is_asked_of_a_superpixel(scene, positive, moving) -> None:
    frame, red, _ = scene
    motion = np.random.default_rng(0).normal(0, 3, (*SIZE, 2)).astype(np.float32)
    graph = SuperpixelGraph(frame, (0, 0, 160, 120), 20_000, 200, motion if moving else None)
    colors = ColorCounts.of(frame, red)
    share = np.random.default_rng(1).random(graph.count).astype(np.float32)
    mark = Mark.scribble([(40, 60), (60, 62)], positive)
    found = mending_measures(graph, mark, share, colors)
    here, sign = graph.under(mark.points), 1 if positive else -1
    claimed = share.copy()
    claimed[here] = positive
    soft = 0.1 * np.median(graph.border_distance[0]) + 1e-3
    so = np.flatnonzero(share > 0.5 if positive else share <= 0.5)
    ratios = graph.color_ratio(claimed, colors), graph.local_color_ratio(claimed)
    zero = np.zeros(graph.count)
    expected = {
        "constant": zero + 1,
        "colors, like the mark": np.log(graph.likeness(here) + 0.01),
        "colors, what it would become against what it is": sign * np.clip(ratios[0], -4, 4),
        "colors nearby, what it would become against what it is": sign * np.clip(ratios[1], -4, 4),
        "geodesic, from the mark": np.log(graph.distance(here) / (10 * soft) + 0.1),
        "space, from the mark": np.log(graph.spatial_distance(here) + 0.02),
        "highest step, from the mark": np.log(graph.highest_step(here) + 0.02),
        "geodesic, from what is so already": np.log(graph.distance(so) / (10 * soft) + 0.1),
        "motion, unlike the mark": zero,
    }
    if moving:
        off = np.hypot(*(graph.motion - graph.motion[here].mean(0)).T)
        expected["motion, unlike the mark"] = np.minimum(off, 4)
    assert list(expected) == list(MENDING)
    for column, (name, values) in enumerate(expected.items()):
        np.testing.assert_allclose(found[:, column], values, rtol=1e-3, atol=1e-3, err_msg=name)
    nothing_so = np.full(graph.count, 0.0 if positive else 1.0, np.float32)
    far = mending_measures(graph, mark, nothing_so, None)[:, list(MENDING).index(
        "geodesic, from what is so already"
    )]  # fmt: skip
    np.testing.assert_allclose(far, np.log(1.1), rtol=1e-4)


@pytest.mark.parametrize("positive", [True, False])
def test_only_what_contradicts_the_mark_turns_over(scene, positive) -> None:
    """The whole disk that the mark lies in, to the superpixel; all else stays as it is."""
    frame, red, green = scene
    graph = SuperpixelGraph(frame, (0, 0, 160, 120), 20_000, 400)
    is_red, is_green = (graph.shares(each.astype(np.float32)) > 0.5 for each in (red, green))
    share = np.where(is_green, 0.9, 0.2).astype(np.float32)
    if not positive:
        share[is_red] = 0.8
    before = share.copy()
    nothing = np.zeros(graph.count, bool)
    mark = Mark.point(50, 60, positive)
    found = mended(graph, mark, share, nothing, ColorCounts.of(frame, red))
    np.testing.assert_array_equal(share, before)
    np.testing.assert_allclose(found, np.where(is_red, float(positive), before))
    # a mark on what is so already says nothing new; on what must stay it changes nothing
    again = mended(graph, Mark.point(115, 50), before, nothing)
    np.testing.assert_array_equal((again > 0.5)[is_red], (before > 0.5)[is_red])
    kept = mended(graph, mark, before, is_red, ColorCounts.of(frame, red))
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("seed", range(6))
def test_what_turns_over_is_likely_closed_or_of_its_colour(seed) -> None:
    rng = np.random.default_rng(seed)
    patches = rng.integers(60, 160, (4, 5, 3)).repeat(16, 0).repeat(16, 1)
    frame = (patches + rng.integers(-30, 31, (64, 80, 1))).astype(np.uint8)
    graph = SuperpixelGraph(frame, (0, 0, 80, 64), 20_000, 150)
    mark = Mark.point(rng.integers(80), rng.integers(64), bool(seed % 2))
    share = rng.choice([0.1, 0.4, 0.9], graph.count, p=[0.5, 0.2, 0.3]).astype(np.float32)
    share = np.where(graph.spatial_distance(graph.under(mark.points)) < 0.35, 0.2, share)
    share = (share if mark.positive else 1 - share).astype(np.float32)
    stays = rng.random(graph.count) < 0.1
    here = np.zeros(graph.count, bool)
    here[graph.under(mark.points)] = True
    wrong = ((share <= 0.5) if mark.positive else (share > 0.5)) & ~stays
    measures = mending_measures(graph, mark, share, None)
    odds = (measures * list(MENDING.values())).sum(1)
    likely = np.where(wrong, 1 / (1 + np.exp(-odds)), 1).astype(np.float32)
    turned = graph.solve(likely, 0.5, (here | ~wrong) & ~stays, stays) > 0.5
    steps = graph.highest_step(np.flatnonzero(here))
    closed = steps < 0.5 * steps[~wrong & ~here].min()
    clear = measures[:, 2] > 0.5
    piece = graph.connected(wrong & (turned | here | closed | clear), np.flatnonzero(here))
    expected = np.where(piece, np.float32(mark.positive), share)
    np.testing.assert_array_equal(mended(graph, mark, share, stays), expected)
