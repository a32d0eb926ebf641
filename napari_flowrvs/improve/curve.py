"""The picture of a training: its loss, and J&F on held-out clips, painted."""

from __future__ import annotations

import math

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from flowrvs.training.background import TrainingState

__all__ = ["TrainingCurve"]

_MARGIN, _HEAD = 8, 18
# Apart for those who see no red or green, and apart in lightness on dark and on light.
_SCORE, _KNOWN, _LOSS = QColor(230, 145, 20), QColor(150, 150, 150), QColor(60, 145, 230)
_LINES = (("J&F", _SCORE), ("old J&F", _KNOWN))


class TrainingCurve(QWidget):
    """J&F from 0 to 1 by step, and the loss on a logarithmic scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumSize(120, 110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Loss, and J&F on held-out clips")
        self._state = TrainingState()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return a wide and low rectangle."""
        return QSize(280, 130)

    def show_state(self, state: TrainingState) -> None:
        """Draw what is known of a training."""
        self._state = state
        self.setAccessibleDescription(self.text())
        self.update()

    def text(self) -> str:
        """Return the last values in words."""
        state = self._state
        loss = f"loss {state.losses[-1][1]:.3g}" if state.losses else ""
        last = state.scores[-1][1] if state.scores else {}
        return ", ".join([part for part in (loss,) if part] + [f"{k} {last[k]:.3f}" for k in last])

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        """Paint grid, loss and scores."""
        state = self._state
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(
            _MARGIN, _HEAD, max(1, self.width() - 2 * _MARGIN), max(1, self.height() - _HEAD - 6)
        )
        faint = self.palette().text().color()
        faint.setAlpha(50)
        painter.setPen(QPen(faint, 1))
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            y = area.bottom() - share * area.height()
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        last = max([state.total, state.step, *(step for step, _ in state.scores), 1])

        def place(step: int, share: float) -> QPointF:
            return QPointF(
                area.left() + area.width() * step / last, area.bottom() - area.height() * share
            )

        logs = [(step, math.log(max(loss, 1e-12))) for step, loss in state.losses]
        if logs:
            low, high = min(v for _, v in logs), max(v for _, v in logs)
            spread = max(high - low, 1e-9)
            painter.setPen(QPen(_LOSS, 1))
            points = [place(step, 0.05 + 0.9 * (value - low) / spread) for step, value in logs]
            painter.drawPolyline(QPolygonF(points))
        for key, colour in _LINES:
            painter.setPen(QPen(colour, 2))
            points = [place(step, row[key]) for step, row in state.scores if key in row]
            painter.drawPolyline(QPolygonF(points))
            painter.setBrush(colour)
            for point in points:
                painter.drawEllipse(point, 2.5, 2.5)
        self._legend(painter)

    def _legend(self, painter: QPainter) -> None:
        state, x = self._state, _MARGIN
        last = state.scores[-1][1] if state.scores else {}
        parts = [(f"loss {state.losses[-1][1]:.3g}", _LOSS)] if state.losses else []
        names = {"J&F": "J&F", "old J&F": "what it knew"}
        parts += [(f"{names[k]} {last[k]:.3f}", colour) for k, colour in _LINES if k in last]
        for text, colour in parts:
            painter.setPen(colour)
            width = painter.fontMetrics().horizontalAdvance(text)
            painter.drawText(QRectF(x, 0, width + 2, _HEAD), Qt.AlignmentFlag.AlignVCenter, text)
            x += width + 12
