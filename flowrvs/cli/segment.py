"""``flowrvs segment``: from sentences to masks in a project, or in one project a video."""

from __future__ import annotations

import argparse
import csv
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flowrvs.inference.into import ProjectJob
    from flowrvs.progress import CancelToken
    from flowrvs.records import Segmenter, SegmentRequest
    from flowrvs.store import ObjectRecord, Project
    from flowrvs.video import Video

from flowrvs.cli._model import (
    add_cluster_arguments,
    add_model_arguments,
    add_request_arguments,
    load_model,
    request_options,
    tell_notices,
)
from flowrvs.errors import counted

HELP = "Find what sentences describe in videos; run again to go on after a stop."

_READ = 16
_LARGEST_CSV = 2**26


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "videos", nargs="*", metavar="VIDEO", help="a video file, image folder, zarr or TIFF"
    )
    parser.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        action="append",
        default=[],
        metavar="TEXT",
        help="a sentence for every VIDEO; may be given several times",
    )
    parser.add_argument(
        "--sentences",
        type=Path,
        metavar="FILE.csv",
        help="columns video and sentence, a row each; paths as seen from the file",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PROJECT",
        help="the project's folder, new or to go on with (<video>.flowrvs, here); of several "
        "videos, the folder for their projects",
    )
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (0)")
    parser.add_argument(
        "--stop", type=int, metavar="N", help="one past the last frame (the video's end)"
    )
    parser.add_argument(
        "--around", type=int, metavar="N", help="one window around this frame, for a first look"
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="every n-th frame alone (1)"
    )
    parser.add_argument(
        "--fill",
        action="store_true",
        help="after --every, fill in the frames between by the video's motion",
    )
    parser.add_argument(
        "--no-cuts",
        action="store_true",
        help="do not look for cuts; by default no window straddles one",
    )
    add_request_arguments(parser)
    parser.add_argument(
        "--overlay", type=Path, metavar="FILE.mp4", help="also write the video with its masks"
    )
    parser.add_argument(
        "--damaged",
        choices=("raise", "repeat"),
        default="raise",
        help="frames that cannot be decoded: stop (raise), or use the last good one (repeat)",
    )
    add_model_arguments(parser)
    add_cluster_arguments(parser)
    parser.add_argument(
        "--confidence", action="store_true", help="keep every pixel's confidence as well"
    )
    parser.add_argument(
        "--again", action="store_true", help="compute finished windows again (never over edits)"
    )


@dataclass
class _Wanted:
    """A video, what is asked about it, and what became of that."""

    video: str
    request: SegmentRequest
    path: Path
    computed: int = 0
    result: dict[str, Any] = field(default_factory=dict)


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    from flowrvs.cli._main import DONE, INPUT
    from flowrvs.cli._progress import cancel_on_interrupt
    from flowrvs.errors import InputError, MissingPathError

    if args.overlay is not None:
        if not args.overlay.absolute().parent.is_dir():
            raise MissingPathError(f"The folder of {args.overlay} does not exist; make it first.")
        if args.overlay.is_dir() or args.overlay.suffix.lower() != ".mp4":
            raise InputError(f"--overlay writes a video file: {args.overlay} must be named *.mp4.")
    if args.fill and args.every < 2:
        raise InputError("--fill needs --every 2 or more: the frames between are filled in.")
    if args.around is not None and (args.start or args.stop is not None or args.every != 1):
        raise InputError("--around says which frames; leave --start, --stop and --every out.")
    # What stands in for damaged frames is said once, at the end.
    warnings.filterwarnings("ignore", message=r"Frame \d+ of .* is damaged")
    wanted = _wanted(args)
    if len(wanted) > 1 and args.overlay is not None:
        raise InputError("--overlay is for one video; 'flowrvs export --format overlay' for more.")
    if args.overlay is not None and args.overlay.resolve() == Path(wanted[0].video).resolve():
        raise InputError(f"--overlay {args.overlay} is the video itself; name another file.")
    errors: dict[str, str] = {}
    try:
        with cancel_on_interrupt() as cancel:
            # What can be refused without the model is refused before it is loaded.
            _check_all(wanted, args, errors)
            segmenter = load_model(args, cancel)
            sound = [item for item in wanted if item.video not in errors]
            _segment(sound, segmenter, args, cancel, errors, several=len(wanted) > 1)
    finally:
        if len(wanted) > 1:
            _sum_up(wanted, args, errors)
    if len(wanted) == 1:
        args.result |= wanted[0].result
        if not args.json:
            _print(wanted[0], args)
    if args.json:
        print(json.dumps(args.result, ensure_ascii=False))
    return INPUT if errors else DONE


