"""One target's sentences, scored: the unit that is handed to a process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import DatasetError
from flowrvs.evaluation import _bits
from flowrvs.evaluation._predictions import Predictions
from flowrvs.evaluation.metrics import packed_f, ratio_j
from flowrvs.evaluation.scores import ExpressionScore
from flowrvs.masks import rle

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
        self._areas = [0, 0, 0, 0]
        self._jumps: list[float] = []
        self._last: tuple[int, _bits.Words, _bits.Words] | None = None

    def add(self, index: int, pred: _bits.Words, truth: _bits.Words, width: int) -> None:
        """Count a predicted frame."""
        intersection, union = _bits.overlap(pred, truth)
        self._j[index] = ratio_j(intersection, union)
        self._f[index] = 1.0 if intersection == union else packed_f(pred, truth, width)
        pred_area, truth_area = _bits.count(pred), _bits.count(truth)
        self._sum(intersection, union, pred_area, truth_area)
        # dtSSD: the change of the error, pixel by pixel, is -2..2.
        over, under = pred & ~truth, truth & ~pred
        if self._last is not None and self._last[0] == index - 1:
            _, over_before, under_before = self._last
            ones = (over | under) ^ (over_before | under_before)
            twos = (over & under_before) | (under & over_before)
            total = _bits.count(ones) + 4 * _bits.count(twos)
            self._jumps.append(math.sqrt(total / (width * len(pred))))
        self._last = index, over, under

    def miss(self, index: int, truth: _bits.Words | None) -> None:
        """Count a frame that was not predicted."""
        self._missing.append(index)
        area = 0 if truth is None else _bits.count(truth)
        self._sum(0, area, 0, area)

    def _sum(self, *areas: int) -> None:
        self._areas = [a + b for a, b in zip(self._areas, areas, strict=True)]

    def result(self) -> ExpressionScore:
        """Return the score."""
        frames = len(self._j)
        intersection, union, pred, truth = self._areas
        return ExpressionScore(
            self.video,
            self.exp_id,
            float(self._j.mean()) if frames else 0.0,
            float(self._f.mean()) if frames else 0.0,
            frames,
            frames - len(self._missing),
            intersection=intersection,
            union=union,
            has_target=truth > 0,
            has_answer=pred > 0,
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
        for tally in tallies:
            check()
            name = f"{job.video}/{tally.exp_id}/{frame}.png"
            found = pictures.read(name)
            if found is None:
                tally.miss(index, truth)
                continue
            pred, width = found
            size = (len(pred), width)
            if job.size is not None and size != job.size:
                raise DatasetError(
                    f"The prediction {name} is {width}x{len(pred)}, the truth "
                    f"{job.size[1]}x{job.size[0]}; predict at the source's size."
                )
            tally.add(index, pred, np.zeros_like(pred) if truth is None else truth, width)
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
