"""Compare a training step with the published code's, on the CPU in float32.

The published ``engine.train_one_epoch`` and this project's `Engine` are given the same random
weights, clip, sentence, noise and times, with 16 and with 32 input channels. Printed: the
relative difference of the loss and the largest of any gradient, and of weights and averages
after three steps.

    python benchmarks/compare_training.py --public DIR [--seed N] [--frames N] …

DIR is a checkout of github.com/xmz111/FlowRVS. Ends with 1 where a difference exceeds 1e-5.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "public_code"))

CAPTIONS = ("the red circle", "the blue square", "the ball that moves left")
BOUND = 1e-5


def import_public(folder: Path) -> SimpleNamespace:
    """Import the published engine and models, with stand-ins for torchvision's names."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler  # noqa: F401
    from diffusers.training_utils import EMAModel
    from torchvision_names import install
    from transformers import AutoTokenizer, UMT5EncoderModel  # noqa: F401

    install()
    sys.path.insert(0, str(folder))
    import engine
    from models.text import TextProcessor
    from models.transformer import WanTransformer3DModel
    from models.wan_rvos import adapt_dit_for_concat_input

    return SimpleNamespace(
        engine=engine,
        TextProcessor=TextProcessor,
        Transformer=WanTransformer3DModel,
        widen=adapt_dit_for_concat_input,
        EMAModel=EMAModel,
    )


