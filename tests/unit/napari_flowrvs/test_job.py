from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from flowrvs.errors import DeviceMemoryError, InputError, VideoError
from flowrvs.progress import CancelToken, Progress, ProgressCallback
from napari_flowrvs.job import Failure, Job, Phase, run_here


def record(job: Job) -> list[Any]:
    seen: list[Any] = []
    job.phase_changed.connect(lambda phase: seen.append(phase))
    job.failed.connect(lambda failure: seen.append(failure))
    job.completed.connect(lambda: seen.append("completed"))
    job.cancelled.connect(lambda: seen.append("cancelled"))
    return seen


def test_runs_to_its_end() -> None:
    job = Job(run_here)
    seen = record(job)
    progress: list[Progress] = []
    job.progressed.connect(progress.append)
    items: list[object] = []

    def work(token: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
        assert job.phase is Phase.RUNNING
        report(Progress(1, 2, "half"))
        yield "a"
        yield "b"

    job.start(work, items.append)
    assert items == ["a", "b"]
    assert seen == [Phase.RUNNING, Phase.IDLE, "completed"]
    assert progress == [Progress(1, 2, "half")]


@pytest.mark.parametrize("error", [RuntimeError("a\nb"), DeviceMemoryError("full"), KeyError("x")])
def test_every_error_is_told_and_the_job_is_free_again(error: Exception) -> None:
    job = Job(run_here)
    seen = record(job)

    def work(token: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
        yield 1
        raise error

    job.start(work, lambda _: None)
    assert seen[:2] == [Phase.RUNNING, Phase.IDLE]
    assert isinstance(seen[2], Failure)
    assert "\n" not in seen[2].summary
    assert "Traceback" in seen[2].details
    job.start(lambda token, report: (_ for _ in ()), lambda _: None)
    assert seen[-1] == "completed"


def test_cancel_closes_the_generator_at_the_next_item() -> None:
    job = Job(run_here)
    seen = record(job)
    closed: list[int] = []

    def work(token: CancelToken, report: ProgressCallback) -> Generator[object, None, None]:
        try:
            for i in range(100):
                yield i
        finally:
            closed.append(i)

    job.start(work, lambda item: job.cancel() if item == 3 else None)
    assert closed == [3]
    assert seen == [Phase.RUNNING, Phase.STOPPING, Phase.IDLE, "cancelled"]


def test_replies_after_close_are_dropped() -> None:
    waiting: list[Any] = []

    class Late:
        def wait(self, timeout: float) -> bool:
            return False

    def runner(work: Any, token: CancelToken, **callbacks: Any) -> Late:
        waiting.append((token, callbacks))
        return Late()

    job = Job(runner)
    seen = record(job)
    items: list[object] = []
    job.start(lambda token, report: (_ for _ in ()), items.append)
    assert not job.close(0)
    token, callbacks = waiting[0]
    assert token.cancelled
    callbacks["item"]("late")
    callbacks["done"](ValueError("late"))
    assert items == []
    assert seen == [Phase.RUNNING, Phase.IDLE], "whoever shows a bar must hear of the end"


def test_our_errors_are_shown_as_they_are_and_others_are_named() -> None:
    assert Failure.of(VideoError("clip.mp4 is empty.")).summary == "clip.mp4 is empty."
    assert Failure.of(ValueError("odd")).summary == "Unexpected ValueError: odd"
    assert Failure.of(MemoryError()).summary == "Unexpected MemoryError"
    # What cannot be asked for is refused; a file that cannot be read has gone wrong.
    kinds = (InputError("no"), VideoError("no"), ValueError("no"))
    assert [Failure.of(error).refused for error in kinds] == [True, False, False]


def test_closing_waits_for_the_task_and_hears_no_more_of_it() -> None:
    started: list[Any] = []
    waits: list[float] = []

    class Task:
        def wait(self, timeout: float) -> bool:
            waits.append(timeout)
            return True

    def runner(work: Any, token: CancelToken, **callbacks: Any) -> Task:
        started.append((token, callbacks))
        return Task()

    job = Job(runner)
    seen, heard = record(job), list[Progress]()
    job.progressed.connect(heard.append)
    job.cancel()
    job.start(lambda token, report: (_ for _ in ()), lambda _: None)
    with pytest.raises(RuntimeError, match="a task is running"):
        job.start(lambda token, report: (_ for _ in ()), lambda _: None)
    token, callbacks = started[0]
    assert not token.cancelled, "of the one before, nothing is left"
    callbacks["progress"](Progress(1, 2, "heard"))
    job.cancel()
    job.cancel()
    assert token.cancelled and seen == [Phase.RUNNING, Phase.STOPPING]
    assert job.close(2.5) and waits == [2.5]
    callbacks["progress"](Progress(2, 2, "late"))
    assert heard == [Progress(1, 2, "heard")] and seen[2:] == [Phase.IDLE]
    assert job.close(9.0) and waits == [2.5], "there is nothing to wait for"
    job.start(lambda token, report: (_ for _ in ()), lambda _: None)
    assert not started[1][0].cancelled
    started[1][1]["done"](None)
    assert seen[-2:] == [Phase.IDLE, "completed"] and job.close() and waits == [2.5]
