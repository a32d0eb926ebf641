"""The process between a client and dask, with dask's client stood in for.

That it speaks with a real scheduler is tested in tests/integration/cluster.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flowrvs.inference.cluster import bridge
from flowrvs.inference.cluster.bridge import _Bridge, read_message, write_message

Order = tuple[dict[str, Any], bytes] | None


class Future:
    """An answer that comes when the test says so."""

    def __init__(self) -> None:
        self.status = "pending"
        self.released = False
        self._done = asyncio.get_running_loop().create_future()

    def __await__(self) -> Any:
        return self._done.__await__()

    def give(self, result: Any) -> None:
        self._done.set_result(result)

    def fail(self, error: BaseException, status: str = "error") -> None:
        self.status = status
        self._done.set_exception(error)

    def release(self) -> None:
        self.released = True


class Client:
    """What the bridge asks of dask's client."""

    def __init__(self) -> None:
        self.status = "running"
        self.scheduler = self
        self.about: Any = {"id": "s1", "workers": {}}
        self.submitted: list[tuple[Any, dict[str, Any], Future]] = []
        self.closed = False

    async def identity(self) -> Any:
        if callable(self.about):
            return await self.about()
        return self.about

    def submit(self, function: Any, blob: bytes, **how: Any) -> Future:
        future = Future()
        self.submitted.append((blob, {"function": function, **how}, future))
        return future

    async def close(self) -> None:
        self.closed = True


