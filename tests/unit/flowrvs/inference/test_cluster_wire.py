"""Messages between client and workers: exact, bounded, and never a pickle."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import ClusterError
from flowrvs.inference.cluster import bridge, wire
from flowrvs.inference.cluster.wire import (
    Packer,
    lines_of,
    masks_of,
    pack,
    pack_arrays,
    pack_frames,
    unpack,
    unpack_arrays,
    unpack_floats,
    unpack_frames,
    unpack_octets,
)


def packed(add: Callable[[Packer], Any]) -> bytes:
    packer = Packer()
    add(packer)
    return packer.end()


def test_a_message_comes_back() -> None:
    header, blobs = unpack(pack({"a": [1, "é"]}, [b"x", b"", b"yz"]))
    assert header["a"] == [1, "é"] and [bytes(blob) for blob in blobs] == [b"x", b"", b"yz"]


def test_floats_masks_octets_and_frames_are_exact() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 5, 9)).astype(np.float32)
    logits[0, 0, :3] = np.nan, np.inf, -0.0

    def in_pieces(packer: Packer) -> None:
        packer.floats(logits[:3])
        packer.floats(logits[3:3])
        packer.floats(logits[3:])

    back = unpack_floats(packed(in_pieces), logits.shape)
    assert back.tobytes() == logits.tobytes()
    masks = rng.random((37, 5, 9)) > 0.5
    masks[3], masks[4] = False, True
    blocks = list(masks_of(packed(lambda p: p.masks(masks)), masks.shape))
    assert [len(block) for block in blocks] == [16, 16, 5]
    np.testing.assert_array_equal(np.concatenate(blocks), masks)
    frames = rng.integers(0, 256, (6, 5, 9, 3), np.uint8)
    np.testing.assert_array_equal(unpack_frames(pack_frames(frames), frames.shape), frames)
    octets = packed(lambda p: p.octets(frames))
    np.testing.assert_array_equal(unpack_octets(octets, frames.shape), frames)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"FRVS",
        pickle.dumps({"state": "done"}),
        pack({})[:-1],
        pack({}, [b"abc"]) + b"d",
        pack({}).replace(b'"blobs": []', b'"blobs": 12'),
        pack({}, [b"a"]).replace(b"[1]", b"[-]"),
        b"FRVS" + (2**31).to_bytes(4, "little") + b"{}",
        b"FRVS" + (200_000).to_bytes(4, "little") + b"[" * 200_000,
    ],
    ids=lambda message: f"{len(message)} bytes",
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ClusterError, match="no message of flowrvs"):
        unpack(message)


def test_arrays_of_another_size_are_refused() -> None:
    ones = np.ones((2, 3, 4), np.float32)
    blob = packed(lambda p: p.floats(ones))
    bomb = zlib.compress(bytes(2**24))
    masks = packed(lambda p: p.masks(ones > 0))
    for bad in (
        lambda: unpack_floats(blob, (2, 3, 5)),
        lambda: unpack_floats(blob, (1, 3, 4)),
        lambda: unpack_floats(blob[:-2], (2, 3, 4)),
        lambda: unpack_octets(b"no zlib", (3,)),
        lambda: unpack_octets(bomb, (10, 10)),
        lambda: list(masks_of(bomb, (2, 3, 4))),
        lambda: list(masks_of(masks, (3, 3, 4))),
        lambda: list(masks_of(masks, (2, 4, 4))),
    ):
        with pytest.raises(ClusterError):
            bad()


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    "thing",
    [_Evil(), os.getcwd, print, eval, collections.OrderedDict(a=1), [_Evil()], ValueError("no")],
    ids=lambda thing: type(thing).__name__,
)
def test_the_bridge_unpickles_bytes_alone(thing: Any) -> None:
    with pytest.raises(TypeError, match="is not taken from a worker"):
        bridge._loads(pickle.dumps(thing))


def test_what_the_bridge_takes() -> None:
    assert bridge._loads(pickle.dumps(b"abc")) == b"abc"
    assert bridge._loads(pickle.dumps(bytes)) is bytes
    assert bridge._load(io.BytesIO(pickle.dumps([1, "a"]))) == [1, "a"]


def test_messages_of_the_bridge_come_back() -> None:
    stream = io.BytesIO()
    bridge.write_message(stream, {"do": "submit"}, b"blob")
    bridge.write_message(stream, {"do": "cancel"})
    stream.seek(0)
    first, second = bridge.read_message(stream), bridge.read_message(stream)
    assert first is not None and first[0]["do"] == "submit" and first[1] == b"blob"
    assert second is not None and second[1] == b"" and bridge.read_message(stream) is None


def test_a_message_is_letters_a_length_a_header_and_blobs() -> None:
    message = pack({"a": 1}, [b"xy", b""])
    header = b'{"a": 1, "blobs": [2, 0]}'
    assert message == b"FRVS" + len(header).to_bytes(4, "little") + header + b"xy"
    found, blobs = unpack(memoryview(message))
    assert found == {"a": 1, "blobs": [2, 0]} and [bytes(b) for b in blobs] == [b"xy", b""]
    for wrong in (
        b"FRVX" + message[4:],
        message[:7],
        b"FRVS" + (1).to_bytes(4, "little") + b"1",
        b"FRVS" + (2).to_bytes(4, "little") + b"{}",
        b"FRVS" + (13).to_bytes(4, "little") + b'{"blobs":[0]}x',
        b"FRVS" + (14).to_bytes(4, "little") + b'{"blobs":[-1]}',
        b"FRVS" + (16).to_bytes(4, "little") + b'{"blobs":[true]}x',
        b"FRVS" + (15).to_bytes(4, "little") + b'{"blobs":[1.0]}x',
        b"FRVS" + (14).to_bytes(4, "little") + b'{"blobs":[ 2]}x',
    ):
        with pytest.raises(ClusterError, match=r"^The cluster sent something that is no message"):
            unpack(wrong)
    assert unpack(b"FRVS" + (12).to_bytes(4, "little") + b'{"blobs":[]}')[1] == []


def test_a_header_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    message = pack({"a": "x" * 50})
    size = int.from_bytes(message[4:8], "little")
    monkeypatch.setattr(wire, "_LARGEST_HEADER", size)
    assert unpack(message)[0]["a"] == "x" * 50
    monkeypatch.setattr(wire, "_LARGEST_HEADER", size - 1)
    with pytest.raises(ClusterError):
        unpack(message)


def test_what_is_unpacked_is_exactly_as_large_as_it_should_be() -> None:
    data = zlib.compress(bytes(range(12)))
    np.testing.assert_array_equal(unpack_octets(data, (3, 4)), np.arange(12).reshape(3, 4))
    for shape in ((3, 3), (13,), (0,)):
        with pytest.raises(ClusterError):
            unpack_octets(data, shape)
    assert unpack_octets(zlib.compress(b""), (0, 4)).shape == (0, 4)
    with pytest.raises(ClusterError):  # its checksum is missing
        unpack_octets(data[:-1], (3, 4))


@pytest.mark.parametrize("block", [1, 2, 5, 16])
def test_masks_come_in_blocks(block: int) -> None:
    masks = np.random.default_rng(1).random((5, 3, 4)) > 0.5
    blob = packed(lambda p: p.masks(masks))
    blocks = list(masks_of(blob, (5, 3, 4), block))
    assert [len(b) for b in blocks] == [min(block, 5 - n) for n in range(0, 5, block)]
    np.testing.assert_array_equal(np.concatenate(blocks), masks)
    lines = lines_of(blob, 5, (3, 4))
    assert len(lines) == 5 and all(b"\n" not in line for line in lines)
    for count, size in ((4, (3, 4)), (6, (3, 4))):
        with pytest.raises(ClusterError):
            lines_of(blob, count, size)
    with pytest.raises(ClusterError):  # its end is no end of a line
        lines_of(zlib.compress(b"1\n2"), 1, (3, 4))
    largest = 2 * (7 * (3 * 4 + 1) + 1)
    text = b"1" * (largest - 2) + b"\n\n"
    assert lines_of(zlib.compress(text), 2, (3, 4)) == [b"1" * (largest - 2), b""]
    with pytest.raises(ClusterError):
        lines_of(zlib.compress(b"1" + text), 2, (3, 4))


def test_frames_are_packed_as_differences() -> None:
    frames = np.array([[250, 3], [4, 3], [255, 0]], np.uint8).reshape(3, 1, 2, 1)
    raw = zlib.decompress(pack_frames(frames))
    assert list(raw) == [250, 3, 10, 0, 251, 253]
    np.testing.assert_array_equal(unpack_frames(pack_frames(frames), (3, 1, 2, 1)), frames)


def test_arrays_by_name_come_back_and_no_pickles() -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7)}
    found = unpack_arrays(pack_arrays(arrays))
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    evil = pack_arrays({"a": np.array([_Evil()], object)})
    with pytest.raises(ValueError, match="pickle"):
        unpack_arrays(evil)
