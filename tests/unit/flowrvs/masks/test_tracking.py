"""A mask carried from frame to frame: exact motion, and each thing that decides by its numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowrvs.masks.cues import blurred, likeness, motion_cue, patch_distance
from flowrvs.masks.flow import Flows, Region, sample
from flowrvs.masks.shape import signed_distance
from flowrvs.masks.tracking import SURE, MaskTracker, _Look, _settle

from .conftest import texture, whole_steps

WHOLE = Region(0, 128, 0, 160)


def tracker_of(frames, keys, key=0, **options):
    shape = (len(frames), *frames[0].shape[:2])
    return MaskTracker(Flows(lambda t: frames[t], shape), keys, key, 1, **options)


@pytest.mark.parametrize(
    ("step", "ground", "radius"),
    [((0, 0), (0, 0), 22), ((0, 3), (0, 0), 22), ((2, -4), (0, 0), 7), ((-8, 9), (0, 0), 22)]
    + [((0, 6), (0, -3), 22), ((2, 3), (2, 3), 22), ((0, 2), (0, 0), 5), ((0, 15), (0, 0), 14)],
)
def test_what_moves_by_whole_pixels_is_found_to_the_pixel(step, ground, radius):
    clip = whole_steps(step, 4, ground=ground, radius=radius)
    tracker = tracker_of(clip.frames, {0: clip.masks[0]})
    found = list(tracker.to(3))
    assert [each.frame for each in found] == [1, 2, 3]
    for each in found:
        mask = np.zeros(clip.masks.shape[1:], bool)
        mask[each.region.slices] = each.logit > 0
        np.testing.assert_array_equal(mask, clip.masks[each.frame])
        assert 0.98 < each.certainty <= 1 and each.logit.dtype == np.float16
        assert each.logit.max() == SURE and each.logit.min() == -SURE
    trail = np.median(tracker._trail[clip.masks[3]], axis=0)  # leads back to the key frame
    np.testing.assert_allclose(trail, (-3 * step[0], -3 * step[1]), atol=0.1)
    behind = np.median(tracker._trail[found[-1].region.slices][found[-1].logit < -6], axis=0)
    np.testing.assert_allclose(behind, (-3 * ground[0], -3 * ground[1]), atol=0.1)


@pytest.mark.parametrize("share", [0.4, 0.6, 0.75, 1])
def test_it_ends_where_most_of_the_object_is_covered_at_once(share):
    clip = whole_steps((0, 3), 4)
    truth, last = clip.masks[3].copy(), clip.frames[3].copy()
    columns = np.flatnonzero(truth.any(0))
    upto = columns[0] + int(share * len(columns))
    last[:, :upto] = texture(3, (128, 160), 20, 130)[:, :upto]
    truth[:, :upto] = False
    found = list(tracker_of([*clip.frames[:3], last], {0: clip.masks[0]}).to(3))
    assert [each.frame for each in found] == ([1, 2, 3] if share < 0.7 else [1, 2])
    if share < 0.7:
        np.testing.assert_array_equal(found[-1].logit > 0, truth[found[-1].region.slices])
        assert 0.95 < found[-1].certainty < found[-2].certainty


def test_backwards_and_on_from_where_it_was():
    clip = whole_steps((1, 3), 5)
    tracker = tracker_of(clip.frames, {4: clip.masks[4]}, 4)
    assert [each.frame for each in tracker.to(2)] == [3, 2]
    assert [each.frame for each in tracker.to(0)] == [1, 0]


def test_what_is_carried_on_is_a_copy_of_all_that_was_learnt():
    clip = whole_steps((1, 3), 4, ground=(0, -1))
    rivals = [np.roll(clip.masks[0], -45, axis=1)]
    keys = {0: clip.masks[0]}
    first = tracker_of(clip.frames, keys, rivals=rivals)
    assert len(list(first.to(1))) == 1
    learnt = first.carried()
    before = {name: values.copy() for name, values in learnt.items()}
    assert {"0.mask", "0.colors"} <= learnt.keys(), "rivals are told of, too"
    rest = list(first.to(3))
    for name, values in before.items():
        np.testing.assert_array_equal(learnt[name], values)
    second = tracker_of(clip.frames, keys, rivals=rivals)
    second.go_on(learnt)
    for found, again in zip(rest, second.to(3), strict=True):
        assert found.region == again.region
        assert found.certainty == pytest.approx(again.certainty, abs=1e-4)
        np.testing.assert_allclose(found.logit, again.logit, atol=1e-2)
    for name, values in first.carried().items():
        np.testing.assert_allclose(values, second.carried()[name], rtol=1e-3, atol=1e-4)
    alone = tracker_of(clip.frames, keys, rivals=rivals)
    alone.go_on({name: each for name, each in learnt.items() if not name.startswith("0.")})
    assert not alone._rivals  # lost before


@pytest.mark.parametrize(("t", "last"), [(1, 0), (2, 1)])
def test_what_a_look_at_a_frame_weighs(t, last):
    """Warped edge, motion, colours and key frames, by their weights, in a band of ten pixels."""
    clip = whole_steps((1, 3), 3, ground=(0, 1))
    grain = np.random.default_rng(0).normal(0, 12, clip.frames.shape)
    frames = np.clip(clip.frames + grain, 0, 255).astype(np.uint8)
    tracker = tracker_of(frames, {0: clip.masks[0]})
    list(tracker.to(last))
    flows, step = tracker._flows, tracker._trail.copy()
    tracker._velocity = np.array([2.0, -1.0], np.float32)
    before = tracker._mask.copy()
    look = tracker._look(t, last)
    region = look.region
    corner = np.array([region.top, region.left])[:, None, None]
    flow = flows.between(t, last, region)
    here = np.indices(region.shape) + np.moveaxis(flow, -1, 0)
    inside = sample(before, *(here + corner).astype(np.float32)) > 0.5
    np.testing.assert_array_equal(look.inside, inside)
    back = sample(flows.between(last, t, region), *here.astype(np.float32))
    lab = flows.lab(t, region)
    change = patch_distance(sample(flows.lab(last, region), *here.astype(np.float32)), lab)
    tolerance = 9 + 3 * np.median(change)
    speed, miss = np.hypot(*np.moveaxis(flow, -1, 0)), np.hypot(*np.moveaxis(flow + back, -1, 0))
    found = (miss < 1 + 0.1 * speed) | (change < tolerance)
    assert look.noise == np.median(change) and look.kept == pytest.approx(found[inside].mean())
    trail = flow + sample(step, *(here + corner).astype(np.float32))
    if last:
        trail = tracker._matched(lab, region, trail)
    np.testing.assert_allclose(look.trail, trail, atol=1e-5)
    like = likeness(tracker._key_picture(region, trail), lab, tolerance)
    np.testing.assert_allclose(look.like, like, atol=1e-5)
    distance = signed_distance(inside, 24.0)
    moves, slow = motion_cue(flow, distance, found)
    moves = np.where(moves > 0, moves * np.clip(np.abs(distance) / 6, 0, 1), moves)
    edge, band = np.clip(distance / 3, -8, 8), np.abs(distance) <= 10
    decided = (0.35 + slow) * edge - (0.9 - 0.7 * slow) + 0.3 * moves
    decided += tracker._from_colors(lab, region, band)
    decided += tracker._from_keys(lab, region, trail, distance, look.noise, like)
    logit = np.clip(np.where(band, decided, edge), -8, 8)
    np.testing.assert_allclose(look.logit, logit, atol=2e-3)
    assert 100 < np.count_nonzero(np.abs(logit[band]) < 7.9)
    np.testing.assert_allclose(look.velocity, np.median(flow[inside], axis=0))
    off = ((flow - [2, -1]) ** 2).sum(-1) / (2 * 1.5**2)
    np.testing.assert_allclose(look.strength, logit + 5 * like - np.minimum(off, 4), atol=2e-3)


def look_at(region, logit, strength=None, **more):
    zeros = np.zeros(region.shape, np.float32)
    values = {
        "region": region,
        "lab": np.zeros((*region.shape, 3), np.float32),
        "trail": np.zeros((*region.shape, 2), np.float32),
        "inside": zeros > 0,
        "kept": 1.0,
        "noise": 0.0,
        "like": zeros,
        "logit": np.asarray(logit, np.float32),
        "velocity": np.zeros(2),
        "strength": zeros if strength is None else np.asarray(strength, np.float32),
    }
    return _Look(**(values | more))


def test_a_pixel_of_two_is_that_ones_that_it_fits_better():
    mine = look_at(Region(0, 2, 0, 4), [[3, 3, -3, 3], [3, 3, 3, 3]], [[9, 9, 9, 9], [1, 5, 1, 1]])
    yours = look_at(
        Region(1, 4, 1, 6), np.full((3, 5), 2), [[5, 2, 0, 9, 9], [9, 9, 9, 9, 9], [9] * 5]
    )
    _settle(mine, yours)
    # They share columns 1 to 3 of row 1; of equal ones it is mine.
    assert mine.logit.tolist() == [[3, 3, -3, 3], [3, 3, -3, 3]]
    assert yours.logit.tolist() == [[-2, 2, -2, 2, 2], [2] * 5, [2] * 5]
    for other in (Region(2, 4, 0, 4), Region(0, 2, 4, 6)):  # beside each other
        apart = look_at(other, np.full(other.shape, 2), np.full(other.shape, 9))
        _settle(mine, apart)
        assert (apart.logit == 2).all() and mine.logit[1].tolist() == [3, 3, -3, 3]
    one_says_no = look_at(Region(0, 2, 0, 4), np.full((2, 4), -1), np.full((2, 4), 20))
    _settle(mine, one_says_no)
    assert mine.logit.tolist() == [[3, 3, -3, 3], [3, 3, -3, 3]] and (one_says_no.logit == -1).all()


def test_what_confirms_a_mask(disk):
    """Colours that fit better around a mask speak against it; the key's own place does not."""
    tracker = MaskTracker(Flows(disk.read, disk.masks.shape), {4: disk.masks[4]}, 4, 1)
    region = Region(0, 96, 0, 144)
    lab = tracker._flows.lab(4, region)
    like = np.full(region.shape, 0.3, np.float32)
    here = signed_distance(disk.masks[4], 24.0)
    assert tracker._confirmed(lab, region, like, here, 1.0) > 0.4  # at rest, and still itself
    ring = signed_distance((here < -1) & (here > -9), 24.0)  # what is around it, it inside
    assert tracker._confirmed(lab, region, like, ring, 1.0) == 0
    assert tracker._confirmed(lab, region, np.ones_like(like), ring, 1.0) == 0  # by colours alone


