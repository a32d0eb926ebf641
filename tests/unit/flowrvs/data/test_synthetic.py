"""The synthetic world: what it promises about scenes, sentences and seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flowrvs.data.synth_scene import MOTIONS, render_scene
from flowrvs.data.synthetic import KINDS, generate_clip, vocabulary, write_split
from flowrvs.errors import InputError


def test_equal_seeds_give_equal_clips_and_others_do_not() -> None:
    one, two, other = generate_clip(5), generate_clip(5), generate_clip(6)
    np.testing.assert_array_equal(one.frames, two.frames)
    np.testing.assert_array_equal(one.masks, two.masks)
    assert one.expressions == two.expressions
    assert not np.array_equal(one.frames, other.frames)


def test_size_and_length_are_as_asked() -> None:
    clip = generate_clip(1, frames=7, height=81, width=101)
    assert clip.frames.shape == (7, 81, 101, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.masks.shape == (len(clip.scene.objects), 7, 81, 101)


def test_frames_drawn_alone_equal_frames_drawn_together() -> None:
    clip = generate_clip(3)
    frames, masks = render_scene(clip.scene, [20, 4])
    np.testing.assert_array_equal(frames, clip.frames[[20, 4]])
    np.testing.assert_array_equal(masks, clip.masks[:, [20, 4]])


def test_visible_masks_exclude_each_other() -> None:
    for seed in range(12):
        assert generate_clip(seed).masks.sum(axis=0).max() <= 1


@pytest.mark.parametrize("seed", range(12))
def test_objects_move_as_they_are_described(seed: int) -> None:
    scene = generate_clip(seed).scene
    for item in scene.objects:
        (x0, y0), (x1, y1) = item.position(0), item.position(scene.frames - 1)
        moved = np.array([x1 - x0, y1 - y0])
        direction = np.array(MOTIONS[item.motion])
        if item.motion == "still":
            assert np.abs(moved).max() < 2
        else:
            # Along its direction it goes far, across it hardly.
            assert moved @ direction > 15
            assert np.abs(moved - (moved @ direction) * direction).max() < 2


def test_every_kind_of_sentence_occurs_and_targets_fit_the_kind() -> None:
    seen = set()
    for seed in range(40):
        clip = generate_clip(seed)
        assert len({e.text for e in clip.expressions}) == len(clip.expressions)
        for expression in clip.expressions:
            seen.add(expression.kind)
            sizes = {"none": (0, 0), "group": (2, 9)}.get(expression.kind, (1, 1))
            assert sizes[0] <= len(expression.objects) <= sizes[1]
    assert seen == set(KINDS)


def test_motion_sentences_cannot_be_answered_from_looks_alone() -> None:
    """Without its motion words a motion sentence fits at least two objects."""
    checked = 0
    for seed in range(30):
        clip = generate_clip(seed)
        for expression in clip.expressions:
            if expression.kind != "motion":
                continue
            words = set(expression.text.split())
            fitting = [
                item
                for item in clip.scene.objects
                if all(
                    word not in words or getattr(item, attribute) == word
                    for attribute, options in (
                        ("color", {o.color for o in clip.scene.objects}),
                        ("shape", {o.shape for o in clip.scene.objects}),
                        ("size", {"small", "big"}),
                    )
                    for word in options
                )
            ]
            assert len(fitting) >= 2, expression.text
            checked += 1
    assert checked > 50


def test_lookalikes_can_be_switched_on_and_off() -> None:
    def share(lookalikes: float) -> float:
        twins = 0
        for seed in range(30):
            looks = [
                (o.shape, o.color, o.size)
                for o in generate_clip(seed, lookalikes=lookalikes).scene.objects
            ]
            twins += len(set(looks)) < len(looks)
        return twins / 30

    assert share(0.0) == 0.0
    assert share(1.0) == 1.0


def test_objects_enter_leave_and_are_hidden() -> None:
    """Over some seeds, masks vanish at the edge and shrink behind others."""
    vanish = occluded = 0
    for seed in range(30):
        masks = generate_clip(seed).masks
        areas = masks.sum(axis=(2, 3))
        vanish += bool((areas.min(axis=1) == 0).any() and (areas.max(axis=1) > 0).all())
        occluded += bool((areas.min(axis=1) < 0.6 * areas.max(axis=1)).any())
    assert vanish >= 2
    assert occluded >= 8


def test_the_vocabulary_covers_every_sentence() -> None:
    words = set(vocabulary())
    for seed in range(60):
        for expression in generate_clip(seed).expressions:
            assert set(expression.text.split()) <= words


def test_a_split_holds_the_clips_and_their_masks(tmp_path: Path) -> None:
    from pycocotools import mask as coco

    out = tmp_path / "split"
    clips = list(write_split(out, videos=2, seed=3, frames=5))
    meta = json.loads((out / "meta_expressions.json").read_text())
    masks = json.loads((out / "mask_dict.json").read_text())
    kinds = json.loads((out / "synthetic.json").read_text())["kinds"]
    assert list(meta["videos"]) == list(kinds) == ["synth_00003000", "synth_00003001"]
    for clip, (name, video) in zip(clips, meta["videos"].items(), strict=True):
        assert len(video["frames"]) == 5
        for exp_id, entry in video["expressions"].items():
            sentence = clip.expressions[int(exp_id)]
            assert entry["exp"] == sentence.text
            assert kinds[name][exp_id] == sentence.kind
            for frame in range(5):
                union = np.zeros((96, 160), bool)
                for anno_id in entry["anno_id"]:
                    rle = masks[str(anno_id)][frame]
                    if rle:
                        union |= coco.decode(rle).astype(bool)
                np.testing.assert_array_equal(union, clip.target(sentence)[frame])


@pytest.mark.parametrize("bad", [{"seed": -1}, {"frames": 0}, {"height": 8}, {"expressions": 0}])
def test_impossible_numbers_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Cannot make a clip"):
        generate_clip(**({"seed": 0} | bad))
