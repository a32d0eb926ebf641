"""ComfyUI's single files, on a base without any weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

import flowrvs
from flowrvs.checkpoints.convert import convert
from flowrvs.checkpoints.manifest import verify_manifest
from flowrvs.errors import CheckpointError, MissingPathError
from tests.fixtures.comfy import COMFY, TEXT_KINDS, text_file, transformer_file, vae_file
from tests.fixtures.public_layout import PublicLayout, write_public_layout


def _run(layout: PublicLayout, out: Path, **options: object) -> Path:
    return convert(layout.base, layout.dit, layout.vae, out, **options)


def _assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> PublicLayout:
    """A base without any weights, as `fetch` could leave it, and ComfyUI's files beside it."""
    folder = tmp_path_factory.mktemp("comfy")
    layout = write_public_layout(folder, preset=COMFY, video_injection=True, kind="raw")
    for path in [*layout.base.rglob("*.safetensors"), *layout.base.rglob("*.index.json")]:
        path.unlink()
    layout.dit.unlink()
    layout.vae.unlink()
    dit = transformer_file(layout.parts, folder / "flowrvs_fp16.safetensors")
    vae = vae_file(layout.parts, folder / "flowrvs_vae_fp16.safetensors")
    return replace(layout, dit=dit, vae=vae)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_single_files_of_comfyui(comfy: PublicLayout, tmp_path: Path, kind: str) -> None:
    text = tmp_path / "umt5.safetensors"
    expected = text_file(comfy.parts, text, kind)
    out = _run(comfy, tmp_path / "made", text=text)
    pipe = flowrvs.load(out, device="cpu", dtype="float32")
    assert pipe.config.max_sequence_length == 64
    parts = comfy.parts
    for part in ("transformer", "vae"):
        wanted = getattr(parts, part).half().float().state_dict()
        _assert_same(getattr(pipe, part).float().state_dict(), wanted)
    found = UMT5EncoderModel.from_pretrained(out / "text_encoder", dtype=torch.float32).state_dict()
    for name, value in expected.items():
        # 8 bits become bfloat16, 16 bits stay.
        eight = value.ndim == 2 and kind.startswith("fp8") and "block" in name
        wanted = value.bfloat16().float() if eight and "bias" not in name else value
        assert torch.equal(found[name], wanted), name
    assert verify_manifest(out) == []
    assert json.loads((out / "flowrvs-manifest.json").read_text())["source"]["text"] == text.name


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_whole_checkpoints_and_plain_8_bits(
    comfy: PublicLayout, tmp_path: Path, prefix: str
) -> None:
    text = tmp_path / "umt5.safetensors"
    text_file(comfy.parts, text, "fp16")
    dit = transformer_file(
        comfy.parts,
        tmp_path / "all.SFT",
        dtype=torch.float8_e4m3fn,
        prefix=prefix,
    )
    out = convert(comfy.base, dit, comfy.vae, tmp_path / "made", text=text)
    found = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    wanted = comfy.parts.transformer.state_dict()
    _assert_same(found, {k: v.to(torch.float8_e4m3fn).bfloat16() for k, v in wanted.items()})


def test_single_files_that_do_not_fit(comfy: PublicLayout, tmp_path: Path) -> None:
    text = tmp_path / "umt5.safetensors"
    text_file(comfy.parts, text)
    with pytest.raises(MissingPathError, match="There is no checkpoint"):
        _run(comfy, tmp_path / "made", text=tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit the model; \d+ missing"):
        _run(comfy, tmp_path / "made", text=comfy.vae)
    with pytest.raises(CheckpointError, match="holds no FlowRVS transformer"):
        convert(comfy.base, comfy.vae, comfy.vae, tmp_path / "made", text=text)
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        _run(comfy, tmp_path / "made")  # the base has none
    tensors = load_file(text)
    name = next(name for name in tensors if name.endswith(".scale_weight"))
    save_file({**tensors, name: torch.ones(3)}, text)
    with pytest.raises(CheckpointError, match="has 3 scales in .*; give the file in 16 bits"):
        _run(comfy, tmp_path / "made", text=text)
    save_file({**tensors, name: torch.zeros(1)}, text)
    with pytest.raises(CheckpointError, match="scales in .*; give the file in 16 bits"):
        _run(comfy, tmp_path / "made", text=text)
    # A plain Wan VAE gives three colours.
    colours = {key: value.clone() for key, value in load_file(comfy.vae).items()}
    for key in ("decoder.head.2.weight", "decoder.head.2.bias"):
        colours[key] = colours[key].repeat(3, *[1] * (colours[key].ndim - 1))
    save_file(colours, tmp_path / "wan_vae.safetensors")
    text_file(comfy.parts, text)
    with pytest.raises(CheckpointError, match="2 of another shape: decoder.conv_out"):
        convert(
            comfy.base, comfy.dit, tmp_path / "wan_vae.safetensors", tmp_path / "made", text=text
        )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 20,
        (2**40).to_bytes(8, "little") + b"{}",
        (20_000_000).to_bytes(8, "little") + b"{" + b" " * 19_999_998 + b"}",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        (1).to_bytes(8, "little") + b"5",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": 5 }',
    ],
    ids=["empty", "noise", "far", "large", "deep", "number", "list", "entry"],
)
def test_headers_that_are_none(comfy: PublicLayout, tmp_path: Path, data: bytes) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(data)
    for given in ({"dit": bad}, {"vae": bad}, {"text": bad}):
        files = {"dit": comfy.dit, "vae": comfy.vae, **given}
        with pytest.raises(CheckpointError) as caught:
            convert(comfy.base, out=tmp_path / "made", **files)
        assert "\n" not in str(caught.value)
        assert "is damaged or cut short" in str(caught.value)
