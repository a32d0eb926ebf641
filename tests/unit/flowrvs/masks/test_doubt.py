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
    sure = np.rint(255 / (1 + np.exp(-distance))).astype(np.uint8)
    unsure = np.where(mask, 140, 10).astype(np.uint8)
    assert doubt.margin(sure, mask) < 0.05
    assert doubt.margin(unsure, mask) > 0.7
    clamped = np.rint(255 / (1 + np.exp(-np.clip(distance, -1, 1)))).astype(np.uint8)
    assert (clamped.min(), clamped.max()) == (69, 186)
    assert doubt.margin(clamped, mask) < 0.05
    nothing = np.zeros_like(mask)
    assert doubt.margin(np.full((80, 80), 69, np.uint8), nothing) == 0
    assert doubt.margin(np.full((80, 80), 100, np.uint8), nothing) == 1


def test_area_jumps_find_the_odd_frame():
    areas = 1000 + 10 * np.arange(40)
    areas[17] = 300
    areas[30] = 0
    jumps = doubt.area_jumps(areas)
    assert set(np.argsort(-jumps)[:2]) == {17, 30}
    assert np.delete(jumps, [17, 30]).max() < 0.1
    assert doubt.area_jumps([5, 900]).tolist() == [0, 0]
    assert not doubt.area_jumps(np.zeros(9)).any()


def test_warped_neighbours_find_the_wrong_mask(disk):
    flows = Flows(disk.read, disk.masks.shape)
    right = {t: disk.masks[t] for t in (4, 5, 6)}
    wrong = right | {5: np.roll(disk.masks[5], 9, axis=0)}
    assert doubt.warp_disagreement(flows, 5, right) < 0.08
    assert doubt.warp_disagreement(flows, 5, wrong) > 0.4
    gone = right | {5: np.zeros_like(disk.masks[5])}
    assert doubt.warp_disagreement(flows, 5, gone) > 0.8
    assert doubt.warp_disagreement(flows, 5, {5: disk.masks[5]}) == 0


def test_together_is_never_less_than_the_worst():
    joined = doubt.together([0, 0.5, 1], None, [0.2, 0.5, np.nan])
    np.testing.assert_allclose(joined, [0.2, 0.75, 1])


def test_queue_spreads_out_and_leaves_out_checked_frames():
    doubts = [0.1, 0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 0.6, 0.1, 0.0]
    waiting = np.ones(10, bool)
    waiting[3] = False
    order = doubt.queue(doubts, waiting, apart=3)
    assert order[:2] == [1, 7]
    assert sorted(order) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert order.index(2) > order.index(4)


def test_bad_input_is_told():
    for call in [
        lambda: doubt.margin(np.zeros((3, 3), np.uint8), np.zeros((4, 4))),
        lambda: doubt.area_jumps(np.zeros((2, 2))),
        lambda: doubt.together(None),
        lambda: doubt.queue([1, 2], [True]),
    ]:
        with pytest.raises(InputError):
            call()
