"""Memory of a training step of the production model, from a trace of its allocations.

The models run on torch's meta device (see ``peak_memory.py``): forward, backward, the
optimizer's step and the averages, at batch 1 in bfloat16. What a library asks for beside tensors
(convolution workspaces, fragmentation) is not in it.

    python benchmarks/training_memory.py [--frames N] [--height N] [--width N] [--rank N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from peak_memory import Allocations, production, trace

from flowrvs.training.flow import flow_step_loss
from flowrvs.training.lora import add_adapter


class _Flash(torch.autograd.Function):
    """Attention as fused kernels take it: inputs, result and one number a row are kept."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> torch.Tensor:
        out = torch.empty_like(query)
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def flash_attention() -> Iterator[None]:
    """Count attention with its gradient, and no matrix of scores."""
    stock = torch.nn.functional.scaled_dot_product_attention

    def flash(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> torch.Tensor:
        return _Flash.apply(query, key, value)

    torch.nn.functional.scaled_dot_product_attention = flash
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = stock


def trace_step(args: argparse.Namespace, *, rank: int, checkpointing: bool) -> dict[str, float]:
    """Bytes of one step: weights, gradients, optimizer, averages, and activations at the peak."""
    transformer = production().transformer
    dtype = torch.bfloat16
    if rank:
        with torch.device("meta"):
            add_adapter(transformer, rank, 0)
    else:
        transformer.requires_grad_(True)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    trained = [p for p in transformer.parameters() if p.requires_grad]
    shape = (1, 16, 1 + (args.frames - 1) // 4, args.height // 8, args.width // 8)
    with torch.device("meta"), Allocations(transformer) as counted, flash_attention():
        loss = flow_step_loss(
            transformer,
            torch.empty(shape),
            torch.empty(shape),
            torch.empty(1),
            inject=False,
            dtype=dtype,
            encoder_hidden_states=torch.empty(1, 256, 4096, dtype=dtype),
        )
        loss.backward()
    own = sum(p.numel() * p.element_size() for p in trained)
    weights = sum(p.numel() * p.element_size() for p in transformer.parameters())
    parts = {
        "weights": weights,
        "gradients": own,
        "activations": max(0, counted.peak - own),
        "AdamW": 2 * own,
        "EMA": 4 * sum(p.numel() for p in trained),
    }
    return parts | {"peak": sum(parts.values())}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--rank", type=int, default=32)
    args = parser.parse_args()
    rows = {
        "all weights": {"rank": 0, "checkpointing": False},
        "all weights, checkpointing": {"rank": 0, "checkpointing": True},
        f"LoRA {args.rank}": {"rank": args.rank, "checkpointing": False},
        f"LoRA {args.rank}, checkpointing": {"rank": args.rank, "checkpointing": True},
    }
    names = ("weights", "gradients", "activations", "AdamW", "EMA", "peak")
    print(f"{'GB':28}" + "".join(f"{name:>12}" for name in names))
    for name, options in rows.items():
        found = trace_step(args, **options)
        print(f"{name:28}" + "".join(f"{found[part] / 1e9:12.2f}" for part in names))
    pipeline = production()
    size = {"frames": args.frames, "height": args.height, "width": args.width}
    vae = sum(p.numel() * p.element_size() for p in pipeline.vae.parameters())
    encode = trace(pipeline, **size, group=4, sentences=1)["encode"]
    print(f"without --cache, the VAE beside them: {vae / 1e9:.2f} and {encode / 1e9:.2f} to encode")


if __name__ == "__main__":
    main()
