"""Durable small files, zarr v3 groups and arrays: the only module that knows the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorstore as ts

from flowrvs import disk
from flowrvs.errors import ProjectError, StorageError

__all__ = [
    "create_array",
    "open_array",
    "read_group",
    "set_aside",
    "storage_error",
    "unreadable",
    "write_group",
]

# No cache of its own: the frame cache above it is the only one. Two copy threads leave
# the processor to the model.
_CONTEXT = ts.Context(
    {
        "cache_pool": {"total_bytes_limit": 0},
        "data_copy_concurrency": {"limit": 2},
        "file_io_concurrency": {"limit": 8},
    }
)


def storage_error(error: BaseException, path: str | os.PathLike[str]) -> StorageError:
    """Return the one-line `StorageError` that says why writing to `path` failed."""
    return disk.storage_error(error, path, note="Nothing in memory is lost.")


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Make `folder` a zarr v3 group with these attributes, atomically and durably."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    try:
        disk.write_bytes(folder / "zarr.json", json.dumps(document, ensure_ascii=False).encode())
    except StorageError as error:
        raise storage_error(error.__cause__ or error, folder) from error


def read_group(folder: Path) -> dict[str, Any]:
    """Return the attributes of the zarr v3 group at `folder`.

    Raises
    ------
    ProjectError
        It is not a zarr v3 group, or its ``zarr.json`` is damaged.
    """
    try:
        document = json.loads((folder / "zarr.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"{folder} is not a readable project: its zarr.json is missing or damaged."
        ) from error
    if not isinstance(document, dict) or document.get("node_type") != "group":
        raise ProjectError(f"{folder} is not a project: its zarr.json is not a zarr v3 group.")
    attributes = document.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ProjectError(f"{folder} is not a project: its attributes are damaged.")
    return attributes


def create_array(
    folder: Path,
    shape: Sequence[int],
    chunk: Sequence[int],
    dtype: npt.DTypeLike,
    names: Sequence[str],
    *,
    keep: bool = False,
) -> ts.TensorStore:
    """Create a zarr v3 array filled with zeros, replacing what a crash may have left there.

    With `keep` the chunks that lie there are its own: only its ``zarr.json`` is made anew.
    Chunks lie flat in one folder (``c.<t>.0.0``): a long video would otherwise need
    three folders a frame.
    """
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": {
            "shape": list(shape),
            "data_type": str(dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": 1, "checksum": True}},
            ],
            "fill_value": 0,
            "dimension_names": list(names),
        },
    }
    try:
        return ts.open(spec, context=_CONTEXT, create=True, delete_existing=not keep).result()
    except Exception as error:  # tensorstore raises plain ValueError, RuntimeError, ...
        raise storage_error(error, folder) from error


def unreadable(folder: Path) -> bool:
    """Tell whether the ``zarr.json`` of an array is missing or damaged, and its chunks are not."""
    try:
        known = json.loads((folder / "zarr.json").read_bytes())["node_type"] == "array"
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    return not known and next(folder.glob("c.*"), None) is not None


def set_aside(file: Path) -> None:
    """Give a damaged file another name, that it may be looked at."""
    if file.exists():
        file.replace(file.with_name(f"damaged-{file.name}"))


def open_array(folder: Path, shape: Sequence[int], dtype: npt.DTypeLike) -> ts.TensorStore:
    """Open an existing zarr v3 array and check that it is what the project says.

    Raises
    ------
    ProjectError
        It is missing, damaged, or has another shape or type.
    """
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    try:
        array = ts.open(spec, context=_CONTEXT, open=True).result()
    except Exception as error:
        raise ProjectError(f"The array {folder} is missing or damaged.") from error
    if tuple(array.shape) != tuple(shape) or array.dtype.name != str(dtype):
        raise ProjectError(
            f"The array {folder} is {array.dtype.name} {tuple(array.shape)}; "
            f"the project needs {dtype} {tuple(shape)}."
        )
    return array
