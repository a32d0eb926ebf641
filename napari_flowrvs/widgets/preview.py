"""What waits to be kept: a layer with its outlines, and the bar that asks."""

from __future__ import annotations

from napari.layers import Labels, Layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton

from napari_flowrvs.ghosts import Preview
from napari_flowrvs.layers import KEY
from napari_flowrvs.presenters.correct import CorrectPresenter
from napari_flowrvs.widgets.desk_link import DeskLink
from napari_flowrvs.widgets.keys import Commands, set_tip
from napari_flowrvs.widgets.parts import Wrapped

__all__ = ["PreviewBar"]

_COLORS = {0: (0, 0, 0, 0), 1: (1, 1, 1, 0.25), 2: (1, 1, 1, 1), None: (0, 0, 0, 0)}
_DEBOUNCE_MS = 60


class PreviewBar(QFrame):
    """Shows the preview of a correction in the viewer and asks what to do with it.

    Parameters
    ----------
    presenter : CorrectPresenter
        Whose preview.
    link : DeskLink
        The viewer and the desk.
    commands : Commands
        Where its keys are heard.
    """

    def __init__(self, presenter: CorrectPresenter, link: DeskLink, commands: Commands) -> None:
        super().__init__()
        self.presenter = presenter
        self._link = link
        self._array: Preview | None = None
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
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_DEBOUNCE_MS)
        self._later.timeout.connect(self._refresh)
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
            self._array = Preview((video.frame_count, video.height, video.width), shown.mask)
            self._array.ready.update(shown.frames)
            if self._layer is not None and self._layer in self._link.link.viewer.layers:
                self._layer.data = self._array  # a slider that moves: no new layer each time
            else:
                self._add_layer(self._array)
        self.setVisible(shown is not None)
        self._say()

    def _add_layer(self, array: Preview) -> None:
        meta = {
            "name": "preview",
            "colormap": _COLORS,
            "opacity": 1.0,
            "metadata": {KEY: {"role": "preview"}},
        }
        like = None if self.presenter.object_id is None else self._object_layer()
        if like is not None:
            meta |= {"scale": like.scale, "translate": like.translate, "units": like.units}
        layers = self._link.link.viewer.layers
        active = layers.selection.active
        if like is not None and not isinstance(active, Labels):
            active = like  # an image layer has keys of its own, Y among them
        self._layer = Layer.create(array, meta, "labels")
        self._layer.editable = False
        layers.append(self._layer)
        layers.selection.active = active

    def _object_layer(self) -> Labels | None:
        object_id = self.presenter.object_id
        return None if object_id is None else self._link.layer_of(object_id)

    def _take_away(self) -> None:
        layers = self._link.link.viewer.layers
        if self._layer is not None and self._layer in layers:
            layers.remove(self._layer)
        self._layer = self._array = None

    def _on_frames(self, start: int, stop: int) -> None:
        if self._array is not None:
            self._array.ready.update(range(start, stop))
            if not self._later.isActive():
                self._later.start()

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
            self.text.setText(f"{preview.name}: {count} frame{'s' * (count != 1)}")

    def close_all(self) -> None:
        """Forget the preview."""
        self._take_away()
