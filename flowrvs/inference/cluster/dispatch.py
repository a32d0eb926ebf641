"""Handing tasks to a cluster's workers, and getting the answers in order."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flowrvs import __version__, errors
from flowrvs.errors import ClusterError, FlowRVSError, InputError
from flowrvs.inference.cluster.link import Link, Scheduler
from flowrvs.inference.cluster.wire import pack, pack_frames, unpack
from flowrvs.progress import CancelToken

if TYPE_CHECKING:
    from flowrvs.video import Video

__all__ = ["Dispatcher", "Reply", "Session", "Task", "message_for"]

#: Tasks that a worker holds at once: one that it computes, and the next.
_HELD = 2
#: Workers that may end while they compute the same task.
_TRIES = 3
_TICK = 0.25
#: Seconds that a scheduler which is gone is called before it is called anew.
_CALL = 5.0
#: Bytes of a task's frames that are sent at most; they are read into memory.
_SENT = 2**31

Reply = tuple[dict[str, Any], list[memoryview]]


class Task(Protocol):
    """What a worker is asked."""

    @property
    def about(self) -> str:
        """What it is, in the user's words."""
        ...

    def message(self, *, send_frames: bool) -> bytes:
        """Return the message for a worker, with the frames if it does not see the file."""
        ...


def message_for(
    header: dict[str, Any],
    blobs: Sequence[bytes],
    video: Video,
    frames: Sequence[int],
    *,
    send_frames: bool,
) -> bytes:
    """Return a message about frames of a video: where the video is, or else the frames.

    Parameters
    ----------
    header, blobs
        What else is said. The frames are the last blob.
    video : Video
    frames : sequence of int
        Native frames that may be read.
    send_frames : bool
        The worker does not see the file.
    """
    recipe, size = video.recipe, video.shape[1:]
    if send_frames or recipe is None or video.info.fingerprint is None:
        if len(frames) * math.prod(size) > _SENT:
            raise InputError(
                f"{len(frames)} frames are too many to be sent to a worker that does not see "
                f"{video.info.path}: put the video where the workers see it, under the same path."
            )
        sent = np.empty((len(frames), *size), np.uint8)
        for place, t in enumerate(frames):
            sent[place] = video.read(t, t + 1)[0]
        header = header | {"video": None, "shape": sent.shape}
        return pack(header, [*blobs, pack_frames(sent)])
    content = [video.info.fingerprint, *video.shape]
    return pack(header | {"video": {"recipe": recipe, "content": content}}, blobs)