def two_colors(count=1):
    """A red disk on blue, with some grain so that patches can be told apart."""
    clip = whole_steps((0, 0), count)
    grain = np.random.default_rng(5).integers(-12, 13, (128, 160, 1))
    frame = np.where(clip.masks[0][..., None], (200, 60, 50), (50, 80, 190)) + grain
    return [frame.astype(np.uint8)] * count, clip.masks[0]


def test_how_much_a_mask_looks_like_the_keys_object():
    """Its patches count, and by 0.3 its colours; what shows the key's own ground takes away."""
    frames, mask = two_colors()
    tracker = tracker_of(frames, {0: mask})
    lab = tracker._flows.lab(0, WHOLE)
    like = np.full(WHOLE.shape, 0.2, np.float32)
    confirmed = tracker._confirmed

    def at(mask):
        return signed_distance(mask, 24.0)

    assert confirmed(lab, WHOLE, like, at(mask), 1.0) == pytest.approx(0.2 + 0.3)
    assert confirmed(lab, WHOLE, np.where(mask, 0.6, 0).astype(np.float32), at(mask), 1.0) == (
        pytest.approx(0.6 + 0.3)
    )
    part = at(mask) > 5  # what is around it has its colours, too
    around = (at(part) < -1) & (at(part) > -8)
    red = float(mask[around].mean())
    assert 0.3 < red < 0.9
    found = confirmed(lab, WHOLE, like, at(part), 1.0)
    assert found == pytest.approx(0.2 + 0.3 * (1 - red), abs=1e-6)
    for columns in (4, 12):  # it hangs over on the ground, which is where it was
        over = mask | np.roll(mask, columns, axis=1)
        around = (at(over) < -1) & (at(over) > -8)
        blue = float((over & ~mask).sum() / over.sum())
        own = (0.2 + 0.3 * (1 - blue - float((mask & around).mean()))) * (1 - blue)
        found = confirmed(lab, WHOLE, like, at(over), 1.0)
        assert found == pytest.approx(own if blue <= 0.1 or own >= 0.36 else 0, abs=1e-6)
    # beyond a tenth of ground it must look more like the object; what is alike itself is no ground
    assert (own < 0.36) and found == 0
    assert confirmed(lab, WHOLE, np.ones_like(like), at(over), 1.0) == pytest.approx(
        1 + 0.3 * (1 - blue)
    )
    # another picture at its place is no ground either
    other = lab + np.random.default_rng(1).normal(0, 40, lab.shape).astype(np.float32)
    other[..., 1:] = lab[..., 1:]
    assert confirmed(other, WHOLE, like, at(over), 0.0) == pytest.approx(
        0.2 + 0.3 * (1 - blue), abs=0.1
    )
    # nothing can be said of a small one
    small = np.zeros(WHOLE.shape, bool)
    small[10:19, 10:19] = True  # 25 pixels are more than two from the edge
    assert confirmed(lab, WHOLE, like, at(small), 1.0) == 1
    small[10:20, 10:20] = True
    assert confirmed(lab, WHOLE, like, at(small), 1.0) == 0


