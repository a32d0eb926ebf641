"""Adapters of low rank (LoRA): trained instead of all weights, kept in a file of their own.

peft makes them, through diffusers' own methods; the file is the one that other programs read,
``pytorch_lora_weights.safetensors``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from flowrvs.errors import InputError, missing_extra
from flowrvs.folders import NewFolder
from flowrvs.pipelines.adapters import ADAPTER_FILE, find_adapter, merge_adapter
from flowrvs.training.checkpoints import writing_tensors
from flowrvs.training.models import has_mask_decoder, open_model, write_model

__all__ = ["add_adapter", "merge_lora", "save_adapter"]

#: The matrices of the attention and of the feed-forward network of each block.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


def add_adapter(transformer: WanTransformer3DModel, rank: int, alpha: int, seed: int = 0) -> None:
    """Freeze a transformer and give it adapters; they alone require gradients.

    Raises
    ------
    MissingExtraError
        peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise missing_extra(error) or error from None
    transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(TARGETS))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    # In 16 bits small steps would be lost; adapters are small enough for 32.
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save_adapter(
    transformer: WanTransformer3DModel,
    weights: dict[str, torch.Tensor],
    folder: Path,
    card: dict[str, Any],
) -> Path:
    """Write adapters into a folder that ``--lora`` takes.

    Parameters
    ----------
    transformer : WanTransformer3DModel
        With adapters; their rank and scale are written, too.
    weights : dict of str to Tensor
        Of the adapters, by the transformer's names.
    folder : Path
        Takes the place of one from an earlier training.
    card : dict
        What is to be known of it; written as ``training.json``.
    """
    from diffusers import WanPipeline

    config = transformer.peft_config["default"]
    # peft puts the adapter's name into those of the weights; files do without.
    state = {key.replace(".default.", "."): value for key, value in weights.items()}
    with NewFolder(folder, replace=_is_adapter) as new, writing_tensors(folder):
        WanPipeline.save_lora_weights(
            str(new.path),
            transformer_lora_layers=state,
            transformer_lora_adapter_metadata=config.to_dict(),
        )
        (new.path / "training.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return folder


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_FILE).is_file()


def merge_lora(model: str | Path, lora: str | Path, out: str | Path) -> Path:
    """Write a model whose weights have an adapter added.

    Parameters
    ----------
    model : str or path-like
        The model that the adapter was trained on, by name or folder; it is only read.
    lora : str or path-like
        The adapter: see `flowrvs.pipelines.adapters.find_adapter`.
    out : path-like
        Folder of the new model.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    MissingPathError, CheckpointError
        There is no such model or adapter, or they do not fit.
    InputError
        Something is at `out` already.
    """
    target = Path(out).expanduser()
    if target.is_dir() and any(target.iterdir()):  # it may be the model itself
        raise InputError(f"{target} is there already; give a new folder as --out.")
    adapter = find_adapter(lora)
    base, pipeline = open_model(model, torch.float32)
    merge_adapter(pipeline.transformer, adapter)
    card = {"name": target.absolute().name, "stage": "merge", "base": str(base)}
    changed: dict[str, torch.nn.Module] = {"transformer": pipeline.transformer}
    if not has_mask_decoder(base):
        changed["vae"] = pipeline.vae
    return write_model(base, target, pipeline, changed, card | {"lora": str(adapter)})
