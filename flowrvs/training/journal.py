"""What both training stages share: schedule, checkpoints, log and progress."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flowrvs.errors import CheckpointError

__all__ = ["Journal", "cosine_rate", "load_checkpoint", "mixed_precision", "save_checkpoint"]


def cosine_rate(step: int, total: int, warmup: int, floor: float = 0.05) -> float:
    """Factor on the peak learning rate: linear warm-up, then a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    share = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that a kill leaves the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


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


class Journal:
    """Appends one JSON line per report to ``log.jsonl`` and keeps running means."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        self._sums: dict[str, float] = {}
        self._count = 0
        self._start = time.monotonic()

    def add(self, **values: float) -> None:
        """Collect values of one step."""
        self._count += 1
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value

    def add_only(self, **values: float) -> None:
        """Add values to the step that `add` counted last."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value

    def report(self, **extra: Any) -> dict[str, Any]:
        """Write and return the means since the last report."""
        means = {key: round(total / self._count, 5) for key, total in self._sums.items()}
        line = {**extra, **means, "seconds": round(time.monotonic() - self._start, 1)}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._sums.clear()
        self._count = 0
        return line


@contextmanager
def mixed_precision(device: torch.device, enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16, without torch's hint that float32 norms are not fused."""
    with warnings.catch_warnings(), torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        yield
