"""What a model's folder should hold, and whether it does.

A folder made by ``flowrvs models fetch`` or ``convert`` has ``flowrvs-manifest.json``::

    {
     "format": 1,
     "flowrvs": "0.2.0",
     "source": {"dit": {"repo": "xmz111/FlowRVS", "revision": "<commit>",
                        "file": "FlowRVS_dit_mevis.pth"}, ...},
     "files": {"transformer/config.json": {"size": 412, "sha256": "<64 digits>"}, ...}
    }

``source`` is whatever the maker knows; ``files`` are all files but the manifest, with
``/`` in their names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flowrvs.checkpoints.disk import sha256, size_text, write_text
from flowrvs.checkpoints.finite import first_damaged
from flowrvs.errors import CheckpointError, MissingPathError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = [
    "MANIFEST",
    "add_source",
    "check_indices",
    "check_weights",
    "count_numbers",
    "is_file_name",
    "read_manifest",
    "verify_folder",
    "verify_manifest",
    "write_manifest",
]

#: Name of the manifest in a model's folder.
MANIFEST = "flowrvs-manifest.json"

_FORMAT = 1
#: What the safetensors library accepts.
_LARGEST_HEADER = 100_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a model by name; hidden ones are the system's, not the model's."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = path
    found.pop(MANIFEST, None)
    return found


def write_manifest(
    folder: Path,
    source: Mapping[str, Any],
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Write the manifest of everything in `folder` now, replacing one that is there.

    Parameters
    ----------
    folder : Path
        A model's folder.
    source : mapping
        Where its files are from; anything JSON can hold.
    progress : callable, optional
        Called with bytes read of bytes in all.
    cancel : CancelToken, optional

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    StorageError
        The folder cannot be written to.
    Cancelled
        On request; an older manifest is as it was.
    """
    from flowrvs import __version__

    files = _files(folder)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    hashes = _hashes(files, sum(sizes.values()), "Hashing", progress, cancel)
    content = {
        "format": _FORMAT,
        "flowrvs": __version__,
        "source": dict(source),
        "files": {name: {"size": sizes[name], "sha256": hashes[name]} for name in files},
    }
    target = folder / MANIFEST
    write_text(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return target


def add_source(folder: Path, source: Mapping[str, Any]) -> None:
    """Add to what the manifest of `folder` says about the origin of its files."""
    content = read_manifest(folder)
    content["source"] = {**content.get("source", {}), **source}
    write_text(folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder`.

    Raises
    ------
    MissingPathError
        It has none.
    CheckpointError
        It is damaged, of a newer version, or names files outside the folder.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingPathError(f"{folder} has no {MANIFEST}, so its hashes are unknown.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch the model again.") from error
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(map(_is_entry, files.items())):
        raise CheckpointError(f"{path} is not a manifest of model files; fetch the model again.")
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is of a newer flowrvs; update flowrvs to check it.")
    return content


def _is_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    path = PurePosixPath(name)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
        and ":" not in name
        and isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and _SHA256.fullmatch(str(entry.get("sha256"))) is not None
    )


def verify_manifest(
    folder: Path,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[str]:
    """Compare every file of `folder` with its manifest.

    Parameters
    ----------
    folder : Path
        A model's folder.
    progress : callable, optional
        Called with bytes read of bytes in all.
    cancel : CancelToken, optional

    Returns
    -------
    list of str
        One line a fault, each beginning with the file's name; empty when all is well.
        Files that the manifest does not name are no fault.

    Raises
    ------
    MissingPathError
        There is no manifest.
    CheckpointError
        The manifest itself is damaged.
    """
    entries = read_manifest(folder)["files"]
    faults: dict[str, str] = {}
    whole: dict[str, Path] = {}
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            faults[name] = f"{name} is missing"
        elif (size := path.stat().st_size) != entry["size"]:
            kind = "truncated" if size < entry["size"] else "too long"
            faults[name] = f"{name} is {kind}: {size} of {entry['size']} bytes"
        else:
            whole[name] = path
    total = sum(path.stat().st_size for path in whole.values())
    hashes = _hashes(whole, total, "Checking", progress, cancel)
    for name, digest in hashes.items():
        if digest != entries[name]["sha256"]:
            faults[name] = f"{name} is damaged: its SHA-256 is not that of the manifest"
    return [faults[name] for name in entries if name in faults]


def _hashes(
    files: Mapping[str, Path],
    total: int,
    verb: str,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> dict[str, str]:
    clock = ProgressClock(total)
    return {
        name: sha256(path, cancel=cancel, step=_stepper(clock, f"{verb} {name}", progress))
        for name, path in files.items()
    }


def _stepper(
    clock: ProgressClock, message: str, progress: ProgressCallback | None
) -> Callable[[int], None]:
    def step(count: int) -> None:
        event = clock.advance(message, count)
        if progress is not None:
            progress(event)

    return step


def check_indices(folder: Path) -> list[str]:
    """Return one line for every shard that an index of `folder` names and that is not there."""
    faults = []
    for path in sorted(folder.glob("*/*.safetensors.index.json")):
        faults += _check_index(path.relative_to(folder).as_posix(), path)
    return faults


def check_weights(folder: Path) -> list[str]:
    """Look for shards that are missing or cut short, reading only their headers.

    Parameters
    ----------
    folder : Path
        A model's folder.

    Returns
    -------
    list of str
        One line a fault, each beginning with the file's name.
    """
    faults = check_indices(folder)
    for name, path in _files(folder).items():
        if name.endswith(".safetensors"):
            faults += _check_shard(name, path)
    return faults


def _check_index(name: str, path: Path) -> list[str]:
    try:
        shards = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{name} is no index of shards"]
    if not all(isinstance(shard, str) and is_file_name(shard) for shard in shards):
        return [f"{name} is no index of shards of its folder"]
    parent = PurePosixPath(name).parent
    return [
        f"{parent / shard} is missing"
        for shard in sorted(shards)
        if not (path.parent / shard).is_file()
    ]


def is_file_name(name: str) -> bool:
    """Return True for the name of a file, without a folder."""
    return PurePosixPath(name).name == name and len(name) < 256 and name.isprintable()


def _check_shard(name: str, path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    expected = _expected_size(path, size)
    if expected is not None and size < expected:
        return [f"{name} is truncated: {size} of {expected} bytes ({size_text(expected)})"]
    try:
        with safe_open(path, framework="np"):
            return []
    except (SafetensorError, OSError, ValueError) as error:
        return [f"{name} is damaged: {' '.join(str(error).split())}"]


def _expected_size(path: Path, size: int) -> int | None:
    """Return the size that the header of a shard promises; None when it has no header."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > _LARGEST_HEADER:
            return None  # no safetensors file at all
        if length > size - 8:
            return 8 + length  # cut within the header
        try:
            header = json.loads(stream.read(length))
            ends = [int(e["data_offsets"][1]) for k, e in header.items() if k != "__metadata__"]
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):
            return None
    return 8 + length + max(ends, default=0)


def _check_numbers(
    folder: Path,
    broken: Collection[str],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> list[str]:
    """Return one line for every shard with NaN or infinity; those of `broken` are left out."""
    shards = {
        name: path
        for name, path in _files(folder).items()
        if name.endswith(".safetensors") and name not in broken
    }
    clock = ProgressClock(sum(path.stat().st_size for path in shards.values()))
    faults = []
    for name, path in shards.items():
        tensor = first_damaged(
            path, cancel=cancel, step=_stepper(clock, f"Reading {name}", progress)
        )
        if tensor is not None:
            faults.append(f"{name} is damaged: {tensor} holds NaN or infinity")
    return faults


def count_numbers(folder: Path) -> dict[str, int]:
    """Return how many numbers the weights of each part hold, from the headers alone."""
    from safetensors import safe_open

    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        with safe_open(path, framework="np") as shard:
            shapes = [shard.get_slice(key).get_shape() for key in shard.keys()]
        part = path.parent.name
        counts[part] = counts.get(part, 0) + sum(map(math.prod, shapes))
    return counts


def verify_folder(
    folder: Path,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> tuple[list[str], bool]:
    """Check the shards of a model, then its hashes, or its numbers where no hash is known.

    Parameters
    ----------
    folder : Path
        A model's folder.
    progress, cancel : optional
        See `verify_manifest`.

    Returns
    -------
    faults : list of str
        One line a fault; each file is named once.
    hashed : bool
        True when there was a manifest to compare with.
    """
    faults = check_weights(folder)
    named = [fault.split(" is ", 1)[0] for fault in faults]
    if not (folder / MANIFEST).is_file():
        return faults + _check_numbers(folder, named, progress, cancel), False
    more = verify_manifest(folder, progress, cancel)
    return faults + [fault for fault in more if fault.split(" is ", 1)[0] not in named], True
