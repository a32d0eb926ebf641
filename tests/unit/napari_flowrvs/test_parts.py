"""Small parts that several pages share, and what forms hold before anybody touches them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import napari
import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMainWindow

from flowrvs.data import MevisWriter
from flowrvs.errors import DatasetError, InputError
from flowrvs.video import open_video
from napari_flowrvs.export.presenter import ExportInputs
from napari_flowrvs.find.presenter import SegmentInputs
from napari_flowrvs.importing.panel import ImportDialog, show_import
from napari_flowrvs.improve.presenter import ImproveInputs, ImprovePresenter
from napari_flowrvs.job import Phase
from napari_flowrvs.layers import NoVideo, split_layers
from napari_flowrvs.motion import Motion
from napari_flowrvs.source import ShownVideo, VideoSource
from napari_flowrvs.trackers import Trackers
from napari_flowrvs.widgets.folders import FolderList
from napari_flowrvs.widgets.trackers import TrackerBox


def test_a_list_of_folders(qtbot: Any) -> None:
    box = FolderList("Projects", 90)
    qtbot.addWidget(box)
    assert box.folders == [] and box.ticked == ()
    paths = ["/a/clip.flowrvs", "/a/other.flowrvs", "/b/clip.flowrvs", "/<b>/x"]
    assert [box.add(path) for path in (*paths, paths[0])] == [True, True, True, True, False]
    assert box.folders == paths and box.ticked == tuple(paths)
    texts = [box.item(i).text() for i in range(4)]
    assert texts == ["clip.flowrvs", "other.flowrvs", "clip.flowrvs in b", "x"]
    assert [box.item(i).toolTip() for i in (0, 3)] == [paths[0], "<qt>/&lt;b&gt;/x</qt>"]
    assert box.item(1).flags() & Qt.ItemFlag.ItemIsUserCheckable
    box.item(1).setCheckState(Qt.CheckState.Unchecked)
    assert box.ticked == (paths[0], *paths[2:])


def test_a_list_of_trackers(qtbot: Any) -> None:
    trackers = Trackers(load=lambda name: None)  # type: ignore[arg-type,return-value]
    box = TrackerBox(trackers, "What picks", {"classical": "by motion"})
    qtbot.addWidget(box)

    def rows() -> list[tuple[str, str]]:
        return [(box.itemText(i), box.itemData(i)) for i in range(box.count())]

    heard: list[str] = []
    trackers.changed.connect(lambda: heard.append(trackers.name))
    assert rows() == [("by motion", "classical")] and box.currentIndex() == 0
    trackers.known = {"classical": True, "colours": True, "sam": False}
    trackers.name = "sam"
    trackers.changed.emit()
    wanted = [("by motion", "classical"), ("colours", "colours"), ("sam (not installed)", "sam")]
    assert rows() == wanted and box.currentIndex() == 2
    box.setCurrentIndex(1)
    box.activated.emit(1)
    assert trackers.name == "colours" and heard == ["sam", "colours"]
    box.activated.emit(1)
    assert len(heard) == 2, "it is chosen already"
    trackers.name = "gone"
    trackers.changed.emit()
    assert box.currentIndex() == 0
    del trackers.known["sam"]
    trackers.known["colours"] = False
    trackers.changed.emit()
    assert rows() == [wanted[0], ("colours (not installed)", "colours")]


def test_a_form_opens_above_the_viewer_there_is(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: None)
    assert show_import() is None
    proxy = SimpleNamespace(__wrapped__=viewer)
    monkeypatch.setattr(napari, "current_viewer", lambda: proxy)
    window = QMainWindow()
    qtbot.addWidget(window)
    window.show()
    form = show_import()
    assert isinstance(form, ImportDialog) and form.isVisible() and form._viewer is viewer
    assert isinstance(form.parent(), QMainWindow)
    assert form.testAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    other = QMainWindow()
    qtbot.addWidget(other)
    mine = show_import(viewer, other)
    assert mine.parent() is other
    for each in (form, mine):
        each.close()


def test_the_video_of_all_jobs_is_opened_once() -> None:
    motion, frames = Motion(), np.zeros((4, 8, 9, 3), np.uint8)
    with pytest.raises(InputError, match="There is no video: choose it at the top"):
        motion.open()
    source = VideoSource("a", 4, None, frames)
    motion.set_source(source)
    video, flows = motion.open()
    assert motion.open() == (video, flows) and video.info.frame_count == 4
    motion.set_source(VideoSource("renamed", 4, None, frames))
    assert motion.open()[0] is video, "the same one, chosen again"
    for other in (
        VideoSource("a", 4, None, frames.copy()),
        VideoSource("a", 3, None, frames[:3]),
    ):
        motion.set_source(other)
        assert motion.open()[0] is not video
    motion.set_source(source)
    again = motion.open()[0]
    closed: list[int] = []
    again.close = lambda: closed.append(1)  # type: ignore[method-assign]
    assert motion.close() and closed == [1] and motion.close()
    assert motion.open()[0] is not again, "opened again on request"
    motion.set_source(None)
    with pytest.raises(InputError):
        motion.open()


def test_what_forms_hold_before_anybody_touches_them() -> None:
    assert asdict(SegmentInputs()) == {
        "video": None,
        "texts": (),
        "model": "tiny",
        "device": "auto",
        "start": 0,
        "stop": None,
        "steps": 1,
        "project": None,
        "memory": "auto",
        "look": "every frame",
        "every": 1,
        "cuts": True,
        "frame": 0,
    }
    assert asdict(ExportInputs()) == {
        "projects": (),
        "to": "",
        "split": "train",
        "format": "mevis",
        "overwrite": False,
        "arrays": (),
        "shares": "",
        "seed": 0,
        "quality": 95,
        "link": False,
        "licence": "",
        "date": "",
        "home": False,
        "name_as_sentence": False,
        "annotated_only": False,
    }
    inputs = ImproveInputs(("a",), "b")
    assert (inputs.model, inputs.minutes, inputs.max_steps) == ("auto", 20.0, 0)
    assert (NoVideo("x").axis, NoVideo("x").count) == (None, 1)


def test_what_is_counted_is_dropped_for_what_is_counted_next() -> None:
    waited: list[float] = []
    presenter = ImprovePresenter(
        lambda *_, **__: SimpleNamespace(wait=lambda timeout: waited.append(timeout) or True)
    )
    presenter.count(ImproveInputs(("a",), "x"))
    presenter.count(ImproveInputs(("b",), "x"))
    assert waited == [1.0] and presenter.job.phase is Phase.RUNNING
    assert presenter.close(2.0) and waited == [1.0, 2.0]


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    with MevisWriter(tmp_path / "empty"):
        pass
    with pytest.raises(DatasetError, match="lists no videos; there is nothing to show"):
        split_layers(tmp_path / "empty")
    with open_video(np.zeros((3, 4, 5, 3), np.uint8)) as video:
        shown = ShownVideo(video)
        with pytest.raises(ValueError, match="reading them makes a copy"):
            np.array(shown, copy=False)
        assert np.asarray(shown, np.float32).dtype == np.float32
