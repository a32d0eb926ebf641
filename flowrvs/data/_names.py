"""Names that become file or folder names: which are safe, which are ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath

from flowrvs.errors import DatasetError

__all__ = ["frame_names", "is_safe_name", "safe_name", "sorted_and_unique"]


def is_safe_name(name: object) -> bool:
    """True when `name` names one entry of a folder on every system.

    Blanks, dots and any script are fine; separators, drive letters, ``.``, ``..``,
    control characters and names longer than 240 bytes are not.
    """
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return False
    try:
        if len(name.encode()) > 240:
            return False
    except UnicodeEncodeError:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def safe_name(name: object, what: str, where: object = "") -> str:
    """Return `name` when it is safe.

    Parameters
    ----------
    name : object
        The name as it was read or handed in.
    what : str
        What it names, for the message: ``"video"``, ``"frame"``, ``"exp_id"``.
    where : object, optional
        The file or folder it comes from.

    Raises
    ------
    DatasetError
        The name could lead outside its folder or cannot be stored.
    """
    if not is_safe_name(name):
        place = f" in {where}" if where else ""
        raise DatasetError(
            f"The {what} name {name!r}{place} cannot be a file name; "
            "use one without slashes, '..' or control characters."
        )
    return str(name)


def frame_names(count: int) -> list[str]:
    """Return `count` zero-padded names, five digits or more, that sort as they count."""
    width = max(5, len(str(max(count - 1, 0))))
    return [f"{index:0{width}d}" for index in range(count)]


def sorted_and_unique(names: Sequence[str]) -> bool:
    """True when `names` are strictly ascending, so that a sorted listing keeps them."""
    return all(a < b for a, b in zip(names, names[1:], strict=False))
