"""Every kind of damage is found, and a good split has none."""

from __future__ import annotations

import json
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from flowrvs.cli.check import report
from flowrvs.data import MevisSplit, repair_split
from flowrvs.data.check import FAULTS, _frame_list, check_split
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.masks import rle

SHAPES = "two shapes v1.2 снег"


def _edit(folder, change, name="meta_expressions.json"):
    path = folder / name
    value = json.loads(path.read_text())
    change(value["videos"] if name.startswith("meta") else value)
    path.write_text(json.dumps(value))


def test_a_good_split_has_no_findings(small_split):
    assert check_split(small_split) == []


def first(videos):
    return videos["grey"]["expressions"]["0"]


def shapes(videos):
    return videos[SHAPES]["expressions"]


META_FAULTS = [
    ("unsorted-frames", "error", lambda v: v["grey"]["frames"].reverse()),
    ("uneven-names", "error", lambda v: v["grey"].update(frames=["8", "9", "10", "11"])),
    ("repeated-frame", "error", lambda v: v["grey"]["frames"].append("b")),
    ("missing-frame", "error", lambda v: v["grey"]["frames"].append("c")),
    ("no-frames", "error", lambda v: v["grey"].update(frames=[])),
    ("unsafe-name", "error", lambda v: v["grey"]["frames"].__setitem__(0, "../x")),
    ("unsafe-name", "error", lambda v: v.__setitem__("../up", v.pop("grey"))),
    ("unsafe-name", "error", lambda v: v["grey"]["expressions"].__setitem__("a/b", {"exp": "x"})),
    ("bad-video", "error", lambda v: v["grey"].pop("frames")),
    ("bad-video", "error", lambda v: v.__setitem__("grey", None)),
    ("no-folder", "error", lambda v: v.__setitem__("blue", v["grey"])),
    ("same-name", "warning", lambda v: v.__setitem__("Grey", v["grey"])),
    ("no-first-frame", "warning", lambda v: v[SHAPES]["frames"].pop(0)),
    ("gap-in-frames", "warning", lambda v: v[SHAPES]["frames"].pop(4)),
    ("unlisted-frame", "warning", lambda v: v["grey"]["frames"].pop()),
    ("unlisted-video", "warning", lambda v: v.pop("grey")),
    ("no-sentences", "warning", lambda v: v["grey"]["expressions"].clear()),
    ("no-videos", "warning", lambda v: v.clear()),
    ("empty-sentence", "error", lambda v: first(v).__setitem__("exp", "  ")),
    ("bad-sentence", "error", lambda v: first(v).pop("exp")),
    ("bad-sentence", "error", lambda v: v["grey"]["expressions"].__setitem__("0", 7)),
    ("loose-sentence", "warning", lambda v: first(v).__setitem__("exp", " x\n y ")),
    ("repeated-sentence", "warning", lambda v: shapes(v)["1"].update(exp="The red  SQUARE")),
    ("dangling-id", "error", lambda v: first(v).__setitem__("anno_id", [99])),
    ("uneven-ids", "error", lambda v: first(v)["obj_id"].append(3)),
    ("foreign-id", "error", lambda v: first(v).__setitem__("anno_id", [0])),
    ("bad-ids", "error", lambda v: first(v).__setitem__("obj_id", 7)),
    ("bad-ids", "error", lambda v: first(v).__setitem__("anno_id", ["two"])),
    ("null-ids", "error", lambda v: first(v).update(anno_id=None, obj_id=None)),
    ("repeated-id", "warning", lambda v: first(v).update(anno_id=[2, 2], obj_id=[7, 7])),
    ("two-objects", "warning", lambda v: shapes(v)["1"].update(obj_id=[5])),
    ("unused-masks", "warning", lambda v: first(v).update(anno_id=[], obj_id=[])),
]

MASK_FAULTS = [
    ("mask-count", "error", lambda m: m["2"].pop()),
    ("mask-size", "error", lambda m: m["2"].__setitem__(3, {"size": [4, 4], "counts": "`0"})),
    ("turned-rle", "error", lambda m: m["2"][3].__setitem__("size", [30, 20])),
    ("bad-rle", "error", lambda m: m["2"][3].__setitem__("counts", "00")),
    ("bad-rle", "error", lambda m: m["2"].__setitem__(3, "mask")),
    ("bad-rle", "error", lambda m: m["2"].__setitem__(3, {"size": [20, 30]})),
    ("bad-masks", "error", lambda m: m.__setitem__("2", {})),
    ("not-null", "error", lambda m: m["2"].__setitem__(0, {})),
    ("not-null", "error", lambda m: m["2"].__setitem__(1, 0)),
    ("not-null", "error", lambda m: m["2"].__setitem__(1, "")),
    ("plain-rle", "error", lambda m: m["2"][3].__setitem__("counts", [0, 600])),
    ("empty-rle", "warning", lambda m: m["2"].__setitem__(0, rle.encode(np.zeros((20, 30))))),
    ("never-seen", "warning", lambda m: m.__setitem__("2", [None] * 4)),
    ("same-masks", "warning", lambda m: m.__setitem__("1", m["0"])),
    ("overlap", "warning", lambda m: m.__setitem__("1", [m["0"][0]] * 12)),
    ("bad-key", "warning", lambda m: m.__setitem__("two", [None])),
]


