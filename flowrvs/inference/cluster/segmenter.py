"""`Cluster`: a dask cluster that stands where a segmenter stands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowrvs.errors import Cancelled, ClusterError, FlowRVSError, InputError
from flowrvs.inference.cluster.dispatch import Reply, Session, message_for
from flowrvs.inference.cluster.link import Scheduler
from flowrvs.inference.cluster.wire import masks_of, unpack_floats, unpack_octets
from flowrvs.inference.run import Failed, VideoJob, WindowCount, to_window_masks, windows_and_texts
from flowrvs.masks.logits import Stitcher
from flowrvs.progress import CancelToken, ProgressCallback
from flowrvs.records import FrameBlock, Window, WindowMasks

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Cluster"]

_BLOBS = 5  # of a sentence, see `worker._Sentence`


class Cluster:
    """Computes windows on the workers of a dask scheduler; takes a segmenter's place.

    `flowrvs.segment`, `segment_into` and `predict_split` take it as they take a pipeline,
    and give the same masks to the bit, in the same order. This process needs neither torch
    nor the weights.

    Parameters
    ----------
    scheduler : Scheduler or str
        Where it is; a string is checked by `Scheduler.at`.
    model : str
        A model's name or folder, as the workers know it.
    patience : float
        Seconds to wait for a scheduler that goes away.
    notice : callable, optional
        Gets one line for what a person should know, such as a worker that is left out; by
        default the logger ``flowrvs``.
    cancel : CancelToken, optional
        Stops the waiting for a first worker.
    timeout : float, optional
        Seconds to wait for a first worker; without it, until `cancel`.
    **options
        What else `flowrvs.load` takes.

    Attributes
    ----------
    name, weights : str
        Of the model on the workers; all have the same.
    window_size, overlap : int
        As the model wishes.
    whole_video : bool
        Whether a benchmark's videos are one clip each.

    Raises
    ------
    ClusterError
        The scheduler cannot be reached, or no worker has the model; at once.
    InputError, MissingExtraError
        As for `Scheduler.at` and `Link`.

    Examples
    --------
    >>> cluster = Cluster("tls://gpu-server:8786", "mevis")  # doctest: +SKIP
    >>> for part in flowrvs.segment(video, ["the red circle"], cluster):  # doctest: +SKIP
    ...     print(part.start, part.stop)
    """

    def __init__(
        self,
        scheduler: Scheduler | str,
        model: str = "tiny",
        *,
        patience: float = 300.0,
        notice: Callable[[str], None] | None = None,
        cancel: CancelToken | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        self._session = Session(
            scheduler, {"model": model, "options": options}, patience=patience, notice=notice
        )
        self.scheduler = self._session.scheduler
        facts = self._session.ask("model", cancel, timeout)
        try:
            self.name, self.weights = str(facts["name"]), str(facts["weights"])
            self.window_size, self.overlap = int(facts["window_size"]), int(facts["overlap"])
            self.whole_video = bool(facts["whole_video"])
        except (KeyError, TypeError, ValueError):
            raise ClusterError("A worker does not say what model it has.") from None

    def segment_window(
        self,
        frames: FrameBlock,
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Refuse: a cluster gives masks, by `run_jobs`; logits stay on the workers."""
        raise InputError("A cluster runs whole videos; for single windows load the model here.")

    def run_jobs(
        self,
        jobs: Iterable[VideoJob],
        *,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
        failed: Failed | None = None,
    ) -> Generator[tuple[VideoJob, WindowMasks], None, None]:
        """Run plans, windows of several at once; see `flowrvs.inference.run.run_jobs`."""
        cancel = cancel or CancelToken()
        with self._session.dispatcher(cancel) as dispatcher:
            opened = _Opened()
            joined: _Joined | None = None
            bad: set[VideoJob] = set()
            try:
                for task, reply in dispatcher.results(self._tasks(jobs, opened, bad, failed)):
                    if isinstance(reply, FlowRVSError):
                        if failed is None:
                            raise reply
                        if task.job not in bad:
                            bad.add(task.job)
                            failed(task.job, reply)
                    if isinstance(reply, FlowRVSError) or task.job in bad:
                        opened.finish(task)
                        continue
                    if joined is None or joined.job is not task.job:
                        joined = _Joined(task.job, progress)
                    for part in joined.add(task, reply):
                        yield task.job, part
                        cancel.raise_if_cancelled()
                    joined.count.end()
                    opened.finish(task)
            finally:
                opened.close()

    def _tasks(
        self,
        jobs: Iterable[VideoJob],
        opened: _Opened,
        bad: Collection[VideoJob],
        failed: Failed | None,
    ) -> Iterator[_WindowTask]:
        for job in jobs:
            windows = windows_and_texts(job.plan, job.done)
            if not windows:
                continue
            try:
                video = opened.open(job, len(windows))
            except FlowRVSError as error:
                if failed is None or isinstance(error, Cancelled):
                    raise
                failed(job, error)
                continue
            computed = {window.index for window, _ in windows}
            for window, sentences in windows:
                if job in bad:  # nobody asks for the rest of it
                    break
                follows = window.index - 1 in computed
                head = job.plan.windows[window.index - 1].stop - window.start if follows else 0
                yield _WindowTask(
                    job=job,
                    video=video,
                    window=window,
                    sentences=sentences,
                    head=max(0, head),
                    tail=window.index + 1 in computed,
                    header=self._session.header("window") | {"expect": [self.name, self.weights]},
                )


