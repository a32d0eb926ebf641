"""The models that flowrvs knows by name."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from flowrvs.errors import CheckpointError, MissingPathError

__all__ = ["MODELS", "ModelRecord", "locate"]

_BUNDLED = Path(__file__).parent / "weights"

#: Files without which a folder is no pipeline.
_NEEDED = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model that can be asked for by name.

    Attributes
    ----------
    name : str
    summary : str
        One line for ``flowrvs models list``.
    folder : Path or None
        Where its weights are, when they come with the package.
    """

    name: str
    summary: str
    folder: Path | None = None


MODELS: dict[str, ModelRecord] = {
    "tiny": ModelRecord(
        "tiny",
        "bundled; moving shapes of the synthetic world only; runs on a CPU",
        _BUNDLED / "tiny",
    ),
}


def locate(model: str | PathLike[str]) -> Path:
    """Find the folder of a model.

    Parameters
    ----------
    model : str or path-like
        A name of `MODELS`, or a folder in diffusers layout.

    Returns
    -------
    Path

    Raises
    ------
    MissingPathError
        Neither a known name nor a folder.
    CheckpointError
        The folder lacks parts of a pipeline.
    """
    record = MODELS.get(str(model))
    if record is not None and record.folder is not None:
        folder = record.folder
    else:
        folder = Path(model)
    if not folder.is_dir():
        raise MissingPathError(
            f"No model {str(model)!r}: it is neither a folder nor one of {', '.join(MODELS)}."
        )
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is not a FlowRVS pipeline: it lacks {', '.join(missing)}; "
            "give a folder in diffusers layout."
        )
    return folder
