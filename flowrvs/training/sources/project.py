"""Projects as training data: the frames that a person drew, accepted or locked."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import ProjectError
from flowrvs.records import Expression
from flowrvs.store import Project, Provenance
from flowrvs.training.sources.base import Picture, Sentence, TrainingVideo
from flowrvs.video import Video, open_video

__all__ = ["ProjectSource"]


class ProjectSource:
    """One project, opened read-only in each process; see `Source`.

    Parameters
    ----------
    folder : Path
        The ``*.flowrvs`` folder.
    confirmed : bool
        Only frames on which a person drew, accepted or locked every object of a sentence; for a
        sentence that means nothing, frames on which a person did so for any object. Otherwise
        all frames.
    """

    def __init__(self, folder: Path, *, confirmed: bool = True) -> None:
        self.label = str(folder)
        self.folder = folder
        self.skipped: dict[str, int] = {}
        self._opened: tuple[Project, Video] | None = None
        with Project.open(folder, read_only=True) as project:
            info = project.video
            path = project.find_video()
            if path is None:
                raise ProjectError(
                    f"The video of {folder} is not found; open the project once and choose it."
                )
            self._video_path = path
            self._size = (info.height, info.width)
            rows = {
                object_id: project.provenance(object_id) >= Provenance.HUMAN
                for object_id in project.objects
            }
            seen = np.logical_or.reduce(list(rows.values())) if rows else np.zeros(0, np.bool_)
            sentences = []
            for expression in project.expressions.values():
                chosen = [rows[object_id] for object_id in expression.object_ids]
                usable = np.logical_and.reduce(chosen) if chosen else seen
                if not confirmed:
                    usable = np.ones(info.frame_count, np.bool_)
                if sentence := self._sentence(expression, usable):
                    sentences.append(sentence)
        self.identity = f"project:{folder.absolute()}:{_stamp(folder)}:{confirmed}"
        name = folder.name.removesuffix(".flowrvs")
        self.videos: tuple[TrainingVideo, ...] = ()
        if sentences:
            self.videos = (TrainingVideo(name, tuple(sentences), str(path.resolve())),)

    def _sentence(self, expression: Expression, usable: npt.NDArray[np.bool_]) -> Sentence | None:
        frames = tuple(int(t) for t in np.flatnonzero(usable))
        if not expression.text.strip() or not frames:
            reason = "sentences without a frame that a person drew, accepted or locked"
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
            return None
        return Sentence(expression.text, tuple(sorted(expression.object_ids)), frames)

    def _open(self) -> tuple[Project, Video]:
        if self._opened is None:
            video = open_video(self._video_path)
            self._opened = (Project.open(self.folder, read_only=True), video)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def close(self) -> None:
        """Close the files; they open again when they are asked for."""
        if self._opened is not None:
            project, video = self._opened
            self._opened = None
            project.close()
            video.close()

    def size(self, video: TrainingVideo) -> tuple[int, int]:
        """Return height and width of the video."""
        return self._size

    def pictures(self, video: TrainingVideo, frames: Sequence[int]) -> list[Picture]:
        """Read frames of the video."""
        opened = self._open()[1]
        read = {index: opened.read(index, index + 1)[0] for index in sorted(set(frames))}
        return [read[index] for index in frames]

    def masks(
        self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the union of the objects' masks, (T, H, W)."""
        project = self._open()[0]
        gone = set(sentence.objects) - set(project.objects)
        if gone:  # a person works on it
            raise ProjectError(
                f"{self.folder} has no object {min(gone)} any more: it was removed meanwhile; "
                "train anew."
            )
        read = {}
        for index in set(frames):
            masks = [project.object_mask(i, index, index + 1)[0] for i in sentence.objects]
            read[index] = np.logical_or.reduce(masks) if masks else np.zeros(self._size, np.bool_)
        return np.stack([read[index] for index in frames])


def _stamp(folder: Path) -> str:
    """Changes with what was written into the project last."""
    newest = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it is written to, and files in it come and go
            newest = max(newest, path.lstat().st_mtime_ns)
    return f"{newest:x}"
