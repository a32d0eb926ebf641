"""Project: the folder, its catalogue, and masks that a person and a model share."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from flowrvs.errors import InputError, ProjectError, StorageError
from flowrvs.records import Expression, VideoInfo
from flowrvs.store import FORMAT_VERSION, ObjectRecord, Project, Provenance
from flowrvs.store.project import _close_all

FULL = np.ones((10, 12, 16), bool)


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    return project.add_prompt("the cat")[1]


def test_a_fresh_project_knows_its_video(project: Project, info: VideoInfo) -> None:
    assert project.video == info
    assert (project.layers, project.objects, project.expressions) == ({}, {}, {})
    assert project.log[0]["event"] == "created"
    assert project.path.name == "a.flowrvs"


def test_everything_comes_back_after_closing(tmp_path: Path, info: VideoInfo) -> None:
    info = replace(info, frame_names=("00", "01"))
    with Project.create(tmp_path / "b", info) as project:
        layer = project.add_layer("Katzen – 猫")
        one = project.add_object("left", layer.id, (1, 0.5, 0))
        two = project.add_object("right", layer.id)
        both = project.add_expression("both  cats", [one.id, two.id])
        none = project.add_expression("the dog")
        prompted = project.add_prompt("the bird")
        project.labels(layer.id)[3, 2:5, 2:5] = one.id
        project.write_model(layer.id, two.id, 0, FULL)
        project.lock_frames(two.id, 5, 7)
        before = (project.layers, project.objects, project.expressions, project.log)
        pixels = np.asarray(project.labels(layer.id))
    with Project.open(tmp_path / "b") as project:
        assert (project.layers, project.objects, project.expressions, project.log) == before
        assert project.video == info
        assert project.expressions[both.exp_id] == Expression(
            both.exp_id, "both  cats", frozenset({one.id, two.id})
        )
        assert project.expressions[none.exp_id].object_ids == frozenset()
        assert project.add_prompt(" the   bird ") == prompted
        np.testing.assert_array_equal(np.asarray(project.labels(layer.id)), pixels)
        assert project.provenance(one.id).tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
        assert project.provenance(two.id).tolist() == [1, 1, 1, 1, 1, 3, 3, 1, 1, 1]


def test_zarr_python_reads_it(project: Project, cat: ObjectRecord) -> None:
    mask = FULL & (np.arange(16) > 5)
    project.write_model(cat.layer, cat.id, 0, mask, confidence=np.uint8(200) * mask)
    project.labels(cat.layer)[4] = 0
    project.flush()
    group = zarr.open_group(project.path, mode="r", zarr_format=3)
    assert group.attrs["format_version"] == FORMAT_VERSION
    assert group.attrs["video"]["frame_count"] == 10
    volume = group["layers/1"]
    assert (volume.dtype, volume.shape, volume.chunks) == (np.uint16, (10, 12, 16), (1, 12, 16))
    np.testing.assert_array_equal(volume[:], np.asarray(project.labels(cat.layer)))
    np.testing.assert_array_equal(group["provenance/1"][:], project.provenance(cat.id))
    np.testing.assert_array_equal(group["confidence/1"][:], np.uint8(200) * mask)
    np.testing.assert_array_equal(project.confidence(cat.layer, 2, 4), np.uint8(200) * mask[2:4])
    names = {name for name, _ in group.members(max_depth=None)}  # warns of what it does not know
    assert names >= {"layers", "layers/1", "provenance/1", "confidence/1"}


def test_prompts(project: Project) -> None:
    expression, one = project.add_prompt("the cat that jumps")
    assert expression.object_ids == {one.id}
    assert project.layers[one.layer].name == one.name == "the cat that jumps"
    assert project.add_prompt("the cat  that jumps\n") == (expression, one)
    other_expression, other = project.add_prompt("The cat that jumps")
    assert other.id != one.id and other.layer != one.layer
    assert other_expression.exp_id != expression.exp_id
    assert other.color != one.color
    with pytest.raises(InputError):
        project.add_prompt("  ")


def test_one_mask_many_sentences(project: Project) -> None:
    _, cat = project.add_prompt("the cat")
    _, dog = project.add_prompt("the dog")
    project.write_model(cat.layer, cat.id, 0, FULL & (np.arange(16) < 4))
    project.write_model(dog.layer, dog.id, 0, FULL & (np.arange(16) == 3))
    animals = project.add_expression("the animals", [cat.id, dog.id])
    nobody = project.add_expression("the horse")
    again = project.set_expression_objects(nobody.exp_id, [dog.id])
    assert project.expression_mask(animals.exp_id, 2, 5).sum() == 3 * 12 * 4
    np.testing.assert_array_equal(
        project.expression_mask(again.exp_id, 0, 10), project.object_mask(dog.id, 0, 10)
    )
    project.set_expression_objects(nobody.exp_id, [])
    assert not project.expression_mask(nobody.exp_id, 0, 10).any()
    project.remove_expression(animals.exp_id)
    assert animals.exp_id not in project.expressions
    assert project.add_expression("new").exp_id not in {animals.exp_id, nobody.exp_id}


def test_removing_an_object(project: Project, cat: ObjectRecord) -> None:
    project.write_model(cat.layer, cat.id, 0, FULL)
    project.begin_run({"text": "the cat", "range": [0, 10]}, cat.id)
    labels = project.labels(cat.layer)
    project.remove_object(cat.id)
    assert not labels[:].any()
    assert (project.objects, project.runs, project.layers) == ({}, {}, {})
    assert all(not e.object_ids for e in project.expressions.values())
    with pytest.raises(ProjectError, match="was removed"):
        labels[3, 4] = cat.id + 5  # the layer is not there to draw in
    project.undo()
    assert project.layers[cat.layer].name == "the cat" and labels[:].all()
    project.redo()
    assert project.add_prompt("the cat")[1].id == cat.id + 1


def test_the_id_of_an_object_that_was_removed_is_not_used_again(
    project: Project, cat: ObjectRecord
) -> None:
    """Neither by a new object nor by a brush that still has it, in any session."""
    dog = project.add_object("dog", cat.layer)
    labels = project.labels(cat.layer)
    labels[3, 4] = dog.id
    project.remove_object(dog.id)
    for _ in range(2):
        with pytest.raises(ProjectError, match="removed; choose another label.*one is 3"):
            labels[3, 4] = dog.id
        assert not labels[3].any() and project.next_label == dog.id + 1
        project.close()
        project = Project.open(project.path)
        labels = project.labels(cat.layer)
    project.undo()
    labels[3, 5] = dog.id  # it is back
    project.undo()
    labels[3, 6] = 9
    project.undo()
    labels[3, 6] = 9  # nobody but this brush ever knew it
    assert project.objects[9].name == "object 9" and labels[3, 4].all()
    project.close()


def test_renaming(project: Project, cat: ObjectRecord) -> None:
    assert project.update_object(cat.id, name="Tom", color=(2, 0, 0.5)).color == (1, 0, 0.5)
    project.rename_layer(cat.layer, "pets")
    with Project.open(project.path, read_only=True) as seen:
        assert seen.objects[cat.id].name == "Tom"
        assert seen.layers[cat.layer].name == "pets"


class TestPersonAndModel:
    def test_a_model_never_touches_a_persons_frame(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        labels = project.labels(cat.layer)
        labels[2, 3, 3] = cat.id
        project.write_model(cat.layer, cat.id, 0, FULL)
        labels[5, :6] = 0
        project.lock_frames(cat.id, 8, 10)
        before = np.asarray(labels)
        written = project.write_model(cat.layer, cat.id, 0, ~FULL)
        assert np.flatnonzero(~written).tolist() == [2, 5, 8, 9]
        np.testing.assert_array_equal(np.asarray(labels)[~written], before[~written])
        assert not np.asarray(labels)[written].any()

    def test_an_emptied_frame_stays_empty(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        labels[4] = 0  # nothing was there: the person says that nothing is
        project.write_model(cat.layer, cat.id, 0, FULL)
        assert not labels[4].any() and labels[3].all()

    def test_a_stroke_is_that_objects_alone(self, project: Project, cat: ObjectRecord) -> None:
        dog = project.add_object("dog", cat.layer)
        labels = project.labels(cat.layer)
        project.write_model(cat.layer, cat.id, 0, FULL & (np.arange(16) < 8))
        labels[3, 0, 12] = dog.id
        assert project.provenance(cat.id)[3] == Provenance.MODEL
        labels[3, 0, 2] = dog.id  # takes a pixel of the cat
        assert project.provenance(cat.id)[3] == Provenance.HUMAN
        written = project.write_model(cat.layer, cat.id, 0, FULL)
        assert not written[3] and written.sum() == 9

    def test_a_persons_pixels_survive_another_objects_run(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        dog = project.add_object("dog", cat.layer)
        project.labels(cat.layer)[3, 5, 5] = dog.id
        assert project.write_model(cat.layer, cat.id, 0, FULL).all()
        frame = project.labels(cat.layer)[3]
        assert frame[5, 5] == dog.id and (frame == cat.id).sum() == frame.size - 1

    def test_a_new_label_makes_an_object(self, project: Project, cat: ObjectRecord) -> None:
        project.labels(cat.layer)[1, 1, 1] = 40
        assert project.objects[40].layer == cat.layer
        assert project.next_label == 41
        assert project.provenance(40)[1] == Provenance.HUMAN
        project.flush()
        with Project.open(project.path, read_only=True) as seen:
            assert seen.objects[40] == project.objects[40]
            assert seen.object_mask(40, 1, 2).sum() == 1

    def test_another_layers_object_is_refused(self, project: Project, cat: ObjectRecord) -> None:
        _, dog = project.add_prompt("the dog")
        with pytest.raises(ProjectError, match="'the dog'.*next free one is 3"):
            project.labels(cat.layer)[1, 1, 1] = dog.id
        assert not project.labels(cat.layer)[1].any()

    def test_locks(self, project: Project, cat: ObjectRecord) -> None:
        labels = project.labels(cat.layer)
        project.lock_frames(cat.id, 0, 3)
        labels[0, 0, 0] = cat.id
        assert project.provenance(cat.id)[0] == Provenance.LOCKED
        project.unlock_frames(cat.id, 0, 10)
        assert project.provenance(cat.id).tolist() == [2, 2, 2] + [0] * 7
        project.release_frames(cat.id, 1, 3)
        assert project.write_model(cat.layer, cat.id, 0, FULL).tolist() == [False] + [True] * 9

    def test_painter_and_model_at_once(self, project: Project, cat: ObjectRecord) -> None:
        """Whatever the order, a stroke is never lost under a model's mask."""
        labels = project.labels(cat.layer)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(40):
                    project.write_model(cat.layer, cat.id, 0, FULL)
                    project.write_model(cat.layer, cat.id, 0, ~FULL)
            except BaseException as error:
                failures.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        stroke = np.zeros((12, 16), np.uint16)
        stroke[3:7, 3:7] = cat.id
        for t in np.random.default_rng(0).permutation(10):
            labels[int(t)] = stroke
            np.testing.assert_array_equal(labels[int(t)], stroke)
        worker.join()
        assert not failures
        np.testing.assert_array_equal(np.asarray(labels), np.broadcast_to(stroke, FULL.shape))


