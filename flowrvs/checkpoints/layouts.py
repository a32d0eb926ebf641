"""The layouts in which weights are published, and whether they fit the stock classes.

The authors' ``.pth`` files hold diffusers' names, bare or beside an average (EMA) without
names. ComfyUI's single files hold Wan's own names; weights in 8 bits have a scale each
(``x.scale_weight``, or ``x.weight_scale`` in newer files) beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.checkpoints.shards import open_safetensors
from flowrvs.checkpoints.unpickle import open_checkpoint
from flowrvs.errors import CheckpointError, MissingPathError

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_fit",
    "latent_inputs",
    "open_weights",
    "text_weights",
    "transformer_weights",
    "vae_weights",
]

Shapes = Mapping[str, tuple[int, ...]]
#: Weights by name, and what the numbers of some must be multiplied by.
Weights = tuple[dict[str, "torch.Tensor"], dict[str, float]]

_PATCH = "patch_embedding.weight"
_COUNTERS = ("total_ops", "total_params")  # left by a profiler; not weights
_SHOWN = 5
#: What whole checkpoints of ComfyUI put before the names of a model.
_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
#: Beside weights in 8 bits: their scales, and what only a runtime needs.
_SCALES = (".scale_weight", ".weight_scale")
_BESIDE = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8", "spiece_model")
#: From Wan's own names of the text encoder's weights to those of transformers.
_WAN_TEXT = {
    r"^token_embedding\.": "shared.",
    r"^norm\.": "encoder.final_layer_norm.",
    r"^blocks\.(\d+)\.norm1\.": r"encoder.block.\1.layer.0.layer_norm.",
    r"^blocks\.(\d+)\.attn\.": r"encoder.block.\1.layer.0.SelfAttention.",
    r"^blocks\.(\d+)\.pos_embedding\.embedding\.": (
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias."
    ),
    r"^blocks\.(\d+)\.norm2\.": r"encoder.block.\1.layer.1.layer_norm.",
    r"^blocks\.(\d+)\.ffn\.gate\.0\.": r"encoder.block.\1.layer.1.DenseReluDense.wi_0.",
    r"^blocks\.(\d+)\.ffn\.fc1\.": r"encoder.block.\1.layer.1.DenseReluDense.wi_1.",
    r"^blocks\.(\d+)\.ffn\.fc2\.": r"encoder.block.\1.layer.1.DenseReluDense.wo.",
}


def open_weights(path: Path) -> Any:
    """Open a file of weights: ``.safetensors``, or else a pickle of torch, without running it.

    Raises
    ------
    MissingPathError
        There is no such file.
    CheckpointError
        It is damaged, or no file of weights.
    """
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return open_checkpoint(path)
    if not path.exists():
        raise MissingPathError(f"There is no checkpoint {path}; check the path.")
    return open_safetensors([path])


def latent_inputs(content: Any, what: str) -> int:
    """Count the transformer's input channels: 16, or 32 with the video injected.

    Parameters
    ----------
    content : object
        An opened transformer checkpoint.
    what : str
        The file, for the message.

    Raises
    ------
    CheckpointError
        It holds no transformer.
    """
    averaged = _averaged(content, what)
    if averaged is None:
        found = _unprefixed(_plain(content, what)).get(_PATCH)
    else:  # the only five-dimensional weight
        found = next((t for t in averaged if len(_shape(t)) == 5), None)
    if len(_shape(found)) != 5:
        raise CheckpointError(
            f"{what} holds no FlowRVS transformer: there is no weight {_PATCH} in it; "
            "give the transformer's .pth file."
        )
    return _shape(found)[1]


def transformer_weights(content: Any, expected: Shapes, what: str) -> Weights:
    """Return the weights of a transformer checkpoint by name; averaged ones win.

    ``shadow_params`` is a bare list in the order of the module that was trained. That
    module builds query and key norms before the projections, which the stock class does
    not; the names are taken in the order in which all shapes fit, first that of the
    weights saved beside it.

    Raises
    ------
    CheckpointError
        The weights do not fit `expected`; see `check_fit`.
    """
    averaged = _averaged(content, what)
    if averaged is None:
        state, scales = _scaled(_unprefixed(_plain(content, what)), what)
        if "head.head.weight" in state:
            from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

            # Names only: no number is touched.
            scales = convert_wan_transformer_to_diffusers(scales)
            state = convert_wan_transformer_to_diffusers(state)
        return check_fit(state, expected, what), scales
    orders = [_trained_order(expected), list(expected)]
    beside = content.get("model")
    if isinstance(beside, dict) and set(beside) == set(expected):
        orders.insert(0, list(beside))
    if len(averaged) != len(expected):
        raise CheckpointError(
            f"{what} holds {len(averaged)} averaged weights, but the transformer has "
            f"{len(expected)}; is it the file for this base model?"
        )
    for order in orders:
        if all(_shape(t) == expected[name] for name, t in zip(order, averaged, strict=True)):
            return check_fit(dict(zip(order, averaged, strict=True)), expected, what), {}
    return check_fit(dict(zip(orders[0], averaged, strict=True)), expected, what), {}


def vae_weights(content: Any, expected: Shapes, what: str) -> Weights:
    """Return the weights of a VAE checkpoint by name, without their ``vae.`` prefix."""
    state = {
        key.removeprefix("vae."): value
        for key, value in _plain(content, what).items()
        if not key.endswith(_COUNTERS)
    }
    if "decoder.head.2.weight" in state:
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

        state = convert_wan_vae_to_diffusers(state)
    return check_fit(state, expected, what), {}


def text_weights(content: Any, what: str) -> Weights:
    """Return the weights of a single-file text encoder by transformers' names."""
    state, scales = _scaled(_plain(content, what), what)
    if "token_embedding.weight" in state:
        state = {_wan_text_name(name): tensor for name, tensor in state.items()}
        scales = {_wan_text_name(name): scale for name, scale in scales.items()}
    return state, scales


