"""LabelsArray: numpy's indexing, napari's tools, bounded memory."""

from __future__ import annotations

import copy
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrvs.errors import ProjectError
from flowrvs.records import VideoInfo
from flowrvs.store import LabelsArray, Project, Provenance
from flowrvs.store.frames import FrameCache

SHAPE = (10, 12, 16)


@pytest.fixture
def labels(project: Project) -> LabelsArray:
    return project.labels(project.add_layer("cats").id)


def _axis(size: int) -> st.SearchStrategy[Any]:
    number = st.integers(-size, size - 1)
    array = st.lists(number, min_size=1, max_size=4).map(np.array)
    mask = st.lists(st.booleans(), min_size=size, max_size=size).map(np.array)
    return st.one_of(number, st.slices(size), array, mask)


keys = st.one_of(
    st.tuples(*(_axis(n) for n in SHAPE)),
    st.tuples(_axis(10), _axis(12)),
    st.tuples(_axis(10), st.just(...), _axis(16)),
    st.tuples(st.just(...), _axis(16)),
    _axis(10),
    st.sampled_from([..., True, False, (True, 3), (3, True), (3, slice(2), False), np.True_]),
    st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).random(SHAPE) > 0.99),
    st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).random(SHAPE[:2]) > 0.9),
)


@given(key=keys, value=st.integers(0, 9), data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_indexes_as_numpy_does(labels: LabelsArray, key: Any, value: int, data: Any) -> None:
    twin = np.asarray(labels)
    try:
        expected = twin[key]
    except IndexError:
        with pytest.raises(IndexError):
            labels[key]
        with pytest.raises(IndexError):
            labels[key] = value
        return
    found = labels[key]
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_array_equal(found, expected)

    values = np.random.default_rng(value).integers(0, 9, np.shape(expected)).astype(np.uint16)
    new = data.draw(st.sampled_from([value, values]))
    twin[key] = new
    labels[key] = new
    np.testing.assert_array_equal(np.asarray(labels), twin)


def test_what_it_says_of_itself(labels: LabelsArray) -> None:
    assert labels.shape == SHAPE
    assert (labels.ndim, labels.dtype, len(labels)) == (3, np.uint16, 10)
    assert (labels.size, labels.nbytes) == (10 * 12 * 16, 2 * 10 * 12 * 16)
    assert labels.chunks == (1, 12, 16) and labels.layer_id == 1
    assert repr(labels) == "<LabelsArray layer 1 (10, 12, 16) uint16>"
    labels[2, 3] = 5
    copied = copy.deepcopy(labels)
    assert type(copied) is np.ndarray and copied.sum() == 5 * 16
    assert np.asarray(labels[3]).shape == (12, 16)
    assert np.asarray(labels, dtype=np.int64).dtype == np.int64
    with pytest.raises(ValueError, match="copy"):
        np.asarray(labels, copy=False)


def test_reading_gives_copies(labels: LabelsArray) -> None:
    for key in (4, np.s_[4:6], np.s_[4, 2:5], (np.array([4]), np.array([2]), np.array([3]))):
        part = labels[key]
        part[...] = 7
    assert not np.asarray(labels).any()


def test_index_arrays_that_do_not_fit_are_refused_as_numpy_does(labels: LabelsArray) -> None:
    key = (np.array([0]), np.array([0, 0]), np.array([0, 0, 0]))
    with pytest.raises(IndexError):
        labels[key]
    with pytest.raises(IndexError):
        labels[key] = 3


@pytest.mark.parametrize("key", [10, -11, (0, 12), (0, 0, 0, 0), None, 1.5, (..., ...), "t"])
def test_bad_indices_raise_and_change_nothing(labels: LabelsArray, key: Any) -> None:
    with pytest.raises(IndexError):
        labels[key]
    with pytest.raises(IndexError):
        labels[key] = 3
    assert not np.asarray(labels).any()


def test_what_a_brush_gives_back(labels: LabelsArray) -> None:
    """The box before, and which of its pixels changed: napari's own undo is made of it."""
    labels[2, 1:3] = 7
    mask = np.array([[True, False, True], [True, True, False]])
    before, changed = labels.paint(2, slice(2, 4), slice(5, 8), mask, 7)  # type: ignore[misc]
    assert before.tolist() == [[7, 7, 7], [0, 0, 0]]
    assert changed.tolist() == [[False] * 3, [True, True, False]]
    before[:] = 9
    assert labels[2, 2:4, 5:8].tolist() == [[7, 7, 7], [7, 7, 0]]
    assert labels.paint(2, slice(2, 4), slice(5, 8), mask, 7) is None


def test_a_brush_may_keep_to_one_value(project: Project) -> None:
    cat = project.add_prompt("the cat")[1]
    dog = project.add_object("dog", cat.layer)
    labels = project.labels(cat.layer)
    labels[2, :3] = dog.id
    mask = np.ones((6, 5), bool)
    for only, drawn in ((dog.id, 3), (0, 6)):
        assert labels.paint(2, slice(0, 6), slice(0, 5), mask, cat.id, only) is not None
        assert (labels[2][:, :5] == cat.id).sum() == 5 * drawn
    assert labels.paint(2, slice(0, 6), slice(0, 5), mask, dog.id, 99) is None
    # A locked object neither grows nor shrinks.
    project.lock_frames(cat.id, 2, 3)
    before = labels[2]
    assert labels.paint(2, slice(6, 12), slice(0, 5), mask, cat.id) is None
    assert labels.paint(2, slice(0, 6), slice(0, 5), mask, 0) is None
    np.testing.assert_array_equal(labels[2], before)
    assert labels.paint(2, slice(6, 12), slice(0, 5), mask, dog.id) is not None


@pytest.mark.parametrize(
    "key", [np.s_[:, :, [0, 1]], np.s_[..., [0, 1]], np.s_[::-1, [0, 1]]], ids=str
)
def test_too_much_is_refused_before_it_takes_memory(tmp_path: Path, key: Any) -> None:
    with Project.create(tmp_path / "long", VideoInfo(None, "array", 2000, 480, 854)) as project:
        labels = project.labels(project.add_layer("a").id)
        tracemalloc.start()
        for act in (lambda: labels[key], lambda: labels.__setitem__(key, 0)):
            with pytest.raises(ProjectError, match="2000 frames of labels at once are too many"):
                act()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("value", [-1, 65536, "cat", float("nan"), np.array([0, -5])])
def test_values_that_are_no_labels_are_refused(labels: LabelsArray, value: Any) -> None:
    with pytest.raises(ProjectError, match="whole number"):
        labels[2, 3, 4:6] = value
    assert not np.asarray(labels).any()


def test_a_shape_that_does_not_fit_is_refused_whole(labels: LabelsArray) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        labels[2:5] = np.ones((3, 4, 5))
    assert not np.asarray(labels).any()


def test_requests_beyond_the_memory_are_refused_in_one_line(tmp_path: Path) -> None:
    info = VideoInfo(None, "array", 20_000, 480, 832)
    with Project.create(tmp_path / "long", info) as project:
        labels = project.labels(project.add_layer("a").id)
        for read in (lambda: labels[:, :, :], lambda: np.asarray(labels), lambda: labels[:, 3]):
            with pytest.raises(ProjectError, match="20000 frames") as caught:
                read()
            assert "\n" not in str(caught.value)
        assert labels[::1000].shape == (20, 480, 832)
        assert labels[5:900, 10, 10].shape == (895,)


def test_the_cache_forgets_clean_frames_only(tmp_path: Path) -> None:
    with Project.create(tmp_path / "a", VideoInfo(None, "array", 400, 8, 8)) as project:
        labels = project.labels(project.add_layer("a").id)
        for t in range(400):
            labels[t, 0, 0] = 1 + t % 5
        cache = project._state.volumes[1].frames.cache
        project.flush()
        assert cache.dirty == 0
        assert len(cache) <= cache.capacity == 64
        np.testing.assert_array_equal(labels[:, 0, 0], 1 + np.arange(400) % 5)
        with cache.lock:
            for t in range(100):  # only read: nothing else makes room
                cache.frame(t), cache.frame(0)
                assert len(cache) <= 64 and t in cache and 0 in cache, t


def test_what_is_drawn_while_it_is_written_is_written_again(
    labels: LabelsArray, project: Project
) -> None:
    cache = project._state.volumes[labels.layer_id].frames.cache
    project.flush()

    def draw(value: int) -> None:
        with cache.lock:
            cache.frame(3)[:] = value
            cache.touch(3)

    draw(1)
    cache.flush(lambda: draw(2))
    assert cache.dirty == 1
    cache.flush(lambda: None)
    assert cache.dirty == 0
    assert (np.asarray(cache._array[3]) == 2).all()


@pytest.mark.parametrize(
    ("side", "caches", "capacity"),
    [(8, 1, 64), (1024, 1, 64), (1024, 2, 32), (2048, 1, 16), (2048, 9, 4), (8192, 1, 4)],
)
def test_caches_share_128_mib_but_hold_four_frames_each(
    tmp_path: Path, side: int, caches: int, capacity: int
) -> None:
    cache = FrameCache(SimpleNamespace(shape=(99, side, side)), tmp_path, lambda t: None)
    cache.share(caches)
    assert cache.capacity == capacity


class TestStrokes:
    """What is drawn between two calls is one step, which the caller names."""

    def test_a_stroke_is_one_step(self, labels: LabelsArray, project: Project) -> None:
        labels[0, 0] = 1
        labels.begin_stroke("brush stroke")
        labels[3, 4] = 1
        labels.paint(3, slice(5, 7), slice(0, 3), np.ones((2, 3), bool), 1)
        assert len(project.history.steps) == 1, "it is not over"
        labels.end_stroke()
        labels.end_stroke()
        assert project.undo_name == "brush stroke on 'object 1', frame 3"
        labels[4, 4] = 1
        assert [s.name for s in project.history.steps][2:] == ["edit on 'object 1', frame 4"]
        project.undo(), project.undo()
        assert labels[0, 0].all() and not labels[3].any()

    def test_a_block_ends_also_when_it_raises(self, labels: LabelsArray, project: Project) -> None:
        with pytest.raises(KeyError), labels.stroke("fill"):
            labels[2, 2] = 1
            raise KeyError
        with labels.stroke("nothing at all"):
            pass
        labels[2, 3] = 1
        names = ["fill on 'object 1', frame 2", "edit on 'object 1', frame 2"]
        assert [step.name for step in project.history.steps] == names

    def test_a_cancelled_stroke_leaves_nothing(self, labels: LabelsArray, project: Project) -> None:
        model = np.zeros((1, *SHAPE[1:]), bool)
        model[0, :4, :4] = True
        labels[0, 0] = 1
        project.write_model(labels.layer_id, 1, 3, model)
        labels[5, 5] = 1
        project.undo()
        frame, kinds = labels[3], project.provenance(1)
        steps, counts = project.history.steps, project.counts(1)
        assert project.redo_name == "edit on 'object 1', frame 5"
        labels.begin_stroke("brush stroke")
        labels.paint(3, slice(2, 7), slice(0, 3), np.ones((5, 3), bool), 0)
        labels[3, 6] = 9  # a new object
        labels[4, 6] = 1
        assert project.provenance(1)[[3, 4]].tolist() == [Provenance.HUMAN] * 2
        labels.cancel_stroke()
        labels.cancel_stroke()
        np.testing.assert_array_equal(labels[3], frame)
        np.testing.assert_array_equal(project.provenance(1), kinds)
        assert kinds[3] == Provenance.MODEL and not labels[4].any()
        assert set(project.objects) == {1} and project.counts(1) == counts
        assert project.history.steps == steps
        assert project.redo_name == "edit on 'object 1', frame 5"
        labels[7, 7] = 1
        assert project.undo_name == "edit on 'object 1', frame 7", "strokes go on"
        path = project.path
        project.close()
        with Project.open(path) as again:
            np.testing.assert_array_equal(again.labels(labels.layer_id)[3], frame)
            assert again.provenance(1)[[3, 4]].tolist() == [Provenance.MODEL, Provenance.EMPTY]
            assert [step.name for step in again.history.steps][-1].endswith("frame 7")

    def test_a_new_stroke_ends_the_one_before(self, labels: LabelsArray, project: Project) -> None:
        labels.begin_stroke("one")
        labels[2, 2] = 1
        labels.begin_stroke("two")
        labels[2, 3] = 1
        project.undo()  # ends it, too
        assert labels[2, 2].all() and not labels[2, 3].any()
        labels[2, 4] = 1
        assert project.undo_name == "edit on 'object 1', frame 2"


class TestNapari:
    """The layer that people paint on, without a window."""

    @pytest.fixture
    def layers(self, labels: LabelsArray) -> tuple[Any, Any]:
        layers = pytest.importorskip("napari.layers")
        pair = layers.Labels(labels), layers.Labels(np.zeros(SHAPE, np.uint16))
        for layer in pair:
            layer.brush_size = 4
        assert pair[0].data is labels
        return pair

    def test_every_tool_and_undo_equal_numpy(self, layers: tuple[Any, Any]) -> None:
        ours, numpys = layers
        tools = [
            lambda layer: layer.paint((2, 5, 5), 1),
            lambda layer: layer.paint((2, 5, 9), 2),
            lambda layer: layer.paint((2, 5, 7), 0),
            lambda layer: layer.fill((2, 11, 15), 3),
            lambda layer: layer.fill((2, 5, 4), 4),
            lambda layer: layer.paint_polygon([(6, 1, 1), (6, 1, 9), (6, 8, 5)], 5),
            lambda layer: layer.data_setitem(
                (np.array([7, 7, 8]), np.array([1, 2, 3]), np.array([3, 4, 5])), 6
            ),
        ]
        for tool in tools:
            for layer in layers:
                tool(layer)
            np.testing.assert_array_equal(np.asarray(ours.data), numpys.data)
        for step in ["undo"] * 7 + ["redo"] * 5 + ["undo"] * 2:
            for layer in layers:
                getattr(layer, step)()
            np.testing.assert_array_equal(np.asarray(ours.data), numpys.data)
        assert numpys.data.any()

    def test_painting_and_undo_make_frames_human(
        self, layers: tuple[Any, Any], project: Project
    ) -> None:
        layer = layers[0]
        layer.paint((2, 5, 5), 1)
        layer.undo()
        assert not np.asarray(layer.data).any()
        assert project.provenance(1)[2] == Provenance.HUMAN
        assert project.provenance(1).sum() == Provenance.HUMAN

    def test_fill_in_three_dimensions(self, layers: tuple[Any, Any]) -> None:
        for layer in layers:
            layer.n_edit_dimensions = 3
            layer.fill((0, 0, 0), 2)
            layer.paint((4, 5, 5), 1)
        np.testing.assert_array_equal(np.asarray(layers[0].data), layers[1].data)

    def test_a_small_volume_shows_in_three_dimensions(self, layers: tuple[Any, Any]) -> None:
        components = pytest.importorskip("napari.components")
        viewer = components.ViewerModel()
        viewer.add_layer(layers[0])
        layers[0].paint((2, 5, 5), 1)
        viewer.dims.ndisplay = 3
        assert layers[0]._slice.image.raw.shape == SHAPE
        viewer.dims.ndisplay = 2
        viewer.dims.roll()
        assert layers[0]._slice.image.raw.shape == (10, 12)

    def test_a_large_volume_survives_the_3d_button(self, tmp_path: Path) -> None:
        components = pytest.importorskip("napari.components")
        with Project.create(tmp_path / "a", VideoInfo(None, "array", 9000, 480, 832)) as project:
            viewer = components.ViewerModel()
            layer = viewer.add_labels(project.labels(project.add_layer("a").id))
            with pytest.raises(Exception, match="9000 frames of labels"):
                viewer.dims.ndisplay = 3
            viewer.dims.ndisplay = 2
            viewer.dims.set_point(0, 8000)
            layer.paint((8000, 5, 5), 1)
            assert layer.data[8000, 5, 5] == 1

    def test_a_shown_large_volume_is_answered_in_one_line(self, tmp_path: Path) -> None:
        """No exception, no wait, one message until the view is 2D again."""
        components = pytest.importorskip("napari.components")
        with Project.create(tmp_path / "a", VideoInfo(None, "array", 9000, 480, 832)) as project:
            array = project.labels(project.add_layer("a").id)
            said: list[str] = []
            viewer = components.ViewerModel()
            layer = viewer.add_labels(array.shown(said.append))
            for rounds in (1, 2):
                viewer.dims.ndisplay = 3
                ray = np.array([1.0, 0, 0])
                layer.get_value((9, 9, 9), view_direction=ray, dims_displayed=[0, 1, 2], world=True)
                viewer.dims.ndisplay = 2
                viewer.dims.roll()
                viewer.dims.set_point(1, 7)
                layer.refresh()
                assert len(said) >= rounds and all("9000 frames" in text for text in said)
                assert len(said) <= 2 * rounds
                viewer.dims.order = (0, 1, 2)
            viewer.dims.set_point(0, 8000)
            layer.paint((8000, 5, 5), 1)
            assert array[8000, 5, 5] == 1 and layer._slice.image.raw.shape == (480, 832)
            with pytest.raises(ProjectError, match="9000 frames"):
                np.asarray(layer.data)
            with pytest.raises(ProjectError, match="9000 frames"):
                array[:, :, :]


def test_a_viewer_is_answered_in_a_line_what_it_cannot_show(tmp_path: Path) -> None:
    """By slices of too many frames; by places, and without a viewer, as anybody else."""
    with Project.create(tmp_path / "a", VideoInfo(None, "array", 602, 6, 8)) as project:
        labels = project.labels(project.add_layer("a").id)
        labels[601, 2, 3] = 5
        told: list[str] = []
        shown = labels.shown(told.append)
        assert shown is not labels and shown[1:601, 2, 3].shape == (600,) and told == []
        line = "602 frames are too many to be shown in 3D or from the side; go back to 2D frames."
        for count in (1, 2):
            for _ in range(2):  # once for as long as it asks so
                for key, shape in (
                    ((slice(None), 2, 3), (1,)),
                    ((slice(0, 601), slice(1, 4), 3), (1, 1)),
                    ((slice(None), slice(None), slice(None)), (1, 1, 1)),
                ):
                    answer = shown[key]
                    assert answer.shape == shape and answer.dtype == np.uint16
                    assert not answer.any()
            assert told == [line] * count
            # one frame, as in 2D, or few, and it may be told again
            assert shown[601, :, :][2, 3] == 5 if count == 1 else shown[598:, 2, 3][3] == 5
        assert shown[601, 2, 3] == 5 and told == [line] * 2
        shown[:, 2, 3]
        assert told == [line] * 3
        shown[601, 2, 3]  # a pixel is no view
        shown[:, 2, 3]
        assert told == [line] * 3
        assert shown[np.arange(602), 2, 3][601] == 5 and shown[[601, 0]][0, 2, 3] == 5
        assert shown[...][601, 2, 3] == 5 and labels[:, 2, 3][601] == 5
        others: list[str] = []
        shown.on_refused(others.append)
        shown[601, :, :], shown[:, 2, 3]
        assert others == [line] and told == [line] * 3
        assert labels[:, :, 3].shape == (602, 6), "the array itself has no viewer"


def test_values_are_fitted_as_numpy_does(labels: LabelsArray) -> None:
    row = np.arange(16) % 3
    labels[3, 4] = row[None, None]
    labels[5:7, 2] = np.stack([row, row[::-1]])[None]
    labels[8] = row
    twin = np.zeros(SHAPE, int)
    twin[3, 4], twin[5, 2], twin[6, 2], twin[8] = row, row, row[::-1], row
    np.testing.assert_array_equal(np.asarray(labels), twin)
    for value in (np.stack([row, row]), row[:5]):
        with pytest.raises(ValueError, match="broadcast"):
            labels[3, 4] = value
    np.testing.assert_array_equal(np.asarray(labels), twin)
