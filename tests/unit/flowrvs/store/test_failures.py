"""What fails in the middle: it is told in a line, and all else is as it was before."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import Cancelled, ProjectError, StorageError
from flowrvs.progress import CancelToken
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project, Provenance, surgery
from flowrvs.store import project as project_module
from flowrvs.store import state as state_module
from flowrvs.store.journal import Journal
from flowrvs.store.moves import Move, run_moves
from flowrvs.store.storage import Track, create_array, open_array
from flowrvs.store.surgery import _Staged

from .states import FULL, LEFT, same, state

FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
TOLD = "the disk is full; free some space. Nothing in memory is lost."


def damage(project: Project, text: str, *values: Any) -> None:
    db = sqlite3.connect(project.path / "history" / "journal.sqlite")
    db.execute(text, values)
    db.commit()
    db.close()


class TestNewFrames:
    """An object is split on more frames than are made in place: files are made beside them."""

    @pytest.fixture
    def long(self, tmp_path: Path) -> Iterator[Project]:
        with Project.create(tmp_path / "long", VideoInfo(None, "array", 24, 12, 16)) as project:
            cat = project.add_prompt("the cat")[1]
            project.write_masks(cat.id, 0, np.ones((24, 12, 16), bool))
            yield project

    @pytest.mark.parametrize("where", ["folder", "spool", "frame"])
    def test_they_cannot_be_written(
        self, long: Project, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        class Spool:
            def __init__(self, *_: Any) -> None:
                self.closed = False

            def seek(self, *_: int) -> int:
                return 0

            def write(self, data: bytes) -> None:
                raise FULL_DISK

            def close(self) -> None:
                spools.append(self)

        def no_folder(**_: Any) -> str:
            raise FULL_DISK

        def made(folder: Path, *how: Any) -> Any:
            array = create_array(folder, *how)
            (folder / "c.5.0.0").mkdir()
            return array

        spools: list[Spool] = []
        if where == "folder":
            monkeypatch.setattr(surgery.tempfile, "mkdtemp", no_folder)
        elif where == "spool":
            monkeypatch.setattr(surgery, "open", Spool, raising=False)
        else:
            monkeypatch.setattr(surgery, "create_array", made)
        before, ids = state(long), dict(long._state.document.next_ids)
        with pytest.raises(StorageError) as error:
            long.split_object(1, 0, 24, name="half")
        assert str(error.value).startswith(f"Cannot write to {long.path}: ")
        assert where == "frame" or str(error.value).endswith(TOLD)
        assert same(state(long), before) and long._state.document.next_ids == ids
        assert len(long.history.steps) == 1 and len(spools) == (where == "spool")
        end = time.monotonic() + 20
        while [*long.path.glob(".staged*")] and time.monotonic() < end:
            time.sleep(0.002)
        assert [*long.path.glob(".staged*")] == []
        monkeypatch.undo()
        assert long.split_object(1, 0, 24, name="half").id == 2
        assert long.areas(2).tolist() == [192] * 24 and not long.areas(1).any()

    def test_a_cancel_is_looked_for_while_they_are_written(
        self, long: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where there is no progress to be told, and the disk takes its time."""

        class Slow:
            def result(self, timeout: float) -> None:
                waited.append(timeout)
                if len(waited) == 3:
                    cancel.cancel()
                raise TimeoutError

            def exception(self) -> None: ...

        waited: list[float] = []
        cancel, before = CancelToken(), state(long)
        wait = _Staged._wait

        def slowly(staged: _Staged, count: int, token: CancelToken | None) -> None:
            staged._writes.appendleft(Slow())
            wait(staged, count, token)

        monkeypatch.setattr(_Staged, "_wait", slowly)
        with pytest.raises(Cancelled):
            long.mark_absent(1, 0, 24, cancel=cancel)
        assert waited == [surgery._MOMENT] * 3 and same(state(long), before)


def test_a_layer_that_cannot_be_made_leaves_no_folder(
    project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, *_: Any) -> None:
        folder.mkdir()
        raise StorageError("full")

    monkeypatch.setattr(state_module, "create_array", half)
    with pytest.raises(StorageError, match="^full$"):
        project.add_layer("another")
    assert [path.name for path in (project.path / "layers").glob("[0-9]*")] == ["1"]
    assert [*project.layers] == [1]
    monkeypatch.undo()
    assert project.add_layer("another").name == "another"


