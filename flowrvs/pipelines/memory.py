"""Memory modes: what is on the device when, and how much that takes at most.

The estimate adds up weights and the largest tensors that live at once, from the configs
alone; ``benchmarks/peak_memory.py`` compares it with an allocation trace of the models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.hooks import apply_group_offloading

from flowrvs.models.devices import free_memory
from flowrvs.models.vae import temporal_factor
from flowrvs.pipelines.pipeline import FlowRVSPipeline

__all__ = ["MODES", "Estimate", "describe", "estimate_peak", "place"]

#: From the quickest to the smallest; "auto" picks the first that fits.
MODES = ("auto", "full", "offload", "low")

_GROUPS = {"full": 2, "offload": 2, "low": 1}
_CPU_GROUP = 4
#: Share of the free memory that is planned with; the rest is fragmentation and workspaces.
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected peak of device memory, in bytes.

    Attributes
    ----------
    mode : str
        "full", "offload" or "low".
    weights : int
        Weights that are on the device at the peak.
    encode, deform, decode : int
        Activations of the three parts of a window.
    peak : int
        The largest sum of weights and activations that are there together.
    """

    mode: str
    weights: int
    encode: int
    deform: int
    decode: int
    peak: int


def estimate_peak(
    pipeline: FlowRVSPipeline,
    mode: str = "full",
    *,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    sentences: int = 1,
    group: int | None = None,
) -> Estimate:
    """Estimate the peak device memory of a window, without the text encoder.

    Parameters
    ----------
    pipeline : FlowRVSPipeline
    mode : {"full", "offload", "low"}
    frames, height, width : int, optional
        Frames of a window and the size of the model's pictures in pixels; the model's own
        window and box by default.
    sentences : int
        Sentences that go through the transformer at once.
    group : int, optional
        Latent frames in the VAE at once; the mode's by default.

    Returns
    -------
    Estimate
    """
    vae, transformer = pipeline.vae, pipeline.transformer
    size = transformer.dtype.itemsize
    factor = temporal_factor(vae)
    frames = frames or pipeline.window_size
    group = group or _GROUPS[mode]
    latents = 1 + -(-(frames - 1) // factor)
    patch = int(vae.config.patch_size or 1)
    pixels = (height or int(pipeline.config.sample_height)) * (
        width or int(pipeline.config.sample_width)
    )
    pixels //= patch**2
    cells = pixels // 4 ** (len(vae.config.dim_mult) - 1)
    at_once = min(group, latents) * factor
    encode = _vae_bytes(vae, pixels, at_once, size, encoder=True)
    decode = _vae_bytes(vae, pixels, at_once, size, encoder=False)
    tokens = latents * cells // 4
    config = transformer.config
    dim = config.num_attention_heads * config.attention_head_dim
    # Residual stream, its float32 copies in the norms and gates, q, k, v and their turned
    # copies; or the feed-forward's hidden layer, twice (before and after the activation).
    attention = dim * (6 * size + 3 * 4)
    forward = dim * (3 * size + 2 * 4) + 2 * config.ffn_dim * size
    deform = sentences * tokens * max(attention, forward)
    heavy = _bytes(transformer)
    if mode == "low":
        heavy = heavy * 2 // max(1, len(transformer.blocks))  # this block and the next one
    light = _bytes(vae)
    if mode == "full":
        weights = heavy + light
        peak = weights + max(encode, deform, decode)
    else:
        peak = max(light + max(encode, decode), heavy + light + deform)
        weights = heavy + light
    return Estimate(mode, weights, encode, deform, decode, peak)


def place(pipeline: FlowRVSPipeline, device: torch.device, mode: str) -> str:
    """Put a pipeline's models on a device in a memory mode; return the mode that it is.

    On a CPU there is nothing to move, and ``"low"`` only makes the groups small.
    """
    if mode == "auto":
        mode = _first_that_fits(pipeline, free_memory(device))
    pipeline.latent_group = _GROUPS[mode]
    if device.type == "cpu":
        pipeline.latent_group = 1 if mode == "low" else _CPU_GROUP
    elif mode == "offload":
        pipeline.enable_model_cpu_offload(device=device)
    elif mode == "low":
        pipeline.sentence_batch = 1
        pipeline.vae.to(device)
        apply_group_offloading(
            pipeline.transformer,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",
        )
    if mode == "full" or device.type == "cpu":
        pipeline.to(device)
    pipeline.memory_mode = mode
    return mode


def describe(pipeline: FlowRVSPipeline, device: torch.device) -> str:
    """Say in one line what memory a window is expected to need; empty on a CPU."""
    free = free_memory(device)
    if free is None:
        return ""
    estimate = estimate_peak(pipeline, pipeline.memory_mode, group=pipeline.latent_group)
    return (
        f"Memory mode {pipeline.memory_mode}: about {estimate.peak / 1e9:.1f} GB of {device} for "
        f"{pipeline.window_size} frames; {free / 1e9:.1f} GB are free."
    )


def _first_that_fits(pipeline: FlowRVSPipeline, free: int | None) -> str:
    if free is None:
        return "full"
    for mode in MODES[1:]:
        if estimate_peak(pipeline, mode).peak <= _SHARE * free:
            return mode
    return MODES[-1]


def _vae_bytes(vae: torch.nn.Module, pixels: int, frames: int, size: int, *, encoder: bool) -> int:
    """Bytes of the VAE's largest stage and of the features it keeps of frames before."""
    config = vae.config
    dims = [config.base_dim * m for m in config.dim_mult]
    blocks = config.num_res_blocks + (0 if encoder else 1)
    cache = sum(
        2 * 2 * blocks * dim * (pixels // 4**level) * size for level, dim in enumerate(dims)
    )
    # A residual block's input, its branch, the padded input of a convolution and its
    # result; the decoder's upsampled pictures are wider than what comes out of them.
    stage = config.base_dim * pixels * frames * size * (4 if encoder else 5)
    return int(1.3 * cache + stage)


def _bytes(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
