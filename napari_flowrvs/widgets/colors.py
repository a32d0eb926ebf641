"""Colours of objects as napari's labels layers take them, without its slow table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

__all__ = ["ObjectColors", "quick", "show_colors"]

Colors = dict[int | None, Any]


class ObjectColors(DirectLabelColormap):
    """napari's colormap of a colour a label.

    For labels of 16 bits napari makes a table of all 65 536 values by a loop in Python, 40 ms
    of a layer's every new colour; this one looks them up at once, with the same result.
    """

    def _map_precast(self, values: npt.NDArray[Any], apply_selection: bool) -> npt.NDArray[Any]:
        colors = self._values_mapping_to_minimum_values_set(apply_selection)[1]
        table = np.zeros((max(colors) + 1, 4), np.float32)
        for value, color in colors.items():
            table[value] = color
        return table[values]


def quick(meta: dict[str, Any]) -> dict[str, Any]:
    """Return a layer's arguments with an `ObjectColors` where they have a dict of colours."""
    colors = meta.get("colormap")
    return {**meta, "colormap": ObjectColors(color_dict=colors)} if type(colors) is dict else meta


def show_colors(layer: Labels, colors: Colors) -> None:
    """Give a layer other colours; one that has them already is not drawn again."""
    known = getattr(layer.colormap, "color_dict", {})
    if known.keys() == colors.keys() and all(
        np.allclose(known[label], color, atol=1e-3) for label, color in colors.items()
    ):
        return
    chosen = layer.selected_label
    layer.colormap = ObjectColors(color_dict=colors)
    layer.selected_label = chosen
