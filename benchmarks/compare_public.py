"""Our masks against the published code's, on random weights in the public layout.

    python benchmarks/compare_public.py --public DIR [--models NAME ...] [--seed N] [--json]

DIR is a checkout of the published code (github ``xmz111/FlowRVS``). Its own ``prepare``
and ``eval_mevis`` run in a process of their own; ours go from the same ``.pth`` files
through ``convert`` and ``flowrvs.load`` to the pipeline's call. Clips of 1, 4, 5, 17 and
30 frames, landscape, portrait, square and of odd sizes, with 1, 2 and 4 steps and
sentences that are hard to clean; models with 16 and with 32 input channels, among them
the production widths with two layers.

Bars: in float32, logits within 1e-4 of each other on every clip, and over all masks of a
model IoU >= 0.9999 (of one small mask a single pixel on the border is more than that). In
bfloat16, IoU >= 0.995 over all masks of a model. Exits with 1 when a bar is missed.
"foreground" and "cut off" (beyond -1 and 1) show that the masks say something; the last two
columns compare 16-bit masks, ours and the published ones, with the published 32-bit masks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from public_code.layouts import (
    MODELS,
    Clip,
    change_settings,
    conditioned_parts,
    round_weights,
    tiny_parts,
    write_split,
)
from public_code.process import call_public
from transformers.utils import logging as transformers_logging

import flowrvs
from flowrvs.checkpoints.convert import convert
from flowrvs.data.mevis import MevisSplit
from flowrvs.data.synthetic import write_split as write_synthetic
from tests.fixtures.public_layout import PublicLayout, write_public_layout

_LONG = " ".join(f"and the thing number {n}" for n in range(60))
_HARD = (
    'the "red" thing',
    "  The\tRED   thing \n that  moves ",
    "a&nbsp;b &amp;lt;i&amp;gt; &quot;c&quot;",
    "back\\slash \\\"both\\\" ' single '",
    "&#32;blank&#10;line&#9;",
    _LONG,
    "UPPER lower MiXeD",
    "\u00e9t\u00e9 \u2014 \u7ea2\u8272 \u3000wide\u00a0blank",
    "the thing",
)


@dataclass(frozen=True)
class Row:
    """One clip and number of steps of one model.

    Attributes
    ----------
    difference : float
        Largest difference of logits at source size.
    iou : float
        Smallest IoU of a sentence's masks over its clip.
    foreground, cut_off : float
        Shares of the published masks and logits.
    text : float
        Largest difference between two sentences' logits: what a sentence changes.
    both, either : int
        Pixels of all masks: intersection and union.
    exact, floor : float or None
        In bfloat16, the smallest IoU with the published code in float32: ours, and its own.
    """

    model: str
    dtype: str
    clip: str
    steps: int
    difference: float
    iou: float
    foreground: float
    cut_off: float
    text: float
    both: int
    either: int
    exact: float | None = None
    floor: float | None = None


def clips(small: bool) -> dict[str, Clip]:
    """Clips of every length and shape; `small` ones for models of production width."""
    if small:
        return {
            "5x72x120": Clip(5, 72, 120, (_HARD[0], _HARD[5])),
            "1x100x66": Clip(1, 100, 66, (_HARD[2],)),
        }
    return {
        "1x72x120": Clip(1, 72, 120, (_HARD[0], _HARD[1], _HARD[5])),
        "4x120x72": Clip(4, 120, 72, (_HARD[2], _HARD[3])),
        "5x67x101": Clip(5, 67, 101, (_HARD[4], _HARD[6], _HARD[7])),
        "17x96x96": Clip(17, 96, 96, (_HARD[5], _HARD[8])),
        "30x53x131": Clip(30, 53, 131, (_HARD[2], _HARD[8])),
    }


def run_public(
    public: Path,
    layout: PublicLayout,
    folder: Path,
    dtype: str,
    runs: list[dict[str, Any]],
    **job: Any,
) -> list[list[np.ndarray]]:
    """Run the published code; return the logits of each run, an array a sentence."""
    files = [folder / f"public-{dtype}-{number}.npz" for number in range(len(runs))]
    runs = [
        {**run, "out": str(folder / f"public-{dtype}-{n}"), "logits": str(files[n])}
        for n, run in enumerate(runs)
    ]
    env = dict(os.environ)
    call_public(public, layout, folder, env=env, dtype=dtype, runs=runs, workers=0, **job)
    logits = []
    for path in files:
        with np.load(path) as stored:
            logits.append([stored[f"arr_{n}"] for n in range(len(stored.files))])
        path.unlink()
    return logits


def read_frames(files: list[Path]) -> np.ndarray:
    """Decode pictures as the published code does."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])


