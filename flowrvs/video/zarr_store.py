"""Zarr stores and OME-Zarr images as videos, read with the distrust that received files need.

A store may be crafted: codecs that run code (``pickle``), links and pipes in the place of
chunks, and chunks that unpack to gigabytes. zarr checks none of this.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import math
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.storage import LocalStore

from flowrvs.errors import VideoError, first_line
from flowrvs.video.arrays import ArrayFrames, axis_letters

__all__ = ["open_zarr", "unpacked_size"]

CODECS = frozenset(
    "bytes transpose gzip zlib bz2 lzma zstd lz4 blosc crc32 crc32c adler32 fletcher32 delta "
    "shuffle bitround fixedscaleoffset quantize sharding_indexed".split()
)
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
MAX_METADATA = 16 * 2**20
# Unpacked bytes of a chunk, or of a shard of chunks.
MAX_CHUNK = 2**29
# Chunks of a frame.
MAX_PIECES = 2**16
STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(47),
    "zlib": lambda: zlib.decompressobj(47),
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
# These alone can be told to stay below a limit without a look: at most so many bytes come of one.
DEFLATE, MAX_DEFLATE = frozenset({"gzip", "zlib"}), 1032
# Streams that follow each other in a chunk: who packs one writes one.
MAX_STREAMS = 64
# Where blosc and lz4 state how many bytes come out.
STATED = {"blosc": 4, "lz4": 0}
PACKERS = frozenset({*STREAMS, *STATED, "zstd"})
SHARDS = "sharding_indexed"


class _Store(LocalStore):
    """A local store that reads plain files only, and nothing that unpacks to gigabytes."""

    codecs: frozenset[str] = frozenset()
    limit = MAX_CHUNK
    index: tuple[int, bool] | None = None  # of shards: its bytes, and whether it comes first

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        path = self.root / key
        metadata = path.name in METADATA
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISDIR(status.st_mode):
            if not stat.S_ISREG(status.st_mode):
                raise VideoError(f"{path} is no regular file; remove it, or get another copy.")
            if status.st_size > (MAX_METADATA if metadata else 1.1 * self.limit + 2**16):
                raise VideoError(f"{path} is larger than its array allows; get another copy.")
        data = await super().get(key, prototype, byte_range)
        if data is not None and not metadata:
            for part in self._packed_parts(data.to_bytes(), byte_range):
                for codec in self.codecs:
                    if unpacked_size(codec, part, 2 * self.limit) > 2 * self.limit:
                        raise VideoError(
                            f"{path} unpacks to more than its array allows; get a copy."
                        )
        return data

    def _packed_parts(self, data: bytes, byte_range: Any) -> Iterator[bytes]:
        """Yield what is unpacked of it: a chunk, or each chunk of a shard that is read whole."""
        if self.index is None or byte_range is not None:
            if not isinstance(byte_range, SuffixByteRequest):  # which asks for an index
                yield data
            return
        size, first = self.index
        index = data[:size] if first else data[-size:]
        rows = np.frombuffer(index[: len(index) // 16 * 16], "<u8").reshape(-1, 2)
        for offset, length in rows.tolist():
            yield data[offset : offset + length]


def unpacked_size(codec: str, data: bytes, limit: int) -> int:
    """Return how many bytes a packed chunk gives, as far as can be told; a little over `limit`."""
    if codec in STATED:
        at = STATED[codec]
        return int.from_bytes(data[at : at + 4], "little")
    if codec == "zstd" and data.startswith(b"\x28\xb5\x2f\xfd") and len(data) > 4:
        flags = data[4]
        at = 5 + (not flags >> 5 & 1) + (0, 1, 2, 4)[flags & 3]
        width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
        # Without a size, as it can grow to: a block of 128 KiB takes four bytes or more.
        return int.from_bytes(data[at : at + width], "little") if width else len(data) * 2**15
    total = 0
    if codec in STREAMS and (codec not in DEFLATE or len(data) * MAX_DEFLATE > limit):
        with contextlib.suppress(zlib.error, lzma.LZMAError, OSError, EOFError):
            for _ in range(MAX_STREAMS):
                stream = STREAMS[codec]()
                while (
                    total <= limit and not stream.eof and (part := stream.decompress(data, 2**20))
                ):
                    total += len(part)
                    data = getattr(stream, "unconsumed_tail", b"")
                data = stream.unused_data
                if total > limit or not data:
                    return total
            return limit + 1
    return total


def open_zarr(path: Path, **options: Any) -> ArrayFrames:
    """Open a zarr v2 or v3 array, or level 0 of an OME-Zarr image.

    Raises
    ------
    VideoError
        Not a readable zarr store, not one to be trusted, or it does not say which array is
        the video.
    """
    try:
        node = zarr.open(_Store(path, read_only=True), mode="r")
        axes: str | None = None
        if isinstance(node, zarr.Group):
            attributes = dict(node.attrs)
            ome = attributes.get("ome", attributes)
            if "multiscales" in ome:
                image = ome["multiscales"][0]
                node = node[image["datasets"][0]["path"]]
                names = [a["name"] if isinstance(a, dict) else a for a in image.get("axes", ())]
                axes = axis_letters(names) or ("TCZYX" if len(node.shape) == 5 else None)
            else:
                arrays = [a for _, a in node.arrays() if len(a.shape) in (3, 4)]
                if len(arrays) != 1:
                    found = ", ".join(a.name.strip("/") for a in arrays) or "none"
                    raise VideoError(
                        f"{path} is a zarr group with several arrays or none that could be a "
                        f"video (found: {found}); give the path of one array."
                    )
                node = arrays[0]
        if axes is None:
            named = getattr(node.metadata, "dimension_names", None)
            axes = axis_letters(named or node.attrs.get("_ARRAY_DIMENSIONS"))
        time = (axes or "T").find("T")
        _check_array(node, time, path)
        block = int(node.chunks[time]) if time >= 0 else 1
    except VideoError:
        raise
    except MemoryError as error:
        raise VideoError(f"{path} needs more memory than there is.") from error
    # Crafted metadata makes zarr raise anything.
    except Exception as error:
        raise VideoError(f"{path} cannot be read as zarr ({first_line(error)}).") from error
    return ArrayFrames(node, axes, where=str(path), block=block, **options)


def _check_array(array: zarr.Array[Any], time: int, path: Path) -> None:
    metadata = array.metadata.to_dict()
    packing = [metadata.get(k) for k in ("codecs", "filters", "compressor")]
    names = list(_codec_names(packing))
    codecs = frozenset(names)
    if not codecs <= CODECS:
        name = min(codecs - CODECS)
        raise VideoError(f"{path} is packed by {name!r}, which is not read; save it with zstd.")
    if sum(name in PACKERS for name in names) > 1 or names.count(SHARDS) > 1:
        raise VideoError(f"{path} is packed more than once; save it with zstd alone.")
    pixels = math.prod(getattr(array, "shards", None) or array.chunks)
    chunk = pixels * array.dtype.itemsize
    if chunk > MAX_CHUNK:
        raise VideoError(f"{path} has chunks of {chunk} bytes; save it with smaller ones.")
    grid = [-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]
    if math.prod(count for axis, count in enumerate(grid) if axis != time) > MAX_PIECES:
        raise VideoError(f"{path} has frames of too many chunks; save it with larger ones.")
    store = array.store
    if isinstance(store, _Store):
        store.codecs, store.limit = codecs & PACKERS, max(chunk, 2**16)
        if SHARDS in codecs:
            store.index = _shard_index(packing[0], pixels, path)


def _shard_index(codecs: Any, pixels: int, path: Path) -> tuple[int, bool]:
    """Return the bytes of a shard's index, and whether it comes first."""
    shards = codecs[-1].get("configuration", {})
    numbers, *sums = shards.get("index_codecs") or [{}]
    little = numbers.get("configuration", {}).get("endian") == "little"
    if not little or any(each["name"] != "crc32c" for each in sums):
        raise VideoError(f"{path} has shards of an unusual index; save it with zarr's defaults.")
    count = pixels // math.prod(shards["chunk_shape"])
    return 16 * count + 4 * len(sums), shards.get("index_location") == "start"


def _codec_names(codecs: Any) -> Iterator[str]:
    """Yield the names of codecs, those within shards too."""
    if isinstance(codecs, (list, tuple)):
        for codec in codecs:
            yield from _codec_names(codec)
    elif isinstance(codecs, dict):
        name = str(codecs.get("name", codecs.get("id"))).removeprefix("numcodecs.")
        inner = codecs.get("configuration", {})
        raw = name == "lzma" and (inner or codecs).get("format") == lzma.FORMAT_RAW
        yield "raw lzma" if raw else name  # nothing tells how much comes of it
        yield from _codec_names([inner.get("codecs"), inner.get("index_codecs")])
    elif codecs is not None:
        yield from _codec_names(
            codecs.to_dict() if hasattr(codecs, "to_dict") else codecs.get_config()
        )