def test_a_copy_that_cannot_be_ended_leaves_nothing(
    project: Project, cat: ObjectRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(*_: Any) -> None:
        raise ValueError("as tensorstore does")

    monkeypatch.setattr(project_module, "write_group", odd)
    (tmp_path / "to").mkdir()
    with pytest.raises(StorageError) as error:
        project.copy_to(tmp_path / "to" / "copy")
    assert str(error.value) == (
        f"Cannot write to {tmp_path / 'to' / 'copy.flowrvs'}: as tensorstore does. Nothing in "
        "memory is lost."
    )
    assert [*(tmp_path / "to").iterdir()] == []
    project.labels(cat.layer)[3] = cat.id  # the locks were let go
    project.flush()


def test_files_that_cannot_be_moved(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    move = Move(0, str(tmp_path / "file"), str(tmp_path / "file" / "in"), None)
    with pytest.raises(StorageError) as error:
        list(run_moves({3: move}))
    assert str(error.value).startswith(f"Cannot write to {tmp_path / 'file' / 'in'}: a file ")
    assert (tmp_path / "file").read_bytes() == b"1"


class TestTracks:
    def test_an_array_that_tensorstore_alone_refuses(self, tmp_path: Path) -> None:
        create_array(tmp_path / "a", (5,), (5,), "uint8", ("t",))
        text = (tmp_path / "a" / "zarr.json").read_text()
        assert '"level":1' in text
        (tmp_path / "a" / "zarr.json").write_text(text.replace('"level":1', '"level":"x"'))
        with pytest.raises(ProjectError) as error:
            open_array(tmp_path / "a", (5,), "uint8", (5,))
        assert str(error.value) == f"The array {tmp_path / 'a'} is missing or damaged."

    @pytest.mark.parametrize("where", ["array", "piece"])
    def test_what_cannot_be_written_says_so(self, tmp_path: Path, where: str) -> None:
        track = Track(tmp_path / "in" / "a", 10, "uint8", new=True)
        track.values[:] = 2
        if where == "array":
            (tmp_path / "in").write_bytes(b"")
        else:
            track.write([])()
            (tmp_path / "in" / "a" / "c.0").mkdir()
        with pytest.raises(StorageError) as error:
            track.write([(0, track.values)])()
        assert str(error.value).startswith(f"Cannot write to {track.path}: ")
        assert str(error.value).endswith(" Nothing in memory is lost.")


class TestReaders:
    def test_a_folder_that_is_gone(self, project: Project, cat: ObjectRecord) -> None:
        project.write_masks(cat.id, 0, FULL)
        project.flush()
        away = project.path.with_name("away")
        with Project.open(project.path, read_only=True) as seen:
            project.path.rename(away)
            with pytest.raises(StorageError) as error:
                seen.labels(cat.layer)[3]
            assert str(error.value) == f"{project.path} has vanished; put it back."
            away.rename(project.path)
            assert seen.labels(cat.layer)[3].all()

    def test_a_frame_that_is_gone_is_left_to_who_writes(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        project.write_masks(cat.id, 0, FULL)
        project.close()
        (project.path / "layers" / "1" / "c.5.0.0").unlink()
        with Project.open(project.path, read_only=True) as seen:
            assert not seen.labels(cat.layer)[5].any() and not seen.labels(cat.layer)[5].any()
            assert seen.areas(cat.id).tolist() == [192] * 10 and seen.history.notice is None

    def test_who_drew_is_made_anew_from_what_is_seen(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        dot = np.zeros((1, 12, 16), bool)
        dot[0, 5, 5] = True
        project.write_model(cat.layer, cat.id, 2, dot)
        project.write_model(cat.layer, cat.id, 9, FULL[:1])
        project.accept_frames(cat.id, 4, 5)
        project.close()
        (project.path / "provenance" / "1" / "c.0").write_bytes(b"junk")
        told = [
            "Who drew 'the cat' could not be read: all that is seen of it counts as a person's now."
        ]
        for notice in (*told, None):  # once: then it is on the disk again
            with Project.open(project.path) as again:
                assert again.history.notice == notice
                assert again.provenance(cat.id).tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
                assert again.areas(cat.id).tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 192]

    def test_a_history_that_is_a_link(self, tmp_path: Path) -> None:
        """It is not set aside: nothing of ours lies there."""
        away = tmp_path / "away" / "history"
        journal = Journal(tmp_path / "away", (10, 12, 16), writable=True)
        journal._open()
        journal.close()
        (tmp_path / "history").symlink_to(away)
        data = (away / "journal.sqlite").read_bytes()
        other = Journal(tmp_path, (10, 12, 16), writable=True)
        with pytest.raises(StorageError) as error:
            other.load()
        assert str(error.value) == (
            f"Cannot write to {tmp_path / 'history'}: {tmp_path / 'history'} is no plain file. "
            "Nothing in memory is lost."
        )
        assert other.damages == 0 and (away / "journal.sqlite").read_bytes() == data


class TestDamagedHistory:
    def test_rows_that_only_some_questions_meet(self, project: Project, cat: ObjectRecord) -> None:
        """The table of steps is whole, that of changes is not."""
        noise = np.random.default_rng(0)
        for t in range(10):
            project.write_masks(cat.id, t, noise.random((1, 12, 16)) > 0.5, overwrite="human")
        drawn = project.object_mask(cat.id, 0, 10)
        project.close()
        path = project.path / "history" / "journal.sqlite"
        db = sqlite3.connect(path)
        (root,), (size,) = (
            db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'records'").fetchone(),
            db.execute("PRAGMA page_size").fetchone(),
        )
        db.close()
        data = bytearray(path.read_bytes())
        data[(root - 1) * size : root * size] = bytes(size)
        path.write_bytes(data)
        with Project.open(project.path) as again:
            assert again.history.notice == (
                f"The undo history in {path.parent} was damaged and begins anew; the masks are "
                "as they were saved."
            )
            assert again.history.steps == ()
            np.testing.assert_array_equal(again.object_mask(cat.id, 0, 10), drawn)
            again.labels(cat.layer)[3] = 0
            assert len(again.history.steps) == 1
        assert (path.parent / "damaged-journal.sqlite").read_bytes() == bytes(data)

    def test_changes_of_objects_that_are_not_there(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        project.write_masks(cat.id, 2, LEFT[:1])
        project.lock_frames(cat.id, 4, 6)
        project.close()
        damage(project, "UPDATE records SET marks = '[[99, 0, 2], [1, 0, 2]]' WHERE start = 2")
        damage(project, "UPDATE records SET marks = '[[99, 0, 0]]' WHERE role = 'range'")
        with Project.open(project.path) as again:
            again.undo()
            assert "A part of the undo history" in str(again.history.notice)
            assert again.provenance(cat.id).tolist() == [0, 0, 2, 0, 3, 3, 0, 0, 0, 0]
            again.undo()
            assert again.provenance(cat.id).tolist() == [0, 0, 0, 0, 3, 3, 0, 0, 0, 0]
            assert not again.areas(cat.id).any()

    def test_names_that_are_none(self, project: Project, cat: ObjectRecord) -> None:
        project.update_object(cat.id, name="Tom")
        project.close()
        text = '{"objects": {"1": [{"id": "x"}, %s]}}'
        db = sqlite3.connect(project.path / "history" / "journal.sqlite")
        (catalog,) = db.execute("SELECT catalog FROM steps WHERE name LIKE '%cat%'").fetchone()
        db.close()
        after = catalog[catalog.index("}, {") + 3 : -3]
        damage(project, "UPDATE steps SET catalog = ? WHERE catalog = ?", text % after, catalog)
        with Project.open(project.path) as again:
            assert again.history.notice is None
            again.undo()
            assert "A part of the undo history" in str(again.history.notice)
            assert again.objects[cat.id].name == "Tom"

    def test_a_frame_that_cannot_be_read_when_it_is_replayed(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        project.write_masks(cat.id, 0, LEFT)
        project.labels(cat.layer)[3, 4] = 0
        project.labels(cat.layer)[5, 4] = 0
        copy = project.copy_to(project.path.with_name("copy"))  # as a kill would leave it
        (copy / "layers" / "1" / "c.3.0.0").write_bytes(b"junk")
        with Project.open(copy) as again:
            assert str(again.history.notice).startswith(f"Frame 3 in {copy / 'layers' / '1'} cann")
            np.testing.assert_array_equal(again.object_mask(cat.id, 5, 6)[0], LEFT[5] & _row(4))

    def test_a_step_that_is_being_made_when_the_journal_turns_out_to_be_damaged(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """Its first changes are in the lost file alone: half of it cannot be undone."""
        with project.edit("many"):
            for n in range(70):
                project.write_masks(cat.id, n % 10, (LEFT if n % 20 < 10 else FULL)[:1],
                                    overwrite="human")  # fmt: skip
            project.flush()
            journal = project.history._journal
            assert journal._db is not None
            journal._db.close()
            journal._db = None
            journal.path.write_bytes(b"\0" * 9999)
            Path(f"{journal.path}-wal").unlink(missing_ok=True)
            project.write_masks(cat.id, 9, LEFT[:1], overwrite="human")
            project.flush()
            assert "begins anew" in str(project.history.notice)
        assert project.history.steps == () and project.undo() is None
        assert project.areas(cat.id).tolist() == [96] * 10
        assert project.changes(cat.id, 9)[0].name == "many", "who drew is known"
        project.labels(cat.layer)[0] = 0
        assert [step.start for step in project.history.steps] == [0]


def _row(row: int) -> Any:
    return (np.arange(12) != row)[:, None]


class TestMeanwhile:
    def test_an_object_that_has_left_is_not_drawn(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """Who looked up its layer before somebody moved it."""
        volume = project._state.volumes[cat.layer]
        project.move_object(cat.id)
        with pytest.raises(ProjectError) as error, project.edit("late") as _:
            entry = project.history.current()
            assert entry is not None
            volume.write(entry, cat.id, 3, FULL[:1], Provenance.MODEL, Provenance.MODEL)
        assert str(error.value) == f"Object {cat.id} has left layer {cat.layer}; try again."
        assert not np.asarray(project.labels(cat.layer)).any()

    def test_an_object_that_is_where_it_is_to_go(self, project: Project, cat: ObjectRecord) -> None:
        before, steps = state(project), project.history.steps
        assert project.move_object(cat.id, cat.layer) == cat
        assert same(state(project), before) and project.history.steps == steps

    def test_a_stroke_on_a_frame_that_is_undone_next(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        """It was drawn after what is undone, and leaves nothing of that below it."""
        dog, labels = project.add_object("dog", cat.layer), project.labels(cat.layer)
        project.write_masks(cat.id, 0, FULL[:4])

        def draw(event: Any) -> None:
            if event.done == 1:  # of the last frame
                labels[2, 3] = dog.id

        project.history.undo(None, draw)
        assert project.areas(cat.id).tolist() == [0] * 10
        assert (labels[2] == dog.id).sum() == 16 and project.areas(dog.id)[2] == 16
        project.undo()
        assert not np.asarray(labels).any() and not project.areas(dog.id).any()
        assert not project.areas(cat.id).any()

    def test_a_step_ends_once(self, project: Project, cat: ObjectRecord) -> None:
        entry = project.history.begin("twice", "human")
        project._state.volumes[1].write(
            entry, cat.id, 3, FULL[:1], Provenance.HUMAN, Provenance.HUMAN
        )
        told: list[str] = []
        project.connect(lambda event: told.append(event.kind))
        project.history.end(entry)
        project.history.end(entry)
        assert [step.name for step in project.history.steps] == ["twice"]
        assert told.count("history") == 1

    def test_a_painter_is_not_stopped_by_a_disk_that_refuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is asked once in a while, by whoever is over the limit, and not at every stamp."""
        with Project.create(tmp_path / "a", VideoInfo(None, "array", 40, 12, 16)) as project:
            labels = project.labels(project.add_layer("a").id)
            project._state._saver.stop(), project._state._scribe.stop()
            frames = project._state.volumes[1].frames
            frames.cache.capacity, asked = 4, []
            flush = frames.cache.flush

            def refuse(before: Callable[[], None], frames: int | None = None) -> None:
                asked.append(frames)
                raise StorageError("full")

            monkeypatch.setattr(frames.cache, "flush", refuse)
            monkeypatch.setattr("flowrvs.store.frames._PATIENCE", 0.0)
            monkeypatch.setattr("flowrvs.store.volume.CROWDED", 10**9)
            for t in range(14):
                labels[t, 3] = 5
            assert asked == [16], "more than twice what it holds"
            assert project.areas(5)[:14].tolist() == [16] * 14
            monkeypatch.setattr(frames.cache, "flush", flush)
            project.flush()
            assert project.unsaved == 0 and not frames.flush_lock.locked()