def make_clips(args: argparse.Namespace) -> list[SimpleNamespace]:
    """Random clips and masks."""
    rng = np.random.default_rng(args.seed)
    shape = (args.frames, args.height, args.width)
    clips = []
    for caption in CAPTIONS:
        video = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        mask = np.zeros(shape, bool)
        top, left = (int(n) for n in rng.integers(0, min(shape[1:]) // 2, 2))
        mask[:, top : top + args.height // 2, left : left + args.width // 2] = True
        clips.append(SimpleNamespace(video=video, mask=mask, caption=caption))
    return clips


def make_transformer(preset: Any, dvi: bool, seed: int) -> torch.nn.Module:
    """A stock transformer in which no weight is like another, none zero."""
    from flowrvs.models.presets import build_transformer

    torch.manual_seed(seed)
    transformer = build_transformer(preset, video_injection=dvi)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return transformer


class Recorder(torch.nn.Module):
    """Keeps the times that the published engine gives its model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.module = model  # the engine unwraps this name
        self.times: list[torch.Tensor] = []

    def forward(self, **kwargs: Any) -> Any:
        self.times.append(kwargs["timestep"].detach().clone())
        return self.module(**kwargs)


def run_public(
    public: SimpleNamespace, preset: Any, parts: Any, clips: list[Any], dvi: bool, clip_norm: float
) -> SimpleNamespace:
    """Let the published engine make a step for each clip."""
    import diffusers.models.autoencoders.vae as vae_module

    model = public.Transformer(in_channels=16, out_channels=16, use_dvi=dvi, **preset.transformer)
    if dvi:
        with contextlib.redirect_stdout(io.StringIO()):
            public.widen(model, 16, 16)
    missing = model.load_state_dict(parts.transformer.state_dict(), strict=False)
    assert not missing.missing_keys, missing
    recorder = Recorder(model)
    ema = public.EMAModel(model.parameters(), decay=0.9999)
    ema.shadow_params = [p.to(torch.float32) for p in ema.shadow_params]
    with contextlib.redirect_stdout(io.StringIO()):
        text = public.TextProcessor(parts.tokenizer, parts.text_encoder)
    text.encode_prompt_and_cfg = functools.partial(
        text.encode_prompt_and_cfg, max_sequence_length=preset.max_sequence_length
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=5e-4)
    noises, losses = [], []
    stock_noise, stock_loss = vae_module.randn_tensor, torch.nn.functional.mse_loss

    def randn_tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        noises.append(stock_noise(*args, **kwargs))
        return noises[-1]

    def mse_loss(*args: Any, **kwargs: Any) -> torch.Tensor:
        losses.append(stock_loss(*args, **kwargs))
        return losses[-1]

    loader = []
    for clip in clips:
        frames = torch.from_numpy(clip.video).permute(0, 3, 1, 2).float().div(255)
        samples = SimpleNamespace(tensors=((frames - 0.5) / 0.5)[None])
        loader.append((samples, [{"caption": clip.caption, "masks": torch.from_numpy(clip.mask)}]))
    arguments = SimpleNamespace(batch_size=1, amp=False, print_freq=10**6)
    vae_module.randn_tensor = randn_tensor
    public.engine.F = SimpleNamespace(
        mse_loss=mse_loss, interpolate=torch.nn.functional.interpolate
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            public.engine.train_one_epoch(
                arguments,
                recorder,
                ema,
                parts.vae,
                text,
                loader,
                optimizer,
                None,
                torch.device("cpu"),
                0,
                clip_norm,
            )
    finally:
        vae_module.randn_tensor = stock_noise
    return SimpleNamespace(
        losses=[float(loss) for loss in losses],
        times=recorder.times,
        noises=noises,
        gradients={n: p.grad.clone() for n, p in model.named_parameters()},
        weights={n: p.detach().clone() for n, p in model.named_parameters()},
        averages=dict(
            zip((n for n, _ in model.named_parameters()), ema.shadow_params, strict=True)
        ),
    )


def run_ours(
    preset: Any, parts: Any, clips: list[Any], dvi: bool, clip_norm: float, drawn: Any
) -> SimpleNamespace:
    """Let this project's engine make the same steps."""
    from flowrvs.pipelines import FlowRVSPipeline
    from flowrvs.pipelines.prompts import EmbeddingCache
    from flowrvs.training import FlowConfig
    from flowrvs.training.dataset import Sample
    from flowrvs.training.encoded import ClipEncoder
    from flowrvs.training.engine import Engine, make_accelerator
    from flowrvs.training.flow import FlowTrainee
    from flowrvs.training.sentences import TextBank

    losses: list[float] = []

    class Told(FlowTrainee):
        """Takes times and noise as the published code drew them."""

        def draw(self, number: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
            return drawn.times[number].float(), drawn.noises[number][0]

        def loss(self, module: torch.nn.Module, group: Any) -> torch.Tensor:
            loss = super().loss(module, group)
            losses.append(float(loss.detach()))
            return loss

    config = FlowConfig(
        max_steps=len(clips), workers=0, clip_norm=clip_norm, save_every=10**6, keep_best=False
    )
    accelerator = make_accelerator("float32", "cpu")
    pipeline = FlowRVSPipeline.from_parts(
        transformer=copy.deepcopy(parts.transformer),
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        preset=preset,
    )
    samples = [
        Sample(number, clip.caption, clip.video, clip.mask, "", "")
        for number, clip in enumerate(clips)
    ]
    with tempfile.TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder) / "texts")
        texts = TextBank(
            parts.tokenizer, parts.text_encoder, cache, preset.max_sequence_length, False
        )
        held_out: Any = SimpleNamespace(held_out=[])
        trainee = Told(
            pipeline, ClipEncoder(parts.vae), texts, config, accelerator, held_out, torch.float32
        )
        engine = Engine(
            trainee, samples, len(samples), config, Path(folder), accelerator, identity={}
        )
        engine.run()
        assert engine.ema is not None
        named = list(pipeline.transformer.named_parameters())
        return SimpleNamespace(
            losses=losses,
            gradients={n: p.grad.clone() for n, p in named},
            weights={n: p.detach().clone() for n, p in named},
            averages=dict(zip(engine.names, engine.ema.shadow_params, strict=True)),
        )


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of any tensor, relative to its norm."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-12)) for n in a)


def main() -> int:
    """Print the differences; return 1 where one is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--public", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--width", type=int, default=48)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        public = import_public(args.public)
    from flowrvs.data.synthetic import vocabulary
    from flowrvs.models.presets import PRESETS, build_text_encoder, build_vae
    from flowrvs.models.text import build_word_tokenizer

    preset = PRESETS["micro"]
    clips = make_clips(args)
    worst = 0.0
    print(f"{'channels':>8} {'loss':>9} {'gradients':>10} {'weights, 3':>11} {'EMA, 3':>9}")
    for dvi in (False, True):
        torch.manual_seed(args.seed)
        tokenizer = build_word_tokenizer(vocabulary())
        vae = build_vae(preset, mask_decoder=True).eval().requires_grad_(False)
        vae.register_to_config(
            latents_mean=torch.randn(16).tolist(), latents_std=(torch.rand(16) + 0.5).tolist()
        )
        parts = SimpleNamespace(
            transformer=make_transformer(preset, dvi, args.seed),
            vae=vae,
            tokenizer=tokenizer,
            text_encoder=build_text_encoder(preset, len(tokenizer)).eval().requires_grad_(False),
        )
        single = run_public(public, preset, parts, clips[:1], dvi, 1e9)
        ours = run_ours(preset, parts, clips[:1], dvi, 1e9, single)
        three = run_public(public, preset, parts, clips, dvi, 1.0)
        after = run_ours(preset, parts, clips, dvi, 1.0, three)
        numbers = (
            max(
                abs(a - b) / abs(b)
                for a, b in zip(
                    after.losses + ours.losses, three.losses + single.losses, strict=True
                )
            ),
            relative(ours.gradients, single.gradients),
            relative(after.weights, three.weights),
            relative(after.averages, three.averages),
        )
        worst = max(worst, *numbers)
        loss, gradients, weights, averages = numbers
        print(
            f"{32 if dvi else 16:>8} {loss:9.1e} {gradients:10.1e} {weights:11.1e} {averages:9.1e}"
        )
    print("times drawn:", [int(t) for t in three.times])
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
