"""Official scores: J, F and J&F over frames, then over expressions."""

from __future__ import annotations

from flowrvs.evaluation.metrics import boundary_f, jaccard, score_masks
from flowrvs.evaluation.predict import PredictResult, predict_split, zip_predictions
from flowrvs.evaluation.scores import ExpressionScore, Scores, evaluate, evaluate_masks

__all__ = [
    "ExpressionScore",
    "PredictResult",
    "Scores",
    "boundary_f",
    "evaluate",
    "evaluate_masks",
    "jaccard",
    "predict_split",
    "score_masks",
    "zip_predictions",
]
