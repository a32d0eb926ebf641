"""Files of the Hugging Face hub: listed, downloaded with resume, compared with their hash;
asked for again after a fault, and told what to do where that does not help.

Everything about the network is left to huggingface_hub: its client, and with it
``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_TOKEN`` and the proxies. It reads most of them when
it is imported, so import this module only when something is to be fetched.

Its own ``hf_hub_download`` is not used: it forgets what a broken connection left, and
cannot be stopped.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, hf_hub_url

# HTTPError is that of whichever HTTP library huggingface_hub is built on.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    SafetensorsParsingError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from flowrvs import __version__
from flowrvs.checkpoints.files import feed
from flowrvs.disk import storage_error
from flowrvs.errors import CheckpointError, FlowRVSError, InputError, NetworkError
from flowrvs.progress import CancelToken

__all__ = [
    "WAITS",
    "HubFile",
    "Listing",
    "download",
    "interruptible",
    "list_files",
    "partial",
    "shard_dtypes",
]

#: Seconds to wait before each new attempt after a fault; data that arrived starts it anew.
WAITS = (1.0, 2.0, 4.0, 8.0)

_POLL = 0.1

_T = TypeVar("_T")

_DEVICES = {"CON", "PRN", "AUX", "NUL"}

#: Called with counts of bytes that are now on the disk; negative when some are given up.
Step = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository, at one commit.

    Attributes
    ----------
    repo, revision, name : str
        Repository, commit, and path in it.
    size : int
        Bytes.
    digest : str
        64 hexadecimal digits: the SHA-256 of the content; 40: its git blob hash.
    """

    repo: str
    revision: str
    name: str
    size: int
    digest: str

    def matches(
        self, path: Path, *, cancel: CancelToken | None = None, step: Step | None = None
    ) -> bool:
        """Return True when the file at `path` has this content."""
        if path.stat().st_size != self.size:
            return False
        if len(self.digest) == 64:
            digest = hashlib.sha256()
        else:
            # What git hashes; no protection is expected of it, only that nothing was lost.
            digest = hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        feed(digest, path, cancel=cancel, step=step or (lambda count: None))
        return digest.hexdigest() == self.digest


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at its newest commit; `entries` are huggingface_hub's own."""

    repo: str
    revision: str
    entries: dict[str, Any]

    def file(self, name: str, cancel: CancelToken | None = None) -> HubFile:
        """Return what is known of the file `name`; asks the hub when the listing has no hash."""
        entry = self.entries[name]
        size, digest = entry.size, entry.blob_id
        if entry.lfs is not None:
            size, digest = entry.lfs.size, entry.lfs.sha256
        if size is None or not digest:
            url = hf_hub_url(self.repo, name, revision=self.revision)
            head = attempts(lambda: get_hf_file_metadata(url), self.repo, cancel)
            size, digest = head.size, head.etag
        if not isinstance(size, int) or not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", digest):
            raise CheckpointError(
                f"The hub gives no hash of {self.repo}/{name}, so it cannot be checked; "
                "unset HF_ENDPOINT to ask the official one."
            )
        return HubFile(self.repo, self.revision, name, size, digest)


def list_files(repo: str, cancel: CancelToken | None = None) -> Listing:
    """Return the files of a repository with their sizes and hashes.

    Raises
    ------
    NetworkError
        The hub cannot be reached or refuses.
    CheckpointError
        The listing names files outside the repository.
    """
    api = HfApi(library_name="flowrvs", library_version=__version__)
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    _check_endpoint()
    try:
        info = attempts(
            lambda: api.model_info(repo, files_metadata=True, timeout=timeout), repo, cancel
        )
        entries = {entry.rfilename: entry for entry in info.siblings or []}
    except FlowRVSError:
        raise
    except Exception as error:  # a login page, or a proxy whose address is none
        raise NetworkError(
            f"{constants.ENDPOINT} does not answer as a hub does ({type(error).__name__}): check "
            "HF_ENDPOINT, the proxy, and whether the network wants a login."
        ) from error
    for name in entries:
        if not _is_inside(name):
            raise CheckpointError(
                f"The listing of {repo} names a file outside it ({name!r}); nothing was fetched."
            )
    if not info.sha or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise CheckpointError(f"The hub names no commit of {repo}; nothing was fetched.")
    return Listing(repo, info.sha, entries)


def _check_endpoint() -> None:
    address = urlsplit(constants.ENDPOINT)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(
            f"HF_ENDPOINT is {constants.ENDPOINT!r}, which is no address: it begins with https://."
        )


