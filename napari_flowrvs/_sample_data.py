"""Sample clips of the synthetic world."""

from __future__ import annotations

from typing import Any

__all__ = ["LOOKALIKE_SEED", "SHAPES_SEED", "look_alikes", "moving_shapes", "sample_clip"]

# Below the seeds that the bundled model was trained on.
SHAPES_SEED = 7
LOOKALIKE_SEED = 11


def sample_clip(name: str, seed: int, lookalikes: float = 0.0) -> list[Any]:
    """Return the layer of a clip; `lookalikes` is the share of objects with a twin."""
    from flowrvs.data.synthetic import generate_clip

    clip = generate_clip(seed, lookalikes=lookalikes)
    sentences = [expression.text for expression in clip.expressions]
    meta = {
        "name": name,
        "rgb": True,
        "axis_labels": ("frame", "y", "x"),
        "metadata": {"flowrvs": {"sentences": sentences}},
    }
    return [(clip.frames, meta, "image")]


def moving_shapes() -> list[Any]:
    """Return a clip of moving shapes; its sentences are in the layer's metadata."""
    return sample_clip("moving shapes", SHAPES_SEED, 0.0)


def look_alikes() -> list[Any]:
    """Return a clip of look-alikes that only their motion tells apart."""
    return sample_clip("look-alikes", LOOKALIKE_SEED, 1.0)
