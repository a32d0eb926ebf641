"""Asking the hub again after a fault, and saying what to do when it does not help."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants

# HTTPError is that of whichever HTTP library huggingface_hub is built on.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
)

from flowrvs.errors import FlowRVSError, NetworkError
from flowrvs.progress import CancelToken

__all__ = ["WAITS", "attempts", "interruptible"]

#: Seconds to wait before each new attempt after a fault; data that arrived starts it anew.
WAITS = (1.0, 2.0, 4.0, 8.0)

_POLL = 0.1

_T = TypeVar("_T")


def attempts(
    work: Callable[[], _T],
    repo: str,
    cancel: CancelToken | None,
    have: Callable[[], int] = lambda: 0,
    name: str = "",
) -> _T:
    """Call `work` until it comes to an end, waiting longer after every fault in a row.

    Parameters
    ----------
    work : callable
        One attempt.
    repo, name : str
        What is asked for, in the words of an error.
    cancel : CancelToken or None
        Looked at while waiting.
    have : callable, optional
        How much has arrived: an attempt that brought something was not in vain.

    Raises
    ------
    NetworkError
        A fault that will not pass by itself, or too many in a row.
    """
    faults = 0
    while True:
        before = have()
        try:
            return work()
        except (HTTPError, OfflineModeIsEnabled) as error:
            faults = 1 if have() > before else faults + 1
            if not _may_pass(error) or faults > len(WAITS):
                raise _explain(error, repo, name) from error
            _wait(max(WAITS[faults - 1], _asked(error)), cancel)


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    return int(response.status_code) if isinstance(error, HfHubHTTPError) and response else 0


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return _status(error) in (408, 429) or _status(error) >= 500
    return not isinstance(error, OfflineModeIsEnabled)


def _asked(error: Exception) -> float:
    """Return the seconds that the server asks to wait, at most a minute."""
    if not isinstance(error, HfHubHTTPError) or _status(error) not in (429, 503):
        return 0.0
    text = str(error.response.headers.get("Retry-After", ""))
    return min(float(text), 60.0) if text.isdigit() else 0.0


def _wait(seconds: float, cancel: CancelToken | None) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if cancel is not None:
            cancel.raise_if_cancelled()
        time.sleep(min(_POLL, max(0.0, end - time.monotonic())))


def _explain(error: Exception, repo: str, name: str) -> FlowRVSError:
    """Return the one line that says what to do about `error`."""
    what = f"{repo}/{name}" if name else repo
    hub = constants.ENDPOINT
    status = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        text = (
            f"HF_HUB_OFFLINE is set, so {what} is not fetched: unset it, or place the model's "
            "folder by hand."
        )
    elif isinstance(error, GatedRepoError):
        text = f"{what} asks for consent: accept its terms at {hub}/{repo}, then set HF_TOKEN."
    elif status in (401, 403):
        text = (
            f"{hub} gives no access to {what} (error {status}): sign in with 'hf auth login' "
            "or set a valid HF_TOKEN, then run again."
        )
    elif status == 404:
        text = f"There is no {what} at {hub} (error 404): check HF_ENDPOINT, or update flowrvs."
    elif status:
        text = (
            f"{hub} fails to give {what} (error {status}): run again later to go on; "
            "what has arrived is kept."
        )
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
        text = (
            f"{what} cannot be fetched from {hub} ({reason}): check the connection and the "
            "proxy, then run again to go on."
        )
    return NetworkError(text)


def interruptible(work: Callable[[CancelToken], _T], cancel: CancelToken | None) -> _T:
    """Call `work` on a helper thread, so that a silent server cannot hold back a cancel.

    `work` gets a token of its own; once that is set it must not write any more.
    """
    stop = CancelToken()
    ended = threading.Event()
    result: list[_T] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work(stop))
        except BaseException as error:
            faults.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="flowrvs-fetch", daemon=True).start()
    try:
        while not ended.wait(_POLL):
            if cancel is not None and cancel.cancelled:
                stop.cancel()
                ended.wait(2 * _POLL)
                cancel.raise_if_cancelled()
    finally:
        stop.cancel()
    if faults:
        raise faults[0]
    return result[0]
