"""The synthetic world: what it promises about scenes, sentences and seeds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from flowrvs.data.synth_scene import MOTIONS, render_scene
from flowrvs.data.synthetic import KINDS, generate_clip, vocabulary, write_split
from flowrvs.errors import Cancelled, InputError
from flowrvs.progress import CancelToken, Progress


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


def test_a_seed_gives_the_same_scene_and_sentences_for_ever() -> None:
    """The bundled model was trained on this world, and its scores are told by seed."""

    def text(seed: int) -> str:
        clip = generate_clip(seed)
        scene, objects = clip.scene, []
        for item in scene.objects:
            places = (*item.anchor, item.anchor_frame, *item.velocity, item.wobble, item.angle)
            numbers = (f"{number:.3f}" for number in (item.radius, *places))
            looks = (item.shape, item.color, item.size, item.motion, item.rgb)
            objects.append([*looks, *numbers])
        camera = [f"{number:.3f}" for number in (*scene.drift, *(scene.pillar or ()))]
        said = [[e.text, e.objects, e.kind, e.says_motion] for e in clip.expressions]
        return json.dumps([objects, camera, said])

    found = hashlib.sha256("\n".join(map(text, range(30))).encode()).hexdigest()
    assert found == "5f883025414b1e32dd1616a0c2d76d1e153a1a61000343fee0013519e176d52a"


@pytest.mark.parametrize(
    ("seed", "areas", "means", "centres"),
    [
        (
            1,
            [[375, 374, 361], [176, 169, 176], [375, 373, 377], [132, 131, 132]],
            [107.2, 94.9, 60.2, 59.1, 81.7, 82.9, 101.2, 92.3, 99.7, 73.9, 101.8],
            [(22.4, 65.3), (40.7, 53.5), (43.0, 25.7), (18.0, 35.5)],
        ),
        (
            11,
            [[206, 207, 207], [208, 207, 205]],
            [109.3, 113.9, 121.4, 99.1, 105.1, 134.4, 109.1, 99.2, 97.8, 104.3, 134.8],
            [(25.6, 64.5), (37.3, 10.2)],
        ),
        (
            36,
            [[268, 270, 270], [145, 149, 150]],
            [89.1, 71.3, 86.4, 83.6, 80.7, 82.6, 83.2, 81.0, 85.1, 83.0, 78.4],
            [(41.9, 25.9), (25.2, 49.1)],
        ),
    ],
)
def test_a_scene_is_drawn_as_it_always_was(seed, areas, means, centres) -> None:
    """Areas on every second frame; means by colour, row and column; where the objects are."""
    clip = generate_clip(seed, frames=5, height=64, width=80)
    assert np.abs(clip.masks[:, ::2].sum((2, 3)) - areas).max() <= 2
    frames = clip.frames.astype(float)
    rows, columns = frames.mean((0, 2, 3))[::16], frames.mean((0, 1, 3))[::20]
    assert [*frames.mean((0, 1, 2)), *rows, *columns] == pytest.approx(means, abs=0.2)
    for masks, centre in zip(clip.masks, centres, strict=True):
        assert np.argwhere(masks[2]).mean(0) == pytest.approx(centre, abs=0.2)


def test_two_are_called_two_and_three_are_not() -> None:
    for seed in range(60):
        for expression in generate_clip(seed).expressions:
            if " two " in expression.text:
                assert len(expression.objects) == 2, expression.text


@pytest.mark.parametrize("videos", [0, 1001])
def test_a_split_has_one_to_a_thousand_videos(tmp_path: Path, videos: int) -> None:
    with pytest.raises(InputError, match=f"Cannot write {videos} videos: choose 1 to 1000"):
        list(write_split(tmp_path / "x", videos=videos))
    assert list(tmp_path.iterdir()) == []


def test_a_split_is_told_video_by_video_and_can_be_stopped(tmp_path: Path) -> None:
    told: list[Progress] = []
    options = {"frames": 1, "height": 32, "width": 32, "expressions": 1, "videos": 2}
    clips = list(write_split(tmp_path / "x", progress=told.append, **options))
    assert [(e.done, e.total, e.message) for e in told] == [
        (1, 2, "wrote synth_00000000"),
        (2, 2, "wrote synth_00000001"),
    ]
    assert [len(clip.expressions) for clip in clips] == [1, 1]
    token = CancelToken()
    with pytest.raises(Cancelled):
        for _ in write_split(tmp_path / "y", cancel=token, **options):
            token.cancel()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
