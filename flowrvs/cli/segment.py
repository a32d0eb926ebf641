"""``flowrvs segment``: from sentences to masks in a project."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flowrvs.store import ObjectRecord, Project
    from flowrvs.video import Video

from flowrvs.cli._model import (
    add_cluster_arguments,
    add_model_arguments,
    add_request_arguments,
    load_model,
    request_options,
)

HELP = "Find what sentences describe in a video; run again to go on after a stop."

_READ = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument("video", metavar="VIDEO", help="a video file, image folder, zarr or TIFF")
    parser.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        action="append",
        required=True,
        metavar="TEXT",
        help="a sentence; may be given several times",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PROJECT",
        help="the project's folder, new or to go on with (<video>.flowrvs, here)",
    )
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (0)")
    parser.add_argument(
        "--stop", type=int, metavar="N", help="one past the last frame (the video's end)"
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


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    import flowrvs
    from flowrvs.cli._progress import cancel_on_interrupt, progress_line
    from flowrvs.errors import Cancelled, InputError, MissingPathError
    from flowrvs.inference import make_plan, segment_into
    from flowrvs.records import SegmentRequest
    from flowrvs.store import Project

    if args.overlay is not None:
        if not args.overlay.absolute().parent.is_dir():
            raise MissingPathError(f"The folder of {args.overlay} does not exist; make it first.")
        if args.overlay.is_dir() or args.overlay.suffix.lower() != ".mp4":
            raise InputError(f"--overlay writes a video file: {args.overlay} must be named *.mp4.")
    # What stands in for damaged frames is said once, at the end.
    warnings.filterwarnings("ignore", message=r"Frame \d+ of .* is damaged")
    with (
        flowrvs.open_video(args.video, damaged=args.damaged) as video,
        cancel_on_interrupt() as cancel,
    ):
        # What can be refused without the model is refused before it is loaded.
        request = SegmentRequest.of(
            args.prompts,
            start=args.start,
            stop=args.stop,
            keep_confidence=args.confidence,
            **request_options(args),
        )
        frames = request.frames(len(video))
        path = _project_path(args)
        project = Project.open(path) if path.exists() else None
        try:
            if project is not None:
                project.check_video(video.info)
            segmenter = load_model(args, cancel)
            make_plan(len(video), request, segmenter)  # refused before a project is made
            if project is None:
                project = Project.create(path, video.info)
            prompts = {text: project.add_prompt(text) for text in request.texts}
            computed = 0
            try:
                with progress_line() as progress:
                    for part in segment_into(
                        project,
                        video,
                        request,
                        segmenter,
                        resume=not args.again,
                        cancel=cancel,
                        progress=progress,
                    ):
                        computed += part.complete
            except Cancelled as error:
                raise Cancelled(
                    f"Stopped on request; {project.path} keeps what is finished, and the same "
                    "command goes on from there."
                ) from error
            rows = [
                {
                    "exp_id": expression.exp_id,
                    "text": text,
                    "object_id": drawn.id,
                    "layer": drawn.layer,
                    "frames_with_mask": int(
                        project.present(drawn.id)[frames.start : frames.stop].sum()
                    ),
                }
                for text, (expression, drawn) in prompts.items()
            ]
            if args.overlay is not None:
                cancel.raise_if_cancelled()
                objects = [drawn for _, drawn in prompts.values()]
                _write_overlay(args.overlay, project, video, objects, frames)
        finally:
            if project is not None:
                project.close()
        damaged = sorted(video.damaged_frames)
    if args.json:
        result = {
            "project": str(project.path),
            "video": video.info.path,
            "model": segmenter.name,
            "frames": [frames.start, frames.stop],
            "computed": computed,
            "damaged_frames": damaged,
            "overlay": None if args.overlay is None else str(args.overlay),
            "expressions": rows,
        }
        print(json.dumps(result, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['frames_with_mask']:6d} of {len(frames)} frames  {row['text']!r}")
    if not computed:
        print("Everything was finished before; --again computes it anew.")
    if damaged:
        where = f"{len(damaged)} of the frames {damaged[0]} to {damaged[-1]}"
        print(f"{where} are damaged; the last good ones stood in.")
    print(f"Project: {project.path}")
    if args.overlay is not None:
        print(f"Overlay: {args.overlay}")


def _project_path(args: argparse.Namespace) -> Path:
    from flowrvs.errors import InputError
    from flowrvs.store import SUFFIX

    path: Path | None = args.out
    if path is None:
        video = Path(args.video).resolve()
        plain = video.is_dir() and video.suffix != ".zarr"  # a folder's dots are its name
        path = Path((video.name if plain else video.stem) + SUFFIX)
    if path.name in ("", ".."):
        raise InputError(f"{path} is no name for a project; give one, such as my{SUFFIX}.")
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)


def _write_overlay(
    path: Path, project: Project, video: Video, objects: list[ObjectRecord], frames: range
) -> None:
    import numpy as np

    from flowrvs.video.encode import write_overlay

    blocks = [(t, min(t + _READ, frames.stop)) for t in range(frames.start, frames.stop, _READ)]

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        for start, stop in blocks:
            yield from video.read(start, stop)

    def labels() -> Iterator[npt.NDArray[np.uint16]]:
        for start, stop in blocks:
            block = np.zeros((stop - start, video.info.height, video.info.width), np.uint16)
            for drawn in objects:
                block[project.object_mask(drawn.id, start, stop)] = drawn.id
            yield from block

    colors = {drawn.id: drawn.color for drawn in objects}
    write_overlay(path, pictures(), labels(), rate=video.info.rate, colors=colors)
