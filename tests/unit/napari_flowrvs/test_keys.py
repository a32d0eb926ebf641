"""Keys, the row of buttons, the strip and the outlines, in a viewer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_model.types import KeyBinding
from napari._app_model import get_app_model
from napari.components import ViewerModel
from napari.layers import Labels
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QLabel

from flowrvs.store import Project
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.layers import layers_of
from napari_flowrvs.projects import open_projects
from napari_flowrvs.recent import Recent
from napari_flowrvs.widgets import keys
from napari_flowrvs.widgets.keys import KEYS, KeysDialog, key_of
from tests.fixtures.segmenters import ThresholdSegmenter

Load = Callable[[str, str], ThresholdSegmenter]
Opened = tuple[Any, SegmentDock, Project]


#: Of the outlines on the frame before.
SKY = (87, 181, 232)


@pytest.fixture
def opened(
    make_napari_viewer: Callable[..., Any], load: Load, image_folder: Path, tmp_path: Path
) -> Iterator[Opened]:
    """A shown viewer with the dock and a project: 1 is the red square, 2 the green one."""
    folder = image_folder.with_name("squares.flowrvs")
    (data, _, _), *_ = layers_of(image_folder)
    clip = np.asarray(data)
    from flowrvs.video import open_video

    with open_video(image_folder) as video:
        project = open_projects.ensure(folder, video.info)
    for text, channel in (("red", 0), ("green", 1)):
        _, one = project.add_prompt(text)
        project.write_model(one.layer, one.id, 2, clip[2:20, ..., channel] > 150)
    viewer = make_napari_viewer(show=True)
    dock = SegmentDock(viewer, load=load, recent=Recent(tmp_path / "memory.json"))
    viewer.window.add_dock_widget(dock, name="Segment")
    for layer in layers_of(folder):
        dock.link.add(layer)
    viewer.layers.selection.active = viewer.layers["red"]
    yield viewer, dock, project
    dock.shut_down()


def press(qtbot: Any, viewer: Any, key: Qt.Key, shift: bool = False, alt: bool = False) -> None:
    modifier = Qt.KeyboardModifier.NoModifier
    if shift:
        modifier |= Qt.KeyboardModifier.ShiftModifier
    if alt:
        modifier |= Qt.KeyboardModifier.AltModifier
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, key, modifier)


def test_the_viewer_and_the_desk_agree(opened: Opened, qtbot: Any) -> None:
    viewer, dock, project = opened
    assert dock.session.desk.project is project and dock.session.desk.object_id == 1
    viewer.dims.set_current_step(0, 7)
    assert dock.session.desk.frame == 7
    viewer.layers.selection.active = viewer.layers["green"]
    assert dock.session.desk.object_id == 2
    dock.session.desk.choose(1)
    assert viewer.layers.selection.active is viewer.layers["red"]
    dock.session.desk.go_to(3)
    assert viewer.dims.current_step[0] == 3
    viewer.layers.remove("red")
    viewer.layers.remove("green")
    assert dock.session.desk.project is None
    qtbot.wait(100)  # what is left is drawn


def test_keys_step_and_set_the_range(opened: Opened, qtbot: Any) -> None:
    viewer, dock, _ = opened
    viewer.dims.set_current_step(0, 5)
    press(qtbot, viewer, Qt.Key.Key_Right, shift=True)
    assert dock.session.desk.frame == 15
    press(qtbot, viewer, Qt.Key.Key_Right)
    assert dock.session.desk.frame == 16, "napari's own step"
    press(qtbot, viewer, Qt.Key.Key_I, shift=True)
    press(qtbot, viewer, Qt.Key.Key_Left, shift=True)
    press(qtbot, viewer, Qt.Key.Key_I)
    assert dock.session.desk.span == (6, 17)
    press(qtbot, viewer, Qt.Key.Key_Left, alt=True)
    assert dock.session.desk.frame == 2, "where the red square begins"
    press(qtbot, viewer, Qt.Key.Key_Right, alt=True)
    assert dock.session.desk.frame == 19


def test_keys_work_while_the_dock_has_the_focus(opened: Opened, qtbot: Any) -> None:
    viewer, dock, _ = opened
    viewer.dims.set_current_step(0, 4)
    dock.tabs.setCurrentWidget(dock.objects)
    for widget in (
        dock.footer.transport.buttons["play"],
        dock.objects.objects,
        dock.find.run_button,
    ):
        dock.session.desk.set_span(None, None)
        widget.setFocus()
        qtbot.keyClick(widget, Qt.Key.Key_I)
        assert dock.session.desk.span == (4, 24)
    qtbot.keyClick(dock.objects.objects, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    assert dock.session.desk.frame == 14


def test_a_key_that_the_user_chose_is_not_bound_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: dict[str, str] = {}
    monkeypatch.setattr(keys, "_registered", set())
    monkeypatch.setattr(keys.action_manager, "register_action", lambda *arguments: None)
    monkeypatch.setattr(
        keys.action_manager, "bind_shortcut", lambda name, key: bound.update({name: str(key)})
    )
    chosen = {"napari-flowrvs:forward": ["Alt+J"], "napari-flowrvs:back": []}
    monkeypatch.setattr(get_settings().shortcuts, "shortcuts", chosen)
    keys._register()
    assert not {"napari-flowrvs:forward", "napari-flowrvs:back"} & set(bound)
    assert bound["napari-flowrvs:next"] == "N" and len(bound) == sum(map(len, KEYS.values())) - 2


def test_napari_knows_the_actions_and_lets_the_user_change_them(opened: Opened, qtbot: Any) -> None:
    viewer, dock, _ = opened
    ids = [f"napari-flowrvs:{each.id}" for group in KEYS.values() for each in group]
    known = action_manager._actions
    assert all(known[name].description.startswith("FlowRVS: ") for name in ids)
    letters = [each.key for group in KEYS.values() for each in group]
    assert len(letters) == len(set(letters))
    # Neither the viewer, nor a labels layer, nor a menu of napari hears one of them first.
    taken = {str(key) for key in (*viewer.keymap, *Labels.class_keymap)}
    app = get_app_model()
    taken |= {str(each.keybinding) for each in app.keybindings}
    mine = {str(KeyBinding.from_str(key)) for key in letters}
    bound = {str(key) for key in ViewerModel.class_keymap}
    assert mine <= bound
    # These mean the same in a labels layer of a project, and work where another one is active.
    assert mine & taken == {"Ctrl+Z", "Ctrl+Shift+Z", "Escape"}
    shortcuts = get_settings().shortcuts
    before = dict(shortcuts.shortcuts)
    try:
        # What the page Shortcuts of the preferences does.
        action_manager.unbind_shortcut("napari-flowrvs:forward")
        action_manager.bind_shortcut("napari-flowrvs:forward", KeyBinding.from_str("Alt+J"))
        shortcuts.shortcuts = before | {"napari-flowrvs:forward": ["Alt+J"]}
        assert key_of("forward") == "Alt+J"
        viewer.dims.set_current_step(0, 0)
        press(qtbot, viewer, Qt.Key.Key_Right, shift=True)
        assert dock.session.desk.frame == 0
        canvas = viewer.window._qt_viewer.canvas.native
        qtbot.keyClick(canvas, Qt.Key.Key_J, Qt.KeyboardModifier.AltModifier)
        assert dock.session.desk.frame == 10
    finally:
        shortcuts.shortcuts = before
        action_manager.unbind_shortcut("napari-flowrvs:forward")
        action_manager.bind_shortcut("napari-flowrvs:forward", KeyBinding.from_str("Shift+Right"))


def test_all_keys_are_listed(opened: Opened, qtbot: Any) -> None:
    _, dock, _ = opened
    dialog = KeysDialog(dock)
    qtbot.addWidget(dialog)
    shown = {label.text() for label in dialog.findChildren(QLabel)}
    for shortcuts in KEYS.values():
        assert {each.text for each in shortcuts} | {each.key for each in shortcuts} <= shown


def test_playing_moves_on_and_a_key_stops_it(opened: Opened, qtbot: Any) -> None:
    viewer, dock, _ = opened
    viewer.dims.set_current_step(0, 0)
    press(qtbot, viewer, Qt.Key.Key_K)
    assert dock.footer.transport.player.playing
    qtbot.waitUntil(lambda: dock.session.desk.frame >= 3, timeout=5_000)
    press(qtbot, viewer, Qt.Key.Key_K)
    stopped = dock.session.desk.frame
    qtbot.wait(250)
    assert (
        dock.session.desk.frame == stopped and not dock.footer.transport.buttons["play"].isChecked()
    )


def test_the_strip_lies_below_the_slider_and_goes_to_a_frame(opened: Opened, qtbot: Any) -> None:
    viewer, dock, project = opened
    strip = dock.strip
    qtbot.waitUntil(strip.isVisible, timeout=5_000)
    left, width = strip.area()
    assert left > 20 and width > 100
    for frame in (0, 11, 23):
        x = left + (frame + 0.5) * width / 24
        qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(round(x), 20))
        assert dock.session.desk.frame == viewer.dims.current_step[0] == frame
    picture = strip.grab().toImage()
    y = 20

    def color(frame: int) -> tuple[int, int, int]:
        found = picture.pixelColor(round(left + (frame + 0.5) * width / 24), y)
        return found.red(), found.green(), found.blue()

    assert color(5) == (0, 114, 178) and color(21) != color(5)
    viewer.dims.set_current_step(0, 12)
    viewer.layers["red"].paint((12, 30, 30), 1)

    def orange() -> bool:
        nonlocal picture
        picture = strip.grab().toImage()
        return color(12) == (230, 159, 0)

    qtbot.waitUntil(orange, timeout=10_000)


def test_painting_does_not_wait_for_the_panels(opened: Opened, qtbot: Any) -> None:
    """What a stamp costs with the panels listening, against the same stamp without them."""
    import time

    viewer, dock, _ = opened
    layer = viewer.layers["red"]
    layer.brush_size = 6
    viewer.dims.set_current_step(0, 12)

    def stamps() -> float:
        times = []
        for i in range(60):
            begin = time.thread_time()
            layer.paint((12, 8 + i % 20, 10 + i % 37), i % 2)
            times.append(time.thread_time() - begin)
        return float(np.median(times))

    listening = stamps()
    layer.events.labels_update.disconnect(dock.link._on_painted)
    alone = stamps()
    layer.events.labels_update.connect(dock.link._on_painted)
    assert listening - alone < 0.001


def test_the_onion_skin_shows_the_neighbours(opened: Opened, qtbot: Any) -> None:
    viewer, dock, _ = opened
    viewer.dims.set_current_step(0, 10)
    press(qtbot, viewer, Qt.Key.Key_G)
    onion = dock.footer.transport.onion
    assert dock.footer.transport.buttons["onion"].isChecked() and onion.overlay.shown
    assert viewer.layers.selection.active is viewer.layers["red"], "painting goes on"
    picture = viewer.screenshot(flash=False)[..., :3]
    assert (picture == SKY).all(axis=-1).sum() > 100, "it is seen"
    viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: not onion.overlay.shown)
    viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: onion.overlay.shown)
    frame = onion.overlay.data.frame(10)
    assert frame[10, 9] == 1 and frame[10, 20] == 2 and not frame[30, 45]
    viewer.layers.selection.active = viewer.layers["green"]
    frame = onion.overlay.data.frame(10)
    assert frame[30, 40] == 2 and not frame[10, 9]
    press(qtbot, viewer, Qt.Key.Key_G)
    assert not onion.overlay.shown and len(viewer.layers) == 3
    assert not (viewer.screenshot(flash=False)[..., :3] == SKY).all(axis=-1).any()
    press(qtbot, viewer, Qt.Key.Key_G)
    dock.session.desk.set_project(None)
    assert not onion.overlay.shown


def test_closing_the_dock_takes_the_strip_and_the_keys_along(opened: Opened, qtbot: Any) -> None:
    viewer, dock, _ = opened
    press(qtbot, viewer, Qt.Key.Key_G)
    strip = dock.strip
    viewer.window.remove_dock_widget(dock)
    assert strip.parent() is None and not dock.footer.transport.onion.on
    before = viewer.dims.current_step[0]
    press(qtbot, viewer, Qt.Key.Key_Left, shift=True)
    assert viewer.dims.current_step[0] == before
