from __future__ import annotations

import numpy as np
import pytest

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


def test_a_mask_that_somebody_drew_anew_has_no_margin():
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


def test_a_gap_is_looked_at_in_its_middle():
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
    ]:
        with pytest.raises(InputError):
            call()
