"""Finding a project's video again after one of them was moved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from flowrvs.errors import FlowRVSError
from flowrvs.store._catalog import Catalog
from flowrvs.video import open_video
from flowrvs.video.probe import fingerprint

__all__ = ["Videos"]

_DEPTH = 2
_MAX_LOOKS = 2000
_MAX_OPENED = 50


class Videos(Catalog):
    """The part of `Project` that knows where its video is."""

    def find_video(self, candidates: Iterable[str | os.PathLike[str]] = ()) -> Path | None:
        """Find the video by its content and note where it lies; None where it is nowhere.

        Looked at are, in this order: its path relative to the project, its last full path,
        `candidates` (folders too), and files of its name or its kind near the project.

        Parameters
        ----------
        candidates : iterable of path
            Files and folders that the user named.

        Returns
        -------
        Path or None
            The first that has the same frames, size and content hash.
        """
        for path in self._places(candidates):
            if self._is_ours(path):
                path = Path(os.path.abspath(path))
                if self.writable and str(path) != self.video.path:
                    self._note_video(str(path))
                return path
        return None

    def _places(self, candidates: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
        own = self.video.path
        if own is None:
            return
        name = Path(own.replace("\\", "/")).name
        seen: set[Path] = set()

        def fresh(path: Path) -> bool:
            path = Path(os.path.abspath(path))
            new = path not in seen and path.exists()
            seen.add(path)
            return new

        folder = self.path
        first = [Path(own), folder.parent / name]
        if self._doc.relative is not None:
            first.insert(0, folder / self._doc.relative)
        given = [Path(one).expanduser() for one in candidates]
        for path in [*first, *given]:
            if fresh(path):
                yield path
        near = [*(one for one in given if one.is_dir()), folder.parent, folder.parent.parent]
        found = list(dict.fromkeys(path for one in near for path in _walk(one)))
        # The same name first; a file that was renamed by its kind.
        alike = [path for path in found if path.name == name or self._is_alike(path)]
        for path in sorted(alike, key=lambda path: path.name != name)[:_MAX_OPENED]:
            if fresh(path):
                yield path

    def _is_alike(self, path: Path) -> bool:
        own = self.video
        if own.kind in ("images", "zarr"):
            return path.is_dir()
        return path.suffix.lower() == Path(own.path or "").suffix.lower() and path.is_file()

    def _is_ours(self, path: Path) -> bool:
        own = self.video
        try:
            if own.fingerprint is not None and path.is_file():
                return fingerprint([path]) == own.fingerprint  # quicker than opening it
            with open_video(path) as video:
                info = video.info
        except (FlowRVSError, OSError):
            return False
        size = (own.frame_count, own.height, own.width)
        if (info.frame_count, info.height, info.width) != size:
            return False
        return own.fingerprint is None or own.fingerprint == info.fingerprint


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and a little below, nearest first, not without end."""
    looks, level = 0, [folder]
    for _ in range(_DEPTH):
        below: list[Path] = []
        for one in level:
            try:
                entries = sorted(os.scandir(one), key=lambda entry: entry.name)
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
