"""Scenes of the synthetic world: which shapes there are, how they move, and their drawing.

A scene is plain data drawn from a seed. Positions are *world* coordinates, fixed to the
background; the camera drifts over them, so that "staying still" means still with respect to
the background and not to the picture's edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = [
    "COLORS",
    "MOTIONS",
    "SHAPES",
    "SIZES",
    "Scene",
    "SceneObject",
    "render_scene",
    "sample_scene",
]

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
        World position (x, y) in pixels at the frame `anchor_frame`.
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
    anchor: tuple[float, float] = (0.0, 0.0)
    anchor_frame: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)
    wobble: float = 0.0
    angle: float = 0.0

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
    """Draw a scene from a seed; equal arguments give equal scenes.

    Parameters
    ----------
    seed : int
        Non-negative.
    frames, height, width : int
        Length and size of the clip, in frames and pixels.
    lookalikes : float
        Probability (0 to 1) that two or three objects differ in their motion only.
    """
    rng = np.random.default_rng([7, seed])
    unit = min(height, width) / 96
    count = int(rng.choice([2, 3, 4], p=[0.3, 0.45, 0.25]))
    objects: list[SceneObject] = []
    for shape, color, size, motion, shared in _sample_looks(rng, count, lookalikes):
        radius = float(rng.uniform(*SIZES[size])) * unit
        shade = rng.integers(-14, 15, 3)
        if shared is not None:
            radius, rgb = objects[shared].radius, objects[shared].rgb
        else:
            red, green, blue = np.clip(np.add(COLORS[color], shade), 0, 255).tolist()
            rgb = (red, green, blue)
        looks = SceneObject(shape, color, size, motion, radius, rgb)
        objects.append(_place(rng, objects, looks, frames, height, width))
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
            looks.append((*looks[0][:3], str(twin_motions[index]), 0))
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
    looks: SceneObject,
    frames: int,
    height: int,
    width: int,
) -> SceneObject:
    """Choose a path that is in the picture near the middle of the clip, apart from `others`."""
    direction = MOTIONS[looks.motion]
    extent = width if direction[0] else height
    unit = min(height, width) / 96
    # Slower than 0.8 px/frame is hard to tell from camera drift; faster than 2.4
    # leaves the picture within a second.
    speed = float(np.clip(rng.uniform(0.25, 0.55) * extent / frames, 0.8 * unit, 2.4 * unit))
    margin = min(looks.radius, 0.45 * min(height, width))
    middle = (frames - 1) / 2
    best, best_gap = looks, -np.inf
    for _ in range(24):
        x, y = (float(rng.uniform(margin, side - margin)) for side in (width, height))
        candidate = replace(
            looks,
            anchor=(x, y),
            anchor_frame=float(rng.uniform(0.3, 0.7) * (frames - 1)),
            velocity=(direction[0] * speed, direction[1] * speed),
            wobble=float(rng.uniform(0, 0.6)) * unit,
            angle=float(rng.uniform(-0.25, 0.25)),
        )
        here = np.array(candidate.position(middle))
        gaps = (
            float(np.hypot(*(here - other.position(middle)))) - looks.radius - other.radius
            for other in others
        )
        gap = min(gaps, default=np.inf)
        if gap > best_gap:
            best, best_gap = candidate, gap
        if gap > 2:
            break
    return best


# -- drawing ---------------------------------------------------------------------------


def render_scene(
    scene: Scene, frames: Sequence[int] | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw the frames of a scene.

    Parameters
    ----------
    scene : Scene
        What to draw.
    frames : sequence of int, optional
        Frame indices to draw; all by default.

    Returns
    -------
    images : ndarray of uint8, shape (T, H, W, 3)
        RGB frames.
    masks : ndarray of bool, shape (N, T, H, W)
        The *visible* pixels of each object of ``scene.objects``.
    """
    indices = range(scene.frames) if frames is None else frames
    height, width = scene.height, scene.width
    images = np.empty((len(indices), height, width, 3), np.uint8)
    masks = np.zeros((len(scene.objects), len(indices), height, width), bool)
    texture, margin = _texture(scene)
    for row, frame in enumerate(indices):
        # Noise is seeded per frame, so a frame looks the same whichever others are drawn.
        noise = np.random.default_rng([13, scene.seed, frame])
        camera = (scene.drift[0] * frame, scene.drift[1] * frame)
        canvas = _shifted(texture, camera[0] + margin, camera[1] + margin, height, width)
        for index, item in enumerate(scene.objects):
            x, y = item.position(frame)
            alpha, box = _coverage(item, x - camera[0], y - camera[1], height, width)
            if alpha is None:
                continue
            part = canvas[box]
            part += alpha[..., None] * (np.asarray(item.rgb, np.float32) - part)
            solid = alpha > 0.5
            masks[:index, row][(slice(None), *box)] &= ~solid
            masks[index, row][box] = solid
        if scene.pillar is not None:
            left, right = (round(edge - camera[0]) for edge in scene.pillar)
            hidden = slice(max(left, 0), max(right, 0))
            canvas[:, hidden] = 0.25 * canvas[:, hidden] + np.float32(70)
            masks[:, row, :, hidden] = False
        canvas += noise.normal(0, 2.0, canvas.shape).astype(np.float32)
        images[row] = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return images, masks


