"""``flowrvs predict``: masks for every sentence of a split."""

from __future__ import annotations

import argparse
import json

HELP = "Predict every sentence of a split; run again to go on after a stop."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("split", metavar="SPLIT_DIR", help="folder with meta_expressions.json")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="gets <video>/<exp_id>/<frame>.png"
    )
    parser.add_argument(
        "--model", default="tiny", metavar="NAME|DIR", help="a model's name or folder (tiny)"
    )
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="Euler steps (1)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, ... (auto)")
    parser.add_argument(
        "--memory", default="auto", choices=("auto", "full", "offload", "low"), help="(auto)"
    )
    parser.add_argument("--videos", nargs="+", metavar="NAME", help="these videos alone")
    parser.add_argument("--zip", action="store_true", help="write DIR.zip for a submission as well")


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    import flowrvs
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.mevis import MevisSplit
    from flowrvs.errors import InputError
    from flowrvs.evaluation import predict_split, zip_predictions

    if args.steps < 1:
        raise InputError(f"--steps must be 1 or more, not {args.steps}.")
    # The split is read before the model, which takes longer to load.
    split = MevisSplit.open(args.split)
    segmenter = flowrvs.load(args.model, device=args.device, memory=args.memory)
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        result = predict_split(
            split,
            args.out,
            segmenter,
            videos=args.videos,
            steps=args.steps,
            cancel=cancel,
            progress=progress,
        )
    archive = None
    if args.zip:
        archive = zip_predictions(split, args.out, videos=args.videos)
    if args.json:
        print(
            json.dumps(
                {
                    "out": str(result.out),
                    "videos": result.videos,
                    "expressions": result.expressions,
                    "frames": result.frames,
                    "skipped": result.skipped,
                    "zip": None if archive is None else str(archive),
                }
            )
        )
        return 0
    already = f", {result.skipped} of them before" if result.skipped else ""
    print(f"{result.out}: {result.videos} videos, {result.expressions} sentences{already}")
    if archive is not None:
        print(f"{archive}: written and read back")
    return 0
