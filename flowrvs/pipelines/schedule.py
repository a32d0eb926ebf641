"""The times of the Euler steps (FlowRVS inference, step 4)."""

from __future__ import annotations

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

from flowrvs.errors import InputError

__all__ = ["flow_sigmas", "set_flow_timesteps"]

_SHIFT = 3.0


def flow_sigmas(steps: int) -> list[float]:
    """Noise levels of `steps` Euler steps, from 1 downwards, without the final 0.

    ``s = linspace(1, 0.001, n + 1)[:-1]``, then ``round(3 s / (1 + 2 s) * 1000) / 1000``:
    one step gives [1.0], two give [1.0, 0.75].

    Raises
    ------
    InputError
        `steps` is not 1 to 1000.
    """
    if not 1 <= steps <= 1000:
        raise InputError(f"Cannot take {steps} flow steps; choose 1 (the default) to 1000.")
    grid = np.linspace(1.0, 0.001, steps + 1)[:-1]
    shifted = _SHIFT * grid / (1 + (_SHIFT - 1) * grid)
    return [float(value) for value in np.rint(shifted * 1000) / 1000]


def set_flow_timesteps(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, device: object = None
) -> None:
    """Give a stock scheduler (shift 1) exactly the times of `flow_sigmas`."""
    sigmas = flow_sigmas(steps)
    # Whole ones, as the published code's: 0.571 * 1000 is not 571.
    timesteps = [float(round(1000 * sigma)) for sigma in sigmas]
    scheduler.set_timesteps(sigmas=sigmas, timesteps=timesteps, device=device)
