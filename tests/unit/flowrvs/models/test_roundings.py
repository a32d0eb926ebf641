"""Queries and keys are turned as the published transformer turns them."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers import transformer_wan

from flowrvs.models.presets import PRESETS, build_transformer
from flowrvs.models.roundings import use_two_step_norms, use_wide_rotary
from flowrvs.pipelines import load


def _published(hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The published formula: complex numbers of 64 bits each way, rounded once."""
    turns = torch.complex(cos.double()[..., 0::2], sin.double()[..., 0::2])
    numbers = torch.view_as_complex(hidden.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(numbers * turns).flatten(-2).type_as(hidden)


@torch.no_grad()
def test_wide_tables_round_as_the_published_code(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = build_transformer(PRESETS["micro"])
    for parameter in transformer.parameters():  # not the tables, which no loader casts
        parameter.data = parameter.data.to(torch.bfloat16)
    attention = transformer.blocks[0].attn1
    attention.norm_q = attention.norm_k = torch.nn.Identity()
    latents = torch.zeros(1, 16, 40, 64, 64)
    tokens = 40 * 32 * 32
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, tokens, 24, generator=generator).to(torch.bfloat16)
    seen: list[torch.Tensor] = []

    def keep(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: object):
        seen[:] = [query, key]
        return value

    monkeypatch.setattr(transformer_wan, "dispatch_attention_fn", keep)
    plain = [projection(hidden).unflatten(2, (2, -1)) for projection in _projections(attention)]
    attention(hidden, None, None, transformer.rope(latents))
    stock = list(seen)
    use_wide_rotary(transformer)
    turns = transformer.rope(latents)
    attention(hidden, None, None, turns)
    wanted = [_published(projected, *turns) for projected in plain]
    assert all(torch.equal(found, want) for found, want in zip(seen, wanted, strict=True))
    # Rounded twice, a few of the two million numbers are their neighbours: this is what the
    # wide tables are for.
    assert not all(torch.equal(found, want) for found, want in zip(stock, wanted, strict=True))
    for before, after in zip(stock, seen, strict=True):
        torch.testing.assert_close(before, after)


def _projections(attention: torch.nn.Module) -> list[torch.nn.Module]:
    return [attention.to_q, attention.to_k]


@torch.no_grad()
def test_norms_round_before_their_weight_too() -> None:
    transformer = build_transformer(PRESETS["micro"])
    norm = transformer.blocks[0].attn1.norm_q
    generator = torch.Generator().manual_seed(0)
    for parameter in transformer.parameters():  # no two alike, so that each is told apart
        parameter.data = torch.rand(parameter.shape, generator=generator).to(torch.bfloat16)
    hidden = torch.randn(1, 500, 24, generator=generator).to(torch.bfloat16)
    scale = torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + norm.eps)
    wanted = (hidden.float() * scale).to(torch.bfloat16) * norm.weight
    stock = norm(hidden)
    before = dict(transformer.state_dict())
    use_two_step_norms(transformer)
    found = transformer.blocks[0].attn1.norm_q(hidden)
    assert torch.equal(found, wanted) and not torch.equal(stock, wanted)
    after = transformer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("dtype", "fast", "exact"),
    [("bfloat16", False, True), ("bfloat16", True, False), ("float32", False, False)],
)
def test_16_bits_are_rounded_as_published_unless_fast(dtype: str, fast: bool, exact: bool) -> None:
    pipe = load("tiny", device="cpu", dtype=dtype, fast=fast)
    assert (pipe.transformer.rope.freqs_cos.dtype == torch.float64) == exact
    norm = pipe.transformer.blocks[0].attn2.norm_k
    assert isinstance(norm, torch.nn.RMSNorm) != exact
    # The published code encodes and decodes one latent frame after the other.
    assert (pipe.latent_group == 1) == exact
