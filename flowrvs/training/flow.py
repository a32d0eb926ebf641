"""`train_flow`: the transformer on real videos and sentences, as published (arXiv 2510.06139).

The velocity objective, start-point augmentation, boundary-biased sampling, optionally direct
video injection; all weights or adapters (LoRA); VAE and text encoder frozen.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel

from flowrvs import __version__
from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import Cancelled
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.vae import latent_statistics
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.config import FlowConfig
from flowrvs.training.dataset import Sample
from flowrvs.training.encoded import (
    CachedData,
    ClipEncoder,
    EncodedSample,
    LatentCache,
    TextBank,
    fill_cache,
    needed_draws,
)
from flowrvs.training.engine import Engine, make_accelerator
from flowrvs.training.lora import add_adapter, save_adapter
from flowrvs.training.models import has_mask_decoder, inject_video, open_model, write_model
from flowrvs.training.objective import interpolate, sample_timesteps
from flowrvs.training.setup import (
    PreparedData,
    choose_precision,
    open_texts,
    prepare_data,
    prepare_folder,
)
from flowrvs.training.validation import score_held_out

__all__ = ["FlowTrainee", "Trained", "flow_step_loss", "train_flow"]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out of a training.

    Attributes
    ----------
    folder : Path
        ``<out>/model`` or ``<out>/lora``.
    steps : int
        At which the weights were taken.
    scores : dict of str to float
        ``J``, ``F``, ``J&F`` on held-out videos; empty where none were held out.
    card : dict
        As written to ``training.json``.
    """

    folder: Path
    steps: int
    scores: dict[str, float]
    card: dict[str, Any]


