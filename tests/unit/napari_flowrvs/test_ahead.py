"""Importing ahead, in a process that has imported nothing yet."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

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
