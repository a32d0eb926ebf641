"""A synthetic world: moving shapes and MeViS-style sentences about them.

It feeds sample data, tests, benchmarks and the training of the bundled model.
Look-alikes differ in their motion only, sentences mean one, several or no objects,
shapes hide each other, enter and leave, backgrounds are textured and the camera
drifts. Everything follows from the seed: whatever draws from a generator keeps its order.

A sentence is made from a predicate over (size, colour, shape, motion). The objects that
satisfy it are its target, so a sentence can mean one, several, or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowrvs.data.mevis import MevisWriter
from flowrvs.data.synth_scene import (
    COLORS,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    render_scene,
    sample_scene,
)
from flowrvs.errors import InputError
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = [
    "KINDS",
    "TRAINING_SEED_BASE",
    "SynthClip",
    "SynthExpression",
    "describe",
    "generate_clip",
    "vocabulary",
    "write_split",
]

#: Training draws its seeds from here upwards; anything below is held out.
TRAINING_SEED_BASE = 1_000_000

#: What a sentence needs: looks only, motion (without its motion words two or more
#: objects would fit), several objects, or no object at all.
KINDS = ("appearance", "motion", "group", "none")

#: Kinds of the sentences of a clip, in turn.
MIX = ("appearance", "motion", "motion", "group", "appearance", "none", "motion")

_VERBS = {
    direction: tuple(f"{verb} {direction}" for verb in ("moving", "that moves", "going", "heading"))
    for direction in ("left", "right", "up", "down")
} | {"still": ("staying still", "that stays still", "standing still", "not moving")}
_SPECIAL = {
    "left": ("moving from right to left",),
    "right": ("moving from left to right",),
    "up": ("rising",),
    "down": ("falling",),
    "still": ("that does not move",),
}
_NOUNS = ("shape", "object", "thing")
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}


@dataclass(frozen=True, slots=True)
class SynthExpression:
    """A sentence about a scene.

    Attributes
    ----------
    text : str
        The sentence.
    objects : tuple of int
        Indices into ``scene.objects``; empty when nothing fits.
    kind : str
        One of `KINDS`.
    says_motion : bool
        Whether it speaks of motion, which a single frame cannot show.
    """

    text: str
    objects: tuple[int, ...]
    kind: str
    says_motion: bool


@dataclass(frozen=True, slots=True)
class _Predicate:
    size: str | None
    color: str | None
    shape: str | None
    motion: str | None

    def matches(self, item: SceneObject, *, ignore_motion: bool = False) -> bool:
        return (
            (self.size is None or item.size == self.size)
            and (self.color is None or item.color == self.color)
            and (self.shape is None or item.shape == self.shape)
            and (ignore_motion or self.motion is None or item.motion == self.motion)
        )


def describe(
    objects: tuple[SceneObject, ...],
    rng: np.random.Generator,
    count: int = 8,
    mix: Sequence[str] = MIX,
) -> list[SynthExpression]:
    """Write sentences about `objects`.

    Parameters
    ----------
    objects : tuple of SceneObject
        The scene's objects.
    rng : numpy.random.Generator
        Source of every choice.
    count : int
        How many sentences to write; texts do not repeat, so there may be fewer.
    mix : sequence of str
        Kinds of sentences in turn, as far as the scene has them.

    Returns
    -------
    list of SynthExpression
    """
    pools: dict[str, list[tuple[_Predicate, tuple[int, ...]]]] = {kind: [] for kind in KINDS}
    for predicate in _predicates():
        target = tuple(i for i, item in enumerate(objects) if predicate.matches(item))
        loose = sum(predicate.matches(item, ignore_motion=True) for item in objects)
        kind = _kind(predicate, len(target), loose)
        if kind is not None:
            pools[kind].append((predicate, target))
    result: dict[str, SynthExpression] = {}
    for turn in range(count * 4):
        if len(result) >= count:
            break
        kind = mix[turn % len(mix)]
        if not pools[kind]:
            continue
        predicate, target = pools[kind][int(rng.integers(len(pools[kind])))]
        text = _say(predicate, rng, plural=kind == "group", count=len(target))
        result.setdefault(text, SynthExpression(text, target, kind, predicate.motion is not None))
    return list(result.values())


def _predicates() -> Iterator[_Predicate]:
    for size in (None, *SIZES):
        for color in (None, *COLORS):
            for shape in (None, *SHAPES):
                for motion in (None, *MOTIONS):
                    # "the big thing" says too little unless another word helps.
                    if color or shape or motion:
                        yield _Predicate(size, color, shape, motion)


def _kind(predicate: _Predicate, found: int, loose: int) -> str | None:
    """Classify; None for sentences nobody would say of this scene."""
    words = sum(
        part is not None
        for part in (predicate.size, predicate.color, predicate.shape, predicate.motion)
    )
    if found > 1:
        return "group"
    if found == 1:
        if predicate.motion is None:
            return "appearance"
        return "motion" if loose > 1 else "appearance"
    # An absent target should be a near miss: looks that exist with another motion,
    # or a plain colour and shape that is not there.
    if predicate.motion is not None and loose and predicate.size is None:
        return "none"
    if predicate.motion is None and words == 2 and predicate.color and predicate.shape:
        return "none"
    return None


def _say(predicate: _Predicate, rng: np.random.Generator, *, plural: bool, count: int) -> str:
    noun = predicate.shape or str(rng.choice(_NOUNS))
    if plural:
        noun = _PLURALS.get(noun, noun + "s")
    words = [w for w in (predicate.size, predicate.color) if w]
    if plural:
        openings = ["the", "all", "all the"] + (["the two"] if count == 2 else [])
        opening = str(rng.choice(openings))
    else:
        opening = "the"
    phrase = " ".join([opening, *words, noun])
    if predicate.motion is not None:
        verbs = (*_VERBS[predicate.motion], *_SPECIAL[predicate.motion])
        verb = str(rng.choice(verbs))
        if plural:
            verb = (
                verb.replace("moves", "move").replace("stays", "stay").replace("does not", "do not")
            )
        phrase = f"{phrase} {verb}"
    return phrase


def vocabulary() -> list[str]:
    """Every word that `describe` can use, sorted; the tiny model's tokenizer is made of it."""
    words: set[str] = {"the", "all", "two", *SIZES, *COLORS, *SHAPES, *_PLURALS.values()}
    words.update(_NOUNS, (noun + "s" for noun in _NOUNS))
    for verbs in (*_VERBS.values(), *_SPECIAL.values()):
        for verb in verbs:
            words.update(verb.split())
    words.update(("move", "stay", "do"))
    return sorted(words)


