"""Official weights from the hub: planned, downloaded, checked, converted.

Below ``<home>/models``: the result in ``<name>/``; until it is made, the downloads in
``.<name>.download/``, which is kept when something breaks and removed at the end. Nothing
is unpickled here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from flowrvs.checkpoints import hub
from flowrvs.checkpoints.disk import free_bytes, size_text, storage_error
from flowrvs.checkpoints.hub import HubFile, Listing
from flowrvs.checkpoints.manifest import add_source, check_weights
from flowrvs.checkpoints.registry import MODELS, HubSource, is_whole, locate, models_home
from flowrvs.errors import Cancelled, CheckpointError, InputError, StorageError
from flowrvs.progress import CancelToken, Progress, ProgressCallback, ProgressClock

__all__ = ["FetchPlan", "fetch", "plan_fetch"]

#: What is taken of the base's folders: nothing that runs, nothing that is unpickled.
_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
_CONFIGS = ("transformer/config.json", "vae/config.json", "text_encoder/config.json")
#: Bytes of a number in a safetensors file, where they are not those of bfloat16.
_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2}
#: Free bytes to leave over.
_MARGIN = 200 * 1000 * 1000
_EVERY = 0.1


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
    source = _source(name)
    folder = models_home(home) / name

    def ask(stop: CancelToken) -> FetchPlan:
        base, weights = hub.list_files(source.base, stop), hub.list_files(source.weights, stop)
        place = _downloads(folder)
        files = tuple((base.file(each, stop), place / "base" / each) for each in _base_names(base))
        dit, vae = (
            (weights.file(each, stop), place / "weights" / each)
            for each in (_first(weights, source.dit), _first(weights, source.vae))
        )
        every = (*files, dit, vae)
        have = sum(_present(file, path) for file, path in every)
        return FetchPlan(name, folder, files, dit, vae, have, _result_size(every, stop))

    with _kept_on_cancel():
        return hub.interruptible(ask, cancel)


def fetch(
    name: str,
    *,
    home: str | PathLike[str] | None = None,
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
        return locate(name, home=home)
    source = _source(name)
    folder = models_home(home) / name
    report = _throttled(progress or (lambda event: None))
    with _locked(folder), _kept_on_cancel():
        if is_whole(name, home=home):
            return folder  # another process has just finished
        report(Progress(0, 0, f"Asking {source.weights} what there is to fetch"))
        _sweep(_downloads(folder))
        plan = plan_fetch(name, home=home, cancel=cancel)
        plan.check()
        _download_all(plan, report, cancel)
        downloads = _downloads(folder)
        faults = check_weights(downloads / "base")
        if faults:
            raise CheckpointError(f"{source.base} is not whole: {faults[0]}; try again later.")
        _convert(downloads, folder, plan, report, cancel)
    return folder


def _source(name: str) -> HubSource:
    record = MODELS.get(name)
    if record is None or record.hub is None:
        names = ", ".join(key for key, each in MODELS.items() if each.hub is not None)
        raise InputError(f"There is nothing to fetch for {name!r}; what can be fetched: {names}.")
    return record.hub


def _downloads(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.download")


def _sweep(downloads: Path) -> None:
    """Remove what a run that was killed while converting has left."""
    for path in downloads.iterdir():
        if path.is_dir() and path.name not in ("base", "weights"):
            shutil.rmtree(path, ignore_errors=True)


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

    def work(stop: CancelToken) -> None:
        for file, path in plan.files:
            meter.message = f"Fetching {file.name}"
            meter.say(meter.message)
            _forget_others(file, path)
            hub.download(file, path, step=meter.step, say=meter.say, cancel=stop)

    hub.interruptible(work, cancel)


def _forget_others(file: HubFile, path: Path) -> None:
    """Remove parts of an older version of the file."""
    for part in path.parent.glob(f"{path.name}.*.part"):
        if part != hub.partial(file, path):
            part.unlink()


def _convert(
    downloads: Path,
    folder: Path,
    plan: FetchPlan,
    report: ProgressCallback,
    cancel: CancelToken | None,
) -> None:
    from flowrvs.checkpoints.convert import convert

    report(Progress(0, 0, f"Converting {plan.name}"))
    ready = downloads / "ready"
    convert(
        downloads / "base",
        plan.dit[1],
        plan.vae[1],
        ready,
        name=plan.name,
        text_dtype="bfloat16",
        progress=report,
        cancel=cancel,
    )
    fetched = [
        {"repo": file.repo, "revision": file.revision, "file": file.name, "hash": file.digest}
        for file, _ in plan.files
    ]
    add_source(ready, {"model": plan.name, "fetched": fetched})
    try:
        ready.rename(folder)
    except OSError as error:
        raise storage_error(error, folder) from error
    shutil.rmtree(downloads, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from fetching the same model; the lock lies in the downloads."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    downloads = _downloads(folder)
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


@contextmanager
def _kept_on_cancel() -> Iterator[None]:
    try:
        yield
    except Cancelled:
        raise Cancelled(
            "Stopped on request; what has arrived is kept: fetch again to go on."
        ) from None
