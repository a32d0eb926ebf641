"""The process that speaks with a dask scheduler, so that the user's process need not.

``python -m flowrvs.inference.cluster.bridge`` reads orders from its standard input and
writes events to its standard output, as messages of `flowrvs.inference.cluster.wire`
after their length. dask's own client unpickles what workers send (results, their types,
exceptions): whoever holds a worker would hold the annotator's machine. In this process
`pickle` is replaced, before dask is imported, by one that makes nothing but bytes; and bytes
are all that it hands on.

Orders: ``connect`` (first), ``submit`` (id, worker, one blob), ``cancel`` (ids).
Events: ``connected`` or ``refused``, ``workers``, ``done`` (id, one blob), ``again`` (id: it
was lost on the way), ``error`` (id, reason), ``lost`` (the scheduler).
"""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any, BinaryIO

from flowrvs.inference.cluster.wire import pack, unpack

__all__ = ["read_message", "write_message"]

_POLL = 0.5
#: A scheduler that says nothing for so many seconds is gone.
_SILENCE = 20.0


def write_message(stream: BinaryIO, header: dict[str, Any], blob: bytes | None = None) -> None:
    """Write one message after its length."""
    message = pack(header, [] if blob is None else [blob])
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read one message and its blob, if any; None at the end."""
    length = stream.read(8)
    message = stream.read(int.from_bytes(length, "little")) if len(length) == 8 else b""
    if not message:
        return None
    header, blobs = unpack(message)
    return header, bytes(blobs[0]) if blobs else b""


class _Unpickler(pickle.Unpickler):
    """Makes bytes and plain containers, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        found = {"bytes": bytes, "bytearray": bytearray}.get(name)
        if module != "builtins" or found is None:
            # dask takes a TypeError for a traceback or a type that it cannot have.
            raise TypeError(f"{module}.{name} is not taken from a worker")
        return found


def _loads(data: Any, /, *, buffers: Iterable[Any] = (), **options: Any) -> Any:
    return _Unpickler(io.BytesIO(data), buffers=buffers, **options).load()


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def _restrict_pickle() -> None:
    assert "distributed" not in sys.modules
    pickle.loads, pickle.load, pickle.Unpickler = _loads, _load, _Unpickler  # type: ignore[misc,assignment]


