"""Attention that is quicker to train on a CPU."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor

__all__ = ["PlainAttention", "choose_attention"]


def choose_attention(
    transformer: WanTransformer3DModel, device: torch.device, *, mixed: bool
) -> None:
    """Give a transformer the attention that trains quickest: ours on a CPU in 16 bits."""
    plain = mixed and device.type == "cpu"
    transformer.set_attn_processor(PlainAttention() if plain else WanAttnProcessor())


class PlainAttention(WanAttnProcessor):
    """Wan's attention as two products of matrices and a softmax.

    torch's fused attention saves the memory of the scores, which a clip of a few hundred tokens
    does not need, and its backward pass is slow on a CPU in 16 bits: of a step of the bundled
    model it took two fifths.
    """

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return what the stock processor returns, without mask and image."""
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        value = attn.to_v(told).unflatten(2, (attn.heads, -1))
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(told)).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = _turned(query, *rotary_emb), _turned(key, *rotary_emb)
        query, key, value = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
        with torch.autocast(scores.device.type, enabled=False):  # which would take 32 bits
            shares = scores.softmax(-1)
        found = torch.matmul(shares, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](found))


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: each pair of channels turned by its angle."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)
