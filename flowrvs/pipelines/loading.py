"""`load`: a pipeline by name or folder, on the device at hand."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from flowrvs.checkpoints import locate
from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import CheckpointError, InputError, MissingPathError
from flowrvs.models.devices import choose_device, choose_dtype, loading
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.locator import LOCATOR_FILE, Locator
from flowrvs.models.roundings import use_two_step_norms, use_wide_rotary
from flowrvs.pipelines.adapters import find_adapter, merge_adapter
from flowrvs.pipelines.memory import MODES, describe, place
from flowrvs.pipelines.pipeline import FlowRVSPipeline
from flowrvs.pipelines.prompts import (
    EmbeddingCache,
    EncoderSource,
    PromptEncoder,
    cache_home,
)

__all__ = ["load"]

_TEXT = ("full", "float8")


def load(
    model: str | PathLike[str] = "tiny",
    *,
    device: str = "auto",
    memory: str = "auto",
    dtype: str = "auto",
    text_precision: str = "full",
    portrait_box: bool = False,
    clamp: bool = True,
    fast: bool = False,
    sparse: bool = False,
    compile: bool = False,
    lora: str | PathLike[str] | None = None,
) -> FlowRVSPipeline:
    """Load a pipeline, ready to segment.

    The text encoder is not loaded: that happens for a sentence that was never used before,
    and ends with it (`flowrvs.pipelines.prompts`).

    Parameters
    ----------
    model : str or path-like
        ``"tiny"`` (bundled; knows moving shapes only), a model that was fetched
        (``"mevis"``), or a folder in diffusers layout.
    device : str
        ``"auto"`` (CUDA, then MPS, then CPU), or a torch device such as ``"cuda:1"``.
    memory : {"auto", "full", "offload", "low"}
        ``"full"`` keeps transformer and VAE on the device, ``"offload"`` the one that is
        computing, ``"low"`` a block of the transformer and one latent frame of the VAE at
        a time. ``"auto"`` is the first of them that fits (`flowrvs.pipelines.memory`).
    dtype : {"auto", "bfloat16", "float16", "float32"}
        ``"auto"`` is what the device does best: see `choose_dtype`.
    text_precision : {"full", "float8"}
        ``"float8"`` keeps most of the text encoder's weights in 8 bits while it is loaded:
        two thirds of the memory, and nearly the same embeddings.
    portrait_box, clamp : bool
        See `FlowRVSPipeline`; the defaults are what the published code does.
    fast : bool
        In 16 bits, let the VAE take the quickest kernels and several latent frames at once,
        instead of rounding as the published code does. Masks are as near to exact ones (IoU
        0.99 with either).
    sparse : bool
        Decode only where there is foreground, as the model's locator says (``flowrvs
        models calibrate``): quicker the smaller the masks are. Masks may lose pixels that
        the locator misses (IoU 0.999 or better on clips it was not fitted to).
    compile : bool
        Compile the transformer's blocks. The first window takes longer: for long jobs.
    lora : str or path-like, optional
        An adapter that was trained on this model (``flowrvs train flow --lora``), by name or
        folder; merged into the weights.

    Returns
    -------
    FlowRVSPipeline

    Raises
    ------
    CheckpointError
        The folder is not a complete pipeline, or the adapter does not fit it.
    MissingPathError
        There is no such model or adapter.
    InputError
        Unknown device, memory mode or number format.
    """
    if memory not in MODES:
        raise InputError(f"Unknown memory mode {memory!r}; choose one of {', '.join(MODES)}.")
    if text_precision not in _TEXT:
        raise InputError(f"Unknown text precision {text_precision!r}; use {' or '.join(_TEXT)}.")
    target = choose_device(device)
    number = choose_dtype(dtype, target)
    folder = locate(model)
    adapter = None if lora is None else find_adapter(lora)
    with loading(folder, "a FlowRVS pipeline"):
        pipeline = FlowRVSPipeline.from_pretrained(
            folder,
            text_encoder=None,
            dtype=number,
            local_files_only=True,
            use_safetensors=True,
        )
    _check_weights(folder, pipeline)
    if adapter is not None:
        merge_adapter(pipeline.transformer, adapter)
    _cast(pipeline.transformer, number)
    pipeline.transformer.eval().requires_grad_(False)
    pipeline.vae.eval().requires_grad_(False)
    pipeline.portrait_box, pipeline.clamp = portrait_box, clamp
    pipeline.name = _name(
        model,
        folder,
        bfloat16=number == torch.bfloat16,
        float16=number == torch.float16,
        float8=text_precision == "float8",
        portrait=portrait_box,
        fast=fast,
        sparse=sparse,
    )
    parts = [folder / "transformer", folder / "vae"]
    if adapter is not None:
        pipeline.name += f"+{_adapter_name(adapter)}"
        parts.append(adapter)
    pipeline.weights = fingerprint(*parts)[:12]
    pipeline.set_progress_bar_config(disable=True)
    pipeline.prompts = _prompts(pipeline, folder, target, number, text_precision)
    exact = number != torch.float32 and not fast
    if exact:
        _round_as_published(pipeline.transformer, target)
    place(pipeline, target, memory)
    if exact:
        pipeline.latent_group = 1  # a kernel's sums depend on how much it is given
    pipeline.memory_line = describe(pipeline, target)
    use_fast_layers(pipeline.vae, exact=not fast)
    if sparse:
        pipeline.locator = _locator(folder).to(target)
    if compile:
        for block in pipeline.transformer.blocks:
            block.compile()
    return pipeline


def _check_weights(folder: Path, pipeline: FlowRVSPipeline) -> None:
    """Refuse a model of which weights are missing; diffusers leaves those without numbers."""
    for part in ("transformer", "vae"):
        lacks = [name for name, p in getattr(pipeline, part).named_parameters() if p.is_meta]
        if lacks:
            more = f" and {len(lacks) - 3} more" if len(lacks) > 3 else ""
            raise CheckpointError(
                f"{folder / part} lacks the weights {', '.join(lacks[:3])}{more}; "
                "fetch or copy the model again."
            )


def _cast(transformer: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast all parameters, as the published code does; diffusers leaves some in float32.

    Only the tables of the rotary embedding stay as they are: with that, velocities in
    bfloat16 are equal to the published code's to the bit.
    """
    for name, parameter in transformer.named_parameters():
        if not name.startswith("rope."):
            parameter.data = parameter.data.to(dtype)


