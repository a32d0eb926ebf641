"""Encoded clips put together anew, and the attention that they are trained with."""

from __future__ import annotations

import numpy as np
import torch

from flowrvs.models.devices import mixed_precision
from flowrvs.training.attention import PlainAttention, choose_attention
from flowrvs.training.parts import exchange_grounds, part_of
from tests.fixtures.micro import micro_pipeline


def test_parts_begin_and_end_between_tokens_and_reach_every_edge() -> None:
    rng = np.random.default_rng(0)
    drawn = [part_of(rng, (12, 20), (2, 2)) for _ in range(300)]
    assert {rows.stop - rows.start for rows, _ in drawn} == {8}
    assert {columns.stop - columns.start for _, columns in drawn} == {14}
    assert {rows.start for rows, _ in drawn} == {0, 2, 4}
    assert {columns.start for _, columns in drawn} == {0, 2, 4, 6}
    assert part_of(rng, (2, 3), (2, 2)) == (slice(0, 2), slice(0, 2))


def _batch() -> dict[str, torch.Tensor]:
    """Two clips of 1 x 7 cells: "a" with things at 1 and 5, of which 5 is meant; "b" with at 6."""
    start = torch.stack([torch.full((1, 1, 1, 7), 10.0), torch.full((1, 1, 1, 7), 20.0)])
    objects, meant = torch.zeros(2, 1, 1, 7), torch.zeros(2, 1, 1, 7)
    objects[0, ..., [1, 5]] = meant[0, ..., 5] = 1
    objects[1, ..., 6] = meant[1, ..., 6] = 1
    return {
        "start": start,
        "end": start + 1,
        "objects": objects,
        "meant": meant,
        "nothing": torch.zeros(1, 1, 1, 7),
    }


def _exchanged(batch: dict[str, torch.Tensor], *, ground=False, cover=False):
    chosen = {"exchanged": ground, "covered": cover}
    flags = {name: torch.tensor([value, False]) for name, value in chosen.items()}
    start, end = exchange_grounds(**batch, **flags)
    assert torch.equal(start[1], batch["start"][1]) and torch.equal(end[1], batch["end"][1])
    return start[0].flatten().tolist(), float(end[0].max())


def test_things_stay_on_another_ground() -> None:
    batch = _batch()
    assert _exchanged(batch) == ([10] * 7, 11)
    # Cells beside a thing show it, too; where the other clip has one, the ground stays.
    assert _exchanged(batch, ground=True) == ([10, 10, 10, 20, 10, 10, 10], 11)
    batch["objects"][0, ..., 5] = batch["meant"][0, ..., 5] = 0
    assert _exchanged(batch, ground=True) == ([10, 10, 10, 20, 20, 10, 10], 11)


def test_what_is_meant_is_covered_only_where_the_other_clip_has_nothing() -> None:
    batch = _batch()
    assert _exchanged(batch, cover=True) == ([10] * 7, 11)  # b's thing would be seen there
    batch["objects"][1, ..., 6] = 0
    batch["objects"][1, ..., 0] = 1
    assert _exchanged(batch, cover=True) == ([10, 10, 10, 10, 20, 20, 20], 0)
    both = _exchanged(batch, cover=True, ground=True)
    assert both == ([10, 10, 10, 20, 20, 20, 20], 0)
    batch["meant"][0] = 0  # a sentence that means nothing stays one
    assert _exchanged(batch, cover=True) == ([10] * 7, 11)


def test_plain_attention_is_the_stock_one() -> None:
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 16, 2, 4, 6),
        "timestep": torch.tensor([1000.0, 300.0]),
        "encoder_hidden_states": torch.randn(2, 3, 16),
        "return_dict": False,
    }

    def run(device: torch.device, mixed: bool) -> tuple[torch.Tensor, list[torch.Tensor], set]:
        transformer = micro_pipeline().transformer
        choose_attention(transformer, device, mixed=mixed)
        found = transformer(**inputs)[0]
        found.square().mean().backward()
        kinds = {type(processor) for processor in transformer.attn_processors.values()}
        return found, [p.grad for p in transformer.parameters()], kinds

    cpu = torch.device("cpu")
    stock, plain = run(cpu, False), run(cpu, True)
    assert plain[2] == {PlainAttention} and PlainAttention not in stock[2]
    assert PlainAttention not in run(torch.device("meta"), True)[2]  # a GPU's own is quick
    torch.testing.assert_close(plain[0], stock[0], rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(plain[1], stock[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_scores_of_attention_are_kept_in_16_bits() -> None:
    """Which is what they are kept for: autocast alone would have them in 32."""
    transformer = micro_pipeline().transformer
    choose_attention(transformer, torch.device("cpu"), mixed=True)
    kept: list[torch.dtype] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-2:] == (12, 12):  # tokens by tokens
            kept.append(tensor.dtype)
        return tensor

    with (
        mixed_precision(torch.device("cpu"), True),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        transformer(
            torch.randn(1, 16, 2, 4, 6),
            torch.tensor([500.0]),
            torch.randn(1, 3, 16),
            return_dict=False,
        )
    assert kept and set(kept) == {torch.bfloat16}
