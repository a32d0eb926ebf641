"""Each layout's quirks: what is read, what is left out and why, what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowrvs.data import export_projects
from flowrvs.errors import DatasetError, FlowRVSError, MissingPathError, ProjectError
from flowrvs.masks import rle
from flowrvs.store import Project
from flowrvs.training.sources import open_sources
from flowrvs.training.sources.pickled import read_plain_pickle
from tests.fixtures.training_data import (
    FRAMES,
    draw_video,
    make_davis,
    make_mevis,
    make_project,
    make_refcoco,
    make_ytvos,
)


def test_mevis_gives_unions_absences_and_sentences_without_target(mevis_split: Path) -> None:
    (source,) = open_sources(mevis_split.parent)  # the folder that holds train/
    assert [video.name for video in source.videos] == ["v0", "v1", "v2"]
    video = source.videos[0]
    red, both, nothing = video.sentences
    assert red.text == "The Red box  on the left"
    assert both.objects == (0, 1)
    assert nothing.objects == ()
    assert red.frames == tuple(range(FRAMES))
    pictures, masks = draw_video(0)
    np.testing.assert_array_equal(source.masks(video, red, [0, 5, 5]), masks[0, [0, 5, 5]])
    np.testing.assert_array_equal(source.masks(video, both, [7])[0], masks[0, 7] | masks[1, 7])
    assert not source.masks(video, both, [3]).any()  # null: absent on frame 3
    assert not source.masks(video, nothing, [0]).any()
    read = source.pictures(video, [9, 2, 9])
    assert [p.shape for p in read] == [(40, 60, 3)] * 3
    # JPEG: near, not equal; the red box is where it was drawn.
    assert abs(read[1][masks[0, 2]].mean(0) - (250, 20, 20)).max() < 15
    assert abs(read[1].astype(int) - pictures[2].astype(int)).mean() < 6
    assert source.size(source.videos[1]) == (50, 47)
    assert source.videos[2].sentences[0].frames == (0,)


def test_mevis_leaves_out_missing_frames_and_unknown_truth(tmp_path: Path) -> None:
    split = make_mevis(tmp_path, videos=2, meta_name="meta_expressions_v2.json")
    (split / "JPEGImages" / "v0" / "00004.jpg").unlink()
    document = json.loads((split / "meta_expressions_v2.json").read_text())
    expressions = document["videos"]["v0"]["expressions"]
    expressions["3"] = {"exp": "truth unknown"}
    expressions["4"] = {"exp": "   ", "obj_id": [0], "anno_id": [0]}
    (split / "meta_expressions_v2.json").write_text(json.dumps(document))
    (source,) = open_sources(split)
    video = source.videos[0]
    assert video.sentences[0].frames == (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11)
    assert len(video.sentences) == 3
    assert source.skipped == {
        "frames without a picture": 1,
        "sentences whose truth is not given": 1,
        "empty sentences": 1,
    }
    # The masks stay with their own frames.
    np.testing.assert_array_equal(
        source.masks(video, video.sentences[0], [5])[0], draw_video(0)[1][0, 5]
    )
    (split / "JPEGImages").rename(split / "packed")
    (split / "JPEGImages.tar").touch()
    with pytest.raises(DatasetError, match=r"^The frames of .* are packed; unpack JPEGImages.tar"):
        open_sources(split)


def test_ref_youtube_vos_in_its_official_tree(tmp_path: Path) -> None:
    (source,) = open_sources(make_ytvos(tmp_path))
    (video,) = source.videos
    (sentence,) = video.sentences
    assert sentence.objects == (2,)
    # 00010 has no mask, 00020 no picture.
    assert sentence.frames == (0, 1, 3, 5, 6, 7, 8, 9, 10, 11)
    np.testing.assert_array_equal(source.masks(video, sentence, [6])[0], draw_video(7)[1][1, 6])
    assert source.skipped["sentences whose truth is not given"] == 1


def test_ref_davis_with_masks_of_0_and_255(tmp_path: Path) -> None:
    root = make_davis(tmp_path)
    (source,) = open_sources(root)
    (video,) = source.videos
    assert (video.name, video.sentences[0].text) == ("bear", "a brown bear")
    truth = draw_video(9)[1][0]
    np.testing.assert_array_equal(source.masks(video, video.sentences[0], [4])[0], truth[4])
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("other\n")
    with pytest.raises(DatasetError, match="no sentence that can be trained on"):
        open_sources(root)


def test_refcoco_from_pickle_and_from_json(tmp_path: Path) -> None:
    folder = make_refcoco(tmp_path)
    for path, split in ((tmp_path, "train"), (folder, "train"), (folder, "val")):
        (source,) = open_sources(path, split=split)
        (picture,) = source.videos
        number = ("train", "val").index(split)
        assert picture.name == f"COCO_{number + 1}.jpg"
        assert picture.sentences[0].text == f"box {number}"
        assert source.size(picture) == (40, 60)
        assert source.pictures(picture, [0, 0])[1].shape == (40, 60, 3)
        mask = source.masks(picture, picture.sentences[0], [0, 0])
        assert mask.shape == (2, 40, 60)
        expected = draw_video(11, 2)[1][number, number]
        if number == 0:  # a polygon: its outline may differ from the pixels' by one
            expected = np.zeros((40, 60), bool)
            expected[4:16, 4:18] = True
        assert (mask[0] != expected).sum() <= 2
    document = json.loads((folder / "instances.json").read_text())
    document["images"][0]["caption"] = "as an image's caption"
    document["annotations"][1]["sentences"] = [{"sent": "first"}, "second", " "]
    (folder / "refs(unc).p").unlink()
    (folder / "instances_refcoco_train.json").write_text(json.dumps(document))
    (source,) = open_sources(folder)
    assert [[s.text for s in video.sentences] for video in source.videos] == [
        ["as an image's caption"],
        ["first", "second"],
    ]


class _Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/never-made-by-a-pickle",))


def test_hostile_pickles_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    bombs = {
        "code": (pickle.dumps([_Evil()]), "would do (GLOBAL|STACK_GLOBAL)"),
        "code, protocol 0": (pickle.dumps([_Evil()], protocol=0), "would do GLOBAL"),
        "instance": (b"(ios\nsystem\n.", "would do INST"),
        "persistent id": (b"Pabc\n.", "would do PERSID"),
        "extension": (b"\x80\x02\x82\x01.", "would do EXT1"),
        "bytearray of 2**60": (
            b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b".",
            "refused|no",
        ),
        "memo of 4 billion": (b"\x80\x02]r\xff\xff\xff\xff.", "malformed"),
        "cut short": (pickle.dumps([{"a": "b"}] * 9)[:-7], "no readable pickle"),
        "empty": (b"", "no readable pickle"),
    }
    for what, (data, message) in bombs.items():
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=message) as caught:
            read_plain_pickle(path)
        assert "\n" not in str(caught.value), what
    assert not Path("/tmp/never-made-by-a-pickle").exists()
    plain = [{"sent": "caf\u00e9", "ids": (1, 2**40, -3), "x": None, "y": [True, 0.5]}]
    for protocol in range(5):
        path.write_bytes(pickle.dumps(plain, protocol=protocol))
        assert read_plain_pickle(path) == plain
    link = tmp_path / "refs(link).p"
    link.symlink_to(path)
    with pytest.raises(FlowRVSError):
        read_plain_pickle(link)


def test_a_pickle_that_grows_when_it_is_put_into_words_is_not(tmp_path: Path) -> None:
    whole = {"split": "train", "image_id": 1, "ann_id": 10, "sentences": [{"sent": "a"}]}
    bomb = ("ha",)
    for _ in range(64):  # a few bytes in the file, 2**64 words
        bomb = (bomb, bomb)
    for change in ({"sentences": [{"sent": bomb}]}, {"image_id": bomb}, {"ann_id": bomb}):
        folder = make_refcoco(tmp_path / next(iter(change)), [whole | change])
        with pytest.raises(DatasetError, match="names a picture or an object that instances.json"):
            open_sources(folder)


@pytest.mark.parametrize(
    "refs", [{"a": 1}, [{"split": "train"}], [{"split": "train", "image_id": 99}]]
)
def test_pickles_of_other_things_get_one_line(tmp_path: Path, refs: object) -> None:
    with pytest.raises(DatasetError) as caught:
        open_sources(make_refcoco(tmp_path, refs))
    assert "\n" not in str(caught.value)


def test_projects_give_what_a_person_confirmed(tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    (source,) = open_sources(folder)
    (video,) = source.videos
    red, nothing = video.sentences
    assert red.frames == (2, 3, 4, 8)  # drawn on three, accepted on one
    assert nothing.frames == (2, 3, 4, 8)
    truth = draw_video(3)[1][0]
    np.testing.assert_array_equal(source.masks(video, red, [3, 2]), truth[[3, 2]])
    # Frame 8 was accepted as the model had it: shifted.
    np.testing.assert_array_equal(source.masks(video, red, [8])[0], np.roll(truth[8], 3, axis=1))
    assert not source.masks(video, nothing, [2]).any()
    assert source.pictures(video, [4, 2])[0].shape == (40, 60, 3)
    copy = pickle.loads(pickle.dumps(source))  # as worker processes get it
    np.testing.assert_array_equal(copy.masks(video, red, [3])[0], truth[3])
    (every,) = open_sources(folder, confirmed=False)
    assert every.videos[0].sentences[0].frames == tuple(range(FRAMES))
    # The person's project is as it was.
    with Project.open(folder, read_only=True) as project:
        assert len(project.expressions) == 2


def test_a_sentence_of_two_objects_needs_both_confirmed(tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    with Project.open(folder) as project:
        (red,) = project.objects.values()
        blue = project.add_object("blue", red.layer)
        project.add_expression("both boxes", [red.id, blue.id])
        project.accept_frames(blue.id, 3, 10)
    (source,) = open_sources(tmp_path)  # a folder of projects
    assert source.videos[0].sentences[-1].frames == (3, 4, 8)


def test_a_project_nobody_corrected_says_so(tmp_path: Path) -> None:
    folder = make_project(tmp_path, seed=8)  # a video that no other test has
    with Project.open(folder) as project:
        (red,) = project.objects.values()
        project.release_frames(red.id, 0, FRAMES)
    with pytest.raises(DatasetError, match="without a frame that a person drew"):
        open_sources(folder)
    for path in (tmp_path / "clip-frames").iterdir():
        path.unlink()
    with pytest.raises(ProjectError, match="is not found"):
        open_sources(folder)


def test_of_many_projects_every_sentence_that_is_left_out_is_counted(tmp_path: Path) -> None:
    for name in "ab":
        make_project(tmp_path, name)
    with Project.open(tmp_path / "b.flowrvs") as project:
        project.release_frames(1, 0, FRAMES)
    found = open_sources(tmp_path)
    assert [len(source.videos) for source in found] == [1, 0]
    reason = "sentences without a frame that a person drew, accepted or locked"
    assert [source.skipped for source in found] == [{}, {reason: 2}]
    (tmp_path / "c.flowrvs").touch()
    with pytest.raises(ProjectError, match="c.flowrvs is a file; a project is a folder"):
        open_sources(tmp_path)
    (tmp_path / "c.flowrvs").unlink()
    make_mevis(tmp_path, videos=1)
    with pytest.raises(DatasetError, match="holds projects and a split; put the projects into"):
        open_sources(tmp_path)


def test_a_project_that_is_written_to_meanwhile(tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    (folder / "layers" / ".gone.partial").symlink_to(tmp_path / "written-and-renamed-meanwhile")
    with Project.open(folder) as project:  # in a window
        (source,) = open_sources(folder)
        project.accept_frames(1, 10, 11)
        video = source.videos[0]
        assert source.masks(video, video.sentences[0], [2]).any()
        project.remove_object(1)
        project.flush()
    copy = pickle.loads(pickle.dumps(source))  # another process reads what is there now
    with pytest.raises(FlowRVSError) as caught:
        copy.masks(video, video.sentences[0], [2])
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_data_gets_one_line(tmp_path: Path, mevis_split: Path) -> None:
    with pytest.raises(MissingPathError, match="No data at"):
        open_sources(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is no training data"):
        open_sources(tmp_path)
    split = make_mevis(tmp_path / "a", videos=2)
    (split / "mask_dict.json").rename(split / "hidden.json")
    with pytest.raises(DatasetError, match="its truth is not public"):
        open_sources(split)
    document = json.loads((mevis_split / "meta_expressions.json").read_text())
    document["videos"]["../../v0"] = document["videos"].pop("v0")
    (split / "hidden.json").rename(split / "mask_dict.json")
    (split / "meta_expressions.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="a name that is a path"):
        open_sources(split)


def test_masks_of_another_size_are_named(tmp_path: Path) -> None:
    split = make_mevis(tmp_path, videos=2)
    masks = json.loads((split / "mask_dict.json").read_text())
    masks["0"][2] = rle.encode(np.ones((10, 10), bool))
    (split / "mask_dict.json").write_text(json.dumps(masks))
    (source,) = open_sources(split)
    video = source.videos[0]
    with pytest.raises(DatasetError, match="10 x 10 on frame 2, the picture 60 x 40"):
        source.masks(video, video.sentences[0], [2])
    Image.new("RGB", (5, 5)).save(split / "JPEGImages" / "v0" / "00002.jpg")
    (split / "JPEGImages" / "v0" / "00003.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="is not a readable picture"):
        source.pictures(video, [3])


@pytest.mark.parametrize("kind", ["mevis", "ytvos", "refdavis"])
def test_what_is_exported_here_can_be_trained_on(tmp_path: Path, kind: str) -> None:
    with Project.open(make_project(tmp_path), read_only=True) as project:
        export_projects([project], tmp_path / kind, format=kind, split="train")
    for place in (tmp_path / kind, tmp_path / kind / "train"):
        (source,) = open_sources(place)
        (video,) = source.videos
        red, nothing = video.sentences
        assert (red.text, nothing.text) == ("the red box", "the green ball")
        assert len(red.frames) == FRAMES
        truth = draw_video(3)[1][0]
        np.testing.assert_array_equal(source.masks(video, red, [3])[0], truth[3])
        np.testing.assert_array_equal(
            source.masks(video, red, [9])[0], np.roll(truth[9], 3, axis=1)
        )
        assert not source.masks(video, nothing, list(range(FRAMES))).any()
