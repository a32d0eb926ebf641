from __future__ import annotations

import io
import os
import signal
import threading

import pytest

from flowrvs.cli._progress import (
    ProgressLine,
    cancel_on_interrupt,
    format_progress,
    progress_line,
)
from flowrvs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_format_names_share_count_and_time_left() -> None:
    text = format_progress(Progress(1, 4, "Window 2 of 4", elapsed=61, remaining=3723))
    assert text == "Window 2 of 4  25% |#####---------------| 1/4 [01:01, 1:02:03 left]"


def test_format_does_not_guess_before_the_first_unit() -> None:
    assert format_progress(Progress(0, 4)).endswith("0/4 [00:00, ? left]")


def test_format_of_nothing_to_do() -> None:
    assert "100%" in format_progress(Progress(0, 0))


def test_terminal_redraws_one_line_and_ends_it() -> None:
    stream = Terminal()
    with progress_line(stream) as show:
        show(Progress(0, 2, "a long message"))
        show(Progress(2, 2, "done"))
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    first, second = text.strip("\r\n").split("\r")
    assert len(second) == len(first)  # what was longer is wiped out


def test_a_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    ProgressLine(stream)(Progress(3, 20000, "Fetching " + "x" * 90, 4000.0, 9000.0))
    line = stream.getvalue().strip("\r")
    assert len(line) == 79
    assert line.startswith("Fetching x") and "… " in line
    assert line.endswith("3/20000 [1:06:40, 2:30:00 left]")


def test_line_is_ended_when_the_work_fails() -> None:
    stream = Terminal()
    with pytest.raises(ValueError, match="broken"), progress_line(stream) as show:
        show(Progress(0, 2))
        raise ValueError("broken")
    assert stream.getvalue().endswith("\n")


def test_log_file_gets_few_lines() -> None:
    stream = io.StringIO()
    show = ProgressLine(stream)
    for done in range(101):
        show(Progress(done, 100))
    show.close()
    assert stream.getvalue().splitlines() == [format_progress(Progress(100, 100))]


def test_first_interrupt_asks_the_second_insists() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), cancel_on_interrupt() as cancel:
        os.kill(os.getpid(), signal.SIGINT)
        assert cancel.cancelled
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_handling_is_left_alone_off_the_main_thread() -> None:
    seen: list[bool] = []

    def work() -> None:
        with cancel_on_interrupt() as cancel:
            seen.append(cancel.cancelled)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