@pytest.mark.parametrize("code, severity, change", META_FAULTS)
def test_faults_of_the_expressions(small_split, code, severity, change):
    _edit(small_split, change)
    findings = check_split(small_split)
    assert any(f.code == code and f.severity == severity for f in findings), findings
    assert all(f.file and f.problem and f.remedy and f.code in FAULTS for f in findings)


@pytest.mark.parametrize("code, severity, change", MASK_FAULTS)
def test_faults_of_the_masks(small_split, code, severity, change):
    _edit(small_split, change, "mask_dict.json")
    findings = check_split(small_split)
    assert any(f.code == code and f.severity == severity for f in findings), findings
    assert all(f.file and f.problem and f.remedy and f.code in FAULTS for f in findings)


def _cut(folder):
    path = folder / "JPEGImages/grey/b.jpg"
    path.write_bytes(path.read_bytes()[:-4])


def _png(folder):
    path = folder / "JPEGImages/grey/b.jpg"
    Image.open(path).save(path.with_suffix(".png"))
    path.unlink()


def _odd_masks(folder):
    place = folder / "Annotations/grey/0"
    place.mkdir(parents=True)
    for name in ("a 1", "a 2", "a.3", "b"):
        Image.fromarray(np.full((20, 30), 7, np.uint8)).save(place / f"{name}.png")


def _outside(folder):
    place = folder / "JPEGImages/grey"
    place.rename(folder.parent / "elsewhere")
    place.symlink_to(folder.parent / "elsewhere")


def _marked(folder):
    path = folder / "mask_dict.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def _twice(folder):
    path = folder / "mask_dict.json"
    path.write_text('{"2": [null],' + path.read_text().lstrip()[1:])


def _killed(folder):
    (folder.parent / ".valid_u.partial-x").mkdir()
    os.utime(folder.parent / ".valid_u.partial-x", (0, 0))


@pytest.mark.parametrize(
    "code, spoil",
    [
        ("cut-picture", _cut),
        ("not-jpg", _png),
        ("not-binary", _odd_masks),
        ("link-outside", _outside),
        ("byte-order-mark", _marked),
        ("repeated-key", _twice),
        ("leftover", _killed),
        ("mask-picture", lambda f: (f / "Annotations/grey/0").mkdir(parents=True)),
        ("no-masks-file", lambda f: (f / "mask_dict.json").unlink()),
        ("bad-json", lambda f: (f / "mask_dict.json").write_text("{")),
        ("bad-json", lambda f: (f / "meta_expressions.json").write_text("[]")),
        ("bad-picture", lambda f: (f / "JPEGImages/grey/b.jpg").write_bytes(b"")),
        ("unlisted-video", lambda f: (f / "JPEGImages/stray").mkdir()),
    ],
)
def test_faults_of_the_files(small_split, code, spoil):
    spoil(small_split)
    findings = check_split(small_split)
    assert code in {f.code for f in findings}, findings
    assert all(f.file and f.problem and f.remedy and f.code in FAULTS for f in findings)


def test_every_fault_has_a_test(small_split):
    tested = {code for code, *_ in META_FAULTS + MASK_FAULTS}
    tested |= {"cut-picture", "not-jpg", "not-binary", "link-outside", "byte-order-mark"}
    tested |= {"repeated-key", "leftover", "mask-picture", "no-masks-file", "bad-json"}
    tested |= {"bad-picture", "unlisted-video", "frame-size"}
    assert tested == set(FAULTS)


