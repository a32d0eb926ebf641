"""Validation of the flow on held-out scenes, by kind of sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import AutoencoderKLWan

from flowrvs.models.vae import encode_moments, latent_statistics, spatial_factor, temporal_factor
from flowrvs.training.scratch.pool import Batch, EncodedClip, source_latents, stack_pairs

__all__ = ["VALIDATION_SEEDS", "validate_flow"]

#: Held-out scenes that the log's validation lines are measured on.
VALIDATION_SEEDS = range(900_000, 900_024)

_SENTENCES = 5
_BATCH = 16

Velocity = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Batch], torch.Tensor]


@torch.no_grad()
def validate_flow(
    velocity: Velocity, vae: AutoencoderKLWan, clips: Sequence[EncodedClip]
) -> dict[str, float]:
    """One-step error on held-out clips, relative to answering "nothing".

    The error is taken in cells with objects only. 0 is perfect; 1 is no better than an
    empty mask everywhere ("none" is relative to the mean target).

    Parameters
    ----------
    velocity : callable
        ``(x_t, x0, times, batch)`` to the predicted velocity.
    vae : AutoencoderKLWan
    clips : sequence of EncodedClip

    Returns
    -------
    dict of str to float
        By kind of sentence.
    """
    mean, std = (part.to(vae.device) for part in latent_statistics(vae))
    empties: dict[torch.Size, torch.Tensor] = {}
    errors: dict[str, list[float]] = {}
    spreads: dict[str, list[float]] = {}
    pairs = [(clip, i) for clip in clips for i in range(min(len(clip.kinds), _SENTENCES))]
    for first in range(0, len(pairs), _BATCH):
        batch = stack_pairs(pairs[first : first + _BATCH])
        truth = batch.targets.to(vae.device)
        start = source_latents(batch.moments.to(vae.device), mean, std, sample=False)
        times = torch.full((len(start),), 1000.0, device=vae.device)
        end = start - velocity(start, start, times, batch)
        cells = batch.objects.to(vae.device).unsqueeze(1)
        shape = truth.shape[2:]
        if shape not in empties:
            empties[shape] = _empty_latent(vae, shape)
        error = ((end - truth).square() * cells).sum((1, 2, 3, 4))
        spread = ((empties[shape] - truth).square() * cells).sum((1, 2, 3, 4))
        for row, kind in enumerate(batch.kinds):
            errors.setdefault(kind, []).append(float(error[row]))
            spreads.setdefault(kind, []).append(float(spread[row]))
    asked = [value for kind, values in spreads.items() if kind != "none" for value in values]
    typical = sum(asked) / max(len(asked), 1)
    result = {}
    for kind, values in errors.items():
        scale = typical * len(values) if kind == "none" else sum(spreads[kind])
        if scale > 0:
            result[kind] = sum(values) / scale
    return result


def _empty_latent(vae: AutoencoderKLWan, shape: torch.Size) -> torch.Tensor:
    """Latent of a mask video without foreground."""
    frames = 1 + (shape[0] - 1) * temporal_factor(vae)
    size = (shape[1] * spatial_factor(vae), shape[2] * spatial_factor(vae))
    video = torch.full((1, 3, frames, *size), -1.0, device=vae.device)
    return encode_moments(vae, video)[:, : vae.config.z_dim].float()
