"""What survives a kill, a failing disk and a second program."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from flowrvs.errors import Cancelled, ProjectError, StorageError
from flowrvs.progress import CancelToken
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.store.journal import Journal
from flowrvs.store.storage import Track

PAINTER = """
import sys, time
import numpy as np
from flowrvs.store import Project
project = Project.open(sys.argv[1])
labels = project.labels(1)
print("open", flush=True)
for t in range(10_000):
    labels[t % 10, (t // 10) % 12] = 1
    project.add_expression(f"sentence {t}")
    print(t, time.monotonic(), flush=True)
    time.sleep(0.01)
"""


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    return project.add_prompt("the cat")[1]


def _start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True
    )


def test_a_stroke_is_on_disk_soon(project: Project, cat: ObjectRecord) -> None:
    project.labels(cat.layer)[3, 2:5] = cat.id
    deadline = time.monotonic() + 20
    while project.unsaved and time.monotonic() < deadline:
        time.sleep(0.02)
    with Project.open(project.path, read_only=True) as seen:
        assert seen.object_mask(cat.id, 3, 4).sum() == 3 * 16
        assert seen.provenance(cat.id)[3] == Provenance.HUMAN


def test_a_killed_painter_leaves_a_readable_project(project: Project, cat: ObjectRecord) -> None:
    project.close()
    with _start(PAINTER, str(project.path)) as painter:
        assert painter.stdout is not None
        assert painter.stdout.readline() == "open\n"
        with pytest.raises(ProjectError, match=rf"pid {painter.pid} "):
            Project.open(project.path)
        Project.open(project.path, read_only=True).close()
        painter.stdout.readline()
        time.sleep(1.5)
        painter.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        rows = [line.split() for line in painter.stdout.read().splitlines() if line.count(" ")]
    # The strokes older than the flusher's pace, with room for a busy machine.
    safe = [int(t) for t, when in rows if float(when) < killed - 1.2]
    with Project.open(project.path) as again:  # a dead process keeps no lock
        frames = np.asarray(again.labels(cat.layer))
        for t in safe:
            assert (frames[t % 10, (t // 10) % 12] == cat.id).all()
            assert again.provenance(cat.id)[t % 10] == Provenance.HUMAN
        texts = {e.text for e in again.expressions.values()}
        assert {f"sentence {t}" for t in safe} <= texts
        again.labels(cat.layer)[0] = 0
    assert [p.name for p in project.path.glob(".*")] == []


def test_a_program_that_forgets_to_close_loses_nothing(project: Project, cat: ObjectRecord) -> None:
    project.close()
    script = (
        "import sys; from flowrvs.store import Project; Project.open(sys.argv[1]).labels(1)[2] = 1"
    )
    with _start(script, str(project.path)) as painter:
        assert painter.wait(60) == 0
    with Project.open(project.path) as again:
        assert again.object_mask(cat.id, 2, 3).all()


def test_two_writers_in_one_program(project: Project) -> None:
    with pytest.raises(ProjectError, match="open for writing in this program"):
        Project.open(project.path)
    project.close()
    Project.open(project.path).close()


class TestFailingDisk:
    """The layer's folder becomes a file: the system refuses every write to it."""

    def test_strokes_are_kept_and_written_later(self, project: Project, cat: ObjectRecord) -> None:
        folder = project.path / "layers" / "1"
        project.flush()
        folder.rename(folder.with_name("away"))
        folder.write_text("in the way")
        labels = project.labels(cat.layer)
        for t in range(10):
            labels[t, t] = cat.id
        with pytest.raises(StorageError, match="Cannot write to.*Nothing in memory is lost") as e:
            project.flush()
        assert "\n" not in str(e.value)
        with pytest.raises(StorageError):
            project.close()
        labels[0, 11] = cat.id  # it is still open
        deadline = time.monotonic() + 20
        while project.storage_error is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert isinstance(project.storage_error, StorageError)
        assert project.unsaved >= 10

        folder.unlink()
        folder.with_name("away").rename(folder)
        deadline = time.monotonic() + 20
        while project.storage_error is not None and time.monotonic() < deadline:
            time.sleep(0.02)  # it tries again by itself
        assert project.storage_error is None and project.unsaved == 0
        with Project.open(project.path, read_only=True) as seen:
            assert seen.object_mask(cat.id, 0, 10).sum() == 11 * 16

    def test_a_window_does_not_count_as_finished(self, project: Project, cat: ObjectRecord) -> None:
        run = project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
        folder = project.path / "provenance"
        folder.rename(folder.with_name("away"))
        folder.write_text("in the way")
        project.write_model(cat.layer, cat.id, 0, np.ones((10, 12, 16), bool))
        with pytest.raises(StorageError):
            project.mark_window_done(run.id, 0)
        assert project.runs[run.id].done == frozenset()
        with Project.open(project.path.with_name("a"), read_only=True) as seen:
            assert not seen.runs[run.id].done
        folder.unlink()
        folder.with_name("away").rename(folder)
        project.mark_window_done(run.id, 0)
        shutil.copytree(project.path, project.path.with_name("killed.flowrvs"))
        shutil.rmtree(project.path.with_name("killed.flowrvs") / "history")  # no journal helps
        with Project.open(project.path.with_name("killed"), read_only=True) as seen:
            assert seen.runs[run.id].done == {0}
            assert seen.object_mask(cat.id, 0, 10).all()
            assert (seen.provenance(cat.id) == Provenance.MODEL).all()
            assert (seen.areas(cat.id) == 192).all()

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
    def test_a_full_disk(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount")
        try:
            noise = np.random.default_rng(0).integers(1, 9, (40, 100, 100)).astype(np.uint16)
            project = Project.create(disk / "a", VideoInfo(None, "array", 40, 100, 100))
            labels = project.labels(project.add_layer("a").id)
            (disk / "ballast").write_bytes(bytes(1_700_000))
            for t in range(40):
                labels[t] = noise[t]
            with pytest.raises(StorageError, match="the disk is full; free some space"):
                project.flush()
            with pytest.raises(StorageError, match="the disk is full"):
                for _ in range(2000):  # its document keeps what it had
                    project.add_expression("a sentence of some length " * 400)
            np.testing.assert_array_equal(labels[:], noise)
            with Project.open(project.path, read_only=True) as seen:
                assert list(seen.layers) == [1]
            # A copy on another disk has all of it, and can be undone.
            with Project.open(project.copy_to(tmp_path / "copy")) as other:
                np.testing.assert_array_equal(other.labels(1)[:], noise)
                assert len(other.expressions) == len(project.expressions)
                for i in project.objects:
                    np.testing.assert_array_equal(other.areas(i), project.areas(i))
                    np.testing.assert_array_equal(other.provenance(i), project.provenance(i))
                while other.undo() is not None:
                    pass
                assert not other.labels(1)[:].any()
            (disk / "ballast").unlink()
            texts = len(project.expressions)
            project.close()
            with Project.open(project.path) as again:
                np.testing.assert_array_equal(again.labels(1)[:], noise)
                assert len(again.expressions) == texts
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_kill_while_an_array_was_made(project: Project, cat: ObjectRecord) -> None:
    """Folders without their zarr.json, as a kill between the two leaves them."""
    project.close()
    for name in ("provenance/1", "layers/2", "confidence/1"):
        (project.path / name).mkdir()
    (project.path / ".zarr.json.1-a.partial").write_text("{")
    with Project.open(project.path) as again:
        ones = np.ones((10, 12, 16), bool)
        again.write_model(1, cat.id, 0, ones, confidence=ones.astype(np.uint8))
        assert again.add_prompt("the dog")[1].layer == 2
    with Project.open(project.path) as again:
        assert (again.provenance(cat.id) == Provenance.MODEL).all()
    assert not (project.path / ".zarr.json.1-a.partial").exists()


def test_the_document_is_never_half_written(project: Project) -> None:
    for i in range(30):
        project.add_expression(f"sentence {i}")
        document = json.loads((project.path / "zarr.json").read_text())
        assert len(document["attributes"]["expressions"]) == i + 1


class TestVanishedFolder:
    """A disk that is unplugged, a folder that is renamed while it is open."""

    def test_nothing_is_written_elsewhere(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        labels[3, 4] = cat.id
        project.flush()
        away = project.path.with_name("away")
        project.path.rename(away)
        labels[5, 6] = cat.id
        with pytest.raises(StorageError, match="the folder has vanished; put it back"):
            project.flush()
        with pytest.raises(StorageError, match="vanished"):
            project.add_layer("another")
        time.sleep(0.6)  # the flusher tries, too
        assert not project.path.exists(), "half a project in the old place helps nobody"
        away.rename(project.path)
        project.flush()
        with Project.open(project.path, read_only=True) as seen:
            assert seen.object_mask(cat.id, 0, 10).sum() == 2 * 16

    def test_another_one_in_its_place(self, project: Project, cat: ObjectRecord) -> None:
        project.flush()
        away = project.path.with_name("away")
        project.path.rename(away)
        with Project.create(project.path, project.video) as other:
            other.add_layer("theirs")
        project.labels(cat.layer)[5, 6] = cat.id
        with pytest.raises(StorageError, match="another folder lies in its place"):
            project.flush()
        with Project.open(project.path, read_only=True) as other:
            assert [layer.name for layer in other.layers.values()] == ["theirs"]
        shutil.rmtree(project.path)
        away.rename(project.path)

    def test_frames_that_cannot_be_read_are_not_taken_for_empty(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        project.write_masks(cat.id, 0, np.ones((10, 12, 16), bool))
        project.close()
        with Project.open(project.path) as again:
            away = again.path.with_name("away")
            again.path.rename(away)
            with pytest.raises(StorageError, match="vanished"):
                again.labels(cat.layer)[5, 6] = 0  # the frame is on the disk that is gone
            away.rename(again.path)
            again.labels(cat.layer)[5, 6] = 0
            assert again.object_mask(cat.id, 5, 6).sum() == 11 * 16

    def test_a_frame_that_is_gone_is_told(self, project: Project, cat: ObjectRecord) -> None:
        project.write_masks(cat.id, 0, np.ones((10, 12, 16), bool))
        project.close()
        (project.path / "layers" / "1" / "c.5.0.0").unlink()
        with Project.open(project.path) as again:
            assert again.areas(cat.id)[5] == 12 * 16 and again.history.notice is None
            assert not again.labels(cat.layer)[5].any()
            assert "Frame 5 is missing" in str(again.history.notice)
            assert again.areas(cat.id)[5] == 0
            again.labels(cat.layer)[5, 3] = cat.id
            assert again.areas(cat.id)[5] == 16


def test_a_flusher_survives_whatever_happens(project: Project, cat: ObjectRecord) -> None:
    """An error that nobody thought of is told, and tried again: painting goes on being saved."""
    commit, told = project.history.commit, []

    def broken() -> int:
        if len(told) < 2:
            told.append(1)
            raise MemoryError("no room for a list")
        return commit()

    project._state._saver.retry = 0.05
    project.history.commit = broken  # type: ignore[method-assign]
    project.labels(cat.layer)[3, 4] = cat.id
    deadline = time.monotonic() + 20
    while project.storage_error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "no room for a list" in str(project.storage_error)
    while project.unsaved and time.monotonic() < deadline:
        time.sleep(0.01)
    assert project.unsaved == 0 and len(told) == 2


def test_the_same_trouble_is_told_once(project: Project, cat: ObjectRecord) -> None:
    saver, tries = project._state._saver, []
    saver.retry, save = 0.02, saver._save
    saver._save = lambda: tries.append(1) or save()  # type: ignore[func-returns-value]
    project.flush()
    away = project.path.with_name("away")
    project.path.rename(away)
    project.labels(cat.layer)[3, 4] = cat.id
    deadline = time.monotonic() + 20
    while project.storage_error is None and time.monotonic() < deadline:
        time.sleep(0.005)
    told, before = project.storage_error, len(tries)
    while len(tries) < before + 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(tries) >= before + 5
    assert told is not None and project.storage_error is told
    away.rename(project.path)


def test_two_processes_at_once_get_one_lock(project: Project) -> None:
    """Also where the lock's file is not there yet, as in a copy."""
    copy = project.copy_to(project.path.with_name("copy"))
    script = (
        "import sys, time; from flowrvs.store import Project; from flowrvs.errors import *\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n    p = Project.open(sys.argv[1]); print('mine', flush=True); sys.stdin.readline()\n"
        "except ProjectError:\n    print('theirs', flush=True)"
    )
    for _ in range(2):
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(copy)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        said = [racer.stdout.readline() for racer in racers if racer.stdout is not None]
        for racer in racers:
            racer.communicate("\n")
        assert sorted(said) == ["mine\n", "theirs\n", "theirs\n"]
        shutil.rmtree(copy / "writer")


def test_a_project_that_is_thrown_away(project: Project, cat: ObjectRecord) -> None:
    """Its folder can be deleted, and nothing is said at the end of the program."""
    project.labels(cat.layer)[3, 4] = cat.id
    shutil.rmtree(project.path)
    with pytest.raises(StorageError, match="vanished"):
        project.close()
    project.discard()
    project.close()
    assert not project.path.exists() and not project.writable
    with Project.create(project.path, project.video) as other:
        other.add_layer("a")


def test_a_lock_of_a_dead_process_on_another_computer(project: Project) -> None:
    project.close()
    holder = {"zarr_format": 3, "node_type": "group", "attributes": {"pid": 1, "host": "elsewhere"}}
    file = project.path / "writer" / "zarr.json"
    for text in (json.dumps(holder), "", "x" * 9000):
        file.write_text(text)
        with Project.open(project.path):
            if len(text) < 512:
                who = json.loads(file.read_text())["attributes"]
                assert who == {"pid": os.getpid(), "host": socket.gethostname()}
            with pytest.raises(ProjectError, match="open for writing in"):
                Project.open(project.path)
    with Project.open(project.path):
        file.write_text(json.dumps(holder))  # what it says is only told
        with pytest.raises(ProjectError, match="another process .pid 1 on elsewhere."):
            Project.open(project.path)


def test_a_closed_project_keeps_nobody_out(project: Project, cat: ObjectRecord) -> None:
    project.labels(cat.layer)[3, 4] = cat.id
    project.close()
    with pytest.raises(ProjectError, match="was closed"):
        project.undo()
    with pytest.raises(ProjectError, match="was closed"):
        project.history.changes(cat.id, 3)
    with Project.open(project.path) as again:
        assert again.undo() is not None


def test_a_project_whose_folder_was_deleted_is_rescued(
    project: Project, cat: ObjectRecord, tmp_path: Path
) -> None:
    """A copy holds all of it, undo history included: what was flushed long ago, too."""
    dog = project.add_prompt("the dog")[1]
    noise = np.random.default_rng(0).random((10, 12, 16)) < 0.5
    project.write_model(cat.layer, cat.id, 0, noise)
    project.write_masks(dog.id, 2, ~noise[2:8])
    project.split_object(cat.id, 0, 6, np.broadcast_to(np.arange(16) < 8, (6, 12, 16)).copy())
    project.flush()
    for volume in project._state.volumes.values():  # as in a long video: not all is in memory
        volume.frames.cache._frames.clear()
    before = {i: project.labels(i)[:] for i in project.layers}
    names = [step.name for step in project.history.steps]
    shutil.rmtree(project.path)
    with pytest.raises(StorageError, match="vanished"):
        project.labels(cat.layer)[3, 4] = 0  # its frame cannot be read
    with Project.open(project.copy_to(tmp_path / "rescued")) as rescued:
        for i, labels in before.items():
            np.testing.assert_array_equal(rescued.labels(i)[:], labels)
        for i in project.objects:
            np.testing.assert_array_equal(rescued.areas(i), project.areas(i))
            np.testing.assert_array_equal(rescued.provenance(i), project.provenance(i))
        assert rescued.expressions == project.expressions
        assert [step.name for step in rescued.history.steps] == names
        while rescued.undo() is not None:
            pass
        assert not any(rescued.labels(i)[:].any() for i in rescued.layers)
    assert project.history.notice is None
    project.discard()


class TestAKillBetween:
    """The files of one thing were written, those of the next were not."""

    def test_provenance_and_areas(self, project: Project, cat: ObjectRecord) -> None:
        """No model may draw over what a person did, whatever is missing."""
        project.write_masks(cat.id, 0, np.ones((10, 12, 16), bool))
        new = project.split_object(cat.id, 0, 10, np.ones((10, 12, 16), bool))
        project.close()
        shutil.rmtree(project.path / "areas" / str(new.id))
        zarr.open_group(project.path, mode="r+", zarr_format=3)[f"provenance/{new.id}"][:] = 0
        with Project.open(project.path) as again:
            assert (again.provenance(new.id) == Provenance.HUMAN).all()
            assert not again.write_model(1, new.id, 0, np.zeros((10, 12, 16), bool)).any()
            assert again.areas(new.id).tolist() == [192] * 10
            assert again.object_mask(new.id, 0, 10).all()

    def test_locks_of_files_are_swept(self, project: Project, cat: ObjectRecord) -> None:
        project.close()
        script = (
            "import sys, os, signal; from flowrvs.store import Project\n"
            "project = Project.open(sys.argv[1]); project.labels(1)[2] = 1; project.flush()\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        subprocess.run([sys.executable, "-c", script, str(project.path)], check=False)
        for name in ("layers/1/c.2.0.0", "provenance/1/c.0", "areas/1/zarr.json"):
            (project.path / f"{name}.__lock").write_bytes(b"half")
        with Project.open(project.path) as again:
            assert list(project.path.rglob("*.__lock")) == []
            assert again.labels(1)[2].all()

    def test_pieces_that_could_not_be_written_are_written_later(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """Read from the disk without its journal: nothing else repairs them."""
        for name, read in (("provenance", "provenance"), ("areas", "areas")):
            project.write_masks(cat.id, 0, np.ones((1, 12, 16), bool), overwrite="human")
            project.flush()
            folder = project.path / name
            folder.rename(folder.with_name("away"))
            folder.write_text("in the way")
            project.write_masks(cat.id, 4, np.ones((2, 12, 16), bool), overwrite="human")
            with pytest.raises(StorageError):
                project.flush()
            folder.unlink()
            folder.with_name("away").rename(folder)
            project.flush()
            copy = project.path.with_name(f"{name}.flowrvs")
            shutil.copytree(project.path, copy)
            shutil.rmtree(copy / "history")
            with Project.open(copy, read_only=True) as seen:
                np.testing.assert_array_equal(
                    getattr(seen, read)(cat.id), getattr(project, read)(cat.id)
                )
            project.undo(), project.undo()


class TestAJournalThatIsFull:
    """A commit that fails costs nothing of what it was to write."""

    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What a commit must not hold, or it fails."""
        held, commit = [""], Journal.commit

        def commit_or_fail(journal: Journal, batch: Any) -> None:
            if batch and held[0] and getattr(batch, held[0]):
                raise StorageError("the disk is full")
            commit(journal, batch)

        monkeypatch.setattr(Journal, "commit", commit_or_fail)
        return held

    def test_changes(self, project: Project, cat: ObjectRecord, full: list[str]) -> None:
        project.write_masks(cat.id, 0, np.ones((3, 12, 16), bool))
        full[0] = "entries"
        project.labels(cat.layer)[5] = cat.id
        project.update_object(cat.id, name="Tom")
        with pytest.raises(StorageError, match="full"):
            project.flush()
        full[0] = ""
        project.flush()
        project.close()
        with Project.open(project.path) as again:
            names = [step.name.partition(" on ")[0] for step in again.history.steps]
            assert names == ["masks of 'the cat', frames 0-2", "edit", "rename 'the cat'"]
            assert [row.name for row in again.changes(cat.id, 5)][0].startswith("edit")
            while again.undo() is not None:
                pass
            assert not again.labels(1)[:].any() and again.objects[cat.id].name == "the cat"

    def test_what_was_undone_and_is_forgotten(
        self, project: Project, cat: ObjectRecord, full: list[str]
    ) -> None:
        project.labels(cat.layer)[5] = cat.id
        project.labels(cat.layer)[6] = cat.id
        project.flush()
        project.undo(), project.undo()
        project.flush()
        full[0] = "forgotten"
        project.labels(cat.layer)[7] = cat.id  # ends what can be redone
        with pytest.raises(StorageError, match="full"):
            project.flush()
        full[0] = ""
        project.close()
        with Project.open(project.path) as again:
            assert [(s.start, s.state) for s in again.history.steps] == [(7, "done")]
            assert again.changes(cat.id, 5) == again.changes(cat.id, 6) == []
        db = sqlite3.connect(project.path / "history" / "journal.sqlite")
        assert db.execute("SELECT count(*) FROM steps").fetchone() == (1,)
        assert db.execute("SELECT DISTINCT start FROM records").fetchall() == [(7,)]
        db.close()

    def test_what_is_dropped(self, project: Project, cat: ObjectRecord, full: list[str]) -> None:
        noise = np.random.default_rng(0).random((10, 12, 16)) < 0.5
        for t in range(6):
            project.write_masks(cat.id, t, noise[t : t + 1])
        project.flush()
        project.history.limit_bytes = 600
        project.labels(cat.layer)[9, 9] = cat.id
        full[0] = "dropped"
        with contextlib.suppress(StorageError):
            project.flush()  # finds that steps are to be dropped
        left = [step.start for step in project.history.steps]
        assert 0 < len(left) < 7
        with pytest.raises(StorageError, match="full"):
            project.flush()
        full[0] = ""
        project.close()
        with Project.open(project.path) as again:
            assert [step.start for step in again.history.steps] == left
            assert len(again.changes(cat.id, 0)) == 1, "who drew is not forgotten"
        db = sqlite3.connect(project.path / "history" / "journal.sqlite")
        kept = {start for (start,) in db.execute("SELECT start FROM records")}
        assert kept == set(left)
        db.close()


class TestDamagedFiles:
    """Files that a disk gives back otherwise: one line each, and the rest opens."""

    @pytest.fixture
    def drawn(self, project: Project, cat: ObjectRecord) -> Path:
        project.write_masks(cat.id, 2, np.ones((3, 12, 16), bool))
        project.write_model(cat.layer, cat.id, 5, np.ones((2, 12, 16), bool))
        project.set_expression_text(next(iter(project.expressions)), "the black cat")
        project.close()
        return project.path

    @pytest.mark.parametrize("data", [b"", b"{", b"\x00" * 99, b'{"node_type": "group"}'])
    def test_the_document_has_a_copy(self, drawn: Path, data: bytes) -> None:
        (drawn / "zarr.json").write_bytes(data)
        with Project.open(drawn) as again:
            assert "zarr.json was damaged" in str(again.history.notice)
            assert [e.text for e in again.expressions.values()] == ["the black cat"]
            assert again.areas(1).tolist() == [0, 0] + [192] * 5 + [0] * 3
        with Project.open(drawn) as again:
            assert again.history.notice is None
        assert (drawn / "damaged-zarr.json").read_bytes() == data

    def test_a_newer_document_is_not_replaced(self, drawn: Path) -> None:
        document = json.loads((drawn / "zarr.json").read_text())
        document["attributes"]["format_version"] = 99
        (drawn / "zarr.json").write_text(json.dumps(document))
        with pytest.raises(ProjectError, match="newer"):
            Project.open(drawn)

    @pytest.mark.parametrize("data", [None, b"", b"{}"])
    def test_the_description_of_a_layer_is_made_anew(self, drawn: Path, data: bytes | None) -> None:
        file = drawn / "layers" / "1" / "zarr.json"
        file.unlink() if data is None else file.write_bytes(data)
        with pytest.raises(ProjectError, match="missing or damaged"):
            Project.open(drawn, read_only=True)
        with Project.open(drawn) as again:
            assert "made anew" in str(again.history.notice)
            assert again.object_mask(1, 0, 10).sum() == 5 * 192

    @pytest.mark.parametrize("name", ["zarr.json", "c.0"])
    def test_areas_are_counted_again(self, drawn: Path, name: str) -> None:
        (drawn / "areas" / "1" / name).write_bytes(b"junk")
        for _ in range(2):
            with Project.open(drawn) as again:
                assert again.areas(1).tolist() == [0, 0] + [192] * 5 + [0] * 3

    @pytest.mark.parametrize("name", ["zarr.json", "c.0"])
    def test_what_nobody_knows_is_a_persons(self, drawn: Path, name: str) -> None:
        """A model that drew over it could destroy what a person drew."""
        (drawn / "provenance" / "1" / name).write_bytes(b"junk")
        (drawn / "areas" / "1" / name).write_bytes(b"junk")
        with Project.open(drawn) as again:
            assert "counts as a person's" in str(again.history.notice)
            assert again.provenance(1).tolist() == [0, 0] + [2] * 5 + [0] * 3
        with Project.open(drawn) as again:
            assert again.history.notice is None
            assert again.provenance(1).tolist() == [0, 0] + [2] * 5 + [0] * 3

    def test_pixels_that_nobody_drew_count_as_a_person_s(self, drawn: Path) -> None:
        zarr.open_group(drawn, mode="r+", zarr_format=3)["provenance/1"][3:6] = 0
        with Project.open(drawn) as again:
            assert again.provenance(1).tolist() == [0, 0, 2, 2, 2, 2, 1, 0, 0, 0]
            assert not again.write_model(1, 1, 3, np.zeros((3, 12, 16), bool)).any()

    def test_a_flipped_bit_in_a_frame_is_seen(self, drawn: Path) -> None:
        file = drawn / "layers" / "1" / "c.3.0.0"
        good = file.read_bytes()
        for place in range(len(good)):
            file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            with Project.open(drawn, read_only=True) as again:
                try:
                    frame = again.labels(1)[3]
                except ProjectError as error:
                    assert "Frame 3" in str(error) and "\n" not in str(error)
                else:
                    assert (frame == 1).all(), place

    def test_who_failed_to_open_keeps_nobody_out(self, drawn: Path) -> None:
        file = drawn / "layers" / "1" / "zarr.json"
        good = file.read_bytes()
        file.write_text('{"node_type": "array"}')
        with pytest.raises(ProjectError, match="missing or damaged") as error:
            Project.open(drawn)
        file.write_bytes(good)
        with Project.open(drawn) as again:
            assert again.undo() is not None
        assert error.value.__traceback__ is not None  # which holds on to what was opened


class TestAKillInTheMiddleOf:
    """A copy of the folder is what a kill at that point leaves."""

    @staticmethod
    def _killed(project: Project) -> Project:
        project._state.history.commit()
        copy = project.path.with_name("killed.flowrvs")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(project.path, copy)
        return Project.open(copy)

    def test_a_swap_whose_provenance_was_still_to_come(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dog = project.add_object("dog", cat.layer)
        project.labels(cat.layer)[2:4] = cat.id
        opened: list[Project] = []

        def provide(*_: object) -> None:
            opened.append(opened[0] if opened else self._killed(project))

        monkeypatch.setattr(project._surgery, "_provide", provide)
        project.swap_objects(cat.id, dog.id, 2, 4)
        with opened[0] as again:
            assert again.provenance(cat.id).tolist() == [0, 0, 2, 2] + [0] * 6
            assert again.provenance(dog.id).tolist() == [0] * 10
            assert again.object_mask(cat.id, 2, 4).all()
            assert again.undo_name == "edit on 'the cat', frames 2-3"
            assert again.history.redo_step is None and again.history.notice is None

    @pytest.mark.parametrize("stopped", [False, True])
    def test_forgetting_an_object_that_the_document_names(
        self, project: Project, cat: ObjectRecord, stopped: bool
    ) -> None:
        """Undone and not to be redone, or taken back: it must not come back as an empty one."""
        project.labels(cat.layer)[1] = cat.id
        before = project.objects
        project._state._saver.stop()  # the document is written by this test alone
        if stopped:
            with contextlib.suppress(KeyboardInterrupt), project.edit("a try"):
                project.split_object(cat.id, 0, 10)
                project._state.save()
                raise KeyboardInterrupt
        else:
            project.split_object(cat.id, 0, 10)
            project._state.save()
            project.undo()
            project.labels(cat.layer)[5] = cat.id
        assert project.objects == before
        with self._killed(project) as again:
            assert again.objects == before
            assert again.object_mask(cat.id, 1, 2).all()
            assert not again.history.redo_step
            again.flush()
        project._state.save()
        project._state.history.commit()
        with self._killed(project) as again:
            assert again.objects == before
        rows = sqlite3.connect(project.path.with_name("killed.flowrvs") / "history/journal.sqlite")
        with contextlib.closing(rows):
            found = rows.execute("SELECT count(*) FROM steps WHERE frames LIKE '%gone%'")
            assert found.fetchone() == (0,)

    def test_moving_a_forgotten_move_back(self, project: Project, cat: ObjectRecord) -> None:
        """The document says the other layer, the pixels are in the first again."""
        dog = project.add_object("dog", cat.layer)
        project.labels(cat.layer)[1, :6] = cat.id
        project._state._saver.stop()
        project.move_object(cat.id)
        project.undo()
        project.labels(cat.layer)[5] = dog.id
        with self._killed(project) as again:
            assert again.objects[cat.id].layer == cat.layer
            assert again.object_mask(cat.id, 1, 2)[0, :6].all()
            assert again.areas(cat.id)[1] == 6 * 16
            assert again.history.notice is None

    def test_undoing_when_the_document_lacks_the_layer(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the last name and the word that the step is undone, nothing is saved."""
        project.labels(cat.layer)[1] = cat.id
        project.add_object("dog", cat.layer)
        project.move_object(cat.id)
        history, opened = project._state.history, []
        move = history._move

        def kill_before(*arguments: Any) -> None:
            saver = threading.Thread(target=project._state.save, daemon=True)
            saver.start()
            saver.join(0.5)
            opened.append(self._killed(project))
            move(*arguments)

        monkeypatch.setattr(history, "_move", kill_before)
        project.undo()
        with opened[0] as again:
            assert again.history.notice is None
            assert again.objects[cat.id].layer == cat.layer
            assert again.object_mask(cat.id, 1, 2).all()

    def test_names_that_went_there_and_back(self, project: Project, cat: ObjectRecord) -> None:
        """The document knows them; the pixels alone are to be done again."""
        project.add_object("dog", cat.layer)
        project.labels(cat.layer)[1] = cat.id
        there = project.add_layer("there").id
        extra = project.add_object("extra", there)
        project.flush()
        project._state._saver.stop()
        project.move_object(cat.id, there)
        project.move_object(cat.id, cat.layer)
        project.remove_object(extra.id)
        assert there not in project.layers
        with self._killed(project) as again:
            assert again.history.notice is None
            assert again.objects[cat.id].layer == cat.layer
            assert again.object_mask(cat.id, 1, 2).all()

    def test_a_flush_while_an_object_goes_to_a_layer_that_was_written(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its provenance was in neither layer's turn, and is not on the disk."""
        first = cat.layer
        project.add_object("dog", first)
        second = project.add_layer("second").id
        project.flush()
        project._state._saver.stop()
        project._state._scribe.stop()
        project.move_object(cat.id, second)
        # Absent, says a person: no pixels, so that nothing else tells.
        project.write_masks(cat.id, 1, np.zeros((1, 12, 16), bool))
        frames = project._state.volumes[first].frames
        flush = frames.flush

        def flush_and_move() -> None:
            flush()
            monkeypatch.undo()
            project.move_object(cat.id, first)

        monkeypatch.setattr(frames, "flush", flush_and_move)
        project.flush()
        project.add_expression("what is written next")
        with self._killed(project) as again:
            assert again.objects[cat.id].layer == first
            assert again.provenance(cat.id)[1] == Provenance.HUMAN

    def test_two_flushes_of_an_object_that_goes_to_another_layer(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the flush of its old layer holds is older, and must not be written last."""
        project.add_object("dog", cat.layer)
        second = project.add_layer("second").id
        project._state._saver.stop()
        project._state._scribe.stop()
        nothing = np.zeros((1, 12, 16), bool)  # a move of pixels would wait for a flush
        project.write_masks(cat.id, 1, nothing)
        slow, go, write = threading.Event(), threading.Event(), Track.write

        def write_slowly(track: Track, pieces: Any) -> Any:
            if not slow.is_set():
                slow.set()
                go.wait(20)
            return write(track, pieces)

        monkeypatch.setattr(Track, "write", write_slowly)
        volumes = project._state.volumes
        flushes = [
            threading.Thread(target=volumes[i].frames.flush, daemon=True)
            for i in (cat.layer, second)
        ]
        flushes[0].start()
        assert slow.wait(20)
        project.move_object(cat.id, second)
        project.write_masks(cat.id, 2, nothing)
        flushes[1].start()
        flushes[1].join(0.5)
        go.set()
        for flush in flushes:
            flush.join(20)
        stored = zarr.open_group(project.path, mode="r", zarr_format=3)[f"provenance/{cat.id}"]
        assert list(stored[:]) == [0, 2, 2, 0, 0, 0, 0, 0, 0, 0]

    def test_a_session_after_an_undo_that_was_stopped(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """It was stopped: no later session completes it."""
        project.write_masks(cat.id, 0, np.ones((10, 12, 16), bool))
        cancel = CancelToken()

        def stop(_: object) -> None:
            project._state.history.commit()
            cancel.cancel()

        with pytest.raises(Cancelled):
            project.history.undo(cancel, stop)
        with self._killed(project) as again:
            assert again.object_mask(cat.id, 0, 10).all()
            assert again.history.undo_step
