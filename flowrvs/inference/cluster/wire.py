"""What goes over the wire to a cluster's workers and back: JSON and packed arrays, no pickles.

A message is four letters, the length of a JSON header, the header, and the blobs whose
lengths the header lists. What comes from a worker is not trusted: sizes are known before
anything is unpacked, and damaged runs are refused.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ClusterError, DatasetError
from flowrvs.masks import rle

__all__ = [
    "FOREIGN",
    "Packer",
    "lines_of",
    "masks_of",
    "pack",
    "pack_arrays",
    "pack_frames",
    "unpack",
    "unpack_arrays",
    "unpack_floats",
    "unpack_frames",
    "unpack_octets",
]

_LETTERS = b"FRVS"
_HEAD = len(_LETTERS) + 4
_LARGEST_HEADER = 2**22
FOREIGN = "The cluster sent something that is no message of flowrvs; see docs/cluster.md."
_LEVEL = 1  # zlib's quickest: the wire is seldom slower than the processor


def pack(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return a header and its blobs as one message."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([_LETTERS, len(text).to_bytes(4, "little"), text, *blobs])


def unpack(message: bytes | memoryview) -> tuple[dict[str, Any], list[memoryview]]:
    """Return the header and the blobs of a message.

    Raises
    ------
    ClusterError
        It is no message of `pack`.
    """
    view = memoryview(message)
    size = int.from_bytes(view[len(_LETTERS) : _HEAD], "little")
    if view[: len(_LETTERS)] != _LETTERS or not 2 <= size <= min(_LARGEST_HEADER, len(view)):
        raise ClusterError(FOREIGN)
    try:
        header = json.loads(bytes(view[_HEAD : _HEAD + size]))
        lengths = header["blobs"]
        whole = all(type(n) is int and n >= 0 for n in lengths)
        whole = whole and _HEAD + size + sum(lengths) == len(view)
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise ClusterError(FOREIGN)
    blobs, at = [], _HEAD + size
    for length in lengths:
        blobs.append(view[at : at + length])
        at += length
    return header, blobs


class Packer:
    """Packs the masks, bytes or floats of frames that come piece by piece."""

    def __init__(self) -> None:
        self._zip = zlib.compressobj(_LEVEL)
        self._parts: list[bytes] = []

    def masks(self, masks: npt.NDArray[np.bool_]) -> None:
        """Add masks, shape (n, H, W), as COCO run lengths, a line each."""
        for mask in masks:
            self._parts.append(self._zip.compress(rle.encode(mask)["counts"].encode() + b"\n"))

    def octets(self, frames: npt.NDArray[np.uint8]) -> None:
        """Add frames of bytes, shape (n, ...)."""
        self._parts.append(self._zip.compress(np.ascontiguousarray(frames).data))

    def floats(self, frames: npt.NDArray[np.float32]) -> None:
        """Add frames of float32, shape (n, ...), exactly; exponents lie beside exponents."""
        if frames.size:
            little = np.ascontiguousarray(frames, dtype="<f4")
            planes = little.view(np.uint8).reshape(len(frames), -1, 4).transpose(0, 2, 1)
            self._parts.append(self._zip.compress(np.ascontiguousarray(planes).data))

    def end(self) -> bytes:
        """Return all of it as one blob."""
        return b"".join([*self._parts, self._zip.flush()])


def _inflate(blob: bytes | memoryview, limit: int) -> bytes:
    """Return what a blob holds, which must be whole and at most `limit` bytes."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(blob, limit + 1)
    except zlib.error:
        raise ClusterError(FOREIGN) from None
    if len(data) > limit or not stream.eof:
        raise ClusterError(FOREIGN)
    return data


def unpack_octets(blob: bytes | memoryview, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return bytes of a known shape; anything else is a `ClusterError`."""
    size = int(np.prod(shape))
    data = _inflate(blob, size)
    if len(data) != size:
        raise ClusterError(FOREIGN)
    return np.frombuffer(data, np.uint8).reshape(shape)


def unpack_floats(blob: bytes | memoryview, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return float32 of a known shape, exactly as `Packer.floats` got it."""
    planes = unpack_octets(blob, (shape[0], 4, int(np.prod(shape[1:]))))
    little = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<f4")
    return little.astype(np.float32, copy=False).reshape(shape)


def lines_of(blob: bytes | memoryview, count: int, size: tuple[int, ...]) -> list[bytes]:
    """Return the COCO run lengths of so many masks of a size, (H, W), unread."""
    # No mask has more runs than pixels (and a first, empty one), of seven letters at most.
    lines = _inflate(blob, count * (7 * (size[0] * size[1] + 1) + 1)).split(b"\n")
    if len(lines) != count + 1 or lines[-1]:
        raise ClusterError(FOREIGN)
    return lines[:-1]


def masks_of(
    blob: bytes | memoryview, shape: tuple[int, int, int], block: int = 16
) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield masks of a known shape (T, H, W), `block` at a time.

    Raises
    ------
    ClusterError
        They are not T masks of that size.
    """
    count, height, width = shape
    lines = lines_of(blob, count, (height, width))
    for first in range(0, count, block):
        part = lines[first : first + block]
        try:
            yield np.stack([rle.decode({"size": [height, width], "counts": c}) for c in part])
        except DatasetError as error:
            raise ClusterError(FOREIGN) from error


def pack_frames(frames: npt.NDArray[np.uint8]) -> bytes:
    """Return a window's frames without loss: each as its difference to the one before."""
    packer = Packer()
    packer.octets(frames[:1])
    for first in range(1, len(frames)):
        packer.octets(frames[first] - frames[first - 1])  # modulo 256
    return packer.end()


def unpack_frames(
    blob: bytes | memoryview, shape: tuple[int, int, int, int]
) -> npt.NDArray[np.uint8]:
    """Return what `pack_frames` got."""
    return np.cumsum(unpack_octets(blob, shape), axis=0, dtype=np.uint8)


def pack_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Return arrays of numbers by name, exactly."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def unpack_arrays(blob: bytes | memoryview) -> dict[str, npt.NDArray[Any]]:
    """Return what `pack_arrays` got.

    For workers alone, of what another one of their cluster has learnt: no pickle, but its size is
    not known before. A client hands it on as it is.
    """
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        return dict(arrays)
