"""Official scores: J, F and J&F over frames, then over expressions."""

from __future__ import annotations

from flowrvs.evaluation.metrics import boundary_f, jaccard, score_masks
from flowrvs.evaluation.scores import ExpressionScore, Scores, evaluate, evaluate_masks

__all__ = [
    "ExpressionScore",
    "Scores",
    "boundary_f",
    "evaluate",
    "evaluate_masks",
    "jaccard",
    "score_masks",
]
