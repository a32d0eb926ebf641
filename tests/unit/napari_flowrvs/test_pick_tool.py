"""What the mouse means while the tool Pick is held, and what is drawn over the video; no window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from napari.components import ViewerModel
from vispy.scene import Node
from vispy.visuals.transforms import STTransform

from flowrvs.editing.pick import Mark
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.canvas import CanvasOverlay
from napari_flowrvs.desk import Desk
from napari_flowrvs.layers import label_layer
from napari_flowrvs.motion import Motion
from napari_flowrvs.pick.canvas import MarkTool
from napari_flowrvs.pick.panel import PickPanel
from napari_flowrvs.pick.presenter import PickPresenter, Target
from napari_flowrvs.projects import open_projects
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands
from tests.unit.napari_flowrvs.conftest import held


class Windowed(ViewerModel):
    """A viewer with what a window knows of nodes, and no window."""

    window: ClassVar[Any] = None


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Four frames of 20 x 30 with two objects."""
    made = open_projects.ensure(tmp_path / "clip.flowrvs", VideoInfo(None, "array", 4, 20, 30))
    for text in ("cat", "dog"):
        made.add_prompt(text)
    yield made
    open_projects.close(made)


@pytest.fixture
def link(project: Project) -> ViewerLink:
    """A viewer with the clip at twice its size, moved, and the labels of the project over it."""
    viewer, desk = Windowed(), Desk()
    link = ViewerLink(viewer, desk, Bridge(desk), lambda back: None)
    video = viewer.add_image(
        np.zeros((4, 20, 30), np.uint8), name="clip", scale=(1, 2, 2), translate=(0, 10, 0)
    )
    link.video = video
    for layer_id in project.layers:
        layer = link.add(label_layer(project, layer_id))
        layer.scale, layer.translate = video.scale, video.translate
    desk.set_project(project)
    viewer.layers.selection.active = video
    viewer.dims.set_current_step(0, 0)
    return link


@pytest.fixture
def tool(link: ViewerLink) -> Iterator[MarkTool]:
    presenter = PickPresenter(link.desk, Motion(), held)
    made = MarkTool(presenter, link, lambda action: (action(), True)[1])
    presenter.start()
    yield made
    made.close()


def drag(
    tool: MarkTool,
    *way: tuple[float, float],
    button: int = 1,
    keys: tuple[str, ...] = (),
    late: bool = False,
) -> None:
    """Press at the first (x, y) of the frame, move on, let go at the last; three pixels each."""

    def put(x: float, y: float) -> None:
        event.position = (0, 10 + 2 * (y - 0.5), 2 * (x - 0.5))
        event.pos = np.array([3 * x, 3 * y])

    viewer = tool._link.viewer
    event = SimpleNamespace(type="mouse_press", button=button, modifiers=keys)
    put(*way[0])
    (callback,) = listening(viewer.mouse_drag_callbacks, tool)
    steps = callback(viewer, event)
    if next(steps, "refused") == "refused":
        return
    event.type = "mouse_move"
    for place in way[1 : -1 if late else None]:
        put(*place)
        next(steps)
    event.type = "mouse_release"
    put(*way[-1])
    assert next(steps, "over") == "over"


def listening(callbacks: Any, tool: MarkTool) -> list[Any]:
    """Which of the viewer's callbacks are the tool's: napari has some of its own."""
    return [each for each in callbacks if getattr(each, "__self__", None) is tool]


HERE, NEAR, FAR, BACK = (5.25, 7.5), (6.25, 7.5), (15.0, 12.0), (6.5, 8.75)