def compare(
    name: str, public: Path, scratch: Path, *, seed: int, steps: list[int], dtypes: list[str]
) -> Iterator[Row]:
    """Yield one row a clip, number of steps and number format."""
    tiny = name == "tiny"
    job: dict[str, Any] = {}
    if tiny:
        parts, preset = tiny_parts()
        round_weights(parts)
        kind, box = "ema", (96, 160)
        job = {"patch": int(preset.vae["patch_size"]), "tokens": preset.max_sequence_length}
        files, sentences = _synthetic(scratch, seed)
    else:
        preset, injection, kind = MODELS[name]
        parts = conditioned_parts(preset, video_injection=injection, seed=seed)
        # Small, and neither of the clips' shapes.
        box = (48, 80) if name == "production-cut" else (64, 112)
        chosen = clips(name == "production-cut")
        files = write_split(scratch / "split", chosen, seed)
        sentences = {key: list(clip.sentences) for key, clip in chosen.items()}
    layout = write_public_layout(scratch / "work", kind=kind, parts=parts)
    folder = convert(layout.base, layout.dit, layout.vae, scratch / "converted")
    tokens = preset.max_sequence_length
    change_settings(folder, sample_height=box[0], sample_width=box[1], max_sequence_length=tokens)
    runs = [
        {"root": str(scratch / "split"), "steps": n, "height": box[0], "width": box[1]}
        for n in steps
    ]
    full = None
    for dtype in dtypes:
        theirs = run_public(public, layout, scratch, dtype, runs, **job)
        pipe = flowrvs.load(folder, device="cpu", dtype=dtype)
        for number, count in enumerate(steps):
            position = 0
            for key, pictures in files.items():
                frames = read_frames(list(pictures))
                output = pipe(frames, sentences[key], num_inference_steps=count)
                stop = position + len(sentences[key])
                public_logits = [part[: len(frames)] for part in theirs[number][position:stop]]
                own = floor = None
                if full is not None:
                    exact = [part[: len(frames)] for part in full[number][position:stop]]
                    truth = _masks(exact, "float32")
                    own = min(map(_iou, output.masks, truth))
                    floor = min(map(_iou, _masks(public_logits, dtype), truth))
                what = (name, dtype, key, count)
                yield _row(what, output.logits, output.masks, public_logits, own, floor)
                position = stop
        if dtype == "float32":
            full = theirs


def _masks(logits: Sequence[np.ndarray], dtype: str) -> np.ndarray:
    """Take the masks as the published code does: its sigmoid is in its number format."""
    values = torch.from_numpy(np.stack(logits)).to(getattr(torch, dtype))
    return (torch.sigmoid(values) > 0.5).numpy()


def _row(
    what: tuple[str, str, str, int],
    logits: np.ndarray,
    masks: np.ndarray,
    public: list[np.ndarray],
    exact: float | None,
    floor: float | None,
) -> Row:
    theirs = np.stack(public)
    found = _masks(public, what[1])
    spread = max((float(np.abs(theirs[0] - other).max()) for other in theirs[1:]), default=0.0)
    return Row(
        *what,
        difference=float(np.abs(logits - theirs).max()),
        iou=min(map(_iou, masks, found)),
        foreground=float(found.mean()),
        cut_off=float((np.abs(theirs) >= 1).mean()),
        text=spread,
        both=int(np.count_nonzero(masks & found)),
        either=int(np.count_nonzero(masks | found)),
        exact=exact,
        floor=floor,
    )


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 1.0


