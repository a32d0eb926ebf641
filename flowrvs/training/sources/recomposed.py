"""A person's clips put together anew: some of their objects, on other grounds, among others.

A few clips are soon known by heart. Here objects are taken out of them, objects of the synthetic
world appear behind those that stay, or all that stay are moved into a scene of that world. What a
sentence means then is still known: of its objects those that are there, and nothing where none is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from flowrvs.data.synth_scene import Scene, render_scene, sample_scene
from flowrvs.data.synthetic import TRAINING_SEED_BASE, vocabulary
from flowrvs.training.sources.base import Picture, Sentence, Source, TrainingVideo

__all__ = ["RecomposedSource"]

_SCENE_FRAMES = 33
#: Usable frames of a video that a recomposed one has at most, as `WorldSource` shows of its scenes.
_SHOWN = 17
#: Share of the objects that are taken out.
_REMOVED = 0.3
#: Share of the clips that get objects of the synthetic world; only sentences with a word that this
#: does not have are said of them, for the others might mean these objects.
_PEOPLED = 0.5
#: Most that objects are moved, as a share of the picture.
_MOVED = 0.15
#: Frames in which what is behind the objects is looked for.
_LOOKED_AT = 12


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What a clip is made of.

    Attributes
    ----------
    source, video
        What it is made from.
    frames : tuple of int
        Those on which every object of the video is known.
    kept, removed : tuple of int
        The objects.
    scene : Scene
        With objects or without.
    first : int
        The frame at which the scene begins.
    move : tuple of int or None
        Rows and columns that the objects are moved by, into the scene; None: they stay where they
        are, and the scene gives its objects alone.
    """

    source: Source
    video: TrainingVideo
    frames: tuple[int, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    scene: Scene
    first: int
    move: tuple[int, int] | None


class RecomposedSource:
    """Videos of other sources in turn, each time put together anew; see `Source`.

    Parameters
    ----------
    sources : sequence of Source
    clips : int
        How many.
    height, width : int
        Of the synthetic scenes, in pixels; larger videos are made about as small first.
    left_out : collection of (int, str)
        Index of the source and name of the videos that are not used.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        clips: int,
        height: int,
        width: int,
        left_out: Collection[tuple[int, str]] = (),
    ) -> None:
        self.label = "recomposed clips"
        self.skipped: dict[str, int] = {}
        self.identity = f"recomposed:{clips}:{height}x{width}:" + "|".join(
            f"{source.identity}:{[v.name for v in source.videos if (i, v.name) not in left_out]}"
            for i, source in enumerate(sources)
        )
        given = [
            (source, video, frames)
            for i, source in enumerate(sources)
            for video in source.videos
            if (i, video.name) not in left_out and (frames := _common_frames(video))
        ]
        known = frozenset(vocabulary())
        self._box = (height, width)
        self._recipes: dict[str, _Recipe] = {}
        videos = []
        for number in range(clips if given else 0):
            turn, place = divmod(number, len(given))
            source, video, frames = given[place]
            rng = np.random.default_rng([31, number])
            said = [s for s in video.sentences if not known.issuperset(_words(s.text))]
            scene = sample_scene(
                80 * TRAINING_SEED_BASE + number, frames=_SCENE_FRAMES, height=height, width=width
            )
            if not said or rng.random() >= _PEOPLED:
                said, scene = list(video.sentences), replace(scene, objects=())
            objects = sorted({i for s in video.sentences for i in s.objects})
            kept = tuple(i for i in objects if rng.random() >= _REMOVED)
            move = None
            if turn % 2:
                down, right = (int(_MOVED * side) for side in self._fit(source.size(video)))
                move = int(rng.integers(-down, down + 1)), int(rng.integers(-right, right + 1))
            first = int(rng.integers(max(1, len(frames) - _SHOWN + 1)))
            shown = frames[first : first + _SHOWN]
            removed = tuple(i for i in objects if i not in kept)
            recipe = _Recipe(source, video, frames, kept, removed, scene, shown[0], move)
            self._recipes[str(number)] = recipe
            sentences = tuple(
                Sentence(s.text, tuple(i for i in s.objects if i in kept), shown) for s in said
            )
            videos.append(TrainingVideo(str(number), sentences))
        self.videos = tuple(videos)

    def _fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size at which frames are put together: no larger than it takes to fill a scene."""
        (height, width), (down, right) = size, self._box
        scale = min(1.0, max(down / height, right / width))
        return max(1, round(scale * height)), max(1, round(scale * width))

    def size(self, video: TrainingVideo) -> tuple[int, int]:
        """Return height and width of the pictures."""
        recipe = self._recipes[video.name]
        return self._fit(recipe.source.size(recipe.video))

    def pictures(self, video: TrainingVideo, frames: Sequence[int]) -> list[Picture]:
        """Put frames together."""
        recipe, size = self._recipes[video.name], self.size(video)
        pictures = _resized(recipe.source.pictures(recipe.video, frames), size)
        kept = self._masks(recipe, recipe.kept, frames)
        steps = tuple(_to_and_fro(t - recipe.first) for t in frames)
        scene, others = _draw(recipe.scene, steps, size)
        if recipe.move is not None:
            return list(np.where(kept[..., None], _moved(pictures, recipe.move), scene))
        behind = np.where(others[..., None], scene, pictures)
        if recipe.removed:
            removed = _grown(self._masks(recipe, recipe.removed, frames)) & ~others
            behind = np.where(removed[..., None], self._ground(recipe), behind)
        return list(np.where(kept[..., None], pictures, behind))

    def masks(
        self, video: TrainingVideo, sentence: Sentence, frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the union of the objects' masks, (T, H, W)."""
        return self._masks(self._recipes[video.name], sentence.objects, frames)

    def _masks(
        self, recipe: _Recipe, objects: tuple[int, ...], frames: Sequence[int]
    ) -> npt.NDArray[np.bool_]:
        """Objects' masks where they are put, (T, H, W)."""
        sentence = Sentence("", objects, tuple(frames))
        masks = recipe.source.masks(recipe.video, sentence, frames)
        size = self._fit(recipe.source.size(recipe.video))
        return _moved(_resized(masks, size), recipe.move)

    def _ground(self, recipe: _Recipe) -> Picture:
        """What is behind all objects; where one is never away, what is nearest to it."""
        frames = recipe.frames[:: -(-len(recipe.frames) // _LOOKED_AT)]
        size = self._fit(recipe.source.size(recipe.video))
        pictures = _resized(recipe.source.pictures(recipe.video, frames), size)
        hidden = _grown(self._masks(recipe, recipe.kept + recipe.removed, frames))
        ground, unknown = pictures[0].copy(), hidden[0].copy()
        for picture, covered in zip(pictures, hidden, strict=True):
            seen = unknown & ~covered
            ground[seen] = picture[seen]
            unknown &= covered
        if unknown.any() and not unknown.all():
            rows, columns = ndimage.distance_transform_edt(
                unknown, return_distances=False, return_indices=True
            )
            ground = ground[rows, columns]
        return ground


def _common_frames(video: TrainingVideo) -> tuple[int, ...]:
    """Frames that are usable for every sentence that means something."""
    rows = [frozenset(s.frames) for s in video.sentences if s.objects]
    return tuple(sorted(frozenset.intersection(*rows))) if rows else ()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _to_and_fro(step: int) -> int:
    """A frame of a scene; a video may be longer."""
    last = _SCENE_FRAMES - 1
    return abs((step + last) % (2 * last) - last)


def _moved(frames: npt.NDArray[Any], move: tuple[int, int] | None) -> npt.NDArray[Any]:
    """Move frames, (T, H, W, ...), down and to the right; zeros come in."""
    if move is None:
        return frames
    (y, x), (height, width) = move, frames.shape[1:3]
    out = np.zeros_like(frames)
    out[:, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)] = frames[
        :, max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)
    ]
    return out


def _grown(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Masks a little larger: colours of things reach over the edge that was drawn."""
    return np.asarray(ndimage.binary_dilation(masks, np.ones((1, 3, 3)), iterations=2))


def _resized(
    frames: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], size: tuple[int, int]
) -> npt.NDArray[Any]:
    """Bring pictures or masks to a size, (T, H, W, ...)."""
    if frames[0].shape[:2] == size:
        return np.asarray(frames)
    if frames[0].ndim == 3:
        how = Image.Resampling.BILINEAR
        resized = [Image.fromarray(frame).resize(size[::-1], how) for frame in frames]
        return np.stack([np.asarray(frame) for frame in resized])
    masks = [Image.fromarray(np.asarray(mask, np.uint8)) for mask in frames]
    resized = [mask.resize(size[::-1], Image.Resampling.NEAREST) for mask in masks]
    return np.stack([np.asarray(mask) > 0 for mask in resized])


@lru_cache(maxsize=4)
def _draw(
    scene: Scene, steps: tuple[int, ...], size: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A scene's pictures and its objects' masks, brought to a size."""
    pictures, masks = render_scene(scene, steps)
    return _resized(pictures, size), _resized(np.asarray(masks.any(axis=0)), size)
