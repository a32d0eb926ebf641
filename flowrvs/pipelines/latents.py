"""A training's clips, masks and sentences as a model's frozen encoders see them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer

from flowrvs.checkpoints.files import fingerprint
from flowrvs.models.devices import (
    choose_device,
    memory_guard,
    mixed_precision,
    silent_libraries,
)
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.vae import encode_moments
from flowrvs.pipelines.geometry import normalise
from flowrvs.pipelines.prompts import EncoderSource, PromptEncoder

__all__ = ["FrozenEncoders", "encode_latent", "encoder_prints"]


@torch.no_grad()
def encode_latent(
    vae: AutoencoderKLWan, clip: npt.NDArray[Any], *, mixed: bool = False
) -> torch.Tensor:
    """Return what a VAE makes of a clip, or of what is meant in it.

    Parameters
    ----------
    vae : AutoencoderKLWan
    clip : ndarray of uint8, shape (T, H, W, 3), or of bool, shape (T, H, W)
    mixed : bool
        Compute in 16 bits, weights in 32.

    Returns
    -------
    Tensor
        Of pictures the moments, (2 * z_dim, t, h, w); of masks the mean, (z_dim, t, h, w).
    """
    values = torch.from_numpy(clip).to(vae.device)
    if clip.ndim == 4:
        video = normalise(values, vae.dtype)
    else:
        video = values.to(vae.dtype)[None, None].repeat(1, 3, 1, 1, 1) * 2 - 1
    with mixed_precision(vae.device, mixed):
        found = encode_moments(vae, video)[0]
    if clip.ndim == 3:
        found = found[: vae.config.z_dim].clone()  # not a view that keeps the deviations, too
    return found.to(vae.dtype)


def encoder_prints(folder: Path) -> list[str]:
    """Return what tells the VAE, and the text encoder with its tokenizer, from others."""
    return [
        fingerprint(folder / "vae"),
        fingerprint(folder / "text_encoder", folder / "tokenizer"),
    ]


class FrozenEncoders:
    """The encoders of a model without the rest of it, each loaded when it is needed.

    Parameters
    ----------
    folder : Path
        Of the model.
    dtype : torch.dtype
        Of the weights.
    mixed : bool
        See `encode_latent`.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, *, mixed: bool = False) -> None:
        self._folder, self._dtype, self._mixed = folder, dtype, mixed
        self._device = choose_device("auto")
        self._vae: Any = None
        self._text: Any = None

    def latent(self, clip: npt.NDArray[Any]) -> torch.Tensor:
        """Return what `encode_latent` does.

        Raises
        ------
        DeviceMemoryError
            The device is too small.
        """
        with memory_guard("the clip"):
            if self._vae is None:
                self._text = None  # both may not fit
                with silent_libraries():
                    vae = AutoencoderKLWan.from_pretrained(
                        self._folder / "vae",
                        torch_dtype=self._dtype,
                        local_files_only=True,
                        use_safetensors=True,
                    )
                self._vae = use_fast_layers(vae.eval().requires_grad_(False).to(self._device))
            return encode_latent(self._vae, clip, mixed=self._mixed)

    def embed(self, texts: Sequence[str], length: int, lower_case: bool) -> list[torch.Tensor]:
        """Return embeddings, (tokens, d_model), of different sentences, without their padding.

        Raises
        ------
        CheckpointError, DeviceMemoryError
            As for `EncoderSource.load` and `PromptEncoder.encode`.
        """
        if self._text is None:
            self._vae = None
            with silent_libraries():
                tokenizer = AutoTokenizer.from_pretrained(
                    self._folder / "tokenizer", local_files_only=True
                )
            encoder = EncoderSource(self._folder / "text_encoder", self._dtype).load()
            self._text = tokenizer, encoder.to(self._device)
        tokenizer, encoder = self._text
        prompts = PromptEncoder(tokenizer, encoder, length=length, lower_case=lower_case)
        return [prompts.embed(text) for text in texts]
