"""What README and docs say can be typed in."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import flowrvs
from flowrvs.cli._main import VERBS, build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(language: str) -> list[str]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [block for page in PAGES for block in pattern.findall(page.read_text("utf-8"))]


def _commands() -> list[str]:
    lines = "\n".join(_blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"(\S*/)?flowrvs ", line)]


@pytest.mark.parametrize("command", _commands())
def test_commands_are_understood(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    assert build_parser().parse_args(words).run


def test_every_verb_is_described() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    assert [verb for verb in VERBS if f"## {verb}" not in text] == []


@pytest.mark.parametrize("block", _blocks("python"))
def test_python_names_exist(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "flowrvs":
                assert hasattr(flowrvs, node.attr)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text("utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("target", ["demo", "test", "setup", "format"])
def test_make_targets_exist(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/import_time.py", "--repeat", "1", "--only", "import flowrvs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("import flowrvs ")
