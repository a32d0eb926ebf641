"""The paper's argument on the synthetic world: three ways to a mask, at equal budget.

- ``video``: the flow from the video's latent to the mask's (the paper's);
- ``noise``: the flow from noise to the mask's latent, the video shown beside it;
- ``direct``: the mask's latent predicted at once, no flow.

Each without and with boundary-biased sampling (BBS), start-point augmentation (SPA) and video
injection (DVI), as far as the way knows them, then scored with 1, 2 and 4 steps. Every run starts
from a random transformer, sees the same clips in the same order, and makes the same number of
steps of the same size with the same loss, which weighs objects more; VAE, mask decoder and text
encoder are the bundled model's, so that the budget goes into what is compared. (The text encoder
learnt with a flow from video to mask, which may favour that way a little.)
Scores are J&F on held-out scenes; spread is half the range over the seeds.

    python benchmarks/ablation.py --out DIR [--steps N] [--seeds 0 1] [--only video+BBS+SPA …]

Finished runs are kept in DIR and not repeated, so it may be stopped and started again; after each
one DIR/table.md says what is known so far. With --autocast 28 runs of some seven minutes on one
core; two processes with a seed each (--seeds 0, --seeds 1) share two cores and one DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer, UMT5EncoderModel

from flowrvs.checkpoints import locate
from flowrvs.disk import write_bytes
from flowrvs.evaluation import score_masks
from flowrvs.models.fast_vae import use_fast_layers
from flowrvs.models.presets import PRESETS, build_transformer
from flowrvs.models.text import embed_tokens
from flowrvs.models.vae import decode_frames, latent_statistics
from flowrvs.training.attention import choose_attention
from flowrvs.training.objective import flow_loss, interpolate, sample_timesteps
from flowrvs.training.optimizers import make_optimizers
from flowrvs.training.scratch.loop import cosine_rate, mixed_precision, update
from flowrvs.training.scratch.pool import (
    Batch,
    LatentPool,
    encode_clip,
    source_latents,
    stack_pairs,
)

#: What the paper argues (arXiv 2510.06139), for the reader to compare the order with.
CLAIMS = (
    "The paper argues that the flow from video to mask beats the flow from noise and direct\n"
    "prediction, that BBS, SPA and DVI each help, and takes one step by default."
)
HELD_OUT = range(910_000, 910_024)
NUMBER_OF_STEPS = (1, 2, 4)


@dataclass(frozen=True)
class Way:
    """One configuration; its name says what it has."""

    kind: str
    bbs: bool = False
    spa: bool = False
    dvi: bool = False

    @property
    def name(self) -> str:
        """Such as ``video+BBS+SPA``."""
        extras = (("BBS", self.bbs), ("SPA", self.spa), ("DVI", self.dvi))
        return "+".join([self.kind, *(name for name, on in extras if on)])


def all_ways() -> Iterator[Way]:
    """Yield every configuration that makes sense."""
    for bbs, spa, dvi in itertools.product((False, True), repeat=3):
        yield Way("video", bbs, spa, dvi)
    for bbs, spa in itertools.product((False, True), repeat=2):
        yield Way("noise", bbs, spa, True)  # without the video beside it, noise knows nothing
    for spa in (False, True):
        yield Way("direct", spa=spa)  # the video is all that it sees: neither times nor DVI


class Run:
    """One training of one configuration, from random weights."""

    def __init__(
        self, way: Way, seed: int, vae: AutoencoderKLWan, args: argparse.Namespace
    ) -> None:
        torch.manual_seed(seed)
        preset = PRESETS["tiny"]
        self.way, self.vae, self.args = way, vae, args
        self.mean, self.std = latent_statistics(vae)
        self.text = args.text
        self.transformer = build_transformer(preset, video_injection=way.dvi)
        choose_attention(self.transformer, torch.device("cpu"), mixed=args.autocast)
        self.parameters = list(self.transformer.parameters())
        self.optimizers = make_optimizers(
            self.transformer.named_parameters(),
            args.rate,
            matrix_rate=args.matrix_rate,
            weight_decay=1e-2,
            betas=(0.9, 0.98),
        )
        self.rng = np.random.default_rng([seed, 1])
        self.noise = torch.Generator().manual_seed(seed)

    def predict(self, state: torch.Tensor, video: torch.Tensor, times: torch.Tensor, batch: Batch):
        """What the transformer answers."""
        inputs = torch.cat([state, video], dim=1) if self.way.dvi else state
        with mixed_precision(torch.device("cpu"), self.args.autocast):
            with torch.no_grad():
                embeddings = embed_tokens(self.text, batch.tokens, batch.mask)
            return self.transformer(inputs, times, embeddings, return_dict=False)[0].float()

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch."""
        video = source_latents(batch.moments, self.mean, self.std, sample=self.way.spa)
        end, count, weight = batch.targets, len(batch.targets), self.args.object_weight
        if self.way.kind == "direct":
            times = torch.full((count,), 1000.0)
            answer = self.predict(video, video, times, batch)
            return flow_loss(answer, end, torch.zeros_like(end), batch.objects, weight)
        start = video
        if self.way.kind == "noise":
            start = torch.randn(video.shape, generator=self.noise)
        share = 0.5 if self.way.bbs else 0.0
        times = sample_timesteps(count, share, 0.0, torch.device("cpu"), self.noise)
        velocity = self.predict(interpolate(start, end, times), video, times, batch)
        return flow_loss(velocity, start, end, batch.objects, weight)

    def train(self, pool: LatentPool) -> float:
        """Train; return the seconds."""
        began = time.perf_counter()
        for step in range(self.args.steps):
            loss = self.loss(draw(pool, self.rng, self.args.batch))
            share = cosine_rate(step, self.args.steps, 20)
            rates = [(optimizer, rate * share) for optimizer, rate in self.optimizers]
            update(loss, self.parameters, rates)
            if (step + 1) % 100 == 0 or step + 1 == self.args.steps:
                print(f"  {self.way.name} step {step + 1} loss {loss.item():.4f}", flush=True)
        return time.perf_counter() - began

    @torch.no_grad()
    def end(self, batch: Batch, steps: int) -> torch.Tensor:
        """The masks' latents by so many Euler steps."""
        video = source_latents(batch.moments, self.mean, self.std, sample=False)
        if self.way.kind == "direct":
            return self.predict(video, video, torch.full((len(video),), 1000.0), batch)
        state = video
        if self.way.kind == "noise":
            state = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
        share = np.linspace(1.0, 0.001, steps + 1)[:-1]
        times = np.round(3 * share / (1 + 2 * share) * 1000)
        for now, then in itertools.pairwise([*times, 0.0]):
            velocity = self.predict(state, video, torch.full((len(video),), float(now)), batch)
            state = state + (then - now) / 1000 * velocity
        return state

    @torch.no_grad()
    def score(self, clips: list, steps: int) -> float:
        """J&F on held-out clips: the decoded answers against the true masks."""
        scores = []
        for clip, truths in clips:
            batch = stack_pairs([(clip, i) for i in range(len(clip.kinds))])
            logits = decode_frames(self.vae, self.end(batch, steps))[:, 0] > 0
            for row, truth in zip(logits.numpy(), truths, strict=True):
                scores.append(np.mean(score_masks(row, truth)))
        return float(np.mean(scores))


