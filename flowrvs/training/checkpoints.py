"""The state of a training on disk: whole or not there, a few of them, the best beside them."""

from __future__ import annotations

import errno
import json
import re
import reprlib
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flowrvs.disk import parse_json, read_regular, replacing, storage_error
from flowrvs.errors import CheckpointError, first_line
from flowrvs.folders import NewFolder, remove_leftovers

__all__ = ["Checkpoints", "read_best", "writing_tensors"]

_STEP = re.compile(r"step-(\d{8})")
#: How torch says that a file takes no more; safetensors gives the system's number.
_UNWRITTEN = re.compile(r"inline_container|PytorchStreamWriter|iostream error|os error (\d+)")


@contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """Say in one line that the disk is full, for which torch and safetensors have own errors.

    Raises
    ------
    StorageError
        What is written to `path` does not fit, or is refused.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        said = _UNWRITTEN.search(str(error))
        if said is None:
            raise
        code = int(said[1]) if said[1] else errno.ENOSPC
        raise storage_error(OSError(code, ""), path) from error


class _Damaged(Exception):
    """A checkpoint cannot be read, and why."""


class Checkpoints:
    """Folders ``<out>/checkpoints/step-<n>``, written by accelerate and appearing whole.

    Parameters
    ----------
    out : Path
        Folder of the training.
    accelerator : Accelerator
        Knows module and optimizer, however they are spread over devices.
    names : list of str
        Of the trained weights; frozen ones are not written.
    identity : dict
        Must be the same when a training is resumed.
    defaults : dict
        What counts of an identity's tables where they lack a key: options that came later.
    keep : int
        How many stay.
    """

    def __init__(
        self,
        out: Path,
        accelerator: Accelerator,
        names: list[str],
        identity: dict[str, Any],
        *,
        defaults: dict[str, dict[str, Any]],
        keep: int,
    ) -> None:
        self.out = out
        self.folder = out / "checkpoints"
        self.keep = keep
        self._accelerator = accelerator
        self._names = frozenset(names)
        # As JSON gives it back: lists for tuples.
        self._identity = json.loads(json.dumps(identity))
        self._defaults = json.loads(json.dumps(defaults))
        sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED)
        self._whole = accelerator.distributed_type in sharded
        if not self._whole:
            accelerator.register_save_state_pre_hook(self._leave_out_frozen)

    def _leave_out_frozen(self, models: list[Any], weights: list[Any], folder: str) -> None:
        for state in weights:
            for name in set(state) - self._names:
                del state[name]

    def list(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir())

    def newest(self) -> Path | None:
        """Return the newest checkpoint, or None."""
        found = self.list()
        return found[-1] if found else None

    def save(self, step: int, ema: EMAModel | None, extra: dict[str, Any]) -> Path:
        """Write a checkpoint and remove the oldest ones.

        Raises
        ------
        StorageError
            The disk is full; the checkpoints before are untouched.
        """
        target = self.folder / f"step-{step:08}"
        if target.is_dir():
            return target
        main = self._accelerator.is_main_process
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._accelerator.num_processes > 1 and self._whole:
            # Every process writes its shard: they have to agree on one folder.
            return self._save_shards(target, ema, extra)
        if main:
            with NewFolder(target, refuse=CheckpointError) as new, writing_tensors(target):
                self._write(new.path, ema, extra)
            self._prune()
        self._accelerator.wait_for_everyone()
        return target

    def _save_shards(self, target: Path, ema: EMAModel | None, extra: dict[str, Any]) -> Path:
        part = target.with_name(f".{target.name}.partial")
        if self._accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        self._write(part, ema, extra)
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            part.rename(target)
            self._prune()
        self._accelerator.wait_for_everyone()
        return target

    def _write(self, folder: Path, ema: EMAModel | None, extra: dict[str, Any]) -> None:
        self._accelerator.save_state(str(folder))
        if ema is not None:
            rank = self._accelerator.process_index if self._whole else 0
            tensors = {
                f"{i:05}": p.detach().cpu().contiguous() for i, p in enumerate(ema.shadow_params)
            }
            save_file(tensors, folder / f"ema-{rank}.safetensors")
            extra = extra | {"ema_step": ema.optimization_step}
        if self._accelerator.is_main_process:
            document = {"identity": self._identity, **extra}
            (folder / "training.json").write_text(json.dumps(document, indent=1), "utf-8")

    def _prune(self) -> None:
        for old in self.list()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self, ema: EMAModel | None) -> dict[str, Any]:
        """Put the newest checkpoint that is whole in place; return what was saved beside it.

        Damaged ones after it are warned of, and set aside as ``damaged-step-<n>``.

        Raises
        ------
        CheckpointError
            There is none, all are damaged, or it belongs to another training.
        """
        for left in self.folder.glob(".step-*"):
            remove_leftovers(self.folder / left.name[1:14])
        found = self.list()
        if not found:
            raise CheckpointError(
                f"Nothing to resume: there is no checkpoint in {self.out}; leave out --resume."
            )
        damaged: dict[Path, str] = {}
        for folder in reversed(found):
            try:
                document = self._read(folder, ema)
                break
            except _Damaged as error:
                damaged[folder] = str(error)
        else:
            raise CheckpointError(
                f"The checkpoint {found[-1]} cannot be read ({damaged[found[-1]]}), and there is "
                "no other one that can; train again into another --out."
            )
        self._accelerator.wait_for_everyone()  # all have read what is renamed now
        for bad, reason in damaged.items():
            warnings.warn(
                f"The checkpoint {bad} cannot be read ({reason}): going on from {folder}.",
                stacklevel=3,
            )
            if self._accelerator.is_main_process:
                aside = bad.with_name(f"damaged-{bad.name}")
                shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
                bad.rename(aside)
        return document

    def _read(self, folder: Path, ema: EMAModel | None) -> dict[str, Any]:
        try:
            document = parse_json(read_regular(folder / "training.json", 2**24))
            if not isinstance(document, dict):
                raise ValueError("training.json is malformed")
        except (OSError, ValueError) as error:
            raise _Damaged(first_line(error)) from error
        self._compare(document.get("identity"), folder)
        try:
            self._accelerator.load_state(str(folder), strict=False)
            if ema is not None:
                rank = self._accelerator.process_index if self._whole else 0
                tensors = load_file(folder / f"ema-{rank}.safetensors")
                # The averages live where the weights do: reading puts them on the CPU.
                ema.shadow_params = [
                    tensors[f"{i:05}"].to(old.device) for i, old in enumerate(ema.shadow_params)
                ]
                ema.optimization_step = int(document["ema_step"])
        except (torch.OutOfMemoryError, MemoryError):  # which says nothing about the file
            raise
        except Exception as error:  # torch, safetensors and accelerate have no common error
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise _Damaged(reason) from error
        return document

    def _compare(self, found: Any, folder: Path) -> None:
        for key, value in self._identity.items():
            if isinstance(found, dict) and key not in found:
                continue  # from before it was compared
            before = found.get(key) if isinstance(found, dict) else None
            if isinstance(before, dict) and isinstance(value, dict):
                before = self._defaults.get(key, {}) | before
                before = {k: before.get(k) for k in value}  # other options are gone since
            if before == value:
                continue
            if isinstance(value, dict) and isinstance(before, dict):
                changed = sorted(k for k in value | before if value.get(k) != before.get(k))
                said = {"batch_size": "batch_size (of all processes)"}
                what = ", ".join(f"{said.get(k, k)} was {before.get(k)!r}" for k in changed)
            elif key == "sentences":  # a digest
                what = "its sentences were others"
            else:
                what = f"{key} was {reprlib.repr(before)}"
            raise CheckpointError(
                f"{folder} belongs to a training with other options: {what}; give the same ones, "
                "or another --out."
            )

    # -- the best ------------------------------------------------------------------------

    def save_best(self, weights: dict[str, torch.Tensor], step: int, scores: dict) -> None:
        """Keep the weights that were best on held-out clips so far."""
        if self._accelerator.is_main_process:
            path = self.out / "best.safetensors"
            with writing_tensors(path), replacing(path) as part:
                save_file(weights, part, metadata={"step": str(step), "scores": json.dumps(scores)})

    def load_best(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the best weights, and their step and scores; None where none were kept."""
        return read_best(self.out)


def read_best(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return the best weights of a training, and their step and scores; None where none are."""
    from safetensors import safe_open

    path = out / "best.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
        return weights, {"step": int(metadata["step"]), **json.loads(metadata["scores"])}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train again.") from None
