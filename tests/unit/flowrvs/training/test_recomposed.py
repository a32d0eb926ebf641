"""Clips put together anew: what is shown, and what is true."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flowrvs.data.synth_scene import render_scene
from flowrvs.training.setup import prepare_data
from flowrvs.training.sources import Sentence, TrainingVideo
from flowrvs.training.sources.recomposed import RecomposedSource, _to_and_fro
from flowrvs.training.sources.world import WorldSource
from tests.fixtures.micro import micro_pipeline
from tests.fixtures.training_data import FRAMES, draw_video, make_project
from tests.unit.flowrvs.training.test_flow import FLOW

CLIPS = 80
TEXTS = {
    "the red box": (0,),
    "all the boxes": (0, 1),
    "the BOX that turns": (),
    "the small circle": (1,),  # the known world has such, too
}
COLOURS = ((250, 20, 20), (20, 20, 250))
USABLE = tuple(range(2, FRAMES))


class Boxes:
    """Two videos of two boxes, held in memory; the second box is known from frame 2 on."""

    def __init__(self) -> None:
        self.label = self.identity = "boxes"
        self.skipped: dict[str, int] = {}
        said = [Sentence(t, o, USABLE if 1 in o else tuple(range(12))) for t, o in TEXTS.items()]
        self.videos = tuple(TrainingVideo(name, tuple(said)) for name in ("a", "b"))
        self.drawn = {"a": draw_video(1, size=(32, 48)), "b": draw_video(2, size=(64, 48))}

    def size(self, video: TrainingVideo) -> tuple[int, int]:
        height, width = self.drawn[video.name][0].shape[1:3]
        return height, width

    def pictures(self, video: TrainingVideo, frames: Sequence[int]) -> list[np.ndarray]:
        return list(self.drawn[video.name][0][list(frames)])

    def masks(self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]) -> np.ndarray:
        masks = self.drawn[video.name][1][:, list(frames)]
        return np.logical_or.reduce(masks[list(sentence.objects)], axis=0)


@pytest.fixture(scope="module")
def source() -> RecomposedSource:
    """Clips of both videos."""
    return RecomposedSource([Boxes()], CLIPS, 32, 48)


def _shown(source: RecomposedSource, video: TrainingVideo) -> np.ndarray:
    """Where both boxes are seen on the video's frames, by their exact colours."""
    pictures = np.stack(source.pictures(video, USABLE))
    return np.stack([(pictures == colour).all(-1) for colour in COLOURS])


def test_the_truth_is_what_is_shown_of_the_objects_that_stayed(source: RecomposedSource) -> None:
    corners, removed = set(), []
    for video in source.videos:
        shown = _shown(source, video)
        kept = {i for s in video.sentences for i in s.objects}
        removed += [i not in kept for i in (0, 1)]
        for sentence in video.sentences:
            assert sentence.frames == USABLE  # where both are known
            assert set(sentence.objects) == set(TEXTS[sentence.text]) & kept
            truth = source.masks(video, sentence, USABLE)
            seen = np.logical_or.reduce(shown[list(sentence.objects)], axis=0)
            np.testing.assert_array_equal(truth, seen)
        assert not any(shown[i].any() for i in (0, 1) if i not in kept)
        for i in kept:
            rows, columns = np.nonzero(shown[i, 0])
            corners.add((i, source.size(video), rows.max(), columns.min()))
    assert 0.15 < np.mean(removed) < 0.45
    assert len(corners) > 20
    assert {source.size(video) for video in source.videos} == {(32, 48), (64, 48)}


def test_what_was_taken_out_leaves_the_ground(source: RecomposedSource) -> None:
    seen = 0
    boxes = Boxes()
    for video in source.videos:
        recipe = source._recipes[video.name]
        if recipe.move is not None:
            continue
        kept = source.masks(video, Sentence("", recipe.kept, ()), USABLE)
        pictures, masks = boxes.drawn[recipe.video.name]
        pictures, masks = pictures[2:], masks[:, 2:]
        found = np.stack(source.pictures(video, USABLE))
        np.testing.assert_array_equal(found[kept], pictures[kept])
        if recipe.scene.objects or not recipe.removed:
            continue
        seen += 1
        # The ground is a gradient that stays; where a box leaves it in no frame, it is near.
        height, width = source.size(video)
        error = np.abs(found[..., :2].astype(int) - np.stack(np.mgrid[:height, :width], axis=-1))
        assert error[~kept].max() <= 12
        ever = ~masks.any(0).all(0)
        near = np.zeros_like(ever)
        near[2:-2, 2:-2] = True
        assert (error[~kept & ever[None] & near[None]] == 0).mean() > 0.9
    assert seen > 5


