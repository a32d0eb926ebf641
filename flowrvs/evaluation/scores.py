"""Score a folder of predictions against a split, as the MeViS benchmark does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.data.mevis import MevisSplit
from flowrvs.errors import DatasetError
from flowrvs.evaluation._predictions import Predictions
from flowrvs.evaluation.metrics import boundary_f, jaccard, score_masks
from flowrvs.masks.rle import decode
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["ExpressionScore", "Scores", "evaluate", "evaluate_masks"]


@dataclass(frozen=True, slots=True)
class ExpressionScore:
    """The scores of one expression.

    Attributes
    ----------
    video, exp_id : str
        The expression.
    j, f : float
        Means over its frames, 0 to 1; missing frames count 0.
    frames, found : int
        Frames that the split lists and those that were predicted.
    """

    video: str
    exp_id: str
    j: float
    f: float
    frames: int
    found: int


@dataclass(frozen=True)
class Scores:
    """The scores of a split.

    Attributes
    ----------
    expressions : tuple of ExpressionScore
        In the split's order.
    """

    expressions: tuple[ExpressionScore, ...] = field(default_factory=tuple)

    @property
    def j(self) -> float:
        """Mean J over the expressions, 0 to 1."""
        return _mean(e.j for e in self.expressions)

    @property
    def f(self) -> float:
        """Mean F over the expressions, 0 to 1."""
        return _mean(e.f for e in self.expressions)

    @property
    def j_and_f(self) -> float:
        """``(J + F) / 2``."""
        return (self.j + self.f) / 2

    @property
    def coverage(self) -> float:
        """Share of the listed frames, over all expressions, that were predicted."""
        frames = sum(e.frames for e in self.expressions)
        return sum(e.found for e in self.expressions) / frames if frames else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what ``flowrvs evaluate --json`` prints."""
        return {
            "J": self.j,
            "F": self.f,
            "J&F": self.j_and_f,
            "coverage": self.coverage,
            "expressions": {
                f"{e.video}/{e.exp_id}": {"J": e.j, "F": e.f} for e in self.expressions
            },
        }


def evaluate(
    predictions: str | os.PathLike[str],
    split: str | os.PathLike[str] | MevisSplit,
    *,
    expressions: Iterable[tuple[str, str]] | None = None,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Scores:
    """Score ``<predictions>/<video>/<exp_id>/<frame>.png`` against a split.

    The numbers are those of the official script, except that an expression or a frame
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
    cancel : CancelToken, optional
        Checked before every expression.
    progress : callable, optional
        Called after every expression.

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
    Cancelled
        `cancel` was set.
    """
    source = split if isinstance(split, MevisSplit) else MevisSplit.open(split)
    wanted = list(source if expressions is None else expressions)
    if not wanted:
        raise DatasetError(f"{source.folder} has no expressions to score.")
    clock = ProgressClock(len(wanted))
    results = []
    with Predictions(Path(predictions)) as pictures:
        for video, exp_id in wanted:
            if cancel is not None:
                cancel.raise_if_cancelled()
            results.append(_score(pictures, source, video, exp_id))
            if progress is not None:
                progress(clock.advance(f"{video}/{exp_id}"))
    return Scores(tuple(results))


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
        A prediction and its truth differ in shape.
    """
    results = []
    for (video, exp_id), (pred, truth) in pairs.items():
        j, f = score_masks(pred, truth)
        results.append(ExpressionScore(video, exp_id, j, f, len(truth), len(pred)))
    return Scores(tuple(results))


def _score(pictures: Predictions, split: MevisSplit, video: str, exp_id: str) -> ExpressionScore:
    frames = split.videos[video].frames if video in split.videos else ()
    js, fs, found = [], [], 0
    for index, name in enumerate(frames):
        truth_rle = split.target_rle(video, exp_id, index)
        pred = pictures.read(video, exp_id, name)
        if pred is None:
            js.append(0.0)
            fs.append(0.0)
            continue
        found += 1
        truth = np.zeros(pred.shape, dtype=bool) if truth_rle is None else decode(truth_rle)
        if truth.shape != pred.shape:
            raise DatasetError(
                f"The prediction {video}/{exp_id}/{name}.png is "
                f"{pred.shape[1]}x{pred.shape[0]}, the truth {truth.shape[1]}x{truth.shape[0]}; "
                "predict at the source's size."
            )
        js.append(jaccard(pred, truth))
        fs.append(boundary_f(pred, truth))
    return ExpressionScore(video, exp_id, _mean(js), _mean(fs), len(frames), found)


def _mean(values: Iterable[float]) -> float:
    items = list(values)
    return float(np.mean(items)) if items else 0.0
