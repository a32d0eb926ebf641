"""A quicker way for the brush of napari's labels layer; neither Qt nor napari in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flowrvs.store import LabelsArray

__all__ = ["quicken"]

#: Largest value of a label.
_MAX_LABEL = 65535


def quicken(layer: Any, array: LabelsArray) -> Callable[[], None]:
    """Let brush, eraser, fill and polygon of a labels layer draw on the project directly.

    For data that is no numpy array napari reads a box, changes a copy, writes the copy back,
    and looks three times for where it is shown; and it reads a whole frame to know its dtype.
    That is half of a stamp's time, and a copy that is written back would undo what a model
    wrote in between. Whatever is out of the ordinary (views from the side, contours, brushes
    through many frames, locked objects) goes napari's way.

    Parameters
    ----------
    layer : napari.layers.Labels
        A layer that shows `array`.
    array : LabelsArray
        The labels of a project.

    Returns
    -------
    callable
        Gives the tools back to napari.
    """
    inside, in_range = layer._paint_region_with_mask, layer._validate_label_in_range
    seen: tuple[Any, int] = (None, -1)

    def shown() -> int:
        nonlocal seen
        if seen[0] is not layer._slice:  # napari makes a new one whenever it could be another
            seen = (layer._slice, int(layer._get_pt_not_disp()[0]))
        return seen[1]

    def paint(
        place: tuple[slice, slice, slice],
        mask: Any,
        label: int,
        dims: Sequence[int],
        refresh: bool = True,
        region_data: Any = None,
    ) -> None:
        frames, rows, columns = place
        t = frames.start
        if not _is_plain(layer, frames) or array.locked(t):
            inside(place, mask, label, dims, refresh, region_data)
            return
        label = int(label)
        only = None
        if layer.preserve_labels:
            only = int(layer._get_preserve_labels_source_label(label))
        drawn = array.paint(t, rows, columns, mask, label, only)
        if drawn is None:
            return
        before, changed = drawn
        # Emits `events.paint` for whoever listens; the project has its own history.
        layer._save_history(
            layer._history_atom_for_mask_paint(place, before[None], changed[None], label)
        )
        if t == shown():
            image = layer._slice.image
            image.raw[rows, columns][changed] = label
            color = layer.colormap._data_to_texture(np.array([label], np.uint16))[0]
            image.view[rows, columns][changed] = color
        layer._accumulate_updated_slice(place)
        if refresh:
            layer._partial_labels_refresh()

    def quickly_in_range(label: int) -> None:
        if not 0 <= label <= _MAX_LABEL:
            in_range(label)

    layer._paint_region_with_mask = paint
    layer._validate_label_in_range = quickly_in_range

    def release() -> None:
        for name in ("_paint_region_with_mask", "_validate_label_in_range"):
            vars(layer).pop(name, None)

    return release


def _is_plain(layer: Any, frames: slice) -> bool:
    return (
        frames.stop - frames.start == 1
        and layer.contour == 0
        and tuple(layer._slice_input.displayed) == (1, 2)
        and layer._slicing_state.loaded
        and not layer._slice.empty
    )
