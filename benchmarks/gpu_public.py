"""The published code against ours on one GPU: time and memory at production size.

    python benchmarks/gpu_public.py --public DIR --scratch DIR [--json]

Random weights of Wan2.1-T2V-1.3B's sizes are written once to the scratch folder (about
22 GB, the text encoder included, and 20 GB of RAM while writing; a second run finds them
there), then a clip of 81 frames at 480 x 832 is segmented with 1 and with 14 sentences by
the published code and by ours in each memory mode, each in a process of its own. Every
process first does a clip of another size to warm up. Ours is timed twice: with sentences
that it sees for the first time, for which it loads the text encoder from the disk and
lets it go again, and with sentences that it knows.

Memory is ``torch.cuda.max_memory_allocated`` of a run, and the largest use of the whole
GPU that nvidia-smi told. At the end the parts of our call are compared with a large
matrix product on the same device (``--no-stages`` leaves that out). Random masks cover
about half of each frame: what ours saves where there is no foreground does not show.

``--size small --device cpu --frames 5 --height 64 --width 96`` checks the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from public_code.layouts import Clip, change_settings, write_split
from public_code.process import call_ours, call_public, call_stages
from transformers.utils import logging as transformers_logging

from flowrvs.checkpoints.convert import convert
from flowrvs.models.presets import PRESETS, Preset, build_text_encoder, build_transformer, build_vae
from tests.fixtures.public_layout import (
    BASE_NAME,
    NAMES,
    SMALL,
    PublicLayout,
    PublicParts,
    ascii_tokenizer,
    write_public_layout,
)

_MODES = ("full", "offload", "low")


def main() -> int:
    """Write the weights, run all, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--public", type=Path, help="a checkout of the published code")
    parser.add_argument("--scratch", type=Path, required=True, help="where the weights are kept")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["production", "small"], default="production")
    parser.add_argument("--text-layers", type=int, default=24, help="fewer are written sooner")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 14])
    parser.add_argument("--modes", nargs="+", choices=_MODES, default=list(_MODES))
    parser.add_argument("--no-stages", action="store_true", help="leave the roofline out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --size small checks the script")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    layout, model = _weights(args)
    with tempfile.TemporaryDirectory(prefix="flowrvs-gpu-") as name:
        rows, stages = _run(args, layout, model, Path(name))
    if args.json:
        print(json.dumps({"rows": rows, "stages": stages}))
    else:
        _print(rows, stages)
    return 0


def _weights(args: argparse.Namespace) -> tuple[PublicLayout, Path]:
    """Return the weights in both layouts, made when they are not there."""
    work, model = args.scratch / "public", args.scratch / "model"
    files = [work / name for name in (BASE_NAME, *NAMES["new"])]
    if not model.is_dir():
        print("writing random weights", file=sys.stderr, flush=True)
        layout = write_public_layout(
            work,
            kind="model",
            parts=_parts(PRESETS["production"] if args.size == "production" else SMALL, args),
            dtype=torch.bfloat16,
            text_shards="5GB",
        )
        convert(layout.base, layout.dit, layout.vae, model)
    change_settings(model, sample_height=args.height, sample_width=args.width)
    return PublicLayout(*files, parts=None), model  # type: ignore[arg-type]


def _parts(preset: Preset, args: argparse.Namespace) -> PublicParts:
    torch.manual_seed(0)
    layers = min(args.text_layers, preset.text_encoder["num_layers"])
    preset = replace(preset, text_encoder={**preset.text_encoder, "num_layers": layers})
    tokenizer = ascii_tokenizer()
    torch.set_default_dtype(torch.bfloat16)
    try:
        text = build_text_encoder(preset)
    finally:
        torch.set_default_dtype(torch.float32)
    return PublicParts(
        build_transformer(preset), build_vae(preset, mask_decoder=True), text, tokenizer
    )


def _run(
    args: argparse.Namespace, layout: PublicLayout, model: Path, scratch: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    warm = Clip(5, args.height, args.width, ("to warm up",))
    splits = {"warm": scratch / "warm"}
    write_split(splits["warm"], {"clip": warm}, 0)
    for count in args.sentences:
        texts = tuple(f"the thing number {n} of {count}" for n in range(count))
        splits[str(count)] = scratch / str(count)
        clip = Clip(args.frames, args.height, args.width, texts)
        write_split(splits[str(count)], {"clip": clip}, 1)
    box = {"height": args.height, "width": args.width, "steps": 1}
    env = {**os.environ}
    rows: list[dict[str, Any]] = []

    def note(code: str, names: list[str], watched: Any) -> None:
        report = watched.report
        peaks = report.get("cuda_peak", [0] * len(names))
        for name, seconds, peak in zip(names, report["predict"], peaks, strict=True):
            if name != "warm":
                row = {"code": code, "sentences": name, "seconds": seconds}
                rows.append({**row, "allocated": peak, "gpu": watched.gpu, "rss": watched.rss})
        print(f"{code}: done", file=sys.stderr, flush=True)

    names = ["warm", *map(str, args.sentences)]
    if args.public is not None:
        runs = [{"root": str(splits[n]), "out": str(scratch / f"p-{n}"), **box} for n in names]
        note(
            "published",
            names,
            call_public(
                args.public,
                layout,
                scratch,
                env=env,
                dtype="bfloat16",
                device=args.device,
                runs=runs,
            ),
        )
    for mode in args.modes:
        twice = ["warm"]
        for count in args.sentences:
            twice += [f"{count} new", f"{count} known"]
        runs = [
            {
                "root": str(splits[name.split()[0]] / "valid"),
                "out": str(scratch / f"{mode}-{name.replace(' ', '-')}"),
                "steps": 1,
                "window": "whole",
            }
            for name in twice
        ]
        env["FLOWRVS_HOME"] = str(scratch / f"home-{mode}")
        job = {"model": str(model), "device": args.device, "memory": mode}
        note(f"ours, {mode}", twice, call_ours(scratch, env=env, runs=runs, **job))
    stages: dict[str, Any] = {}
    if not args.no_stages:
        size = {"frames": args.frames, "height": args.height, "width": args.width}
        found = call_stages(scratch, env=env, model=str(model), device=args.device, **size)
        stages = found.report
    return rows, stages


def _print(rows: list[dict[str, Any]], stages: dict[str, Any]) -> None:
    base = {row["sentences"]: row["seconds"] for row in rows if row["code"] == "published"}
    print("| code | sentences | seconds | faster | allocated GB | GPU GB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        first = base.get(row["sentences"].split()[0])
        faster = f"{first / row['seconds']:.2f}x" if first else ""
        print(
            f"| {row['code']} | {row['sentences']} | {row['seconds']:.2f} | {faster} "
            f"| {row['allocated'] / 1e9:.1f} | {row['gpu'] / 1e9:.1f} |"
        )
    if stages:
        print(f"\nA large matrix product: {stages['matmul_tflops']:.1f} TFLOP/s\n")
        print("| part | seconds | TFLOP | of the matrix product's rate | most of the time |")
        print("|---|---|---|---|---|")
        for name, row in stages["stages"].items():
            top = ", ".join(f"{key[:40]} {share:.0%}" for key, share in row["operations"].items())
            print(
                f"| {name} | {row['seconds']:.2f} | {row['tflop']:.2f} "
                f"| {row['share_of_matmul']:.0%} | {top} |"
            )


if __name__ == "__main__":
    sys.exit(main())
