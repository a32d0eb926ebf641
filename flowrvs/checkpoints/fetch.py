"""Official weights from the hub: planned, downloaded, checked, and converted where need be.

Below ``<home>/models``: the result in ``<name>/``; until it is made, the downloads in
``.<name>.download/``, which is kept when something breaks and removed at the end. Nothing
is unpickled here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from flowrvs.checkpoints import hub
from flowrvs.checkpoints.files import size_text
from flowrvs.checkpoints.hub import HubFile, Listing, interruptible
from flowrvs.checkpoints.manifest import add_source, write_manifest
from flowrvs.checkpoints.registry import (
    MODELS,
    HubFolder,
    HubSource,
    is_whole,
    locate,
    models_home,
)
from flowrvs.checkpoints.shards import check_weights
from flowrvs.disk import free_bytes, storage_error
from flowrvs.errors import (
    Cancelled,
    CheckpointError,
    InputError,
    MissingPathError,
    StorageError,
)
from flowrvs.progress import CancelToken, Progress, ProgressCallback, ProgressClock

__all__ = ["FetchPlan", "fetch", "plan_fetch"]

#: Seconds between two events, and of waiting for the lock.
_EVERY = 0.1
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
    files : tuple of (HubFile, Path)
        What is downloaded, the small files first, and where each goes.
    have : int
        Bytes that an earlier attempt has left.
    result : int
        Bytes of the model in the end; estimated where it is converted.
    dit, vae : Path or None
        The files of the transformer and of the VAE; None for a model that is used as it is.
    text : Path or None
        The text encoder, where the person has it as one file.
    spare : dict of str to int
        Bytes that an own file would save, by its option.
    """

    name: str
    folder: Path
    files: tuple[Download, ...]
    have: int
    result: int
    dit: Path | None = None
    vae: Path | None = None
    text: Path | None = None
    spare: dict[str, int] = field(default_factory=dict)

    @property
    def download(self) -> int:
        """Bytes of all downloads, those that are here included."""
        return sum(file.size for file, _ in self.files)

    @property
    def need(self) -> int:
        """Bytes that must be free now: downloads stay until they are converted."""
        return self.download - self.have + (self.result if self.dit else 0) + _MARGIN

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
    name: str,
    *,
    home: str | PathLike[str] | None = None,
    dit: str | PathLike[str] | None = None,
    vae: str | PathLike[str] | None = None,
    text: str | PathLike[str] | None = None,
    cancel: CancelToken | None = None,
) -> FetchPlan:
    """Ask the hub what fetching a model takes.

    Parameters
    ----------
    name : str
        A name of `MODELS` that is on the hub.
    home : path-like, optional
        See `models_home`.
    dit, vae, text : path-like, optional
        Own files of the transformer, the VAE and the text encoder, which are not fetched
        then; see `flowrvs.checkpoints.convert.convert`.
    cancel : CancelToken, optional

    Returns
    -------
    FetchPlan

    Raises
    ------
    InputError
        No such model on the hub, or one that has no such parts.
    MissingPathError
        An own file is not there.
    NetworkError
        The hub cannot be reached or refuses.
    CheckpointError
        The repositories do not hold what they should.
    """
    source = source_of(name)
    folder = models_home(home) / name
    if isinstance(source, HubFolder):
        if any(path is not None for path in (dit, vae, text)):
            raise InputError(f"{name} is fetched whole; leave out --dit, --vae and --text.")
        with kept_on_cancel():
            return interruptible(lambda stop: _plan_folder(name, folder, source, stop), cancel)
    own = {"dit": dit, "vae": vae, "text": text}
    paths = {key: Path(path).expanduser() for key, path in own.items() if path is not None}
    for path in paths.values():
        if not path.is_file():
            raise MissingPathError(f"There is no file {path}; check the path.")

    def ask(stop: CancelToken) -> FetchPlan:
        base, weights = hub.list_files(source.base, stop), hub.list_files(source.weights, stop)
        place = downloads_of(folder)
        wanted = [(base, each, place / "base" / each) for each in _base_names(base)]
        if "text" in paths:
            wanted = [item for item in wanted if not _is_encoder(item[1])]
        for key, names in (("dit", source.dit), ("vae", source.vae)):
            if key not in paths:
                found = _first(weights, names)
                paths[key] = place / "weights" / found
                wanted.append((weights, found, paths[key]))
        files = tuple((listing.file(each, stop), path) for listing, each, path in wanted)
        have = sum(_present(file, path) for file, path in files)
        spare = {
            "--dit": sum(file.size for file, path in files if path == paths["dit"]),
            "--vae": sum(file.size for file, path in files if path == paths["vae"]),
            "--text": sum(file.size for file, _ in files if _is_encoder(file.name)),
        }
        result = _result_size(files, stop)
        result += sum(path.stat().st_size for key, path in paths.items() if own[key] is not None)
        return FetchPlan(
            name,
            folder,
            files,
            have,
            result,
            paths["dit"],
            paths["vae"],
            paths.get("text"),
            {option: size for option, size in spare.items() if size},
        )

    with kept_on_cancel():
        return interruptible(ask, cancel)


