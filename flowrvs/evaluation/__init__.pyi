from ._evaluate import evaluate, evaluate_masks
from .metrics import (
    FrameScore,
    boundary_f,
    compare_masks,
    jaccard,
    score_masks,
)
from .predict import PredictResult, predict_split
from .report import write_report
from .scores import THRESHOLDS, ExpressionScore, Scores, VideoScore
from .submission import ZIP_LAYOUTS, ZipLayout, verify_zip, zip_predictions
from .tables import format_scores

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
