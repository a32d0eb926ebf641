"""``flowrvs predict``: masks for every sentence of a split."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from flowrvs.cli._model import (
    add_cluster_arguments,
    add_model_arguments,
    add_request_arguments,
    load_model,
    request_options,
)
from flowrvs.errors import counted

HELP = "Predict every sentence of a split; run again to go on after a stop."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("split", metavar="SPLIT_DIR", help="folder with meta_expressions.json")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="gets <video>/<exp_id>/<frame>.png"
    )
    add_request_arguments(parser)
    add_model_arguments(parser)
    add_cluster_arguments(parser)
    parser.add_argument("--videos", nargs="+", metavar="NAME", help="these videos alone")
    parser.add_argument(
        "--zip",
        nargs="?",
        const="mevis",
        choices=("mevis", "ytvos"),
        metavar="LAYOUT",
        help="write DIR.zip for a submission as well: mevis (default) or ytvos",
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.mevis import MevisSplit
    from flowrvs.errors import InputError
    from flowrvs.evaluation import predict_split, zip_predictions
    from flowrvs.records import SegmentRequest

    if args.overlap is not None and not isinstance(args.window, int):
        raise InputError("--overlap needs a --window of some frames.")
    options = request_options(args)
    SegmentRequest.of("any sentence", **options)  # refused before a model is loaded
    # The split is read before the model, which takes longer to load.
    split = MevisSplit.open(args.split)
    out, home = Path(args.out).resolve(), split.folder.resolve()
    if out == home or any(out.is_relative_to(home / n) for n in ("JPEGImages", "Annotations")):
        raise InputError(f"{args.out} holds the split itself; choose another folder (--out).")
    failed: dict[str, str] = {}
    args.result |= {"out": str(args.out), "failed": failed}
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        segmenter = load_model(args, cancel)
        result = predict_split(
            split,
            args.out,
            segmenter,
            videos=args.videos,
            failed=lambda name, error: failed.update({name: str(error)}),
            cancel=cancel,
            progress=progress,
            **options,
        )
        args.result |= {
            "out": str(result.out),
            "videos": result.videos,
            "expressions": result.expressions,
            "frames": result.frames,
            "skipped": result.skipped,
            "blank": list(result.blank),
            "zip": None,
        }
        if args.zip:
            archive = zip_predictions(
                split,
                args.out,
                videos=args.videos,
                layout=args.zip,
                cancel=cancel,
                progress=progress,
            )
            args.result["zip"] = str(archive)
    if result.blank:
        names = ", ".join(result.blank[:5]) + (", ..." if len(result.blank) > 5 else "")
        print(
            f"warning: {counted(len(result.blank), 'sentence')} without a word, predicted as "
            f"background: {names}",
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps(args.result))
        return 0
    already = f", {result.skipped} of them before" if result.skipped else ""
    print(
        f"{result.out}: {counted(result.videos, 'video')}, "
        f"{counted(result.expressions, 'sentence')}{already}"
    )
    if args.zip:
        print(f"{archive}: written and read back")
    return 0
