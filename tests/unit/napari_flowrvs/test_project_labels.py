"""Labels of a project draw what napari's own labels draw, and spare what is locked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from flowrvs.errors import StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from napari_flowrvs import project_labels as module
from napari_flowrvs.layers import label_layer
from napari_flowrvs.project_labels import ProjectLabels
from napari_flowrvs.projects import open_projects

T, H, W = 5, 40, 60


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Two objects in one layer."""
    path = tmp_path / "clip.flowrvs"
    with Project.create(path, VideoInfo(None, "array", T, H, W)) as made:
        _, one = made.add_prompt("one")
        made.add_object("two", one.layer)
    project = open_projects.open(path)
    yield project
    open_projects.close(project)


def _layer(project: Project) -> ProjectLabels:
    data, meta, _ = label_layer(project, 1)
    return ProjectLabels(data, **meta)


def _act(layer: Labels, rng: np.random.Generator) -> None:
    """Do something that a person does; the same for the same state of `rng`."""
    t = int(rng.integers(T))
    layer.brush_size = int(rng.integers(1, 14))
    layer.preserve_labels = bool(rng.random() < 0.3)
    layer.selected_label = int(rng.integers(1, 3))
    label = int(rng.integers(0, 3))
    spots = [(t, *rng.integers((-3, -3), (H + 3, W + 3))) for _ in range(3)]
    tool = rng.integers(5)
    if tool <= 1:
        layer.mode = "paint"
        with layer.block_history():
            layer._draw(label, spots[0], spots[1])
    elif tool == 2:
        layer.paint(spots[0], label)
    elif tool == 3:
        layer.fill((t, *rng.integers((0, 0), (H, W))), label)
    else:
        layer.paint_polygon([np.clip(s, 0, (T, H - 1, W - 1)) for s in spots], label)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("contour", [0, 1])
def test_it_draws_what_napari_draws(project: Project, seed: int, contour: int) -> None:
    ours, theirs = _layer(project), Labels(np.zeros((T, H, W), np.uint16))
    theirs.colormap = ours.colormap
    viewer = ViewerModel()
    viewer.add_layer(ours)
    viewer.add_layer(theirs)
    rng, twin = np.random.default_rng(seed), np.random.default_rng(seed)
    for layer in (ours, theirs):
        layer.contour = contour
    for step in range(40):
        viewer.dims.set_point(0, step % T)
        _act(ours, rng)
        _act(theirs, twin)
        assert np.array_equal(project.labels(1)[:], theirs.data), step
        assert np.array_equal(ours._slice.image.raw, theirs._slice.image.raw), step
        assert np.array_equal(ours._slice.image.view, theirs._slice.image.view), step


def test_what_draws_a_tool_is_made_when_it_is_taken_up(project: Project) -> None:
    layer = _layer(project)
    shown = lambda: {name for name, made in layer._overlays.items() if made.visible}  # noqa: E731
    assert not shown() & {"polygon", "brush_stroke"}
    layer.mode = "paint"
    assert "brush_stroke" in shown() and "polygon" not in shown()
    layer.mode = "polygon"
    assert "polygon" in shown()


def test_a_stroke_is_one_step_and_tells_its_listeners(project: Project) -> None:
    layer = _layer(project)
    events: list[Any] = []
    layer.events.paint.connect(events.append)
    layer.mode, layer.brush_size = "paint", 5
    with layer.block_history():
        layer._draw(1, (2, 10, 10), (2, 10, 40))
    assert len(events) == 1 and project.labels(1)[2].any()
    assert project.provenance(1).tolist() == [0, 0, Provenance.HUMAN, 0, 0]
    layer.undo()
    assert not project.labels(1)[2].any() and project.undo_name is None


def test_a_stroke_that_napari_aborts_was_never_drawn(project: Project) -> None:
    layer = _layer(project)
    masks = np.zeros((1, H, W), np.bool_)
    masks[0, 5:15, 5:15] = True
    project.write_model(1, 1, 2, masks)
    steps = project.history.steps
    layer.mode, layer.brush_size = "paint", 5
    layer._begin_stroke()
    layer._draw(2, (2, 10, 10), (2, 10, 20))
    layer._draw(2, (2, 10, 20), (2, 10, 40))
    assert project.provenance(1)[2] == Provenance.HUMAN
    layer._overlays["brush_stroke"].abort(layer)
    np.testing.assert_array_equal(project.labels(1)[2], masks[0])
    np.testing.assert_array_equal(layer._slice.image.raw, project.labels(1)[0])
    assert project.provenance(1)[2] == Provenance.MODEL
    assert project.provenance(2).tolist() == [0] * T
    assert project.history.steps == steps
    for t in (3, 4):
        with layer.block_history():
            layer._draw(1, (t, 10, 10), (t, 10, 20))
    assert len(project.history.steps) == len(steps) + 2, "they are strokes of their own"


