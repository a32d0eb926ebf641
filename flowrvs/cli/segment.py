"""``flowrvs segment``: from sentences to masks in a project."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flowrvs.store import ObjectRecord, Project
    from flowrvs.video import Video

from flowrvs.cli._model import add_model_arguments, load_model

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
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="Euler steps (1)")
    parser.add_argument(
        "--window", type=int, metavar="N", help="frames the model sees at once (its own choice)"
    )
    parser.add_argument(
        "--overlap", type=int, metavar="N", help="frames that windows share (the model's choice)"
    )
    parser.add_argument(
        "--overlay", type=Path, metavar="FILE.mp4", help="also write the video with its masks"
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="a dask scheduler (not in this version)"
    )
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
    from flowrvs.inference import make_plan, plan_windows, segment_into
    from flowrvs.store import Project

    if args.scheduler is not None:
        raise InputError("--scheduler is not in this version; leave it out to compute here.")
    if args.overlay is not None:
        if not args.overlay.absolute().parent.is_dir():
            raise MissingPathError(f"The folder of {args.overlay} does not exist; make it first.")
        if args.overlay.is_dir() or args.overlay.suffix.lower() != ".mp4":
            raise InputError(f"--overlay writes a video file: {args.overlay} must be named *.mp4.")
    with flowrvs.open_video(args.video) as video, cancel_on_interrupt() as cancel:
        # What can be refused without the model is refused before it is loaded.
        if not all(text.strip() for text in args.prompts):
            raise InputError("A sentence is blank; describe what to find.")
        size = 1 if args.window is None else args.window
        overlap = 0 if args.window is None or args.overlap is None else args.overlap
        plan_windows(len(video), size, overlap, args.start, args.stop)
        path = _project_path(args)
        project = Project.open(path) if path.exists() else None
        try:
            if project is not None:
                project.check_video(video.info)
            segmenter = load_model(args)
            wanted: dict[str, Any] = {
                "start": args.start,
                "stop": args.stop,
                "steps": args.steps,
                "window": args.window,
                "overlap": args.overlap,
            }
            plan = make_plan(len(video), args.prompts, segmenter, **wanted)
            start, stop = plan.start, plan.stop
            if project is None:
                project = Project.create(path, video.info)
            computed = 0
            try:
                with progress_line() as progress:
                    for part in segment_into(
                        project,
                        video,
                        args.prompts,
                        segmenter,
                        **wanted,
                        keep_confidence=args.confidence,
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
            rows = _summary(project, args.prompts, start, stop)
            if args.overlay is not None:
                cancel.raise_if_cancelled()
                _write_overlay(args.overlay, project, video, args.prompts, start, stop)
        finally:
            if project is not None:
                project.close()
    if args.json:
        result = {
            "project": str(project.path),
            "video": video.info.path,
            "model": segmenter.name,
            "frames": [start, stop],
            "computed": computed,
            "overlay": None if args.overlay is None else str(args.overlay),
            "expressions": rows,
        }
        print(json.dumps(result, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['frames_with_mask']:6d} of {stop - start} frames  {row['text']!r}")
    if not computed:
        print("Everything was finished before; --again computes it anew.")
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
        path = Path(video.name if plain else video.stem)
    if path.name in ("", ".."):
        raise InputError(f"{path} is no name for a project; give one, such as my{SUFFIX}.")
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)


def _objects(project: Project, texts: list[str]) -> dict[str, tuple[str, ObjectRecord]]:
    """Return every sentence once, with its expression's id and its object."""
    rows = {}
    for text in texts:
        expression, one = project.add_prompt(text)
        rows[expression.text] = (expression.exp_id, one)
    return rows


def _summary(project: Project, texts: list[str], start: int, stop: int) -> list[dict[str, Any]]:
    rows = []
    for text, (exp_id, one) in _objects(project, texts).items():
        found = sum(
            int(project.object_mask(one.id, t, min(t + _READ, stop)).any(axis=(1, 2)).sum())
            for t in range(start, stop, _READ)
        )
        rows.append(
            {
                "exp_id": exp_id,
                "text": text,
                "object_id": one.id,
                "layer": one.layer,
                "frames_with_mask": found,
            }
        )
    return rows


def _write_overlay(
    path: Path, project: Project, video: Video, texts: list[str], start: int, stop: int
) -> None:
    import numpy as np

    from flowrvs.video.encode import write_overlay

    objects = [one for _, one in _objects(project, texts).values()]

    def frames() -> Iterator[npt.NDArray[np.uint8]]:
        for t in range(start, stop, _READ):
            yield from video.read(t, min(t + _READ, stop))

    def labels() -> Iterator[npt.NDArray[np.uint16]]:
        for t in range(start, stop, _READ):
            end = min(t + _READ, stop)
            block = np.zeros((end - t, video.info.height, video.info.width), np.uint16)
            for one in objects:
                block[project.object_mask(one.id, t, end)] = one.id
            yield from block

    colors = {one.id: one.color for one in objects}
    write_overlay(path, frames(), labels(), rate=video.info.rate, colors=colors)
