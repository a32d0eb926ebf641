"""Every kind of damage is found, and a good split has none."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowrvs.cli.check import report
from flowrvs.data import MevisSplit, repair_split
from flowrvs.data.check import FAULTS, _frame_list, check_split
from flowrvs.errors import Cancelled, DatasetError, MissingPathError
from flowrvs.masks import rle
from flowrvs.progress import CancelToken

SHAPES = "two shapes v1.2 снег"


def _edit(folder, change, name="meta_expressions.json"):
    path = folder / name
    value = json.loads(path.read_text())
    change(value["videos"] if name.startswith("meta") else value)
    path.write_text(json.dumps(value))


def test_a_good_split_has_no_findings(small_split):
    assert check_split(small_split) == []


def test_masks_that_cannot_be_read_do_not_hide_the_rest(small_split):
    _edit(small_split, lambda v: v[SHAPES]["expressions"]["0"].update(exp=" "))
    (small_split / "mask_dict.json").write_text("{")
    assert [finding.code for finding in check_split(small_split)] == ["bad-json", "empty-sentence"]


def test_a_folder_that_cannot_be_read_does_not_hide_the_rest(small_split, monkeypatch):
    _edit(small_split, lambda v: v[SHAPES]["expressions"]["0"].update(exp=" "))
    iterdir = Path.iterdir

    def refused(self):
        if self.name == "grey":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert {str(finding) for finding in check_split(small_split)} == {
        "error: JPEGImages/grey: the folder cannot be read (Permission denied); "
        "change its permissions",
        f"error: meta_expressions.json: {SHAPES}/0: the sentence is empty; write it",
    }


def first(videos):
    return videos["grey"]["expressions"]["0"]


def shapes(videos):
    return videos[SHAPES]["expressions"]


META_FAULTS = [
    (
        "unsorted-frames",
        lambda v: v["grey"]["frames"].reverse(),
        "error: META: grey: the frames are not sorted, masks would shift; sort them, "
        "masks as well, and zero-pad the names",
    ),
    (
        "uneven-names",
        lambda v: v["grey"].update(frames=["8", "9", "10", "11"]),
        "error: META: grey: the frame numbers are not sorted as text, masks would "
        "shift; sort them, masks as well, and zero-pad the names",
        "error: JPEGImages/grey: 4 of 4 frames missing, the first is '8'; copy the frames again",
        "warning: JPEGImages/grey: pictures that are not listed: 4, the first is 'a "
        "1'; list or remove them",
    ),
    (
        "repeated-frame",
        lambda v: v["grey"]["frames"].append("b"),
        "error: META: grey: the frame 'b' is listed twice; list it once",
        "error: MASKS: anno_id 2: it has 4 entries for 5 frames; write one entry a "
        "frame, null where the object is absent",
    ),
    (
        "missing-frame",
        lambda v: v["grey"]["frames"].append("c"),
        "error: JPEGImages/grey: 1 of 5 frames missing, the first is 'c'; copy the frames again",
        "error: MASKS: anno_id 2: it has 4 entries for 5 frames; write one entry a "
        "frame, null where the object is absent",
    ),
    (
        "no-frames",
        lambda v: v["grey"].update(frames=[]),
        "error: META: grey: it lists no frames; list them",
        "error: MASKS: anno_id 2: it has 4 entries for 0 frames; write one entry a "
        "frame, null where the object is absent",
        "warning: JPEGImages/grey: pictures that are not listed: 4, the first is 'a "
        "1'; list or remove them",
    ),
    (
        "unsafe-name",
        lambda v: v["grey"]["frames"].__setitem__(0, "../x"),
        "error: META: grey: the frame name '../x' leaves its folder; rename it",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "unsafe-name",
        lambda v: v.__setitem__("../up", v.pop("grey")),
        "error: META: '../up': the video name leaves its folder; rename it",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
        "warning: JPEGImages/grey: META does not list it; list or remove it",
    ),
    (
        "unsafe-name",
        lambda v: v["grey"]["expressions"].__setitem__("a/b", {"exp": "x"}),
        "error: META: 'grey/a/b': the exp_id leaves its folder; rename it",
        "error: META: grey/a/b: 'obj_id' and 'anno_id' must be lists; write [] for no target",
    ),
    (
        "bad-video",
        lambda v: v["grey"].pop("frames"),
        "error: META: grey: it needs 'frames' and 'expressions'; write them",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "bad-video",
        lambda v: v.__setitem__("grey", None),
        "error: META: grey: it needs 'frames' and 'expressions'; write them",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "no-folder",
        lambda v: v.__setitem__("blue", v["grey"]),
        "error: JPEGImages/blue: the folder is missing; copy the frames again",
        "error: META: blue: anno_id 2 belongs to the video 'grey'; give every video its own masks",
    ),
    (
        "same-name",
        lambda v: v.__setitem__("Grey", v["grey"]),
        "error: JPEGImages/Grey: the folder is missing; copy the frames again",
        "error: META: Grey: anno_id 2 belongs to the video 'grey'; give every video its own masks",
        "warning: META: Grey: it differs from 'grey' in case only; rename one of them",
    ),
    (
        "no-first-frame",
        lambda v: v[SHAPES]["frames"].pop(0),
        "error: MASKS: anno_id 0: it has 12 entries for 11 frames; write one entry a "
        "frame, null where the object is absent",
        "error: MASKS: anno_id 1: it has 12 entries for 11 frames; write one entry a "
        "frame, null where the object is absent",
        "warning: META: SHAPES: the first frame is 00001, not 00000; see whether the "
        "beginning is lost",
        "warning: JPEGImages/SHAPES: pictures that are not listed: 1, the first is "
        "'00000'; list or remove them",
    ),
    (
        "gap-in-frames",
        lambda v: v[SHAPES]["frames"].pop(4),
        "error: MASKS: anno_id 0: it has 12 entries for 11 frames; write one entry a "
        "frame, null where the object is absent",
        "error: MASKS: anno_id 1: it has 12 entries for 11 frames; write one entry a "
        "frame, null where the object is absent",
        "warning: META: SHAPES: after frame 00003 comes 00005; see whether frames are lost",
        "warning: JPEGImages/SHAPES: pictures that are not listed: 1, the first is "
        "'00004'; list or remove them",
    ),
    (
        "unlisted-frame",
        lambda v: v["grey"]["frames"].pop(),
        "error: MASKS: anno_id 2: it has 4 entries for 3 frames; write one entry a "
        "frame, null where the object is absent",
        "warning: JPEGImages/grey: pictures that are not listed: 1, the first is 'b'; "
        "list or remove them",
    ),
    (
        "unlisted-video",
        lambda v: v.pop("grey"),
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
        "warning: JPEGImages/grey: META does not list it; list or remove it",
    ),
    (
        "no-sentences",
        lambda v: v["grey"]["expressions"].clear(),
        "warning: META: grey: it has no expressions; add some or remove the video",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "no-videos",
        lambda v: v.clear(),
        "warning: META: there are no videos; add some",
        "warning: MASKS: anno_id 0: no expression uses it; remove it or refer to it",
        "warning: MASKS: anno_id 1: no expression uses it; remove it or refer to it",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
        "warning: JPEGImages/grey: META does not list it; list or remove it",
        "warning: JPEGImages/SHAPES: META does not list it; list or remove it",
    ),
    (
        "empty-sentence",
        lambda v: first(v).__setitem__("exp", "  "),
        "error: META: grey/0: the sentence is empty; write it",
    ),
    (
        "bad-sentence",
        lambda v: first(v).pop("exp"),
        "error: META: grey/0: there is no text 'exp'; write it",
    ),
    (
        "bad-sentence",
        lambda v: v["grey"]["expressions"].__setitem__("0", 7),
        "error: META: grey/0: there is no text 'exp'; write it",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "loose-sentence",
        lambda v: first(v).__setitem__("exp", " x\n y "),
        "warning: META: grey/0: the sentence has white space at its ends or a line "
        "break; remove it",
    ),
    (
        "repeated-sentence",
        lambda v: shapes(v)["1"].update(exp="The red  SQUARE"),
        "warning: META: SHAPES/1: it repeats the sentence of '0'; keep one of them",
    ),
    (
        "dangling-id",
        lambda v: first(v).__setitem__("anno_id", [99]),
        "error: META: grey/0: anno_id 99 is not in MASKS; add its masks or remove the id",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "uneven-ids",
        lambda v: first(v)["obj_id"].append(3),
        "error: META: grey/0: 2 obj_ids beside 1 anno_id; make the lists parallel",
    ),
    (
        "foreign-id",
        lambda v: first(v).__setitem__("anno_id", [0]),
        "error: META: grey: anno_id 0 belongs to the video 'SHAPES'; give every video "
        "its own masks",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "bad-ids",
        lambda v: first(v).__setitem__("obj_id", 7),
        "error: META: grey/0: 'obj_id' and 'anno_id' must be lists; write [] for no target",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "bad-ids",
        lambda v: first(v).__setitem__("anno_id", ["two"]),
        "error: META: grey/0: the id 'two' is no whole number; number objects and masks",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "null-ids",
        lambda v: first(v).update(anno_id=None, obj_id=None),
        "error: META: grey/0: 'obj_id' or 'anno_id' is null, loaders want a list; "
        "write [] for no target",
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
    (
        "repeated-id",
        lambda v: first(v).update(anno_id=[2, 2], obj_id=[7, 7]),
        "warning: META: grey/0: an anno_id is listed twice; list it once",
    ),
    (
        "two-objects",
        lambda v: shapes(v)["1"].update(obj_id=[5]),
        "warning: META: SHAPES: anno_id 0 goes by the obj_ids 1, 5; use one",
    ),
    (
        "unused-masks",
        lambda v: first(v).update(anno_id=[], obj_id=[]),
        "warning: MASKS: anno_id 2: no expression uses it; remove it or refer to it",
    ),
]

MASK_FAULTS = [
    (
        "mask-count",
        lambda m: m["2"].pop(),
        "error: MASKS: anno_id 2: it has 3 entries for 4 frames; write one entry a "
        "frame, null where the object is absent",
    ),
    (
        "mask-size",
        lambda m: m["2"].__setitem__(3, {"size": [4, 4], "counts": "`0"}),
        "error: MASKS: anno_id 2 frame 3: the mask is 4x4, the frames 30x20; encode "
        "masks at the frames' size",
        "warning: MASKS: anno_id 2 frame 3: masks without a pixel: 1; write null where "
        "the object is absent",
    ),
    (
        "turned-rle",
        lambda m: m["2"][3].__setitem__("size", [30, 20]),
        "error: MASKS: anno_id 2 frame 3: the mask is 20x30, the frames 30x20; 'size' "
        "is [height, width]: encode the mask again, not turned",
    ),
    (
        "bad-rle",
        lambda m: m["2"][3].__setitem__("counts", "00"),
        "error: MASKS: anno_id 2 frame 3: The RLE's runs do not fill 20x30 pixels; it "
        "is damaged; encode the mask again",
    ),
    (
        "bad-rle",
        lambda m: m["2"].__setitem__(3, "mask"),
        "error: MASKS: anno_id 2 frame 3: An RLE needs 'size' [height, width] and "
        "'counts'; write it with pycocotools; encode the mask again",
    ),
    (
        "bad-rle",
        lambda m: m["2"].__setitem__(3, {"size": [20, 30]}),
        "error: MASKS: anno_id 2 frame 3: An RLE needs 'size' [height, width] and "
        "'counts'; write it with pycocotools; encode the mask again",
    ),
    (
        "bad-masks",
        lambda m: m.__setitem__("2", {}),
        "error: MASKS: anno_id 2: it is no list; write one entry a frame",
    ),
    (
        "not-null",
        lambda m: m["2"].__setitem__(0, {}),
        "error: MASKS: anno_id 2 frame 0: absent masks written as {} or the like: 1; "
        "write null: loaders test for it",
    ),
    (
        "not-null",
        lambda m: m["2"].__setitem__(1, 0),
        "error: MASKS: anno_id 2 frame 1: absent masks written as 0 or the like: 1; "
        "write null: loaders test for it",
    ),
    (
        "not-null",
        lambda m: m["2"].__setitem__(1, ""),
        "error: MASKS: anno_id 2 frame 1: absent masks written as '' or the like: 1; "
        "write null: loaders test for it",
    ),
    (
        "plain-rle",
        lambda m: m["2"][3].__setitem__("counts", [0, 600]),
        "error: MASKS: anno_id 2 frame 3: uncompressed masks: 1; compress them with pycocotools",
    ),
    (
        "empty-rle",
        lambda m: m["2"].__setitem__(0, rle.encode(np.zeros((20, 30)))),
        "warning: MASKS: anno_id 2 frame 0: masks without a pixel: 1; write null where "
        "the object is absent",
    ),
    (
        "never-seen",
        lambda m: m.__setitem__("2", [None] * 4),
        "warning: MASKS: anno_id 2: the object is seen on no frame; use empty lists for no target",
    ),
    (
        "same-masks",
        lambda m: m.__setitem__("1", m["0"]),
        "warning: MASKS: anno_id 1: its masks are those of anno_id 0; store them once "
        "and refer to them twice",
        "warning: MASKS: anno_id 0: it overlaps anno_id 1, first on frame 00000 (of "
        "12); see whether both are meant; palette PNGs could not hold it",
    ),
    (
        "overlap",
        lambda m: m.__setitem__("1", [m["0"][0]] * 12),
        "warning: MASKS: anno_id 0: it overlaps anno_id 1, first on frame 00000 (of "
        "6); see whether both are meant; palette PNGs could not hold it",
    ),
    (
        "bad-key",
        lambda m: m.__setitem__("two", [None]),
        "warning: MASKS: anno_id two: the key is no whole number; number the masks",
        "warning: MASKS: anno_id two: no expression uses it; remove it or refer to it",
    ),
]


def told(split):
    """Return all findings as they are said, with short names; codes and file are those of each."""
    found = check_split(split)
    assert all(f.code in FAULTS for f in found)
    names = {"meta_expressions.json": "META", "mask_dict.json": "MASKS", SHAPES: "SHAPES"}
    lines = [str(finding) for finding in found]
    for name, short in names.items():
        lines = [line.replace(str(split), "SPLIT").replace(name, short) for line in lines]
    return lines, {f.code for f in found}


@pytest.mark.parametrize("case", META_FAULTS, ids=lambda case: case[0])
def test_faults_of_the_expressions(small_split, case):
    code, change, *wanted = case
    _edit(small_split, change)
    lines, codes = told(small_split)
    assert lines == wanted and code in codes


@pytest.mark.parametrize("case", MASK_FAULTS, ids=lambda case: case[0])
def test_faults_of_the_masks(small_split, case):
    code, change, *wanted = case
    _edit(small_split, change, "mask_dict.json")
    lines, codes = told(small_split)
    assert lines == wanted and code in codes


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


def _marked(folder, name="mask_dict.json"):
    path = folder / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def _twice(folder):
    path = folder / "mask_dict.json"
    path.write_text('{"2": [null],' + path.read_text().lstrip()[1:])


def _three_twice(folder):
    path = folder / "meta_expressions.json"
    grey = json.dumps(json.loads(path.read_text())["videos"]["grey"])
    twice = grey.replace('"expressions": {', '"expressions": {"0": {"exp": "x"}, ')
    text = json.dumps(json.loads(path.read_text())).replace(grey, f'{grey}, "grey": {twice}')
    path.write_text('{"by": 1, "by": 2, ' + text[1:])


def _small_masks(folder):
    place = folder / "Annotations/grey/0"
    place.mkdir(parents=True)
    for name in ("a 1", "a.3"):
        Image.new("L", (30, 20), 255).save(place / f"{name}.png")
    Image.new("L", (3, 2)).save(place / "a 2.png")
    (place / "b.png").write_bytes(b"no picture")


def _killed(folder):
    (folder.parent / ".valid_u.partial-x").mkdir()
    os.utime(folder.parent / ".valid_u.partial-x", (0, 0))


FILE_FAULTS = [
    (
        "cut-picture",
        _cut,
        "error: JPEGImages/grey/b.jpg: it is cut off; copy it again",
    ),
    (
        "not-jpg",
        _png,
        "error: JPEGImages/grey: frames without .jpg: 1, the first is 'b.png'; convert "
        "them: loaders look for <frame>.jpg",
    ),
    (
        "not-binary",
        _odd_masks,
        "error: Annotations/grey/0/a 1.png: it holds the value 7, where scorers want 0 "
        "and 255 only; write 0 and 255",
        "error: Annotations/grey/0/a 2.png: it holds the value 7, where scorers want 0 "
        "and 255 only; write 0 and 255",
        "error: Annotations/grey/0/a.3.png: it holds the value 7, where scorers want 0 "
        "and 255 only; write 0 and 255",
        "error: Annotations/grey/0/b.png: it holds the value 7, where scorers want 0 "
        "and 255 only; write 0 and 255",
    ),
    (
        "link-outside",
        _outside,
        "warning: JPEGImages/grey: the folder is a link that leads outside the split; "
        "copy the frames",
    ),
    (
        "byte-order-mark",
        _marked,
        "error: MASKS: it begins with a byte order mark, which json.load refuses; save "
        "it as UTF-8 without",
    ),
    (
        "repeated-key",
        _twice,
        "error: MASKS: anno_id 2: the key is there twice, loaders see the last one "
        "only; number one of them anew",
    ),
    (
        "leftover",
        _killed,
        "warning: ../.valid_u.partial-x: it was left by an export that was killed; remove it",
    ),
    (
        "mask-picture",
        lambda f: (f / "Annotations/grey/0").mkdir(parents=True),
        "error: Annotations/grey/0/a 1.png: it is missing; write it",
        "error: Annotations/grey/0/a 2.png: it is missing; write it",
        "error: Annotations/grey/0/a.3.png: it is missing; write it",
        "error: Annotations/grey/0/b.png: it is missing; write it",
    ),
    (
        "no-masks-file",
        lambda f: (f / "mask_dict.json").unlink(),
        "error: META: SHAPES/0: it has anno_ids, but MASKS is missing; add the file",
        "error: META: SHAPES/1: it has anno_ids, but MASKS is missing; add the file",
        "error: META: SHAPES/2: it has anno_ids, but MASKS is missing; add the file",
        "error: META: grey/0: it has anno_ids, but MASKS is missing; add the file",
    ),
    (
        "bad-json",
        lambda f: (f / "mask_dict.json").write_text("{"),
        "error: MASKS: it is not readable JSON (the JSON is damaged near byte 1); copy it",
    ),
    (
        "bad-json",
        lambda f: (f / "meta_expressions.json").write_text("[]"),
        "error: META: SPLIT/META must hold a JSON object; write it again",
    ),
    (
        "bad-picture",
        lambda f: (f / "JPEGImages/grey/b.jpg").write_bytes(b""),
        "error: JPEGImages/grey/b.jpg: it is no readable picture; copy it again",
    ),
    (
        "unlisted-video",
        lambda f: (f / "JPEGImages/stray").mkdir(),
        "warning: JPEGImages/stray: META does not list it; list or remove it",
    ),
    (
        "mask-picture",
        _small_masks,
        "error: Annotations/grey/0/a 2.png: it is 3x2, the frames 30x20; write masks at the "
        "frames' size",
        "error: Annotations/grey/0/b.png: it is no readable picture; write it again",
    ),
    (
        "repeated-key",
        _three_twice,
        "error: META: by: the key is there twice, loaders see the last one only; give one "
        "another name",
        "error: META: grey: the key is there twice, loaders see the last one only; give one "
        "another name",
        "error: META: grey/0: the key is there twice, loaders see the last one only; give one "
        "another name",
    ),
    (
        "leftover",
        lambda f: (f / ".mask_dict.json.1.partial.json").write_text(""),
        "warning: .MASKS.1.partial.json: it was left by an export that was killed; remove it",
    ),
    (
        "byte-order-mark",
        lambda f: _marked(f, "meta_expressions.json"),
        "error: META: it begins with a byte order mark, which json.load refuses; save it as "
        "UTF-8 without",
    ),
    (
        "bad-json",
        lambda f: (f / "meta_expressions.json").write_text('{"videos": []}'),
        "error: META: there is no object 'videos'; write it again",
    ),
    (
        "frame-size",
        lambda f: Image.new("RGB", (9, 7)).save(f / "JPEGImages/grey/a.3.jpg"),
        "error: JPEGImages/grey/a.3.jpg: it is 9x7, the first frame 30x20; use one size a video",
    ),
]


@pytest.mark.parametrize("case", FILE_FAULTS, ids=lambda case: case[0])
def test_faults_of_the_files(small_split, case):
    code, spoil, *wanted = case
    spoil(small_split)
    lines, codes = told(small_split)
    assert lines == wanted and code in codes


def test_every_fault_has_a_test():
    assert {code for code, *_ in META_FAULTS + MASK_FAULTS + FILE_FAULTS} == set(FAULTS)


def _json(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_repair_changes_what_is_safe_and_nothing_else(small_split):
    """A foreign mask_dict with every spelling of "absent", plain RLEs and a mark."""

    def spoil(masks):
        masks["2"][:2] = [{}, 0]
        masks["1"] = [{"size": [48, 64], "counts": _plain(e)} for e in masks["1"]]
        masks["0"].append("one too many, for a person to judge")

    clean = _json(small_split, "mask_dict.json")
    truth = MevisSplit.open(small_split)
    before = {(v, e): truth.target_masks(v, e) for v, e in truth}
    _edit(small_split, spoil, "mask_dict.json")
    _edit(small_split, lambda v: shapes(v)["3"].update(obj_id=None, anno_id=None))
    _edit(small_split, lambda v: first(v).update(exp=" what comes\n late "))
    _edit(small_split, lambda v: shapes(v)["0"].update(obj_id=[1, 1], anno_id=[0, 0]))
    _marked(small_split)
    _killed(small_split)
    raw = (small_split / "meta_expressions.json").read_bytes()
    masks_raw = (small_split / "mask_dict.json").read_bytes()
    done = repair_split(small_split)
    assert done == [
        "meta_expressions.json: listed anno_ids once",
        "meta_expressions.json: wrote 'no target' as [] (2)",
        "meta_expressions.json: removed white space around sentences and line breaks in them",
        "mask_dict.json: removed the byte order mark",
        "mask_dict.json: compressed masks (12)",
        "mask_dict.json: wrote absent masks as null (2)",
        "removed .valid_u.partial-x, which a killed export left",
    ]
    assert (small_split / "meta_expressions.json.before-fix").read_bytes() == raw
    kept = small_split / "mask_dict.json.before-fix"
    assert kept.read_bytes() == masks_raw
    rows, after = json.loads(masks_raw.decode("utf-8-sig")), _json(small_split, "mask_dict.json")
    rows["1"] = [clean["1"][n] for n in range(12)]
    rows["2"][:2] = [None, None]
    assert after == rows and list(after) == list(rows)
    meta = _json(small_split, "meta_expressions.json")["videos"]
    assert shapes(meta)["0"] == {"exp": "the red square", "obj_id": [1], "anno_id": [0]}
    assert shapes(meta)["3"] == {"exp": "the blue square", "obj_id": [], "anno_id": []}
    assert sorted(p.name for p in small_split.parent.iterdir()) == ["valid_u"]
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


def test_repair_keeps_the_oldest_copy_tells_how_far_it_is_and_stops(small_split):
    path = small_split / "mask_dict.json"
    first = path.read_bytes()
    for place in (0, 1):
        _edit(small_split, lambda m, n=place: m["2"].__setitem__(n, 0), "mask_dict.json")
        raw = path.read_bytes()
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            repair_split(small_split, cancel=token)
        assert path.read_bytes() == raw
        told = []
        assert repair_split(small_split, progress=told.append) == [
            "mask_dict.json: wrote absent masks as null"
        ]
        assert [(e.done, e.total, e.message) for e in told] == [
            (n + 1, 3, f"repairing anno_id {n}") for n in range(3)
        ]
        kept = json.loads(path.with_name("mask_dict.json.before-fix").read_text())
        assert kept["2"][:2] == [0, None]
    assert json.loads(path.read_bytes()) == json.loads(first)


def test_checking_is_told_and_can_be_stopped(small_split):
    told = []
    check_split(small_split, progress=told.append)
    assert [(e.done, e.total, e.message) for e in told] == [
        (1, 2, f"checked {SHAPES}"),
        (2, 2, "checked grey"),
    ]
    token = CancelToken()
    with pytest.raises(Cancelled):
        check_split(small_split, cancel=token, progress=lambda event: token.cancel())


def test_two_that_are_never_seen_are_not_called_the_same(small_split):
    nothing = {"0": [None] * 12, "1": [None] * 12}
    _edit(small_split, lambda m: m.update(nothing), "mask_dict.json")
    assert told(small_split)[0] == [
        f"warning: MASKS: anno_id {key}: the object is seen on no frame; use empty lists for no "
        "target"
        for key in (0, 1)
    ]


def test_errors_come_before_warnings_and_a_report_is_whole(small_split):
    _edit(small_split, lambda m: [m["2"].__setitem__(0, 0), m["0"].pop()], "mask_dict.json")
    _edit(small_split, lambda v: first(v).update(exp=" x "))
    found = check_split(small_split)
    assert [f.severity for f in found] == ["error", "error", "warning"]
    assert report("d/valid_u", found) == [
        "2 ERRORS",
        "  Masks and frames differ in number  [mask-count]",
        "    mask_dict.json: anno_id 0: it has 11 entries for 12 frames",
        "    -> write one entry a frame, null where the object is absent",
        "  An absent mask is written as something else than null, on which loaders fail  "
        "[not-null]",
        "    mask_dict.json: anno_id 2 frame 0: absent masks written as 0 or the like: 1",
        "    -> write null: loaders test for it",
        "",
        "1 WARNING",
        "  A sentence has white space at its ends or line breaks in it  [loose-sentence]",
        "    meta_expressions.json: grey/0: the sentence has white space at its ends or a line "
        "break",
        "    -> remove it",
        "",
        "d/valid_u: 2 errors, 1 warning",
        "2 of them can be repaired safely: flowrvs check d/valid_u --fix",
    ]
    assert report("d/valid_u", found, fix=True)[-1] == "d/valid_u: 2 errors, 1 warning"


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
