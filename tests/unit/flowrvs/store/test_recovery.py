"""What a session finds that a kill or a bad disk has left: the journal, the frames, the names."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import StorageError
from flowrvs.store import ObjectRecord, Project

from .states import FULL, LEFT, same, state

PAINTER = """
import sys, time
import numpy as np
from flowrvs.store import Project
project = Project.open(sys.argv[1])
labels = project.labels(1)
model = np.ones((2, 12, 16), bool)
print("open", flush=True)
for n in range(1, 100_000):
    labels[n % 5, (n // 5) % 12] = 2 + n % 3
    if n % 7 == 0:
        project.undo()
    if n % 3 == 0:
        project.write_model(1, 1, 5 + n % 4, model)
    if n % 10 == 0:
        project.lock_frames(1, 0, 1 + n % 9)
        project.unlock_frames(1, 0, 10)
    print(n, time.monotonic(), flush=True)
"""


def test_a_killed_painter_can_undo_everything(project: Project, cat: ObjectRecord) -> None:
    """After a SIGKILL: no more than the last second is missing, and the rest can be undone."""
    for i in range(3):
        project.add_object(f"one {i}", cat.layer)
    empty = state(project)
    project.close()
    for wait in (0.9, 0.3):
        with subprocess.Popen(
            [sys.executable, "-c", PAINTER, str(project.path)], stdout=subprocess.PIPE, text=True
        ) as painter:
            assert painter.stdout is not None
            assert painter.stdout.readline() == "open\n"
            time.sleep(wait)
            os.kill(painter.pid, signal.SIGKILL)
            killed = time.monotonic()
            rows = [line.split() for line in painter.stdout.read().splitlines()]
        done = [int(row[0]) for row in rows if len(row) == 2 and float(row[1]) < killed - 1.2]
        with Project.open(project.path) as again:
            pixels = np.asarray(again.labels(cat.layer))
            for one in again.objects:
                np.testing.assert_array_equal(
                    again.areas(one), (pixels == one).sum(axis=(1, 2)), err_msg=str(one)
                )
            if done:
                assert again.history.undo_step
            while again.history.undo_step:
                again.undo()
            assert same(state(again), empty)


def test_a_step_that_a_kill_left_open_is_undone_first(project: Project, cat: ObjectRecord) -> None:
    """It changed what steps before it had made; undone last, it would keep them."""
    empty = state(project)
    project.close()
    script = (
        "import sys, os, signal; import numpy as np; from flowrvs.store import Project\n"
        "project = Project.open(sys.argv[1]); mask = np.ones((2, 12, 16), bool)\n"
        "project.write_model(1, 1, 5, mask); project.flush()\n"
        "with project.edit('again', kind='model'):\n"
        "    project.write_model(1, 1, 5, mask); project.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(project.path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Project.open(project.path) as again:
        assert [step.kind for step in again.history.steps] == ["model", "model"]
        while again.history.undo_step:
            again.undo()
        assert same(state(again), empty)


@pytest.mark.parametrize("kind", ["human", "model"])
def test_what_a_person_was_doing_ends_what_could_be_redone(
    project: Project, cat: ObjectRecord, kind: Any
) -> None:
    project.write_masks(cat.id, 0, LEFT[:1])
    project.undo()
    with project.edit("again", kind=kind):
        project.write_masks(cat.id, 5, LEFT[:2])
        copy = project.copy_to(project.path.with_name("copy"))  # as a kill would leave it
    for _ in range(2):
        with Project.open(copy) as again:
            left = ["done"] if kind == "human" else ["done", "undone"]
            assert [step.state for step in again.history.steps] == left
            assert again.undo_name == "again" and again.areas(cat.id)[5] == 96
    with Project.open(copy) as again:
        numbers = {step.id for step in again.history.steps}
        again.labels(cat.layer)[9, 9] = cat.id
        assert again.history.steps[-1].id > max(numbers), "a number of its own"


@pytest.mark.parametrize("what", ["undo", "redo"])
@pytest.mark.parametrize("saved", [True, False])
def test_an_undo_that_a_kill_interrupted_is_completed(
    project: Project, cat: ObjectRecord, what: str, saved: bool
) -> None:
    """Also where the object had gone to another layer: names and pixels belong together."""
    project.write_masks(cat.id, 0, LEFT)
    states = [state(project)]
    project.move_object(cat.id)
    states.append(state(project))
    if what == "redo":
        project.undo()
    project.close()
    script = (
        "import sys, os, signal; from flowrvs.store import Project\n"
        "project = Project.open(sys.argv[1])\n"
        "def stop(event):\n"
        "    if event.done == 5:\n"
        f"        {'project.flush()' if saved else 'project.history.commit()'}\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"project.history.{what}(None, stop)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(project.path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    wanted = states if what == "redo" else states[::-1]
    with Project.open(project.path) as again:
        assert again.history.notice is None
        left = ["done", "undone"] if what == "undo" else ["done", "done"]
        assert [step.state for step in again.history.steps] == left
        assert same(state(again), wanted[1])
        again.undo() if what == "redo" else again.redo()
        assert same(state(again), wanted[0])


def test_a_torn_end_of_the_journal_is_ignored(project: Project, cat: ObjectRecord) -> None:
    """As a power cut leaves it: the last pages of the log are half written."""
    project.close()
    script = (
        "import sys, os, signal; from flowrvs.store import Project\n"
        "project = Project.open(sys.argv[1]); labels = project.labels(1)\n"
        "for t in range(8):\n    labels[t, t] = 1\n    project.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    painter = subprocess.run([sys.executable, "-c", script, str(project.path)], check=False)
    assert painter.returncode == -signal.SIGKILL
    log = project.path / "history" / "journal.sqlite-wal"
    data = log.read_bytes()
    assert len(data) > 20_000
    log.write_bytes(data[: len(data) - 5000] + os.urandom(3000))
    with Project.open(project.path) as again:
        assert again.history.notice is None
        frames = np.asarray(again.labels(cat.layer))
        assert all(frames[t, t].all() for t in range(8)), "frames lie safe in their own files"
        assert 1 <= len(again.history.steps) <= 8
        while again.history.undo_step:
            again.undo()
        left = [t for t in range(8) if again.labels(cat.layer)[t].any()]
        assert len(left) < 8


def test_frames_that_a_kill_kept_from_the_disk_come_from_the_journal(
    project: Project, cat: ObjectRecord
) -> None:
    project.close()
    before = {p: p.read_bytes() for p in (project.path / "layers").rglob("*") if p.is_file()}
    with Project.open(project.path) as painter:
        painter.labels(cat.layer)[4, 2:5] = cat.id
        painter.labels(cat.layer)[4, 3] = 9
        painter.labels(cat.layer)[6, 1] = cat.id
        painter.undo()
        painter.write_model(cat.layer, cat.id, 7, LEFT[:2])
        painter.accept_frames(cat.id, 8, 10)
        painter.lock_frames(9, 1, 3)
        wanted = state(painter)
        painter._state.before_pixels()
        painter.history.flushed = lambda seq: None  # type: ignore[method-assign,assignment]
    for path in (project.path / "layers").rglob("c.*"):
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    for name in ("provenance", "areas"):
        for path in (project.path / name).rglob("c.*"):
            path.unlink()
    for _ in range(2):  # once it has come from there, it is on the disk
        with Project.open(project.path) as again:
            assert same(state(again), wanted)


class TestReplay:
    """What a kill left in the journal, and neither in the frames nor in the document."""

    def test_an_object_that_was_removed_stays_removed(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        labels = project.labels(cat.layer)
        labels[3, 4] = 7  # a new object
        project.update_object(7, name="seven")
        project.remove_object(7)
        copy = project.copy_to(project.path.with_name("copy"))  # as a kill would leave it
        with Project.open(copy) as again:
            assert set(again.objects) == {cat.id}
            again.undo()
            assert again.objects[7].name == "seven" and again.areas(7)[3] == 16

    def test_names_follow_the_pixels(self, project: Project, cat: ObjectRecord) -> None:
        """Killed after the journal, before the document: the pixels have their object."""
        dog = project.add_object("dog", cat.layer)
        project.write_masks(dog.id, 0, FULL)
        project.close()
        document = (project.path / "zarr.json").read_bytes()
        with Project.open(project.path) as again:
            again.labels(cat.layer)[3, 4] = 9
            again.merge_objects(cat.id, dog.id)
            again.undo(), again.redo()
            wanted = state(again)
            copy = again.copy_to(project.path.with_name("copy"))
        (copy / "zarr.json").write_bytes(document)
        with Project.open(copy) as again:
            assert same(state(again), wanted)
            again.undo()
            assert set(again.objects) == {cat.id, dog.id, 9}

    def test_a_step_that_touched_nothing_is_no_step(self, project: Project) -> None:
        layer = project.add_layer("empty")
        project.labels(layer.id)[3, 4] = 0
        assert project.history.steps == ()
        copy = project.copy_to(project.path.with_name("copy"))
        with Project.open(copy) as again:
            assert again.history.steps == ()


class TestDamage:
    """Bytes that a disk gives back otherwise: one line, and as much as possible is kept."""

    def _damage(self, project: Project, text: str) -> None:
        db = sqlite3.connect(project.path / "history" / "journal.sqlite")
        db.execute(text)
        db.commit()
        db.close()

    def test_one_change_of_many(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        for t in range(4):
            labels[t, t] = cat.id
        with project.edit("all"):
            for t in range(4):
                labels[t, 8] = cat.id
        project.close()
        self._damage(project, "UPDATE records SET data = X'0102' WHERE start = 2")
        with Project.open(project.path) as again:
            assert again.history.notice is None
            while again.undo() is not None:
                pass
            assert "is damaged" in str(again.history.notice)
            assert "\n" not in str(again.history.notice)
            areas = again.areas(cat.id).tolist()
            assert areas == [0, 0, 32, 0, 0, 0, 0, 0, 0, 0]
            while again.redo() is not None:
                pass
            assert again.areas(cat.id).tolist() == [32] * 4 + [0] * 6

    def test_a_change_that_a_kill_left_for_later(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        for t in range(4):
            labels[t, t] = cat.id
        project.lock_frames(cat.id, 0, 3)
        copy = project.copy_to(project.path.with_name("copy"))
        project = Project.open(copy, read_only=True)
        self._damage(project, "UPDATE records SET data = X'0102' WHERE start = 2 or role = 'range'")
        self._damage(project, "UPDATE records SET marks = 'x' WHERE start = 1")
        with Project.open(copy) as again:
            assert "is damaged" in str(again.history.notice)
            assert again.areas(cat.id).tolist()[:4] == [16] * 4

    def test_in_the_middle_of_a_session(self, project: Project, cat: ObjectRecord) -> None:
        """A new journal begins; what is in memory of the old one is in it."""
        labels = project.labels(cat.layer)
        labels[0, 0] = cat.id
        project.close()
        with Project.open(project.path) as again:
            labels = again.labels(cat.layer)
            labels[1, 1] = cat.id
            again.flush()
            journal = project.path / "history" / "journal.sqlite"
            again.history._journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            journal.write_bytes(b"\0" * journal.stat().st_size)
            again.history._journal._db.close()
            again.history._journal._db = None
            labels[2, 2] = cat.id
            again.flush()
            assert "begins anew" in str(again.history.notice)
            assert [step.start for step in again.history.steps] == [1, 2]
        with Project.open(project.path) as again:
            assert [step.start for step in again.history.steps] == [1, 2]
            again.undo(), again.undo()
            assert again.areas(cat.id).tolist() == [16] + [0] * 9
        assert (project.path / "history" / "damaged-journal.sqlite").exists()

    def test_an_empty_file_is_told(self, project: Project, cat: ObjectRecord) -> None:
        project.labels(cat.layer)[0, 0] = cat.id
        project.close()
        for count in (1, 2):
            (project.path / "history" / "journal.sqlite").write_bytes(b"")
            with Project.open(project.path) as again:
                assert "begins anew" in str(again.history.notice)
                again.labels(cat.layer)[count, 0] = cat.id
            found = list((project.path / "history").glob("damaged*sqlite"))
            assert len(found) == count, "an older one is not overwritten"

    def test_half_a_file(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        noise = np.random.default_rng(0)
        for t in range(100):
            labels[t % 10] = noise.random((12, 16)) > 0.5
        project.close()
        journal = project.path / "history" / "journal.sqlite"
        data = journal.read_bytes()
        journal.write_bytes(data[: len(data) // 2])
        pixels = np.asarray(labels)
        with Project.open(project.path) as again:
            for _ in range(120):
                try:
                    again.undo()
                except StorageError as error:
                    assert "\n" not in str(error)
            assert again.history.notice is not None
            again.labels(cat.layer)[0] = 0
            again.flush()
            np.testing.assert_array_equal(np.asarray(again.labels(cat.layer))[9], pixels[9])
