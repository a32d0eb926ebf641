"""Running a model into a project: every finished window is safe and never computed again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from flowrvs.inference.run import Plan, make_plan, run_plan
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import Segmenter, SegmentRequest, WindowMasks
from flowrvs.store import ObjectRecord, Project

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["segment_into"]


def segment_into(
    project: Project,
    video: Video,
    texts: SegmentRequest | str | Sequence[str],
    segmenter: Segmenter,
    *,
    resume: bool = True,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Generator[WindowMasks, None, None]:
    """Find what sentences describe and draw it into a project.

    Each sentence becomes a prompt of the project (`Project.add_prompt`) before anything is
    computed. Frames that a person has touched are left as they are. A window counts as
    finished once its masks are safe on the disk; a run that was cancelled or killed goes on
    from there, and gives the masks that it would have given without the interruption.

    Parameters
    ----------
    project : Project
        Open for writing, of this video.
    video, texts, segmenter, cancel, progress, **options
        As for `segment`; ``keep_confidence`` keeps it in the project.
    resume : bool
        False computes finished windows again.

    Yields
    ------
    WindowMasks
        After its masks were written (a window's masks come in pieces, see `segment`);
        nothing for windows that were finished before. Masks
        are the model's, also where the project keeps a person's.

    Raises
    ------
    ProjectError
        The project is another video's, or not open for writing.
    StorageError
        The disk is full or failing; finished windows are kept.
    InputError, Cancelled, DeviceMemoryError
        As for `segment`.
    """
    project.check_video(video.info)
    plan = make_plan(len(video), SegmentRequest.of(texts, **options), segmenter)
    objects: dict[int, ObjectRecord] = {}
    for i, text in enumerate(plan.request.texts):
        drawn = project.add_prompt(text)[1]
        if all(drawn.id != other.id for other in objects.values()):
            objects[i] = drawn
    return _run(project, video, plan, segmenter, objects, resume, cancel, progress)


def _run(
    project: Project,
    video: Video,
    plan: Plan,
    segmenter: Segmenter,
    objects: dict[int, ObjectRecord],
    resume: bool,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> Generator[WindowMasks, None, None]:
    """Compute and write; a run of the project begins and ends in here, iterated or not."""
    runs: dict[int, str] = {}
    done: dict[int, frozenset[int]] = {}
    try:
        for i, drawn in objects.items():
            key = _key(plan, plan.request.texts[i], segmenter)
            run = project.begin_run(key, drawn.id, resume=resume)
            runs[i], done[i] = run.id, run.done
        parts = run_plan(video, plan, segmenter, done, cancel=cancel, progress=progress)
        with closing(parts):
            for part in parts:
                drawn = objects[part.expression]
                written = project.write_model(
                    drawn.layer, drawn.id, part.start, part.masks, part.confidence
                )
                if part.disagreement is not None:
                    project.keep_disagreement(drawn.id, part.start, part.disagreement, written)
                if part.complete:
                    project.mark_window_done(runs[part.expression], part.window.index)
                yield part
    finally:
        for drawn in objects.values():
            project.end_run(drawn.id)


def _key(plan: Plan, text: str, segmenter: Segmenter) -> dict[str, object]:
    return {
        "text": text,
        "model": segmenter.name,
        "weights": getattr(segmenter, "weights", ""),
        "steps": plan.request.steps,
        "threshold": plan.request.threshold,
        "window": plan.window_size,
        "overlap": plan.overlap,
        "range": [plan.start, plan.stop],
    }
