"""``flowrvs evaluate``: official J, F and J&F of predictions, and what explains them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "Score predicted masks against a split: J, F, J&F, coverage and more."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "predictions", metavar="PRED_DIR", help="folder or zip of <video>/<exp_id>/<frame>.png"
    )
    parser.add_argument("split", metavar="SPLIT_DIR", help="the split, with its masks")
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="list the N lowest (5)")
    parser.add_argument(
        "--html", metavar="FILE", help="write a report with plots and the worst frames"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes (as many as are of use)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.mevis import MevisSplit
    from flowrvs.errors import DatasetError, InputError, MissingPathError
    from flowrvs.evaluation import evaluate, format_scores, write_report

    report = None if args.html is None else Path(args.html)
    if report is not None and not report.absolute().parent.is_dir():
        raise MissingPathError(f"No folder {report.parent} for the report; create it first.")
    if report is not None and report.is_dir():
        raise InputError(f"--html {report} is a folder; name a file in it.")
    if args.worst < 0 or args.workers < 0:
        raise InputError("--worst and --workers must be 0 or more.")
    split = MevisSplit.open(args.split)

    def sentence(video: str, exp_id: str) -> str:
        return split.videos[video].expressions[exp_id].exp

    with cancel_on_interrupt() as cancel:
        with progress_line() as progress:
            scores = evaluate(
                args.predictions, split, workers=args.workers, cancel=cancel, progress=progress
            )
        if not scores.coverage and len(split):
            video, exp_id = next(iter(split))
            frame = next(iter(split.videos[video].frames), "00000")
            raise DatasetError(
                f"{args.predictions} holds no prediction of {args.split}, such as "
                f"{video}/{exp_id}/{frame}.png; run 'flowrvs predict' first, or give its --out."
            )
        args.result |= scores.to_dict()
        if not args.json:
            print(format_scores(scores, args.worst, sentence))
        if report is not None:  # which may fail; the scores are told by then
            write_report(report, scores, args.predictions, split, cancel=cancel)
    if args.json:
        print(json.dumps(args.result))
    elif report is not None:
        print(f"\nreport: {report}")
    return 0
