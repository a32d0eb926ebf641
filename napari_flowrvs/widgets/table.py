"""Tables that leave letters to the viewer, and rows that keep selection and editors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLineEdit,
    QStyledItemDelegate,
    QTableView,
    QWidget,
)

__all__ = ["Index", "Rows", "Table"]

Index: TypeAlias = QModelIndex | QPersistentModelIndex
_ROLE = Qt.ItemDataRole


class Rows(QAbstractTableModel):
    """Rows that are compared with what was shown, so that selection and editors survive."""

    headers: tuple[str, ...] = ()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.rows: list[Any] = []

    def show_rows(self, rows: Sequence[Any]) -> None:
        """Take new rows."""
        before = len(self.rows)
        kept = [self.key(row) for row in rows[:before]] == [self.key(row) for row in self.rows]
        more = len(rows) > before
        if not kept:
            self.beginResetModel()
        elif more:
            self.beginInsertRows(QModelIndex(), before, len(rows) - 1)
        self.rows = list(rows)
        if not kept:
            self.endResetModel()
            return
        if more:
            self.endInsertRows()
        if before:
            last = self.index(before - 1, len(self.headers) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def key(self, row: Any) -> object:
        """Return what identifies a row."""
        raise NotImplementedError

    def place(self, key: object) -> int:
        """Return the row with a key, or -1."""
        return next((i for i, row in enumerate(self.rows) if self.key(row) == key), -1)

    def rowCount(self, parent: Index | None = None) -> int:  # noqa: N802
        """Number of rows."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index | None = None) -> int:  # noqa: N802
        """Number of columns."""
        return 0 if parent is not None and parent.isValid() else len(self.headers)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = _ROLE.DisplayRole
    ) -> Any:
        """Name a column."""
        if orientation == Qt.Orientation.Horizontal and role == _ROLE.DisplayRole:
            return self.headers[section]
        return None


class _Editing(QStyledItemDelegate):
    """Leaves alone what is being typed: rows are shown anew while masks come in."""

    def setEditorData(self, editor: QWidget, index: Index) -> None:  # noqa: N802
        """Fill an editor that nobody has typed in."""
        if isinstance(editor, QLineEdit):
            if editor.isModified() or editor.text() == index.data(_ROLE.EditRole):
                return
        super().setEditorData(editor, index)


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
        self.setItemDelegate(_Editing(self))
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
            # Not `selectRow`, which goes to the first column: what is edited is mostly the second.
            self.setCurrentIndex(self.model().index(row, column))
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
