from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt
from skimage.color import rgb2lab

from flowrvs.errors import InputError
from flowrvs.masks import doubt
from flowrvs.masks.flow import Flows


def test_margin_tells_a_guess_from_a_sure_mask():
    rows, columns = np.indices((80, 80))
    distance = 25 - np.hypot(rows - 40, columns - 40)
    mask = distance > 0

    def bytes_of(logits):
        return np.rint(255 / (1 + np.exp(-np.clip(logits, -1, 1)))).astype(np.uint8)

    sure, unsure = bytes_of(distance), bytes_of(distance / 25)
    assert doubt.margin(sure, mask) < 0.05
    assert doubt.margin(unsure, mask) > 0.3
    higher = sure > 160  # another threshold is as good
    assert higher.sum() < mask.sum() and doubt.margin(sure, higher) < 0.1
    # A stricter threshold may have been meant: then it is the one that is judged.
    strict = unsure > 150
    assert 4 * strict.sum() < 3 * mask.sum() and doubt.margin(unsure, strict) > 0.3
    nothing = np.zeros_like(mask)
    assert doubt.margin(np.full((80, 80), 69, np.uint8), nothing) == 0
    assert doubt.margin(np.full((80, 80), 120, np.uint8), nothing) > 0.9


@pytest.mark.parametrize(
    ("threshold", "level"),
    # The usual threshold, one that gives hardly less, one that was meant, and a lower one.
    [(127, 127), (136, 127), (150, 150), (100, 100)],
)
def test_the_margin_counts_what_other_thresholds_give(threshold, level):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)  # as many pixels of each value
    strict, loose = 255 - (level + 12), 255 - (level - 12)
    assert doubt.margin(ramp, ramp > threshold) == 1 - (strict + 16) / (loose + 16)
    half = ramp // 2  # at most 127: nothing is there, but some is not far from it
    assert doubt.margin(half, half > 127) == 1 - 16 / (2 * (127 - 115) + 16)
    assert doubt.margin(ramp, ramp > 255) == 1 - 16 / (255 - 243 + 16)


def test_a_mask_that_somebody_drew_anew_has_no_margin():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    cut = (ramp > 127) & (ramp < 235)  # 107 of the 128 pixels: 5 % and 16 pixels may lack
    assert doubt.margin(ramp, cut) == doubt.margin(ramp, ramp > 127)
    assert doubt.margin(ramp, cut & (ramp < 234)) is None

    confidence = np.full((40, 40), 69, np.uint8)
    confidence[5:20, 5:20] = 186
    moved = np.roll(confidence > 127, 10, axis=0)
    assert doubt.margin(confidence, confidence > 127) == 0
    assert doubt.margin(confidence, moved) is None


def test_area_jumps_find_the_odd_frame():
    areas = 1000 + 10 * np.arange(40)
    areas[17] = 300
    areas[30] = 0
    jumps = doubt.area_jumps(areas)
    assert set(np.argsort(-jumps)[:2]) == {17, 30}
    assert np.delete(jumps, [17, 30]).max() < 0.1
    assert doubt.area_jumps([5, 900]).tolist() == [0, 0]
    few = doubt.area_jumps([4, 4, 4, 4, 0, 4, 4, 4, 4])  # pixels come and go
    assert few.tolist() == [0] * 4 + [pytest.approx(np.log2(20 / 16))] + [0] * 4
    assert not doubt.area_jumps(np.zeros(9)).any()


