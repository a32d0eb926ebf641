"""``export``, ``check``, ``predict`` and ``evaluate`` as they are typed."""

from __future__ import annotations

import json

import pytest

import flowrvs
from flowrvs.cli import main
from flowrvs.store import Project
from tests.fixtures.segmenters import ThresholdSegmenter


@pytest.fixture
def project(tmp_path, shapes_mp4, shapes_masks):
    with flowrvs.open_video(shapes_mp4) as video:
        made = Project.create(tmp_path / "shapes", video.info)
    with made:
        for name in ("red", "green"):
            _, found = made.add_prompt(f"the {name} square")
            made.write_model(found.layer, found.id, 0, shapes_masks[name])
    return made.path


@pytest.fixture
def tiny(monkeypatch):
    """Stands in for the bundled model."""
    asked = {}

    def load(name, **options):
        asked.update(name=name, **options)
        return ThresholdSegmenter()

    monkeypatch.setitem(flowrvs.__dict__, "load", load)
    return asked


def test_from_a_project_to_scores(project, tiny, tmp_path, capsys):
    assert main(["export", str(project), "--to", str(tmp_path / "d"), "--split", "valid_u"]) == 0
    split = str(tmp_path / "d" / "valid_u")
    assert "1 video, 12 frames, 2 sentences, 2 objects (mevis)" in capsys.readouterr().out
    assert main(["check", split]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    out = str(tmp_path / "pred")
    assert main(["predict", split, "--out", out, "--zip", "--device", "cpu"]) == 0
    assert tiny == {"name": "tiny", "device": "cpu", "memory": "auto"}
    assert "2 sentences" in capsys.readouterr().out
    assert (tmp_path / "pred.zip").is_file()
    assert main(["evaluate", out, split]) == 0
    assert "coverage 1.0000" in capsys.readouterr().out
    assert main(["evaluate", out, split, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert list(scores)[:5] == ["J", "F", "J&F", "coverage", "expressions"]
    assert scores["J&F"] == pytest.approx((scores["J"] + scores["F"]) / 2)
    # The frames were compressed twice, which blurs the colours that the stand-in goes by.
    assert scores["J"] > 0.7 and scores["F"] > 0.9


def test_json_is_one_object(project, tiny, tmp_path, capsys):
    main(["--json", "export", str(project), "--to", str(tmp_path / "d")])
    exported = json.loads(capsys.readouterr().out)
    assert exported["frames"] == 12 and exported["path"].endswith("train")
    split = exported["path"]
    main(["check", split, "--json"])
    assert json.loads(capsys.readouterr().out) == {"errors": 0, "warnings": 0, "findings": []}
    main(["predict", split, "--out", str(tmp_path / "p"), "--json"])
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["expressions"] == 2 and predicted["zip"] is None


def test_check_says_what_is_wrong_and_fails(project, tmp_path, capsys):
    main(["export", str(project), "--to", str(tmp_path / "d")])
    split = tmp_path / "d" / "train"
    masks = json.loads((split / "mask_dict.json").read_text())
    masks["0"].pop()
    (split / "mask_dict.json").write_text(json.dumps(masks))
    capsys.readouterr()
    assert main(["check", str(split)]) == 2
    out = capsys.readouterr().out
    assert "error: mask_dict.json: anno_id 0: it has 11 entries for 12 frames" in out
    assert main(["check", str(split), "--json"]) == 2
    value = json.loads(capsys.readouterr().out)
    assert value["errors"] == 1
    assert set(value["findings"][0]) == {"severity", "file", "key", "problem", "remedy"}


@pytest.mark.parametrize(
    "line",
    [
        "export {tmp}/none.flowrvs --to {tmp}/d",
        "export {project} --to {tmp}/d --split ../up",
        "export {project} --to {tmp}/d --format avi",
        "export {project} --to {tmp}/d --quality 0",
        "check {tmp}/none",
        "check {tmp}",
        "evaluate {tmp}/none {tmp}",
        "predict {tmp} --out {tmp}/p",
        "predict {tmp} --out {tmp}/p --steps 0",
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(line, project, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert main([part.format(tmp=tmp_path, project=project) for part in line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_project_that_is_open_elsewhere_is_exported(project, tmp_path):
    with Project.open(project):
        assert main(["export", str(project), "--to", str(tmp_path / "d")]) == 0
