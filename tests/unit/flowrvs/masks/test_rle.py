"""Run-length encoding against an own column-major counter and damaged input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flowrvs.errors import DatasetError
from flowrvs.masks import rle


def plain_runs(mask):
    """Column-major run lengths, the first one of background."""
    runs, value = [0], False
    for pixel in mask.ravel(order="F"):
        if bool(pixel) != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    return runs


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_round_trip(mask):
    coded = rle.encode(mask)
    assert coded == json.loads(json.dumps(coded))
    assert coded["size"] == list(mask.shape)
    assert np.array_equal(rle.decode(coded), mask)
    assert rle.area(coded) == mask.sum()
    places = np.argwhere(mask)
    if len(places):
        (top, left), (bottom, right) = places.min(0), places.max(0)
        assert rle.box(coded) == [left, top, right + 1 - left, bottom + 1 - top]
    else:
        assert rle.box(coded) == [0, 0, 0, 0]
    assert rle.runs(coded).tolist() == plain_runs(mask)
    plain = {"size": list(mask.shape), "counts": plain_runs(mask)}
    assert np.array_equal(rle.decode(plain), mask)
    for counts in (coded["counts"].encode(), tuple(plain["counts"])):
        assert np.array_equal(rle.decode({"size": mask.shape, "counts": counts}), mask)
    assert rle.decode(coded).flags.c_contiguous and isinstance(coded["counts"], str)
    assert rle.encode(mask * 7.5) == coded


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12) | st.text("0123456789:;<=>?@ABCPQR_`abcdefghijklmno", max_size=12))
def test_damaged_counts_are_refused_or_fill_the_size(counts):
    """pycocotools would read or write out of bounds here."""
    try:
        mask = rle.decode({"size": [7, 9], "counts": counts})
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert mask.shape == (7, 9)
        assert rle.encode(mask)["size"] == [7, 9]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"size": [4, 4]},
        {"size": [4], "counts": "0"},
        {"size": [0, 4], "counts": ""},
        {"size": [4, 4], "counts": [3, 3]},
        {"size": [4, 4], "counts": [-16, 32]},
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": 16},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": [float("inf")]},
        {"size": [4, 4], "counts": [float("nan")]},
        {"size": [4, 4], "counts": [None, 16]},
        {"size": [4, 4], "counts": ["16"]},
        {"size": [4, 4], "counts": [16.5]},
        {"size": [4, 4], "counts": [10**30, 16 - 10**30]},
        {"size": [4, 4], "counts": [[16]]},
        {"size": [4, float("inf")], "counts": [16]},
        {"size": [4, float("nan")], "counts": [16]},
        {"size": [None, 4], "counts": [16]},
        {"size": "44", "counts": [16]},
        {"size": ["4", "4"], "counts": [16]},
        {"size": None, "counts": [16]},
        {"size": [10**30, 1], "counts": [10**30]},
        # A run list of a few bytes that would take 10 GB.
        {"size": [10**5, 10**5], "counts": [10**10]},
        {"size": [46341, 46341], "counts": "0"},
        None,
        [],
        "abc",
        7,
    ],
)
def test_malformed_rle_is_refused(bad):
    for read in (rle.decode, rle.area, rle.box, rle.runs, lambda r: rle.merge([r])):
        with pytest.raises(DatasetError) as caught:
            read(bad)
        assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_written_as_floats():
    mask = rle.decode({"size": [2.0, 3], "counts": [1.0, 2, 3]})
    assert mask.T.ravel().tolist() == [False, True, True, False, False, False]


def test_the_largest_frame_is_still_a_mask():
    plain = {"size": [8192, 8192], "counts": [8192 * 8192 - 1, 1]}
    assert rle.area(plain) == 1 and rle.box(plain) == [8191.0, 8191.0, 1.0, 1.0]
    plain["size"] = [8192, 8193]
    with pytest.raises(DatasetError, match="larger than any frame"):
        rle.area(plain)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 3)])
def test_only_pictures_are_encoded(shape):
    with pytest.raises(DatasetError):
        rle.encode(np.zeros(shape, bool))


def test_merge_is_the_union():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 12, 9)) < 0.3
    union = rle.merge(rle.encode(m) for m in masks)
    assert np.array_equal(rle.decode(union), masks.any(axis=0))
    assert rle.merge([]) is None
    assert union == rle.encode(masks.any(axis=0))
    assert rle.merge([rle.encode(masks[0])]) == rle.encode(masks[0])
    with pytest.raises(DatasetError, match=r"sizes cannot be joined: \[\(9, 12\), \(12, 9\)\]"):
        rle.merge([rle.encode(masks[0]), rle.encode(masks[1].T)])


def test_overlaps_are_shared_pixels():
    masks = np.zeros((5, 6, 8), bool)
    masks[0, :3], masks[1, 3:], masks[2, 2:4, :2] = True, True, True
    masks[3, 5, 7] = True  # one pixel is enough
    plain = [{"size": [6, 8], "counts": plain_runs(masks[4])}, *map(rle.encode, masks[:4])]
    expected = [[(a & b).any() for a in masks[[4, 0, 1, 2, 3]]] for b in masks[[4, 0, 1, 2, 3]]]
    found = rle.overlaps(plain)
    assert found.dtype == bool and found.tolist() == expected
    assert rle.overlaps([]).shape == (0, 0)
    with pytest.raises(DatasetError, match="damaged"):
        rle.overlaps([{"size": [6, 8], "counts": [3]}])


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ("0" * 7 + "P", "ends with more to follow"),
        ("/", "below the code"),
        ("0t", "above it"),
        ("", "nothing"),
        ("P" * 7 + "0", "a number of eight characters"),
        ("o", "a run of minus one"),
        ("5O", "five pixels, and minus one"),
    ],
)
def test_counts_that_are_no_runs(counts, reason):
    with pytest.raises(DatasetError, match="The RLE's runs do not fill 2x2 pixels; it is damaged"):
        rle.runs({"size": [2, 2], "counts": counts})
    assert rle.runs({"size": [2, 2], "counts": "4"}).tolist() == [4], reason


@pytest.mark.parametrize("counts", [[4, 0, 3, 5], [0, 12], [12]])
def test_runs_are_those_of_the_encoding(counts):
    plain = {"size": [3, 4], "counts": counts}
    assert rle.runs(plain).tolist() == counts
    mask = rle.decode(plain)
    packed = rle.runs(rle.encode(mask))
    again = np.repeat(np.arange(len(packed)) % 2, packed).astype(bool)
    assert np.array_equal(again, mask.T.ravel())
