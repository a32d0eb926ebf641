"""Undoing and redoing a run by moving files: what is seen is the same, whatever becomes of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flowrvs.errors import Cancelled, ProjectError
from flowrvs.progress import CancelToken
from flowrvs.store import ObjectRecord, Project
from tests.unit.flowrvs.store.oracle import Oracle

MASKS = np.zeros((10, 12, 16), bool)
for _t in range(8):  # on the last two frames it is not there
    MASKS[_t, _t : _t + 3, 2:9] = True


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    cat = project.add_prompt("the cat")[1]
    project.write_model(cat.layer, cat.id, 0, MASKS)
    project.close()
    return cat


def files(project: Project) -> dict[str, int]:
    """Return the frames that lie in the layer, and their inodes."""
    return {p.name: p.stat().st_ino for p in (project.path / "layers" / "1").glob("c.*")}


def kept(project: Project) -> list[Path]:
    return sorted((project.path / "history" / "undone").glob("*/*"))


def wait_until_gone(project: Project) -> None:
    end = time.monotonic() + 20
    while any((project.path / "history" / "undone").iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any((project.path / "history" / "undone").iterdir())


def test_files_go_and_come_back(project: Project, cat: ObjectRecord) -> None:
    before = files(project)
    assert len(before) == 8
    with Project.open(project.path) as again:
        drawn = Oracle(again)
    with Project.open(project.path) as again:
        again.undo()
        assert not again.object_mask(cat.id, 0, 10).any() and not again.areas(cat.id).any()
        again.flush()
        assert not files(project) and len(kept(project)) == 8
        assert not again.object_mask(cat.id, 0, 10).any() and not again.provenance(cat.id).any()
    with Project.open(project.path) as again:
        again.redo()
        drawn.check(again, "redone")  # from the journal: no file has moved yet
        again.flush()
        assert files(project) == before, "no file was written anew"
        drawn.check(again, "redone and saved")


@pytest.mark.parametrize("what", ["undo", "redo"])
@pytest.mark.parametrize("stop", [1, 5, 9])
@pytest.mark.parametrize("how", ["flush", "commit", "nothing"])
def test_a_kill_in_between(
    project: Project, cat: ObjectRecord, what: str, stop: int, how: str
) -> None:
    with Project.open(project.path) as again:
        states = [Oracle(again)]
        again.undo()
        states.append(Oracle(again))
        if what == "undo":
            again.redo()
    save = {"flush": "project.flush()", "commit": "project.history.commit()", "nothing": ""}[how]
    script = (
        "import sys, os, signal; from flowrvs.store import Project\n"
        "project = Project.open(sys.argv[1])\n"
        "def stop(event):\n"
        f"    if event.done == {stop}:\n"
        f"        {save or 'pass'}\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"project.history.{what}(None, stop)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(project.path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Project.open(project.path) as again:
        assert again.history.notice is None
        done = (again.history.undo_step is None) == (what == "undo")
        if how != "nothing":
            assert done, "it was begun, so it is completed"
        states[done == (what == "undo")].check(again, "after the kill")
        (again.redo if again.history.redo_step else again.undo)()
        states[done != (what == "undo")].check(again, "the other way")


@pytest.mark.parametrize("what", ["undo", "redo"])
def test_stopped_midway_everything_is_as_it_was(
    project: Project, cat: ObjectRecord, what: str
) -> None:
    token = CancelToken()
    with Project.open(project.path) as again:
        if what == "redo":
            again.undo()
            again.flush()
        seen = Oracle(again)
    with Project.open(project.path) as again:
        with pytest.raises(Cancelled):
            getattr(again.history, what)(token, lambda event: event.done == 4 and token.cancel())
        seen.check(again, "stopped")
        again.flush()
        seen.check(again, "saved")


def test_files_go_when_nothing_can_be_redone(project: Project, cat: ObjectRecord) -> None:
    with Project.open(project.path) as again:
        again.undo()
        again.flush()
        assert kept(project)
        copy = again.copy_to(project.path.with_name("copy.flowrvs"))
        assert not (copy / "history" / "undone").exists()
        again.labels(cat.layer)[2, 2] = cat.id
        wait_until_gone(project)
    (project.path / "history" / "undone" / "7").mkdir()  # as a kill leaves it
    Project.open(project.path).close()
    wait_until_gone(project)
    with Project.open(copy) as other:  # without the files, from the journal
        other.redo()
        np.testing.assert_array_equal(other.object_mask(cat.id, 0, 10), MASKS)


def test_files_that_are_gone_come_from_the_journal(project: Project, cat: ObjectRecord) -> None:
    with Project.open(project.path) as again:
        again.undo()
        again.flush()
        for path in kept(project)[:4]:
            path.unlink()
        again.redo()
        for path in kept(project)[:2]:  # between the redo and its moves, or after
            path.unlink(missing_ok=True)
        again.flush()
        np.testing.assert_array_equal(again.object_mask(cat.id, 0, 10), MASKS)
    with Project.open(project.path) as again:
        np.testing.assert_array_equal(again.object_mask(cat.id, 0, 10), MASKS)


@pytest.mark.parametrize("deep", [False, True])
def test_links_out_of_the_project_are_not_followed(
    project: Project, cat: ObjectRecord, tmp_path: Path, deep: bool
) -> None:
    with Project.open(project.path) as again:
        again.undo()
    target = tmp_path / "outside"
    undone = project.path / "history" / "undone"
    (step,) = undone.iterdir()
    link = step if deep else undone
    shutil.move(link, target)
    (target / "9").mkdir()
    (target / "9" / "precious").write_text("mine")
    before = sorted(p.relative_to(target) for p in target.rglob("*"))
    link.symlink_to(target)
    with Project.open(project.path) as again:
        assert not link.is_symlink()
        again.redo()
        np.testing.assert_array_equal(again.object_mask(cat.id, 0, 10), MASKS)
        again.undo()
    assert sorted(p.relative_to(target) for p in target.rglob("*")) == before


def test_a_kept_file_that_is_a_link_is_not_taken(
    project: Project, cat: ObjectRecord, tmp_path: Path
) -> None:
    with Project.open(project.path) as again:
        again.undo()
    secret = tmp_path / "secret"
    secret.write_text("mine")
    path = kept(project)[0]
    path.unlink()
    path.symlink_to(secret)
    with Project.open(project.path) as again:
        again.redo()
        again.flush()
        np.testing.assert_array_equal(again.object_mask(cat.id, 0, 10), MASKS)
    assert secret.read_text() == "mine"
    assert not any(os.path.islink(p) for p in (project.path / "layers" / "1").iterdir())


def test_read_only_moves_nothing(project: Project, cat: ObjectRecord) -> None:
    with Project.open(project.path) as again:
        again.undo()
    before = kept(project)
    with Project.open(project.path, read_only=True) as seen, pytest.raises(ProjectError):
        seen.redo()
    assert kept(project) == before