def _texture(scene: Scene) -> tuple[npt.NDArray[np.float32], int]:
    """A muted background larger than the picture, and the margin around it in pixels."""
    rng = np.random.default_rng([11, scene.seed])
    reach = max(abs(scene.drift[0]), abs(scene.drift[1])) * scene.frames
    margin = int(np.ceil(reach)) + 2
    shape = (scene.height + 2 * margin, scene.width + 2 * margin)
    tone = rng.uniform(50, 140)
    tint = rng.uniform(-12, 12, 3)
    field = np.zeros(shape, np.float32)
    for cell, weight in ((48, 1.0), (20, 0.6), (9, 0.4)):
        grid = rng.normal(size=(shape[0] // cell + 3, shape[1] // cell + 3)).astype(np.float32)
        zoomed = ndimage.zoom(grid, cell, order=1)
        field += weight * zoomed[: shape[0], : shape[1]]
    if rng.random() < 0.35:
        rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        angle, period = rng.uniform(0, np.pi), rng.uniform(14, 36)
        phase = rows * np.sin(angle) + columns * np.cos(angle)
        field += 0.8 * np.sin(2 * np.pi * phase / period).astype(np.float32)
    field *= rng.uniform(6, 18)
    texture = tone + field[..., None] + tint
    return np.clip(texture, 10, 185).astype(np.float32), margin


def _shifted(
    texture: npt.NDArray[np.float32], x: float, y: float, height: int, width: int
) -> npt.NDArray[np.float32]:
    """Bilinear crop of `texture` with its corner at (x, y)."""
    left, top = int(np.floor(x)), int(np.floor(y))
    fx, fy = np.float32(x - left), np.float32(y - top)
    block = texture[top : top + height + 1, left : left + width + 1]
    rows = block[:-1] * (1 - fy) + block[1:] * fy if fy else block[:-1]
    crop = rows[:, :-1] * (1 - fx) + rows[:, 1:] * fx if fx else rows[:, :-1].copy()
    return np.ascontiguousarray(crop)


def _coverage(
    item: SceneObject, x: float, y: float, height: int, width: int
) -> tuple[npt.NDArray[np.float32] | None, tuple[slice, slice]]:
    """Antialiased coverage (0 to 1) of an object inside its clipped bounding box."""
    # Rotated corners reach at most sqrt(2) radii from the centre.
    reach = item.radius * 1.45 + 1
    top, bottom = max(int(np.floor(y - reach)), 0), min(int(np.ceil(y + reach)) + 1, height)
    left, right = max(int(np.floor(x - reach)), 0), min(int(np.ceil(x + reach)) + 1, width)
    box = (slice(top, bottom), slice(left, right))
    if top >= bottom or left >= right:
        return None, box
    dy = (np.arange(top, bottom, dtype=np.float32) - y)[:, None]
    dx = (np.arange(left, right, dtype=np.float32) - x)[None, :]
    cos, sin = np.cos(item.angle), np.sin(item.angle)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    distance = _signed_distance(item.shape, u, v, item.radius)
    return np.clip(0.5 - distance, 0, 1).astype(np.float32), box


def _signed_distance(
    shape: str, u: npt.NDArray[np.floating], v: npt.NDArray[np.floating], radius: float
) -> npt.NDArray[np.floating]:
    """Distance to the outline in pixels, negative inside (exact near the edges)."""
    if shape == "circle":
        return np.hypot(u, v) - radius
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.9 * radius
    if shape == "triangle":
        side = (2 * np.abs(u) - (v + radius)) / np.float32(np.sqrt(5))
        return np.maximum(side, v - radius)
    if shape == "cross":
        long, thin = radius, 0.42 * radius
        bar = np.maximum(np.abs(u) - long, np.abs(v) - thin)
        post = np.maximum(np.abs(u) - thin, np.abs(v) - long)
        return np.minimum(bar, post)
    raise ValueError(f"no such shape: {shape!r}")
