"""What every format is given to write, and the record of what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowrvs.data._frames import Frame
from flowrvs.data._sources import Source
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["Content", "ExportResult", "Work"]


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


class Work:
    """Hands out frames and masks, counts them for the progress, hears of a cancel.

    Parameters
    ----------
    sources : sequence of Source
        All that will be written.
    quality : int
        JPEG quality.
    overwrite : bool
        Replace a split that is there.
    progress, cancel : optional
        As in ``export_projects``.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        quality: int = 95,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.sources = sources
        self.quality = quality
        self.overwrite = overwrite
        self.notes: list[str] = []
        self._counts = [0, 0, 0]
        self._clock = ProgressClock(sum(len(s.frames) * (1 + len(s.objects)) for s in sources))
        self._progress = progress
        self._cancel = cancel

    def content(self, source: Source) -> Content:
        """Encode the masks of a video."""
        masks = {}
        for object_id in source.objects:
            coded = source.masks(object_id, self._cancel, self._advance(source.name))
            if any(coded):
                masks[object_id] = coded
        expressions = {
            exp_id: (text, [i for i in ids if i in masks])
            for exp_id, (text, ids) in source.expressions.items()
        }
        return Content(masks, expressions)

    def pictures(self, source: Source) -> Iterator[Frame]:
        """Yield the frames of a video."""
        return source.pictures(self._cancel, self._advance(source.name))

    def wrote(self, frames: int, expressions: int, objects: int) -> None:
        """Count what was written of one video."""
        for index, count in enumerate((frames, expressions, objects)):
            self._counts[index] += count

    def result(self, path: Path, format: str) -> ExportResult:
        """Return the record of the whole export."""
        frames, expressions, objects = self._counts
        return ExportResult(
            path, format, len(self.sources), frames, expressions, objects, tuple(self.notes)
        )

    def _advance(self, name: str) -> Callable[[int], None]:
        def advance(count: int) -> None:
            event = self._clock.advance(f"writing {name}", count)
            if self._progress is not None:
                self._progress(event)

        return advance
