"""Stage 2: the flow from video latents to mask latents, steered by a sentence.

The recipe is the paper's (section 3.3): the velocity objective, start-point
augmentation, boundary-biased sampling, optionally direct video injection, averaged
weights. A model that starts from random weights also trains its text encoder, and may
train its matrices with Muon.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.training_utils import EMAModel

from flowrvs.data.synthetic import vocabulary
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.presets import PRESETS, build_text_encoder, build_transformer
from flowrvs.models.text import build_word_tokenizer, embed_tokens
from flowrvs.models.vae import latent_statistics
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.models import inject_video
from flowrvs.training.objective import flow_loss, interpolate, sample_timesteps
from flowrvs.training.optimizers import make_optimizers
from flowrvs.training.scratch.adapt import adapt_decoder
from flowrvs.training.scratch.attributes import AttributeHead
from flowrvs.training.scratch.config import Phase, ScratchConfig
from flowrvs.training.scratch.loop import (
    Loop,
    cosine_rate,
    load_checkpoint,
    mixed_precision,
    restoring,
    save_checkpoint,
    update,
)
from flowrvs.training.scratch.pool import (
    Batch,
    EncodedClip,
    LatentPool,
    encode_clip,
    source_latents,
)
from flowrvs.training.scratch.validation import VALIDATION_SEEDS, validate_flow

__all__ = ["train_flow"]


def train_flow(
    config: ScratchConfig,
    *,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train stage 2; return the folder of the finished pipeline. See `train_scratch`."""
    trainer = FlowTrainer(config, progress, cancel)
    if resume:
        path = trainer.out / "checkpoint.pt"
        state = load_checkpoint(path)
        with restoring(path):
            trainer.restore(state)
    trainer.train()
    return trainer.save_pipeline()


