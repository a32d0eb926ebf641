"""The scores of expressions, videos and splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["THRESHOLDS", "ExpressionScore", "Scores", "VideoScore"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""The K of precision@K."""


def _no_values() -> npt.NDArray[np.float64]:
    return np.zeros(0)


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
    intersection, union : int
        Pixels, summed over the frames.
    has_target, has_answer : bool
        Whether the truth, the prediction, has a foreground pixel on any frame.
    dtssd : float or None
        Temporal instability: the root mean square over the pixels of how the error
        (prediction minus truth) changes from one frame to the next, mean over the pairs
        of neighbours that were both predicted; 0 is best, None without such pairs.
        Erofeev et al., "Perceptually Motivated Benchmark for Video Matting", BMVC 2015.
    frame_j, frame_f : ndarray of float64, shape (frames,)
        By frame; 0 where missing.
    missing : tuple of int
        Positions of the frames that were not predicted.
    """

    video: str
    exp_id: str
    j: float
    f: float
    frames: int
    found: int
    intersection: int = 0
    union: int = 0
    has_target: bool = True
    has_answer: bool = True
    dtssd: float | None = None
    frame_j: npt.NDArray[np.float64] = field(default_factory=_no_values, repr=False, compare=False)
    frame_f: npt.NDArray[np.float64] = field(default_factory=_no_values, repr=False, compare=False)
    missing: tuple[int, ...] = ()

    @property
    def j_and_f(self) -> float:
        """``(J + F) / 2``."""
        return (self.j + self.f) / 2

    @property
    def decay(self) -> float | None:
        """How much J falls from the first to the last quarter of the frames.

        The statistic "decay" of DAVIS (Perazzi et al., CVPR 2016); None for fewer than
        four frames.
        """
        if len(self.frame_j) < 4:
            return None
        bounds = np.round(np.linspace(1, len(self.frame_j), 5) + 1e-10).astype(int) - 1
        first, last = self.frame_j[: bounds[1] + 1], self.frame_j[bounds[3] :]
        return float(first.mean() - last.mean())

    def to_dict(self) -> dict[str, Any]:
        """Return the details of it that ``flowrvs evaluate --json`` prints."""
        return {
            "J&F": self.j_and_f,
            "frames": self.frames,
            "found": self.found,
            "overall_iou": _iou([self]),
            "dtSSD": self.dtssd,
            "decay": self.decay,
            "has_target": self.has_target,
            "has_answer": self.has_answer,
        }


@dataclass(frozen=True)
class VideoScore:
    """Means over the expressions of one video.

    Attributes
    ----------
    video : str
    expressions : int
    j, f, coverage : float
        0 to 1.
    """

    video: str
    expressions: int
    j: float
    f: float
    coverage: float

    @property
    def j_and_f(self) -> float:
        """``(J + F) / 2``."""
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class Scores:
    """The scores of a split. A rate over nothing (no such expressions) is None.

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
        return _coverage(self.expressions)

    @cached_property
    def precision(self) -> dict[float, float]:
        """Share of the expressions whose J is above each of :data:`THRESHOLDS`."""
        return _precision(np.array([e.j for e in self.expressions]))

    @cached_property
    def frame_precision(self) -> dict[float, float]:
        """Share of the frames, over all expressions, whose J is above each threshold."""
        values = [e.frame_j for e in self.expressions]
        return _precision(np.concatenate(values) if values else np.zeros(0))

    @property
    def overall_iou(self) -> float:
        """Sum of the intersections over the sum of the unions, of all frames."""
        return _iou(self.expressions)

    @property
    def dtssd(self) -> float | None:
        """Mean of the expressions' `dtssd`."""
        return _rate(e.dtssd for e in self.expressions if e.dtssd is not None)

    @property
    def decay(self) -> float | None:
        """Mean of the expressions' `decay`."""
        return _rate(value for e in self.expressions if (value := e.decay) is not None)

    @property
    def n_acc(self) -> float | None:
        """Share of the expressions without target that got no foreground on any frame.

        N-acc. of Liu et al., "GRES: Generalized Referring Expression Segmentation", CVPR
        2023, with a video in the place of an image. An expression without any picture is
        no answer, so it is not right either.
        """
        return _rate(not e.has_answer and e.found > 0 for e in self.expressions if not e.has_target)

    @property
    def t_acc(self) -> float | None:
        """Share of the expressions with a target that got foreground (T-acc. of GRES)."""
        return _rate(e.has_answer for e in self.expressions if e.has_target)

    @property
    def without_target(self) -> int:
        """Number of expressions whose truth is empty on all frames."""
        return sum(not e.has_target for e in self.expressions)

    @cached_property
    def videos(self) -> tuple[VideoScore, ...]:
        """Means by video, in the split's order."""
        groups: dict[str, list[ExpressionScore]] = {}
        for entry in self.expressions:
            groups.setdefault(entry.video, []).append(entry)
        return tuple(
            VideoScore(
                video,
                len(group),
                _mean(e.j for e in group),
                _mean(e.f for e in group),
                _coverage(group),
            )
            for video, group in groups.items()
        )

    def worst(self, count: int) -> list[ExpressionScore]:
        """Return the `count` expressions with the lowest J&F, the lowest first."""
        return sorted(self.expressions, key=lambda e: e.j_and_f)[: max(count, 0)]

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
            "details": {f"{e.video}/{e.exp_id}": e.to_dict() for e in self.expressions},
            "precision": _named(self.precision),
            "frame_precision": _named(self.frame_precision),
            "overall_iou": self.overall_iou,
            "dtSSD": self.dtssd,
            "decay": self.decay,
            "N-acc": self.n_acc,
            "T-acc": self.t_acc,
            "without_target": self.without_target,
            "videos": {
                v.video: {
                    "J": v.j,
                    "F": v.f,
                    "J&F": v.j_and_f,
                    "coverage": v.coverage,
                    "expressions": v.expressions,
                }
                for v in self.videos
            },
        }


def _precision(values: npt.NDArray[np.float64]) -> dict[float, float]:
    count = max(values.size, 1)
    return {k: float(np.count_nonzero(values > k) / count) for k in THRESHOLDS}


def _named(precision: dict[float, float]) -> dict[str, float]:
    return {**{f"{k:.1f}": v for k, v in precision.items()}, "mean": _mean(precision.values())}


def _iou(expressions: Iterable[ExpressionScore]) -> float:
    intersection = union = 0
    for entry in expressions:
        intersection, union = intersection + entry.intersection, union + entry.union
    return intersection / union if union else 1.0


def _coverage(expressions: Iterable[ExpressionScore]) -> float:
    found = frames = 0
    for entry in expressions:
        found, frames = found + entry.found, frames + entry.frames
    return found / frames if frames else 0.0


def _mean(values: Iterable[float]) -> float:
    items = list(values)
    return float(np.mean(items)) if items else 0.0


def _rate(values: Iterable[float]) -> float | None:
    items = list(values)
    return float(np.mean(items)) if items else None
