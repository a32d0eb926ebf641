"""Settings of a training from random weights on the synthetic world (``train scratch``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flowrvs.errors import InputError
from flowrvs.training.options import make_config, option, read_toml

__all__ = ["TABLES", "FlowStage", "Phase", "ScratchConfig", "VaeStage", "load_scratch_config"]


@dataclass(frozen=True)
class Phase:
    """A stretch of training on clips of one length. See `list_options`.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    frames : int
        Frames per clip, 4k + 1.
    batch : int
        Clips (for the flow: pairs of a clip and a sentence) per step.
    """

    steps: int
    frames: int
    batch: int
    height: int = option(0, "pixels of a part that is seen (the VAE); 0: all", low=0, high=96)
    width: int = option(0, "as height; give both or neither", low=0, high=160)
    refresh: float = option(1.0, "newly encoded clips a step (the flow)", low=0)


@dataclass(frozen=True)
class VaeStage:
    """Stage 1: the VAE on frames and masks, then the mask decoder alone. See `list_options`.

    Attributes
    ----------
    phases : tuple of Phase
        The VAE: single frames first (about three times quicker), clips after.
    mask_phases : tuple of Phase
        The mask decoder, encoder frozen (paper, section on VAE tuning).
    """

    phases: tuple[Phase, ...] = ()
    mask_phases: tuple[Phase, ...] = ()
    learning_rate: float = option(
        1.5e-3, "peak rate of the VAE, after the warm-up; a cosine decay follows", low=0, high=1
    )
    mask_learning_rate: float = option(1.0e-3, "peak rate of the mask decoder", low=0, high=1)
    warmup: int = option(50, "steps over which each rate rises from zero", low=0)
    kl_weight: float = option(2.0e-4, "weight of the KL term, per latent value", low=0)
    mask_share: float = option(
        0.34, "share of the samples that are masks instead of pictures", low=0, high=1
    )
    latent_noise: float = option(
        0.1,
        "deviation of extra noise on the latents that the mask decoder sees, in latent units: the "
        "flow's predictions are never exact",
        low=0,
    )
    autocast: bool = option(True, "compute in bfloat16 where that is quicker")
    seed: int = option(0, "of every choice", low=0)
    save_every: int = option(200, "steps between two checkpoints", low=1)
    log_every: int = option(25, "steps between two lines of the log", low=1)


@dataclass(frozen=True)
class FlowStage:
    """Stage 2: the transformer (and, from random weights, the text encoder). See `list_options`.

    Attributes
    ----------
    phases : tuple of Phase
        Single frames first (as the paper starts with RefCOCO images), clips after.
    decoder_phases : tuple of Phase
        At the end, the mask decoder on the flow's own predictions.
    """

    phases: tuple[Phase, ...] = ()
    decoder_phases: tuple[Phase, ...] = ()
    learning_rate: float = option(
        5.0e-5,
        "AdamW's peak rate; the paper fine-tunes with 5e-5, random weights want more",
        low=0,
        high=1,
    )
    weight_decay: float = option(5.0e-4, "AdamW's weight decay", low=0, high=1)
    clip_norm: float = option(1.0, "largest norm of the gradient", low=0)
    matrix_learning_rate: float = option(
        0.0, "peak rate of the blocks' matrices with Muon; 0: AdamW for all", low=0, high=1
    )
    warmup: int = option(
        100,
        "steps over which the rates rise from zero; a cosine decay to a twentieth follows",
        low=0,
    )
    ema_decay: float = option(
        0.9999, "decay of the averaged weights that are saved (paper: 0.9999)", low=0, high=1
    )
    boundary_probability: float = option(
        0.5, "boundary-biased sampling (BBS): share of samples at t = 1000", low=0, high=1
    )
    time_power: float = option(
        0.0, "bias of the other times towards 1000: u ** (1 / (1 + power))", low=0, high=100
    )
    start_point_augmentation: bool = option(
        True, "SPA: sample the video's latent instead of taking its mean"
    )
    video_injection: bool = option(False, "DVI: show the video's latent beside the state")
    object_weight: float = option(
        0.0, "extra weight of the loss where any object of the scene is; 0: as published", low=0
    )
    attribute_weight: float = option(
        0.0, "weight of the head that names attributes of tokens; 0: none", low=0
    )
    attribute_block: int = option(
        3, "block of the transformer whose input that head reads, from 0", low=0
    )
    train_text_encoder: bool = option(
        False, "train the text encoder, too; needed when it starts from random weights"
    )
    pool_size: int = option(1000, "encoded clips that are kept in memory", low=1)
    expressions: int = option(10, "sentences a clip", low=1)
    autocast: bool = option(True, "compute in bfloat16 where that is quicker")
    compile: bool = option(False, "compile the transformer's blocks")
    seed: int = option(0, "of every choice", low=0)
    save_every: int = option(200, "steps between two checkpoints", low=1)
    log_every: int = option(25, "steps between two lines of the log", low=1)
    initial: str = option("", "folder of a model to start from; random weights when empty")


@dataclass(frozen=True)
class ScratchConfig:
    """A training from random weights, VAE and all. See `list_options`.

    Attributes
    ----------
    out : str
        Folder for checkpoints and the result, ``<out>/model``.
    vae, flow : VaeStage, FlowStage
        The two stages.
    """

    out: str
    vae: VaeStage = VaeStage()
    flow: FlowStage = FlowStage()
    preset: str = option("tiny", "sizes of the model: production, tiny, micro")
    name: str = option("flowrvs", "name of the result, the provenance of its masks")
    half_precision: bool = option(
        False, "save the result in float16: half the size, rounding below 1e-3"
    )


#: Classes by the table of a file that holds their options.
TABLES: dict[str, type] = {
    "": ScratchConfig,
    "[vae]": VaeStage,
    "[flow]": FlowStage,
    "[[vae.phases]], [[vae.mask_phases]], [[flow.phases]], [[flow.decoder_phases]]": Phase,
}


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
