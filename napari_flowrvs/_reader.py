"""The reader that the manifest names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["get_reader"]

_Path = str | os.PathLike[str]


def get_reader(path: _Path | list[str]) -> Callable[[Any], list[Any]] | None:
    """Return a function that reads `path`, or None when it is not for this plugin.

    Parameters
    ----------
    path : path or list of str
        A video file, a folder of images, a MeViS-style split or a video folder of one, or
        a ``.flowrvs`` project. Of a list that napari would stack, nothing is read.
    """
    from napari_flowrvs.layers import recognise

    if isinstance(path, list):
        if len(path) != 1:
            return None
        path = path[0]
    if Path(path).is_dir() and recognise(path) is None:
        return None
    return _read


def _read(path: _Path | list[str]) -> list[Any]:
    from napari.utils.notifications import show_info

    from napari_flowrvs.layers import layers_of, project_home, recognise
    from napari_flowrvs.project_labels import make_layer

    where = path[0] if isinstance(path, list) else path
    # napari takes layers as well as layer data; only a layer can be of a class of its own.
    layers: list[Any] = [
        make_layer(layer) if project_home(layer) else layer for layer in layers_of(where, show_info)
    ]
    if recognise(where) in ("split", "splits", "video of a split") and len(layers) > 1:
        # Looking makes no files; a project beside the split is made when it is asked for.
        show_info(
            "These masks are for looking. To correct them: File > IO Utilities > Correct a dataset."
        )
    # An empty list would make napari try other readers; this tells it that all is well.
    return layers or [(None,)]
