"""Counts become events with a time left; a token stops what asks it."""

from __future__ import annotations

import threading

import pytest

from flowrvs import progress
from flowrvs.errors import Cancelled
from flowrvs.progress import CancelToken, Progress, ProgressClock


def test_the_share_that_is_finished() -> None:
    assert [Progress(done, 4).fraction for done in (0, 1, 4)] == [0.0, 0.25, 1.0]
    assert Progress(0, 0).fraction == 1.0, "nothing to do is done"


def test_the_time_left_is_that_of_this_run_s_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run that goes on found finished took no time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = ProgressClock(10, done=4)
    now[0] += 3
    assert clock.event("loading") == Progress(4, 10, "loading", 3.0, None)
    now[0] += 1
    assert clock.advance("a") == Progress(5, 10, "a", 4.0, 20.0)
    assert clock.advance("b", n=3) == Progress(8, 10, "b", 4.0, 2.0)
    assert clock.event() == Progress(8, 10, "", 4.0, 2.0) and clock.done == 8
    assert clock.advance(n=5) == Progress(10, 10, "", 4.0, 0.0), "never more than all"
    assert ProgressClock(3).event() == Progress(0, 3, "", 0.0, None)


def test_a_token_stops_what_asks_it() -> None:
    token = CancelToken()
    assert not token.cancelled
    token.raise_if_cancelled()
    thread = threading.Thread(target=token.cancel)
    thread.start()
    thread.join()
    assert token.cancelled and not CancelToken().cancelled
    for _ in range(2):
        with pytest.raises(Cancelled, match="^Stopped on request; what is finished is kept.$"):
            token.raise_if_cancelled()
