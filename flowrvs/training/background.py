"""An improvement in a process of its own, begun, watched and stopped by its folder.

Whoever began it may go: the folder ``<home>/.<name>.training`` says how it stands to anybody.
A lock there tells whether it runs, so no process is ever looked up or ended by its number.
This module imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flowrvs.checkpoints import MODELS, models_home
from flowrvs.disk import parse_json, read_regular, storage_error, write_bytes
from flowrvs.errors import FlowRVSError, InputError, TrainingError
from flowrvs.locks import FileLock
from flowrvs.progress import CancelToken
from flowrvs.training.journal import read_log

__all__ = [
    "BackgroundTraining",
    "TrainingState",
    "check_name",
    "is_begun",
    "plan_in_process",
    "work_folder",
]

_LIMIT = 2**24
_STARTING_SECONDS = 60


def work_folder(name: str, home: Path) -> Path:
    """Return where the training of a model lies while it runs, and what tells of it later."""
    return home / f".{name}.training"


def check_name(name: str, home: Path) -> Path:
    """Return the folder that a model of this name would have.

    Raises
    ------
    InputError
        It is no plain name, or that of a model which everybody has by it.
    """
    odd = not name or Path(name).name != name or not name.isprintable()
    if odd or name.startswith((".", "-")):
        raise InputError(
            f"{name!r} is no name for a model; give one without '/' or leading '.' or '-'."
        )
    if name in MODELS or name == "auto":
        raise InputError(f"{name} is the name of another model already; choose another name.")
    return home / name


def is_begun(work: Path) -> bool:
    """Whether the training of a work folder has a state to go on from."""
    return any((work / "checkpoints").glob("step-*"))


@dataclass(frozen=True, slots=True)
class TrainingState:
    """How a training stands.

    Attributes
    ----------
    phase : str
        "new", "preparing", "running", "finished", "failed" or "stopped"; a stopped or failed one
        goes on with ``resume`` where `resumable`.
    step, total : int
    remaining : float or None
        Seconds, as far as they can be told.
    losses : tuple of (int, float)
        Step and loss.
    scores : tuple of (int, dict of str to float)
        Step and scores on held-out videos; step 0 is before the training.
    picture : Path or None
        What the last validation saw.
    message : str
        What went wrong, or what is being done, in one line.
    resumable : bool
    card : dict
        Of the result, once it is there.
    plan : dict
        What was counted before it began.
    """

    phase: str = "new"
    step: int = 0
    total: int = 0
    remaining: float | None = None
    losses: tuple[tuple[int, float], ...] = ()
    scores: tuple[tuple[int, dict[str, float]], ...] = ()
    picture: Path | None = None
    message: str = ""
    resumable: bool = False
    card: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None

    @property
    def active(self) -> bool:
        """Whether its process is alive."""
        return self.phase in ("preparing", "running")


class BackgroundTraining:
    """One improvement, by its name.

    Parameters
    ----------
    name : str
        Of the result.
    home : Path, optional
        `flowrvs.checkpoints.models_home` by default.

    Raises
    ------
    InputError
        It is no plain name.
    """

    def __init__(self, name: str, home: Path | None = None) -> None:
        self.name = name
        self.home = home or models_home()
        self.target = check_name(name, self.home)
        self.work = work_folder(name, self.home)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def found(cls, home: Path | None = None) -> list[BackgroundTraining]:
        """Return the trainings that a folder of models knows of, the one begun last first."""
        home = home or models_home()
        begun: dict[Path, float] = {}
        for path in home.glob(".*.training/[!.]*.json"):
            with contextlib.suppress(OSError, InputError):  # gone by now, or not made by us
                check_name(path.parent.name[1 : -len(".training")], home)
                begun[path.parent] = max(begun.get(path.parent, 0.0), path.stat().st_mtime)
        works = sorted(begun, key=lambda path: begun[path], reverse=True)
        return [cls(path.name[1 : -len(".training")], home) for path in works]

    def begin(
        self,
        data: Sequence[str | Path],
        *,
        model: str = "auto",
        minutes: float = 20.0,
        device: str = "auto",
        max_steps: int = 0,
        resume: bool = False,
    ) -> None:
        """Start ``flowrvs train improve``; it outlives this process.

        Parameters
        ----------
        data, model, minutes, device, max_steps, resume
            See `flowrvs.training.improve`.

        Raises
        ------
        InputError
            The name is taken, or a training of that name runs.
        StorageError
            The folder cannot be written.
        """
        if self.look().active:
            raise InputError(f"{self.name} is being trained already.")
        if self.target.exists() and not resume:
            raise InputError(f"There is a model {self.name} already; choose another name.")
        if is_begun(self.work) and not resume:
            raise InputError(
                f"{self.name} was begun before: go on with it, or choose another name."
            )
        command = [*_improve(data, model, minutes, device), "--name", self.name]
        command += ["--max-steps", str(max_steps)] + ["--resume"] * resume
        environment = dict(os.environ)
        if self.home != models_home():
            environment["FLOWRVS_HOME"] = str(self.home.parent)
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            # What tells of an earlier one must not be taken for this one.
            told = () if resume else ("plan.json", "log.jsonl", "example.png")
            for left in ("cancel", *told):
                (self.work / left).unlink(missing_ok=True)
            with (self.work / "result.json").open("wb") as out:
                with (self.work / "output.log").open("wb") as log:
                    self._process = _spawn(command, environment, out, log)
        except OSError as error:
            raise storage_error(error, self.work) from error
        # It is waited for, so that it leaves no zombie; it may outlive whoever waits.
        threading.Thread(target=self._process.wait, name="training", daemon=True).start()

    def cancel(self) -> None:
        """Ask it to stop at its next step; the best state so far comes out."""
        if self.look().active:
            write_bytes(self.work / "cancel", b"")

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop and still runs."""
        return (self.work / "cancel").exists()

    def runs(self) -> bool:
        """Whether the process that trains is alive, whoever began it."""
        if self._process is not None and self._process.poll() is None:
            return True
        if self._process is None and self._starts():
            return True
        if not (self.work / "lock").is_file():
            return False
        lock = FileLock(self.work / "lock")
        free = lock.acquire()
        lock.release()
        return not free

    def _starts(self) -> bool:
        """Whether somebody began it moments ago: it imports torch before it takes the lock."""
        try:
            state = (self.work / "result.json").stat()
        except OSError:
            return False
        return not state.st_size and time.time() - state.st_mtime < _STARTING_SECONDS

    def look(self) -> TrainingState:
        """Read how it stands; cheap enough to be asked every second."""
        runs = self.runs()
        plan = _read(self.work / "plan.json")
        if plan is None and not runs:
            failure = _read(self.work / "result.json") or {}
            if error := failure.get("error"):
                return TrainingState("failed", message=str(error))
            if (self.work / "result.json").exists():
                said = self._last_said() or "it said nothing"
                return TrainingState("failed", message=f"Its process ended too early: {said}")
            return TrainingState()
        lines = []
        with contextlib.suppress(OSError):  # there is none yet, or it is begun anew just now
            lines = read_log(self.work / "log.jsonl")
        picture = self.work / "example.png"
        steps = [line for line in lines if "loss" in line]
        scores = [
            (line["step"], {k: v for k, v in line.items() if k.endswith("J&F")})
            for line in lines
            if "J&F" in line
        ]
        config = (plan or {}).get("config")
        total = int(config.get("max_steps", 0)) if isinstance(config, dict) else 0
        phase, message = self._phase(runs, bool(lines))
        return TrainingState(
            phase=phase,
            step=steps[-1]["step"] if steps else 0,
            total=steps[-1].get("total", total) if steps else total,
            remaining=steps[-1].get("remaining") if runs and steps else None,
            losses=tuple((line["step"], line["loss"]) for line in steps),
            scores=tuple(scores),
            picture=picture if picture.is_file() else None,
            message=message,
            resumable=not runs and is_begun(self.work),
            card=_read(self.target / "training.json"),
            plan=plan,
        )

    def _phase(self, runs: bool, begun: bool) -> tuple[str, str]:
        if runs:
            return ("running" if begun else "preparing"), self._last_said()
        if self.target.is_dir():
            return "finished", ""
        result = _read(self.work / "result.json") or {}
        if "error" in result and result.get("code") != 130:
            return "failed", str(result["error"])
        if "error" in result:
            return "stopped", str(result["error"])
        return "stopped", "It was ended before it was done."

    def _last_said(self) -> str:
        try:
            said = read_regular(self.work / "output.log", _LIMIT).decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line for line in said.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def plan_in_process(
    data: Sequence[str | Path],
    *,
    model: str = "auto",
    minutes: float = 20.0,
    device: str = "auto",
    cancel: CancelToken | None = None,
) -> dict[str, Any]:
    """Count what an improvement would use, in a process of its own: see `plan_improvement`.

    Returns
    -------
    dict
        The attributes of an `Improvement`.

    Raises
    ------
    FlowRVSError
        What that process says is wrong, in one line.
    Cancelled
    """
    command = [*_improve(data, model, minutes, device), "--name", "plan", "--plan"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        while True:
            try:
                said = process.communicate(timeout=0.2)[0]
                break
            except subprocess.TimeoutExpired:
                if cancel is not None and cancel.cancelled:
                    process.kill()
                    process.communicate()
                    cancel.raise_if_cancelled()
    try:
        answer = json.loads(said)
    except ValueError:
        answer = {"error": f"The process that counts ended with {process.returncode}."}
    if "error" in answer:
        kind: type[FlowRVSError] = InputError if answer.get("code") == 2 else TrainingError
        raise kind(str(answer["error"]))
    return dict(answer)


def _improve(data: Sequence[str | Path], model: str, minutes: float, device: str) -> list[str]:
    command = [sys.executable, "-m", "flowrvs", "train", "improve", "--json"]
    command += ["--model", model, "--minutes", f"{minutes:g}", "--device", device]
    return [*command, "--data", *(str(Path(path).absolute()) for path in data)]


def _spawn(
    command: list[str], environment: dict[str, str], out: BinaryIO, log: BinaryIO
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: Ctrl-C in a terminal is not meant for it."""
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment, **options
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = parse_json(read_regular(path, _LIMIT))
    except (OSError, ValueError, FlowRVSError):
        return None
    return document if isinstance(document, dict) else None
