"""One split that is being written: what its format asks for, and what it counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flowrvs.data.clip import Clip, Source
from flowrvs.data.formats import LEFT_OUT, TABLE, holds_unknown
from flowrvs.data.pictures import Frame, write_frames
from flowrvs.data.preview import shortcomings
from flowrvs.progress import ProgressClock

if TYPE_CHECKING:
    from flowrvs.data.export import Export

__all__ = ["ExportResult", "Job", "VideoRow"]


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
class VideoRow:
    """What was written of a video.

    Attributes
    ----------
    name : str
        The video.
    frames, objects : int
        How many of each.
    sentences : list of (str, list of int or None)
        Its sentences and the objects that they mean, None where that is not known.
    human : float or None
        Share of its masks that a person drew, corrected or accepted; None without any.
    """

    name: str
    frames: int
    objects: int
    sentences: list[tuple[str, list[int] | None]]
    human: float | None


class Job:
    """One split that is being written: what its format asks for, and what it counted.

    Attributes
    ----------
    target : Path
        The split's final folder.
    folder : Path
        Where it is written.
    options : Export
        How it is written.
    notes : list of str
        What the format could not hold, one line each.
    beside : list of (Path, str)
        Files of the split that others look for elsewhere: the path in the dataset's folder
        and the file's name in the split.
    shares : ndarray of int, shape (4,)
        Masks by provenance.
    rows : list of VideoRow
        What was written of each video.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        target: Path,
        folder: Path,
        options: Export,
        clock: ProgressClock,
    ) -> None:
        self.sources = sources
        self.target = target
        self.folder = folder
        self.options = options
        self.notes: list[str] = []
        self.beside: list[tuple[Path, str]] = []
        self.shares = np.zeros(4, int)
        self.rows: list[VideoRow] = []
        self._clock = clock
        self._current: Source | None = None

    @property
    def names(self) -> list[str]:
        """Names of all videos."""
        return [source.name for source in self.sources]

    def clips(self, *, unknown: bool | None = None) -> Iterator[Clip]:
        """Yield the videos, each with its masks encoded, counted and closed again.

        With `unknown`, also the sentences whose target is not known; by default where the
        format has a place for them.
        """
        if unknown is None:
            unknown = holds_unknown(self.options.format, self.target.name)
        about = TABLE[self.options.format]
        for source in self.sources:
            clip = source.clip(self.options.cancel, self._advance(source))
            self.notes += (f"{clip.name}: {line}" for line in (*source.notices, *clip.notes))
            self.notes += (f"{clip.name}: {line}" for _, line, _ in shortcomings(about, source))
            if about.silent == LEFT_OUT:
                for key in clip.silent():
                    del clip.masks[key]
            if not unknown:
                for exp_id in [e for e, (_, ids) in clip.sentences.items() if ids is None]:
                    del clip.sentences[exp_id]
                    self.notes.append(
                        f"{clip.name}: the sentence {exp_id} is left out: nobody knows yet what "
                        "it means"
                    )
            shares = np.zeros(4, int)
            for key, masks in clip.masks.items():
                seen = clip.provenance[key][[mask is not None for mask in masks]]
                shares += np.bincount(seen, minlength=4)
            human = float(shares[2:].sum() / shares.sum()) if shares.any() else None
            self.shares += shares
            self._current = source
            yield clip
            sentences = list(clip.sentences.values())
            self.rows.append(
                VideoRow(clip.name, len(clip.frames), len(clip.masks), sentences, human)
            )
            self._current = None
            source.release()

    def pictures(self, clip: Clip) -> Iterator[Frame]:
        """Yield the frames of the present video, to be written as they are or compressed."""
        source = self._source(clip)
        advance = self._advance(source)
        return source.pictures(self.options.cancel, advance, link=self.options.link)

    def arrays(self, clip: Clip) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames of the present video as arrays."""
        source = self._source(clip)
        return source.arrays(self.options.cancel, self._advance(source))

    def write_pictures(self, folder: Path, clip: Clip) -> None:
        """Write the frames of the present video as JPEG files into a new folder."""
        folder.mkdir(parents=True)
        options = self.options
        write_frames(
            folder,
            clip.name,
            self.pictures(clip),
            clip.frames,
            quality=options.quality,
            jobs=options.jobs,
        )

    def write_json(self, name: str, value: object) -> None:
        """Write plain values as ASCII JSON."""
        (self.folder / name).write_text(json.dumps(value) + "\n", encoding="ascii")

    def result(self) -> ExportResult:
        """Return the record of what was written."""
        return ExportResult(
            self.target,
            self.options.format,
            len(self.rows),
            sum(row.frames for row in self.rows),
            sum(len(row.sentences) for row in self.rows),
            sum(row.objects for row in self.rows),
            tuple(self.notes),
        )

    def _source(self, clip: Clip) -> Source:
        assert self._current is not None and self._current.name == clip.name
        return self._current

    def _advance(self, source: Source) -> Callable[[int], None]:
        def advance(count: int) -> None:
            event = self._clock.advance(f"writing {source.name}", count)
            if self.options.progress is not None:
                self.options.progress(event)

        return advance
