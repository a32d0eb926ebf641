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
from os import PathLike
from pathlib import Path

from flowrvs.checkpoints import hub
from flowrvs.checkpoints.fetch_plan import (
    FetchPlan,
    downloads_of,
    kept_on_cancel,
    plan_fetch,
    source_of,
)
from flowrvs.checkpoints.hub_retry import interruptible
from flowrvs.checkpoints.manifest import add_source, check_weights
from flowrvs.checkpoints.registry import MODELS, is_whole, locate, models_home
from flowrvs.disk import storage_error
from flowrvs.errors import CheckpointError
from flowrvs.progress import CancelToken, Progress, ProgressCallback, ProgressClock

__all__ = ["FetchPlan", "fetch", "plan_fetch"]

#: Seconds between two events, and of waiting for the lock.
_EVERY = 0.1


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
    source = source_of(name)
    folder = models_home(home) / name
    report = _throttled(progress or (lambda event: None))
    with _locked(folder), kept_on_cancel():
        if is_whole(name, home=home):
            return folder  # another process has just finished
        report(Progress(0, 0, f"Asking {source.weights} what there is to fetch"))
        _sweep(downloads_of(folder))
        plan = plan_fetch(name, home=home, cancel=cancel)
        plan.check()
        _download_all(plan, report, cancel)
        downloads = downloads_of(folder)
        faults = check_weights(downloads / "base")
        if faults:
            raise CheckpointError(f"{source.base} is not whole: {faults[0]}; try again later.")
        _convert(downloads, folder, plan, report, cancel)
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
