"""Exit codes, the one line on standard error, and options that stand anywhere."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowrvs import __version__
from flowrvs.cli import demo, main
from flowrvs.cli._main import VERBS, build_parser
from flowrvs.errors import Cancelled, FlowRVSError, VideoError

Raise = Callable[[BaseException], None]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Raise:
    """Make the verb ``demo`` raise what it is given."""

    def install(error: BaseException) -> None:
        def run(args: argparse.Namespace) -> int:
            raise error

        monkeypatch.setattr(demo, "run", run)

    return install


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flowrvs {__version__}\n"


def test_help_lists_every_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {verb} " in text for verb in VERBS)
    assert text.startswith("usage: flowrvs [-h] [--version]") and "\nverbs:\n" in text
    assert "\nFrom a sentence to video masks to a dataset.\n" in text
    assert text.endswith(
        "\nExit codes: 0 done, 1 a fault of the program, 2 bad input, 130 cancelled.\n"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # a narrow terminal breaks lines within words
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    said = importlib.import_module(f"flowrvs.cli.{verb}").HELP
    assert "--json" in text and f" {said} " in " ".join(text.split())


#: What stands for values in the usage: few words, each with one meaning.
WORDS = """
ADDRESS D DIR FILE FILE.csv FILE.mp4 ID KEY=VALUE LAYOUT M N NAME NAME|DIR N|whole PATH PRED_DIR
PROJECT PX Q RANK S SHARES SPLIT_DIR TEXT VIDEO VIDEO|PROJECT W X,Y X0,Y0,X1,Y1
""".split()


def test_every_option_says_what_it_does_and_what_it_takes() -> None:
    def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert action.metavar in ("VERB", "ACTION", "STAGE")
                for child in action.choices.values():
                    assert child.format_usage().startswith("usage: flowrvs ")
                    yield from walk(child)
                for name, row in zip(action.choices, action._choices_actions, strict=True):
                    assert row.dest == name and row.help, name
            else:
                yield action

    words = set()
    for action in walk(build_parser()):
        assert action.help, action
        if action.nargs != 0 and not (action.choices and action.metavar is None):
            given = action.dest.upper() if action.option_strings else action.dest
            words.add(action.metavar or given)
    assert words == {*WORDS, "'X,Y X,Y ...'"}


def test_no_verb_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "demo" in capsys.readouterr().err


def wrapped(cause: Exception) -> Exception:
    """As diffusers tells of what it meets while it is imported."""
    error = RuntimeError("Failed to import")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "too small; ask"),
        (MemoryError("9 GiB"), "too small (9 GiB); ask"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "object); ask"),
        (wrapped(MemoryError("9 GiB")), "too small (9 GiB); ask"),
        (RuntimeError("can't start new thread"), "thread); ask"),
    ],
)
def test_memory_that_runs_out(
    error: Exception, said: str, raising: Raise, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error)
    assert main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowrvs: The memory is too small") and said in line


class Mute(Exception):
    """What cannot be told: the memory is full again, or a library is not to be had."""

    def __init__(self, second: Exception) -> None:
        self.second = second

    def __str__(self) -> str:
        raise self.second


@pytest.mark.parametrize(
    ("second", "code", "said"),
    [
        (MemoryError(), 2, "The memory is too small; ask for less at once."),
        (ImportError("libx.so: failed to map segment"), 2, "The memory is too small; ask for less"),
        (RuntimeError("can't start new thread"), 2, "The memory is too small; ask for less at"),
        (OSError(12, "Cannot allocate memory"), 2, "Cannot allocate memory; ask for less at once."),
        (AttributeError("half a module"), 1, "internal error, AttributeError: half a module"),
    ],
)
def test_an_error_while_the_first_one_is_told(
    second: Exception, code: int, said: str, raising: Raise, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(Mute(second))
    assert main(["demo"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"flowrvs: {said}")


def test_no_memory_for_the_line_itself(
    raising: Raise, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def write(text: str) -> int:
        raise MemoryError

    raising(MemoryError())
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "write", write)
        assert main(["demo"]) == 2
    assert capfd.readouterr().err == "flowrvs: The memory is too small; ask for less at once.\n"


FULL = """
import atexit, sys, threading
from flowrvs.cli import check, main

class Buffer:
    def __del__(self):
        raise MemoryError

def full(error):
    raise error

def run(args):
    for error in (MemoryError(), RuntimeError("can't start new thread"), KeyError("ours")):
        thread = threading.Thread(target=full, args=(error,))
        thread.start()
        thread.join()
    del thread, error
    Buffer()
    atexit.register(full, MemoryError())
    raise MemoryError("9 GiB")

