"""The tables of objects and sentences: small Qt models over a presenter's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from qtpy.QtCore import QRect, Qt
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem, QWidget

from flowrvs.store import ObjectCounts, Provenance
from napari_flowrvs.objects.presenter import ExpressionRow, ObjectRow, ObjectsPresenter
from napari_flowrvs.strip.presenter import COLORS
from napari_flowrvs.widgets.parts import plain
from napari_flowrvs.widgets.table import Index, Rows

__all__ = ["ExpressionsModel", "ObjectsModel", "ProvenanceBar"]

_ROLE = Qt.ItemDataRole

#: Calls something, shows why it cannot be done, and says whether it was.
Attempt: TypeAlias = Callable[[Callable[[], object]], bool]


class ObjectsModel(Rows):
    """Objects: whether the chosen sentence means them, their name and provenance.

    Parameters
    ----------
    presenter : ObjectsPresenter
        Rows and actions.
    parent : QWidget
        Its owner.
    attempt : callable
        Calls what changes the project.
    """

    headers = ("id", "name", "frames")

    def __init__(self, presenter: ObjectsPresenter, parent: QWidget, attempt: Attempt) -> None:
        super().__init__(parent)
        self.presenter = presenter
        self._attempt = attempt

    def key(self, row: ObjectRow) -> object:
        """Return the object's id."""
        return row.id

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Tick in the first column, edit in the second."""
        flags = super().flags(index)
        if index.column() == 0 and self.presenter.expression_id is not None:
            flags |= Qt.ItemFlag.ItemIsUserCheckable
        if index.column() == 1:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: Index, role: int = _ROLE.DisplayRole) -> Any:
        """Return a cell."""
        row: ObjectRow = self.rows[index.row()]
        column = index.column()
        if role == _ROLE.ToolTipRole:
            return plain(f"{row.id} {row.name}, in layer {row.layer}\n{_words(row.frames)}")
        if column == 0:
            if role == _ROLE.DisplayRole:
                return str(row.id)
            if role == _ROLE.DecorationRole:
                return QColor.fromRgbF(*row.color)
            if role == _ROLE.CheckStateRole and self.presenter.expression_id is not None:
                return Qt.CheckState.Checked if row.meant else Qt.CheckState.Unchecked
        elif column == 1 and role in (_ROLE.DisplayRole, _ROLE.EditRole):
            return row.name
        elif column == 2:
            if role == _ROLE.UserRole:
                return row.frames
            if role == _ROLE.AccessibleTextRole:
                return _words(row.frames)
        return None

    def setData(self, index: Index, value: Any, role: int = _ROLE.EditRole) -> bool:  # noqa: N802
        """Take a tick or a name."""
        row: ObjectRow = self.rows[index.row()]
        if role == _ROLE.CheckStateRole:
            meant = Qt.CheckState(value) == Qt.CheckState.Checked
            return self._attempt(lambda: self.presenter.set_meant(row.id, meant))
        if role == _ROLE.EditRole and index.column() == 1:
            return self._attempt(lambda: self.presenter.rename(row.id, str(value)))
        return False


class ExpressionsModel(Rows):
    """Sentences: the text, the objects that it means, how much of them was checked."""

    headers = ("sentence", "means", "checked")

    def __init__(self, presenter: ObjectsPresenter, parent: QWidget, attempt: Attempt) -> None:
        super().__init__(parent)
        self.presenter = presenter
        self._attempt = attempt

    def key(self, row: ExpressionRow) -> object:
        """Return the expression's id."""
        return row.exp_id

    def data(self, index: Index, role: int = _ROLE.DisplayRole) -> Any:
        """Return a cell."""
        row: ExpressionRow = self.rows[index.row()]
        if role == _ROLE.ToolTipRole:
            return plain(f"{row.text}\nmeans: {row.objects}")
        if role == _ROLE.DisplayRole or (role == _ROLE.EditRole and index.column() == 0):
            share = f"{row.checked / row.total:.0%}" if row.total else ""
            return (row.text, row.objects, share)[index.column()]
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Edit the text."""
        flags = super().flags(index)
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == 0 else flags

    def setData(self, index: Index, value: Any, role: int = _ROLE.EditRole) -> bool:  # noqa: N802
        """Take a text."""
        if role != _ROLE.EditRole:
            return False
        exp_id = self.rows[index.row()].exp_id
        return self._attempt(lambda: self.presenter.set_text(exp_id, str(value)))


def _words(frames: ObjectCounts) -> str:
    parts = {
        "model": frames.model,
        "yours": frames.human,
        "locked": frames.locked,
        "empty": frames.empty,
    }
    where = "" if frames.first is None else f", frames {frames.first} to {frames.last}"
    who = ", ".join(f"{n} {name}" for name, n in parts.items() if n)
    return f"on {frames.present} frames{where}\n{who}"


class ProvenanceBar(QStyledItemDelegate):
    """Paints the counts of an object as a bar in the colours of the strip."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Paint a cell: the bar, and how many frames a person has checked."""
        super().paint(painter, option, index)
        frames = index.data(_ROLE.UserRole)
        if not isinstance(frames, ObjectCounts):
            return
        area = option.rect.adjusted(3, 5, -3, -5)
        shares = zip(COLORS, (frames.model, frames.human, frames.locked), strict=True)
        total = frames.empty + frames.model + frames.human + frames.locked
        x, left = area.left(), area.width()
        widths: dict[Provenance, int] = {}
        for value, count in reversed([*shares]):  # a person's frame is never hidden by rounding
            width = max(round(area.width() * count / total), 2) if count else 0
            widths[value] = min(width, left)
            left -= widths[value]
        for value, width in reversed(widths.items()):
            painter.fillRect(QRect(x, area.top(), width, area.height()), QColor(*COLORS[value]))
            x += width
