"""What fetching a model takes: files, sizes, and the disk that must be free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from flowrvs.checkpoints import hub
from flowrvs.checkpoints.disk import free_bytes, size_text
from flowrvs.checkpoints.hub import HubFile, Listing
from flowrvs.checkpoints.hub_retry import interruptible
from flowrvs.checkpoints.registry import MODELS, HubSource, models_home
from flowrvs.errors import Cancelled, CheckpointError, InputError, StorageError
from flowrvs.progress import CancelToken

__all__ = ["Download", "FetchPlan", "downloads_of", "kept_on_cancel", "plan_fetch", "source_of"]

#: What is taken of the base's folders: nothing that runs, nothing that is unpickled.
_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
_CONFIGS = ("transformer/config.json", "vae/config.json", "text_encoder/config.json")
#: Bytes of a number in a safetensors file, where they are not those of bfloat16.
_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2}
#: Free bytes to leave over.
_MARGIN = 200 * 1000 * 1000


#: A file of the hub and its path here.
Download = tuple[HubFile, Path]


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a fetch will do; nothing has been written yet.

    Attributes
    ----------
    name : str
        The model.
    folder : Path
        Where it will be.
    base : tuple of (HubFile, Path)
        Configs, tokenizer and text encoder, and where each is downloaded to.
    dit, vae : (HubFile, Path)
        The two ``.pth`` files.
    have : int
        Bytes that an earlier attempt has left.
    result : int
        Bytes of the model once converted, estimated.
    """

    name: str
    folder: Path
    base: tuple[Download, ...]
    dit: Download
    vae: Download
    have: int
    result: int

    @property
    def files(self) -> tuple[Download, ...]:
        """All downloads, the small ones first."""
        return (*self.base, self.dit, self.vae)

    @property
    def download(self) -> int:
        """Bytes of all downloads, those that are here included."""
        return sum(file.size for file, _ in self.files)

    @property
    def need(self) -> int:
        """Bytes that must be free now: downloads and result are there at the same time."""
        return self.download - self.have + self.result + _MARGIN

    @property
    def free(self) -> int:
        """Bytes that are free where the model will be."""
        return free_bytes(self.folder)

    def check(self) -> None:
        """Raise when the disk is too small.

        Raises
        ------
        StorageError
            Less than `need` bytes are free.
        """
        free = self.free
        if free < self.need:
            raise StorageError(
                f"{self.folder.parent} has {size_text(free)} free and {self.name} needs "
                f"{size_text(self.need)} while it is made ({size_text(self.result)} afterwards): "
                "free some space, or choose another disk with FLOWRVS_HOME."
            )


def plan_fetch(
    name: str, *, home: str | PathLike[str] | None = None, cancel: CancelToken | None = None
) -> FetchPlan:
    """Ask the hub what fetching a model takes.

    Parameters
    ----------
    name : str
        A name of `MODELS` that is on the hub.
    home : path-like, optional
        See `models_home`.
    cancel : CancelToken, optional

    Returns
    -------
    FetchPlan

    Raises
    ------
    InputError
        No such model on the hub.
    NetworkError
        The hub cannot be reached or refuses.
    CheckpointError
        The repositories do not hold what they should.
    """
    source = source_of(name)
    folder = models_home(home) / name

    def ask(stop: CancelToken) -> FetchPlan:
        base, weights = hub.list_files(source.base, stop), hub.list_files(source.weights, stop)
        place = downloads_of(folder)
        files = tuple((base.file(each, stop), place / "base" / each) for each in _base_names(base))
        dit, vae = (
            (weights.file(each, stop), place / "weights" / each)
            for each in (_first(weights, source.dit), _first(weights, source.vae))
        )
        every = (*files, dit, vae)
        have = sum(_present(file, path) for file, path in every)
        return FetchPlan(name, folder, files, dit, vae, have, _result_size(every, stop))

    with kept_on_cancel():
        return interruptible(ask, cancel)


def source_of(name: str) -> HubSource:
    """Return where the model `name` is on the hub; InputError when it is not."""
    record = MODELS.get(name)
    if record is None or record.hub is None:
        names = ", ".join(key for key, each in MODELS.items() if each.hub is not None)
        raise InputError(f"There is nothing to fetch for {name!r}; what can be fetched: {names}.")
    return record.hub


def downloads_of(folder: Path) -> Path:
    """Return the folder of the downloads for a model that will be in `folder`."""
    return folder.with_name(f".{folder.name}.download")


def _base_names(listing: Listing) -> list[str]:
    names = [
        name
        for name in sorted(listing.entries)
        if name in _CONFIGS
        or (name.split("/")[0] in ("tokenizer", "text_encoder") and name.endswith(_SUFFIXES))
    ]
    lacks = [name for name in _CONFIGS if name not in names]
    if not any(name.startswith("tokenizer/") for name in names):
        lacks.append("tokenizer/")
    if not any(name.endswith(".safetensors") for name in names):
        lacks.append("text_encoder/*.safetensors")
    if lacks:
        raise CheckpointError(f"{listing.repo} lacks {', '.join(lacks)}; a newer flowrvs may help.")
    return names


def _first(listing: Listing, names: tuple[str, ...]) -> str:
    for name in names:
        if name in listing.entries:
            return name
    raise CheckpointError(
        f"{listing.repo} has no {' nor '.join(names)}; a newer flowrvs may know their new names."
    )


def _present(file: HubFile, path: Path) -> int:
    for place in (path, hub.partial(file, path)):
        if place.is_file():
            return min(place.stat().st_size, file.size)
    return 0


def _result_size(files: tuple[Download, ...], cancel: CancelToken) -> int:
    """Estimate the converted size: the text encoder becomes bfloat16, the rest stays."""
    shards = [file for file, _ in files if file.name.endswith(".safetensors")]
    counts = hub.shard_dtypes(shards[0], cancel)
    width = sum(_WIDTHS.get(dtype, 2) * count for dtype, count in counts.items())
    share = min(1.0, 2 * sum(counts.values()) / width) if width else 1.0
    encoder = sum(file.size for file in shards)
    return sum(file.size for file, _ in files) - encoder + int(encoder * share)


@contextmanager
def kept_on_cancel() -> Iterator[None]:
    """Say of a stopped fetch that it can go on."""
    try:
        yield
    except Cancelled:
        raise Cancelled(
            "Stopped on request; what has arrived is kept: fetch again to go on."
        ) from None