class Out(io.BytesIO):
    """Where events go; a test waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[tuple[int, asyncio.Event]] = []

    def events(self) -> list[tuple[dict[str, Any], bytes]]:
        stream, found = io.BytesIO(self.getvalue()), []
        while (message := read_message(stream)) is not None:
            message[0].pop("blobs")
            found.append(message)
        return found

    async def reaches(self, count: int) -> list[tuple[dict[str, Any], bytes]]:
        for _ in range(2000):
            if len(self.events()) >= count:
                return self.events()
            await asyncio.sleep(0.001)
        raise AssertionError(self.events())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_POLL", 0.002)


def served(test: Callable[[_Bridge, Client, Out, asyncio.Queue[Order]], Any]) -> None:
    """Run a test beside a bridge that is connected."""

    async def run() -> None:
        out, orders = Out(), asyncio.Queue[Order]()
        made, client = _Bridge(out), Client()

        async def connect(order: dict[str, Any]) -> bool:
            made._client = client
            return bool(order.get("good", True))

        made._connect = connect  # type: ignore[method-assign]
        orders.put_nowait(({"do": "connect"}, b""))
        serving = asyncio.create_task(made.serve(orders))
        try:
            await test(made, client, out, orders)
        finally:
            orders.put_nowait(None)
            await asyncio.wait_for(serving, 10)
        assert client.closed

    asyncio.run(run())


def test_who_works_is_told_when_it_changes(quick: None) -> None:
    async def test(made: _Bridge, client: Client, out: Out, orders: Any) -> None:
        await out.reaches(1)
        client.about = {
            "id": "s1",
            "workers": {
                "tcp://b": {"status": "running"},
                "tcp://a": {},
                "tcp://c": {"status": "closing"},
                "tcp://d": {"status": "paused"},
            },
        }
        await out.reaches(2)
        client.about = {"id": "s1", "workers": {"tcp://b": {}, "tcp://a": {}}}  # the same ones
        await asyncio.sleep(0.02)
        client.about = {"id": "s1", "workers": {"tcp://b": {}}}
        told = await out.reaches(3)
        assert told == [
            ({"event": "workers", "workers": workers}, b"")
            for workers in ([], ["tcp://a", "tcp://b"], ["tcp://b"])
        ]

    served(test)


@pytest.mark.parametrize("how", ["anew", "error", "silent", "closed"])
def test_a_scheduler_that_is_gone_is_told_of(
    quick: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """One that answers under another id began anew: it knows nothing of what was given."""

    async def fails() -> Any:
        raise OSError("gone")

    async def waits() -> Any:
        await asyncio.sleep(60)

    if how == "silent":
        monkeypatch.setattr(bridge, "_SILENCE", 0.02)

    async def run() -> None:
        out, orders, client = Out(), asyncio.Queue[Order](), Client()
        made = _Bridge(out)

        async def connect(order: dict[str, Any]) -> bool:
            made._client = client
            return True

        made._connect = connect  # type: ignore[method-assign]
        orders.put_nowait(({"do": "connect"}, b""))
        orders.put_nowait(({"do": "submit", "id": 4, "worker": "w"}, b"x"))
        serving = asyncio.create_task(made.serve(orders))
        await out.reaches(1)
        if how == "anew":
            client.about = {"id": "s2", "workers": {}}
        else:
            client.about = fails if how == "error" else waits
        if how == "closed":
            await asyncio.sleep(0.02)
            client.status = "closed"
        await asyncio.wait_for(serving, 10)  # without an order to end
        assert [event["event"] for event, _ in out.events()] == ["workers", "lost"]
        assert client.closed and client.submitted[0][2].released

    asyncio.run(run())


def test_tasks_are_given_to_one_worker_and_answered(quick: None) -> None:
    from flowrvs.inference.cluster.worker import answer

    async def test(made: _Bridge, client: Client, out: Out, orders: Any) -> None:
        await out.reaches(1)
        for number in range(6):
            orders.put_nowait(
                ({"do": "submit", "id": number, "worker": f"w{number}"}, b"%d" % number)
            )
        while len(client.submitted) < 6:
            await asyncio.sleep(0.001)
        for number, (blob, how, _) in enumerate(client.submitted):
            assert blob == b"%d" % number
            key = how.pop("key")
            assert key.startswith("flowrvs-") and key.endswith(f"-{number}")
            assert how == {
                "function": answer,
                "workers": [f"w{number}"],
                "allow_other_workers": False,
                "pure": False,
            }
        futures = [future for _, _, future in client.submitted]
        futures[0].give(b"zero")
        futures[1].give(bytearray(b"one"))
        futures[2].give("no bytes")
        futures[3].fail(ValueError("it\n broke"))
        futures[4].fail(RuntimeError("away"), "lost")
        told = {event["id"]: (event, blob) for event, blob in (await out.reaches(6))[1:]}
        assert told == {
            0: ({"event": "done", "id": 0}, b"zero"),
            1: ({"event": "done", "id": 1}, b"one"),
            2: (
                {"event": "error", "id": 2, "reason": "it answered with something else"},
                b"",
            ),
            3: ({"event": "error", "id": 3, "reason": "it broke"}, b""),
            4: ({"event": "again", "id": 4, "reason": "away"}, b""),
        }
        orders.put_nowait(({"do": "submit", "id": 6, "worker": "w"}, b"six"))
        orders.put_nowait(({"do": "cancel", "ids": [5, 77, 0]}, b""))
        while not futures[5].released:
            await asyncio.sleep(0.001)
        assert not any(future.released for future in futures[:5]), "they are answered"
        client.submitted[6][2].fail(RuntimeError("off"), "cancelled")
        assert (await out.reaches(7))[6][0] == {"event": "again", "id": 6, "reason": "off"}
        await asyncio.sleep(0.01)
        assert len(out.events()) == 7, "nothing of what was taken back"

    served(test)


@pytest.mark.parametrize("address", ["tls://a:1", "tcp://a:1"])
@pytest.mark.parametrize("fails", [False, True])
def test_how_a_scheduler_is_called(
    monkeypatch: pytest.MonkeyPatch, address: str, fails: bool
) -> None:
    asked: list[Any] = []

    class Security:
        def __init__(self, **how: Any) -> None:
            self.how = how

    class Called:
        def __init__(self, address: str, **how: Any) -> None:
            asked.append((address, how))

        def __await__(self) -> Any:
            if fails:
                raise OSError("Timed  out\nafter 3 s")
            yield from ()
            return "client"

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Called))
    monkeypatch.setitem(sys.modules, "distributed.security", SimpleNamespace(Security=Security))
    order = {
        "address": address,
        "timeout": 3.5,
        "tls": {"ca": "ca.pem", "cert": "cert.pem", "key": None},
    }
    out = Out()
    made = _Bridge(out)
    assert asyncio.run(made._connect(order)) == (not fails)
    ((called, how),) = asked
    security = how.pop("security")
    assert called == address
    assert how == {
        "asynchronous": True,
        "timeout": 3.5,
        "set_as_default": False,
        "direct_to_workers": False,
    }
    if address.startswith("tls"):
        assert security.how == {
            "tls_ca_file": "ca.pem",
            "tls_client_cert": "cert.pem",
            "tls_client_key": None,
            "require_encryption": True,
        }
    else:
        assert security is None
    if fails:
        assert out.events() == [({"event": "refused", "reason": "Timed out after 3 s"}, b"")]
    else:
        assert out.events() == [({"event": "connected"}, b"")] and made._client == "client"


def test_a_bridge_that_is_not_connected_ends() -> None:
    async def run(first: Order) -> None:
        orders = asyncio.Queue[Order]()
        orders.put_nowait(first)
        made = _Bridge(Out())

        async def refuse(order: dict[str, Any]) -> bool:
            return False

        made._connect = refuse  # type: ignore[method-assign]
        await asyncio.wait_for(made.serve(orders), 5)

    asyncio.run(run(None))
    asyncio.run(run(({"do": "connect"}, b"")))


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _met(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(b"\x80pickled"), "its own log says why"),
        (ValueError("a\n  b"), "a b"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 600), "x" * 500),
        (
            TypeError("ssl_context is missing"),
            "TLS needs certificates, and none were given (--tls-ca, --tls-cert, --tls-key)",
        ),
        (_caused(OSError("no"), ssl.SSLError(1, "bad\nhandshake")), "bad handshake"),
        (_caused(OSError("no"), OSError("Certificate has\n expired")), "Certificate has expired"),
        (_caused(OSError("no"), OSError("nothing of the kind")), "no"),
        (_met(OSError("no"), ssl.SSLError(1, "on the way")), "on the way"),
        (_caused(OSError("no"), _caused(OSError("nor"), ssl.SSLError(1, "deep"))), "deep"),
    ],
)
def test_the_cause_of_an_error_in_a_line(error: BaseException, reason: str) -> None:
    assert bridge._reason(error) == reason


def test_orders_are_read_until_the_end() -> None:
    async def run(data: bytes) -> list[Order]:
        orders = asyncio.Queue[Order]()
        loop = asyncio.get_running_loop()
        thread = threading.Thread(
            target=bridge._read_orders, args=(io.BytesIO(data), loop, orders), daemon=True
        )
        thread.start()
        found = []
        while True:
            found.append(await asyncio.wait_for(orders.get(), 5))
            if found[-1] is None:
                break
        thread.join(5)
        assert not thread.is_alive() and orders.empty()
        return found

    stream = io.BytesIO()
    write_message(stream, {"do": "submit", "id": 1}, b"blob")
    write_message(stream, {"do": "cancel", "ids": [1]})
    whole = stream.getvalue()
    found = asyncio.run(run(whole))
    assert [each and (each[0]["do"], each[1]) for each in found] == [
        ("submit", b"blob"),
        ("cancel", b""),
        None,
    ]
    for damaged in (whole[:-3], whole[:5], b"", (9).to_bytes(8, "little") + b"no orders"):
        found = asyncio.run(run(damaged))
        assert found[-1] is None and len(found) <= 2


def test_an_order_without_a_loop_ends_the_reading() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    stream = io.BytesIO()
    write_message(stream, {"do": "cancel", "ids": []})
    stream.seek(0)
    bridge._read_orders(stream, loop, asyncio.Queue())
