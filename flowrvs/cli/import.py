"""``flowrvs import``: a dataset's videos as projects."""

from __future__ import annotations

import argparse
import json

HELP = "Read videos of a dataset into projects, to be corrected and written back."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "split",
        metavar="SPLIT_DIR",
        help="MeViS, Ref-YouTube-VOS, Ref-DAVIS17, DAVIS, COCO-video or PNG; COCO's JSON file too",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--video", metavar="NAME", help="this video")
    which.add_argument("--all", action="store_true", help="every video, a project each")
    which.add_argument("--list", action="store_true", help="list the videos")
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
        videos = list_videos(args.split)
        if args.json:
            print(json.dumps({"videos": videos}))
        else:
            for name, count in videos.items():
                print(f"{name}  {count} sentence{'' if count == 1 else 's'}")
        return 0
    rows = []
    with cancel_on_interrupt() as cancel, progress_line() as progress:
        if args.all:
            paths = import_split(args.split, args.out, progress=progress, cancel=cancel)
            for path in paths:
                rows.append(str(path))
                if not args.json:
                    print(path)
        else:
            with import_video(
                args.split, args.video, args.out, progress=progress, cancel=cancel
            ) as project:
                rows.append(str(project.path))
                counts = len(project.objects), len(project.expressions), len(project.layers)
            if not args.json:
                words = zip(counts, ("object", "sentence", "layer"), strict=True)
                text = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in words)
                print(f"{rows[0]}: {text}")
    if args.json:
        print(json.dumps({"projects": rows}))
    return 0
