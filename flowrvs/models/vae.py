"""Encoding and decoding with the stock causal VAE, in groups of latent frames.

``AutoencoderKLWan`` sees one frame first and four frames a step after it, carrying a
feature cache. Feeding several latent frames a step gives equal results with fewer
calls, and collecting the steps in a list avoids the quadratic concatenation of the
stock loop. ``decode_frames`` can leave out the stock clamp to [-1, 1], whose gradient
is zero beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify

__all__ = [
    "decode_frames",
    "encode_moments",
    "iter_decode",
    "latent_statistics",
    "spatial_factor",
    "temporal_factor",
]


def temporal_factor(vae: AutoencoderKLWan) -> int:
    """Frames per latent frame after the first one (4 for Wan2.1), from the config."""
    return int(2 ** sum(bool(flag) for flag in vae.config.temperal_downsample))


def spatial_factor(vae: AutoencoderKLWan) -> int:
    """Pixels per latent cell along each side (8 for Wan2.1), from the config."""
    return int(2 ** (len(vae.config.dim_mult) - 1)) * int(vae.config.patch_size or 1)


def latent_statistics(vae: AutoencoderKLWan) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latents, float32, shape (1, C, 1, 1, 1)."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, dtype=torch.float32).view(shape)
    std = torch.tensor(vae.config.latents_std, dtype=torch.float32).view(shape)
    return mean, std


def encode_moments(vae: AutoencoderKLWan, video: torch.Tensor, *, group: int = 4) -> torch.Tensor:
    """Encode a clip into the moments of its latent distribution.

    Parameters
    ----------
    vae : AutoencoderKLWan
    video : Tensor, shape (B, 3, T, H, W)
        Values in [-1, 1]; ``(T - 1)`` divisible by the temporal factor.
    group : int
        Latent frames computed at once after the first; memory grows with it.

    Returns
    -------
    Tensor, shape (B, 2 * z_dim, 1 + (T - 1) / 4, H / 8, W / 8)
        Mean and log-variance along the channels, for
        ``DiagonalGaussianDistribution``.
    """
    if vae.config.patch_size is not None:
        video = patchify(video, patch_size=vae.config.patch_size)
    step = temporal_factor(vae) * group
    vae.clear_cache()
    parts = []
    bounds = [(0, 1)]
    bounds += [(t, min(t + step, video.shape[2])) for t in range(1, video.shape[2], step)]
    try:
        for start, stop in bounds:
            parts.append(
                vae.encoder(video[:, :, start:stop], feat_cache=vae._enc_feat_map, feat_idx=[0])
            )
    finally:
        vae.clear_cache()
    return vae.quant_conv(torch.cat(parts, dim=2))


def iter_decode(
    vae: AutoencoderKLWan, latents: torch.Tensor, *, group: int = 4, clamp: bool = True
) -> Iterator[torch.Tensor]:
    """Decode latents, yielding frames group by group.

    Parameters
    ----------
    vae : AutoencoderKLWan
    latents : Tensor, shape (B, z_dim, t, h, w)
    group : int
        Latent frames computed at once after the first; memory grows with it.
    clamp : bool
        Clamp to [-1, 1] as the stock ``decode`` does.

    Yields
    ------
    Tensor, shape (B, out_channels, n, H, W)
        Consecutive frames: 1 first, then ``group * 4`` at most.
    """
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    bounds = [(0, 1)]
    bounds += [(t, min(t + group, hidden.shape[2])) for t in range(1, hidden.shape[2], group)]
    cache = vae._feat_map
    for start, stop in bounds:
        out = vae.decoder(
            hidden[:, :, start:stop], feat_cache=cache, feat_idx=[0], first_chunk=start == 0
        )
        if vae.config.patch_size is not None:
            out = unpatchify(out, patch_size=vae.config.patch_size)
        yield out.clamp(-1.0, 1.0) if clamp else out
    vae.clear_cache()


def decode_frames(
    vae: AutoencoderKLWan, latents: torch.Tensor, *, group: int = 4, clamp: bool = True
) -> torch.Tensor:
    """Decode latents at once; see `iter_decode`.

    Returns
    -------
    Tensor, shape (B, out_channels, T, H, W)
    """
    return torch.cat(list(iter_decode(vae, latents, group=group, clamp=clamp)), dim=2)
