"""What both stages share: schedule, checkpoints, number format."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flowrvs.disk import replacing
from flowrvs.errors import CheckpointError

__all__ = ["cosine_rate", "load_checkpoint", "mixed_precision", "save_checkpoint"]


def cosine_rate(step: int, total: int, warmup: int, floor: float = 0.05) -> float:
    """Factor on the peak learning rate: linear warm-up, then a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    share = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that a kill leaves the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        torch.save(state, part)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training state (tensors and plain values only).

    Raises
    ------
    CheckpointError
        The file is missing or cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"Nothing to resume: there is no checkpoint at {path}; leave out --resume."
        ) from None
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}); "
            "delete it and start again."
        ) from error
    return dict(state)


@contextmanager
def mixed_precision(device: torch.device, enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16, without torch's hint that float32 norms are not fused."""
    with warnings.catch_warnings(), torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        yield
