"""`improve`: a model that learns from a person's corrections, without any settings.

What would be used is counted first (`plan_improvement`); then adapters (on a GPU) or all weights
(of the bundled model) are trained within a number of minutes, the best state on held-out videos
is kept, also when it is cancelled, and put where models are found by name, beside the old ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from flowrvs.checkpoints import locate, models_home
from flowrvs.checkpoints.registry import is_whole
from flowrvs.data.synthetic import vocabulary
from flowrvs.disk import parse_json, read_regular, write_bytes
from flowrvs.errors import FlowRVSError, InputError
from flowrvs.locks import FileLock
from flowrvs.models.devices import choose_device
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.attention import choose_attention
from flowrvs.training.background import check_name, is_begun, work_folder
from flowrvs.training.config import FlowConfig, build_config
from flowrvs.training.encoded import ClipEncoder
from flowrvs.training.flow import flow_step_loss, train_flow
from flowrvs.training.models import open_model
from flowrvs.training.options import make_config
from flowrvs.training.run import Trained, choose_precision
from flowrvs.training.scratch.loop import mixed_precision
from flowrvs.training.setup import PreparedData, prepare_data
from flowrvs.training.sources.world import WorldSource

__all__ = ["Improvement", "choose_base", "improve", "plan_improvement", "training_bytes"]

#: Scenes of the synthetic world that the bundled model rehearses while it learns others.
_REHEARSED = 400
#: Validations after the one before the first step.
_VALIDATIONS = 6
_POLL_SECONDS = 0.5
#: Share of the time that is for training; the rest is for starting, planning and writing.
_TRAINED = 0.96


@dataclass(frozen=True, slots=True)
class Improvement:
    """What an improvement would use and take.

    Attributes
    ----------
    model : str
        What it starts from.
    note : str
        Why this one, where nobody chose; one line.
    device : str
        "cpu", "cuda" or "mps".
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
    note: str
    device: str
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

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the options."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "config"}


def choose_base(model: str | Path, device: torch.device) -> tuple[str, str]:
    """Choose what "auto" starts from: the official model on a GPU, else the bundled one.

    Returns
    -------
    model : str
        Another `model` is returned as it is.
    note : str
        Why, in one line; empty where nothing was chosen.
    """
    if str(model) != "auto":
        return str(model), ""
    if device.type == "cpu":
        return "tiny", "There is no GPU here: the bundled model learns, which knows shapes only."
    if is_whole("mevis"):
        return "mevis", "The official model gets adapters (LoRA); its weights stay as they are."
    return "tiny", (
        "There is a GPU, but not the official model ('flowrvs models fetch mevis'): the bundled "
        "one learns, which knows shapes only."
    )


