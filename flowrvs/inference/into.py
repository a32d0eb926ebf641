"""Running a model into projects: every finished window is safe and never computed again."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrvs.checkpoints.files import size_text
from flowrvs.disk import free_bytes
from flowrvs.errors import Cancelled, FlowRVSError, StorageError
from flowrvs.inference.instances import draw_on, segment_instances
from flowrvs.inference.run import Plan, VideoJob, make_plan, run_jobs, with_cuts
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import (
    InstanceSegmenter,
    Segmenter,
    SegmentRequest,
    WindowMasks,
    frame_range,
)
from flowrvs.store import ObjectRecord, Project

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["ProjectJob", "expected_bytes", "segment_into", "segment_projects"]

#: Room that a run leaves on the disk: stopping is better than a disk that others find full.
_RESERVE = 64 * 2**20
_SEARCHES = 16  # ranges whose cuts a project keeps
_LOOK = 64  # frames from one look at the disk to the next
#: Bytes a pixel that a frame's labels, and a sentence's confidence, take at most by experience.
_LABEL_BYTES, _CONFIDENCE_BYTES = 0.02, 0.4
_FRAME_BYTES = 6000  # a file's last block, and its row in the undo history


@dataclass(frozen=True, slots=True, eq=False)
class ProjectJob:
    """What is asked about one video, and where it is drawn.

    Attributes
    ----------
    project : Project
        Open for writing, of this video.
    video : Video
        Open as long as the job runs.
    request : SegmentRequest
    name : str
        What it is called in messages, where there are several.
    """

    project: Project
    video: Video
    request: SegmentRequest
    name: str = ""


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
        The disk is full or failing, or has no room for what is expected; finished windows
        are kept.
    InputError, Cancelled, DeviceMemoryError
        As for `segment`.
    """
    project.check_video(video.info)
    request = SegmentRequest.of(texts, **options)
    if isinstance(segmenter, InstanceSegmenter):
        return segment_instances(
            project, video, request, segmenter, resume=resume, cancel=cancel, progress=progress
        )
    drawing = _Drawing(ProjectJob(project, video, request), segmenter)
    drawing.prepare(cancel, progress)
    return _only_masks(_run([drawing], segmenter, resume, cancel, progress))


