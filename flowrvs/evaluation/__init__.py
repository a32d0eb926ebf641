"""Official scores: J, F and J&F over frames, then over expressions; predictions to score."""

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
from flowrvs.evaluation.report import write_report
from flowrvs.evaluation.scores import THRESHOLDS, ExpressionScore, Scores, VideoScore
from flowrvs.evaluation.submission import ZIP_LAYOUTS, ZipLayout, verify_zip, zip_predictions
from flowrvs.evaluation.tables import format_scores

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
    "format_scores",
    "jaccard",
    "predict_split",
    "score_masks",
    "verify_zip",
    "write_report",
    "zip_predictions",
]
