"""What an export writes: the videos of projects with their objects and sentences."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from flowrvs.data._frames import Frame
from flowrvs.data._names import frame_names, is_safe_name, sorted_and_unique
from flowrvs.masks import rle
from flowrvs.progress import CancelToken

if TYPE_CHECKING:
    from flowrvs.store import Project
    from flowrvs.video import Video

__all__ = ["Source", "collect"]

_CHUNK = 16
_EXIF_ORIENTATION = 0x0112


@dataclass
class Source:
    """One video to export, annotated by one or several projects.

    Attributes
    ----------
    name : str
        The video's folder name.
    video : Video
        Its frames.
    frames : list of str
        Frame names.
    objects : dict of int to (project, object id)
        By the id that the export gives, unique in the video.
    expressions : dict of str to (text, list of int)
        By exp_id, in the projects' order; the ids are those of `objects`.
    """

    name: str
    video: Video
    frames: list[str]
    objects: dict[int, tuple[Project, int]] = field(default_factory=dict)
    expressions: dict[str, tuple[str, list[int]]] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.video.info.height, self.video.info.width

    def pictures(
        self, cancel: CancelToken | None = None, advance: Callable[[int], None] | None = None
    ) -> Iterator[Frame]:
        """Yield the frames: JPEG files as they are, anything else as arrays."""
        files = _jpeg_files(self.video, len(self.frames))
        for start in range(0, len(self.frames), _CHUNK):
            if cancel is not None:
                cancel.raise_if_cancelled()
            stop = min(start + _CHUNK, len(self.frames))
            copies = [_jpeg_bytes(path, self.size) for path in files[start:stop]]
            if copies and all(copies):
                yield from (data for data in copies if data is not None)
            else:
                yield from self.video.read(start, stop)
            if advance is not None:
                advance(stop - start)

    def masks(
        self,
        object_id: int,
        cancel: CancelToken | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> list[rle.RLE | None]:
        """Return an object's masks, one entry a frame, None where it is absent."""
        project, inner = self.objects[object_id]
        found: list[rle.RLE | None] = []
        for start in range(0, len(self.frames), _CHUNK):
            if cancel is not None:
                cancel.raise_if_cancelled()
            stop = min(start + _CHUNK, len(self.frames))
            masks = project.object_mask(inner, start, stop)
            found.extend(rle.encode(mask) if mask.any() else None for mask in masks)
            if advance is not None:
                advance(stop - start)
        return found


def collect(projects: Sequence[Project], videos: Sequence[Video]) -> list[Source]:
    """Arrange projects into videos; projects of one video are merged into it.

    Parameters
    ----------
    projects : sequence of Project
    videos : sequence of Video
        The frames of each project.

    Raises
    ------
    ProjectError
        A video is not the one that its project was made for.
    """
    sources: list[Source] = []
    by_content: dict[tuple[object, ...], Source] = {}
    taken: set[str] = set()
    for project, video in zip(projects, videos, strict=True):
        info = project.video
        project.check_video(video.info)
        key = (info.fingerprint, info.frame_count, info.height, info.width)
        source = by_content.get(key) if info.fingerprint else None
        if source is None:
            source = Source(_unused(_video_name(project), taken), video, _frame_names(video))
            sources.append(source)
            by_content[key] = source
        _add(source, project)
    return sources


def _add(source: Source, project: Project) -> None:
    """Add a project's objects and sentences, renumbering only what collides."""
    ids: dict[int, int] = {}
    for expression in project.expressions.values():
        for object_id in sorted(expression.object_ids):
            if object_id not in ids:
                new = object_id
                if new in source.objects:
                    new = max(max(source.objects), max(project.objects)) + 1
                ids[object_id] = new
                source.objects[new] = (project, object_id)
    for expression in project.expressions.values():
        exp_id = expression.exp_id
        if exp_id in source.expressions or not is_safe_name(exp_id):
            number = len(source.expressions)
            while str(number) in source.expressions or str(number) in project.expressions:
                number += 1
            exp_id = str(number)
        targets = [ids[i] for i in sorted(expression.object_ids)]
        source.expressions[exp_id] = (expression.text, targets)


def _video_name(project: Project) -> str:
    """Return a folder name for the project's video: its own, made safe."""
    path = project.video.path
    if path is None:
        name = Path(project.path).stem
    else:
        # A folder's name may hold dots that are no suffix.
        name = Path(path).name if project.video.kind in ("images", "zarr") else Path(path).stem
    if not is_safe_name(name):
        name = re.sub(r"[\x00-\x1f\x7f/\\:]", "_", name).strip(". ")[:60]
    return name if is_safe_name(name) else "video"


def _unused(name: str, taken: set[str]) -> str:
    """Return `name`, numbered when it is taken; case makes no difference."""
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate, number = f"{name}-{number}", number + 1
    taken.add(candidate.casefold())
    return candidate


def _frame_names(video: Video) -> list[str]:
    native = list(video.info.frame_names)
    if (
        len(native) == len(video)
        and all(is_safe_name(name) for name in native)
        and sorted_and_unique(native)
    ):
        return native
    return frame_names(len(video))


def _jpeg_files(video: Video, count: int) -> list[Path]:
    """Return the video's JPEG files, one a frame; empty when it is something else."""
    info = video.info
    if info.kind != "images" or info.path is None or len(info.frame_names) != count:
        return []
    folder = Path(info.path)
    files = []
    for stem in info.frame_names:
        for suffix in (".jpg", ".jpeg", ".JPG", ".JPEG"):
            path = folder / f"{stem}{suffix}"
            if path.is_file():
                files.append(path)
                break
        else:
            return []
    return files


def _jpeg_bytes(path: Path, size: tuple[int, int]) -> bytes | None:
    """Return the file's bytes when any reader shows them as this video does."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            turned = picture.getexif().get(_EXIF_ORIENTATION, 1) != 1
            if turned or picture.mode not in ("RGB", "L"):
                return None
            return data if (picture.height, picture.width) == size else None
    except OSError:
        return None