def plan_improvement(
    data: Sequence[str | Path],
    *,
    model: str | Path = "auto",
    minutes: float = 20.0,
    device: str = "auto",
    max_steps: int = 0,
) -> Improvement:
    """Count what an improvement would use, and estimate what it takes.

    Parameters
    ----------
    data : sequence of path-like
        Projects, folders of projects, or datasets.
    model : str or path-like
        What to start from; "auto" is `choose_base`.
    minutes : float
        How long it may train.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, …
    max_steps : int
        Steps, instead of as many as fit into the time.

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
    place = choose_device(device)
    model, note = choose_base(model, place)
    _, pipeline = open_model(model, torch.float32)
    config = _config(pipeline)
    variants = config.cache_variants if config.remember else 0
    prepared = prepare_data(data, config, pipeline, variants=variants, rehearsal=_rehearsal(model))
    precision = choose_precision("auto", place.type)
    if precision == "bfloat16" and not config.lora_rank:
        precision = "mixed"  # small steps would be lost in weights of 16 bits
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    pace = _time_step(pipeline, config, place, dtype, mixed=precision == "mixed")
    if place.type == "cpu":
        mixed = _time_step(pipeline, config, place, dtype, mixed=True)
        precision, pace = min((precision, pace), ("mixed", mixed), key=lambda pair: pair[1])
    config = dataclasses.replace(config, precision=precision)
    encoding = _time_encoding(pipeline, config, place)
    steps, seconds = _fit_steps(prepared, config, pace, encoding, 60 * minutes, max_steps)
    every = max(5, -(-steps // _VALIDATIONS))
    config = dataclasses.replace(config, max_steps=steps, validate_every=every, save_every=every)
    if not max_steps:
        config = dataclasses.replace(config, minutes=_TRAINED * minutes)
    return Improvement(
        model=model,
        note=note,
        device=place.type,
        **_count(prepared),
        steps=steps,
        seconds=seconds,
        memory=training_bytes(pipeline, config, dtype),
        config=config,
    )


def improve(
    data: Sequence[str | Path],
    *,
    name: str,
    model: str | Path = "auto",
    minutes: float = 20.0,
    device: str = "auto",
    max_steps: int = 0,
    home: Path | None = None,
    plan: Improvement | None = None,
    planned: Callable[[Improvement], None] | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Trained:
    """Train a model on a person's corrections and put it beside the others.

    Parameters
    ----------
    data, model, minutes, device, max_steps
        See `plan_improvement`. One that goes on has model and time of before.
    name : str
        Under which the result is found: a folder in `home`.
    home : Path, optional
        `flowrvs.checkpoints.models_home` by default.
    plan : Improvement, optional
        What `plan_improvement` gave, so that it is not made again.
    planned : callable, optional
        Receives the plan that is made, before it is carried out.
    resume : bool
        Go on with an improvement of this name that was stopped.
    progress, cancel
        See `flowrvs.progress`. When it is cancelled, the best state so far comes out. A file
        ``cancel`` in ``<home>/.<name>.training`` cancels, too.

    Returns
    -------
    Trained
        Its folder is ``<home>/<name>``; `model` is untouched.

    Raises
    ------
    Cancelled
        Before there was anything to keep.
    TrainingError
        No state was better on held-out videos than the model as it was.
    FlowRVSError
        Nothing to train on, a name that is taken, no room.
    """
    home = home or models_home()
    target = check_name(name, home)
    work = work_folder(name, home)
    if target.exists() and not resume:
        raise InputError(f"{target} is there already; choose another name.")
    if is_begun(work) and not resume:
        raise InputError(f"{name} was begun before: give --resume, or choose another name.")
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        lock = FileLock(work / "lock")
        if not lock.acquire():
            raise InputError(f"{name} is being trained by another process; choose another name.")
        held.callback(lock.release)
        cancel = cancel or CancelToken()
        held.enter_context(_cancelled_by(work / "cancel", cancel))
        if resume:
            model, config = _read_plan(work)
        else:
            for left in ("checkpoints", "cache"):
                shutil.rmtree(work / left, ignore_errors=True)
            for left in ("best.safetensors", "log.jsonl", "example.png"):
                (work / left).unlink(missing_ok=True)
            plan = plan or plan_improvement(
                data, model=model, minutes=minutes, device=device, max_steps=max_steps
            )
            if planned is not None:
                planned(plan)
            model, config = plan.model, plan.config
            facts = plan.as_dict() | {"name": name, "data": [str(Path(p).absolute()) for p in data]}
            document = facts | {"config": dataclasses.asdict(config)}
            write_bytes(work / "plan.json", json.dumps(document, indent=1).encode())
            cancel.raise_if_cancelled()  # it was planned for long
        trained = train_flow(
            model,
            data,
            work,
            config,
            rehearsal=_rehearsal(model),
            name=name,
            device=device,
            target=target,
            examples=work / "example.png",
            resume=resume,
            improving=True,
            progress=progress,
            cancel=cancel,
        )
        for done in ("checkpoints", "cache"):
            shutil.rmtree(work / done, ignore_errors=True)
        (work / "best.safetensors").unlink(missing_ok=True)
    return trained


def _read_plan(work: Path) -> tuple[str, FlowConfig]:
    """Return model and options of an improvement that was begun.

    Raises
    ------
    InputError
        There is none, or its file is damaged.
    """
    try:
        document = parse_json(read_regular(work / "plan.json", 2**24))
        return str(document["model"]), make_config(FlowConfig, document["config"], "plan.json")
    except FileNotFoundError:
        raise InputError(
            f"Nothing to resume: there is no training in {work}; leave out --resume."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, FlowRVSError) as error:
        raise InputError(
            f"{work / 'plan.json'} cannot be read ({error}); train again under another name."
        ) from None


@contextlib.contextmanager
def _cancelled_by(file: Path, token: CancelToken) -> Iterator[None]:
    """Cancel when there is a file: the wish of a window that has no other hold on the process.

    It may have come while torch was imported, or the training planned.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            if file.exists():
                token.cancel()
                return

    watcher = threading.Thread(target=watch, name="cancel-file", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        file.unlink(missing_ok=True)


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
    activations = config.batch_size * tokens * width * size * kept
    state = trained * (own + 2 * own + (4 if config.ema_decay else 0))
    encoder = sum(p.numel() for p in vae.parameters()) * size
    # A clip is encoded before the step: the two never need their activations together.
    encoding = 80 * area // int(vae.config.patch_size or 1) ** 2 * int(vae.config.base_dim) * size
    return int(weights * size + state + encoder + max(activations, encoding))


def _config(pipeline: FlowRVSPipeline) -> FlowConfig:
    """Options for a model of this size: adapters for large ones, all weights of small ones."""
    large = sum(p.numel() for p in pipeline.transformer.parameters()) > 10**8
    common: dict[str, Any] = {"epochs": 10**6, "validate_first": True, "best_tolerance": 0.03}
    if large:
        return build_config(FlowConfig, preset="corrections", lora_rank=32, **common)
    return build_config(
        FlowConfig,
        preset="corrections",
        **common,
        sampler="consecutive",
        batch_size=16,
        learning_rate=5e-4,
        matrix_learning_rate=1e-3,
        word_learning_rate=5e-3,
        warmup=30,
        cooldown=0.8,
        object_weight=4.0,
        part_probability=0.5,
        ground_colour_probability=0.7,
        ground_probability=0.7,
        cover_probability=0.3,
        rehearsal_share=0.33,
        cache_variants=6,
        gradient_checkpointing=False,
        boundary_probability=0.9,
        crop_probability=0.0,
        train_text=True,
        remember=True,
        workers=0,
        log_every=5,
    )


def _time_step(
    pipeline: FlowRVSPipeline,
    config: FlowConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    mixed: bool = False,
) -> float:
    """Seconds of a step of the whole batch, forward and backward; the second of two."""
    transformer = pipeline.transformer.to(device).requires_grad_(True)
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(dtype)
    choose_attention(transformer, device, mixed=mixed)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    cells = pipeline.token_pixels // int(transformer.config.patch_size[1])
    latents = 1 + (config.frames - 1) // 4
    height, width = int(pipeline.config.sample_height), int(pipeline.config.sample_width)
    channels, batch = int(transformer.config.out_channels), config.batch_size
    start = torch.zeros((batch, channels, latents, height // cells, width // cells), device=device)
    words = (batch, int(pipeline.config.max_sequence_length), int(transformer.config.text_dim))
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with mixed_precision(device, mixed):
            loss = flow_step_loss(
                transformer,
                start,
                start,
                torch.full((batch,), 1000.0, device=device),
                inject=pipeline.injects_video,
                dtype=dtype,
                encoder_hidden_states=torch.zeros(words, device=device, dtype=dtype),
            )
        loss.backward()
        float(loss.detach())  # waits for a GPU
        seconds = time.perf_counter() - began
        transformer.zero_grad(set_to_none=True)
    return seconds


def _time_encoding(pipeline: FlowRVSPipeline, config: FlowConfig, device: torch.device) -> float:
    """Seconds of encoding a clip; the second of two."""
    use_fast_layers(pipeline.vae.to(device))
    encoder = ClipEncoder(pipeline.vae, mixed=config.precision == "mixed")
    height, width = int(pipeline.config.sample_height), int(pipeline.config.sample_width)
    clip = np.zeros((config.frames, height, width, 3), np.uint8)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        float(encoder.latent(clip).sum())  # waits for a GPU
        seconds = time.perf_counter() - began
    return seconds


def _fit_steps(
    prepared: PreparedData,
    config: FlowConfig,
    pace: float,
    encoding: float,
    seconds: float,
    steps: int = 0,
) -> tuple[int, float]:
    """Return the steps that fit into `seconds`, unless they are given, and what they take.

    `pace` is of a step and `encoding` of a clip, both in seconds.
    """
    read = 1.5 * encoding  # reading a clip takes about half as long as encoding it
    once = (_VALIDATIONS + 1) * len(prepared.held_out) * (4 * encoding + pace / config.batch_size)
    whole = 1 - config.part_probability / 2  # a part has about half of the cells
    step = 1.25 * whole * pace  # with optimizer, batches and log; a guess, mended while it trains
    fresh = step + 2 * read * config.batch_size  # with the clips and what is meant in them
    everything = math.inf  # to encode all there is
    if config.remember:
        draws = prepared.train.variant_draws()
        everything = read * len({key for d in draws for key in (d.clip_key, d.target_key)})
    rest = seconds - once
    steps = steps or max(10, int(max(rest / fresh, (rest - everything) / step)))
    return steps, once + min(fresh * steps, everything + step * steps)


def _count(prepared: PreparedData) -> dict[str, Any]:
    """Count what is trained on and what is held out."""
    videos = sentences = frames = 0
    objects: set[tuple[int, str, int]] = set()
    for index, entry in enumerate(prepared.train.entries):
        if entry.source is prepared.rehearsal:
            continue
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
    own = [item for item in prepared.held_out if not item.kind]
    return {
        "videos": videos,
        "sentences": sentences,
        "objects": len(objects),
        "frames": frames,
        "held_out_videos": len({(i.source.label, i.video.name) for i in own}),
        "held_out_sentences": len(own),
        "left_out": prepared.card()["left_out"],
    }


def _rehearsal(model: str | Path) -> WorldSource | None:
    """Return the synthetic world for a model that speaks of it, None for others."""
    folder = locate(model)
    known = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True).get_vocab()
    large = len(known) > 10_000  # a vocabulary of everything, its words included
    if large or not all("\u2581" + word in known for word in vocabulary()):
        return None
    index = parse_json(read_regular(folder / "model_index.json", 2**20))
    return WorldSource(_REHEARSED, int(index["sample_height"]), int(index["sample_width"]))
