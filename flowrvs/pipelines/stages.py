"""The three stages of a call, on the parts that they need: encode, deform, decode.

`FlowRVSPipeline` chooses the groups, the device and what to do when it is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from flowrvs.errors import CheckpointError, InputError
from flowrvs.models.devices import memory_guard
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
from flowrvs.progress import CancelToken
from flowrvs.records import FrameBlock

__all__ = [
    "check_finite",
    "decode_clip",
    "deform_latents",
    "encode_clip",
    "flow_sigmas",
    "interruptible",
    "prefetch",
    "set_flow_timesteps",
]

T = TypeVar("T")

_END: Any = object()
_SHIFT = 3.0


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


def check_finite(logits: npt.NDArray[np.float32], dtype: torch.dtype, name: str) -> None:
    """Refuse logits that are no numbers.

    Parameters
    ----------
    logits : ndarray
    dtype : torch.dtype
        What the model computed in.
    name : str
        The model, for the message.

    Raises
    ------
    InputError
        It overflows in float16.
    CheckpointError
        Its weights are damaged.
    """
    if np.isfinite(logits).all():
        return
    if dtype == torch.float16:
        raise InputError("The model overflows in float16 on this device; choose --dtype float32.")
    raise CheckpointError(
        f"The model {name} computes no numbers: its weights are damaged; run 'flowrvs "
        "models verify' on it, or fetch it again."
    )


def flow_sigmas(steps: int) -> list[float]:
    """Noise levels of `steps` Euler steps, from 1 downwards, without the final 0.

    ``s = linspace(1, 0.001, n + 1)[:-1]``, then ``round(3 s / (1 + 2 s) * 1000) / 1000``:
    one step gives [1.0], two give [1.0, 0.75].

    Raises
    ------
    InputError
        `steps` is not 1 to 1000.
    """
    if not 1 <= steps <= 1000:
        raise InputError(f"Cannot take {steps} flow steps; choose 1 (the default) to 1000.")
    grid = np.linspace(1.0, 0.001, steps + 1)[:-1]
    shifted = _SHIFT * grid / (1 + (_SHIFT - 1) * grid)
    return [float(value) for value in np.rint(shifted * 1000) / 1000]


def set_flow_timesteps(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, device: object = None
) -> None:
    """Give a stock scheduler (shift 1) exactly the times of `flow_sigmas`."""
    sigmas = flow_sigmas(steps)
    # Whole ones, as the published code's: 0.571 * 1000 is not 571.
    timesteps = [float(round(1000 * sigma)) for sigma in sigmas]
    scheduler.set_timesteps(sigmas=sigmas, timesteps=timesteps, device=device)


@contextmanager
def interruptible(blocks: Iterable[torch.nn.Module], cancel: CancelToken | None) -> Iterator[None]:
    """Raise `Cancelled` before the next of `blocks` once `cancel` is set.

    A pass of the production model takes seconds, on a CPU minutes; a person who pressed
    Cancel should not wait for its end.
    """
    if cancel is None:
        yield
        return
    cancel.raise_if_cancelled()
    with ExitStack() as hooks:
        for block in blocks:
            handle = block.register_forward_pre_hook(lambda *_: cancel.raise_if_cancelled())
            hooks.callback(handle.remove)
        yield


def prefetch(items: Iterable[T], depth: int = 1) -> Generator[T, None, None]:
    """Yield `items`, computed up to `depth` of them ahead on one thread.

    Closing it early waits for the item that is being computed, and asks for no other.
    """
    iterator = iter(items)
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="flowrvs-read") as pool:
        try:
            while True:
                while len(pending) <= depth:
                    pending.append(pool.submit(next, iterator, _END))
                item = pending.popleft().result()
                if item is _END:
                    return
                yield item
        finally:
            for future in pending:
                future.cancel()
