"""The presets are the sizes of the models that they are named after."""

from __future__ import annotations

import json

import torch

from flowrvs.checkpoints import MODELS
from flowrvs.models.presets import PRESETS, build_text_encoder, build_transformer, build_vae


def test_tiny_is_the_bundled_model() -> None:
    folder, preset = MODELS["tiny"].folder, PRESETS["tiny"]
    assert folder is not None

    def read(name: str) -> dict:
        return json.loads((folder / name).read_text())

    index = read("model_index.json")
    assert {key: index[key] for key in preset.settings} == preset.settings
    encoder = read("text_encoder/config.json")
    with torch.device("meta"):
        parts = {
            "vae": build_vae(preset, mask_decoder=True),
            "transformer": build_transformer(preset),
        }
        text = build_text_encoder(preset, encoder["vocab_size"])
    for name, made in parts.items():
        found = read(f"{name}/config.json")
        # Its latents were measured when it was trained.
        left_out = ("latents_mean", "latents_std")
        known = [k for k in found if not k.startswith("_") and k not in left_out]
        values = json.loads(json.dumps({k: made.config[k] for k in known}))  # lists for tuples
        assert values == {k: found[k] for k in known}
    assert {key: encoder[key] for key in preset.text_encoder} == preset.text_encoder
    assert text.config.vocab_size == encoder["vocab_size"]


def test_production_is_wan_as_published() -> None:
    preset = PRESETS["production"]
    assert preset.settings == {
        "max_sequence_length": 256,
        "sample_height": 480,
        "sample_width": 832,
        "window_size": 81,
        "overlap": 8,
        "lower_case": False,
    }
    with torch.device("meta"):
        plain, injected = build_transformer(preset), build_transformer(preset, video_injection=True)
        vae, masks = build_vae(preset), build_vae(preset, mask_decoder=True)
        text = build_text_encoder(preset)
    # Wan2.1-T2V-1.3B-Diffusers and its umt5-xxl.
    assert sum(p.numel() for p in plain.parameters()) == 1_418_996_800
    assert (plain.config.in_channels, plain.config.out_channels) == (16, 16)
    assert (injected.config.in_channels, injected.config.out_channels) == (32, 16)
    assert (vae.config.out_channels, masks.config.out_channels) == (3, 1)
    assert vae.config.z_dim == 16 and vae.config.base_dim == 96
    assert sum(p.numel() for p in text.parameters()) == 5_680_910_336
