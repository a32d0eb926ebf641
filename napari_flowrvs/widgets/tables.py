"""The tables of objects and sentences: small Qt models over a presenter's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QRect, Qt
from qtpy.QtGui import QColor, QKeyEvent, QPainter
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from flowrvs.store import ObjectCounts, Provenance
from napari_flowrvs.presenters.objects import ExpressionRow, ObjectRow, ObjectsPresenter
from napari_flowrvs.presenters.strip import COLORS

__all__ = ["ExpressionsModel", "ObjectsModel", "ProvenanceBar", "Table"]

_Index: TypeAlias = QModelIndex | QPersistentModelIndex
_ROLE = Qt.ItemDataRole


class _Rows(QAbstractTableModel):
    """Rows that are compared with what was shown, so that selection and editors survive."""

    headers: tuple[str, ...] = ()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.rows: list[Any] = []

    def show_rows(self, rows: Sequence[Any]) -> None:
        """Take new rows."""
        same = [self.key(row) for row in rows] == [self.key(row) for row in self.rows]
        if not same:
            self.beginResetModel()
        self.rows = list(rows)
        if not same:
            self.endResetModel()
        elif rows:
            last = self.index(len(rows) - 1, len(self.headers) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def key(self, row: Any) -> object:
        """Return what identifies a row."""
        raise NotImplementedError

    def place(self, key: object) -> int:
        """Return the row with a key, or -1."""
        return next((i for i, row in enumerate(self.rows) if self.key(row) == key), -1)

    def rowCount(self, parent: _Index | None = None) -> int:  # noqa: N802
        """Number of rows."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: _Index | None = None) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent is not None and parent.isValid() else len(self.headers)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = _ROLE.DisplayRole
    ) -> Any:
        """Name a column."""
        if orientation == Qt.Orientation.Horizontal and role == _ROLE.DisplayRole:
            return self.headers[section]
        return None


class ObjectsModel(_Rows):
    """Objects: whether the chosen sentence means them, their name and provenance."""

    headers = ("id", "name", "frames")

    def __init__(self, presenter: ObjectsPresenter, parent: QWidget) -> None:
        super().__init__(parent)
        self.presenter = presenter

    def key(self, row: ObjectRow) -> object:
        """Return the object's id."""
        return row.id

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Tick in the first column, edit in the second."""
        flags = super().flags(index)
        if index.column() == 0 and self.presenter.expression_id is not None:
            flags |= Qt.ItemFlag.ItemIsUserCheckable
        if index.column() == 1:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: _Index, role: int = _ROLE.DisplayRole) -> Any:
        """Return a cell."""
        row: ObjectRow = self.rows[index.row()]
        column = index.column()
        if role == _ROLE.ToolTipRole:
            return f"{row.id} {row.name}, in layer {row.layer}\n{_words(row.frames)}"
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

    def setData(self, index: _Index, value: Any, role: int = _ROLE.EditRole) -> bool:  # noqa: N802
        """Take a tick or a name."""
        row: ObjectRow = self.rows[index.row()]
        if role == _ROLE.CheckStateRole:
            self.presenter.set_meant(row.id, Qt.CheckState(value) == Qt.CheckState.Checked)
            return True
        if role == _ROLE.EditRole and index.column() == 1:
            self.presenter.rename(row.id, str(value))
            return True
        return False


class ExpressionsModel(_Rows):
    """Sentences: the text, the objects that it means, how much of them was checked."""

    headers = ("sentence", "means", "checked")

    def __init__(self, presenter: ObjectsPresenter, parent: QWidget) -> None:
        super().__init__(parent)
        self.presenter = presenter

    def key(self, row: ExpressionRow) -> object:
        """Return the expression's id."""
        return row.exp_id

    def data(self, index: _Index, role: int = _ROLE.DisplayRole) -> Any:
        """Return a cell."""
        row: ExpressionRow = self.rows[index.row()]
        if role == _ROLE.ToolTipRole:
            return f"{row.text}\nmeans: {row.objects}"
        if role == _ROLE.DisplayRole or (role == _ROLE.EditRole and index.column() == 0):
            share = f"{row.checked / row.total:.0%}" if row.total else ""
            return (row.text, row.objects, share)[index.column()]
        return None

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Edit the text."""
        flags = super().flags(index)
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == 0 else flags

    def setData(self, index: _Index, value: Any, role: int = _ROLE.EditRole) -> bool:  # noqa: N802
        """Take a text."""
        if role != _ROLE.EditRole:
            return False
        self.presenter.set_text(self.rows[index.row()].exp_id, str(value))
        return True


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

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        """Paint a cell: the bar, and how many frames a person has checked."""
        super().paint(painter, option, index)
        frames = index.data(_ROLE.UserRole)
        if not isinstance(frames, ObjectCounts):
            return
        room = option.rect.adjusted(3, 5, -3, -5)
        shares = zip(COLORS, (frames.model, frames.human, frames.locked), strict=True)
        total = frames.empty + frames.model + frames.human + frames.locked
        x = room.left()
        known: list[tuple[Provenance, int]] = list(shares)
        for value, count in known:
            width = max(round(room.width() * count / total), 2) if count else 0
            width = min(width, room.right() + 1 - x)
            painter.fillRect(QRect(x, room.top(), width, room.height()), QColor(*COLORS[value]))
            x += width


class Table(QTableView):
    """A table that leaves letters to the shortcuts of the viewer.

    Parameters
    ----------
    model : QAbstractTableModel
        Its rows.
    name : str
        For screen readers.
    stretch : int
        The column that takes the width.
    """

    def __init__(self, model: QAbstractTableModel, name: str, stretch: int) -> None:
        super().__init__()
        self.setModel(model)
        self.setAccessibleName(name)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setMinimumWidth(40)
        rows = self.verticalHeader()
        rows.hide()
        rows.setDefaultSectionSize(self.fontMetrics().height() + 8)
        columns = self.horizontalHeader()
        columns.setHighlightSections(False)
        columns.setMinimumSectionSize(20)
        columns.setSectionResizeMode(stretch, QHeaderView.ResizeMode.Stretch)

    def select_row(self, row: int) -> None:
        """Mark a row without telling anybody; -1 marks none."""
        model = self.selectionModel()
        marked = [index.row() for index in model.selectedRows()]
        if marked == ([] if row < 0 else [row]) and (row < 0 or self.currentIndex().row() == row):
            return  # it is asked for at every frame of a video that is played
        before = model.blockSignals(True)
        if row < 0:
            self.clearSelection()
        else:
            column = max(self.currentIndex().column(), 0)
            self.setCurrentIndex(self.model().index(row, column))
            self.selectRow(row)
        model.blockSignals(before)
        self.viewport().update()

    def on_chosen(self, callback: Callable[[int], None]) -> None:
        """Call back with the row that a person chose."""
        self.selectionModel().currentRowChanged.connect(
            lambda now, _before: callback(now.row()) if now.isValid() else None
        )

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Move, tick and edit; every other key goes to the viewer."""
        keys = Qt.Key
        own = (
            *(keys.Key_Up, keys.Key_Down, keys.Key_PageUp, keys.Key_PageDown),
            *(keys.Key_Space, keys.Key_F2, keys.Key_Return, keys.Key_Enter),
        )
        if event.key() in (keys.Key_Return, keys.Key_Enter):
            # The one that ends an edit comes here, too.
            if self.state() != QAbstractItemView.State.EditingState:
                self.edit(self.currentIndex())
        elif event.key() in own and not event.modifiers():
            super().keyPressEvent(event)
        else:
            event.ignore()
