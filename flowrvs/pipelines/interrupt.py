"""Stopping inside a model's forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from flowrvs.progress import CancelToken

__all__ = ["interruptible"]


@contextmanager
def interruptible(blocks: Iterable[torch.nn.Module], cancel: CancelToken | None) -> Iterator[None]:
    """Raise `Cancelled` before the next of `blocks` once `cancel` is set.

    A pass of the production model takes seconds, on a CPU minutes; a person who pressed
    Cancel should not wait for its end.
    """
    if cancel is None:
        yield
        return
    cancel.raise_if_cancelled()
    with ExitStack() as hooks:
        for block in blocks:
            handle = block.register_forward_pre_hook(lambda *_: cancel.raise_if_cancelled())
            hooks.callback(handle.remove)
        yield
