"""``flowrvs export``: projects to a dataset split."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json

HELP = "Export projects as a dataset split."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("projects", nargs="+", metavar="PROJECT", help="a .flowrvs folder")
    parser.add_argument("--to", required=True, metavar="DIR", help="the dataset's folder")
    parser.add_argument(
        "--format",
        default="mevis",
        choices=("mevis", "ytvos", "davis", "coco", "png"),
        help="what to write (mevis)",
    )
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="written to DIR/NAME (train)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a split that is there")
    parser.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="JPEG quality, 1 to 100 (95)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.export import export_projects
    from flowrvs.store import Project

    with contextlib.ExitStack() as stack:
        cancel = stack.enter_context(cancel_on_interrupt())
        progress = stack.enter_context(progress_line())
        projects = [
            stack.enter_context(Project.open(path, read_only=True)) for path in args.projects
        ]
        result = export_projects(
            projects,
            args.to,
            format=args.format,
            split=args.split,
            overwrite=args.overwrite,
            quality=args.quality,
            progress=progress,
            cancel=cancel,
        )
    if args.json:
        print(json.dumps({**dataclasses.asdict(result), "path": str(result.path)}))
        return 0
    counts = (
        (result.videos, "video"),
        (result.frames, "frame"),
        (result.expressions, "sentence"),
        (result.objects, "object"),
    )
    text = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
    print(f"{result.path}: {text} ({result.format})")
    for note in result.notes:
        print(f"note: {note}")
    return 0
