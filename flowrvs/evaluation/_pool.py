"""Jobs run here or in processes, with progress, and stopped at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

from flowrvs.errors import Cancelled, FlowRVSError
from flowrvs.evaluation._jobs import Job, score
from flowrvs.evaluation._predictions import Predictions
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

if TYPE_CHECKING:
    from flowrvs.evaluation.scores import ExpressionScore

__all__ = ["cores", "run"]

_PICTURES_A_PROCESS = 1000
_POLL_SECONDS = 0.1


def cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    path: Path,
    jobs: Iterable[Job],
    total: int,
    workers: int,
    cancel: CancelToken | None,
    progress: ProgressCallback | None,
) -> Iterator[list[ExpressionScore]]:
    """Yield the scores of each job, in any order; `total` pictures in all.

    A `workers` of 0 takes as many processes as there is work and processors for.
    """
    clock = ProgressClock(total)

    def advance(job: Job, pictures: int) -> None:
        event = clock.advance(job.video, pictures)
        if progress is not None:
            progress(event)

    def check() -> None:
        if cancel is not None:
            cancel.raise_if_cancelled()

    if workers == 0:
        workers = min(cores(), 1 + total // _PICTURES_A_PROCESS)
    if workers > 1:
        for job, scores in _in_processes(path, iter(jobs), workers, cancel):
            advance(job, job.pictures)
            yield scores
        return
    with Predictions(path) as pictures:
        for job in jobs:
            yield score(pictures, job, check=check, advance=partial(advance, job))


def _in_processes(
    path: Path, jobs: Iterator[Job], workers: int, cancel: CancelToken | None
) -> Iterator[tuple[Job, list[ExpressionScore]]]:
    # Processes are started afresh: a copy of one with threads (Qt, torch) may hang.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    executor = ProcessPoolExecutor(workers, context, _start, (path, stop))
    running: dict[Future[list[ExpressionScore]], Job] = {}
    finished: deque[tuple[Job, list[ExpressionScore]]] = deque()
    more = True
    try:
        while more or running:
            if cancel is not None:
                cancel.raise_if_cancelled()
            # Two a process keep all of them busy and the memory small.
            while more and len(running) < 2 * workers:
                job = next(jobs, None)
                if job is None:
                    more = False
                else:
                    with _no_interrupts():
                        running[executor.submit(_score, job)] = job
            done, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                finished.append((running.pop(future), future.result()))
            while finished:
                yield finished.popleft()
    except BrokenProcessPool:
        raise FlowRVSError(
            "A scoring process was ended from outside, as when memory runs out; "
            "run again with fewer workers."
        ) from None
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


_pictures: Predictions
_stop: Event


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C, which reaches the whole group, leaves alone.

    They inherit the mask from their first instruction on; here a signal waits until the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(path: Path, stop: Event) -> None:
    global _pictures, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _pictures, _stop = Predictions(path), stop


def _score(job: Job) -> list[ExpressionScore]:
    return score(_pictures, job, check=_check, advance=lambda count: None)


def _check() -> None:
    if _stop.is_set():
        raise Cancelled("Stopped on request.")
