"""What clips and samples are drawn from known numbers, which must never change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
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
)
from flowrvs.training.dataset import (
    ClipSettings,
    Entries,
    SampleNumbers,
    TrainingData,
    hash_of,
)
from flowrvs.training.sources import open_sources

PAPER = Box(480, 832, 32)
SMALL = ClipSettings(frames=5, box=Box(32, 48, 16), seed=3)


class Draws:
    """Stands for a random generator: what it will draw is known."""

    def __init__(self, **values: float) -> None:
        self.values = np.array([values.get(f"d{n}", 0.9) for n in range(24)])

    def random(self, count: int) -> np.ndarray:
        assert count == len(self.values)
        return self.values


@pytest.mark.parametrize(
    ("draws", "resize", "crop", "size"),
    [
        # Below the probability: resized to 400, 500 or 600, a part of 384 to 600 taken.
        (
            {"d0": 0.49, "d1": 0.0, "d2": 0, "d3": 0, "d4": 0, "d5": 0},
            (400, 711),
            (0, 0, 384, 384),
            (480, 480),
        ),
        (
            {"d0": 0.49, "d1": 0.33, "d2": 0.99, "d3": 0.999, "d4": 0.9, "d5": 0.999},
            (400, 711),
            (0, 111, 400, 600),
            (480, 704),
        ),
        (
            {"d0": 0.0, "d1": 0.34, "d2": 0.5, "d3": 0.5, "d4": 0.5, "d5": 0.5},
            (500, 888),
            (29, 198, 442, 492),
            (480, 512),
        ),
        (
            {"d0": 0.1, "d1": 0.99, "d2": 0.99, "d3": 0.0, "d4": 0.99, "d5": 0.25},
            (600, 1066),
            (2, 170, 598, 384),
            (736, 480),
        ),
        ({"d0": 0.5}, None, None, (448, 832)),
    ],
)
def test_a_part_follows_from_what_is_drawn(draws: Any, resize: Any, crop: Any, size: Any) -> None:
    plan = plan_clip(Draws(**draws), (3,), (720, 1280), PAPER, crop=0.5, flip=0.9)  # type: ignore[arg-type]
    assert plan == ClipPlan((3,), resize, crop, size, False, None)
    assert plan_clip(Draws(d6=0.89), (3,), (720, 1280), PAPER, flip=0.9).flip is True  # type: ignore[arg-type]


def test_colours_follow_from_what_is_drawn() -> None:
    values = {"d7": 0.49, "d8": 0.0, "d9": 0.75, "d10": 1.0}
    for changes, colour in (
        ({}, (-32.0, 1.1, 1.2)),
        ({"d8": 0.87654, "d9": 0.0, "d10": 0.12345}, (24.099, 0.8, 0.8494)),
        ({"d7": 0.5}, None),
    ):
        draws: Any = Draws(**(values | changes))
        assert plan_clip(draws, (0,), (40, 60), SMALL.box, colour=0.5).colour == colour
    assert plan_clip(np.random.default_rng(0), (0,), (40, 60), SMALL.box) == ClipPlan(
        (0,), None, None, (32, 48), False, None
    )


def test_ground_colours_follow_from_what_is_drawn() -> None:
    drawn = dict(
        zip(range(12, 24), (0.6, 0.1, 0.2, 0.4, 0.5, 0.8, 0, 0.25, 1, 0, 0.5, 1), strict=True)
    )
    draws: Any = Draws(d11=0.49, **{f"d{n}": value for n, value in drawn.items()})
    plan = plan_clip(draws, (0,), (40, 60), SMALL.box, ground=0.5)
    assert plan.ground == (0, -0.4, 0, 0, 0, 0.6, 1.2, 0, 0, -0.6, 0, 0.6)
    assert plan_clip(draws, (0,), (40, 60), SMALL.box, ground=0.49).ground is None


@pytest.mark.parametrize(
    ("size", "box", "fitted"),
    [
        ((480, 832), PAPER, (480, 832)),
        ((832, 480), PAPER, (832, 480)),
        ((480, 833), PAPER, (448, 800)),
        ((833, 480), PAPER, (800, 448)),
        ((240, 400), PAPER, (480, 800)),
        ((31, 31), Box(32, 48, 16), (32, 32)),
        ((4000, 1), Box(32, 48, 16), (48, 16)),
        ((10, 10), Box(20, 48, 32), (32, 32)),
    ],
)
def test_sizes_at_the_edge(size: Any, box: Box, fitted: Any) -> None:
    assert fit_size(size, box) == fitted


def test_frames_are_drawn_as_published() -> None:
    """The published sampler once more, in its own order of draws."""
    for seed in range(300):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        total, count = 1 + seed % 23, 1 + seed % 9
        anchor = (7 * seed) % total
        found = sparse_frames(rng, total, anchor, count)
        chosen = [anchor]
        if count > 1:
            before, after = again.integers(1, 4, size=2)
            chosen.append(max(0, anchor - before))
            if count > 2:
                chosen.append(min(total - 1, anchor + after))
        missing = count - len(chosen)
        if missing:
            far = [n for n in range(total) if n < min(chosen) or n >= max(chosen)]
            if len(far) > missing:
                chosen += list(again.choice(far, missing, replace=False))
            else:
                chosen += list(again.choice(total, missing, replace=missing > total))
        assert found == sorted(chosen)
        assert rng.random() == again.random()


def test_which_sampler_is_asked() -> None:
    usable = [n * 3 for n in range(40)]
    for seed in range(20):
        coin = np.random.default_rng(seed)
        heads = coin.random() < 0.5
        state = coin.bit_generator.state
        for sampler, sparse in (("sparse", True), ("consecutive", False), ("mixed", heads)):
            coin.bit_generator.state = state
            places = (sparse_frames if sparse else consecutive_frames)(coin, 40, 11, 7)
            found = choose_frames(np.random.default_rng(seed), usable, 11, 7, sampler)
            assert found == tuple(3 * place for place in places)


def test_what_sentences_a_training_has(mevis_split: Path) -> None:
    sources = open_sources(mevis_split)
    settings = ClipSettings(5, Box(32, 48, 16))
    said = ["the red box on the left", "both boxes", "the green ball"]
    mirrored = [said[0], "the red box on the right", *said[1:]]
    assert TrainingData(sources, settings).texts() == mirrored
    plain = TrainingData(sources, dataclasses.replace(settings, flip=0.0))
    assert plain.texts() == said and len(plain) == 2**62
    targets = TrainingData(sources, dataclasses.replace(settings, no_target=False)).texts()
    assert targets == mirrored[:3]
    assert settings == ClipSettings(
        frames=5, box=Box(32, 48, 16), sampler="sparse", crop=0.5, flip=0.5, colour=0.0, ground=0.0,
        no_target=True, seed=0, variants=0, objects=False,
    )  # fmt: skip


def test_keys_tell_clips_and_what_is_meant_apart(mevis_split: Path) -> None:
    (source,) = open_sources(mevis_split)
    data = TrainingData([source], dataclasses.replace(SMALL, variants=1))
    draws = list(data.variant_draws())
    for draw in draws:
        assert draw.clip_key == hash_of(f"{source.identity}|{draw.video.name}|{draw.plan}")
        objects = sorted(draw.sentence.objects)
        meant = f"{draw.clip_key}|{objects}" if objects else f"nothing|5|{draw.plan.size}"
        assert draw.target_key == hash_of(meant) and len(draw.target_key) == 24
        # One variant of an anchor: the same clip whatever is said of it.
        others = [d for d in draws if d.plan.frames == draw.plan.frames and d.video is draw.video]
        assert {d.clip_key for d in others} == {draw.clip_key} and len(others) >= 3
    assert len({d.clip_key for d in draws}) == 7
    # Chosen by the seed, and among all variants.
    seeded = TrainingData([source], dataclasses.replace(SMALL, variants=1, seed=4))
    assert {d.clip_key for d in seeded.variant_draws()} != {d.clip_key for d in draws}
    three = TrainingData([source], dataclasses.replace(SMALL, variants=3))
    met = {three.draw(n).clip_key for n in range(20 * three.epoch_length)}
    assert met == {d.clip_key for d in three.variant_draws()} and len(met) > 14


def test_rounds_are_shuffled_anew_and_every_row_comes_once(mevis_split: Path) -> None:
    (source,) = open_sources(mevis_split)
    data = TrainingData([source], SMALL)
    entry, length = data.entries[0], data.epoch_length
    orders = [
        [tuple(entry.pick(turn * length + k, 3, 0)) for k in range(length)] for turn in (0, 1, 0)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(map(tuple, entry.rows.tolist()))
    assert orders[0] == orders[2] != orders[1]
    for seed, index in ((4, 0), (3, 1)):
        other = Entries(source, entry.rows)
        assert [tuple(other.pick(k, seed, index)) for k in range(length)] != orders[0]
    numbers = [(d.video.name, d.sentence.text, d.plan) for d in map(data.draw, range(2 * length))]
    assert [n[:2] for n in numbers[:length]] != [n[:2] for n in numbers[length:]]
    assert numbers == [
        (d.video.name, d.sentence.text, d.plan) for d in map(data.draw, range(2 * length))
    ]


def test_what_stands_in_is_of_the_same_pass_and_the_search_ends(mevis_split: Path) -> None:
    data = TrainingData(open_sources(mevis_split), dataclasses.replace(SMALL, no_target=False))
    candidates = list(data.candidates(3))
    assert len(candidates) == 51 and candidates[0] == data.draw(3)
    assert len({(d.video.name, d.plan.frames) for d in candidates}) > 6
    assert candidates == list(data.candidates(3)) != list(data.candidates(4))
    data.entries[0].source.masks = lambda video, sentence, frames: np.zeros(  # type: ignore[method-assign]
        (len(frames), *data.entries[0].source.size(video)), bool
    )
    assert data[3].text == candidates[-1].text and not data[3].mask.any()


def test_shares_of_sources_in_a_pass(mevis_split: Path) -> None:
    pair = [*open_sources(mevis_split), *open_sources(mevis_split)]
    data = TrainingData(pair, SMALL)
    assert [entry.count for entry in data.entries] == [21, 21]
    for weights, counts in (
        ([1, 0], [42, 0]),
        ([3, 1], [32, 10]),
        ([1e9, 1], [42, 1]),  # never none
    ):
        mixed = TrainingData(pair, SMALL, weights=weights)
        assert [entry.count for entry in mixed.entries] == counts
        assert mixed.epoch_length == sum(counts)
    held = frozenset({(1, "v0"), (1, "v1"), (1, "v2")})
    assert [e.count for e in TrainingData(pair, SMALL, weights=[1, 1], held_out=held).entries] == [
        10,
        0,
    ]
    for weights, message in (
        ([1.0], "There are 1 weights for 2 sources of data."),
        ([-0.1, 1], "Weights are numbers of at least 0, and not all 0."),
        ([0, 0], "Weights are numbers of at least 0, and not all 0."),
        ([float("inf"), 1], "Weights are numbers of at least 0, and not all 0."),
    ):
        with pytest.raises(InputError) as caught:
            TrainingData(pair, SMALL, weights=weights)
        assert str(caught.value) == message
    once = TrainingData(pair, dataclasses.replace(SMALL, variants=3), once=pair[1])
    assert [entry.variants for entry in once.entries] == [3, 1]
    assert [e.variants for e in TrainingData(pair, SMALL, once=pair[1]).entries] == [0, 0]


def test_a_sample_holds_what_anything_said_means(mevis_split: Path) -> None:
    (source,) = open_sources(mevis_split)
    data = TrainingData([source], dataclasses.replace(SMALL, objects=True))
    for number in range(8):
        draw, sample = data.draw(number), data[number]
        video = draw.video
        every = source.masks(video, video.sentences[1], draw.plan.frames)  # "both boxes"
        np.testing.assert_array_equal(sample.objects, draw.plan.apply_to_masks(every))
        meant = source.masks(video, draw.sentence, draw.plan.frames)
        np.testing.assert_array_equal(sample.mask, draw.plan.apply_to_masks(meant))
        assert (sample.number, sample.text) == (number, draw.text)
        assert (sample.clip_key, sample.target_key) == (draw.clip_key, draw.target_key)
    assert TrainingData([source], SMALL)[0].objects is None


def test_numbers_of_steps() -> None:
    assert len(SampleNumbers(2, 5, 4)) == 3 and len(SampleNumbers(5, 2, 4)) == 0
    assert list(SampleNumbers(1, 3, 2, 1, 3)) == [[8, 9], [14, 15]]


@pytest.mark.parametrize("variants", [0, 2])
def test_a_sample_is_drawn_as_ever(mevis_split: Path, variants: int) -> None:
    """By hand: a training that rests goes on with the samples that it would have had."""
    pair = [*open_sources(mevis_split), *open_sources(mevis_split)]
    settings = dataclasses.replace(SMALL, variants=variants, colour=0.3)
    data = TrainingData(pair, settings)
    rows = [
        (v, s, a)
        for v, video in enumerate(pair[0].videos)
        for s, sentence in enumerate(video.sentences)
        for a in range(0, len(sentence.frames), 5)
    ]

    def row(epoch: int, place: int) -> tuple[int, int, int]:
        place = int(np.random.default_rng([3, 0, epoch]).permutation(42)[place])
        index, k = divmod(place, 21)
        order = np.random.default_rng([3, 1, index, epoch]).permutation(21)
        return rows[order[k]]

    def drawn(which: tuple[int, int, int], rng: np.random.Generator) -> tuple[str, str, ClipPlan]:
        video = pair[0].videos[which[0]]
        sentence = video.sentences[which[1]]
        if variants:
            label = f"{pair[0].identity}|{video.name}|{hash_of(sentence.frames)}|{which[2]}"
            variant = int(rng.integers(2))
            rng = np.random.default_rng([3, 3, int(hash_of(label), 16), variant])
        frames = choose_frames(rng, sentence.frames, which[2], 5, "sparse")
        size = pair[0].size(video)
        plan = plan_clip(rng, frames, size, settings.box, crop=0.5, flip=0.5, colour=0.3)
        return video.name, sentence.text, plan

    def told(draw: Any) -> tuple[str, str, ClipPlan]:
        return draw.video.name, draw.sentence.text, draw.plan

    for number in (0, 5, 41, 42, 99):
        expected = drawn(row(*divmod(number, 42)), np.random.default_rng([3, 2, number]))
        assert told(data.draw(number)) == expected
        _, *others = data.candidates(number)
        for attempt in (0, 7):
            rng = np.random.default_rng([3, 4, number, attempt])
            place = int(rng.integers(42))
            assert told(others[attempt]) == drawn(row(number // 42, place), rng)
