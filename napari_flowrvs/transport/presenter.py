"""Playing at the native rate: which frame is due, and when to look again."""

from __future__ import annotations

import time
from collections.abc import Callable

from psygnal import Signal

from napari_flowrvs.desk import Desk
from napari_flowrvs.transport.prefetch import Prefetch

__all__ = ["Player"]

#: For a video without a rate of its own.
_RATE = 10.0

#: Seconds after which to look again for a frame that is still being read.
_AGAIN = 0.005

#: The most that being called late puts off the next frame, seconds.
_LATE = 0.25


class Player:
    """Goes through the desk's frames in real time; it leaves frames out, never the beat.

    The interface calls `tick` and, after the number of seconds that it returns, calls it
    again. A frame that takes long to show, or to draw, which is when the next call is late,
    is given as long again for everything else.

    Parameters
    ----------
    desk : Desk
        Whose frames are shown; a chosen range is repeated.
    clock : callable
        Seconds, monotonic.
    prefetch : Prefetch, optional
        Reads frames before they are due; one that was not read yet is not shown.
    """

    #: True when it begins, False when it stops.
    playing_changed = Signal(bool)

    def __init__(
        self,
        desk: Desk,
        clock: Callable[[], float] = time.monotonic,
        prefetch: Prefetch | None = None,
    ) -> None:
        self.desk = desk
        self._prefetch = prefetch
        self._clock = clock
        self._playing = False
        self._began = 0.0
        self._first = 0
        self._due: float | None = None
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
        self._due = None
        if not self._playing:
            self._playing = True
            if self._prefetch is not None:
                self._prefetch.start()
            self.playing_changed.emit(True)

    def stop(self) -> None:
        """Stay on the frame that is shown."""
        if self._playing:
            self._playing = False
            if self._prefetch is not None:
                self._prefetch.close()
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
        late = 0.0 if self._due is None else min(before - self._due, _LATE)
        self._due = None
        due = self._first + int((before - self._began) * self.rate)
        if due >= stop:
            if not self.desk.span_chosen:
                if self._reached(stop - 1) != stop - 1:
                    return _AGAIN
                self.desk.go_to(stop - 1)
                self.stop()
                return None
            self._first, self._began = start, before
            due = start
        shown = self._reached(due)
        if shown is None:
            return _AGAIN
        if shown != self.desk.frame:
            self.desk.go_to(shown)
        after = self._clock()
        # Where the next frame begins; the quarter of a millisecond keeps rounding out.
        wanted = self._began + (due - self._first + 1) / self.rate + 0.00025
        wait = max(wanted - after, after - before, late, 0.0)
        self._due = after + wait
        return wait

    def _reached(self, due: int) -> int | None:
        """Return the frame that can be shown without waiting; None to stay."""
        if self._prefetch is None:
            return due
        start, stop = self._bounds()
        self._prefetch.want(due, start, stop, repeat=self.desk.span_chosen)
        before = self.desk.frame
        return self._prefetch.reached(due, before if before < due else start)

    def _on_project(self, _project: object) -> None:
        self.stop()