@pytest.mark.parametrize("contour", [0, 1])
def test_a_fill_leaves_what_a_model_wrote_meanwhile(project: Project, contour: int) -> None:
    """Fill looks at a frame before it draws; between the two a model may write."""
    layer = _layer(project)
    layer.contour = contour
    project.labels(1)[0, 5:35, 5:55] = 1
    mask = np.zeros((1, H, W), np.bool_)
    mask[0, 2:5, 2:20] = True
    inside = layer._get_flood_mask_and_bbox

    def late(*arguments: Any) -> Any:
        found = inside(*arguments)
        project.write_model(1, 2, 0, mask)
        return found

    layer._get_flood_mask_and_bbox = late
    project.release_frames(1, 0, 1)
    layer.fill((0, 0, 0), 1)
    frame = project.labels(1)[0]
    assert (frame[5:35, 5:55] == 1).all() and (frame[0] == 1).all()


def test_several_viewers_may_show_a_layer(project: Project) -> None:
    """Each stroke is a step, whichever of them was opened last."""
    first, second = _layer(project), _layer(project)
    first.mode = second.mode = "paint"
    for layer, row in ((first, 10), (second, 30), (first, 20)):
        with layer.block_history():
            layer._draw(1, (0, row, 10), (0, row, 40))
    assert len(project.history.steps) == 3
    second.undo()
    assert not project.labels(1)[0, 20].any() and project.labels(1)[0, 30].any()


def test_a_label_that_does_not_fit_is_refused_by_napari(project: Project) -> None:
    layer = _layer(project)
    with pytest.raises(Exception, match="70000"):
        layer.paint((0, 5, 5), 70_000)


def test_several_frames_at_once_go_napari_s_way(project: Project) -> None:
    layer = _layer(project)
    layer.n_edit_dimensions, layer.brush_size = 3, 5
    layer.paint((2, 20, 30), 1)
    assert [bool(frame.any()) for frame in project.labels(1)[:]] == [1, 1, 1, 1, 1]


# -- locked frames -----------------------------------------------------------------------


Shown = tuple[ProjectLabels, Project, list[str]]


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    """Two objects in one layer; the first is locked on frame 0."""
    path = tmp_path / "clip.flowrvs"
    with Project.create(path, VideoInfo(None, "array", 4, 20, 30)) as made:
        _, one = made.add_prompt("one")
        made.add_object("two", one.layer)
        made.labels(one.layer)[:, 5:9, 5:9] = one.id
        made.lock_frames(one.id, 0, 1)
    project = open_projects.open(path)
    data, meta, _ = label_layer(project, 1)
    layer, said = ProjectLabels(data, **meta), list[str]()
    layer.brush_size, layer.notify = 4, said.append
    yield layer, project, said
    open_projects.close(project)


@pytest.mark.parametrize("tool", ["paint", "erase", "fill", "polygon", "set"])
def test_nothing_is_drawn_on_a_locked_frame(shown: Shown, tool: str) -> None:
    layer, project, said = shown
    layer.selected_label = 1
    project.labels(1)[0, 14:16, 3:6] = 2  # nor is another one erased in its name
    layer.refresh()
    before, drawn = project.labels(1)[0], np.array(layer._slice.image.raw)
    history = project.undo_name
    if tool == "fill":
        layer.fill((0, 15, 15), 1)
    elif tool == "polygon":
        layer.paint_polygon([(0, 11, 11), (0, 18, 11), (0, 18, 25)], 1)
    elif tool == "set":
        layer.data_setitem((np.array([0, 0]), np.array([12, 13]), np.array([4, 4])), 1)
    else:
        for column in range(4, 9):
            layer.paint((0, 7, column), 1 if tool == "paint" else 0)
            layer.paint((0, 14, column), 1 if tool == "paint" else 0)
    assert np.array_equal(project.labels(1)[0], before)
    assert np.array_equal(layer._slice.image.raw, drawn), "not on the screen, either"
    assert project.undo_name == history
    (line,) = said
    assert "'one', is locked on frame 0" in line and "\n" not in line


def test_other_frames_and_other_objects_are_drawn(shown: Shown) -> None:
    layer, project, said = shown
    layer.selected_label = 1
    layer.paint((2, 15, 15), 1)
    assert project.labels(1)[2, 15, 15] == 1
    layer.selected_label = 2
    layer.paint((0, 15, 15), 2)
    assert project.labels(1)[0, 15, 15] == 2 and not said
    project.unlock_frames(1, 0, 1)
    layer.selected_label = 1
    layer.paint((0, 12, 25), 1)
    assert project.labels(1)[0, 12, 25] == 1 and not said


