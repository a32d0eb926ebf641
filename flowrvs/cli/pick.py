"""``flowrvs pick``: an object on a frame from points, boxes and scribbles."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrvs.cli._model import add_tracker_arguments, load_tracker, tell_notices

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flowrvs.masks.pick import Mark
    from flowrvs.store import ObjectRecord, Project
    from flowrvs.video import Video

HELP = "Pick an object on a frame by points, a box, scribbles or corners; needs no model."

_NUMBER = r"[-+]?\d+(?:\.\d*)?"


class _AddMark(argparse.Action):
    """Collect marks of all kinds in the order in which they are typed."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        kind, _, negative = str(self.const).partition(" ")
        namespace.marks = [*(namespace.marks or ()), (kind, values, not negative)]


def _numbers(text: str) -> tuple[float, ...]:
    if not re.fullmatch(rf"\s*{_NUMBER}(?:[\s,;]+{_NUMBER})*\s*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 120,80")
    return tuple(float(n) for n in re.findall(_NUMBER, text))


def _pairs(text: str) -> tuple[tuple[float, float], ...]:
    values = _numbers(text)
    if len(values) % 2:
        raise argparse.ArgumentTypeError(f"{text!r} has an odd number of coordinates; use X,Y")
    return tuple(zip(values[::2], values[1::2], strict=True))


def _point(text: str) -> tuple[tuple[float, float], ...]:
    points = _pairs(text)
    if len(points) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one point X,Y")
    return points


