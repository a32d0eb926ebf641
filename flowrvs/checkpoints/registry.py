"""The models that flowrvs knows by name, and where their folders are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from flowrvs.checkpoints.files import read_json
from flowrvs.checkpoints.shards import check_indices
from flowrvs.errors import CheckpointError, InputError, MissingPathError

__all__ = [
    "MODELS",
    "TRACKERS",
    "HubFolder",
    "HubSource",
    "Kind",
    "ModelRecord",
    "check_settings",
    "is_whole",
    "kind_of",
    "locate",
    "models_home",
    "read_config",
]

_BUNDLED = Path(__file__).parent / "weights"

# Settings of the hub that must be numbers.
_NUMBERS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")

#: Files without which a folder is no pipeline.
_NEEDED = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
)

#: What a tracker's ``config.json`` calls itself.
TRACKERS = ("sam2_video", "edgetam_video", "sam3_tracker_video", "sam3_video")

#: A segmenter finds sentences, a tracker marks and key frames (`flowrvs.protocols`).
Kind = Literal["segmenter", "tracker"]

#: Whose classes a pipeline may be made of.
_LIBRARIES = (None, "diffusers", "transformers", "flowrvs", "flowrvs.pipelines")

#: The largest number, and count of layers, that a config may hold.
_MOST, _MOST_LAYERS = 10**7, 1000

#: Either of these holds the words of the tokenizer.
_VOCABULARIES = ("tokenizer.json", "spiece.model")


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A repository of the Hugging Face hub whose files are used as they are.

    Attributes
    ----------
    repo : str
        It holds ``config.json`` and ``*.safetensors``.
    """

    repo: str


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where FlowRVS weights are on the Hugging Face hub, to be converted.

    Attributes
    ----------
    base : str
        Repository with the configs, the tokenizer and the text encoder.
    weights : str
        Repository with the two ``.pth`` files.
    dit, vae : tuple of str
        Names of those files, the newest first; the first that is there is taken.
    """

    base: str
    weights: str
    dit: tuple[str, ...]
    vae: tuple[str, ...]


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
    hub : HubSource, HubFolder or None
        Where ``flowrvs models fetch`` gets it from.
    kind : {"segmenter", "tracker"}
    """

    name: str
    summary: str
    folder: Path | None = None
    hub: HubSource | HubFolder | None = None
    kind: Kind = "segmenter"


def _tracker(name: str, summary: str, repo: str) -> ModelRecord:
    return ModelRecord(name, f"clicks and memory; {summary}", hub=HubFolder(repo), kind="tracker")


MODELS: dict[str, ModelRecord] = {
    "tiny": ModelRecord(
        "tiny",
        "bundled; moving shapes of the synthetic world only; runs on a CPU",
        folder=_BUNDLED / "tiny",
    ),
    "mevis": ModelRecord(
        "mevis",
        "the official weights, trained on MeViS; any video; wants a GPU",
        hub=HubSource(
            base="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            weights="xmz111/FlowRVS",
            dit=("FlowRVS_dit_mevis.pth", "mevis_dit.pth"),
            vae=("tuned_vae.pth", "decoder.pth"),
        ),
    ),
    **{
        record.name: record
        for record in (
            _tracker("sam2.1-tiny", "the quickest SAM 2.1", "facebook/sam2.1-hiera-tiny"),
            _tracker("sam2.1-small", "a little better than tiny", "facebook/sam2.1-hiera-small"),
            _tracker(
                "sam2.1-base-plus", "between small and large", "facebook/sam2.1-hiera-base-plus"
            ),
            _tracker(
                "sam2.1-large", "the best SAM 2.1; wants a GPU", "facebook/sam2.1-hiera-large"
            ),
            _tracker("edgetam", "for weak machines; needs timm", "yonigozlan/EdgeTAM-hf"),
            _tracker("sam3-tracker", "SAM 3; its terms must be accepted", "facebook/sam3"),
        )
    },
}


def models_home(home: str | PathLike[str] | None = None) -> Path:
    """Return the folder that models are fetched into; it need not exist.

    Parameters
    ----------
    home : path-like, optional
        Instead of the environment variable ``FLOWRVS_HOME``, without which it is the
        user's data folder.

    Returns
    -------
    Path
        ``<home>/models``.
    """
    chosen = os.environ.get("FLOWRVS_HOME") if home is None else home
    if chosen:
        return Path(chosen).expanduser() / "models"
    import platformdirs

    return platformdirs.user_data_path("flowrvs", appauthor=False) / "models"


