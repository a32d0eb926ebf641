from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from flowrvs.data.mevis import MevisWriter
from flowrvs.errors import DatasetError, FlowRVSError, ProjectError
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from flowrvs.video import open_video
from napari_flowrvs._reader import get_reader
from napari_flowrvs._sample_data import look_alikes, moving_shapes
from napari_flowrvs._writer import write_labels, write_project
from napari_flowrvs.layers import (
    layers_of,
    project_home,
    recognise,
    source_of,
)
from napari_flowrvs.project_labels import make_layer
from napari_flowrvs.projects import open_projects

Clip = npt.NDArray[np.uint8]


@pytest.fixture
def split(tmp_path: Path, clip: Clip) -> Path:
    """A split of two videos; the first has two objects that overlap on frame 0."""
    folder = tmp_path / "set" / "train"
    large = np.zeros((24, 40, 60), bool)
    large[:, 5:30, 5:40] = True
    small = np.zeros((24, 40, 60), bool)
    small[:3, 6:10, 6:10] = True
    with MevisWriter(folder) as writer:
        writer.add_video(
            "one",
            clip,
            objects={0: list(large), 1: list(small)},
            expressions={
                "0": ("the small one", [1]),
                "1": ("the large one", [0]),
                "2": ("both", [0, 1]),
                "3": ("none", []),
            },
        )
        writer.add_video("two", clip[:5], objects={}, expressions={"0": ("nothing", [])})
    return folder


@pytest.fixture
def project_path(image_folder: Path) -> Path:
    with open_video(image_folder) as video:
        info = video.info
    path = image_folder.with_name("squares.flowrvs")
    with Project.create(path, info) as project:
        for text in ("red", "green"):
            _, thing = project.add_prompt(text)
            project.labels(thing.layer)[4, :3] = thing.id
    return path


def show(layers: list[Any]) -> ViewerModel:
    viewer = ViewerModel()
    for data, meta, kind in layers:
        viewer.add_layer(make_layer((data, meta, kind)))
    return viewer


def test_a_folder_of_images_is_a_lazy_video(image_folder: Path, clip: Clip) -> None:
    viewer = show(layers_of(image_folder))
    (layer,) = viewer.layers
    assert isinstance(layer, Image) and layer.rgb and layer.name == "squares"
    viewer.dims.set_current_step(0, 7)
    assert np.array_equal(layer._data_view, clip[7])
    source = source_of(layer)
    assert source is not None and (source.path, source.frame_count) == (str(image_folder), 24)


def test_a_project_brings_back_its_video_and_editable_labels(
    project_path: Path, clip: Clip
) -> None:
    notes: list[str] = []
    viewer = show(layers_of(project_path, notes.append))
    assert [layer.name for layer in viewer.layers] == ["squares", "red", "green"]
    assert notes == []
    labels = viewer.layers["green"]
    home = project_home(labels.as_layer_data_tuple())
    assert home is not None
    project = open_projects.get(home[0])
    assert project is not None and np.array_equal(
        labels.get_color(2)[:3], np.array(project.objects[2].color, np.float32)
    )
    labels.paint((9, 20, 20), 2)
    open_projects.close(project)
    with Project.open(project_path) as again:
        assert again.labels(home[1])[9, 20, 20] == 2
        assert again.labels(home[1])[4, 0, 0] == 2


