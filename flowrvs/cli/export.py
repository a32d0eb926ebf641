"""``flowrvs export``: projects to dataset splits, or back to where they came from."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.data.formats import FORMATS
from flowrvs.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowrvs.data.export import ExportResult
    from flowrvs.progress import CancelToken, ProgressCallback

HELP = "Export projects as a dataset split, or write corrections back to one."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("projects", nargs="+", metavar="PROJECT", help="a .flowrvs folder")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--to", metavar="DIR", help="the dataset's folder")
    place.add_argument(
        "--into",
        metavar="SPLIT_DIR",
        help="write imported projects back into the split that they come from",
    )
    parser.add_argument("--format", default="mevis", choices=FORMATS, help="what to write (mevis)")
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="written to DIR/NAME (train)"
    )
    parser.add_argument(
        "--assign",
        metavar="SHARES",
        help="several splits, by video: 0.8,0.1,0.1 for train,valid_u,test, or name=share,...",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the assignment (0)")
    parser.add_argument(
        "--name-as-sentence",
        action="store_true",
        help="an object that no sentence means gets its name as one",
    )
    parser.add_argument(
        "--annotated-only",
        action="store_true",
        help="leave out frames on which nobody has looked for every object",
    )
    parser.add_argument(
        "--append", action="store_true", help="add to the MeViS-style split DIR/NAME that is there"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a split that is there; with --into, win over other changes",
    )
    parser.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="JPEG quality, 1 to 100 (95)"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="every n-th frame alone, as 'segment --every' draws them (1)",
    )
    parser.add_argument(
        "--link", action="store_true", help="hard links of source frames that are JPEG files"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="threads that encode (one a core, at most 8)"
    )
    parser.add_argument(
        "--licence", default="", metavar="TEXT", help="of the data, for the datasheet"
    )
    parser.add_argument(
        "--date", default="", metavar="TEXT", help="for the datasheet; no clock is read"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line

    with contextlib.ExitStack() as stack:
        cancel = stack.enter_context(cancel_on_interrupt())
        progress = stack.enter_context(progress_line())
        if args.into is not None:
            return _write_back(args, progress, cancel)
        results = _export(args, progress, cancel)
    if args.json:
        rows = [{**dataclasses.asdict(r), "path": str(r.path)} for r in results]
        print(json.dumps({"splits": rows} if args.assign else rows[0]))
        return 0
    for result in results:
        counts = (
            (result.videos, "video"),
            (result.frames, "frame"),
            (result.expressions, "sentence"),
            (result.objects, "object"),
        )
        text = ", ".join(counted(count, word) for count, word in counts)
        print(f"{result.path}: {text} ({result.format})")
        for note in result.notes:
            print(f"note: {note}")
    return 0


def _export(
    args: argparse.Namespace, progress: ProgressCallback, cancel: CancelToken
) -> Sequence[ExportResult]:
    from flowrvs.data.export import append_projects, export_projects, export_splits
    from flowrvs.data.preview import parse_shares
    from flowrvs.errors import InputError

    if args.append:
        if args.assign or args.overwrite or args.format != "mevis":
            raise InputError(
                "--append adds to a MeViS-style split: leave out --assign, --overwrite, --format."
            )
        result = append_projects(
            args.projects,
            Path(args.to) / args.split,
            name_as_sentence=args.name_as_sentence,
            annotated_only=args.annotated_only,
            quality=args.quality,
            every=args.every,
            link=args.link,
            jobs=args.jobs,
            progress=progress,
            cancel=cancel,
        )
        return [result]
    options = {
        "format": args.format,
        "name_as_sentence": args.name_as_sentence,
        "annotated_only": args.annotated_only,
        "overwrite": args.overwrite,
        "quality": args.quality,
        "every": args.every,
        "link": args.link,
        "jobs": args.jobs,
        "licence": args.licence,
        "date": args.date,
        "progress": progress,
        "cancel": cancel,
    }
    if args.assign:
        shares = parse_shares(args.assign, args.format)
        return export_splits(args.projects, args.to, shares, seed=args.seed, **options)
    return [export_projects(args.projects, args.to, split=args.split, **options)]


def _write_back(args: argparse.Namespace, progress: ProgressCallback, cancel: CancelToken) -> int:
    from flowrvs.data.write_back import check_write_back, write_back
    from flowrvs.store import Project

    rows = args.result["videos"] = []
    # All are refused before the first is written.
    for path in args.projects:
        with Project.open(path, read_only=True) as project:
            check_write_back(project, args.into, overwrite=args.overwrite)
    for path in args.projects:
        with Project.open(path, read_only=True) as project:
            result = write_back(
                project, args.into, overwrite=args.overwrite, progress=progress, cancel=cancel
            )
        rows.append({**dataclasses.asdict(result), "path": str(result.path)})
        if not args.json:
            print(
                f"{result.path}: {result.video}: {counted(result.masks, 'mask')} and "
                f"{counted(result.sentences, 'sentence')} changed, "
                f"{counted(result.added, 'object')} added, {result.removed} removed"
            )
            for note in result.notes:
                print(f"note: {note}")
    if args.json:
        print(json.dumps(args.result))
    return 0
