"""Score predictions against a split, as the MeViS benchmark does, here or in processes."""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flowrvs.errors import Cancelled, DatasetError, FlowRVSError, InputError
from flowrvs.evaluation import packed
from flowrvs.evaluation.metrics import count_pair, frame_score
from flowrvs.evaluation.pictures import Predictions
from flowrvs.evaluation.scores import ExpressionScore, Scores
from flowrvs.masks import rle
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    from flowrvs.data.mevis import MevisSplit

__all__ = ["evaluate", "evaluate_masks", "mask_size"]

_PICTURES_A_PROCESS = 1000
_POLL_SECONDS = 0.1


def evaluate(
    predictions: str | os.PathLike[str],
    split: str | os.PathLike[str] | MevisSplit,
    *,
    expressions: Iterable[tuple[str, str]] | None = None,
    workers: int = 1,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Scores:
    """Score ``<predictions>/<video>/<exp_id>/<frame>.png`` against a split.

    J and F are those of the official script, except that an expression or a frame
    without a prediction scores 0 instead of being dropped.

    Parameters
    ----------
    predictions : path-like
        A folder, or the zip file that would be submitted; a top folder
        ``Annotations`` is looked through.
    split : path-like or MevisSplit
        The split, with its masks.
    expressions : iterable of (video, exp_id), optional
        Score these alone; all by default.
    workers : int
        Processes, each started afresh: a script that asks for more than one needs the
        ``if __name__ == "__main__":`` of the multiprocessing documentation. 0 takes as
        many as there is work and processors for.
    cancel : CancelToken, optional
        Checked before every picture.
    progress : callable, optional
        Called after every frame, with several processes after every target; counts
        pictures.

    Returns
    -------
    Scores

    Raises
    ------
    MissingPathError
        Predictions or split are not there.
    DatasetError
        The split has no truth, a picture is unreadable, or a prediction has another
        size than the truth.
    InputError
        `workers` is negative.
    Cancelled
        `cancel` was set.
    """
    if workers < 0:
        raise InputError(f"workers must be 0 or more, not {workers}.")
    from flowrvs.data.mevis import MevisSplit  # a scoring process does without

    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    wanted = list(dict.fromkeys(source if expressions is None else expressions))
    if not wanted:
        raise DatasetError(f"{source.folder} has no expressions to score.")
    path = Path(predictions)
    with Predictions(path):
        pass  # What is no folder of predictions is told before processes start.
    total = sum(len(source.videos[v].frames) for v, _ in wanted if v in source.videos)
    results = {}
    for scores in _run(path, _plan(source, wanted), total, workers, cancel, progress):
        for score in scores:
            results[score.video, score.exp_id] = score
    return Scores(tuple(results[key] for key in wanted))


def evaluate_masks(
    pairs: Mapping[tuple[str, str], tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]],
) -> Scores:
    """Score masks in memory.

    Parameters
    ----------
    pairs : mapping of (video, exp_id) to (prediction, truth)
        Arrays of bool, shape (T, H, W).

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        A prediction and its truth differ in shape, or have no frames.
    """
    results = []
    for (video, exp_id), (pred, truth) in pairs.items():
        if pred.shape != truth.shape or pred.ndim != 3 or not len(pred):
            raise InputError(
                f"The prediction of {video}/{exp_id} and its truth must share one shape "
                f"(T, H, W) with frames in it, not {pred.shape} and {truth.shape}."
            )
        tally = _Tally(video, exp_id, len(pred))
        for index, (found, target) in enumerate(zip(pred, truth, strict=True)):
            bits = packed.pack(target)
            tally.add(index, packed.pack(found), bits, packed.count_pixels(bits), found.shape[1])
        results.append(tally.result())
    return Scores(tuple(results))


@dataclass(frozen=True, slots=True)
class _Job:
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


class _Tally:
    """Sums up the frames of one expression."""

    def __init__(self, video: str, exp_id: str, frames: int) -> None:
        self.video, self.exp_id = video, exp_id
        self._j = np.zeros(frames)
        self._f = np.zeros(frames)
        self._missing: list[int] = []
        self._intersection = self._union = 0
        self._has_target = self._has_answer = False
        self._jumps: list[float] = []
        self._last: tuple[int, packed.Packed, packed.Packed, int] | None = None

    def add(
        self, index: int, pred: packed.Packed, truth: packed.Packed, truth_area: int, width: int
    ) -> None:
        """Count a predicted frame."""
        found = count_pair(pred, truth, width)
        self._j[index], self._f[index] = frame_score(found)
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
                total -= 2 * (packed.count_pixels(both) - 2 * packed.count_pixels(opposite))
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


