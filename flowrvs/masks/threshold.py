"""From logits to masks and confidences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["confidence", "threshold"]


def threshold(logits: npt.NDArray[np.floating], level: float = 0.0) -> npt.NDArray[np.bool_]:
    """Return which pixels are foreground: those whose logit is above `level`.

    A level of 0 is a probability of one half. NaN is background.
    """
    mask: npt.NDArray[np.bool_] = logits > level
    return mask


def confidence(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Return ``round(255 * sigmoid(logit))``, uint8 of the same shape; NaN gives 0."""
    # tanh does not overflow as exp does, whatever the logits.
    share = 0.5 + 0.5 * np.tanh(0.5 * np.asarray(logits, dtype=np.float32))
    return np.rint(255 * np.nan_to_num(share)).astype(np.uint8)
