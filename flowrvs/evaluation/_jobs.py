"""One target's sentences, scored: the unit that is handed to a process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowrvs.errors import DatasetError
from flowrvs.evaluation import _bits
from flowrvs.evaluation._predictions import Predictions
from flowrvs.evaluation.metrics import match, match_scores
from flowrvs.evaluation.scores import ExpressionScore
from flowrvs.masks import rle

if TYPE_CHECKING:
    from flowrvs.data.mevis import MevisSplit

__all__ = ["Job", "Tally", "plan", "score"]


@dataclass(frozen=True, slots=True)
class Job:
    """The sentences of a video that mean the same objects: their truth is read once.

    Attributes
    ----------
    video : str
    exp_ids : tuple of str
    frames : tuple of str
        Names of the frames.
    masks : tuple of tuple of RLE
        The objects' masks on each frame, absent ones left out.
    size : tuple of int or None
        (H, W) of the video's masks; None where it has none.
    """

    video: str
    exp_ids: tuple[str, ...]
    frames: tuple[str, ...]
    masks: tuple[tuple[rle.RLE, ...], ...]
    size: tuple[int, int] | None

    @property
    def pictures(self) -> int:
        """The pictures that the job reads."""
        return len(self.exp_ids) * len(self.frames)


class Tally:
    """Sums up the frames of one expression."""

    def __init__(self, video: str, exp_id: str, frames: int) -> None:
        self.video, self.exp_id = video, exp_id
        self._j = np.zeros(frames)
        self._f = np.zeros(frames)
        self._missing: list[int] = []
        self._intersection = self._union = 0
        self._has_target = self._has_answer = False
        self._jumps: list[float] = []
        self._last: tuple[int, _bits.Words, _bits.Words, int] | None = None

    def add(
        self, index: int, pred: _bits.Words, truth: _bits.Words, truth_area: int, width: int
    ) -> None:
        """Count a predicted frame."""
        found = match(pred, truth, width)
        self._j[index], self._f[index] = match_scores(found)
        self._intersection += found.intersection
        self._union += found.union
        self._has_target |= truth_area > 0
        self._has_answer |= found.intersection + found.union > truth_area
        wrong = found.union - found.intersection
        if self._last is not None and self._last[0] == index - 1:
            # The error e is -1, 0 or 1 a pixel, and its change is summed up as
            # (e - e')^2 = e^2 + e'^2 - 2 e e'; only where both are wrong is e e' not 0.
            _, pred_before, truth_before, wrong_before = self._last
            total = wrong + wrong_before
            if wrong and wrong_before and found.box is not None:
                p, p_before = pred[found.box], pred_before[found.box]
                both = (p ^ truth[found.box]) & (p_before ^ truth_before[found.box])
                opposite = both & (p ^ p_before)
                total -= 2 * (_bits.count(both) - 2 * _bits.count(opposite))
            self._jumps.append(math.sqrt(total / (width * len(pred))))
        self._last = index, pred, truth, wrong

    def miss(self, index: int, truth_area: int) -> None:
        """Count a frame that was not predicted."""
        self._missing.append(index)
        self._union += truth_area
        self._has_target |= truth_area > 0

    def result(self) -> ExpressionScore:
        """Return the score."""
        frames = len(self._j)
        return ExpressionScore(
            self.video,
            self.exp_id,
            float(self._j.mean()) if frames else 0.0,
            float(self._f.mean()) if frames else 0.0,
            frames,
            frames - len(self._missing),
            intersection=self._intersection,
            union=self._union,
            has_target=self._has_target,
            has_answer=self._has_answer,
            dtssd=float(np.mean(self._jumps)) if self._jumps else None,
            frame_j=self._j,
            frame_f=self._f,
            missing=tuple(self._missing),
        )


def plan(split: MevisSplit, wanted: Iterable[tuple[str, str]]) -> Iterator[Job]:
    """Group expressions by video and target.

    Raises
    ------
    DatasetError
        The split has no truth, no such expression, or annotations that do not fit.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for video, exp_id in wanted:
        try:
            expression = split.videos[video].expressions[exp_id]
        except KeyError:
            raise DatasetError(
                f"{split.folder} has no expression {exp_id!r} of {video!r}."
            ) from None
        target = tuple(sorted(set(expression.anno_id)))
        groups.setdefault((video, target), []).append(exp_id)
    for (video, target), exp_ids in groups.items():
        yield _job(split, video, target, tuple(exp_ids))


def _job(split: MevisSplit, video: str, target: tuple[int, ...], exp_ids: tuple[str, ...]) -> Job:
    frames = split.videos[video].frames
    objects = [split.masks(anno_id) for anno_id in target]
    for anno_id, masks in zip(target, objects, strict=True):
        if len(masks) < len(frames):
            raise DatasetError(
                f"anno_id {anno_id} has {len(masks)} masks, {video!r} {len(frames)} frames; "
                "run 'flowrvs check' on the split."
            )
    present = tuple(
        tuple(masks[index] for masks in objects if masks[index]) for index in range(len(frames))
    )
    return Job(video, exp_ids, frames, present, _size(split, video))  # type: ignore[arg-type]


def _size(split: MevisSplit, video: str) -> tuple[int, int] | None:
    for expression in split.videos[video].expressions.values():
        for anno_id in expression.anno_id:
            for mask in split.masks(anno_id):
                if mask:
                    return _mask_size(mask, video)
    return None


def _mask_size(mask: rle.RLE, video: str) -> tuple[int, int]:
    try:
        height, width = mask["size"]
        return int(height), int(width)
    except (KeyError, TypeError, ValueError):
        raise DatasetError(
            f"A mask of {video!r} has no 'size' [height, width]; run 'flowrvs check' on the split."
        ) from None


def score(
    pictures: Predictions,
    job: Job,
    *,
    check: Callable[[], None],
    advance: Callable[[int], None],
) -> list[ExpressionScore]:
    """Score a job.

    Parameters
    ----------
    pictures : Predictions
    job : Job
    check : callable
        Called before every picture; raises to stop.
    advance : callable
        Called with the number of pictures that were read, frame by frame.

    Raises
    ------
    DatasetError
        A picture or a mask is damaged, or they differ in size.
    """
    tallies = [Tally(job.video, exp_id, len(job.frames)) for exp_id in job.exp_ids]
    for index, frame in enumerate(job.frames):
        truth = _truth(job, index)
        area = 0 if truth is None else _bits.count(truth)
        for tally in tallies:
            check()
            name = f"{job.video}/{tally.exp_id}/{frame}.png"
            found = pictures.read(name)
            if found is None:
                tally.miss(index, area)
                continue
            pred, width = found
            size = (len(pred), width)
            if job.size is not None and size != job.size:
                raise DatasetError(
                    f"The prediction {name} is {width}x{len(pred)}, the truth "
                    f"{job.size[1]}x{job.size[0]}; predict at the source's size."
                )
            if truth is None:
                truth = np.zeros_like(pred)
            tally.add(index, pred, truth, area, width)
        advance(len(tallies))
    return [tally.result() for tally in tallies]


def _truth(job: Job, index: int) -> _bits.Words | None:
    """Return the target on a frame; None where there is none."""
    union: _bits.Words | None = None
    for mask in job.masks[index]:
        runs = rle.runs(mask)
        height, width = _mask_size(mask, job.video)
        if (height, width) != job.size:
            raise DatasetError(
                f"The masks of {job.video!r} differ in size: {width}x{height} at frame "
                f"{job.frames[index]!r}; run 'flowrvs check' on the split."
            )
        words = _bits.from_runs(runs, height, width)
        union = words if union is None else union | words
    return union
