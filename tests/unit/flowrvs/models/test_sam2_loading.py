"""Trackers from their folders: every family, and folders that are not to be trusted."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flowrvs.errors import CheckpointError, MissingExtraError
from flowrvs.models.sam2 import _CLASSES, Sam2Tracker, load_tracker
from flowrvs.protocols import Mark
from tests.fixtures.sam_models import FAMILIES, clip, disc, random_model, save_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_its_folder(tmp_path: Path, family: str) -> None:
    folder, network = tmp_path / "mine", random_model(family)
    network.save_pretrained(folder)
    ours = Sam2Tracker(network, family, *_CLASSES[network.config.model_type][1])
    loaded = load_tracker(folder, device="cpu")
    frame = clip(1)[0]
    marks = [Mark.box(5, 6, 70, 50)]
    expected = ours.pick(ours.encode(frame), marks)
    np.testing.assert_allclose(loaded.pick(loaded.encode(frame), marks), expected, atol=1e-4)
    assert loaded.name == f"mine@{loaded.weights[:8]}"
    half = load_tracker(folder, device="cpu", precision="bfloat16")
    assert half.name == f"{loaded.name}+bfloat16"
    near = half.pick(half.encode(frame), marks)
    assert near.dtype == np.float32 and not np.array_equal(near, expected)
    assert np.corrcoef(near.ravel(), expected.ravel())[0, 1] > 0.98
    keys = {0: {3: disc(0), 5: disc(0, shift=25)}}
    found = dict(half.follow(clip(3).__getitem__, keys, range(3)))
    assert found[2][3].logits.dtype == np.float32


def test_the_tracker_in_a_whole_sam_3(tmp_path: Path) -> None:
    small = {"hidden_size": 128, "num_attention_heads": 2}
    layers = small | {"num_layers": 1, "intermediate_size": 16}
    part = random_model("sam3-tracker")
    config = transformers.Sam3VideoConfig(
        tracker_config=part.config.to_dict(),
        detector_config={
            "vision_config": part.config.vision_config.to_dict(),
            "text_config": {
                "vocab_size": 49408,
                "hidden_size": 16,
                "intermediate_size": 16,
                "projection_dim": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": 8,
            },
            "geometry_encoder_config": layers,
            "detr_encoder_config": layers,
            "detr_decoder_config": layers | {"num_queries": 3},
            "mask_decoder_config": small,
        },
        low_res_mask_size=32,
    )
    whole = transformers.Sam3VideoModel(config).eval()
    whole.save_pretrained(tmp_path / "sam3")
    network = load_tracker(tmp_path / "sam3", device="cpu")._network
    state = network.state_dict()
    for name, value in whole.tracker_model.state_dict().items():
        assert torch.equal(state[name], value), name
    for name, value in whole.detector_model.vision_encoder.backbone.state_dict().items():
        assert torch.equal(state[f"vision_encoder.backbone.{name}"], value), name


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    random_model("sam2").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["memory_encoder.projection.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks the weights memory_encoder\.projection"):
        load_tracker(tmp_path, device="cpu")
    path.rename(tmp_path / "pytorch_model.bin")  # pickles are not looked at
    with pytest.raises(CheckpointError, match="safetensors"):
        load_tracker(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({}, MissingExtraError, "pip install timm"),
        ({"architecture": "hf-hub:somebody/else"}, CheckpointError, "more than a network"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, CheckpointError, "more than a network"),
    ],
)
def test_a_picture_encoder_of_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, error: type, text: str
) -> None:
    random_model("edgetam").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1.dist_in1k",
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }
    config["vision_config"] = {"backbone_config": backbone | change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(error, match=text) as caught:
        load_tracker(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_what_a_tracker_is_made_of_is_imported_ahead(tmp_path: Path) -> None:
    save_model("sam2", tmp_path)
    lines = (
        "import sys",
        "from flowrvs.models.sam2 import warm_up",
        "before = set(sys.modules)",
        f"warm_up({str(tmp_path)!r})",
        "print(*sorted(n for n in set(sys.modules) - before if 'modeling_sam2' in n))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert "transformers.models.sam2_video.modeling_sam2_video" in done.stdout.split()
