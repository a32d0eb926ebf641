"""The VAE's fast paths against the stock class: ratios of one run, and equality.

Columns: stock ``encode``/``decode``, grouped latent frames, grouped with fast layers. The
narrow VAE is the bundled model's; the others have Wan2.1's layout at a third of its width
and at its full width.

    python benchmarks/vae_paths.py [--repeat N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan

from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.presets import PRESETS, build_vae
from flowrvs.models.vae import decode_frames, encode_moments


def _best(call: Callable[[], torch.Tensor], repeat: int) -> tuple[float, torch.Tensor]:
    result = call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times), result


@torch.no_grad()
def main() -> None:
    """Print one line a VAE and direction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    torch.manual_seed(0)
    vaes = {
        "tiny, 17x96x160": (build_vae(PRESETS["tiny"]), 17, 96, 160),
        "Wan layout at width 32, 9x96x160": (AutoencoderKLWan(base_dim=32), 9, 96, 160),
        "Wan2.1, 5x64x96": (AutoencoderKLWan(), 5, 64, 96),
    }
    print(f"{'':40} {'stock s':>8} {'grouped':>8} {'fast':>8}   largest difference")
    for name, (vae, frames, height, width) in vaes.items():
        video = torch.rand(1, 3, frames, height, width) * 2 - 1
        latents = vae.encode(video).latent_dist.mean
        stock = {
            "encode": lambda vae=vae, video=video: vae.encode(video).latent_dist.parameters,
            "decode": lambda vae=vae, latents=latents: vae.decode(latents).sample,
        }
        ours = {
            "encode": lambda vae=vae, video=video: encode_moments(vae, video),
            "decode": lambda vae=vae, latents=latents: decode_frames(vae, latents),
        }
        before = {way: _best(call, repeat) for way, call in stock.items()}
        grouped = {way: _best(call, repeat) for way, call in ours.items()}
        use_fast_layers(vae)
        fast = {way: _best(call, repeat) for way, call in ours.items()}
        for way, (base, truth) in before.items():
            ratios = [base / grouped[way][0], base / fast[way][0]]
            worst = max(float((r[way][1] - truth).abs().max()) for r in (grouped, fast))
            row = f"{name + ' ' + way:40} {base:8.2f} {ratios[0]:7.1f}x {ratios[1]:7.1f}x"
            print(f"{row}   {worst:.1e}")


if __name__ == "__main__":
    main()
