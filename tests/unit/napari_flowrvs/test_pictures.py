"""What is painted: curves, the strip and the bars, as commands to the painter, and their mouse.

Where a picture was changed on purpose: ``RENEW_PAGES=1`` writes anew what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSizeF, Qt
from qtpy.QtGui import (
    QColor,
    QHelpEvent,
    QImage,
    QPainter,
    QPen,
    QPolygonF,
    QStandardItemModel,
)
from qtpy.QtWidgets import (
    QApplication,
    QScrollBar,
    QStyleOptionViewItem,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from flowrvs.records import VideoInfo
from flowrvs.store import ObjectCounts
from flowrvs.training.background import TrainingState
from napari_flowrvs.compare import curve as compare_curve
from napari_flowrvs.compare.curve import CurveView
from napari_flowrvs.compare.presenter import Curve
from napari_flowrvs.desk import Desk
from napari_flowrvs.improve import curve as improve_curve
from napari_flowrvs.improve.curve import TrainingCurve
from napari_flowrvs.objects.tables import ProvenanceBar
from napari_flowrvs.projects import open_projects
from napari_flowrvs.strip import panel as strip_panel
from napari_flowrvs.strip.panel import ProvenanceStrip, place_strip
from napari_flowrvs.strip.presenter import StripPresenter
from tests.unit.napari_flowrvs.describe import same


class Recorder(QPainter):
    """Paints, and notes what it is told to paint, whatever the fonts of this machine are."""

    notes: list[str]

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self.notes.append("paint")


def _told(value: Any) -> str:
    if isinstance(value, QPointF | QPoint):
        return f"({value.x():g}, {value.y():g})"
    if isinstance(value, QRectF | QRect):
        return f"[{value.x():g}, {value.y():g}, {value.width():g}, {value.height():g}]"
    if isinstance(value, QPolygonF):
        return " ".join(_told(value.at(i)) for i in range(value.count()))
    if isinstance(value, QPen):
        return f"{_told(value.color())} {value.widthF():g} {value.style().name}"
    if isinstance(value, QColor):
        return value.name(QColor.NameFormat.HexArgb)
    if isinstance(value, QSizeF):
        return f"{round(value.width())} x {round(value.height())}"
    if isinstance(value, QImage):
        # As large as it is shown: a fine screen has more pixels for it.
        return f"image {_told(value.deviceIndependentSize())} of {value.pixelColor(0, 0).name()}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _noting(name: str) -> Callable[..., Any]:
    def note(self: Recorder, *arguments: Any) -> Any:
        self.notes.append(" ".join([name, *(_told(each) for each in arguments)]))
        return getattr(QPainter, name)(self, *arguments)

    return note


for _name in (
    *("drawLine", "drawText", "drawPolyline", "drawEllipse", "drawPolygon", "drawRect"),
    *("drawImage", "fillRect", "setPen", "setBrush", "setRenderHint", "end"),
):
    setattr(Recorder, _name, _noting(_name))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is painted from now on; pages paint with the recorder."""
    found: list[str] = []
    monkeypatch.setattr(Recorder, "notes", found, raising=False)
    for module in (compare_curve, improve_curve, strip_panel):
        monkeypatch.setattr(module, "QPainter", Recorder)
    return found


def dark(widget: QWidget) -> None:
    """Give a widget colours that are no theme's and no machine's."""
    palette = widget.palette()
    for role in (palette.ColorRole.WindowText, palette.ColorRole.Text):
        palette.setColor(role, QColor(240, 241, 242))
    widget.setPalette(palette)


def test_a_comparison_is_painted(qtbot: Any, notes: list[str]) -> None:
    view = CurveView()
    qtbot.addWidget(view)
    dark(view)
    view.resize(242, 140)  # 200 x 100 for the curves
    view.grab()
    nan = np.nan
    j, f = np.array([0.0, 0.5, nan, 1.0, nan, nan]), np.array([0.25, 0.75, nan, nan, 0.1, 0.2])
    view.show_curve(Curve(("a", "b"), j, f))
    view.set_frame(3)
    view.grab()
    view.set_frame(9)  # of a longer video
    view.show_curve(Curve(("a", "b"), j[:1], f[:1]))
    view.grab()
    same("CurveView", "\n".join(notes) + "\n")


