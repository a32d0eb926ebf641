"""Playing at the native rate: which frame is due, and when to look again."""

from __future__ import annotations

import time
from collections.abc import Callable

from psygnal import Signal

from napari_flowrvs.presenters.desk import Desk

__all__ = ["Player"]

#: For a video without a rate of its own.
_RATE = 10.0


class Player:
    """Goes through the desk's frames in real time; it leaves frames out, never the beat.

    The interface calls `tick` and, after the number of seconds that it returns, calls it
    again. A frame that takes long to show is given as long again for everything else.

    Parameters
    ----------
    desk : Desk
        Whose frames are shown; a chosen range is repeated.
    clock : callable
        Seconds, monotonic.
    """

    #: True when it begins, False when it stops.
    playing_changed = Signal(bool)

    def __init__(self, desk: Desk, clock: Callable[[], float] = time.monotonic) -> None:
        self.desk = desk
        self._clock = clock
        self._playing = False
        self._began = 0.0
        self._first = 0
        desk.project_changed.connect(self._on_project)

    @property
    def playing(self) -> bool:
        """True between `start` and `stop`."""
        return self._playing

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.desk.rate or _RATE

    def _bounds(self) -> tuple[int, int]:
        return self.desk.span

    def start(self) -> None:
        """Play from the frame that is shown, or from the start when that is the last one."""
        start, stop = self._bounds()
        if stop - start < 2:
            return
        self._first = self.desk.frame
        if not start <= self._first < stop - 1:
            self._first = start
        self._began = self._clock()
        if not self._playing:
            self._playing = True
            self.playing_changed.emit(True)

    def stop(self) -> None:
        """Stay on the frame that is shown."""
        if self._playing:
            self._playing = False
            self.playing_changed.emit(False)

    def toggle(self) -> None:
        """Start or stop."""
        if self._playing:
            self.stop()
        else:
            self.start()

    def tick(self) -> float | None:
        """Show the frame that is due.

        Returns
        -------
        float or None
            Seconds until the next call; None once it has stopped.
        """
        if not self._playing:
            return None
        start, stop = self._bounds()
        before = self._clock()
        due = self._first + int((before - self._began) * self.rate)
        if due >= stop:
            if not self.desk.span_chosen:
                self.desk.go_to(stop - 1)
                self.stop()
                return None
            self._first, self._began = start, before
            due = start
        if due != self.desk.frame:
            self.desk.go_to(due)
        after = self._clock()
        # Where the next frame begins; the quarter of a millisecond keeps rounding out.
        wanted = self._began + (due - self._first + 1) / self.rate + 0.00025
        return max(wanted - after, after - before, 0.0)

    def _on_project(self, _project: object) -> None:
        self.stop()
