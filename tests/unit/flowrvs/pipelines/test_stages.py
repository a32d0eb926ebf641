"""Frames on their way into the model and logits on their way back, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowrvs.errors import Cancelled, CheckpointError, InputError, VideoError
from flowrvs.models.vae import encode_moments
from flowrvs.pipelines.geometry import (
    ClipGeometry,
    fit_inside,
    iter_clip,
    normalise,
    plan_clip,
    resize_logits,
)
from flowrvs.pipelines.latents import encode_latent
from flowrvs.pipelines.stages import (
    check_finite,
    flow_sigmas,
    interruptible,
    prefetch,
    set_flow_timesteps,
)
from flowrvs.progress import CancelToken
from tests.fixtures.micro import micro_pipeline


@pytest.mark.parametrize(
    ("source", "box", "multiple", "fitted"),
    [
        ((480, 832), (480, 832), 16, (480, 832)),
        ((96, 160), (480, 832), 16, (480, 800)),
        ((960, 1664), (480, 832), 16, (480, 832)),
        ((500, 832), (480, 832), 16, (480, 784)),
        ((100, 1000), (480, 832), 16, (80, 832)),
        ((31, 31), (32, 48), 16, (32, 32)),
        ((32, 32), (47, 47), 16, (32, 32)),
        ((1, 1000), (32, 48), 16, (16, 48)),
        ((1000, 1), (32, 48), 16, (32, 16)),
        ((64, 64), (32, 48), 8, (32, 32)),
    ],
)
def test_pictures_fit_into_a_box(
    source: tuple[int, int], box: tuple[int, int], multiple: int, fitted: tuple[int, int]
) -> None:
    assert fit_inside(*source, *box, multiple) == fitted


@pytest.mark.parametrize(
    ("count", "temporal", "padded"),
    [(1, 4, 1), (2, 4, 5), (4, 4, 5), (5, 4, 5), (6, 4, 9), (81, 4, 81), (3, 2, 3), (4, 2, 5)],
)
def test_clips_are_padded_to_whole_latent_frames(count: int, temporal: int, padded: int) -> None:
    frames = np.zeros((count, 40, 70, 3), np.uint8)
    plan = plan_clip(frames, box=(32, 48), multiple=16, temporal=temporal)
    assert plan == ClipGeometry(count, 40, 70, padded, 16, 48)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 5, 4), np.uint8),
        np.zeros((2, 4, 5), np.uint8),
        np.zeros((2, 4, 5, 3), np.float32),
        np.zeros((2, 0, 5, 3), np.uint8),
    ],
)
def test_what_is_no_clip_is_told(frames: np.ndarray) -> None:
    with pytest.raises(VideoError) as caught:
        plan_clip(frames, box=(32, 48), multiple=16, temporal=4)
    assert str(caught.value) == (
        f"The model needs uint8 RGB frames of shape (T, H, W, 3), not {frames.dtype} "
        f"{frames.shape}; open the video with flowrvs.open_video."
    )


@pytest.mark.parametrize("size", [(16, 48), (40, 70)])
@pytest.mark.parametrize("bounds", [[(0, 9)], [(0, 1), (1, 5), (5, 9)], [(0, 1), (1, 9)]])
def test_frames_are_read_in_groups_and_the_last_is_repeated(
    size: tuple[int, int], bounds: list[tuple[int, int]]
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 70, 3), np.uint8)
    for count in (6, 5):
        given_frames = frames[:count]
        groups = list(iter_clip(given_frames, ClipGeometry(count, 40, 70, 9, *size), bounds))
        assert [len(group) for group in groups] == [stop - start for start, stop in bounds]
        shown = [
            np.asarray(Image.fromarray(f).resize(size[::-1], Image.Resampling.BILINEAR))
            for f in given_frames
        ]
        expected = np.stack(shown + shown[-1:] * (9 - count))
        np.testing.assert_array_equal(torch.cat(groups).numpy(), expected)


def test_bytes_become_numbers_from_minus_one_to_one() -> None:
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    found = normalise(frames.repeat(2, 4, 5, 1), torch.float32)
    assert found.shape == (1, 3, 2, 4, 5)
    torch.testing.assert_close(found[0, :, 0, 0, 0], torch.tensor([-1, -0.6, 1]))
    assert normalise(frames, torch.bfloat16).dtype == torch.bfloat16


def test_logits_of_the_source_size_stay_as_they_are() -> None:
    geometry = ClipGeometry(1, 4, 5, 1, 16, 16)
    logits = torch.tensor([-1, 0.002, 0.3, 1, 0.01]).repeat(1, 4, 1)
    assert torch.equal(resize_logits(logits, geometry), logits)
    half = resize_logits(logits.bfloat16(), geometry)
    assert half.dtype == torch.float32 and half[0, 0, 1] == 0 and half[0, 0, 4] > 0
    assert torch.equal(half[0, 0, [0, 2, 3]], logits.bfloat16()[0, 0, [0, 2, 3]].float())


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (1, [1000]),
        (2, [1000, 750]),
        (3, [1000, 857, 601]),
        (5, [1000, 923, 818, 667, 430]),
        (8, [1000, 955, 900, 833, 750, 644, 501, 302]),
    ],
)
def test_times_of_steps_are_whole_numbers(steps: int, times: list[int]) -> None:
    sigmas = flow_sigmas(steps)
    assert [round(1000 * s, 9) for s in sigmas] == pytest.approx(times, abs=1.01)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    set_flow_timesteps(scheduler, steps)
    assert scheduler.timesteps.tolist() == [round(1000 * s) for s in sigmas]
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([*sigmas, 0.0]))


def test_times_are_those_of_the_published_code_to_the_bit() -> None:
    """Not a thousand times the level, which in 32 bits is beside the whole number now and then."""
    scheduler, beside = FlowMatchEulerDiscreteScheduler(shift=1.0), 0
    for steps in range(1, 60):
        set_flow_timesteps(scheduler, steps)
        times = scheduler.timesteps.tolist()
        assert times == [round(1000 * sigma) for sigma in flow_sigmas(steps)]
        beside += (1000 * scheduler.sigmas[:-1]).tolist() != times
    assert beside > 5


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1000))
def test_levels_fall_from_one(steps: int) -> None:
    sigmas = flow_sigmas(steps)
    grid = [1 - 0.999 * n / steps for n in range(steps)]
    expected = [np.rint(3000 * s / (1 + 2 * s)) / 1000 for s in grid]
    assert np.abs(np.array(sigmas) - expected).max() <= 0.001 + 1e-9  # a half may go either way
    assert len(sigmas) == steps and sigmas[0] == 1 and all(s > 0 for s in sigmas)


def test_logits_that_are_no_numbers() -> None:
    good, bad = np.zeros((2, 3), np.float32), np.array([0, np.inf], np.float32)
    for dtype in (torch.float16, torch.float32):
        check_finite(good, dtype, "mine")
    with pytest.raises(InputError) as caught:
        check_finite(bad, torch.float16, "mine")
    assert str(caught.value) == (
        "The model overflows in float16 on this device; choose --dtype float32."
    )
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(CheckpointError) as broken:
            check_finite(np.array([np.nan]), dtype, "mine")
        assert str(broken.value) == (
            "The model mine computes no numbers: its weights are damaged; run 'flowrvs models "
            "verify' on it, or fetch it again."
        )


def test_a_cancel_is_looked_at_before_every_block() -> None:
    blocks = [torch.nn.Identity() for _ in range(4)]
    token, ran = CancelToken(), list[int]()
    for n, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, n=n: ran.append(n))
    with pytest.raises(Cancelled), interruptible(blocks, token):
        for n, block in enumerate(blocks):
            if n == 2:
                token.cancel()
            block(torch.zeros(1))
    assert ran == [0, 1] and not any(block._forward_pre_hooks for block in blocks)
    with pytest.raises(Cancelled), interruptible(blocks, token):
        pytest.fail("it was cancelled before")
    with interruptible(blocks, None):
        assert not any(block._forward_pre_hooks for block in blocks)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_more_is_made_ahead_than_was_asked_for(depth: int) -> None:
    made: list[int] = []

    def items() -> Any:
        for n in range(10):
            made.append(n)
            yield n

    ahead = prefetch(items(), depth)
    for n in range(4):
        assert next(ahead) == n
        assert len(made) <= n + 1 + depth
    ahead.close()
    assert len(made) <= 5 + depth
    assert list(prefetch([], depth)) == []


@pytest.mark.parametrize("mixed", [False, True])
def test_latents_of_pictures_and_masks(mixed: bool) -> None:
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (5, 32, 48, 3), np.uint8)
    masks = rng.random((5, 32, 48)) > 0.5
    vae = micro_pipeline().vae.requires_grad_(False)
    size = int(vae.config.z_dim)
    pictures = encode_latent(vae, clip, mixed=mixed)
    meant = encode_latent(vae, masks, mixed=mixed)
    assert pictures.shape == (2 * size, 2, 4, 6) and meant.shape == (size, 2, 4, 6)
    assert pictures.dtype == meant.dtype == torch.float32
    white = np.repeat(255 * masks[..., None].astype(np.uint8), 3, -1)
    near = 0.1 if mixed else 1e-5
    for found, frames in ((pictures, clip), (meant, white)):
        moments = encode_moments(vae, normalise(torch.from_numpy(frames), torch.float32))[0]
        torch.testing.assert_close(found, moments[: len(found)], atol=near, rtol=near)
        exact = torch.equal(found, moments[: len(found)])
        assert exact != mixed
    assert torch.equal(encode_latent(vae, clip), encode_latent(vae, clip, mixed=False))
    # Of masks nothing but the mean is kept, in memory too.
    assert meant.untyped_storage().nbytes() == meant.nbytes
