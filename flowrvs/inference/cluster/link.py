"""Our end of the process that speaks with a dask scheduler."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import queue
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from flowrvs.errors import ClusterError, FlowRVSError, InputError, MissingPathError, missing_extra
from flowrvs.inference.cluster.bridge import read_message, write_message

__all__ = ["Link", "Scheduler"]


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Where a dask scheduler is, and how to prove it to each other.

    Attributes
    ----------
    address : str
        ``tls://HOST:PORT`` or ``tcp://HOST:PORT``.
    tls_ca, tls_cert, tls_key : str or None
        Files in PEM: the cluster's own authority, and this client's certificate and key.
        None for what dask's configuration says (``distributed.comm.tls``).
    timeout : float
        Seconds to wait for it to answer.
    """

    address: str
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    timeout: float = 10.0

    @classmethod
    def at(
        cls,
        address: str,
        *,
        insecure: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        timeout: float = 10.0,
    ) -> Scheduler:
        """Check an address; ``HOST:PORT`` is taken for TCP.

        Raises
        ------
        InputError
            It is no address, or one that is neither encrypted nor on this machine while
            `insecure` is False.
        MissingPathError
            A certificate is not there.
        """
        whole = address.strip()
        if "://" not in whole:
            whole = f"tcp://{whole}"
        try:
            parts = urlsplit(whole)
            good = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port
            good = good and parts.path in ("", "/") and not parts.username
        except ValueError:
            good = False
        if not good:
            raise InputError(
                f"{address!r} is no address of a scheduler; give tls://HOST:PORT, or "
                "tcp://HOST:PORT on this machine."
            )
        if parts.scheme == "tcp" and not insecure and not _is_here(str(parts.hostname)):
            raise InputError(
                f"{whole} is not encrypted: on the way others could read your video, and put "
                "code of theirs in. Use tls:// (docs/cluster.md says how), or --insecure in a "
                "network that you trust."
            )
        for path in (tls_ca, tls_cert, tls_key):
            if path is not None and not Path(path).is_file():
                raise MissingPathError(f"No certificate or key is at {path}; give a file in PEM.")
        return cls(whole.rstrip("/"), tls_ca, tls_cert, tls_key, timeout)


def _is_here(host: str) -> bool:
    """Whether a host is this machine, by a loopback address."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(a.split("%")[0]).is_loopback for a in found)


class Link:
    """A connection to a scheduler through a process of its own; close it after use.

    Events come as dictionaries from `get`; see `flowrvs.inference.cluster.bridge`.

    Raises
    ------
    MissingExtraError
        dask.distributed is not installed.
    ClusterError
        The scheduler cannot be reached or refuses; the message says why.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        if importlib.util.find_spec("distributed") is None:
            absent = missing_extra(ModuleNotFoundError(name="distributed"))
            assert absent is not None
            raise absent
        self._events: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            # -P: no module of the folder that we happen to be in.
            [sys.executable, "-P", "-m", "flowrvs.inference.cluster.bridge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._write(
            {
                "do": "connect",
                "address": scheduler.address,
                "timeout": scheduler.timeout,
                "tls": {
                    "ca": scheduler.tls_ca,
                    "cert": scheduler.tls_cert,
                    "key": scheduler.tls_key,
                },
            }
        )
        event, _ = self._events.get()
        if event["event"] != "connected":
            self.close()
            reason = event.get("reason", "the connection broke off")
            raise ClusterError(
                f"The scheduler at {scheduler.address} cannot be reached: {reason.rstrip('.')}."
            )

    def _read(self) -> None:
        try:
            while message := read_message(cast(BinaryIO, self._process.stdout)):
                self._events.put(message)
        except (OSError, ValueError, FlowRVSError):
            pass
        self._events.put(({"event": "lost"}, b""))

    def _write(self, header: dict[str, Any], blob: bytes | None = None) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # `lost` comes as an event
            write_message(cast(BinaryIO, self._process.stdin), header, blob)

    def submit(self, number: int, worker: str, message: bytes) -> None:
        """Give a worker a message to answer; the answer's event has the same number."""
        self._write({"do": "submit", "id": number, "worker": worker}, message)

    def cancel(self, numbers: list[int]) -> None:
        """Take back what was given; no event tells of it any more, unless it is under way."""
        self._write({"do": "cancel", "ids": numbers})

    def get(self, timeout: float) -> tuple[dict[str, Any], bytes] | None:
        """Return the next event and its blob; None when none came in time."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the process; tasks that were not answered are taken back."""
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
