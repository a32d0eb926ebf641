from __future__ import annotations

import io
import re
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
    assert text == "Window 2 of 4  25% 1/4 [01:01, 1:02:03 left]"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "00:00"), (59.4, "00:59"), (59.6, "01:00"), (3599, "59:59"), (3600, "1:00:00")],
)
def test_times_are_told_by_minutes_and_hours(seconds: float, said: str) -> None:
    text = format_progress(Progress(1, 2, elapsed=seconds, remaining=seconds))
    assert text == f" 50% 1/2 [{said}, {said} left]"


def test_format_does_not_guess_before_the_first_unit() -> None:
    assert format_progress(Progress(0, 4)).endswith("0/4 [00:00, ? left]")


def test_format_of_nothing_to_do() -> None:
    assert "100%" in format_progress(Progress(0, 0))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def _lines(stream: Terminal) -> list[str]:
    """What is drawn one over the other, without the codes that move the cursor."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_terminal_redraws_one_line_and_ends_it(terminal: Terminal) -> None:
    with progress_line(terminal) as show:
        show(Progress(1, 2, "[red] message"))  # brackets are text, no markup
        show(Progress(2, 2, "done"))
    assert terminal.getvalue().count("\n") == 1
    last = _lines(terminal)[-1]
    assert last.startswith("done") and "100%" in last and last.endswith("2/2 [00:00, ? left]")


def test_a_line_never_wraps(terminal: Terminal) -> None:
    show = ProgressLine(terminal)
    show(Progress(3, 20000, "[Fetching] " + "x" * 90, 4000.0, 9000.0))
    show.close()
    line = _lines(terminal)[-1]
    assert len(line) <= 80
    assert line.startswith("[Fetching] x") and "… " in line
    assert line.endswith("3/20000 [1:06:40, 2:30:00 left]")


def test_line_is_ended_when_the_work_fails(terminal: Terminal) -> None:
    with pytest.raises(ValueError, match="broken"), progress_line(terminal) as show:
        show(Progress(0, 2))
        raise ValueError("broken")
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_log_file_gets_few_lines() -> None:
    stream = io.StringIO()
    show = ProgressLine(stream)
    for done in range(101):
        show(Progress(done, 100))
    show.close()
    assert stream.getvalue().splitlines() == [format_progress(Progress(100, 100))]


def test_log_file_gets_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("flowrvs.cli._progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with progress_line(stream) as show:
        for done, seconds in enumerate((9.9, 10.0, 19.9, 20.0, 20.1, 99.0), 1):
            now[0] = 100 + seconds
            show(Progress(done, 6))
    told = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert told == ["2/6", "4/6", "6/6"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_interrupt_asks_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), cancel_on_interrupt() as cancel:
        signal.raise_signal(number)
        assert cancel.cancelled
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_interrupt_handling_is_left_alone_off_the_main_thread() -> None:
    seen: list[bool] = []

    def work() -> None:
        with cancel_on_interrupt() as cancel:
            seen.append(cancel.cancelled)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
