"""The small print of each layout: which file counts, which frames and words, every message."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowrvs.data.synth_scene import render_scene, sample_scene
from flowrvs.data.synthetic import TRAINING_SEED_BASE, describe
from flowrvs.errors import DatasetError, MissingPathError
from flowrvs.masks import rle
from flowrvs.store import Project
from flowrvs.training.clips import Box
from flowrvs.training.dataset import ClipSettings, TrainingData
from flowrvs.training.sources import open_sources
from flowrvs.training.sources.base import read_json, read_picture
from flowrvs.training.sources.expressions import find_meta
from flowrvs.training.sources.world import WorldSource
from tests.fixtures.training_data import (
    FRAMES,
    draw_video,
    make_davis,
    make_mevis,
    make_project,
    make_refcoco,
    make_ytvos,
    write_jpegs,
)
from tests.unit.flowrvs.training.refusals import refused, rewrite

# -- what a path is ----------------------------------------------------------------------


def test_what_a_path_is(tmp_path: Path) -> None:
    split = make_mevis(tmp_path / "a", videos=2)
    # A folder that is a split is not looked into for another one.
    make_mevis(split, videos=3)
    (source,) = open_sources(split)
    assert source.label == str(split) and len(source.videos) == 2
    size = (split / "meta_expressions.json").stat().st_size
    assert source.identity == f"mevis:{size}:{split}"
    for name in "ba":
        make_project(tmp_path / "projects", name)
    make_refcoco(tmp_path / "projects")
    found = open_sources(tmp_path / "projects", confirmed=False)
    assert [Path(each.label).name for each in found] == ["a.flowrvs", "b.flowrvs"]
    assert all(len(each.videos[0].sentences[0].frames) == FRAMES for each in found)
    file = tmp_path / "projects" / "refcoco" / "refs(unc).p"
    (source,) = open_sources(file, split="val")
    assert source.videos[0].name == "COCO_2.jpg"
    nothing = tmp_path / "notes.txt"
    nothing.touch()
    for place in (nothing, tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        refused(
            f"{place} is no training data: no meta_expressions.json with masks, no "
            "davis_text_annotations, no refs(*).p or instances_*.json, no *.flowrvs project.",
            open_sources,
            place,
        )
    with pytest.raises(MissingPathError, match="^No data at .*x; give a split, a project or"):
        open_sources(tmp_path / "x")


def test_what_only_has_sentences_that_cannot_be_used_says_which(tmp_path: Path) -> None:
    split = make_mevis(tmp_path, videos=1)

    def hide(document: Any) -> None:
        for item in document["videos"]["v0"]["expressions"].values():
            item |= {"anno_id": [], "obj_id": [0]}
        document["videos"]["v0"]["expressions"]["0"]["exp"] = " "

    rewrite(split / "meta_expressions.json", hide)
    refused(
        f"{split} has no sentence that can be trained on: it has only empty sentences, "
        "sentences whose truth is not given.",
        open_sources,
        split,
    )
    rewrite(split / "meta_expressions.json", lambda document: document["videos"].clear())
    refused(f"{split} has no sentence that can be trained on.", open_sources, split)
    (split / "mask_dict.json").unlink()
    refused(
        f"{split} has sentences but no masks (mask_dict.json or Annotations): its truth is not "
        "public; train on another split.",
        open_sources,
        split.parent,
    )


def test_the_newest_file_of_sentences_counts_and_the_folders_own_first(tmp_path: Path) -> None:
    split = tmp_path / "valid"
    beside = tmp_path / "meta_expressions" / "valid"
    for folder in (split, beside):
        folder.mkdir(parents=True)
    assert find_meta(split) is None
    for folder in (beside, split):
        for name in ("meta_expressions.json", "meta_expressions_v2.json"):
            (folder / name).touch()
            assert find_meta(split) == folder / name


# -- pictures and JSON -------------------------------------------------------------------


def test_pictures_are_rgb_or_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (3, 2), 7).save(path)
    assert read_picture(path).tolist() == [[[7, 7, 7]] * 3] * 2
    refused(
        f"The picture {tmp_path / 'b.png'} is missing; copy it again.",
        read_picture,
        tmp_path / "b.png",
    )
    path.write_bytes(path.read_bytes()[:40])
    refused(f"{path} is not a readable picture; copy it again.", read_picture, path)


def test_json_is_read_or_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(
        MissingPathError, match=rf"^{re.escape(str(path))} is missing; copy it again\.$"
    ):
        read_json(path)
    path.write_text("[1, 2]")
    assert read_json(path) == [1, 2] == read_json(path, 6)
    with pytest.raises(DatasetError):
        read_json(path, 5)
    path.write_text("[1,")
    with pytest.raises(
        DatasetError, match=rf"^{re.escape(str(path))} is not readable JSON \(.+\); copy it again"
    ):
        read_json(path)


# -- splits with sentences ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "{meta} has no 'videos'; it is not a file of expressions."),
        ({"videos": []}, "{meta} has no 'videos'; it is not a file of expressions."),
        ({"videos": {"v": []}}, "The video 'v' in {meta} lacks 'frames' or 'expressions'."),
        (
            {"videos": {"v": {"frames": {}, "expressions": {}}}},
            "The video 'v' in {meta} lacks 'frames' or 'expressions'.",
        ),
        (
            {"videos": {"v": {"frames": [], "expressions": []}}},
            "The video 'v' in {meta} lacks 'frames' or 'expressions'.",
        ),
        (
            {"videos": {"v": {"frames": ["a", "b/c"], "expressions": {}}}},
            "The video 'v' in {meta} has a name that is a path.",
        ),
        (
            {"videos": {"v": {"frames": ["a"], "expressions": {"4": []}}}},
            "Expression '4' of 'v' in {meta} has no 'exp'.",
        ),
        (
            {"videos": {"v": {"frames": ["a"], "expressions": {"4": {"exp": 1}}}}},
            "Expression '4' of 'v' in {meta} has no 'exp'.",
        ),
        (
            {
                "videos": {
                    "v": {"frames": ["a"], "expressions": {"4": {"exp": "x", "anno_id": ["b"]}}}
                }
            },
            "v/4 in {meta} has ids that are not integers.",
        ),
        (
            {
                "videos": {
                    "v": {
                        "frames": ["a"],
                        "expressions": {"4": {"exp": "x", "anno_id": [float("inf")]}},
                    }
                }
            },
            "v/4 in {meta} has ids that are not integers.",
        ),
        (
            {"videos": {"\ud800": {"frames": ["a"], "expressions": {}}}},
            "The video '\\ud800' in {meta} has a name that is a path.",
        ),
    ],
)
def test_a_file_of_sentences_that_is_none_is_named(
    tmp_path: Path, document: Any, message: str
) -> None:
    write_jpegs(tmp_path / "JPEGImages" / "v", draw_video(0, 1)[0], ["a"])
    (tmp_path / "mask_dict.json").write_text("{}")
    meta = tmp_path / "meta_expressions.json"
    meta.write_text(json.dumps(document))
    refused(message.format(meta=meta), open_sources, tmp_path)


def test_frames_are_the_listed_ones_whatever_their_suffix(tmp_path: Path) -> None:
    split = make_mevis(tmp_path, videos=2)
    frames = split / "JPEGImages" / "v0"
    (frames / "00002.jpg").rename(frames / "00002.JPG")
    (frames / "00003.jpg").rename(frames / "00003.jpeg")
    (frames / "00005.jpg").rename(frames / "00005.bmp")
    (frames / "99999.jpg").write_bytes((frames / "00001.jpg").read_bytes())
    for path in (split / "JPEGImages" / "v1").iterdir():
        path.unlink()
    (source,) = open_sources(split)
    (video,) = source.videos
    assert video.sentences[0].frames == (0, 1, 2, 3, 4, *range(6, 12))
    assert source.skipped == {
        "frames without a picture": 2,
        "sentences about videos without pictures": 3,
    }
    read = source.pictures(video, [3, 2, 3])
    red = draw_video(0)[1][0]
    for picture, index in zip(read, (3, 2, 3), strict=True):
        assert (picture[..., 0][red[index]] > 150).all()
    assert np.array_equal(read[0], read[2]) and not np.array_equal(read[0], read[1])
    (frames / "00000.jpg").write_bytes(b"none")
    refused(f"{frames / '00000.jpg'} is not a readable picture; copy it again.", source.size, video)
    (frames / "00000.jpg").unlink()  # while it is trained on
    refused(f"The picture {frames / '00000.jpg'} is missing; copy it again.", source.size, video)
    (split / "JPEGImages").rename(split / "elsewhere")
    with pytest.raises(DatasetError, match="it has only frames without a picture, sentences about"):
        open_sources(split)


def test_an_annotation_may_end_early_and_hold_no_mask(tmp_path: Path) -> None:
    split = make_mevis(tmp_path, videos=2)
    rewrite(split / "mask_dict.json", lambda masks: masks.update({"0": masks["0"][:8]}))
    (source,) = open_sources(split)
    video, truth = source.videos[0], draw_video(0)[1]
    red, both, nothing = video.sentences
    np.testing.assert_array_equal(
        source.masks(video, red, [7, 8, 3, 2]),
        np.stack([truth[0, 7], *np.zeros((2, 40, 60), bool), truth[0, 2]]),
    )
    np.testing.assert_array_equal(source.masks(video, both, [9])[0], truth[1, 9])
    assert source.masks(video, nothing, [1, 2]).shape == (2, 40, 60)
    entry = rle.encode(np.ones((10, 12), bool))
    rewrite(split / "mask_dict.json", lambda masks: masks.update({"0": [entry]}))
    (source,) = open_sources(split)
    refused(
        f"anno_id 0 of {split} is 12 x 10 on frame 0, the picture 60 x 40; run 'flowrvs check'.",
        source.masks,
        source.videos[0],
        red,
        [0],
    )


def test_masks_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    split = make_mevis(tmp_path, videos=2)
    rewrite(
        split / "meta_expressions.json",
        lambda d: d["videos"]["v0"]["expressions"]["1"].update(anno_id=[0, 99]),
    )
    rewrite(split / "mask_dict.json", lambda masks: masks["0"][0].update(counts="000"))
    (source,) = open_sources(split)
    assert source.skipped == {"sentences whose masks are missing": 1}
    video = source.videos[0]
    assert [s.text for s in video.sentences] == ["The Red box  on the left", "the green ball"]
    refused(
        f"anno_id 0 of {split}, frame 0: The RLE's runs do not fill 40x60 pixels; it is damaged.",
        source.masks,
        video,
        video.sentences[0],
        [0],
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    root = make_ytvos(tmp_path)
    (source,) = open_sources(root / "train")
    video = source.videos[0]
    for path, read in (
        (root / "train" / "JPEGImages" / "a1" / "00000.jpg", source.pictures),
        (
            root / "train" / "Annotations" / "a1" / "00000.png",
            lambda video, frames: source.masks(video, video.sentences[0], frames),
        ),
    ):
        path.rename(path.with_suffix(".kept"))
        os.mkfifo(path)
        refused(f"{path} is no plain file; copy the picture again.", read, video, [0])
        path.unlink()
        path.with_suffix(".kept").rename(path)


def test_masks_in_colours_are_not_taken_for_numbers(tmp_path: Path) -> None:
    root = make_ytvos(tmp_path)
    (source,) = open_sources(root / "train")
    path = root / "train" / "Annotations" / "a1" / "00005.png"
    with Image.open(path) as picture:
        coloured = picture.convert("RGB")
    coloured.save(path)
    refused(
        f"{path} shows objects in colours; save it as a palette or grey picture of their numbers.",
        source.masks,
        source.videos[0],
        source.videos[0].sentences[0],
        [1],
    )


def test_palettes_are_of_the_pictures_size_and_named_if_not(tmp_path: Path) -> None:
    root = make_ytvos(tmp_path)
    (source,) = open_sources(root / "train")
    size = (root / "meta_expressions" / "train" / "meta_expressions.json").stat().st_size
    assert source.identity == f"palette:{size}:{root / 'train'}"
    assert source.skipped == {
        "frames without a picture": 1,
        "frames without masks": 1,
        "sentences whose truth is not given": 1,
    }
    (video,) = source.videos
    (blue,) = video.sentences
    path = root / "train" / "Annotations" / "a1" / "00005.png"
    mask = draw_video(7)[1]
    labels = (mask[0, 1] * 3 + mask[1, 1] * 2).astype(np.uint8)
    for mode in ("L", "RGB"):  # a picture of grey values is one of numbers
        Image.fromarray(labels).convert(mode).save(path)
        np.testing.assert_array_equal(source.masks(video, blue, [1])[0], mask[1, 1])
    # Where there is more than 0 and 255, 255 is the border that nobody annotated.
    labels[labels == 3] = 255
    Image.fromarray(labels).save(path)
    np.testing.assert_array_equal(source.masks(video, blue, [1])[0], mask[1, 1])
    Image.new("P", (30, 20)).save(path)
    refused(
        f"{path} is 30 x 20, its picture 60 x 40; run 'flowrvs check'.",
        source.masks,
        video,
        blue,
        [1],
    )
    path.write_bytes(b"none")
    refused(f"{path} is not a readable picture; copy it again.", source.masks, video, blue, [1])
    path.unlink()
    refused(f"The picture {path} is missing; copy it again.", source.masks, video, blue, [1])


def test_sentences_of_several_objects_and_videos_without_masks(tmp_path: Path) -> None:
    root = make_ytvos(tmp_path)
    meta = root / "meta_expressions" / "train" / "meta_expressions.json"

    def change(document: Any) -> None:
        video = document["videos"]["a1"]
        video["expressions"] |= {
            "2": {"exp": "both", "obj_id": ["1", 2]},
            "3": {"exp": " ", "obj_id": "1"},
            "4": {"exp": "nothing", "obj_id": []},
        }
        document["videos"]["b1"] = {**video, "frames": ["00000", "00001"]}
        document["videos"]["c1"] = {"frames": ["00000"], "expressions": {"0": {"exp": "?"}}}

    rewrite(meta, change)
    (source,) = open_sources(root)
    (video,) = source.videos
    assert [(s.text, s.objects) for s in video.sentences] == [
        ("a blue box", (2,)),
        ("both", (1, 2)),
    ]
    mask = draw_video(7)[1]
    np.testing.assert_array_equal(
        source.masks(video, video.sentences[1], [6])[0], mask[0, 6] | mask[1, 6]
    )
    assert source.skipped == {
        "frames without a picture": 1 + 2 + 1,
        "frames without masks": 1,
        "sentences whose truth is not given": 3 + 3 + 1,
        "sentences about videos without pictures or masks": 2,
    }
    rewrite(
        meta, lambda document: document["videos"]["a1"]["expressions"]["2"].update(obj_id=["x"])
    )
    refused(f"a1/2 in {meta} has ids that are not integers.", open_sources, root)


def test_ref_davis_reads_every_annotator_and_only_the_training_part(tmp_path: Path) -> None:
    root = make_davis(tmp_path)
    texts = root / "davis_text_annotations"
    (texts / "Davis17_annot2.txt").write_bytes(
        '\ufeffbear 1 "a brown bear"\r\n\r\n bear 2  \u201cthe other\u201d \nother 1 "x"\n'.encode()
    )
    (source,) = open_sources(root)
    (video,) = source.videos
    assert [(s.text, s.objects) for s in video.sentences] == [
        ("a brown bear", (1,)),
        ("the other", (2,)),
    ]
    assert video.sentences[0].frames == tuple(range(FRAMES))
    total = sum(path.stat().st_size for path in texts.iterdir())
    assert source.identity == f"davis:{total}:{root}"
    assert source.skipped == {"sentences about videos without pictures or masks": 2}
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("bear\n")
    assert open_sources(root)[0].skipped == {}
    file = texts / "Davis17_annot2.txt"
    file.write_bytes(b'bear 1 "caf\xe9"')
    refused(f"{file} is no text in UTF-8; save it as such.", open_sources, root)
    for line in ("bear 1", 'bear one "a"', '../x 1 "a"', 'bear 1 ""', 'bear \u00b2 "a"'):
        file.write_text(f"\n{line}\n", encoding="utf-8")
        refused(
            f"Line 2 of {texts / 'Davis17_annot2.txt'} is not 'video object \"sentence\"'; mend "
            "that line.",
            open_sources,
            root,
        )


# -- projects and the synthetic world ----------------------------------------------------


def test_a_project_is_read_whole_or_what_was_confirmed(tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    with Project.open(folder) as project:
        (red,) = project.objects.values()
        blue = project.add_object("blue", red.layer)
        project.add_expression("nobody looked", [blue.id])
        project.add_expression("both", [blue.id, red.id])
    (source,) = open_sources(folder)
    assert source.label == str(folder) and source.identity.endswith(":True")
    assert source.identity.startswith(f"project:{folder}:")
    (video,) = source.videos
    assert video.name == "clip" and source.size(video) == (40, 60)
    assert [s.text for s in video.sentences] == ["the red box", "the green ball"]
    assert source.skipped == {"sentences without a frame that a person drew, accepted or locked": 2}
    red_box, ball = video.sentences
    assert source.masks(video, ball, [2, 4]).shape == (2, 40, 60)
    shown = source.pictures(video, [4, 2, 4])
    assert np.array_equal(shown[0], shown[2]) and not np.array_equal(shown[0], shown[1])
    assert (shown[1][draw_video(3)[1][0][2]] == (250, 20, 20)).mean() > 0.1
    opened = source._opened
    assert opened is not None
    source.close()
    assert source._opened is None
    source.masks(video, red_box, [3])
    assert source._opened is not None and source._opened is not opened
    source.close()
    source.close()
    (every,) = open_sources(folder, confirmed=False)
    assert every.identity == source.identity.removesuffix("True") + "False"
    assert [(s.text, s.objects, len(s.frames)) for s in every.videos[0].sentences] == [
        ("the red box", (1,), FRAMES),
        ("the green ball", (), FRAMES),
        ("nobody looked", (2,), FRAMES),
        ("both", (1, 2), FRAMES),
    ]
    with Project.open(folder) as project:  # something is drawn: other clips
        project.accept_frames(1, 10, 11)
    (changed,) = open_sources(folder)
    assert changed.identity != source.identity
    assert changed.videos[0].sentences[0].frames == (2, 3, 4, 8, 10)


def test_a_project_without_objects_has_nothing_to_train_on(tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    with Project.open(folder) as project:
        project.remove_object(1)
    with pytest.raises(DatasetError, match="it has only sentences without a frame that a person"):
        open_sources(folder)


def test_the_world_is_the_same_scenes_every_time() -> None:
    world = WorldSource(3, 32, 48)
    assert (world.label, world.identity) == ("synthetic world", "world:3:32x48")
    assert [video.name for video in world.videos] == ["0", "1", "2"] and world.skipped == {}
    for number, video in enumerate(world.videos):
        scene = sample_scene(70 * TRAINING_SEED_BASE + number, frames=33, height=32, width=48)
        rng = np.random.default_rng([17, scene.seed])
        said = describe(scene.objects, rng)
        first = int(rng.integers(17))
        assert [(s.text, s.objects) for s in video.sentences] == [(s.text, s.objects) for s in said]
        assert {s.frames for s in video.sentences} == {tuple(range(first, first + 17))}
        assert world.size(video) == (32, 48)
        pictures, masks = render_scene(scene, (first, first + 9))
        np.testing.assert_array_equal(world.pictures(video, (first, first + 9)), pictures)
        for sentence in video.sentences:
            expected = np.logical_or.reduce(masks[list(sentence.objects)], axis=0)
            np.testing.assert_array_equal(
                world.masks(video, sentence, [first, first + 9]), expected
            )


# -- clips of each -----------------------------------------------------------------------


LAYOUTS = {
    "mevis": make_mevis,
    "mevis of v2": lambda root: make_mevis(root, meta_name="meta_expressions_v2.json"),
    "one object's masks missing": make_ytvos,
    "ytvos, one frame": lambda root: make_ytvos(root, frames=1, size=(50, 47)),
    "davis": make_davis,
    "davis, one frame": lambda root: make_davis(root, frames=1, size=(33, 90)),
    "refcoco": make_refcoco,
    "a project": make_project,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clips_of_every_layout_have_their_own_truth(tmp_path: Path, layout: str) -> None:
    """Odd sizes, missing frames, one frame, several objects, none: all become whole clips."""
    sources = open_sources(LAYOUTS[layout](tmp_path))
    assert all(Path(video.origin).exists() for source in sources for video in source.videos)
    data = TrainingData(sources, ClipSettings(5, Box(32, 64, 16), seed=2, colour=0.5))
    for number in range(data.epoch_length):
        draw, sample = data.draw(number), data[number]
        assert len(sample.mask) == 5 and set(draw.plan.frames) <= set(draw.sentence.frames)
        assert sample.mask.shape == sample.video.shape[:3] == (5, *draw.plan.size)
        assert min(draw.plan.size) >= 32 and not any(side % 16 for side in draw.plan.size)
        masks = draw.source.masks(draw.video, draw.sentence, draw.plan.frames)
        np.testing.assert_array_equal(sample.mask, draw.plan.apply_to_masks(masks))
        assert draw.sentence.objects or not sample.mask.any()
