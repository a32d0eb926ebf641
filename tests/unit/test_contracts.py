"""The rules of the house that a machine keeps."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowrvs
import napari_flowrvs

HEAVY = ("torch", "diffusers", "transformers")
SCREEN = ("qtpy", "PySide6", "PyQt6", "napari", "magicgui", "vispy")


def _loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter that has run `code`."""
    probe = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=120
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def _modules() -> list[str]:
    return [
        module.name
        for package in (flowrvs, napari_flowrvs)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not any(part.startswith("_") for part in module.name.split("."))
    ]


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import flowrvs", (*HEAVY, *SCREEN, "dask", "zarr", "av")),
        ("import napari_flowrvs", (*HEAVY, "qtpy", "napari")),
        ("import flowrvs.cli; flowrvs.cli.main(['--version'])", (*HEAVY, *SCREEN)),
        ("import flowrvs.video, flowrvs.store, flowrvs.data", (*HEAVY, *SCREEN)),
        ("from flowrvs import Project, open_video, segment", (*HEAVY, *SCREEN)),
    ],
)
def test_import_stays_light(code: str, absent: tuple[str, ...]) -> None:
    assert not _loaded_after(code) & set(absent)


def test_import_changes_nothing_global() -> None:
    code = (
        "import os, logging, warnings\n"
        "import av, dask.array, scipy.ndimage, tensorstore, tifffile\n"  # they do change some
        "before = dict(os.environ), list(warnings.filters), logging.root.level\n"
        "import flowrvs, napari_flowrvs, flowrvs.video, flowrvs.store, flowrvs.cli\n"
        "assert not logging.root.handlers\n"
        "assert before == (dict(os.environ), list(warnings.filters), logging.root.level)"
    )
    assert "flowrvs" in _loaded_after(code)


def test_lazy_names_resolve() -> None:
    assert set(flowrvs.__all__) <= set(dir(flowrvs))
    for name in flowrvs.__all__:
        assert getattr(flowrvs, name) is not None


@pytest.mark.parametrize("name", _modules())
def test_public_modules_declare_their_names(name: str) -> None:
    """Each name of an ``__all__`` exists; a module without one offers nothing."""
    module = importlib.import_module(name)
    if name.startswith("flowrvs.cli."):
        assert isinstance(module.HELP, str)
        assert callable(module.add_arguments)
        assert callable(module.run)
    elif hasattr(module, "__all__"):
        assert [n for n in module.__all__ if not hasattr(module, n)] == []
    else:
        assert [n for n, v in vars(module).items() if getattr(v, "__module__", "") == name] == []


def test_manifest_at_the_top_is_the_one_of_the_package(root: Path) -> None:
    link = root / "napari.yaml"
    assert link.resolve() == (root / "napari_flowrvs" / "napari.yaml").resolve()
    assert link.is_file()


@pytest.mark.parametrize("path", ["flowrvs/store/probe.py", "napari_flowrvs/probe.py"])
def test_torch_at_module_level_is_refused(root: Path, path: str) -> None:
    assert "TID253" in _ruff(root, path, "import torch\n")


def test_torch_at_module_level_is_allowed_where_it_belongs(root: Path) -> None:
    assert "TID253" not in _ruff(root, "flowrvs/models/probe.py", "import torch\n")


def _ruff(root: Path, path: str, source: str) -> str:
    pytest.importorskip("ruff")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", path, "-"],
        cwd=root,
        input=source,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout
