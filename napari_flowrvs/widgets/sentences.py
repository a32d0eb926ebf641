"""The sentences: one a line, with those of earlier sessions at hand."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QPlainTextEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_flowrvs.presenters.memory import Memory

__all__ = ["SentencesPanel"]

_SHOWN = 20


class SentencesPanel(QWidget):
    """An edit with one sentence a line and a menu of recent ones.

    Tab leaves the edit, Ctrl+Return runs, Ctrl+Up and Ctrl+Down go through the history.

    Parameters
    ----------
    memory : Memory
        Where sentences are remembered.
    """

    run_requested = Signal()
    changed = Signal()

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory
        self._suggested: tuple[str, ...] = ()
        self._position = -1
        label = QLabel("se&ntences, one a line:")
        # Made as children in the order in which Tab visits them.
        self.edit = QPlainTextEdit(self)
        self.edit.setPlaceholderText("the red circle moving left")
        self.edit.setTabChangesFocus(True)
        self.edit.setFixedHeight(self.edit.fontMetrics().lineSpacing() * 4 + 14)
        self.edit.setMinimumWidth(40)
        self.edit.setAccessibleName("Sentences, one a line")
        self.edit.setToolTip(
            "What to find; every line becomes a layer of its own.\n"
            "Ctrl+Return runs, Ctrl+Up and Ctrl+Down bring back earlier sentences."
        )
        self.edit.installEventFilter(self)
        self.edit.textChanged.connect(self.changed)
        label.setBuddy(self.edit)
        self.history = QToolButton(self)
        self.history.setText("histor&y")
        self.history.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.history.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.history.setToolTip("Sentences used before, and those that come with a sample")
        self._menu = QMenu(self)
        self._menu.aboutToShow.connect(self._fill_menu)
        self.history.setMenu(self._menu)
        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 0, 0)
        head.addWidget(label, 1)
        head.addWidget(self.history)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.edit)

    @property
    def texts(self) -> tuple[str, ...]:
        """The lines as they stand, blank ones included."""
        return tuple(self.edit.toPlainText().splitlines())

    def set_texts(self, texts: tuple[str, ...]) -> None:
        """Replace all lines."""
        self.edit.setPlainText("\n".join(texts))

    def suggest(self, texts: tuple[str, ...]) -> None:
        """Offer `texts` (of a sample clip) at the top of the history."""
        self._suggested = texts

    def remember(self, texts: tuple[str, ...]) -> None:
        """Add `texts` to the history."""
        self._memory.add_sentences(texts)
        self._position = -1

    def _recent(self) -> list[str]:
        return list(dict.fromkeys([*self._suggested, *self._memory.sentences]))

    def _fill_menu(self) -> None:
        self._menu.clear()
        recent = self._recent()[:_SHOWN]
        for text in recent:
            shown = text if len(text) <= 60 else f"{text[:59]}\u2026"
            action = self._menu.addAction(shown.replace("&", "&&"))
            action.triggered.connect(lambda _=False, t=text: self.insert(t))
        if not recent:
            self._menu.addAction("no sentences yet").setEnabled(False)
        elif self._memory.sentences:
            self._menu.addSeparator()
            self._menu.addAction("forget all").triggered.connect(self._memory.forget_sentences)

    def insert(self, text: str) -> None:
        """Put `text` on a line of its own, after what is there."""
        lines = [line for line in self.texts if line.strip()]
        if text not in lines:
            self.set_texts((*lines, text))
        self.edit.setFocus()
        cursor = self.edit.textCursor()
        cursor.movePosition(cursor.MoveOperation.End)
        self.edit.setTextCursor(cursor)

    def _recall(self, step: int) -> None:
        recent = self._recent()
        if not recent:
            return
        self._position = min(max(self._position + step, -1), len(recent) - 1)
        cursor = self.edit.textCursor()
        cursor.setPosition(cursor.block().position())
        cursor.movePosition(cursor.MoveOperation.EndOfBlock, cursor.MoveMode.KeepAnchor)
        cursor.insertText("" if self._position < 0 else recent[self._position])

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Take the edit's shortcuts before the edit does."""
        if watched is self.edit and isinstance(event, QKeyEvent):
            if event.type() not in (QEvent.Type.KeyPress, QEvent.Type.ShortcutOverride):
                return False
            control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
            key = event.key()
            ours = control and key in (
                Qt.Key.Key_Return,
                Qt.Key.Key_Enter,
                Qt.Key.Key_Up,
                Qt.Key.Key_Down,
            )
            if not ours:
                return False
            if event.type() == QEvent.Type.ShortcutOverride:
                event.accept()
            elif key == Qt.Key.Key_Up:
                self._recall(1)
            elif key == Qt.Key.Key_Down:
                self._recall(-1)
            else:
                self.run_requested.emit()
            return True
        return super().eventFilter(watched, event)
