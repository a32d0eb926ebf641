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
from flowrvs.inference.cluster import bridge
from flowrvs.inference.cluster.wire import (
    Packer,
    masks_of,
    pack,
    pack_frames,
    unpack,
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
