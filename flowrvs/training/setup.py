"""What both trainings on real data begin with: device, data, sentences, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import InputError
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.pipelines.prompts import EmbeddingCache, EncoderSource
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.training.clips import Box
from flowrvs.training.config import CommonConfig
from flowrvs.training.dataset import ClipSettings, TrainingData, caption
from flowrvs.training.encoded import TextBank
from flowrvs.training.sources import Source, open_sources
from flowrvs.training.validation import HeldOut, choose_held_out, held_out_sentences

__all__ = ["PreparedData", "choose_precision", "open_texts", "prepare_data", "prepare_folder"]


@dataclass(frozen=True)
class PreparedData:
    """Opened data, divided.

    Attributes
    ----------
    sources : list of Source
    train : TrainingData
    held_out : list of HeldOut
        What is scored.
    identity : list
        What a resumed training must find again.
    """

    sources: list[Source]
    train: TrainingData
    held_out: list[HeldOut]
    identity: list[Any]

    def texts(self) -> list[str]:
        """Return every sentence that is trained on or scored."""
        scored = [caption(item.sentence.text) for item in self.held_out]
        return list(dict.fromkeys([*self.train.texts(), *scored]))

    def card(self) -> dict[str, Any]:
        """Return what a result's card says of the data."""
        entries = self.train.entries
        return {
            "data": [source.label for source in self.sources],
            "videos": sum(len({int(v) for v in entry.rows[:, 0]}) for entry in entries),
            "samples": self.train.epoch_length,
            "held_out_sentences": len(self.held_out),
            "left_out": {
                reason: sum(source.skipped.get(reason, 0) for source in self.sources)
                for source in self.sources
                for reason in source.skipped
            },
        }


def prepare_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that holds another training, or none that could go on.

    Raises
    ------
    InputError
        It holds checkpoints already, or none to resume.
    """
    begun = any((out / "checkpoints").glob("step-*"))
    if begun and not resume:
        raise InputError(f"{out} holds a training already; give --resume or another --out.")
    if resume and not begun:  # told before minutes of preparing
        raise InputError(f"Nothing to resume: there is no checkpoint in {out}; leave out --resume.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder.")
    if not resume:
        (out / "best.safetensors").unlink(missing_ok=True)
        (out / "log.jsonl").unlink(missing_ok=True)


def choose_precision(precision: str, device: str) -> str:
    """Return "bfloat16", "mixed" or "float32" for "auto"."""
    if precision != "auto":
        return precision
    cuda = device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bfloat16" if cuda else "float32"


def prepare_data(
    paths: Sequence[str | Path],
    config: CommonConfig,
    pipeline: FlowRVSPipeline,
    *,
    weights: Sequence[float] | None = None,
    variants: int = 0,
) -> PreparedData:
    """Open the data, hold some videos out, and say how clips are drawn.

    Parameters
    ----------
    paths : sequence of path-like
        See `flowrvs.training.sources.open_sources`.
    config : CommonConfig
    pipeline : FlowRVSPipeline
        Its box is the default size of clips.
    weights : sequence of float, optional
        One a path.
    variants : int
        Different clips of each anchor; 0 draws a new one every time.

    Raises
    ------
    InputError
        Nothing to train on, or numbers that do not fit together.
    """
    if not paths:
        raise InputError("There is no data; give --data PATH.")
    if weights is not None and len(weights) != len(paths):
        raise InputError(f"There are {len(weights)} weights for {len(paths)} paths of data.")
    confirmed = config.project_frames == "confirmed"
    sources: list[Source] = []
    shares: list[float] = []
    for place, path in enumerate(paths):
        found = open_sources(path, confirmed=confirmed, split=config.split)
        sources += found
        if weights is not None:
            total = sum(_size(source) for source in found)
            shares += [weights[place] * _size(source) / total for source in found]
    held_out = choose_held_out(
        sources, config.validation_share, config.validation_sentences, config.seed
    )
    settings = ClipSettings(
        frames=config.frames,
        box=_box(config, pipeline),
        sampler=config.sampler,
        crop=config.crop_probability,
        flip=config.flip_probability,
        colour=config.colour_probability,
        no_target=config.no_target,
        seed=config.seed,
        variants=variants,
    )
    data = TrainingData(
        sources, settings, weights=None if weights is None else shares, held_out=held_out
    )
    scored = held_out_sentences(
        sources, held_out, config.validation_sentences, pipeline.window_size
    )
    # Not the whole paths: data may be moved while a training rests.
    identity = [
        [Path(entry.source.label).name, len(entry.rows), entry.count] for entry in data.entries
    ]
    return PreparedData(sources, data, scored, [identity, variants])


def _size(source: Source) -> int:
    return sum(len(video.sentences) for video in source.videos)


def _box(config: CommonConfig, pipeline: FlowRVSPipeline) -> Box:
    sides = sorted((int(pipeline.config.sample_height), int(pipeline.config.sample_width)))
    short, long = config.short_side or sides[0], config.long_side or sides[1]
    token = pipeline.token_pixels
    multiple = config.size_multiple or token
    if multiple % token:
        raise InputError(f"size_multiple is {multiple}; this model needs a multiple of {token}.")
    if short < multiple or long < short:
        raise InputError(
            f"short_side {short} and long_side {long} do not fit: at least {multiple}, and the "
            "long side no less than the short one."
        )
    return Box(short, long, multiple)


def open_texts(
    base: Path,
    pipeline: FlowRVSPipeline,
    folder: Path,
    dtype: torch.dtype,
    texts: list[str],
    accelerator: Accelerator,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> TextBank:
    """Embed the sentences that are new, and give the pipeline the encoder for its own use.

    Parameters
    ----------
    base : Path
        The model's folder, with the text encoder.
    pipeline : FlowRVSPipeline
    folder : Path
        Where embeddings are kept.
    dtype : torch.dtype
        What the encoder computes in.
    texts : list of str
    accelerator : Accelerator
        One process embeds, the others wait.
    progress, cancel
        See `flowrvs.progress`.
    """
    length = int(pipeline.config.max_sequence_length)
    lower_case = bool(pipeline.config.lower_case)
    encoder = base / "text_encoder"
    key = fingerprint(encoder, base / "tokenizer")
    kept = folder / f"embeddings-{key}-{str(dtype).removeprefix('torch.')}-{length}"
    cache = EmbeddingCache(kept, limit=2**42)
    bank = TextBank(pipeline.tokenizer, EncoderSource(encoder, dtype), cache, length, lower_case)
    pipeline.prompts = bank.prompts
    if accelerator.is_main_process:
        bank.prepare(texts, accelerator.device, progress=progress, cancel=cancel)
    accelerator.wait_for_everyone()
    return bank
