"""The page "Review": what is left to check, most doubtful first."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_flowrvs.review.presenter import Doubtful, ReviewPresenter
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.widgets.parts import enable, later, narrow, row
from napari_flowrvs.widgets.table import Index, Rows, Table

__all__ = ["QueueModel", "ReviewPanel"]

_DEBOUNCE_MS = 200
_SHOWN = 500


class QueueModel(Rows):
    """The first entries of the queue."""

    headers = ("frame", "object", "doubt")

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.names: dict[int, str] = {}

    def key(self, row: Doubtful) -> object:
        """Return frame and object."""
        return row.frame, row.object_id

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return a cell."""
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        row: Doubtful = self.rows[index.row()]
        name = self.names.get(row.object_id, "")
        doubt = "" if math.isnan(row.doubt) else f"{row.doubt:.2f}"
        return (str(row.frame), f"{row.object_id} {name}", doubt)[index.column()]


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
        self.scope = narrow(QComboBox(), "What is reviewed")
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
        self._soon = later(self._on_later, _DEBOUNCE_MS, self)
        presenter.changed.connect(self._soon)
        self.desk.frame_changed.connect(self._mark)
        self.desk.object_changed.connect(self._soon)
        presenter.steps.busy_changed.connect(self._enable)
        self.refresh()

    def _on_later(self) -> None:
        self.presenter.doubts.measure()
        if self.isVisible():
            self.refresh()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Measure doubts while the page is looked at."""
        super().showEvent(event)
        self.presenter.doubts.set_measuring(True)
        self.refresh()

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        """Measure no more."""
        super().hideEvent(event)
        self.presenter.doubts.set_measuring(False)

    def refresh(self) -> None:
        """Show the queue as it is now."""
        project = self.desk.project
        self._show_scopes()
        objects = {} if project is None else project.objects
        self.model.names = {i: record.name for i, record in objects.items()}
        scroll = self.table.verticalScrollBar()
        place = scroll.value()
        self.model.show_rows(self.presenter.queue()[:_SHOWN])
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
        for said in project.expressions.values() if project is not None else ():
            checked, total = self.presenter.progress(said.exp_id)
            share = f"{100 * checked // total} %" if total else "no object"
            items.append((f"{said.text}  ({share})", said.exp_id))
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
        self.table.select_row(self.model.place((self.desk.frame, self.desk.object_id)))

    def _on_scope(self, _index: int) -> None:
        self.presenter.set_scope(self.scope.currentData())

    def _on_row(self, place: int) -> None:
        self.presenter.show(self.model.rows[place])
