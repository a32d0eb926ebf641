"""`improve`: a model that learns from a person's corrections, without any settings.

What would be used is counted first (`plan_improvement`); then adapters (on a GPU) or all weights
(of the bundled model) are trained within a number of minutes, the best state on held-out videos
is kept, also when it is cancelled, and put where models are found by name, beside the old ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowrvs.checkpoints import models_home
from flowrvs.errors import InputError
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.config import FlowConfig, build_config
from flowrvs.training.flow import Trained, flow_step_loss, train_flow
from flowrvs.training.models import open_model
from flowrvs.training.setup import PreparedData, choose_precision, prepare_data

__all__ = ["Improvement", "improve", "plan_improvement", "training_bytes"]

#: Videos of the synthetic world that the bundled model rehearses while it learns others.
_REHEARSAL = 24
_REHEARSAL_SEED = 70_000  # apart from the seeds of tests, demos and its own training


@dataclass(frozen=True, slots=True)
class Improvement:
    """What an improvement would use and take.

    Attributes
    ----------
    model : str
        What it starts from.
    videos, sentences, objects, frames : int
        That are trained on: frames are counted once for every object that they show.
    held_out_videos, held_out_sentences : int
        That are kept apart and scored.
    left_out : dict of str to int
        What cannot be used, by reason in words.
    steps : int
        That fit into the time.
    seconds : float
        Expected, from a step that was timed on this machine; validation included.
    memory : int
        Bytes on the device, expected.
    config : FlowConfig
        The options of the training.
    """

    model: str
    videos: int
    sentences: int
    objects: int
    frames: int
    held_out_videos: int
    held_out_sentences: int
    left_out: dict[str, int]
    steps: int
    seconds: float
    memory: int
    config: FlowConfig


def plan_improvement(
    data: Sequence[str | Path],
    *,
    model: str | Path = "tiny",
    minutes: float = 20.0,
    device: str = "auto",
) -> Improvement:
    """Count what an improvement would use, and estimate what it takes.

    Parameters
    ----------
    data : sequence of path-like
        Projects, folders of projects, or datasets.
    model : str or path-like
        What to start from.
    minutes : float
        How long it may train.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, …

    Returns
    -------
    Improvement

    Raises
    ------
    FlowRVSError
        There is nothing to train on, or no such model.
    """
    if not 0 < minutes < 1e5:
        raise InputError(f"{minutes:g} minutes is no time to train in; give a number above 0.")
    precision = choose_precision("auto", device)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    _, pipeline = open_model(model, dtype)
    config = _config(pipeline)
    prepared = prepare_data(data, config, pipeline)
    place = _device(device)
    pace = _time_step(pipeline, config, place, dtype) * config.batch_size
    steps = max(10, round(60 * minutes / pace * 0.8))  # a fifth for validation and the rest
    every = max(5, steps // 10)
    config = dataclasses.replace(config, max_steps=steps, validate_every=every, save_every=every)
    return Improvement(
        model=str(model),
        **_count(prepared),
        steps=steps,
        seconds=pace * steps / 0.8,
        memory=training_bytes(pipeline, config, dtype),
        config=config,
    )


def improve(
    data: Sequence[str | Path],
    *,
    name: str,
    model: str | Path = "tiny",
    minutes: float = 20.0,
    device: str = "auto",
    rehearse: bool = True,
    home: Path | None = None,
    plan: Improvement | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Trained:
    """Train a model on a person's corrections and put it beside the others.

    Parameters
    ----------
    data, model, minutes, device
        See `plan_improvement`.
    name : str
        Under which the result is found: a folder in `home`.
    rehearse : bool
        Let the bundled model see its own world half of the time, so that it forgets less.
    home : Path, optional
        `flowrvs.checkpoints.models_home` by default.
    plan : Improvement, optional
        What `plan_improvement` gave, so that it is not made again.
    resume : bool
        Go on with an improvement of this name that was stopped.
    progress, cancel
        See `flowrvs.progress`. When it is cancelled after its first validation, the best state
        so far comes out.

    Returns
    -------
    Trained
        Its folder is ``<home>/<name>``; `model` is untouched.

    Raises
    ------
    Cancelled
        Before there was anything to keep.
    FlowRVSError
        Nothing to train on, a name that is taken, no room.
    """
    home = home or models_home()
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"{name!r} is no name for a model; give one without '/' or leading '.'.")
    target = home / name
    if target.exists() and not resume:
        raise InputError(f"{target} is there already; choose another name.")
    plan = plan or plan_improvement(data, model=model, minutes=minutes, device=device)
    work = home / f".{name}.training"
    paths, weights = [*data], None
    if rehearse and str(model) == "tiny":
        paths.append(_rehearsal(home / ".rehearsal"))
        weights = [*[0.5 / len(data)] * len(data), 0.5]
    return train_flow(
        model,
        paths,
        work,
        plan.config,
        weights=weights,
        name=name,
        device=device,
        target=target,
        resume=resume,
        keep_on_cancel=True,
        progress=progress,
        cancel=cancel,
    )


def training_bytes(pipeline: FlowRVSPipeline, config: FlowConfig, dtype: torch.dtype) -> int:
    """Estimate the device memory of a training step, in bytes.

    Weights, gradients, AdamW's two averages, the averaged weights in 32 bits, and activations by
    the number of tokens; within a fifth of the trace of ``benchmarks/training_memory.py``.
    """
    transformer, vae = pipeline.transformer, pipeline.vae
    layers = len(transformer.blocks)
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    inner = transformer.config.ffn_dim
    weights = sum(p.numel() for p in transformer.parameters())
    size = dtype.itemsize
    trained, own = weights, size
    if config.lora_rank:
        trained, own = layers * config.lora_rank * (16 * width + 2 * (width + inner)), 4
    latents = 1 + (config.frames - 1) // 4
    area = (config.short_side or pipeline.config.sample_height) * (
        config.long_side or pipeline.config.sample_width
    )
    tokens = latents * area // pipeline.token_pixels**2
    kept = layers + (60 if config.lora_rank else 20)
    if not config.gradient_checkpointing:
        kept = layers * (50 if config.lora_rank else 42)
    activations = tokens * width * size * kept
    state = trained * (own + 2 * own + (4 if config.ema_decay else 0))
    encoder = sum(p.numel() for p in vae.parameters()) * size
    # A clip is encoded before the step: the two never need their activations together.
    encoding = 80 * area // int(vae.config.patch_size or 1) ** 2 * int(vae.config.base_dim) * size
    return int(weights * size + state + encoder + max(activations, encoding))


def _config(pipeline: FlowRVSPipeline) -> FlowConfig:
    """Options for a model of this size: adapters for large ones, all weights of small ones."""
    large = sum(p.numel() for p in pipeline.transformer.parameters()) > 10**8
    if large:
        return build_config(FlowConfig, preset="corrections", lora_rank=32)
    return build_config(
        FlowConfig,
        preset="corrections",
        batch_size=4,
        learning_rate=3e-4,
        gradient_checkpointing=False,
        boundary_probability=0.8,
        workers=0,
        crop_probability=0.0,
        warmup=20,
    )


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _time_step(
    pipeline: FlowRVSPipeline, config: FlowConfig, device: torch.device, dtype: torch.dtype
) -> float:
    """Seconds of a forward and backward pass of one clip; the second of two."""
    transformer = pipeline.transformer.to(device).requires_grad_(True)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    cells = pipeline.token_pixels // int(transformer.config.patch_size[1])
    shape = (
        1,
        int(transformer.config.out_channels),
        1 + (config.frames - 1) // 4,
        int(pipeline.config.sample_height) // cells,
        int(pipeline.config.sample_width) // cells,
    )
    start = torch.zeros(shape, device=device)
    text = torch.zeros(
        1, int(pipeline.config.max_sequence_length), int(transformer.config.text_dim)
    ).to(device)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        loss = flow_step_loss(
            transformer,
            start,
            start,
            torch.full((1,), 1000.0, device=device),
            text,
            inject=pipeline.injects_video,
            dtype=dtype,
        )
        loss.backward()
        float(loss.detach())  # waits for a GPU
        seconds = time.perf_counter() - began
        transformer.zero_grad(set_to_none=True)
    # Reading and encoding the clip, and the optimizer, take about as long again.
    return 2 * seconds


def _count(prepared: PreparedData) -> dict[str, Any]:
    """Count what is trained on and what is held out."""
    videos = sentences = frames = 0
    objects: set[tuple[int, str, int]] = set()
    for index, entry in enumerate(prepared.train.entries):
        for place in {int(row[0]) for row in entry.rows}:
            video = entry.source.videos[place]
            shown: dict[int, set[int]] = {}
            for sentence in video.sentences:
                for number in sentence.objects:
                    shown.setdefault(number, set()).update(sentence.frames)
            videos += 1
            sentences += len(video.sentences)
            objects |= {(index, video.name, number) for number in shown}
            frames += sum(len(found) for found in shown.values())
    card = prepared.card()
    return {
        "videos": videos,
        "sentences": sentences,
        "objects": len(objects),
        "frames": frames,
        "held_out_videos": len({(i.source.label, i.video.name) for i in prepared.held_out}),
        "held_out_sentences": len(prepared.held_out),
        "left_out": card["left_out"],
    }


def _rehearsal(folder: Path) -> Path:
    """Return a split of the bundled model's own world; made once."""
    from flowrvs.data.synthetic import write_split

    if not (folder / "mask_dict.json").is_file():
        for _ in write_split(folder, videos=_REHEARSAL, seed=_REHEARSAL_SEED):
            pass
    return folder
