"""Where the published transformer rounds in 16 bits, and the stock class does not."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.normalization import RMSNorm

__all__ = ["use_two_step_norms", "use_wide_rotary"]


def use_two_step_norms(transformer: WanTransformer3DModel) -> None:
    """Let queries and keys be rounded before their norm's weight as well as after it.

    The published transformer has diffusers' norm there, the stock class torch's, which rounds
    once. Where all weights are one, as in a model that was never trained, both are equal.

    Parameters
    ----------
    transformer : WanTransformer3DModel
        Changed in place; its weights keep their names.
    """
    for block in transformer.blocks:
        for attention in (block.attn1, block.attn2):
            for name in ("norm_q", "norm_k"):
                stock = getattr(attention, name)
                norm = RMSNorm(stock.normalized_shape[0], stock.eps)
                norm.weight = stock.weight
                norm.train(stock.training)
                setattr(attention, name, norm)


def use_wide_rotary(transformer: WanTransformer3DModel) -> None:
    """Give the stock rotary embedding tables in 64 bits instead of 32.

    Queries and keys are then turned in 64 bits and rounded once, as in the published code.
    With tables in 32 bits they are rounded twice, so that about one number in 2**16 of a model
    in 16 bits falls to the other side; the layers after it carry that over the whole picture.

    Parameters
    ----------
    transformer : WanTransformer3DModel
        Changed in place; on a device that knows 64 bits (MPS does not).
    """
    rope = transformer.rope
    place = rope.freqs_cos.device
    turns = torch.cat(
        [
            get_1d_rotary_pos_embed(
                size, rope.max_seq_len, use_real=False, freqs_dtype=torch.float64
            )
            for size in (rope.t_dim, rope.h_dim, rope.w_dim)
        ],
        dim=1,
    )
    rope.freqs_cos = turns.real.repeat_interleave(2, dim=1).to(place)
    rope.freqs_sin = turns.imag.repeat_interleave(2, dim=1).to(place)
