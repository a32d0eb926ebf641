"""Getting a model that is not installed, from a stand-in of the hub."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from flowrvs.checkpoints import hub as client
from flowrvs.checkpoints import locate
from flowrvs.checkpoints.fetch import plan_fetch
from flowrvs.checkpoints.files import size_text
from flowrvs.progress import Progress
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Desk
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.find.panel import FindPanel
from napari_flowrvs.find.presenter import SegmentPresenter
from napari_flowrvs.models.panel import ModelPanel
from napari_flowrvs.models.presenter import ModelPresenter, Stage
from napari_flowrvs.recent import Recent
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands
from napari_flowrvs.widgets.parts import ProgressLine
from napari_flowrvs.worker import run_in_thread
from tests.fixtures.hub import HubStandIn, ask_here, serve_hub, small_repositories
from tests.fixtures.public_layout import PublicLayout, write_public_layout

DIT = "FlowRVS_dit_mevis.pth"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> PublicLayout:
    """A tiny random checkpoint as it is published."""
    return write_public_layout(tmp_path_factory.mktemp("public"), kind="raw", text_shards="1MB")


@pytest.fixture
def hub(
    layout: PublicLayout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubStandIn]:
    """A hub that this process asks, and an empty FLOWRVS_HOME."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(client, "WAITS", (0.01, 0.01))
    with serve_hub(small_repositories(layout.base, layout.dit, layout.vae)) as served:
        ask_here(served, monkeypatch, tmp_path)
        yield served


@pytest.fixture
def panel(qtbot: Any, hub: HubStandIn) -> Iterator[ModelPanel]:
    """The strip in a window of its own, 300 px wide, speaking of mevis."""
    strip = ModelPanel(ModelPresenter(run_in_thread))
    qtbot.addWidget(strip)
    strip.resize(300, 200)
    strip.choose("mevis")
    qtbot.waitUntil(strip.isVisible, timeout=60_000)
    yield strip
    strip.presenter.close()


def idle(qtbot: Any, strip: ModelPanel) -> None:
    qtbot.waitUntil(lambda: not strip.presenter.job.busy, timeout=60_000)


def says(qtbot: Any, strip: ModelPanel, text: str) -> None:
    """Wait until the line below the bar begins with `text`."""
    begins = strip.progress.status.text
    qtbot.waitUntil(lambda: begins().startswith(text), timeout=60_000)


def arrived(qtbot: Any, hub: HubStandIn, folder: Path) -> int:
    """Wait until all that comes before the gate is on the disk; return how much that is."""
    parts, size = (folder / "home").rglob, hub.before_gate(DIT)
    qtbot.waitUntil(
        lambda: any(p.stat().st_size == size for p in parts(f"{DIT}.*.part")), timeout=60_000
    )
    return size


def press(qtbot: Any, button: Any) -> None:
    """Press a button as somebody without a mouse does."""
    button.setFocus()
    qtbot.keyClick(button, Qt.Key.Key_Space)


def test_from_absent_to_ready_without_a_screen(hub: HubStandIn) -> None:
    presenter = ModelPresenter()
    events: list[Progress] = []
    names: list[str] = []
    presenter.progressed.connect(events.append)
    presenter.installed.connect(names.append)
    presenter.choose("tiny")
    assert presenter.stage is Stage.NOTHING
    presenter.choose(" mevis ")
    assert (presenter.stage, presenter.text) == (Stage.ABSENT, "mevis is not installed.")
    presenter.ask()
    assert presenter.stage is Stage.PLANNED
    plan = plan_fetch("mevis")
    assert plan.download > len(hub.files["xmz111/FlowRVS"][DIT])
    assert presenter.text.startswith(f"{size_text(plan.download)} to fetch; ")
    assert f"{size_text(plan.result)} afterwards" in presenter.text
    presenter.decline()
    assert presenter.stage is Stage.ABSENT and hub.gets(DIT) == []
    stopped: list[int] = []
    presenter.installed.connect(lambda _name: presenter.job.cancel())
    presenter.job.cancelled.connect(lambda: stopped.append(1))
    presenter.fetch()
    assert not stopped, "it came too late"
    assert names == ["mevis"] and locate("mevis").is_dir()
    assert (presenter.stage, presenter.text) == (Stage.READY, "mevis is ready.")
    counted = [event for event in events if event.total]
    assert all(0 <= event.done <= event.total == 1000 for event in counted)
    assert any(event.message.startswith(f"Fetching {DIT} (") for event in counted)
    presenter.choose("tiny")
    assert presenter.stage is Stage.NOTHING


