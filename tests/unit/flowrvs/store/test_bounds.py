"""What a history keeps: the limit in bytes, steps that are too large, a journal begun anew."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import ProjectError, StorageError
from flowrvs.progress import Progress
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.store.document import login_name

FULL = np.ones((10, 12, 16), bool)
LEFT = FULL & (np.arange(16) < 8)


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    return project.add_prompt("the cat")[1]


@pytest.fixture
def noise() -> Any:
    return np.random.default_rng(0).random((60, 12, 16)) < 0.5


def names(project: Project) -> list[str]:
    return [step.name for step in project.history.steps]


def test_what_a_history_is_by_itself(project: Project, cat: ObjectRecord) -> None:
    history = project.history
    assert (history.limit_bytes, history.author) == (256 * 2**20, login_name())
    assert (history.steps, history.undo_step, history.redo_step) == ((), None, None)
    assert (project.undo_name, project.redo_name, history.notice) == (None, None, None)
    assert project.undo() is None and project.redo() is None
    for start in (3, 4, 5):
        project.labels(1)[start] = cat.id
    project.undo(), project.undo()
    assert [step.start for step in history.steps] == [3, 4, 5], "undone ones as they are redone"
    assert [step.state for step in history.steps] == ["done", "undone", "undone"]
    assert (project.undo_name, project.redo_name) == tuple(
        f"edit on 'the cat', frame {t}" for t in (3, 4)
    )


def test_the_oldest_steps_go_at_the_limit(project: Project, cat: ObjectRecord, noise: Any) -> None:
    """To the byte: what is left is under it, and one more would not be."""
    for t in range(10):
        project.write_masks(cat.id, t, noise[t : t + 1])
    project.flush()
    sizes = [entry.bytes for entry in project.history._done]
    assert sum(sizes) == project.history._bytes and min(sizes) > 64
    for limit, left in ((sum(sizes), 10), (sum(sizes) - 1, 9), (sum(sizes[4:]), 6)):
        project.history.limit_bytes = limit
        project.lock_frames(cat.id, 9, 9)  # nothing: but the next commit looks
        project.flush()
        assert len(project.history.steps) == left
    project.close()
    with Project.open(project.path) as again:
        assert names(again) == [f"masks of 'the cat', frame {t}" for t in range(4, 10)]
        assert [len(again.changes(cat.id, t)) for t in range(10)] == [1] * 10
        while again.undo() is not None:
            pass
        assert again.provenance(cat.id).tolist() == [2] * 4 + [0] * 6
        np.testing.assert_array_equal(again.object_mask(cat.id, 0, 4), noise[:4])


def test_a_step_that_alone_is_too_large(project: Project, cat: ObjectRecord, noise: Any) -> None:
    """It cannot be undone, and says so by not being there; who drew is known all the same."""
    project.labels(1)[9, 11, :2] = cat.id
    project.history.limit_bytes = 1000
    project.begin_run({"text": "it", "range": [0, 9]}, cat.id)
    for t in range(9):
        project.write_model(1, cat.id, t, noise[t : t + 1])
        project.flush()
        assert project.history._bytes <= 1000
    project.end_run(cat.id)
    assert names(project) == [], "it took the room of the older ones, too"
    project.labels(1)[9, 0, :2] = cat.id
    project.close()
    with Project.open(project.path) as again:
        assert names(again) == ["edit on 'the cat', frame 9"]
        assert [row.kind for row in again.changes(cat.id, 3)] == ["model"]
        again.undo()
        np.testing.assert_array_equal(again.object_mask(cat.id, 0, 9), noise[:9])
        assert again.areas(cat.id)[9] == 2 and again.undo() is None


def test_only_so_many_steps_are_in_memory(tmp_path: Path) -> None:
    with Project.create(tmp_path / "a", VideoInfo(None, "array", 2, 2, 40)) as project:
        labels = project.labels(project.add_layer("a").id)
        for i in range(300):
            labels[i % 2, 0, i % 40] = 1
        labels[0, 1] = 2
        assert [entry.records is None for entry in project.history._done] == [True] * 45 + [
            False
        ] * 256
        for _ in range(301):
            project.undo()
        assert not labels[:].any() and project.undo() is None
        for _ in range(301):
            project.redo()
        assert labels[0, 1].tolist() == [2] * 40 and labels[1, 0, 1::2].all()


def test_what_is_in_memory_begins_a_journal_anew(
    project: Project, cat: ObjectRecord, noise: Any
) -> None:
    """Undone steps and open ones, too; those that lay on the disk alone are gone, and so said."""
    project.labels(1)[0, 0] = cat.id
    project.close()
    again = Project.open(project.path)
    labels = again.labels(1)
    labels[1, 1] = cat.id
    labels[2, 2] = cat.id
    labels[3, 3] = cat.id
    again.undo()
    again.begin_run({"range": [5, 7]}, cat.id)
    again.write_model(1, cat.id, 5, LEFT[:1])
    again.flush()
    size = again.history._bytes
    again.history._journal._set_aside()
    again.write_model(1, cat.id, 6, LEFT[:1])
    again.flush()
    assert again.history.notice is not None and "begins anew" in again.history.notice
    again.end_run(cat.id)
    assert [(s.start, s.state) for s in again.history.steps] == [
        *((1, "done"), (2, "done"), (5, "done"), (3, "undone")),
    ]
    first = 64 + len(again.history._done[0].records[0].pack())  # type: ignore[index]
    again.flush()
    assert size < again.history._bytes + first + 1
    again.close()
    with Project.open(project.path) as last:
        assert [(s.start, s.stop, s.state) for s in last.history.steps] == [
            *((1, 2, "done"), (2, 3, "done"), (5, 7, "done"), (3, 4, "undone")),
        ]
        assert last.redo() is not None and last.areas(cat.id)[3] == 16
        while last.undo() is not None:
            pass
        assert last.areas(cat.id).tolist() == [16] + [0] * 9
        assert [row.kind for row in last.changes(cat.id, 1)] == []
        assert last.history.notice is None
    again.discard()


def test_a_lock_over_what_is_taken_back(project: Project, cat: ObjectRecord) -> None:
    """Another thread locks a frame while a step is made that fails: the lock stays, and undone
    it leaves what was before both of them."""
    before = project.provenance(cat.id)

    def lock() -> None:
        project.lock_frames(cat.id, 2, 6)

    with pytest.raises(KeyError), project.edit("a try"):
        project.write_masks(cat.id, 3, LEFT[:2])
        thread = threading.Thread(target=lock)
        thread.start()
        thread.join()
        raise KeyError
    assert project.provenance(cat.id).tolist() == [0, 0, 3, 3, 3, 3, 0, 0, 0, 0]
    assert not project.labels(1)[:].any() and project.undo_name == "lock 'the cat', frames 2-5"
    project.undo()
    np.testing.assert_array_equal(project.provenance(cat.id), before)
    project.redo()
    assert project.provenance(cat.id).tolist() == [0, 0, 3, 3, 3, 3, 0, 0, 0, 0]


def test_marks_over_marks_that_are_taken_back(project: Project, cat: ObjectRecord) -> None:
    """Only the frames on which the later one says something else inherit."""
    project.write_model(1, cat.id, 0, FULL)

    def lock() -> None:
        project.lock_frames(cat.id, 4, 8)

    with pytest.raises(KeyError), project.edit("a try"):
        project.accept_frames(cat.id, 2, 6)
        thread = threading.Thread(target=lock)
        thread.start()
        thread.join()
        raise KeyError
    assert project.provenance(cat.id).tolist() == [1] * 4 + [3] * 4 + [1] * 2
    project.undo()
    assert project.provenance(cat.id).tolist() == [1] * 10


class TestSteps:
    def test_who_makes_a_step(self, project: Project, cat: ObjectRecord) -> None:
        project.history.author = "Ada"
        for name, options in (
            ("a", {}),
            ("b", {"who": "Eve"}),
            ("c", {"kind": "model"}),
            ("d", {"kind": "model", "who": "tiny"}),
        ):
            with project.edit(name, **options):
                project.labels(1)[len(project.history.steps)] = cat.id
        project.begin_run({"model": "big"}, cat.id)
        project.write_model(1, cat.id, 9, LEFT[:1])
        project.end_run(cat.id)
        project.write_model(1, cat.id, 8, LEFT[:1])
        assert [(s.name, s.kind, s.who) for s in project.history.steps] == [
            ("a", "human", "Ada"),
            ("b", "human", "Eve"),
            ("c", "model", "model"),
            ("d", "model", "tiny"),
            ("model: 'the cat'", "model", "big"),
            ("masks of 'the cat', frame 8", "model", "big"),
        ]
        step = project.history.steps[0]
        assert (step.layer_ids, step.object_ids, step.frames) == ({1}, {cat.id}, 1)

    def test_a_block_that_is_kept_or_not(self, project: Project, cat: ObjectRecord) -> None:
        for kind in ("undo", "keep"):
            with pytest.raises(KeyError), project.edit("a try", on_error=kind):  # type: ignore[arg-type]
                project.labels(1)[3] = cat.id
                raise KeyError
            assert project.labels(1)[3].any() == (kind == "keep")
        assert names(project) == ["a try"]
        with pytest.raises(ProjectError) as error, project.edit("x"):
            project.redo()
        assert str(error.value) == "A step is being made; finish it before undoing another one."
        assert names(project) == ["a try"], "the thread makes no step any more"

    def test_how_far_undo_is(self, project: Project, cat: ObjectRecord) -> None:
        project.write_model(1, cat.id, 2, FULL[:3])
        told: list[Progress] = []
        project.undo(progress=told.append)
        project.redo(progress=told.append)
        assert [(p.done, p.total, p.message) for p in told] == [
            *((i, 3, "Undoing") for i in (1, 2, 3)),
            *((i, 3, "Doing again") for i in (1, 2, 3)),
        ]

    def test_a_run_that_wrote_nothing_is_no_step(self, project: Project, cat: ObjectRecord) -> None:
        project.begin_run({"text": "a"}, cat.id)
        project.end_run(cat.id)
        project.accept_frames(cat.id, 0, 10)
        run = project.begin_run({"text": "b"}, cat.id)
        assert not project.write_model(1, cat.id, 0, FULL).any()
        project.mark_window_done(run.id, 3)
        project.end_run(cat.id)
        assert names(project) == ["accept 'the cat', frames 0-9"]
        assert project.runs[run.id].done == {3}, "it was asked all the same"
        project.mark_window_done(run.id, 4)
        assert project.runs[run.id].done == {3}, "it is over"

    def test_closing_ends_what_is_open(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(1)
        labels.begin_stroke("brush stroke")
        labels[3, 4] = cat.id
        project.begin_run({"text": "it"}, cat.id)
        project.write_model(1, cat.id, 5, LEFT[:1])
        project.close()
        with Project.open(project.path) as again:
            assert names(again) == ["brush stroke on 'the cat', frame 3", "model: 'it'"]
            assert again.history.notice is None
            again.undo(), again.undo()
            assert not again.labels(1)[:].any() and again.undo() is None

    def test_a_full_disk_keeps_a_project_open(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It can be painted on, and closed when there is room."""
        project.labels(1)[3] = cat.id
        project.flush()

        def full(*_: object) -> None:
            raise StorageError("the disk is full")

        monkeypatch.setattr(project.history, "close", full)
        with pytest.raises(StorageError, match="full"):
            project.close()
        assert project.writable
        project.labels(1)[4] = cat.id
        monkeypatch.undo()
        project.close()
        with Project.open(project.path) as again:
            assert again.provenance(cat.id).tolist() == [0, 0, 0, 2, 2, 0, 0, 0, 0, 0]
            assert again.labels(1)[3:5].all() and len(again.history.steps) == 2


def test_a_model_draws_what_is_its_own(project: Project, cat: ObjectRecord) -> None:
    """Frame by frame, for each provenance and each limit: what is written, and what is spared."""
    dog = project.add_object("dog", 1)
    for kind in range(4):
        for overwrite, limit in (("model", 1), ("human", 2)):
            project.write_masks(dog.id, 0, FULL[:1], overwrite="human")
            project.release_frames(dog.id, 0, 1)
            track = project._state.volumes[1].frames.tracks.provenance[cat.id]
            track.values[0] = kind
            written = project.write_model(1, cat.id, 0, LEFT[:1], overwrite=overwrite)  # type: ignore[arg-type]
            assert written.tolist() == [kind <= limit]
            assert (project.labels(1)[0] == cat.id).sum() == (96 if kind <= limit else 0)
            assert project.provenance(cat.id)[0] == (1 if kind <= limit else kind)
            assert project.provenance(dog.id)[0] == Provenance.MODEL
            project.write_masks(cat.id, 0, FULL[:1] & False, overwrite="human")
            track.values[0] = 0
