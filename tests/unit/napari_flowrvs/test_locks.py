"""Tools of a labels layer on locked frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Labels

from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from napari_flowrvs.layers import adopt, label_layer
from napari_flowrvs.projects import open_projects

Adopted = tuple[Labels, Project, list[str], Callable[[], None]]


@pytest.fixture
def adopted(tmp_path: Path) -> Iterator[Adopted]:
    """Two objects in one layer; the first is locked on frame 0."""
    path = tmp_path / "clip.flowrvs"
    with Project.create(path, VideoInfo(None, "array", 4, 20, 30)) as made:
        _, one = made.add_prompt("one")
        made.add_object("two", one.layer)
        made.labels(one.layer)[:, 5:9, 5:9] = one.id
        made.lock_frames(one.id, 0, 1)
    project = open_projects.open(path)
    data, meta, _ = label_layer(project, 1)
    layer, said = Labels(data, **meta), []
    layer.brush_size = 4
    release = adopt(layer, project, said.append)
    yield layer, project, said, release
    open_projects.close(project)


@pytest.mark.parametrize("tool", ["paint", "erase", "fill", "polygon", "set"])
def test_nothing_is_drawn_on_a_locked_frame(adopted: Adopted, tool: str) -> None:
    layer, project, said, _ = adopted
    layer.selected_label = 1
    before, shown = project.labels(1)[0], np.array(layer._slice.image.raw)
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
    assert np.array_equal(layer._slice.image.raw, shown), "not on the screen, either"
    assert project.undo_name == history
    (line,) = said
    assert "'one', is locked on frame 0" in line and "\n" not in line


def test_other_frames_and_other_objects_are_drawn(adopted: Adopted) -> None:
    layer, project, said, _ = adopted
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


def test_a_released_layer_has_its_own_tools(adopted: Adopted) -> None:
    layer, _, _, release = adopted
    release()
    assert not {"paint", "fill", "paint_polygon", "data_setitem"} & set(vars(layer))


@pytest.mark.parametrize("tool", ["paint", "erase", "fill", "polygon"])
def test_another_object_s_tool_draws_around_what_is_locked(adopted: Adopted, tool: str) -> None:
    layer, project, said, _ = adopted
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


def test_a_brush_through_frames_spares_the_locked_one_only(adopted: Adopted) -> None:
    layer, project, said, _ = adopted
    layer.selected_label, layer.n_edit_dimensions, layer.brush_size = 2, 3, 9
    layer.paint((1, 7, 7), 2)
    frames = project.labels(1)[:]
    assert (frames[0, 5:9, 5:9] == 1).all() and (frames[1, 5:9, 5:9] == 2).all()
    assert len(said) == 1


def test_the_project_itself_keeps_what_is_locked(adopted: Adopted) -> None:
    _, project, _, _ = adopted
    labels = project.labels(1)
    labels[0] = 2
    assert (labels[0][5:9, 5:9] == 1).all() and (labels[0] == 2).sum() == 20 * 30 - 16
    labels[0, 0, 0] = 1
    assert labels[0, 0, 0] == 2, "nor does a locked object grow"
    labels[0, 6, 6] = 0
    assert labels[0, 6, 6] == 1 and project.provenance(1)[0] == Provenance.LOCKED
    project.undo()
    assert (labels[0] > 0).sum() == 16, "one step, which is the only one"
