"""What waits to be kept, drawn over the video, and the bar that asks."""

from __future__ import annotations

from typing import Any, Protocol

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton

from napari_flowrvs.canvas import CanvasOverlay, Color
from napari_flowrvs.desk import Desk
from napari_flowrvs.job import Job
from napari_flowrvs.overlays import PreviewLabels, Shown
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.widgets.parts import Wrapped, counted, later

__all__ = ["PreviewBar"]

#: Nothing, inside, outline; and of marks: their rim, this, not this.
_COLORS: tuple[Color, ...] = (
    *((0, 0, 0, 0), (1, 1, 1, 0.25), (1, 1, 1, 1)),
    *((0, 0, 0, 0.8), (0.2, 0.9, 0.3, 1), (1, 0.25, 0.25, 1)),
)
_DEBOUNCE_MS = 60


class Proposes(Protocol):
    """A presenter whose masks wait to be kept."""

    desk: Desk
    job: Job
    preview_changed: Any  # a signal

    @property
    def preview(self) -> Shown | None:
        """What waits."""
        ...

    @property
    def object_id(self) -> int | None:
        """The object that it is of; None for a new one."""
        ...

    def keep(self) -> None:
        """Write it."""
        ...

    def discard(self) -> None:
        """Forget it."""
        ...


class PreviewBar(QFrame):
    """Shows masks that wait in the viewer and asks what to do with them.

    Parameters
    ----------
    presenter : CorrectPresenter or PickPresenter
        Whose preview.
    link : ViewerLink
        The viewer.
    commands : Commands
        Shows what cannot be done.
    """

    def __init__(self, presenter: Proposes, link: ViewerLink, commands: Commands) -> None:
        super().__init__()
        self.presenter = presenter
        self.overlay = CanvasOverlay(link, _COLORS)
        self._labels: PreviewLabels | None = None
        self.setObjectName("preview")
        self.text = Wrapped()
        self.keep_button = QPushButton("keep")
        self.discard_button = QPushButton("discard")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(6, 3, 6, 3)
        layout.setSpacing(4)
        layout.addWidget(self.text, 1)
        for button, name, action in (
            (self.keep_button, "keep", presenter.keep),
            (self.discard_button, "discard", presenter.discard),
        ):
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            set_tip(button, name)
            # Not the key's command: of two previews the button means its own.
            button.clicked.connect(lambda _on=False, action=action: commands.attempt(action))
            layout.addWidget(button)
        self._soon = later(self._refresh, _DEBOUNCE_MS, self)
        presenter.preview_changed.connect(self._on_preview)
        presenter.job.phase_changed.connect(self._on_phase)
        self.hide()

    def _on_preview(self, _preview: object) -> None:
        shown, project = self.presenter.preview, self.presenter.desk.project
        if shown is None or project is None:
            self._labels = None
            self.overlay.hide()
        else:
            shape = (project.video.height, project.video.width)
            self._labels = PreviewLabels(shape, shown.mask, getattr(shown, "draw", None))
            self._labels.ready.update(shown.frames)
            self.overlay.show(self._labels, self.presenter.object_id)
        self.setVisible(shown is not None)
        self._say()

    def note_frames(self, start: int, stop: int) -> None:
        """Show masks that were worked out meanwhile, or anew."""
        if self._labels is not None:
            self._labels.ready.update(range(start, stop))
            self._soon()

    def _refresh(self) -> None:
        self._say()
        self.overlay.refresh()

    def _on_phase(self, _phase: object) -> None:
        self._say()

    def _say(self) -> None:
        preview, busy = self.presenter.preview, self.presenter.job.busy
        self.keep_button.setEnabled(preview is not None and not busy)
        self.discard_button.setText("cancel" if busy else "discard")
        if preview is not None:
            count = 0 if self._labels is None else len(self._labels.ready)
            more = "" if count == 1 else f": {counted(count, 'frame')}"
            self.text.setText(f"{preview.name}{more}")
