"""Scenes of the synthetic world: which shapes there are and how they move.

A scene is plain data drawn from a seed. Positions are *world* coordinates, fixed to
the background; the camera drifts over them, so that "staying still" means still
with respect to the background and not to the picture's edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["COLORS", "MOTIONS", "SHAPES", "SIZES", "Scene", "SceneObject", "sample_scene"]

SHAPES = ("circle", "square", "triangle", "cross")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 168, 66),
    "blue": (44, 84, 216),
    "yellow": (236, 208, 40),
    "purple": (164, 52, 190),
    "white": (240, 240, 240),
}

#: Unit vectors (x, y); y grows downwards.
MOTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}

#: Radius range in units of min(height, width) / 96 pixels.
SIZES: dict[str, tuple[float, float]] = {"small": (12.0, 14.0), "big": (18.0, 21.0)}


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One moving shape.

    Attributes
    ----------
    shape, color, size, motion : str
        Keys of `SHAPES`, `COLORS`, `SIZES` and `MOTIONS`.
    radius : float
        Half the side of the box that bounds it, in pixels.
    rgb : tuple of int
        Its own shade of `color`, 0 to 255.
    anchor : tuple of float
        World position (x, y) in pixels at time `anchor_frame`.
    anchor_frame : float
        Frame at which it passes `anchor`.
    velocity : tuple of float
        Pixels per frame (x, y).
    wobble : float
        Amplitude in pixels of a slow sway, too small to be a motion.
    angle : float
        Rotation in radians.
    """

    shape: str
    color: str
    size: str
    motion: str
    radius: float
    rgb: tuple[int, int, int]
    anchor: tuple[float, float]
    anchor_frame: float
    velocity: tuple[float, float]
    wobble: float
    angle: float

    def position(self, frame: float) -> tuple[float, float]:
        """World position (x, y) in pixels at `frame`."""
        dt = frame - self.anchor_frame
        sway = self.wobble * np.sin(0.35 * dt)
        return (
            self.anchor[0] + self.velocity[0] * dt + sway,
            self.anchor[1] + self.velocity[1] * dt + sway,
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a clip shows, before it is drawn.

    Attributes
    ----------
    seed, frames, height, width : int
        What it was sampled for.
    objects : tuple of SceneObject
        Painted in this order: later ones hide earlier ones.
    drift : tuple of float
        Camera velocity (x, y), pixels per frame.
    pillar : tuple of float or None
        World x range of a grey pillar that hides what passes behind it.
    """

    seed: int
    frames: int
    height: int
    width: int
    objects: tuple[SceneObject, ...]
    drift: tuple[float, float]
    pillar: tuple[float, float] | None


def sample_scene(
    seed: int, *, frames: int = 33, height: int = 96, width: int = 160, lookalikes: float = 0.6
) -> Scene:
    """Draw a scene.

    Parameters
    ----------
    seed : int
        Equal seeds give equal scenes.
    frames, height, width : int
        Length and size of the clip, in frames and pixels.
    lookalikes : float
        Probability (0 to 1) that two or three objects differ in their motion only.

    Returns
    -------
    Scene
    """
    rng = np.random.default_rng([7, seed])
    unit = min(height, width) / 96
    count = int(rng.choice([2, 3, 4], p=[0.3, 0.45, 0.25]))
    looks = _sample_looks(rng, count, lookalikes)
    objects: list[SceneObject] = []
    for shape, color, size, motion, shared in looks:
        radius = float(rng.uniform(*SIZES[size])) * unit
        shade = rng.integers(-14, 15, 3)
        if shared is not None:
            radius, rgb = objects[shared].radius, objects[shared].rgb
        else:
            red, green, blue = np.clip(np.add(COLORS[color], shade), 0, 255).tolist()
            rgb = (red, green, blue)
        objects.append(
            _place(rng, objects, shape, color, size, motion, radius, rgb, frames, height, width)
        )
    order = rng.permutation(count)
    pillar = None
    if rng.random() < 0.25:
        left = float(rng.uniform(0.15, 0.75)) * width
        pillar = (left, left + float(rng.uniform(8, 14)) * unit)
    speed = 0.25 * unit * rng.random()
    heading = rng.uniform(0, 2 * np.pi)
    drift = (float(speed * np.cos(heading)), float(speed * np.sin(heading)))
    if rng.random() < 0.4:
        drift = (0.0, 0.0)
    return Scene(seed, frames, height, width, tuple(objects[i] for i in order), drift, pillar)


def _sample_looks(
    rng: np.random.Generator, count: int, lookalikes: float
) -> list[tuple[str, str, str, str, int | None]]:
    """(shape, color, size, motion, index of the twin); looks differ unless they are twins."""
    colors, motions, sizes = list(COLORS), list(MOTIONS), list(SIZES)
    looks: list[tuple[str, str, str, str, int | None]] = []
    twins = 0
    if rng.random() < lookalikes:
        twins = min(count, int(rng.choice([2, 3], p=[0.75, 0.25])))
    twin_motions = rng.permutation(motions)
    for index in range(count):
        if 0 < index < twins:
            shape, color, size, _, _ = looks[0]
            looks.append((shape, color, size, str(twin_motions[index]), 0))
            continue
        while True:
            look = (str(rng.choice(SHAPES)), str(rng.choice(colors)), str(rng.choice(sizes)))
            # Half of the newcomers share a colour or a shape with someone, so that
            # one word alone seldom decides.
            if looks and rng.random() < 0.5:
                other = looks[int(rng.integers(len(looks)))]
                keep_color = rng.random() < 0.5
                look = (
                    look[0] if keep_color else other[0],
                    other[1] if keep_color else look[1],
                    look[2],
                )
            if all(look[:2] != seen[:2] for seen in looks):
                break
        motion = str(twin_motions[0]) if index == 0 else str(rng.choice(motions))
        looks.append((*look, motion, None))
    return looks


def _place(
    rng: np.random.Generator,
    others: list[SceneObject],
    shape: str,
    color: str,
    size: str,
    motion: str,
    radius: float,
    rgb: tuple[int, int, int],
    frames: int,
    height: int,
    width: int,
) -> SceneObject:
    """Choose a path that is in the picture near the middle of the clip, apart from `others`."""
    direction = MOTIONS[motion]
    extent = width if direction[0] else height
    unit = min(height, width) / 96
    # Slower than 0.8 px/frame is hard to tell from camera drift; faster than 2.4
    # leaves the picture within a second.
    speed = float(np.clip(rng.uniform(0.25, 0.55) * extent / frames, 0.8 * unit, 2.4 * unit))
    best: SceneObject | None = None
    best_gap = -np.inf
    for _ in range(24):
        margin = min(radius, 0.45 * min(height, width))
        candidate = SceneObject(
            shape,
            color,
            size,
            motion,
            radius,
            rgb,
            (
                float(rng.uniform(margin, width - margin)),
                float(rng.uniform(margin, height - margin)),
            ),
            float(rng.uniform(0.3, 0.7) * (frames - 1)),
            (direction[0] * speed, direction[1] * speed),
            float(rng.uniform(0, 0.6)) * unit,
            float(rng.uniform(-0.25, 0.25)),
        )
        middle = (frames - 1) / 2
        here = np.array(candidate.position(middle))
        gap = min(
            (
                float(np.hypot(*(here - other.position(middle)))) - radius - other.radius
                for other in others
            ),
            default=np.inf,
        )
        if gap > best_gap:
            best, best_gap = candidate, gap
        if gap > 2:
            break
    assert best is not None
    return best
