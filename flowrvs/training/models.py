"""Models as trainings take and leave them: a Wan base or a FlowRVS model in, a model out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanTransformer3DModel,
)
from transformers import AutoTokenizer

from flowrvs.checkpoints import locate
from flowrvs.errors import CheckpointError
from flowrvs.folders import NewFolder
from flowrvs.models.devices import silent_libraries
from flowrvs.models.presets import PRESETS
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.training.checkpoints import writing_tensors

__all__ = ["has_mask_decoder", "inject_video", "mask_vae_from", "open_model", "write_model"]

_SETTINGS = (
    "max_sequence_length",
    "sample_height",
    "sample_width",
    "window_size",
    "overlap",
    "lower_case",
    "whole_video",
)
_PARTS = {
    "transformer": ("diffusers", "WanTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLWan"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}


def open_model(model: str | Path, dtype: torch.dtype) -> tuple[Path, FlowRVSPipeline]:
    """Open a FlowRVS model, or a Wan base, without its text encoder, on the CPU.

    A base has no mask decoder: it gets one that shows the mean of the colours, which is right
    for the latents of masks from the beginning.

    Parameters
    ----------
    model : str or path-like
        See `flowrvs.checkpoints.locate`.
    dtype : torch.dtype
        Of all weights, as published; diffusers would leave some in 32 bits.

    Returns
    -------
    Path
        Its folder.
    FlowRVSPipeline

    Raises
    ------
    MissingPathError, CheckpointError
        There is none, or it is incomplete or damaged.
    """
    folder = locate(model)
    try:
        with silent_libraries():
            pipeline = _open(folder, dtype)
    except CheckpointError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors have no common error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{folder} cannot be loaded to be trained: {reason}") from error
    for name, parameter in pipeline.transformer.named_parameters():
        if not name.startswith("rope."):
            parameter.data = parameter.data.to(dtype)
    pipeline.vae.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return folder, pipeline


def _open(folder: Path, dtype: torch.dtype) -> FlowRVSPipeline:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    if index.get("_class_name") == "FlowRVSPipeline":
        return FlowRVSPipeline.from_pretrained(
            folder, text_encoder=None, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    options: dict[str, Any] = {"local_files_only": True}
    weights = options | {"torch_dtype": dtype, "use_safetensors": True}
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", **weights)
    return FlowRVSPipeline(
        transformer=WanTransformer3DModel.from_pretrained(folder / "transformer", **weights),
        vae=vae if has_mask_decoder(folder) else mask_vae_from(vae),
        text_encoder=None,
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer", **options),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        **PRESETS["production"].settings,
    )


def has_mask_decoder(folder: Path) -> bool:
    """Whether the VAE in a model's folder gives masks; that of a Wan base gives pictures."""
    config = json.loads((folder / "vae" / "config.json").read_text("utf-8"))
    return int(config.get("out_channels", 3)) == int(config.get("patch_size") or 1) ** 2


def mask_vae_from(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Copy a picture VAE into one with a single output channel.

    Everything is copied but the last convolution, which starts as the mean over the
    colour channels: a decoded mask is then right from the first step.
    """
    patch = int(vae.config.patch_size or 1)
    target = AutoencoderKLWan.from_config(vae.config, out_channels=patch * patch)
    state = dict(vae.state_dict())
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        value = state[name]
        state[name] = value.view(3, patch * patch, *value.shape[1:]).mean(0)
    # The tensors themselves, of whatever number format, on whatever device; copies, so that
    # training one VAE leaves the other.
    target.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    return target


def inject_video(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    """Return a transformer that sees the video's latent, too (DVI); new channels start at zero.

    One that has them already is returned as it is.
    """
    wanted = 2 * int(transformer.config.out_channels)
    if int(transformer.config.in_channels) == wanted:
        return transformer
    target = WanTransformer3DModel.from_config(transformer.config, in_channels=wanted)
    state = dict(transformer.state_dict())
    weight = state["patch_embedding.weight"]
    extra = weight.new_zeros(weight.shape[0], wanted - weight.shape[1], *weight.shape[2:])
    state["patch_embedding.weight"] = torch.cat([weight, extra], dim=1)
    target.load_state_dict(state, assign=True)
    return target


def write_model(
    base: Path,
    target: Path,
    pipeline: FlowRVSPipeline,
    changed: dict[str, torch.nn.Module],
    card: dict[str, Any],
) -> Path:
    """Write a model: changed parts anew, the others linked to (or copied from) those of `base`.

    Parameters
    ----------
    base : Path
        The model that was trained on; it is only read.
    target : Path
        The new folder; takes the place of one that an earlier training wrote.
    pipeline : FlowRVSPipeline
        Its settings are written.
    changed : dict of str to Module
        ``transformer`` and ``vae``, or one of them.
    card : dict
        What is to be known of it; written as ``training.json``, its ``name`` as the model's.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    InputError
        Another folder is there.
    StorageError
        The disk is full.
    """
    index = json.loads((base / "model_index.json").read_text("utf-8"))
    tokenizer = index.get("tokenizer") or ["transformers", "T5TokenizerFast"]
    document: dict[str, Any] = {
        "_class_name": "FlowRVSPipeline",
        "_diffusers_version": diffusers.__version__,
        **{key: pipeline.config[key] for key in _SETTINGS},
        "name": card["name"],
        **{name: list(kind) for name, kind in _PARTS.items()},
        "tokenizer": list(tokenizer),
    }
    with NewFolder(target, replace=_is_ours) as new:
        for part in ("transformer", "vae", "text_encoder", "tokenizer"):
            if part in changed:
                with silent_libraries(), writing_tensors(target):
                    changed[part].save_pretrained(new.path / part)
            else:
                _link_folder(base / part, new.path / part)
        pipeline.scheduler.save_pretrained(new.path / "scheduler")
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        (new.path / "model_index.json").write_text(text, "utf-8")
        (new.path / "training.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return target


def _is_ours(folder: Path) -> bool:
    return (folder / "training.json").is_file() and (folder / "model_index.json").is_file()


def _link_folder(source: Path, target: Path) -> None:
    """Give the files of a folder a second name; copy where the disk cannot.

    Files of models are replaced, never changed, so the two cannot disturb each other.
    """
    target.mkdir(parents=True)
    for path in sorted(p for p in source.iterdir() if p.is_file()):
        with contextlib.suppress(OSError):
            os.link(path.resolve(), target / path.name)
            continue
        shutil.copyfile(path, target / path.name)
