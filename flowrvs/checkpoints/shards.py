"""Files of weights (safetensors): opened, written piece by piece, and checked.

The format is a length, a JSON header and the raw numbers. The library's own writer wants a
whole file in memory; here a tensor larger than the memory is copied from a mapped file in
pieces, cast on the way.
"""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.checkpoints.files import CHUNK, Step, read_json, size_text
from flowrvs.errors import CheckpointError
from flowrvs.progress import CancelToken

if TYPE_CHECKING:
    import torch

    Kinds = Mapping[str, tuple[tuple[int, ...], torch.dtype]]

__all__ = [
    "MappedTensors",
    "Shard",
    "check_indices",
    "check_weights",
    "count_numbers",
    "first_damaged",
    "open_safetensors",
    "plan_shards",
    "verify_shards",
    "weight_files",
    "write_shards",
]

_PIECE = 4 * 1024 * 1024  # numbers copied at once
_TOUCHED = 128 * 1024 * 1024  # bytes read before the mapping is opened afresh
#: Bytes of a header, at most: that of the largest official file takes 200 kB.
_LARGEST_HEADER = 16 * 1024 * 1024

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
#: Width of a number in bytes, and its exponent's bits, by safetensors' codes.
_EXPONENTS = {
    "F64": (8, 0x7FF0_0000_0000_0000),
    "F32": (4, 0x7F80_0000),
    "F16": (2, 0x7C00),
    "BF16": (2, 0x7F80),
}


# -- reading ---------------------------------------------------------------------------


