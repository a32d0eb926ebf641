"""Official scores: J, F and J&F over frames, then over expressions."""

from __future__ import annotations

from flowrvs.evaluation._evaluate import evaluate, evaluate_masks
from flowrvs.evaluation.metrics import (
    FrameScore,
    boundary_f,
    compare_masks,
    jaccard,
    score_masks,
)
from flowrvs.evaluation.predict import PredictResult, predict_split
from flowrvs.evaluation.scores import THRESHOLDS, ExpressionScore, Scores, VideoScore
from flowrvs.evaluation.submission import ZIP_LAYOUTS, ZipLayout, verify_zip, zip_predictions

__all__ = [
    "THRESHOLDS",
    "ZIP_LAYOUTS",
    "ExpressionScore",
    "FrameScore",
    "PredictResult",
    "Scores",
    "VideoScore",
    "ZipLayout",
    "boundary_f",
    "compare_masks",
    "evaluate",
    "evaluate_masks",
    "jaccard",
    "predict_split",
    "score_masks",
    "verify_zip",
    "zip_predictions",
]
