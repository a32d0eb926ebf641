"""The plugin as napari finds it: through its manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import npe2
import numpy as np
import numpy.typing as npt
import pytest
from qtpy.QtCore import Qt

from napari_flowrvs.layers import layers_of
from napari_flowrvs.presenters.segment import SegmentInputs, SegmentPresenter
from napari_flowrvs.source import VideoSource
from napari_flowrvs.widgets.dock import SegmentDock
from napari_flowrvs.widgets.export_dialog import ExportDialog
from tests.fixtures.segmenters import ThresholdSegmenter

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
    assert dock.source().path == str(image_folder)
    presenter = SegmentPresenter(load=load)
    presenter.prompted.connect(
        lambda project, prompts: dock.link.show_prompts(project, prompts, None)
    )
    presenter.run(SegmentInputs(dock.source(), ("red",)))
    path = tmp_path / "labels.tif"
    assert viewer.layers["red"].save(str(path), plugin="napari-flowrvs") == [str(path)]
    import tifffile

    assert np.array_equal(tifffile.imread(path) > 0, clip[..., 0] > 150)
    copy = tmp_path / "copy.flowrvs"
    assert viewer.layers.save(str(copy), plugin="napari-flowrvs") == [str(copy)]


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
        getattr(viewer, f"add_{kind}")(data, **meta)
    _action(viewer, "Export a MeViS split").trigger()
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


def test_an_export_without_a_project_says_what_to_do(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    dialog = ExportDialog(make_napari_viewer())
    qtbot.addWidget(dialog)
    dialog.run()
    assert "no project" in dialog.problem.line.text()
    assert "Traceback" in dialog.problem.details.toPlainText()
