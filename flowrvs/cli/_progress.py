"""Progress on standard error, and Ctrl-C as a request to stop."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import TextIO

from flowrvs.progress import CancelToken, Progress

__all__ = ["ProgressLine", "cancel_on_interrupt", "format_progress", "progress_line"]

_BAR = 20
_QUIET_SECONDS = 10.0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def format_progress(event: Progress) -> str:
    """Return `event` as one line: message, share, bar, count, time, time left."""
    filled = round(event.fraction * _BAR)
    left = "?" if event.remaining is None else _clock(event.remaining)
    return (
        f"{event.message + ' ' if event.message else ''}{event.fraction:4.0%} "
        f"|{'#' * filled}{'-' * (_BAR - filled)}| {event.done}/{event.total} "
        f"[{_clock(event.elapsed)}, {left} left]"
    )


class ProgressLine:
    """Shows :class:`~flowrvs.progress.Progress` events; call it with each one.

    On a terminal it redraws one line; elsewhere (a log file) it prints a line every ten
    seconds, and the last one.

    Parameters
    ----------
    stream : text stream, optional
        Standard error by default, so that results alone are on standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._width = 0
        self._printed = time.monotonic()

    def __call__(self, event: Progress) -> None:
        """Show `event`."""
        text = format_progress(event)
        if self._live:
            over = len(text) - shutil.get_terminal_size().columns + 1
            if over > 0 and event.message:
                # A line that wraps cannot be redrawn.
                kept = max(0, len(event.message) - over - 1)
                text = format_progress(replace(event, message=event.message[:kept] + "…"))
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
            self._stream.flush()
        elif event.done >= event.total or time.monotonic() - self._printed >= _QUIET_SECONDS:
            self._printed = time.monotonic()
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """End the line, so that what follows starts on one of its own."""
        if self._live and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0


@contextlib.contextmanager
def progress_line(stream: TextIO | None = None) -> Iterator[ProgressLine]:
    """Give a :class:`ProgressLine` that is closed at the end, errors included."""
    line = ProgressLine(stream)
    try:
        yield line
    finally:
        line.close()


@contextlib.contextmanager
def cancel_on_interrupt() -> Iterator[CancelToken]:
    """Give a token that the first Ctrl-C sets; a second one interrupts at once.

    The task then stops between two model steps, with its files in order.
    """
    token = CancelToken()
    if threading.current_thread() is not threading.main_thread():
        yield token
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield token
    finally:
        signal.signal(signal.SIGINT, before)
