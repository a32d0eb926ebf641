"""Encoding and decoding with the stock causal VAE, in groups of latent frames.

``AutoencoderKLWan`` sees one frame first and four frames a step after it, carrying a
feature cache. So frames can be fed, and drained, as they come: results are the stock
ones, memory does not depend on the clip's length, and nothing is concatenated again and
again as in the stock loop. Several latent frames a step need fewer calls and more memory.
``decode_frames`` can leave out the stock clamp to [-1, 1], whose gradient is zero beyond
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify

__all__ = [
    "decode_frames",
    "encode_moments",
    "frame_groups",
    "iter_decode",
    "iter_encode",
    "latent_statistics",
    "mask_cells",
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


def mask_cells(masks: npt.NDArray[np.bool_], latent: torch.Tensor) -> torch.Tensor:
    """Cells of a latent that masks touch: the first frame alone, then groups of frames.

    Parameters
    ----------
    masks : ndarray of bool, shape (T, H, W)
    latent : Tensor, shape (C, t, h, w)
        Of a clip of this size.

    Returns
    -------
    Tensor of float32, shape (t, h, w)
        0 or 1.
    """
    values = torch.from_numpy(masks).float()[None]
    frames, height, width = latent.shape[1:]
    first = F.adaptive_max_pool3d(values[:, :1], (1, height, width))
    if frames == 1:
        return first[0]
    rest = F.adaptive_max_pool3d(values[:, 1:], (frames - 1, height, width))
    return torch.cat([first, rest], dim=1)[0]


def frame_groups(frames: int, group: int, factor: int) -> list[tuple[int, int]]:
    """Bounds of the frames that are encoded at once: 1 first, then ``group * factor``.

    Parameters
    ----------
    frames : int
        Frames of the clip; ``(frames - 1)`` divisible by `factor`.
    group : int
        Latent frames at once.
    factor : int
        Frames per latent frame (`temporal_factor`).
    """
    step = group * factor
    return [(0, 1), *((t, min(t + step, frames)) for t in range(1, frames, step))]


def iter_encode(vae: AutoencoderKLWan, groups: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Encode a clip that comes in groups of frames; memory does not grow with its length.

    Parameters
    ----------
    vae : AutoencoderKLWan
    groups : iterable of Tensor, shape (B, 3, n, H, W)
        Values in [-1, 1]; one frame first, then multiples of the temporal factor
        (`frame_groups`).

    Yields
    ------
    Tensor, shape (B, 2 * z_dim, n / 4, H / 8, W / 8)
        Mean and log-variance along the channels, for ``DiagonalGaussianDistribution``;
        for each group its latent frames.
    """
    # A cache of our own: two streams may be under way, and the module stays as it was.
    cache: list[Any] = [None] * vae._cached_conv_counts["encoder"]
    for video in groups:
        if vae.config.patch_size is not None:
            video = patchify(video, patch_size=vae.config.patch_size)
        yield vae.quant_conv(vae.encoder(video, feat_cache=cache, feat_idx=[0]))


def encode_moments(vae: AutoencoderKLWan, video: torch.Tensor, *, group: int = 4) -> torch.Tensor:
    """Encode a clip that is there as a whole; see `iter_encode`.

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
    """
    bounds = frame_groups(video.shape[2], group, temporal_factor(vae))
    groups = (video[:, :, start:stop] for start, stop in bounds)
    return torch.cat(list(iter_encode(vae, groups)), dim=2)


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
    cache: list[Any] = [None] * vae._cached_conv_counts["decoder"]
    for start, stop in frame_groups(latents.shape[2], group, 1):
        hidden = vae.post_quant_conv(latents[:, :, start:stop])
        out = vae.decoder(hidden, feat_cache=cache, feat_idx=[0], first_chunk=start == 0)
        if vae.config.patch_size is not None:
            out = unpatchify(out, patch_size=vae.config.patch_size)
        yield out.clamp(-1.0, 1.0) if clamp else out


def decode_frames(
    vae: AutoencoderKLWan, latents: torch.Tensor, *, group: int = 4, clamp: bool = True
) -> torch.Tensor:
    """Decode latents at once; see `iter_decode`.

    Returns
    -------
    Tensor, shape (B, out_channels, T, H, W)
    """
    return torch.cat(list(iter_decode(vae, latents, group=group, clamp=clamp)), dim=2)
