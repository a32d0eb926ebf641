"""Adapters of low rank (LoRA): found by name or folder, and merged into a transformer."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

from diffusers import WanTransformer3DModel

from flowrvs.checkpoints import models_home
from flowrvs.checkpoints.placed import ADAPTER_FILE
from flowrvs.errors import CheckpointError, MissingPathError, missing_extra

__all__ = ["ADAPTER_FILE", "find_adapter", "merge_adapter"]


def find_adapter(lora: str | PathLike[str]) -> Path:
    """Find the folder of an adapter.

    Parameters
    ----------
    lora : str or path-like
        Its folder, the folder of the training that made it, the file itself, or the name of a
        folder in `flowrvs.checkpoints.models_home`.

    Raises
    ------
    MissingPathError
        There is none.
    """
    path = Path(lora).expanduser()
    places = [path, path / "lora"]
    if path.name == str(lora):
        home = models_home() / path.name
        places += [home, home / "lora"]
    for place in places:
        if (place / ADAPTER_FILE).is_file():
            return place
    if path.is_file() and path.name == ADAPTER_FILE:
        return path.parent
    raise MissingPathError(
        f"No adapter {str(lora)!r}: neither a folder with {ADAPTER_FILE} nor the name of one in "
        f"{models_home()}."
    )


def merge_adapter(transformer: WanTransformer3DModel, folder: Path) -> None:
    """Add an adapter to a transformer's weights, for good.

    Parameters
    ----------
    transformer : WanTransformer3DModel
        Changed in place; computes as before, without any extra work.
    folder : Path
        From `find_adapter`.

    Raises
    ------
    MissingExtraError
        peft is not installed.
    CheckpointError
        The file is damaged, or made for another transformer.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise missing_extra(error) or error from None
    path = folder / ADAPTER_FILE
    try:
        with warnings.catch_warnings():
            # peft only warns of layers that the transformer has not.
            warnings.simplefilter("error", RuntimeWarning)
            transformer.load_lora_adapter(
                str(folder),
                prefix="transformer",
                weight_name=ADAPTER_FILE,
                use_safetensors=True,
                local_files_only=True,
            )
        if not getattr(transformer, "peft_config", None):
            raise CheckpointError(f"{path} holds no weights for a transformer.")
        transformer.fuse_lora(safe_fusing=True)
        transformer.unload_lora()
    except CheckpointError:
        raise
    except Exception as error:  # diffusers, peft and safetensors have no common error
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(
            f"{path} does not fit this model: {reason}; use the model that it was trained on."
        ) from error
