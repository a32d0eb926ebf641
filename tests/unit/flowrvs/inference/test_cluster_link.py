"""Where a scheduler may be, and our end of the process that speaks with it."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flowrvs.errors import ClusterError, InputError, MissingExtraError, MissingPathError
from flowrvs.inference.cluster import link
from flowrvs.inference.cluster.bridge import read_message, write_message
from flowrvs.inference.cluster.link import Link, Scheduler


@pytest.mark.parametrize(
    ("address", "whole"),
    [
        ("127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        (" tcp://localhost:1/ ", "tcp://localhost:1"),
        ("tcp://[::1]:99", "tcp://[::1]:99"),
        ("tls://far.example:8786", "tls://far.example:8786"),
    ],
)
def test_addresses_of_schedulers(address: str, whole: str) -> None:
    assert Scheduler.at(address) == Scheduler(whole, None, None, None, 10.0)


@pytest.mark.parametrize(
    "address",
    [
        "", "tcp://", "host", "http://a:1", "tcp://a", "tcp://:99", "tcp://a:0", "tcp://a:x",
        "tcp://a:99999", "tcp://a:1/x", "tcp://me@a:1", "tcp://[a:1", "tls://a:",
    ],
)  # fmt: skip
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(InputError) as caught:
        Scheduler.at(address, insecure=True)
    assert str(caught.value) == (
        f"{address!r} is no address of a scheduler; give tls://HOST:PORT, or tcp://HOST:PORT on "
        "this machine."
    )


def _resolves(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [(0, 0, 0, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(link.socket, "getaddrinfo", lambda host, port: found)


@pytest.mark.parametrize(
    ("addresses", "here"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.9", "::1"], True),
        (["::1%lo"], True),
        (["127.0.0.1", "10.0.0.1"], False),
        (["192.0.2.1"], False),
        ([], False),
    ],
)
def test_only_this_machine_is_spoken_to_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], here: bool
) -> None:
    _resolves(monkeypatch, *addresses)
    if here:
        assert Scheduler.at("tcp://box:5").address == "tcp://box:5"
        return
    with pytest.raises(InputError) as caught:
        Scheduler.at("box:5")
    assert str(caught.value) == (
        "tcp://box:5 is not encrypted: on the way others could read your video, and put code of "
        "theirs in. Use tls:// (docs/cluster.md says how), or --insecure in a network that you "
        "trust."
    )
    assert Scheduler.at("box:5", insecure=True).address == "tcp://box:5"
    assert Scheduler.at("tls://box:5").address == "tls://box:5"


def test_a_host_that_nobody_knows_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, port: object) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(link.socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match="is not encrypted"):
        Scheduler.at("nowhere:5")


def test_certificates_must_be_there(tmp_path: Path) -> None:
    files = {}
    for name in ("tls_ca", "tls_cert", "tls_key"):
        files[name] = str(tmp_path / name)
        Path(files[name]).write_text("")
    found = Scheduler.at("tls://a:1", timeout=3.0, **files)
    assert found == Scheduler("tls://a:1", *files.values(), 3.0)
    for name in files:
        with pytest.raises(MissingPathError) as caught:
            Scheduler.at("tls://a:1", **files | {name: str(tmp_path)})
        assert str(caught.value) == (f"No certificate or key is at {tmp_path}; give a file in PEM.")


# -- the process ---------------------------------------------------------------------------


class Process:
    """Stands where the bridge's process stands: two pipes, and an end."""

    made: list[Process] = []

    def __init__(self, command: list[str], **how: Any) -> None:
        self.command, self.how = command, how
        self.stdin, self.stdout = _Pipe(), _Pipe()
        self.killed = False
        self.hangs = False
        Process.made.append(self)

    def wait(self, timeout: float | None = None) -> int:
        if self.hangs and not self.killed:
            raise subprocess.TimeoutExpired("bridge", timeout or 0)
        self.stdout.finish()
        return 0

    def kill(self) -> None:
        self.killed = True


