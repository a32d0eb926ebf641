"""Progress on standard error, and Ctrl-C as a request to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

from flowrvs.progress import CancelToken, Progress

__all__ = ["ProgressLine", "cancel_on_interrupt", "format_progress", "progress_line"]

_QUIET_SECONDS = 10.0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _counts(event: Progress) -> str:
    left = "?" if event.remaining is None else _clock(event.remaining)
    return f"{event.done}/{event.total} [{_clock(event.elapsed)}, {left} left]"


def format_progress(event: Progress) -> str:
    """Return `event` as one line: message, share, count, time, time left."""
    return f"{event.message + ' ' if event.message else ''}{event.fraction:4.0%} {_counts(event)}"


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
        self._bar = _bar(self._stream) if self._stream.isatty() else None
        self._printed = time.monotonic()

    def __call__(self, event: Progress) -> None:
        """Show `event`."""
        if self._bar is not None:
            self._bar.start()
            self._bar.update(
                self._bar.task_ids[0],
                total=event.total or 1,  # nothing counted yet is not 100 %
                completed=event.done,
                description=event.message,
                counts=_counts(event),
            )
        elif event.done >= event.total or time.monotonic() - self._printed >= _QUIET_SECONDS:
            self._printed = time.monotonic()
            print(format_progress(event), file=self._stream, flush=True)

    def close(self) -> None:
        """End the line, so that what follows starts on one of its own."""
        if self._bar is not None:
            self._bar.stop()


def _bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    bar = RichProgress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        TaskProgressColumn(),
        BarColumn(20),
        TextColumn("{task.fields[counts]}", markup=False, table_column=Column(no_wrap=True)),
        console=Console(file=stream, highlight=False),
        refresh_per_second=5,
        redirect_stdout=False,
        redirect_stderr=False,
        expand=True,
    )
    bar.add_task("", counts="")
    return bar


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
    """Give a token that the first Ctrl-C or SIGTERM sets; a second one interrupts at once.

    The task then stops between two model steps, with its files in order. SIGTERM is what
    batch systems and services send before they kill.
    """
    token = CancelToken()
    if threading.current_thread() is not threading.main_thread():
        yield token
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield token
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
