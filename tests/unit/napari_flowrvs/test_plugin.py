"""The plugin as napari finds it: through its manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import npe2
import numpy as np
import numpy.typing as npt
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtCore import Qt

from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.export.panel import ExportDialog
from napari_flowrvs.find.presenter import SegmentInputs, SegmentPresenter
from napari_flowrvs.layers import layers_of
from napari_flowrvs.project_labels import ProjectLabels, make_layer
from napari_flowrvs.source import VideoSource
from tests.fixtures.segmenters import ThresholdSegmenter
from tests.unit.napari_flowrvs.conftest import finish

Clip = npt.NDArray[np.uint8]
Load = Callable[[str, str], ThresholdSegmenter]


@pytest.fixture
def manifest(root: Path) -> npe2.PluginManifest:
    return npe2.PluginManifest.from_file(root / "napari_flowrvs" / "napari.yaml")


def test_the_link_at_the_top_is_the_manifest(root: Path) -> None:
    assert (root / "napari.yaml").resolve() == root / "napari_flowrvs" / "napari.yaml"


def test_every_command_names_something_that_can_be_called(manifest: npe2.PluginManifest) -> None:
    manifest.validate_imports()
    used = [c.command for c in manifest.contributions.readers + manifest.contributions.writers]
    used += [w.command for w in manifest.contributions.widgets]
    used += [item.command for items in manifest.contributions.menus.values() for item in items]
    known = {command.id for command in manifest.contributions.commands}
    assert set(used) <= known


def test_napari_opens_what_the_plugin_reads(
    make_napari_viewer: Callable[..., Any], image_folder: Path, clip: Clip
) -> None:
    viewer = make_napari_viewer()
    (layer,) = viewer.open(str(image_folder), plugin="napari-flowrvs")
    assert np.array_equal(np.asarray(layer.data[3]), clip[3])
    (sample,) = viewer.open_sample("napari-flowrvs", "shapes")
    assert sample.rgb and sample.data.shape == (33, 96, 160, 3)


def test_napari_docks_the_widget_and_saves_its_labels(
    make_napari_viewer: Callable[..., Any],
    image_folder: Path,
    clip: Clip,
    load: Load,
    tmp_path: Path,
) -> None:
    viewer = make_napari_viewer()
    viewer.open(str(image_folder), plugin="napari-flowrvs")
    _, dock = viewer.window.add_plugin_dock_widget("napari-flowrvs")
    assert isinstance(dock, SegmentDock)
    assert dock.head.source.path == str(image_folder)
    presenter = SegmentPresenter(load=load)
    presenter.prompted.connect(
        lambda project, prompts: dock.link.show_layer(project, prompts[0].layer_id, None)
    )
    presenter.run(SegmentInputs(dock.head.source, ("red",)))
    path = tmp_path / "labels.tif"
    assert viewer.layers["red"].save(str(path), plugin="napari-flowrvs") == [str(path)]
    import tifffile

    assert np.array_equal(tifffile.imread(path) > 0, clip[..., 0] > 150)
    copy = tmp_path / "copy.flowrvs"
    assert viewer.layers.save(str(copy), plugin="napari-flowrvs") == [str(copy)]


def test_the_dock_that_napari_makes_sees_layers_as_they_are(
    make_napari_viewer: Callable[..., Any], image_folder: Path, qtbot: Any
) -> None:
    """napari gives plugins a proxy of the viewer, whose layers are proxies of any class."""
    viewer = make_napari_viewer(show=True)
    viewer.open(str(image_folder), plugin="napari-flowrvs")
    _, dock = viewer.window.add_plugin_dock_widget("napari-flowrvs", "Segment a video by sentences")
    assert dock.link.viewer is viewer and dock.head.layer is viewer.layers[0]
    labels = viewer.add_labels(np.ones((24, 40, 60), np.uint8), name="a friend's")
    assert not dock.find.offers.take_button.isHidden()
    dock.find.offers.take_button.click()
    finish(qtbot, dock)
    assert not labels.visible and dock.session.desk.project is not None
    dock.footer.transport.toggle_onion()  # drawn on the canvas: napari warns of its proxies
    assert dock.footer.transport.onion.overlay.shown
    for name in ("Compare two layers", "Improve the model with my corrections"):
        _, page = viewer.window.add_plugin_dock_widget("napari-flowrvs", name)
        assert page.viewer is viewer


def test_napari_takes_a_projects_labels_for_its_own(
    make_napari_viewer: Callable[..., Any], image_folder: Path, load: Load, qtbot: Any
) -> None:
    presenter = SegmentPresenter(load=load)
    presenter.run(SegmentInputs(VideoSource("squares", 24, str(image_folder)), ("red",)))
    project = presenter.project
    assert project is not None
    viewer = make_napari_viewer(show=True)
    _, layer = viewer.open(str(project.path), plugin="napari-flowrvs")
    assert type(layer) is ProjectLabels and layer in viewer.layers
    assert layer.source.reader_plugin == "napari-flowrvs"
    window = viewer.window._qt_viewer
    assert type(window.controls.widgets[layer]).__name__ == "QtLabelsControls"
    assert type(window.canvas.layer_to_visual[layer]).__name__ == "VispyLabelsLayer"
    assert layer.as_layer_data_tuple()[2] == "labels"
    canvas = window.canvas.native
    viewer.layers.selection.active = layer
    before = np.array(layer.data[0])
    layer.mode, layer.brush_size = "paint", 6
    viewer.dims.set_current_step(0, 0)
    qtbot.keyClick(canvas, Qt.Key.Key_M)
    assert layer.selected_label == 2, "M: a new object"
    with layer.block_history():
        layer._draw(2, (0, 30, 10), (0, 30, 20))
    assert project.undo_name == "brush stroke on 'object 2', frame 0"
    assert [row.name for row in project.objects.values()] == ["red", "object 2"]
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert np.array_equal(layer.data[0], before), "Ctrl+Z is the project's"
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(canvas, Qt.Key.Key_Z, both)
    assert layer.data[0, 30, 15] == 2
    qtbot.keyClick(canvas, Qt.Key.Key_3)
    assert layer.mode == "polygon"
    _duplicate_layer(viewer.layers)
    copy = viewer.layers["red copy"]
    assert type(copy) is Labels and np.array_equal(copy.data[0], layer.data[0])
    copy.paint((0, 5, 5), 1)
    assert not layer.data[0, 5, 5] == copy.data[0, 5, 5], "a copy is no way into the project"


def _action(viewer: Any, text: str) -> Any:
    def walk(menu: Any) -> Any:
        for action in menu.actions():
            if action.menu() is not None:
                yield from walk(action.menu())
            yield action

    return next(a for a in walk(viewer.window.file_menu) if text in a.text())


def test_the_file_menu_exports(
    make_napari_viewer: Callable[..., Any],
    image_folder: Path,
    load: Load,
    qtbot: Any,
    tmp_path: Path,
) -> None:
    viewer = make_napari_viewer()
    presenter = SegmentPresenter(load=load)
    source = VideoSource("squares", 24, str(image_folder))
    presenter.run(SegmentInputs(source, ("red",)))
    for data, meta, kind in layers_of(image_folder.with_name("squares.flowrvs")):
        viewer.add_layer(make_layer((data, meta, kind)))
    _action(viewer, "Export a dataset").trigger()
    (dialog,) = viewer.window._qt_window.findChildren(ExportDialog)
    assert dialog.projects.count() == 1
    assert dialog.projects.item(0).text() == "squares.flowrvs"
    dialog.to.line_edit.value = str(tmp_path / "set")
    dialog.split.value = "valid_u"
    qtbot.keyClick(dialog.export_button, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: not dialog.presenter.job.busy, timeout=20_000)
    assert dialog.progress.status.text().startswith("Written: 1 video, 1 sentence, 1 object in")
    assert (tmp_path / "set" / "valid_u" / "mask_dict.json").is_file()
    viewer.layers["red"].paint((0, 30, 30), 1)
    dialog.run()
    qtbot.waitUntil(lambda: not dialog.presenter.job.busy, timeout=20_000)
    assert "valid_u" in dialog.problem.line.text(), "another split is not overwritten unasked"
    dialog.overwrite.value = True
    dialog.run()
    qtbot.waitUntil(lambda: not dialog.presenter.job.busy, timeout=20_000)
    assert dialog.problem.isHidden()
    qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    qtbot.waitUntil(
        lambda: not viewer.window._qt_window.findChildren(ExportDialog),
        timeout=5_000,
    )


def test_an_export_without_a_project_says_what_to_do(qtbot: Any) -> None:
    dialog = ExportDialog(ViewerModel())
    qtbot.addWidget(dialog)
    dialog.run()
    assert "no project" in dialog.problem.line.text()
    assert "Traceback" in dialog.problem.details.toPlainText()
