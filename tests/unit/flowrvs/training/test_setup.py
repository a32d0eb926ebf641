"""The data of a training: whose samples come how often, what is held out, and what is told."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.store import Project
from flowrvs.training import FlowConfig
from flowrvs.training.clips import Box, ClipPlan
from flowrvs.training.setup import PreparedData, prepare_data
from flowrvs.training.sources import open_sources
from flowrvs.training.sources.world import WorldSource
from flowrvs.training.validation import choose_held_out, held_out_sentences
from flowrvs.video import open_video
from tests.fixtures.micro import micro_pipeline
from tests.fixtures.training_data import make_mevis, make_project, make_refcoco, make_ytvos

CONFIG = FlowConfig(
    frames=5,
    validation_share=0.0,
    seed=7,
    colour_probability=0.25,
    ground_colour_probability=0.75,
)


@pytest.fixture(scope="module")
def pipeline():
    return micro_pipeline()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two projects of two and one sentence with a target, and a small split."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate("ab"):
        make_project(root / "projects", name, seed)
    return [root / "projects", make_ytvos(root / "ytvos"), make_mevis(root / "mevis")]


def counts(data: PreparedData) -> list[int]:
    return [entry.count for entry in data.train.entries]


def test_weights_are_shares_of_the_paths(pipeline, paths: list[Path]) -> None:
    """What is at one path shares its weight by the number of sentences."""
    plain = prepare_data(paths, CONFIG, pipeline)
    rows = [len(entry.rows) for entry in plain.train.entries]
    assert [len(source.videos) for source in plain.sources] == [1, 1, 1, 3]
    assert counts(plain) == rows, "without weights each gives all that it has"
    weighted = prepare_data(paths, CONFIG, pipeline, weights=[1.0, 2.0, 5.0])
    sentences = [sum(len(v.sentences) for v in s.videos) for s in weighted.sources]
    both = sentences[0] + sentences[1]
    shares = [sentences[0] / both / 8, sentences[1] / both / 8, 2 / 8, 5 / 8]
    assert counts(weighted) == [max(1, round(sum(rows) * share)) for share in shares]
    none = prepare_data(paths, CONFIG, pipeline, weights=[0.0, 1.0, 0.0])
    assert counts(none) == [0, 0, sum(rows), 0]
    for weights, message in (([1.0], "1 weights for 3 paths"), ([0.0] * 3, "not all 0")):
        with pytest.raises(InputError, match=message):
            prepare_data(paths, CONFIG, pipeline, weights=weights)
    with pytest.raises(InputError, match="There is no data; give --data PATH"):
        prepare_data([], CONFIG, pipeline)


def test_a_project_without_a_sentence_changes_no_sample(
    pipeline, paths: list[Path], tmp_path: Path
) -> None:
    """So a training goes on although somebody has begun another project beside its own."""
    folder = tmp_path / "projects"
    shutil.copytree(paths[0], folder)
    before = prepare_data([folder], CONFIG, pipeline)
    with open_video(folder / "a-frames") as video:
        info = video.info
    with Project.create(folder / "aa.flowrvs", info) as project:  # between the two
        project.add_prompt("the blue ball")
    after = prepare_data([folder], CONFIG, pipeline)
    assert after.identity == before.identity and after.texts() == before.texts()
    assert [after.train.draw(n).target_key for n in range(9)] == [
        before.train.draw(n).target_key for n in range(9)
    ]
    assert sum(after.card()["left_out"].values()) > sum(before.card()["left_out"].values())


def test_what_is_rehearsed_gets_half(pipeline, paths: list[Path]) -> None:
    (old,) = open_sources(paths[2])
    data = prepare_data(paths[:2], CONFIG, pipeline, rehearsal=old, variants=3)
    total = sum(len(entry.rows) for entry in data.train.entries)
    assert counts(data)[-1] == round(total / 2)
    assert [entry.variants for entry in data.train.entries] == [3, 3, 3, 1]
    assert data.rehearsal is old and data.sources[-1] is old
    card = data.card()
    assert card["rehearsed"] == old.label and old.label not in card["data"]
    assert card["samples"] == sum(len(entry.rows) for entry in data.train.entries[:-1])
    assert card["videos"] == 3
    reasons = {"frames without a picture": 1, "sentences whose truth is not given": 1}
    assert reasons.items() <= card["left_out"].items()
    named = [(name, count) for name, _, count in data.identity[0]]
    assert named == [*zip(["a.flowrvs", "b.flowrvs", "train", "train"], counts(data), strict=True)]
    assert data.identity[1] == 3


def test_whole_videos_are_held_out(pipeline, paths: list[Path]) -> None:
    config = dataclasses.replace(CONFIG, validation_share=0.4, validation_sentences=5)
    data = prepare_data(paths, config, pipeline)
    scored = {(item.source.label, item.video.name) for item in data.held_out}
    assert len(scored) == 2, "of six videos"
    for entry in data.train.entries:
        trained = {entry.source.videos[v].name for v in entry.rows[:, 0]}
        assert not any((entry.source.label, name) in scored for name in trained)
    assert 0 < len(data.held_out) <= 5
    for item in data.held_out:
        assert item.frames == item.sentence.frames[: pipeline.window_size] and not item.kind
    assert data.card()["held_out_sentences"] == len(data.held_out)
    texts = data.texts()
    assert len(texts) == len(set(texts)) and texts == [t.lower() for t in texts]
    assert {" ".join(i.sentence.text.lower().split()) for i in data.held_out} <= set(texts)


def test_how_many_videos_are_held_out(paths: list[Path]) -> None:
    sources = [source for path in paths for source in open_sources(path)]

    def held(share: float, most: int = 99, seed: int = 0) -> frozenset:
        return choose_held_out(sources, share, most, seed)

    assert [len(held(share)) for share in (0.0, 0.01, 0.34, 0.5, 0.9)] == [0, 1, 2, 3, 5]
    names = [(i, v.name) for i, s in enumerate(sources) for v in s.videos]
    for seed in range(4):  # the same in every version: a training that rests relies on it
        order = np.random.default_rng([seed, 5]).permutation(6)
        assert held(0.34, seed=seed) == {names[place] for place in order[:2]}
    assert len(held(0.9, most=2)) == 2 and held(0.5) == held(0.5)
    assert len({held(0.34, seed=seed) for seed in range(9)}) > 3
    assert choose_held_out(sources[:1], 0.9, 9, 0) == frozenset(), "the only one is trained on"
    every = frozenset((i, v.name) for i, s in enumerate(sources) for v in s.videos)
    found = held_out_sentences(sources, every, 7, 3, kind="old ")
    # The first sentence of each of the six videos, then the second ones.
    assert len(found) == 7 and len({(i.source.identity, i.video.name) for i in found}) == 6
    assert all(item.kind == "old " and len(item.frames) <= 3 for item in found)
    order = [(item.source.identity, item.video.name) for item in found]
    assert order == sorted(order)


def test_the_settings_reach_the_clips(pipeline, paths: list[Path]) -> None:
    data = prepare_data(paths[:1], CONFIG, pipeline, variants=2, objects=True)
    settings = data.train.settings
    sides = sorted((pipeline.config.sample_height, pipeline.config.sample_width))
    assert settings.box == Box(*sides, pipeline.token_pixels)
    assert (settings.frames, settings.seed, settings.variants, settings.objects) == (5, 7, 2, True)
    assert (settings.crop, settings.flip, settings.colour) == (0.5, 0.5, 0.25)
    assert settings.ground == 0.75
    other = dataclasses.replace(
        CONFIG, short_side=64, long_side=96, size_multiple=32, sampler="mixed", no_target=False
    )
    changed = prepare_data(paths[:1], other, pipeline).train.settings
    assert changed.box == Box(64, 96, 32)
    assert (changed.sampler, changed.no_target, changed.objects) == ("mixed", False, False)


def test_a_clip_is_cut_resized_mirrored_and_coloured_by_its_plan() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(2)]
    masks = rng.random((2, 20, 30)) > 0.5
    plan = ClipPlan((0, 1), None, (3, 5, 10, 12), (10, 12), True, None)
    part = np.stack(pictures)[:, 3:13, 5:17][:, :, ::-1]
    np.testing.assert_array_equal(plan.apply_to_pictures(pictures), part)
    np.testing.assert_array_equal(plan.apply_to_masks(masks), masks[:, 3:13, 5:17][:, :, ::-1])
    # Twice as large, of which the lower right is taken: every pixel four times.
    plan = ClipPlan((0, 1), (40, 60), (20, 40, 20, 20), (20, 20), False, None)
    expected = masks.repeat(2, 1).repeat(2, 2)[:, 20:40, 40:60]
    np.testing.assert_array_equal(plan.apply_to_masks(masks), expected)
    assert plan.apply_to_pictures(pictures).shape == (2, 20, 20, 3)
    # Brightness, then contrast about the middle, then saturation about the pixel's grey.
    plan = ClipPlan((0, 1), None, None, (20, 30), False, (10.0, 1.1, 0.8))
    values = (np.stack(pictures).astype(np.float64) + 10 - 127.5) * 1.1 + 127.5
    grey = values.mean(axis=-1, keepdims=True)
    expected = (grey + (values - grey) * 0.8).clip(0, 255)
    assert abs(plan.apply_to_pictures(pictures) - expected).max() <= 0.51
    np.testing.assert_array_equal(plan.apply_to_masks(masks), masks)


def test_sizes_that_do_not_fit_get_one_line(pipeline, paths: list[Path]) -> None:
    token = pipeline.token_pixels
    for changes, message in (
        ({"size_multiple": 24}, f"size_multiple is 24; this model needs a multiple of {token}."),
        (
            {"short_side": 15},
            "short_side 15 and long_side 48 do not fit: at least 16, and the long side no less "
            "than the short one.",
        ),
        (
            {"short_side": 64, "long_side": 63},
            "short_side 64 and long_side 63 do not fit: at least 16, and the long side no less "
            "than the short one.",
        ),
        ({"short_side": 31, "size_multiple": 32}, "short_side 31 and long_side 48 do not fit: at"),
    ):
        with pytest.raises(InputError) as caught:
            prepare_data(paths[:1], dataclasses.replace(CONFIG, **changes), pipeline)
        assert str(caught.value).startswith(message)
    for changes, box in (
        ({"short_side": 16}, Box(16, 48, 16)),
        ({"short_side": 48}, Box(48, 48, 16)),
        ({"long_side": 160}, Box(32, 160, 16)),
    ):
        config = dataclasses.replace(CONFIG, **changes)
        assert prepare_data(paths[:1], config, pipeline).train.settings.box == box


def test_what_is_known_is_scored_with_what_is_learned(pipeline, paths: list[Path]) -> None:
    world = WorldSource(12, 32, 48)
    config = dataclasses.replace(CONFIG, validation_share=0.3, validation_sentences=12)
    data = prepare_data(
        paths, config, pipeline, weights=[1, 1, 2], rehearsal=world, rehearsal_share=0.25
    )
    old = [item for item in data.held_out if item.kind]
    assert {item.kind for item in data.held_out} == {"", "old "}
    assert len({item.video.name for item in old}) == 2  # a sixth of twelve
    assert {item.source for item in old} == {world} and len(old) <= 12
    total = sum(len(entry.rows) for entry in data.train.entries)
    counts = [entry.count for entry in data.train.entries]
    assert counts[-1] == round(0.25 * total)
    rows = [len(entry.rows) for entry in data.train.entries]
    left = (rows[0] + rows[1] > 0) + (rows[2] > 0) + 2  # a path that is held out has no share
    assert counts[-2] == round(0.75 * total * 2 / left)
    trained = {world.videos[v].name for v in data.train.entries[-1].rows[:, 0]}
    assert len(trained) == 10 and not trained & {item.video.name for item in old}
    card = data.card()
    assert card["held_out_sentences"] == len(data.held_out) - len(old)
    assert card["data"] == [source.label for source in data.sources[:-1]]
    assert {" ".join(i.sentence.text.lower().split()) for i in old} <= set(data.texts())
    few = dataclasses.replace(config, validation_sentences=3)
    kept = prepare_data(paths, few, pipeline, rehearsal=world).held_out
    assert len({item.video.name for item in kept if item.kind}) == 1
    assert prepare_data(paths, CONFIG, pipeline, rehearsal=world).held_out == []


def test_parts_of_refcoco_and_frames_of_projects_are_chosen(pipeline, tmp_path: Path) -> None:
    paths = [make_refcoco(tmp_path / "coco"), make_project(tmp_path / "p")]
    plain = prepare_data(paths, CONFIG, pipeline).sources
    assert [s.videos[0].name for s in plain] == ["COCO_1.jpg", "clip"]
    assert len(plain[1].videos[0].sentences[0].frames) == 4
    config = dataclasses.replace(CONFIG, split="val", project_frames="all")
    other = prepare_data(paths, config, pipeline).sources
    assert other[0].videos[0].name == "COCO_2.jpg"
    assert len(other[1].videos[0].sentences[0].frames) == 12
