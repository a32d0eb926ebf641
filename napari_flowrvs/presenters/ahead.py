"""Frames read a little before they are shown, so that showing them takes no time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence

from flowrvs.progress import CancelToken, ProgressCallback
from napari_flowrvs.presenters.job import Job, Runner

__all__ = ["Ahead"]

#: So many frames; a video's cache holds more of them, at any usual size.
_FRAMES = 12


class Ahead:
    """Reads the frames after the one that is due, on a thread of its own.

    What is read is not kept here: the layers keep decoded frames themselves.

    Parameters
    ----------
    readers : callable
        Gives, at the start of playing, what reads a frame of each layer that is shown.
    runner : Runner
        Where they read; one that returns at once.
    """

    def __init__(
        self, readers: Callable[[], Sequence[Callable[[int], object]]], runner: Runner
    ) -> None:
        self._readers = readers
        self._job = Job(runner)
        self._changed = threading.Condition()
        self._ready: set[int] = set()
        self._wanted: list[int] = []

    def start(self) -> None:
        """Begin; nothing is read before `want`."""
        self.close(0.0)
        readers = tuple(self._readers())
        if not readers:
            return
        ready: set[int] = set()
        with self._changed:
            self._ready, self._wanted = ready, []

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            while True:
                with self._changed:
                    frame = next((t for t in self._wanted if t not in ready), None)
                    if frame is None:
                        self._changed.wait(0.1)
                cancel.raise_if_cancelled()
                if frame is not None:
                    for read in readers:
                        try:
                            read(frame)
                        except Exception:  # whoever shows the frame says what is wrong with it
                            continue
                    with self._changed:
                        ready.add(frame)
                    yield frame

        self._job.start(work, lambda _frame: None)

    def want(self, due: int, start: int, stop: int, *, repeat: bool) -> None:
        """Say which frame is due, and which range is played."""
        wanted = [due + i for i in range(_FRAMES)]
        if repeat:
            wanted = [start + (t - start) % (stop - start) for t in wanted]
        with self._changed:
            self._wanted = [t for t in wanted if t < stop]
            # What was passed long ago may have left the layers' own caches.
            self._ready.intersection_update({*self._wanted, *range(due - _FRAMES, due)})
            self._changed.notify_all()

    def reached(self, due: int, floor: int) -> int | None:
        """Return the last frame up to `due`, from `floor` on, that was read; None for none."""
        if not self._job.busy:
            return due
        with self._changed:
            for t in range(due, max(floor, due - _FRAMES) - 1, -1):
                if t in self._ready:
                    return t
        return None

    def close(self, timeout: float = 0.0) -> bool:
        """Read no more."""
        self._job.cancel()
        with self._changed:
            self._wanted = []
            self._changed.notify_all()
        return self._job.close(timeout)
