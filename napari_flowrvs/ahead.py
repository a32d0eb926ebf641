"""Importing what models are made of before anybody waits for it, without stopping the interface.

Two things of importing torch hold the interpreter, and with it the interface, for a third of a
second each: loading its libraries, and, several times, collecting the garbage of half a million
new objects. So the libraries are loaded by a call that lets go of the interpreter, and nothing is
collected meanwhile. What remains are stops of some twenty milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["import_ahead"]

_one_at_a_time = threading.Lock()


def import_ahead(
    module: str = "flowrvs.pipelines.loading", model: str | None = None
) -> threading.Thread:
    """Import a module on a thread of its own, and return that thread.

    Parameters
    ----------
    module : str
        Its name.
    model : str, optional
        What will be loaded with it: the module's ``warm_up(model)`` is called, if it has one.
    """

    def work() -> None:
        # Whoever loads a model is told what is wrong.
        with _one_at_a_time, _nothing_collected(), contextlib.suppress(Exception):
            if module.startswith("flowrvs."):
                _load_torch()
            loaded = importlib.import_module(module)
            if model is not None and hasattr(loaded, "warm_up"):
                loaded.warm_up(model)

    thread = threading.Thread(target=work, name="flowrvs-imports", daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load_torch() -> None:
    """Load torch's libraries, which importing it then finds; what fails is left to the import."""
    found = importlib.util.find_spec("torch")
    if os.name != "posix" or "torch" in sys.modules or found is None or found.origin is None:
        return
    suffix = "dylib" if sys.platform == "darwin" else "so"
    load = ctypes.CDLL(None).dlopen  # unlike ctypes.CDLL, a call lets go of the interpreter
    load.restype, load.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    for name, mode in (
        ("libtorch_global_deps", os.RTLD_NOW | os.RTLD_GLOBAL),
        ("libtorch", os.RTLD_NOW),
    ):
        load(os.fsencode(Path(found.origin).parent / "lib" / f"{name}.{suffix}"), mode)
