"""What can be done about a layer that is no video, or whose labels belong to no project."""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Labels
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_flowrvs.find.presenter import Stray
from napari_flowrvs.layers import NoVideo, as_video, no_video
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.parts import ProgressLine, Wrapped, row

__all__ = ["LayerOffers"]

_BEGIN = "Begin with a video: open above, or drop a file on the window."


class LayerOffers(QWidget):
    """Follows the chosen layer; nothing is shown where all is well.

    Parameters
    ----------
    link : ViewerLink
        The viewer.
    progress : ProgressLine
        Says what a layer is not.
    """

    #: Labels are to be copied into the project of the video; see `stray`.
    take_asked = Signal()

    def __init__(self, link: ViewerLink, progress: ProgressLine) -> None:
        super().__init__()
        self._link = link
        self._progress = progress
        self._labels: Labels | None = None
        self._taken: Labels | None = None
        self.take_button = QPushButton("Take over")
        self.take_button.setToolTip(
            "Copy these labels into the project of the video; a value is an object"
        )
        self.take_button.clicked.connect(self._take)
        self.hint = Wrapped()
        self.index = QSpinBox()
        self.index.setAccessibleName("Channel or plane")
        self.index.setToolTip("Which of its channels or planes is the video")
        self.use_button = QPushButton("use as the video")
        self.use_button.setToolTip("Put a layer of frames, height and width in its place")
        self.use_button.clicked.connect(self._use)
        self.use_row = row(self.index, self.use_button, stretch=1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for part in (self.take_button, self.hint, self.use_row):
            layout.addWidget(part)
        link.layer_chosen.connect(self._on_layer)
        link.videos_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Look at the chosen layer again."""
        self._on_layer(self._link.viewer.layers.selection.active)

    def _on_layer(self, layer: Any) -> None:
        videos = bool(self._link.videos())
        self._show(no_video(layer) if isinstance(layer, Image) else None, videos)
        before = self._labels
        # Those of a project are of a class of their own.
        stray = type(layer) is Labels and videos
        self._labels = layer if stray else None
        self.take_button.setVisible(stray)
        if stray:
            self.take_button.setText(f"Take over {layer.name!r}".replace("&", "&&"))
        if stray and layer is not before:
            self._progress.say(
                f"The layer {layer.name!r} is not part of a project: nothing here works on it, "
                "and nobody saves it. On the page Find, Take over copies it into the project, and "
                "Draw by hand makes a layer that is."
            )

    def _show(self, found: NoVideo | None, videos: bool) -> None:
        line = found.reason if found is not None else "" if videos else _BEGIN
        self.hint.setText(line)
        self.hint.setVisible(bool(line))
        self.use_row.setVisible(found is not None and found.axis is not None)
        count = 1 if found is None else found.count
        self.index.setVisible(count > 1)
        self.index.setRange(1, count)
        self.index.setSuffix(f" of {count}")

    def _use(self) -> None:
        """Put a layer of frames, height and width in the place of the chosen one."""
        layer = self._link.viewer.layers.selection.active
        found = no_video(layer) if isinstance(layer, Image) else None
        if found is not None and found.axis is not None:
            made = as_video(layer, self.index.value() - 1)
            self._link.remove(layer)
            self._link.add(made)

    def _take(self) -> None:
        self._taken = self._labels
        self.take_asked.emit()

    def stray(self) -> Stray | None:
        """Return the labels that are to be taken over."""
        layer = self._taken
        return None if layer is None else Stray(layer.name, layer.data, self._link.desk.frame)

    def settle(self, *, taken: bool) -> None:
        """End a taking over; labels that were copied are hidden, for they are seen twice."""
        layer, self._taken = self._taken, None
        if layer is not None and taken:
            layer.visible = False
