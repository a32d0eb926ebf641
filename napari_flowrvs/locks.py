"""Locked frames under the tools of a labels layer; neither Qt nor napari in here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flowrvs.store import Project

__all__ = ["TOOLS", "protect"]

#: The methods of napari's labels layer through which every tool draws: brush, eraser, fill
#: and polygon through the first, other plugins through the second.
TOOLS = ("_apply_mask_to_data", "data_setitem")

#: A stroke is sixty stamps a second, and one of its refusals is enough to read.
_AGAIN_S = 2.0


def protect(
    layer: Any, project: Project, layer_id: int, on_message: Callable[[str], None]
) -> Callable[[], None]:
    """Let no tool of `layer` change the pixels of an object where it is locked.

    The project would not take them anyway; here they are spared on the screen, too, and
    `on_message` gets one line. A brush draws around what is locked. Where the object that it
    draws is locked itself, it draws nothing; an eraser counts as drawing the selected object.

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
    labels = project.labels(layer_id)
    last: tuple[int, int, float] = (-1, -1, 0.0)

    def tell(object_id: int, frame: int) -> None:
        nonlocal last
        now = time.monotonic()
        if last[:2] != (object_id, frame) or now - last[2] > _AGAIN_S:
            on_message(
                f"Object {object_id}, {project.objects[object_id].name!r}, is locked on frame "
                f"{frame}: unlock it on the page Objects to draw there."
            )
        last = (object_id, frame, now)

    def drawn(labels: Iterable[int]) -> set[int]:
        return {int(layer.selected_label), *labels}

    inside = layer._apply_mask_to_data

    def apply(data: Any, mask: Any, label: Any, place: Sequence[Any]) -> Any:
        copied = False
        for i, frame in enumerate(range(place[0].start, place[0].stop)):
            locked = labels.locked(frame)
            if not locked:
                continue
            part = mask[i]
            banned = drawn([int(label)]).intersection(locked)
            spared = part if banned else part & np.isin(data[i], locked)
            if not spared.any():
                continue
            tell(min(banned) if banned else int(data[i][spared][0]), frame)
            if not copied:  # napari's own, and perhaps one shape for all frames
                mask, copied = np.array(mask), True
            mask[i] &= ~spared
        return inside(data, mask, label, place)

    setitem = layer.data_setitem

    def assign(indices: Any, value: Any, *rest: Any, **options: Any) -> Any:
        frames = {int(t) for t in np.unique(indices[0])}
        for frame in sorted(frames):
            locked = labels.locked(frame)
            values = {int(one) for one in np.unique(value)}
            banned = drawn(values).intersection(locked) if locked else set()
            if banned:
                tell(min(banned), frame)
                return None
        return setitem(indices, value, *rest, **options)

    layer._apply_mask_to_data = apply
    layer.data_setitem = assign

    def release() -> None:
        for name in TOOLS:
            vars(layer).pop(name, None)

    return release
