"""The page "Objects": sentences above, the objects that they mean below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qtpy.QtCore import QModelIndex
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QColorDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMenu,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_flowrvs.objects.presenter import ObjectsPresenter
from napari_flowrvs.objects.tables import ExpressionsModel, ObjectsModel, ProvenanceBar
from napari_flowrvs.widgets.parts import enable, later, tool_button
from napari_flowrvs.widgets.table import Table

__all__ = ["ObjectsPanel"]

_DEBOUNCE_MS = 150


class ObjectsPanel(QWidget):
    """Two tables, many to many: choose a sentence, tick the objects that it means.

    Parameters
    ----------
    presenter : ObjectsPresenter
        Rows and actions.
    attempt : callable
        ``attempt(action)`` calls it, shows what is wrong, and says whether it was done.
    """

    def __init__(
        self, presenter: ObjectsPresenter, attempt: Callable[[Callable[[], object]], bool]
    ) -> None:
        super().__init__()
        self.presenter = presenter
        self.attempt = attempt
        self._build()
        presenter.changed.connect(self.refresh)
        presenter.counted.connect(later(self.refresh, _DEBOUNCE_MS, self))
        presenter.desk.object_changed.connect(self._on_object)
        presenter.steps.busy_changed.connect(self._enable)
        self.refresh()

    def _build(self) -> None:
        self.sentences_model = ExpressionsModel(self.presenter, self, self.attempt)
        self.sentences = Table(self.sentences_model, "Sentences", 0)
        self.objects_model = ObjectsModel(self.presenter, self, self.attempt)
        self.objects = Table(self.objects_model, "Objects", 1)
        self._bar = ProvenanceBar(self)
        self.objects.setItemDelegateForColumn(2, self._bar)
        fit = QHeaderView.ResizeMode.ResizeToContents
        for column in (1, 2):
            self.sentences.horizontalHeader().setSectionResizeMode(column, fit)
        self.objects.horizontalHeader().setSectionResizeMode(0, fit)
        self.objects.setColumnWidth(2, 76)
        self.sentences.on_chosen(self._on_sentence)
        self.objects.on_chosen(self._on_row)
        self.objects.doubleClicked.connect(self._on_double)
        self.add_sentence = tool_button(
            "+", "Add a sentence; it means the chosen object", self._add_sentence
        )
        self.add_sentence.setAccessibleName("Add a sentence")
        self.remove_sentence = tool_button(
            "−",
            "Remove the chosen sentence; its objects stay",
            self._do(self.presenter.remove_expression),
        )
        self.remove_sentence.setAccessibleName("Remove the sentence")
        self.add_object = tool_button(
            "+", "Add an object, to be drawn by hand from any frame on", self._add_object
        )
        self.add_object.setAccessibleName("Add an object")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(_head("sentences", self.add_sentence, self.remove_sentence))
        layout.addWidget(self.sentences, 2)
        self.object_buttons = _head("objects, ticked where meant", self.add_object)
        layout.addLayout(self.object_buttons)
        layout.addWidget(self.objects, 3)
        layout.addLayout(self._build_actions())

    def _build_actions(self) -> QHBoxLayout:
        """The buttons below the table; what is seldom needed is in a menu."""
        actions = self.presenter
        self.absent_button = tool_button(
            "absent", "The object is not there on the chosen range", self._do(actions.absent)
        )
        self.lock_button = tool_button(
            "lock",
            "Protect the object's masks on the range, from everybody",
            self._do(actions.lock),
        )
        self.delete_button = tool_button(
            "delete", "Delete the object with all its masks", self._do(actions.delete)
        )
        self.more_button = QToolButton()
        self.more_button.setText("more…")
        self.more_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.menu = QMenu(self)
        self.menu.aboutToShow.connect(self._fill_menu)
        self.more_button.setMenu(self.menu)
        row = QHBoxLayout()
        row.setSpacing(4)
        for button in (self.absent_button, self.lock_button, self.delete_button, self.more_button):
            row.addWidget(button, 1)
        return row

    def _do(self, action: Callable[[], object]) -> Callable[[], object]:
        return lambda: self.attempt(action)

    def _fill_menu(self) -> None:
        actions, menu = self.presenter, self.menu
        menu.clear()
        for text, action in (
            ("&begins on this frame", actions.start_here),
            ("&ends on this frame", actions.end_here),
            ("&unlock the range", actions.unlock),
            ("&release the range to the model", actions.release),
            ("split into its &pieces, on the range", actions.split_pieces),
            ("split by &drawing: paint the part", actions.split_by_painting),
            ("&cut the others where it is, on the range", actions.cut_others),
        ):
            menu.addAction(text).triggered.connect(self._do(action))
        for title, do in (
            ("&merge into it", actions.merge),
            ("s&wap with, from here on", actions.swap),
        ):
            others = menu.addMenu(title)
            for row in actions.objects():
                if row.id != actions.desk.object_id:
                    name = f"{row.id} {row.name}".replace("&", "&&")
                    others.addAction(name).triggered.connect(self._do(partial(do, row.id)))
            others.setEnabled(not others.isEmpty())

    # -- showing -------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the rows as they are now."""
        self.sentences_model.show_rows(self.presenter.expressions())
        self.sentences.select_row(self.sentences_model.place(self.presenter.expression_id))
        self.objects_model.show_rows(self.presenter.objects())
        self.remove_sentence.setEnabled(self.presenter.expression_id is not None)
        self._on_object(self.presenter.desk.object_id)

    def _enable(self, _busy: bool = False) -> None:
        free = self.presenter.desk.project is not None and not self.presenter.steps.busy
        chosen = self.presenter.desk.object_id is not None
        enable((self.add_object, self.add_sentence), free)
        actions = (self.absent_button, self.lock_button, self.delete_button, self.more_button)
        enable(actions, free and chosen)

    def _on_object(self, object_id: int | None) -> None:
        self.objects.select_row(self.objects_model.place(object_id))
        self._enable()

    # -- choosing and editing --------------------------------------------------------------

    def _on_sentence(self, row: int) -> None:
        self.presenter.choose_expression(self.sentences_model.rows[row].exp_id)

    def _on_row(self, row: int) -> None:
        self.presenter.desk.choose(self.objects_model.rows[row].id)

    def _on_double(self, index: QModelIndex) -> None:
        if index.column() == 0:
            row = self.objects_model.rows[index.row()]
            color = QColorDialog.getColor(QColor.fromRgbF(*row.color), self, "Colour of the object")
            if color.isValid():
                chosen = (color.redF(), color.greenF(), color.blueF())
                self.attempt(lambda: self.presenter.recolor(row.id, chosen))

    def _add_sentence(self) -> None:
        if self.attempt(lambda: self.presenter.add_expression("new sentence")):
            row = self.sentences_model.place(self.presenter.expression_id)
            self.sentences.setFocus()
            self.sentences.edit(self.sentences_model.index(row, 0))

    def _add_object(self) -> None:
        if self.attempt(self.presenter.add):
            row = self.objects_model.place(self.presenter.desk.object_id)
            self.objects.setFocus()
            self.objects.edit(self.objects_model.index(row, 1))


def _head(text: str, *buttons: QToolButton) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(4)
    row.addWidget(QLabel(text), 1)
    for button in buttons:
        row.addWidget(button)
    return row
