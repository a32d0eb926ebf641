"""Finding a video by its content after it was moved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from flowrvs.errors import FlowRVSError
from flowrvs.records import VideoInfo
from flowrvs.video import open_video
from flowrvs.video.probe import fingerprint

__all__ = ["find_video"]

_DEPTH = 2
_MAX_LOOKS = 2000
_MAX_OPENED = 50


def find_video(
    info: VideoInfo,
    folder: Path,
    first: Iterable[Path] = (),
    candidates: Iterable[str | os.PathLike[str]] = (),
) -> Path | None:
    """Return the full path of a video that has the same frames, or None.

    Parameters
    ----------
    info : VideoInfo
        What is known of it.
    folder : Path
        Where to look for files of its name or its kind, and in the folder above.
    first : iterable of Path
        Where to look before its own path.
    candidates : iterable of path
        Files and folders that the user named.
    """
    for path in _places(info, folder, list(first), candidates):
        if _is_same(info, path):
            return Path(os.path.abspath(path))
    return None


def _places(
    info: VideoInfo,
    folder: Path,
    first: list[Path],
    candidates: Iterable[str | os.PathLike[str]],
) -> Iterator[Path]:
    if info.path is None:
        return
    name = Path(info.path.replace("\\", "/")).name
    seen: set[Path] = set()

    def fresh(path: Path) -> bool:
        path = Path(os.path.abspath(path))
        new = path not in seen and path.exists()
        seen.add(path)
        return new

    given = [Path(path).expanduser() for path in candidates]
    for path in [*first, Path(info.path), folder / name, *given]:
        if fresh(path):
            yield path
    near = [*(path for path in given if path.is_dir()), folder, folder.parent]
    found = list(dict.fromkeys(path for place in near for path in _walk(place)))
    # The same name first; a file that was renamed by its kind.
    alike = [path for path in found if path.name == name or _is_alike(info, path)]
    for path in sorted(alike, key=lambda path: path.name != name)[:_MAX_OPENED]:
        if fresh(path):
            yield path


def _is_alike(info: VideoInfo, path: Path) -> bool:
    if info.kind in ("images", "zarr"):
        return path.is_dir()
    return path.suffix.lower() == Path(info.path or "").suffix.lower() and path.is_file()


def _is_same(info: VideoInfo, path: Path) -> bool:
    try:
        if info.fingerprint is not None and path.is_file():
            return fingerprint([path]) == info.fingerprint  # quicker than opening it
        with open_video(path) as video:
            found = video.info
    except (FlowRVSError, OSError):
        return False
    size = (info.frame_count, info.height, info.width)
    if (found.frame_count, found.height, found.width) != size:
        return False
    return info.fingerprint is None or info.fingerprint == found.fingerprint


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and a little below, nearest first, not without end."""
    looks, level = 0, [folder]
    for _ in range(_DEPTH):
        below: list[Path] = []
        for place in level:
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                looks += 1
                if looks > _MAX_LOOKS:
                    return
                if entry.name.startswith(".") or entry.name.endswith(".flowrvs"):
                    continue
                yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
        level = below
