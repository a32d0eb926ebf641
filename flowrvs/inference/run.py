"""The engine: frames and sentences in, final masks out, window by window."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from flowrvs.errors import Cancelled, FlowRVSError, InputError
from flowrvs.inference.frames import SelectedFrames, WindowFrames
from flowrvs.inference.model import WindowModel
from flowrvs.inference.windows import plan_windows, windows_to_compute
from flowrvs.masks.logits import Stitcher
from flowrvs.masks.logits import confidence as to_confidence
from flowrvs.masks.logits import threshold as to_mask
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import Segmenter, SegmentRequest, Window, WindowMasks, frame_range

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = [
    "JobRunner",
    "Plan",
    "VideoJob",
    "WindowCount",
    "make_plan",
    "run_jobs",
    "run_plan",
    "segment",
    "to_window_masks",
    "windows_and_texts",
    "with_cuts",
]


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with the windows that a model answers it by: all that masks depend on.

    Attributes
    ----------
    request : SegmentRequest
    windows : tuple of Window
        What the model sees at once; where not every frame is asked for, they count those
        that are.
    window_size, overlap : int
        Of which the windows were planned.
    frames : range
        The native frames that are asked for.
    """

    request: SegmentRequest
    windows: tuple[Window, ...]
    window_size: int
    overlap: int
    frames: range

    @property
    def start(self) -> int:
        """First native frame of the range."""
        return self.frames.start

    @property
    def stop(self) -> int:
        """One past the last native frame of the range."""
        return self.frames[-1] + 1

    def native(self, place: int) -> int:
        """Return the native frame that the windows count as `place`."""
        return self.frames[place] if self.frames.step > 1 else place

    def source(self, video: Video) -> Video | SelectedFrames:
        """Return what the windows read of a video."""
        return SelectedFrames(video, self.frames) if self.frames.step > 1 else video

    def kept(self, index: int) -> range:
        """Return the frames that a window completes: those before the next one's."""
        later = self.windows[index + 1 : index + 2]
        window = self.windows[index]
        return range(window.start, later[0].start if later else window.stop)