def _synthetic(scratch: Path, seed: int) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
    """Make a split of moving shapes, which the bundled model was trained on."""
    for _ in write_synthetic(
        scratch / "split" / "valid", videos=3, seed=seed, frames=17, expressions=4
    ):
        pass
    split = MevisSplit.open(scratch / "split" / "valid")
    files = {
        name: [split.frame_path(name, index) for index in range(len(entry.frames))]
        for name, entry in split.videos.items()
    }
    texts = {
        name: [expression.exp for expression in entry.expressions.values()]
        for name, entry in split.videos.items()
    }
    return files, texts


def missed(rows: list[Row]) -> list[str]:
    """Say which bars the rows of one model and number format miss."""
    model, dtype = rows[0].model, rows[0].dtype
    what = f"{model} in {dtype}"
    pooled = sum(row.both for row in rows) / max(1, sum(row.either for row in rows))
    if dtype == "float32":
        far = [row.clip for row in rows if row.difference > 1e-4]
        faults = [f"{what}: logits differ on {', '.join(far)}"] if far else []
        return faults + ([f"{what}: IoU {pooled:.6f}"] if pooled < 0.9999 else [])
    return [] if pooled >= 0.995 else [f"{what}: IoU {pooled:.4f}"]


def main() -> int:
    """Print a line a clip, and what was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--public", type=Path, required=True, help="a checkout of the published code"
    )
    names = [*MODELS, "tiny"]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if not (args.public / "inference_mevis.py").is_file():
        parser.error(f"{args.public} is no checkout of the published code")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    rows: list[Row] = []
    if not args.json:
        print(
            f"{'model':15} {'numbers':9} {'clip':10} steps  logits     IoU  foreground  cut off"
            "    text   exact   floor"
        )
    for name in args.models:
        with tempfile.TemporaryDirectory(prefix="flowrvs-compare-") as scratch:
            os.environ["FLOWRVS_HOME"] = scratch  # no embeddings of an earlier run
            dtypes = args.dtypes or ["float32", "bfloat16"]
            for row in compare(
                name, args.public, Path(scratch), seed=args.seed, steps=args.steps, dtypes=dtypes
            ):
                rows.append(row)
                if not args.json:
                    _print(row)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.dtype), []).append(row)
    worst = [
        {
            "model": model,
            "dtype": dtype,
            "difference": max(row.difference for row in group),
            "iou": sum(row.both for row in group) / max(1, sum(row.either for row in group)),
            "smallest": min(row.iou for row in group),
        }
        for (model, dtype), group in groups.items()
    ]
    faults = [fault for group in groups.values() for fault in missed(group)]
    if args.json:
        report = {"rows": [asdict(row) for row in rows], "models": worst, "missed": faults}
        print(json.dumps(report))
    else:
        print()
        for row in worst:
            print(
                f"{row['model']:15} {row['dtype']:9} logits within {row['difference']:.1e}, IoU "
                f"{row['iou']:.6f} over all masks, at least {row['smallest']:.5f}"
            )
        print("\n".join(["missed: " + fault for fault in faults] or ["every bar is met"]))
    return 1 if faults else 0


def _print(row: Row) -> None:
    against = "".join("" if v is None else f" {v:7.4f}" for v in (row.exact, row.floor))
    print(
        f"{row.model:15} {row.dtype:9} {row.clip:10} {row.steps:5}  {row.difference:.1e}  "
        f"{row.iou:.5f} {row.foreground:9.2f} {row.cut_off:8.3f} {row.text:7.3f}{against}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
