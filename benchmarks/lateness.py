"""What holds an interface up, and whose code it is: the measuring of ``bench_gui.py``."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any

import napari
import numpy as np
import vispy
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QApplication

import flowrvs
import napari_flowrvs
from flowrvs.errors import FlowRVSError

_BEAT = 0.002
_LATE = 0.02
_DEEP = 18
_LONG = 0.05


@dataclass(frozen=True)
class Gap:
    """A time in which no event was handled: seconds by the clock, computed, and by whom."""

    clock: float
    computed: float
    by: dict[str, float] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """Whose code it was, in milliseconds."""
        parts = {**self.by, "waited": self.clock - sum(self.by.values())}
        told = {name: 1e3 * seconds for name, seconds in parts.items() if seconds >= 0.0005}
        return ", ".join(f"{name} {ms:.0f}" for name, ms in told.items())


class Account:
    """Knows whose code the interface's thread is computing, by looking a thousand times a second.

    What was computed since the last look is put down to the innermost of the packages below that
    is on the stack.
    """

    _homes = {
        f"{Path(str(package.__file__)).parent}/": owner
        for package, owner in ((napari, "napari"), (vispy, "napari"))
        + ((flowrvs, "ours"), (napari_flowrvs, "ours"))
    } | {f"{Path(__file__).parent}/": "Qt"}

    def __init__(self, look: Callable[[FrameType | None], None]) -> None:
        self.by: dict[str, float] = {}
        self._look = look
        self._owners: dict[str, str | None] = {}
        self._last = time.thread_time()
        self._collecting = False
        self._main = threading.get_ident()
        self._before = signal.signal(signal.SIGALRM, self._on_time)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        gc.callbacks.append(self._on_garbage)

    def _owner(self, frame: FrameType | None) -> str:
        while frame is not None:
            file = frame.f_code.co_filename
            if file not in self._owners:
                owners = (who for home, who in self._homes.items() if file.startswith(home))
                self._owners[file] = next(owners, None)
            owner = self._owners[file]
            if owner is not None:
                return owner
            frame = frame.f_back
        return "Qt"

    def _put_down(self, owner: str) -> None:
        now = time.thread_time()
        self.by[owner] = self.by.get(owner, 0.0) + now - self._last
        self._last = now

    def _on_time(self, _number: int, frame: FrameType | None) -> None:
        self._put_down("garbage" if self._collecting else self._owner(frame))
        self._look(frame)

    def _on_garbage(self, phase: str, _info: object) -> None:
        if threading.get_ident() == self._main:
            self._put_down("garbage" if self._collecting else self._owner(sys._getframe().f_back))
            self._collecting = phase == "start"

    def take(self) -> dict[str, float]:
        """Return what was computed since it was taken last, by owner."""
        self._put_down("Qt")
        by, self.by = self.by, {}
        return dict(sorted(by.items(), key=lambda pair: -pair[1]))

    def stop(self) -> None:
        """Look no more."""
        gc.callbacks.remove(self._on_garbage)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


class Watchdog(QObject):
    """Beats on the interface's thread, and notes how late each beat was, and because of whom.

    Parameters
    ----------
    stacks : bool
        Look at the stack.
    """

    def __init__(self, stacks: bool = False) -> None:
        super().__init__()
        self.gaps: list[Gap] = []
        self.seen: Counter[tuple[tuple[Any, int], ...]] = Counter()
        self._last = now()
        self._watching = stacks
        self._account = Account(self._look)
        self._timer = QTimer(self)
        self._timer.setInterval(round(1e3 * _BEAT))
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self) -> None:
        clock, computed = since(self._last)
        self.gaps.append(Gap(max(clock - _BEAT, 0.0), computed, self._account.take()))
        self._last = now()

    def _look(self, frame: FrameType | None) -> None:
        if self._watching and time.perf_counter() - self._last[0] > _LATE:
            places = []
            while frame is not None and len(places) < _DEEP:
                places.append((frame.f_code, frame.f_lineno))
                frame = frame.f_back
            self.seen[tuple(places)] += 1

    def start(self) -> None:
        """Forget what was."""
        self.gaps.clear()
        self.seen.clear()
        self._account.take()
        self._last = now()

    def stop(self) -> None:
        """Beat no more."""
        self._timer.stop()
        self._account.stop()

    def say(self, most: int = 12) -> None:
        """Print what was on the stack most often, and forget it."""
        for stack, count in self.seen.most_common(most):
            names = [
                f"{Path(code.co_filename).parent.name}/{Path(code.co_filename).stem}:{line} "
                f"{code.co_name}"
                for code, line in stack
            ]
            print(f"   {count:4} samples: {' < '.join(names)}")
        self.seen.clear()


def wait(seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Let the interface run; False if `until` never came true."""
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        QApplication.processEvents()
        if until():
            return True
        time.sleep(0.0005)
    return False


def now() -> tuple[float, float]:
    """Return seconds by the clock, and those that this thread was computing."""
    return time.perf_counter(), time.thread_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Return both since `start`."""
    clock, computed = now()
    return clock - start[0], computed - start[1]


#: What napari alone takes for the actions of `plain`, and the lines above 50 ms.
ALONE: dict[str, str] = {}
ABOVE: list[tuple[float, str]] = []

#: What counts of a gap.
COUNTS: list[Callable[[Gap], float]] = [attrgetter("clock")]


def told(name: str, gaps: list[Gap], alone: str = "") -> None:
    """Print a row of milliseconds; the interface's own computing in brackets.

    `alone` is what `plain` calls the same; by default it has the same name.
    """
    gaps = gaps or [Gap(0.0, 0.0)]
    rows = np.array([(gap.clock, gap.computed) for gap in gaps]) * 1e3
    parts = [
        f"{word} {clock:6.1f} ({computed:5.1f})"
        for word, (clock, computed) in (
            ("median", np.median(rows, axis=0)),
            ("p95", np.quantile(rows, 0.95, axis=0)),
            ("max", rows.max(axis=0)),
        )
    ]
    worst = max(gaps, key=COUNTS[0])
    line = f"{name:48} {'  '.join(parts)}"
    if worst.by:
        line += f"  the longest: {worst.about}"
    known = ALONE.get(alone or name)
    if known is not None:
        line += f"; napari alone {known}"
    print(line, flush=True)
    if worst.by and COUNTS[0](worst) > _LONG:
        ours = sum(worst.by.get(who, 0.0) for who in ("ours", "Qt"))
        ABOVE.append((ours, f"{name}: {1e3 * COUNTS[0](worst):.0f} ms ({worst.about})"))


class Acting:
    """Does things in the dock, and prints how long each held the interface up."""

    def __init__(self, dog: Watchdog, alone: bool = False) -> None:
        self._dog = dog
        self._alone = alone

    def __call__(
        self,
        name: str,
        action: Callable[[int], object],
        times: int = 10,
        until: Callable[[], bool] | None = None,
        rest: float = 0.4,
        alone: str = "",
    ) -> None:
        """Call ``action(i)`` some times and let the interface come to rest after each."""
        longest: list[Gap] = []
        for i in range(times):
            self._dog.start()
            try:
                action(i)
            except FlowRVSError as error:  # the rest is worth having
                print(f"   refused: {error}")
            wait(120.0 if until else rest, until or (lambda: False))
            if until:
                wait(rest)
            longest.append(max(self._dog.gaps, key=COUNTS[0], default=Gap(0.0, 0.0)))
        told(f"napari alone: {name}" if self._alone else name, longest, alone)
        if self._alone:
            each = [1e3 * COUNTS[0](gap) for gap in longest]
            ALONE[name] = f"{np.median(each):.0f} to {max(each):.0f}"
        self._dog.say()


def count_computing() -> None:
    """Let what was computed count, not the clock: the machine does other things."""
    COUNTS[0] = attrgetter("computed")


def summarise() -> None:
    """Print the lines whose longest was above 50 ms; those first of which most is ours."""
    print(f"-- above {1e3 * _LONG:.0f} ms, and whose that is: {len(ABOVE)} lines")
    for _, line in sorted(ABOVE, reverse=True):
        print(line)
