"""Copies of a project: whole, of one moment, without what is not the project's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flowrvs.errors import ProjectError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project
from tests.unit.flowrvs.store.oracle import Oracle

from .states import FULL, same, state


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).random((10, 12, 16)) < 0.5


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_not_the_projects_is_left(
    project: Project, cat: ObjectRecord, tmp_path: Path, noise: np.ndarray, read_only: bool
) -> None:
    """Links, pipes, what a kill left, damaged files, and who writes to it."""
    values = np.full((10, 12, 16), 200, np.uint8)
    project.write_model(1, cat.id, 0, noise, confidence=values)
    project.keep_disagreement(cat.id, 0, np.full(10, 0.25, np.float32))
    project.undo()
    project.flush()
    project.redo()
    if read_only:
        project.close()
    secret = tmp_path / "secret"
    secret.write_text("mine")
    strange = project.path / "layers" / "1"
    (strange / "link").symlink_to(secret)
    (strange / "c.9.0.0.__lock").write_bytes(b"half")
    (strange / "a.partial").write_bytes(b"half")
    os.mkfifo(strange / "pipe")
    (project.path / "theirs").mkdir()
    (project.path / "theirs" / "notes.txt").write_text("kept")
    source = Project.open(project.path, read_only=True) if read_only else project
    copy = source.copy_to(tmp_path / "deep" / "copy")
    source.close()
    assert copy == tmp_path / "deep" / "copy.flowrvs"
    names = {str(path.relative_to(copy)) for path in copy.rglob("*")}
    assert not names & {f"layers/1/{n}" for n in ("link", "pipe", "a.partial", "c.9.0.0.__lock")}
    assert not any(name.startswith(("writer", "history/undone")) for name in names)
    assert (copy / "theirs" / "notes.txt").read_text() == "kept"
    document = json.loads((copy / "zarr.json").read_text())["attributes"]
    assert document["video_relative"] == Path(os.path.relpath("/clips/a.mp4", copy)).as_posix()
    with Project.open(project.path) as mine, Project.open(copy) as other:
        Oracle(mine).check(other, "the copy")
        assert other.video == mine.video and other.expressions == mine.expressions
        assert [s.name for s in other.history.steps] == [s.name for s in mine.history.steps]
        np.testing.assert_array_equal(other.confidence(1, 0, 10), values)
        np.testing.assert_array_equal(other.disagreement(cat.id), mine.disagreement(cat.id))
        other.undo()
        other.redo()
        Oracle(mine).check(other, "undone and redone")
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy.flowrvs"]


def test_what_only_the_memory_holds_is_in_it(
    project: Project, cat: ObjectRecord, tmp_path: Path, noise: np.ndarray
) -> None:
    """The disk refuses everything; a copy on another one has all of it, undo included."""
    project.flush()
    project._state._saver.stop(), project._state._scribe.stop()
    for name in ("layers/1", "provenance", "areas"):
        folder = project.path / name
        folder.rename(folder.with_name(f"{folder.name} away"))
        folder.write_text("in the way")
    dog = project.add_object("dog", 1)
    project.write_masks(cat.id, 0, noise)
    project.write_model(1, dog.id, 3, ~noise[3:7])
    project.undo()
    project.labels(1)[9, 11] = dog.id
    with pytest.raises(StorageError):
        project.flush()
    for name in ("layers/1", "provenance", "areas"):
        folder = project.path / name
        folder.unlink()
        shutil.copytree(folder.with_name(f"{folder.name} away"), folder)
        shutil.rmtree(folder.with_name(f"{folder.name} away"))
        folder.chmod(0o755)
    copy = project.copy_to(tmp_path / "copy")
    with Project.open(copy) as other:
        Oracle(project).check(other, "the copy")
        names = [(step.name, step.state) for step in project.history.steps]
        assert [(step.name, step.state) for step in other.history.steps] == names
        while other.undo() is not None:
            pass
        assert not other.labels(1)[:].any()


def test_frames_that_lay_on_the_disk_alone_are_told(
    project: Project, cat: ObjectRecord, tmp_path: Path, noise: np.ndarray
) -> None:
    """Their steps were dropped long ago, their files went with the folder: the rest is rescued."""
    for t in range(6):
        project.write_masks(cat.id, t, noise[t : t + 1])
    project.flush()
    project.history.limit_bytes = sum(entry.bytes for entry in project.history._done[2:])
    project.lock_frames(cat.id, 5, 5)
    project.flush()
    project._state.volumes[1].frames.cache._frames.clear()
    shutil.rmtree(project.path)
    provenance, areas = project.provenance(cat.id), project.areas(cat.id)
    copy = project.copy_to(tmp_path / "rescued")
    lost = len(areas[areas > 0]) - len(project.history.steps)
    assert lost == 2
    assert project.history.notice == "2 frames were on the disk only; the copy is without them."
    with Project.open(copy) as rescued:
        mask = rescued.object_mask(cat.id, 0, 10)
        np.testing.assert_array_equal(mask[2:6], noise[2:6])
        assert not mask[:2].any() and not mask[6:].any()
        np.testing.assert_array_equal(rescued.provenance(cat.id), provenance)
        assert rescued.expressions == project.expressions
    project.discard()


def test_a_copy_that_fails_leaves_nothing(
    project: Project, cat: ObjectRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(StorageError) as error:
        project.copy_to(tmp_path / "new" / "copy")
    assert str(error.value) == (
        f"Cannot write to {tmp_path / 'new' / 'copy.flowrvs'}: the disk is full; free some space."
    )
    assert not (tmp_path / "new").exists() and project.writable
    project.labels(1)[3] = cat.id
    project.flush()


def test_what_is_asked_for_is_a_copy(project: Project, cat: ObjectRecord) -> None:
    """Changing what was given changes nothing of the project."""
    project.note("lab", 7)
    project.begin_run({"text": "a"}, cat.id)
    before = project._state.document.to_attributes()
    text = json.dumps(before)
    for name in ("layers", "objects", "expressions", "runs", "notes"):
        getattr(project, name).clear()
    project.log.clear()
    project.log[0]["event"] = "nothing"
    assert json.dumps(project._state.document.to_attributes()) == text
    assert project.notes == {"lab": 7} and project.log[0]["event"] == "created"


def test_a_damaged_document_is_only_read(project: Project, cat: ObjectRecord) -> None:
    """Who may not write repairs nothing."""
    project.rename_layer(1, "pets")
    project.close()
    (project.path / "zarr.json").write_bytes(b"{")
    with Project.open(project.path, read_only=True) as seen:
        assert seen.layers[1].name == "pets" and seen.history.notice == (
            f"{project.path / 'zarr.json'} was damaged; names and sentences are those of its copy."
        )
    assert (project.path / "zarr.json").read_bytes() == b"{"
    assert not (project.path / "damaged-zarr.json").exists()


def test_who_opens_it_and_who_made_it(
    tmp_path: Path, info: VideoInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names with and without the ending, relative ones, links to it; and `with` closes it."""
    with Project.create(tmp_path / "a.b", info) as project:
        assert project.path == tmp_path / "a.b.flowrvs" and repr(project) == (
            f"<Project {project.path} 0 objects>"
        )
    assert not project.writable
    (tmp_path / "x").mkdir()
    with monkeypatch.context() as here:
        here.chdir(tmp_path)
        for name in ("a.b", "a.b.flowrvs", "./x/../a.b.flowrvs"):
            with Project.open(name) as project:
                assert project.path == tmp_path / "a.b.flowrvs"
    with pytest.raises(KeyError), Project.open(tmp_path / "a.b") as project:
        raise KeyError
    with pytest.raises(ProjectError, match="was closed"):
        project.flush()
    Project.open(tmp_path / "a.b").close()