class FlowTrainer:
    """State of stage 2; `train_flow` drives it."""

    def __init__(
        self,
        config: ScratchConfig,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.scratch, self.config = config, config.flow
        torch.manual_seed(self.config.seed)
        self.out = Path(config.out) / "flow"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.progress, self.cancel = progress, cancel
        self.preset = PRESETS[config.preset]
        stage = self.config
        self.vae = AutoencoderKLWan.from_pretrained(self.out.parent / "vae" / "vae").to(self.device)
        self.vae.requires_grad_(False)
        use_fast_layers(self.vae)
        self.mean, self.std = (part.to(self.device) for part in latent_statistics(self.vae))
        self.tokenizer = build_word_tokenizer(vocabulary())
        self.text_encoder = build_text_encoder(self.preset, len(self.tokenizer))
        self.transformer = build_transformer(self.preset, video_injection=stage.video_injection)
        if stage.initial:
            self._load_initial(Path(stage.initial))
        self.text_encoder.to(self.device).requires_grad_(stage.train_text_encoder)
        self.transformer.to(self.device)
        self.attributes: AttributeHead | None = None
        if stage.attribute_weight > 0:
            self.attributes = AttributeHead(self.transformer, stage.attribute_block)
            self.attributes.to(self.device)
        if stage.compile:
            for index, block in enumerate(self.transformer.blocks):
                # The block that is listened to stays eager: its hook would be compiled too.
                if self.attributes is None or index != stage.attribute_block:
                    block.compile()
        self.parameters = [p for p in self._all_parameters() if p.requires_grad]
        self.optimizers, self.rates = self._build_optimizers()
        self.ema = EMAModel(self.parameters, decay=stage.ema_decay, use_ema_warmup=True, power=0.75)
        self.step = 0
        self.total = sum(phase.steps for phase in stage.phases)
        self.loop = Loop(
            self.out,
            self.total,
            self.save,
            log_every=stage.log_every,
            save_every=stage.save_every,
            progress=progress,
            cancel=cancel,
        )

    def _load_initial(self, folder: Path) -> None:
        from diffusers import WanTransformer3DModel
        from transformers import UMT5EncoderModel

        source = WanTransformer3DModel.from_pretrained(folder / "transformer")
        if self.config.video_injection:
            source = inject_video(source)
        self.transformer.load_state_dict(source.state_dict())
        text = UMT5EncoderModel.from_pretrained(folder / "text_encoder")
        self.text_encoder.load_state_dict(text.state_dict())

    def _all_parameters(self) -> list[torch.nn.Parameter]:
        return [*self.transformer.parameters(), *self.text_encoder.parameters()]

    def _build_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[float]]:
        config = self.config
        named = [
            (name, parameter)
            for module in (self.transformer, self.text_encoder, self.attributes)
            if module is not None
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]
        made = make_optimizers(
            named,
            config.learning_rate,
            matrix_rate=config.matrix_learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        return [optimizer for optimizer, _ in made], [rate for _, rate in made]

    def train(self) -> None:
        """Run the phases from the present step on."""
        first = 0
        for phase in self.config.phases:
            if self.step < first + phase.steps:
                self._run_phase(phase, first + phase.steps)
            first += phase.steps

    def _run_phase(self, phase: Phase, stop: int) -> None:
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        settings = {
            "frames": phase.frames,
            "expressions": config.expressions,
            "length": self.preset.max_sequence_length,
            "patch": int(self.transformer.config.patch_size[1]),
            "autocast": config.autocast,
        }
        pool = LatentPool(self.vae, self.tokenizer, config.pool_size, rng, **settings)
        held_out = self._validation_clips(settings)
        pool.refresh(min(config.pool_size, 8 * phase.batch))
        due = 0.0

        def make(step: int) -> dict[str, float]:
            nonlocal due
            due += phase.refresh
            pool.refresh(int(due))
            due -= int(due)
            loss, values = self._loss(pool.draw(phase.batch))
            factor = cosine_rate(step, self.total, config.warmup)
            rated = [
                (optimizer, rate * factor)
                for optimizer, rate in zip(self.optimizers, self.rates, strict=True)
            ]
            values["norm"] = update(loss, self.parameters, rated, config.clip_norm)
            self.ema.step(self.parameters)
            self.step = step + 1
            return values

        steps = range(self.step, stop)
        self.loop.run("flow", steps, make, lambda: self.validate(held_out), frames=phase.frames)

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        config = self.config
        start = source_latents(
            batch.moments.to(self.device),
            self.mean,
            self.std,
            sample=config.start_point_augmentation,
        )
        end = batch.targets.to(self.device)
        times = sample_timesteps(
            len(start), config.boundary_probability, config.time_power, self.device
        )
        velocity = self._velocity(interpolate(start, end, times), start, times, batch)
        loss = flow_loss(velocity, start, end, batch.objects.to(self.device), config.object_weight)
        values = {"loss": loss.item()}
        if self.attributes is not None:
            named = self.attributes.loss(batch.labels.to(self.device))
            values["attributes"] = named.item()
            loss = loss + config.attribute_weight * named
        return loss, values

    def _velocity(
        self, state: torch.Tensor, start: torch.Tensor, times: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        inputs = torch.cat([state, start], dim=1) if self.config.video_injection else state
        with mixed_precision(self.device, self.config.autocast):
            embeddings = embed_tokens(
                self.text_encoder, batch.tokens.to(self.device), batch.mask.to(self.device)
            )
            velocity = self.transformer(inputs, times, embeddings, return_dict=False)[0]
        return velocity.float()

    def _validation_clips(self, settings: dict[str, Any]) -> list[EncodedClip]:
        rng = np.random.default_rng(0)
        return [
            encode_clip(self.vae, self.tokenizer, seed, rng, **settings)
            for seed in VALIDATION_SEEDS
        ]

    def validate(self, clips: list[EncodedClip]) -> dict[str, float]:
        """Score the averaged weights; see `flowrvs.training.scratch.validation`."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        # A compiled block would be compiled anew for every odd batch here.
        with torch.compiler.set_stance("force_eager"):
            scores = validate_flow(self._velocity, self.vae, clips)
        self.ema.restore(self.parameters)
        return scores

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps."""
        save_checkpoint(
            self.out / "checkpoint.pt",
            {
                "step": step,
                "transformer": self.transformer.state_dict(),
                "text_encoder": self.text_encoder.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "ema": self.ema.state_dict(),
                "attributes": self.attributes.state_dict() if self.attributes else {},
            },
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of the same config."""
        self.step = int(state["step"])
        self.transformer.load_state_dict(state["transformer"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)  # the checkpoint was read on the CPU
        if self.attributes is not None:
            self.attributes.load_state_dict(state["attributes"])

    def save_pipeline(self) -> Path:
        """Save the averaged weights as a pipeline in diffusers layout."""
        from flowrvs.pipelines import FlowRVSPipeline

        self.ema.copy_to(self.parameters)
        pipeline = FlowRVSPipeline.from_parts(
            transformer=self.transformer,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            preset=self.preset,
            name=self.scratch.name,
        )
        for phase in self.config.decoder_phases:
            adapt_decoder(
                pipeline,
                phase,
                seed=self.config.seed,
                autocast=self.config.autocast,
                progress=self.progress,
                cancel=self.cancel,
            )
        if self.scratch.half_precision:
            pipeline.to(torch.float16)
        target = self.out.parent / "model"
        pipeline.save_pretrained(target)
        return target
