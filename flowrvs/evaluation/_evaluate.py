"""Score predictions against a split, as the MeViS benchmark does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import DatasetError, InputError
from flowrvs.evaluation import _bits
from flowrvs.evaluation._jobs import Tally, plan
from flowrvs.evaluation._pool import run
from flowrvs.evaluation._predictions import Predictions
from flowrvs.evaluation.scores import Scores
from flowrvs.progress import CancelToken, ProgressCallback

__all__ = ["evaluate", "evaluate_masks"]


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
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    wanted = list(dict.fromkeys(source if expressions is None else expressions))
    if not wanted:
        raise DatasetError(f"{source.folder} has no expressions to score.")
    path = Path(predictions)
    with Predictions(path):
        pass  # What is no folder of predictions is told before processes start.
    total = sum(len(source.videos[v].frames) for v, _ in wanted if v in source.videos)
    results = {}
    for scores in run(path, plan(source, wanted), total, workers, cancel, progress):
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
        tally = Tally(video, exp_id, len(pred))
        for index, (one, other) in enumerate(zip(pred, truth, strict=True)):
            words = _bits.pack(other)
            tally.add(index, _bits.pack(one), words, _bits.count(words), one.shape[1])
        results.append(tally.result())
    return Scores(tuple(results))