def _is_inside(name: str) -> bool:
    """Return True for a name that stays in its folder on every system."""
    path = PurePosixPath(name)
    return (
        path.as_posix() == name
        and not path.is_absolute()
        and ".." not in path.parts
        and not re.search(r'[\\:*?"<>|\x00-\x1f]', name)
        and not any(part.split(".")[0].upper() in _DEVICES for part in path.parts)
        and not any(part.endswith((" ", ".")) for part in path.parts)
    )


def shard_dtypes(file: HubFile, cancel: CancelToken | None = None) -> dict[str, int]:
    """Return how many numbers of each type ("F32", "BF16"...) a safetensors file holds.

    Only its header is asked for; empty when that cannot be read.
    """
    api = HfApi(library_name="flowrvs", library_version=__version__)
    timeout = constants.HF_HUB_ETAG_TIMEOUT

    def ask() -> Any:
        return api.parse_safetensors_file_metadata(
            file.repo, file.name, revision=file.revision, timeout=timeout
        )

    try:
        found = attempts(ask, file.repo, cancel)
    except SafetensorsParsingError:
        return {}
    return {str(dtype): count for dtype, count in found.parameter_count.items()}


def download(
    file: HubFile,
    target: Path,
    *,
    step: Step = lambda count: None,
    say: Callable[[str], object] = lambda text: None,
    cancel: CancelToken | None = None,
) -> None:
    """Bring a file to `target`, going on with what an earlier attempt left.

    Parts are kept beside the target under a name with the file's hash, so that parts of
    two versions are never put together.

    Parameters
    ----------
    file : HubFile
    target : Path
        The final path; one that is there is checked, and fetched again when it differs.
    step, say : callable, optional
        Called with counts of bytes, and with what happens besides.
    cancel : CancelToken, optional
        Checked with every piece that arrives.

    Raises
    ------
    NetworkError
        Several attempts in a row brought nothing; the part is kept.
    CheckpointError
        The file arrived damaged twice.
    StorageError
        The disk is full or cannot be written; the part is kept.
    """
    part = partial(file, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            target.replace(part)
        for again in (True, False):
            if _size(part) > file.size:
                step(-_size(part))
                part.unlink()
            _fill(file, part, step, cancel)
            say(f"Checking {file.name}")
            if file.matches(part, cancel=cancel):
                part.replace(target)
                return
            part.unlink()
            step(-file.size)
            if again:
                say(f"{file.name} arrived damaged; fetching it again")
    except OSError as error:
        if isinstance(error, FlowRVSError):
            raise
        raise storage_error(error, target) from error
    raise CheckpointError(
        f"{file.repo}/{file.name} arrived damaged twice (its hash is not the hub's): "
        "run again later, or over another network."
    )


def partial(file: HubFile, target: Path) -> Path:
    """Return where a part of `file` is kept."""
    return target.with_name(f"{target.name}.{file.digest[:12]}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fill(file: HubFile, part: Path, step: Step, cancel: CancelToken | None) -> None:
    """Append to `part` until it is as long as `file`."""
    part.touch()
    attempts(
        lambda: _stream(file, part, step, cancel), file.repo, cancel, lambda: _size(part), file.name
    )


class _CutShort(HTTPError):
    """The answer ended before its end, without anybody having said so."""


def _stream(file: HubFile, part: Path, step: Step, cancel: CancelToken | None) -> None:
    have = _size(part)
    if have == file.size:
        return
    headers = build_hf_headers(library_name="flowrvs", library_version=__version__)
    headers["Accept-Encoding"] = "identity"  # a range of a compressed answer is of no use
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(file.repo, file.name, revision=file.revision)
    client = get_session()
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with client.stream("GET", url, headers=headers, timeout=timeout) as answer:
        hf_raise_for_status(answer)
        goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not goes_on:
            step(-have)
            have = 0
        with part.open("r+b") as stream:
            stream.truncate(have)
            stream.seek(have)
            for block in answer.iter_bytes():
                if cancel is not None:
                    cancel.raise_if_cancelled()
                # What is too long is damaged; its hash will say so.
                block = block[: file.size - have]
                stream.write(block)
                # What was counted is in the file; nothing is left to be written after a cancel.
                stream.flush()
                have += len(block)
                step(len(block))
                if have == file.size:
                    return
    if have < file.size:
        raise _CutShort(f"{file.name} ended at {have} of {file.size} bytes")


# -- asking again ----------------------------------------------------------------------


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
            f"or set a valid HF_TOKEN, accept the terms at {hub}/{repo} if it asks for consent, "
            "then run again."
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
