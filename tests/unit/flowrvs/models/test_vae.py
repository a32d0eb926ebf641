"""Grouped coding and folded convolutions equal the stock VAE."""

from __future__ import annotations

import pytest
import torch

from flowrvs.models.folded_conv import use_folded_convolutions
from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.models.vae import (
    decode_frames,
    encode_moments,
    iter_decode,
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


@pytest.mark.parametrize("preset", ["micro", "wan-like"])
def test_folded_convolutions_compute_the_same_values_and_gradients(
    video: torch.Tensor, preset: str
) -> None:
    torch.manual_seed(0)
    if preset == "micro":
        vae = build_vae(PRESETS["micro"])
    else:
        from diffusers import AutoencoderKLWan

        vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        vae.zero_grad()
        latents = encode_moments(vae, video)[:, : vae.config.z_dim]
        decoded = decode_frames(vae, latents, clamp=False)
        decoded.square().mean().backward()
        return decoded.detach(), [p.grad.clone() for p in vae.parameters()]

    plain, plain_gradients = run()
    use_folded_convolutions(vae, force=True)
    folded, folded_gradients = run()
    torch.testing.assert_close(folded, plain, atol=2e-5, rtol=1e-4)
    for ours, theirs in zip(folded_gradients, plain_gradients, strict=True):
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
