"""Importing what models are made of before anybody waits for it."""

from __future__ import annotations

import contextlib
import importlib
import threading

__all__ = ["import_ahead"]


def import_ahead(module: str = "flowrvs.pipelines") -> threading.Thread:
    """Import a module on a thread of its own, and return that thread.

    Importing holds the interpreter for up to a third of a second at a time: call it when nobody
    draws.
    """

    def work() -> None:
        with contextlib.suppress(Exception):  # whoever loads a model is told what is wrong
            importlib.import_module(module)

    thread = threading.Thread(target=work, name="flowrvs-imports", daemon=True)
    thread.start()
    return thread
