"""`train_flow`: the transformer on real videos and sentences, as published (arXiv 2510.06139).

The velocity objective, start-point augmentation, boundary-biased sampling, optionally direct
video injection; all weights or adapters (LoRA); VAE and text encoder frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from accelerate import Accelerator

from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import InputError
from flowrvs.inference.cluster.encode import EncodeCluster
from flowrvs.inference.cluster.link import Scheduler
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.vae import latent_statistics
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken
from flowrvs.training.attention import choose_attention
from flowrvs.training.config import FlowConfig
from flowrvs.training.dataset import Sample, TrainingData
from flowrvs.training.encoded import (
    CachedData,
    ClipEncoder,
    EncodedSample,
    LatentCache,
    MemoryCache,
    fill_cache,
    needed_draws,
)
from flowrvs.training.lora import add_adapter, save_adapter
from flowrvs.training.models import has_mask_decoder, inject_video, write_model
from flowrvs.training.objective import flow_loss, interpolate, sample_timesteps
from flowrvs.training.parts import exchange_grounds, part_of
from flowrvs.training.run import RunOptions, Trained, TrainingRun
from flowrvs.training.sentences import (
    LearningTexts,
    SpokenTransformer,
    TextBank,
    learn_texts,
    open_texts,
)
from flowrvs.training.setup import PreparedData, prepare_data
from flowrvs.training.sources import Source
from flowrvs.training.validation import score_held_out

__all__ = ["FlowTrainee", "flow_step_loss", "train_flow"]


def flow_step_loss(
    transformer: torch.nn.Module,
    start: torch.Tensor,
    end: torch.Tensor,
    times: torch.Tensor,
    *,
    inject: bool,
    dtype: torch.dtype,
    objects: torch.Tensor | None = None,
    object_weight: float = 0.0,
    **sentences: torch.Tensor,
) -> torch.Tensor:
    """Return the loss of one step, by default the published one: MSE(v, x0 - x1).

    Parameters
    ----------
    transformer : Module
        A `WanTransformer3DModel`, or what accelerate wrapped around it.
    start, end : Tensor of float32, shape (B, C, t, h, w)
        ``x0``, the video's latent, normalised, and ``x1``, the masks', as it is.
    times : Tensor, shape (B,)
        1 to 1000.
    inject : bool
        Show ``x0`` beside ``x_t`` (DVI).
    dtype : torch.dtype
        What the transformer takes.
    objects, object_weight
        See `flowrvs.training.objective.flow_loss`.
    **sentences : Tensor
        ``encoder_hidden_states``, (B, L, d_model), or what a `SpokenTransformer` takes.
    """
    state = interpolate(start, end, times)
    inputs = torch.cat([state, start], dim=1) if inject else state
    velocity = transformer(
        hidden_states=inputs.to(dtype),
        timestep=times,
        return_dict=False,
        **sentences,
    )[0]
    return flow_loss(velocity.float(), start, end, objects, object_weight)


class FlowTrainee:
    """The transformer of a pipeline, as `Engine` trains it.

    Parameters
    ----------
    pipeline : FlowRVSPipeline
        Its transformer is trained in place.
    encoder : ClipEncoder
        For samples that are not encoded yet.
    texts : TextBank or LearningTexts
    config : FlowConfig
    accelerator : Accelerator
    data : PreparedData
    dtype : torch.dtype
        Of the transformer's inputs.
    examples : Path, optional
        Where each validation leaves a picture of what it saw.
    cancel : CancelToken, optional
        Stops a validation.
    """

    def __init__(
        self,
        pipeline: FlowRVSPipeline,
        encoder: ClipEncoder,
        texts: TextBank | LearningTexts,
        config: FlowConfig,
        accelerator: Accelerator,
        data: PreparedData,
        dtype: torch.dtype,
        examples: Path | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.module: torch.nn.Module = pipeline.transformer
        if isinstance(texts, LearningTexts):
            self.module = SpokenTransformer(pipeline.transformer, texts.encoder)
        self._examples, self._cancel = examples, cancel
        self._pipeline, self._encoder, self._texts = pipeline, encoder, texts
        self._config, self._accelerator, self._data = config, accelerator, data
        self._empty: dict[torch.Size, torch.Tensor] = {}
        self._dtype, self._inject = dtype, pipeline.injects_video
        mean, std = latent_statistics(pipeline.vae)
        self._mean, self._std = mean.to(accelerator.device), std.to(accelerator.device)

    def groups(self, samples: Sequence[Sample | EncodedSample]) -> list[list[EncodedSample]]:
        """Encode what is not encoded; put clips of one size together."""
        by_shape: dict[torch.Size, list[EncodedSample]] = {}
        for sample in samples:
            encoded = self._encoder.encode(sample) if isinstance(sample, Sample) else sample
            encoded = self._part(encoded)
            by_shape.setdefault(encoded.target.shape, []).append(encoded)
        return list(by_shape.values())

    def _part(self, sample: EncodedSample) -> EncodedSample:
        """Return a part of a sample, or all of it, by its number."""
        rng = np.random.default_rng([self._config.seed, 6, sample.number])
        if rng.random() >= self._config.part_probability:
            return sample
        patch = self._pipeline.transformer.config.patch_size
        height, width = sample.target.shape[-2:]
        where = (..., *part_of(rng, (height, width), (patch[1], patch[2])))
        return dataclasses.replace(
            sample,
            moments=sample.moments[where],
            target=sample.target[where],
            objects=None if sample.objects is None else sample.objects[where],
            meant=None if sample.meant is None else sample.meant[where],
        )

    def loss(self, module: torch.nn.Module, group: list[EncodedSample]) -> torch.Tensor:
        """Return the mean loss of a group, its noise and times drawn by sample number."""
        device = self._accelerator.device
        starts, times = [], []
        for sample in group:
            time, noise = self.draw(sample.number, sample.target.shape)
            times.append(time)
            mean, logvar = sample.moments.to(device).float().chunk(2, dim=0)
            if self._config.start_point_augmentation:
                mean = mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * noise.to(device)
            starts.append(mean)
        start = (torch.stack(starts) - self._mean) / self._std
        end = torch.stack([sample.target.to(device).float() for sample in group])
        cells = [sample.objects for sample in group if sample.objects is not None]
        if _rearranges(self._config) and len(group) > 1:
            start, end = self._rearranged(group, start, end)
        return flow_step_loss(
            module,
            start,
            end,
            torch.cat(times).to(device),
            inject=self._inject,
            dtype=self._dtype,
            objects=torch.stack(cells).to(device) if cells else None,
            object_weight=self._config.object_weight,
            **self._texts.conditions([sample.text for sample in group], device, self._dtype),
        )

    def _rearranged(
        self, group: list[EncodedSample], start: torch.Tensor, end: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Show some clips on the ground of others, by their numbers; cover what is meant."""
        config, device = self._config, start.device
        draws = [np.random.default_rng([config.seed, 7, s.number]).random(2) for s in group]
        first, second = torch.tensor(np.array(draws), device=device).unbind(1)
        objects, meant = (
            torch.stack([getattr(s, kind) for s in group]).to(device)
            for kind in ("objects", "meant")
        )
        return exchange_grounds(
            start,
            end,
            objects,
            meant,
            exchanged=first < config.ground_probability,
            covered=second < config.cover_probability,
            nothing=self._nothing(end.shape[2:]),
        )

    def _nothing(self, shape: torch.Size) -> torch.Tensor:
        """Return the latent of a mask with nothing in it."""
        if shape not in self._empty:
            factor = self._pipeline.vae.config
            clip = np.zeros(
                (
                    1 + (shape[0] - 1) * factor.scale_factor_temporal,
                    *(side * factor.scale_factor_spatial for side in shape[1:]),
                ),
                bool,
            )
            self._empty[shape] = self._encoder.latent(clip).float()
        return self._empty[shape]

    def draw(self, number: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Return time (1,) and noise of a sample: the same for its number, anywhere."""
        config = self._config
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + number) % 2**63)
        time = sample_timesteps(
            1,
            config.boundary_probability,
            config.time_power,
            torch.device("cpu"),
            generator,
        )
        return time, torch.randn(shape, generator=generator)

    def validate(self, module: torch.nn.Module) -> dict[str, float]:
        """Score held-out sentences with the weights that are in place."""
        if not self._data.held_out:
            return {}
        place = self._pipeline.vae.device
        self._pipeline.vae.to(self._accelerator.device)
        self._texts.refresh(self._pipeline)
        try:
            return score_held_out(
                self._pipeline,
                self._data.held_out,
                self._accelerator,
                self._examples,
                self._cancel,
            )
        finally:
            self._pipeline.vae.to(place)


def _rearranges(config: FlowConfig) -> bool:
    return config.ground_probability > 0 or config.cover_probability > 0


def train_flow(
    model: str | Path,
    data: Sequence[str | Path],
    out: str | Path,
    config: FlowConfig | None = None,
    *,
    weights: Sequence[float] | None = None,
    rehearsal: Source | None = None,
    cache: str | Path | None = None,
    scheduler: Scheduler | str | None = None,
    target: Path | None = None,
    examples: Path | None = None,
    improving: bool = False,
    **options: Unpack[RunOptions],
) -> Trained:
    """Train the flow of a model on real data.

    Parameters
    ----------
    model : str or path-like
        A Wan base or a FlowRVS model, by name or folder; it is only read.
    data : sequence of path-like
        Splits, projects, RefCOCO: see `flowrvs.training.sources.open_sources`.
    out : path-like
        Folder of checkpoints, log and result.
    config : FlowConfig, optional
        See `flowrvs.training.build_config`.
    weights : sequence of float, optional
        Share of the samples from each path of `data`.
    rehearsal : Source, optional
        What the model knows already: ``rehearsal_share`` of the samples come from it, so
        that less is forgotten, and it is scored apart, as ``old J&F``.
    cache : path-like, optional
        Encode clips beforehand, once, into this folder; then the transformer trains alone.
    scheduler : Scheduler or str, optional
        With `cache`: a dask cluster whose workers encode clips and sentences.
    target : Path, optional
        Folder of the result, instead of ``<out>/model`` or ``<out>/lora``.
    examples : Path, optional
        A PNG that each validation writes: held-out frames with the truth and the masks.
    improving : bool
        When cancelled, return the best state so far if a validation found one; with
        ``validate_first`` refuse a result that is no better than the model was.
    **options
        See `flowrvs.training.run.RunOptions`: name, device, resume, tensorboard, progress, cancel.

    Returns
    -------
    Trained

    Raises
    ------
    FlowRVSError
        In one line: bad data or options, no room on disk or device, a loss that is not finite.
    """
    config = config or FlowConfig()
    if config.train_text and config.lora_rank:
        raise InputError("train_text goes with all weights, not with lora_rank; leave one out.")
    if scheduler is not None and not cache:
        raise InputError("A cluster fills a cache: give a folder for it with --cache.")
    if _rearranges(config) and not (config.object_weight and config.batch_size > 1):
        raise InputError(
            "ground_probability and cover_probability go with object_weight above 0, for which it "
            "is read where things are, and with a batch_size of 2 at least: one clip lends another "
            "its ground."
        )
    if config.remember and (config.workers or cache):
        raise InputError("remember goes with workers = 0 and without a cache on disk.")
    run = TrainingRun("flow", model, out, config, **options)
    base, pipeline, accelerator = run.base, run.pipeline, run.accelerator
    pipeline.vae.to(accelerator.device)
    use_fast_layers(pipeline.vae)
    prepared = prepare_data(
        data,
        config,
        pipeline,
        weights=weights,
        variants=config.cache_variants if cache or config.remember else 0,
        objects=config.object_weight > 0,
        rehearsal=rehearsal,
        rehearsal_share=config.rehearsal_share,
    )
    kept = Path(cache).expanduser() if cache else run.out / "cache"
    mixed = run.precision == "mixed"
    cluster = None
    if scheduler is not None:
        cluster = EncodeCluster(scheduler, model, run.dtype, mixed=mixed)
    texts: TextBank | LearningTexts
    if config.train_text:
        texts = learn_texts(base, pipeline, prepared.texts(), run.dtype)
    else:
        texts = open_texts(
            base,
            pipeline,
            kept,
            run.dtype,
            prepared.texts(),
            accelerator,
            run.progress,
            run.cancel,
            cluster,
        )
    encoder = ClipEncoder(pipeline.vae, mixed=mixed)
    dataset: Any = prepared.train
    if cache:
        key = f"{fingerprint(base / 'vae')}-{run.precision}"
        latents = LatentCache(kept / f"latents-{key}")
        dataset = CachedData(prepared.train, latents)
        _fill(prepared.train, latents, cluster or encoder, run)
        pipeline.vae.to("cpu")
    elif config.remember:
        dataset = CachedData(prepared.train, MemoryCache(), encoder)
    _prepare_transformer(pipeline, config)
    choose_attention(pipeline.transformer, accelerator.device, mixed=mixed)
    trainee = FlowTrainee(
        pipeline, encoder, texts, config, accelerator, prepared, run.dtype, examples, run.cancel
    )
    trainee.module.to(accelerator.device)
    module, trained, card = run.train(trainee, dataset, prepared, improving=improving)
    folder = target or run.out / ("lora" if config.lora_rank else "model")
    if accelerator.is_main_process:
        if config.lora_rank:
            save_adapter(module, trained, folder, card)
        else:
            module.load_state_dict(trained, strict=False)
            changed: dict[str, Any] = {"transformer": pipeline.transformer}
            if isinstance(texts, LearningTexts):
                changed |= {"text_encoder": texts.encoder, "tokenizer": texts.tokenizer}
            if not has_mask_decoder(base):
                changed["vae"] = pipeline.vae.to("cpu")
            write_model(base, folder, pipeline, changed, card)
    return run.trained(folder, card)


def _prepare_transformer(pipeline: FlowRVSPipeline, config: FlowConfig) -> None:
    transformer = pipeline.transformer
    if config.video_injection:
        if config.lora_rank and not pipeline.injects_video:
            raise InputError(
                "video_injection gives the model new channels, which adapters (lora_rank) do not "
                "train; leave one out."
            )
        transformer = inject_video(transformer)
        pipeline.register_modules(transformer=transformer)
        pipeline.injects_video = True
    transformer.requires_grad_(True)
    if config.lora_rank:
        add_adapter(transformer, config.lora_rank, config.lora_alpha, config.seed)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()


def _fill(
    data: TrainingData, cache: LatentCache, encoder: ClipEncoder | EncodeCluster, run: TrainingRun
) -> None:
    """Encode what the training will ask for, shared by the processes."""
    config, accelerator = run.config, run.accelerator
    batch = config.batch_size * accelerator.num_processes
    steps = max(1, data.epoch_length // batch) * config.epochs
    if config.max_steps:
        steps = min(steps, config.max_steps)
    draws, total = needed_draws(
        data, steps * batch, accelerator.process_index, accelerator.num_processes
    )
    fill_cache(draws, total, cache, encoder, progress=run.progress, cancel=run.cancel)
    accelerator.wait_for_everyone()
