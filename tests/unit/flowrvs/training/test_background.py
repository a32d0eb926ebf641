"""A training in a process of its own: how it is begun, what its folder tells, how it stops."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowrvs.errors import Cancelled, InputError, StorageError, TrainingError
from flowrvs.locks import FileLock
from flowrvs.progress import CancelToken
from flowrvs.training.background import (
    BackgroundTraining,
    TrainingState,
    check_name,
    plan_in_process,
    work_folder,
)
from flowrvs.training.journal import Journal


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the interpreter: notes what it is asked for, answers, ends when it may."""
    if sys.platform == "win32":
        pytest.skip("a shell script stands for Python")
    (tmp_path / "say").write_text("")
    script = tmp_path / "python"
    script.write_text(
        f"#!/bin/sh\ncd '{tmp_path}'\n"
        'printf "%s\\n" "$@" > asked.part\nprintf "%s" "$FLOWRVS_HOME" > home-of\n'
        "mv asked.part asked\n"
        "echo working >&2\nwhile [ -e hold ]; do sleep 0.01; done\ncat say\n"
        "exit $(cat code 2>/dev/null || echo 0)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return tmp_path


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def ended(training: BackgroundTraining) -> None:
    """Wait for its process as its own thread does."""
    for thread in [t for t in threading.enumerate() if t.name == "training"]:
        thread.join(30)
    assert training._process is not None and training._process.returncode is not None


def test_it_is_begun_as_it_would_be_typed(
    home: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(python)
    (python / "hold").touch()
    training = BackgroundTraining("mine")
    training.begin(["a", python / "b"], model="tiny", minutes=2.5, device="cpu", max_steps=7)
    assert training.runs() and BackgroundTraining("mine").runs()
    assert training.look().phase == "preparing"
    assert os.getsid(training._process.pid) != os.getsid(0)  # Ctrl-C is not meant for it
    with pytest.raises(InputError, match=r"^mine is being trained already\.$"):
        training.begin(["a"])
    (python / "hold").unlink()
    ended(training)
    common = ["-m", "flowrvs", "train", "improve", "--json"]
    data = ["--data", str(python / "a"), str(python / "b"), "--name", "mine"]
    assert asked(python) == [
        *common, "--model", "tiny", "--minutes", "2.5", "--device", "cpu", *data,
        "--max-steps", "7",
    ]  # fmt: skip
    assert (python / "home-of").read_text() == str(home.parent)
    assert (training.work / "output.log").read_text() == "working\n"
    # It began a moment ago: but it is over, killed before it could say why, as this process knows.
    assert not training.runs()
    assert training.look() == TrainingState(
        "failed", message="Its process ended too early: working"
    )
    home.joinpath("mine").mkdir()
    with pytest.raises(InputError, match="^There is a model mine already; choose another name.$"):
        training.begin(["a"])
    (training.work / "checkpoints" / "step-00000001").mkdir(parents=True)
    home.joinpath("mine").rmdir()
    with pytest.raises(InputError, match="^mine was begun before: go on with it, or choose"):
        training.begin(["a"])
    told = ("cancel", "plan.json", "log.jsonl", "example.png")
    for name in told:
        (training.work / name).write_text("{}")
    training.begin(["a"], resume=True)
    assert not (training.work / "cancel").exists()  # a wish that nobody heard any more
    ended(training)
    assert all((training.work / name).exists() for name in told[1:])
    assert asked(python) == [
        *common, "--model", "auto", "--minutes", "20", "--device", "auto",
        "--data", str(python / "a"), "--name", "mine", "--max-steps", "0", "--resume",
    ]  # fmt: skip
    (training.work / "checkpoints" / "step-00000001").rmdir()
    training.begin(["a"])
    ended(training)
    assert not any((training.work / name).exists() for name in told), "what told of another one"


def test_another_folder_of_models_is_told_to_the_process(python: Path) -> None:
    training = BackgroundTraining("mine", python / "elsewhere" / "models")
    training.begin(["a"])
    ended(training)
    assert (python / "home-of").read_text() == str(python / "elsewhere")
    assert training.work == python / "elsewhere" / "models" / ".mine.training"
    (python / "file").touch()
    with pytest.raises(StorageError):
        BackgroundTraining("mine", python / "file" / "models").begin(["a"])


def test_it_is_asked_to_stop_while_it_runs_and_not_after(home: Path) -> None:
    training = BackgroundTraining("mine")
    training.work.mkdir(parents=True)
    training.cancel()
    assert not training.stopping
    with FileLock(training.work / "lock"):
        training.cancel()
        assert training.stopping and (training.work / "cancel").read_bytes() == b""


def test_somebody_else_began_it_less_than_a_minute_ago(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = BackgroundTraining("mine")
    assert not training.runs() and not home.exists()
    training.work.mkdir(parents=True)
    file = training.work / "result.json"
    file.touch()
    os.utime(file, (1000, 1000))
    for now, starts in ((1059.9, True), (1060, False)):
        clock = SimpleNamespace(time=lambda now=now: now)
        monkeypatch.setattr("flowrvs.training.background.time", clock)
        assert training.runs() is starts
    clock = SimpleNamespace(time=lambda: 1001.0)
    monkeypatch.setattr("flowrvs.training.background.time", clock)
    file.write_text("{}")
    os.utime(file, (1000, 1000))
    assert not training.runs(), "it has answered"
    assert not (training.work / "lock").exists()
    with FileLock(training.work / "lock"):
        assert training.runs()
    assert not training.runs() and FileLock(training.work / "lock").acquire(), (
        "looking holds nothing"
    )


def test_what_the_folder_tells(home: Path) -> None:
    training = BackgroundTraining("mine")
    work = training.work
    assert (
        training.look()
        == TrainingState()
        == TrainingState("new", 0, 0, None, (), (), None, "", False, None, None)
    )
    work.mkdir(parents=True)
    (work / "result.json").write_text('{"error": "No data.", "code": 2}')
    assert training.look() == TrainingState("failed", message="No data.")
    for said in ("5", ""):
        (work / "result.json").write_text(said)
        os.utime(work / "result.json", (1, 1))
        assert training.look() == TrainingState(
            "failed", message="Its process ended too early: it said nothing"
        )
    plan: dict[str, Any] = {"frames": 3, "config": {"max_steps": 40}}
    (work / "plan.json").write_text(json.dumps(plan))
    with FileLock(work / "lock"):
        state = training.look()
        assert (state.phase, state.step, state.total, state.plan) == ("preparing", 0, 40, plan)
        assert state.active and state.message == "" and state.remaining is None
    journal = Journal(work)
    journal.report(step=0, **{"J": 0.1, "F": 0.2, "J&F": 0.15, "old J": 0.6, "old J&F": 0.7})
    for step, total in ((10, 40), (20, 36)):
        journal.add(loss=2.0 / step)
        journal.report(step=step, total=total, remaining=(total - step) / 2)
    (work / "example.png").touch()
    (work / "output.log").write_bytes(b"one\ntwo \xff\n \n")
    with FileLock(work / "lock"):
        assert training.look() == TrainingState(
            phase="running",
            step=20,
            total=36,
            remaining=8.0,
            losses=((10, 0.2), (20, 0.1)),
            scores=((0, {"J&F": 0.15, "old J&F": 0.7}),),
            picture=work / "example.png",
            message="two \ufffd",
            plan=plan,
        )
    stopped = training.look()
    assert (stopped.phase, stopped.message) == ("stopped", "It was ended before it was done.")
    assert stopped.remaining is None and not stopped.active and not stopped.resumable
    (work / "checkpoints" / "step-00000010").mkdir(parents=True)
    assert training.look().resumable
    with FileLock(work / "lock"):
        assert not training.look().resumable
    for answer, phase in (
        ({"error": "Disk full.", "code": 2}, "failed"),
        ({"error": "Disk full."}, "failed"),
        ({"error": "Stopped.", "code": 130}, "stopped"),
    ):
        (work / "result.json").write_text(json.dumps(answer))
        assert (training.look().phase, training.look().message) == (phase, answer["error"])
    training.target.mkdir()
    assert (training.look().phase, training.look().message) == ("finished", "")
    assert training.look().card is None
    (training.target / "training.json").write_text('{"name": "mine"}')
    assert training.look().card == {"name": "mine"}
    for damaged in ('{"config": 5}', "{}"):
        (work / "plan.json").write_text(damaged)
        assert training.look().total == 36
    (work / "log.jsonl").unlink()
    (work / "example.png").unlink()
    (work / "output.log").write_text("\n")
    state = training.look()
    assert (state.total, state.losses, state.scores, state.picture) == (0, (), (), None)
    with FileLock(work / "lock"):
        assert training.look().message == ""


def test_trainings_are_found_the_one_begun_last_first(home: Path) -> None:
    assert BackgroundTraining.found() == BackgroundTraining.found(home) == []
    for name, times in (("a", (5, 1)), ("b.c", (2, 6)), ("d", (3, 4))):
        work = work_folder(name, home)
        work.mkdir(parents=True)
        for file, time in zip(("plan.json", "result.json"), times, strict=True):
            (work / file).touch()
            os.utime(work / file, (time, time))
    work_folder("empty", home).mkdir()
    work_folder("-odd", home).mkdir()
    (work_folder("-odd", home) / "plan.json").touch()
    (work_folder("a", home) / ".plan.json.1-2.partial.json").touch()  # it is being written
    (home / "model").mkdir()
    assert [each.name for each in BackgroundTraining.found()] == ["b.c", "a", "d"]
    assert BackgroundTraining.found(home)[1].work == home / ".a.training"


@pytest.mark.parametrize("name", ["", "a/b", ".a", "..", "a\n", "a/", "-a"])
def test_names_that_are_no_plain_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        check_name(name, tmp_path)
    said = f"{name!r} is no name for a model; give one without '/' or leading '.' or '-'."
    assert str(caught.value) == said
    for taken in ("tiny", "mevis", "auto"):
        with pytest.raises(InputError, match=f"^{taken} is the name of another model already; cho"):
            check_name(taken, tmp_path)
    assert check_name("a b.c", tmp_path) == tmp_path / "a b.c"


def test_what_would_be_used_is_counted_elsewhere(
    python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(python)
    (python / "say").write_text('{"frames": 5}')
    cancel = CancelToken()
    found = plan_in_process(["a"], model="m", minutes=3, device="cpu", cancel=cancel)
    assert found == {"frames": 5}
    assert asked(python) == [
        "-m", "flowrvs", "train", "improve", "--json", "--model", "m", "--minutes", "3",
        "--device", "cpu", "--data", str(python / "a"), "--name", "plan", "--plan",
    ]  # fmt: skip
    plan_in_process(["a"])
    assert asked(python)[5:11] == ["--model", "auto", "--minutes", "20", "--device", "auto"]
    for said, kind, message in (
        ('{"error": "No data.", "code": 2}', InputError, "No data."),
        ('{"error": "Too hot.", "code": 3}', TrainingError, "Too hot."),
        ("", TrainingError, "The process that counts ended with 3."),
    ):
        (python / "say").write_text(said)
        (python / "code").write_text("3")
        with pytest.raises(kind) as caught:
            plan_in_process(["a"])
        assert (type(caught.value), str(caught.value)) == (kind, message)
    (python / "hold").touch()
    cancel.cancel()
    with pytest.raises(Cancelled):
        plan_in_process(["a"], cancel=cancel)
