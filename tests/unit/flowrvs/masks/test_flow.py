"""Flow, regions, and sampling: exact translations, and plain numpy beside the quick ways."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.color import rgb2lab

from flowrvs.errors import InputError
from flowrvs.masks import flow
from flowrvs.masks.flow import Flows, Region, block_mean, has_dis, region_around, sample
from flowrvs.masks.shape import opencv

METHODS = [
    "ilk",
    pytest.param("dis", marks=pytest.mark.skipif(not has_dis(), reason="OpenCV is absent")),
]


@pytest.fixture(params=[True, False], ids=["opencv", "numpy"])
def way(request, monkeypatch):
    """With OpenCV, and as it is without."""
    if request.param:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(flow, "opencv", lambda: None)


def test_a_region_holds_what_lies_in_it_at_its_step():
    region = Region(10, 50, 20, 80, 2)
    assert region.slices == (slice(10, 50), slice(20, 80)) and region.shape == (40, 60)
    assert region.holds(region) and region.holds(Region(11, 49, 21, 79, 2))
    for other in [(9, 50, 20, 80), (10, 51, 20, 80), (10, 50, 19, 80), (10, 50, 20, 81)]:
        assert not region.holds(Region(*other, 2))
    assert not region.holds(Region(10, 50, 20, 80))  # other pixels
    assert region.part(Region(12, 40, 25, 70, 2)) == (slice(2, 30), slice(5, 50))


def test_a_region_reaches_the_grid_around_a_mask_and_ends_with_the_picture():
    mask = np.zeros((300, 400), bool)
    mask[100:121, 130:171] = True
    assert region_around(mask, 20, 2) == Region(64, 160, 96, 192, 2)
    # multiples of 32 are enough as they are, one pixel more is the next one
    assert region_around(mask, 36, 1) == Region(64, 160, 64, 224)
    assert region_around(mask, 37, 1) == Region(32, 160, 64, 224)
    assert region_around(mask, 40, 1) == Region(32, 192, 64, 224)
    assert region_around(mask, 170, 1) == Region(0, 300, 0, 352)
    assert region_around(mask, 400, 1) == Region(0, 300, 0, 400)


def test_a_region_is_kept_until_it_is_left_or_far_too_large():
    mask = np.zeros((512, 512), bool)
    mask[250:260, 250:260] = True
    region = region_around(mask, 20, 1)
    assert region == Region(224, 288, 224, 288)
    for move, found in ((16, region), (26, Region(224, 288, 256, 320))):
        part = np.roll(mask, move, axis=1)[region.slices]
        assert region_around(part, 20, 1, shape=(512, 512), last=region) == found
    everything = Region(0, 512, 0, 512)
    assert region_around(mask, 20, 1, shape=(512, 512), last=everything) == region

    # Of its margin of 20, half must be left on every side.
    for side, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        room = 224 + 10 - 250 if side < 0 else 288 - 10 - 260
        for more in (0, 1):
            part = np.roll(mask, room + side * more, axis=axis)[region.slices]
            found = region_around(part, 20, 1, shape=(512, 512), last=region)
            assert (found == region) == (not more)
    # Twice of what is wanted is not yet far too large.
    for last, kept in ((Region(224, 352, 224, 288), True), (Region(224, 353, 224, 288), False)):
        part = mask[last.slices]
        assert (region_around(part, 20, 1, shape=(512, 512), last=last) == last) == kept


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(12, 24), (12, 24, 3), (13, 22), (11, 25, 2)])
def test_block_means(way, step, shape):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    high, wide = -(-shape[0] // step), -(-shape[1] // step)
    expected = np.empty((high, wide, *shape[2:]))
    for row, column in np.ndindex(high, wide):  # beyond the edge the edge goes on
        rows = np.minimum(np.arange(row * step, (row + 1) * step), shape[0] - 1)
        columns = np.minimum(np.arange(column * step, (column + 1) * step), shape[1] - 1)
        expected[row, column] = values[np.ix_(rows, columns)].mean((0, 1))
    found = block_mean(values, step)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("channels", [None, 1, 3, 4, 5, 9])
@pytest.mark.parametrize("size", [(7, 9), (1, 9), (7, 1)])
@pytest.mark.parametrize("at", [(5, 6), (30,)])
def test_sampling_is_bilinear_and_goes_on_at_the_edge(way, channels, size, at):
    rng = np.random.default_rng(1)
    shape = size if channels is None else (*size, channels)
    image = rng.random(shape).astype(np.float32)
    # 32nds of a pixel, to which OpenCV rounds
    rows, columns = (rng.integers(-64, 32 * (n + 2), at) / np.float32(32) for n in size)
    layers = [image] if channels is None else [image[..., c] for c in range(channels)]
    expected = [map_coordinates(each, [rows, columns], order=1, mode="nearest") for each in layers]
    expected = expected[0] if channels is None else np.stack(expected, axis=-1)
    found = sample(image, rows, columns)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_pictures_and_the_last_pixel_are_sampled_too(way):
    image = np.arange(12).reshape(3, 4)  # integers: not by OpenCV
    at = np.array([[2.0, 1.5]], np.float32), np.array([[3.0, 2.25]], np.float32)
    assert sample(image, *at).tolist() == [[11.0, 8.25]]
    assert sample(image.astype(np.float32), *at).tolist() == [[11.0, 8.25]]


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_flow_is_the_way_of_the_pixels(method, step):
    """A picture moved by whole pixels, small and doubled for DIS, or large enough."""
    from .conftest import texture

    side = 360 if step == 1 else 320
    picture = texture(3, (side, side), 20, 230)
    frames = [np.roll(picture, (4 * t, -2 * t), (0, 1)).astype(np.uint8) for t in range(2)]
    flows = Flows(frames.__getitem__, (2, side, side), method=method)
    assert flows.method == method
    for region in (
        Region(0, (side - 20) // step, 0, side // step, step),
        Region(32, 96, 32, 128, step),
    ):
        there, back = flows.between(0, 1, region), flows.between(1, 0, region)
        assert there.shape == (*region.shape, 2) and there.dtype == np.float32
        inside = np.s_[16:-16, 16:-16]
        moved = np.array([4, -2]) / step
        np.testing.assert_allclose(np.median(there[inside], (0, 1)), moved, atol=0.06)
        np.testing.assert_allclose(np.median(back[inside], (0, 1)), -moved, atol=0.06)


@pytest.mark.parametrize("method", METHODS)
def test_flow_of_a_disk_and_of_what_is_around_it(disk, method):
    flows = Flows(disk.read, disk.masks.shape, method=method)
    region = region_around(disk.masks[4], 20, 1)
    found = flows.between(4, 5, region)
    inside = disk.masks[4][region.slices]
    assert np.median(found[inside], axis=0) == pytest.approx(disk.motion, abs=0.35)
    outside = ~disk.masks[3:7].any(0)[region.slices]
    assert np.abs(np.median(found[outside], axis=0)).max() < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_what_is_too_small_for_a_patch_is_at_rest(method):
    picture = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.float32)
    first, second = picture, np.roll(picture, 1, axis=1)
    flows = Flows(lambda t: first, (1, 40, 40), method=method)
    still = flows.match(first[:15], second[:15])
    assert still.shape == (15, 40, 2) and still.dtype == np.float32 and not still.any()
    assert flows.match(first[:16], second[:16]).any()


def test_pictures_are_block_means_of_their_part_of_the_frame():
    frames = np.random.default_rng(0).integers(0, 255, (3, 50, 70, 3)).astype(np.uint8)
    flows = Flows(frames.__getitem__, frames.shape[:3])
    region = Region(5, 25, 8, 24, 3)  # beyond the picture its edge goes on, up to a pixel
    blocks = block_mean(frames[2, 15:75, 24:72].astype(np.float32), 3)
    np.testing.assert_allclose(flows.lab(2, region), rgb2lab(blocks / 255), rtol=1e-4, atol=1e-3)
    gray = blocks @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(flows._gray(2, region), gray, rtol=1e-5)


def test_flow_is_computed_once_for_a_region_and_its_parts(disk):
    asked = []

    def read(t):
        asked.append(t)
        return disk.frames[t]

    flows = Flows(read, disk.masks.shape)
    whole = flows.between(2, 3, Region(0, 96, 0, 128))
    part = flows.between(2, 3, Region(32, 64, 32, 96))
    assert asked == [2, 3]
    np.testing.assert_array_equal(part, whole[32:64, 32:96])

    back = flows.between(3, 2, Region(32, 64, 32, 96))
    assert asked == [2, 3], "the other way needs no other pictures"
    assert back.shape == part.shape and np.abs(back - part).max() > 1
    flows.between(2, 3, Region(0, 96, 0, 144))  # more than is known
    assert asked == [2, 3, 2, 3]


def test_what_was_used_last_is_kept():
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    asked = []

    def read(t):
        asked.append(t)
        return frames[t]

    region, each = Region(0, 32, 0, 32), 32 * 32 * 3 * 4
    flows = Flows(read, (4, 32, 32), cache_bytes=2 * each)  # two pictures are not too many
    first = flows.lab(0, region)
    for t in (1, 0, 2, 0):
        flows.lab(t, region)
    assert asked == [0, 1, 2]
    np.testing.assert_allclose(flows.lab(1, region), rgb2lab(frames[1] / 255), atol=1e-3)
    assert asked == [0, 1, 2, 1] and flows._used == 2 * each
    flows.lab(0, region)
    assert asked == [0, 1, 2, 1], "of the two others it was used last"
    np.testing.assert_array_equal(flows.lab(0, region), first)
    small = Flows(read, (4, 32, 32), cache_bytes=1)  # what is in use stays, however large
    asked.clear()
    small.lab(0, region), small.lab(0, region), small.lab(1, region), small.lab(0, region)
    assert asked == [0, 1, 0] and small._used == each


def test_unknown_flow_and_missing_opencv_are_told(disk, monkeypatch):
    with pytest.raises(InputError, match="unknown"):
        Flows(disk.read, disk.masks.shape, method="farneback")  # type: ignore[arg-type]
    opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    try:
        with pytest.raises(InputError, match="flow"):
            Flows(disk.read, disk.masks.shape, method="dis")
        assert Flows(disk.read, disk.masks.shape).method == "ilk"
    finally:
        opencv.cache_clear()
