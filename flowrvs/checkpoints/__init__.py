"""Layer 1: model weights: where they are, how they get here, and whether they are whole."""

from flowrvs.checkpoints.registry import MODELS, ModelRecord, locate, models_home

__all__ = ["MODELS", "ModelRecord", "locate", "models_home"]