def draw(pool: LatentPool, rng: np.random.Generator, size: int) -> Batch:
    """A batch of the pool by a generator of its own, the same for every configuration."""
    clips = pool.clips
    picks = []
    for _ in range(size):
        clip = clips[int(rng.integers(len(clips)))]
        picks.append((clip, int(rng.integers(len(clip.target_of)))))
    return stack_pairs(picks)


def held_out_clips(vae: AutoencoderKLWan, args: argparse.Namespace, settings: dict) -> list:
    """Encoded held-out scenes with the decoded truth of their sentences.

    The truth is the true mask encoded and decoded: what the VAE loses is not the flow's fault,
    and is the same for all.
    """
    rng = np.random.default_rng(0)
    clips = []
    for seed in HELD_OUT[: args.scenes]:
        clip = encode_clip(vae, args.tokenizer, seed, rng, **settings)
        with torch.no_grad():
            masks = decode_frames(vae, clip.targets)[:, 0] > 0
        clips.append((clip, [masks[index].numpy() for index in clip.target_of]))
    return clips


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--pool", type=int, default=600, help="training clips, encoded once")
    parser.add_argument("--scenes", type=int, default=24, help="held-out scenes")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument(
        "--matrix-rate", type=float, default=3e-3, help="of the matrices, by Muon; 0: AdamW for all"
    )
    parser.add_argument("--object-weight", type=float, default=4.0, help="of the loss, extra")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", help="configurations, such as video+BBS+SPA")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16")
    args = parser.parse_args()
    ways = [way for way in all_ways() if not args.only or way.name in args.only]
    args.out.mkdir(parents=True, exist_ok=True)
    args.tokenizer = AutoTokenizer.from_pretrained(locate("tiny") / "tokenizer")
    args.text = UMT5EncoderModel.from_pretrained(locate("tiny") / "text_encoder").float().eval()
    vae = AutoencoderKLWan.from_pretrained(locate("tiny") / "vae", torch_dtype=torch.float32)
    vae.requires_grad_(False)
    use_fast_layers(vae)
    budget = [args.steps, args.batch, args.frames, args.pool, args.scenes, args.rate]
    budget += [args.matrix_rate, args.object_weight, args.autocast]
    todo = [(way, seed) for seed in args.seeds for way in ways]
    files = {key: args.out / f"{key[0].name}-{key[1]}.json" for key in todo}
    todo = [key for key in todo if not _matches(files[key], budget)]
    if todo:
        settings = {
            "frames": args.frames,
            "expressions": 6,
            "length": PRESETS["tiny"].max_sequence_length,
        }
        pool = LatentPool(vae, args.tokenizer, args.pool, np.random.default_rng(7), **settings)
        pool.refresh(args.pool)
        clips = held_out_clips(vae, args, settings)
    for way, seed in todo:
        run = Run(way, seed, vae, args)
        seconds = run.train(pool)
        scores = {str(n): run.score(clips, n) for n in NUMBER_OF_STEPS}
        line = {"budget": budget, "seconds": round(seconds, 1), "scores": scores}
        write_bytes(files[way, seed], json.dumps(line).encode())
        write_bytes(args.out / "table.md", _table(ways, args, files, budget).encode())
    print("\n" + _table(ways, args, files, budget))


def _matches(path: Path, budget: list) -> bool:
    return path.is_file() and json.loads(path.read_text())["budget"] == budget


def _table(ways: list[Way], args: argparse.Namespace, files: dict, budget: list) -> str:
    lines = [
        f"J&F, {args.steps} steps of {args.batch}, {args.frames} frames, seeds {args.seeds}; "
        "spread: half the range over the seeds that are done (in brackets).",
        "",
        "| | " + " | ".join(f"{n} step{'s' * (n > 1)}" for n in NUMBER_OF_STEPS) + " |",
        "|---" * (1 + len(NUMBER_OF_STEPS)) + "|",
    ]
    for way in ways:
        done = [files[way, s] for s in args.seeds if _matches(files[way, s], budget)]
        scores = [json.loads(path.read_text())["scores"] for path in done]
        cells = []
        for number in NUMBER_OF_STEPS:
            found = [row[str(number)] for row in scores]
            known = found and not (way.kind == "direct" and number > 1)
            spread = (max(found) - min(found)) / 2 if found else 0.0
            cells.append(f"{np.mean(found):.3f} ± {spread:.3f} ({len(found)})" if known else "")
        lines.append(f"| {way.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", CLAIMS, ""])


if __name__ == "__main__":
    main()
