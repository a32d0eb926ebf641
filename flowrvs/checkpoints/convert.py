"""From the public ``.pth`` files to one folder that `flowrvs.load` takes."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
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
from flowrvs.checkpoints.convert_write import (
    MappedTensors,
    Shard,
    plan_shards,
    verify_shards,
    write_shards,
)
from flowrvs.checkpoints.disk import free_bytes, size_text, storage_error
from flowrvs.checkpoints.manifest import is_file_name, write_manifest
from flowrvs.checkpoints.unpickle import open_checkpoint
from flowrvs.errors import (
    Cancelled,
    CheckpointError,
    FlowRVSError,
    InputError,
    MissingPathError,
    StorageError,
)
from flowrvs.progress import CancelToken, Progress, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "convert"]

#: Precisions that weights can be cast to.
DTYPES = ("float32", "float16", "bfloat16")

_SHARD = 1 << 30
_WEIGHTS = "diffusion_pytorch_model"

#: How the published model is used (arXiv 2510.06139; the windows are ours).
_SETTINGS: dict[str, Any] = {
    "lower_case": False,
    "max_sequence_length": 256,
    "overlap": 8,
    "sample_height": 480,
    "sample_width": 832,
    "window_size": 81,
    "whole_video": True,
}


def convert(
    base: Path,
    dit: Path,
    vae: Path,
    out: Path,
    *,
    name: str | None = None,
    dtype: str | None = None,
    text_dtype: str | None = None,
    shard_bytes: int = _SHARD,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Convert public FlowRVS weights into a folder for `flowrvs.load`.

    Weights are copied piece by piece, so that memory stays at a few hundred MB whatever
    their size. Averaged (EMA) weights win where there are any; 16 or 32 input channels
    are told apart by the weights. The folder appears whole or not at all.

    Parameters
    ----------
    base : Path
        ``Wan2.1-T2V-1.3B-Diffusers``: the text encoder, the tokenizer, and the configs of
        the transformer and the VAE; their weights there are not used.
    dit, vae : Path
        The ``.pth`` files of the transformer and of the tuned VAE.
    out : Path
        The folder to make; it must not exist, or be empty.
    name : str, optional
        Provenance of the masks that the model makes; the folder's name by default.
    dtype : {"float32", "float16", "bfloat16"}, optional
        Cast the transformer and the VAE; as in the files by default.
    text_dtype : {"float32", "float16", "bfloat16"}, optional
        Cast the text encoder; linked or copied as it is by default.
    shard_bytes : int
        Largest file to write.
    progress : callable, optional
        Called with bytes written and hashed.
    cancel : CancelToken, optional

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    MissingPathError
        A file is not there.
    CheckpointError
        A file is damaged, untrusted, or does not fit the base model.
    InputError
        `out` is in use, or a dtype unknown.
    StorageError
        The disk is full or cannot be written to.
    Cancelled
        On request; nothing is left.
    """
    base, dit, vae = Path(base), Path(dit), Path(vae)
    out = Path(os.path.abspath(out))  # "." has no name to build a hidden one from
    cast, text_cast = _dtype(dtype), _dtype(text_dtype)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} already exists; choose another folder for the converted model.")
    if not base.is_dir():
        raise MissingPathError(
            f"There is no base folder {base}; download Wan2.1-T2V-1.3B-Diffusers."
        )
    tokenizer = _tokenizer(base)
    parts = [
        _transformer(base, dit, cast, shard_bytes),
        _vae(base, vae, cast, shard_bytes),
        _text_encoder(base, text_cast, shard_bytes),
    ]
    written = sum(shard.nbytes for part in parts for shard in part.shards)
    taken = sum(path.stat().st_size for part in parts for path in part.files)
    if (free := free_bytes(out.parent)) < written:
        raise StorageError(
            f"Converting into {out} needs {size_text(written)}, but {size_text(free)} are free; "
            "free some space or choose another disk."
        )
    clock = ProgressClock(2 * written + taken)

    def step(count: int, message: str = "Writing weights") -> None:
        if cancel is not None:
            cancel.raise_if_cancelled()
        event = clock.advance(message, count)
        if progress is not None:
            progress(event)

    hashed = 0

    def hashing(event: Progress) -> None:
        nonlocal hashed
        step(event.done - hashed, event.message)
        hashed = event.done

    try:
        with _appears_whole(out) as folder:
            for part in parts:
                _write(part, folder / part.name, step)
                verify_shards(folder / part.name, part.shards)
            _compose(base, folder, name or out.name, tokenizer)
            source = {"base": base.name, "dit": dit.name, "vae": vae.name}
            write_manifest(folder, source, progress=hashing, cancel=cancel)
            step(0, "Done")
    except Cancelled:
        raise Cancelled(f"Stopped on request; nothing was written to {out}.") from None
    return out


