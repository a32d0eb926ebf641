"""Objects, areas, confidence, old formats, and where the video is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from flowrvs.editing import doubt
from flowrvs.errors import InputError, ProjectError
from flowrvs.store import FORMAT_VERSION, ObjectCounts, ObjectRecord, Project, Provenance
from flowrvs.video import open_video

FULL = np.ones((10, 12, 16), bool)
LEFT = FULL & (np.arange(16) < 8)


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    return project.add_prompt("the cat")[1]


def counted(project: Project) -> None:
    for one in project.objects.values():
        pixels = project.object_mask(one.id, 0, 10)
        np.testing.assert_array_equal(project.areas(one.id), pixels.sum(axis=(1, 2)))


class TestObjects:
    def test_counts_follow_every_change(self, project: Project, cat: ObjectRecord) -> None:
        assert project.counts(cat.id) == ObjectCounts(0, 10, 0, 0, 0, None, None)
        project.write_model(cat.layer, cat.id, 2, LEFT[:5])
        project.labels(cat.layer)[3] = 0
        project.accept_frames(cat.id, 8, 9)
        project.lock_frames(cat.id, 4, 5)
        assert project.counts(cat.id) == ObjectCounts(4, 4, 3, 2, 1, 2, 6)
        assert project.present(cat.id).tolist() == [t in (2, 4, 5, 6) for t in range(10)]
        counted(project)
        project.close()
        with Project.open(project.path) as again:
            assert again.counts(cat.id) == ObjectCounts(4, 4, 3, 2, 1, 2, 6)

    def test_splitting(self, project: Project, cat: ObjectRecord) -> None:
        project.write_model(cat.layer, cat.id, 0, FULL)
        project.labels(cat.layer)[2, 0] = 0
        sentence = project.add_expression("cats", [cat.id])
        part = project.split_object(cat.id, 0, 5, LEFT[:5], name="left half")
        assert part.layer == cat.layer and part.name == "left half" and part.color != cat.color
        np.testing.assert_array_equal(project.object_mask(cat.id, 0, 2), ~LEFT[:2])
        assert project.provenance(part.id).tolist() == [1, 1, 2, 1, 1] + [0] * 5
        assert project.object_mask(cat.id, 5, 10).all()
        assert project.expressions[sentence.exp_id].object_ids == {cat.id}
        counted(project)
        with pytest.raises(ProjectError, match="do not fit"):
            project.split_object(cat.id, 0, 5, LEFT[:4])

    def test_merging_in_a_layer_and_across(self, project: Project, cat: ObjectRecord) -> None:
        _, dog = project.add_prompt("the dog")
        project.write_model(cat.layer, cat.id, 0, LEFT)
        project.write_masks(dog.id, 3, FULL[:4])
        project.merge_objects(cat.id, dog.id, 0, 5)
        assert project.object_mask(cat.id, 3, 5).all()
        assert project.areas(dog.id).tolist() == [0] * 5 + [192] * 2 + [0] * 3
        assert project.provenance(cat.id).tolist() == [1] * 3 + [2] * 2 + [1] * 5
        project.merge_objects(cat.id, dog.id)
        assert dog.id not in project.objects
        assert all(e.object_ids == {cat.id} for e in project.expressions.values())
        counted(project)
        with pytest.raises(ProjectError, match="itself"):
            project.merge_objects(cat.id, cat.id)

    @pytest.mark.parametrize("apart", [False, True])
    def test_swapping(self, project: Project, cat: ObjectRecord, apart: bool) -> None:
        dog = project.add_prompt("dog")[1] if apart else project.add_object("dog", cat.layer)
        project.write_model(cat.layer, cat.id, 0, LEFT)
        project.write_masks(dog.id, 0, ~LEFT)
        project.swap_objects(cat.id, dog.id, 6)
        np.testing.assert_array_equal(project.object_mask(cat.id, 0, 6), LEFT[:6])
        np.testing.assert_array_equal(project.object_mask(cat.id, 6, 10), ~LEFT[6:])
        np.testing.assert_array_equal(project.object_mask(dog.id, 6, 10), LEFT[6:])
        assert project.provenance(cat.id).tolist() == [1] * 6 + [2] * 4
        assert project.provenance(dog.id).tolist() == [2] * 6 + [1] * 4
        counted(project)

    def test_moving_lets_objects_overlap(self, project: Project, cat: ObjectRecord) -> None:
        dog = project.add_object("dog", cat.layer)
        project.write_model(cat.layer, cat.id, 0, LEFT)
        moved = project.move_object(dog.id)
        assert moved.layer != cat.layer and project.layers[moved.layer].name == "dog"
        project.write_masks(dog.id, 0, FULL)
        np.testing.assert_array_equal(project.object_mask(cat.id, 0, 10), LEFT)
        assert project.object_mask(dog.id, 0, 10).all()
        project.move_object(cat.id, moved.layer)
        assert not project.present(cat.id).any(), "who is there keeps its pixels"
        counted(project)
        project.undo()
        np.testing.assert_array_equal(project.object_mask(cat.id, 0, 10), LEFT)
        counted(project)

    def test_start_and_end(self, project: Project, cat: ObjectRecord) -> None:
        project.write_model(cat.layer, cat.id, 0, FULL)
        project.start_object(cat.id, 3)
        project.end_object(cat.id, 7)
        counts = project.counts(cat.id)
        assert (counts.first, counts.last, counts.human) == (3, 6, 6)
        written = project.write_model(cat.layer, cat.id, 0, FULL)
        assert np.flatnonzero(written).tolist() == [3, 4, 5, 6], "absent stays absent"

    def test_a_model_overwrites_a_person_only_when_asked(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        labels = project.labels(cat.layer)
        labels[2, 2] = cat.id
        project.lock_frames(cat.id, 5, 6)
        drawn = labels[2]
        assert not project.write_model(cat.layer, cat.id, 2, FULL[:1]).any()
        written = project.write_model(cat.layer, cat.id, 0, FULL, overwrite="human")
        assert np.flatnonzero(~written).tolist() == [5]
        assert project.provenance(cat.id)[2] == Provenance.MODEL
        project.undo()
        np.testing.assert_array_equal(labels[2], drawn)
        assert project.provenance(cat.id)[2] == Provenance.HUMAN
        with pytest.raises(ProjectError, match="choose"):
            project.write_masks(cat.id, 0, FULL, overwrite="all")  # type: ignore[arg-type]


class TestConfidence:
    def test_another_threshold_is_one_step(self, project: Project, cat: ObjectRecord) -> None:
        values = np.broadcast_to(np.arange(16, dtype=np.uint8) * 16, FULL.shape)
        project.write_model(cat.layer, cat.id, 0, values[:8] > 127, confidence=values[:8])
        project.labels(cat.layer)[3] = 0
        before = np.asarray(project.labels(cat.layer))
        assert project.confidence_frames(cat.id).tolist() == [True] * 8 + [False] * 2
        written = project.rethreshold(cat.id, 1, 10, 63)
        assert written.tolist() == [True, True, False, True, True, True, True, False, False]
        assert project.areas(cat.id).tolist() == [96, 144, 144, 0, *[144] * 4, 0, 0]
        project.undo()
        np.testing.assert_array_equal(np.asarray(project.labels(cat.layer)), before)
        with pytest.raises(InputError, match="threshold"):
            project.rethreshold(cat.id, 0, 10, 300)
        project.close()
        with Project.open(project.path) as again:
            assert again.confidence_frames(cat.id).sum() == 8

    def test_confidence_follows_its_object(self, project: Project, cat: ObjectRecord) -> None:
        dog = project.add_object("dog", cat.layer)
        values = np.full((10, 12, 16), 200, np.uint8)
        project.write_model(cat.layer, cat.id, 0, FULL, confidence=values)
        project.write_model(cat.layer, dog.id, 4, LEFT[:2], confidence=values[:2])
        assert np.flatnonzero(~project.confidence_frames(cat.id)).tolist() == [4, 5]
        assert np.flatnonzero(project.confidence_frames(dog.id)).tolist() == [4, 5]
        project.swap_objects(cat.id, dog.id, 8)
        assert not project.confidence_frames(cat.id)[8:].any()

    def test_damaged_confidence_is_one_line_and_one_frame(
        self, project: Project, cat: ObjectRecord
    ) -> None:
        values = np.full((10, 12, 16), 200, np.uint8)
        project.write_model(cat.layer, cat.id, 0, FULL, confidence=values)
        project.keep_disagreement(cat.id, 0, np.full(10, 0.5, np.float32))
        assert np.isfinite(project.disagreement(cat.id)).all()
        project.close()
        for name in ("confidence", "disagreement"):
            for file in (project.path / name / str(cat.layer)).glob("c.[01]*"):
                file.write_bytes(b"no chunk")
        with Project.open(project.path) as again:
            with pytest.raises(
                ProjectError, match=r"damaged within frames 0 to 1; ask again"
            ) as error:
                again.confidence(cat.layer, 0, 2)
            assert "\n" not in str(error.value)
            assert again.confidence(cat.layer, 2, 10) is not None
            assert np.isnan(again.disagreement(cat.id)).all()
            assert len(list(doubt(again, cat.id))) == 10, "the review goes on"

    def test_a_run_goes_on_without_room_for_it(
        self, project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flowrvs.store.masks._SPARE_BYTES", 2**62)
        values = np.full((10, 12, 16), 200, np.uint8)
        assert project.write_model(cat.layer, cat.id, 0, FULL, confidence=values).all()
        assert not project.confidence_frames(cat.id).any()
        assert "not kept" in str(project.confidence_notice)


def test_a_project_of_format_1_opens_and_goes_on(project: Project, cat: ObjectRecord) -> None:
    """What the first release wrote: no areas, no history, confidence by layer only."""
    values = np.where(LEFT, 255, 100).astype(np.uint8)
    project.write_model(cat.layer, cat.id, 0, LEFT, confidence=values)
    project.labels(cat.layer)[3] = 0
    project.close()
    shutil.rmtree(project.path / "areas")
    shutil.rmtree(project.path / "history")
    document = json.loads((project.path / "zarr.json").read_text())
    old = document["attributes"]
    old["format_version"], old["confidence"] = 1, [cat.layer]
    del old["video_relative"]
    (project.path / "zarr.json").write_text(json.dumps(document))
    with Project.open(project.path, read_only=True) as seen:
        assert seen.areas(cat.id).tolist() == [96] * 3 + [0] + [96] * 6
    assert json.loads((project.path / "zarr.json").read_text()) == document
    with Project.open(project.path) as again:
        assert again.unsaved == 0
        again.labels(cat.layer)[5, 0] = 0
        again.undo()
        assert again.areas(cat.id).tolist() == [96] * 3 + [0] + [96] * 6
        assert again.confidence_frames(cat.id).tolist() == [t != 3 for t in range(10)]
        again.rethreshold(cat.id, 0, 10, 50)
        assert again.areas(cat.id).tolist() == [192] * 3 + [0] + [192] * 6
        again.rename_layer(cat.layer, "cats")
    attributes = zarr.open_group(project.path, mode="r").attrs
    assert attributes["format_version"] == FORMAT_VERSION
    with Project.open(project.path) as again:
        assert again.areas(cat.id)[0] == 192


class TestVideo:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        """A project beside its video, a folder of images."""
        folder = tmp_path / "home" / "clips" / "cat"
        folder.mkdir(parents=True)
        for t in range(3):
            Image.fromarray(np.full((12, 16, 3), 60 * t, np.uint8)).save(folder / f"{t}.png")
        with open_video(folder) as video:
            Project.create(tmp_path / "home" / "work" / "p", video.info).close()
        return tmp_path / "home"

    def test_moved_together(self, home: Path) -> None:
        away = home.rename(home.with_name("away"))
        with Project.open(away / "work" / "p") as project:
            assert project.find_video() == away / "clips" / "cat"
            assert project.video.path == str(away / "clips" / "cat")

    def test_moved_and_renamed_nearby_or_named_by_the_user(self, home: Path) -> None:
        (home / "clips" / "cat").rename(home / "work" / "renamed")
        impostor = home / "clips" / "cat"
        shutil.copytree(home / "work" / "renamed", impostor)
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(impostor / "2.png")
        with Project.open(home / "work" / "p") as project:
            assert project.find_video() == home / "work" / "renamed"
        far = home.parent / "far" / "away" / "from" / "it"
        far.mkdir(parents=True)
        (home / "work" / "renamed").rename(far / "x")
        with Project.open(home / "work" / "p") as project:
            assert project.find_video([home / "nothing"]) is None, "the impostor is none"
            assert project.find_video([far]) == far / "x"
            assert project.find_video() == far / "x"

    def test_a_reader_finds_it_and_notes_nothing(self, home: Path) -> None:
        away = home.rename(home.with_name("away"))
        document = (away / "work" / "p.flowrvs" / "zarr.json").read_bytes()
        with Project.open(away / "work" / "p", read_only=True) as project:
            assert project.find_video() == away / "clips" / "cat"
            assert project.video.path == str(home / "clips" / "cat")
        assert (away / "work" / "p.flowrvs" / "zarr.json").read_bytes() == document

    def test_a_copy_knows_the_way(self, home: Path, tmp_path: Path) -> None:
        with Project.open(home / "work" / "p") as project:
            copy = project.copy_to(tmp_path / "else" / "copy")
        both = tmp_path / "moved"
        both.mkdir()
        home.rename(both / "home")
        (tmp_path / "else").rename(both / "else")
        with Project.open(both / "else" / copy.name) as project:
            assert project.find_video() == both / "home" / "clips" / "cat"

    def test_without_a_path(self, project: Project) -> None:
        project.close()
        info = replace(project.video, path=None)
        with Project.create(project.path.with_name("b"), info) as other:
            assert other.find_video() is None


def test_a_project_holds_as_many_objects_as_a_label_has_values(project: Project) -> None:
    layer = project.add_layer("a").id
    project._state.document.next_ids["object"] = 65535
    last = project.add_object("the last", layer)
    project.labels(layer)[0, 0, 0] = last.id
    assert last.id == 65535 and project.areas(last.id)[0] == 1
    with pytest.raises(ProjectError, match="holds 65535 objects; begin a new project"):
        project.add_object("one more", layer)
