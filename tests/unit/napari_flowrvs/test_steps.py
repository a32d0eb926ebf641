"""Steps in their order, away from the interface; and frames read ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton, QWidget

from flowrvs.errors import InputError
from flowrvs.progress import Progress
from napari_flowrvs.job import consume
from napari_flowrvs.steps import Steps
from napari_flowrvs.transport.prefetch import Prefetch, Reader
from napari_flowrvs.widgets.parts import ProgressLine, counted, enable, time_left
from napari_flowrvs.widgets.table import Rows
from napari_flowrvs.worker import run_in_thread, run_soon


def test_a_short_step_has_ended_when_it_was_asked_for(qtbot: Any) -> None:
    steps, busy, got = Steps(run_soon), [], []
    steps.busy_changed.connect(busy.append)
    # A machine under load may hold one up; not ten.
    for _ in range(10):
        before = len(got)
        steps.ask(lambda: steps.run("short", lambda c, r: threading.current_thread(), got.append))
        if len(got) > before:
            break
        qtbot.waitUntil(lambda: not steps.busy, timeout=5_000)
        busy.clear()
    assert got[-1] is not threading.main_thread() and not busy and not steps.busy


def test_a_long_step_leaves_the_interface_alone_and_keeps_the_order(qtbot: Any) -> None:
    steps, gate = Steps(run_soon), threading.Event()
    busy: list[bool] = []
    done: list[str] = []
    steps.busy_changed.connect(busy.append)
    begin = time.perf_counter()
    steps.ask(lambda: steps.run("long", lambda c, r: gate.wait(20), lambda _: done.append("long")))
    assert time.perf_counter() - begin < 10 and busy == [True] and steps.busy
    for name in ("second", "third"):
        steps.ask(
            lambda name=name: steps.run(
                name, lambda c, r: None, lambda _, name=name: done.append(name)
            )
        )
    assert not done
    gate.set()
    qtbot.waitUntil(lambda: len(done) == 3, timeout=5_000)
    qtbot.waitUntil(lambda: not steps.busy, timeout=5_000)
    assert done == ["long", "second", "third"] and busy == [True, False]


def test_what_waits_behind_an_error_is_dropped(qtbot: Any) -> None:
    steps, gate = Steps(run_soon), threading.Event()
    said: list[str] = []
    done: list[object] = []
    steps.job.failed.connect(lambda failure: said.append(failure.summary))

    def fail(cancel: object, report: object) -> None:
        gate.wait(20)
        raise InputError("That cannot be.")

    steps.ask(lambda: steps.run("fail", fail, done.append))
    steps.ask(lambda: steps.run("next", lambda c, r: None, done.append))
    gate.set()
    qtbot.waitUntil(lambda: bool(said), timeout=5_000)
    assert said == ["That cannot be."] and not done and not steps.busy


def test_only_so_many_steps_wait(qtbot: Any) -> None:
    steps, gate = Steps(run_soon), threading.Event()
    for _ in range(9):
        steps.ask(lambda: steps.run("long", lambda c, r: gate.wait(20), lambda _: None))
    with pytest.raises(InputError, match="wait a moment"):
        steps.ask(lambda: None)
    gate.set()
    assert steps.close()


def test_the_bar_comes_late_and_only_if_it_is_needed(qtbot: Any) -> None:
    line = ProgressLine()
    qtbot.addWidget(line)
    line.show()
    line.show_late(Progress(0, 0, "short"))
    assert line.bar.isHidden()
    line.say("Undone: stroke")
    line.rest()
    qtbot.wait(260)
    assert line.bar.isHidden() and line.status.text() == "Undone: stroke"
    line.show_late(Progress(0, 0, "long"))
    qtbot.waitUntil(line.bar.isVisible, timeout=3_000)
    assert line.status.text() == "long"
    line.rest()
    assert line.bar.isHidden() and not line.status.text()


def test_a_button_gets_the_focus_back(qtbot: Any) -> None:
    page = QWidget()
    one, two = QPushButton(page), QPushButton(page)
    qtbot.addWidget(page)
    page.show()
    page.activateWindow()
    qtbot.waitUntil(page.isActiveWindow, timeout=3_000)
    one.setFocus()
    enable((one,), False)
    assert not one.isEnabled() and not one.hasFocus()
    enable((one,), True)
    assert one.hasFocus()
    enable((one,), False)
    two.setFocus()
    one_again = QPushButton(page)
    one_again.show()
    one_again.setFocus()
    enable((one,), True)
    assert one_again.hasFocus(), "the user has gone elsewhere"


def test_frames_are_read_ahead_of_the_player(qtbot: Any) -> None:
    gate, read = threading.Semaphore(0), []

    def reader(frame: int) -> None:
        gate.acquire(timeout=20)
        read.append((frame, threading.current_thread()))

    ahead = Prefetch(lambda: [Reader(reader)], run_in_thread)
    ahead.start()
    ahead.want(3, 0, 5, repeat=True)
    assert ahead.reached(3, 0) is None
    gate.release(2)
    qtbot.waitUntil(lambda: ahead.reached(4, 0) == 4, timeout=5_000)
    assert ahead.reached(3, 0) == 3 and ahead.reached(2, 0) is None
    gate.release(50)
    qtbot.waitUntil(lambda: ahead.reached(1, 0) == 1, timeout=5_000)
    assert [frame for frame, _ in read][:4] == [3, 4, 0, 1], "the range is repeated"
    assert all(thread is not threading.main_thread() for _, thread in read)
    assert ahead.close(5.0)
    assert ahead.reached(7, 0) == 7, "nobody reads: whoever shows it does"


def test_a_frame_that_cannot_be_read_stops_nothing(qtbot: Any) -> None:
    def broken(frame: int) -> None:
        raise OSError("gone")

    ahead = Prefetch(lambda: [Reader(broken)], run_in_thread)
    ahead.start()
    ahead.want(0, 0, 9, repeat=False)
    qtbot.waitUntil(lambda: ahead.reached(2, 2) == 2, timeout=5_000)
    assert ahead.close(5.0)


def test_large_frames_are_read_a_few_ahead_and_let_go(qtbot: Any) -> None:
    read: list[int] = []
    kept: list[set[int]] = []
    reader = Reader(read.append, 30 * 2**20, lambda frames: kept.append(set(frames)))
    ahead = Prefetch(lambda: [reader], run_in_thread)
    ahead.start()
    ahead.want(10, 0, 100, repeat=False)
    qtbot.waitUntil(lambda: ahead.reached(12, 12) == 12, timeout=5_000)
    ahead.want(20, 0, 100, repeat=False)
    qtbot.waitUntil(lambda: ahead.reached(22, 22) == 22, timeout=5_000)
    assert read == [10, 11, 12, 20, 21, 22], "three of them, not twelve"
    assert ahead.close(5.0)
    assert {20, 21, 22} <= kept[-2] and not kept[-2] & {10, 11, 12}
    assert kept[-1] == set(), "nothing is held once it has stopped"


def test_of_many_events_of_progress_the_latest_arrive(qtbot: Any) -> None:
    steps, gate, heard = Steps(run_soon), threading.Event(), []
    steps.job.progressed.connect(heard.append)

    def action(cancel: object, report: Any) -> None:
        for i in range(5000):
            report(Progress(i + 1, 5000, "many"))
        gate.wait(20)

    steps.run("many", action, lambda _: None)
    qtbot.waitUntil(lambda: bool(heard) and heard[-1].done == 5000, timeout=10_000)
    assert len(heard) < 500
    gate.set()
    qtbot.waitUntil(lambda: not steps.busy, timeout=5_000)


def test_it_may_be_too_late_to_stop(qtbot: Any) -> None:
    steps, gate = Steps(run_soon), threading.Event()
    got: list[object] = []
    ended: list[str] = []
    steps.job.cancelled.connect(lambda: ended.append("cancelled"))
    steps.job.completed.connect(lambda: ended.append("completed"))
    steps.run("long", lambda cancel, report: gate.wait(20), got.append)
    steps.job.cancel()
    gate.set()
    qtbot.waitUntil(lambda: not steps.busy, timeout=5_000)
    assert got == [True] and ended == ["completed"], "what is done is not called stopped"


def test_what_waits_is_begun_whatever_became_of_the_one_before() -> None:
    pending: list[Callable[[], None]] = []

    def later(work: Any, token: Any, *, item: Any, progress: Any, done: Any) -> None:
        pending.append(lambda: done(consume(work, token, item, progress)))

    steps, order, busy = Steps(later), list[str](), list[bool]()  # type: ignore[arg-type]
    named: list[str] = []
    said: list[str] = []
    steps.busy_changed.connect(busy.append)
    steps.job.progressed.connect(lambda event: named.append(event.message))
    steps.job.failed.connect(lambda failure: said.append(failure.summary))

    def ask(name: str) -> None:
        steps.ask(lambda: steps.run(name, lambda c, r: name, order.append))

    def refuse() -> None:
        raise InputError("Not now.")

    ask("a")
    steps.ask(lambda: order.append("nothing to do"))
    ask("b")
    pending.pop()()
    assert order == ["a", "nothing to do"] and steps.busy and busy == [True]
    steps.ask(refuse)
    ask("c")
    pending.pop()()
    assert order == ["a", "nothing to do", "b"] and said == ["Not now."]
    assert not pending and not steps.busy and busy == [True, False] and named == ["a", "b"]
    with pytest.raises(InputError, match="Not now"):
        steps.ask(refuse)
    ask("d")
    ask("e")
    assert steps.close(0.0) and not steps.busy
    pending.pop()()
    assert not pending and order[-1] == "b", "what waits is forgotten"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0.2, "1 s"), (8.4, "8 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (130, "2 min 10 s")),
        *((599, "9 min 59 s"), (600, "10 min"), (3599, "59 min"), (3600, "1 h 00 min")),
        (3900, "1 h 05 min"),
    ],
)
def test_how_long_it_takes(seconds: float, said: str) -> None:
    assert time_left(seconds) == said


def test_how_far_it_is(qtbot: Any) -> None:
    line = ProgressLine()
    qtbot.addWidget(line)
    line.show_progress(Progress(3, 12, "Frame 3", remaining=130.0))
    assert (line.bar.value(), line.bar.maximum()) == (3, 12)
    assert line.bar.format() == "25%, 2 min 10 s left" and line.status.text() == "Frame 3"
    line.show_progress(Progress(12, 12, "", remaining=0.0))
    assert line.bar.format() == "100%" and line.status.text() == "Frame 3"
    line.show_progress(Progress(0, 0, "Opening"))
    assert line.bar.maximum() == 0 and not line.bar.isHidden()
    line.say("")
    assert line.bar.isHidden() and line.status.isHidden()
    assert [counted(n, "video") for n in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]


def test_rows_that_stay_keep_their_place(qtbot: Any) -> None:
    class Letters(Rows):
        headers = ("letter", "code")

        def key(self, row: Any) -> object:
            return row[0]

    page = QWidget()
    qtbot.addWidget(page)
    rows, heard = Letters(page), list[Any]()
    rows.modelReset.connect(lambda: heard.append("reset"))
    rows.rowsInserted.connect(lambda _parent, a, b: heard.append(("new", a, b)))
    rows.dataChanged.connect(lambda a, b: heard.append((a.row(), a.column(), b.row(), b.column())))
    for shown, wanted in (
        (["a1", "b1"], [("new", 0, 1)]),
        (["a2", "b1"], [(0, 0, 1, 1)]),
        (["a2", "b1", "c1"], [("new", 2, 2), (0, 0, 1, 1)]),
        (["a2", "b1"], ["reset"]),
        (["b1", "a2"], ["reset"]),
    ):
        heard.clear()
        rows.show_rows(shown)
        assert heard == wanted and rows.rows == shown
    assert (rows.rowCount(), rows.columnCount(), rows.place("a"), rows.place("x")) == (2, 2, 1, -1)
    assert rows.rowCount(rows.index(0, 0)) == 0
    across = Qt.Orientation.Horizontal
    assert [rows.headerData(i, across) for i in (0, 1)] == ["letter", "code"]
