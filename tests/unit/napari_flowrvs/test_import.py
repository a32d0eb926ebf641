"""A dataset's video is opened, corrected and written back from the window."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from flowrvs.data import MevisWriter
from flowrvs.errors import InputError
from napari_flowrvs.export.panel import ExportDialog
from napari_flowrvs.export.presenter import ExportInputs, ExportPresenter
from napari_flowrvs.importing.panel import ImportDialog
from napari_flowrvs.importing.presenter import ImportPresenter
from napari_flowrvs.projects import open_projects

Clip = Any


@pytest.fixture
def split(tmp_path: Path, clip: Clip) -> Path:
    """Two videos with two objects each."""
    folder = tmp_path / "set" / "valid_u"
    with MevisWriter(folder) as writer:
        for name in ("first", "second"):
            writer.add_video(
                name,
                clip if name == "first" else clip + np.uint8(3),
                objects={1: clip[..., 0] > 150, 2: clip[..., 1] > 150},
                expressions={"0": ("red", [1]), "1": ("both", [1, 2]), "2": ("none", [])},
            )
    return folder


def test_opening_twice_goes_on(split: Path) -> None:
    presenter = ImportPresenter()
    seen: list[Any] = []
    presenter.listed.connect(seen.append)
    presenter.opened.connect(seen.append)
    presenter.noted.connect(seen.append)
    presenter.list_videos(str(split))
    presenter.open(str(split), "second")
    presenter.open(str(split), "second")
    stopped: list[int] = []
    presenter.job.cancelled.connect(lambda: stopped.append(1))
    presenter.opened.connect(lambda _layers: presenter.job.cancel())
    presenter.open(str(split), "first")
    assert not stopped and len(seen) == 5, "a cancel that comes too late is none"
    assert seen[0] == {"first": 3, "second": 3}
    assert [kind for _, _, kind in seen[1]] == ["image", "labels"]
    assert "going on" in seen[2]
    homes = {layers[1][1]["metadata"]["flowrvs"]["project"] for layers in (seen[1], seen[3])}
    assert homes == {str(split.parent / "valid_u.projects" / "second.flowrvs")}
    with pytest.raises(InputError):
        presenter.open(str(split), "")
    with pytest.raises(InputError):
        presenter.list_videos(" ")


def test_corrected_in_the_window_and_written_back(
    make_napari_viewer: Callable[..., Any], qtbot: Any, split: Path
) -> None:
    before = json.loads((split / "mask_dict.json").read_text())
    viewer = make_napari_viewer()
    dialog = ImportDialog(viewer)
    qtbot.addWidget(dialog)
    dialog.folder.value = str(split)
    qtbot.waitUntil(lambda: dialog.videos.count() == 2, timeout=20_000)
    dialog.filter.setText("sec")
    assert [dialog.videos.item(i).isHidden() for i in range(2)] == [True, False]
    dialog.videos.setCurrentRow(1)
    qtbot.keyClick(dialog.open_button, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=20_000)
    qtbot.waitUntil(lambda: not dialog.presenter.job.busy, timeout=20_000)
    viewer.layers[1].paint((7, 2, 50), 1)
    export = ExportDialog(viewer)
    qtbot.addWidget(export)
    qtbot.waitUntil(lambda: export.table.table.rowCount() == 1, timeout=20_000)
    assert export.table.table.item(0, 1).text() == "second"
    assert export.table.table.item(0, 5).text() == "100%"
    qtbot.waitUntil(lambda: not export.home.native.isHidden(), timeout=20_000)
    export.home.value = True
    assert not export.to.enabled
    export.run()
    qtbot.waitUntil(lambda: not export.presenter.job.busy, timeout=20_000)
    assert "1 mask and 0 sentences changed" in export.progress.status.text()
    after = json.loads((split / "mask_dict.json").read_text())
    changed = [(k, i) for k in after for i in range(24) if after[k][i] != before[k][i]]
    assert changed == [("2", 7)]


def test_an_export_to_several_splits_is_previewed_and_checked(split: Path, tmp_path: Path) -> None:
    presenter = ImportPresenter()
    for name in ("first", "second"):
        presenter.open(str(split), name)
    folders = tuple(str(p) for p in sorted((split.parent / "valid_u.projects").glob("*.flowrvs")))
    project = open_projects.open(folders[0])
    project.add_expression("RED ", [1])
    project.add_object("never drawn", 1)
    project.add_expression("it", [max(project.objects)])
    inputs = ExportInputs(folders, str(tmp_path / "out"), shares="0.5,0.5", seed=1)
    export = ExportPresenter()
    seen: list[Any] = []
    for signal in (export.previewed, export.finished, export.checked):
        signal.connect(seen.append)
    export.preview(inputs)
    (preview,) = seen
    assert sorted(row.split for row in preview.rows) == ["train", "valid_u"]
    assert {f.code for f in preview.findings} == {
        "repeated-sentence",
        "loose-sentence",
        "unknown-sentence",
    }
    assert [row.without_target for row in preview.rows if row.video == "first"] == [1]
    export.run(inputs)
    written = {
        r.path.name: np.array([r.videos, r.objects]).tolist()
        for r in seen[1:]
        if hasattr(r, "path")
    }
    assert written == {"train": [1, 2], "valid_u": [1, 2]}
    for row in preview.rows:
        meta = json.loads((tmp_path / "out" / row.split / "meta_expressions.json").read_text())
        assert list(meta["videos"]) == [row.video]
    checked = [r for r in seen if hasattr(r, "findings") and r is not preview]
    assert {f.code for r in checked for f in r.findings} == {"repeated-sentence", "loose-sentence"}
    with pytest.raises(InputError, match="not understood"):
        export.run(ExportInputs(folders, str(tmp_path / "x"), shares="much"))
