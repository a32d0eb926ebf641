"""Settings of a training from random weights on the synthetic world (``train scratch``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowrvs.errors import InputError
from flowrvs.training.options import make_config, read_toml

__all__ = ["FlowStage", "Phase", "ScratchConfig", "VaeStage", "load_scratch_config"]


def _ranged(default: Any, low: float, high: float | None = None) -> Any:
    """Declare a field with the inclusive bounds that a file's value is checked by."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Phase:
    """A stretch of training on clips of one length.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    frames : int
        Frames per clip, 4k + 1.
    batch : int
        Clips (for the flow: pairs of a clip and a sentence) per step.
    height, width : int
        Crop in pixels; 0 takes whole frames.
    refresh : float
        Newly encoded clips per step (the flow only).
    """

    steps: int
    frames: int
    batch: int
    height: int = _ranged(0, 0, 96)  # what a scene has
    width: int = _ranged(0, 0, 160)
    refresh: float = _ranged(1.0, 0)


@dataclass(frozen=True)
class VaeStage:
    """Stage 1: the VAE on frames and masks, then the mask decoder alone.

    Attributes
    ----------
    phases : tuple of Phase
        The VAE: single frames first (about three times quicker), clips after.
    mask_phases : tuple of Phase
        The mask decoder, encoder frozen (paper, section on VAE tuning).
    learning_rate, mask_learning_rate : float
        Peak rates, after a warm-up of `warmup` steps, decaying with a cosine.
    kl_weight : float
        Weight of the KL term, per latent value.
    mask_share : float
        Share of the samples that are masks instead of pictures, 0 to 1.
    latent_noise : float
        Standard deviation of extra noise on the latents that the mask decoder sees,
        in latent units: the flow's predictions are never exact.
    autocast : bool
        Compute in bfloat16 where that is quicker.
    seed, save_every, log_every : int
        Random seed; steps between checkpoints and between log lines.
    """

    phases: tuple[Phase, ...] = ()
    mask_phases: tuple[Phase, ...] = ()
    learning_rate: float = _ranged(1.5e-3, 0, 1)
    mask_learning_rate: float = _ranged(1.0e-3, 0, 1)
    warmup: int = _ranged(50, 0)
    kl_weight: float = _ranged(2.0e-4, 0)
    mask_share: float = _ranged(0.34, 0, 1)
    latent_noise: float = _ranged(0.1, 0)
    autocast: bool = True
    seed: int = _ranged(0, 0)
    save_every: int = _ranged(200, 1)
    log_every: int = _ranged(25, 1)


