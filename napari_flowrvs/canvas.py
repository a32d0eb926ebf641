"""What is drawn over the video without being a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Labels, Layer

from napari_flowrvs.overlays import Frames
from napari_flowrvs.viewer import ViewerLink

__all__ = ["CanvasOverlay", "Color"]

#: RGBA from 0 to 1.
Color = tuple[float, float, float, float]

#: Nodes with a higher number are drawn later; napari counts its layers.
_ON_TOP = 100_000


class CanvasOverlay:
    """Small numbers in colours over the frame that is shown, on top of all layers.

    It is a node of the canvas: a layer takes napari a tenth of a second to add and two to
    remove, and would stand in a person's list although it only helps to look. Nothing is drawn
    where frames are not what is seen (in 3D, with other axes), or where there is no canvas.

    Parameters
    ----------
    link : ViewerLink
        The viewer and the desk.
    colors : sequence of tuple of 4 float
        The colour of every number, from 0 on.
    """

    def __init__(self, link: ViewerLink, colors: Sequence[Color]) -> None:
        self._link = link
        self._colors = colors
        self._like: Layer | None = None
        self._node: Any = None
        #: What is shown; None while nothing is.
        self.data: Frames | None = None
        dims = link.viewer.dims.events
        self._heard: tuple[Any, ...] = (dims.ndisplay, dims.order)
        for event in self._heard:
            event.connect(self._on_axes)
        link.desk.frame_changed.connect(self._on_frame)

    @property
    def shown(self) -> bool:
        """True while it is in the canvas."""
        return self._node is not None and bool(self._node.visible)

    def show(self, data: Frames, object_id: int | None) -> None:
        """Show `data` where the layer of an object lies; of a new object, where the video does."""
        layer = None if object_id is None else self._link.layer_of(object_id)
        self.data, self._like = data, layer or self._link.reference()
        selection = self._link.viewer.layers.selection
        if layer is not None and not isinstance(selection.active, Labels):
            selection.active = layer  # an image layer has keys of its own, Y among them
        self.refresh()

    def hide(self) -> None:
        """Show nothing."""
        if self.data is not None:
            self.data = self._like = None
            self.refresh()

    def close(self) -> None:
        """Leave the canvas for good."""
        self.hide()
        for event in self._heard:
            event.disconnect(self._on_axes)
        self._heard = ()
        self._link.desk.frame_changed.disconnect(self._on_frame, missing_ok=True)
        if self._node is not None:
            self._node.parent = None

    def _on_axes(self, _event: Any = None) -> None:
        if self.data is not None:
            self._link.soon(self.refresh)  # napari makes another node first

    def _on_frame(self, _frame: int) -> None:
        if self.data is not None:
            self.refresh()

    def refresh(self) -> None:
        """Draw the frame again."""
        visual = None if self.data is None else self._visual()
        if self.data is None or visual is None:
            if self._node is not None:
                self._node.visible = False
            return
        if self._node is None:
            self._node = _node(self._colors)
        # The layer's own transform: it goes along wherever the layer is moved.
        self._node.transform = visual.transform
        self._node.parent = visual.parent
        self._node.set_data(self.data.frame(self._link.desk.frame))
        self._node.visible = True

    def _visual(self) -> Any:
        """Return the node of the layer that it lies on; None where it would show no frame."""
        dims = self._link.viewer.dims
        window = getattr(self._link.viewer, "window", None)
        shown = getattr(window, "_qt_viewer", None)  # none of a viewer without, or that is closed
        if shown is None or dims.ndisplay != 2 or dims.displayed != (dims.ndim - 2, dims.ndim - 1):
            return None
        if self._like not in self._link.viewer.layers:
            self._like = self._link.reference()  # a person has removed it
        layer = shown.canvas.layer_to_visual.get(self._like)
        return None if layer is None else layer.node


def _node(colors: Sequence[Color]) -> Any:
    """Return an image of single bytes, each in its colour."""
    from vispy.color import Colormap
    from vispy.scene.visuals import Image

    many = len(colors)
    node = Image(
        np.zeros((1, 1), np.uint8),
        cmap=Colormap(colors, np.linspace(0, 1, many + 1), "zero"),
        clim=(-0.5, many - 0.5),
        interpolation="nearest",
        texture_format="auto",
    )
    node.set_gl_state("translucent", depth_test=False, cull_face=False)
    node.order = _ON_TOP
    return node
