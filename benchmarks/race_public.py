"""The published code against ours on a CPU: time, memory and scores, in one run.

    python benchmarks/race_public.py --public DIR [--repeat N] [--json]

Both run the bundled model's trained weights on the same split of moving shapes (2 videos
x 14 sentences x 33 frames at 96 x 160), each run in a process of its own, in turn. Ours
is what users get: ``flowrvs.load`` and ``predict_split``, with no embeddings kept from
before. The published code takes each video as one clip; so does ours, and once more in
the windows of 17 frames that the bundled model was trained on.

The published code is run as published (16-bit numbers), and in 32 bits. Two things are
changed for the bundled model: its VAE begins with space-to-depth (patch 2), so that the
published one-channel ``conv_out`` gets the patch x patch outputs which one mask then
takes; and its sentences are padded to the 16 tokens that it was trained with.

Time is that of prediction (the frames' decoding and the pictures' writing included), and
of the whole process (imports and model loading too). Memory is the largest sum over the
process tree, sampled from outside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from public_code.layouts import change_settings, tiny_parts
from public_code.process import Watched, call_ours, call_public
from transformers.utils import logging as transformers_logging

from flowrvs.checkpoints.convert import convert
from flowrvs.data.synthetic import write_split
from flowrvs.evaluation import evaluate
from tests.fixtures.public_layout import write_public_layout

_REFERENCE = "published, bfloat16"


def main() -> int:
    """Run all in turn; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--public", type=Path, required=True, help="a checkout of the published code"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--sentences", type=int, default=14)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--seed", type=int, default=901)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if not (args.public / "inference_mevis.py").is_file():
        parser.error(f"{args.public} is no checkout of the published code")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="flowrvs-race-") as name:
        rows = _race(args, Path(name))
    if args.json:
        print(json.dumps({"rows": rows}))
    else:
        _print(rows)
    return 0


def _race(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    split = scratch / "split" / "valid"
    sizes = {"videos": args.videos, "frames": args.frames, "expressions": args.sentences}
    for _ in write_split(split, seed=args.seed, **sizes):
        pass
    parts, preset = tiny_parts()
    layout = write_public_layout(scratch / "work", kind="ema", parts=parts)
    model = convert(layout.base, layout.dit, layout.vae, scratch / "model")
    box = {"sample_height": preset.sample_height, "sample_width": preset.sample_width}
    change_settings(
        model,
        **box,
        max_sequence_length=preset.max_sequence_length,
        window_size=preset.window_size,
        overlap=preset.overlap,
    )
    public = {
        "patch": int(preset.vae["patch_size"]),
        "tokens": preset.max_sequence_length,
        "threads": args.threads,
    }
    entrants: dict[str, dict[str, Any]] = {
        _REFERENCE: {"dtype": "bfloat16"},
        "ours, whole videos": {"window": "whole"},
        "ours, bfloat16, fast": {"window": "whole", "load": {"dtype": "bfloat16", "fast": True}},
        "published, float32": {"dtype": "float32"},
        "ours, windows of 17": {"window": preset.window_size},
    }
    seen: dict[str, list[Watched]] = defaultdict(list)
    for turn in range(args.repeat):
        for number, (name, options) in enumerate(entrants.items()):
            out = scratch / f"out-{number}-{turn}"
            env = {**os.environ, "FLOWRVS_HOME": str(scratch / f"home-{number}-{turn}")}
            run = {"out": str(out), "steps": args.steps}
            if "dtype" in options:
                run |= {"root": str(split.parent), "height": box["sample_height"]}
                run |= {"width": box["sample_width"]}
                result = call_public(
                    args.public, layout, scratch, env=env, runs=[run], **public, **options
                )
            else:
                run |= {"root": str(split), "window": options["window"]}
                result = call_ours(
                    scratch,
                    env=env,
                    model=str(model),
                    threads=args.threads,
                    runs=[run],
                    **options.get("load", {}),
                )
            seen[name].append(result)
            if not args.json:
                print(f"{name}: {result.report['predict'][0]:.1f} s", file=sys.stderr, flush=True)
    rows = []
    for number, (name, runs) in enumerate(seen.items()):
        scores = evaluate(scratch / f"out-{number}-0", split)
        rows.append(
            {
                "code": name,
                "predict": statistics.median(run.report["predict"][0] for run in runs),
                "imports": statistics.median(run.report["imports"] for run in runs),
                "load": statistics.median(run.report["load"] for run in runs),
                "total": statistics.median(run.seconds for run in runs),
                "rss": statistics.median(run.rss for run in runs),
                "pss": statistics.median(run.pss for run in runs),
                "J": scores.j,
                "F": scores.f,
                "J&F": scores.j_and_f,
                "coverage": scores.coverage,
            }
        )
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print("| code | predict s | faster | with loading s | faster | RSS MB | share | PSS MB | J&F |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [
            row["code"],
            f"{row['predict']:.1f}",
            f"{first['predict'] / row['predict']:.1f}x",
            f"{row['total']:.1f}",
            f"{first['total'] / row['total']:.1f}x",
            f"{row['rss'] / 1e6:.0f}",
            f"{row['rss'] / first['rss']:.2f}",
            f"{row['pss'] / 1e6:.0f}",
            f"{row['J&F']:.4f}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
