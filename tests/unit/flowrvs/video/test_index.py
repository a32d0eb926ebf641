"""The packet index: order, starts, joins and checksums, on tables made by hand."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from flowrvs.errors import VideoError
from flowrvs.video.index import (
    MISSING,
    PacketIndex,
    _agree,
    _order_from_pts,
    _restarts,
    build_index,
    slices_are_whole,
)

from .clips import write_clip


def index_of(order: list[int], keyframes: list[int], packets: int | None = None) -> PacketIndex:
    count = packets or len(order)
    position = np.full(count, -1)
    position[order] = np.arange(len(order))
    stamps = np.repeat(position[:, None], 4, axis=1)
    times = np.arange(len(order)) / 25
    return PacketIndex(
        np.array(order), position, np.array(keyframes), stamps, 0, times, frozenset(), ""
    )


# Shown as packets 0 1 3 4 2 6 7 5 8: keyframes are 0, 2 and 5, each with leading frames.
OPEN = index_of([0, 1, 3, 4, 2, 6, 7, 5, 8], [0, 2, 5])


def test_where_decoding_begins_for_a_frame() -> None:
    assert [OPEN.start_for(n) for n in range(9)] == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    closed = index_of([0, 1, 2, 3], [0, 2])
    assert [closed.start_for(n) for n in range(4)] == [0, 0, 1, 1]
    # Two keyframes that are shown after it: the one before both is needed.
    assert index_of([0, 3, 2, 1], [0, 1, 2]).start_for(1) == 0


def test_what_a_damaged_packet_may_have_spoiled() -> None:
    spoiled = [sorted(OPEN.spoiled_by(n)) for n in range(9)]
    assert spoiled == [
        [0, 1, 2, 3],
        [1, 2, 3],
        [2, 3, 4, 5, 6],
        [2, 3, 5, 6],
        [3, 5, 6],
        [5, 6, 7, 8],
        [5, 6, 8],
        [6, 8],
        [8],
    ]
    # Packets that show nothing spoil no frame of their own.
    assert index_of([0, 2], [0], packets=3).spoiled_by(1) == [1]


@pytest.mark.parametrize(
    ("pts", "dts", "shown", "order"),
    [
        ([0, 3, 1, 2], [0, 1, 2, 3], None, [0, 2, 3, 1]),
        ([0, 3, 1, 2], [MISSING] * 4, [True, False, True, True], [0, 2, 3]),
        ([0, 3, 1, 1], [0, 1, 2, 3], None, None),
        ([0, 3, 1, MISSING], [0, 1, 2, 3], None, None),
        ([0, 3, 1, 2], [0, 1, 1, MISSING], None, [0, 2, 3, 1]),
        ([0, 3, 1, 2], [0, 2, 1, 3], None, None),
        ([64, *range(64), 65], [MISSING] * 66, None, [*range(1, 65), 0, 65]),
        ([65, *range(65), 66], [MISSING] * 67, None, None),
    ],
)
def test_the_order_of_the_presentation_stamps(
    pts: list[int], dts: list[int], shown: list[bool] | None, order: list[int] | None
) -> None:
    stamps = np.zeros((len(pts), 4), np.int64)
    stamps[:, 0], stamps[:, 1] = pts, dts
    found = _order_from_pts(stamps, np.array(shown or [True] * len(pts)))
    assert (None if found is None else found.tolist()) == order


@pytest.mark.parametrize(
    ("dts", "keyframes", "found"),
    [
        ([0, 1, 2, 3, 4], [0, 3], []),
        ([0, 1, 2, 0, 1], [0], [3]),  # back: wherever it is
        ([0, 1, 2, 2, 3], [0, 3], []),
        ([0, 1, 2, 12, 13], [0, 3], []),  # ten times the usual distance is none yet
        ([0, 1, 2, 13, 14], [0, 3], [3]),
        ([0, 1, 2, 13, 14], [0, 4], []),  # a part was lost: no keyframe follows
        ([0, 5, 10, 61, 66], [0, 3], [3]),
        ([0, 5, 10, 60, 65], [0, 3], []),
        ([0, 0, 0, 11, 11], [0, 3], [3]),  # a distance of 0 counts as 1
        ([0, 0, 0, 10, 10], [0, 3], []),
        ([0, 1, MISSING, 0, 1], [0], []),
        ([0], [0], []),
    ],
)
def test_where_a_joined_recording_begins(
    dts: list[int], keyframes: list[int], found: list[int]
) -> None:
    masked = np.ma.masked_equal(np.array(dts, np.int64), MISSING)
    assert _restarts(masked, np.array(keyframes)).tolist() == found


def test_a_recording_that_begins_in_the_middle_of_a_group() -> None:
    order = np.arange(20)
    # Three frames before the first keyframe are never shown.
    assert _agree(order, [*range(3, 20)], 3, damaged=False).tolist() == [*range(3, 20)]
    # Frames before what is shown that come after the keyframe keep their places.
    assert _agree(order, [*range(3, 20)], 1, damaged=True) is order
    assert _agree(order, [], 0, damaged=True) is None
    assert _agree(order, [5, 5], 0, damaged=True) is None
    # Only so many at the beginning are compared.
    long = np.arange(300)
    assert _agree(long, [255], 255, damaged=True).tolist() == [*range(255, 300)]
    assert _agree(long, [256], 256, damaged=True) is None


MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ffv1_slice(data: bytes) -> bytes:
    """End a slice as FFV1 does: its size, a status of 0, and a CRC that makes the whole 0."""
    content = data + len(data).to_bytes(3, "big") + b"\0"
    rest = zlib.crc32(content.translate(MIRRORED), 2**32 - 1) ^ (2**32 - 1)
    return content + rest.to_bytes(4, "little").translate(MIRRORED)


def test_checksums_of_slices() -> None:
    short, long = ffv1_slice(b"a slice"), ffv1_slice(b"another, longer slice")
    for whole in (short, long, short + long, long + short + long, b""):
        assert slices_are_whole(whole)
    for at in range(len(short)):
        damaged = bytearray(short + long)
        damaged[at] ^= 4
        assert not slices_are_whole(bytes(damaged)), at
    for odd in (b"x", bytes(7), bytes(8), b"x" * 8, b"ab" + short, short[1:], short[:-1]):
        assert not slices_are_whole(odd), odd


@pytest.mark.parametrize("bframes", [0, 3])
def test_of_a_file_that_was_cut_off_the_last_group_is_left_out(
    tmp_path: Path, bframes: int
) -> None:
    """Between its last frames others may have been shown."""
    params = f"keyint=30:scenecut=0:b-adapt=0:bframes={bframes}"
    path = str(write_clip(tmp_path / "v.mkv", count=10, options={"x264-params": params}))
    whole, cut = build_index(path), build_index(path, cut=True)
    assert (len(whole), len(cut), whole.cut, cut.cut) == (10, 9, "", "")
    assert cut.order.tolist() == whole.order.tolist()[:9]
    left_out = whole.order[9]
    assert cut.position[left_out] == -1 and (cut.position >= 0).sum() == 9
    assert whole.keyframes.tolist() == [0] and whole.rate == 25
    np.testing.assert_allclose(whole.times, np.arange(10) / 25, atol=1e-3)
    single = str(write_clip(tmp_path / "1.mkv", count=1))
    with pytest.raises(VideoError) as caught:
        build_index(single, cut=True)
    assert str(caught.value) == f"{single} holds no frame that can be decoded; it is damaged."