def make_plan(frame_count: int, request: SegmentRequest, segmenter: Segmenter) -> Plan:
    """Plan the windows of a request; a model's own sizes stand in for what it leaves open.

    Raises
    ------
    InputError
        The request does not fit the video or the model.
    """
    frames = request.frames(frame_count)
    size, overlap = request.window, request.overlap
    if size == "whole":
        size, overlap = len(frames), 0
    elif size is None:
        size = segmenter.window_size
        overlap = segmenter.overlap if overlap is None else overlap
    elif overlap is None:  # the model's wish, where a smaller window leaves room for it
        overlap = min(segmenter.overlap, size // 2)
    if request.cuts == "find":
        raise InputError("Cuts are found in a video: see flowrvs.video.cuts.find_cuts.")
    # Where windows count: native frames, or those that are asked for.
    first = frames.start if frames.step == 1 else 0
    last = first + len(frames)
    cuts = [first + len(range(frames.start, cut, frames.step)) for cut in request.cuts]
    edges = [first, *sorted({cut for cut in cuts if first < cut < last}), last]
    windows: list[Window] = []
    for start, stop in pairwise(edges):
        shot = plan_windows(last, size, overlap or 0, start, stop)
        windows += [replace(w, index=len(windows) + w.index) for w in shot]
    return Plan(request, tuple(windows), size, overlap or 0, frames)


def with_cuts(
    request: SegmentRequest,
    video: Video,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> SegmentRequest:
    """Return the request with the cuts of its video, if it asks to find them."""
    if request.cuts != "find":
        return request
    from flowrvs.video.cuts import find_cuts

    frames = frame_range(len(video), request.start, request.stop)
    found = find_cuts(video, frames.start, frames.stop, cancel=cancel, progress=progress)
    return replace(request, cuts=found)


def segment(
    video: Video,
    texts: SegmentRequest | str | Sequence[str],
    segmenter: Segmenter,
    *,
    skip: Collection[int] = (),
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> Generator[WindowMasks, None, None]:
    """Find what sentences describe, window by window.

    Frames go straight from the video into the model, and a window is encoded once, whatever
    the number of sentences. Frames that two windows share are blended
    (`flowrvs.masks.logits`). Memory does not grow with the length of a window, except for
    the model's own; a window that the device has no room for is computed in halves.

    Parameters
    ----------
    video : Video
        From `flowrvs.open_video`.
    texts : str, sequence of str or SegmentRequest
        The sentences, or the whole request.
    segmenter : Segmenter
        From `flowrvs.load`.
    skip : collection of int
        Indices of windows whose masks are not wanted again. They are computed only where
        a wanted neighbour needs them for its seam.
    cancel : CancelToken, optional
        Stops the run within one model step.
    progress : callable, optional
        Called with a `Progress` after every model step, from the thread that iterates.
    **options
        What else `SegmentRequest` takes: ``start``, ``stop``, ``steps``, ``window``,
        ``overlap``, ``threshold``, ``keep_confidence``, ``every``, ``cuts``.

    Yields
    ------
    WindowMasks
        As soon as frames are final: by window, then by sentence, then piece by piece; the
        last piece of a window's sentence is marked `WindowMasks.complete`.

    Raises
    ------
    InputError
        A sentence is blank or a number is out of its range (at once, not when iterating).
    Cancelled
        `cancel` was set.
    DeviceMemoryError
        The device is too small for five frames.

    Examples
    --------
    >>> for part in flowrvs.segment(video, ["the red circle"], pipe):  # doctest: +SKIP
    ...     print(part.start, part.stop, part.masks.mean())
    """
    request = with_cuts(SegmentRequest.of(texts, **options), video, cancel)
    plan = make_plan(len(video), request, segmenter)
    done = dict.fromkeys(range(len(plan.request.texts)), frozenset(skip))
    return run_plan(video, plan, segmenter, done, cancel=cancel, progress=progress)


@dataclass(frozen=True, slots=True, eq=False)
class VideoJob:
    """A video to be run through a model.

    Attributes
    ----------
    open : callable
        Returns a context manager that gives the `Video`.
    plan : Plan
    done : mapping of int to collection of int
        ``done[i]`` are the windows of sentence i that are not wanted again; sentences
        without an entry are left out.
    name : str
        What it is called in messages.
    """

    open: Callable[[], AbstractContextManager[Video]]
    plan: Plan
    done: Mapping[int, Collection[int]]
    name: str = ""


Failed = Callable[[VideoJob, FlowRVSError], None]


@runtime_checkable
class JobRunner(Protocol):
    """A segmenter that runs whole jobs by itself, such as `flowrvs.inference.cluster.Cluster`."""

    def run_jobs(
        self,
        jobs: Iterable[VideoJob],
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
        failed: Failed | None = None,
    ) -> Generator[tuple[VideoJob, WindowMasks], None, None]:
        """Do what `run_jobs` does."""
        ...


def run_jobs(
    jobs: Iterable[VideoJob],
    segmenter: Segmenter,
    *,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
    failed: Failed | None = None,
) -> Generator[tuple[VideoJob, WindowMasks], None, None]:
    """Run videos one after the other; a cluster computes windows of several at once.

    Parameters
    ----------
    jobs : iterable of VideoJob
        Taken as they are needed.
    segmenter, cancel, progress
        See `segment`; progress is of a video.
    failed : callable, optional
        Told of a job that ends with an error, also where its video cannot be opened, and the
        error; the others go on. Without it the error is raised.

    Yields
    ------
    job : VideoJob
    part : WindowMasks
        As from `segment`, video by video.
    """
    if isinstance(segmenter, JobRunner):
        parts = segmenter.run_jobs(jobs, cancel=cancel, progress=progress, failed=failed)
        with closing(parts):
            yield from parts
        return
    for job in jobs:
        try:
            with (
                job.open() as video,
                closing(_run(video, job, segmenter, cancel, progress)) as masks,
            ):
                for part in masks:
                    yield job, part
        except FlowRVSError as error:
            if failed is None or isinstance(error, Cancelled):
                raise
            failed(job, error)


def run_plan(
    video: Video,
    plan: Plan,
    segmenter: Segmenter,
    done: Mapping[int, Collection[int]],
    *,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Generator[WindowMasks, None, None]:
    """Run one plan; see `VideoJob` for `done` and `segment` for the rest."""
    job = VideoJob(lambda: nullcontext(video), plan, done)
    with closing(run_jobs([job], segmenter, cancel=cancel, progress=progress)) as parts:
        for _, part in parts:
            yield part


def windows_and_texts(
    plan: Plan, done: Mapping[int, Collection[int]]
) -> list[tuple[Window, tuple[int, ...]]]:
    """Return the windows to compute, each with the sentences it is computed for."""
    wanted = {i: windows_to_compute(plan.windows, done[i]) for i in sorted(done)}
    jobs = [
        (window, tuple(i for i in wanted if window.index in wanted[i])) for window in plan.windows
    ]
    return [(window, sentences) for window, sentences in jobs if sentences]


def to_window_masks(
    plan: Plan,
    expression: int,
    window: Window,
    first: int,
    logits: npt.NDArray[np.float32],
    apart: npt.NDArray[np.float32],
) -> WindowMasks:
    """Return final logits of the frames from the place `first` on as masks."""
    request = plan.request
    return WindowMasks(
        expression=expression,
        start=plan.native(first),
        masks=to_mask(logits, request.threshold),
        window=window,
        confidence=to_confidence(logits) if request.keep_confidence else None,
        complete=first + len(logits) == plan.kept(window.index).stop,
        disagreement=apart,
        step=plan.frames.step,
    )


def _run(
    video: Video,
    job: VideoJob,
    segmenter: Segmenter,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> Generator[WindowMasks, None, None]:
    plan, done, request = job.plan, job.done, job.plan.request
    cancel = cancel or CancelToken()
    source = plan.source(video)
    count = WindowCount(plan, done, progress, job.name)
    stitchers = {i: Stitcher(plan.windows, request.threshold) for i in done}
    model = WindowModel(
        segmenter, request.steps, plan.overlap, request.threshold, cancel, count.step
    )
    for window, sentences in windows_and_texts(plan, done):
        cancel.raise_if_cancelled()
        count.begin(window, len(sentences), model.note)
        frames = WindowFrames(source, window)
        pieces = model.run(frames, [request.texts[i] for i in sentences])
        with closing(pieces):
            for place, logits, known in pieces:
                i = sentences[place]
                first, final, apart = stitchers[i].push(window.index, logits, known)
                if len(final) and window.index not in done[i]:
                    yield to_window_masks(plan, i, window, first, final, apart)
                cancel.raise_if_cancelled()
        count.end()


class WindowCount:
    """Counts model steps, in step with the plan even if a model reports more or fewer.

    Parameters
    ----------
    plan : Plan
    done : mapping
        See `VideoJob`.
    progress : callable, optional
        Told of every step.
    name : str
        Of the video, where there are several.
    """

    def __init__(
        self,
        plan: Plan,
        done: Mapping[int, Collection[int]],
        progress: ProgressCallback | None,
        name: str = "",
    ) -> None:
        self._plan = plan
        self._name = f"{name}: " if name else ""
        whole = len(plan.windows) * self._units(len(done))
        left = sum(self._units(len(texts)) for _, texts in windows_and_texts(plan, done))
        self._clock = ProgressClock(whole, max(0, whole - left))
        self._progress = progress
        self._message = ""
        self._left = 0

    def _units(self, sentences: int) -> int:
        """Return a window's steps: one encode, and for each sentence its steps and a decode."""
        return 1 + sentences * (self._plan.request.steps + 1)

    def begin(self, window: Window, sentences: int, note: str = "") -> None:
        """Begin a window that is computed for so many sentences."""
        self._message = (
            f"{self._name}window {window.index + 1} of {len(self._plan.windows)}, frames "
            f"{self._plan.native(window.start)} to {self._plan.native(window.stop - 1)}{note}"
        )
        self._left = self._units(sentences)
        if self._progress is not None:
            self._progress(self._clock.event(self._message))

    def step(self) -> None:
        """Count a step of the model."""
        # The last unit of a window is counted when its masks are handed over.
        if self._left > 1:
            self._advance(1)

    def end(self) -> None:
        """Count what is left of the window."""
        self._advance(self._left)

    def _advance(self, units: int) -> None:
        self._left -= units
        event = self._clock.advance(self._message, units)
        if self._progress is not None:
            self._progress(event)