@dataclass(frozen=True)
class FlowStage:
    """Stage 2: the transformer (and, from random weights, the text encoder).

    Attributes
    ----------
    phases : tuple of Phase
        Single frames first (as the paper starts with RefCOCO images), clips after.
    decoder_phases : tuple of Phase
        At the end, the mask decoder on the flow's own predictions.
    learning_rate, weight_decay, clip_norm : float
        AdamW's; paper: 5e-5, 5e-4, 1.0. Random weights want a larger rate.
    matrix_learning_rate : float
        Above 0, the blocks' matrices are trained with Muon at this rate instead.
    warmup : int
        Steps of linear warm-up; a cosine decay to a tenth follows.
    ema_decay : float
        Decay of the averaged weights that are saved (paper: 0.9999).
    boundary_probability : float
        Boundary-biased sampling (BBS): share of samples at t = 1000 (paper: 0.5).
    time_power : float
        Exponent bias of the other times, ``u ** (1 / (1 + time_power))`` (paper: 0).
    start_point_augmentation : bool
        Sample the video latent instead of taking its mean (SPA).
    video_injection : bool
        Give the transformer the video latent as further channels (DVI).
    object_weight : float
        Extra loss weight where any object of the scene is; 0 is the paper's loss.
    attribute_weight : float
        Weight of the attribute head (`flowrvs.training.scratch.attributes`); 0 leaves it out.
    attribute_block : int
        Index of the transformer block whose input the attribute head reads.
    train_text_encoder : bool
        Train the text encoder too; needed when it starts from random weights.
    pool_size : int
        Encoded clips kept in memory.
    expressions : int
        Sentences per clip.
    autocast, compile : bool
        Compute in bfloat16 where that is quicker; compile the transformer's blocks.
    seed, save_every, log_every : int
        Random seed; steps between checkpoints and between log lines.
    initial : str
        Folder of a pipeline to start from; random weights when empty.
    """

    phases: tuple[Phase, ...] = ()
    decoder_phases: tuple[Phase, ...] = ()
    learning_rate: float = _ranged(5.0e-5, 0, 1)
    weight_decay: float = _ranged(5.0e-4, 0, 1)
    clip_norm: float = _ranged(1.0, 0)
    matrix_learning_rate: float = _ranged(0.0, 0, 1)
    warmup: int = _ranged(100, 0)
    ema_decay: float = _ranged(0.9999, 0, 1)
    boundary_probability: float = _ranged(0.5, 0, 1)
    time_power: float = _ranged(0.0, 0, 100)
    start_point_augmentation: bool = True
    video_injection: bool = False
    object_weight: float = _ranged(0.0, 0)
    attribute_weight: float = _ranged(0.0, 0)
    attribute_block: int = _ranged(3, 0)
    train_text_encoder: bool = False
    pool_size: int = _ranged(1000, 1)
    expressions: int = _ranged(10, 1)
    autocast: bool = True
    compile: bool = False
    seed: int = _ranged(0, 0)
    save_every: int = _ranged(200, 1)
    log_every: int = _ranged(25, 1)
    initial: str = ""


@dataclass(frozen=True)
class ScratchConfig:
    """A training from random weights, VAE and all.

    Attributes
    ----------
    out : str
        Folder for checkpoints and the result, ``<out>/model``.
    vae, flow : VaeStage, FlowStage
        The two stages.
    preset : str
        Key of `flowrvs.models.presets.PRESETS`.
    name : str
        Name of the result, the provenance of its masks.
    half_precision : bool
        Save the result in float16: half the size, rounding below 1e-3.
    """

    out: str
    vae: VaeStage = VaeStage()
    flow: FlowStage = FlowStage()
    preset: str = "tiny"
    name: str = "flowrvs"
    half_precision: bool = False


def load_scratch_config(path: str | Path) -> ScratchConfig:
    """Read a TOML file with the tables ``[vae]`` and ``[flow]``.

    Raises
    ------
    MissingPathError
        There is no such file.
    InputError
        It is not TOML, has unknown keys or values that cannot be, or lacks one.
    """
    from flowrvs.models.presets import PRESETS

    config = make_config(ScratchConfig, read_toml(path), str(path))
    if config.preset not in PRESETS:
        raise InputError(f"{path}: no preset {config.preset!r}; choose from {', '.join(PRESETS)}.")
    stages = (config.vae.phases, config.vae.mask_phases, config.flow.phases)
    for phase in (p for stage in (*stages, config.flow.decoder_phases) for p in stage):
        if bool(phase.height) != bool(phase.width):
            raise InputError(f"{path}: bad phase {phase}: give both height and width, or neither.")
        if phase.frames % 4 != 1 or min(phase.steps, phase.batch) < 1:
            raise InputError(
                f"{path}: bad phase {phase}: frames must be 4k + 1, steps and batch at least 1."
            )
    drawn = (*config.vae.phases, *config.vae.mask_phases, *config.flow.decoder_phases)
    if longest := max((phase.frames for phase in drawn if phase.frames > 33), default=0):
        raise InputError(f"{path}: {longest} frames; scenes of the VAE have 33 at most.")
    layers = PRESETS[config.preset].transformer["num_layers"]
    if config.flow.attribute_weight and config.flow.attribute_block >= layers:
        raise InputError(
            f"{path}: attribute_block is {config.flow.attribute_block}; the transformer has "
            f"{layers} blocks, the first is 0."
        )
    return config
