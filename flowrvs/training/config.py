"""Settings of the two training stages, read from TOML files.

``flowrvs train vae --config FILE`` reads a :class:`VaeConfig`, ``flowrvs train flow
--config FILE`` a :class:`FlowConfig`. Unknown keys are refused, so that a typing
error does not silently train something else.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flowrvs.errors import InputError, MissingPathError

__all__ = ["FlowConfig", "Phase", "VaeConfig", "load_config"]

_Config = TypeVar("_Config", "VaeConfig", "FlowConfig")


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
    height: int = 0
    width: int = 0
    refresh: float = 1.0


@dataclass(frozen=True)
class VaeConfig:
    """Stage 1: the VAE on frames and masks, then the mask decoder alone.

    Attributes
    ----------
    out : str
        Folder for checkpoints and the finished VAE.
    preset : str
        Key of `flowrvs.models.presets.PRESETS`.
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

    out: str
    preset: str = "tiny"
    phases: tuple[Phase, ...] = ()
    mask_phases: tuple[Phase, ...] = ()
    learning_rate: float = 1.5e-3
    mask_learning_rate: float = 1.0e-3
    warmup: int = 50
    kl_weight: float = 2.0e-4
    mask_share: float = 0.34
    latent_noise: float = 0.1
    autocast: bool = True
    seed: int = 0
    save_every: int = 200
    log_every: int = 25


@dataclass(frozen=True)
class FlowConfig:
    """Stage 2: the transformer (and, from random weights, the text encoder).

    Attributes
    ----------
    out : str
        Folder for checkpoints and the finished pipeline.
    vae : str
        Folder of the VAE that stage 1 made.
    preset : str
        Key of `flowrvs.models.presets.PRESETS`.
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
        Weight of the attribute head (`flowrvs.training.attributes`); 0 leaves it out.
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
    name : str
        Name of the finished pipeline, the provenance of its masks.
    half_precision : bool
        Save the finished pipeline in float16: half the size, rounding below 1e-3.
    """

    out: str
    vae: str
    preset: str = "tiny"
    phases: tuple[Phase, ...] = ()
    decoder_phases: tuple[Phase, ...] = ()
    learning_rate: float = 5.0e-5
    weight_decay: float = 5.0e-4
    clip_norm: float = 1.0
    matrix_learning_rate: float = 0.0
    warmup: int = 100
    ema_decay: float = 0.9999
    boundary_probability: float = 0.5
    time_power: float = 0.0
    start_point_augmentation: bool = True
    video_injection: bool = False
    object_weight: float = 0.0
    attribute_weight: float = 0.0
    attribute_block: int = 3
    train_text_encoder: bool = False
    pool_size: int = 1000
    expressions: int = 10
    autocast: bool = True
    compile: bool = False
    seed: int = 0
    save_every: int = 200
    log_every: int = 25
    initial: str = ""
    name: str = "flowrvs"
    half_precision: bool = False


def load_config(path: str | Path, kind: type[_Config]) -> _Config:
    """Read a TOML file into a config.

    Parameters
    ----------
    path : path-like
        The TOML file.
    kind : type
        `VaeConfig` or `FlowConfig`.

    Raises
    ------
    MissingPathError
        There is no such file.
    InputError
        It is not TOML, has unknown keys, or lacks one that is needed.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingPathError(
            f"No config file at {path}; see the examples in flowrvs/training/configs."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file ({error}); correct that line.") from None
    known = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(
            f"{path} has unknown keys {', '.join(unknown)}; known ones: {', '.join(known)}."
        )
    missing = [
        name
        for name, item in known.items()
        if name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; add a line for each.")
    try:
        for key in ("phases", "mask_phases", "decoder_phases"):
            if key in values:
                values[key] = tuple(_phase(item) for item in values[key])
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{path} cannot be used: {error}.") from None


def _phase(item: dict[str, Any]) -> Phase:
    phase = Phase(**item)
    if phase.frames % 4 != 1 or phase.steps < 1 or phase.batch < 1:
        raise InputError(f"Bad phase {item}: frames must be 4k + 1, steps and batch at least 1.")
    return phase
