"""Clips: which frames, and how they are cropped, mirrored and coloured.

A `ClipPlan` is drawn from a random generator before any picture is read, so that it can be the
key under which an encoded clip is kept. Numbers as published (public code, ``datasets``): half
of the clips are resized to a short side of 480; the others to 400, 500 or 600, of which a part
of 384 to 600 pixels a side is taken and resized to 480. Other models have the same shares of
their own short side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowrvs.training.sources.base import Picture

__all__ = [
    "Box",
    "ClipPlan",
    "choose_frames",
    "consecutive_frames",
    "fit_size",
    "plan_clip",
    "sparse_frames",
    "swap_sides",
]

#: Published sizes over the published short side.
_BEFORE_CROP = (400 / 480, 500 / 480, 600 / 480)
_CROP_LOW, _CROP_HIGH = 384 / 480, 600 / 480
#: Most change of brightness (of 255), contrast and saturation; the public code's numbers.
_BRIGHTNESS, _CONTRAST, _SATURATION = 32.0, 0.2, 0.2

_SIDES = re.compile(r"\b(left|right)(?=(?:most|ward|wards|hand|side)?\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Box:
    """Sizes that clips are brought to.

    Attributes
    ----------
    short, long : int
        Pixels of the short side, and of the long side at most.
    multiple : int
        Both sides are cut down to multiples of it.
    """

    short: int
    long: int
    multiple: int


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What is made of a video: plain numbers, equal for equal clips.

    Attributes
    ----------
    frames : tuple of int
        Native indices, ascending.
    resize : tuple of int or None
        Height and width before the crop.
    crop : tuple of int or None
        Top, left, height and width.
    size : tuple of int
        Final height and width.
    flip : bool
        Mirrored; the sentence then needs `swap_sides`.
    colour : tuple of float or None
        Brightness to add, factors of contrast and of saturation: the same for all frames.
    ground : tuple of float or None
        Other colours for everything but objects: 9 of a matrix and 3 to add, for values of -1
        to 1. Masks do not depend on it, so it is not part of the text of a plan.
    """

    frames: tuple[int, ...]
    resize: tuple[int, int] | None
    crop: tuple[int, int, int, int] | None
    size: tuple[int, int]
    flip: bool
    colour: tuple[float, float, float] | None
    ground: tuple[float, ...] | None = field(default=None, repr=False)

    def apply_to_pictures(
        self, pictures: Sequence[Picture], objects: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the frames as the model will see them, (T, height, width, 3).

        `objects`, of the same shape but for the colours, keep theirs where the ground gets others.
        """
        done = []
        for array in pictures:
            picture = Image.fromarray(array)
            if self.resize is not None:
                picture = _resized(picture, self.resize, Image.Resampling.BILINEAR)
            if self.crop is not None:
                top, left, height, width = self.crop
                picture = picture.crop((left, top, left + width, top + height))
            picture = _resized(picture, self.size, Image.Resampling.BILINEAR)
            out = np.asarray(picture)
            if self.colour is not None:
                out = _coloured(out, *self.colour)
            done.append(out[:, ::-1] if self.flip else out)
        clip = np.ascontiguousarray(np.stack(done))
        if self.ground is not None and objects is not None:
            clip = np.where(objects[..., None], clip, _recoloured(clip, self.ground))
        return clip

    def apply_to_masks(self, masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the masks of the same part, (T, height, width); nearest pixels."""
        done = []
        for array in masks:
            picture = Image.fromarray(array.astype(np.uint8) * 255)
            if self.resize is not None:
                picture = _resized(picture, self.resize, Image.Resampling.NEAREST)
            if self.crop is not None:
                top, left, height, width = self.crop
                picture = picture.crop((left, top, left + width, top + height))
            out = np.asarray(_resized(picture, self.size, Image.Resampling.NEAREST)) > 127
            done.append(out[:, ::-1] if self.flip else out)
        return np.ascontiguousarray(np.stack(done))


def plan_clip(
    rng: np.random.Generator,
    frames: tuple[int, ...],
    size: tuple[int, int],
    box: Box,
    *,
    crop: float = 0.0,
    flip: float = 0.0,
    colour: float = 0.0,
    ground: float = 0.0,
) -> ClipPlan:
    """Draw how a clip is cropped, mirrored and coloured.

    Parameters
    ----------
    rng : numpy.random.Generator
        Always asked for the same number of values.
    frames : tuple of int
        From `choose_frames`.
    size : tuple of int
        Height and width of the video.
    box : Box
    crop, flip, colour, ground : float
        Probabilities.
    """
    draws = rng.random(24)
    resize, part, current = None, None, size
    if draws[0] < crop:
        factor = _BEFORE_CROP[int(draws[1] * len(_BEFORE_CROP))]
        resize = _scaled(size, max(1, round(box.short * factor)), None)
        height = _between(draws[2], box.short, resize[0])
        width = _between(draws[3], box.short, resize[1])
        top = int(draws[4] * (resize[0] - height + 1))
        left = int(draws[5] * (resize[1] - width + 1))
        part = (top, left, height, width)
        current = (height, width)
    change = None
    if draws[7] < colour:
        brightness, contrast, saturation = (2 * d - 1 for d in draws[8:11])
        change = (
            round(float(brightness) * _BRIGHTNESS, 3),
            round(1 + float(contrast) * _CONTRAST, 4),
            round(1 + float(saturation) * _SATURATION, 4),
        )
    other = _ground_colours(draws[12:]) if draws[11] < ground else None
    flipped = bool(draws[6] < flip)
    return ClipPlan(frames, resize, part, fit_size(current, box), flipped, change, other)


def fit_size(size: tuple[int, int], box: Box) -> tuple[int, int]:
    """Return the height and width that a picture of `size` is brought to."""
    height, width = _scaled(size, box.short, box.long)
    return tuple(max(box.multiple, side // box.multiple * box.multiple) for side in (height, width))  # type: ignore[return-value]


def choose_frames(
    rng: np.random.Generator, usable: Sequence[int], anchor: int, count: int, sampler: str
) -> tuple[int, ...]:
    """Draw the frames of a clip.

    Parameters
    ----------
    rng : numpy.random.Generator
    usable : sequence of int
        Native indices to choose from, ascending.
    anchor : int
        Position in `usable`.
    count : int
        Frames of the clip.
    sampler : {"sparse", "consecutive", "mixed"}

    Returns
    -------
    tuple of int
        Ascending; a short video gives some of its frames several times.
    """
    coin = rng.random()
    if sampler == "sparse" or (sampler == "mixed" and coin < 0.5):
        positions = sparse_frames(rng, len(usable), anchor, count)
    else:
        positions = consecutive_frames(rng, len(usable), anchor, count)
    return tuple(int(usable[position]) for position in positions)


def sparse_frames(rng: np.random.Generator, total: int, anchor: int, count: int) -> list[int]:
    """The published sampler: an anchor, its surroundings, and the rest from anywhere, sorted.

    One frame is 1 to 3 before the anchor, one 1 to 3 after it (the first or last at the ends
    of the video), the others come from outside these, without repetition while there are
    enough; of the whole video, while that is enough; else with repetition.
    """
    chosen = [anchor]
    if count > 1:
        before, after = (int(n) for n in rng.integers(1, 4, size=2))
        chosen += [max(0, anchor - before), min(total - 1, anchor + after)][: count - 1]
    rest = count - len(chosen)
    if rest > 0:
        # As published, the later neighbour may be drawn again.
        outside = [*range(min(chosen)), *range(max(chosen), total)]
        if len(outside) > rest:
            pool, again = outside, False
        else:
            pool, again = list(range(total)), total < rest
        chosen += [int(n) for n in rng.choice(pool, size=rest, replace=again)]
    return sorted(chosen)


def consecutive_frames(rng: np.random.Generator, total: int, anchor: int, count: int) -> list[int]:
    """Neighbouring frames around the anchor; the last is repeated where the video ends."""
    lowest, highest = max(0, anchor - count + 1), max(0, min(anchor, total - count))
    first = int(rng.integers(min(lowest, highest), highest + 1))
    return [min(first + n, total - 1) for n in range(count)]


def swap_sides(text: str) -> str:
    """Exchange left and right in a sentence, as words (also "leftmost"), not inside others."""

    def swap(match: re.Match[str]) -> str:
        word = match.group(0)
        other = "right" if word.lower() == "left" else "left"
        return other.capitalize() if word[0].isupper() else other

    return _SIDES.sub(swap, text)


def _scaled(size: tuple[int, int], short: int, longest: int | None) -> tuple[int, int]:
    """Height and width with a short side of `short`, or less where the long one is too long."""
    low, high = min(size), max(size)
    if longest is not None and high / low * short > longest:
        short = max(1, round(longest * low / high))
    other = min(max(1, int(short * high / low)), longest or 2**31)
    return (other, short) if size[1] < size[0] else (short, other)


def _between(draw: float, short: int, side: int) -> int:
    low = min(round(short * _CROP_LOW), side)
    high = min(round(short * _CROP_HIGH), side)
    return low + int(draw * (high - low + 1))


def _resized(picture: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    wanted = (size[1], size[0])
    return picture if picture.size == wanted else picture.resize(wanted, how)


def _coloured(
    picture: Picture, brightness: float, contrast: float, saturation: float
) -> npt.NDArray[np.uint8]:
    values = picture.astype(np.float32) + brightness
    values = (values - 127.5) * contrast + 127.5
    grey = values.mean(axis=-1, keepdims=True)
    values = grey + (values - grey) * saturation
    return values.clip(0, 255).round().astype(np.uint8)


def _ground_colours(draws: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Draw a matrix that exchanges, weakens or inverts the channels, and what is added."""
    order = np.argsort(draws[:3])
    gains = np.where(draws[3:6] < 0.5, -1, 1) * (0.4 + 0.8 * draws[6:9])
    matrix = np.eye(3)[order] * gains[:, None]
    added = 1.2 * draws[9:12] - 0.6
    return tuple(round(float(value), 4) for value in (*matrix.ravel(), *added))


def _recoloured(clip: npt.NDArray[np.uint8], ground: tuple[float, ...]) -> npt.NDArray[np.uint8]:
    matrix, added = np.reshape(ground[:9], (3, 3)), np.array(ground[9:])
    values = (clip.astype(np.float32) / 127.5 - 1) @ matrix.T.astype(np.float32) + added
    return ((values + 1) * 127.5).clip(0, 255).round().astype(np.uint8)