def _wan_text_name(name: str) -> str:
    for pattern, replacement in _WAN_TEXT.items():
        name = re.sub(pattern, replacement, name)
    return name


def _unprefixed(state: Mapping[str, Any]) -> dict[str, Any]:
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in state):
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in state.items()
                if name.startswith(prefix)
            }
    return dict(state)


def _scaled(state: Mapping[str, Any], what: str) -> Weights:
    """Separate weights from their scales."""
    weights: dict[str, Any] = {}
    scales: dict[str, float] = {}
    for name, tensor in state.items():
        suffix = next((s for s in _SCALES if name.endswith(s)), None)
        if suffix is not None:
            numel = getattr(tensor, "numel", lambda: 0)()
            if numel != 1 or not abs(float(tensor)) > 0:
                raise CheckpointError(
                    f"{what} has {numel} scales in {name}, one was expected; give the file in "
                    "16 bits, or in scaled fp8."
                )
            scales[f"{name.removesuffix(suffix)}.weight"] = float(tensor)
        elif not name.endswith(_BESIDE):
            weights[name] = tensor
    return weights, scales


def check_fit(
    state: Mapping[str, Any], expected: Shapes, what: str, *, extra: bool = False
) -> dict[str, torch.Tensor]:
    """Compare weights with what a model expects.

    Parameters
    ----------
    state : mapping
        Weights by name.
    expected : mapping
        Shape of each weight of the model.
    what : str
        The file, for the message.
    extra : bool
        Accept weights that the model does not have.

    Returns
    -------
    dict
        `state` in the order of `expected`.

    Raises
    ------
    CheckpointError
        One line that lists missing, unexpected and misshapen weights, and those that
        are no floating-point tensors; long lists are cut.
    """
    missing = [name for name in expected if name not in state]
    unknown = [] if extra else [name for name in state if name not in expected]
    both = [name for name in expected if name in state]
    odd = [name for name in both if not _is_weights(state[name])]
    wrong = [
        f"{name} {list(_shape(state[name]))} instead of {list(expected[name])}"
        for name in both
        if name not in odd and _shape(state[name]) != expected[name]
    ]
    faults = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unknown),
            ("of another shape", wrong),
            ("no floating-point tensors", odd),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{what} does not fit the model; {'; '.join(faults)}. "
            "Give the files that belong to this base model."
        )
    return {name: state[name] for name in expected}


def _averaged(content: Any, what: str) -> list[Any] | None:
    if not isinstance(content, dict) or "ema_model" not in content:
        return None
    average = content["ema_model"]
    weights = average.get("shadow_params") if isinstance(average, dict) else None
    if not isinstance(weights, list | tuple):
        raise CheckpointError(
            f"{what} has an 'ema_model' without a list 'shadow_params'; "
            "it is not one that the public code wrote."
        )
    return list(weights)


def _plain(content: Any, what: str) -> dict[str, Any]:
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{what} holds {type(content).__name__}, not weights by name; "
            "give a .pth file of the public code."
        )
    return content


def _trained_order(names: Iterable[str]) -> list[str]:
    """Order of the parameters in the module that the public code trains."""
    order: list[str] = []
    norms: dict[str, int] = {}
    for name in names:
        block, found, rest = name.partition(".attn")
        group = f"{block}{found}{rest[:1]}"
        if found and group not in norms:
            norms[group] = len(order)
        if found and ".norm_" in rest:
            order.insert(norms[group], name)
            norms[group] += 1
        else:
            order.append(name)
    return order


def _is_weights(value: Any) -> bool:
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype
        in (
            *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
            *(torch.float8_e4m3fn, torch.float8_e5m2),
        )
    )


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = [name if name.isprintable() else ascii(name) for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