@pytest.mark.parametrize(("count", "window"), [(3, 3), (4, 3), (8, 7), (31, 31), (50, 31)])
def test_an_area_is_compared_with_the_median_around_it(count, window):
    areas = np.random.default_rng(count).integers(80, 160, count)
    longer = np.pad(areas, window // 2, mode="edge")
    usual = [np.median(longer[t : t + window]) for t in range(count)]
    expected = np.abs(np.log2((areas + 16) / (np.array(usual) + 16)))
    assert expected.max() < 1
    np.testing.assert_allclose(doubt.area_jumps(areas), expected, rtol=1e-5)


def test_warped_neighbours_find_the_wrong_mask(disk):
    flows = Flows(disk.read, disk.masks.shape)
    right = {t: disk.masks[t] for t in (4, 5, 6)}
    wrong = right | {5: np.roll(disk.masks[5], 9, axis=0)}
    assert doubt.warp_disagreement(flows, 5, right) < 0.08
    assert doubt.warp_disagreement(flows, 5, wrong) > 0.4
    one_side = {5: right[5], 6: np.roll(right[6], 9, axis=0)}
    worst = doubt.warp_disagreement(flows, 5, one_side)
    assert doubt.warp_disagreement(flows, 5, right | one_side) == pytest.approx(worst, abs=0.03)
    gone = right | {5: np.zeros_like(disk.masks[5])}
    assert doubt.warp_disagreement(flows, 5, gone) > 0.8
    assert doubt.warp_disagreement(flows, 5, {5: disk.masks[5]}) == 0


@pytest.mark.parametrize("scale", [1, 3])  # a large object is looked at coarsely
def test_of_the_nearest_the_worst_counts_and_of_the_others_the_mean(scale):
    frames = np.random.default_rng(0).integers(0, 255, (64, 150, 3)).astype(np.uint8)
    frames = frames.repeat(scale, 0).repeat(scale, 1)
    flows = Flows(lambda t: frames, (10, *frames.shape[:2]))  # nothing moves

    def upto(column):
        mask = np.zeros((64, 150), bool)
        mask[20:40, 20:column] = True
        return mask.repeat(scale, 0).repeat(scale, 1)

    masks = {5: upto(120), 4: upto(110), 6: upto(70), 2: upto(45), 9: upto(95)}

    def disagree(*frames):
        return doubt.warp_disagreement(flows, 5, {t: masks[t] for t in (5, *frames)})

    assert disagree(4) == pytest.approx(0.1)
    assert disagree(4, 6) == pytest.approx(0.5)
    assert disagree(2) == pytest.approx(0.75)
    assert disagree(2, 9) == pytest.approx(0.5)
    assert disagree(4, 2) == pytest.approx((0.1 + 0.75) / 2)
    assert disagree(6, 4, 9, 2) == pytest.approx((0.5 + 0.5) / 2)


def test_neighbours_are_moved_as_the_picture_moves():
    frames = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    picture = frames.repeat(8, 0).repeat(8, 1)
    flows = Flows(lambda t: np.roll(picture, (2 * t, -3 * t), (0, 1)), (5, 96, 128))
    mask = np.zeros((96, 128), bool)
    mask[40:64, 50:70] = True
    masks = {t: np.roll(mask, (2 * t, -3 * t), (0, 1)) for t in range(5)}
    for others in ((1, 3), (0, 4)):
        assert doubt.warp_disagreement(flows, 2, {t: masks[t] for t in (2, *others)}) < 0.02
    wrong = {1: masks[3], 2: masks[2]}  # four rows and six columns away once it is moved
    assert doubt.warp_disagreement(flows, 2, wrong) == pytest.approx(1 - 280 / 680, abs=0.01)
    with pytest.raises(InputError, match="frame 2 itself"):
        doubt.warp_disagreement(flows, 2, {1: mask})


def test_masks_farther_away_find_a_run_of_wrong_ones(disk):
    flows = Flows(disk.read, disk.masks.shape)
    masks = {t: np.roll(disk.masks[t], 9, axis=0) for t in (4, 5, 6)}
    near = doubt.warp_disagreement(flows, 5, masks)
    masks |= {t: disk.masks[t] for t in (1, 9)}
    assert doubt.warp_disagreement(flows, 5, masks) > near + 0.1, "near ones err alike"
    gone = {t: np.zeros_like(disk.masks[t]) for t in (1, 5, 9)} | {6: disk.masks[6]}
    assert doubt.warp_disagreement(flows, 5, gone) == 0.5, "absent there too is no difference"


def test_an_edge_within_one_colour_is_doubtful(disk):
    flows = Flows(disk.read, disk.masks.shape)
    right = doubt.edge_likeness(flows, 5, disk.masks[5])
    beside = doubt.edge_likeness(flows, 5, np.roll(disk.masks[5], 15, axis=0))
    assert right < beside
    assert doubt.edge_likeness(flows, 5, np.zeros_like(disk.masks[5])) == 0
    assert doubt.edge_likeness(flows, 5, np.ones_like(disk.masks[5])) == 0
    # Where the object leaves the picture it has no edge.
    frames = np.full((1, 60, 90, 3), 120, np.uint8)
    frames[:, :, 6:30] = (200, 30, 30)
    mask = np.zeros((60, 90), bool)
    mask[:, :30] = True
    flows = Flows(lambda t: frames[t], frames.shape[:3])
    assert doubt.edge_likeness(flows, 0, mask) == 0
    assert doubt.edge_likeness(flows, 0, np.roll(mask, 10, axis=1)) > 0


def test_the_likeness_is_the_overlap_of_two_histograms():
    rng = np.random.default_rng(2)
    colors = np.array([(200, 30, 30), (205, 60, 25), (30, 90, 200), (20, 20, 20), (240, 240, 90)])
    frame = colors[rng.integers(0, 5, (60, 90))].astype(np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[20:45, :30] = True  # it reaches the side of the picture, where it has no edge
    frame[mask & (rng.random(mask.shape) < 0.6)] = colors[0]
    inside = distance_transform_cdt(np.pad(mask, 4, mode="edge"), "taxicab")[4:-4, 4:-4]
    outside = distance_transform_cdt(~mask, "taxicab")
    lab = rgb2lab(frame)
    shares = []
    for rim in ((inside > 0) & (inside <= 3), (outside > 0) & (outside <= 3)):
        cells = np.floor(lab[rim] / (13, 25, 25)).astype(int)
        shares.append({c: n / rim.sum() for c, n in Counter(map(tuple, cells.tolist())).items()})
    expected = sum(min(n, shares[1].get(c, 0)) for c, n in shares[0].items())
    flows = Flows(lambda t: frame, (1, 60, 90))
    assert 0.3 < expected < 0.9 and len(shares[1]) == 5
    assert doubt.edge_likeness(flows, 0, mask) == pytest.approx(expected)


def test_a_gap_is_looked_at_in_its_middle():
    assert doubt.gaps([False, False, True, False]).tolist() == [0.5, 0, 0, 0.5]
    drawn = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0], bool)
    values = doubt.gaps(drawn)
    assert np.flatnonzero(values).tolist() == [1, 7, 11]
    assert doubt.gaps(np.zeros(1, bool)).tolist() == [0.5]
    assert not doubt.gaps(np.ones(4, bool)).any()


