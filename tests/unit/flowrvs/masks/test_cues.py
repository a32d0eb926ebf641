from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from flowrvs.masks import cues
from flowrvs.masks.cues import LocalColors, blurred, likeness, motion_cue, patch_distance
from flowrvs.masks.flow import Region

ROWS, COLUMNS = np.indices((96, 128), dtype=np.float32)
DISTANCE = 20 - np.hypot(ROWS - 48, COLUMNS - 64)  # of a disk's edge, positive inside


def test_motion_tells_the_object_from_what_stays_behind():
    flow = np.zeros((96, 128, 2), np.float32)
    flow[DISTANCE > 0] = (0, 6)
    flow[46:50, 50:54] = 0  # carried along by mistake: it rests like the ground
    says, slow = motion_cue(flow, DISTANCE, np.ones((96, 128), bool))
    assert says[48, 52] < -1 < 1 < says[48, 70]
    assert says[10, 10] < -1
    assert slow[48, 64] < 0.2


def test_what_motion_says_in_numbers():
    """Object and ground move apart by half a pixel: each pixel is judged by its two distances."""
    flow = np.zeros((96, 320, 2), np.float32)
    distance = 20 - np.hypot(
        *(np.indices((96, 320), dtype=np.float32) - np.array([48, 40])[:, None, None])
    )
    flow[distance > 2] = (0.3, 0.5)
    flow[distance < -4] = (-0.1, 0.2)
    found = np.ones((96, 320), bool)
    flow[40:44, 36:40], found[40:44, 36:40] = (
        (50, 50),
        False,
    )  # where flow is wrong nothing is learnt
    says, slow = motion_cue(flow, distance, found)
    apart = 0.4**2 + 0.3**2
    np.testing.assert_allclose(says[50, 40], apart / (2 * 0.5**2), rtol=2e-3)
    np.testing.assert_allclose(says[50, 80], -apart / (2 * 0.5**2), rtol=2e-3)
    np.testing.assert_allclose(slow[48, 30:60], 1 / (1 + apart / 1.5**2), rtol=2e-3)
    assert not says[:, 240:].any(), "so far from the object its motion is not known"
    # an object that moves unevenly says less: every other column moves by 0.4 more
    flow[(distance > 2) & (np.arange(320) // 4 % 2 == 1)] += (0, 0.4)
    says = motion_cue(flow, distance, found)[0]
    mean, spread = np.array([0.3, 0.7]), 0.2**2 + 0.5**2
    gaps = [((flow[50, 41] - rest) ** 2).sum() for rest in (np.array([-0.1, 0.2]), mean)]
    np.testing.assert_allclose(says[50, 41], (gaps[0] - gaps[1]) / (2 * spread), rtol=0.05)
    flow[distance > 2] *= 40  # evidence is clipped
    assert motion_cue(flow, distance, found)[0][50, 80] == -4


def test_without_relative_motion_nothing_is_said():
    flow = np.full((96, 128, 2), 3, np.float32)
    says, slow = motion_cue(flow, DISTANCE, np.ones((96, 128), bool))
    np.testing.assert_allclose(says, 0, atol=1e-3)
    np.testing.assert_allclose(slow, 1, atol=1e-3)


RED, BLUE, GREY = (50, 60, 40), (40, 10, -50), (70, 0, 0)  # in Lab, each in a cell of its own


def cell_counts(lab, region, weight):
    """Sums of `weight` by the nearest point of a grid of 16 pixels and by colour, sorted."""
    palette = sorted([RED, BLUE, GREY])
    counts = np.zeros((8, 10, 3))
    for row, column in np.ndindex(region.shape):
        at = np.rint((row + region.top) / 16), np.rint((column + region.left) / 16)
        color = palette.index(tuple(lab[row, column]))
        counts[int(at[0]), int(at[1]), color] += weight[row, column]
    return counts


@pytest.fixture
def colors():
    """Three colours on a part of a picture of 96 x 128, what has been learnt of it, and how."""
    rng = np.random.default_rng(0)
    region = Region(17, 65, 40, 121)
    lab = np.array([RED, BLUE, GREY], np.float32)[rng.integers(0, 3, region.shape)]
    inside, outside = rng.random((2, *region.shape)).astype(np.float32) / 10  # few: all counts
    known = LocalColors((96, 128), lab.reshape(-1, 3))
    known.learn(lab, region, inside, outside)
    return known, lab, region, inside, outside


def test_colours_are_counted_where_they_are(colors):
    known, lab, region, inside, outside = colors
    once = np.stack([cell_counts(lab, region, each) for each in (inside, outside)])
    np.testing.assert_allclose(known.counts, once, rtol=1e-4)
    known.learn(lab, region, outside, inside)
    np.testing.assert_allclose(known.counts, 0.8 * once + once[::-1], rtol=1e-4)
    before = known.counts.copy()
    known.learn(lab[:10, :20], Region(0, 10, 0, 20), np.zeros((10, 20)), np.zeros((10, 20)), 0.5)
    np.testing.assert_allclose(known.counts, 0.5 * before, rtol=1e-5)
    known.keep(lab, inside, outside)  # what is kept is counted apart
    np.testing.assert_allclose(known.counts, 0.5 * before, rtol=1e-5)


def test_what_colours_say_where_they_are(colors):
    known, lab, region, inside, outside = colors
    where = np.zeros(region.shape, bool)
    where[3:40:7, 5:80:9] = True
    rows, columns, ratio = known.evidence(lab, region, where)
    np.testing.assert_array_equal(np.stack([rows, columns], 1), np.argwhere(where))
    palette = np.array(sorted([RED, BLUE, GREY]), float)
    alike = np.exp(-((palette[:, None] - palette[None]) ** 2).sum(-1) / (2 * 5.0**2))
    color = [sorted([RED, BLUE, GREY]).index(tuple(each)) for each in lab[rows, columns]]
    at = np.stack([(rows + region.top) / 16, (columns + region.left) / 16])
    logs, totals = [], []
    for weight in (inside, outside):
        near = gaussian_filter(
            cell_counts(lab, region, weight), (0.8, 0.8, 0), truncate=2, mode="constant"
        )
        likely = near @ alike
        likely = np.log((likely + 0.1) / (likely.sum(-1, keepdims=True) + 20))
        each = [map_coordinates(likely[..., k], at, order=1) for k in range(3)]
        logs.append(np.choose(color, each))
        totals.append(map_coordinates(near.sum(-1), at, order=1))
    fewer = np.minimum(*totals)
    np.testing.assert_allclose(ratio, (logs[0] - logs[1]) * fewer / (fewer + 20), atol=1e-5)
    assert np.abs(ratio).max() > 0.02
    # where one side is not known nothing is said
    alone = LocalColors((96, 128), lab.reshape(-1, 3))
    alone.learn(lab, region, inside, np.zeros_like(inside))
    assert not alone.evidence(lab, region, where)[2].any()


def test_what_the_colours_of_key_frames_say_anywhere(colors):
    known, lab, _, inside, outside = colors
    known.keep(lab, inside, outside)
    known.keep(lab[:9], outside[:9], inside[:9])  # for good, without forgetting
    palette = sorted([RED, BLUE, GREY])
    alike = np.exp(-((np.array(palette)[:, None] - np.array(palette)) ** 2).sum(-1) / 50)
    logs = []
    for first, second in ((inside, outside), (outside, inside)):
        counts = [
            first[(lab == color).all(-1)].sum() + second[:9][(lab[:9] == color).all(-1)].sum()
            for color in palette
        ]
        likely = np.array(counts) @ alike
        logs.append(np.log((likely + 1) / (likely.sum() + 200)))
    said = known.anywhere(np.array(palette, np.float32))
    np.testing.assert_allclose(said, logs[0] - logs[1], rtol=1e-3)


def test_the_palette_stands_for_all_colours():
    rng = np.random.default_rng(1)
    colors = (rng.normal(size=(400, 3)) * 20 + (50, 0, 0)).astype(np.float32)
    distinct = np.unique(np.round(colors), axis=0)
    np.testing.assert_array_equal(cues._palette(colors, len(distinct)), distinct)
    expected = distinct[np.linspace(0, len(distinct) - 1, 5).astype(int)]
    for _ in range(6):  # Lloyd's algorithm
        owner = np.argmin(((colors[:, None] - expected) ** 2).sum(-1), axis=1)
        expected = np.array([colors[owner == k].mean(0) for k in range(5)])
    np.testing.assert_allclose(cues._palette(colors, 5), expected, rtol=1e-4)
    assert LocalColors((40, 40), colors, 7).counts.shape == (2, 4, 4, 7)
    # any colour, also beyond those that Lab has, finds the nearest of the palette
    known = LocalColors((40, 40), np.array([RED, BLUE, GREY], np.float32))
    palette = np.array(sorted([RED, BLUE, GREY]))
    lab = rng.uniform((0, -111, -111), (103, 110, 110), (500, 3)).astype(np.float32)
    lab = np.floor(lab / 4) * 4 + 2  # in the middle of a cell
    apart = np.sort(((lab[:, None] - palette) ** 2).sum(-1), axis=1)
    clear = apart[:, 1] - apart[:, 0] > 1
    nearest = ((lab[:, None] - palette) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(known._nearest(lab)[clear], nearest[clear])
    assert known._nearest(np.array([0, 128, 128], np.float32)).shape == ()


def test_patches_are_five_by_five():
    a = np.zeros((20, 20, 3), np.float32)
    b = a.copy()
    b[10, 12] = (1, -2, 3)
    expected = np.zeros((20, 20))
    expected[8:13, 10:15] = 14 / 25
    np.testing.assert_allclose(patch_distance(a, b), expected, atol=1e-6)
    b += np.array([5, -3, 2])  # another light
    np.testing.assert_allclose(likeness(b, a, 3.0), np.exp(-expected / 3), rtol=1e-5)


def test_light_does_not_make_a_picture_another():
    picture = np.random.default_rng(0).normal(50, 20, (40, 40, 3)).astype(np.float32)
    np.testing.assert_allclose(likeness(picture + 9, picture, 9.0), 1, atol=1e-4)
    assert np.median(likeness(picture[::-1], picture, 9.0)) < 0.01


def test_blurring_stays_within_the_band():
    where = np.zeros((20, 20), bool)
    where[:, 10:] = True
    values = np.where(where, 2.0, 100.0).astype(np.float32)
    np.testing.assert_allclose(blurred(values, where, 2.0)[5:15, 12:], 2, atol=0.02)
    values = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 2.0) ** 2)
    weight = np.outer(kernel, kernel) / kernel.sum() ** 2 * where[6:15, 8:17]
    mean = (weight * values[6:15, 8:17]).sum() / (weight.sum() + 1e-3)
    np.testing.assert_allclose(blurred(values, where, 2.0)[10, 12], mean, rtol=1e-4)
