"""The strip under the time slider, painted from what its presenter knows."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QHelpEvent, QImage, QMouseEvent, QPainter, QPaintEvent, QPolygonF
from qtpy.QtWidgets import (
    QScrollBar,
    QSizePolicy,
    QStyle,
    QStyleOptionSlider,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_flowrvs.strip.presenter import StripPresenter
from napari_flowrvs.widgets.parts import later, plain

__all__ = ["ProvenanceStrip", "place_strip"]

_CURVE = 16
_BAR = 10
_DEBOUNCE_MS = 80
_MOVED = (
    *(QEvent.Type.Resize, QEvent.Type.Move, QEvent.Type.LayoutRequest),
    *(QEvent.Type.Show, QEvent.Type.ParentChange, QEvent.Type.StyleChange),
)


class ProvenanceStrip(QWidget):
    """Who drew each frame of the chosen object, with the doubt drawn above it.

    A click, or a drag, goes to a frame.

    Parameters
    ----------
    presenter : StripPresenter
        What to paint.
    """

    def __init__(self, presenter: StripPresenter) -> None:
        super().__init__()
        self.presenter = presenter
        self.setObjectName("provenance-strip")
        self.setAccessibleName("Provenance of each frame")
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._sliders: QWidget | None = None
        self._area: tuple[int, int] | None = None
        self._image: QImage | None = None
        self._made: tuple[Any, ...] = ()
        # Strokes and jobs may change it a hundred times a second.
        presenter.changed.connect(later(self._redraw, _DEBOUNCE_MS, self))
        presenter.desk.frame_changed.connect(self._on_moved)
        presenter.desk.span_changed.connect(self._on_moved)
        presenter.desk.project_changed.connect(self._on_moved)
        self.hide()  # or a layout would show it

    def sizeHint(self) -> QSize:  # noqa: N802
        """As high as the curve and the bar."""
        return QSize(200, _CURVE + _BAR + 4)

    def _redraw(self) -> None:
        self._image = None
        self._on_moved()

    def _on_moved(self, _value: object = None) -> None:
        # Without sliders above it, it would be a window of its own.
        shown = self.presenter.desk.project is not None and self._sliders is not None
        if shown == self.isHidden():
            self.setVisible(shown)
        self.update()

    # -- geometry ------------------------------------------------------------------------

    def follow(self, sliders: QWidget) -> None:
        """Keep the frames below the groove of the topmost slider in `sliders`."""
        self._sliders = sliders
        sliders.installEventFilter(self)
        self._on_moved()

    def leave(self) -> None:
        """Follow no sliders any more, and go."""
        self._sliders = None
        self.hide()
        self.setParent(None)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Paint again when the sliders were moved or laid out."""
        if event.type() in _MOVED:
            self._area = None
            self.update()
        return False

    def area(self) -> tuple[int, int]:
        """Return where the frames begin, and their width, in pixels."""
        if self._area is None:
            self._area = self._measure()
        return self._area or (0, max(self.width(), 1))

    def _measure(self) -> tuple[int, int] | None:
        # napari makes new sliders when the number of axes changes.
        bars = [] if self._sliders is None else self._sliders.findChildren(QScrollBar)
        for bar in bars:
            if bar.isVisible() and bar.window() is self.window():
                option = QStyleOptionSlider()
                # Not `initStyleOption`, which is forbidden for what Python has not made.
                option.initFrom(bar)
                option.orientation, option.pageStep = bar.orientation(), bar.pageStep()
                option.minimum, option.maximum = bar.minimum(), bar.maximum()
                groove = bar.style().subControlRect(
                    QStyle.ComplexControl.CC_ScrollBar,
                    option,
                    QStyle.SubControl.SC_ScrollBarGroove,
                    bar,
                )
                corner = bar.mapTo(self.window(), groove.topLeft())
                return self.mapFrom(self.window(), corner).x(), max(groove.width(), 1)
        return None

    def _frame(self, event: QMouseEvent) -> int:
        left, width = self.area()
        return self.presenter.frame_at(event.position().x() - left, width)

    # -- the mouse -----------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Go to the frame below the pointer."""
        if event.button() == Qt.MouseButton.LeftButton:
            self.presenter.desk.go_to(self._frame(event))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Go along while dragging."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self.presenter.desk.go_to(self._frame(event))

    def event(self, event: QEvent) -> bool:
        """Say what is below a pointer that rests."""
        if event.type() in _MOVED:
            self._area = None
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            left, width = self.area()
            frame = self.presenter.frame_at(event.pos().x() - left, width)
            QToolTip.showText(event.globalPos(), plain(self.presenter.describe(frame)), self)
            return True
        return bool(super().event(event))

    # -- painting ------------------------------------------------------------------------

    def _picture(self, width: int, ratio: float, dark: bool) -> QImage:
        made = (width, ratio, dark)
        if self._image is None or made != self._made:
            columns = max(1, round(width * ratio))
            rows = max(1, round(_BAR * ratio))
            pixels = np.ascontiguousarray(self.presenter.picture(columns, rows, dark=dark))
            image = QImage(
                pixels.data, columns, rows, 3 * columns, QImage.Format.Format_RGB888
            ).copy()
            image.setDevicePixelRatio(ratio)
            self._image, self._made = image, made
        return self._image

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Paint the curve, the bar, the chosen range and the frame that is shown."""
        painter = QPainter(self)
        left, width = self.area()
        text = self.palette().color(self.foregroundRole())
        dark = text.lightness() > 127
        painter.drawImage(
            QPointF(left, _CURVE), self._picture(width, self.devicePixelRatioF(), dark)
        )
        self._paint_curve(painter, left, width, text)
        self._paint_span(painter, left, width, text)
        self._paint_frame(painter, left, width, text)
        self._paint_words(painter, left, text)
        painter.end()  # not when Python happens to collect it

    def _paint_curve(self, painter: QPainter, left: int, width: int, text: QColor) -> None:
        curve = self.presenter.curve(width)
        if curve is None:
            return
        curve = np.nan_to_num(curve).tolist()
        height = _CURVE - 3
        points = [QPointF(left, _CURVE)]
        # The root lifts small doubts above the line; the order is what counts.
        points += [QPointF(left + x + 0.5, _CURVE - height * y**0.5) for x, y in enumerate(curve)]
        points.append(QPointF(left + width, _CURVE))
        fill = QColor(text)
        fill.setAlpha(110)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(fill)
        painter.drawPolygon(QPolygonF(points))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)

    def _paint_span(self, painter: QPainter, left: int, width: int, text: QColor) -> None:
        desk = self.presenter.desk
        if not desk.span_chosen:
            return
        start, stop = desk.span
        begin = left + self.presenter.place_of(start, width)[0]
        end = left + self.presenter.place_of(stop - 1, width)[1]
        painter.fillRect(QRectF(begin, _CURVE + _BAR + 1, max(end - begin, 2), 2), text)
        for x in (begin, end - 1):
            painter.fillRect(QRectF(x, _CURVE + _BAR - 3, 1, 4), text)

    def _paint_frame(self, painter: QPainter, left: int, width: int, text: QColor) -> None:
        begin, end = self.presenter.place_of(self.presenter.desk.frame, width)
        middle = left + (begin + end) / 2
        painter.setPen(text)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        if end - begin >= 4:
            painter.drawRect(QRectF(left + begin, _CURVE - 1, end - begin - 1, _BAR + 1))
        else:
            painter.drawLine(QPointF(middle, 2), QPointF(middle, _CURVE + _BAR))
        painter.setBrush(text)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawPolygon(
            QPolygonF(
                [
                    QPointF(middle - 4, _CURVE - 7),
                    QPointF(middle + 4, _CURVE - 7),
                    QPointF(middle, _CURVE - 1),
                ]
            )
        )

    def _paint_words(self, painter: QPainter, left: int, text: QColor) -> None:
        """Name the object in the place left of the groove."""
        thing = self.presenter.desk.object
        if thing is None or left < 40:
            return
        red, green, blue = (round(255 * c) for c in thing.color)
        painter.fillRect(QRectF(6, _CURVE, _BAR, _BAR), QColor(red, green, blue))
        painter.setPen(text)
        area = QRectF(20, _CURVE - 4, left - 26, _BAR + 8)
        name = painter.fontMetrics().elidedText(
            f"{thing.id} {thing.name}", Qt.TextElideMode.ElideRight, int(area.width())
        )
        painter.drawText(area, int(Qt.AlignmentFlag.AlignVCenter), name)


def place_strip(strip: ProvenanceStrip, window: QWidget) -> bool:
    """Put `strip` under the time slider of a napari window; False when there is no slider.

    Only Qt's own interface is used: napari has no place there to ask for.
    """
    for sliders in window.findChildren(QWidget):
        holder = sliders.parentWidget()
        if type(sliders).__name__ == "QtDims" and holder is not None:
            layout = holder.layout()
            if isinstance(layout, QVBoxLayout):
                layout.addWidget(strip)
                strip.follow(sliders)
                return True
    return False