class TestBadInput:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            '{"zarr_format": 3, "node_type": "array"}',
            '{"zarr_format": 3, "node_type": "group", "attributes": {}}',
            '{"zarr_format": 3, "node_type": "group", "attributes": {"format": '
            '"flowrvs-project", "format_version": 1, "video": 3}}',
        ],
    )
    def test_a_damaged_folder(self, project: Project, text: str) -> None:
        project.close()
        (project.path / "zarr.json").write_text(text)
        with pytest.raises(ProjectError, match=r"a\.flowrvs"):
            Project.open(project.path)

    def test_a_missing_layer(self, project: Project, cat: ObjectRecord) -> None:
        project.close()
        (project.path / "layers" / "1" / "zarr.json").unlink()
        with pytest.raises(ProjectError, match="layers/1"):
            Project.open(project.path)
        Project.create(project.path.with_name("fresh"), project.video).close()

    def test_create_never_replaces_unasked(self, project: Project, info: VideoInfo) -> None:
        project.add_layer("mine")
        with pytest.raises(ProjectError, match="already exists"):
            Project.create(project.path, info)
        with pytest.raises(ProjectError, match="open for writing"):
            Project.create(project.path, info, overwrite=True)
        project.close()
        with Project.create(project.path, info, overwrite=True) as fresh:
            assert fresh.layers == {}
        assert [p.name for p in project.path.parent.iterdir()] == ["a.flowrvs"]

    def test_overwrite_spares_other_folders(self, tmp_path: Path, info: VideoInfo) -> None:
        (tmp_path / "x.flowrvs").mkdir()
        (tmp_path / "x.flowrvs" / "thesis.txt").write_text("years of work")
        with pytest.raises(ProjectError):
            Project.create(tmp_path / "x.flowrvs", info, overwrite=True)
        assert (tmp_path / "x.flowrvs" / "thesis.txt").exists()

    def test_another_video(self, project: Project, info: VideoInfo) -> None:
        project.check_video(replace(info, path="/moved/b.mp4"))
        assert project.video.path == "/moved/b.mp4"
        for other in (replace(info, frame_count=11), replace(info, fingerprint="0" * 64)):
            with pytest.raises(ProjectError, match="choose another project"):
                project.check_video(other)