def segment_projects(
    jobs: Iterable[ProjectJob],
    segmenter: Segmenter,
    *,
    resume: bool = True,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Generator[tuple[ProjectJob, WindowMasks | FlowRVSError | None], None, None]:
    """Draw into several projects; one that fails, whatever the reason, does not stop the others.

    Parameters
    ----------
    jobs : iterable of ProjectJob
        Taken as they are needed: one at a time, or some ahead where a cluster computes.
    segmenter, resume, cancel, progress
        As for `segment_into`.

    Yields
    ------
    job : ProjectJob
    what : WindowMasks or FlowRVSError or None
        Masks that were written; None once the job is finished, or the error that ended it.
        Nothing comes of a job after that: it may be closed.
    """
    if isinstance(segmenter, InstanceSegmenter):
        return _instances(jobs, segmenter, resume, cancel, progress)
    drawings = (_Drawing(job, segmenter) for job in jobs)
    return _run(drawings, segmenter, resume, cancel, progress, stop_at_errors=False)


def expected_bytes(video: Video, request: SegmentRequest) -> int:
    """Return about how much disk the masks of a request will take, at most by experience."""
    _, height, width, _ = video.shape
    bytes_a_pixel = _LABEL_BYTES + (_CONFIDENCE_BYTES if request.keep_confidence else 0)
    masks = len(request.frames(len(video))) * len(request.texts)
    return int(masks * (height * width * bytes_a_pixel + _FRAME_BYTES))


def _with_cuts(
    project: Project,
    video: Video,
    request: SegmentRequest,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> SegmentRequest:
    """Return the request with the cuts of its video: a project keeps those that were found."""
    if request.cuts != "find":
        return request
    frames = frame_range(len(video), request.start, request.stop)
    kept = _kept_cuts(project.notes.get("cuts"), video)
    for searched, cuts in kept:
        if searched.start <= frames.start and frames.stop <= searched.stop:
            return replace(
                request, cuts=tuple(cut for cut in cuts if frames.start < cut < frames.stop)
            )
    request = with_cuts(request, video, cancel, progress)
    assert request.cuts != "find"
    kept = [(s, c) for s, c in kept if s.start < frames.start or s.stop > frames.stop]
    kept = [*kept[1 - _SEARCHES :], (frames, request.cuts)]
    rows = [{"start": s.start, "stop": s.stop, "cuts": list(c)} for s, c in kept]
    project.note("cuts", {"video": video.info.fingerprint, "searched": rows})
    return request


def _kept_cuts(note: Any, video: Video) -> list[tuple[range, tuple[int, ...]]]:
    """Return what was searched of this video, and the cuts there; a note may hold anything."""
    try:
        if note["video"] != video.info.fingerprint:
            return []
        return [
            (
                frame_range(len(video), int(row["start"]), int(row["stop"])),
                tuple(sorted({int(cut) for cut in row["cuts"]})),
            )
            for row in note["searched"]
        ]
    except (TypeError, KeyError, ValueError, OverflowError):  # InputError is a ValueError
        return []


class _Drawing:
    """A job: its plan, its objects in the project, and its runs while it is under way."""

    def __init__(self, job: ProjectJob, segmenter: Segmenter) -> None:
        self.job = job
        self._segmenter = segmenter
        self._plan: Plan | None = None
        self._objects: dict[int, ObjectRecord] = {}
        self._runs: dict[int, str] = {}
        self._written = 0
        self._left = 0

    @property
    def finished(self) -> bool:
        """Whether all that was left to compute is written."""
        return not self._left

    def prepare(self, cancel: CancelToken | None, progress: ProgressCallback | None) -> Plan:
        """Plan the job, unless that is done, and have its objects in the project."""
        if self._plan is not None:
            return self._plan
        project, video = self.job.project, self.job.video
        project.check_video(video.info)
        request = _with_cuts(project, video, self.job.request, cancel, progress)
        plan = make_plan(len(video), request, self._segmenter)
        self._check_disk(expected_bytes(video, request))
        for i, text in enumerate(plan.request.texts):
            drawn = project.add_prompt(text)[1]
            if all(drawn.id != other.id for other in self._objects.values()):
                self._objects[i] = drawn
        self._plan = plan
        return plan

    def begin(
        self, resume: bool, cancel: CancelToken | None, progress: ProgressCallback | None
    ) -> VideoJob:
        """Begin the runs of the project."""
        plan, done = self.prepare(cancel, progress), {}
        for i, drawn in self._objects.items():
            key = _key(plan, plan.request.texts[i], self._segmenter)
            run = self.job.project.begin_run(key, drawn.id, resume=resume)
            self._runs[i], done[i] = run.id, run.done
        self._left = sum(len(plan.windows) - len(windows) for windows in done.values())
        video = self.job.video
        return VideoJob(lambda: nullcontext(video), plan, done, self.job.name)

    def write(self, part: WindowMasks) -> None:
        """Write masks; they are safe when this returns."""
        self._left -= part.complete
        self._written += len(part.masks)
        if self._written >= _LOOK:
            self._written = 0
            self._check_disk(0)
        project, object_id = self.job.project, self._objects[part.expression].id
        draw_on(project, object_id, lambda drawn: self._draw(part, drawn))
        if part.complete:
            project.mark_window_done(self._runs[part.expression], part.window.index)

    def _draw(self, part: WindowMasks, drawn: ObjectRecord) -> None:
        project = self.job.project
        # Where not every frame was asked for, those between keep what they have.
        blocks = [(part.start, 0, len(part.masks))]
        if part.step > 1:
            blocks = [(frame, n, n + 1) for n, frame in enumerate(part.frames)]
        for frame, first, last in blocks:
            sure = None if part.confidence is None else part.confidence[first:last]
            written = project.write_model(
                drawn.layer, drawn.id, frame, part.masks[first:last], sure
            )
            if part.disagreement is not None:
                apart = part.disagreement[first:last]
                if part.step == 1 or not np.isnan(apart).all():
                    project.keep_disagreement(drawn.id, frame, apart, written)

    def end(self) -> None:
        """End the runs, whether or not they are finished."""
        for drawn in self._objects.values():
            self.job.project.end_run(drawn.id)

    def _check_disk(self, need: int) -> None:
        folder = self.job.project.path
        free = free_bytes(folder)
        if free < need + _RESERVE:
            wanted = f"; about {size_text(need)} will be needed" if need else ""
            raise StorageError(
                f"The disk of {folder} has {size_text(free)} left{wanted}: free some space, and "
                "run again. What is finished is kept."
            )


def _run(
    drawings: Iterable[_Drawing],
    segmenter: Segmenter,
    resume: bool,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
    *,
    stop_at_errors: bool = True,
) -> Generator[tuple[ProjectJob, WindowMasks | FlowRVSError | None], None, None]:
    """Compute and write; the runs of a project begin and end in here, iterated or not."""
    open_: dict[VideoJob, _Drawing] = {}
    errors: dict[VideoJob, FlowRVSError] = {}
    refused: list[tuple[ProjectJob, FlowRVSError]] = []  # before anything was computed

    def jobs() -> Iterator[VideoJob]:
        for drawing in drawings:
            begun: VideoJob | None = None
            try:
                begun = drawing.begin(resume, cancel, progress)
            except FlowRVSError as error:
                if stop_at_errors or isinstance(error, Cancelled):
                    raise
                refused.append((drawing.job, error))
                continue
            finally:
                if begun is None:
                    drawing.end()
            open_[begun] = drawing
            yield begun

    def end(job: VideoJob) -> tuple[ProjectJob, FlowRVSError | None]:
        drawing = open_.pop(job)
        drawing.end()
        return drawing.job, errors.pop(job, None)

    def finish(until: VideoJob | None) -> Iterator[tuple[ProjectJob, FlowRVSError | None]]:
        """End the jobs before `until`, in the order in which they began."""
        while refused:
            yield refused.pop(0)
        for job in list(open_):
            if job is until:
                return
            yield end(job)

    failed = None if stop_at_errors else errors.__setitem__
    waiting = jobs()
    try:
        more = True
        while more:
            # What a cluster has begun ahead is begun again.
            begun = [job for job in open_ if job not in errors]
            parts = run_jobs(
                itertools.chain(begun, waiting),
                segmenter,
                cancel=cancel,
                progress=progress,
                failed=failed,
            )
            more = False
            with closing(parts):
                for job, part in parts:
                    yield from finish(job)
                    try:
                        open_[job].write(part)
                    except FlowRVSError as error:
                        if stop_at_errors:
                            raise
                        errors[job], more = error, True
                        break  # the rest of it is not worth computing
                    yield open_[job].job, part
                    if open_[job].finished:  # told now: the next one may be stopped
                        yield end(job)
        yield from finish(None)
    finally:
        for drawing in open_.values():
            drawing.end()


def _instances(
    jobs: Iterable[ProjectJob],
    segmenter: InstanceSegmenter,
    resume: bool,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> Generator[tuple[ProjectJob, WindowMasks | FlowRVSError | None], None, None]:
    """Draw the instances of every sentence, video by video."""
    for job in jobs:
        try:
            job.project.check_video(job.video.info)
            parts = segment_instances(
                job.project,
                job.video,
                job.request,
                segmenter,
                resume=resume,
                cancel=cancel,
                progress=progress,
                name=job.name,
            )
            with closing(parts):
                for part in parts:
                    yield job, part
        except Cancelled:
            raise
        except FlowRVSError as error:
            yield job, error
        else:
            yield job, None


def _only_masks(
    events: Generator[tuple[ProjectJob, WindowMasks | FlowRVSError | None], None, None],
) -> Generator[WindowMasks, None, None]:
    with closing(events):
        for _, what in events:
            if isinstance(what, WindowMasks):
                yield what


def _key(plan: Plan, text: str, segmenter: Segmenter) -> dict[str, object]:
    key: dict[str, object] = {
        "text": text,
        "model": segmenter.name,
        "weights": getattr(segmenter, "weights", ""),
        "steps": plan.request.steps,
        "threshold": plan.request.threshold,
        "window": plan.window_size,
        "overlap": plan.overlap,
        "range": [plan.start, plan.stop],
    }
    # Only where they are used, so that runs from before these options existed go on.
    if plan.frames.step > 1:
        key["every"] = plan.frames.step
    if plan.request.cuts:
        key["cuts"] = list(plan.request.cuts)
    return key
