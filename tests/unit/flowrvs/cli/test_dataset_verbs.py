"""``export``, ``check``, ``predict`` and ``evaluate`` as they are typed."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import flowrvs
from flowrvs.cli import main
from flowrvs.cli.check import report
from flowrvs.data import MevisSplit
from flowrvs.data.check import Finding
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

    monkeypatch.setitem(flowrvs.__dict__, "load_segmenter", load)
    return asked


def test_from_a_project_to_scores(project, tiny, tmp_path, capsys):
    assert main(["export", str(project), "--to", str(tmp_path / "d"), "--split", "valid_u"]) == 0
    split = str(tmp_path / "d" / "valid_u")
    assert "1 video, 12 frames, 2 sentences, 2 objects (mevis)" in capsys.readouterr().out
    assert main(["check", split]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    out = str(tmp_path / "pred")
    assert main(["predict", split, "--out", out, "--zip", "--device", "cpu"]) == 0
    assert tiny.items() >= {"name": "tiny", "device": "cpu", "memory": "auto"}.items()
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
    options = ["--steps", "3", "--window", "6", "--overlap", "1"]
    main(["predict", split, "--out", str(tmp_path / "p"), "--json", *options])
    predicted = json.loads(capsys.readouterr().out)
    made = json.loads((tmp_path / "p" / ".flowrvs-predict.json").read_text())
    assert made.items() >= {"steps": 3, "window": 6, "overlap": 1}.items()
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
    assert "mask_dict.json: anno_id 0: it has 11 entries for 12 frames" in out
    assert main(["check", str(split), "--json"]) == 2
    value = json.loads(capsys.readouterr().out)
    assert value["errors"] == 1
    assert value["findings"][0].items() >= {"code": "mask-count", "fixable": False}.items()
    assert {"severity", "file", "key", "problem", "remedy"} < set(value["findings"][0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("export {tmp}/none.flowrvs --to {tmp}/d", "no project at {tmp}/none.flowrvs"),
        ("export {project} --to {tmp}/d --split ../up", "'../up' cannot be a file name"),
        ("export {project} --to {tmp}/d --format avi", "--format: invalid choice: 'avi'"),
        ("export {project} --to {tmp}/d --quality 0", "quality is 1 to 100, not 0"),
        ("check {tmp}/none", "No split at {tmp}/none"),
        ("check {tmp}", "{tmp} has no meta_expressions.json"),
        ("evaluate {tmp}/none {tmp}", "{tmp} has no meta_expressions.json"),
        ("predict {tmp} --out {tmp}/p", "{tmp} has no meta_expressions.json"),
        ("predict {tmp} --out {tmp}/p --steps 0", "0 steps are impossible"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(line, message, project, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert main([part.format(tmp=tmp_path, project=project) for part in line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("flowrvs: ")
    assert message.format(tmp=tmp_path) in captured.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_project_that_is_open_elsewhere_is_exported(project, tmp_path):
    with Project.open(project):
        assert main(["export", str(project), "--to", str(tmp_path / "d")]) == 0
    masks = json.loads((tmp_path / "d" / "train" / "mask_dict.json").read_text())
    assert [len(rows) for rows in masks.values()] == [12, 12] and all(
        all(r) for r in masks.values()
    )


def test_in_corrected_out_again(project, tmp_path, capsys):
    main(["export", str(project), "--to", str(tmp_path / "d"), "--licence", "CC0"])
    split = tmp_path / "d" / "train"
    assert "CC0" in (split / "README.md").read_text()
    before = (split / "mask_dict.json").read_bytes()
    capsys.readouterr()
    assert main(["import", str(split), "--list"]) == 0
    assert capsys.readouterr().out == "shapes  2 sentences\n"
    assert main(["import", str(split), "--video", "shapes", "--json"]) == 0
    (copy,) = json.loads(capsys.readouterr().out)["projects"]
    with Project.open(copy) as opened:
        assert len(opened.objects) == 2
        opened.labels(1)[3, 0, 0] = 1
    assert main(["export", copy, "--into", str(split)]) == 0
    assert "1 mask and 0 sentences changed, 0 objects added, 0 removed\n" in capsys.readouterr().out
    assert (split / "mask_dict.json").read_bytes() != before
    assert main(["export", copy, "--to", str(tmp_path / "d"), "--append"]) == 0
    assert len(MevisSplit.open(split).videos) == 2
    assert main(["import", str(split), "--all", "--out", str(tmp_path / "all")]) == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == [
        "shapes-2.flowrvs",
        "shapes.flowrvs",
    ]
    capsys.readouterr()
    assert main(["import", str(split)]) == 2
    assert "choose one" in capsys.readouterr().err


def test_the_project_wins_over_others_only_when_told(project, tmp_path, capsys):
    main(["export", str(project), "--to", str(tmp_path / "d")])
    split = tmp_path / "d" / "train"
    main(["import", str(split), "--video", "shapes", "--out", str(tmp_path / "p")])
    with Project.open(tmp_path / "p.flowrvs") as opened:
        wanted = opened.object_mask(1, 2, 3)[0]
    masks = json.loads((split / "mask_dict.json").read_text())
    masks["0"][2] = None
    (split / "mask_dict.json").write_text(json.dumps(masks))
    capsys.readouterr()
    line = ["export", str(tmp_path / "p.flowrvs"), "--into", str(split)]
    assert main(line) == 2
    assert "changed since it was read" in capsys.readouterr().err
    assert json.loads((split / "mask_dict.json").read_text()) == masks
    assert main([*line, "--overwrite"]) == 0
    written = MevisSplit.open(split)
    assert (written.target_mask("shapes", "0", 2) == wanted).all()


def test_all_are_refused_before_the_first_is_written_back(project, tmp_path, capsys):
    main(["export", str(project), "--to", str(tmp_path / "d")])
    split = tmp_path / "d" / "train"
    main(["import", str(split), "--video", "shapes", "--out", str(tmp_path / "p")])
    with Project.open(tmp_path / "p.flowrvs") as opened:
        opened.labels(1)[3, 0, 0] = 1
    before = (split / "mask_dict.json").read_bytes()
    assert main(["export", str(tmp_path / "p.flowrvs"), str(project), "--into", str(split)]) == 2
    assert "was not read from a dataset" in capsys.readouterr().err
    assert (split / "mask_dict.json").read_bytes() == before


def test_what_was_done_is_named_when_another_fails(project, tiny, tmp_path, capsys):
    """Two projects of one video: the second one meets what the first one has changed."""
    main(["export", str(project), "--to", str(tmp_path / "d")])
    split = tmp_path / "d" / "train"
    main(["import", str(split), "--video", "shapes", "--out", str(tmp_path / "p")])
    with Project.open(tmp_path / "p.flowrvs") as opened:
        opened.labels(1)[3, 0, 0] = 1
        opened.flush()
        opened.copy_to(tmp_path / "q")
    two = [str(tmp_path / "p.flowrvs"), str(tmp_path / "q.flowrvs")]
    capsys.readouterr()
    assert main(["export", *two, "--into", str(split), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert [row["masks"] for row in said["videos"]] == [1] and said["code"] == 2
    assert "was changed since it was read" in said["error"]
    # A second video, whose frames are cut off.
    meta = json.loads((split / "meta_expressions.json").read_text())
    meta["videos"]["cut"] = {**meta["videos"]["shapes"], "expressions": {"0": {"exp": "it"}}}
    (split / "meta_expressions.json").write_text(json.dumps(meta))
    shutil.copytree(split / "JPEGImages" / "shapes", split / "JPEGImages" / "cut")
    (split / "JPEGImages" / "cut" / "00000.jpg").write_bytes(b"cut")
    for line, done in (
        (["import", str(split), "--all", "--out", str(tmp_path / "all")], "projects"),
        (["predict", str(split), "--out", str(tmp_path / "pred")], "out"),
    ):
        assert main([*line, "--json"]) == 2
        said = json.loads(capsys.readouterr().out)
        assert list(said["failed"]) == ["cut"] and said["failed"]["cut"][:-1] in said["error"]
        assert (
            said[done]
            == {
                "projects": [str(tmp_path / "all" / "shapes.flowrvs")],
                "out": str(tmp_path / "pred"),
            }[done]
        )
    assert (tmp_path / "pred" / "shapes" / "0" / "00011.png").is_file()


def test_warnings_alone_are_no_failure(project, tmp_path, capsys):
    main(["export", str(project), "--to", str(tmp_path / "d")])
    split = tmp_path / "d" / "train"
    meta = json.loads((split / "meta_expressions.json").read_text())
    meta["videos"]["shapes"]["expressions"]["0"]["exp"] = "  the red square"
    (split / "meta_expressions.json").write_text(json.dumps(meta))
    capsys.readouterr()
    assert main(["check", str(split)]) == 0
    assert "0 errors, 1 warning" in capsys.readouterr().out
    assert main(["check", str(split), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == 1


def test_the_official_tree_of_ref_youtube_vos(shapes_images, tiny, tmp_path, capsys):
    """`predict --zip ytvos`, `check` and `import` take ``valid/`` with its sentences beside it."""
    place = tmp_path / "ry" / "valid" / "JPEGImages" / "v"
    place.mkdir(parents=True)
    for path in sorted(shapes_images.iterdir()):
        with Image.open(path) as picture:
            picture.save(place / f"{path.stem}.jpg")
    beside = tmp_path / "ry" / "meta_expressions" / "valid"
    beside.mkdir(parents=True)
    rows = {"0": {"exp": "the red square"}, "1": {"exp": "the green square"}}
    meta = {
        "videos": {"v": {"frames": sorted(p.stem for p in place.iterdir()), "expressions": rows}}
    }
    (beside / "meta_expressions.json").write_text(json.dumps(meta))
    (tmp_path / "ry" / "valid" / "meta.json").write_text('{"videos": {}}')
    split = str(tmp_path / "ry" / "valid")
    assert main(["check", split]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    out = str(tmp_path / "pred")
    assert main(["predict", split, "--out", out, "--zip", "ytvos", "--device", "cpu"]) == 0
    with zipfile.ZipFile(tmp_path / "pred.zip") as archive:
        names = archive.namelist()
    assert "Annotations/v/1/00011.png" in names and len(names) == 24
    capsys.readouterr()
    assert main(["import", split, "--video", "v", "--out", str(tmp_path / "p")]) == 0
    assert "does not say what is meant by 2 of 2 sentences" in capsys.readouterr().out
    assert main(["import", split, "--all", "--out", str(tmp_path / "all")]) == 0
    assert "does not say what is meant by 2 of 2 sentences" in capsys.readouterr().out


def test_several_splits(project, shapes_images, shapes_masks, tmp_path, capsys):
    out = str(tmp_path / "d")
    assert main(["export", str(project), "--to", out, "--assign", "train=1,test=0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["splits"]
    assert row["path"].endswith("train") and MevisSplit.open(row["path"]).videos.keys() == {
        "shapes"
    }
    for wrong, message in [
        (["--assign", "x"], "shares 'x' are not understood"),
        (["--append", "--assign", "1,1"], "leave out --assign"),
        (["--append"], "is no MeViS-style split; export without --append first"),
    ]:
        assert main(["export", str(project), "--to", str(tmp_path / "e"), *wrong]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
    with flowrvs.open_video(shapes_images) as video:
        other = Project.create(tmp_path / "other", video.info)
    with other:
        found = other.add_prompt("the red square")[1]
        other.write_model(found.layer, found.id, 0, shapes_masks["red"])
    places = set()
    for seed in range(5):
        line = [
            "export",
            str(project),
            str(other.path),
            "--to",
            str(tmp_path / f"s{seed}"),
            "--json",
        ]
        assert main([*line, "--assign", "train=0.5,test=0.5", "--seed", str(seed)]) == 0
        rows = json.loads(capsys.readouterr().out)["splits"]
        found = {Path(r["path"]).name: sorted(MevisSplit.open(r["path"]).videos) for r in rows}
        places.add(json.dumps(found, sort_keys=True))
    assert len(places) == 2, "which of the two videos is where, by the seed"


def test_what_is_wrong_most_often_comes_first():
    found = [Finding("error", "f", "one", "rare", "do", "rare")]
    found += [Finding("error", "f", f"k{n}", "often", "do", "often") for n in range(5)]
    found += [Finding("warning", "f", "w", "odd", "do", "odd")]
    lines = report("split", found, examples=2)
    assert [line for line in lines if "[" in line] == [
        "  often (5)  [often]",
        "  rare  [rare]",
        "  odd  [odd]",
    ]
    assert lines[0] == "6 ERRORS" and lines[-1] == "split: 6 errors, 1 warning"
    assert sum("often" in line and "f: k" in line for line in lines) == 2
    assert "    ... and 3 more (--max 0 shows all)" in lines
    lines = report("split", found, examples=0)
    assert sum("f: k" in line for line in lines) == 5


def test_what_is_safe_is_repaired(project, tmp_path, capsys):
    main(["export", str(project), "--to", str(tmp_path / "d")])
    split = tmp_path / "d" / "train"
    masks = json.loads((split / "mask_dict.json").read_text())
    masks["0"][2] = {}
    (split / "mask_dict.json").write_text(json.dumps(masks))
    assert main(["check", str(split)]) == 2
    assert "--fix" in capsys.readouterr().out
    assert main(["check", str(split), "--fix"]) == 0
    assert "repaired: mask_dict.json: wrote absent masks as null" in capsys.readouterr().out
    assert main(["check", str(split), "--fix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fixed"] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["evaluate", "{empty}", "{split}"], "holds no prediction of"),
        (["evaluate", "{empty}", "{split}", "--html", "{empty}"], "is a folder; name a file"),
        (["evaluate", "{empty}", "{split}", "--worst", "-1"], "0 or more"),
        (["check", "{split}", "--max", "-1"], "--max must be 0 or more"),
        (["segment", "{video}", "-p", "x", "--out", "."], "is no name for a project"),
        (["segment", "{video}", "-p", "x", "--overlay", "{empty}"], "must be named *.mp4"),
        (["segment", "{video}", "-p", "x", "--overlay", "{empty}.txt"], "must be named *.mp4"),
        (["synth", "--out", ".", "--videos", "1", "--frames", "1"], "the folder that you are in"),
        (["synth", "--out", "..", "--videos", "1", "--frames", "1"], "or around it"),
        (["demo", "--out", "{new}", "--steps", "0"], "0 steps are impossible"),
        (["export", "{project}", "--to", "{new}", "--append", "--overwrite"], "--append adds to"),
    ],
)
def test_slips_are_refused_at_once_and_leave_nothing(
    project, tmp_path, monkeypatch, capsys, line, message
):
    main(["export", str(project), "--to", str(tmp_path / "d")])
    split = tmp_path / "d" / "train"
    empty = tmp_path / "empty"
    here = tmp_path / "here"
    for folder in (empty, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    video = next((split / "JPEGImages").iterdir())
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    names = {"empty": empty, "split": split, "video": video, "new": tmp_path / "new"}
    names["project"] = project
    assert main([word.format(**names) for word in line]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("flowrvs: ") and message in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("out", [".", "JPEGImages", "Annotations/predictions"])
def test_predictions_do_not_go_into_the_split(tmp_path, capsys, out):
    (tmp_path / "valid" / "JPEGImages" / "v").mkdir(parents=True)
    meta = {"videos": {"v": {"frames": ["00000"], "expressions": {"0": {"exp": "x"}}}}}
    (tmp_path / "valid" / "meta_expressions.json").write_text(json.dumps(meta))
    place = tmp_path / "valid" / out
    assert main(["predict", str(tmp_path / "valid"), "--out", str(place)]) == 2
    assert "holds the split itself" in capsys.readouterr().err
