"""Layer 1: where model weights are found."""

from flowrvs.checkpoints.registry import MODELS, ModelRecord, locate

__all__ = ["MODELS", "ModelRecord", "locate"]
