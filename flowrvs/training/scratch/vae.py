"""Stage 1: a VAE for pictures and masks, then its mask decoder.

The mask decoder is tuned with the encoder frozen: mask -> encode -> sample -> decode
-> logits (paper, section on VAE tuning; arXiv 2510.06139). It sees the unclamped
decoder output: the stock clamp has no gradient beyond [-1, 1].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.models.vae import decode_frames, encode_moments
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.models import mask_vae_from
from flowrvs.training.objective import LOGIT_SCALE, mask_iou, mask_loss
from flowrvs.training.scratch.config import Phase, ScratchConfig
from flowrvs.training.scratch.loop import (
    Loop,
    cosine_rate,
    load_checkpoint,
    restoring,
    save_checkpoint,
    update,
)
from flowrvs.training.scratch.samples import mask_clips, picture_clips

__all__ = ["train_vae"]


def train_vae(
    config: ScratchConfig,
    *,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train stage 1; return the folder of the VAE with its mask decoder. See `train_scratch`."""
    return _VaeTrainer(config, progress, cancel).run(resume)


class _VaeTrainer:
    def __init__(
        self, config: ScratchConfig, progress: ProgressCallback | None, cancel: CancelToken | None
    ) -> None:
        torch.manual_seed(config.vae.seed)
        self.config = config.vae
        self.preset = PRESETS[config.preset]
        self.out = Path(config.out) / "vae"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vae = build_vae(self.preset).to(self.device)
        use_fast_layers(self.vae)
        self.plan = [("picture", phase) for phase in self.config.phases]
        self.plan += [("mask", phase) for phase in self.config.mask_phases]
        self.loop = Loop(
            self.out,
            sum(phase.steps for _, phase in self.plan),
            self._save,
            log_every=self.config.log_every,
            save_every=self.config.save_every,
            progress=progress,
            cancel=cancel,
        )
        self.mask_vae: AutoencoderKLWan | None = None

    def run(self, resume: bool) -> Path:
        state = load_checkpoint(self.out / "checkpoint.pt") if resume else None
        done = int(state["step"]) if state else 0
        stages = {
            "picture": sum(p.steps for p in self.config.phases),
            "mask": sum(p.steps for p in self.config.mask_phases),
        }
        first = 0
        for stage, total in stages.items():
            if stage == "mask":
                self._begin_mask_stage(state)
            elif state is not None:
                with restoring(self.out / "checkpoint.pt"):
                    self.vae.load_state_dict(state["vae"])
            if done < first + total:
                self._train_stage(stage, first, total, done, state)
            first += total
        assert self.mask_vae is not None
        target = self.out / "vae"
        self.mask_vae.save_pretrained(target)
        self.vae.save_pretrained(self.out / "vae_rgb")
        return target

    def _begin_mask_stage(self, state: dict | None) -> None:
        mean, std = self._measure_latents()
        self.vae.register_to_config(latents_mean=mean, latents_std=std)
        self.mask_vae = mask_vae_from(self.vae)
        if state is not None and "mask_vae" in state:
            with restoring(self.out / "checkpoint.pt"):
                self.mask_vae.load_state_dict(state["mask_vae"])
        self.mask_vae.to(self.device)
        use_fast_layers(self.mask_vae)

    def _train_stage(
        self, stage: str, first: int, total: int, done: int, state: dict | None
    ) -> None:
        if stage == "picture":
            parameters = list(self.vae.parameters())
        else:
            assert self.mask_vae is not None
            self.mask_vae.requires_grad_(False)
            parameters = [
                *self.mask_vae.decoder.parameters(),
                *self.mask_vae.post_quant_conv.parameters(),
            ]
            for parameter in parameters:
                parameter.requires_grad_(True)
        peak = self.config.learning_rate if stage == "picture" else self.config.mask_learning_rate
        optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=1e-4)
        if state is not None and state["stage"] == stage and done > first:
            with restoring(self.out / "checkpoint.pt"):
                optimizer.load_state_dict(state["optimizer"])
        self.stage, self.optimizer = stage, optimizer

        def make(step: int) -> dict[str, float]:
            local = step - first
            rng = np.random.default_rng([self.config.seed, step])
            losses = self._picture_loss if stage == "picture" else self._mask_loss
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast):
                loss, values = losses(rng, self._phase(stage, local))
            rate = peak * cosine_rate(local, total, self.config.warmup)
            update(loss, parameters, [(optimizer, rate)])
            return values

        self.loop.run(stage, range(max(done, first), first + total), make, stage=stage)

    def _phase(self, stage: str, local: int) -> Phase:
        for name, phase in self.plan:
            if name != stage:
                continue
            if local < phase.steps:
                return phase
            local -= phase.steps
        raise AssertionError("step beyond the plan")

    def _picture_loss(
        self, rng: np.random.Generator, phase: Phase
    ) -> tuple[torch.Tensor, dict[str, float]]:
        video = picture_clips(rng, phase, self.config.mask_share).to(self.device)
        posterior = DiagonalGaussianDistribution(encode_moments(self.vae, video).float())
        decoded = decode_frames(self.vae, posterior.sample(), clamp=False).float()
        reconstruction = F.l1_loss(decoded, video) + F.mse_loss(decoded, video)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        loss = reconstruction + self.config.kl_weight * kl
        return loss, {"reconstruction": reconstruction.item(), "kl": kl.item()}

    def _mask_loss(
        self, rng: np.random.Generator, phase: Phase
    ) -> tuple[torch.Tensor, dict[str, float]]:
        assert self.mask_vae is not None
        truth = mask_clips(rng, phase).to(self.device)
        with torch.no_grad():
            video = truth.repeat(1, 3, 1, 1, 1).mul(2).sub(1)
            moments = encode_moments(self.mask_vae, video).float()
            latents = DiagonalGaussianDistribution(moments).sample()
            # The amount varies, so that clean latents stay in the training set.
            amount = torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
            latents += 2 * self.config.latent_noise * amount * torch.randn_like(latents)
        logits = LOGIT_SCALE * decode_frames(self.mask_vae, latents, clamp=False).float()
        loss = mask_loss(logits, truth)
        return loss, {"mask": loss.item(), "iou": mask_iou(logits, truth).item()}

    @torch.no_grad()
    def _measure_latents(self) -> tuple[list[float], list[float]]:
        """Channel means and deviations of picture latents, for the VAE's config."""
        rng = np.random.default_rng([self.config.seed, 2**31])
        phase = Phase(1, max(p.frames for p in self.config.phases), 16)
        means = encode_moments(self.vae, picture_clips(rng, phase, 0.0).to(self.device))
        means = means[:, : self.vae.config.z_dim].float()
        flat = means.transpose(0, 1).flatten(1)
        return flat.mean(1).tolist(), flat.std(1).clamp_min(1e-3).tolist()

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "stage": self.stage,
            "vae": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.mask_vae is not None:
            state["mask_vae"] = self.mask_vae.state_dict()
        save_checkpoint(self.out / "checkpoint.pt", state)
