"""Small pieces that the panels are put together from."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QFontDatabase, QKeyEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QTabBar,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import qthrottled

from flowrvs.progress import Progress
from napari_flowrvs.job import Failure

__all__ = [
    "Fold",
    "Problem",
    "ProgressLine",
    "Wrapped",
    "bare",
    "counted",
    "enable",
    "form_layout",
    "later",
    "narrow",
    "pass_letters",
    "plain",
    "row",
    "rule",
    "scrolled",
    "time_left",
    "tool_button",
]


_LATE_MS = 200

Field = TypeVar("Field", bound=QWidget)


def bare(viewer: Any) -> Any:
    """Return the viewer behind the proxy that napari gives to plugins.

    A proxy's layers are proxies, too: they are neither identical with what events bring nor of its
    class, and every attribute of theirs takes some hundred times as long.
    """
    return getattr(viewer, "__wrapped__", viewer)


def form_layout() -> QFormLayout:
    """Return a form that gives fields all the width there is."""
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignRight)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    return layout


def row(*widgets: QWidget, stretch: int = 0) -> QWidget:
    """Return a widget with `widgets` side by side; number `stretch` takes the width."""
    holder = QWidget()
    layout = QHBoxLayout(holder)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for i, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if i == stretch else 0)
    return holder


def narrow(field: Field, name: str, tip: str = "") -> Field:
    """Let a field be as narrow as there is room for; return it with a name and a tip."""
    field.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    field.setMinimumWidth(60)
    field.setAccessibleName(name)
    field.setToolTip(tip or name)
    return field


def later(action: Callable[[], object], milliseconds: int, parent: QObject) -> Callable[[], None]:
    """Return what calls `action` a moment after it was called, once for many calls.

    It lives as long as `parent`.
    """
    throttle: Callable[[], None]
    throttle = qthrottled(action, timeout=milliseconds, leading=False, parent=parent).throttle
    return throttle


def enable(widgets: Iterable[QWidget], on: bool) -> None:
    """Enable or disable `widgets`; the one that had the focus gets it back.

    Unless it has gone elsewhere meanwhile: a disabled widget hands it to the next one.
    """
    for widget in widgets:
        if on == widget.isEnabled():
            continue
        if not on:
            held = widget.hasFocus()
            widget.setEnabled(False)
            widget.setProperty("next", QApplication.focusWidget() if held else None)
        else:
            widget.setEnabled(True)
            given = widget.property("next")
            widget.setProperty("next", None)
            if given is not None and given is QApplication.focusWidget():
                widget.setFocus()


def tool_button(text: str, tip: str, action: Callable[[], object]) -> QToolButton:
    """Return a small button; Qt lets Tab reach it, and a click leave the focus where it is."""
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.clicked.connect(lambda: action())
    return button


def rule() -> QFrame:
    """Return a thin horizontal line."""
    line = QFrame()
    line.setObjectName("rule")
    return line


def scrolled(page: QWidget) -> QScrollArea:
    """Return `page` in an area that scrolls up and down only."""
    area = _Area()
    area.setWidget(page)
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return area


class _Letters(QObject):
    """Lets the viewer have the keys that a list or a spin box has no use for.

    A list would look for an entry that begins with the letter, and so change what was
    chosen; a spin box would swallow it.
    """

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Leave printed characters to whoever is around the widget."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            text = event.text()
            control = event.modifiers() & Qt.KeyboardModifier.ControlModifier
            own = " " if isinstance(watched, QComboBox) else "0123456789.,+-"
            if text.isprintable() and text and text not in own and not control:
                event.ignore()
                return True
        return False


def pass_letters(parent: QWidget) -> None:
    """Keep lists, spin boxes, sliders and tabs in `parent` from taking the viewer's keys."""
    letters = _Letters(parent)
    for combo in parent.findChildren(QComboBox):
        if not combo.isEditable():
            combo.installEventFilter(letters)
            combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    for spin in parent.findChildren(QAbstractSpinBox):
        spin.installEventFilter(letters)
    for other in (*parent.findChildren(QSlider), *parent.findChildren(QTabBar)):
        # After a click the arrow keys would turn pages, or move the slider, not the frame.
        other.setFocusPolicy(Qt.FocusPolicy.TabFocus)


class _Area(QScrollArea):
    """Scrolls up and down only, and so is never narrower than what is in it."""

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """As wide as the page needs, and a bar beside it."""
        page = self.widget()
        bar = self.verticalScrollBar()
        width = 0 if page is None else page.minimumSizeHint().width()
        return QSize(width + (0 if bar is None else bar.sizeHint().width()), 60)


