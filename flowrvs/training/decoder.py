"""`train_decoder`: the mask decoder of a Wan VAE, its encoder frozen.

Mask -> encode -> sample -> decode -> logits, as the published wrapper does; its training script
was never published. The loss is binary cross-entropy plus Dice on the decoder's unclamped
output: the stock clamp has no gradient beyond [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from flowrvs.evaluation import score_masks
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.vae import decode_frames, encode_moments
from flowrvs.training.clips import plan_clip
from flowrvs.training.config import DecoderConfig
from flowrvs.training.dataset import Sample
from flowrvs.training.models import write_model
from flowrvs.training.objective import LOGIT_SCALE, mask_loss
from flowrvs.training.run import RunOptions, Trained, TrainingRun
from flowrvs.training.setup import PreparedData, prepare_data

__all__ = ["DecoderTrainee", "train_decoder"]


class DecoderTrainee:
    """A VAE whose decoder is trained, as `Engine` trains it.

    Parameters
    ----------
    vae : AutoencoderKLWan
        With one output channel; its decoder is trained in place.
    config : DecoderConfig
    accelerator : Accelerator
    data : PreparedData
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        config: DecoderConfig,
        accelerator: Accelerator,
        data: PreparedData,
    ) -> None:
        vae.requires_grad_(False)
        for part in (vae.decoder, vae.post_quant_conv):
            part.requires_grad_(True)
        self.module = _MaskDecoder(vae)
        self._vae, self._config, self._accelerator, self._data = vae, config, accelerator, data

    def groups(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Put clips of one size together."""
        by_shape: dict[tuple[int, ...], list[Sample]] = {}
        for sample in samples:
            by_shape.setdefault(sample.mask.shape, []).append(sample)
        return list(by_shape.values())

    def loss(self, module: torch.nn.Module, group: list[Sample]) -> torch.Tensor:
        """Return the mean loss of a group, its noise drawn by sample number."""
        device = self._accelerator.device
        truth = torch.from_numpy(np.stack([sample.mask for sample in group])).float()
        truth = truth.unsqueeze(1).to(device)
        mean, deviation = _encode(self._vae, truth)
        latents = []
        for row, sample in enumerate(group):
            generator = torch.Generator().manual_seed(
                (self._config.seed * 1_000_003 + sample.number) % 2**63
            )
            noise = torch.randn((2, *mean.shape[1:]), generator=generator).to(device)
            # The amount varies, so that clean latents stay in the training.
            amount = self._config.latent_noise * float(torch.rand(1, generator=generator))
            latents.append(mean[row] + deviation[row] * noise[0] + amount * noise[1])
        logits = module(torch.stack(latents).to(self._vae.dtype)).float()
        return mask_loss(LOGIT_SCALE * logits, truth)

    @torch.no_grad()
    def validate(self, module: torch.nn.Module) -> dict[str, float]:
        """Score held-out masks, encoded and decoded."""
        if not self._data.held_out:
            return {}
        box = self._data.train.settings.box
        rows = []
        for item in self._data.held_out:
            plan = plan_clip(
                np.random.default_rng(0), item.frames, item.source.size(item.video), box
            )
            masks = item.source.masks(item.video, item.sentence, item.frames)
            truth = plan.apply_to_masks(masks)
            padding = -(len(truth) - 1) % 4
            padded = np.concatenate([truth, np.repeat(truth[-1:], padding, axis=0)])
            video = torch.from_numpy(padded).float()[None, None].to(self._accelerator.device)
            mean, _ = _encode(self._vae, video)
            logits = module(mean.to(self._vae.dtype))[0, 0, : len(truth)]
            rows.append(score_masks((logits > 0).cpu().numpy(), truth))
        j, f = (float(np.mean([row[part] for row in rows])) for part in (0, 1))
        return {"J": j, "F": f, "J&F": (j + f) / 2}


class _MaskDecoder(torch.nn.Module):
    """The decoding half of a VAE as a module of its own, for accelerate to wrap."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return decode_frames(self.vae, latents, clamp=False)


@torch.no_grad()
def _encode(vae: AutoencoderKLWan, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation, float32, of masks of 0 and 1, (B, 1, T, H, W)."""
    video = masks.to(vae.dtype).repeat(1, 3, 1, 1, 1).mul(2).sub(1)
    posterior = DiagonalGaussianDistribution(encode_moments(vae, video).float())
    return posterior.mean, posterior.std


def train_decoder(
    model: str | Path,
    data: Sequence[str | Path],
    out: str | Path,
    config: DecoderConfig | None = None,
    *,
    weights: Sequence[float] | None = None,
    **options: Unpack[RunOptions],
) -> Trained:
    """Train the mask decoder of a model's VAE on real masks.

    Parameters and errors are those of `flowrvs.training.train_flow`.

    Returns
    -------
    Trained
        Its folder is ``<out>/model``: the model with the new decoder.
    """
    config = config or DecoderConfig()
    run = TrainingRun("decoder", model, out, config, **options)
    vae = run.pipeline.vae.to(run.accelerator.device)
    use_fast_layers(vae, exact=False)  # exact roundings in 16 bits have no gradient
    prepared = prepare_data(data, config, run.pipeline, weights=weights)
    trainee = DecoderTrainee(vae, config, run.accelerator, prepared)
    module, trained, card = run.train(trainee, prepared.train, prepared)
    folder = run.out / "model"
    if run.accelerator.is_main_process:
        module.load_state_dict(trained, strict=False)
        write_model(run.base, folder, run.pipeline, {"vae": vae.to("cpu")}, card)
    return run.trained(folder, card)
