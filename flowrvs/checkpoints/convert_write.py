"""Write safetensors files piece by piece.

The library's own writer wants a whole file in memory. The format is a length, a JSON
header and the raw numbers, so that a tensor larger than the memory can be copied from a
mapped file in pieces, cast on the way.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["MappedTensors", "Shard", "plan_shards", "verify_shards", "write_shards"]

_PIECE = 4 * 1024 * 1024  # numbers copied at once
_TOUCHED = 128 * 1024 * 1024  # bytes read before the mapping is opened afresh

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class MappedTensors:
    """Tensors of a mapped file, which forgets the pages that were read.

    Pages of a mapped file count as the process's memory until it is unmapped; reopening
    it every so often keeps that small, on every system alike.

    Parameters
    ----------
    opener : callable
        Maps the file and returns its tensors by name; the same every time.
    """

    def __init__(self, opener: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        self._open = opener
        self._tensors: Mapping[str, torch.Tensor] | None = None
        self._touched = 0
        self.kinds = {
            name: (tuple(tensor.shape), tensor.dtype) for name, tensor in opener().items()
        }

    def copy(self, name: str, take: Callable[[torch.Tensor], None]) -> None:
        """Hand the numbers of a tensor to `take`, in order, as flat pieces."""
        count = math.prod(self.kinds[name][0])
        for start in range(0, count, _PIECE):
            if self._tensors is None or self._touched > _TOUCHED:
                self._tensors = None
                self._tensors = self._open()
                self._touched = 0
            piece = self._tensors[name].reshape(-1)[start : start + _PIECE]
            self._touched += piece.numel() * piece.element_size()
            take(piece)
            del piece

    def close(self) -> None:
        """Unmap the file."""
        self._tensors = None


@dataclass(frozen=True)
class Shard:
    """A file to be written.

    Attributes
    ----------
    file : str
    tensors : dict
        Shape and dtype by name, in the order of the file.
    """

    file: str
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype]]

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers in it."""
        return sum(_nbytes(*kind) for kind in self.tensors.values())


def _nbytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def plan_shards(
    kinds: Mapping[str, tuple[tuple[int, ...], torch.dtype]], stem: str, limit: int
) -> list[Shard]:
    """Spread tensors over files of at most `limit` bytes (or of one larger tensor).

    Parameters
    ----------
    kinds : mapping
        Shape and dtype of each tensor.
    stem : str
        File name without its ending, as diffusers or transformers look for it.
    limit : int
        Bytes.
    """
    groups: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = [{}]
    size = 0
    for name, kind in kinds.items():
        if groups[-1] and size + _nbytes(*kind) > limit:
            groups.append({})
            size = 0
        groups[-1][name] = kind
        size += _nbytes(*kind)
    if len(groups) == 1:
        return [Shard(f"{stem}.safetensors", groups[0])]
    return [
        Shard(f"{stem}-{index:05}-of-{len(groups):05}.safetensors", group)
        for index, group in enumerate(groups, 1)
    ]


def write_shards(
    folder: Path,
    shards: Sequence[Shard],
    source: MappedTensors,
    stem: str,
    step: Callable[[int], None],
) -> None:
    """Write `shards` into `folder`, and their index when there are several.

    Parameters
    ----------
    folder : Path
    shards : sequence of Shard
        From `plan_shards`.
    source : MappedTensors
        Where the numbers are; cast to each shard's dtype.
    stem : str
        As in `plan_shards`.
    step : callable
        Called with the bytes written after each piece; may raise to stop.
    """
    for shard in shards:
        _write_shard(folder / shard.file, shard, source, step)
    source.close()
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
            "weight_map": {name: shard.file for shard in shards for name in shard.tensors},
        }
        text = json.dumps(index, indent=2) + "\n"
        (folder / f"{stem}.safetensors.index.json").write_text(text, "utf-8")


def _write_shard(
    path: Path, shard: Shard, source: MappedTensors, step: Callable[[int], None]
) -> None:
    import torch

    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    # Widest numbers first keeps each tensor aligned to its own width.
    ordered = sorted(shard.tensors.items(), key=lambda item: -item[1][1].itemsize)
    for name, (shape, dtype) in ordered:
        end = offset + _nbytes(shape, dtype)
        code = _CODES[str(dtype).removeprefix("torch.")]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, (_, dtype) in ordered:

            def take(piece: torch.Tensor, dtype: torch.dtype = dtype, name: str = name) -> None:
                piece = piece.to(dtype)
                if not torch.isfinite(piece).all():
                    raise CheckpointError(
                        f"{name} is not finite in {str(dtype).removeprefix('torch.')}: the file is "
                        "damaged, or the precision too narrow for it; try float32."
                    )
                numbers = piece.contiguous().view(torch.uint8).numpy()
                stream.write(memoryview(numbers))
                step(numbers.size)

            source.copy(name, take)
        stream.flush()
        os.fsync(stream.fileno())


def verify_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Read back the headers of written files.

    Raises
    ------
    CheckpointError
        A file does not read back as planned.
    """
    from safetensors import SafetensorError, safe_open

    for shard in shards:
        path = folder / shard.file
        try:
            with safe_open(path, framework="np") as file:
                found = {
                    name: (tuple(part.get_shape()), part.get_dtype())
                    for name, part in ((name, file.get_slice(name)) for name in file.keys())
                }
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path.name} does not read back as written: {error}; check the disk."
            ) from error
        planned = {
            name: (shape, _CODES[str(dtype).removeprefix("torch.")])
            for name, (shape, dtype) in shard.tensors.items()
        }
        if found != planned:
            raise CheckpointError(f"{path.name} does not read back as written; check the disk.")
