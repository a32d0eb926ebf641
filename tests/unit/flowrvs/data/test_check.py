"""Every kind of damage is found, and a good split has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flowrvs.data.check import check_split
from flowrvs.errors import DatasetError, MissingPathError

SHAPES = "two shapes v1.2 снег"


def _edit(folder, change, name="meta_expressions.json"):
    path = folder / name
    value = json.loads(path.read_text())
    change(value["videos"] if name.startswith("meta") else value)
    path.write_text(json.dumps(value))


def test_a_good_split_has_no_findings(small_split):
    assert check_split(small_split) == []


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda v: v["grey"]["frames"].reverse(), "not sorted"),
        (lambda v: v["grey"]["frames"].append("b"), "listed twice"),
        (lambda v: v["grey"]["frames"].append("c"), "missing"),
        (lambda v: v["grey"]["frames"].__setitem__(0, "../x"), "leaves its folder"),
        (lambda v: v["grey"].pop("frames"), "needs 'frames'"),
        (lambda v: v.__setitem__("../up", v.pop("grey")), "leaves its folder"),
        (lambda v: v["grey"]["expressions"].__setitem__("a/b", {"exp": "x"}), "exp_id leaves"),
        (lambda v: v["grey"]["expressions"]["0"].__setitem__("exp", "  "), "empty"),
        (lambda v: v["grey"]["expressions"]["0"].pop("exp"), "no text"),
        (lambda v: v["grey"]["expressions"]["0"].__setitem__("anno_id", [99]), "not in"),
        (lambda v: v["grey"]["expressions"]["0"]["obj_id"].append(3), "beside"),
        (lambda v: v["grey"]["expressions"]["0"].__setitem__("anno_id", [0]), "belongs to"),
        (lambda v: v["grey"]["expressions"]["0"].__setitem__("obj_id", 7), "must be lists"),
    ],
)
def test_errors_in_the_expressions(small_split, change, problem):
    _edit(small_split, change)
    errors = [f for f in check_split(small_split) if f.severity == "error"]
    assert any(problem in f.problem for f in errors), errors
    assert all(f.remedy and f.file for f in errors)


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda m: m["2"].pop(), "3 entries for 4"),
        (lambda m: m["2"][3].__setitem__("size", [30, 20]), "20x30"),
        (lambda m: m["2"][3].__setitem__("counts", "00"), "damaged"),
        (lambda m: m["2"].__setitem__(3, "mask"), "RLE needs"),
        (lambda m: m.__setitem__("2", {}), "no list"),
    ],
)
def test_errors_in_the_masks(small_split, change, problem):
    _edit(small_split, change, "mask_dict.json")
    errors = [f for f in check_split(small_split) if f.severity == "error"]
    assert any(problem in f.problem for f in errors), errors


def test_errors_in_the_pictures(small_split):
    folder = small_split / "JPEGImages" / "grey"
    (folder / "a 1.jpg").write_bytes(b"no picture")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "b.jpg")
    problems = [f.problem for f in check_split(small_split)]
    assert problems == ["it is no readable picture", "it is 9x9, the first frame 30x20"]


def test_warnings(small_split):
    def change(videos):
        videos[SHAPES]["expressions"]["1"]["exp"] = "The red  SQUARE"
        videos["grey"]["expressions"]["0"].update(obj_id=[], anno_id=[])

    _edit(small_split, change)
    (small_split / "JPEGImages" / "grey" / "z.jpg").write_bytes(b"")
    (small_split / "JPEGImages" / "stray").mkdir()
    findings = check_split(small_split)
    assert {f.severity for f in findings} == {"warning"}
    text = "\n".join(map(str, findings))
    for part in ("repeats the sentence", "no expression uses it", "not listed", "stray"):
        assert part in text


def test_a_split_without_truth_may_have_no_masks(small_split):
    (small_split / "mask_dict.json").unlink()
    assert any("mask_dict.json is missing" in f.problem for f in check_split(small_split))
    _edit(
        small_split,
        lambda v: [e.pop("anno_id") for x in v.values() for e in x["expressions"].values()],
    )
    assert check_split(small_split) == []


def test_unreadable_files_are_findings_or_errors(small_split, tmp_path):
    (small_split / "mask_dict.json").write_text("{")
    (finding,) = check_split(small_split)
    assert finding.severity == "error" and finding.file == "mask_dict.json"
    (small_split / "meta_expressions.json").write_text("[]")
    assert check_split(small_split)[0].file == "meta_expressions.json"
    with pytest.raises(MissingPathError):
        check_split(tmp_path / "nowhere")
    with pytest.raises(DatasetError):
        check_split(tmp_path)