def locate(
    model: str | PathLike[str],
    *,
    home: str | PathLike[str] | None = None,
    kind: Kind | None = "segmenter",
) -> Path:
    """Find the folder of a model.

    Parameters
    ----------
    model : str or path-like
        A name of `MODELS`, a folder in diffusers layout (of a tracker: with its
        ``config.json``), or the name of such a folder in `models_home`.
    home : path-like, optional
        See `models_home`.
    kind : {"segmenter", "tracker"}, optional
        What is wanted; None for either.

    Returns
    -------
    Path

    Raises
    ------
    MissingPathError
        Neither a known name nor a folder, or a model that has to be fetched first.
    InputError
        The model is of the other kind.
    CheckpointError
        The folder lacks parts of a model.
    """
    name = str(model)
    record = MODELS.get(name)
    if record is not None and record.folder is not None:
        folder = record.folder
    elif record is not None:
        folder = models_home(home) / name
        if not folder.is_dir():
            raise MissingPathError(
                f"The model {name} is not on this machine: get it with "
                f"'flowrvs models fetch {name}', or give the folder of a model."
            )
    else:
        folder = _by_path(name, home)
    found = kind_of(folder, kind or "segmenter") if record is None else record.kind
    if kind not in (None, found):
        raise InputError(
            f"{model} follows marks and key frames and takes no sentence: choose it for picking "
            "and spreading."
            if found == "tracker"
            else f"{model} takes sentences, not marks: choose it for finding, or give a tracker."
        )
    if found == "tracker":
        _check_tracker(folder)
        return folder
    missing = _missing(folder)
    if missing:
        hint = (
            f"remove the folder and run 'flowrvs models fetch {name}'"
            if record is not None and record.hub is not None
            else "give a folder in diffusers layout"
        )
        raise CheckpointError(
            f"{folder} is not a FlowRVS pipeline: it lacks {', '.join(missing)}; {hint}."
        )
    _check_configs(folder)
    return folder


def kind_of(folder: Path, default: Kind = "segmenter") -> Kind:
    """Return what the model in a folder is, whole or not; `default` where nothing says it."""
    if (folder / "model_index.json").exists():
        return "segmenter"
    return "tracker" if (folder / "config.json").exists() else default


def _check_tracker(folder: Path) -> None:
    weights = [path.name for path in folder.glob("*.safetensors") if path.is_file()]
    faults = [] if (folder / "config.json").is_file() else ["config.json"]
    faults += [] if weights else ["*.safetensors"]
    faults += [fault.split(" ", 1)[0] for fault in check_indices(folder)]
    if faults:
        raise CheckpointError(
            f"{folder} is no whole tracker: it lacks {', '.join(faults)}; remove the folder and "
            "fetch or copy the model again."
        )
    path = folder / "config.json"
    found = read_config(path).get("model_type")
    if found not in TRACKERS:
        raise CheckpointError(
            f"{path} is of a model {found!r}, none of {', '.join(TRACKERS)}; give another folder."
        )


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a model's config, whose numbers are of a size that models have.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CheckpointError
        It is damaged, or asks for more than memory holds.
    """
    try:
        config = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; download it again.") from error
    _check_numbers(path, config)
    return config


def _check_numbers(path: Path, config: dict[str, Any]) -> None:
    for key, value in config.items():
        most = _MOST_LAYERS if key.startswith("num_") else _MOST
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict):
                _check_numbers(path, entry)
            elif isinstance(entry, (int, float)) and not abs(entry) <= most:
                raise CheckpointError(f"{path} has an impossible {key}; download it again.")


def _check_configs(folder: Path) -> None:
    index, *configs = (folder / name for name in _NEEDED)
    for path in configs:
        read_config(path)
    for name, value in read_config(index).items():
        if isinstance(value, list) and (len(value) != 2 or value[0] not in _LIBRARIES):
            raise CheckpointError(
                f"{index} makes {name} of {value[:1]}, not of diffusers or transformers; get the "
                "model from its authors."
            )


def _missing(folder: Path) -> list[str]:
    """Return what `folder` lacks; weights are looked for by name only."""
    missing = [part for part in _NEEDED if not (folder / part).is_file()]
    for part in ("transformer", "vae", "text_encoder"):
        if f"{part}/config.json" not in missing and not any((folder / part).glob("*.safetensors")):
            missing.append(f"{part}/*.safetensors")
    # Without its vocabulary transformers makes an empty tokenizer, to which all words are one.
    if not any((folder / "tokenizer" / name).is_file() for name in _VOCABULARIES):
        missing.append("tokenizer/tokenizer.json")
    return missing + [fault.split(" ", 1)[0] for fault in check_indices(folder)]


def _by_path(name: str, home: str | PathLike[str] | None) -> Path:
    folder = Path(name).expanduser()
    if name.strip() and folder.is_dir():
        return folder
    placed = models_home(home)
    if name and Path(name).name == name and (placed / name).is_dir():
        return placed / name
    raise MissingPathError(
        f"No model {name!r}: it is neither a folder nor one of {', '.join(MODELS)}."
    )


def is_whole(name: str, *, home: str | PathLike[str] | None = None) -> bool:
    """Return True when `locate` finds the model `name`."""
    try:
        locate(name, home=home, kind=None)
    except (CheckpointError, MissingPathError):
        return False
    return True


def check_settings() -> None:
    """Refuse settings with which huggingface_hub, and so diffusers, cannot be imported.

    Raises
    ------
    InputError
        Names the variable.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "")
    try:
        # The host is parsed when it is asked for, and so is the port.
        _ = urlsplit(endpoint).hostname, urlsplit(endpoint).port
    except ValueError as error:
        raise InputError(
            f"HF_ENDPOINT is {endpoint!r}, which is no address ({error}); unset it, or give one "
            "such as https://huggingface.co."
        ) from error
    for name in _NUMBERS:
        value = os.environ.get(name)
        if value is not None and not value.strip().isdecimal():
            raise InputError(f"{name} is {value!r}; unset it, or give whole seconds.")