def _round_as_published(transformer: WanTransformer3DModel, device: torch.device) -> None:
    """In 16 bits, let what is computed be rounded where the published code rounds it."""
    use_two_step_norms(transformer)
    if device.type != "mps":  # which has no 64 bits
        use_wide_rotary(transformer)


def _name(model: str | PathLike[str], folder: Path, **changes: bool) -> str:
    """Say under which name its masks are kept; what changes them is part of it."""
    name = str(model) if str(model) == "tiny" else folder.name
    return "+".join([name, *(change for change, on in changes.items() if on)])


def _adapter_name(folder: Path) -> str:
    """Name of an adapter: of the training that made it, where the folder is only "lora"."""
    return folder.parent.name if folder.name == "lora" else folder.name


def _locator(folder: Path) -> Locator:
    path = folder / LOCATOR_FILE
    if not path.is_file():
        raise MissingPathError(
            f"{folder} has no locator for sparse decoding: run 'flowrvs models calibrate "
            f"{folder}' first."
        )
    return Locator.load(path)


def _prompts(
    pipeline: FlowRVSPipeline,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    precision: str,
) -> PromptEncoder:
    encoder = folder / "text_encoder"
    # float16 overflows in umt5; a CPU takes whatever the model computes in.
    number = torch.float32 if dtype == torch.float16 else dtype
    float8 = precision == "float8"
    kind = f"{str(number).removeprefix('torch.')}{'-float8' if float8 else ''}"
    length = int(pipeline.config.max_sequence_length)
    key = f"{fingerprint(encoder, folder / 'tokenizer')}-{kind}-{length}"
    return PromptEncoder(
        pipeline.tokenizer,
        EncoderSource(encoder, number, float8),
        length=length,
        lower_case=bool(pipeline.config.lower_case),
        cache=EmbeddingCache(cache_home() / "embeddings" / key),
    )
