"""Preparing the next item on a thread while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["prefetch"]

T = TypeVar("T")

_END: Any = object()


def prefetch(items: Iterable[T], depth: int = 1) -> Generator[T, None, None]:
    """Yield `items`, computed up to `depth` of them ahead on one thread.

    Closing it early waits for the item that is being computed, and asks for no other.
    """
    iterator = iter(items)
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="flowrvs-read") as pool:
        try:
            while True:
                while len(pending) <= depth:
                    pending.append(pool.submit(next, iterator, _END))
                item = pending.popleft().result()
                if item is _END:
                    return
                yield item
        finally:
            for future in pending:
                future.cancel()
