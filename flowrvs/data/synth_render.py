"""Drawing of the synthetic world: frames and the visible mask of every object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from flowrvs.data.synth_scene import Scene, SceneObject

__all__ = ["render_scene"]


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