def _json(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_repair_changes_what_is_safe_and_nothing_else(small_split):
    """A foreign mask_dict with every spelling of "absent", plain RLEs and a mark."""

    def spoil(masks):
        masks["2"][:2] = [{}, 0]
        masks["1"] = [{"size": [48, 64], "counts": _plain(e)} for e in masks["1"]]
        masks["0"].append("one too many, for a person to judge")

    truth = MevisSplit.open(small_split)
    before = {(v, e): truth.target_masks(v, e) for v, e in truth}
    _edit(small_split, spoil, "mask_dict.json")
    _edit(small_split, lambda v: shapes(v)["3"].update(obj_id=None, anno_id=None))
    _edit(small_split, lambda v: first(v).update(exp=" what comes\n late "))
    _edit(small_split, lambda v: shapes(v)["0"].update(obj_id=[1, 1], anno_id=[0, 0]))
    _marked(small_split)
    _killed(small_split)
    raw = (small_split / "meta_expressions.json").read_bytes()
    done = repair_split(small_split)
    assert len(done) == 7, done
    assert (small_split / "meta_expressions.json.before-fix").read_bytes() == raw
    left = check_split(small_split)
    assert {f.code for f in left} == {"mask-count", "bad-rle"} and not any(f.fixable for f in left)
    assert _json(small_split, "mask_dict.json")["2"][:2] == [None, None]
    assert repair_split(small_split) == []
    _edit(small_split, lambda m: m["0"].pop(), "mask_dict.json")
    assert check_split(small_split) == []
    after = MevisSplit.open(small_split)
    for (video, exp_id), mask in before.items():
        assert np.array_equal(after.target_masks(video, exp_id), mask)
    assert after.videos["grey"].expressions["0"].exp == "what comes  late"


def _plain(entry):
    flat = rle.decode(entry).T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def test_repair_leaves_a_damaged_file_alone(small_split):
    path = small_split / "mask_dict.json"
    path.write_bytes(path.read_bytes()[:-20])
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="too damaged"):
        repair_split(small_split)
    assert path.read_bytes() == before
    names = sorted(p.name for p in small_split.iterdir())
    assert names == ["JPEGImages", "mask_dict.json", "meta_expressions.json"]


def test_many_masks_need_little_memory(small_split):
    """The file is read video by video: 60 MB of masks, a few MB of memory."""
    masks = _json(small_split, "mask_dict.json")
    entry = json.dumps([{"size": [480, 854], "counts": "P" * 2000}] * 300)
    with (small_split / "mask_dict.json").open("w") as out:
        out.write(json.dumps(masks)[:-1])
        for number in range(100, 200):
            out.write(f', "{number}": {entry}')
        out.write("}")
    tracemalloc.start()
    try:
        findings = check_split(small_split)
        split = MevisSplit.open(small_split)
        assert split.target_mask("grey", "0", 3).any()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (small_split / "mask_dict.json").stat().st_size > 55e6
    assert peak < 12e6
    assert {f.code for f in findings} == {"unused-masks"}


def test_deep_finds_what_the_head_does_not_say(small_split):
    path = small_split / "JPEGImages" / SHAPES / "00005.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xda")] + b"\0" * 99 + b"\xff\xd9")
    assert check_split(small_split) == []
    assert [f.code for f in check_split(small_split, deep=True)] == ["bad-picture"]


def test_a_report_groups_and_advises(small_split):
    _edit(small_split, lambda m: [m["2"].__setitem__(0, 0), m["0"].pop()], "mask_dict.json")
    text = "\n".join(report("d/valid_u", check_split(small_split)))
    for part in ("2 ERRORS", "[not-null]", "anno_id 2 frame 0", "-> write null", "--fix"):
        assert part in text
    assert "\x1b" not in text
    assert report("d", [])[-1] == "d: 0 errors, 0 warnings"


def test_errors_in_the_pictures(small_split):
    folder = small_split / "JPEGImages" / "grey"
    (folder / "a 1.jpg").write_bytes(b"no picture")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "b.jpg")
    problems = [f.problem for f in check_split(small_split)]
    assert problems == ["it is no readable picture", "it is 9x9, the first frame 30x20"]


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


def test_nothing_outside_is_read_for_a_sentence(small_split, tmp_path):
    for name in ("b", "a"):  # frames of the video
        (tmp_path / "far").mkdir(exist_ok=True)
        (tmp_path / "far" / f"{name}.png").write_bytes(b"no picture")
    up = "../" * 8 + str(tmp_path / "far").lstrip("/")
    for exp_id in (str(tmp_path / "far"), up):
        _edit(small_split, lambda v, key=exp_id: v["grey"]["expressions"].update({key: shape()}))
    found = [f for f in check_split(small_split) if f.severity == "error"]
    assert [f.code for f in found] == ["unsafe-name"] * 2


def shape():
    return {
        "exp": f"shape {np.random.default_rng().integers(1 << 60)}",
        "obj_id": [],
        "anno_id": [],
    }


def test_keys_of_thousands_of_digits_are_only_odd(small_split):
    _edit(small_split, lambda m: m.update({"9" * 5000: [], "10": [], "9": []}), "mask_dict.json")
    unused = [f.key for f in check_split(small_split) if f.code == "unused-masks"]
    assert unused == ["anno_id 9", "anno_id 10", f"anno_id {'9' * 5000}"]
    assert MevisSplit.open(small_split).next_anno() == 11


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (["0", "00", "1"], "after frame 0 comes 00"),
        (["0", "10", "2", "20"], "after frame 10 comes 2"),
        (["00", "05", "10", "16", "21"], "after frame 10 comes 16"),  # every fifth, but for one
    ],
)
def test_the_step_that_is_unlike_the_others_is_named(frames: list[str], said: str) -> None:
    (finding,) = _frame_list("v", frames)
    assert finding.code == "gap-in-frames" and finding.problem == said
