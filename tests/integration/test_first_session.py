"""What a stranger types first, with the bundled model: the demo, a session, the examples."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from flowrvs.cli import main

SOUND = {"errors": 0, "warnings": 0, "findings": []}
EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("session") / "demo-out"
    assert main(["demo", "--out", str(out)]) == 0
    return out


def _json(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_demo_scores_well(demo: Path) -> None:
    scores = json.loads((demo / "scores.json").read_text())
    assert scores["coverage"] == 1
    assert scores["J&F"] == pytest.approx((scores["J"] + scores["F"]) / 2)
    assert scores["J&F"] > 0.5


def test_split_of_the_demo_is_sound(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the model found may overlap; one of the clip's shapes is in no sentence."""
    for split in (demo / "mevis" / "train", demo / "truth" / "valid_u"):
        found = _json(capsys, "check", str(split))
        assert found["errors"] == 0
        problems = [finding["problem"] for finding in found["findings"]]
        known = ("it overlaps anno_id", "no expression uses it")
        assert [problem for problem in problems if not problem.startswith(known)] == []


def test_predictions_score_as_the_demo_did(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long way round: split, prediction pictures, official scores."""
    truth = str(demo / "truth" / "valid_u")
    _json(capsys, "predict", truth, "--out", str(tmp_path / "found"))
    scores = _json(capsys, "evaluate", str(tmp_path / "found"), truth)
    shown = json.loads((demo / "scores.json").read_text())
    assert scores["coverage"] == 1
    # JPEG frames here, an H.264 clip there.
    assert scores["J&F"] == pytest.approx(shown["J&F"], abs=0.1)


def test_session_without_a_screen(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, overlay = tmp_path / "my.flowrvs", tmp_path / "my.mp4"
    line = ["segment", str(demo / "clip.mp4"), "-p", "the yellow cross", "--out", str(project)]
    _json(capsys, *line, "--overlay", str(overlay))
    assert overlay.stat().st_size > 1000
    _json(capsys, "export", str(project), "--to", str(tmp_path / "data"))
    assert _json(capsys, "check", str(tmp_path / "data" / "train")) == SOUND


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert "Look at" in shown and "False" not in shown
    assert list(tmp_path.iterdir())
