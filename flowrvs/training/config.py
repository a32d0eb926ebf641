"""The options of ``flowrvs train decoder`` and ``flowrvs train flow``, and their presets.

``paper`` holds the values of the published training (arXiv 2510.06139 and its public code).
The defaults are those values but for what a fine-tuning on few clips wants otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flowrvs.errors import InputError
from flowrvs.training.options import make_config, option, parse_setting, read_toml

__all__ = ["PRESETS", "CommonConfig", "DecoderConfig", "FlowConfig", "build_config"]

_Config = TypeVar("_Config", bound="CommonConfig")


@dataclass(frozen=True)
class CommonConfig:
    """What both trainings have: clips, optimisation, checkpoints. See `list_options`."""

    # What the decoder, which sees masks alone, has no use for: options of the flow only.
    colour_probability = ground_colour_probability = 0.0
    matrix_learning_rate = word_learning_rate = 0.0

    # clips
    frames: int = option(17, "frames of a clip, 4k + 1", low=1)
    sampler: str = option(
        "sparse",
        "sparse: an anchor, a frame 1 to 3 before and after it, the rest from anywhere, as "
        "published; consecutive: neighbouring frames, as the model is used; mixed: half and half",
        choices=("sparse", "consecutive", "mixed"),
    )
    short_side: int = option(0, "pixels of the short side; 0: the model's box", low=0)
    long_side: int = option(0, "pixels of the long side at most; 0: the model's box", low=0)
    size_multiple: int = option(
        0, "sides are cut to multiples of it; 0: of a token of the model", low=0
    )
    crop_probability: float = option(
        0.5, "share of clips of which a part is taken, as published", low=0, high=1
    )
    flip_probability: float = option(
        0.5, "share of clips mirrored, left and right exchanged in the sentence", low=0, high=1
    )
    no_target: bool = option(
        True, "train on clips where nothing is meant; the published loader replaces them"
    )
    project_frames: str = option(
        "confirmed",
        "of projects, only frames that a person drew, accepted or locked, or all of them",
        choices=("confirmed", "all"),
    )
    split: str = option("train", "part of RefCOCO, RefCOCO+ and RefCOCOg to train on")
    workers: int = option(2, "processes that read and prepare clips", low=0, high=64)
    # optimisation
    batch_size: int = option(1, "clips a step in each process", low=1)
    epochs: int = option(50, "passes over the data at most", low=1)
    max_steps: int = option(0, "optimiser steps at most; 0: as many as the epochs have", low=0)
    minutes: float = option(
        0.0,
        "minutes that it may take: at each validation the number of steps is set to what fits, "
        "max_steps is a first guess; 0: as many as max_steps",
        low=0,
    )
    learning_rate: float = option(5e-5, "AdamW's learning rate", low=0, high=1)
    weight_decay: float = option(5e-4, "AdamW's weight decay", low=0, high=1)
    clip_norm: float = option(1.0, "largest norm of the gradient", low=0)
    warmup: int = option(0, "steps over which the rate rises from zero", low=0)
    cooldown: float = option(
        0.0, "share of the steps, the last ones, over which the rate falls to zero", low=0, high=1
    )
    milestones: tuple[int, ...] = option((30,), "epochs after which the rate is multiplied", low=1)
    gamma: float = option(0.9, "by what it is multiplied then", low=0, high=1)
    ema_decay: float = option(
        0.9999, "decay of the averaged weights, kept in float32; 0: no average", low=0, high=1
    )
    precision: str = option(
        "auto",
        "bfloat16: weights in 16 bits, as published; mixed: weights in 32, computed in 16 bits; "
        "auto: bfloat16 on a GPU that has it, else float32",
        choices=("auto", "bfloat16", "mixed", "float32"),
    )
    seed: int = option(42, "of every choice", low=0)
    # validation, checkpoints, log
    validation_share: float = option(
        0.1, "share of the videos that is held out and scored; 0: none", low=0, high=0.9
    )
    validation_sentences: int = option(24, "held-out sentences that are scored at most", low=1)
    validate_every: int = option(500, "steps between two validations", low=1)
    validate_first: bool = option(False, "score before the first step, too")
    keep_best: bool = option(True, "the result is the state that was best on held-out videos")
    best_tolerance: float = option(
        0.0,
        "a later state is the best, too, if it scores at most this much lower: scores of few "
        "videos are noisy, and the average at the end of a cooldown is the calmest",
        low=0,
        high=1,
    )
    save_every: int = option(500, "steps between two checkpoints", low=1)
    keep: int = option(2, "checkpoints that are kept", low=1)
    log_every: int = option(10, "steps between two lines of the log", low=1)
    spike_factor: float = option(
        10.0, "stop when the smoothed loss is this many times its lowest value; 0: never", low=0
    )


@dataclass(frozen=True)
class FlowConfig(CommonConfig):
    """Options of ``flowrvs train flow``."""

    colour_probability: float = option(
        0.0, "share of clips with changed brightness, contrast and saturation", low=0, high=1
    )
    ground_colour_probability: float = option(
        0.0,
        "share of clips in which all but what any sentence of the video means gets other colours: "
        "few clips are then not known by their ground",
        low=0,
        high=1,
    )
    cache_variants: int = option(
        4, "with --cache or remember, how many different clips are made of each anchor", low=1
    )
    remember: bool = option(False, "keep encoded clips in memory: for small ones, with workers = 0")
    matrix_learning_rate: float = option(
        0.0,
        "rate of the matrices of the transformer's blocks with Muon, which learns more a step; "
        "0: AdamW for all, as published",
        low=0,
        high=1,
    )
    word_learning_rate: float = option(
        0.0,
        "rate of the words' embeddings with train_text; 0: learning_rate",
        low=0,
        high=1,
    )
    boundary_probability: float = option(
        0.5, "boundary-biased sampling (BBS): share of samples at t = 1000", low=0, high=1
    )
    time_power: float = option(
        0.0, "bias of the other times towards 1000: u ** (1 / (1 + power))", low=0, high=100
    )
    part_probability: float = option(
        0.0,
        "share of samples of which only a part is seen, about two thirds of each side of the "
        "encoded clip: things are elsewhere in it, and the step is quicker",
        low=0,
        high=1,
    )
    ground_probability: float = option(
        0.0,
        "share of samples that are shown on the ground of another clip, around whatever any "
        "sentence of the video means: few clips are then not known by their ground; with "
        "object_weight above 0 and a batch_size of 2 at least",
        low=0,
        high=1,
    )
    cover_probability: float = option(
        0.0,
        "share of samples in which what is meant is covered by the ground of another clip, so that "
        "the sentence means nothing; with object_weight above 0 and a batch_size of 2 at least",
        low=0,
        high=1,
    )
    rehearsal_share: float = option(
        0.5, "share of the samples that rehearse what the model knew (improve)", low=0, high=0.9
    )
    object_weight: float = option(
        0.0,
        "extra weight of the loss where anything is that any sentence of the video means: telling "
        "those apart is the task, and they are a small part of the picture; 0: as published",
        low=0,
    )
    start_point_augmentation: bool = option(
        True, "SPA: sample the video's latent instead of taking its mean"
    )
    video_injection: bool = option(
        False,
        "DVI: show the video's latent beside the state; new channels start at zero, so not with "
        "lora_rank",
    )
    gradient_checkpointing: bool = option(
        True, "compute activations twice instead of keeping them: less memory, a third slower"
    )
    lora_rank: int = option(0, "train adapters of this rank instead of all weights", low=0)
    lora_alpha: int = option(0, "scale of the adapters; 0: their rank", low=0)
    train_text: bool = option(
        False,
        "train the text encoder, too, and give words that it does not know tokens of their own: "
        "for small models with a vocabulary of words",
    )


@dataclass(frozen=True)
class DecoderConfig(CommonConfig):
    """Options of ``flowrvs train decoder``."""

    latent_noise: float = option(
        0.1, "most noise added to the latents: the flow's answers are never exact", low=0
    )


#: Named sets of values over the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "frames": 17,
        "sampler": "sparse",
        "short_side": 480,
        "long_side": 832,
        "size_multiple": 32,
        "crop_probability": 0.5,
        "flip_probability": 0.5,
        "colour_probability": 0.0,
        "no_target": False,
        "batch_size": 1,
        "epochs": 50,
        "learning_rate": 5e-5,
        "weight_decay": 5e-4,
        "clip_norm": 1.0,
        "warmup": 0,
        "milestones": [30],
        "gamma": 0.9,
        "ema_decay": 0.9999,
        "precision": "bfloat16",
        "keep_best": False,
        "boundary_probability": 0.5,
        "time_power": 0.0,
        "object_weight": 0.0,
        "start_point_augmentation": True,
        "gradient_checkpointing": True,
        "lora_rank": 0,
    },
    # Few clips: the whole video is shown in order, as it will be asked for.
    "corrections": {
        "sampler": "mixed",
        "milestones": [],
        "ema_decay": 0.99,
        "learning_rate": 1e-4,
        "max_steps": 1000,
        "validate_every": 100,
        "save_every": 100,
    },
}


def build_config(
    kind: type[_Config],
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    settings: Sequence[str] = (),
    **values: Any,
) -> _Config:
    """Put a config together: the defaults, a preset, a file, the command line, in this order.

    Parameters
    ----------
    kind : type
        `FlowConfig` or `DecoderConfig`.
    preset : str, optional
        A name of `PRESETS`; a file may name one, too, as ``preset``.
    file : path-like, optional
        A TOML file.
    settings : sequence of str
        ``KEY=VALUE`` as typed.
    **values
        Options that are set; None leaves them alone.

    Raises
    ------
    MissingPathError
        There is no such file.
    InputError
        An unknown preset or key, or a value that cannot be.
    """
    from_file = read_toml(file) if file is not None else {}
    named = from_file.pop("preset", None)
    preset = preset if preset is not None else named
    chosen: dict[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise InputError(f"No preset {preset!r}; choose one of {', '.join(PRESETS)}.")
        known = kind.__dataclass_fields__
        chosen |= {key: value for key, value in PRESETS[preset].items() if key in known}
    if from_file:
        make_config(kind, from_file, str(file))  # so that a fault is told of the right place
    typed = dict(parse_setting(kind, text) for text in settings)
    typed |= {key: value for key, value in values.items() if value is not None}
    config = make_config(kind, chosen | from_file | typed, "the options")
    if config.frames % 4 != 1:
        raise InputError(f"frames is {config.frames}; it must be 4k + 1, such as 1, 9 or 17.")
    return config
