"""The picture of a comparison: J and F by frame, painted."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
)
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_flowrvs.compare.presenter import Curve

__all__ = ["CurveView"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 20, 20
# Apart for those who see no red or green, and apart in lightness on dark and on light.
_J, _F = QColor(230, 145, 20), QColor(60, 145, 230)


class CurveView(QWidget):
    """J and F by frame; a click or a drag goes to a frame, arrow keys too."""

    #: The user asks for a frame.
    frame_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumSize(120, 110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("J and F by frame")
        self.curve: Curve | None = None
        self.frame = 0

    def sizeHint(self) -> QSize:
        """Return a wide and low rectangle."""
        return QSize(280, 160)

    def show_curve(self, curve: Curve | None) -> None:
        """Show `curve`, or that there is none."""
        self.curve = curve
        self.setAccessibleDescription("" if curve is None else curve.text())
        self.update()

    def set_frame(self, frame: int) -> None:
        """Mark the frame that the viewer shows."""
        if frame != self.frame:
            self.frame = frame
            self.update()

    def frame_at(self, x: float) -> int | None:
        """Return the frame at a horizontal position, None without a curve."""
        if self.curve is None or not len(self.curve):
            return None
        area = self._area()
        last = len(self.curve) - 1
        share = (x - area.left()) / max(area.width(), 1.0)
        return min(last, max(0, round(share * last)))

    def _area(self) -> QRectF:
        width = max(1, self.width() - _LEFT - _RIGHT)
        return QRectF(_LEFT, _TOP, width, max(1, self.height() - _TOP - _BOTTOM))

    def _x(self, frame: float) -> float:
        area = self._area()
        last = max(1, len(self.curve) - 1) if self.curve is not None else 1
        return area.left() + area.width() * frame / last

    def _y(self, value: float) -> float:
        area = self._area()
        return area.bottom() - area.height() * value

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the axes, both curves and the frame that is shown."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().windowText().color()
        faint = QColor(ink)
        faint.setAlpha(60)
        area = self._area()
        font = painter.font()
        font.setPointSizeF(max(7.0, font.pointSizeF() * 0.85))
        painter.setFont(font)
        for value in (0.0, 0.5, 1.0):
            y = self._y(value)
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(ink)
            place = QRectF(0, y - 8, _LEFT - 6, 16)
            flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(place, int(flags), f"{value:g}")
        curve = self.curve
        if curve is None or not len(curve):
            painter.drawText(area, int(Qt.AlignmentFlag.AlignCenter), "choose two layers")
            painter.end()
            return
        last = len(curve) - 1
        below = area.bottom() + 3
        painter.drawText(QRectF(area.left(), below, 60, 16), 0, "0")
        right = QRectF(area.right() - 60, below, 60, 16)
        painter.drawText(right, int(Qt.AlignmentFlag.AlignRight), str(last))
        for values, color in ((curve.f, _F), (curve.j, _J)):
            painter.setPen(QPen(color, 1.8))
            for line in self._lines(values):
                if line.count() == 1:
                    painter.setBrush(color)
                    painter.drawEllipse(line.at(0), 2.0, 2.0)
                else:
                    painter.drawPolyline(line)
        x = self._x(min(self.frame, last))
        painter.setPen(QPen(ink, 1, Qt.PenStyle.DashLine))
        painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        self._legend(painter, ink, area)
        if self.hasFocus():
            painter.setPen(QPen(ink, 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def _legend(self, painter: QPainter, ink: QColor, area: QRectF) -> None:
        curve = self.curve
        assert curve is not None
        t = min(self.frame, len(curve) - 1)
        at = area.left()
        for name, values, color in (("J", curve.j, _J), ("F", curve.f, _F)):
            value = values[t]
            text = f"{name} {value:.3f}" if math.isfinite(value) else f"{name} -"
            painter.setPen(QPen(color, 3))
            painter.drawLine(QPointF(at, 9), QPointF(at + 12, 9))
            painter.setPen(ink)
            painter.drawText(QPointF(at + 16, 13), text)
            at += 74
        painter.drawText(QPointF(at, 13), f"frame {t}")

    def _lines(self, values: npt.NDArray[np.float64]) -> list[QPolygonF]:
        """Return runs of known values; of many frames a pixel, the lowest and the highest."""
        width = max(1, int(self._area().width()))
        known = np.flatnonzero(np.isfinite(values))
        if len(known) > 4 * width:
            # An hour has 100 000 frames: two points a pixel show the same and paint at once.
            groups = np.array_split(known, 2 * width)
            picks = [g[[values[g].argmin(), values[g].argmax()]] for g in groups if len(g)]
            known = np.unique(np.concatenate(picks))
            runs = [known]
        else:
            runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
        return [
            QPolygonF([QPointF(self._x(int(t)), self._y(float(values[t]))) for t in run])
            for run in runs
            if len(run)
        ]

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to the frame under the mouse."""
        self._choose(self.frame_at(event.position().x()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow a drag."""
        self._choose(self.frame_at(event.position().x()))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Step with the arrows; Home and End go to the ends."""
        last = len(self.curve) - 1 if self.curve is not None else 0
        moves = {
            Qt.Key.Key_Left: self.frame - 1,
            Qt.Key.Key_Right: self.frame + 1,
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: last,
        }
        target = moves.get(Qt.Key(event.key()))
        if target is None or self.curve is None:
            super().keyPressEvent(event)
            return
        self._choose(min(last, max(0, target)))

    def _choose(self, frame: int | None) -> None:
        if frame is not None:
            self.set_frame(frame)
            self.frame_chosen.emit(frame)

    def event(self, event: QEvent) -> bool:
        """Say the values under the mouse."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            frame = self.frame_at(event.pos().x())
            if frame is not None and self.curve is not None:
                j, f = self.curve.j[frame], self.curve.f[frame]
                text = f"frame {frame}: J {j:.3f}, F {f:.3f}"
                QToolTip.showText(event.globalPos(), text, self)
            return True
        return bool(super().event(event))
