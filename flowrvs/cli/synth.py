"""``flowrvs synth``: a MeViS-style split of moving shapes."""

from __future__ import annotations

import argparse
import json

from flowrvs.errors import counted

HELP = "Write a MeViS-style split of moving shapes, for tests, training and trying out."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--videos", type=int, default=10, metavar="N", help="clips (10)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the split (0)")
    parser.add_argument("--frames", type=int, default=33, metavar="N", help="frames a clip (33)")
    parser.add_argument("--height", type=int, default=96, metavar="PX", help="picture height (96)")
    parser.add_argument("--width", type=int, default=160, metavar="PX", help="picture width (160)")
    parser.add_argument(
        "--expressions", type=int, default=8, metavar="N", help="sentences a clip, at most (8)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.synthetic import write_split

    kinds: dict[str, int] = {}
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        for clip in write_split(
            args.out,
            videos=args.videos,
            seed=args.seed,
            frames=args.frames,
            height=args.height,
            width=args.width,
            expressions=args.expressions,
            cancel=cancel,
            progress=progress,
        ):
            for expression in clip.expressions:
                kinds[expression.kind] = kinds.get(expression.kind, 0) + 1
    total = sum(kinds.values())
    if args.json:
        result = {"split": args.out, "videos": args.videos, "expressions": total, "kinds": kinds}
        print(json.dumps(result))
    else:
        parts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        videos, sentences = counted(args.videos, "video"), counted(total, "sentence")
        print(f"{videos}, {sentences} ({parts}) in {args.out}")
    return 0
