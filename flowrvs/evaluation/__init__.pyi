from .metrics import (
    FrameScore,
    boundary_f,
    compare_masks,
    jaccard,
    score_masks,
)
from .predict import PredictResult, predict_split
from .report import format_scores, write_report
from .scores import THRESHOLDS, ExpressionScore, Scores, VideoScore
from .scoring import evaluate, evaluate_masks
from .submission import ZIP_LAYOUTS, ZipLayout, verify_zip, zip_predictions

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