@pytest.mark.parametrize(
    ("way", "how", "wanted"),
    [
        ((HERE,), {}, Mark.point(*HERE)),
        ((HERE, NEAR), {}, Mark.point(*HERE)),  # three canvas pixels are no drag
        ((HERE,), {"keys": ("Shift",)}, Mark.point(*HERE, False)),
        ((HERE,), {"button": 2}, Mark.point(*HERE, False)),
        ((HERE, NEAR, FAR), {}, Mark.box(*HERE, *FAR)),
        ((HERE, FAR, BACK), {}, Mark.box(*HERE, *BACK)),  # back to where a click would be
        ((HERE, FAR), {"late": True}, Mark.box(*HERE, *FAR)),
        ((HERE, NEAR, FAR), {"keys": ("Control",)}, Mark.scribble([HERE, NEAR, FAR])),
        ((HERE, NEAR, FAR), {"keys": ("Shift",)}, Mark.scribble([HERE, NEAR, FAR], False)),
        ((HERE, NEAR, FAR), {"button": 2}, Mark.scribble([HERE, NEAR, FAR], False)),
        (((-9.0, -9.0), (99.0, 99.0)), {}, Mark.box(0, 0, 29.999, 19.999)),
        ((HERE,), {"button": 3}, None),
    ],
)
def test_what_a_gesture_means(tool: MarkTool, way: Any, how: Any, wanted: Mark | None) -> None:
    drag(tool, *way, **how)
    marks = tool.presenter.marks
    if wanted is None:
        assert marks == ()
        return
    (mark,) = marks
    assert (mark.kind, mark.positive) == (wanted.kind, wanted.positive)
    np.testing.assert_allclose(mark.points, wanted.points, atol=1e-6)


def test_a_drag_is_a_scribble_where_that_was_chosen(tool: MarkTool) -> None:
    tool.scribbles = True
    drag(tool, HERE, FAR)
    drag(tool, HERE, FAR, keys=("Control",))
    assert [mark.kind for mark in tool.presenter.marks] == ["box", "scribble"]


def test_a_mark_is_taken_hold_of_where_it_is_near(tool: MarkTool) -> None:
    link, pick = tool._link, tool.presenter
    link.viewer.scene.camera.zoom = 2.0  # a pixel of the clip takes four of the canvas
    for place in ((5, 5), (9, 5), (9, 15)):
        pick.add(Mark.point(*place))
    drag(tool, (7.01, 5), (20, 11))  # eight canvas pixels from the second, the last of two
    assert [m.points[0] for m in pick.marks] == [(5, 5), (20, 11), (9, 15)]
    drag(tool, (5, 7.1), (20, 2))  # too far from the first
    assert [m.kind for m in pick.marks] == ["box", "point", "point", "point"]
    pick.remove(0)
    drag(tool, (9, 15), keys=("Alt",))
    assert [m.points[0] for m in pick.marks] == [(5, 5), (20, 11)]
    drag(tool, (2, 18), keys=("Alt",))
    assert len(pick.marks) == 3, "there is nothing to take away there"
    drag(tool, (2, 18), (8, 8), keys=("Control",))
    assert [m.kind for m in pick.marks] == ["point"] * 3 + ["scribble"], "moved with no key only"
    link.desk.set_frame(1)
    assert tool._touched(link.reference(), (5, 5)) is None, "they are of another frame"


def test_scissors_take_plain_clicks(tool: MarkTool, monkeypatch: pytest.MonkeyPatch) -> None:
    link, pick = tool._link, tool.presenter
    hovered: list[tuple[float, float]] = []
    monkeypatch.setattr(pick, "hover", lambda x, y: hovered.append((x, y)))
    viewer = link.viewer

    def hover() -> None:
        for callback in listening(viewer.mouse_move_callbacks, tool):
            callback(viewer, SimpleNamespace(position=(0, 10 + 2 * 3.5, 2 * 6.5)))

    tool.scissors = True
    hover()
    assert hovered == [], "there is no corner yet"
    drag(tool, HERE)
    assert pick.corners == (HERE,)
    hover()
    assert hovered == [(7, 4)]
    link.desk.set_frame(1)
    hover()
    link.desk.set_frame(0)
    viewer.dims.ndisplay = 3
    hover()
    drag(tool, HERE)
    assert len(hovered) == 1 and len(pick.corners) == 1, "there are no frames in 3D"
    viewer.dims.ndisplay = 2
    tool.scissors = False
    hover()
    assert len(hovered) == 1
    pick.discard()
    tool.scissors = True
    drag(tool, HERE, keys=("Shift",))
    drag(tool, FAR, button=2)
    assert [m.positive for m in pick.marks] == [False, False] and not pick.corners


