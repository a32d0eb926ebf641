"""Start a code in a process of its own, and watch that from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.fixtures.public_layout import PublicLayout

__all__ = ["Watched", "call_ours", "call_public", "call_stages", "watch"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Watched:
    """What a process and its children took.

    Attributes
    ----------
    seconds : float
        From start to end.
    rss, pss : int
        Largest sum of bytes over the processes, sampled. A page that several processes
        share counts once for each in `rss`, and once in `pss` (0 where the system does
        not tell).
    gpu : int
        Largest use of the GPU by everyone, in bytes, as nvidia-smi tells it; 0 without.
    report : dict
        What the process wrote.
    """

    seconds: float
    rss: int
    pss: int
    gpu: int
    report: dict[str, Any]


def watch(command: list[str], cwd: Path, report: Path, log: Path, env: dict[str, str]) -> Watched:
    """Run `command` to its end and sample the memory of its process tree.

    Raises
    ------
    SystemExit
        It failed; with the end of its output.
    """
    peak = [0, 0, 0]
    stop = threading.Event()
    start = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=stream, stderr=subprocess.STDOUT, env=env
        )
        watcher = threading.Thread(target=_sample, args=(process.pid, peak, stop))
        watcher.start()
        try:
            code = process.wait()
        finally:
            process.kill()
            stop.set()
            watcher.join()
    seconds = time.perf_counter() - start
    if code:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        raise SystemExit("\n".join([f"{command[1]} failed:", *tail]))
    return Watched(seconds, *peak, json.loads(report.read_text()))


def _sample(pid: int, peak: list[int], stop: threading.Event) -> None:
    turn = 0
    while not stop.wait(0.05):
        try:
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
        except psutil.Error:
            return
        peak[0] = max(peak[0], sum(_size(one, "rss") for one in family))
        if turn % 5 == 0:  # the system adds up every page for this
            peak[1] = max(peak[1], sum(_size(one, "pss") for one in family))
        if turn % 10 == 0 and shutil.which("nvidia-smi"):
            peak[2] = max(peak[2], _gpu_memory())
        turn += 1


def _gpu_memory() -> int:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    told = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return max((int(value) for value in told if value.isdecimal()), default=0) << 20


def _size(process: psutil.Process, kind: str) -> int:
    try:
        if kind == "rss":
            return int(process.memory_info().rss)
        return int(getattr(process.memory_full_info(), "pss", 0))
    except psutil.Error:
        return 0


def call_public(
    public: Path, layout: PublicLayout, folder: Path, *, env: dict[str, str], **job: Any
) -> Watched:
    """Run the published code with a working folder that holds the base."""
    transformer = layout.parts.transformer if layout.parts is not None else None
    content = {
        "public": str(public.resolve()),
        "dit": str(layout.dit.resolve()),
        "vae": str(layout.vae.resolve()),
        "dvi": transformer is not None and transformer.config.in_channels == 32,
        "device": "cpu",
        **job,
    }
    return _call("runner.py", content, layout.base.parent, folder, env)


def call_ours(folder: Path, *, env: dict[str, str], **job: Any) -> Watched:
    """Run ours on a converted folder."""
    return _call("ours.py", job, folder, folder, env)


def call_stages(folder: Path, *, env: dict[str, str], **job: Any) -> Watched:
    """Time the parts of ours."""
    return _call("stages.py", job, folder, folder, env)


def _call(
    script: str, job: dict[str, Any], cwd: Path, folder: Path, env: dict[str, str]
) -> Watched:
    report = (folder / "report.json").resolve()
    path = (folder / "job.json").resolve()
    path.write_text(json.dumps({**job, "report": str(report)}))
    command = [sys.executable, str(_HERE / script), str(path)]
    return watch(command, cwd, report, folder / "process.log", env)