def _plan(split: MevisSplit, wanted: Iterable[tuple[str, str]]) -> Iterator[_Job]:
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


def _job(split: MevisSplit, video: str, target: tuple[int, ...], exp_ids: tuple[str, ...]) -> _Job:
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
    return _Job(video, exp_ids, frames, present, mask_size(split, video))  # type: ignore[arg-type]


def mask_size(split: MevisSplit, video: str) -> tuple[int, int] | None:
    """Return (H, W) of a video's masks; None where it has none."""
    for expression in split.videos[video].expressions.values():
        for anno_id in expression.anno_id:
            for mask in split.masks(anno_id):
                if mask:
                    return _size(mask, video)
    return None


def _size(mask: rle.RLE, video: str) -> tuple[int, int]:
    try:
        height, width = mask["size"]
        return int(height), int(width)
    except (KeyError, TypeError, ValueError):
        raise DatasetError(
            f"A mask of {video!r} has no 'size' [height, width]; run 'flowrvs check' on the split."
        ) from None


def _score(
    pictures: Predictions,
    job: _Job,
    check: Callable[[], None],
    advance: Callable[[int], None],
) -> list[ExpressionScore]:
    """Score a job; `check`, before every picture, raises to stop it."""
    tallies = [_Tally(job.video, exp_id, len(job.frames)) for exp_id in job.exp_ids]
    for index, frame in enumerate(job.frames):
        truth = _truth(job, index)
        area = 0 if truth is None else packed.count_pixels(truth)
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


def _truth(job: _Job, index: int) -> packed.Packed | None:
    """Return the target on a frame; None where there is none."""
    union: packed.Packed | None = None
    for mask in job.masks[index]:
        runs = rle.runs(mask)
        height, width = _size(mask, job.video)
        if (height, width) != job.size:
            raise DatasetError(
                f"The masks of {job.video!r} differ in size: {width}x{height} at frame "
                f"{job.frames[index]!r}; run 'flowrvs check' on the split."
            )
        words = packed.pack_runs(runs, height, width)
        union = words if union is None else union | words
    return union


def _cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(
    path: Path,
    jobs: Iterable[_Job],
    total: int,
    workers: int,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> Iterator[list[ExpressionScore]]:
    """Yield the scores of each job, in any order; `total` pictures in all.

    A `workers` of 0 takes as many processes as there is work and processors for.
    """
    clock = ProgressClock(total)

    def advance(job: _Job, pictures: int) -> None:
        event = clock.advance(job.video, pictures)
        if progress is not None:
            progress(event)

    def check() -> None:
        if cancel is not None:
            cancel.raise_if_cancelled()

    if workers == 0:
        workers = min(_cores(), 1 + total // _PICTURES_A_PROCESS)
    if workers > 1:
        for job, scores in _in_processes(path, iter(jobs), workers, cancel):
            advance(job, job.pictures)
            yield scores
        return
    with Predictions(path) as pictures:
        for job in jobs:
            yield _score(pictures, job, check, partial(advance, job))


def _in_processes(
    path: Path, jobs: Iterator[_Job], workers: int, cancel: CancelToken | None
) -> Iterator[tuple[_Job, list[ExpressionScore]]]:
    # Processes are started afresh: a copy of one with threads (Qt, torch) may hang.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    running: dict[Future[list[ExpressionScore]], _Job] = {}
    with ProcessPoolExecutor(workers, context, _start, (path, stop)) as executor:
        try:
            while True:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                # Two a process keep all of them busy and the memory small.
                for job in itertools.islice(jobs, 2 * workers - len(running)):
                    with _no_interrupts():
                        running[executor.submit(_score_here, job)] = job
                if not running:
                    return
                for future in wait(running, _POLL_SECONDS, FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            if cancel is not None:  # SIGTERM may have been for all of them
                cancel.raise_if_cancelled()
            raise FlowRVSError(
                "A scoring process was ended from outside, as when memory runs out; "
                "run again with fewer workers."
            ) from None
        finally:
            stop.set()  # what is still waiting ends at once


_pictures: Predictions
_stop: Event


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C, which reaches the whole group, leaves alone.

    They inherit the mask from their first instruction on; here a signal waits until the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(path: Path, stop: Event) -> None:
    global _pictures, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _pictures, _stop = Predictions(path), stop


def _score_here(job: _Job) -> list[ExpressionScore]:
    def check() -> None:
        if _stop.is_set():
            raise Cancelled("Stopped on request.")

    return _score(_pictures, job, check, lambda count: None)
