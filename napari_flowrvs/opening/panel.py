"""The head of the dock: which video, what to open, and the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox
from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QLabel,
    QMenu,
    QMessageBox,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from flowrvs.errors import StorageError
from flowrvs.store import Project
from napari_flowrvs.desk import Desk
from napari_flowrvs.importing.panel import show_import
from napari_flowrvs.job import Phase
from napari_flowrvs.layers import KEY, LayerTuple, source_of
from napari_flowrvs.opening.presenter import OpenPresenter
from napari_flowrvs.projects import open_projects
from napari_flowrvs.source import VideoSource
from napari_flowrvs.viewer import ViewerLink, home_of
from napari_flowrvs.widgets.keys import Commands, KeysDialog
from napari_flowrvs.widgets.parts import ProgressLine, form_layout, plain, row

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
    button.setProperty("tight", True)  # the name of the video wants the width
    button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return button


class VideoHead(QWidget):
    """One row: the list of videos, *open* and *keys*.

    Parameters
    ----------
    link : ViewerLink
        The viewer.
    presenter : OpenPresenter
        Opens and copies away from this thread.
    desk : Desk
        Whose project is copied.
    commands : Commands
        Shows what cannot be done.
    progress : ProgressLine
        Says how it goes.
    """

    #: Another video was chosen, or the layer of the same one has changed.
    video_changed = Signal()

    def __init__(
        self,
        link: ViewerLink,
        presenter: OpenPresenter,
        desk: Desk,
        commands: Commands,
        progress: ProgressLine,
    ) -> None:
        super().__init__()
        self.presenter = presenter
        self._link = link
        self._desk = desk
        self._commands = commands
        self._progress = progress
        self._build()
        self.videos.changed.connect(self._on_chosen)
        link.videos_changed.connect(self.refresh)
        link.video_seen.connect(self.choose)
        link.video_added.connect(self._look_beside)
        presenter.found.connect(self._on_found)
        desk.project_changed.connect(self._name_project)
        presenter.opened.connect(self._on_opened)
        presenter.noted.connect(show_info)
        presenter.job.progressed.connect(progress.show_progress)
        presenter.job.phase_changed.connect(self._on_phase)

    def _build(self) -> None:
        # ComboBox of magicgui: its choices are layers, not names, which may repeat.
        self.videos = ComboBox(choices=lambda _widget: self._link.videos())
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
        self.copy_action = self.menu.addAction("save a co&py of the project…", lambda: self._copy())
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

    # -- which video ---------------------------------------------------------------------

    @property
    def layer(self) -> Any:
        """The layer of the chosen video; None without one."""
        return self.videos.value

    @property
    def source(self) -> VideoSource | None:
        """The chosen video."""
        return None if self.layer is None else source_of(self.layer)

    @property
    def about(self) -> dict[str, Any]:
        """What the layer of the chosen video says of it: its rate, its sentences."""
        return {} if self.layer is None else self.layer.metadata.get(KEY) or {}

    def refresh(self) -> None:
        """Offer the videos that there are; a choice is kept as long as it can be."""
        before = self.layer
        with self.videos.changed.blocked():
            self.videos.reset_choices()
            layers = [layer for _, layer in self._link.videos()]
            if layers:
                self.videos.value = before if before in layers else layers[0]
        self._on_chosen()

    def choose(self, layer: Any) -> None:
        """Choose the video that is looked at; None changes nothing."""
        if layer is not None and layer is self.layer:
            self._link.follow(layer, chosen=True)
        elif layer is not None and layer in self.videos.choices:
            self.videos.value = layer

    def _on_chosen(self, value: Any = None) -> None:
        self._link.follow(self.layer, chosen=value is not None)
        self._name_project()
        self.video_changed.emit()

    def _name_project(self, _project: Any = None) -> None:
        """Say the whole name of the video, too long for the list, and where its project is."""
        source, project = self.source, self._desk.project
        lines = ["" if source is None else source.name]
        lines += [] if project is None else [f"project: {project.path}"]
        self.videos.tooltip = plain("\n".join(line for line in (*lines, _TIP) if line))
        self.copy_action.setEnabled(project is not None)

    # -- opening and copying -------------------------------------------------------------

    def open_path(self, path: str | Path) -> None:
        """Open anything the plugin knows, away from this thread; "" is ignored."""
        if path and not self.presenter.job.busy:
            self._commands.attempt(lambda: self.presenter.open(path))

    def copy_project(self, path: str, project: Project | None = None) -> None:
        """Save a copy of a project, the desk's by default, away from this thread; "" is ignored."""
        if path and not self.presenter.job.busy:
            project = project or self._desk.project
            self._commands.attempt(lambda: self.presenter.copy(project, path))

    def _on_phase(self, phase: Phase) -> None:
        self.open_button.setEnabled(phase is Phase.IDLE)
        if phase is Phase.IDLE:
            self._progress.rest()

    def _on_opened(self, layers: list[LayerTuple]) -> None:
        for layer in layers:
            self._link.add_soon(layer)

    def _look_beside(self, layer: Any) -> None:
        """Show what was drawn on a video in an earlier session."""
        source = source_of(layer)
        if source is not None and home_of(layer) is None and not self._link.project_of(layer):
            self.presenter.look_beside(source, layer)

    def _on_found(self, project: Project, layer: Any) -> None:
        if layer in self._link.viewer.layers:
            self._link.note_home(layer, project)
            self._link.show_project(project, layer)
        elif project not in self._link.projects:
            holder = self._link.holder
            self._commands.attempt(lambda: open_projects.release(project, holder))

    def may_close(self) -> bool:
        """Ask about projects that cannot be saved where they belong; True to let them go."""
        for project in self._link.projects:
            if not project.writable:
                continue
            trouble = project.storage_error
            try:
                project.flush()
            except StorageError as error:
                trouble = error
            if trouble is None:
                continue
            answer = self.ask(
                f"{project.path.name} cannot be saved: {trouble}\n"
                "What was drawn last is in memory only. Save a copy before you close?"
            )
            if answer == "copy":
                self._copy(project)
            if answer != "close":
                return False
        return True

    def ask(self, question: str, *, copy: bool = True) -> str:
        """Ask whether to "copy", where that can be done, "close" or "cancel"."""
        box = QMessageBox(self)
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setText(question)
        role = QMessageBox.ButtonRole.AcceptRole
        copies = box.addButton("Save a copy…", role) if copy else None
        close = box.addButton("Close anyway", QMessageBox.ButtonRole.DestructiveRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.exec()
        return {copies: "copy", close: "close"}.get(box.clickedButton(), "cancel")

    def _open_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a video", "", _VIDEO_FILTER)
        self.open_path(path)

    def _open_folder(self) -> None:
        self.open_path(QFileDialog.getExistingDirectory(self, "Open a folder of images"))

    def _open_project(self) -> None:
        self.open_path(QFileDialog.getExistingDirectory(self, "Open a project (.flowrvs)"))

    def _copy(self, project: Project | None = None) -> None:
        project = project or self._desk.project
        here = Path("video.flowrvs") if project is None else project.path
        suggested = str(here.with_name(f"{here.stem}-copy.flowrvs"))
        title = "Save a copy of the project"
        kinds = "Projects (*.flowrvs)"
        path = QFileDialog.getSaveFileName(self, title, suggested, kinds)[0]
        self.copy_project(path, project)

    def _import(self) -> None:
        show_import(self._link.viewer, self.window())

    def _open_sample(self) -> None:
        self._link.viewer.open_sample("napari-flowrvs", "shapes")
