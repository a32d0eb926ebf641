"""The page "Pick": take up the tool, say whose mask it becomes, see and mend the marks."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QListWidget,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from flowrvs.editing.pick import Mark
from napari_flowrvs.pick.canvas import MarkTool
from napari_flowrvs.pick.presenter import PICK_RULES, PickPresenter, Target
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.widgets.parts import Wrapped, later, narrow, row, rule
from napari_flowrvs.widgets.trackers import TrackerBox

__all__ = ["PickPanel"]

_HELP = (
    "Click: this. Shift-click, or the right button: not this. Drag: a box around it. "
    "Ctrl-drag: a scribble over it; Shift-drag: over what it is not. Drag a mark to move it, "
    "Alt-click to remove it. Enter or Y keeps what is shown, Esc forgets it."
)
_PREPARE_MS = 250


class PickPanel(QWidget):
    """What there is to choose for the tool, and the marks that it has made.

    Parameters
    ----------
    presenter : PickPresenter
        What is picked.
    tool : MarkTool
        What the mouse does.
    commands : Commands
        Where its keys are heard.
    begin : callable
        Takes the tool up, whatever there is so far.
    """

    def __init__(
        self,
        presenter: PickPresenter,
        tool: MarkTool,
        commands: Commands,
        begin: Callable[[], None],
    ) -> None:
        super().__init__()
        self.presenter = presenter
        self.tool = tool
        self.pick_button = QPushButton("Pick")
        self.pick_button.setCheckable(True)
        self.pick_button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        set_tip(self.pick_button, "pick")
        self.pick_button.clicked.connect(lambda: commands.run("pick"))
        self.about = Wrapped()
        self.help = Wrapped()
        self.help.setText(_HELP)
        self.target = narrow(QComboBox(), "Whose mask it becomes")
        for target in Target:
            self.target.addItem(target.value, target.name)
        self.rule = narrow(QComboBox(), "What becomes of the mask that is there")
        for name, text in PICK_RULES.items():
            self.rule.addItem(text, name)
        self.drag = narrow(
            QComboBox(),
            "What a drag means (Ctrl means the other); or scissors: corners of an outline that "
            "snaps to edges, and that Enter closes",
        )
        self.drag.addItems(["drag a box", "drag a scribble", "scissors: click corners"])
        self.tracker = TrackerBox(presenter.trackers, "What picks; classical needs no weights")
        self.inside = QCheckBox("only inside my box")
        self.inside.setToolTip("The mask never leaves the box")
        self.list = QListWidget()
        self.list.setAccessibleName("Marks on this frame")
        # No higher than there is room for: the help below it should be read without scrolling.
        self.list.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)
        self.list.setMinimumHeight(60)
        self.remove_button = QPushButton("remove")
        self.remove_button.setToolTip("Remove the chosen mark")
        self.back_button = QPushButton("take the last back")
        set_tip(self.back_button, "pick_back")
        for button in (self.remove_button, self.back_button):
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 6, 0, 0)
        box.setSpacing(5)
        for widget in (self.about, self.pick_button, self.target, self.rule):
            box.addWidget(widget)
        box.addWidget(row(QLabel("with"), self.tracker, stretch=1))
        box.addWidget(row(self.drag, self.inside))
        box.addWidget(rule())
        box.addWidget(self.list, 1)
        box.addWidget(row(self.remove_button, self.back_button))
        box.addWidget(self.help)
        self.target.activated.connect(lambda _i: commands.attempt(self._on_target))
        self.rule.activated.connect(
            lambda _i: commands.attempt(lambda: presenter.choose(rule=self.rule.currentData()))
        )
        self.inside.toggled.connect(
            lambda on: commands.attempt(lambda: presenter.choose(inside_box=on))
        )
        self.drag.activated.connect(self._on_drag)
        self.remove_button.clicked.connect(lambda: commands.attempt(self._remove))
        self.back_button.clicked.connect(lambda: commands.run("pick_back"))
        commands.add(pick=begin, pick_back=presenter.take_back)
        presenter.active_changed.connect(self._on_active)
        presenter.marks_changed.connect(self._on_marks)
        presenter.desk.object_changed.connect(self._on_marks)
        presenter.desk.catalog_changed.connect(self._on_marks)
        soon = later(presenter.prepare, _PREPARE_MS, self)
        presenter.desk.frame_changed.connect(lambda _frame: soon())
        self._on_marks()

    def _remove(self) -> None:
        index = self.list.currentRow()
        if 0 <= index < len(self.presenter.marks):
            self.presenter.remove(index)

    def _on_target(self) -> None:
        self.presenter.choose(target=Target[self.target.currentData()])
        self._on_marks()

    def _on_drag(self, index: int) -> None:
        self.tool.scribbles, self.tool.scissors = index == 1, index == 2

    def _on_active(self, active: bool) -> None:
        self.pick_button.setChecked(active)
        self.pick_button.setText("Picking: click on the object" if active else "Pick")

    def _on_marks(self, _value: object = None) -> None:
        marks, chosen = self.presenter.marks, self.list.currentRow()
        self.list.clear()
        corners = self.presenter.corners
        self.list.addItems([_text(mark) for mark in marks])
        self.list.addItems([f"corner: {x:.0f}, {y:.0f}" for x, y in corners])
        if marks:
            self.list.setCurrentRow(min(max(chosen, 0), len(marks) - 1))
        self.remove_button.setEnabled(bool(marks))
        self.back_button.setEnabled(bool(marks or corners))
        self.target.setCurrentIndex(list(Target).index(self.presenter.target))
        self.rule.setEnabled(self.presenter.target is Target.CHOSEN)
        thing = self.presenter.desk.object
        if self.presenter.target is Target.NEW:
            self.about.setText("a new object")
        else:
            name = "no object is chosen" if thing is None else f"object {thing.id}: {thing.name}"
            self.about.setText(name)


def _text(mark: Mark) -> str:
    what = "this" if mark.positive else "not this"
    x, y = mark.points[0]
    if mark.kind == "box":
        (x0, y0), (x1, y1) = mark.points
        return f"box {x0:.0f}, {y0:.0f} to {x1:.0f}, {y1:.0f}"
    return f"{what}: {'' if mark.kind == 'point' else 'scribble from '}{x:.0f}, {y:.0f}"