def test_together_grows_with_each_measure():
    one = doubt.together(warp=[0, 0.5, 1, np.nan])
    both = doubt.together(warp=[0, 0.5, 1, np.nan], margin=None, area=np.full(4, 0.5))
    assert one[0] == one[3] == 0 and (np.diff(one[:3]) > 0).all()
    assert (both > one).all() and (both <= 1).all()
    apart = {"margin": 0.7, "windows": 0.5, "warp": 0.9, "edge": 0.5}
    apart |= {"area": 0.15, "gone": 0.6, "spread": 0.5, "gap": 1.0}
    for name, weight in apart.items():
        measured = doubt.together(**{name: [0.5, 1, 7, -7, np.nan]})
        np.testing.assert_allclose(measured, [weight / 2, weight, weight, 0, 0], rtol=1e-6)
    mixed = doubt.together(warp=[[0.5], [1]], margin=[0.2, 1, 0], edge=1)
    expected = [[1 - (1 - 0.9 * w) * (1 - 0.7 * m) / 2 for m in (0.2, 1, 0)] for w in (0.5, 1)]
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), max_size=24),
    st.integers(1, 6),
    st.none() | st.integers(0, 8),
)
@settings(max_examples=60, deadline=None)
@example([(0.9 - t // 8 / 10 - abs(t % 8 - 4) / 100, True) for t in range(40)], 3, 4)
@example([(0.5, t != 6) for t in range(20)], 5, None)
def test_the_queue_is_what_its_rule_says(frames, apart, most):
    doubts, waiting = [each[0] for each in frames], [each[1] for each in frames]
    checked = [t for t, open_ in enumerate(waiting) if not open_]

    def key(t):
        near = min([abs(t - c) for c in checked if abs(t - c) < apart], default=apart)
        return -doubts[t] * (1 - 0.25 * (1 - near / apart)) + 1e-12 * t

    order = sorted((t for t, open_ in enumerate(waiting) if open_), key=key)
    first: list[int] = []
    for t in order:
        if all(abs(t - other) >= apart for other in first):
            first.append(t)
    expected = (first + [t for t in order if t not in first])[:most]
    assert doubt.queue(doubts, np.array(waiting, bool), apart, most) == expected
    if apart == 5:
        assert doubt.queue(doubts, np.array(waiting, bool), most=most) == expected


def test_queue_spreads_out_and_leaves_out_checked_frames():
    doubts = [0.1, 0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 0.6, 0.1, 0.0]
    waiting = np.ones(10, bool)
    waiting[3] = False
    order = doubt.queue(doubts, waiting, apart=3)
    assert order[:2] == [1, 7]
    assert sorted(order) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert order.index(2) > order.index(4)
    for most in (0, 1, 3, 9, 20):
        assert doubt.queue(doubts, waiting, apart=3, most=most) == order[:most]


def test_beside_a_checked_frame_doubt_counts_less():
    doubts = [0.0, 0.6, 0.0, 0.6, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0]
    waiting = np.ones(10, bool)
    assert doubt.queue(doubts, waiting, apart=4)[:2] == [1, 7]
    waiting[0] = False
    # 0.6 counts 0.49 a frame away, 0.56 three frames away, and 7 is far enough to count whole
    assert doubt.queue(doubts, waiting, apart=4)[:2] == [3, 7]
    assert doubt.queue(doubts, waiting, apart=2)[:3] == [3, 1, 7]
    assert doubt.queue(doubts, waiting, apart=1)[:3] == [1, 3, 7]
    assert doubt.queue(doubts, np.zeros(10, bool)) == []


def test_bad_input_is_told():
    for call in [
        lambda: doubt.margin(np.zeros((3, 3), np.uint8), np.zeros((4, 4))),
        lambda: doubt.area_jumps(np.zeros((2, 2))),
        lambda: doubt.together(warp=None),
        lambda: doubt.together(wrap=[0.5]),
        lambda: doubt.queue([1, 2], [True]),
        lambda: doubt.queue([[1, 2]], [[True, True]]),
    ]:
        with pytest.raises(InputError):
            call()
