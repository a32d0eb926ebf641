"""The keys: actions that napari's shortcut settings know, and the list of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app_model.types import KeyBinding
from napari.components import ViewerModel
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QAbstractButton,
    QDialog,
    QDialogButtonBox,
    QGridLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from flowrvs.errors import FlowRVSError
from napari_flowrvs.job import Failure
from napari_flowrvs.widgets.parts import Wrapped, bare, scrolled

__all__ = ["KEYS", "Commands", "KeysDialog", "Shortcut", "key_of", "set_tip"]

_PREFIX = "napari-flowrvs"


@dataclass(frozen=True, slots=True)
class Shortcut:
    """An action and the key that it has unless the user chose another.

    Attributes
    ----------
    id : str
        Name of the command.
    text : str
        What it does.
    key : str
        As napari writes keys: "Shift+N".
    repeats : bool
        A held key repeats it.
    """

    id: str
    text: str
    key: str
    repeats: bool = False


#: All of them, by heading. Letters that napari's label layers do not take themselves.
KEYS: dict[str, tuple[Shortcut, ...]] = {
    "Watching": (
        Shortcut("play", "Play or stop, at the video's own rate", "K"),
        Shortcut("forward", "Go 10 frames on", "Shift+Right", True),
        Shortcut("back", "Go 10 frames back", "Shift+Left", True),
        Shortcut("first", "Go to the first frame of the object", "Alt+Left"),
        Shortcut("last", "Go to the last frame of the object", "Alt+Right"),
        Shortcut("onion", "Show the outlines on the frames before and after", "G"),
        Shortcut("next_object", "Choose the next object", "Q"),
        Shortcut("previous_object", "Choose the object before", "Shift+Q"),
    ),
    "Range": (
        Shortcut("range_start", "The range begins on this frame", "I"),
        Shortcut("range_stop", "The range ends on this frame", "Shift+I"),
        Shortcut("range_all", "The range is the whole video", "Alt+I"),
    ),
    "Review": (
        Shortcut("next", "Go to the next doubtful frame", "N"),
        Shortcut("previous", "Go to the doubtful frame before", "Shift+N"),
        Shortcut("accept", "Accept this frame and go on", "A"),
        Shortcut("accept_here", "Accept all frames up to this one", "Shift+A"),
        Shortcut("fix", "Fix this frame: take the brush", "R"),
        Shortcut("absent", "The object is not on this frame; go on", "D"),
    ),
    "Pick": (
        Shortcut("pick", "Pick an object by clicks, a box or scribbles; again to stop", "W"),
        Shortcut("pick_back", "Take the last mark back", "Shift+W"),
    ),
    "Correct": (
        Shortcut("spread", "Spread corrections over the range, both ways", "S"),
        Shortcut("spread_forward", "Spread corrections forwards from this frame", "Shift+S"),
        Shortcut("spread_back", "Spread corrections backwards from this frame", "Shift+B"),
        Shortcut("interpolate", "Fill in between corrected frames", "T"),
        Shortcut("copy", "Copy this mask to the next frame and go there", "Shift+T"),
        Shortcut("clean", "Clean up as chosen on the page Correct", "Shift+C"),
        Shortcut("keep", "Keep what the preview shows", "Y"),
        Shortcut("discard", "Discard the preview", "Shift+Y"),
        Shortcut("undo", "Undo the last step, whichever layer is chosen", "Ctrl+Z"),
        Shortcut("redo", "Do it again", "Ctrl+Shift+Z"),
        Shortcut("cancel", "Stop what runs", "Escape"),
    ),
}

#: napari's own keys that belong to the same work; changed under "Labels layer" there.
NAPARI_KEYS = (
    ("Left, Right", "One frame back or on"),
    ("1 or E", "Eraser"),
    ("2 or P", "Brush"),
    ("3", "Polygon: click the corners, Enter ends it"),
    ("4 or F", "Fill"),
    ("5 or L", "Pick the object below the pointer"),
    ("M", "Paint a new object"),
    ("[ and ]", "Smaller or larger brush"),
)

_open: list[weakref.ref[Commands]] = []


class Commands:
    """What the actions do in one viewer.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer whose keys they are.
    on_failure : callable, optional
        Shows why something cannot be done; see `report`.
    """

    def __init__(
        self,
        viewer: Any,
        on_failure: Callable[[Failure], None] = lambda failure: None,
    ) -> None:
        self.report(on_failure)
        self._viewer = weakref.ref(bare(viewer))
        self._actions: dict[str, Callable[[], object]] = {}
        _open.append(weakref.ref(self))
        _register()

    def report(
        self,
        on_failure: Callable[[Failure], None] = lambda failure: None,
        on_success: Callable[[], None] = lambda: None,
    ) -> None:
        """Say who hears of what cannot be done, and of what could be done after all."""
        self._on_failure, self._on_success = on_failure, on_success

    def add(self, **actions: Callable[[], object]) -> None:
        """Say what actions do."""
        self._actions.update(actions)

    def run(self, name: str) -> None:
        """Do it, if this dock can; show what is wrong where it cannot be done."""
        action = self._actions.get(name)
        if action is not None:
            self.attempt(action)

    def attempt(self, action: Callable[[], object]) -> bool:
        """Call `action`; show what is wrong, and return False, where it cannot be done."""
        try:
            action()
        except FlowRVSError as error:
            self._on_failure(Failure.of(error))
            return False
        self._on_success()
        return True

    def close(self) -> None:
        """Hear no more keys, and let go of whoever heard them."""
        self._actions.clear()
        self.report()

    def belongs_to(self, viewer: Any) -> bool:
        """True for the viewer of these commands."""
        return self._viewer() is bare(viewer)


def _run(viewer: Any, name: str) -> None:
    for reference in list(_open):
        commands = reference()
        if commands is None:
            _open.remove(reference)
        elif commands.belongs_to(viewer):
            commands.run(name)


def _register() -> None:
    """Tell napari of the actions, once; keys that the user chose are kept."""
    chosen = get_settings().shortcuts.shortcuts
    for shortcut in (each for group in KEYS.values() for each in group):
        name = f"{_PREFIX}:{shortcut.id}"
        if name in _registered:
            continue
        _registered.add(name)
        command = _command(shortcut.id)
        action_manager.register_action(
            name, command, f"FlowRVS: {shortcut.text}", ViewerModel, shortcut.repeats
        )
        if name not in chosen:
            action_manager.bind_shortcut(name, KeyBinding.from_str(shortcut.key))


_registered: set[str] = set()


def _command(name: str) -> Callable[[ViewerModel], None]:
    def command(viewer: ViewerModel) -> None:
        _run(viewer, name)

    # napari finds out by the name of the function which keys repeat.
    command.__name__ = command.__qualname__ = f"flowrvs_{name}"
    return command


def key_of(name: str) -> str:
    """Return the key of an action as it is now, "" for none."""
    shortcut = next(each for group in KEYS.values() for each in group if each.id == name)
    chosen = get_settings().shortcuts.shortcuts.get(f"{_PREFIX}:{name}")
    keys = [shortcut.key] if chosen is None else [str(key) for key in chosen]
    return " or ".join(keys)


def set_tip(button: QAbstractButton, name: str) -> None:
    """Say in the tip of a button what it does, and its key."""
    shortcut = next(each for group in KEYS.values() for each in group if each.id == name)
    key = key_of(name)
    button.setToolTip(f"{shortcut.text} ({key})" if key else shortcut.text)


class KeysDialog(QDialog):
    """A list of all keys, as they are now."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Keys")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        page = QWidget()
        grid = QGridLayout(page)
        grid.setColumnStretch(1, 1)
        rows: list[tuple[str, str]] = []
        for heading, shortcuts in KEYS.items():
            rows += [("", heading)] + [(key_of(each.id), each.text) for each in shortcuts]
        rows += [("", "Drawing, by napari"), *NAPARI_KEYS]
        for i, (key, text) in enumerate(rows):
            if not key and text in (*KEYS, "Drawing, by napari"):
                label = QLabel(f"<b>{text}</b>")
                grid.addWidget(label, i, 0, 1, 2)
            else:
                grid.addWidget(QLabel(key), i, 0)
                grid.addWidget(Wrapped(text), i, 1)
        grid.setRowStretch(len(rows), 1)
        note = Wrapped("Change them in File > Preferences > Shortcuts: they begin with FlowRVS.")
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.button(QDialogButtonBox.StandardButton.Close).setIcon(QIcon())  # black on black
        buttons.rejected.connect(self.close)
        layout = QVBoxLayout(self)
        layout.addWidget(scrolled(page), 1)
        layout.addWidget(note)
        layout.addWidget(buttons)
        self.resize(420, 560)
