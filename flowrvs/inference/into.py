"""Running a model into a project: every finished window is safe and never computed again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from flowrvs.inference.run import Plan, make_plan, run_plan
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import Segmenter, WindowMasks
from flowrvs.store import ObjectRecord, Project

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["segment_into"]


def segment_into(
    project: Project,
    video: Video,
    texts: Sequence[str],
    segmenter: Segmenter,
    *,
    start: int = 0,
    stop: int | None = None,
    steps: int = 1,
    window: int | None = None,
    overlap: int | None = None,
    threshold: float = 0.0,
    keep_confidence: bool = False,
    resume: bool = True,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
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
    video, texts, segmenter, start, stop, steps, window, overlap, threshold, cancel, progress
        As for `segment`.
    keep_confidence : bool
        Keep the confidence of every pixel in the project too.
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
    plan = make_plan(
        len(video),
        texts,
        segmenter,
        start=start,
        stop=stop,
        steps=steps,
        window=window,
        overlap=overlap,
        threshold=threshold,
    )
    runs: dict[int, tuple[ObjectRecord, str]] = {}
    done: dict[int, frozenset[int]] = {}
    for i, text in enumerate(plan.texts):
        _, one = project.add_prompt(text)
        if all(one.id != other.id for other, _ in runs.values()):
            run = project.begin_run(_key(plan, text, segmenter), one.id, resume=resume)
            runs[i] = (one, run.id)
            done[i] = run.done
    parts = run_plan(
        video,
        plan,
        segmenter,
        done,
        keep_confidence=keep_confidence,
        cancel=cancel,
        progress=progress,
    )
    return _write(project, parts, runs)


def _write(
    project: Project,
    parts: Generator[WindowMasks, None, None],
    runs: dict[int, tuple[ObjectRecord, str]],
) -> Generator[WindowMasks, None, None]:
    try:
        with closing(parts):
            for part in parts:
                one, run_id = runs[part.expression]
                written = project.write_model(
                    one.layer, one.id, part.start, part.masks, part.confidence
                )
                if part.disagreement is not None:
                    project.keep_disagreement(one.id, part.start, part.disagreement, written)
                if part.complete:
                    project.mark_window_done(run_id, part.window.index)
                yield part
    finally:
        for one, _ in runs.values():
            project.end_run(one.id)


def _key(plan: Plan, text: str, segmenter: Segmenter) -> dict[str, object]:
    return {
        "text": text,
        "model": segmenter.name,
        "weights": getattr(segmenter, "weights", ""),
        "steps": plan.steps,
        "threshold": plan.threshold,
        "window": plan.window_size,
        "overlap": plan.overlap,
        "range": [plan.start, plan.stop],
    }
