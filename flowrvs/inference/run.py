"""The engine: frames and sentences in, final masks out, window by window."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowrvs.inference.frames import WindowFrames
from flowrvs.inference.model import WindowModel
from flowrvs.inference.windows import kept_frames, plan_windows, windows_to_compute
from flowrvs.masks.stitch import Stitcher
from flowrvs.masks.threshold import confidence as to_confidence
from flowrvs.masks.threshold import threshold as to_mask
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import Segmenter, SegmentRequest, Window, WindowMasks

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Plan", "make_plan", "run_plan", "segment"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with the windows that a model answers it by: all that masks depend on.

    Attributes
    ----------
    request : SegmentRequest
    windows : tuple of Window
        What the model sees at once.
    window_size, overlap : int
        Of which the windows were planned.
    """

    request: SegmentRequest
    windows: tuple[Window, ...]
    window_size: int
    overlap: int

    @property
    def start(self) -> int:
        """First frame of the range."""
        return self.windows[0].start

    @property
    def stop(self) -> int:
        """One past the last frame of the range."""
        return self.windows[-1].stop


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
    windows = plan_windows(frame_count, size, overlap or 0, frames.start, frames.stop)
    return Plan(request, windows, size, overlap or 0)


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
    (`flowrvs.masks.stitch`). Memory does not grow with the length of a window, except for
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
        ``overlap``, ``threshold``, ``keep_confidence``.

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
    plan = make_plan(len(video), SegmentRequest.of(texts, **options), segmenter)
    done = dict.fromkeys(range(len(plan.request.texts)), frozenset(skip))
    return run_plan(video, plan, segmenter, done, cancel=cancel, progress=progress)


def run_plan(
    video: Video,
    plan: Plan,
    segmenter: Segmenter,
    done: Mapping[int, Collection[int]],
    *,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Generator[WindowMasks, None, None]:
    """Run a plan; ``done[i]`` are the windows of sentence i that are not wanted again.

    Sentences without an entry in `done` are left out. See `segment` for the rest.
    """
    request = plan.request
    cancel = cancel or CancelToken()
    wanted = {i: windows_to_compute(plan.windows, done[i]) for i in sorted(done)}
    jobs = [
        (window, tuple(i for i in wanted if window.index in wanted[i])) for window in plan.windows
    ]
    whole = len(plan.windows) * _units(plan, len(wanted))
    jobs = [(window, sentences) for window, sentences in jobs if sentences]
    left = sum(_units(plan, len(sentences)) for _, sentences in jobs)
    steps = _Steps(ProgressClock(whole, max(0, whole - left)), progress)
    stitchers = {i: Stitcher(plan.windows, request.threshold) for i in wanted}
    model = WindowModel(
        segmenter, request.steps, plan.overlap, request.threshold, cancel, steps.step
    )
    kept = kept_frames(plan.windows)
    for window, sentences in jobs:
        cancel.raise_if_cancelled()
        steps.begin(
            f"window {window.index + 1} of {len(plan.windows)}, frames {window.start} to "
            f"{window.stop - 1}{model.note}",
            _units(plan, len(sentences)),
        )
        frames = WindowFrames(video, window)
        texts = [request.texts[i] for i in sentences]
        pieces = model.run(frames, texts)
        with closing(pieces):
            for place, logits, known in pieces:
                i = sentences[place]
                first, final, apart = stitchers[i].push(window.index, logits, known)
                if len(final) and window.index not in done[i]:
                    yield WindowMasks(
                        expression=i,
                        start=first,
                        masks=to_mask(final, request.threshold),
                        window=window,
                        confidence=to_confidence(final) if request.keep_confidence else None,
                        complete=first + len(final) == kept[window.index].stop,
                        disagreement=apart,
                    )
                cancel.raise_if_cancelled()
        steps.end()


def _units(plan: Plan, sentences: int) -> int:
    """Return a window's model steps: one encode, and for each sentence its steps and a decode."""
    return 1 + sentences * (plan.request.steps + 1)


class _Steps:
    """Counts model steps, in step with the plan even if a model reports more or fewer."""

    def __init__(self, clock: ProgressClock, progress: ProgressCallback | None) -> None:
        self._clock = clock
        self._progress = progress
        self._message = ""
        self._left = 0

    def begin(self, message: str, units: int) -> None:
        self._message, self._left = message, units
        if self._progress is not None:
            self._progress(self._clock.event(message))

    def step(self) -> None:
        # The last unit of a window is counted when its masks are handed over.
        if self._left > 1:
            self._advance(1)

    def end(self) -> None:
        self._advance(self._left)

    def _advance(self, units: int) -> None:
        self._left -= units
        event = self._clock.advance(self._message, units)
        if self._progress is not None:
            self._progress(event)
