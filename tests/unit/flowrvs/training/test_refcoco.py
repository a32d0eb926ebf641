"""The small print of RefCOCO: which files and pictures count, its captions, masks and pickles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowrvs.errors import DatasetError
from flowrvs.training.sources import open_sources
from flowrvs.training.sources.pickled import read_plain_pickle
from flowrvs.training.sources.refcoco import RefCocoSource, find_refcoco
from tests.fixtures.training_data import (
    draw_video,
    make_refcoco,
)
from tests.unit.flowrvs.training.refusals import refused, rewrite


def test_which_files_of_refcoco_are_read(tmp_path: Path) -> None:
    plus, g = tmp_path / "refcoco+", tmp_path / "refcocog"
    for folder in (g, plus):
        folder.mkdir()
    for path in (
        plus / "refs(unc).p",
        plus / "instances_a_train.json",  # the pickle is what counts
        g / "refs(google).p",
        tmp_path / "instances_b_train.json",
        tmp_path / "instances_a_train.json",
        tmp_path / "instances_a_val.json",
    ):
        path.touch()
    own = [tmp_path / "instances_a_train.json", tmp_path / "instances_b_train.json"]
    assert find_refcoco(tmp_path, "train") == [*own, plus / "refs(unc).p", g / "refs(google).p"]
    (g / "refs(umd).p").touch()
    (g / "refs(abc).p").touch()
    assert find_refcoco(g, "train") == [g / "refs(umd).p"]
    (g / "refs(umd).p").unlink()
    assert find_refcoco(g, "train") == [g / "refs(abc).p"]
    assert find_refcoco(tmp_path, "val")[0] == tmp_path / "instances_a_val.json"
    for name, count in (("a.p", 1), ("a.json", 1), ("a.txt", 0)):
        (tmp_path / name).touch()
        assert find_refcoco(tmp_path / name, "train") == [tmp_path / name] * count


@pytest.mark.parametrize("place", ["", "images", "train2014", "images/train2014"])
def test_where_pictures_of_coco_are_looked_for(tmp_path: Path, place: str) -> None:
    folder = make_refcoco(tmp_path / "a" / "b")
    pictures = tmp_path / "a" / "b" / "train2014"
    for up in (folder, folder.parent, folder.parent.parent):
        root = up / place
        root.mkdir(parents=True, exist_ok=True)
        for path in list(pictures.glob("*.jpg")):
            path.rename(root / path.name)
        (source,) = open_sources(folder)
        assert source.pictures(source.videos[0], [0])[0].shape == (40, 60, 3)
        pictures = root
    for path in pictures.glob("*.jpg"):
        path.unlink()
    file = folder / "refs(unc).p"
    refused(
        f"No COCO pictures (train2014) beside or above {file}; put them there.",
        open_sources,
        folder,
    )


def test_refcoco_leaves_out_what_is_not_there_and_says_so(tmp_path: Path) -> None:
    folder = make_refcoco(tmp_path)
    refs = [
        {"image_id": 1, "ann_id": 10, "split": "train", "sentences": [{"sent": " "}]},
        {
            "image_id": 2,
            "ann_id": 11,
            "split": "train",
            "sentences": [{"sent": "a"}, {"sent": "b"}],
        },
        {
            "image_id": 1,
            "ann_id": 10,
            "split": "train",
            "sentences": [{"sent": "c"}, {"sent": "c"}],
        },
        {"image_id": 1, "ann_id": 11, "split": "train", "sentences": [{"sent": "c"}]},
        {"image_id": 1, "ann_id": 10, "split": "val", "sentences": [{"sent": "d"}]},
    ]
    file = folder / "refs(unc).p"
    file.write_bytes(pickle.dumps(refs))
    (tmp_path / "train2014" / "COCO_2.jpg").unlink()
    (source,) = open_sources(folder)
    assert source.label == str(file)
    assert source.identity == f"refcoco:{file.stat().st_size}:train:{file}"
    assert source.skipped == {
        "objects without sentences": 1,
        "sentences about pictures that are not there": 2,
    }
    (video,) = source.videos
    # The same words about another object are another sentence.
    assert [(s.text, s.objects, s.frames) for s in video.sentences] == [
        ("c", (2,), (0,)),
        ("c", (3,), (0,)),
    ]
    other = draw_video(11, 2)[1][1, 1]
    np.testing.assert_array_equal(source.masks(video, video.sentences[1], [0, 0]), [other, other])
    first, again = source.pictures(video, [0, 0])
    assert np.array_equal(first, again)
    Image.new("RGB", (50, 30)).save(tmp_path / "train2014" / "COCO_1.jpg")
    refused(
        f"The picture {tmp_path / 'train2014' / 'COCO_1.jpg'} is 50 x 30, its annotations are for "
        "60 x 40; give the pictures they were made for.",
        source.pictures,
        video,
        [0],
    )


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("file_name", "a/COCO_1.jpg", False),
        ("height", 0, False),
        ("height", 65_536, False),
        ("width", "60", False),
        ("width", 65_535, True),
        ("file_name", "\ud800.jpg", False),
        ("height", 1, True),
    ],
)
def test_a_picture_has_a_plain_name_and_a_size(
    tmp_path: Path, key: str, value: Any, good: bool
) -> None:
    folder = make_refcoco(tmp_path)
    rewrite(folder / "instances.json", lambda d: d["images"][0].update({key: value}))
    if good:
        assert open_sources(folder)[0].size(open_sources(folder)[0].videos[0]).count(value) == 1
        # Each side alone may be as long; a mask of both would take gigabytes.
        rewrite(
            folder / "instances.json", lambda d: d["images"][0].update(height=2**15, width=2**12)
        )
    refused(
        f"{folder / 'refs(unc).p'} has a picture without a plain name and a size.",
        open_sources,
        folder,
    )


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_annotations_of_coco_without_their_lists(tmp_path: Path, key: str) -> None:
    folder = make_refcoco(tmp_path)
    for bad in ({}, [5], None):
        rewrite(folder / "instances.json", lambda d, bad=bad: d.update({key: bad}))
        refused(
            f"The annotations of {folder / 'refs(unc).p'} have no list of {key}.",
            open_sources,
            folder,
        )
    rewrite(folder / "instances.json", lambda d: d.update(images=[{"id": []}], annotations=[]))
    refused(
        f"The annotations of {folder / 'refs(unc).p'} have images without a plain id.",
        open_sources,
        folder,
    )
    (folder / "instances.json").write_text("[]")
    refused(
        f"The annotations of {folder / 'refs(unc).p'} have no list of images.", open_sources, folder
    )


def test_references_to_nothing(tmp_path: Path) -> None:
    folder = make_refcoco(tmp_path)
    file = folder / "refs(unc).p"
    for refs in ({"split": "train"}, [5]):
        file.write_bytes(pickle.dumps(refs))
        refused(
            f"{file} holds no list of references; get it from its authors.", open_sources, folder
        )
    whole = {"split": "train", "image_id": 1, "ann_id": 10, "sentences": [{"sent": "a"}]}
    for change in ({"image_id": 7}, {"ann_id": 7}, {"sentences": [{}]}, {"sentences": 5}):
        file.write_bytes(pickle.dumps([whole | change]))
        refused(
            f"{file} names a picture or an object that instances.json has not.",
            open_sources,
            folder,
        )


def test_captions_of_objects_come_before_those_of_pictures(tmp_path: Path) -> None:
    folder = make_refcoco(tmp_path)
    document = json.loads((folder / "instances.json").read_text())
    document["images"][0]["caption"] = "picture"
    document["annotations"][0] |= {
        "caption": "object",
        "sentences": ["list", {"sent": "dict"}, 5, {}],
    }
    document["annotations"][1] |= {"caption": "one"}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document))
    texts = lambda: [[s.text for s in v.sentences] for v in RefCocoSource(file).videos]  # noqa: E731
    assert texts() == [["list", "dict"], ["one"]]
    del document["annotations"][0]["sentences"]
    file.write_text(json.dumps(document))
    assert texts() == [["object"], ["one"]]
    # Of annotations nothing refers to, none needs a number.
    for annotation in document["annotations"]:
        del annotation["id"]
    file.write_text(json.dumps(document))
    assert texts() == [["object"], ["one"]]
    for change in ({"image_id": 5}, {"image_id": []}, {"image_id": None}, {"segmentation": None}):
        broken = document["annotations"][0] | change
        if change == {"segmentation": None}:
            del broken["segmentation"]
        file.write_text(json.dumps(document | {"annotations": [broken]}))
        refused(f"{file} has an annotation without picture or segmentation.", RefCocoSource, file)


@pytest.mark.parametrize(
    ("segmentation", "area"),
    [
        ([[4.0, 4.0, 18.0, 4.0, 18.0, 16.0, 4.0, 16.0]], 14 * 12),
        # Two parts, and one of too few points; far outside it is cut.
        ([[0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 30, 0, 30, 10, 20, 10], [1, 1, 2, 2]], 200),
        ([[-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9]], 40 * 60),
        ([[1, 1, 2, 2]], None),
        ([], None),
        ([[0, 0, float("nan"), 0, 10, 10]], None),
        ([[[0, 0]] * 6], None),
        (5, None),
        ({"size": [40, 60], "counts": [0, 40, 2360]}, 40),
        ({"size": [60, 40], "counts": [0, 40, 2360]}, None),
        ({"size": [40, 60], "counts": "0"}, None),
    ],
)
def test_masks_of_coco(tmp_path: Path, segmentation: Any, area: int | None) -> None:
    folder = make_refcoco(tmp_path)
    rewrite(
        folder / "instances.json", lambda d: d["annotations"][0].update(segmentation=segmentation)
    )
    (source,) = open_sources(folder)
    video = source.videos[0]
    if area is not None:
        assert source.masks(video, video.sentences[0], [0]).sum() == area
        return
    with pytest.raises(
        DatasetError, match=r"^An object in .*refs\(unc\).p has no readable mask \(.+\)\.$"
    ):
        source.masks(video, video.sentences[0], [0])


def test_memo_numbers_up_to_what_was_read_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(b"\x80\x02]q\x03.")  # the third instruction writes number three
    assert read_plain_pickle(path) == []
    path.write_bytes(b"\x80\x02]q\x04.")
    refused(f"{path} is refused: its pickle is malformed.", read_plain_pickle, path)
    path.write_bytes(b"cos\nsystem\n.")
    refused(
        f"{path} is refused: its pickle would do GLOBAL 'os system', which sentences do not need; "
        "get the file from its authors.",
        read_plain_pickle,
        path,
    )
    path.write_bytes(b"\x80\x05\x8f.")
    refused(
        f"{path} is refused: its pickle would do EMPTY_SET, which sentences do not need; get the "
        "file from its authors.",
        read_plain_pickle,
        path,
    )
    path.write_bytes(b"")
    said = "pickle exhausted before seeing STOP"
    refused(f"{path} is no readable pickle ({said}); copy it again.", read_plain_pickle, path)
    path.write_bytes(b"\x80\x02X\x01\x00\x00\x00\xff.")  # a text that is none
    with pytest.raises(DatasetError, match=r"is no readable pickle \(.+\); copy it again\.$"):
        read_plain_pickle(path)
