"""Sentences about a scene: what they say, whom they mean, and what decides it.

A sentence is made from a predicate over (size, colour, shape, motion). The objects
that satisfy it are its target, so a sentence can mean one, several, or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flowrvs.data.synth_scene import COLORS, MOTIONS, SHAPES, SIZES, SceneObject

__all__ = ["KINDS", "SynthExpression", "describe", "vocabulary"]

#: What a sentence needs: looks only, motion (without its motion words two or more
#: objects would fit), several objects, or no object at all.
KINDS = ("appearance", "motion", "group", "none")

_VERBS = {
    direction: (
        f"moving {words}",
        f"that moves {words}",
        f"going {words}",
        f"heading {words}",
    )
    for direction, words in {
        "left": "left",
        "right": "right",
        "up": "up",
        "down": "down",
    }.items()
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
    objects: tuple[SceneObject, ...], rng: np.random.Generator, count: int = 8
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

    Returns
    -------
    list of SynthExpression
        About 3/8 appearance, 3/8 motion, 1/8 group and 1/8 none, as far as the scene
        has them.
    """
    pools: dict[str, list[tuple[_Predicate, tuple[int, ...]]]] = {kind: [] for kind in KINDS}
    for predicate in _predicates():
        target = tuple(i for i, item in enumerate(objects) if predicate.matches(item))
        loose = sum(predicate.matches(item, ignore_motion=True) for item in objects)
        kind = _kind(predicate, len(target), loose)
        if kind is not None:
            pools[kind].append((predicate, target))
    wanted = ["appearance", "motion", "motion", "group", "appearance", "none", "motion"]
    result: dict[str, SynthExpression] = {}
    for turn in range(count * 4):
        if len(result) >= count:
            break
        kind = wanted[turn % len(wanted)]
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