def _sum_up(wanted: list[_Wanted], args: argparse.Namespace, errors: dict[str, str]) -> None:
    """Say what became of several videos, also of a run that ended before its time."""
    done = [item for item in wanted if item.result]
    args.result |= {"projects": [item.result for item in done], "failed": errors}
    if args.json or not (done or errors):
        return
    windows = counted(sum(item.computed for item in done), "window")
    print(f"{len(done)} of {len(wanted)} videos finished, {windows} computed.")
    for video, error in errors.items():
        print(f"{video}: {error}")


def _wanted(args: argparse.Namespace) -> list[_Wanted]:
    """Return the videos with their sentences and projects."""
    from flowrvs.errors import InputError
    from flowrvs.records import SegmentRequest
    from flowrvs.store import SUFFIX

    texts: dict[str, list[str]] = {}
    named: dict[Path, str] = {}  # as it was first written: "a.mp4" and "./a.mp4" are one
    for video in args.videos:
        if named.setdefault(Path(video).resolve(), video) == video:
            texts[video] = list(args.prompts)
    if args.sentences is not None:
        for video, sentence in _read_sentences(args.sentences):
            known = named.setdefault(Path(video).resolve(), video)
            texts.setdefault(known, []).append(sentence)
    elif not args.videos:
        raise InputError("Give a VIDEO, or a file of them with --sentences.")
    wanted: list[_Wanted] = []
    for video, sentences in texts.items():
        if not sentences:
            raise InputError(f"There is no sentence for {video}; give one with -p.")
        request = SegmentRequest.of(
            sentences,
            start=args.start,
            stop=args.stop,
            keep_confidence=args.confidence,
            every=args.every,
            cuts=() if args.no_cuts else "find",
            **request_options(args),
        )
        place = Path(video).resolve()
        plain = place.is_dir() and place.suffix != ".zarr"  # a folder's dots are its name
        path = Path((place.name if plain else place.stem) + SUFFIX)
        if args.out is not None:
            path = args.out if len(texts) == 1 else args.out / path
        if path.name in ("", ".."):
            raise InputError(f"{path} is no name for a project; give one, such as my{SUFFIX}.")
        path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
        same = next((other.video for other in wanted if other.path == path), None)
        if same is not None:
            raise InputError(f"{same} and {video} would both become {path}; rename one.")
        wanted.append(_Wanted(video, request, path))
    return wanted


