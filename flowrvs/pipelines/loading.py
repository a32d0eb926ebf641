"""`load`: a pipeline by name or folder, on the device at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from flowrvs.checkpoints import locate
from flowrvs.errors import CheckpointError, InputError
from flowrvs.models.folded_conv import use_folded_convolutions
from flowrvs.pipelines.pipeline import FlowRVSPipeline

__all__ = ["load"]

_MEMORY = ("auto", "full", "offload", "low")


def load(
    model: str | PathLike[str] = "tiny", *, device: str = "auto", memory: str = "auto"
) -> FlowRVSPipeline:
    """Load a pipeline, ready to segment.

    Parameters
    ----------
    model : str or path-like
        ``"tiny"`` (bundled; knows moving shapes only) or a folder in diffusers layout.
    device : str
        ``"auto"`` (CUDA, then MPS, then CPU), or a torch device such as ``"cuda:1"``.
    memory : {"auto", "full", "offload", "low"}
        ``"offload"`` keeps only the part that is computing on the GPU, ``"low"`` also
        decodes one latent frame at a time; ``"auto"`` is ``"full"`` for now.

    Returns
    -------
    FlowRVSPipeline

    Raises
    ------
    CheckpointError
        The folder is not a complete pipeline.
    InputError
        Unknown device or memory mode.
    """
    if memory not in _MEMORY:
        raise InputError(f"Unknown memory mode {memory!r}; choose one of {', '.join(_MEMORY)}.")
    target = _device(device)
    folder = locate(model)
    dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
    try:
        with _quiet():
            pipeline = FlowRVSPipeline.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{folder} cannot be loaded as a FlowRVS pipeline: {reason}"
        ) from error
    pipeline.name = folder.name if str(model) != "tiny" else "tiny"
    pipeline.set_progress_bar_config(disable=True)
    if memory in ("offload", "low"):
        pipeline.latent_group = 1 if memory == "low" else pipeline.latent_group
    if memory in ("offload", "low") and target.type != "cpu":
        pipeline.enable_model_cpu_offload(device=target)
    else:
        pipeline.to(target)
    use_folded_convolutions(pipeline.vae)
    return pipeline


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the libraries' own progress bars, and leave them as they were."""
    bars = [
        log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()
    ]
    for log in bars:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in bars:
            log.enable_progress_bar()


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"Unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps.") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not available:
        raise InputError(f"There is no device {name!r} here; use --device auto or cpu.")
    return device