class _Pipe(io.RawIOBase):
    """A pipe within this process: what is written can be read, waiting for it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = False
        self._more = threading.Condition()

    def write(self, data: Any) -> int:
        with self._more:
            if self.closed:
                raise ValueError("closed")
            self._data += bytes(data)
            self._more.notify_all()
        return len(data)

    def read(self, count: int = -1) -> bytes:
        with self._more:
            while len(self._data) < count and not self._ended:
                self._more.wait(10)
            found, self._data = bytes(self._data[:count]), self._data[count:]
        return found

    def finish(self) -> None:
        with self._more:
            self._ended = True
            self._more.notify_all()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    Process.made = []
    monkeypatch.setattr(link.subprocess, "Popen", Process)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return Process.made


def connect(scheduler: Scheduler, *events: dict[str, Any]) -> Link:
    """Connect, with what the process will say."""
    stock = Process.__init__

    def answered(self: Process, *a: Any, **k: Any) -> None:
        stock(self, *a, **k)
        for event in events:
            write_message(self.stdout, event)
        if not events:
            self.stdout.finish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "__init__", answered)
        return Link(scheduler)


SECURE = Scheduler("tls://a:1", "ca", "cert", "key", 7.0)


def orders(process: Process) -> list[tuple[dict[str, Any], bytes]]:
    process.stdin.finish()
    found = []
    while (message := read_message(process.stdin)) is not None:  # type: ignore[arg-type]
        message[0].pop("blobs")
        found.append(message)
    return found


def test_orders_and_events_go_through_pipes(process: list[Process]) -> None:
    made = connect(SECURE, {"event": "connected"}, {"event": "workers", "workers": ["w"]})
    (bridge,) = process
    assert bridge.command == [sys.executable, "-P", "-m", "flowrvs.inference.cluster.bridge"]
    assert bridge.how == {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    got = made.get(5)
    assert got is not None and got[0]["workers"] == ["w"] and made.get(0.001) is None
    made.submit(3, "w", b"message")
    made.cancel([3, 4])
    write_message(bridge.stdout, {"event": "done", "id": 3}, b"answer")
    got = made.get(5)
    assert got is not None and (got[0]["id"], got[1]) == (3, b"answer")
    connecting = {
        "do": "connect",
        "address": "tls://a:1",
        "timeout": 7.0,
        "tls": {"ca": "ca", "cert": "cert", "key": "key"},
    }
    assert orders(bridge) == [
        (connecting, b""),
        ({"do": "submit", "id": 3, "worker": "w"}, b"message"),
        ({"do": "cancel", "ids": [3, 4]}, b""),
    ]
    made.close()
    assert bridge.stdin.closed and bridge.stdout.closed and not bridge.killed
    got = made.get(5)
    assert got == ({"event": "lost"}, b"")
    made.submit(5, "w", b"nobody hears it")
    made.close()


@pytest.mark.parametrize("damaged", [b"\x05\0\0\0\0\0\0\0hello", b"\x05\0\0"])
def test_a_process_that_says_nonsense_is_lost(process: list[Process], damaged: bytes) -> None:
    made = connect(SECURE, {"event": "connected"})
    process[0].stdout.write(damaged)
    process[0].stdout.finish()
    assert made.get(5) == ({"event": "lost"}, b"")
    made.close()


def test_one_that_does_not_end_is_killed(process: list[Process]) -> None:
    made = connect(SECURE, {"event": "connected"})
    process[0].hangs = True
    made.close()
    assert process[0].killed and process[0].stdout.closed


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([{"event": "refused", "reason": "Timed out."}], "Timed out"),
        ([{"event": "refused"}], "the connection broke off"),
        ([], "the connection broke off"),
    ],
)
def test_a_scheduler_that_does_not_answer(
    process: list[Process], events: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        connect(SECURE, *events)
    assert str(caught.value) == f"The scheduler at tls://a:1 cannot be reached: {reason}."
    assert process[0].stdin.closed


def test_without_dask_the_extra_is_named(
    process: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError):
        Link(SECURE)
    assert process == []
