"""Optimizer, step and comparison of a training that is made once more by hand."""

from __future__ import annotations

from typing import Any

import torch


def adam(parameters: Any, rate: float, **options: Any) -> torch.optim.Optimizer:
    """AdamW with the averages of trainings from scratch."""
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), **options)


def step_of(optimizers: Any, loss: torch.Tensor, parameters: Any, norm: float = 1.0) -> float:
    """Take a step of all optimizers; the norm before it was clipped."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    total = torch.nn.utils.clip_grad_norm_(parameters, norm)
    for optimizer in optimizers:
        optimizer.step()
    return float(total)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare all weights by name."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