class _Bridge:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._client: Any = None
        self._tasks: dict[int, tuple[Any, asyncio.Task[None]]] = {}
        self._mark = uuid.uuid4().hex[:12]

    def tell(self, header: dict[str, Any], blob: bytes | None = None) -> None:
        with self._lock:
            write_message(self._out, header, blob)

    async def serve(self, orders: asyncio.Queue[tuple[dict[str, Any], bytes] | None]) -> None:
        first = await orders.get()
        if first is None or not await self._connect(first[0]):
            return
        poll = asyncio.create_task(self._poll())
        while not poll.done():
            order = asyncio.create_task(orders.get())
            await asyncio.wait([order, poll], return_when=asyncio.FIRST_COMPLETED)
            if not order.done():
                break
            given = order.result()
            if given is None:
                break
            header, blob = given
            if header["do"] == "submit":
                self._submit(header["id"], header["worker"], blob)
            else:
                self._cancel(header["ids"])
        poll.cancel()
        self._cancel(list(self._tasks))
        try:
            await asyncio.wait_for(self._client.close(), 2)
        except Exception:  # it is gone already
            pass

    async def _connect(self, order: dict[str, Any]) -> bool:
        from distributed import Client
        from distributed.security import Security

        address, tls = order["address"], order["tls"]
        try:
            security = Security(
                tls_ca_file=tls["ca"],
                tls_client_cert=tls["cert"],
                tls_client_key=tls["key"],
                require_encryption=True,
            )
            self._client = await Client(
                address,
                asynchronous=True,
                security=security if address.startswith("tls:") else None,
                timeout=order["timeout"],
                set_as_default=False,
                direct_to_workers=False,
            )
        except Exception as error:
            self.tell({"event": "refused", "reason": _reason(error)})
            return False
        self.tell({"event": "connected"})
        return True

    async def _poll(self) -> None:
        """Tell who works, until the scheduler no longer answers."""
        known: list[str] | None = None
        scheduler = None
        while True:
            asked = asyncio.create_task(self._client.scheduler.identity())
            end = time.monotonic() + _SILENCE
            while not asked.done() and time.monotonic() < end and self._client.status == "running":
                await asyncio.wait([asked], timeout=_POLL)
            if not asked.done() or asked.exception() is not None:
                asked.cancel()
                break
            about = asked.result()
            # dask's client finds one that began anew by itself, and then its tasks are gone.
            scheduler = scheduler or about["id"]
            if about["id"] != scheduler:
                break
            workers = sorted(str(w) for w, a in about["workers"].items() if _works(a))
            if workers != known:
                known = workers
                self.tell({"event": "workers", "workers": workers})
            await asyncio.sleep(_POLL)
        self.tell({"event": "lost"})

    def _submit(self, number: int, worker: str, blob: bytes) -> None:
        from flowrvs.inference.cluster.worker import answer

        future = self._client.submit(
            answer,
            blob,
            key=f"flowrvs-{self._mark}-{number}",
            workers=[worker],
            allow_other_workers=False,
            pure=False,
        )
        self._tasks[number] = future, asyncio.create_task(self._wait(number, future))

    async def _wait(self, number: int, future: Any) -> None:
        header: dict[str, Any] = {"event": "done", "id": number}
        blob = None
        try:
            result = await future
            if type(result) in (bytes, bytearray, memoryview):
                blob = bytes(result)
            else:
                header |= {"event": "error", "reason": "it answered with something else"}
        except asyncio.CancelledError:
            return
        except Exception as error:
            # A scheduler that is gone takes its futures along.
            lost = future.status in ("cancelled", "lost")
            header |= {"event": "again" if lost else "error", "reason": _reason(error)}
        self._tasks.pop(number, None)
        self.tell(header, blob)

    def _cancel(self, numbers: list[int]) -> None:
        for number in numbers:
            future, waiting = self._tasks.pop(number, (None, None))
            if future is not None and waiting is not None:
                waiting.cancel()
                future.release()


def _works(about: dict[str, Any]) -> bool:
    return about.get("status", "running") == "running"


def _reason(error: BaseException) -> str:
    """Return what an error says of its cause, in one line."""
    if error.args and isinstance(error.args[0], bytes):  # a worker's, pickled
        return "its own log says why"
    text = " ".join(str(error).split()) or type(error).__name__
    if "ssl_context" in text:
        return "TLS needs certificates, and none were given (--tls-ca, --tls-cert, --tls-key)"
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__.startswith("SSL") or "certificate" in str(cause).lower():
            return " ".join(str(cause).split())[:500]
        cause = cause.__cause__ or cause.__context__
    return text[:500]


def _read_orders(
    stream: BinaryIO,
    loop: asyncio.AbstractEventLoop,
    orders: asyncio.Queue[tuple[dict[str, Any], bytes] | None],
) -> None:
    order: tuple[dict[str, Any], bytes] | None = None
    while True:
        try:
            order = read_message(stream)
        except Exception:
            order = None
        try:
            loop.call_soon_threadsafe(orders.put_nowait, order)
        except RuntimeError:  # the loop has ended
            return
        if order is None:
            return


async def _main() -> None:
    # What others print must not come between the messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders: asyncio.Queue[tuple[dict[str, Any], bytes] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=_read_orders, args=(sys.stdin.buffer, loop, orders), daemon=True
    ).start()
    await _Bridge(out).serve(orders)


if __name__ == "__main__":
    _restrict_pickle()
    asyncio.run(_main())
    os._exit(0)  # not dask's threads either
