"""The page "Review": what is left to check, most doubtful first."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt, QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_flowrvs.presenters.review import Doubtful, ReviewPresenter
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.widgets.parts import enable, row
from napari_flowrvs.widgets.tables import Table

__all__ = ["QueueModel", "ReviewPanel"]

_DEBOUNCE_MS = 200
_SHOWN = 500
_ROLE = Qt.ItemDataRole


class QueueModel(QAbstractTableModel):
    """The first entries of the queue."""

    headers = ("frame", "object", "doubt")

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.rows: list[Doubtful] = []
        self._names: dict[int, str] = {}

    def show_rows(self, rows: list[Doubtful], names: dict[int, str]) -> None:
        """Take new rows."""
        rows = rows[:_SHOWN]
        same = [_key(row) for row in rows] == [_key(row) for row in self.rows]
        if not same:
            self.beginResetModel()
        self.rows, self._names = rows, names
        if not same:
            self.endResetModel()
        elif rows:
            self.dataChanged.emit(self.index(0, 0), self.index(len(rows) - 1, 2))

    def rowCount(  # noqa: N802
        self, parent: QModelIndex | QPersistentModelIndex | None = None
    ) -> int:
        """Number of entries."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(  # noqa: N802
        self, parent: QModelIndex | QPersistentModelIndex | None = None
    ) -> int:
        """Number of columns."""
        return 0 if parent is not None and parent.isValid() else len(self.headers)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = _ROLE.DisplayRole
    ) -> Any:
        """Name a column."""
        if orientation == Qt.Orientation.Horizontal and role == _ROLE.DisplayRole:
            return self.headers[section]
        return None

    def data(
        self, index: QModelIndex | QPersistentModelIndex, role: int = _ROLE.DisplayRole
    ) -> Any:
        """Return a cell."""
        each = self.rows[index.row()]
        if role != _ROLE.DisplayRole:
            return None
        name = self._names.get(each.object_id, "")
        doubt = "" if each.doubt != each.doubt else f"{each.doubt:.2f}"
        return (str(each.frame), f"{each.object_id} {name}", doubt)[index.column()]


def _key(row: Doubtful) -> tuple[int, int]:
    return row.frame, row.object_id


class ReviewPanel(QWidget):
    """The queue, its progress, and the verdicts.

    Parameters
    ----------
    presenter : ReviewPresenter
        The queue.
    commands : Commands
        Where its keys are heard.
    """

    def __init__(self, presenter: ReviewPresenter, commands: Commands) -> None:
        super().__init__()
        self.presenter = presenter
        self.desk = presenter.desk
        self.scope = QComboBox()
        self.scope.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.scope.setMinimumWidth(60)
        self.scope.setAccessibleName("What is reviewed")
        self.scope.activated.connect(self._on_scope)
        self.bar = QProgressBar()
        self.bar.setMinimumWidth(40)
        self.bar.setAccessibleName("Frames checked")
        self.model = QueueModel(self)
        self.table = Table(self.model, "Doubtful frames", 1)
        fit = QHeaderView.ResizeMode.ResizeToContents
        for column in (0, 2):
            self.table.horizontalHeader().setSectionResizeMode(column, fit)
        self.table.clicked.connect(lambda index: self._on_row(index.row()))
        self.table.on_chosen(self._on_row)
        grid = QGridLayout()
        grid.setSpacing(4)
        self.buttons: dict[str, QPushButton] = {}
        for place, (name, text, action) in enumerate(
            (
                ("previous", "← previous", presenter.previous),
                ("next", "next doubtful →", presenter.next),
                ("accept", "accept", presenter.accept),
                ("accept_here", "accept up to here", presenter.accept_here),
                ("fix", "fix", presenter.fix),
                ("absent", "absent", presenter.absent),
            )
        ):
            button = QPushButton(text)
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            set_tip(button, name)
            commands.add(**{name: action})
            button.clicked.connect(lambda _on=False, name=name: commands.run(name))
            grid.addWidget(button, place // 2, place % 2)
            self.buttons[name] = button
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(row(QLabel("review:"), self.scope, stretch=1))
        layout.addWidget(self.bar)
        layout.addLayout(grid)
        layout.addWidget(self.table, 1)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_DEBOUNCE_MS)
        self._later.timeout.connect(self._on_later)
        presenter.changed.connect(self._on_changed)
        self.desk.frame_changed.connect(self._mark)
        self.desk.object_changed.connect(self._on_changed)
        presenter.steps.busy_changed.connect(self._enable)
        self.refresh()

    def _on_changed(self, _value: object = None) -> None:
        if not self._later.isActive():
            self._later.start()

    def _on_later(self) -> None:
        self.presenter.measure()
        if self.isVisible():
            self.refresh()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Measure doubts while the page is looked at."""
        super().showEvent(event)
        self.presenter.set_measuring(True)
        self.refresh()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        """Measure no more."""
        super().hideEvent(event)
        self.presenter.set_measuring(False)

    def refresh(self) -> None:
        """Show the queue as it is now."""
        project = self.desk.project
        self._show_scopes()
        names = {} if project is None else {i: o.name for i, o in project.objects.items()}
        scroll = self.table.verticalScrollBar()
        place = scroll.value()
        self.model.show_rows(self.presenter.queue(), names)
        scroll.setValue(place)  # the order may change while somebody looks at it
        checked, total = self.presenter.progress()
        self.bar.setRange(0, max(total, 1))
        self.bar.setValue(checked)
        self.bar.setFormat(f"{checked} of {total} frames checked")
        self._enable()
        self._mark()

    def _show_scopes(self) -> None:
        project, thing = self.desk.project, self.desk.object
        items: list[tuple[str, str | None]] = [
            ("the chosen object" if thing is None else f"object {thing.id}", None)
        ]
        for one in project.expressions.values() if project is not None else ():
            checked, total = self.presenter.progress(one.exp_id)
            share = f"{100 * checked // total} %" if total else "no object"
            items.append((f"{one.text}  ({share})", one.exp_id))
        known = [self.scope.itemData(i) for i in range(self.scope.count())]
        if known != [exp_id for _, exp_id in items]:
            self.scope.clear()
            for text, exp_id in items:
                self.scope.addItem(text, exp_id)
        else:  # the list may be open
            for i, (text, _) in enumerate(items):
                self.scope.setItemText(i, text)
        self.scope.setCurrentIndex(max(self.scope.findData(self.presenter.scope), 0))

    def _enable(self, _busy: bool = False) -> None:
        enable(
            self.buttons.values(), bool(self.presenter.objects()) and not self.presenter.steps.busy
        )

    def _mark(self, _frame: int = 0) -> None:
        place = next(
            (
                i
                for i, each in enumerate(self.model.rows)
                if each.frame == self.desk.frame and each.object_id == self.desk.object_id
            ),
            -1,
        )
        self.table.select_row(place)

    def _on_scope(self, _index: int) -> None:
        self.presenter.set_scope(self.scope.currentData())

    def _on_row(self, place: int) -> None:
        self.presenter.show(self.model.rows[place])
