"""Models in the home of models that nobody fetched: trained here, or placed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from flowrvs.checkpoints.registry import MODELS, models_home
from flowrvs.disk import parse_json, read_regular
from flowrvs.errors import FlowRVSError

__all__ = ["ADAPTER_FILE", "PlacedModel", "placed_models"]

#: The name that diffusers and others give such files.
ADAPTER_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True, slots=True)
class PlacedModel:
    """A folder in the home of models.

    Attributes
    ----------
    name : str
    folder : Path
    summary : str
        What its training wrote about it, in one line.
    base : str
        The folder of the model that it was trained from; empty where it does not say.
    adapter : bool
        It holds an adapter (LoRA) for `base`, not a model.
    """

    name: str
    folder: Path
    summary: str = "placed by hand"
    base: str = ""
    adapter: bool = False


def placed_models(home: str | PathLike[str] | None = None) -> list[PlacedModel]:
    """Return what lies in `models_home` beside the models known by name, by name."""
    place = models_home(home)
    folders = sorted(place.iterdir()) if place.is_dir() else []
    return [
        _placed(folder)
        for folder in folders
        if folder.is_dir() and folder.name not in MODELS and not folder.name.startswith(".")
    ]


def _placed(folder: Path) -> PlacedModel:
    adapter = (folder / ADAPTER_FILE).is_file()
    try:
        card = parse_json(read_regular(folder / "training.json", 2**20))
        base, step, day = str(card["base"]), int(card["step"]), str(card["date"])[:10]
        samples, score = int(card["samples"]), card.get("J&F")
        before = card.get("before")
        first = before.get("J&F") if isinstance(before, dict) else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError, FlowRVSError):
        return PlacedModel(folder.name, folder, adapter=adapter)
    if not (base + day).isprintable():
        return PlacedModel(folder.name, folder, adapter=adapter)
    kind = "an adapter (--lora) for" if adapter else "from"
    scored = f", J&F {score:.3f} held out" if isinstance(score, float) else ""
    if scored and isinstance(first, float):
        scored += f" ({first:.3f} before)"
    summary = f"{kind} {Path(base).name}, {step} steps on {samples} samples{scored}, {day}"
    return PlacedModel(folder.name, folder, summary, base, adapter)
