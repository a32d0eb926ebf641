"""Locked frames under the tools of a labels layer; neither Qt nor napari in here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flowrvs.store import Project, Provenance

__all__ = ["TOOLS", "protect"]

#: The methods of napari's labels layer that draw.
TOOLS = ("paint", "fill", "paint_polygon", "data_setitem")

#: A stroke is sixty stamps a second, and one of its refusals is enough to read.
_AGAIN_S = 2.0


def protect(
    layer: Any, project: Project, layer_id: int, on_message: Callable[[str], None]
) -> Callable[[], None]:
    """Let no tool of `layer` draw where the selected object is locked.

    Nothing is drawn then, not even on the screen, and `on_message` gets one line. The
    eraser counts as drawing the selected object.

    Parameters
    ----------
    layer : napari.layers.Labels
        A layer of `project`.
    project : Project
        The project.
    layer_id : int
        The layer's id in the project.
    on_message : callable
        Gets one line for the user.

    Returns
    -------
    callable
        Gives the tools back to napari.
    """
    last = (-1, -1, 0.0)

    def refuses(frame: int, label: Any) -> bool:
        nonlocal last
        objects = project.objects
        for one in {int(layer.selected_label), *_values(label)}:
            thing = objects.get(one)
            if thing is None or thing.layer != layer_id:
                continue
            if project.provenance(one)[frame] == Provenance.LOCKED:
                now = time.monotonic()
                if last[:2] != (one, frame) or now - last[2] > _AGAIN_S:
                    on_message(
                        f"Object {one}, {thing.name!r}, is locked on frame {frame}: unlock it "
                        "on the page Objects to draw there."
                    )
                last = (one, frame, now)
                return True
        return False

    def guarded(name: str, frame_of: Callable[[Any], int | None]) -> None:
        tool = getattr(layer, name)

        def draw(where: Any, label: Any, *rest: Any, **options: Any) -> Any:
            frame = frame_of(where)
            if frame is not None and 0 <= frame < project.video.frame_count:
                if refuses(frame, label):
                    return None
            return tool(where, label, *rest, **options)

        setattr(layer, name, draw)

    guarded("paint", lambda coord: round(float(coord[0])))
    guarded("fill", lambda coord: round(float(coord[0])))
    guarded("paint_polygon", lambda points: int(points[0][0]))
    guarded("data_setitem", lambda indices: int(indices[0].flat[0]) if indices[0].size else None)

    def release() -> None:
        for name in TOOLS:
            vars(layer).pop(name, None)

    return release


def _values(label: Any) -> set[int]:
    return {int(value) for value in np.unique(label)} if np.ndim(label) else {int(label)}