class Wrapped(QLabel):
    """A label that wraps, is as narrow as it must, and can be selected and copied."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setWordWrap(True)
        self.setMinimumWidth(40)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        # As high as its text needs at this width: at the narrowest one, a sentence would
        # push the whole window off the screen.
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)


class Fold(QWidget):
    """A heading that shows and hides what is below it; also by keyboard.

    `superqt.QCollapsible` leaves what it has folded where Tab finds it, and hides the focus.

    Parameters
    ----------
    title : str
        Heading, with a mnemonic.
    content : QWidget
        What is shown when unfolded.
    """

    def __init__(self, title: str, content: QWidget) -> None:
        super().__init__()
        self.button = QToolButton()
        self.button.setObjectName("fold")
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.content = content
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.button)
        layout.addWidget(content)
        self.button.toggled.connect(self._show)
        self._show(False)

    def _show(self, on: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if on else Qt.ArrowType.RightArrow
        self.button.setArrowType(arrow)
        self.content.setVisible(on)

    def set_open(self, on: bool) -> None:
        """Fold or unfold."""
        self.button.setChecked(on)


class Problem(QFrame):
    """One line that says what went wrong, with its traceback behind a fold.

    What was merely refused has no traceback, and goes when something else is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passing = False
        self.setObjectName("problem")
        self.line = Wrapped()
        self.line.setAccessibleName("Error")
        self.details = QPlainTextEdit()
        self.details.setObjectName("details")
        self.details.setReadOnly(True)
        self.details.setTabChangesFocus(True)
        self.details.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.details.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.details.setFixedHeight(140)
        self.details.setMinimumWidth(40)
        self.details.setAccessibleName("Traceback")
        self.details.setToolTip("Where in the program it happened, to be copied into a report")
        self.fold = Fold("details", self.details)
        self.fold.button.setToolTip("Show or hide where in the program it happened")
        self.close_button = QToolButton()
        self.close_button.setObjectName("fold")
        self.close_button.setText("×")
        self.close_button.setToolTip("Dismiss")
        self.close_button.setAccessibleName("Dismiss the error")
        self.close_button.clicked.connect(self.clear)
        head = QHBoxLayout()
        head.setSpacing(2)
        head.addWidget(self.line, 1)
        head.addWidget(self.close_button, 0, Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(self.fold)
        self.hide()

    def show_failure(self, failure: Failure, *, passing: bool = False) -> None:
        """Show `failure`, folded; a `passing` one was refused before anything was done."""
        self._passing = passing
        self.line.setText(failure.summary)
        self.details.setPlainText(failure.details)
        self.fold.set_open(False)
        self.fold.setVisible(bool(failure.details) and not passing)
        self.show()

    def pass_by(self) -> None:
        """Forget what was merely refused; anything worse stays until it is dismissed."""
        if self._passing:
            self.clear()

    def clear(self) -> None:
        """Forget the failure and hide."""
        self._passing = False
        self.line.setText("")
        self.details.setPlainText("")
        self.hide()


def plain(text: str) -> str:
    """Return a tip that Qt shows as it stands: what looks like HTML would be obeyed."""
    if not Qt.mightBeRichText(text):
        return text
    return "<qt>" + html.escape(text).replace("\n", "<br>") + "</qt>"


def counted(count: int, noun: str) -> str:
    """Return "1 video", "2 videos"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def time_left(seconds: float) -> str:
    """Return a duration as people say it: "8 s", "2 min 10 s", "1 h 05 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


class ProgressLine(QWidget):
    """A bar with the time left, and a line that says what is being done."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = QProgressBar()
        self.bar.setAccessibleName("Progress")
        self.bar.setMinimumWidth(40)
        self.status = Wrapped()
        self.status.setObjectName("status")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        self.bar.hide()
        self.status.hide()
        self._event: Progress | None = None
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(_LATE_MS)
        self._late.timeout.connect(self._on_late)

    def show_late(self, event: Progress) -> None:
        """Show an event only if `rest` has not come 200 ms after the first one."""
        if self.bar.isVisible():
            self.show_progress(event)
            return
        self._event = event
        if not self._late.isActive():
            self._late.start()

    def _on_late(self) -> None:
        if self._event is not None:
            self.show_progress(self._event)

    def rest(self) -> None:
        """Take the bar away, with what it said; a text of `say` stays."""
        self._late.stop()
        if not self.bar.isHidden():
            self.say("")

    def show_progress(self, event: Progress) -> None:
        """Show an event; one without a total is shown as busy."""
        self._late.stop()
        if event.total:
            self.bar.setRange(0, event.total)
            self.bar.setValue(event.done)
            left = "" if event.remaining is None else f", {time_left(event.remaining)} left"
            self.bar.setFormat(f"{event.fraction:.0%}{left if event.done < event.total else ''}")
        else:
            self.bar.setRange(0, 0)
        self.bar.show()
        if event.message:
            self.status.setText(event.message)
            self.status.show()

    def say(self, text: str) -> None:
        """Show `text` without a bar."""
        self._late.stop()
        self.bar.hide()
        self.status.setText(text)
        self.status.setVisible(bool(text))
