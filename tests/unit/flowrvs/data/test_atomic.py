"""A kill, a cancel and a full disk leave the old dataset whole; what is left is swept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flowrvs.data import MevisSplit, MevisWriter, _atomic, check_split
from flowrvs.data._atomic import AtomicFolder, hold, leftovers, sweep
from flowrvs.errors import DatasetError

WRITE = """
import sys, time
import numpy as np
from flowrvs.data.mevis import MevisWriter

def frames():
    for index in range(500):
        if index == 3:
            print("writing", flush=True)
            time.sleep(60)
        yield np.full((20, 30, 3), 200, np.uint8)

with MevisWriter(sys.argv[1], overwrite=True) as writer:
    writer.add_video("new", frames(), expressions={"0": ("x", [])})
"""


def write(folder, value, **options):
    with MevisWriter(folder, **options) as writer:
        writer.add_video(
            "v", np.full((3, 20, 30, 3), value, np.uint8), expressions={"0": ("x", [])}
        )


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_kill_leaves_the_old_split_and_is_swept_at_once(tmp_path):
    folder = tmp_path / "train"
    write(folder, 50)
    before = contents(folder)
    command = [sys.executable, "-c", WRITE, str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "writing\n"
        partial = [p for p in tmp_path.iterdir() if p.is_dir() and ".partial-" in p.name]
        assert len(partial) == 1
        assert leftovers(folder) == []  # it is alive
        sweep(folder)
        assert partial[0].is_dir()
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert contents(folder) == before
    assert leftovers(folder) == partial
    assert [f.code for f in check_split(folder)] == ["leftover"]
    write(folder, 90, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["train"]
    assert MevisSplit.open(folder).read_frames("v")[0, 0, 0, 0] == 90


@pytest.mark.parametrize("one_step", [True, False])
def test_replacing(tmp_path, monkeypatch, one_step):
    if not one_step:
        monkeypatch.setattr(_atomic, "_exchange", lambda one, other: False)
    folder = tmp_path / "train"
    write(folder, 50)
    write(folder, 90, overwrite=True)
    assert MevisSplit.open(folder).read_frames("v")[0, 0, 0, 0] == 90
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_a_kill_between_two_renames_is_undone(tmp_path):
    folder = tmp_path / "train"
    write(folder, 50)
    folder.rename(tmp_path / ".train.old-abc")
    sweep(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_of_folders_without_a_lock_the_age_decides(tmp_path):
    fresh, stale = tmp_path / ".s.partial-1", tmp_path / ".s.partial-2"
    fresh.mkdir()
    stale.mkdir()
    day_ago = time.time() - 2 * 24 * 3600
    os.utime(stale, (day_ago, day_ago))
    AtomicFolder(tmp_path / "s").abort()
    assert [p.name for p in tmp_path.iterdir()] == [fresh.name]


def test_one_changes_a_split_at_a_time(tmp_path):
    folder = tmp_path / "train"
    write(folder, 50)
    with hold(folder), pytest.raises(DatasetError, match="another program"), hold(folder):
        pass
    with hold(folder):
        pass
    assert ".writing.lock" not in {p.name for p in folder.iterdir()}
