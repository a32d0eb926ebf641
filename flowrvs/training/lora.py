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

from flowrvs.disk import NewFolder
from flowrvs.errors import InputError

__all__ = ["adapter_state", "add_adapter", "save_adapter"]

#: The matrices of the attention and of the feed-forward network of each block.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


def add_adapter(transformer: WanTransformer3DModel, rank: int, alpha: float) -> None:
    """Freeze a transformer and give it adapters; they alone require gradients.

    Raises
    ------
    InputError
        peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise InputError("--lora needs peft: pip install 'napari-flowrvs[train]'.") from None
    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(TARGETS))
    )
    # In 16 bits small steps would be lost; adapters are small enough for 32.
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def adapter_state(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of adapters under the names that files have."""
    return {name.replace(".default.", "."): value for name, value in weights.items()}


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
    with NewFolder(folder, replace=_is_adapter) as new:
        WanPipeline.save_lora_weights(
            str(new.path),
            transformer_lora_layers=adapter_state(weights),
            transformer_lora_adapter_metadata=config.to_dict(),
        )
        (new.path / "training.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return folder


def _is_adapter(folder: Path) -> bool:
    return (folder / "pytorch_lora_weights.safetensors").is_file()
