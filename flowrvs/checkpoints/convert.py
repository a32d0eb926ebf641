"""From the public ``.pth`` files to one folder that `flowrvs.load` takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.checkpoints.convert_parts import (
    Part,
    text_encoder_part,
    tokenizer_class,
    transformer_part,
    vae_part,
)
from flowrvs.checkpoints.convert_write import verify_shards, write_shards
from flowrvs.checkpoints.disk import appears_whole, copy_file, free_bytes, size_text
from flowrvs.checkpoints.manifest import write_manifest
from flowrvs.errors import Cancelled, InputError, MissingPathError, StorageError
from flowrvs.progress import CancelToken, Progress, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPES", "convert"]

#: Precisions that weights can be cast to.
DTYPES = ("float32", "float16", "bfloat16")

_SHARD = 1 << 30

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
    tokenizer = tokenizer_class(base)
    parts = [
        transformer_part(base, dit, cast, shard_bytes),
        vae_part(base, vae, cast, shard_bytes),
        text_encoder_part(base, text_cast, shard_bytes),
    ]
    written = sum(shard.nbytes for part in parts for shard in part.shards)
    taken = sum(path.stat().st_size for part in parts for path in part.files)
    try:
        with appears_whole(out) as folder:
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
            _compose(base, folder, name or out.name, tokenizer)
            origin = {"base": base.name, "dit": dit.name, "vae": vae.name}
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


def _link_files(parts: list[Part], folder: Path) -> list[tuple[Path, Path]]:
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


def _write(part: Part, folder: Path, step: Callable[[int], None]) -> None:
    (folder / "config.json").write_text(part.config, "utf-8")
    if part.tensors is not None:
        write_shards(folder, part.shards, part.tensors, part.stem, step)


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
