"""The only thread code of the plugin: a runner that calls back on the interface's thread.

napari's ``thread_worker`` takes a RuntimeError (a full GPU is one) for "the worker was
deleted" and then says nothing at all, never closes its generator, and redirects warnings
for the whole process while it runs; hence this small one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qtpy.QtCore import QCoreApplication, QEvent, QObject, Qt, QTimer, Signal, Slot

from flowrvs.progress import CancelToken, Progress, ProgressCallback
from napari_flowrvs.job import Work, consume

__all__ = ["ThreadTask", "run_in_thread", "run_soon"]

#: How long a step may hold the interface up before it goes on alone.
_SOON_S = 0.025

#: The shortest time between two events of progress: quicker ones are passed over.
_PACE_S = 0.04

# A task must live until its last message was delivered, whoever forgot it.
_alive: set[ThreadTask] = set()


class _Mailbox(QObject):
    """Carries messages to the thread that it was made on."""

    posted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.posted.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    @Slot(object)
    def _deliver(self, message: Callable[[], None]) -> None:
        message()

    def post(self, message: Callable[[], None]) -> None:
        """Call `message` on the mailbox's thread, in order, soon."""
        try:
            self.posted.emit(message)
        except RuntimeError:
            # The application has gone and took the mailbox along: nobody is listening.
            return


class ThreadTask:
    """Work on a thread of its own.

    Parameters
    ----------
    work : callable
        See :data:`napari_flowrvs.job.Work`.
    token : CancelToken
        Also cancelled when the application quits.
    item, progress, done : callable
        Called on the thread that made the task; `done` once, last. Of many events of
        progress only the latest are passed on, twenty-five a second.
    """

    def __init__(
        self,
        work: Work,
        token: CancelToken,
        item: Callable[[object], None],
        progress: ProgressCallback,
        done: Callable[[BaseException | None], None],
    ) -> None:
        self._mailbox = _Mailbox()
        self._work = work
        self._token = token
        self._item = item
        self._progress = progress
        self._event: Progress | None = None
        self._posting = threading.Lock()
        self._reported = 0.0
        self._done = done
        # A daemon, so that a model step of a minute does not keep a closed napari alive:
        # the store survives being killed at any moment.
        self._thread = threading.Thread(target=self._run, name="flowrvs", daemon=True)
        _alive.add(self)
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(token.cancel)
        self._thread.start()

    def _run(self) -> None:
        error = consume(self._work, self._token, self._post_item, self._post_progress)
        self._mailbox.post(lambda: self._finish(error))

    def _post_item(self, part: object) -> None:
        self._mailbox.post(lambda: self._item(part))

    def _post_progress(self, event: Progress) -> None:
        with self._posting:
            waiting, self._event = self._event is not None, event
        if not waiting:
            self._mailbox.post(self._report)

    def _report(self) -> None:
        """Pass the latest event on, or wait for its time."""
        early = self._reported + _PACE_S - time.monotonic()
        if early > 0:
            QTimer.singleShot(max(1, round(1e3 * early)), self._report)
            return
        with self._posting:
            event, self._event = self._event, None
        if event is not None:
            self._reported = time.monotonic()
            self._progress(event)

    def _finish(self, error: BaseException | None) -> None:
        _alive.discard(self)
        with self._posting:
            self._event = None
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.disconnect(self._token.cancel)
        self._done(error)

    def deliver(self) -> None:
        """Call back now what was posted so far; on the thread that made the task."""
        QCoreApplication.sendPostedEvents(self._mailbox, QEvent.Type.MetaCall.value)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; True once the work has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


def run_in_thread(
    work: Work,
    token: CancelToken,
    *,
    item: Callable[[object], None],
    progress: ProgressCallback,
    done: Callable[[BaseException | None], None],
) -> ThreadTask:
    """Run `work` on a thread of its own; a :class:`~napari_flowrvs.job.Runner`."""
    return ThreadTask(work, token, item, progress, done)


def run_soon(
    work: Work,
    token: CancelToken,
    *,
    item: Callable[[object], None],
    progress: ProgressCallback,
    done: Callable[[BaseException | None], None],
) -> ThreadTask:
    """Run `work` on a thread of its own, and wait for it while nobody would notice.

    Work of less than 25 ms has called back when this returns, as if it had run here: no
    button was disabled and no bar shown for it.
    """
    task = ThreadTask(work, token, item, progress, done)
    if task.wait(_SOON_S):
        task.deliver()
    return task