def test_the_active_layer_does_not_paint_or_pan_meanwhile(tool: MarkTool) -> None:
    viewer, pick = tool._link.viewer, tool.presenter
    image = viewer.layers["clip"]
    cat, dog = (layer for layer in viewer.layers if layer is not image)
    assert not image.mouse_pan and len(listening(viewer.mouse_drag_callbacks, tool)) == 1
    cat.mode = "paint"
    viewer.layers.selection.active = cat
    assert image.mouse_pan and not cat.mouse_pan and cat.mode == "pan_zoom" and pick.active
    kept: list[str] = []
    for name in ("keep", "discard"):
        setattr(pick, name, lambda name=name: kept.append(name))
    keys = {str(key): call for key, call in cat.keymap.items()}
    keys["Enter"](cat)
    pick.add(Mark.point(3, 3))
    keys["Escape"](cat)
    assert kept == ["keep", "discard"] and pick.active
    pick._marks = ()
    keys["Escape"](cat)
    assert not pick.active and kept == ["keep", "discard"], "with no marks Esc puts it away"
    assert cat.mouse_pan and not {"Enter", "Escape"} & {str(key) for key in cat.keymap}
    for callbacks in (viewer.mouse_drag_callbacks, viewer.mouse_move_callbacks):
        assert listening(callbacks, tool) == []
    pick.start()
    cat.mode = "paint"  # choosing another tool puts this one away
    assert not pick.active and cat.mode == "paint" and not cat.mouse_pan
    pick.start()
    viewer.layers.selection.active = dog
    tool.close()
    assert not pick.active and dog.mouse_pan
    viewer.layers.selection.active = cat
    pick.start()
    viewer.layers.selection.active = dog
    assert dog.mouse_pan, "it is let go of"
    tool.close()


def test_the_page_shows_the_marks_and_mends_them(tool: MarkTool, qtbot: Any) -> None:
    pick, desk = tool.presenter, tool._link.desk
    commands, begun = Commands(tool._link.viewer), list[int]()
    asked: list[int] = []
    pick.prepare = lambda: asked.append(desk.frame)  # type: ignore[method-assign]
    panel = PickPanel(pick, tool, commands, lambda: begun.append(1))
    qtbot.addWidget(panel)

    def lines() -> list[str]:
        return [panel.list.item(i).text() for i in range(panel.list.count())]

    def buttons() -> tuple[bool, bool]:
        return panel.remove_button.isEnabled(), panel.back_button.isEnabled()

    assert lines() == [] and buttons() == (False, False)
    pick.add(Mark.point(3.2, 4.6))
    pick.add(Mark.point(8, 9, False))
    pick.add(Mark.scribble([(1, 2), (3, 4)]))
    pick.add(Mark.box(1, 2, 13, 14))
    assert lines() == [
        "box 1, 2 to 13, 14",
        "this: 3, 5",
        "not this: 8, 9",
        "this: scribble from 1, 2",
    ]
    assert panel.list.currentRow() == 0 and buttons() == (True, True)
    panel.list.setCurrentRow(3)
    panel.remove_button.click()
    assert len(lines()) == 3 and panel.list.currentRow() == 2
    panel.list.setCurrentRow(1)
    panel.remove_button.click()
    assert lines() == ["box 1, 2 to 13, 14", "not this: 8, 9"] and panel.list.currentRow() == 1
    panel.list.setCurrentRow(-1)
    panel.remove_button.click()
    assert len(lines()) == 2
    panel.back_button.click()
    panel.back_button.click()
    assert lines() == [] and buttons() == (False, False)
    panel.drag.setCurrentIndex(2)
    panel.drag.activated.emit(2)
    assert tool.scissors and not tool.scribbles
    pick.corner(3, 4)
    assert lines() == ["corner: 3, 4"] and buttons() == (False, True)
    pick.discard()
    panel.drag.activated.emit(1)
    assert tool.scribbles and not tool.scissors
    panel.target.setCurrentIndex(1)
    panel.target.activated.emit(1)
    assert pick.target is Target.NEW and panel.about.text() == "a new object"
    assert not panel.rule.isEnabled()
    pick.choose(target=Target.CHOSEN)
    desk.set_object(1)
    assert panel.about.text() == "object 1: cat" and panel.rule.isEnabled()
    assert panel.target.currentIndex() == 0
    panel.rule.setCurrentIndex(2)
    panel.rule.activated.emit(2)
    panel.inside.setChecked(True)
    assert (pick.rule, pick.inside_box) == ("subtract", True)
    pick.stop()
    pick.start()
    assert panel.pick_button.isChecked() and panel.pick_button.text().startswith("Picking: click")
    pick.stop()
    assert not panel.pick_button.isChecked() and panel.pick_button.text() == "Pick"
    panel.pick_button.click()
    assert begun == [1]
    for frame in (1, 2, 3):
        desk.set_frame(frame)
    assert asked == []
    qtbot.waitUntil(lambda: asked == [3])  # not of every frame that is passed
    desk.set_object(None)
    assert panel.about.text() == "no object is chosen"


