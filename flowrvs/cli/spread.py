"""``flowrvs spread``: what a person drew on some frames, carried to the others."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowrvs.editing import Preview, PreviewGroup, Spread
    from flowrvs.progress import CancelToken
    from flowrvs.records import Tracker
    from flowrvs.store import Project
    from flowrvs.video import Video

from flowrvs.cli._model import add_tracker_arguments, load_tracker

HELP = "Carry objects from the frames that a person drew to the others; run again to go on."

_TOGETHER = 16  # frames that are written at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("project", type=Path, metavar="PROJECT", help="a .flowrvs folder")
    parser.add_argument(
        "--object",
        dest="objects",
        type=int,
        action="append",
        metavar="ID",
        help="this object; may be given several times (all that a person drew)",
    )
    parser.add_argument(
        "--method",
        choices=("flow", "shape", "copy", "memory"),
        help="by the video's motion, the shapes alone, the nearest frame, or a tracker's memory "
        "(flow; memory where --with names a tracker)",
    )
    parser.add_argument(
        "--from",
        dest="keys",
        type=int,
        action="append",
        metavar="N",
        help="spread from this frame; may be given several times (all that a person drew)",
    )
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (0)")
    parser.add_argument(
        "--stop", type=int, metavar="N", help="one past the last frame (the video's end)"
    )
    parser.add_argument(
        "--again", action="store_true", help="memory: ask for frames that it has written, too"
    )
    parser.add_argument("--video", metavar="VIDEO", help="where the video is, if it has moved")
    add_tracker_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    import flowrvs
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.errors import Cancelled, InputError, MissingPathError
    from flowrvs.store import Project, Provenance

    named = args.tracker not in (None, "classical")
    method = args.method or ("memory" if named else "flow")
    if named and method != "memory":
        raise InputError(f"--with {args.tracker} is for --method memory, not for {method}.")
    if method == "memory" and args.tracker == "classical":
        raise InputError("'classical' has no memory; give --method flow, or a tracker --with.")
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        cancel = stack.enter_context(cancel_on_interrupt())
        project = stack.enter_context(Project.open(args.project))
        ids = args.objects or [
            i for i in project.objects if (project.provenance(i) >= Provenance.HUMAN).any()
        ]
        unknown = [i for i in ids if i not in project.objects]
        if unknown or not ids:
            what = f"no object {unknown[0]}" if unknown else "no object that a person drew"
            raise InputError(f"There is {what} in {project.path}.")
        video = None
        if method in ("flow", "memory"):
            path = args.video or project.find_video()
            if path is None:
                raise MissingPathError(
                    f"The video of {project.path} was not found; say where it is with --video."
                )
            video = stack.enter_context(flowrvs.open_video(path))
        tracker = load_tracker(args) if method == "memory" else None
        progress = stack.enter_context(progress_line())
        for preview in _previews(args, method, project, video, ids, tracker):
            counts = dict.fromkeys(getattr(preview, "previews", ()) or [preview.object_id], 0)
            rows += [{"object_id": i, "name": project.objects[i].name} for i in counts]
            try:
                _write(preview, project, counts, cancel, progress)
            except Cancelled as error:
                raise Cancelled(
                    f"Stopped on request; {project.path} keeps {sum(counts.values())} frames"
                    + (", and the same command goes on." if method == "memory" else ".")
                ) from error
            for row in rows[-len(counts) :]:
                row["frames"] = counts[row["object_id"]]
                one = getattr(preview, "previews", {}).get(row["object_id"], preview)
                row["lost"] = one.lost_text
    name = None if tracker is None else tracker.name
    if args.json:
        result = {"project": str(args.project), "method": method, "with": name, "objects": rows}
        print(json.dumps(result, ensure_ascii=False))
        return
    for row in rows:
        lost = f", {row['lost']}" if row["lost"] else ""
        print(f"Object {row['object_id']}, {row['name']!r}: {row['frames']} frames{lost}")


def _previews(
    args: argparse.Namespace,
    method: Any,
    project: Project,
    video: Video | None,
    ids: list[int],
    tracker: Tracker | None,
) -> Iterator[Any]:
    from flowrvs.editing import Flows, spread, spread_together

    where: dict[str, Any] = {"start": args.start, "stop": args.stop}
    if method == "memory":
        keys = None if args.keys is None else dict.fromkeys(ids, args.keys)
        resume = not args.again
        yield spread_together(project, video, ids, tracker, keys=keys, resume=resume, **where)
        return
    flows = Flows(video) if video is not None else None
    for i in ids:
        yield spread(project, video, i, keys=args.keys, method=method, flows=flows, **where)


def _write(
    preview: Preview | PreviewGroup,
    project: Project,
    counts: dict[int, int],
    cancel: CancelToken,
    progress: Any,
) -> None:
    """Compute and write, some frames at a time: what was written is safe whatever happens."""
    ready: list[int] = []

    def write() -> None:
        written = preview.accept(ready)
        by_object = written if isinstance(written, dict) else {next(iter(counts)): written}
        for object_id, frames in by_object.items():
            counts[object_id] += len(frames)
        ready.clear()

    parts: Any = preview.run(cancel, progress)
    with closing(parts):
        first = list(itertools.islice(parts, 1))  # from now on it is known who it is
        with project.edit(preview.name, "human", preview.who, on_error="keep"):
            try:
                for part in itertools.chain(first, parts):
                    found: Spread = part[1] if isinstance(part, tuple) else part
                    if found.final:
                        ready.append(found.frame)
                    if len(ready) >= _TOGETHER:
                        write()
            finally:
                write()