class TestProjectLabels:
    @pytest.fixture
    def shown(self, project_path: Path) -> Any:
        viewer = show(layers_of(project_path))
        layer = viewer.layers["green"]
        project = open_projects.open(project_path)
        said: list[str] = []
        layer.notify = said.append
        layer.brush_size = 4
        layer.mode = "paint"
        yield viewer, layer, project, said
        open_projects.close(project)

    def test_a_stroke_is_one_step_of_the_project(self, shown: Any) -> None:
        viewer, layer, project, said = shown
        before = np.asarray(layer.data)
        viewer.dims.set_point(0, 9)
        with layer.block_history():
            for x in range(10, 30):
                layer.paint((9, 20, x), 2)
        assert project.undo_name == "brush stroke on 'green', frame 9"
        painted = np.asarray(layer.data)
        layer.undo()
        np.testing.assert_array_equal(np.asarray(layer.data), before)
        np.testing.assert_array_equal(layer._slice.image.raw, before[9])
        layer.redo()
        np.testing.assert_array_equal(np.asarray(layer.data), painted)
        np.testing.assert_array_equal(layer._slice.image.raw, painted[9])
        layer.redo()
        assert said == ["There is nothing to redo."]
        assert not layer._undo_history and not layer._redo_history
        layer.mode = "fill"
        layer.fill((9, 0, 0), 2)
        assert project.undo_name.startswith("fill on 'green'")

    def test_strokes_are_undone_after_opening_again(self, shown: Any) -> None:
        _, layer, project, _ = shown
        layer.paint((9, 20, 20), 2)
        open_projects.close(project)
        viewer = show(layers_of(project.path))
        again = viewer.layers["green"]
        again.undo()
        assert not again.data[9].any()
        open_projects.close(project)

    def test_a_new_label_is_free_in_the_whole_project(self, shown: Any) -> None:
        _, layer, project, _ = shown
        layer.select_new()
        assert layer.selected_label == 3
        layer.paint((9, 20, 20), 3)
        layer.select_new()
        assert layer.selected_label == 4
        assert project.objects[3].layer == layer.layer_id

    def test_who_turns_may_be_somebody_else(self, shown: Any) -> None:
        _, layer, _, _ = shown
        turned: list[bool] = []
        layer.turn = turned.append
        layer.undo()
        layer.redo()
        assert turned == [True, False]


def test_a_project_that_moved_with_its_video_finds_it(project_path: Path, tmp_path: Path) -> None:
    there = tmp_path / "elsewhere"
    there.mkdir()
    shutil.move(tmp_path / "squares", there / "squares")
    shutil.move(project_path, there / project_path.name)
    layers = layers_of(there / project_path.name)
    assert [kind for *_, kind in layers] == ["image", "labels", "labels"]


def test_a_project_without_its_video_shows_its_masks_and_says_so(
    project_path: Path, image_folder: Path
) -> None:
    shutil.rmtree(image_folder)
    alone = project_path.parent / "far" / "away" / project_path.name  # other tests have the video
    alone.parent.mkdir(parents=True)
    project_path = project_path.rename(alone)
    notes: list[str] = []
    layers = layers_of(project_path, notes.append)
    assert [kind for *_, kind in layers] == ["labels", "labels"]
    assert len(notes) == 1 and "squares" in notes[0]


def test_a_split_shows_a_video_with_its_truth(split: Path, clip: Clip) -> None:
    notes: list[str] = []
    viewer = show(layers_of(split, notes.append))
    assert "2 videos" in notes[0]
    video, truth = viewer.layers
    assert (video.name, truth.name) == ("one", "one truth")
    labels = np.asarray(truth.data)
    assert labels[0, 8, 8] == 2, "the small object lies over the large one"
    assert labels[5, 8, 8] == 1
    assert labels[5, 0, 0] == 0
    assert list(truth.features["sentences"]) == ["", "the large one | both", "the small one | both"]


def test_a_video_folder_of_a_split_is_known(split: Path) -> None:
    folder = split / "JPEGImages" / "two"
    assert recognise(folder) == "video of a split"
    (layer, *_rest) = layers_of(folder)
    assert layer[1]["name"] == "two" and layer[0].shape[0] == 5


def test_a_dataset_of_splits_shows_its_first(split: Path) -> None:
    notes: list[str] = []
    layers = layers_of(split.parent, notes.append)
    assert layers[0][1]["name"] == "one"
    assert any("train" in note for note in notes)


def test_masks_that_do_not_fit_the_frames_are_told(split: Path) -> None:
    import json

    path = split / "mask_dict.json"
    masks = json.loads(path.read_text())
    path.write_text(json.dumps({key: value[:-1] for key, value in masks.items()}))
    with pytest.raises(DatasetError, match="flowrvs check"):
        layers_of(split)