@dataclass(frozen=True, slots=True)
class _WindowTask:
    """Asks for a window's masks: logits of the first `head` frames, and after `kept` if `tail`."""

    job: VideoJob
    video: Video
    window: Window
    sentences: tuple[int, ...]
    head: int
    tail: bool
    header: dict[str, Any] = field(repr=False)

    @property
    def about(self) -> str:
        native = self.job.plan.native
        return f"frames {native(self.window.start)} to {native(self.window.stop - 1)}"

    @property
    def kept(self) -> int:
        return len(self.job.plan.kept(self.window.index))

    def message(self, *, send_frames: bool) -> bytes:
        plan, window = self.job.plan, self.window
        request = plan.request
        header = self.header | {
            "texts": [request.texts[i] for i in self.sentences],
            "steps": request.steps,
            "threshold": request.threshold,
            "overlap": plan.overlap,
            "confidence": request.keep_confidence,
            "start": window.start,
            "stop": window.stop,
            "head": self.head,
            "kept": self.kept,
            "tail": self.tail,
            "frames": [plan.frames.start, plan.frames.stop, plan.frames.step],
        }
        places = range(window.start, window.stop)
        frames = plan.frames[window.start : window.stop] if plan.frames.step > 1 else places
        return message_for(header, [], self.video, frames, send_frames=send_frames)


class _Opened:
    """The videos of the windows that are under way, each open until its last one is done."""

    def __init__(self) -> None:
        self._videos: dict[int, tuple[Any, int]] = {}

    def open(self, job: VideoJob, windows: int) -> Video:
        context = job.open()
        video: Video = context.__enter__()
        self._videos[id(job)] = context, windows
        return video

    def finish(self, task: _WindowTask) -> None:
        context, left = self._videos.pop(id(task.job))
        if left > 1:
            self._videos[id(task.job)] = context, left - 1
        else:
            context.__exit__(None, None, None)

    def close(self) -> None:
        while self._videos:
            context, _ = self._videos.popitem()[1]
            context.__exit__(None, None, None)


class _Joined:
    """Joins the windows of a video as they are joined where the model is."""

    def __init__(self, job: VideoJob, progress: ProgressCallback | None) -> None:
        self.job = job
        self.count = WindowCount(job.plan, job.done, progress, job.name)
        threshold = job.plan.request.threshold
        self._stitchers = {i: Stitcher(job.plan.windows, threshold) for i in job.done}

    def add(self, task: _WindowTask, reply: Reply) -> Iterator[WindowMasks]:
        header, blobs = reply
        if len(blobs) != _BLOBS * len(task.sentences):
            raise ClusterError("A worker gave answers to other sentences than it was asked.")
        limit = header.get("limit")
        note = f" ({limit} at once: little memory)" if type(limit) is int else ""
        self.count.begin(task.window, len(task.sentences), note)
        for place, i in enumerate(task.sentences):
            wanted = task.window.index not in self.job.done[i]
            for part in self._sentence(task, i, blobs[_BLOBS * place : _BLOBS * (place + 1)]):
                if wanted and len(part.masks):
                    yield part

    def _sentence(
        self, task: _WindowTask, i: int, blobs: list[memoryview]
    ) -> Iterator[WindowMasks]:
        plan, window, stitcher = self.job.plan, task.window, self._stitchers[i]
        size = task.video.shape[1:3]
        known = unpack_floats(blobs[4], (len(window), 1))[:, 0]
        head, tail = task.head, max(task.head, task.kept)

        def joined(blob: memoryview, start: int, stop: int) -> Iterator[WindowMasks]:
            if start < stop:
                logits = unpack_floats(blob, (stop - start, *size))
                first, final, apart = stitcher.push(window.index, logits, known[start:stop])
                yield to_window_masks(plan, i, window, first, final, apart)

        yield from joined(blobs[0], 0, head)
        at = head
        sure = None
        if plan.request.keep_confidence:
            sure = unpack_octets(blobs[2], (tail - head, *size))
        for masks in masks_of(blobs[1], (tail - head, *size)) if head < tail else ():
            stop = at + len(masks)
            stitcher.skip(window.index, len(masks))
            yield WindowMasks(
                expression=i,
                start=plan.native(window.start + at),
                step=plan.frames.step,
                masks=masks,
                window=window,
                confidence=None if sure is None else sure[at - head : stop - head],
                complete=stop == task.kept,
                disagreement=known[at:stop],
            )
            at = stop
        yield from joined(blobs[3], tail, len(window) if task.tail else tail)