# -- clips -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SynthClip:
    """A clip of the synthetic world, drawn when its pictures are first asked for.

    Attributes
    ----------
    scene : Scene
        What it shows.
    expressions : tuple of SynthExpression
        Sentences; their ``objects`` index ``scene.objects``.
    """

    scene: Scene
    expressions: tuple[SynthExpression, ...]

    @cached_property
    def _drawn(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        return render_scene(self.scene)

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """RGB frames, uint8, shape (T, H, W, 3)."""
        return self._drawn[0]

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """Visible mask of each object, bool, shape (N, T, H, W)."""
        return self._drawn[1]

    def target(self, expression: SynthExpression) -> npt.NDArray[np.bool_]:
        """Union of the masks that a sentence means, bool, shape (T, H, W)."""
        if not expression.objects:
            return np.zeros(self.masks.shape[1:], bool)
        return np.logical_or.reduce(self.masks[list(expression.objects)], axis=0)


def generate_clip(
    seed: int,
    *,
    frames: int = 33,
    height: int = 96,
    width: int = 160,
    expressions: int = 8,
    lookalikes: float = 0.6,
) -> SynthClip:
    """Make a clip from a seed.

    Parameters
    ----------
    seed : int
        Non-negative; equal arguments give equal clips.
    frames, height, width : int
        Length in frames (at least 1) and size in pixels (at least 32).
    expressions : int
        Sentences to write, at least 1.
    lookalikes : float
        Probability (0 to 1) of objects that only their motion tells apart.

    Returns
    -------
    SynthClip

    Raises
    ------
    InputError
        A number is out of range.
    """
    if seed < 0 or frames < 1 or expressions < 1 or min(height, width) < 32:
        raise InputError(
            f"Cannot make a clip of {frames} frames, {height}x{width} pixels, {expressions} "
            f"sentences, seed {seed}: use at least 1 frame, 32x32 pixels, 1 sentence, seed 0."
        )
    scene = sample_scene(seed, frames=frames, height=height, width=width, lookalikes=lookalikes)
    rng = np.random.default_rng([17, seed])
    return SynthClip(scene, tuple(describe(scene.objects, rng, expressions)))


def write_split(
    out: str | PathLike[str],
    *,
    videos: int = 10,
    seed: int = 0,
    frames: int = 33,
    height: int = 96,
    width: int = 160,
    expressions: int = 8,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[SynthClip]:
    """Write a MeViS-style split, yielding each clip once it is written.

    The split appears under `out` only when it is whole. Beside the standard files it
    holds ``synthetic.json``, which says for each sentence what kind it is.

    Parameters
    ----------
    out : path-like
        Folder of the split; must not exist yet or be empty.
    videos : int
        Number of clips.
    seed : int
        Clip ``i`` uses seed ``1000 * seed + i``.
    frames, height, width, expressions : int
        As in `generate_clip`.
    progress : callable, optional
        Receives a `Progress` after every clip.
    cancel : CancelToken, optional
        Checked before every clip.

    Yields
    ------
    SynthClip
        The clips, in order.
    """
    if videos < 1 or videos > 1000:
        raise InputError(f"Cannot write {videos} videos: choose 1 to 1000, or several seeds.")
    clock = ProgressClock(videos)
    kinds: dict[str, dict[str, str]] = {}
    with MevisWriter(Path(out)) as writer:
        for index in range(videos):
            if cancel is not None:
                cancel.raise_if_cancelled()
            clip_seed = 1000 * seed + index
            clip = generate_clip(
                clip_seed, frames=frames, height=height, width=width, expressions=expressions
            )
            name = f"synth_{clip_seed:08d}"
            writer.add_video(
                name,
                clip.frames,
                objects=dict(enumerate(clip.masks)),
                expressions={
                    str(i): (e.text, list(e.objects)) for i, e in enumerate(clip.expressions)
                },
            )
            kinds[name] = {str(i): e.kind for i, e in enumerate(clip.expressions)}
            if index == videos - 1:
                writer.add_file("synthetic.json", json.dumps({"kinds": kinds}, indent=1))
            yield clip
            if progress is not None:
                progress(clock.advance(f"wrote {name}"))