def test_what_is_kept_of_a_frame():
    frames, mask = two_colors(3)
    tracker = tracker_of(frames, {0: mask})
    area, region = int(mask.sum()), tracker._region
    rest = {"lab": tracker._flows.lab(1, region), "like": np.full(region.shape, 0.2, np.float32)}
    new = np.roll(mask, 1, axis=1)
    logit = np.where(new, 2.0, -3.0)[region.slices]
    trail = np.random.default_rng(0).normal(size=(*region.shape, 2)).astype(np.float32)
    look = look_at(
        region, logit, **rest, inside=mask[region.slices], kept=0.5, noise=1.0, trail=trail
    )
    look = replace(look, velocity=np.array([1.0, 2.0]))
    counts = tracker._colors.counts.copy()
    found = tracker._keep(1, look)
    assert found is not None and (found.frame, found.region) == (1, region)
    np.testing.assert_array_equal(found.logit, logit.astype(np.float16))
    distance = signed_distance(new[region.slices], 24.0)
    confirmed = tracker._confirmed(rest["lab"], region, rest["like"], distance, 1.0)
    assert 0.3 < confirmed < 0.55
    share = (mask & new).sum() / (mask | new).sum()
    way = (0.5 * share) ** 0.25
    assert found.certainty == pytest.approx((0.4 + confirmed) * (1 + way) / 2)
    carried = tracker.carried()
    assert carried["at"] == 1 and carried["velocity"].tolist() == [1, 2]
    np.testing.assert_allclose(carried["numbers"], [area + 0.2 * (new.sum() - area), way])
    np.testing.assert_array_equal(carried["trail"], trail)
    np.testing.assert_allclose(carried["mask"], 1 / (1 + np.exp(-logit)), rtol=1e-5)
    sums = carried["colors"].sum((1, 2, 3)) - 0.8 * counts.sum((1, 2, 3))
    np.testing.assert_allclose(sums, [(distance > 1).sum(), (distance < -1).sum()], rtol=1e-4)
    # the next region alone is remembered, and the way goes on shrinking
    part = Region(region.top, region.bottom, region.left, region.right - 32)
    cut = np.s_[:, :-32]
    look = replace(
        look,
        region=part,
        logit=look.logit[cut],
        like=look.like[cut],
        lab=look.lab[cut],
        trail=trail[cut],
        inside=look.inside[cut],
    )
    assert tracker._keep(2, look) is not None
    assert not tracker._mask[:, part.right :].any() and not tracker._trail[:, part.right :].any()
    assert tracker._way == pytest.approx(way * way)


