"""Peak memory of the production model's parts, from a trace of their allocations.

The models run on torch's meta device: every tensor has its size and nobody computes it, so
that the memory of a GPU can be told on a machine that has none. What a library asks for
beside tensors (convolution workspaces, fragmentation) is not in it. The last column is
what `flowrvs.pipelines.memory` expects.

    python benchmarks/peak_memory.py [--frames N] [--height N] [--width N]
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowrvs.models.devices import silent_libraries
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.presets import PRESETS, build_text_encoder, build_transformer, build_vae
from flowrvs.models.text import build_word_tokenizer
from flowrvs.models.vae import frame_groups, iter_decode, iter_encode
from flowrvs.pipelines.memory import estimate_peak
from flowrvs.pipelines.pipeline import FlowRVSPipeline

__all__ = ["Allocations", "production", "trace"]


class Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and their peak, but for the weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@contextmanager
def _flash_attention() -> Iterator[None]:
    """Count attention as a GPU's fused kernels take it: the result, and no matrix of scores."""
    stock = torch.nn.functional.scaled_dot_product_attention

    def flash(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.empty_like(query)

    torch.nn.functional.scaled_dot_product_attention = flash
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = stock


def production(dtype: torch.dtype = torch.bfloat16) -> FlowRVSPipeline:
    """Build the production model without any weights."""
    preset = PRESETS["production"]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"), silent_libraries():
            pipeline = FlowRVSPipeline.from_parts(
                transformer=build_transformer(preset).to(dtype),
                vae=use_fast_layers(build_vae(preset, mask_decoder=True)),
                text_encoder=build_text_encoder(PRESETS["micro"], 64),
                tokenizer=build_word_tokenizer(["a"]),
                preset=preset,
            )
    finally:
        torch.set_default_dtype(before)
    return pipeline


@torch.no_grad()
def trace(
    pipeline: FlowRVSPipeline, *, frames: int, height: int, width: int, group: int, sentences: int
) -> dict[str, int]:
    """Bytes that encode, deform and decode have alive at most, beside the weights."""
    vae, transformer = pipeline.vae, pipeline.transformer
    dtype = transformer.dtype
    latents = 1 + (frames - 1) // 4
    peaks = {}
    with torch.device("meta"):
        clip = torch.empty(1, 3, frames, height, width, dtype=dtype)
        bounds = frame_groups(frames, group, 4)[:4]  # later groups are like the fourth
        with Allocations(vae) as counted:
            for part in iter_encode(vae, (clip[:, :, a:b] for a, b in bounds)):
                del part
        peaks["encode"] = counted.peak
        shape = (latents, height // 8, width // 8)
        with Allocations(transformer) as counted, _flash_attention():
            transformer(
                hidden_states=torch.empty(
                    sentences, transformer.config.in_channels, *shape, dtype=dtype
                ),
                timestep=torch.full((sentences,), 1000.0),
                encoder_hidden_states=torch.empty(sentences, 256, 4096, dtype=dtype),
                return_dict=False,
            )
        peaks["deform"] = counted.peak
        with Allocations(vae) as counted:
            latent = torch.empty(1, 16, min(latents, 1 + 3 * group), *shape[1:], dtype=dtype)
            for part in iter_decode(vae, latent, group=group):
                del part
        peaks["decode"] = counted.peak
    return peaks


def main() -> None:
    """Print a table of the parts and of the modes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    args = parser.parse_args()
    pipeline = production()
    size = {"frames": args.frames, "height": args.height, "width": args.width}
    print(f"{'activations, GB':28} {'traced':>7} {'expected':>9}")
    for group in (1, 2, 4):
        traced = trace(pipeline, **size, group=group, sentences=1)
        expected = estimate_peak(pipeline, "full", **size, group=group)
        for part in ("encode", "deform", "decode"):
            if group == 1 or part != "deform":
                label = part if part == "deform" else f"{part}, {group} latent frame(s)"
                guess = getattr(expected, part)
                print(f"{label:28} {traced[part] / 1e9:7.2f} {guess / 1e9:9.2f}")
    print(f"\n{'mode':28} {'weights':>7} {'peak':>9}")
    for mode in ("full", "offload", "low"):
        expected = estimate_peak(pipeline, mode, **size)
        print(f"{mode:28} {expected.weights / 1e9:7.2f} {expected.peak / 1e9:9.2f}")


if __name__ == "__main__":
    main()