def _plan_folder(name: str, folder: Path, source: HubFolder, cancel: CancelToken) -> FetchPlan:
    """Plan a repository whose files are taken as they are; those in folders are not needed."""
    listing = hub.list_files(source.repo, cancel)
    names = [n for n in sorted(listing.entries) if "/" not in n and n.endswith(_SUFFIXES)]
    lacks = [] if "config.json" in names else ["config.json"]
    lacks += [] if any(n.endswith(".safetensors") for n in names) else ["*.safetensors"]
    if lacks:
        raise CheckpointError(f"{source.repo} lacks {', '.join(lacks)}; a newer flowrvs may help.")
    names.sort(key=lambda n: n.endswith(".safetensors"))
    place = downloads_of(folder) / "base"
    files = tuple((listing.file(each, cancel), place / each) for each in names)
    have = sum(_present(file, path) for file, path in files)
    return FetchPlan(name, folder, files, have, sum(file.size for file, _ in files))


def source_of(name: str) -> HubSource | HubFolder:
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


def _is_encoder(name: str) -> bool:
    return name.startswith("text_encoder/") and not name.endswith("config.json")


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
    if not shards:
        return sum(file.size for file, _ in files)
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


def fetch(
    name: str,
    *,
    home: str | PathLike[str] | None = None,
    dit: str | PathLike[str] | None = None,
    vae: str | PathLike[str] | None = None,
    text: str | PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Bring an official model to this machine, going on where an earlier attempt stopped.

    Parameters
    ----------
    name : str
        A name of `MODELS`.
    home : path-like, optional
        See `models_home`.
    dit, vae, text : path-like, optional
        Own files, see `plan_fetch`.
    progress : callable, optional
        Called with bytes downloaded of bytes in all, then with the steps of the conversion;
        maybe from another thread.
    cancel : CancelToken, optional
        Looked at several times a second.

    Returns
    -------
    Path
        The folder of the model; at once when it is there.

    Raises
    ------
    InputError
        No such model.
    NetworkError
        The hub cannot be reached or refuses; what has arrived is kept.
    StorageError
        The disk is too small, full or read-only.
    CheckpointError
        Files arrived damaged, are not what they should be, or are in use.
    Cancelled
        On request; what has arrived is kept.
    """
    record = MODELS.get(name)
    if record is not None and (record.hub is None or (models_home(home) / name).exists()):
        return locate(name, home=home, kind=None)
    source = source_of(name)
    repo = source.repo if isinstance(source, HubFolder) else source.base
    folder = models_home(home) / name
    report = _throttled(progress or (lambda event: None))
    with _locked(folder), kept_on_cancel():
        if is_whole(name, home=home):
            return folder  # another process has just finished
        report(Progress(0, 0, f"Asking {repo} what there is to fetch"))
        _sweep(downloads_of(folder))
        plan = plan_fetch(name, home=home, dit=dit, vae=vae, text=text, cancel=cancel)
        plan.check()
        _download_all(plan, report, cancel)
        downloads = downloads_of(folder)
        faults = check_weights(downloads / "base")
        if faults:
            raise CheckpointError(f"{repo} is not whole: {faults[0]}; try again later.")
        ready = _convert(downloads, plan, report, cancel) if plan.dit else downloads / "base"
        fetched = [
            {"repo": file.repo, "revision": file.revision, "file": file.name, "hash": file.digest}
            for file, _ in plan.files
        ]
        origin = {"model": plan.name, "fetched": fetched}
        if plan.dit:
            add_source(ready, origin)
        else:
            write_manifest(ready, origin, progress=report, cancel=cancel)
        try:
            ready.rename(folder)
        except OSError as error:
            raise storage_error(error, folder) from error
        shutil.rmtree(downloads, ignore_errors=True)
    return folder


def _sweep(downloads: Path) -> None:
    """Remove what a run that was killed while converting has left."""
    for path in downloads.iterdir():
        if path.is_dir() and path.name not in ("base", "weights"):
            shutil.rmtree(path, ignore_errors=True)


def _throttled(report: ProgressCallback) -> ProgressCallback:
    """Pass on ten events a second, every new message, and the end."""
    told, message = 0.0, ""

    def pass_on(event: Progress) -> None:
        nonlocal told, message
        now = time.monotonic()
        if now - told >= _EVERY or event.done == event.total or event.message != message:
            told, message = now, event.message
            report(event)

    return pass_on


class _Meter:
    """Turns counts of bytes into progress events."""

    def __init__(self, report: ProgressCallback, total: int, have: int) -> None:
        self._report = report
        self._clock = ProgressClock(total, have)
        self.message = ""

    def step(self, count: int) -> None:
        if count < 0:  # given up: the pace so far says nothing any more
            self._clock = ProgressClock(self._clock.total, max(0, self._clock.done + count))
        self._report(self._clock.advance(self.message, max(count, 0)))

    def say(self, text: str) -> None:
        self._report(self._clock.event(text))


def _download_all(plan: FetchPlan, report: ProgressCallback, cancel: CancelToken | None) -> None:
    meter = _Meter(report, plan.download, plan.have)
    _forget_others(plan)

    def work(stop: CancelToken) -> None:
        for file, path in plan.files:
            meter.message = f"Fetching {file.name}"
            meter.say(meter.message)
            hub.download(file, path, step=meter.step, say=meter.say, cancel=stop)

    interruptible(work, cancel)


def _forget_others(plan: FetchPlan) -> None:
    """Remove files and parts of an older version, which must not get into the model."""
    wanted = {place for file, path in plan.files for place in (path, hub.partial(file, path))}
    for folder in ("base", "weights"):
        for path in (downloads_of(plan.folder) / folder).rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()


def _convert(
    downloads: Path, plan: FetchPlan, report: ProgressCallback, cancel: CancelToken | None
) -> Path:
    from flowrvs.checkpoints.convert import convert

    assert plan.dit is not None and plan.vae is not None
    report(Progress(0, 0, f"Converting {plan.name}"))
    ready = downloads / "ready"
    convert(
        downloads / "base",
        plan.dit,
        plan.vae,
        ready,
        text=plan.text,
        name=plan.name,
        text_dtype="bfloat16",
        progress=report,
        cancel=cancel,
    )
    return ready


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from fetching the same model; the lock lies in the downloads."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    downloads = downloads_of(folder)
    with ExitStack() as stack:
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(downloads / "lock", timeout=_EVERY))
        except TimeoutError:
            raise CheckpointError(
                f"Another process is fetching {folder.name} into {folder.parent}: "
                "wait for it to end."
            ) from None
        except OSError as error:
            raise storage_error(error, downloads) from error
        try:
            yield
        finally:
            stack.close()
            if downloads.is_dir() and {each.name for each in downloads.iterdir()} <= {"lock"}:
                shutil.rmtree(downloads, ignore_errors=True)
