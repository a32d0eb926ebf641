"""Progress events and the cancel token, shared by every long task.

A long task is a generator or a function that takes ``cancel`` (a
:class:`CancelToken`, checked at least once per model step) and reports
:class:`Progress` records; interfaces only display them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from flowrvs.errors import Cancelled

__all__ = ["CancelToken", "Progress", "ProgressCallback", "ProgressClock"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One progress event.

    Attributes
    ----------
    done, total : int
        Finished and planned units of work, ``0 <= done <= total``.
    message : str
        What is being done now, in the user's words.
    elapsed : float
        Seconds since the task began.
    remaining : float or None
        Estimated seconds left; None until the first unit is finished.
    """

    done: int
    total: int
    message: str = ""
    elapsed: float = 0.0
    remaining: float | None = None

    @property
    def fraction(self) -> float:
        """Share of the work that is finished, 0 to 1."""
        return self.done / self.total if self.total else 1.0


ProgressCallback = Callable[[Progress], None]


class ProgressClock:
    """Turns counts into :class:`Progress` events with a time left.

    The estimate is the mean pace of the units finished in *this* run, so that a
    resumed job does not count the units that it found finished.

    Parameters
    ----------
    total : int
        Planned units of work, finished ones included.
    done : int, optional
        Units that were finished before this run.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.total = total
        self.done = done
        self._first = done
        self._start = time.monotonic()

    def advance(self, message: str = "", n: int = 1) -> Progress:
        """Count `n` finished units and return the event that says so."""
        self.done = min(self.done + n, self.total)
        return self.event(message)

    def event(self, message: str = "") -> Progress:
        """Return an event for the present state without counting anything."""
        elapsed = time.monotonic() - self._start
        fresh = self.done - self._first
        remaining = elapsed / fresh * (self.total - self.done) if fresh else None
        return Progress(self.done, self.total, message, elapsed, remaining)


class CancelToken:
    """A thread-safe flag with which one thread asks another to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the task to stop at its next step."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` when `cancel` was called.

        Raises
        ------
        Cancelled
            The user asked to stop.
        """
        if self._event.is_set():
            raise Cancelled("Stopped on request; what is finished is kept.")
