"""From the public ``.pth`` files, or ComfyUI's, to one folder that `flowrvs.load` takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.checkpoints.files import Step, copy_file, size_text
from flowrvs.checkpoints.layouts import (
    check_fit,
    latent_inputs,
    open_weights,
    text_weights,
    transformer_weights,
    vae_weights,
)
from flowrvs.checkpoints.manifest import write_manifest
from flowrvs.checkpoints.registry import read_config
from flowrvs.checkpoints.shards import (
    MappedTensors,
    Shard,
    open_safetensors,
    plan_shards,
    verify_shards,
    weight_files,
    write_shards,
)
from flowrvs.disk import free_bytes
from flowrvs.errors import Cancelled, CheckpointError, InputError, MissingPathError, StorageError
from flowrvs.folders import NewFolder
from flowrvs.progress import CancelToken, Progress, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    import torch

    from flowrvs.checkpoints.shards import Kinds

__all__ = ["DTYPES", "convert"]

#: Precisions that weights can be cast to.
DTYPES = ("float32", "float16", "bfloat16")

_SHARD = 1 << 30
_WEIGHTS = "diffusion_pytorch_model"

#: How the published model is used (arXiv 2510.06139; the windows are ours).
_SETTINGS: dict[str, Any] = {
    "lower_case": False,
    "overlap": 8,
    "sample_height": 480,
    "sample_width": 832,
    "window_size": 81,
    "whole_video": True,
}
#: Tokens of a sentence: the public code used 64 until 26 February 2026, when it published the
#: first generation of weights (with the video injected), and 256 since.
_FIRST_LENGTH, _LENGTH = 64, 256


def convert(
    base: Path,
    dit: Path,
    vae: Path,
    out: Path,
    *,
    text: Path | None = None,
    name: str | None = None,
    dtype: str | None = None,
    text_dtype: str | None = None,
    text_length: int | None = None,
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
        The files of the transformer and of the tuned VAE: ``.pth`` as the authors publish
        them, or ``.safetensors`` as ComfyUI has them (Wan's own names of weights).
    out : Path
        The folder to make; it must not exist, or be empty.
    text : Path, optional
        The text encoder (umt5-xxl) as one ``.safetensors`` file, in 16 bits or in scaled
        8 bits; those of `base` are not needed then, but its config.
    name : str, optional
        Provenance of the masks that the model makes; the folder's name by default.
    dtype : {"float32", "float16", "bfloat16"}, optional
        Cast the transformer and the VAE; as in the files by default (8 bits: bfloat16).
    text_dtype : {"float32", "float16", "bfloat16"}, optional
        Cast the text encoder; linked or copied as it is by default (8 bits: bfloat16).
    text_length : int, optional
        Tokens of a sentence with which the model was trained; by default 64 for the first
        generation of weights (32 input channels) and 256 for others.
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
        `out` is in use, or a dtype or a length impossible.
    StorageError
        The disk is full or cannot be written to.
    Cancelled
        On request; nothing is left.
    """
    base, dit, vae = Path(base), Path(dit), Path(vae)
    out = Path(os.path.abspath(out))  # "." has no name to build a hidden one from
    cast, text_cast = _dtype(dtype), _dtype(text_dtype)
    if text_length is not None and not 8 <= text_length <= 512:
        raise InputError(f"A text length of {text_length} is impossible; give 8 to 512 tokens.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} already exists; choose another folder for the converted model.")
    if not base.is_dir():
        raise MissingPathError(
            f"There is no base folder {base}; download Wan2.1-T2V-1.3B-Diffusers."
        )
    tokenizer = _tokenizer_class(base)
    transformer, injected = _transformer_part(base, dit, cast, shard_bytes)
    parts = [
        transformer,
        _vae_part(base, vae, cast, shard_bytes),
        _text_encoder_part(base, text, text_cast, shard_bytes),
    ]
    written = sum(shard.nbytes for part in parts for shard in part.shards)
    taken = sum(path.stat().st_size for part in parts for path in part.files)
    settings = {
        **_SETTINGS,
        "max_sequence_length": text_length or (_FIRST_LENGTH if injected else _LENGTH),
        "name": name or out.name,
    }
    try:
        with NewFolder(out) as building:
            folder = building.path
            copies = _link_files(parts, folder)
            copied = sum(source.stat().st_size for source, _ in copies)
            if (free := free_bytes(out.parent)) < written + copied:
                raise StorageError(
                    f"Converting into {out} needs {size_text(written + copied)}, but "
                    f"{size_text(free)} are free; free some space or choose another disk."
                )
            steps = _Steps(2 * written + copied + taken, progress, cancel)
            for part in parts:
                _write(part, folder / part.name, steps.count)
                verify_shards(folder / part.name, part.shards)
            for source, target in copies:
                copy_file(source, target, steps.count)
            _compose(base, folder, settings, tokenizer)
            origin = {"base": base.name, "dit": dit.name, "vae": vae.name}
            origin |= {} if text is None else {"text": Path(text).name}
            write_manifest(folder, origin, progress=steps.follow, cancel=cancel)
            steps.count(0, "Done")
    except Cancelled:
        raise Cancelled(f"Stopped on request; nothing was written to {out}.") from None
    return out


class _Steps:
    """Counts bytes, tells of them, and hears of a cancel."""

    def __init__(
        self, total: int, progress: ProgressCallback | None, cancel: CancelToken | None
    ) -> None:
        self._clock = ProgressClock(total)
        self._progress = progress
        self._cancel = cancel
        self._followed = 0

    def count(self, bytes_done: int, message: str = "Writing weights") -> None:
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()
        event = self._clock.advance(message, bytes_done)
        if self._progress is not None:
            self._progress(event)

    def follow(self, event: Progress) -> None:
        """Go on with another task's events."""
        self.count(event.done - self._followed, event.message)
        self._followed = event.done


