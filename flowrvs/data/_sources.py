"""What an export writes: the videos of projects with their objects and sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from flowrvs.data._frames import Frame, jpeg_bytes, jpeg_files
from flowrvs.data._names import frame_names, is_safe_name, sorted_and_unique
from flowrvs.data._origin import Origin
from flowrvs.errors import ProjectError
from flowrvs.masks import rle
from flowrvs.progress import CancelToken
from flowrvs.records import VideoInfo

if TYPE_CHECKING:
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = ["Annotations", "Source", "collect", "unused"]

_CHUNK = 16
_FEW = 6  # up to which comparing with each costs less than counting all


class Annotations:
    """A project as an export sees it; one given by its path is open only while it is read.

    Parameters
    ----------
    project : Project or path-like
        Open, or to be opened for reading.

    Attributes
    ----------
    path : Path
        Its folder.
    info : VideoInfo
        Its video.
    objects, expressions : dict
        As of the project.
    origin : Origin or None
        Where it was imported from.
    """

    def __init__(self, project: Project | str | os.PathLike[str]) -> None:
        self._given = None if isinstance(project, (str, os.PathLike)) else project
        self._own: Project | None = None
        self._source = project
        known = self.project
        self.path = Path(known.path)
        self.info = known.video
        self.objects = known.objects
        self.expressions = known.expressions
        self.origin = Origin.load(self.path)

    @property
    def project(self) -> Project:
        """The project, opened when it is not."""
        if self._given is not None:
            return self._given
        if self._own is None:
            from flowrvs.store import Project

            self._own = Project.open(cast("str", self._source), read_only=True)
        return self._own

    def release(self) -> None:
        """Close it where it was opened here; it opens again by itself."""
        own, self._own = self._own, None
        if own is not None:
            own.close()


@dataclass
class Source:
    """One video to export, annotated by one or several projects.

    Attributes
    ----------
    name : str
        The video's folder name.
    info : VideoInfo
        What it is.
    frames : list of str
        Frame names.
    positions : list of int
        Index of each of them in the video.
    given : Video or None
        Its frames where somebody else has opened them.
    projects : list of Annotations
        What is known of it.
    objects : dict of int to (project, object id)
        By the id that the export gives, unique in the video.
    expressions : dict of str to (text, list of int)
        By exp_id, in the projects' order; the ids are those of `objects`.
    """

    name: str
    info: VideoInfo
    frames: list[str]
    positions: list[int]
    given: Video | None = None
    projects: list[Annotations] = field(default_factory=list)
    objects: dict[int, tuple[Annotations, int]] = field(default_factory=dict)
    expressions: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    _opened: Video | None = None

    @property
    def video(self) -> Video:
        """The frames, opened when they are not."""
        from flowrvs.video import open_video

        if self.given is not None:
            return self.given
        if self._opened is None:
            self._opened = open_video(str(self.info.path))
        return self._opened

    def release(self) -> None:
        """Close what was opened here; a hundred videos do not fit in the memory."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        for project in self.projects:
            project.release()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.info.height, self.info.width

    def pictures(
        self,
        cancel: CancelToken | None = None,
        advance: Callable[[int], None] | None = None,
        *,
        link: bool = False,
    ) -> Iterator[Frame]:
        """Yield the frames: JPEG files as they are (or their paths), anything else as arrays."""
        files = jpeg_files(self.info, self.positions)
        for start in range(0, len(self.frames), _CHUNK):
            if cancel is not None:
                cancel.raise_if_cancelled()
            stop = min(start + _CHUNK, len(self.frames))
            copies = [jpeg_bytes(path, self.size) for path in files[start:stop]]
            if copies and all(copies):
                if link:
                    yield from files[start:stop]
                else:
                    yield from (data for data in copies if data is not None)
            else:
                for first, last in _spans(self.positions[start:stop]):
                    yield from self.video.read(first, last)
            if advance is not None:
                advance(stop - start)

    def arrays(
        self, cancel: CancelToken | None = None, advance: Callable[[int], None] | None = None
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames as RGB arrays, whatever they are stored as."""
        for start in range(0, len(self.frames), _CHUNK):
            if cancel is not None:
                cancel.raise_if_cancelled()
            part = self.positions[start : start + _CHUNK]
            for first, last in _spans(part):
                yield from self.video.read(first, last)
            if advance is not None:
                advance(len(part))

    def labels(
        self,
        cancel: CancelToken | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, int, npt.NDArray[np.bool_]]]:
        """Yield (index into `frames`, object id, mask) of every object that is seen.

        Layers are read once, however many objects they hold.
        """
        layers: dict[tuple[int, int], tuple[Annotations, dict[int, int]]] = {}
        for outer, (known, inner) in self.objects.items():
            key = (id(known), known.objects[inner].layer)
            layers.setdefault(key, (known, {}))[1][inner] = outer
        for (_, layer), (known, ids) in layers.items():
            labels = known.project.labels(layer)
            for start in range(0, len(self.positions), _CHUNK):
                if cancel is not None:
                    cancel.raise_if_cancelled()
                part = self.positions[start : start + _CHUNK]
                # Runs of frames go by the project's cache, which is for painting.
                frames = (frame for first, last in _spans(part) for frame in labels[first:last])
                for index, frame in enumerate(frames, start):
                    for inner in _seen(frame, ids):
                        yield index, ids[inner], frame == inner
                    if advance is not None:
                        advance(len(ids))

    def masks(
        self,
        cancel: CancelToken | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> dict[int, list[rle.RLE | None]]:
        """Return the masks of every object, one entry a frame, None where it is absent."""
        found: dict[int, list[rle.RLE | None]] = {
            key: [None] * len(self.frames) for key in self.objects
        }
        for index, key, mask in self.labels(cancel, advance):
            found[key][index] = rle.encode(mask)
        return found

    def provenance(self, object_id: int) -> npt.NDArray[np.uint8]:
        """Return where an object's masks come from, one value for each of `frames`."""
        known, inner = self.objects[object_id]
        values: npt.NDArray[np.uint8] = known.project.provenance(inner)[self.positions]
        return values

    def object_name(self, object_id: int) -> str:
        """Return an object's name."""
        project, inner = self.objects[object_id]
        return project.objects[inner].name

    def color(self, object_id: int) -> tuple[float, float, float]:
        """Return an object's colour."""
        project, inner = self.objects[object_id]
        return project.objects[inner].color


def collect(
    projects: Sequence[Project | str | os.PathLike[str]], videos: Sequence[Video | None]
) -> list[Source]:
    """Arrange projects into videos; projects of one video are merged into it.

    Parameters
    ----------
    projects : sequence of Project or path
    videos : sequence of Video or None
        The frames of each project where somebody else has opened them.

    Raises
    ------
    ProjectError
        A video is not the one that its project was made for, or was an array.
    """
    sources: list[Source] = []
    by_content: dict[tuple[object, ...], Source] = {}
    taken: set[str] = set()
    for project, given in zip(projects, videos, strict=True):
        known = Annotations(project)
        info = _video_info(known, given)
        key = (info.fingerprint, info.frame_count, info.height, info.width)
        source = by_content.get(key) if info.fingerprint else None
        if source is None:
            name = unused(_video_name(known), taken)
            source = Source(name, info, *_frame_names(info, known.origin), given)
            sources.append(source)
            by_content[key] = source
        source.projects.append(known)
        _add(source, known)
        known.release()
    return sources


def _video_info(known: Annotations, given: Video | None) -> VideoInfo:
    from flowrvs.video import open_video

    if given is not None:
        known.project.check_video(given.info)
        return given.info
    if known.info.path is None:
        raise ProjectError(
            f"{known.path} was made from an array in memory; hand its frames in as well."
        )
    path = Path(known.info.path)
    # A project and its video may have been moved together.
    beside = known.path.parent / path.name
    with open_video(beside if not path.exists() and beside.exists() else path) as video:
        known.project.check_video(video.info)
        return video.info


def _add(source: Source, project: Annotations) -> None:
    """Add a project's objects and sentences, renumbering only what collides.

    An imported project keeps the ids that its dataset gave.
    """
    origin = project.origin
    known = origin.objects if origin else {}
    names = origin.expressions if origin else {}
    ids: dict[int, int] = {}
    for expression in project.expressions.values():
        for object_id in sorted(expression.object_ids):
            if object_id not in ids:
                new = known.get(object_id, (object_id, -1))[0]
                if new in source.objects:
                    new = max(*source.objects, *project.objects, *(o for o, _ in known.values()), 0)
                    new += 1
                ids[object_id] = new
                source.objects[new] = (project, object_id)
    for expression in project.expressions.values():
        exp_id = names.get(expression.exp_id, expression.exp_id)
        if exp_id in source.expressions or not is_safe_name(exp_id):
            number = len(source.expressions)
            while str(number) in source.expressions or str(number) in project.expressions:
                number += 1
            exp_id = str(number)
        targets = [ids[i] for i in sorted(expression.object_ids)]
        source.expressions[exp_id] = (expression.text, targets)


def _video_name(project: Annotations) -> str:
    """Return a folder name for the project's video: its own, made safe."""
    if project.origin is not None:
        return project.origin.video
    path = project.info.path
    if path is None:
        name = Path(project.path).stem
    else:
        # A folder's name may hold dots that are no suffix.
        name = Path(path).name if project.info.kind in ("images", "zarr") else Path(path).stem
    if not is_safe_name(name):
        name = re.sub(r"[\x00-\x1f\x7f/\\:]", "_", name).strip(". ")[:60]
    return name if is_safe_name(name) else "video"


def unused(name: str, taken: set[str]) -> str:
    """Return `name`, numbered when it is taken; case makes no difference."""
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate, number = f"{name}-{number}", number + 1
    taken.add(candidate.casefold())
    return candidate


def _frame_names(info: VideoInfo, origin: Origin | None) -> tuple[list[str], list[int]]:
    """Return the names to write and the index of each in the video."""
    native = list(info.frame_names)
    everything = list(range(info.frame_count))
    if origin is not None:
        where = {name: index for index, name in enumerate(native)}
        if origin.frames and all(name in where for name in origin.frames):
            return list(origin.frames), [where[name] for name in origin.frames]
        if len(origin.frames) == info.frame_count:
            return list(origin.frames), everything
    if (
        len(native) == info.frame_count
        and all(is_safe_name(name) for name in native)
        and sorted_and_unique(native)
    ):
        return native, everything
    return frame_names(info.frame_count), everything


def _seen(frame: npt.NDArray[np.uint16], ids: Collection[int]) -> list[int]:
    """Return those of `ids` that are on a frame, ascending."""
    if len(ids) <= _FEW:
        return [inner for inner in sorted(ids) if (frame == inner).any()]
    return [inner for inner in np.flatnonzero(np.bincount(frame.ravel())).tolist() if inner in ids]


def _spans(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive positions, first and one past the last."""
    first = 0
    for n in range(1, len(positions) + 1):
        if n == len(positions) or positions[n] != positions[n - 1] + 1:
            yield positions[first], positions[n - 1] + 1
            first = n
