"""Random models that say something, the bundled model, and splits to run them on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from PIL import Image
from transformers import AutoTokenizer, UMT5EncoderModel

from flowrvs.checkpoints import locate
from flowrvs.models.presets import PRESETS, Preset
from flowrvs.models.text import embed_tokens, tokenize
from tests.fixtures.public_layout import SMALL, PublicParts, build_parts

__all__ = [
    "MODELS",
    "Clip",
    "change_settings",
    "conditioned_parts",
    "draw_clip",
    "round_weights",
    "tiny_parts",
    "write_split",
]

_WIDER = replace(
    SMALL,
    vae={**SMALL.vae, "base_dim": 8, "num_res_blocks": 2},
    transformer={
        **SMALL.transformer,
        "num_attention_heads": 3,
        "attention_head_dim": 24,
        "ffn_dim": 96,
        "num_layers": 3,
    },
)

#: Production widths, two layers of the transformer and one of the text encoder.
_PRODUCTION = replace(
    PRESETS["production"],
    transformer={**PRESETS["production"].transformer, "num_layers": 2},
    text_encoder={
        **PRESETS["production"].text_encoder,
        "num_layers": 1,
        "num_heads": 8,
        "d_ff": 1024,
        "dropout_rate": 0.0,
    },
)

#: Sizes of the random models: name -> (preset, video injected, kind of checkpoint).
MODELS: dict[str, tuple[Preset, bool, str]] = {
    "small-16": (SMALL, False, "ema"),
    "small-32": (SMALL, True, "model"),
    "wider-16": (_WIDER, False, "model"),
    "wider-32": (_WIDER, True, "ema"),
    "production-cut": (_PRODUCTION, False, "ema"),
}


@dataclass(frozen=True)
class Clip:
    """A video to be: frames, height, width, and its sentences."""

    frames: int
    height: int
    width: int
    sentences: tuple[str, ...]


@torch.no_grad()
def conditioned_parts(preset: Preset, *, video_injection: bool, seed: int) -> PublicParts:
    """Build random models whose logits depend on video, sentence and time.

    The text path is amplified, and the decoder's last layer is scaled so that the logits
    of a sample clip have mean 0 and deviation 0.3: about half is foreground, and hardly
    any is cut off at -1 and 1. Every weight is one that 16 bits can hold, for the
    published code rounds them when it loads.
    """
    parts = build_parts(preset, video_injection=video_injection, seed=seed)
    text = parts.transformer.condition_embedder.text_embedder.linear_2
    text.weight.mul_(4)
    round_weights(parts)
    config = parts.vae.config
    sample = draw_clip(Clip(5, 64, 96, ()), seed)
    video = torch.from_numpy(sample).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    shape = (1, config.z_dim, 1, 1, 1)
    mean, std = (torch.tensor(s).view(shape) for s in (config.latents_mean, config.latents_std))
    start = (parts.vae.encode(video).latent_dist.mean - mean) / std
    tokens = tokenize(parts.tokenizer, ["the red thing"], preset.max_sequence_length)
    velocity = parts.transformer(
        hidden_states=torch.cat([start, start], 1) if video_injection else start,
        timestep=torch.tensor([1000.0]),
        encoder_hidden_states=embed_tokens(parts.text_encoder, *tokens),
        return_dict=False,
    )[0]
    last = parts.vae.decoder.conv_out
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    parts.vae.decode(start - velocity)
    hook.remove()
    logits = torch.cat(seen, dim=2)
    gain = 0.3 / logits.std()
    # A causal VAE treats the first frame in its own way: half the weight is that frame's.
    centre = (logits[:, :, :1].mean() + logits[:, :, 1:].mean()) / 2
    last.weight.copy_((last.weight * gain).bfloat16())
    last.bias.copy_(((last.bias - centre) * gain).bfloat16())
    return parts


@torch.no_grad()
def round_weights(parts: PublicParts) -> None:
    """Round every weight to one that 16 bits hold, as the published code does on loading."""
    for model in (parts.transformer, parts.vae, parts.text_encoder):
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())


def tiny_parts() -> tuple[PublicParts, Preset]:
    """Load the bundled model's parts from their stock classes, and its preset."""
    folder = locate("tiny")
    parts = PublicParts(
        WanTransformer3DModel.from_pretrained(folder / "transformer").eval(),
        AutoencoderKLWan.from_pretrained(folder / "vae").eval(),
        UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval(),
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
    )
    return parts, PRESETS["tiny"]


def change_settings(folder: Path, **settings: object) -> None:
    """Change what a converted folder says of its model: box, tokens, windows."""
    path = folder / "model_index.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, **settings}, indent=2), "utf-8")


def draw_clip(clip: Clip, seed: int) -> np.ndarray:
    """Draw moving blobs on a wavy ground, uint8, shape (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: clip.height, : clip.width].astype(np.float32)
    frames = np.empty((clip.frames, clip.height, clip.width, 3), np.float32)
    phase, colours = rng.uniform(0, 6, 3), rng.uniform(40, 255, (3, 3))
    places = rng.uniform(0.2, 0.8, (3, 2)) * (clip.height, clip.width)
    speeds = rng.uniform(-1.5, 1.5, (3, 2))
    for t in range(clip.frames):
        frames[t] = 90 + 50 * np.sin(x[..., None] / 17 + y[..., None] / 23 + phase + t / 9)
        for place, speed, colour in zip(places, speeds, colours, strict=True):
            away = np.hypot(y - place[0] - speed[0] * t, x - place[1] - speed[1] * t)
            frames[t][away < min(clip.height, clip.width) / 6] = colour
    return (frames + rng.normal(0, 4, frames.shape)).clip(0, 255).astype(np.uint8)


def write_split(root: Path, clips: Mapping[str, Clip], seed: int) -> dict[str, Sequence[Path]]:
    """Write ``<root>/valid`` as a MeViS split without masks.

    Returns
    -------
    dict
        The frames' files of each video.
    """
    folder = root / "valid"
    videos, files = {}, {}
    for number, (name, clip) in enumerate(clips.items()):
        pictures = folder / "JPEGImages" / name
        pictures.mkdir(parents=True)
        names = [f"{t:05}" for t in range(clip.frames)]
        for label, frame in zip(names, draw_clip(clip, seed + number), strict=True):
            Image.fromarray(frame).save(pictures / f"{label}.jpg", quality=95)
        expressions = {str(i): {"exp": text} for i, text in enumerate(clip.sentences)}
        videos[name] = {"frames": names, "expressions": expressions}
        files[name] = [pictures / f"{label}.jpg" for label in names]
    text = json.dumps({"videos": videos}, ensure_ascii=False)
    (folder / "meta_expressions.json").write_text(text, "utf-8")
    return files
