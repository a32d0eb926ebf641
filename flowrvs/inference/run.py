"""The engine: frames and sentences in, final masks out, window by window."""

from __future__ import annotations

import html
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowrvs.errors import InputError
from flowrvs.inference.frames import WindowFrames
from flowrvs.inference.model import WindowModel
from flowrvs.inference.windows import kept_frames, plan_windows, windows_to_compute
from flowrvs.masks.stitch import Stitcher
from flowrvs.masks.threshold import confidence as to_confidence
from flowrvs.masks.threshold import threshold as to_mask
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import Segmenter, Window, WindowMasks

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Plan", "make_plan", "run_plan", "says_nothing", "segment"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request: everything that the masks of a run depend on.

    Attributes
    ----------
    texts : tuple of str
        The sentences, white space collapsed.
    windows : tuple of Window
        What the model sees at once.
    steps : int
        Euler steps.
    threshold : float
        Logits above it are foreground.
    window_size, overlap : int
        Of which the windows were planned.
    """

    texts: tuple[str, ...]
    windows: tuple[Window, ...]
    steps: int
    threshold: float
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


def make_plan(
    frame_count: int,
    texts: Sequence[str],
    segmenter: Segmenter,
    *,
    start: int = 0,
    stop: int | None = None,
    steps: int = 1,
    window: int | None = None,
    overlap: int | None = None,
    threshold: float = 0.0,
) -> Plan:
    """Check a request and plan its windows; the arguments are those of `segment`.

    Raises
    ------
    InputError
        A sentence is blank or there is none, or a number is out of its range.
    """
    if isinstance(texts, str):
        texts = [texts]
    sentences = tuple(" ".join(text.split()) for text in texts)
    if not sentences or not all(sentences):
        raise InputError("A sentence is missing or blank; describe what to find.")
    for text in sentences:
        if says_nothing(text):  # better refused here than after hours
            raise InputError(f"The sentence {text!r} says nothing; describe what to find.")
    if not 1 <= steps <= 1000:
        raise InputError(f"{steps} steps are impossible; use 1 to 1000.")
    size = segmenter.window_size if window is None else window
    if overlap is None:  # the model's wish, where a smaller window leaves room for it
        overlap = segmenter.overlap if window is None else min(segmenter.overlap, window // 2)
    windows = plan_windows(frame_count, size, overlap, start, stop)
    return Plan(sentences, windows, steps, float(threshold), size, overlap)


def says_nothing(text: str) -> bool:
    """Whether nothing is left of a sentence once a model has cleaned it."""
    return not html.unescape(text).translate({ord('"'): None, ord("\\"): None}).strip()


def segment(
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
    skip: Collection[int] = (),
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
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
    texts : sequence of str
        The sentences.
    segmenter : Segmenter
        From `flowrvs.load`.
    start, stop : int
        First frame and one past the last frame; the whole video by default.
    steps : int
        Euler steps of the flow.
    window, overlap : int, optional
        Frames of a window, and frames that neighbours share; the model's own by default.
    threshold : float
        Logits (-1 to 1) above it are foreground.
    keep_confidence : bool
        Fill in `WindowMasks.confidence`.
    skip : collection of int
        Indices of windows whose masks are not wanted again. They are computed only where
        a wanted neighbour needs them for its seam.
    cancel : CancelToken, optional
        Stops the run within one model step.
    progress : callable, optional
        Called with a `Progress` after every model step, from the thread that iterates.

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
    done = dict.fromkeys(range(len(plan.texts)), frozenset(skip))
    return run_plan(
        video,
        plan,
        segmenter,
        done,
        keep_confidence=keep_confidence,
        cancel=cancel,
        progress=progress,
    )


def run_plan(
    video: Video,
    plan: Plan,
    segmenter: Segmenter,
    done: Mapping[int, Collection[int]],
    *,
    keep_confidence: bool = False,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Generator[WindowMasks, None, None]:
    """Run a plan; ``done[i]`` are the windows of sentence i that are not wanted again.

    Sentences without an entry in `done` are left out. See `segment` for the rest.
    """
    cancel = cancel or CancelToken()
    wanted = {i: windows_to_compute(plan.windows, done[i]) for i in sorted(done)}
    jobs = [
        (window, tuple(i for i in wanted if window.index in wanted[i])) for window in plan.windows
    ]
    whole = len(plan.windows) * _units(plan, len(wanted))
    jobs = [(window, sentences) for window, sentences in jobs if sentences]
    left = sum(_units(plan, len(sentences)) for _, sentences in jobs)
    steps = _Steps(ProgressClock(whole, max(0, whole - left)), progress)
    stitchers = {i: Stitcher(plan.windows, plan.threshold) for i in wanted}
    model = WindowModel(segmenter, plan.steps, plan.overlap, plan.threshold, cancel, steps.step)
    kept = kept_frames(plan.windows)
    for window, sentences in jobs:
        cancel.raise_if_cancelled()
        steps.begin(
            f"window {window.index + 1} of {len(plan.windows)}, frames {window.start} to "
            f"{window.stop - 1}{model.note}",
            _units(plan, len(sentences)),
        )
        frames = WindowFrames(video, window)
        texts = [plan.texts[i] for i in sentences]
        pieces = model.run(frames, texts)
        with closing(pieces):
            for place, logits, known in pieces:
                i = sentences[place]
                first, final, apart = stitchers[i].push(window.index, logits, known)
                if len(final) and window.index not in done[i]:
                    yield WindowMasks(
                        expression=i,
                        start=first,
                        masks=to_mask(final, plan.threshold),
                        window=window,
                        confidence=to_confidence(final) if keep_confidence else None,
                        complete=first + len(final) == kept[window.index].stop,
                        disagreement=apart,
                    )
                cancel.raise_if_cancelled()
        steps.end()


def _units(plan: Plan, sentences: int) -> int:
    """Return a window's model steps: one encode, and for each sentence its steps and a decode."""
    return 1 + sentences * (plan.steps + 1)


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
