"""The models of the public files: what each needs to be written as a stock class's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.checkpoints.convert_keys import (
    check_fit,
    latent_inputs,
    transformer_weights,
    vae_weights,
)
from flowrvs.checkpoints.convert_write import MappedTensors, Shard, plan_shards
from flowrvs.checkpoints.manifest import is_file_name
from flowrvs.checkpoints.unpickle import open_checkpoint
from flowrvs.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["Part", "text_encoder_part", "tokenizer_class", "transformer_part", "vae_part"]

_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Part:
    """A model of the pipeline.

    Attributes
    ----------
    name : str
        Its folder.
    stem : str
        Name of its weights' files, without ending and numbers.
    config : str
        Content of its ``config.json``.
    shards : list of Shard
        What to write.
    tensors : MappedTensors or None
        Where the numbers of `shards` are.
    files : list of Path
        What to take as it is.
    """

    name: str
    stem: str
    config: str
    shards: list[Shard]
    tensors: MappedTensors | None
    files: list[Path]


def transformer_part(base: Path, dit: Path, cast: torch.dtype | None, limit: int) -> Part:
    """Plan the transformer: 16 or 32 input channels are told apart by the weights."""
    import torch
    from diffusers import WanTransformer3DModel

    config = _config(base, "transformer")
    with _judged(base, "transformer"):
        latent = int(config.get("out_channels") or config.get("in_channels") or 16)
    inputs = latent_inputs(open_checkpoint(dit), str(dit))
    if inputs not in (latent, 2 * latent):
        raise CheckpointError(
            f"{dit} takes {inputs} channels; a FlowRVS transformer takes {latent}, or "
            f"{2 * latent} with the video injected."
        )
    config.update(in_channels=inputs, out_channels=latent)
    with torch.device("meta"), _judged(base, "transformer"):
        model = WanTransformer3DModel.from_config(config)
    shapes = _shapes(model)
    source = MappedTensors(lambda: transformer_weights(open_checkpoint(dit), shapes, str(dit)))
    shards = plan_shards(_cast(source.kinds, cast), _WEIGHTS, limit)
    return Part("transformer", _WEIGHTS, model.to_json_string(), shards, source, [])


def vae_part(base: Path, path: Path, cast: torch.dtype | None, limit: int) -> Part:
    """Plan the VAE, whose decoder gives one mask."""
    import torch
    from diffusers import AutoencoderKLWan

    config = _config(base, "vae")
    with torch.device("meta"), _judged(base, "vae"):
        config["out_channels"] = int(config.get("patch_size") or 1) ** 2
        model = AutoencoderKLWan.from_config(config)
    shapes = _shapes(model)
    source = MappedTensors(lambda: vae_weights(open_checkpoint(path), shapes, str(path)))
    shards = plan_shards(_cast(source.kinds, cast), _WEIGHTS, limit)
    return Part("vae", _WEIGHTS, model.to_json_string(), shards, source, [])


def text_encoder_part(base: Path, cast: torch.dtype | None, limit: int) -> Part:
    """Plan the text encoder: cast, or its files as they are."""
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    config = _config(base, "text_encoder")
    index, files = _weight_files(base / "text_encoder")
    with torch.device("meta"), _judged(base, "text_encoder"):
        model = UMT5EncoderModel(UMT5Config.from_dict(dict(config)))
    shapes = _shapes(model)
    tied = dict(model.all_tied_weights_keys)

    def opener() -> Mapping[str, torch.Tensor]:
        found = _open_safetensors(files)
        # A shared table is stored once, under either of its names.
        absent = {
            a if a not in found else b for a, b in tied.items() if (a in found) ^ (b in found)
        }
        wanted = {key: shape for key, shape in shapes.items() if key not in absent}
        return check_fit(found, wanted, str(base / "text_encoder"), extra=True)

    source = MappedTensors(opener)
    kinds = _cast(source.kinds, cast)
    if kinds == source.kinds:
        text = (base / "text_encoder" / "config.json").read_text("utf-8")
        return Part("text_encoder", "model", text, [], None, index + files)
    config.pop("torch_dtype", None)
    config["dtype"] = str(cast).removeprefix("torch.")
    text = json.dumps(config, indent=2) + "\n"
    return Part("text_encoder", "model", text, plan_shards(kinds, "model", limit), source, [])


def _cast(
    kinds: Mapping[str, tuple[tuple[int, ...], torch.dtype]], dtype: torch.dtype | None
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (shape, dtype or own) for name, (shape, own) in kinds.items()}


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _config(base: Path, part: str) -> dict[str, Any]:
    path = base / part / "config.json"
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{base} lacks {part}/config.json; download the base again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no config; download it again.")
    return content


@contextmanager
def _judged(base: Path, part: str) -> Iterator[None]:
    """A config that the stock class cannot be built from is the user's to repair."""
    try:
        yield
    except Exception as error:  # whatever a wrong number makes the class raise
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{base / part / 'config.json'} describes no {part} ({reason}); download it again."
        ) from error


def tokenizer_class(base: Path) -> str:
    """Return the class of the base's tokenizer, after loading it."""
    from transformers import AutoTokenizer

    folder = base / "tokenizer"
    if not folder.is_dir():
        raise CheckpointError(f"{base} lacks tokenizer/; download the base again.")
    with _judged(base, "tokenizer"):
        # Else transformers asks the person whether to run code of the folder.
        loaded = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return type(loaded).__name__


def _weight_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the index, if there is one, and the weight files of a transformers model."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise CheckpointError(f"{folder} holds no model.safetensors; download it again.")
        return [], [folder / "model.safetensors"]
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards; download it again.") from error
    if not all(isinstance(name, str) and is_file_name(name) for name in names):
        raise CheckpointError(f"{index} names files outside its folder; download it again.")
    files = [folder / name for name in sorted(names)]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}; download them again.")
    return [index], files


def _open_safetensors(files: list[Path]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                found.update({name: file.get_tensor(name) for name in file.keys()})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is damaged or cut short ({error}); download it again."
            ) from error
    return found
