"""What a stranger types first, with the bundled model: the demo, a session, the examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowrvs.cli import main

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
    assert main(["check", str(demo / "mevis" / "train")]) == 0
    assert main(["check", str(demo / "truth" / "valid_u")]) == 0


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
    assert main(["check", str(tmp_path / "data" / "train")]) == 0


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Look at" in done.stdout
    assert "False" not in done.stdout
    assert list(tmp_path.iterdir())
