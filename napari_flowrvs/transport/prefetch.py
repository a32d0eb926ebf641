"""Frames read a little before they are shown, so that showing them takes no time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

from flowrvs.progress import CancelToken, ProgressCallback
from napari_flowrvs.job import Job, Runner

__all__ = ["Prefetch", "Reader"]

#: So many frames at most, and so many bytes of all layers together.
_FRAMES = 12
_BYTES = 96 * 2**20


@dataclass(frozen=True, slots=True)
class Reader:
    """What brings frames of a layer to where they are shown from without waiting.

    Attributes
    ----------
    read : callable
        ``read(t)`` brings a frame.
    frame_bytes : int
        What a frame takes there.
    keep : callable
        ``keep(frames)`` lets go of all others.
    """

    read: Callable[[int], object]
    frame_bytes: int = 0
    keep: Callable[[Collection[int]], object] = lambda frames: None


class Prefetch:
    """Reads the frames after the one that is due, on a thread of its own.

    What is read is not kept here but by the layers, which hold a few frames of a large
    picture and more of a small one.

    Parameters
    ----------
    readers : callable
        Gives, at the start of playing, a `Reader` of each layer that is shown.
    runner : Runner
        Where they read; one that returns at once.
    """

    def __init__(self, readers: Callable[[], Sequence[Reader]], runner: Runner) -> None:
        self._readers = readers
        self._job = Job(runner)
        self._changed = threading.Condition()
        self._ready: set[int] = set()
        self._wanted: list[int] = []
        self._count = _FRAMES

    def start(self) -> None:
        """Begin; nothing is read before `want`."""
        self.close(0.0)
        readers = tuple(self._readers())
        if not readers:
            return
        together = sum(reader.frame_bytes for reader in readers)
        # The layers' caches must not lose one before it is shown.
        self._count = max(3, min(_FRAMES, _BYTES // max(together, 1)))
        ready: set[int] = set()
        with self._changed:
            self._ready, self._wanted = ready, []

        def work(cancel: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
            try:
                while True:
                    with self._changed:
                        frame = next((t for t in self._wanted if t not in ready), None)
                        if frame is None:
                            self._changed.wait(0.1)
                        kept = {*self._wanted, *ready}
                    cancel.raise_if_cancelled()
                    if frame is not None:
                        for reader in readers:
                            try:
                                reader.read(frame)
                                reader.keep(kept)
                            except Exception:  # whoever shows it says what is wrong with it
                                continue
                        with self._changed:
                            ready.add(frame)
                        yield None
            finally:
                for reader in readers:
                    reader.keep(())

        self._job.start(work, lambda _frame: None)

    def want(self, due: int, start: int, stop: int, *, repeat: bool) -> None:
        """Say which frame is due, and which range is played."""
        wanted = [due + i for i in range(self._count)]
        if repeat:
            wanted = [start + (t - start) % (stop - start) for t in wanted]
        with self._changed:
            self._wanted = [t for t in wanted if t < stop]
            # What was passed long ago may have left the layers' own caches.
            self._ready.intersection_update({*self._wanted, *range(due - self._count, due)})
            self._changed.notify_all()

    def reached(self, due: int, floor: int) -> int | None:
        """Return the last frame up to `due`, from `floor` on, that was read; None for none."""
        if not self._job.busy:
            return due
        with self._changed:
            for t in range(due, max(floor, due - self._count) - 1, -1):
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
