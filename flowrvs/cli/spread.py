"""``flowrvs spread``: what a person drew on some frames, carried to the others."""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections import defaultdict
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.cli._model import (
    add_cluster_arguments,
    add_tracker_arguments,
    load_tracker,
    notice,
    open_scheduler,
    tell_notices,
)

if TYPE_CHECKING:
    from flowrvs.editing import PreviewGroup
    from flowrvs.editing.pieces import Method, PieceRunner
    from flowrvs.progress import CancelToken, ProgressCallback
    from flowrvs.store import Project

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
    add_cluster_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    import flowrvs
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.editing import spread_together
    from flowrvs.errors import Cancelled, FlowRVSError, InputError, MissingPathError
    from flowrvs.store import Project, Provenance

    named = args.tracker not in (None, "classical")
    method: Method = args.method or ("memory" if named else "flow")
    if named and method != "memory":
        raise InputError(f"--with {args.tracker} is for --method memory, not for {method}.")
    if method == "memory" and args.tracker == "classical":
        raise InputError("'classical' has no memory; give --method flow, or a tracker --with.")
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("always", module=r"flowrvs\.")
        warnings.showwarning = lambda text, *_, **__: notice(str(text))
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
        runner = _runner(args, method, cancel)
        group = spread_together(
            project,
            video,
            ids,
            keys=None if args.keys is None else dict.fromkeys(ids, args.keys),
            start=args.start,
            stop=args.stop,
            method=method,
            runner=runner,
            resume=not args.again,
        )
        counts = dict.fromkeys(group.previews, 0)
        progress = stack.enter_context(progress_line())
        failure: FlowRVSError | None = None
        try:
            _write(group, project, counts, cancel, progress)
        except Cancelled:
            failure = Cancelled(
                f"Stopped on request; {project.path} keeps {sum(counts.values())} frames"
                + (", and the same command goes on." if method == "memory" else ".")
            )
        except FlowRVSError as error:
            failure = error  # what was carried is kept, and told
        rows = [
            {
                "object_id": i,
                "name": project.objects[i].name,
                "frames": counts[i],
                "lost": preview.lost_text,
            }
            for i, preview in group.previews.items()
        ]
        args.result["notices"] = tell_notices(project)
    name = runner.name or None
    args.result |= {"project": str(args.project), "method": method, "with": name, "objects": rows}
    if not args.json and (failure is None or any(counts.values())):
        for row in rows:
            lost = f", {row['lost']}" if row["lost"] else ""
            print(f"Object {row['object_id']}, {row['name']!r}: {row['frames']} frames{lost}")
    if failure is not None:
        raise failure
    if args.json:
        print(json.dumps(args.result, ensure_ascii=False))


def _runner(args: argparse.Namespace, method: str, cancel: CancelToken) -> PieceRunner:
    """Return what computes: this process, or a cluster."""
    memory = method == "memory"
    if args.scheduler is None:
        from flowrvs.editing.pieces import Here

        return Here(tracker=load_tracker(args) if memory else None)
    from flowrvs.inference.cluster import SpreadCluster

    options = {"device": args.device, "precision": args.precision} if memory else {}
    return SpreadCluster(
        open_scheduler(args),
        args.tracker or "" if memory else None,
        notice=notice,
        cancel=cancel,
        **options,
    )


def _write(
    group: PreviewGroup,
    project: Project,
    counts: dict[int, int],
    cancel: CancelToken,
    progress: ProgressCallback,
) -> None:
    """Compute and write, some frames at a time: what was written is safe whatever happens."""
    ready: dict[int, list[int]] = defaultdict(list)

    def write() -> None:
        for object_id, frames in sorted(ready.items()):
            counts[object_id] += len(group.previews[object_id].accept(frames))
        ready.clear()
        if group.memory is not None:
            group.memory.save()

    with closing(group.run(cancel, progress)) as parts:
        first = list(itertools.islice(parts, 1))  # from now on it is known who it is
        with project.edit(group.name, "human", group.who, on_error="keep"):
            try:
                for object_id, found in itertools.chain(first, parts):
                    if found.final:
                        ready[object_id].append(found.frame)
                    if len(ready[object_id]) >= _TOGETHER:
                        write()
            finally:
                write()
