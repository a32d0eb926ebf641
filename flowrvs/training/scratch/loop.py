"""What the stages share: the loop, the update, the schedule, checkpoints, number format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flowrvs.disk import replacing
from flowrvs.errors import CheckpointError, TrainingError, first_line
from flowrvs.models.devices import mixed_precision
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.training.checkpoints import writing_tensors
from flowrvs.training.journal import Journal

__all__ = [
    "Loop",
    "cosine_rate",
    "load_checkpoint",
    "mixed_precision",
    "restoring",
    "save_checkpoint",
    "update",
]


class Loop:
    """Makes steps, reports and saves now and then, and stops on request.

    Parameters
    ----------
    folder : Path
        Of the log.
    total : int
        Steps of the stage.
    save : callable
        Writes the state after so many steps.
    log_every, save_every : int
        Steps between two reports, and two saves.
    progress, cancel
        See `flowrvs.progress`.
    """

    def __init__(
        self,
        folder: Path,
        total: int,
        save: Callable[[int], None],
        *,
        log_every: int,
        save_every: int,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.journal = Journal(folder)
        self.clock = ProgressClock(total)
        self._save, self._log_every, self._save_every = save, log_every, save_every
        self._progress, self._cancel = progress, cancel or CancelToken()

    def run(
        self,
        name: str,
        steps: range,
        make: Callable[[int], dict[str, float]],
        score: Callable[[], dict[str, float]] | None = None,
        **facts: Any,
    ) -> None:
        """Make `steps`; what each gives goes into the log, with `facts`; score what is saved."""
        self.clock.done = steps.start
        for step in steps:
            if self._cancel.cancelled:
                self._save(step)
                self._cancel.raise_if_cancelled()
            self.journal.add(**make(step))
            event = self.clock.advance(f"{name} step {step + 1}")
            if (step + 1) % self._log_every == 0:
                self.journal.report(step=step + 1, **facts)
                if self._progress is not None:
                    self._progress(event)
            if (step + 1) % self._save_every == 0 or step + 1 == steps.stop:
                self._save(step + 1)
                if score is not None:
                    self.journal.add(**score())
                    self.journal.report(step=step + 1, validation=True)


def update(
    loss: torch.Tensor,
    parameters: Sequence[torch.nn.Parameter],
    optimizers: Sequence[tuple[torch.optim.Optimizer, float]],
    clip_norm: float = 1.0,
) -> float:
    """Make one step, each optimizer at its rate; return the norm of the gradient.

    Raises
    ------
    TrainingError
        The gradient is not finite; nothing was changed.
    """
    for optimizer, rate in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip_norm))
    if not math.isfinite(norm):
        raise TrainingError(
            f"The loss is {float(loss.detach()):g} (gradient {norm:g}): stopped before the step; "
            "the last checkpoint is good. Lower the learning rate, then --resume."
        )
    for optimizer, _ in optimizers:
        optimizer.step()
    return norm


def cosine_rate(step: int, total: int, warmup: int, floor: float = 0.05) -> float:
    """Factor on the peak learning rate: linear warm-up, then a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    share = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that a kill leaves the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_tensors(path), replacing(path) as part:
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
def restoring(path: Path) -> Iterator[None]:
    """Put a training state in place; it may be of another config.

    Raises
    ------
    CheckpointError
        The state does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # which says nothing about the state
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} belongs to a training with another config ({first_line(error)}); give that "
            "one, or another folder as out."
        ) from error
