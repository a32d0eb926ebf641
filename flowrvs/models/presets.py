"""Configurations of the stock classes: production, bundled, and for tests.

Every preset is a set of keyword arguments for the stock diffusers and transformers
classes; nothing here subclasses them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

__all__ = ["PRESETS", "Preset", "build_text_encoder", "build_transformer", "build_vae"]


@dataclass(frozen=True)
class Preset:
    """Sizes of one model.

    Attributes
    ----------
    vae, transformer, text_encoder : dict
        Keyword arguments of ``AutoencoderKLWan``, ``WanTransformer3DModel`` and
        ``UMT5Config``.
    max_sequence_length : int
        Tokens that a sentence is padded or cut to.
    sample_height, sample_width : int
        Box in pixels that frames are fitted into.
    window_size, overlap : int
        Frames the model prefers to see at once, and shared by neighbouring windows.
    lower_case : bool
        Whether the vocabulary lacks capitals.
    notes : str
        What it is for.
    """

    vae: dict[str, Any]
    transformer: dict[str, Any]
    text_encoder: dict[str, Any]
    max_sequence_length: int = 256
    sample_height: int = 480
    sample_width: int = 832
    window_size: int = 81
    overlap: int = 8
    lower_case: bool = False
    notes: str = field(default="", compare=False)

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers that a pipeline takes beside its models."""
        return {
            "max_sequence_length": self.max_sequence_length,
            "sample_height": self.sample_height,
            "sample_width": self.sample_width,
            "window_size": self.window_size,
            "overlap": self.overlap,
            "lower_case": self.lower_case,
        }


def _tiny_vae(base_dim: int) -> dict[str, Any]:
    # Space-to-depth first (the stock ``patch_size``): the widest feature maps are a
    # quarter of the picture, which makes the VAE about five times quicker on a CPU
    # than one of equal quality that starts at full resolution.
    return {
        "base_dim": base_dim,
        "z_dim": 16,
        "dim_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "latents_mean": [0.0] * 16,
        "latents_std": [1.0] * 16,
    }


PRESETS: dict[str, Preset] = {
    "production": Preset(
        vae={},
        transformer={
            "num_attention_heads": 12,
            "attention_head_dim": 128,
            "ffn_dim": 8960,
            "num_layers": 30,
        },
        text_encoder={
            "vocab_size": 256_384,
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10_240,
            "num_layers": 24,
            "num_heads": 64,
        },
        notes="Wan2.1-T2V-1.3B as FlowRVS uses it (arXiv 2510.06139).",
    ),
    "tiny": Preset(
        vae=_tiny_vae(16),
        transformer={
            "num_attention_heads": 6,
            "attention_head_dim": 32,
            "ffn_dim": 640,
            "num_layers": 6,
            "text_dim": 96,
            "freq_dim": 64,
        },
        text_encoder={
            "d_model": 96,
            "d_kv": 24,
            "d_ff": 192,
            "num_layers": 2,
            "num_heads": 4,
            "dropout_rate": 0.0,
        },
        max_sequence_length=16,
        sample_height=96,
        sample_width=160,
        window_size=17,
        overlap=4,
        lower_case=True,
        notes="The bundled model; knows the synthetic world only.",
    ),
    "micro": Preset(
        vae=_tiny_vae(4),
        transformer={
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "ffn_dim": 32,
            "num_layers": 2,
            "text_dim": 16,
            "freq_dim": 16,
        },
        text_encoder={
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 1,
            "num_heads": 2,
            "dropout_rate": 0.0,
        },
        max_sequence_length=12,
        sample_height=32,
        sample_width=48,
        window_size=9,
        overlap=2,
        lower_case=True,
        notes="Random weights in the real layout, for tests.",
    ),
}


def build_vae(preset: Preset, *, mask_decoder: bool = False) -> AutoencoderKLWan:
    """Build a VAE with random weights; `mask_decoder` gives it one output channel."""
    config = dict(preset.vae)
    if mask_decoder:
        config["out_channels"] = int(config.get("patch_size") or 1) ** 2
    return AutoencoderKLWan(**config)


def build_transformer(preset: Preset, *, video_injection: bool = False) -> WanTransformer3DModel:
    """Build a transformer with random weights.

    With `video_injection` (DVI) it takes the video latent beside the moving one, so it
    has twice the input channels.
    """
    latent = int(preset.vae.get("z_dim", 16))
    return WanTransformer3DModel(
        in_channels=latent * (2 if video_injection else 1),
        out_channels=latent,
        **preset.transformer,
    )


def build_text_encoder(preset: Preset, vocab_size: int | None = None) -> UMT5EncoderModel:
    """Build a text encoder with random weights, for a vocabulary of `vocab_size`."""
    config = dict(preset.text_encoder)
    if vocab_size is not None:
        config["vocab_size"] = vocab_size
    return UMT5EncoderModel(UMT5Config(**config))