def _header(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the header of a file and where its numbers begin; ValueError when it is none."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > _LARGEST_HEADER:
            raise ValueError("no safetensors file")
        if length > size - 8:
            raise EOFError(8 + length)
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            for entry in header.values():
                start, stop = map(operator.index, entry["data_offsets"])
                shape = list(map(operator.index, entry["shape"]))
                if not 0 <= start <= stop or min(shape, default=0) < 0:
                    raise ValueError("no header of weights (offsets that are none)")
                entry["dtype"].encode()
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no header of weights ({type(error).__name__})") from error
    return 8 + length, header


def open_safetensors(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Map the tensors of some files, by name.

    Raises
    ------
    CheckpointError
        A file is damaged or cut short.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            _header(path)
            with safe_open(path, framework="pt") as file:
                found.update({name: file.get_tensor(name) for name in file.keys()})
        except (SafetensorError, OSError, ValueError, EOFError) as error:
            raise CheckpointError(
                f"{path} is damaged or cut short ({error}); download it again."
            ) from error
    return found


def weight_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the index, if there is one, and the weight files of a transformers model.

    Raises
    ------
    CheckpointError
        Files are missing, or the index names some outside the folder.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise CheckpointError(f"{folder} holds no model.safetensors; download it again.")
        return [], [folder / "model.safetensors"]
    names = _shards_of(index)
    if names is None:
        raise CheckpointError(
            f"{index} is no index of shards, or names files outside its folder; download it again."
        )
    files = [folder / name for name in names]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; download them again.")
    return [index], files


def _shards_of(index: Path) -> list[str] | None:
    """Return the names of an index's files; None where it is none, or leads elsewhere."""
    try:
        names = set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all(isinstance(name, str) and _is_file_name(name) for name in names):
        return None
    return sorted(names)


def _is_file_name(name: str) -> bool:
    return PurePosixPath(name).name == name and 0 < len(name) < 256 and name.isprintable()


class MappedTensors:
    """Tensors of a mapped file, which forgets the pages that were read.

    Pages of a mapped file count as the process's memory until it is unmapped; reopening
    it every so often keeps that small, on every system alike.

    Parameters
    ----------
    opener : callable
        Maps the file and returns its tensors by name; the same every time.
    scales : mapping of str to float
        What the numbers of some tensors must be multiplied by (weights in 8 bits).
    """

    def __init__(
        self,
        opener: Callable[[], Mapping[str, torch.Tensor]],
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self._open = opener
        self._scales = scales or {}
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
            take(piece.float() * self._scales[name] if name in self._scales else piece)
            del piece

    def close(self) -> None:
        """Unmap the file."""
        self._tensors = None


# -- writing ---------------------------------------------------------------------------


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


def plan_shards(kinds: Kinds, stem: str, limit: int) -> list[Shard]:
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
    folder: Path, shards: Sequence[Shard], source: MappedTensors, stem: str, step: Step
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


def _write_shard(path: Path, shard: Shard, source: MappedTensors, step: Step) -> None:
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
    for shard in shards:
        planned = {
            name: (list(shape), _CODES[str(dtype).removeprefix("torch.")])
            for name, (shape, dtype) in shard.tensors.items()
        }
        path = folder / shard.file
        faults = _check_shard(path.name, path)
        found = {} if faults else {n: (e["shape"], e["dtype"]) for n, e in _header(path)[1].items()}
        if found != planned:
            raise CheckpointError(f"{path.name} does not read back as written; check the disk.")


# -- checking --------------------------------------------------------------------------


def check_indices(folder: Path) -> list[str]:
    """Return one line for every shard that an index of `folder` names and that is not there."""
    faults = []
    pattern = "*.safetensors.index.json"
    for path in sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")]):
        name = path.relative_to(folder)
        shards = _shards_of(path)
        if shards is None:
            faults.append(f"{name.as_posix()} is no index of shards of its folder")
        for shard in shards or ():
            if not (path.parent / shard).is_file():
                faults.append(f"{(name.parent / shard).as_posix()} is missing")
    return faults


def check_weights(folder: Path) -> list[str]:
    """Look for shards that are missing or cut short, reading only their headers.

    Returns
    -------
    list of str
        One line a fault, each beginning with the file's name.
    """
    faults = check_indices(folder)
    for path in _shard_files(folder):
        faults += _check_shard(path.relative_to(folder).as_posix(), path)
    return faults


def _shard_files(folder: Path) -> list[Path]:
    """Return the weights of a model; hidden files are the system's, not the model's."""
    found = sorted(folder.rglob("*.safetensors"))
    return [
        path
        for path in found
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _check_shard(name: str, path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    try:
        begin, header = _header(path)
        expected = begin + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except EOFError as error:  # cut within the header
        expected = error.args[0]
    except (OSError, ValueError) as error:
        return [f"{name} is damaged: {' '.join(str(error).split())}"]
    if size < expected:
        return [f"{name} is truncated: {size} of {expected} bytes ({size_text(expected)})"]
    try:
        with safe_open(path, framework="np"):
            return []
    except (SafetensorError, OSError, ValueError) as error:
        return [f"{name} is damaged: {' '.join(str(error).split())}"]


def count_numbers(folder: Path) -> dict[str, int]:
    """Return how many numbers the weights of each part hold, from the headers alone."""
    counts: dict[str, int] = {}
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
        part = path.parent.name if path.parent != folder else "model"
        numbers = sum(math.prod(entry["shape"]) for entry in _header(path)[1].values())
        counts[part] = counts.get(part, 0) + numbers
    return counts


def first_damaged(
    path: Path, *, cancel: CancelToken | None = None, step: Step = lambda count: None
) -> str | None:
    """Return the first tensor of a shard with a number that is NaN or infinite, or None.

    An IEEE number is neither when its exponent is not all ones, so that no number has to be
    converted and every width, bfloat16 included, is looked at alike.

    Parameters
    ----------
    path : Path
        A safetensors file whose header and length are known to be right.
    cancel : CancelToken, optional
    step : callable, optional
        Called with every count of bytes read.

    Raises
    ------
    Cancelled
        On request, within a few MB.
    """
    begin, header = _header(path)
    with path.open("rb") as stream:
        for name, entry in header.items():
            if entry["dtype"] not in _EXPONENTS:
                continue  # whole numbers and the like
            width, exponent = _EXPONENTS[entry["dtype"]]
            start, stop = entry["data_offsets"]
            stream.seek(begin + start)
            left = stop - start
            while left:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                block = stream.read(wanted := min(CHUNK, left))
                if len(block) < wanted:
                    return name  # cut off since its length was checked
                numbers = np.frombuffer(block, f"<u{width}")
                if ((numbers & exponent) == exponent).any():
                    return name
                left -= len(block)
                step(len(block))
    return None
