"""Models by name: of flowrvs, in a folder, or of another package; and which trackers there are."""

from __future__ import annotations

import importlib.util
from os import PathLike
from pathlib import Path
from typing import Any

from flowrvs.checkpoints import MODELS, locate
from flowrvs.checkpoints.registry import is_whole, models_home
from flowrvs.errors import InputError, MissingPathError
from flowrvs.plugins import Plugin, find_plugin, load_plugin, plugins
from flowrvs.records import Segmenter

__all__ = [
    "CLASSICAL",
    "default_tracker",
    "load_segmenter",
    "segmenter_plugin",
    "tracker_names",
]

#: What picks without any weights.
CLASSICAL = "classical"

#: Options of `flowrvs.load` that mean nothing to other packages' models, and what leaves them out.
_OURS = {
    "memory": "auto",
    "text_precision": "full",
    "portrait_box": False,
    "clamp": True,
    "fast": False,
    "sparse": False,
    "compile": False,
    "lora": None,
}


def segmenter_plugin(model: str | PathLike[str]) -> Plugin | None:
    """Return the plugin that a model's name means; None for a model of flowrvs or a folder.

    The models that flowrvs knows by name come first, then folders, then plugins.
    """
    name = str(model)
    if name in MODELS or Path(name).expanduser().is_dir() or (models_home() / name).is_dir():
        return None
    return find_plugin("segmenter", name)


def load_segmenter(
    model: str | PathLike[str] = "tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    **options: Any,
) -> Segmenter:
    """Load what finds sentences: a model of flowrvs, or one that another package brings.

    Parameters
    ----------
    model : str or path-like
        A name that ``flowrvs models list`` shows, or a folder in diffusers layout.
    device, dtype, **options
        As for `flowrvs.load`; models of other packages know `device` and `dtype` alone.

    Returns
    -------
    Segmenter

    Raises
    ------
    MissingPathError
        There is no such model.
    PluginError
        Another package's model is broken.
    InputError
        An option is not for this model.
    FlowRVSError
        As for `flowrvs.load`.
    """
    plugin = segmenter_plugin(model)
    if plugin is not None:
        for key, value in options.items():
            if value != _OURS.get(key, value):
                raise InputError(
                    f"--{key.replace('_', '-')} is for models of flowrvs, which {plugin.name} of "
                    f"{plugin.package} is not; leave it out."
                )
        segmenter: Segmenter = load_plugin(plugin, device=device, precision=dtype)
        return segmenter
    try:
        locate(model)  # a wrong name is told before the seconds that importing torch takes
    except MissingPathError as error:
        if str(model) in MODELS:
            raise
        found = plugins("segmenter")
        ours = "".join(f", {plugin.name}" for plugin in found if plugin.ours)
        others = ", ".join(plugin.name for plugin in found if not plugin.ours)
        raise MissingPathError(
            f"{str(error).rstrip('.')}{ours}{others and f', or of other packages ({others})'}."
        ) from None
    from flowrvs.pipelines import load

    return load(model, device=device, dtype=dtype, **options)


def tracker_names() -> dict[str, bool]:
    """Return what can pick, by name, and whether it is ready for use as far as is known.

    A tracker of another package, whose weights are its own affair, counts as ready unless it is
    broken.
    """
    torch = importlib.util.find_spec("torch") is not None
    found = {CLASSICAL: True}
    for plugin in plugins("tracker"):
        ready = not plugin.fault and (not plugin.ours or (torch and is_whole(plugin.name)))
        found[plugin.name] = found.get(plugin.name, False) or ready
    return found


def default_tracker() -> str:
    """Return what picks where nobody says it: the first of our own trackers that is here."""
    torch = importlib.util.find_spec("torch") is not None
    ours = [plugin.name for plugin in plugins("tracker") if plugin.ours and not plugin.fault]
    # Small ones first: an answer should come soon.
    order = ("sam2.1-tiny", "sam2.1-small", "edgetam", "sam2.1-base-plus", "sam2.1-large")
    ours.sort(key=lambda name: order.index(name) if name in order else len(order))
    return next((name for name in ours if torch and is_whole(name)), CLASSICAL)
