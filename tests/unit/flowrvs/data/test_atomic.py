"""A kill, a cancel and a full disk leave the old dataset whole; what is left is swept."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from flowrvs import folders
from flowrvs.data import MevisSplit, MevisWriter, check_split
from flowrvs.data.json_parts import locked
from flowrvs.errors import DatasetError
from flowrvs.folders import NewFolder, remove_leftovers

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
        assert NewFolder.leftovers(folder) == []  # it is alive
        remove_leftovers(folder)
        assert partial[0].is_dir()
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert contents(folder) == before
    assert NewFolder.leftovers(folder) == partial
    assert [f.code for f in check_split(folder)] == ["leftover"]
    write(folder, 90, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["train"]
    assert MevisSplit.open(folder).read_frames("v")[0, 0, 0, 0] == 90


@pytest.mark.parametrize("one_step", [True, False])
def test_replacing(tmp_path, monkeypatch, one_step):
    if not one_step:
        monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
    folder = tmp_path / "train"
    write(folder, 50)
    write(folder, 90, overwrite=True)
    assert MevisSplit.open(folder).read_frames("v")[0, 0, 0, 0] == 90
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_one_changes_a_split_at_a_time(tmp_path):
    folder = tmp_path / "train"
    write(folder, 50)
    with locked(folder), pytest.raises(DatasetError, match="another program"), locked(folder):
        pass
    with locked(folder):
        pass
    assert ".writing.lock" not in {p.name for p in folder.iterdir()}
