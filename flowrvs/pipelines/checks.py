"""What can be wrong with a model: its shapes before a call, its numbers after one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from flowrvs.errors import CheckpointError, InputError

__all__ = ["check_finite", "injects_video"]


def injects_video(transformer: WanTransformer3DModel, vae: AutoencoderKLWan) -> bool:
    """Whether the transformer takes the video latent too, by the shape of its weights.

    Raises
    ------
    CheckpointError
        The two do not belong together, or the VAE decodes no mask.
    """
    latent = int(vae.config.z_dim)
    found = int(transformer.patch_embedding.weight.shape[1])
    if found not in (latent, 2 * latent):
        raise CheckpointError(
            f"The transformer takes {found} channels, but the VAE's latent has {latent}; "
            f"it must take {latent}, or {2 * latent} with the video injected."
        )
    patch = int(vae.config.patch_size or 1)
    outputs = int(vae.config.out_channels) // patch**2
    if outputs != 1:
        raise CheckpointError(
            f"The VAE decodes {outputs} channels, not one mask; use a VAE whose decoder was "
            "tuned for masks."
        )
    return found == 2 * latent


def check_finite(logits: npt.NDArray[np.float32], dtype: torch.dtype, name: str) -> None:
    """Refuse logits that are no numbers.

    Parameters
    ----------
    logits : ndarray
    dtype : torch.dtype
        What the model computed in.
    name : str
        The model, for the message.

    Raises
    ------
    InputError
        It overflows in float16.
    CheckpointError
        Its weights are damaged.
    """
    if np.isfinite(logits).all():
        return
    if dtype == torch.float16:
        raise InputError("The model overflows in float16 on this device; choose --dtype float32.")
    raise CheckpointError(
        f"The model {name} computes no numbers: its weights are damaged; run 'flowrvs "
        "models verify' on it, or fetch it again."
    )