def test_a_comparison_of_many_frames_keeps_its_extremes(qtbot: Any) -> None:
    view = CurveView()
    qtbot.addWidget(view)
    view.resize(142, 140)  # 100 pixels for 1000 frames
    j = np.tile([0.5, 0.4, 0.6, 0.5, 0.5], 200)
    j[[333, 777]] = 0.0, 1.0
    view.show_curve(Curve(("a", "b"), j, j))
    (line,) = view._lines(j)
    points = [(line.at(i).x(), line.at(i).y()) for i in range(line.count())]
    assert len(points) == 400, "the lowest and the highest of each half of a pixel"
    assert points == sorted(points) and points[0][0] == pytest.approx(34 + 100 / 999)
    assert min(points, key=lambda p: p[1])[0] == pytest.approx(34 + 100 * 777 / 999)
    assert max(points, key=lambda p: p[1])[0] == pytest.approx(34 + 100 * 333 / 999)
    assert sum(y == pytest.approx(120 - 100 * 0.6) for _, y in points) == 199
    (short,) = view._lines(j[:400])
    assert short.count() == 400, "four points a pixel are no reason to leave any out"


def test_the_mouse_and_the_keys_go_to_frames_of_a_comparison(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, chosen, tips = CurveView(), list[int](), list[str]()
    qtbot.addWidget(view)
    view.resize(242, 140)
    view.frame_chosen.connect(chosen.append)
    monkeypatch.setattr(QToolTip, "showText", lambda *a: tips.append(a[1]))

    def press(*keys: Any) -> list[int]:
        chosen.clear()
        for key in keys:
            qtbot.keyClick(view, key)
        return list(chosen)

    def rest(x: int) -> None:
        view.event(QHelpEvent(QEvent.Type.ToolTip, QPoint(x, 50), QPoint(0, 0)))

    keys, left = Qt.Key, Qt.MouseButton.LeftButton
    qtbot.mouseClick(view, left, pos=QPoint(100, 50))
    rest(100)
    assert press(keys.Key_Left, keys.Key_End) == [] and view.frame_at(100) is None and not tips
    ramp = np.linspace(0, 1, 11)
    view.show_curve(Curve(("a", "b"), ramp, 1 - ramp))
    assert view.accessibleDescription() == view.curve.text()
    assert press(keys.Key_Left, keys.Key_Right, keys.Key_Right, keys.Key_A) == [0, 1, 2]
    assert press(keys.Key_End, keys.Key_Right, keys.Key_Left, keys.Key_Home) == [10, 10, 9, 0]
    chosen.clear()
    qtbot.mousePress(view, left, pos=QPoint(34 + 59, 50))
    qtbot.mouseMove(view, QPoint(34 + 131, 50))
    qtbot.mouseMove(view, QPoint(600, 50))
    assert chosen[0] == 3 and chosen[-1] == 10 and view.frame == 10
    assert [view.frame_at(34 + x) for x in (-50, 9, 11, 200, 500)] == [0, 0, 1, 10, 10]
    rest(34 + 60)
    assert tips == ["frame 3: J 0.300, F 0.700"]
    view.show_curve(None)
    assert view.accessibleDescription() == "" and view.frame_at(100) is None


def test_a_training_is_painted(qtbot: Any, notes: list[str]) -> None:
    view = TrainingCurve()
    qtbot.addWidget(view)
    dark(view)
    view.resize(216, 124)  # 200 x 100 for the lines
    view.grab()
    scores = ((0, {"J&F": 0.2, "old J&F": 0.7}), (20, {"J&F": 0.5}))
    state = TrainingState(step=30, total=40, losses=((10, 1.0), (20, 0.1), (30, 0.01)))
    view.show_state(replace(state, scores=scores))
    view.grab()
    assert view.accessibleDescription() == "loss 0.01, J&F 0.500"
    view.show_state(replace(state, total=0, losses=((30, 0.0),), scores=scores[:1]))
    view.grab()
    assert view.text() == "loss 0, J&F 0.200, old J&F 0.700"
    told = [line for line in notes if not line.startswith("drawText")]
    texts = [line.rpartition("AlignVCenter ")[2] for line in notes if line.startswith("drawText")]
    same("TrainingCurve", "\n".join([*told, *texts]) + "\n")
    first = next(line for line in notes if line.startswith("drawText"))
    width = view.fontMetrics().horizontalAdvance("loss 0.01")
    assert first.startswith(f"drawText [8, 0, {width + 2}, 18] ")


class QtDims(QWidget):
    """Where a strip looks for the slider: napari's widget is known by this name."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = QScrollBar(Qt.Orientation.Horizontal, self)
        self.bar.setGeometry(60, 2, 220, 14)
        self.setFixedHeight(18)


@pytest.fixture
def shown_strip(qtbot: Any, tmp_path: Path) -> Iterator[Any]:
    """A strip of ten frames under a slider, in a window 300 pixels wide."""
    project = open_projects.ensure(tmp_path / "clip", VideoInfo(None, "array", 10, 6, 8))
    thing = project.add_prompt("the cat")[1]
    project.update_object(thing.id, color=(0.2, 0.4, 1.0))
    project.write_masks(thing.id, 2, np.ones((3, 6, 8), bool))
    desk, window = Desk(), QWidget()
    desk.frame_requested.connect(desk.set_frame)
    strip = ProvenanceStrip(StripPresenter(desk))
    layout = QVBoxLayout(window)
    layout.setContentsMargins(0, 0, 0, 0)
    qtbot.addWidget(window)
    assert not place_strip(strip, window) and strip.isHidden(), "there is no slider yet"
    sliders = QtDims()
    layout.addWidget(sliders)
    window.resize(300, 60)
    window.show()
    assert place_strip(strip, window) and layout.indexOf(strip) == 1
    assert strip.isHidden(), "there is no project yet"
    desk.set_project(project)
    assert strip.isVisible() and strip.sizeHint().height() == 30
    dark(strip)
    qtbot.waitUntil(lambda: strip.width() == 300)
    yield strip, desk, sliders
    del window


def test_a_strip_is_painted_below_the_groove(
    shown_strip: Any, qtbot: Any, notes: list[str]
) -> None:
    strip, desk, sliders = shown_strip
    left, width = strip.area()
    assert left >= 60 and 100 < width <= 220, "the groove lies between two arrows"
    strip.grab()  # what waits to be painted is
    notes.clear()

    def paint(left: int, width: int) -> None:
        strip._area = (left, width)
        strip.grab()

    paint(80, 200)
    desk.set_span(3, 6)
    desk.set_frame(9)
    paint(80, 200)
    paint(39, 200)  # no room for words
    strip.presenter.set_doubt(np.linspace(0, 1, 10, dtype=np.float32) ** 2)
    desk.set_object(None)
    paint(40, 20)  # two pixels a frame: a line, not a box
    desk.set_span(3, 4)
    palette = strip.palette()
    palette.setColor(palette.ColorRole.WindowText, QColor(30, 30, 30))
    strip.setPalette(palette)
    strip.presenter.set_doubt(None)
    paint(40, 5)
    lines = [line for line in notes if " 1 the" not in line]
    same("ProvenanceStrip", "\n".join(lines) + "\n")
    words = [line for line in notes if " 1 the" in line]
    assert len(words) == 2 and all(
        w.startswith("drawText [20, 12, 54, 18] 128 1 the") for w in words
    )
    sliders.bar.setGeometry(100, 2, 150, 14)
    QApplication.sendPostedEvents()
    strip._on_moved()
    sliders.setFixedHeight(20)
    qtbot.waitUntil(lambda: strip.area()[0] > left + 30)


def test_the_mouse_on_a_strip_goes_to_frames(
    shown_strip: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip, desk, _ = shown_strip
    tips: list[str] = []
    monkeypatch.setattr(QToolTip, "showText", lambda *a: tips.append(a[1]))
    left, width = strip.area()

    def at(frame: float) -> QPoint:
        return QPoint(round(left + width * (frame + 0.5) / 10), 20)

    button = Qt.MouseButton
    qtbot.mousePress(strip, button.LeftButton, pos=at(3))
    assert desk.frame == 3
    qtbot.mouseMove(strip, at(6))
    qtbot.waitUntil(lambda: desk.frame == 6)
    qtbot.mouseRelease(strip, button.LeftButton, pos=at(6))
    qtbot.mouseClick(strip, button.RightButton, pos=at(1))
    qtbot.mouseMove(strip, at(8))
    assert desk.frame == 6, "only the left button, and only while it is held"
    strip.event(QHelpEvent(QEvent.Type.ToolTip, at(2), QPoint(0, 0)))
    assert tips[0].startswith("frame 2: yours")
    strip.leave()
    assert strip.isHidden() and strip.parent() is None
    desk.set_frame(0)
    assert strip.isHidden(), "without sliders it would be a window of its own"


def test_counts_are_painted_in_the_colours_of_the_strip(
    monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    holder = QWidget()
    qtbot.addWidget(holder)
    notes: list[str] = []
    monkeypatch.setattr(Recorder, "notes", notes, raising=False)
    option, bar = QStyleOptionViewItem(), ProvenanceBar(holder)
    option.rect = QRect(10, 20, 106, 30)

    image, model = QImage(200, 60, QImage.Format.Format_RGB32), QStandardItemModel(1, 1)
    painter = Recorder(image)
    for counts in ((0, 50, 30, 20), (960, 38, 1, 1), (0, 1000, 1, 1), (10, 0, 0, 0)):
        empty, drawn, human, locked = counts
        value = ObjectCounts(
            present=1, first=0, last=0, empty=empty, model=drawn, human=human, locked=locked
        )
        model.setData(model.index(0, 0), value, Qt.ItemDataRole.UserRole)
        notes.append(f"counts {counts}")
        bar.paint(painter, option, model.index(0, 0))
    painter.end()
    same("ProvenanceBar", "\n".join(notes) + "\n")
