"""What waits to be kept: a layer with its outlines, and the bar that asks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton

from napari_flowrvs.correct.presenter import Shown
from napari_flowrvs.desk import Desk
from napari_flowrvs.job import Job
from napari_flowrvs.overlays import PreviewLabels
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.widgets.parts import Wrapped, counted, later

__all__ = ["PreviewBar"]

_COLORS = {0: (0, 0, 0, 0), 1: (1, 1, 1, 0.25), 2: (1, 1, 1, 1), None: (0, 0, 0, 0)}
#: Of marks: their rim, this, not this.
_MARK_COLORS = {3: (0, 0, 0, 0.8), 4: (0.2, 0.9, 0.3, 1), 5: (1, 0.25, 0.25, 1)}
_DEBOUNCE_MS = 60


class Proposes(Protocol):
    """A presenter whose masks wait to be kept."""

    desk: Desk
    job: Job
    preview_changed: Any  # signals
    frames_ready: Any

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
        Where its keys are heard.
    lasting : bool
        Leave the layer where it is, empty, when nothing waits: making one takes napari a
        tenth of a second.
    """

    def __init__(
        self, presenter: Proposes, link: ViewerLink, commands: Commands, *, lasting: bool = False
    ) -> None:
        super().__init__()
        self._lasting = lasting
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
        """The layer that shows it, or did."""
        return self._layer

    def _on_preview(self, _preview: object) -> None:
        shown, project = self.presenter.preview, self.presenter.desk.project
        if shown is None or project is None:
            if self._array is not None and self._lasting:
                self._array.ready.clear()
                self._refresh()
            else:
                self._take_away()
        else:
            self._array = self._labels(shown)
            self._array.ready.update(shown.frames)
            self._show()
        self.setVisible(shown is not None)
        self._say()

    def _labels(self, shown: Shown | None) -> PreviewLabels:
        project = self.presenter.desk.project
        assert project is not None
        video = project.video
        shape = (video.frame_count, video.height, video.width)
        mask_of = (lambda t: np.zeros(shape[1:], bool)) if shown is None else shown.mask
        return PreviewLabels(shape, mask_of, getattr(shown, "draw", None))

    def _show(self) -> None:
        object_id = self.presenter.object_id
        like = None if object_id is None else self._link.layer_of(object_id)
        colors = _COLORS | _MARK_COLORS if self._lasting else _COLORS
        self._layer = self._link.show_aid(self._layer, "preview", self._array, colors, like)

    def make_ready(self) -> None:
        """Have the layer there before anything waits."""
        if self.presenter.desk.project is not None and self._array is None:
            self._array = self._labels(None)
            self._show()

    def _take_away(self) -> None:
        self._link.hide_aid(self._layer)
        self._array = None

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
        """Forget the preview, and take its layer away."""
        self._take_away()
