"""Changes of the project that are mostly short: one at a time, away from the interface."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar, cast

from psygnal import Signal

from flowrvs.errors import FlowRVSError, InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from napari_flowrvs.job import Failure, Job, Last, Runner, run_here

__all__ = ["Steps"]

T = TypeVar("T")

#: Keys pressed while a step is being written are kept, but no more than a person means.
_WAITING = 8


class Steps:
    """Runs the steps of all panels in one job, in the order in which they were asked for.

    Parameters
    ----------
    runner : Runner
        Where they run; one that waits for short ones keeps buttons from flickering.
    """

    #: True when a step outlasts its start, False when it has ended.
    busy_changed = Signal(bool)

    def __init__(self, runner: Runner = run_here) -> None:
        self.job = Job(runner)
        self._waiting: deque[Callable[[], object]] = deque()
        self._announced = False
        for ended in (self.job.completed, self.job.failed, self.job.cancelled):
            ended.connect(self._on_end)

    @property
    def busy(self) -> bool:
        """True while a step is being written."""
        return self.job.busy

    def ask(self, begin: Callable[[], object]) -> None:
        """Call `begin` now, or when the steps before it have ended.

        `begin` looks at what is chosen by then and calls `run` at most once.

        Raises
        ------
        InputError
            Too many steps wait already; or what `begin` raises.
        """
        if not self.busy:
            begin()
        elif len(self._waiting) < _WAITING:
            self._waiting.append(begin)
        else:
            raise InputError("Earlier steps are still being written: wait a moment.")

    def run(
        self,
        name: str,
        action: Callable[[CancelToken, ProgressCallback], T],
        then: Callable[[T], object],
    ) -> None:
        """Call ``action(cancel, progress)`` in the job, and `then` with what it returns.

        Parameters
        ----------
        name : str
            What is being done, shown when it takes long.
        action : callable
            Changes the project; called away from the interface.
        then : callable
            Called on the interface's thread; not when `action` failed.
        """

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            report(Progress(0, 0, name))
            yield Last(action(cancel, report))

        def end(result: object) -> None:
            then(cast(T, result))

        self.job.start(work, end)
        if self.busy and not self._announced:
            self._announced = True
            self.busy_changed.emit(True)

    def _on_end(self, failure: object = None) -> None:
        if failure is not None:
            self._waiting.clear()  # they were meant for another state of things
        begin = self._waiting.popleft() if self._waiting else None
        if begin is not None:
            try:
                begin()
            except FlowRVSError as error:
                self.job.failed.emit(Failure.of(error))  # which forgets what waits
                return
        if not self.busy:
            if self._waiting:
                self._on_end()
            elif self._announced:
                self._announced = False
                self.busy_changed.emit(False)

    def close(self, timeout: float = 5.0) -> bool:
        """Let what is being written come to its end, for a moment; forget what waits."""
        self._waiting.clear()
        return self.job.close(timeout)
