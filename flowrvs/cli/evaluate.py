"""``flowrvs evaluate``: official J, F and J&F of predictions."""

from __future__ import annotations

import argparse
import json

HELP = "Score predicted masks against a split: J, F, J&F and coverage."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "predictions", metavar="PRED_DIR", help="folder or zip of <video>/<exp_id>/<frame>.png"
    )
    parser.add_argument("split", metavar="SPLIT_DIR", help="the split, with its masks")
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="list the N lowest (5)")


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.evaluation import evaluate

    with cancel_on_interrupt() as cancel, progress_line() as progress:
        scores = evaluate(args.predictions, args.split, cancel=cancel, progress=progress)
    if args.json:
        print(json.dumps(scores.to_dict()))
        return 0
    print(f"J        {scores.j:.4f}")
    print(f"F        {scores.f:.4f}")
    print(f"J&F      {scores.j_and_f:.4f}")
    print(f"coverage {scores.coverage:.4f}   ({len(scores.expressions)} expressions)")
    if scores.coverage < 1:
        missing = [e for e in scores.expressions if e.found < e.frames]
        print(f"{len(missing)} expressions lack pictures; missing ones score 0.")
    lowest = sorted(scores.expressions, key=lambda e: e.j + e.f)[: max(args.worst, 0)]
    if lowest:
        print("lowest:")
    for entry in lowest:
        print(f"  {entry.video}/{entry.exp_id}  J {entry.j:.3f}  F {entry.f:.3f}")
    return 0