def test_the_keyboard_gets_stops_and_goes_on(
    qtbot: Any, hub: HubStandIn, panel: ModelPanel, tmp_path: Path
) -> None:
    assert panel.go.text() == "&Get mevis…" and not panel.stop.isVisible()
    press(qtbot, panel.go)
    idle(qtbot, panel)
    assert panel.presenter.stage is Stage.PLANNED
    assert "to fetch" in panel.line.text() and panel.go.text() == "&Get it"
    assert hub.gets(DIT) == []

    gate = hub.gates[DIT] = threading.Event()
    press(qtbot, panel.go)
    says(qtbot, panel, f"Fetching {DIT}")
    qtbot.waitUntil(lambda: "left" in panel.progress.bar.format(), timeout=60_000)
    assert panel.progress.bar.isVisible() and not panel.go.isVisible()
    assert panel.focusWidget() is panel.stop
    have = arrived(qtbot, hub, tmp_path)
    press(qtbot, panel.stop)
    idle(qtbot, panel)
    assert panel.progress.status.text().startswith("Stopped. What has arrived is kept")
    assert "of it are here" in panel.line.text()
    assert panel.go.isVisible() and panel.focusWidget() is panel.go
    part = next((tmp_path / "home").rglob(f"{DIT}.*.part"))
    hub.gates.clear()
    gate.set()
    time.sleep(0.2)
    assert part.stat().st_size == have, "nothing is written after the stop"

    press(qtbot, panel.go)
    idle(qtbot, panel)
    press(qtbot, panel.go)
    idle(qtbot, panel)
    assert panel.line.text() == "mevis is ready."
    assert not panel.go.isVisible() and not panel.stop.isVisible() and panel.problem.isHidden()
    assert [a.begins for a in hub.gets(DIT)] == [0, have] and have > 0
    panel.choose("tiny")
    assert not panel.isVisible()


def test_a_disk_that_is_too_small_is_told_before_the_question(
    qtbot: Any, hub: HubStandIn, panel: ModelPanel
) -> None:
    hub.claims[DIT] = 10**16
    panel.go.click()
    idle(qtbot, panel)
    assert panel.presenter.stage is Stage.ABSENT
    assert "needs 20000000.2 GB" in panel.problem.line.text()
    assert panel.problem.isVisible() and hub.gets(DIT) == []


def test_a_hub_that_fails_is_one_line_and_get_is_offered_again(
    qtbot: Any, hub: HubStandIn, panel: ModelPanel
) -> None:
    panel.go.click()
    idle(qtbot, panel)
    hub.refusals["/storage/"] = [(500, {})] * 20
    panel.go.click()
    idle(qtbot, panel)
    assert "(error 500): run again later to go on" in panel.problem.line.text()
    assert panel.go.isVisible() and panel.go.isEnabled()
    panel.go.click()
    assert not panel.problem.isVisible()
    idle(qtbot, panel)


def test_another_choice_waits_until_the_fetch_has_ended(
    qtbot: Any, hub: HubStandIn, panel: ModelPanel
) -> None:
    gate = hub.gates[DIT] = threading.Event()
    panel.go.click()
    idle(qtbot, panel)
    panel.go.click()
    says(qtbot, panel, f"Fetching {DIT}")
    panel.choose("tiny")
    assert panel.isVisible() and panel.stop.isVisible()
    gate.set()
    idle(qtbot, panel)
    assert not panel.isVisible() and locate("mevis").is_dir()


def test_the_list_says_what_is_not_installed(qtbot: Any, hub: HubStandIn, tmp_path: Path) -> None:
    recent, viewer, desk = Recent(tmp_path / "memory.json"), ViewerModel(), Desk()
    link = ViewerLink(viewer, desk, Bridge(desk), lambda back: None)
    page = FindPanel(
        SegmentPresenter(), ModelPresenter(), recent, Commands(viewer), ProgressLine(), link
    )
    qtbot.addWidget(page)
    page.show()
    model = page.options.model
    shown = [
        model.itemDelegate().displayText(model.itemText(i), model.locale())
        for i in range(model.count())
    ]
    assert shown == ["tiny", "mevis (not installed)"]
    assert not page.models.isVisible()
    model.setCurrentText("mevis")
    assert page.models.isVisible()
    model.setEditText("me")
    assert not page.models.isVisible()


def test_closing_the_dock_stops_a_fetch(
    make_napari_viewer: Callable[..., Any], qtbot: Any, hub: HubStandIn, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    dock = SegmentDock(viewer, recent=Recent(tmp_path / "memory.json"))
    viewer.window.add_dock_widget(dock, name="Segment")
    strip = dock.find.models
    dock.find.options.model.setCurrentText("mevis")
    hub.gates[DIT] = threading.Event()
    strip.go.click()
    idle(qtbot, strip)
    strip.go.click()
    says(qtbot, strip, f"Fetching {DIT}")
    arrived(qtbot, hub, tmp_path)
    dock.shut_down()
    assert not strip.presenter.job.busy
    assert not [t for t in threading.enumerate() if t.name == "flowrvs"]
    assert list((tmp_path / "home").rglob(f"{DIT}.*.part"))