@pytest.mark.parametrize(("size", "least"), [(4, 4), (20, 60)])
def test_a_mask_that_collapses_is_lost(size, least):
    """Less than 15 % of what it was, or than four pixels."""
    mask = np.zeros((128, 160), bool)
    mask[50 : 50 + size, 60 : 60 + size] = True
    frames = [texture(3, (128, 160), 20, 130).astype(np.uint8)] * 2
    for count in (least, least - 1):
        tracker = tracker_of(frames, {0: mask})
        logit = np.full(tracker._region.shape, -3.0)
        logit[30 : 30 + count // 4, 30:34] = 2
        logit[30 + count // 4, 30 : 30 + count % 4] = 2
        look = look_at(tracker._region, logit, lab=tracker._flows.lab(1, tracker._region))
        assert (tracker._keep(1, look) is not None) == (count == least)


def test_what_colours_decide():
    frames, mask = two_colors()
    tracker = tracker_of(frames, {0: mask})
    rng = np.random.default_rng(2)
    region = Region(32, 96, 32, 112)
    lab = tracker._flows.lab(0, region) + rng.normal(0, 25, (64, 80, 3)).astype(np.float32)
    band = rng.random((64, 80)) < 0.5
    rows, columns, near = tracker._colors.evidence(lab, region, band)
    says = np.zeros((64, 80), np.float32)
    anywhere = tracker._colors.anywhere(lab)[band]
    says[band] = 0.4 * np.clip(near, -4, 4) + 0.35 * np.clip(anywhere, -4, 4)
    expected = 0.4 * says + 0.6 * blurred(says, band, 2.0)
    np.testing.assert_allclose(tracker._from_colors(lab, region, band), expected, atol=1e-5)
    assert np.ptp(says) > 2


def test_what_key_frames_decide():
    """Where a pixel was on the key frame, and with a camera at rest which key looks the same."""
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 255, (10, 128, 160, 3)).astype(np.uint8)
    frames[9, :, 80:] = frames[2, :, 80:]
    masks = {t: np.roll(whole_steps((0, 0), 1).masks[0], 5 * t, axis=1) for t in (2, 9)}
    tracker = tracker_of(frames, masks, 2)
    region = Region(32, 96, 40, 120)
    lab = tracker._flows.lab(9, region)
    distance = signed_distance(masks[2][region.slices], 24.0)
    alike = rng.random(region.shape).astype(np.float32)
    for way in ((2, -3), (6, 8), (8, -11), (30, 40)):
        trail = np.broadcast_to(np.array(way, np.float32), (*region.shape, 2))
        was = np.roll(masks[2], (-way[0], -way[1]), (0, 1))[region.slices]
        expected = 5 * alike * (2 * was - 1.0)
        still = np.exp(-((np.hypot(*way) / 8) ** 2))
        if np.hypot(*way) < 20:
            like = {t: likeness(tracker._flows.lab(t, region), lab, 9 + 3 * 2.0) for t in masks}
            first = like[2] >= like[9]  # of equal ones the nearer key is believed
            here = {t: like[t] * (2 * masks[t][region.slices] - 1.0) for t in masks}
            expected = expected + 3 * still * np.where(first, here[2], here[9])
        found = tracker._from_keys(lab, region, trail, distance, 2.0, alike)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_trail_is_matched_with_the_key_frame_anew():
    picture = texture(3, (128, 160), 20, 200)[..., :1].repeat(3, axis=-1)  # by lightness alone
    mask = whole_steps((0, 0), 1).masks[0]
    frames = [picture.astype(np.uint8), (np.roll(picture, (2, -1), (0, 1)) + 9).astype(np.uint8)]
    tracker = tracker_of(frames, {0: mask})
    region = Region(32, 96, 32, 128)
    nothing = np.zeros((*region.shape, 2), np.float32)
    found = tracker._matched(tracker._flows.lab(1, region), region, nothing)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.median(found[8:-8, 8:-8], (0, 1)), (-2, 1), atol=0.05)
    exact = nothing + np.array([-2, 1], np.float32)
    again = tracker._matched(tracker._flows.lab(1, region), region, exact)
    np.testing.assert_allclose(again[8:-8, 8:-8], exact[8:-8, 8:-8], atol=0.05)
    # what is right already stays as it is
    trail = np.zeros_like(exact)
    np.testing.assert_array_equal(
        tracker._matched(tracker._flows.lab(0, region), region, trail), trail
    )
    picture = tracker._key_picture(region, exact)[:-8, :-8]
    np.testing.assert_allclose(
        picture, tracker._flows.lab(0, Region(30, 94, 33, 129))[:-8, :-8], atol=1e-3
    )
    assert tracker._tolerance(2.0) == 9 + 6
