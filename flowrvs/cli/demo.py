"""``flowrvs demo``: the bundled model on the bundled clip."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flowrvs.cli._progress import cancel_on_interrupt, progress_line

HELP = "Run the bundled model on the bundled clip: project, pictures, split, scores."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="new or empty folder, or that of an earlier demo (demo-out)",
    )
    parser.add_argument(
        "--model",
        default="tiny",
        metavar="NAME|DIR",
        help="the model: a name, or a folder in the diffusers layout (tiny)",
    )
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="Euler steps (1)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda (auto)")


def run(args: argparse.Namespace) -> None:
    """Run the demo and print the scores."""
    import flowrvs
    from flowrvs.demo import check_folder, run_demo
    from flowrvs.errors import InputError

    if not 1 <= args.steps <= 1000:
        raise InputError(f"{args.steps} steps are impossible; use 1 to 1000.")
    check_folder(args.out)
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        segmenter = flowrvs.load(args.model, device=args.device)
        result = run_demo(args.out, segmenter, steps=args.steps, progress=progress, cancel=cancel)
    if args.json:
        print(json.dumps(result.to_dict()))
        return
    for score in result.scores.expressions:
        print(f"J {score.j:.3f}  F {score.f:.3f}  {result.sentences[score.exp_id]!r}")
    scores = result.scores
    print(f"J {scores.j:.3f}  F {scores.f:.3f}  J&F {scores.j_and_f:.3f}  over all sentences")
    print(f"The model took {result.seconds:.1f} s. Look at:")
    for name, path in result.files.items():
        print(f"  {name + ':':14} {path}")