@dataclass(frozen=True)
class _Part:
    """A model of the pipeline: what to write, and what to take as it is."""

    name: str
    stem: str
    config: str
    shards: list[Shard]
    tensors: MappedTensors | None
    files: list[Path]


def _transformer(base: Path, dit: Path, cast: torch.dtype | None, limit: int) -> _Part:
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
    return _Part("transformer", _WEIGHTS, model.to_json_string(), shards, source, [])


def _vae(base: Path, path: Path, cast: torch.dtype | None, limit: int) -> _Part:
    import torch
    from diffusers import AutoencoderKLWan

    config = _config(base, "vae")
    with torch.device("meta"), _judged(base, "vae"):
        config["out_channels"] = int(config.get("patch_size") or 1) ** 2
        model = AutoencoderKLWan.from_config(config)
    shapes = _shapes(model)
    source = MappedTensors(lambda: vae_weights(open_checkpoint(path), shapes, str(path)))
    shards = plan_shards(_cast(source.kinds, cast), _WEIGHTS, limit)
    return _Part("vae", _WEIGHTS, model.to_json_string(), shards, source, [])


def _text_encoder(base: Path, cast: torch.dtype | None, limit: int) -> _Part:
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
        return _Part("text_encoder", "model", text, [], None, index + files)
    config.pop("torch_dtype", None)
    config["dtype"] = str(cast).removeprefix("torch.")
    text = json.dumps(config, indent=2) + "\n"
    return _Part("text_encoder", "model", text, plan_shards(kinds, "model", limit), source, [])


def _write(part: _Part, folder: Path, step: Callable[[int], None]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(part.config, "utf-8")
    if part.tensors is not None:
        write_shards(folder, part.shards, part.tensors, part.stem, step)
    for path in part.files:
        step(0)
        _link(path, folder / path.name)


def _compose(base: Path, folder: Path, name: str, tokenizer: str) -> None:
    """Add what holds the models together."""
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir()
    for path in sorted((base / "tokenizer").iterdir()):
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / "tokenizer" / path.name)
    index = {
        "_class_name": "FlowRVSPipeline",
        "_diffusers_version": diffusers.__version__,
        **_SETTINGS,
        "name": name,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", tokenizer],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model_index.json").write_text(text, "utf-8")


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    if name is None:
        return None
    if name not in DTYPES:
        raise InputError(f"Unknown precision {name!r}; choose one of {', '.join(DTYPES)}.")
    return getattr(torch, name)


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


def _tokenizer(base: Path) -> str:
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


def _link(source: Path, target: Path) -> None:
    """Share the bytes of a large file where the disk can; copy them elsewhere."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def _appears_whole(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside `out`, which takes its name at the end or goes."""
    folder = out.with_name(f".{out.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(out)
        folder.mkdir()
        yield folder
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        if isinstance(error, FlowRVSError):
            raise
        raise storage_error(error, out) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(out: Path) -> None:
    """Remove what killed runs left beside `out`."""
    for left in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        pid = left.name.rpartition("partial-")[2].partition("-")[0]
        if pid.isdecimal() and int(pid) != os.getpid() and not _runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: int) -> bool:
    if os.name != "posix":  # there, asking would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
