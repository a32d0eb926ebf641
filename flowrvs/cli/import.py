"""``flowrvs import``: a dataset's videos as projects."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flowrvs.errors import counted

HELP = "Read videos of a dataset into projects, to be corrected and written back."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "split",
        metavar="SPLIT_DIR",
        help="a split of MeViS, Ref-YouTube-VOS, DAVIS, YouTube-VOS, MOSE, LVOS, SA-V or PNG, a "
        "folder of labelme, or a JSON file of COCO",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--video", metavar="NAME", help="this video")
    which.add_argument(
        "--all",
        action="store_true",
        help="every video, a project each; run again to go on after a stop",
    )
    which.add_argument("--list", action="store_true", help="list the videos")
    parser.add_argument(
        "--frames",
        metavar="DIR",
        help="where the videos' folders of frames lie, when they are not where the format has them",
    )
    parser.add_argument(
        "--out",
        metavar="PROJECT",
        help="the project, with --all a folder for them (SPLIT_DIR.projects/NAME.flowrvs)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.data.importing import import_split, import_video, list_videos

    if args.list:
        videos = list_videos(args.split, pictures=args.frames)
        if args.json:
            print(json.dumps({"videos": videos}))
        else:
            for name, count in videos.items():
                print(f"{name}  {counted(count, 'sentence')}")
        return 0
    rows: list[str] = []
    args.result["projects"] = rows
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        if args.all:
            kept: list[Path] = []
            failed = args.result["failed"] = {}
            paths = import_split(
                args.split,
                args.out,
                pictures=args.frames,
                kept=kept.append,
                failed=lambda name, error: failed.update({name: str(error)}),
                progress=progress,
                cancel=cancel,
            )
            for path in paths:
                rows.append(str(path))
                if args.json:
                    continue
                if path in kept:
                    print(f"{path}: was there already, and stays as it is")
                else:
                    print(path)
                    _print_notes(path)
        else:
            with import_video(
                args.split,
                args.video,
                args.out,
                pictures=args.frames,
                progress=progress,
                cancel=cancel,
            ) as project:
                rows.append(str(project.path))
                counts = len(project.objects), len(project.expressions), len(project.layers)
            if not args.json:
                words = zip(counts, ("object", "sentence", "layer"), strict=True)
                text = ", ".join(counted(n, word) for n, word in words)
                print(f"{rows[0]}: {text}")
                _print_notes(project.path)
    if args.json:
        print(json.dumps(args.result))
    return 0


def _print_notes(project: Path) -> None:
    """Say what was not read as a person might think."""
    from flowrvs.data.origin import Origin

    origin = Origin.load(project)
    for note in origin.notes if origin else ():
        print(f"note: {note}")
