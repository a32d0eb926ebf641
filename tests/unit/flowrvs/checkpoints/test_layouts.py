"""Weights by name: orders of averages, scales of 8 bits, names of Wan, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from flowrvs.checkpoints.layouts import (
    check_fit,
    latent_inputs,
    text_weights,
    transformer_weights,
)
from flowrvs.errors import CheckpointError


def test_averages_have_the_order_of_what_was_saved_beside_them() -> None:
    first, second = torch.zeros(2), torch.ones(2)
    content = {"model": {"b": first, "a": second}, "ema_model": {"shadow_params": [first, second]}}
    found, scales = transformer_weights(content, {"a": (2,), "b": (2,)}, "x.pth")
    assert found["a"] is second and found["b"] is first and scales == {}
    content["model"] = {"other": first}  # of another module: the trained one's order it is
    found, _ = transformer_weights(content, {"a": (2,), "b": (2,)}, "x.pth")
    assert found["a"] is first and found["b"] is second


@pytest.mark.parametrize("content", [5, None, "x", [torch.zeros(2)], torch.zeros(3), {1: 2}])
def test_what_holds_no_weights_by_name_is_told(content: object) -> None:
    kind = type(content).__name__
    for read in (latent_inputs, lambda c, w: transformer_weights(c, {}, w)):
        with pytest.raises(CheckpointError, match=f"^x.pth holds {kind}, not weights by name;"):
            read(content, "x.pth")
    with pytest.raises(CheckpointError, match="'ema_model' without a list 'shadow_params'"):
        latent_inputs({"model": {}, "ema_model": content}, "x.pth")


def test_an_order_fits_only_where_all_shapes_do() -> None:
    """Some of the averages fit the order of what was saved beside them by chance."""
    expected = {"a": (2,), "b": (3,), "c": (4,)}
    averaged = [torch.full(shape, float(n)) for n, shape in enumerate(expected.values())]
    beside = {"a": averaged[0], "c": averaged[2], "b": averaged[1]}
    content = {"model": beside, "ema_model": {"shadow_params": averaged}}
    found, scales = transformer_weights(content, expected, "x.pth")
    assert list(found) == ["a", "b", "c"] and scales == {}
    assert all(found[name] is value for name, value in zip("abc", averaged, strict=True))


def test_the_order_of_the_module_that_was_trained() -> None:
    """It makes the norms of query and key before the projections, block by block."""
    projections = [f"to_{n}.{kind}" for n in "qkv" for kind in ("weight", "bias")]
    norms = ["norm_q.weight", "norm_k.weight"]
    stock = ["patch.weight"]
    trained = ["patch.weight"]
    for block in range(2):
        for attention in ("attn1", "attn2"):
            head = f"blocks.{block}.{attention}."
            stock += [head + name for name in (*projections, *norms)]
            trained += [head + name for name in (*norms, *projections)]
        for more in (f"blocks.{block}.norm2.weight", f"blocks.{block}.ffn.weight"):
            stock.append(more)
            trained.append(more)
    expected = dict.fromkeys(stock, (2,))
    averaged = [torch.tensor([float(n), 0.0]) for n in range(len(stock))]
    content = {"ema_model": {"shadow_params": averaged}}
    found, _ = transformer_weights(content, expected, "x.pth")
    assert [found[name] for name in trained] == averaged


def test_shapes_that_no_order_fits_are_told_for_the_first() -> None:
    content = {"ema_model": {"shadow_params": [torch.zeros(2), torch.zeros(9)]}}
    with pytest.raises(CheckpointError) as caught:
        transformer_weights(content, {"a": (2,), "b": (3,)}, "x.pth")
    assert str(caught.value) == (
        "x.pth does not fit the model; 1 of another shape: b [9] instead of [3]. Give the files "
        "that belong to this base model."
    )
    with pytest.raises(CheckpointError) as caught:
        transformer_weights(content, {"a": (2,)}, "x.pth")
    assert str(caught.value) == (
        "x.pth holds 2 averaged weights, but the transformer has 1; is it the file for this base "
        "model?"
    )


@pytest.mark.parametrize(
    ("count", "listed"),
    [(1, "w0"), (5, "w0, w1, w2, w3, w4"), (6, "w0, w1, w2, w3, w4 and 1 more")],
)
def test_long_lists_are_cut(count: int, listed: str) -> None:
    expected = {f"w{n}": (1,) for n in range(count)}
    with pytest.raises(CheckpointError) as caught:
        check_fit({}, expected, "x.pth")
    assert str(caught.value) == (
        f"x.pth does not fit the model; {count} missing: {listed}. Give the files that belong to "
        "this base model."
    )


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
        [0.0, 0.0],
    ],
    ids=["whole", "complex", "nowhere", "sparse", "list"],
)
def test_only_plain_numbers_are_weights(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"1 no floating-point tensors: \\x1b\[w|'\\x1b\[w'"):
        check_fit({"\x1b[w": value}, {"\x1b[w": (2,)}, "x.pth")
    fine = {
        name: torch.zeros(2, dtype=getattr(torch, name))
        for name in ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2")
    }
    extra = {**fine, "x": 5}
    kept = check_fit(extra, dict.fromkeys(reversed(fine), (2,)), "x.pth", extra=True)
    assert list(kept) == list(reversed(fine))
    with pytest.raises(CheckpointError, match="1 unexpected: x"):
        check_fit(extra, dict.fromkeys(fine, (2,)), "x.pth")


def test_scales_are_of_the_weights_beside_them() -> None:
    content = {
        "a.weight": torch.ones(2),
        "a.scale_weight": torch.tensor([0.5]),
        "b.weight": torch.ones(2),
        "b.weight_scale": torch.tensor(-2.0),
        "b.input_scale": torch.ones(1),
        "b.comfy_quant": torch.ones(1),
        "scaled_fp8": torch.ones(0),
        "spiece_model": torch.ones(3),
    }
    weights, scales = text_weights(content, "x")
    assert list(weights) == ["a.weight", "b.weight"]
    assert scales == {"a.weight": 0.5, "b.weight": -2.0}
    for bad in (torch.zeros(1), torch.ones(2), torch.tensor(float("nan")), 5):
        with pytest.raises(CheckpointError) as caught:
            text_weights({"a.scale_weight": bad}, "x")
        number = bad.numel() if isinstance(bad, torch.Tensor) else 0
        assert str(caught.value) == (
            f"x has {number} scales in a.scale_weight, one was expected; give the file in 16 "
            "bits, or in scaled fp8."
        )


def test_names_of_wans_text_encoder() -> None:
    head = "encoder.block.11.layer."
    names = {
        "token_embedding.weight": "shared.weight",
        "norm.weight": "encoder.final_layer_norm.weight",
        "blocks.11.norm1.weight": f"{head}0.layer_norm.weight",
        "blocks.11.attn.q.weight": f"{head}0.SelfAttention.q.weight",
        "blocks.11.pos_embedding.embedding.weight": (
            f"{head}0.SelfAttention.relative_attention_bias.weight"
        ),
        "blocks.11.norm2.weight": f"{head}1.layer_norm.weight",
        "blocks.11.ffn.gate.0.weight": f"{head}1.DenseReluDense.wi_0.weight",
        "blocks.11.ffn.fc1.weight": f"{head}1.DenseReluDense.wi_1.weight",
        "blocks.11.ffn.fc2.weight": f"{head}1.DenseReluDense.wo.weight",
    }
    content = {name: torch.full((1,), float(n)) for n, name in enumerate(names)}
    found, _ = text_weights(content, "x")
    assert {name: float(value) for name, value in found.items()} == {
        new: float(n) for n, new in enumerate(names.values())
    }
    del content["token_embedding.weight"]
    assert list(text_weights(content, "x")[0]) == list(content), "of transformers' own names"


@pytest.mark.parametrize(
    ("content", "inputs"),
    [
        ({"patch_embedding.weight": torch.zeros(8, 16, 1, 2, 2)}, 16),
        ({"model": {"patch_embedding.weight": torch.zeros(8, 32, 1, 2, 2)}}, 32),
        ({"diffusion_model.patch_embedding.weight": torch.zeros(8, 32, 1, 2, 2), "x": 1}, 32),
        (
            {"ema_model": {"shadow_params": [torch.zeros(3), torch.zeros(8, 32, 1, 2, 2)]}},
            32,
        ),
        ({"patch_embedding.weight": torch.zeros(8, 16, 2, 2)}, None),
        ({"other": torch.zeros(8, 16, 1, 2, 2)}, None),
        ({"ema_model": {"shadow_params": [torch.zeros(8, 16)]}}, None),
    ],
)
def test_input_channels_are_counted(content: dict, inputs: int | None) -> None:
    if inputs is not None:
        assert latent_inputs(content, "x.pth") == inputs
        return
    with pytest.raises(CheckpointError) as caught:
        latent_inputs(content, "x.pth")
    assert str(caught.value) == (
        "x.pth holds no FlowRVS transformer: there is no weight patch_embedding.weight in it; give "
        "the transformer's .pth file."
    )