# -- what is drawn over the video -----------------------------------------------------------------


class Numbers:
    """A number for every frame."""

    def frame(self, t: int) -> Any:
        return np.full((20, 30), t % 3, np.uint8)


def test_an_overlay_lies_where_its_layer_does(
    link: ViewerLink, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    viewer, desk = link.viewer, link.desk
    image = viewer.layers["clip"]
    cat, dog = (layer for layer in viewer.layers if layer is not image)
    scene = Node()
    nodes = {layer: Node(scene) for layer in (image, cat, dog)}
    for i, node in enumerate(nodes.values()):
        node.transform = STTransform(translate=(i, i, 0))
    shown = SimpleNamespace(
        canvas=SimpleNamespace(
            layer_to_visual={layer: SimpleNamespace(node=node) for layer, node in nodes.items()}
        )
    )
    monkeypatch.setattr(Windowed, "window", SimpleNamespace(_qt_viewer=shown))
    overlay = CanvasOverlay(link, [(0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 0, 0.5)])
    overlay.hide()
    overlay.refresh()
    assert not overlay.shown and overlay._node is None, "nothing was to be shown yet"
    overlay.show(Numbers(), None)
    node = overlay._node
    assert overlay.shown and node.transform is nodes[dog].transform, "where the marks lie"
    assert node.parent is scene and node.order == 100_000
    assert viewer.layers.selection.active is image
    np.testing.assert_array_equal(node._data, np.zeros((20, 30)))
    desk.set_frame(2)
    np.testing.assert_array_equal(node._data, np.full((20, 30), 2))
    colors = node.cmap[np.array([0, 0.5, 1])].rgba
    np.testing.assert_allclose(colors, [(0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 0, 0.5)], atol=1e-6)
    assert tuple(np.ravel(node.clim)) == (-0.5, 2.5) and node.interpolation == "nearest"
    overlay.show(Numbers(), 1)
    assert overlay._node is node and node.transform is nodes[cat].transform
    assert viewer.layers.selection.active is cat, "an image layer has keys of its own"
    overlay.show(Numbers(), 2)
    assert node.transform is nodes[dog].transform and viewer.layers.selection.active is cat
    for change in ({"ndisplay": 3}, {"order": (1, 0, 2)}):
        for name, value in change.items():
            before = getattr(viewer.dims, name)
            setattr(viewer.dims, name, value)
            qtbot.waitUntil(lambda: not overlay.shown)
            setattr(viewer.dims, name, before)
            qtbot.waitUntil(lambda: overlay.shown)
    del shown.canvas.layer_to_visual[dog]
    overlay.refresh()
    assert not overlay.shown, "its layer has gone"
    overlay.show(Numbers(), 1)
    assert overlay.shown
    monkeypatch.setattr(Windowed, "window", SimpleNamespace())  # it is being closed
    overlay.refresh()
    assert not overlay.shown
    monkeypatch.setattr(Windowed, "window", SimpleNamespace(_qt_viewer=shown))
    overlay.refresh()
    assert overlay.shown
    viewer.layers.remove(cat)
    overlay.refresh()
    assert overlay.shown and node.transform is nodes[image].transform, "where the video lies"
    overlay.hide()
    assert not overlay.shown and overlay.data is None
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    desk.set_frame(1)
    assert not overlay.shown and not link.waiting
    overlay.show(Numbers(), 2)
    overlay.close()
    assert node.parent is None and overlay.data is None
    overlay.data = Numbers()
    viewer.dims.ndisplay = 3
    desk.set_frame(0)
    assert not link.waiting and not overlay.shown, "it listens no more"
    overlay.close()