class Session:
    """A scheduler with what all its workers are told, and the connection that waits for a run.

    Parameters
    ----------
    scheduler : Scheduler or str
        A string is checked by `Scheduler.at`.
    about : dict
        What every message says.
    patience : float
        Seconds to wait for a scheduler that goes away.
    notice : callable, optional
        Gets one line for what a person should know; by default the logger ``flowrvs``.
    afterwards : str
        What becomes of the work, for the line that says that the scheduler does not come back.
    """

    def __init__(
        self,
        scheduler: Scheduler | str,
        about: dict[str, Any],
        *,
        patience: float = 300.0,
        notice: Callable[[str], None] | None = None,
        afterwards: str = "what is finished is kept, and the same command goes on from there",
    ) -> None:
        self._afterwards = afterwards
        self.scheduler = Scheduler.at(scheduler) if isinstance(scheduler, str) else scheduler
        self._about = about
        self._patience = patience
        self._notice = notice or logging.getLogger("flowrvs").warning
        self._idle: Dispatcher | None = None
        self._ran = False

    def header(self, ask: str) -> dict[str, Any]:
        """Return how a message begins."""
        return {"flowrvs": __version__, "ask": ask, **self._about}

    def ask(
        self, ask: str, cancel: CancelToken | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Return what the first worker that can says of itself.

        Parameters
        ----------
        ask : str
            What it is asked.
        cancel : CancelToken, optional
            Stops the waiting for a first worker.
        timeout : float, optional
            Seconds to wait for it.
        """
        with self.dispatcher(cancel or CancelToken()) as dispatcher:
            ((_, reply),) = dispatcher.results([_Question(self.header(ask))], timeout=timeout)
            if isinstance(reply, FlowRVSError):
                raise reply
        self._ran = False
        return reply[0]

    @contextmanager
    def dispatcher(self, cancel: CancelToken) -> Iterator[Dispatcher]:
        """Give what hands out tasks; unless an error ends it, the next run goes on with it."""
        dispatcher, self._idle = self._idle, None
        if dispatcher is None:
            dispatcher = Dispatcher(
                self.scheduler,
                patience=self._patience,
                notice=self._notice,
                afterwards=self._afterwards,
                cancel=cancel,
            )
            self._end = weakref.finalize(self, dispatcher.close)
        dispatcher.cancel = cancel
        if self._ran:  # who could not compute then may be able to now
            dispatcher.forget()
        self._ran = True
        try:
            yield dispatcher
        except BaseException:
            self._end()
            raise
        self._idle = dispatcher  # connecting takes a second

    def close(self) -> None:
        """End the connection; a later run makes another one."""
        if self._idle is not None:
            self._idle = None
            self._end()


@dataclass(frozen=True, slots=True)
class _Question:
    """Asks what a worker has."""

    header: dict[str, Any]
    about: str = "the first answers"

    def message(self, *, send_frames: bool) -> bytes:
        return pack(self.header)


class Dispatcher:
    """Keeps a cluster's workers busy, from a first question to the end of a run.

    Workers are given tasks one by one, so that it is known who has what: a worker that ends
    gives back its own, one that cannot compute is left out from then on, and one that comes
    is used. Where the scheduler itself is gone, it is looked for until `patience` ends.

    Parameters
    ----------
    scheduler : Scheduler
    patience : float
        Seconds to wait for a scheduler that is gone.
    notice : callable
        Gets one line for everything that a person should know.
    afterwards : str
        See `Session`.
    cancel : CancelToken

    Attributes
    ----------
    cancel : CancelToken
        May be replaced between two calls of `results`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        patience: float,
        notice: Callable[[str], None],
        afterwards: str,
        cancel: CancelToken,
    ) -> None:
        self._afterwards = afterwards
        self._scheduler = scheduler
        self._patience = patience
        self._notice = notice
        self.cancel = cancel
        self._link = Link(scheduler)
        self._workers: list[str] = []
        self._alone = False
        self._unfit: dict[str, str] = {}
        self._blind: set[str] = set()  # workers that do not see the videos' files
        self._running: dict[int, tuple[int, str]] = {}  # of a submission: task and worker
        self._submissions = 0
        self._ended: dict[int, int] = {}  # workers that ended with a task
        self._tasks: dict[int, Task] = {}  # that are not finished
        self._waiting: list[int] = []
        self._replies: dict[int, list[tuple[Task, Reply | FlowRVSError]]] = {}

    def forget(self) -> None:
        """Forget what workers could not do, or see, of an earlier run."""
        self._unfit.clear()
        self._blind.clear()

    def close(self) -> None:
        """Take back what is under way and end the connection."""
        self._link.close()

    def results(
        self,
        tasks: Iterable[Task],
        *,
        timeout: float | None = None,
        following: Callable[[Any, Reply], tuple[Reply, Task | None]] | None = None,
    ) -> Generator[tuple[Any, Reply | FlowRVSError], None, None]:
        """Yield every task with its answer, in order; an error where no worker could answer.

        It may be called again when all was yielded.

        Parameters
        ----------
        tasks : iterable of Task
            Taken as they are needed.
        timeout : float, optional
            Seconds to wait for a first worker.
        following : callable, optional
            Returns what is to be kept of an answer until its turn comes, and the task, if any, that
            goes on from it, in the place of its own.

        Raises
        ------
        Cancelled
            `cancel` was set.
        ClusterError
            No worker can compute, or the scheduler does not come back.
        """
        source = iter(tasks)
        self._ended.clear()
        self._following = following
        end = math.inf if timeout is None else time.monotonic() + timeout
        added = first = 0
        more = True
        while more or first < added:
            self.cancel.raise_if_cancelled()
            # So far ahead that no worker waits for the slowest, and not so far as to pile up.
            ahead = first + max(4, 2 * _HELD * len(self._usable()))
            while more and added < ahead:
                task = next(source, None)
                if task is None:
                    more = False
                else:
                    self._tasks[added] = task
                    self._waiting.append(added)
                    added += 1
            self._assign()
            while first in self._replies:
                for answered in self._replies.pop(first):
                    yield answered
                    self._assign()
                if first not in self._tasks and first not in self._replies:
                    first += 1
            if more or first < added:
                self._listen()
                if not self._workers and time.monotonic() > end:
                    raise ClusterError(
                        f"{self._scheduler.address} has no workers: start some, and run again."
                    )

    def _usable(self) -> list[str]:
        return [worker for worker in self._workers if worker not in self._unfit]

    def _assign(self) -> None:
        load = dict.fromkeys(self._usable(), 0)
        for _, worker in self._running.values():
            if worker in load:
                load[worker] += 1
        self._waiting.sort()
        while self._waiting and load:
            worker = min(load, key=lambda name: load[name])
            if load[worker] >= _HELD:
                return
            number = self._waiting.pop(0)
            try:
                message = self._tasks[number].message(send_frames=worker in self._blind)
            except FlowRVSError as error:  # its frames cannot be read here
                self._answered(number, error)
                continue
            self._submissions += 1
            self._running[self._submissions] = number, worker
            load[worker] += 1
            self._link.submit(self._submissions, worker, message)

    def _listen(self) -> None:
        got = self._link.get(_TICK)
        if got is None:
            return
        event, blob = got
        if event["event"] == "workers":
            self._meet(list(event["workers"]))
        elif event["event"] == "lost":
            self._find_again()
        else:
            number, worker = self._running.pop(event["id"], (None, ""))
            if number is None:
                return
            if event["event"] == "done":
                self._take(number, worker, blob)
            elif event["event"] == "again":
                self._waiting.append(number)
            else:
                self._leave_out(
                    worker,
                    f"it could not run flowrvs ({event['reason']}): install the same there",
                    number,
                )

    def _meet(self, workers: list[str]) -> None:
        self._workers = workers
        for submission, (number, worker) in list(self._running.items()):
            if worker not in workers:
                del self._running[submission]
                self._link.cancel([submission])
                self._waiting.append(number)
                self._ended[number] = self._ended.get(number, 0) + 1
                task = self._tasks[number]
                if self._ended[number] >= _TRIES:
                    raise ClusterError(
                        f"{_TRIES} workers ended while they computed {task.about}, perhaps for "
                        "want of memory: give workers more, or use a smaller window."
                    )
                self._notice(f"The worker {worker} has gone; {task.about} are computed again.")
        self._check_workers()

    def _check_workers(self) -> None:
        if self._workers and not self._usable() and not self._running:
            reasons = dict.fromkeys(self._unfit[worker] for worker in self._workers)
            raise ClusterError(f"No worker can compute this: {'; '.join(reasons)}.")
        if not self._workers and not self._alone:
            self._notice(f"{self._scheduler.address} has no workers; waiting for one.")
        self._alone = not self._workers

    def _take(self, number: int, worker: str, blob: bytes) -> None:
        header, blobs = unpack(blob)
        state = header.get("state")
        if state == "done":
            self._answered(number, (header, blobs))
        elif state == "frames":
            self._blind.add(worker)
            self._waiting.append(number)
        elif state == "unfit":
            self._leave_out(worker, str(header.get("reason")), number)
        else:
            self._answered(number, _error(header))

    def _answered(self, number: int, reply: Reply | FlowRVSError) -> None:
        task, then = self._tasks.pop(number), None
        if self._following is not None and not isinstance(reply, FlowRVSError):
            reply, then = self._following(task, reply)
        self._replies.setdefault(number, []).append((task, reply))
        if then is not None:
            self._tasks[number] = then
            self._waiting.append(number)
            self._ended.pop(number, None)

    def _leave_out(self, worker: str, reason: str, number: int) -> None:
        self._waiting.append(number)
        if worker not in self._unfit:
            self._unfit[worker] = reason.rstrip(".")
            if len(self._usable()) > 0:
                self._notice(f"The worker {worker} is left out: {self._unfit[worker]}.")
        self._check_workers()

    def _find_again(self) -> None:
        """Look for a scheduler that is gone; everything under way is asked again."""
        self._link.close()
        self._waiting += [number for number, _ in self._running.values()]
        self._running.clear()
        self._workers = []
        self._notice(
            f"The scheduler at {self._scheduler.address} has gone; looking for it for "
            f"{self._patience:.0f} seconds."
        )
        end = time.monotonic() + self._patience
        while True:
            self.cancel.raise_if_cancelled()
            left = max(1.0, end - time.monotonic())
            try:
                self._link = Link(replace(self._scheduler, timeout=min(_CALL, left)))
                break
            except ClusterError:
                if time.monotonic() > end:
                    raise ClusterError(
                        f"The scheduler at {self._scheduler.address} has gone and did not come "
                        f"back; {self._afterwards}."
                    ) from None
                time.sleep(_TICK)
        self._notice(f"The scheduler at {self._scheduler.address} is back.")


def _error(header: dict[str, Any]) -> FlowRVSError:
    """Return the error that a worker tells of, of its own class where that is one of ours."""
    kind = getattr(errors, str(header.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, FlowRVSError)):
        kind = ClusterError
    return kind(str(header.get("reason", "A worker failed.")))
