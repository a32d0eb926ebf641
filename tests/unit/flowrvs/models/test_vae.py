"""Streamed coding and the fast layers equal the stock VAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.models.vae import (
    decode_frames,
    encode_moments,
    iter_decode,
    mask_cells,
    spatial_factor,
    temporal_factor,
)


@pytest.fixture
def video() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(1, 3, 13, 32, 48) * 2 - 1


@pytest.mark.parametrize("group", [1, 2, 5])
@torch.no_grad()
def test_groups_of_latent_frames_give_the_stock_result(video: torch.Tensor, group: int) -> None:
    torch.manual_seed(0)
    vae = build_vae(PRESETS["micro"])
    stock = vae.encode(video).latent_dist
    moments = encode_moments(vae, video, group=group)
    torch.testing.assert_close(moments, stock.parameters, atol=1e-5, rtol=1e-4)
    decoded = decode_frames(vae, stock.mean, group=group)
    torch.testing.assert_close(decoded, vae.decode(stock.mean).sample, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_streamed_decoding_yields_few_frames_at_a_time(video: torch.Tensor) -> None:
    vae = build_vae(PRESETS["micro"], mask_decoder=True)
    latents = encode_moments(vae, video)[:, : vae.config.z_dim]
    lengths = [part.shape[2] for part in iter_decode(vae, latents, group=2)]
    assert lengths == [1, 8, 4]


@torch.no_grad()
def test_the_clamp_is_optional(video: torch.Tensor) -> None:
    vae = build_vae(PRESETS["micro"])
    latents = 50 * encode_moments(vae, video)[:, : vae.config.z_dim] + 50
    free = decode_frames(vae, latents, clamp=False)
    assert free.abs().max() > 1
    torch.testing.assert_close(free.clamp(-1, 1), decode_frames(vae, latents))


def _vae(kind: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    if kind == "micro":
        return build_vae(PRESETS["micro"])
    width = 4 if kind == "narrow Wan" else 80  # beyond 64 channels another kernel computes
    return AutoencoderKLWan(base_dim=width, dim_mult=[1, 2, 2, 2], num_res_blocks=1)


KINDS = ["micro", "narrow Wan", "wide Wan"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 3])
@torch.no_grad()
def test_fast_layers_give_the_stock_result(video: torch.Tensor, kind: str, group: int) -> None:
    vae = _vae(kind)
    video = video[..., :16, :32]
    stock = vae.encode(video).latent_dist
    decoded = vae.decode(stock.mean).sample
    use_fast_layers(vae)
    moments = encode_moments(vae, video, group=group)
    torch.testing.assert_close(moments, stock.parameters, atol=2e-5, rtol=1e-4)
    ours = decode_frames(vae, stock.mean, group=group)
    torch.testing.assert_close(ours, decoded, atol=2e-5, rtol=1e-4)
    # and through the stock loops as well
    torch.testing.assert_close(vae.decode(stock.mean).sample, decoded, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_fast_layers_in_bfloat16(video: torch.Tensor) -> None:
    vae = _vae("micro")
    exact = vae.decode(vae.encode(video).latent_dist.mean).sample
    vae.to(torch.bfloat16)
    stock = vae.decode(vae.encode(video.bfloat16()).latent_dist.mean).sample
    use_fast_layers(vae)
    ours = decode_frames(vae, encode_moments(vae, video.bfloat16())[:, : vae.config.z_dim])
    assert ours.dtype == torch.bfloat16
    off = (ours.float() - stock.float()).abs()
    assert off.mean() < 0.2 * (stock.float() - exact).abs().mean()


@torch.no_grad()
def test_the_quickest_kernels_are_as_near_to_the_truth(video: torch.Tensor) -> None:
    vae = _vae("micro")
    exact = vae.decode(vae.encode(video).latent_dist.mean).sample
    vae.to(torch.bfloat16)
    video = video.bfloat16()
    stock = vae.decode(vae.encode(video).latent_dist.mean).sample
    use_fast_layers(vae, exact=False)
    ours = decode_frames(vae, encode_moments(vae, video)[:, : vae.config.z_dim])
    assert not torch.equal(ours, stock)
    assert (ours.float() - exact).abs().mean() < 1.2 * (stock.float() - exact).abs().mean()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24, 2, 5, 6), (3, 24, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@torch.no_grad()
def test_norms_round_as_the_stock_layer_does(
    shape: tuple[int, ...], dtype: torch.dtype, bias: bool
) -> None:
    torch.manual_seed(0)
    norm = WanRMS_norm(24, images=len(shape) == 4, bias=bias)
    norm.gamma.uniform_(0.5, 2)
    if bias:
        norm.bias.uniform_(0.5, 2)
    norm.to(dtype)
    x = torch.randn(shape, dtype=dtype)
    x[:, :, 0, 0] = 0
    stock = norm(x)
    ours = use_fast_layers(torch.nn.Sequential(norm))(x)
    off = 0 if dtype != torch.float32 else 1e-5  # one pass instead of six
    torch.testing.assert_close(ours, stock, rtol=off, atol=off)


@torch.no_grad()
def test_fast_layers_are_saved_as_any_others(tmp_path: Path) -> None:
    vae = use_fast_layers(_vae("micro"))
    vae.save_pretrained(tmp_path)
    again = AutoencoderKLWan.from_pretrained(tmp_path).state_dict()
    for name, tensor in vae.state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_fast_layers_give_the_same_gradients(video: torch.Tensor, kind: str) -> None:
    vae = _vae(kind)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        vae.zero_grad()
        latents = encode_moments(vae, video)[:, : vae.config.z_dim]
        decoded = decode_frames(vae, latents, clamp=False)
        decoded.square().mean().backward()
        return decoded.detach(), [p.grad.clone() for p in vae.parameters()]

    plain, plain_gradients = run()
    use_fast_layers(vae)
    fast, fast_gradients = run()
    torch.testing.assert_close(fast, plain, atol=2e-5, rtol=1e-4)
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)


def test_factors_come_from_the_config() -> None:
    from diffusers import AutoencoderKLWan

    wan = AutoencoderKLWan(base_dim=4)
    assert (spatial_factor(wan), temporal_factor(wan)) == (8, 4)
    flat = AutoencoderKLWan(
        base_dim=4,
        dim_mult=[1, 2, 2],
        temperal_downsample=[False, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )
    assert (spatial_factor(flat), temporal_factor(flat)) == (8, 2)


def test_cells_of_masks_are_those_that_any_pixel_touches() -> None:
    masks = np.zeros((9, 16, 24), bool)
    masks[0, 3, 5] = True  # the first frame is a latent frame of its own
    masks[4, 8, 23] = True  # the last of the next four
    masks[5, 15, 0] = True
    cells = mask_cells(masks, torch.zeros(16, 3, 2, 3))
    expected = torch.zeros(3, 2, 3)
    expected[0, 0, 0] = expected[1, 1, 2] = expected[2, 1, 0] = 1
    assert torch.equal(cells, expected)
    assert torch.equal(mask_cells(masks[:1], torch.zeros(16, 1, 2, 3)), expected[:1])
