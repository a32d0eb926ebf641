"""The head of the dock: which video, what to open, and the keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QLabel,
    QMenu,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_flowrvs.widgets.import_dialog import show_import
from napari_flowrvs.widgets.keys import KeysDialog
from napari_flowrvs.widgets.parts import form_layout, row

__all__ = ["VideoHead"]

_NO_VIDEO = "no video yet"
_TIP = "The layer to look at: any image layer with frames"
_VIDEO_FILTER = (
    "Videos (*.mp4 *.m4v *.mov *.avi *.mkv *.webm *.mpg *.mpeg *.ts *.wmv *.gif *.tif *.tiff);;"
    "All files (*)"
)


def _button(text: str, tip: str) -> QToolButton:
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.setProperty("tight", True)  # the name of the video wants the room
    button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return button


class VideoHead(QWidget):
    """One row: the list of videos, *open* and *keys*.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    choices : callable
        Gives the videos as pairs of name and layer.
    """

    #: A path was chosen; "" when the user thought better of it.
    path_chosen = Signal(str)
    #: Where a copy of the project is to be written; "" as above.
    copy_chosen = Signal(str)

    def __init__(self, viewer: Any, choices: Callable[[], list[tuple[str, Any]]]) -> None:
        super().__init__()
        self._viewer = viewer
        self._project: str | None = None
        # ComboBox of magicgui: its choices are layers, not names, which may repeat.
        self.videos = ComboBox(choices=lambda _widget: choices())
        self.videos.tooltip = _TIP
        combo = self.videos.native
        combo.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        combo.setMinimumWidth(60)
        combo.setAccessibleName("Video")
        combo.setPlaceholderText(_NO_VIDEO)
        self.open_button = _button(
            "&open", "Open a video, a folder, a project or a dataset; save a copy"
        )
        self.open_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.menu = QMenu(self)
        self.menu.addAction("&video file…", self._open_file)
        self.menu.addAction("&image folder or MeViS folder…", self._open_folder)
        self.menu.addAction("&project (.flowrvs)…", self._open_project)
        self.menu.addAction("&correct a dataset…", self._import)
        self.menu.addSeparator()
        self.menu.addAction("&sample clip", self._open_sample)
        self.menu.addSeparator()
        self.copy_action = self.menu.addAction("save a co&py of the project…", self._copy)
        self.copy_action.setEnabled(False)
        self.open_button.setMenu(self.menu)
        self.keys_button = _button("&keys", "All keys")
        self.keys_button.clicked.connect(lambda: KeysDialog(self).show())
        # Not the first letter, which is a menu's, nor "i": keys use it with Alt.
        label = QLabel("vid&eo:")
        label.setBuddy(combo)
        form = form_layout()
        form.addRow(label, row(combo, self.open_button, self.keys_button))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)

    def tell(self, name: str, project: str | None) -> None:
        """Tell the whole name of the video, too long for the list, and where its project is."""
        lines = [name, f"project: {project}" if project else "", _TIP]
        self.videos.tooltip = "\n".join(line for line in lines if line)
        self._project = project
        self.copy_action.setEnabled(project is not None)

    def _open_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a video", "", _VIDEO_FILTER)
        self.path_chosen.emit(path)

    def _open_folder(self) -> None:
        title = "Open a folder of images"
        self.path_chosen.emit(QFileDialog.getExistingDirectory(self, title))

    def _open_project(self) -> None:
        title = "Open a project (.flowrvs)"
        self.path_chosen.emit(QFileDialog.getExistingDirectory(self, title))

    def _copy(self) -> None:
        here = Path(self._project or "video.flowrvs")
        suggested = str(here.with_name(f"{here.stem}-copy.flowrvs"))
        path, _ = QFileDialog.getSaveFileName(
            self, "Save a copy of the project", suggested, "Projects (*.flowrvs)"
        )
        self.copy_chosen.emit(path)

    def _import(self) -> None:
        show_import(self._viewer, self.window())

    def _open_sample(self) -> None:
        self._viewer.open_sample("napari-flowrvs", "shapes")
