"""The flow-matching objective (paper, sections 3.2 and 3.3; arXiv 2510.06139).

A straight path joins the video latent ``x0`` (t = 1) to the mask latent ``x1``
(t = 0): ``x_t = t * x0 + (1 - t) * x1``. The transformer predicts the constant
velocity ``x0 - x1``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["LOGIT_SCALE", "flow_loss", "interpolate", "mask_iou", "mask_loss", "sample_timesteps"]

#: The decoder's logits are clamped to [-1, 1] at inference, where only the sign counts;
#: training stretches them so that the loss sees a full-range probability.
LOGIT_SCALE = 6.0


def sample_timesteps(
    count: int,
    boundary_probability: float,
    power: float,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Boundary-biased sampling (BBS) of times.

    Every sample is decided on its own, whatever the batch, so that it does not matter how
    samples are spread over processes. (The published code does so in batches of one, its
    default, and takes a fixed share of larger ones.)

    Parameters
    ----------
    count : int
        How many.
    boundary_probability : float
        Share at t = 1000; the rest is spread over 1 to 1000.
    power : float
        Bias of the rest towards 1000: ``u ** (1 / (1 + power))``.
    device : torch.device
    generator : torch.Generator, optional
        Of `device`; the global one if left out.

    Returns
    -------
    Tensor of float32, shape (count,)
        Times in units of 1/1000.
    """
    uniform = torch.rand(count, device=device, generator=generator) ** (1.0 / (1.0 + power))
    times = (uniform * 1000).ceil().clamp(1, 1000)
    boundary = torch.rand(count, device=device, generator=generator) < boundary_probability
    return torch.where(boundary, torch.full_like(times, 1000.0), times)


def interpolate(start: torch.Tensor, end: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """``x_t`` on the straight path, for `times` of 0 to 1000, shape (B, C, t, h, w)."""
    share = (times / 1000).view(-1, 1, 1, 1, 1)
    return share * start + (1 - share) * end


def flow_loss(
    velocity: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    objects: torch.Tensor | None = None,
    object_weight: float = 0.0,
) -> torch.Tensor:
    """Mean squared error of the velocity, optionally heavier where objects are.

    Parameters
    ----------
    velocity, start, end : Tensor, shape (B, C, t, h, w)
        Prediction, ``x0`` and ``x1``.
    objects : Tensor, shape (B, t, h, w), optional
        1 in cells where any object of the scene is, sought or not: telling those apart
        is the whole task, and they are a small part of the picture.
    object_weight : float
        Extra weight of those cells; 0 gives the plain loss of the paper.

    Returns
    -------
    Tensor, scalar
    """
    error = (velocity - (start - end)).square().mean(dim=1)
    if objects is None or object_weight == 0:
        return error.mean()
    weight = 1 + object_weight * objects
    return (error * weight).sum() / weight.sum()


def mask_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus Dice of stretched logits, shape (B, 1, T, H, W)."""
    bce = F.binary_cross_entropy_with_logits(logits, truth)
    probability = logits.sigmoid()
    overlap = (probability * truth).sum((1, 2, 3, 4))
    size = (probability + truth).sum((1, 2, 3, 4))
    return bce + 1 - ((2 * overlap + 1) / (size + 1)).mean()


def mask_iou(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean overlap (IoU) of masks, shape (B, 1, T, H, W); 1 where both are empty."""
    found, wanted = logits > 0, truth > 0.5
    hit, union = (part.sum((1, 2, 3, 4)) for part in (found & wanted, found | wanted))
    return torch.where(union > 0, hit / union.clamp_min(1), 1.0).mean()
