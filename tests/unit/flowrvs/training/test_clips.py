"""Clips as published: which frames, what sizes, mirrored with their sentence; drawn by number."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.training.clips import (
    Box,
    ClipPlan,
    choose_frames,
    consecutive_frames,
    fit_size,
    plan_clip,
    sparse_frames,
    swap_sides,
)
from flowrvs.training.dataset import (
    ClipSettings,
    SampleNumbers,
    TrainingData,
    caption,
    hash_of,
    read_objects,
    read_video,
)
from flowrvs.training.sources import Sentence, TrainingVideo, open_sources
from flowrvs.training.validation import choose_held_out, held_out_sentences
from tests.fixtures.training_data import draw_video, make_ytvos

PAPER = Box(480, 832, 32)
SMALL = ClipSettings(frames=5, box=Box(32, 48, 16), seed=3)


def test_the_sparse_sampler_takes_an_anchor_its_surroundings_and_the_rest_from_outside() -> None:
    rng = np.random.default_rng(0)
    befores, afters = set(), set()
    for _ in range(400):
        frames = sparse_frames(rng, 100, 34, 17)
        assert len(frames) == 17
        assert frames == sorted(frames)
        assert 34 in frames
        near = [n for n in frames if 31 <= n <= 37]
        # The neighbours may be met by chance from outside; between them nothing is drawn.
        befores |= {34 - n for n in near if n < 34}
        afters |= {n - 34 for n in near if n > 34}
        below = max(n for n in frames if n < 34)
        above = min(n for n in frames if n > 34)
        assert below >= 31
        assert above <= 37
        far = [n for n in frames if n < below or n > above]
        assert len(far) >= 13
    assert befores == afters == {1, 2, 3}


def test_the_sparse_sampler_at_ends_and_in_short_videos() -> None:
    rng = np.random.default_rng(1)
    for total in (1, 2, 3, 5, 12, 17, 18, 20):
        for anchor in {0, total - 1, total // 2}:
            for count in (1, 3, 5, 17):
                frames = sparse_frames(rng, total, anchor, count)
                assert len(frames) == count
                assert anchor in frames
                assert frames == sorted(frames)
                assert 0 <= frames[0] <= frames[-1] < total
    assert sparse_frames(rng, 1, 0, 17) == [0] * 17
    # Where the whole video has to do, its frames come once each beside the first three.
    frames = sparse_frames(rng, 15, 7, 17)
    assert len(set(frames)) >= 14


def test_consecutive_frames_hold_the_anchor_and_stay_inside() -> None:
    rng = np.random.default_rng(2)
    firsts = set()
    for _ in range(200):
        frames = consecutive_frames(rng, 20, 10, 5)
        assert frames == list(range(frames[0], frames[0] + 5))
        assert 10 in frames
        firsts.add(frames[0])
    assert firsts == {6, 7, 8, 9, 10}
    assert consecutive_frames(rng, 3, 2, 5) == [0, 1, 2, 2, 2]
    assert consecutive_frames(rng, 20, 19, 5) == [15, 16, 17, 18, 19]


def test_a_video_with_few_usable_frames_gives_native_indices() -> None:
    rng = np.random.default_rng(3)
    frames = choose_frames(rng, (2, 3, 4, 80), 3, 9, "sparse")
    assert 80 in frames
    assert set(frames) <= {2, 3, 4, 80}
    kinds = {choose_frames(rng, range(100), 40, 3, "mixed")[2] for _ in range(60)}
    assert len(kinds) > 3


def test_sizes_are_the_published_ones() -> None:
    # Short side 480 but at most 832 long: 720p comes to 468 x 832, cut to multiples of 32.
    assert fit_size((720, 1280), PAPER) == (448, 832)
    assert fit_size((480, 640), PAPER) == (480, 640)
    assert fit_size((640, 480), PAPER) == (640, 480)
    assert fit_size((100, 100), PAPER) == (480, 480)
    assert fit_size((1, 4000), Box(32, 48, 16)) == (16, 48)


def test_crops_follow_the_published_shares() -> None:
    rng = np.random.default_rng(4)
    plans = [plan_clip(rng, (0,), (720, 1280), PAPER, crop=0.5, flip=0.5) for _ in range(600)]
    cropped = [plan for plan in plans if plan.crop is not None]
    assert 0.44 < len(cropped) / 600 < 0.56
    assert 0.44 < np.mean([plan.flip for plan in plans]) < 0.56
    assert {plan.resize[0] for plan in cropped if plan.resize} == {400, 500, 600}
    for plan in cropped:
        top, left, height, width = plan.crop
        assert 384 <= height <= 600
        assert 384 <= width <= 600
        assert top + height <= plan.resize[0]
        assert left + width <= plan.resize[1]
        assert min(plan.size) % 32 == 0
    assert all(plan.colour is None for plan in plans)


def test_pictures_and_masks_go_through_the_same_plan() -> None:
    rng = np.random.default_rng(5)
    pictures, masks = draw_video(1, 3, (90, 130))
    box = Box(64, 96, 16)
    seen = 0
    for _ in range(20):
        plan = plan_clip(rng, (0, 1, 2), (90, 130), box, crop=0.7, flip=0.5, colour=0.5)
        video = plan.apply_to_pictures(pictures)
        mask = plan.apply_to_masks(masks[0])
        assert video.shape == (3, *plan.size, 3)
        assert mask.shape == video.shape[:3]
        red = video[..., 0].astype(int) - video[..., 2] > 130
        union = (red | mask).sum()
        if union > 100:
            seen += 1
            assert (red & mask).sum() / union > 0.65, plan
    assert seen >= 8


@pytest.mark.parametrize("sizes", [((2, 3), (2, 3)), (None, (2, 3)), (None, (8, 12))])
def test_masks_keep_thin_things_by_nearest_pixels(
    sizes: tuple[tuple[int, int] | None, tuple[int, int]],
) -> None:
    # A line of one pixel: half and less of it is left where neighbours are averaged.
    mask = np.zeros((1, 4, 6), np.bool_)
    mask[:, :, 1] = True
    resize, size = sizes
    done = ClipPlan((0,), resize, None, size, False, None).apply_to_masks(mask)
    expected = np.zeros((1, *size), np.bool_)
    expected[:, :, [0] if size == (2, 3) else [2, 3]] = True
    np.testing.assert_array_equal(done, expected)


def test_colour_is_the_same_for_all_frames_and_leaves_masks() -> None:
    plan = plan_clip(np.random.default_rng(6), (0, 0), (40, 60), Box(32, 48, 16), colour=1.0)
    brightness, contrast, saturation = plan.colour
    assert abs(brightness) <= 32
    assert 0.8 <= contrast <= 1.2
    assert 0.8 <= saturation <= 1.2
    grey = np.full((40, 60, 3), 100, np.uint8)
    video = plan.apply_to_pictures([grey, grey])
    expected = round((100 + brightness - 127.5) * contrast + 127.5)
    assert abs(video.astype(int) - expected).max() <= 1


def test_the_ground_gets_other_colours_and_objects_keep_theirs() -> None:
    # Red for blue and weaker, green inverted, blue for red; and 0.1 of the half range more red.
    ground = (0, 0, 0.5, 0, -1, 0, 1, 0, 0, 0.1, 0, 0)
    picture = np.full((4, 6, 3), (200, 100, 50), np.uint8)
    objects = np.zeros((2, 4, 6), np.bool_)
    objects[0, 1:3, 2:5] = objects[1, 0] = True
    plan = ClipPlan((0, 1), None, None, (4, 6), False, None, ground)
    clip = plan.apply_to_pictures([picture, picture], objects)
    assert np.unique(clip[objects], axis=0).tolist() == [[200, 100, 50]]
    assert np.unique(clip[~objects], axis=0).tolist() == [[101, 155, 200]]
    mirrored = dataclasses.replace(plan, flip=True)  # objects come as masks of the plan do
    seen = mirrored.apply_to_pictures([picture, picture], mirrored.apply_to_masks(objects))
    np.testing.assert_array_equal(seen, clip[:, :, ::-1])
    np.testing.assert_array_equal(plan.apply_to_pictures([picture, picture])[0], picture)


def test_ground_colours_are_drawn_for_their_share_and_exchange_channels() -> None:
    rng, box = np.random.default_rng(6), Box(32, 48, 16)
    plans = [plan_clip(rng, (0,), (40, 60), box, ground=0.5) for _ in range(400)]
    drawn = np.array([plan.ground for plan in plans if plan.ground])
    assert 170 < len(drawn) < 230
    matrices, added = drawn[:, :9].reshape(-1, 3, 3), drawn[:, 9:]
    assert ((matrices != 0).sum(1) == 1).all() and ((matrices != 0).sum(2) == 1).all()
    gains = matrices[matrices != 0]
    assert abs(gains).min() >= 0.4 and abs(gains).max() <= 1.2
    assert 0.4 < (gains < 0).mean() < 0.6
    assert len({tuple(np.argmax(m != 0, 1)) for m in matrices}) == 6
    assert -0.6 <= added.min() < -0.5 and 0.5 < added.max() <= 0.6
    # Nothing else of a plan depends on it.
    with_none, with_all = (
        [plan_clip(np.random.default_rng(n), (0,), (90, 130), PAPER, crop=0.5, ground=share)
         for n in range(20)]
        for share in (0.0, 1.0)
    )  # fmt: skip
    assert with_none == [dataclasses.replace(plan, ground=None) for plan in with_all]
    assert all(plan.ground is None for plan in with_none)


def test_clips_on_another_ground_are_other_clips_with_the_same_masks(mevis_split: Path) -> None:
    def data(share: float) -> TrainingData:
        settings = ClipSettings(5, Box(32, 48, 16), seed=3, variants=2, ground=share)
        return TrainingData(open_sources(mevis_split), settings)

    plain, coloured = data(0.0), data(1.0)
    for number in range(plain.epoch_length):
        before, after = plain.draw(number), coloured.draw(number)
        assert before.target_key == after.target_key and before.text == after.text
        assert before.clip_key != after.clip_key
        objects = read_objects(after)
        changed = (read_video(before) != read_video(after)).any(-1)
        assert not (changed & objects).any()
        assert changed[~objects].mean() > 0.9
        np.testing.assert_array_equal(plain[number].mask, coloured[number].mask)
    # What the model knows already is rehearsed as it is.
    once = data(1.0)
    known = TrainingData([once.entries[0].source], once.settings, once=once.entries[0].source)
    assert all(known.draw(n).plan.ground is None for n in range(4))


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("the man on the left", "the man on the right"),
        ("leftmost dog, right of the bright upright copyright", None),
        ("Left to right", "Right to left"),
        ("turning left-hand, then rightward", "turning right-hand, then leftward"),
        ("no side", "no side"),
    ],
)
def test_left_and_right_change_places(text: str, mirrored: str | None) -> None:
    mirrored = mirrored or "rightmost dog, left of the bright upright copyright"
    assert swap_sides(text) == mirrored
    assert swap_sides(mirrored) == text


def test_a_pass_has_every_sentence_at_every_anchor_once(mevis_split: Path) -> None:
    (source,) = open_sources(mevis_split)
    data = TrainingData([source], SMALL)
    # 12 frames have anchors 0, 5 and 10; one frame has one; three sentences each.
    assert data.epoch_length == 3 * 3 + 3 * 3 + 3
    for epoch in range(2):
        numbers = range(epoch * data.epoch_length, (epoch + 1) * data.epoch_length)
        seen = [(d.video.name, d.sentence.text) for d in map(data.draw, numbers)]
        counts = {key: seen.count(key) for key in set(seen)}
        assert counts == {
            (f"v{v}", s.text): (1 if v == 2 else 3)
            for v in range(3)
            for s in source.videos[v].sentences
        }


def test_a_sample_follows_from_its_number_alone(mevis_split: Path) -> None:
    data = TrainingData(open_sources(mevis_split), SMALL)
    first = [data[n] for n in (40, 3, 0)]
    again = pickle.loads(pickle.dumps(TrainingData(open_sources(mevis_split), SMALL)))
    for sample in first:
        other = again[sample.number]
        assert other.text == sample.text
        np.testing.assert_array_equal(other.video, sample.video)
        np.testing.assert_array_equal(other.mask, sample.mask)
    changed = TrainingData(open_sources(mevis_split), ClipSettings(5, Box(32, 48, 16), seed=4))
    assert any(changed.draw(n).plan != data.draw(n).plan for n in range(5))


def test_the_sentence_belongs_to_its_own_mask_and_turns_with_it(mevis_split: Path) -> None:
    data = TrainingData(open_sources(mevis_split), SMALL)
    flips = 0
    for number in range(data.epoch_length):
        draw, sample = data.draw(number), data[number]
        red = sample.video[..., 0].astype(int) - sample.video[..., 2] > 130
        blue = sample.video[..., 2].astype(int) - sample.video[..., 0] > 130
        shown = red | blue if "both" in sample.text else red
        if "green" in sample.text:
            assert not sample.mask.any()
        else:
            # Frame 3 is without masks, though the boxes are there.
            rows = [t for t, frame in enumerate(draw.plan.frames) if frame != 3]
            assert (shown[rows] & sample.mask[rows]).sum() >= 0.7 * sample.mask[rows].sum()
            assert (shown[rows] & ~sample.mask[rows]).mean() < 0.05
        assert sample.text == sample.text.lower()
        if "left" in sample.text or "right" in sample.text:
            flips += draw.plan.flip
            side = "right" if draw.plan.flip else "left"
            assert sample.text == f"the red box on the {side}"
    assert flips > 0


def test_without_no_target_another_sample_stands_in(mevis_split: Path) -> None:
    settings = ClipSettings(1, Box(32, 48, 16), crop=0, seed=1, no_target=False)
    data = TrainingData(open_sources(mevis_split), settings)
    samples = [data[n] for n in range(data.epoch_length)]
    assert all(sample.mask.any() for sample in samples)
    assert {"both boxes"} < {sample.text for sample in samples}
    assert not any("green" in sample.text for sample in samples)


def test_weights_mix_sources(mevis_split: Path, tmp_path: Path) -> None:
    sources = [*open_sources(mevis_split), *open_sources(make_ytvos(tmp_path))]
    data = TrainingData(sources, SMALL, weights=[0.25, 0.75])
    counts = [entry.count for entry in data.entries]
    assert data.epoch_length == sum(counts)
    assert abs(counts[0] / sum(counts) - 0.25) < 0.05
    blue = [data.draw(n).sentence.text == "a blue box" for n in range(data.epoch_length)]
    assert sum(blue) == counts[1]
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0]):
        with pytest.raises(InputError):
            TrainingData(sources, SMALL, weights=weights)
    alone = TrainingData(sources, SMALL, weights=[0, 1])
    assert {alone.draw(n).video.name for n in range(alone.epoch_length)} == {"a1"}


def test_held_out_videos_are_not_drawn(mevis_split: Path) -> None:
    sources = open_sources(mevis_split)
    data = TrainingData(sources, SMALL, held_out=frozenset({(0, "v0")}))
    assert {data.draw(n).video.name for n in range(data.epoch_length)} == {"v1", "v2"}
    everything = frozenset({(0, "v0"), (0, "v1"), (0, "v2")})
    with pytest.raises(InputError, match="no sentence"):
        TrainingData(sources, SMALL, held_out=everything)


def test_of_several_videos_some_are_held_out_and_some_are_left() -> None:
    def source(*names: str) -> Any:
        said = [Sentence(text, (1,), tuple(range(9))) for text in ("a", "b", "c")]
        return SimpleNamespace(
            identity=names[0], videos=[TrainingVideo(name, tuple(said)) for name in names]
        )

    pair = [source("p", "q"), source("r")]
    count = lambda sources, share, most: len(choose_held_out(sources, share, most, 1))  # noqa: E731
    assert [count(pair, share, 9) for share in (0.0, 0.1, 0.5, 0.7, 1.0)] == [0, 1, 2, 2, 2]
    assert count(pair, 1.0, 1) == 1 and count([source("p")], 1.0, 9) == 0
    chosen = [choose_held_out(pair, 0.3, 9, seed) for seed in range(20)]
    assert len(set(chosen)) == 3 and chosen == [choose_held_out(pair, 0.3, 9, s) for s in range(20)]
    # Two that speak of the same pictures are held out together, or trained on together.
    said = (Sentence("a", (1,), (0,)),)
    alike = [
        SimpleNamespace(videos=[TrainingVideo(name, said, origin) for name, origin in names])
        for names in ([("v", "/x"), ("w", "/y")], [("v", "/z"), ("again", "/x")])
    ]
    both = {(0, "v"), (1, "again")}
    for seed in range(20):
        held_out = choose_held_out(alike, 0.3, 9, seed)  # type: ignore[arg-type]
        assert held_out == both or (len(held_out) == 1 and not held_out & both)
    (alike[0].videos[1:], alike[1].videos[:1]) = ([], [])
    assert choose_held_out(alike, 0.3, 9, 1) == frozenset()  # type: ignore[arg-type]
    # Of each video the first sentence before any second one, and video by video.
    held = frozenset({(0, "p"), (0, "q")})
    found = held_out_sentences(pair, held, 5, 4, "old ")
    assert [(item.video.name, item.sentence.text) for item in found] == [
        *(("p", "a"), ("p", "b"), ("p", "c"), ("q", "a"), ("q", "b"))
    ]
    assert {(item.frames, item.kind) for item in found} == {((0, 1, 2, 3), "old ")}


def test_processes_share_the_numbers_of_one_with_the_whole_batch() -> None:
    whole = list(SampleNumbers(2, 5, 4))
    shares = [list(SampleNumbers(2, 5, 2, rank, 2)) for rank in (0, 1)]
    assert whole == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


def test_variants_come_back_and_are_shared_by_sentences(mevis_split: Path) -> None:
    settings = ClipSettings(5, Box(32, 48, 16), seed=3, variants=2)
    data = TrainingData(open_sources(mevis_split), settings)
    draws = [data.draw(n) for n in range(4 * data.epoch_length)]
    clips = {draw.clip_key for draw in draws}
    targets = {draw.target_key for draw in draws}
    every = list(data.variant_draws())
    assert clips <= {draw.clip_key for draw in every}
    assert targets <= {draw.target_key for draw in every}
    # Seven anchors of three videos, two clips of each, whatever the sentence.
    assert len({draw.clip_key for draw in every}) <= 14
    assert len({draw.target_key for draw in every}) <= 42
    assert len(every) == 2 * data.epoch_length


def test_captions_are_lower_case_with_single_spaces() -> None:
    assert caption("  The Red\tbox \n") == "the red box"
    assert caption("half \ud800 a letter") == "half ? a letter"  # which no tokenizer reads
    assert hash_of(1) != hash_of(2)


def test_contrast_is_around_grey_and_saturation_around_the_pixels_own() -> None:
    def coloured(*change: float) -> list[int]:
        picture = np.array([[[100, 110, 120]]], np.uint8)
        plan = ClipPlan((0,), None, None, (1, 1), False, change)  # type: ignore[arg-type]
        return plan.apply_to_pictures([picture])[0, 0, 0].tolist()

    assert coloured(5.0, 1.0, 1.0) == [105, 115, 125]
    assert coloured(0.0, 2.0, 1.0) == [72, 92, 112]
    assert coloured(0.0, 1.0, 2.0) == [90, 110, 130]