def test_a_scene_is_around_what_is_moved_to_and_fro(source: RecomposedSource) -> None:
    moved = [v for v in source.videos if source._recipes[v.name].move is not None]
    assert len(moved) == CLIPS // 2
    video = next(v for v in moved if source.size(v) == (32, 48))
    recipe = source._recipes[video.name]
    for frame, drawn in ((2, 0), (5, 3)):
        (picture,) = source.pictures(video, [frame])
        (kept,) = source.masks(video, Sentence("", recipe.kept, ()), [frame])
        ground = render_scene(recipe.scene, [drawn])[0][0]
        np.testing.assert_array_equal(picture[~kept], ground[~kept])
    assert [_to_and_fro(step) for step in (0, 31, 32, 33, 64, 65)] == [0, 31, 32, 31, 0, 1]


def test_what_might_mean_objects_of_the_known_world_is_not_said_where_they_are(
    source: RecomposedSource,
) -> None:
    peopled = [v for v in source.videos if source._recipes[v.name].scene.objects]
    assert 0.3 < len(peopled) / CLIPS < 0.7
    for video in source.videos:
        texts = [s.text for s in video.sentences]
        assert texts == list(TEXTS)[: 3 if video in peopled else 4]
        recipe = source._recipes[video.name]
        if video not in peopled or recipe.move is not None:
            continue
        scene, masks = render_scene(recipe.scene, [0])
        if source.size(video) == scene.shape[1:3]:
            (picture,) = source.pictures(video, [2])
            (kept,) = source.masks(video, Sentence("", recipe.kept, ()), [2])
            others = masks.any(0)[0] & ~kept  # behind those that stay
            np.testing.assert_array_equal(picture[others], scene[0][others])
    again = RecomposedSource([Boxes()], CLIPS, 32, 48)
    assert again.videos == source.videos and again.identity == source.identity


def test_videos_that_are_held_out_or_of_which_too_little_is_known_give_nothing() -> None:
    boxes = Boxes()
    alone = RecomposedSource([boxes], 10, 32, 48, left_out={(0, "b")})
    assert len(alone.videos) == 10
    assert {alone.size(video) for video in alone.videos} == {(32, 48)}
    apart = (Sentence("a", (0,), (0, 1)), Sentence("b", (1,), (2, 3)))
    boxes.videos = (TrainingVideo("a", apart), TrainingVideo("b", (Sentence("c", (), (0,)),)))
    assert RecomposedSource([boxes], 10, 32, 48).videos == ()


def test_large_videos_are_made_as_small_as_the_scenes() -> None:
    boxes = Boxes()
    for name in boxes.drawn:
        pictures, masks = boxes.drawn[name]
        boxes.drawn[name] = pictures.repeat(4, 1).repeat(4, 2), masks.repeat(4, 2).repeat(4, 3)
    small = RecomposedSource([boxes], 12, 32, 48)
    assert {small.size(video) for video in small.videos} == {(32, 48), (64, 48)}
    for video in small.videos:
        kept = Sentence("", small._recipes[video.name].kept, ())
        truth = small.masks(video, kept, USABLE)
        pictures = np.stack(small.pictures(video, USABLE)).astype(int)
        assert truth.shape == pictures.shape[:3] == (len(USABLE), *small.size(video))
        close = [np.abs(pictures[truth] - colour).max(-1) < 60 for colour in COLOURS]
        assert not truth.any() or np.logical_or(*close).mean() > 0.8


def test_a_third_of_the_samples_each(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 4), ("c", 5)):
        make_project(tmp_path, name, seed)
    world = WorldSource(20, 32, 48)
    prepared = prepare_data(
        [tmp_path], FLOW, micro_pipeline(), variants=3, rehearsal=world, recomposed=30
    )
    draws = [prepared.train.draw(number) for number in range(900)]
    anew = prepared.recomposed
    assert isinstance(anew, RecomposedSource)
    parts = [[d for d in draws if d.source is source] for source in (world, anew)]
    assert all(260 < len(part) < 340 for part in parts)
    held_out = {item.video.name for item in prepared.held_out if not item.kind}
    assert len(held_out) == 1
    assert {recipe.video.name for recipe in anew._recipes.values()} == {"a", "b", "c"} - held_out
    assert len({draw.clip_key for draw in parts[1]}) == 30  # one variant of each
    empty = [draw for draw in draws if not draw.sentence.objects]
    assert len({d.target_key for d in empty}) == len({d.plan.size for d in empty})
    assert len(prepared.card()["data"]) == 3 and prepared.card()["recomposed"] == 30
