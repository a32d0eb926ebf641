"""Tools of a labels layer on locked frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Labels

from flowrvs.records import VideoInfo
from flowrvs.store import Project
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
