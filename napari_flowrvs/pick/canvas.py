"""The tool Pick in the viewer: what the mouse means while it is held."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from typing import Any

import numpy as np
from napari.layers import Layer

from flowrvs.editing.pick import Mark
from napari_flowrvs.pick.presenter import PickPresenter
from napari_flowrvs.viewer import ViewerLink

__all__ = ["MarkTool"]

_CLICK = 4.0  # canvas pixels within which a mouse that was pressed and let go did not move
_GRAB = 8.0  # canvas pixels around a mark within which it is taken hold of
_KEYS = {"Enter": "keep", "Escape": "discard"}


class MarkTool:
    """Turns clicks and drags on the picture into marks.

    A click is "this", with Shift or the right button "not this"; a drag is a box, with Ctrl a
    scribble, with Shift a scribble "not this". A mark that is dragged moves; with Alt a click
    takes it away. With the scissors a click is a corner. The layer that is active does not paint
    meanwhile; choosing one of its tools puts this one away.

    Parameters
    ----------
    presenter : PickPresenter
        Takes the marks.
    link : ViewerLink
        The viewer.
    attempt : callable
        Calls something and shows why it cannot be done.
    """

    def __init__(
        self,
        presenter: PickPresenter,
        link: ViewerLink,
        attempt: Callable[[Callable[[], object]], bool],
    ) -> None:
        self.presenter = presenter
        #: A plain drag is a scribble, and one with Ctrl a box.
        self.scribbles = False
        #: A plain click is a corner of an outline that snaps to edges.
        self.scissors = False
        self._link = link
        self._attempt = attempt
        self._held: Layer | None = None
        presenter.active_changed.connect(self._on_active)
        link.viewer.layers.selection.events.active.connect(self._hold)

    def close(self) -> None:
        """Let go of the viewer."""
        if self.presenter.active:
            self.presenter.stop()
        self._link.viewer.layers.selection.events.active.disconnect(self._hold)

    # -- the layer that is active --------------------------------------------------------

    def _on_active(self, active: bool) -> None:
        viewer = self._link.viewer
        for callbacks, call in (
            (viewer.mouse_drag_callbacks, self._on_mouse),
            (viewer.mouse_move_callbacks, self._on_hover),
        ):
            if active:
                callbacks.append(call)
            elif call in callbacks:
                callbacks.remove(call)
        self._hold()

    def _hold(self, _event: Any = None) -> None:
        """Keep the active layer from painting, and drags from moving the camera."""
        active = self._link.viewer.layers.selection.active if self.presenter.active else None
        if active is self._held:
            return
        if self._held is not None:
            self._held.events.mode.disconnect(self._on_mode)
            self._held.mouse_pan = str(self._held.mode) == "pan_zoom"
            for key in _KEYS:
                self._held.bind_key(key, None)
        self._held = active
        if active is not None:
            active.mode = "pan_zoom"
            active.mouse_pan = False
            active.events.mode.connect(self._on_mode)
            for key, name in _KEYS.items():
                active.bind_key(key, self._command(name), overwrite=True)

    def _on_mode(self, _event: Any = None) -> None:
        if self._held is not None and str(self._held.mode) != "pan_zoom":
            self.presenter.stop()

    def _command(self, name: str) -> Callable[[Any], None]:
        def command(_layer: Any) -> None:
            if name == "discard" and not self.presenter.waiting:
                self.presenter.stop()
            else:
                self._attempt(getattr(self.presenter, name))

        return command

    # -- the mouse -----------------------------------------------------------------------

    def _on_mouse(self, _viewer: Any, event: Any) -> Generator[None, None, None]:
        reference = self._link.reference()
        if reference is None or self._link.viewer.dims.ndisplay != 2 or event.button not in (1, 2):
            return
        modifiers = [name for name in ("Shift", "Control", "Alt") if name in event.modifiers]
        right = event.button == 2
        start = np.array(event.pos, float)
        way = [self._pixel(reference, event)]
        touched = self._touched(reference, way[0])
        moved = False
        yield
        while event.type == "mouse_move":
            moved = moved or float(np.hypot(*(np.array(event.pos) - start))) > _CLICK
            way.append(self._pixel(reference, event))
            yield
        end = self._pixel(reference, event)
        if end != way[-1]:  # a busy machine loses moves, and the last one counts most
            moved = moved or float(np.hypot(*(np.array(event.pos) - start))) > _CLICK
            way.append(end)
        self._attempt(lambda: self._end(way, touched, moved, right, modifiers))

    def _on_hover(self, _viewer: Any, event: Any) -> None:
        reference = self._link.reference()
        shown = self._link.viewer.dims.ndisplay == 2 and self.presenter.here
        if self.scissors and self.presenter.corners and reference is not None and shown:
            self.presenter.hover(*self._pixel(reference, event))

    def _end(
        self,
        way: list[tuple[float, float]],
        touched: int | None,
        moved: bool,
        right: bool,
        modifiers: Collection[str],
    ) -> None:
        """Do what a mouse that was let go has meant."""
        if touched is not None and not moved and "Alt" in modifiers:
            self.presenter.remove(touched)
        elif touched is not None and moved and not modifiers:
            self.presenter.move(touched, *way[-1])
        elif not moved and self.scissors and not right and not modifiers:
            self.presenter.corner(*way[0])
        elif not moved:
            self.presenter.add(Mark.point(*way[0], not right and "Shift" not in modifiers))
        elif "Shift" in modifiers or right:
            self.presenter.add(Mark.scribble(way, False))
        elif ("Control" in modifiers) != self.scribbles:
            self.presenter.add(Mark.scribble(way))
        else:
            self.presenter.add(Mark.box(*way[0], *way[-1]))

    def _pixel(self, reference: Layer, event: Any) -> tuple[float, float]:
        """Return x and y on the frame, the nearest within it."""
        y, x = reference.world_to_data(event.position)[-2:]
        height, width = reference.data.shape[1:3]
        # The middle of napari's first pixel is at 0, that of a mark's at one half.
        x, y = np.clip([x + 0.5, y + 0.5], 0, [width - 1e-3, height - 1e-3])
        return float(x), float(y)

    def _touched(self, reference: Layer, at: tuple[float, float]) -> int | None:
        """Return which mark lies under the mouse, the last one of several."""
        if not self.presenter.here:
            return None
        zoom = self._link.viewer.scene.camera.zoom * float(reference.scale[-1])
        for index in reversed(range(len(self.presenter.marks))):
            points = np.array(self.presenter.marks[index].points)
            if np.hypot(*(points - at).T).min() * zoom <= _GRAB:
                return index
        return None
