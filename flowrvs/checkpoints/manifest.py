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
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flowrvs.checkpoints.files import read_json, sha256
from flowrvs.checkpoints.shards import check_weights, first_damaged
from flowrvs.disk import write_bytes
from flowrvs.errors import CheckpointError, MissingPathError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = [
    "MANIFEST",
    "add_source",
    "read_manifest",
    "verify_folder",
    "verify_manifest",
    "write_manifest",
]

#: Name of the manifest in a model's folder.
MANIFEST = "flowrvs-manifest.json"

_FORMAT = 1
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
    return _write(folder, content)


def add_source(folder: Path, source: Mapping[str, Any]) -> None:
    """Add to what the manifest of `folder` says about the origin of its files."""
    content = read_manifest(folder)
    content["source"] = {**content.get("source", {}), **source}
    _write(folder, content)


def _write(folder: Path, content: Mapping[str, Any]) -> Path:
    target = folder / MANIFEST
    write_bytes(target, (json.dumps(content, indent=1) + "\n").encode())
    return target


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
        content = read_json(path)
    except FileNotFoundError:
        raise MissingPathError(f"{folder} has no {MANIFEST}, so its hashes are unknown.") from None
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch the model again.") from error
    files = content.get("files")
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