def flow_step_loss(
    transformer: torch.nn.Module,
    start: torch.Tensor,
    end: torch.Tensor,
    times: torch.Tensor,
    embeddings: torch.Tensor,
    *,
    inject: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the published loss of one step: MSE(v, x0 - x1).

    Parameters
    ----------
    transformer : Module
        A `WanTransformer3DModel`, or what accelerate wrapped around it.
    start, end : Tensor of float32, shape (B, C, t, h, w)
        ``x0``, the video's latent, normalised, and ``x1``, the masks', as it is.
    times : Tensor, shape (B,)
        1 to 1000.
    embeddings : Tensor, shape (B, L, d_model)
    inject : bool
        Show ``x0`` beside ``x_t`` (DVI).
    dtype : torch.dtype
        What the transformer takes.
    """
    state = interpolate(start, end, times)
    inputs = torch.cat([state, start], dim=1) if inject else state
    velocity = transformer(
        hidden_states=inputs.to(dtype),
        timestep=times,
        encoder_hidden_states=embeddings.to(dtype),
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(velocity.float(), start - end)


class FlowTrainee:
    """The transformer of a pipeline, as `Engine` trains it.

    Parameters
    ----------
    pipeline : FlowRVSPipeline
        Its transformer is trained in place.
    encoder : ClipEncoder
        For samples that are not encoded yet.
    texts : TextBank
    config : FlowConfig
    accelerator : Accelerator
    data : PreparedData
    dtype : torch.dtype
        Of the transformer's inputs.
    """

    def __init__(
        self,
        pipeline: FlowRVSPipeline,
        encoder: ClipEncoder,
        texts: TextBank,
        config: FlowConfig,
        accelerator: Accelerator,
        data: PreparedData,
        dtype: torch.dtype,
    ) -> None:
        self.module: WanTransformer3DModel = pipeline.transformer
        self._pipeline, self._encoder, self._texts = pipeline, encoder, texts
        self._config, self._accelerator, self._data = config, accelerator, data
        self._dtype, self._inject = dtype, pipeline.injects_video
        mean, std = latent_statistics(pipeline.vae)
        self._mean, self._std = mean.to(accelerator.device), std.to(accelerator.device)

    def groups(self, samples: Sequence[Sample | EncodedSample]) -> list[list[EncodedSample]]:
        """Encode what is not encoded; put clips of one size together."""
        by_shape: dict[torch.Size, list[EncodedSample]] = {}
        for sample in samples:
            encoded = self._encoder.encode(sample) if isinstance(sample, Sample) else sample
            by_shape.setdefault(encoded.target.shape, []).append(encoded)
        return list(by_shape.values())

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
        return flow_step_loss(
            module,
            start,
            end,
            torch.cat(times).to(device),
            self._texts.get([sample.text for sample in group], device, self._dtype),
            inject=self._inject,
            dtype=self._dtype,
        )

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
        try:
            return score_held_out(self._pipeline, self._data.held_out, self._accelerator)
        finally:
            self._pipeline.vae.to(place)


def train_flow(
    model: str | Path,
    data: Sequence[str | Path],
    out: str | Path,
    config: FlowConfig | None = None,
    *,
    weights: Sequence[float] | None = None,
    cache: str | Path | None = None,
    name: str | None = None,
    device: str = "auto",
    target: Path | None = None,
    resume: bool = False,
    keep_on_cancel: bool = False,
    tensorboard: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
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
    cache : path-like, optional
        Encode clips beforehand, once, into this folder; then the transformer trains alone.
    name : str, optional
        Name of the result, the provenance of its masks; that of the folder by default.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, …
    target : Path, optional
        Folder of the result, instead of ``<out>/model`` or ``<out>/lora``.
    resume : bool
        Go on from the newest checkpoint in `out`.
    keep_on_cancel : bool
        When cancelled, return the best state so far if a validation found one.
    tensorboard : bool
        Write events for TensorBoard, too.
    progress : callable, optional
        Receives a `Progress` at every step.
    cancel : CancelToken, optional
        Checked at every step; the state is saved before `Cancelled` is raised.

    Returns
    -------
    Trained

    Raises
    ------
    FlowRVSError
        In one line: bad data or options, no room on disk or device, a loss that is not finite.
    """
    config = config or FlowConfig()
    out = Path(out).expanduser()
    prepare_folder(out, resume)
    precision = choose_precision(config.precision, device)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    accelerator = make_accelerator(precision, device)
    base, pipeline = open_model(model, dtype)
    pipeline.vae.to(accelerator.device)
    use_fast_layers(pipeline.vae)
    prepared = prepare_data(
        data, config, pipeline, weights=weights, variants=config.cache_variants if cache else 0
    )
    kept = Path(cache).expanduser() if cache else out / "cache"
    texts = open_texts(base, pipeline, kept, dtype, prepared.texts(), accelerator, progress, cancel)
    encoder = ClipEncoder(pipeline.vae)
    dataset: Any = prepared.train
    if cache:
        key = f"{fingerprint(base / 'vae')}-{str(dtype).removeprefix('torch.')}"
        dataset = CachedData(prepared.train, LatentCache(kept / f"latents-{key}"))
        _fill(dataset, encoder, config, accelerator, progress, cancel)
        pipeline.vae.to("cpu")
    _prepare_transformer(pipeline, config)
    trainee = FlowTrainee(pipeline, encoder, texts, config, accelerator, prepared, dtype)
    pipeline.transformer.to(accelerator.device)
    engine = Engine(
        trainee,
        dataset,
        prepared.train.epoch_length,
        config,
        out,
        accelerator,
        identity={"stage": "flow", "data": prepared.identity, "precision": precision},
        tensorboard=tensorboard,
        progress=progress,
        cancel=cancel,
    )
    if resume:
        engine.resume()
    try:
        engine.run()
    except Cancelled:
        if not keep_on_cancel or engine.checkpoints.load_best() is None:
            raise
    trained, facts = engine.result()
    card = {
        "name": name or out.absolute().name,
        "stage": "flow",
        "base": str(base),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "flowrvs": __version__,
        **prepared.card(),
        **facts,
    }
    folder = target or out / ("lora" if config.lora_rank else "model")
    if accelerator.is_main_process:
        transformer = accelerator.unwrap_model(engine.module)
        if config.lora_rank:
            save_adapter(transformer, trained, folder, card)
        else:
            transformer.load_state_dict(trained, strict=False)
            changed = {"transformer": transformer}
            if not has_mask_decoder(base):
                changed["vae"] = pipeline.vae.to("cpu")
            write_model(base, folder, pipeline, changed, card)
    accelerator.wait_for_everyone()
    scores = {key: float(value) for key, value in facts.items() if key in ("J", "F", "J&F")}
    return Trained(folder, int(facts["step"]), scores, card)


def _prepare_transformer(pipeline: FlowRVSPipeline, config: FlowConfig) -> None:
    transformer = pipeline.transformer
    if config.video_injection:
        transformer = inject_video(transformer)
        pipeline.register_modules(transformer=transformer)
        pipeline.injects_video = True
    transformer.requires_grad_(True)
    if config.lora_rank:
        add_adapter(transformer, config.lora_rank, config.lora_alpha, config.seed)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()


def _fill(
    dataset: CachedData,
    encoder: ClipEncoder,
    config: FlowConfig,
    accelerator: Accelerator,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> None:
    """Encode what the training will ask for, shared by the processes."""
    batch = config.batch_size * accelerator.num_processes
    steps = max(1, dataset.data.epoch_length // batch) * config.epochs
    if config.max_steps:
        steps = min(steps, config.max_steps)
    draws, total = needed_draws(
        dataset.data, steps * batch, accelerator.process_index, accelerator.num_processes
    )
    fill_cache(draws, total, dataset.cache, encoder, progress=progress, cancel=cancel)
    accelerator.wait_for_everyone()