def test_attributes_of_others_are_kept(project: Project) -> None:
    project.close()
    group = zarr.open_group(project.path, mode="r+")
    group.attrs["lab"] = {"animal": 7}
    with Project.open(project.path) as again:
        again.add_layer("x")
    assert zarr.open_group(project.path, mode="r").attrs["lab"] == {"animal": 7}


def test_copies(project: Project, cat: ObjectRecord, tmp_path: Path) -> None:
    project.write_model(cat.layer, cat.id, 0, FULL)
    copy = project.copy_to(tmp_path / "deep" / "copy")
    project.labels(cat.layer)[:] = 0
    with Project.open(copy) as other:
        assert other.object_mask(cat.id, 0, 10).all()
        assert other.objects == project.objects
    with pytest.raises(ProjectError, match="already exists"):
        project.copy_to(copy)


class TestRuns:
    KEY = {"text": "the cat", "model": "m", "range": (0, 10)}

    def test_finished_windows_are_remembered(self, project: Project, cat: ObjectRecord) -> None:
        run = project.begin_run(self.KEY, cat.id)
        for index in (0, 1, 4):
            project.mark_window_done(run.id, index)
        project.close()
        with Project.open(project.path) as again:
            assert again.begin_run(self.KEY, cat.id).done == {0, 1, 4}
            assert again.begin_run(self.KEY, cat.id, resume=False).done == frozenset()
            assert again.begin_run(self.KEY, cat.id).done == frozenset()
            assert again.model == "m"

    def test_a_run_replaces_those_on_its_frames(self, project: Project, cat: ObjectRecord) -> None:
        first = project.begin_run({**self.KEY, "range": [0, 5]}, cat.id)
        project.mark_window_done(first.id, 0)
        project.begin_run({**self.KEY, "range": [5, 10]}, cat.id)
        assert project.begin_run({**self.KEY, "range": [0, 5]}, cat.id).done == {0}
        project.begin_run({**self.KEY, "range": [4, 6], "model": "other"}, cat.id)
        assert project.begin_run({**self.KEY, "range": [0, 5]}, cat.id).done == frozenset()


def test_why_a_project_could_not_be_closed_is_told_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(reason: str) -> None:
        def save() -> None:
            raise StorageError(reason)

        monkeypatch.setattr(project._state, "_save_all", save)

    fail("too many files")
    with pytest.raises(StorageError, match="too many files"):
        project.close()
    _close_all()
    assert capsys.readouterr().err == ""
    fail("the disk is full")
    _close_all()
    assert capsys.readouterr().err.endswith("not saved completely: the disk is full\n")
    monkeypatch.undo()
    project.close()
