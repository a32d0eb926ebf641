"""The example of a package with models, installed as pip would do it, from end to end."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import flowrvs
from flowrvs.cli import main
from flowrvs.plugins import find_plugin
from flowrvs.records import Segmenter, Tracker
from tests.fixtures.packages import install


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path) -> None:
    folder = root / "examples" / "bring_your_model"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    source = (folder / "color_words.py").read_text()
    points = project["entry-points"]
    install(monkeypatch, tmp_path, project["name"], points, {"color_words": source})


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_it_is_about_sixty_lines_of_code(root: Path) -> None:
    lines = (root / "examples" / "bring_your_model" / "color_words.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 75


def test_its_segmenter_finds_what_a_sentence_names(
    example: None, shapes_mp4: Path, shapes_masks: dict, tmp_path: Path, capsys
) -> None:
    out = str(tmp_path / "a.flowrvs")
    line = ["segment", str(shapes_mp4), "-p", "the red one", "-p", "a green thing", "-p", "x"]
    assert main([*line, "--model", "color-words", "--out", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["model"] == "color-words-1"
    assert [row["frames_with_mask"] for row in said["expressions"]] == [12, 12, 0]
    with flowrvs.Project.open(out) as project:
        for object_id, name in ((1, "red"), (2, "green")):
            for t in (0, 11):
                mask = project.object_mask(object_id, t, t + 1)[0]
                assert iou(mask, shapes_masks[name][t]) > 0.8
        assert next(iter(project.runs.values())).key["model"] == "color-words-1"
    assert isinstance(flowrvs.load_segmenter("color-words"), Segmenter)
    known = find_plugin("segmenter", "color-words")
    assert known is not None and known.package == "color-words"


def test_its_tracker_picks_and_follows(
    example: None, shapes_mp4: Path, shapes_masks: dict, tmp_path: Path, capsys
) -> None:
    out = str(tmp_path / "a.flowrvs")
    line = ["pick", str(shapes_mp4), "--frame", "4", "--point", "20,14", "--out", out]
    assert main([*line, "--with", "color-follower"]) == 0
    assert main(["spread", out, "--with", "color-follower", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["with"] == "color-follower-1" and said["objects"][0]["frames"] == 11
    with flowrvs.Project.open(out) as project:
        for t in range(12):
            assert iou(project.object_mask(1, t, t + 1)[0], shapes_masks["red"][t]) > 0.8
    assert isinstance(flowrvs.load_tracker("color-follower"), Tracker)


def test_the_page_s_smallest_segmenter_is_whole(root: Path) -> None:
    page = (root / "docs" / "bring-your-model.md").read_text()
    block = next(b for b in page.split("```python\n")[1:] if "class Mine" in b).split("```")[0]
    names: dict = {}
    exec(block, names)
    mine = names["Mine"]()
    video = flowrvs.open_video(np.zeros((20, 8, 8, 3), np.uint8))
    parts = list(flowrvs.segment(video, ["a", "b"], mine))
    assert sum(len(part.masks) for part in parts) == 40
    assert not any(part.masks.any() for part in parts)
