"""The thread that writes what a person drew, four times a second."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flowrvs.errors import StorageError

__all__ = ["Flusher"]


class Flusher:
    """Calls ``flush()`` soon after `wake`, and again while it fails.

    Parameters
    ----------
    flush : callable
        Writes what is dirty; raises where it could not.
    interval : float
        Seconds from a change until it is written.
    retry : float
        Seconds between tries while the disk refuses.

    Attributes
    ----------
    error : StorageError or None
        Why the last try failed; None when everything is written or on its way.
    """

    def __init__(
        self, flush: Callable[[], None], *, interval: float = 0.25, retry: float = 2.0
    ) -> None:
        self._flush = flush
        self._interval = interval
        self._retry = retry
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._hurried = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.error: StorageError | None = None

    def wake(self) -> None:
        """Have what is dirty written soon; cheap enough for every stamp of a brush."""
        if self._wanted.is_set() or self._stopped.is_set():
            return
        self._wanted.set()
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    # A daemon: a forgotten project must not keep a program from ending.
                    self._thread = threading.Thread(
                        target=self._run, name="flowrvs-flush", daemon=True
                    )
                    self._thread.start()

    def hurry(self) -> None:
        """Have it written now: much is waiting. A disk that refuses is not asked more often."""
        self._hurried.set()
        self.wake()

    def stop(self) -> None:
        """End the thread; what is still dirty is the caller's to flush."""
        self._stopped.set()
        self._hurried.set()
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self.error is None:
                self._hurried.wait(self._interval)
            else:
                self._stopped.wait(self._retry)
            if self._stopped.is_set():
                return
            self._hurried.clear()
            self._wanted.clear()
            try:
                self._flush()
                self.error = None
            except Exception as error:
                # Whatever it was: a thread that died of it would never write again.
                told = _told(error)
                if str(told) != str(self.error):  # the same trouble is told once
                    self.error = told
                self._wanted.set()


def _told(error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return error
    text = " ".join(str(error).split())[:200] or type(error).__name__
    told = StorageError(f"Not everything could be saved: {text} It is kept and tried again.")
    told.__cause__ = error
    return told
