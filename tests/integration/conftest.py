"""A viewer with the dock, a clip in it, and somebody in front of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__: list[str] = []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The clip as a folder of pictures."""
    from tests.integration.annotator import write_clip

    return write_clip(tmp_path / "scene")


@pytest.fixture
def make_person(
    make_napari_viewer: Callable[..., Any],
    folder: Path,
    tmp_path: Path,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Any]]:
    """Sit somebody down before a viewer; ``$FLOWRVS_PICTURES`` keeps what they see."""
    from napari_flowrvs.dock import SegmentDock
    from napari_flowrvs.layers import layers_of
    from napari_flowrvs.projects import open_projects
    from napari_flowrvs.recent import Recent
    from tests.integration.annotator import FlawedSegmenter, Person

    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    pictures = Path(os.environ.get("FLOWRVS_PICTURES", tmp_path / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    people: list[Person] = []

    def make(load: Any = None) -> Person:
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1280, 900)
        dock = SegmentDock(
            viewer,
            load=load or (lambda model, device: FlawedSegmenter()),
            recent=Recent(tmp_path / "memory.json"),
        )
        viewer.window.add_dock_widget(dock, name="Segment a video by sentences", area="right")
        for layer in layers_of(folder):
            dock.link.add(layer)
        qtbot.wait(50)
        people.append(Person(qtbot, viewer, dock, pictures))
        return people[-1]

    yield make
    for person in people:
        person.dock.shut_down()
    open_projects.close_all()
    for person in people:
        vars(person).clear()  # pytest keeps it longer than the viewer may live
