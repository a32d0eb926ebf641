"""What every format is given to write, and the record of what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowrvs.data._frames import Frame
from flowrvs.data._sources import Source
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["Content", "ExportResult", "Work", "clock_for"]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes
    ----------
    path : Path
        The split's folder.
    format : str
        One of ``FORMATS``.
    videos, frames, expressions, objects : int
        How many of each the split holds.
    notes : tuple of str
        What the format could not hold, one line each.
    """

    path: Path
    format: str
    videos: int
    frames: int
    expressions: int
    objects: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """The objects of a video that are seen, and its sentences.

    Attributes
    ----------
    masks : dict of int to list of RLE or None
        By object id; objects without a pixel on any frame are left out.
    expressions : dict of str to (text, list of int)
        By exp_id; the ids are keys of `masks`.
    """

    masks: dict[int, list[rle.RLE | None]]
    expressions: dict[str, tuple[str, list[int]]]


def clock_for(sources: Sequence[Source]) -> ProgressClock:
    """Return a clock over the frames and masks of all that will be written."""
    return ProgressClock(sum(len(s.frames) * (1 + len(s.objects)) for s in sources))


class Work:
    """What one split is written from; counts it for the progress, hears of a cancel.

    Parameters
    ----------
    sources : sequence of Source
        The videos of the split.
    target : Path
        The split's final folder, for messages.
    clock : ProgressClock
        Shared by all splits of an export.
    quality, link, jobs, progress, cancel
        As in ``export_projects``.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        target: Path,
        clock: ProgressClock,
        *,
        quality: int = 95,
        link: bool = False,
        jobs: int | None = None,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.sources = sources
        self.target = target
        self.quality = quality
        self.link = link
        self.jobs = jobs
        self.notes: list[str] = []
        self.shares = [0, 0, 0, 0]
        self.human: dict[str, float] = {}
        self._counts = [0, 0, 0]
        self._clock = clock
        self._progress = progress
        self._cancel = cancel

    def content(self, source: Source) -> Content:
        """Encode the masks of a video."""
        masks = {}
        before = list(self.shares)
        for object_id, coded in source.masks(self._cancel, self._advance(source.name)).items():
            if any(coded):
                masks[object_id] = coded
                for value, entry in zip(source.provenance(object_id), coded, strict=True):
                    self.shares[value] += entry is not None
        here = [now - then for now, then in zip(self.shares, before, strict=True)]
        if sum(here):
            self.human[source.name] = (here[2] + here[3]) / sum(here)
        expressions = {
            exp_id: (text, [i for i in ids if i in masks])
            for exp_id, (text, ids) in source.expressions.items()
        }
        return Content(masks, expressions)

    def pictures(self, source: Source) -> Iterator[Frame]:
        """Yield the frames of a video."""
        return source.pictures(self._cancel, self._advance(source.name), link=self.link)

    def arrays(self, source: Source) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames of a video as arrays."""
        return source.arrays(self._cancel, self._advance(source.name))

    def wrote(self, source: Source, content: Content) -> None:
        """Count what was written of one video, and close it."""
        counts = (len(source.frames), len(content.expressions), len(content.masks))
        for index, count in enumerate(counts):
            self._counts[index] += count
        source.release()

    def result(self, format: str) -> ExportResult:
        """Return the record of what was written."""
        frames, expressions, objects = self._counts
        return ExportResult(
            self.target, format, len(self.sources), frames, expressions, objects, tuple(self.notes)
        )

    def _advance(self, name: str) -> Callable[[int], None]:
        def advance(count: int) -> None:
            event = self._clock.advance(f"writing {name}", count)
            if self._progress is not None:
                self._progress(event)

        return advance