def _read_sentences(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the videos and sentences of a CSV file."""
    from flowrvs.disk import read_regular
    from flowrvs.errors import InputError, MissingPathError

    if not path.exists():
        raise MissingPathError(f"Nothing is at {path}; give a CSV file of sentences.")
    try:
        text = read_regular(path, _LARGEST_CSV).decode("utf-8-sig")
        if "\0" in text:
            raise csv.Error("it holds a zero byte")
        first = text.partition("\n")[0]
        separator = ";" if ";" in first and "," not in first else ","
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file in UTF-8: {error}.") from None
    if not {"video", "sentence"} <= set(reader.fieldnames):
        raise InputError(f"{path} needs a first row with the columns video and sentence.")
    if not rows:
        raise InputError(f"{path} has no row below the names of its columns.")
    for line, row in enumerate(rows, 2):
        if None in row:
            raise InputError(
                f"Row {line} of {path} has more cells than the first row; put a sentence with "
                f"{separator!r} in it into quotation marks."
            )
        video, sentence = (row["video"] or "").strip(), (row["sentence"] or "").strip()
        if not video or not sentence:
            raise InputError(f"Row {line} of {path} lacks its video or its sentence.")
        yield str(path.parent / video), sentence


def _check_all(wanted: list[_Wanted], args: argparse.Namespace, errors: dict[str, str]) -> None:
    """Note why some of several videos cannot be segmented; raise it where none can."""
    from flowrvs.errors import FlowRVSError

    for item in wanted:
        try:
            _check(item, args)
        except FlowRVSError as error:
            errors[item.video] = str(error)
            if len(errors) == len(wanted):
                raise


def _check(item: _Wanted, args: argparse.Namespace) -> None:
    import flowrvs
    from flowrvs.errors import InputError
    from flowrvs.store import Project

    with flowrvs.open_video(item.video, damaged=args.damaged) as video:
        item.request.frames(len(video))
        if args.around is not None and not 0 <= args.around < len(video):
            raise InputError(f"{item.video} has no frame {args.around}, but 0 to {len(video) - 1}.")
        if item.path.exists():
            with Project.open(item.path) as project:
                project.check_video(video.info)


def _segment(
    wanted: list[_Wanted],
    segmenter: Segmenter,
    args: argparse.Namespace,
    cancel: CancelToken,
    errors: dict[str, str],
    *,
    several: bool,
) -> None:
    """Segment all videos; note why some of several failed."""
    from flowrvs.cli._progress import progress_line
    from flowrvs.errors import Cancelled, FlowRVSError
    from flowrvs.inference.into import segment_projects
    from flowrvs.records import WindowMasks

    open_: dict[ProjectJob, tuple[_Wanted, ExitStack]] = {}

    def failed(item: _Wanted, error: FlowRVSError) -> None:
        if not several or isinstance(error, Cancelled):
            raise error
        item.result = {}
        errors[item.video] = str(error)

    def jobs() -> Iterator[ProjectJob]:
        for item in wanted:
            try:
                with ExitStack() as stack:
                    job = _open(item, segmenter, args, stack, several=several)
                    open_[job] = item, stack.pop_all()
            except FlowRVSError as error:
                failed(item, error)
                continue
            yield job

    try:
        with progress_line() as progress:
            for job, what in segment_projects(
                jobs(), segmenter, resume=not args.again, cancel=cancel, progress=progress
            ):
                item, stack = open_[job]
                if isinstance(what, WindowMasks):
                    item.computed += what.complete
                    continue
                del open_[job]
                try:
                    with stack:
                        if isinstance(what, FlowRVSError):
                            raise what
                        _finish(item, job, segmenter, args, cancel)
                except FlowRVSError as error:
                    failed(item, error)
                    continue
                if several and not args.json:
                    _print_short(item)
    except Cancelled as error:
        kept = "what is finished is kept" if several else f"{wanted[0].path} keeps what is finished"
        raise Cancelled(
            f"Stopped on request; {kept}, and the same command goes on from there."
        ) from error
    finally:
        with ExitStack() as rest:
            for _, stack in open_.values():
                rest.enter_context(stack)


def _open(
    item: _Wanted,
    segmenter: Segmenter,
    args: argparse.Namespace,
    stack: ExitStack,
    *,
    several: bool,
) -> ProjectJob:
    import flowrvs
    from flowrvs.inference import make_plan
    from flowrvs.inference.into import ProjectJob
    from flowrvs.inference.windows import window_around
    from flowrvs.store import Project

    video = stack.enter_context(flowrvs.open_video(item.video, damaged=args.damaged))
    if args.around is not None:
        size = args.window if isinstance(args.window, int) else segmenter.window_size
        start, stop = window_around(len(video), args.around, size)
        item.request = replace(item.request, start=start, stop=stop)
    make_plan(len(video), replace(item.request, cuts=()), segmenter)  # before a project is made
    if item.path.exists():
        project = Project.open(item.path)
    else:
        item.path.parent.mkdir(parents=True, exist_ok=True)
        project = Project.create(item.path, video.info)
    stack.callback(project.close)
    name = item.path.stem if several else ""
    return ProjectJob(project, video, item.request, name)


def _finish(
    item: _Wanted,
    job: ProjectJob,
    segmenter: Segmenter,
    args: argparse.Namespace,
    cancel: CancelToken,
) -> None:
    """Fill in, sum up and draw what was found in a video."""
    project, video = job.project, job.video
    frames = item.request.frames(len(video))
    prompts = {text: project.add_prompt(text) for text in item.request.texts}
    made = {text: _made(project, text, drawn) for text, (_, drawn) in prompts.items()}
    objects = [drawn for found in made.values() for drawn in found]
    if args.fill:
        _fill(project, video, objects, frames, cancel)
        frames = range(frames.start, frames[-1] + 1)
    rows = [
        {
            "exp_id": expression.exp_id,
            "text": text,
            "object_id": drawn.id,
            "object_ids": [found.id for found in made[text]],
            "layer": drawn.layer,
            "frames_with_mask": _count_shown(project, made[text], frames),
        }
        for text, (expression, drawn) in prompts.items()
    ]
    if args.overlay is not None:
        cancel.raise_if_cancelled()
        _write_overlay(args.overlay, project, video, objects, frames)
    item.result = {
        "project": str(project.path),
        "video": video.info.path,
        "model": segmenter.name,
        "frames": [frames.start, frames[-1] + 1],
        "every": frames.step,
        "computed": item.computed,
        "damaged_frames": sorted(video.damaged_frames),
        "overlay": None if args.overlay is None else str(args.overlay),
        "expressions": rows,
        "notices": tell_notices(project),
    }


def _made(project: Project, text: str, drawn: ObjectRecord) -> list[ObjectRecord]:
    """Return what a model drew of a sentence: its object, or one of each instance."""
    instances = {
        run.object_id
        for run in project.runs.values()
        if run.key.get("text") == text and "instance" in run.key
    }
    return [project.objects[i] for i in sorted({drawn.id, *instances} & set(project.objects))]


def _count_shown(project: Project, objects: list[ObjectRecord], frames: range) -> int:
    """Return on how many frames one of some objects is."""
    shown = [project.present(drawn.id) for drawn in objects]
    return sum(any(part[t] for part in shown) for t in frames)


def _fill(
    project: Project,
    video: Video,
    objects: list[ObjectRecord],
    frames: range,
    cancel: CancelToken,
) -> None:
    """Fill in between the frames that the model drew; it is one step of the undo history each."""
    from flowrvs.cli._progress import progress_line
    from flowrvs.editing import spread
    from flowrvs.editing.spreading import Flows
    from flowrvs.errors import VideoError

    flows = Flows(video)
    unreadable: VideoError | None = None
    for drawn in objects:
        present = project.present(drawn.id)
        keys = [t for t in frames if present[t]]
        if not keys:
            continue
        preview = spread(
            project,
            video,
            drawn.id,
            keys=keys,
            start=frames.start,
            stop=frames[-1] + 1,
            flows=flows,
        )
        # Beyond a frame where the model saw nothing, nothing is filled in.
        seen = set(keys)
        between = {
            t
            for a, b in zip(frames[:-1], frames[1:], strict=True)
            if a in seen and b in seen
            for t in range(a + 1, b)
        }
        known: set[int] = set()
        try:
            with progress_line() as progress, closing(preview.run(cancel, progress)) as parts:
                known.update(found.frame for found in parts if found.final)
        except VideoError as error:  # the other gaps are filled in all the same
            unreadable = unreadable or error
        finally:
            preview.accept(between & known)
    if unreadable is not None:
        raise unreadable


def _count(result: dict[str, Any]) -> int:
    first, stop = result["frames"]
    return len(range(first, stop, result["every"]))


def _print_short(item: _Wanted) -> None:
    result = item.result
    count = _count(result)
    found = sum(row["frames_with_mask"] > 0 for row in result["expressions"])
    of = len(result["expressions"])
    print(f"{item.path}: {counted(count, 'frame')}, {found} of {of} sentences seen")


def _print(item: _Wanted, args: argparse.Namespace) -> None:
    result = item.result
    count = _count(result)
    for row in result["expressions"]:
        print(f"{row['frames_with_mask']:6d} of {count} frames  {row['text']!r}")
    if not item.computed:
        print("Everything was finished before; --again computes it anew.")
    if damaged := result["damaged_frames"]:
        where = f"{len(damaged)} of the frames {damaged[0]} to {damaged[-1]}"
        print(f"{where} are damaged; the last good ones stood in.")
    print(f"Project: {result['project']}")
    if args.overlay is not None:
        print(f"Overlay: {args.overlay}")


def _write_overlay(
    path: Path, project: Project, video: Video, objects: list[ObjectRecord], frames: range
) -> None:
    import numpy as np

    from flowrvs.video.encode import write_overlay

    # Of every n-th frame, those alone.
    size = _READ if frames.step == 1 else 1
    stop = frames[-1] + 1
    blocks = [(t, min(t + size, stop)) for t in range(frames.start, stop, size * frames.step)]

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        for start, stop in blocks:
            yield from video.read(start, stop)

    def labels() -> Iterator[npt.NDArray[np.uint16]]:
        for start, stop in blocks:
            block = np.zeros((stop - start, video.info.height, video.info.width), np.uint16)
            for drawn in objects:
                block[project.object_mask(drawn.id, start, stop)] = drawn.id
            yield from block

    rate = None if video.info.rate is None else video.info.rate / frames.step
    colors = {drawn.id: drawn.color for drawn in objects}
    write_overlay(path, pictures(), labels(), rate=rate, colors=colors)