check.run = run
sys.argv = ["flowrvs", "check", "."]
sys.exit(main())
"""


def test_a_full_memory_beside_the_verb_prints_no_traceback(root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    told = [line for line in ran.stderr.splitlines() if "Error" in line or "flowrvs: " in line]
    # What is no full memory is a fault of ours, and seen.
    said = "flowrvs: The memory is too small (9 GiB); ask for less at once."
    assert told == ["KeyError: 'ours'", said]


@pytest.mark.parametrize("argv", [["bogus"], ["demo", "--bogus"], ["predict"], ["demo", "--out"]])
def test_wrong_line_is_one_line_and_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("flowrvs: ")
    assert captured.err.count("\n") == 1
    assert "--help" in captured.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (VideoError("clip.mp4 holds\nno video."), 2, "flowrvs: clip.mp4 holds no video.\n"),
        (FlowRVSError("Plain."), 2, "flowrvs: Plain.\n"),
        (FlowRVSError(f"a{'9' * 5000}z."), 2, f"flowrvs: a{'9' * 399} ... {'9' * 398}z.\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "flowrvs: Permission denied: /x/y\n"),
        (PermissionError(13, "Permission denied"), 2, "flowrvs: Permission denied\n"),
        (OSError("odd"), 2, "flowrvs: odd\n"),
        (FlowRVSError("x" * 800), 2, f"flowrvs: {'x' * 800}\n"),
        (FlowRVSError("x" * 801), 2, f"flowrvs: {'x' * 400} ... {'x' * 400}\n"),
        (Cancelled("Stopped."), 130, "flowrvs: Stopped.\n"),
        (KeyboardInterrupt(), 130, "flowrvs: Stopped on request.\n"),
        (TypeError("oops"), 1, "flowrvs: internal error, TypeError: oops (-v shows where)\n"),
    ],
)
def test_errors_become_codes(
    error: BaseException,
    code: int,
    message: str,
    raising: Raise,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raising(error)
    assert main(["demo"]) == code
    captured = capsys.readouterr()
    assert captured.err == message
    assert captured.out == ""


def test_a_library_of_an_extra_is_told_how_to_get(
    raising: Raise, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(ModuleNotFoundError("No module named 'diffusers.x'", name="diffusers.x"))
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install 'napari-flowrvs[models]'" in error
    raising(ModuleNotFoundError("No module named 'ours'", name="ours"))
    assert main(["demo"]) == 1
    assert capsys.readouterr().err.startswith("flowrvs: internal error, ModuleNotFoundError: No")


def test_a_program_without_streams_gets_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `pythonw` starts one: what is said goes nowhere."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        assert main(["--version"]) == 0 and main(["bogus"]) == 2
        for stream in (sys.stdout, sys.stderr):
            assert stream.name == os.devnull and not stream.closed
            stream.close()


@pytest.mark.parametrize("argv", [["-v", "demo"], ["demo", "-v"]])
def test_verbose_shows_the_traceback(
    argv: list[str], raising: Raise, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(VideoError("Broken."))
    assert main(argv) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.endswith("flowrvs: Broken.\n")


@pytest.mark.parametrize("argv", [["demo"], ["--json", "demo"], ["demo", "--json"]])
def test_json_may_stand_anywhere(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(demo, "run", lambda args: seen.append(args.json))
    assert main(argv) == 0
    assert seen == ["--json" in argv]


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys\n"
        "from flowrvs.cli import demo, main\n"
        "demo.run = lambda args: print('x' * 1_000_000)\n"
        "sys.exit(main(['demo']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("line", "redirect", "code", "errors"),
    [
        ("models list", ">/dev/full", 2, "standard output: No space left on device."),
        ("models list --json", ">/dev/full", 2, "standard output: No space left on device."),
        ("--help", ">/dev/full", 2, "standard output: No space left on device."),
        ("models list", ">&-", 0, ""),
        ("bogus", "2>/dev/full", 2, ""),
        ("bogus --json", ">&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_full_or_closed(
    line: str, redirect: str, code: int, errors: str, unbuffered: str, tmp_path
) -> None:
    command = f"{sys.executable} -m flowrvs {line} {redirect}"
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "FLOWRVS_HOME": str(tmp_path)},
    )
    assert done.returncode == code, done.stderr
    assert done.stderr == (f"flowrvs: Cannot write to {errors}\n" if errors else "")


def test_no_file_is_opened_in_place_of_a_closed_stream(tmp_path) -> None:
    """What a library prints would otherwise end up in a person's file."""
    code = (
        "import os, sys\n"
        "from flowrvs.cli import demo, main\n"
        f"demo.run = lambda args: os.write(os.open({str(tmp_path / 'file')!r}, 65), b'mine')\n"
        "main(['demo'])\n"
        "os.write(1, b'noise'); os.write(2, b'noise')\n"
    )
    subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "$CODE" <&- >&- 2>&-'], env={**os.environ, "CODE": code}
    )
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_names_that_are_no_text_are_printed(capfd: pytest.CaptureFixture[str], tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowrvs", "check", b"no\xff", "--json"],
        capture_output=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert "no\udcff" in json.loads(done.stdout)["error"]


def test_python_m_flowrvs_prints_one_json_object(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowrvs", "models", "list", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "https://host:abc"),
        ("HF_ENDPOINT", "http://[::1"),
        ("HF_HUB_ETAG_TIMEOUT", "soon"),
    ],
)
def test_malformed_settings_of_the_hub_are_named(name: str, value: str) -> None:
    """In a process of its own: huggingface_hub reads them when it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "flowrvs", "models", "fetch", "mevis", "--dry-run"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, name: value},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"flowrvs: {name} is {value!r}")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize(
    ("argv", "error", "code"),
    [
        (["demo", "--json"], VideoError("Broken."), 2),
        (["--json", "bogus"], VideoError("Broken."), 2),
        (["--json", "demo"], Cancelled("Stopped."), 130),
        (["demo", "--json"], TypeError("oops"), 1),
    ],
)
def test_an_error_is_json_too(
    argv: list[str],
    error: Exception,
    code: int,
    raising: Raise,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raising(error)
    assert main(argv) == code
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert said["code"] == code
    assert captured.err == f"flowrvs: {said['error']}\n"


def test_a_verb_that_says_nothing_is_done_and_one_that_says_a_code_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for said, code in ((None, 0), (0, 0), (2, 2)):
        monkeypatch.setattr(demo, "run", lambda args, said=said: said)
        assert main(["demo"]) == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Cancelled("Stopped."), 130, "flowrvs: Stopped.\n"),
        (None, 2, "flowrvs: Cannot write to standard output: No space left on device.\n"),
    ],
)
def test_why_a_verb_failed_goes_before_what_could_not_be_written(
    error: Exception | None,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    def run(args: argparse.Namespace) -> int:
        print("half of it")
        if error is not None:
            raise error
        return 0

    monkeypatch.setattr(demo, "run", run)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert main(["demo"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("argv", [["demo", "--out", ""], ["synth", "--out="]])
def test_an_empty_path_is_not_this_folder(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err == "flowrvs: argument --out: the path is empty\n"


@pytest.mark.parametrize(
    "option",
    "--out --to --into --home --html --overlay --config --frames --sentences --data --cache "
    "--base --dit --vae --truth".split(),
)
def test_no_option_takes_an_empty_path(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that is not set leaves one, which would mean this folder."""
    for argv in (["check", "x", option, ""], ["check", "x", f"{option}="]):
        assert main(argv) == 2
        assert capsys.readouterr().err == f"flowrvs: argument {option}: the path is empty\n"


