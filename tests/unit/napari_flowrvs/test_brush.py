"""The quick brush draws what napari's own draws, on the disk and on the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from napari_flowrvs.brush import quicken
from napari_flowrvs.layers import adopt, label_layer
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


def _layer(project: Project) -> Labels:
    data, meta, _ = label_layer(project, 1)
    return Labels(data, **meta)


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
    release = adopt(ours, project)
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
    release()
    assert not {"_paint_region_with_mask", "_validate_label_in_range"} & set(vars(ours))


def test_a_stroke_is_one_step_and_tells_its_listeners(project: Project) -> None:
    layer = _layer(project)
    adopt(layer, project)
    events: list[Any] = []
    layer.events.paint.connect(events.append)
    layer.mode, layer.brush_size = "paint", 5
    with layer.block_history():
        layer._draw(1, (2, 10, 10), (2, 10, 40))
    assert len(events) == 1 and project.labels(1)[2].any()
    assert project.provenance(1).tolist() == [0, 0, Provenance.HUMAN, 0, 0]
    layer.undo()
    assert not project.labels(1)[2].any() and project.undo_name is None


@pytest.mark.parametrize("quick", [True, False])
def test_a_stamp_leaves_what_a_model_wrote_beside_it(project: Project, quick: bool) -> None:
    """A brush reads a box and gives it back; between the two a model may write."""
    layer = _layer(project)
    if not quick:
        layer.contour = 1
    quicken(layer, project.labels(1))
    layer.brush_size = 11
    mask = np.zeros((1, H, W), np.bool_)
    mask[0, 10:30, 10:50] = True
    inside = layer._apply_mask_to_data

    def late(*arguments: Any) -> Any:
        project.write_model(1, 2, 0, mask)
        return inside(*arguments)

    layer._apply_mask_to_data = late
    if quick:
        project.write_model(1, 2, 0, mask)
    layer.paint((0, 20, 30), 1)
    frame = project.labels(1)[0]
    assert frame[20, 30] == 1 and frame[15, 25] == 2, "the corner of the box is the model's"
    assert (frame[10:30, 10:50] > 0).all()


def test_a_label_that_does_not_fit_is_refused_by_napari(project: Project) -> None:
    layer = _layer(project)
    adopt(layer, project)
    with pytest.raises(Exception, match="70000"):
        layer.paint((0, 5, 5), 70_000)


def test_several_frames_at_once_go_napari_s_way(project: Project) -> None:
    layer = _layer(project)
    adopt(layer, project)
    layer.n_edit_dimensions, layer.brush_size = 3, 5
    layer.paint((2, 20, 30), 1)
    assert [bool(frame.any()) for frame in project.labels(1)[:]] == [1, 1, 1, 1, 1]
