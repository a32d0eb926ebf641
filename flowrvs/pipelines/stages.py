"""The three stages of a call, on the parts that they need: encode, deform, decode.

`FlowRVSPipeline` chooses the groups, the device and what to do when it is full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from flowrvs.models.locator import Locator
from flowrvs.models.tiles import iter_decode_tiles, plan_tiles
from flowrvs.models.vae import (
    frame_groups,
    iter_decode,
    iter_encode,
    latent_statistics,
    temporal_factor,
)
from flowrvs.pipelines.geometry import ClipGeometry, iter_clip, normalise, resize_logits
from flowrvs.pipelines.interrupt import interruptible
from flowrvs.pipelines.outputs import memory_guard
from flowrvs.pipelines.prefetch import prefetch
from flowrvs.pipelines.schedule import set_flow_timesteps
from flowrvs.progress import CancelToken
from flowrvs.records import FrameBlock

__all__ = ["decode_clip", "deform_latents", "encode_clip"]


def encode_clip(
    vae: AutoencoderKLWan,
    frames: FrameBlock,
    geometry: ClipGeometry,
    group: int,
    device: torch.device,
    cancel: CancelToken | None,
) -> torch.Tensor:
    """Encode a clip that is read and resized a group of latent frames ahead of the device.

    Returns
    -------
    Tensor, shape (1, z_dim, t, h, w)
        Normalised latent mean.
    """
    bounds = frame_groups(geometry.model_frames, group, temporal_factor(vae))
    clip = prefetch(iter_clip(frames, geometry, bounds))
    with closing(clip), interruptible(vae.encoder.down_blocks, cancel):
        inputs = _on_device(clip, device, vae.dtype)
        moments = torch.cat(list(iter_encode(vae, inputs)), dim=2)
    latents = moments[:, : vae.config.z_dim]
    mean, std = (statistic.to(latents) for statistic in latent_statistics(vae))
    return (latents - mean) / std


def _on_device(
    clip: Iterable[torch.Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    for frames in clip:
        if device.type == "cuda":
            frames = frames.pin_memory()
        # Bytes travel, floats are made on the device.
        yield normalise(frames.to(device, non_blocking=True), dtype)


def deform_latents(
    transformer: WanTransformer3DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    video: torch.Tensor,
    embeddings: torch.Tensor,
    steps: int,
    inject: bool,
    cancel: CancelToken | None,
    on_step: Callable[[], None] | None,
) -> torch.Tensor:
    """Carry a video's latent to the masks' latents, one a sentence, with Euler steps.

    With `inject` the transformer is given the video's latent beside the state at each step.
    """
    # A scheduler counts its steps: each call has one of its own.
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
    set_flow_timesteps(scheduler, steps, video.device)
    start = video.expand(len(embeddings), -1, -1, -1, -1)
    state = start
    for time in scheduler.timesteps:
        inputs = torch.cat([state, start], dim=1) if inject else state
        with (
            memory_guard(f"{len(embeddings)} sentence(s)"),
            interruptible(transformer.blocks, cancel),
        ):
            velocity = transformer(
                hidden_states=inputs,
                timestep=time.expand(len(inputs)),
                encoder_hidden_states=embeddings,
                return_dict=False,
            )[0]
        state = scheduler.step(velocity, time, state, return_dict=False)[0]
        if on_step is not None:
            for _ in range(len(embeddings)):
                on_step()
    return state


def decode_clip(
    vae: AutoencoderKLWan,
    latents: torch.Tensor,
    geometry: ClipGeometry,
    *,
    group: int,
    clamp: bool,
    locator: Locator | None,
    skip: int,
    cancel: CancelToken | None,
) -> Iterator[torch.Tensor]:
    """Decode one sentence's mask latent in groups; the first `skip` frames are not given.

    Yields
    ------
    Tensor of float32, shape (n, H, W)
        Logits at source size, on the CPU.
    """
    tiles = None if locator is None else plan_tiles(vae, locator.cells(latents))
    if tiles is None:
        parts = iter_decode(vae, latents, group=group, clamp=clamp)
    else:
        parts = iter_decode_tiles(vae, latents, tiles, group=group, clamp=clamp)
    position = 0
    with memory_guard("the masks"), interruptible(vae.decoder.up_blocks, cancel):
        for part in parts:
            stop = min(position + part.shape[2], geometry.frames)
            fresh = part[0, 0, max(0, skip - position) : stop - position]
            position += part.shape[2]
            if len(fresh):
                yield resize_logits(fresh, geometry).cpu()
