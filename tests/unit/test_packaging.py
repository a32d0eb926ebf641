"""What the hub, the package index and napari read about the project."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml
from npe2 import PluginManifest

import flowrvs

ROOT = Path(__file__).resolve().parents[2]
YAML = [
    *sorted((ROOT / ".github").rglob("*.yml")),
    ROOT / ".napari-hub" / "config.yml",
    ROOT / "CITATION.cff",
]


@pytest.fixture(scope="module")
def metadata() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", "utf-8")
    return parser


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_files_for_the_hub_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


def test_citation_names_version_and_repository(metadata: configparser.ConfigParser) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == flowrvs.__version__
    assert citation["repository-code"] == metadata["metadata"]["url"]
    urls = dict(
        line.split(" = ", 1) for line in metadata["metadata"]["project_urls"].strip().split("\n")
    )
    assert {"Source", "Issues", "Documentation", "Changelog"} <= set(urls)
    assert all(url.startswith(citation["repository-code"]) for url in urls.values())


def test_the_window_works_with_whatever_binding_is_there(
    metadata: configparser.ConfigParser,
) -> None:
    """PyQt6 is under the GPL: only the extra that says so brings it."""
    extras = metadata["options.extras_require"]
    assert not re.search(r"^\s*py(qt|side)", extras["gui"], re.IGNORECASE | re.MULTILINE)
    assert [name for name in extras if "PyQt6" in extras[name]] == ["all"]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "PyQt6, which is under the GPL" in readme


def test_the_matrix_covers_systems_pythons_and_bindings() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    matrix = yaml.safe_load(text)["jobs"]["matrix"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    more = matrix["include"]
    assert {row["os"] for row in more if row["qt"] == "PySide6"} == set(matrix["os"])
    assert any(row["dependencies"] == "oldest" for row in more)


def test_commands_are_found_where_users_look() -> None:
    manifest = PluginManifest.from_file(ROOT / "napari_flowrvs" / "napari.yaml")
    commands = {command.id for command in manifest.contributions.commands or ()}
    menus = {
        menu: {item.command for item in items}
        for menu, items in (manifest.contributions.menus or {}).items()
    }
    assert menus["napari/layers/segment"] == {"napari-flowrvs.dock"}
    assert "napari-flowrvs.dock" in menus["napari/layers/annotate"]
    assert "napari-flowrvs.compare" in menus["napari/layers/measure"]
    assert {"napari-flowrvs.export", "napari-flowrvs.import"} <= menus["napari/file/io_utilities"]
    assert set().union(*menus.values()) <= commands
    assert manifest.is_visible
    package, file = str(manifest.icon).split(":")
    assert (ROOT / package / file).read_text("utf-8").startswith("<svg")
