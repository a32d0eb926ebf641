"""Which tracker picks and spreads, looked for and loaded away from the interface's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import cast

from psygnal import Signal

from flowrvs.checkpoints.registry import is_whole
from flowrvs.editing.pieces import PieceRunner
from flowrvs.editing.trackers import Encodings
from flowrvs.inference.loading import CLASSICAL, default_tracker, tracker_names
from flowrvs.plugins import find_plugin, load_tracker, plugins
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from flowrvs.protocols import Tracker
from napari_flowrvs.ahead import import_ahead
from napari_flowrvs.find.presenter import FIRST_WORKER
from napari_flowrvs.job import Job, Runner, run_here

__all__ = ["CLASSICAL", "Trackers", "on_cluster"]


class Trackers:
    """The trackers that there are, and the one that is chosen; one at a time is loaded.

    Parameters
    ----------
    runner : Runner
        Where it is looked for them: the first look at all packages takes a moment.
    load : callable
        Loads a tracker by name.
    """

    #: Others are known, or another one is chosen.
    changed = Signal()
    #: Segmenters of other packages, by name, and why some cannot be used: dict of str to str.
    segmenters_found = Signal(dict)

    def __init__(
        self, runner: Runner = run_here, load: Callable[[str], Tracker] = load_tracker
    ) -> None:
        self.job = Job(runner)
        self.name = CLASSICAL
        #: By name, and whether it is ready as far as is known.
        self.known: dict[str, bool] = {CLASSICAL: True}
        self._load = load
        self._lock = threading.Lock()
        self._loaded: tuple[str, Encodings] | None = None

    def look(self) -> None:
        """Look for models of other packages, and take a tracker whose weights are here."""

        def work(_cancel: CancelToken, _report: ProgressCallback) -> Generator[object, None, None]:
            # SAM 3 by noun phrase is in the folder of its tracker.
            own = is_whole("sam3-tracker")
            found = {p.name: p.fault for p in plugins("segmenter") if own or not p.ours}
            yield tracker_names(), default_tracker(), found

        if not self.job.busy:
            self.job.start(work, self._on_found)

    def _on_found(self, item: object) -> None:
        known, name, segmenters = cast(tuple[dict[str, bool], str, dict[str, str]], item)
        self.known = known
        if self.name == CLASSICAL:
            self.name = name
        self._begin()
        self.segmenters_found.emit(segmenters)

    def choose(self, name: str) -> None:
        """Take another one; it is loaded when it is needed."""
        if name != self.name:
            self.name = name
            self._begin()

    def _begin(self) -> None:
        """Tell of the tracker, and import what it is made of: now, while nobody draws yet."""
        self.changed.emit()
        plugin = find_plugin("tracker", self.name)
        if plugin is not None and self.known.get(self.name) and self._load is load_tracker:
            import_ahead(plugin.target.partition(":")[0], self.name)

    def text(self, name: str) -> str:
        """Return how a list shows one."""
        return name if self.known.get(name, False) else f"{name} (not installed)"

    def encodings(self, name: str, report: ProgressCallback) -> Encodings | None:
        """Return a tracker, loaded, with what it keeps of frames; None for the classical way.

        Called in jobs; whoever comes second waits.
        """
        if name == CLASSICAL:
            return None
        with self._lock:
            if self._loaded is None or self._loaded[0] != name:
                report(Progress(0, 0, f"Loading {name}"))
                self._loaded = None  # before the next: both may not fit
                self._loaded = name, Encodings(self._load(name))
            return self._loaded[1]

    def close(self, timeout: float = 1.0) -> bool:
        """Stop looking."""
        return self.job.close(timeout)


@contextmanager
def on_cluster(
    scheduler: str | None, tracker: str | None, cancel: CancelToken, report: ProgressCallback
) -> Iterator[PieceRunner | None]:
    """Give what spreads on a cluster; None where this computer is to spread.

    For jobs: the first worker is waited for, and so is the end of the connection.
    """
    if scheduler is None:
        yield None
        return
    from flowrvs.inference.cluster import SpreadCluster

    def notice(line: str) -> None:
        report(Progress(0, 0, line))

    notice(f"Asking the cluster at {scheduler}")
    with closing(
        SpreadCluster(scheduler, tracker, notice=notice, cancel=cancel, timeout=FIRST_WORKER)
    ) as cluster:
        yield cluster