@pytest.mark.parametrize("tool", ["paint", "erase", "fill", "polygon"])
def test_another_object_s_tool_draws_around_what_is_locked(shown: Shown, tool: str) -> None:
    layer, project, said = shown
    layer.selected_label = 2
    if tool == "fill":
        layer.fill((0, 6, 6), 2)
    elif tool == "polygon":
        layer.paint_polygon([(0, 4, 4), (0, 12, 4), (0, 12, 12), (0, 4, 12)], 2)
    else:
        layer.brush_size = 9
        layer.paint((0, 9, 9), 2 if tool == "paint" else 0)
    frame = project.labels(1)[0]
    assert (frame[5:9, 5:9] == 1).all(), "the locked object is whole"
    assert np.array_equal(layer._slice.image.raw, frame), "on the screen, too"
    assert (frame == 2).any() == (tool in ("paint", "polygon"))
    (line,) = said
    assert "'one', is locked on frame 0" in line


def test_a_brush_through_frames_spares_the_locked_one_only(shown: Shown) -> None:
    layer, project, said = shown
    layer.selected_label, layer.n_edit_dimensions, layer.brush_size = 2, 3, 9
    layer.paint((1, 7, 7), 2)
    frames = project.labels(1)[:]
    assert (frames[0, 5:9, 5:9] == 1).all() and (frames[1, 5:9, 5:9] == 2).all()
    assert len(said) == 1


def test_the_project_itself_keeps_what_is_locked(shown: Shown) -> None:
    _, project, _ = shown
    labels = project.labels(1)
    labels[0] = 2
    assert (labels[0][5:9, 5:9] == 1).all() and (labels[0] == 2).sum() == 20 * 30 - 16
    labels[0, 0, 0] = 1
    assert labels[0, 0, 0] == 2, "nor does a locked object grow"
    labels[0, 6, 6] = 0
    assert labels[0, 6, 6] == 1 and project.provenance(1)[0] == Provenance.LOCKED
    project.undo()
    assert (labels[0] > 0).sum() == 16, "one step, which is the only one"


def test_what_is_refused_is_said_again_after_a_while_and_elsewhere(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, project, said = shown
    project.lock_frames(1, 1, 2)
    layer.selected_label = 1
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for t, later, wanted in (
        *((0, 0.0, 1), (0, 1.9, 1), (0, 1.9, 1), (1, 0.0, 2), (0, 0.0, 3), (0, 2.1, 4)),
        (0, 0.1, 4),
    ):
        now[0] += later
        layer.paint((t, 15, 15), 1)
        assert len(said) == wanted, (t, later)
    assert said[0] == (
        "Object 1, 'one', is locked on frame 0: unlock it on the page Objects to draw there."
    )


def test_what_cannot_be_drawn_is_one_line(shown: Shown) -> None:
    """The brush may still have an object that was removed, or a project that is closed."""
    layer, project, said = shown
    project.remove_object(2)
    layer.fill((2, 12, 20), 2)
    layer.paint((2, 12, 20), 2)
    layer.data_setitem((np.array([2]), np.array([12]), np.array([20])), 2)
    assert said == [
        "Label 2 was that of an object that was removed; choose another label, the next free one "
        "is 3."
    ]
    open_projects.close(project)
    layer.mode = "paint"
    with layer.block_history():
        for x in range(20, 24):
            layer.paint((2, 12, x), 1)
    layer.paint((2, 12, x), 1)
    assert said[1:] == [f"{project.path} was closed; open it again to edit."]


def test_undo_here_and_now_says_what_stands_in_its_way(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, project, said = shown
    while project.undo() is not None:
        pass
    layer.undo()
    assert said == ["There is nothing to undo."]

    def full() -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(project, "redo", full)
    layer.redo()
    assert said[1:] == ["The disk is full."]


def test_esc_stops_what_runs_before_it_forgets_a_polygon(project: Project) -> None:
    layer = _layer(project)
    layer.mode = "polygon"
    overlay, running = layer._overlays["polygon"], [True]
    layer.cancel = lambda: running[0]
    overlay.points = [(0, 1, 1), (0, 5, 5)]
    layer.stop()
    assert len(overlay.points) == 2, "the run was meant"
    for layer.cancel in (lambda: False, None):
        overlay.points = [(0, 1, 1), (0, 5, 5)]
        layer.stop()
        assert len(overlay.points) == 0


def test_which_objects_a_layer_shows(project: Project) -> None:
    other = project.add_layer("by hand")
    data, meta, _ = label_layer(project, other.id)
    empty = ProjectLabels(data, **meta)
    assert not empty.shows_objects and empty.selected_label == 1
    far = project.add_object("far", other.id)
    empty.show_objects()
    assert empty.shows_objects and empty.selected_label == 1
    again = ProjectLabels(data, **label_layer(project, other.id)[1])
    assert again.selected_label == far.id == 3, "what the layer holds is painted"
    again.select_new()
    assert again.selected_label == project.next_label == 4
    for label in (-1, 65_536):
        with pytest.raises(Exception, match=str(label)):
            again._validate_label_in_range(label)
    again._validate_label_in_range(65_535)
