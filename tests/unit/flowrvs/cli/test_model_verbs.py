"""The verbs synth, train and models, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowrvs.cli import main
from tests.fixtures.micro import micro_pipeline

SCRATCH = """
out = "{out}"
preset = "micro"
[vae]
warmup = 1
[[vae.phases]]
steps = 2
frames = 1
batch = 1
height = 32
width = 48
[[vae.mask_phases]]
steps = 1
frames = 5
batch = 1
height = 32
width = 48
[flow]
warmup = 1
expressions = 2
pool_size = 2
attribute_weight = 0.5
attribute_block = 1
train_text_encoder = true
[[flow.phases]]
steps = 2
frames = 1
batch = 1
"""


def test_synth_writes_a_split_that_check_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "split")
    assert main(["synth", "--out", out, "--videos", "2", "--frames", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["videos"] == 2
    assert said["expressions"] == sum(said["kinds"].values()) > 8
    assert main(["check", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"errors": 0, "warnings": 0, "findings": []}


def test_synth_refuses_impossible_numbers_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synth", "--out", str(tmp_path / "x"), "--frames", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowrvs: Cannot make a clip of 0 frames")
    assert list(tmp_path.iterdir()) == []


def test_train_from_random_weights_then_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "micro.toml"
    config.write_text(SCRATCH.format(out=(tmp_path / "out").as_posix()))
    assert main(["train", "scratch", "--config", str(config), "--json"]) == 0
    folder = json.loads(capsys.readouterr().out)["out"]
    assert Path(folder) == tmp_path / "out" / "model"
    assert main(["models", "verify", folder, "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["parameters"]
    assert set(sizes) == {"transformer", "vae", "text_encoder"}
    assert min(sizes.values()) > 0


def test_models_lists_the_bundled_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    assert "tiny" in {m["name"] for m in json.loads(capsys.readouterr().out)["models"]}


def test_models_verify_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    micro_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vae" / "config.json").unlink()
    assert main(["models", "verify", str(tmp_path / "model")]) == 2
    assert "lacks vae/config.json" in capsys.readouterr().err