def test_a_text_may_be_empty_and_a_line_may_end_with_an_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flowrvs.cli import export

    seen: list[str] = []
    monkeypatch.setattr(export, "run", lambda args: seen.append(args.licence))
    assert main(["export", "a", "--to", "d", "--licence", ""]) == 0
    assert seen == [""]
    assert main(["export", "a", "--to"]) == 2
    assert "argument --to: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["check", ""],
        ["import", "", "--all"],
        ["export", "a.flowrvs", "", "--to", "x"],
        ["segment", "--", ""],
        ["import", "x", "--frames", ""],
        ["segment", "--sentences", ""],
    ],
)
def test_an_empty_word_is_no_folder(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "empty" in said


def test_stopping_before_a_verb_begins_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowrvs.cli._main.build_parser", interrupted)
    assert main(["check", "x"]) == 130
    assert capsys.readouterr().err == "flowrvs: Stopped on request.\n"


def test_too_little_memory_is_bad_input(raising: Raise, capsys: pytest.CaptureFixture[str]) -> None:
    raising(MemoryError("Unable to allocate 26.8 GiB"))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.startswith("flowrvs: The memory is too small (Unable")
    import torch  # which says it in words alone

    assert torch.__version__
    raising(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert main(["demo"]) == 2
    assert "The memory is too small" in capsys.readouterr().err
    raising(MemoryError("Unable to allocate 26.8 GiB"))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.startswith("flowrvs: The memory is too small (Unable")
