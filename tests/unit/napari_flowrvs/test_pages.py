"""Every page and form as it is put together: names, tips, limits, layout.

What they do is tested elsewhere. Where a page was changed on purpose, write anew what is compared:
``RENEW_PAGES=1 pytest tests/unit/napari_flowrvs/test_pages.py``, and read the difference.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy import API_NAME
from qtpy.QtWidgets import QStyle, QWidget

from flowrvs.records import VideoInfo
from napari_flowrvs.compare.panel import ComparePanel
from napari_flowrvs.export.panel import ExportDialog
from napari_flowrvs.importing.panel import ImportDialog
from napari_flowrvs.improve.panel import ImprovePanel
from napari_flowrvs.projects import open_projects
from napari_flowrvs.widgets.keys import KeysDialog
from napari_flowrvs.widgets.parts import Problem, ProgressLine, Wrapped, rule, tool_button
from tests.unit.napari_flowrvs.conftest import MakeDock
from tests.unit.napari_flowrvs.describe import describe, same


@pytest.fixture(autouse=True)
def _written_down_with(qapp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No models of other tests; the style that gives margins and spacings where no page does."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    metric, style = QStyle.PixelMetric, qapp.style()
    usual = (metric.PM_LayoutLeftMargin, metric.PM_LayoutHorizontalSpacing)
    found = [API_NAME, style.name(), *(style.pixelMetric(each) for each in usual)]
    if found != ["PyQt6", "fusion", 9, 6]:
        pytest.skip("written down with PyQt6 and its style Fusion, at 96 dots an inch")


def keys(_viewer: Any) -> KeysDialog:
    return KeysDialog(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [ComparePanel, ImprovePanel, ImportDialog, ExportDialog, keys])
def test_a_form_is_put_together_as_it_was(make: Callable[[Any], Any], qtbot: Any) -> None:
    form = make(ViewerModel())
    qtbot.addWidget(form)
    same(make.__name__, f"{form.size().width()} x {form.size().height()}\n{describe(form)}")


def test_small_parts_are_as_they_were(qtbot: Any) -> None:
    holder = QWidget()
    qtbot.addWidget(holder)
    parts = (Wrapped(), ProgressLine(), Problem(), rule(), tool_button("all", "Take all", list))
    for part in parts:
        part.setParent(holder)
    same("parts", "".join(describe(part) for part in parts))


def test_the_dock_is_put_together_as_it_was(make_dock: MakeDock, tmp_path: Path) -> None:
    _, dock = make_dock()
    empty = describe(dock)
    same("SegmentDock", empty + describe(dock.strip))
    path = tmp_path / "clip.flowrvs"
    project = open_projects.ensure(path, VideoInfo(None, "array", 10, 6, 8))
    for text in ("the cat", "a <b>dog</b> & its tail"):
        project.add_prompt(text)
    project.write_masks(1, 2, np.ones((3, 6, 8), bool))
    project.set_expression_objects("1", [1, 2])
    dock.session.desk.set_project(project)
    dock.session.objects.choose_expression("1")
    dock.review.refresh()
    # With a project: what is other than without one.
    lines = difflib.unified_diff(empty.splitlines(), describe(dock).splitlines(), n=0)
    told = [line for line in lines if line[:2] not in ("--", "++", "@@")]
    dock.objects.menu.aboutToShow.emit()
    told += describe(dock.objects.menu).splitlines()
    same("SegmentDock-project", "\n".join(told).replace(str(tmp_path), "…") + "\n")