def _link_files(parts: Sequence[_Part], folder: Path) -> list[tuple[Path, Path]]:
    """Share the bytes of files that are taken as they are; return those that must be copied."""
    copies = []
    for part in parts:
        (folder / part.name).mkdir()
        for path in part.files:
            target = folder / part.name / path.name
            try:
                os.link(path.resolve(), target)
            except OSError:  # another disk, or one without links
                copies.append((path, target))
    return copies


def _write(part: _Part, folder: Path, step: Step) -> None:
    (folder / "config.json").write_text(part.config, "utf-8")
    if part.tensors is not None:
        write_shards(folder, part.shards, part.tensors, part.stem, step)


def _compose(base: Path, folder: Path, settings: Mapping[str, Any], tokenizer: str) -> None:
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
        **settings,
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


# -- the models ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
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


def _transformer_part(
    base: Path, dit: Path, cast: torch.dtype | None, limit: int
) -> tuple[_Part, bool]:
    """Plan the transformer; tell whether it takes the video beside the latent (32 channels)."""
    import torch
    from diffusers import WanTransformer3DModel

    config = _config(base, "transformer")
    with _judged(base, "transformer"):
        latent = int(config.get("out_channels") or config.get("in_channels") or 16)
    inputs = latent_inputs(open_weights(dit), str(dit))
    if inputs not in (latent, 2 * latent):
        raise CheckpointError(
            f"{dit} takes {inputs} channels; a FlowRVS transformer takes {latent}, or "
            f"{2 * latent} with the video injected."
        )
    config.update(in_channels=inputs, out_channels=latent)
    with torch.device("meta"), _judged(base, "transformer"):
        model = WanTransformer3DModel.from_config(config)
    part = _planned("transformer", model, dit, transformer_weights, cast, limit)
    return part, inputs == 2 * latent


def _vae_part(base: Path, path: Path, cast: torch.dtype | None, limit: int) -> _Part:
    """Plan the VAE, whose decoder gives one mask."""
    import torch
    from diffusers import AutoencoderKLWan

    config = _config(base, "vae")
    with torch.device("meta"), _judged(base, "vae"):
        config["out_channels"] = int(config.get("patch_size") or 1) ** 2
        model = AutoencoderKLWan.from_config(config)
    return _planned("vae", model, path, vae_weights, cast, limit)


def _planned(
    name: str,
    model: Any,
    path: Path,
    choose: Callable[[Any, Any, str], tuple[Any, dict[str, float]]],
    cast: torch.dtype | None,
    limit: int,
) -> _Part:
    """Plan a part whose weights `choose` finds in a file, with what they must be scaled by."""
    shapes = _shapes(model)
    _, scales = choose(open_weights(path), shapes, str(path))
    source = MappedTensors(lambda: choose(open_weights(path), shapes, str(path))[0], scales)
    shards = plan_shards(_cast(source.kinds, cast), _WEIGHTS, limit)
    return _Part(name, _WEIGHTS, model.to_json_string(), shards, source, [])


def _text_encoder_part(
    base: Path, single: Path | None, cast: torch.dtype | None, limit: int
) -> _Part:
    """Plan the text encoder: cast, or its files as they are."""
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    config = _config(base, "text_encoder")
    if single is None:
        index, files = weight_files(base / "text_encoder")
        what = str(base / "text_encoder")
    else:
        index, files, what = [], [Path(single)], str(single)
    with torch.device("meta"), _judged(base, "text_encoder"):
        model = UMT5EncoderModel(UMT5Config.from_dict(dict(config)))
    shapes = _shapes(model)
    tied = dict(model.all_tied_weights_keys)

    def opener() -> tuple[Mapping[str, torch.Tensor], dict[str, float]]:
        content = open_safetensors(files) if single is None else open_weights(files[0])
        found, scales = text_weights(content, what)
        # A shared table is stored once, under either of its names.
        absent = {a if a not in found else b for a, b in tied.items()}
        wanted = {key: shape for key, shape in shapes.items() if key not in absent}
        return check_fit(found, wanted, what, extra=True), scales

    source = MappedTensors(lambda: opener()[0], opener()[1])
    kinds = _cast(source.kinds, cast)
    if kinds == source.kinds and single is None:
        text = (base / "text_encoder" / "config.json").read_text("utf-8")
        return _Part("text_encoder", "model", text, [], None, index + files)
    config.pop("torch_dtype", None)
    config["dtype"] = str(kinds[next(iter(kinds))][1]).removeprefix("torch.")
    text = json.dumps(config, indent=2) + "\n"
    shards = plan_shards(kinds, "model", limit)
    return _Part("text_encoder", "model", text, shards, source, [])


def _cast(kinds: Kinds, dtype: torch.dtype | None) -> Kinds:
    """Return the kinds to write: `dtype`, or their own, or bfloat16 where that has 8 bits."""
    import torch

    return {
        name: (shape, dtype or (own if own.itemsize > 1 else torch.bfloat16))
        for name, (shape, own) in kinds.items()
    }


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _config(base: Path, part: str) -> dict[str, Any]:
    try:
        return read_config(base / part / "config.json")
    except FileNotFoundError:
        raise CheckpointError(
            f"{base} lacks {part}/config.json; download the base again."
        ) from None


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


def _tokenizer_class(base: Path) -> str:
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