def test_what_only_the_memory_holds_is_in_the_copy(
    project: Project, cat: ObjectRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written to the project's own disk any more."""
    empty = state(project)
    project.flush()
    project._state._saver.stop(), project._state._scribe.stop()

    def full() -> None:
        raise StorageError("full")

    monkeypatch.setattr(project._state, "flush", full)
    monkeypatch.setattr(project._state, "wake", lambda: None)
    labels = project.labels(cat.layer)
    dog = project.add_object("dog", project.add_layer("there").id)
    labels[3, 2:5] = cat.id
    project.write_model(dog.layer, dog.id, 0, FULL[:3])
    project.labels(dog.layer)[1, :4] = 0
    project.lock_frames(cat.id, 6, 8)
    project.write_masks(cat.id, 8, FULL[:2])
    project.undo()
    assert [*(project.path / "layers").glob("*/c.*")] == []
    copy = project.copy_to(tmp_path / "copy")
    wanted = state(project)
    with Project.open(copy) as other:
        assert other.history.notice is None and same(state(other), wanted)
        assert [row.name for row in other.changes(cat.id, 3)] == ["edit on 'the cat', frame 3"]
        assert other.redo_name == "masks of 'the cat', frames 8-9"
        other.redo()
        assert other.areas(cat.id)[8:].tolist() == [192, 192]
        while other.undo() is not None:
            pass
        left = state(other)
        for name in ("pixels 1", "provenance 1", "areas 1"):
            np.testing.assert_array_equal(left[name], empty[name])
        assert not left["pixels 2"].any()
    with Project.open(copy, read_only=True) as again:
        assert not again.areas(cat.id).any(), "it is a project like any other"


def test_what_is_handed_out_is_the_callers_own(project: Project, cat: ObjectRecord) -> None:
    """Whoever changes it changes nothing of the project."""
    confidence = np.full((10, 12, 16), 200, np.uint8)
    project.write_model(cat.layer, cat.id, 0, FULL, confidence)
    project.keep_disagreement(cat.id, 0, np.full(10, 0.25, np.float32))
    run = project.begin_run({"text": "the cat"}, cat.id)
    project.note("mine", {"a": [1]})
    labels, before = project.labels(cat.layer), state(project)
    for array in (
        labels[3],
        labels[3:4],
        labels[2:7],
        labels[3, 4],
        labels[[3, 3]],
        project.provenance(cat.id),
        project.areas(cat.id),
        project.object_mask(cat.id, 0, 10),
        project.confidence(cat.layer, 0, 10),
        project.confidence_frames(cat.id),
        project.disagreement(cat.id),
        project.present(cat.id),
    ):
        array[...] = 0
    for table in (project.objects, project.layers, project.expressions, project.runs):
        table.clear()  # type: ignore[attr-defined]
    assert same(state(project), before) and run.id in project.runs
    assert project.layers[cat.layer].name == "the cat"
    values = project.confidence(cat.layer, 0, 10)
    assert values is not None and (values == 200).all() and project.confidence_frames(cat.id).all()
    assert (project.disagreement(cat.id) == 0.25).all()
    # nor does what was handed in
    masks, given = FULL[:1].copy(), np.full((12, 16), cat.id, np.uint16)
    project.write_masks(cat.id, 5, masks, overwrite="human")
    labels[6] = given
    masks[:], given[:] = False, 0
    assert project.areas(cat.id)[5:7].tolist() == [192, 192]
    project.undo()
    project.redo()
    assert (labels[6] == cat.id).all() and (labels[5] == cat.id).all()


def test_a_sentence_means_the_union_of_its_objects(project: Project, cat: ObjectRecord) -> None:
    dog = project.add_object("dog", cat.layer)
    bird = project.add_object("bird", project.add_layer("another").id)
    masks = np.random.default_rng(0).random((3, 10, 12, 16)) < 0.4
    masks[1] &= ~masks[0]  # in one layer they exclude each other
    for thing, mask in zip((cat, dog, bird), masks, strict=True):
        project.write_masks(thing.id, 0, mask)
    for ids in ((cat, dog), (dog, bird), (cat, dog, bird), (dog,), ()):
        sentence = project.add_expression("these", [thing.id for thing in ids])
        union = np.logical_or.reduce([masks[0] & False, *(masks[t.id - 1] for t in ids)])
        found = project.expression_mask(sentence.exp_id, 2, 9)
        np.testing.assert_array_equal(found, union[2:9])
