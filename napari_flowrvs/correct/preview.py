"""What waits to be kept: a layer with its outlines, and the bar that asks."""

from __future__ import annotations

from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton

from napari_flowrvs.correct.presenter import CorrectPresenter
from napari_flowrvs.overlays import PreviewLabels
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.widgets.parts import Wrapped, counted, later

__all__ = ["PreviewBar"]

_COLORS = {0: (0, 0, 0, 0), 1: (1, 1, 1, 0.25), 2: (1, 1, 1, 1), None: (0, 0, 0, 0)}
_DEBOUNCE_MS = 60


class PreviewBar(QFrame):
    """Shows the preview of a correction in the viewer and asks what to do with it.

    Parameters
    ----------
    presenter : CorrectPresenter
        Whose preview.
    link : ViewerLink
        The viewer.
    commands : Commands
        Where its keys are heard.
    """

    def __init__(self, presenter: CorrectPresenter, link: ViewerLink, commands: Commands) -> None:
        super().__init__()
        self.presenter = presenter
        self._link = link
        self._array: PreviewLabels | None = None
        self._layer: Labels | None = None
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
            commands.add(**{name: action})
            button.clicked.connect(lambda _on=False, name=name: commands.run(name))
            layout.addWidget(button)
        self._soon = later(self._refresh, _DEBOUNCE_MS, self)
        presenter.preview_changed.connect(self._on_preview)
        presenter.frames_ready.connect(self._on_frames)
        presenter.job.phase_changed.connect(self._on_phase)
        self.hide()

    @property
    def layer(self) -> Labels | None:
        """The layer that shows it."""
        return self._layer

    def _on_preview(self, _preview: object) -> None:
        shown, project = self.presenter.preview, self.presenter.desk.project
        if shown is None or project is None:
            self._take_away()
        else:
            video = project.video
            shape = (video.frame_count, video.height, video.width)
            self._array = PreviewLabels(shape, shown.mask)
            self._array.ready.update(shown.frames)
            if self._layer is not None and self._layer in self._link.viewer.layers:
                self._layer.data = self._array  # a slider that moves: no new layer each time
            else:
                object_id = self.presenter.object_id
                like = None if object_id is None else self._link.layer_of(object_id)
                self._layer = self._link.add_aid("preview", self._array, _COLORS, like)
        self.setVisible(shown is not None)
        self._say()

    def _take_away(self) -> None:
        self._link.remove(self._layer)
        self._layer = self._array = None

    def _on_frames(self, start: int, stop: int) -> None:
        if self._array is not None:
            self._array.ready.update(range(start, stop))
            self._soon()

    def _refresh(self) -> None:
        self._say()
        if self._layer is not None:
            self._layer.refresh(extent=False)

    def _on_phase(self, _phase: object) -> None:
        self._say()

    def _say(self) -> None:
        preview, busy = self.presenter.preview, self.presenter.job.busy
        self.keep_button.setEnabled(preview is not None and not busy)
        self.discard_button.setText("cancel" if busy else "discard")
        if preview is not None:
            count = 0 if self._array is None else len(self._array.ready)
            self.text.setText(f"{preview.name}: {counted(count, 'frame')}")

    def close_all(self) -> None:
        """Forget the preview."""
        self._take_away()