def test_the_reader_takes_what_it_knows_only(
    split: Path, image_folder: Path, project_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for path in (split, image_folder, project_path):
        reader = get_reader(str(path))
        assert reader is not None
        assert reader(str(path))[0][2] == "image"
    assert get_reader(str(tmp_path / "empty")) is None
    assert get_reader([str(split), str(image_folder)]) is None
    assert get_reader([str(image_folder)]) is not None


def test_a_file_that_is_no_video_gets_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("these are notes")
    reader = get_reader(str(path))
    assert reader is not None
    with pytest.raises(FlowRVSError) as told:
        reader(str(path))
    assert "notes.mp4" in str(told.value) and "\n" not in str(told.value)


def test_which_layers_are_videos(clip: Clip) -> None:
    assert source_of(Image(clip, rgb=True)) is not None
    assert source_of(Image(clip[..., 0])) is not None
    assert source_of(Image(clip[0], rgb=True)) is None
    assert source_of(Image(clip[0, ..., 0])) is None
    assert source_of(Image(np.zeros((2, 3, 8, 8)))) is None
    pyramid = [clip[..., 0], clip[:, ::2, ::2, 0]]
    assert source_of(Image(pyramid, multiscale=True)) is None


@pytest.mark.parametrize("sample", [moving_shapes, look_alikes])
def test_samples_are_clips_with_sentences(sample: Callable[[], list[Any]]) -> None:
    ((frames, meta, kind),) = sample()
    assert kind == "image" and frames.shape == (33, 96, 160, 3)
    assert all(meta["metadata"]["flowrvs"]["sentences"])
    assert np.array_equal(frames, sample()[0][0])


def test_one_labels_layer_becomes_a_tiff(project_path: Path, tmp_path: Path) -> None:
    import tifffile

    data, meta, _ = layers_of(project_path)[2]
    path = tmp_path / "out.tif"
    assert write_labels(str(path), data, meta) == [str(path)]
    assert np.array_equal(tifffile.imread(path), data[:])
    assert not list(tmp_path.glob("*.part"))


def test_labels_of_a_project_are_saved_as_a_copy_of_it(project_path: Path, tmp_path: Path) -> None:
    layers = layers_of(project_path)
    layers[1][0][8, 5, 5] = 1
    path = tmp_path / "copy.flowrvs"
    assert write_project(str(path), layers) == [str(path)]
    with Project.open(path) as copy:
        assert copy.labels(1)[8, 5, 5] == 1
        assert [e.text for e in copy.expressions.values()] == ["red", "green"]


def test_labels_of_any_origin_become_a_project(clip: Clip, tmp_path: Path) -> None:
    labels = Labels((clip[..., 0] > 150) * 7 + (clip[..., 1] > 150) * 9, name="squares")
    tuples = [Image(clip, rgb=True).as_layer_data_tuple(), labels.as_layer_data_tuple()]
    path = tmp_path / "new.flowrvs"
    write_project(str(path), tuples)
    with Project.open(path) as project:
        (expression,) = project.expressions.values()
        assert expression.text == "squares" and len(expression.object_ids) == 2
        found = project.labels(1)[:]
        assert np.array_equal(found > 0, labels.data > 0)


def test_a_project_that_cannot_be_made_leaves_nothing(clip: Clip, tmp_path: Path) -> None:
    wrong = Labels(np.zeros((3, 5, 5), int)).as_layer_data_tuple()
    path = tmp_path / "new.flowrvs"
    with pytest.raises(ProjectError, match="differ"):
        write_project(str(path), [Image(clip, rgb=True).as_layer_data_tuple(), wrong])
    assert not path.exists()


def test_layers_of_two_projects_are_not_mixed(project_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.flowrvs"
    with Project.create(other, VideoInfo(None, "array", 24, 40, 60)) as project:
        project.add_prompt("blue")
    mixed = [layers_of(project_path)[1], layers_of(other)[0]]
    with pytest.raises(ProjectError, match="different projects"):
        write_project(str(tmp_path / "both.flowrvs"), mixed)


def test_the_truth_of_a_split_is_shown_whole(split: Path) -> None:
    """Every pixel of every frame, however it is asked for; and which sentence means what."""
    wanted = np.zeros((24, 40, 60), np.uint16)
    wanted[:, 5:30, 5:40] = 1
    wanted[:3, 6:10, 6:10] = 2
    lazy, meta, kind = layers_of(split)[1]
    assert kind == "labels" and lazy.dtype == np.uint16
    assert np.array_equal(np.asarray(lazy), wanted)
    for key in (2, (2, 8), (slice(1, 5), slice(6, 9)), (3, slice(None), 7), slice(20, None)):
        assert np.array_equal(np.asarray(lazy[key]), wanted[key]), key
    assert meta["features"]["index"] == [0, 1, 2] and meta["axis_labels"] == ("frame", "y", "x")
    (video, about, _), *rest = layers_of(split / "JPEGImages" / "two")
    assert about["name"] == "two" and about["rgb"] and video.shape[0] == 5
    assert about["metadata"]["flowrvs"]["video"] == str(split / "JPEGImages" / "two")


def test_labels_become_a_project_value_by_value(clip: Clip, tmp_path: Path) -> None:
    """Each layer a sentence, each of its values an object, 1 and 65535 too."""
    first, second = np.zeros((2, 24, 40, 60), np.uint16)
    first[3, 2:5, 2:5], first[3, 6, 6], first[9, 7, 7] = 65535, 1, 65535
    second[5, 1, 1] = 1
    tuples = [
        Labels(data, name=name).as_layer_data_tuple()
        for name, data in (("a", first), ("b", second))
    ]
    path = tmp_path / "new.flowrvs"
    assert write_project(str(path), tuples) == [str(path)]
    with Project.open(path) as project:
        assert project.video.frame_count == 24 and project.video.path is None
        assert [o.name for o in project.objects.values()] == ["a 1", "a 65535", "b 1"]
        for thing, (data, value) in zip(
            project.objects.values(), ((first, 1), (first, 65535), (second, 1)), strict=True
        ):
            assert np.array_equal(project.object_mask(thing.id, 0, 24), data == value)
        meant = [(e.text, e.object_ids) for e in project.expressions.values()]
        assert meant == [("a", {1, 2}), ("b", {3})]
        assert [layer.name for layer in project.layers.values()] == ["a", "b"]
        assert project.provenance(1).tolist() == [2 * (t == 3) for t in range(24)]
    for odd in (first[0], first[:5]):
        tuples[1] = Labels(odd, name="odd").as_layer_data_tuple()
        with pytest.raises(ProjectError, match="of one shape"):
            write_project(str(tmp_path / "odd.flowrvs"), tuples)
    assert not (tmp_path / "odd.flowrvs").exists()


def test_a_project_of_a_video_keeps_where_it_lies(image_folder: Path, tmp_path: Path) -> None:
    (video,) = layers_of(image_folder)
    labels = Labels(np.ones((24, 40, 60), np.uint8), name="all").as_layer_data_tuple()
    write_project(str(tmp_path / "new.flowrvs"), [video, labels])
    with Project.open(tmp_path / "new.flowrvs") as project:
        assert project.video.path == str(image_folder)


def test_a_file_of_labels_is_whole_or_not_there(tmp_path: Path) -> None:
    import tifffile

    frame = np.arange(12, dtype=np.int32).reshape(3, 4)
    write_labels(str(tmp_path / "one.tif"), frame, {})
    assert np.array_equal(tifffile.imread(tmp_path / "one.tif"), frame)

    class Torn:
        ndim, shape, dtype = 3, (4, 3, 4), np.dtype(np.uint16)

        def __getitem__(self, t: int) -> Any:
            if t == 2:
                raise OSError("cut off")
            return frame.astype(np.uint16) + t

    (tmp_path / "many.tif").write_text("what was there")
    with pytest.raises(OSError, match="cut off"):
        write_labels(str(tmp_path / "many.tif"), Torn(), {})
    assert (tmp_path / "many.tif").read_text() == "what was there"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["many.tif", "one.tif"]


def test_a_project_that_is_saved_onto_itself_is_written_out(project_path: Path) -> None:
    layers = layers_of(project_path)
    project = open_projects.get(project_path)
    layers[1][0][8, 5, 5] = 1
    assert write_project(str(project_path), layers[1:2]) == [str(project_path)]
    assert project is not None and project.unsaved == 0
    video = layers[0]
    assert video[1]["metadata"]["flowrvs"]["home"] == str(project_path)
    copy = Labels(np.asarray(layers[1][0]), metadata=layers[1][1]["metadata"])
    assert project_home(copy.as_layer_data_tuple()) is None, "a copy's pixels are its own"
