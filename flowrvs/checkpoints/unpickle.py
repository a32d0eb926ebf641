"""Open a downloaded ``.pth`` file without running what is in it.

``torch.load(weights_only=True)`` is the gate (before torch 2.10 a file could corrupt memory
through it, CVE-2026-24747: hence the lower bound in setup.cfg). ``argparse.Namespace``,
which training runs put beside their weights, is the only class allowed beyond torch's own.
Tensors are mapped from the file and read when they are looked at.
"""

from __future__ import annotations

import argparse
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

from flowrvs.errors import CheckpointError, MissingPathError

__all__ = ["open_checkpoint"]

_ALLOWED = "argparse.Namespace"
# What files of weights hold; only used to say which of the others torch refused.
_PLAIN = re.compile(
    r"argparse\.Namespace|collections\.(OrderedDict|Counter)|torch\.(\w+Storage|Size|device)|"
    r"torch\._utils\._rebuild\w+|torch\.nn\.parameter\.Parameter"
)
# A thousand weights with their averages and an optimizer's state need a few hundred kB.
_LARGEST = 256 * 1024 * 1024
_ZIP_MAGIC = b"PK\x03\x04"
_AGAIN = "download the file again"


def open_checkpoint(path: Path) -> Any:
    """Read the structure of a checkpoint; its tensors stay in the file.

    Parameters
    ----------
    path : Path
        A file of ``torch.save`` (a zip file, as torch writes since 1.6).

    Returns
    -------
    object
        What was saved. Its tensors are read-only views of the mapped file, which is
        closed when the last one is gone.

    Raises
    ------
    MissingPathError
        There is no such file.
    CheckpointError
        The file is damaged or no checkpoint, or its pickle names anything but tensors,
        plain containers and ``argparse.Namespace``.
    """
    import torch

    program = _read_pickle(path)
    names = _globals(program)
    # Other code in this process may have widened torch's own list.
    lent = {_global_name(entry) for entry in torch.serialization.get_safe_globals()}
    _refuse(path, [name for name in names if name in lent - {_ALLOWED}])
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a hostile file can make the reader fail in any way
        reason = " ".join(str(error).split())
        found = re.search(r"GLOBAL ([\w.]+)", reason)
        _refuse(path, [found.group(1)] if found else [n for n in names if not _plain(n)])
        raise CheckpointError(f"{path} cannot be read ({_short(reason)}); {_AGAIN}.") from error


def _read_pickle(path: Path) -> bytes:
    """Return the pickle inside a checkpoint, after a look at the zip file around it."""
    if not path.exists():
        raise MissingPathError(f"There is no checkpoint {path}; check the path.")
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give the .pth file itself.")
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_ZIP_MAGIC))
        if not zipfile.is_zipfile(path):
            _not_a_zip(path, start)
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            pickles = [r for r in records if r.filename.rpartition("/")[2] == "data.pkl"]
            # Tensors are mapped where they lie, and nothing may hide behind a second pickle.
            if len(pickles) != 1 or any(r.compress_type != zipfile.ZIP_STORED for r in records):
                raise CheckpointError(
                    f"{path} is a zip file, but not one that torch.save wrote; {_AGAIN}."
                )
            if pickles[0].file_size > _LARGEST:
                raise CheckpointError(f"{path} holds a pickle too large for weights; {_AGAIN}.")
            return archive.read(pickles[0])
    except CheckpointError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise CheckpointError(f"{path} is damaged ({_short(str(error))}); {_AGAIN}.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"{path} cannot be read: {reason}; check the file.") from error


def _not_a_zip(path: Path, start: bytes) -> None:
    size = path.stat().st_size
    if not size:
        raise CheckpointError(f"{path} is empty; {_AGAIN}.")
    if start == _ZIP_MAGIC:
        raise CheckpointError(f"{path} is cut short (after {size} bytes); {_AGAIN}.")
    if start[:1] == b"\x80":
        with path.open("rb") as stream:
            names = _globals(stream.read(1_000_000))
        _refuse(path, [name for name in names if not _plain(name)])
        raise CheckpointError(
            f"{path} is a bare pickle, not a file of torch.save since version 1.6; "
            "save it again with a current torch."
        )
    if start == b"vers":
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself; run 'git lfs pull'."
        )
    raise CheckpointError(f"{path} is no PyTorch checkpoint; {_AGAIN}.")


def _globals(program: bytes) -> list[str]:
    """Names that a pickle would import, in order, read without running it."""
    names: dict[str, None] = {}
    texts: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    try:
        for code, argument, _ in pickletools.genops(program):
            if code.name in ("GLOBAL", "INST"):
                names[str(argument).replace(" ", ".")] = None
            elif code.name == "STACK_GLOBAL":
                names[".".join(texts[-2:])] = None
            elif code.name.startswith("EXT"):
                names[f"copyreg.extension_{argument}"] = None
            elif code.name == "MEMOIZE":
                memo[len(memo)] = last
            elif code.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
                texts.append(memo.get(argument, "?"))
            last = argument if isinstance(argument, str) else ""
            if last:
                texts.append(last)
    except (ValueError, IndexError, UnicodeError):
        pass  # cut short: what was found so far is named, and torch refuses the rest
    return list(names)


def _global_name(entry: Any) -> str:
    if isinstance(entry, tuple):
        return str(entry[1])
    return f"{entry.__module__}.{entry.__qualname__}"


def _plain(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None


def _refuse(path: Path, names: list[str]) -> None:
    if names:
        shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:3])
        raise CheckpointError(
            f"{path} is refused: its pickle would run {shown}, which no weights "
            "need; delete the file and download it from its authors."
        )


def _short(reason: str, length: int = 120) -> str:
    text = " ".join(reason.split())
    return text if len(text) <= length else text[: length - 3] + "..."
