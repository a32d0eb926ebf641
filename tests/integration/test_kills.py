"""SIGKILL at moments that a seed draws: nothing half-written claims to be whole, and the same line
again gives what a run that nobody disturbed gives.

A few kills of each verb; ``FLOWRVS_KILLS=50`` asks for more.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flowrvs.cli import main
from flowrvs.data import check_split
from flowrvs.store import Project

KILLS = int(os.environ.get("FLOWRVS_KILLS", "2"))
ROOT = Path(__file__).resolve().parents[2]

if os.name != "posix":
    pytest.skip("SIGKILL is for POSIX", allow_module_level=True)


class Killer:
    """Runs the command line in processes of its own and kills it at random moments."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.took = 0.0

    def run(self, *words: str | Path, kill: bool = False) -> int:
        """Run one verb; with `kill`, kill it after a part of the time that it takes."""
        command = [sys.executable, "-m", "flowrvs", *map(str, words)]
        began = time.monotonic()
        with subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process:
            if kill:
                # Half of it is the interpreter's start, in which nothing is written.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.random.uniform(0.4, 1.0) * self.took)
                process.send_signal(signal.SIGKILL)
            code = process.wait(300)
        if not kill:
            self.took = time.monotonic() - began
        return code


def shown(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if not path.name.startswith("."))


def content(path: Path) -> tuple[object, ...]:
    """What a project holds; reading it fails where it is half-written."""
    with Project.open(path, read_only=True) as project:
        masks = [
            (o.name, np.packbits(project.object_mask(o.id, 0, project.video.frame_count)).tobytes())
            for o in project.objects.values()
        ]
        drawn = [project.provenance(i).tolist() for i in project.objects]
        texts = [(e.text, sorted(e.object_ids)) for e in project.expressions.values()]
    return masks, drawn, texts


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def split(tmp_path: Path) -> Path:
    folder = tmp_path / "split"
    line = ["--videos", "3", "--seed", "5", "--frames", "9", "--height", "64", "--width", "96"]
    assert main(["synth", "--out", str(folder), *line]) == 0
    return folder


def test_an_import_that_is_killed_leaves_whole_projects_and_goes_on(
    split: Path, tmp_path: Path
) -> None:
    killer = Killer(1)
    assert killer.run("import", split, "--all", "--out", tmp_path / "whole") == 0
    wanted = {path.name: content(path) for path in shown(tmp_path / "whole")}
    assert len(wanted) == 3
    out = tmp_path / "out"
    for _ in range(KILLS):
        killer.run("import", split, "--all", "--out", out, kill=True)
        for path in shown(out):
            assert content(path) == wanted[path.name]
        assert killer.run("import", split, "--all", "--out", out) == 0
        assert {path.name: content(path) for path in shown(out)} == wanted
        assert shown(out) == sorted(out.iterdir())
        shutil.rmtree(out)


@pytest.mark.parametrize("format", ["mevis", "davis"])
def test_an_export_that_is_killed_leaves_all_or_nothing(
    split: Path, tmp_path: Path, format: str
) -> None:
    assert main(["import", str(split), "--all", "--out", str(tmp_path / "p")]) == 0
    projects = shown(tmp_path / "p")
    killer = Killer(2)
    line = ["--format", format, "--overwrite"]
    assert killer.run("export", *projects, "--to", tmp_path / "whole", *line) == 0
    wanted = files(tmp_path / "whole")
    for number in range(KILLS):
        out = tmp_path / "out"
        if number % 2:  # in the place of another one, which is there until the new one is
            assert killer.run("export", projects[0], "--to", out, *line) == 0
        before = files(out / "train")
        killer.run("export", *projects, "--to", out, *line, kill=True)
        after = {name: data for name, data in files(out).items() if not name.startswith(".")}
        assert after in (wanted, {f"train/{name}": data for name, data in before.items()})
        assert killer.run("export", *projects, "--to", out, *line) == 0
        assert files(out) == wanted
        shutil.rmtree(out)


def test_an_append_that_is_killed_leaves_a_split_that_loads(split: Path, tmp_path: Path) -> None:
    assert main(["import", str(split), "--all", "--out", str(tmp_path / "p")]) == 0
    first, *others = shown(tmp_path / "p")
    killer = Killer(3)
    assert main(["export", str(first), "--to", str(tmp_path / "begun")]) == 0
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    assert killer.run("export", *others, "--to", tmp_path / "whole", "--append") == 0
    wanted = files(tmp_path / "whole")
    for _ in range(KILLS):
        shutil.copytree(tmp_path / "begun", tmp_path / "out")
        killer.run("export", *others, "--to", tmp_path / "out", "--append", kill=True)
        found = check_split(tmp_path / "out" / "train")
        assert [f for f in found if f.severity == "error"] == []
        meta = "train/meta_expressions.json"
        if files(tmp_path / "out")[meta] != wanted[meta]:
            assert killer.run("export", *others, "--to", tmp_path / "out", "--append") == 0
        now = files(tmp_path / "out")
        assert {name: now[name] for name in wanted} == wanted
        shutil.rmtree(tmp_path / "out")
