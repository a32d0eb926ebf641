"""A graph of superpixels against plain loops over the pixels and superpixels that it has."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from flowrvs.masks.superpixels import ColorCounts, SuperpixelGraph

BOX = (10, 4, 70, 44)  # left, top, right, bottom


@pytest.fixture(scope="module")
def frame():
    """Patches of colour with some grain, in blocks of 2 by 2 pixels."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 255, (3, 5, 3)).repeat(10, 0).repeat(9, 1)
    grain = rng.integers(-20, 21, (*patches.shape[:2], 1))
    return np.clip(patches + grain, 0, 255).astype(np.uint8).repeat(2, 0).repeat(2, 1)


@pytest.fixture(scope="module")
def motion():
    """Of the whole frame, at half its size."""
    return np.random.default_rng(1).normal(size=(30, 45, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(frame, motion):
    return SuperpixelGraph(frame, BOX, 600, 40, motion)


def small_of(frame):
    left, top, right, bottom = BOX
    return frame[top:bottom:2, left:right:2]


def shortest(costs, start):
    """Bellman and Ford's way over a dense table; 0 is no way."""
    costs = np.where(costs > 0, costs, np.inf)
    found = np.full(len(costs), np.inf)
    found[start] = 0
    for _ in costs:
        found = np.minimum(found, (found[:, None] + costs).min(0))
    return found


def test_a_large_crop_is_scaled_down_and_means_are_taken(frame, motion, graph):
    assert (graph.scale, graph.width, graph.height, graph.box) == (0.5, 30, 20, BOX)
    assert graph.labels.shape == (20, 30) and graph.diagonal == pytest.approx(np.hypot(20, 30))
    assert 20 < graph.count <= 45
    assert sorted(set(graph.labels.ravel())) == list(range(graph.count))
    lab = rgb2lab(small_of(frame))
    for k in range(graph.count):
        rows, columns = np.nonzero(graph.labels == k)
        assert graph.area[k] == len(rows)
        np.testing.assert_allclose(graph.lab[k], lab[rows, columns].mean(0), atol=1e-3)
        np.testing.assert_allclose(graph.place[k], [columns.mean(), rows.mean()], rtol=1e-5)
        y, x = (4 + (rows + 0.5) * 2) * 30 / 60, (10 + (columns + 0.5) * 2) * 45 / 90
        moved = motion[y.astype(int), x.astype(int)].mean(0)
        np.testing.assert_allclose(graph.motion[k], moved, atol=1e-5)
    edge = {*graph.labels[0], *graph.labels[-1], *graph.labels[:, 0], *graph.labels[:, -1]}
    assert graph.border.tolist() == sorted(edge)
    for kind in (0, 1):
        expected = shortest(graph.costs[kind].toarray(), graph.border)
        np.testing.assert_allclose(graph.border_distance[kind], expected, rtol=1e-5)
    np.testing.assert_allclose(graph.border_likeness, graph.likeness(graph.border))


def test_a_small_crop_is_taken_as_it_is(frame):
    whole = SuperpixelGraph(frame, (0, 0, 90, 60), 10_000, 30)
    assert (whole.scale, whole.width, whole.height) == (1, 90, 60)
    assert whole.motion is None and len(whole.costs) == 1
    thin = SuperpixelGraph(frame, (0, 0, 90, 1), 30, 1000)
    assert (thin.width, thin.height) == (52, 2) and thin.count <= 26  # of four pixels at least
    # motion of any size, also smaller than the picture, at its last row and column
    coarse = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    moved = SuperpixelGraph(frame, (60, 30, 90, 60), 10_000, 4, coarse).motion
    np.testing.assert_allclose(moved, np.broadcast_to([10, 11], moved.shape))


def test_neighbours_and_what_a_way_to_them_costs(frame, graph):
    lab = rgb2lab(small_of(frame))
    steps: dict[tuple[int, int], list[float]] = {}
    for row, column in np.ndindex(graph.labels.shape):
        for other in ((row, column + 1), (row + 1, column)):
            if other[0] < 20 and other[1] < 30:
                pair = sorted((graph.labels[row, column], graph.labels[other]))
                if pair[0] != pair[1]:
                    step = np.abs(lab[row, column] - lab[other]).max()
                    steps.setdefault((int(pair[0]), int(pair[1])), []).append(step)
    shape = (graph.count, graph.count)
    expected = {name: np.zeros(shape) for name in ("color", "motion", "steps", "alike")}
    for (i, j), each in steps.items():
        contrast, gap = np.mean(each), np.sqrt(((graph.lab[i] - graph.lab[j]) ** 2).sum())
        way = np.hypot(*(graph.place[i] - graph.place[j])) / np.sqrt(600 / graph.count)
        moved = ((graph.motion[i] - graph.motion[j]) ** 2).sum()
        values = {
            "color": gap + 0.5 * contrast + 0.3 * way,
            "motion": 4 * np.sqrt(moved) + 0.3 * way + 0.2 * gap,
            "steps": (0.05 * (gap + contrast) + 0.01 * way) ** 5,
            "alike": (len(each) * np.exp(-0.006 * (gap**2 + contrast**2)) + 1e-3)
            * np.exp(-0.05 * moved),
        }
        for name, value in values.items():
            expected[name][i, j] = expected[name][j, i] = value
    for name, found in (
        ("color", graph.costs[0]),
        ("motion", graph.costs[1]),
        ("steps", graph._steps),
        ("alike", graph._alike),
    ):
        np.testing.assert_allclose(found.toarray(), expected[name], rtol=2e-3, err_msg=name)


def test_superpixels_at_and_around_a_pixel_and_under_a_stroke(graph):
    labels = graph.labels
    assert graph.at(10, 4) == labels[0, 0] and graph.at(69, 43) == labels[19, 29]
    assert graph.at(31.9, 15.9) == labels[5, 10] and graph.at(32, 16) == labels[6, 11]
    assert graph.at(0, 100) == labels[19, 0] and graph.at(500, 0) == labels[0, 29]
    assert graph.around(40, 24).tolist() == sorted(set(labels[7:14, 12:19].ravel()))
    assert graph.around(40, 24, 0).tolist() == [labels[10, 15]]
    assert graph.around(12, 6).tolist() == sorted(set(labels[0:5, 0:5].ravel()))
    assert graph.around(69, 43).tolist() == sorted(set(labels[16:, 26:].ravel()))
    assert graph.around(300, 300).tolist() == [labels[19, 29]]
    assert graph.under([(40, 24)]).tolist() == [graph.at(40, 24)]
    stroke = [(12, 6), (60, 8), (64, 40)]
    passed = {graph.at(64, 40)}
    for (x0, y0), (x1, y1) in zip(stroke, stroke[1:], strict=False):
        count = int(np.hypot(x1 - x0, y1 - y0) / 2 / 3) + 1
        for share in np.arange(count) / count:  # at least every third working pixel
            passed.add(graph.at(x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
    assert graph.under(stroke).tolist() == sorted(passed) and len(passed) > 8


def test_ways_through_the_graph(graph):
    start = np.array([3, graph.count - 2])
    for kind in (0, 1):
        expected = shortest(graph.costs[kind].toarray(), start)
        np.testing.assert_allclose(graph.distance(start, kind), expected, rtol=1e-5)
    np.testing.assert_allclose(graph.distance(start), graph.distance(start, 0))
    step = shortest(graph._steps.toarray(), start) ** 0.2
    np.testing.assert_allclose(graph.highest_step(start), step, rtol=1e-4)
    apart = np.hypot(*(graph.place[:, None] - graph.place[start]).transpose(2, 0, 1)).min(1)
    np.testing.assert_allclose(
        graph.spatial_distance(start), apart / np.hypot(20, 30), rtol=1e-5, atol=1e-7
    )
    among = np.random.default_rng(4).random(graph.count) < 0.5
    among[start[0]], among[start[1]] = True, False
    reached, touching = {int(start[0])}, graph._alike.toarray() > 0
    for _ in range(graph.count):
        reached |= {int(k) for i in reached for k in np.flatnonzero(touching[i] & among)}
    assert np.flatnonzero(graph.connected(among, start)).tolist() == sorted(reached)
    assert 1 < len(reached) < among.sum()
    assert not graph.connected(among, start[1:]).any(), "it is not among them itself"


def test_a_random_walk_with_a_prior(graph):
    rng = np.random.default_rng(5)
    likely = rng.random(graph.count).astype(np.float32)
    inside, outside = np.zeros((2, graph.count), bool)
    inside[[2, 9]], outside[[5, 20]] = True, True
    for trust in (0.25, 2.0):
        own = 2 * trust * np.sqrt(graph.area)
        alike = graph._alike.toarray()
        system = np.diag(alike.sum(1) + own + 1e4 * (inside | outside)) - alike
        expected = np.linalg.solve(system, own * likely + 1e4 * inside)
        found = graph.solve(likely, trust, inside, outside)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=5e-3)


def cells_of(lab):
    cells = np.rint(np.asarray(lab, float) / 6 + (0, 12, 12)).astype(int)
    return np.clip(cells, 0, (17, 24, 24))


def test_how_often_colours_occur_inside_and_outside(graph, frame):
    share = np.random.default_rng(6).random(graph.count).astype(np.float32)
    known = ColorCounts.of(frame, np.pad(np.ones((20, 30), bool), ((10, 30), (20, 40))))
    assert known is not None
    for other in (None, known):
        logs = []
        for side, weight in ((0, share * graph.area), (1, (1 - share) * graph.area)):
            counts = np.zeros((18, 25, 25))
            for cell, each in zip(cells_of(graph.lab), weight, strict=True):
                counts[tuple(cell)] += each / weight.sum()
            if other is not None:
                there = (other.inside, other.outside)[side].reshape(counts.shape)
                counts = (counts + there) / 2
            blurred = gaussian_filter(counts, 0.8, truncate=2, mode="constant")
            logs.append([np.log(blurred[tuple(cell)] + 2e-4) for cell in cells_of(graph.lab)])
        expected = np.subtract(*logs)
        np.testing.assert_allclose(graph.color_ratio(share, other), expected, atol=1e-3)
        assert np.ptp(expected) > 0.5


def test_how_often_colours_occur_nearby(graph):
    share = np.random.default_rng(7).random(graph.count).astype(np.float32)
    places = np.rint(np.hstack([graph.place / np.hypot(20, 30) * 10, graph.lab / 9])).astype(int)
    places -= places.min(0)
    logs = []
    for weight in (share * graph.area, (1 - share) * graph.area):
        grid = np.zeros(places.max(0) + 1)
        for place, each in zip(places, weight, strict=True):
            grid[tuple(place)] += each
        blurred = gaussian_filter(grid, (1, 1, 0.7, 0.7, 0.7), truncate=2, mode="constant")
        logs.append([np.log(blurred[tuple(place)] + 3) for place in places])
    np.testing.assert_allclose(graph.local_color_ratio(share), np.subtract(*logs), atol=1e-3)
    samples = np.array([1, 4, 8])
    gaps = ((graph.lab[:, None] - graph.lab[samples]) ** 2).sum(-1)
    for width in (6.0, 15.0):
        alike = np.exp(-gaps / (2 * width**2)).mean(1)
        np.testing.assert_allclose(graph.likeness(samples, width), alike, atol=1e-4)
    np.testing.assert_array_equal(graph.likeness(samples), graph.likeness(samples, 6.0))


def test_values_go_from_pixels_to_superpixels_and_back(graph):
    values = np.random.default_rng(8).random((30, 45)).astype(np.float32).repeat(2, 0).repeat(2, 1)
    shares = graph.shares(values)
    part = values[4:44:2, 10:70:2]
    expected = [part[graph.labels == k].mean() for k in range(graph.count)]
    np.testing.assert_allclose(shares, expected, rtol=1e-4)
    into = np.full((60, 90), 7, np.float32)
    graph.paint(np.where(np.arange(graph.count) % 2, 1, 0).astype(np.float32), into)
    outside = np.ones((60, 90), bool)
    outside[4:44, 10:70] = False
    assert (into[outside] == 7).all() and into[4:44, 10:70].min() == 0
    blocks = (graph.labels % 2).astype(np.float32)
    # between the middles of four pixels it is bilinear
    np.testing.assert_allclose(
        into[5:43:2, 11:69:2],
        (9 * blocks[:-1, :-1] + 3 * blocks[1:, :-1] + 3 * blocks[:-1, 1:] + blocks[1:, 1:]) / 16,
        atol=1e-5,
    )
    across, down = graph.within((20, 10, 60, 40))
    x, y = 10 + 2 * graph.place[:, 0], 4 + 2 * graph.place[:, 1]
    np.testing.assert_allclose(across, (x - 40) / 20, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(down, (y - 25) / 15, rtol=1e-4, atol=1e-6)


def test_colours_around_an_object_are_counted_up_to_its_own_size_away(frame):
    frame = np.pad(frame, ((60, 200), (80, 200), (0, 0)), mode="wrap")
    mask = np.zeros(frame.shape[:2], bool)
    mask[100:115, 120:150:3] = True  # 28 columns wide
    found = ColorCounts.of(frame, mask)
    assert found is not None
    near = np.s_[100 - 35 : 114 + 35 + 1, 120 - 35 : 147 + 35 + 1]  # 27 and 8 pixels
    cells = cells_of(rgb2lab(frame[near]))
    flat = np.ravel_multi_index(tuple(np.moveaxis(cells, -1, 0)), (18, 25, 25))
    for side, counted in ((mask[near], found.inside), (~mask[near], found.outside)):
        counts = np.bincount(flat[side], minlength=18 * 25 * 25)
        np.testing.assert_allclose(counted, counts / counts.sum(), atol=1e-7)
    large = np.zeros((900, 900, 3), np.uint8)
    large[::2] = 255  # of a large one every other pixel counts, here black or white alone
    mask = np.zeros((900, 900), bool)
    mask[300:600, 300:600] = True
    thinned = ColorCounts.of(large, mask)
    assert thinned is not None and thinned.inside.max() == thinned.outside.max() == 1
    assert ColorCounts.of(frame, np.ones(frame.shape[:2], bool)) is None, "nothing is around it"
    assert ColorCounts.of(frame, np.zeros(frame.shape[:2], bool)) is None
    both = ColorCounts.together([found, thinned])
    assert both is not None
    np.testing.assert_allclose(both.inside, (found.inside + thinned.inside) / 2, rtol=1e-5)
    np.testing.assert_allclose(both.outside, (found.outside + thinned.outside) / 2, rtol=1e-5)
    assert ColorCounts.together([]) is None
