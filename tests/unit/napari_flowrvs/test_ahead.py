"""Importing ahead, here and in a process that has imported nothing yet."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_flowrvs import ahead
from napari_flowrvs.ahead import import_ahead

_PROGRAM = """
import gc, json, sys, threading
from napari_flowrvs.ahead import import_ahead

collected = []
gc.callbacks.append(lambda phase, info: collected.append(phase) if phase == "stop" else None)
before = "torch" in sys.modules
thread = import_ahead(*sys.argv[1:])
found = {"before": before, "here": thread is threading.current_thread()}
thread.join()
found["collected"] = len(collected)
found["modules"] = [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]
found["enabled"] = gc.isenabled()
libraries = open("/proc/self/maps").read() if sys.platform == "linux" else ""
found["library"] = "libtorch_cpu" in libraries
print(json.dumps(found))
"""


def run(*modules: str) -> dict:
    line = [sys.executable, "-c", _PROGRAM, *modules]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs the models")
def test_what_a_model_is_made_of_is_there_before_it_is_loaded() -> None:
    found = run()
    assert not found["before"] and found["modules"] == ["torch", "diffusers", "transformers"]
    # Hundreds otherwise; one comes at once when they are allowed again.
    assert found["enabled"] and found["collected"] <= 2, "a collection stops the interface"


def test_what_cannot_be_imported_is_left_to_whoever_needs_it() -> None:
    found = run("no_such_module")
    assert found["modules"] == [] and found["enabled"] and not found["library"]


def test_a_model_is_warmed_up_on_a_thread_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "parts_of_models.py").write_text(
        "import gc, threading\n"
        "seen = []\n"
        "def warm_up(model):\n"
        "    seen.append((model, threading.current_thread().name, gc.isenabled()))\n"
        "    if model == 'broken':\n"
        "        raise OSError(model)\n"
    )

    def import_it(*what: str) -> None:
        thread = import_ahead(*what)
        assert thread.daemon and thread is not threading.current_thread()
        thread.join(60)

    assert gc.isenabled()
    import_it("parts_of_models")
    seen = sys.modules["parts_of_models"].seen
    assert seen == [], "no model was named"
    import_it("parts_of_models", "tiny")
    import_it("parts_of_models", "broken")
    assert gc.isenabled() and seen == [
        ("tiny", "flowrvs-imports", False),
        ("broken", "flowrvs-imports", False),
    ]
    import_it("json", "tiny")  # has nothing to warm up
    gc.disable()
    try:
        import_it("parts_of_models", "tiny")
        assert not gc.isenabled(), "who has disabled it enables it"
    finally:
        gc.enable()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no dlopen")
def test_torchs_libraries_are_loaded_by_a_call_that_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[Any, ...]] = []

    class Loader:
        def __call__(self, *arguments: Any) -> None:
            loaded.append(arguments)

    found = SimpleNamespace(origin=str(tmp_path / "torch" / "__init__.py"))
    loader = Loader()
    monkeypatch.setattr(ahead.ctypes, "CDLL", lambda name: SimpleNamespace(dlopen=loader))
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: {"torch": found}[name])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    folder, later = bytes(tmp_path / "torch" / "lib"), os.RTLD_NOW
    wanted = [("libtorch_global_deps", later | os.RTLD_GLOBAL), ("libtorch", later)]
    for platform, suffix in (("linux", "so"), ("darwin", "dylib")):
        monkeypatch.setattr(ahead.sys, "platform", platform)
        loaded.clear()
        ahead._load_torch()
        assert loaded == [(folder + f"/{name}.{suffix}".encode(), mode) for name, mode in wanted]
    assert (loader.restype, loader.argtypes) == (
        ctypes.c_void_p,
        (ctypes.c_char_p, ctypes.c_int),
    )
    loaded.clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", SimpleNamespace())
        ahead._load_torch()
    with monkeypatch.context() as patch:
        patch.setattr(ahead.os, "name", "nt")
        ahead._load_torch()
    found.origin = None
    ahead._load_torch()
    found = None
    ahead._load_torch()
    assert loaded == [], "it is there already, or is not to be had"
