"""One long task as a view-model: phase, progress, failure, cancel."""

from __future__ import annotations

import enum
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from psygnal import Signal

from flowrvs.errors import Cancelled, FlowRVSError, InputError
from flowrvs.progress import CancelToken, Progress, ProgressCallback

__all__ = ["Failure", "Job", "Last", "Phase", "Runner", "Task", "Work", "consume", "run_here"]

#: A task: a generator that checks the token, reports progress and yields small records.
Work = Callable[[CancelToken, ProgressCallback], Generator[object, None, None]]


@dataclass(frozen=True, slots=True)
class Last:
    """An item that is handed on even where the task is to stop: what it tells of is done.

    Attributes
    ----------
    part : object
        What is handed on.
    """

    part: object


class Phase(enum.Enum):
    """Where a job stands."""

    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as an interface shows it: one line, and a traceback behind a fold.

    Attributes
    ----------
    summary : str
        One line: what is wrong, where, what to do.
    details : str
        The traceback.
    refused : bool
        Something was asked for that cannot be done: nothing has gone wrong.
    """

    summary: str
    details: str
    refused: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe `error`; anything but a `FlowRVSError` is called unexpected."""
        lines = str(error).strip().splitlines()
        first = lines[0] if lines else ""
        if not isinstance(error, FlowRVSError):
            first = f"Unexpected {type(error).__name__}" + (f": {first}" if first else "")
        details = "".join(traceback.format_exception(error))
        return cls(first or type(error).__name__, details, type(error) is InputError)


class Task(Protocol):
    """What a runner returns."""

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; True once the work has ended."""


class Runner(Protocol):
    """Runs `work` somewhere and calls back on the thread that called it."""

    def __call__(
        self,
        work: Work,
        token: CancelToken,
        *,
        item: Callable[[object], None],
        progress: ProgressCallback,
        done: Callable[[BaseException | None], None],
    ) -> Task:
        """Start `work`; call `done` once, last, with what it raised or None."""


def consume(
    work: Work,
    token: CancelToken,
    item: Callable[[object], None],
    progress: ProgressCallback,
) -> BaseException | None:
    """Exhaust `work` and return what it raised, never raise.

    The generator is closed whatever happens, and left at the first item after the
    token was cancelled.
    """
    try:
        with closing(work(token, progress)) as parts:
            for part in parts:
                if isinstance(part, Last):
                    item(part.part)
                else:
                    item(part)
                    token.raise_if_cancelled()
    except BaseException as error:
        return error
    return None


class _Finished:
    def wait(self, timeout: float) -> bool:
        return True


def run_here(
    work: Work,
    token: CancelToken,
    *,
    item: Callable[[object], None],
    progress: ProgressCallback,
    done: Callable[[BaseException | None], None],
) -> Task:
    """Run `work` to its end on this thread: the runner of scripts and tests."""
    done(consume(work, token, item, progress))
    return _Finished()


class Job:
    """Runs one task at a time and says how it goes.

    Replies of a task that was abandoned by `close` are dropped.

    Parameters
    ----------
    runner : Runner
        `run_here`, or the thread runner of ``napari_flowrvs.worker``.
    """

    phase_changed = Signal(Phase)
    progressed = Signal(Progress)
    failed = Signal(Failure)
    #: The task came to its own end.
    completed = Signal()
    #: The task stopped on request.
    cancelled = Signal()

    def __init__(self, runner: Runner = run_here) -> None:
        self._runner = runner
        self._generation = 0
        self._token = CancelToken()
        self._task: Task | None = None
        self._phase = Phase.IDLE

    @property
    def phase(self) -> Phase:
        """Where the job stands."""
        return self._phase

    @property
    def busy(self) -> bool:
        """True while a task runs or is being stopped."""
        return self._phase is not Phase.IDLE

    def _set_phase(self, phase: Phase) -> None:
        if phase is not self._phase:
            self._phase = phase
            self.phase_changed.emit(phase)

    def start(self, work: Work, on_item: Callable[[object], None]) -> None:
        """Run `work`; hand what it yields to `on_item`.

        Raises
        ------
        RuntimeError
            A task is running: the interface should not have offered to start one.
        """
        if self.busy:
            raise RuntimeError("a task is running")
        self._generation += 1
        mine = self._generation
        self._token = CancelToken()

        def item(part: object) -> None:
            if mine == self._generation:
                on_item(part)

        def progress(event: Progress) -> None:
            if mine == self._generation:
                self.progressed.emit(event)

        def done(error: BaseException | None) -> None:
            if mine == self._generation:
                self._task = None
                self._end(error)

        self._set_phase(Phase.RUNNING)
        task = self._runner(work, self._token, item=item, progress=progress, done=done)
        if self.busy and mine == self._generation:
            self._task = task

    def _end(self, error: BaseException | None) -> None:
        self._set_phase(Phase.IDLE)
        if error is None:
            self.completed.emit()
        elif isinstance(error, Cancelled):
            self.cancelled.emit()
        else:
            self.failed.emit(Failure.of(error))

    def cancel(self) -> None:
        """Ask the task to stop at its next step; it may be called at any time."""
        if self._phase is Phase.RUNNING:
            self._set_phase(Phase.STOPPING)
            self._token.cancel()

    def close(self, timeout: float = 5.0) -> bool:
        """Cancel, wait up to `timeout` seconds, and drop later replies.

        Returns
        -------
        bool
            True when no work is left behind; False when a model step outlasts the wait
            (it stops at its end, without anybody listening).
        """
        self._generation += 1
        self._token.cancel()
        task, self._task = self._task, None
        ended = task is None or task.wait(timeout)
        self._set_phase(Phase.IDLE)
        return ended