def _box(text: str) -> tuple[tuple[float, float], ...]:
    points = _pairs(text)
    if len(points) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a box X0,Y0,X1,Y1")
    return points


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("source", metavar="VIDEO|PROJECT", help="a video, or a .flowrvs folder")
    parser.add_argument("--frame", type=int, required=True, metavar="N", help="where to pick")
    marks = parser.add_argument_group("marks, in pixels of the video; each may be repeated")
    for name, kind, read, metavar, text in (
        ("--point", "point", _point, "X,Y", "this is the object"),
        ("--not", "point not", _point, "X,Y", "this is not"),
        ("--box", "box", _box, "X0,Y0,X1,Y1", "the object is in this box; the last one counts"),
        ("--scribble", "scribble", _pairs, "'X,Y X,Y ...'", "a stroke over the object"),
        ("--not-scribble", "scribble not", _pairs, "'X,Y X,Y ...'", "a stroke over the rest"),
    ):
        marks.add_argument(
            name, action=_AddMark, const=kind, dest="marks", type=read, metavar=metavar, help=text
        )
    marks.add_argument(
        "--scissors",
        action="append",
        nargs="+",
        type=_pairs,
        metavar="X,Y",
        help="corners of a polygon whose sides snap to edges, three or more; other marks mend it",
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--object", type=int, metavar="ID", help="mend or draw this object")
    whose.add_argument(
        "--sentence", metavar="TEXT", help="the object of this sentence, which may be new"
    )
    parser.add_argument("--name", metavar="TEXT", help="name of a new object")
    parser.add_argument(
        "--rule",
        default="replace",
        choices=("replace", "union", "subtract"),
        help="what becomes of the object's mask on the frame (replace)",
    )
    parser.add_argument("--inside-box", action="store_true", help="never leave the box")
    parser.add_argument(
        "--out", type=Path, metavar="PROJECT", help="the project (of the video's name, here)"
    )
    add_tracker_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    import flowrvs
    from flowrvs.editing.pick import keep_pick, open_picker
    from flowrvs.editing.trackers import Encodings
    from flowrvs.errors import InputError, MissingPathError
    from flowrvs.masks.pick import Mark
    from flowrvs.store import Project, Provenance

    marks = tuple(Mark(*mark) for mark in args.marks or ())
    corners = [corner for group in args.scissors or () for pairs in group for corner in pairs]
    known = args.object is not None or args.sentence is not None  # then "not this" mends
    if not corners and not any(mark.positive or known for mark in marks):
        raise InputError(
            "Say where the object is: --point X,Y, --box X0,Y0,X1,Y1, --scribble or --scissors."
        )
    if corners and len(corners) < 3:
        raise InputError(f"--scissors needs three corners or more, not {len(corners)}.")
    with ExitStack() as stack:
        project = _open_project(args)
        if project is not None:
            stack.callback(project.close)
        if project is not None and _is_project(args.source):
            path = project.find_video()
            if path is None:
                raise MissingPathError(
                    f"The video of {project.path} was not found, or is another one now; give the "
                    f"video and --out {project.path} instead."
                )
        else:
            path = args.source
        video = stack.enter_context(flowrvs.open_video(path))
        if not 0 <= args.frame < len(video):
            raise InputError(
                f"There is no frame {args.frame}; the video has frames 0 to {len(video) - 1}."
            )
        drawn: ObjectRecord | None = None
        if project is not None:
            project.check_video(video.info)
            drawn = _chosen(args, project, marks)
            if drawn is not None and project.provenance(drawn.id)[args.frame] == Provenance.LOCKED:
                raise InputError(
                    f"Frame {args.frame} of {drawn.name!r} is locked; unlock it to pick there."
                )
        elif args.object is not None:
            raise InputError(f"There is no object {args.object}: the project is new.")
        if args.rule != "replace" and drawn is None:
            raise InputError(f"--rule {args.rule} needs an object that exists; see --object.")
        cut = _cut(video, args.frame, corners) if corners else None
        tracker = load_tracker(args) if marks else None
        if cut is not None and not marks:
            mask = cut
        else:
            picker = open_picker(
                project,
                video,
                args.frame,
                drawn.id if drawn is not None and args.rule == "replace" else None,
                choose=args.sentence is not None and cut is None,
                inside_box=args.inside_box,
                start=cut,
                encodings=None if tracker is None else Encodings(tracker),
            )
            mask = picker.take(marks)
        if not mask.any():
            raise InputError("Nothing is left of the object with these marks; say less is not it.")
        # Nothing is made before everything is known to be right.
        if project is None:
            project = Project.create(_out(args, video), video.info)
            stack.callback(project.close)
        elif not project.writable:
            project = Project.open(project.copy_to(args.out))
            stack.callback(project.close)
        by = "" if tracker is None else f" with {tracker.name}"
        with project.edit(f"pick{by} on frame {args.frame}", kind="human"):
            if drawn is None:
                drawn = _new_object(args, project)
            tool = "" if tracker is None else tracker.name
            keep_pick(project, args.frame, mask, drawn.id, args.rule, tool=tool)
        made_by = "classical" if tracker is None else tracker.name
        _tell(args, project, drawn, len(marks) + len(corners), made_by)


def _cut(video: Video, t: int, corners: Sequence[tuple[float, float]]) -> npt.NDArray[np.bool_]:
    """Return what scissors cut out along corners."""
    from flowrvs.masks.scissors import Scissors

    scissors = Scissors(video.read(t, t + 1)[0])
    for x, y in corners:
        scissors.add(x, y)
    return scissors.mask


def _tell(
    args: argparse.Namespace, project: Project, drawn: ObjectRecord, marks: int, made_by: str
) -> None:
    import numpy as np

    notices = tell_notices(project)
    mask = project.object_mask(drawn.id, args.frame, args.frame + 1)[0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = None
    if len(rows):  # nothing may be left of it
        box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    if args.json:
        result = {
            "project": str(project.path),
            "video": project.video.path,
            "frame": args.frame,
            "object_id": drawn.id,
            "name": drawn.name,
            "layer": drawn.layer,
            "pixels": int(mask.sum()),
            "box": box,
            "marks": marks,
            "with": made_by,
            "notices": notices,
        }
        print(json.dumps(result, ensure_ascii=False))
        return
    print(f"Object {drawn.id}, {drawn.name!r}, frame {args.frame}: {int(mask.sum())} pixels")
    print(f"Project: {project.path}")


def _open_project(args: argparse.Namespace) -> Project | None:
    """Open the project to write into, or to copy; None for one that is still to be made."""
    from flowrvs.errors import InputError
    from flowrvs.store import SUFFIX, Project

    path = args.out if args.out is not None else _default_out(args.source)
    if path.suffix != SUFFIX:
        path = path.with_name(path.name + SUFFIX)
    if _is_project(args.source):
        source = Path(args.source)
        if args.out is None or path.absolute() == source.absolute():
            return Project.open(source)
        if path.exists():  # told before a model is loaded
            raise InputError(f"{path} already exists; choose another name.")
        return Project.open(source, read_only=True)
    return Project.open(path) if path.exists() else None


def _is_project(source: str) -> bool:
    from flowrvs.store import SUFFIX

    return Path(source).suffix == SUFFIX


def _default_out(source: str) -> Path:
    from flowrvs.store import SUFFIX

    video = Path(source).resolve()
    plain = video.is_dir() and video.suffix != ".zarr"  # a folder's dots are its name
    return Path((video.name if plain else video.stem) + SUFFIX)


def _out(args: argparse.Namespace, video: Video) -> Path:
    return args.out if args.out is not None else _default_out(args.source)


def _chosen(
    args: argparse.Namespace, project: Project, marks: Sequence[Mark]
) -> ObjectRecord | None:
    from flowrvs.editing.pick import find_object
    from flowrvs.errors import InputError

    if args.object is not None:
        if args.object not in project.objects:
            raise InputError(f"There is no object {args.object} in {project.path}.")
        return project.objects[args.object]
    if args.sentence is not None:
        return find_object(project, args.sentence, args.frame, tuple(marks))
    return None


def _new_object(args: argparse.Namespace, project: Project) -> ObjectRecord:
    if args.sentence is not None:
        return project.add_prompt(args.sentence)[1]
    name = args.name or f"object {project.next_label}"
    layers = project.layers
    layer = min(layers) if layers else project.add_layer("picked").id
    return project.add_object(name, layer)
