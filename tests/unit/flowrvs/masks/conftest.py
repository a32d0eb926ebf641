"""A textured disk that moves over a textured background, and one that is hidden for a while."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter, shift


@dataclass(frozen=True)
class Clip:
    frames: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    motion: tuple[float, float]  # rows and columns a frame

    def read(self, t: int) -> npt.NDArray[np.uint8]:
        return self.frames[t]


def texture(seed: int, shape: tuple[int, int], low: float, high: float) -> npt.NDArray[np.float32]:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(*shape, 3)), (2, 2, 0))
    noise = (noise - noise.min()) / np.ptp(noise)
    return (low + (high - low) * noise).astype(np.float32)


def moving_disk(count: int = 16, *, wall: bool = False) -> Clip:
    h, w, motion = 96, 144, (0.6, 2.2)
    background = texture(1, (h, w), 40, 170)
    pattern = texture(2, (h, w), 110, 250)
    rows, columns = np.indices((h, w))
    frames, masks = [], []
    for t in range(count):
        down, right = 40 + motion[0] * t, 34 + motion[1] * t
        mask = np.hypot(rows - down, columns - right) < 17
        moved = shift(pattern, (motion[0] * t, motion[1] * t, 0), order=1, mode="wrap")
        frame = np.where(mask[..., None], moved, background)
        if wall:  # hides the disk altogether from the middle of the clip on
            covered = columns > 62
            frame = np.where(covered[..., None], background[::-1], frame)
            mask = mask & ~covered
        frames.append(np.rint(frame).astype(np.uint8))
        masks.append(mask)
    return Clip(np.stack(frames), np.stack(masks), motion)


def whole_steps(
    step: tuple[int, int], count: int = 5, *, ground: tuple[int, int] = (0, 0), radius: float = 22
) -> Clip:
    """A disk, and the ground behind it, that move by whole pixels: what is found must be exact."""
    h, w = 128, 160
    background, pattern = texture(3, (h, w), 20, 130), texture(4, (h, w), 120, 240)
    rows, columns = np.indices((h, w))
    frames, masks = [], []
    for t in range(count):
        moved = step[0] * t, step[1] * t
        mask = np.hypot(rows - 64 - moved[0], columns - 70 - moved[1]) < radius
        behind = np.roll(background, (ground[0] * t, ground[1] * t), (0, 1))
        frames.append(np.where(mask[..., None], np.roll(pattern, moved, (0, 1)), behind))
        masks.append(mask)
    return Clip(np.stack(frames).astype(np.uint8), np.stack(masks), step)


@pytest.fixture(scope="session")
def disk() -> Clip:
    return moving_disk()


@pytest.fixture(scope="session")
def hidden_disk() -> Clip:
    return moving_disk(26, wall=True)


def swinging_cap(count: int = 36) -> Clip:
    """A dark cap over a dark wall that swings, blurred, out of the picture and back."""
    h, w, size = 120, 200, 61
    wall = 30 + 50 * texture(54, (h, w), 0, 1)
    low, high = np.array([50, 45, 40]), np.array([90, 80, 70])
    pattern = low + (high - low) * texture(6, (size, size), 0, 1)
    rows, columns = np.indices((size, size)) - size // 2
    disk = (rows / 18) ** 2 + (columns / 26) ** 2 < 1
    noise = np.random.default_rng(4)
    frames, masks = [], []
    for t in range(count):
        colors, cover = (
            np.zeros((h + 2 * size, w + 2 * size, 3)),
            np.zeros((h + 2 * size, w + 2 * size)),
        )
        for share in np.linspace(-0.35, 0.35, 8):
            phase = 2 * np.pi * (t + share) / 50
            top = round(0.4 * h + 18 * np.cos(2 * phase)) + size - size // 2
            left = min(w + size, round(0.6 * w - 120 * np.cos(phase)) + size - size // 2)
            colors[top : top + size, left : left + size] += disk[..., None] * pattern / 8
            cover[top : top + size, left : left + size] += disk / 8
        seen = cover[size:-size, size:-size]
        frame = wall * (1 - seen[..., None]) + colors[size:-size, size:-size]
        frames.append(np.clip(frame + noise.normal(0, 2, frame.shape), 0, 255).astype(np.uint8))
        masks.append(seen > 0.5)
    return Clip(np.stack(frames), np.stack(masks), (0, 0))


@pytest.fixture(scope="session")
def cap() -> Clip:
    return swinging_cap()


SIZE = (120, 160)


def round_mask(x: int, y: int, radius: int) -> npt.NDArray[np.bool_]:
    rows, columns = np.indices(SIZE)
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two textured disks, a red and a green one, on a textured ground."""
    rng = np.random.default_rng(3)
    frame = rng.integers(90, 120, (*SIZE, 3)).astype(np.uint8)
    red, green = round_mask(50, 60, 22), round_mask(115, 50, 18)
    frame[red] = rng.integers(0, 30, (red.sum(), 3)) + (190, 30, 30)
    frame[green] = rng.integers(0, 30, (green.sum(), 3)) + (30, 170, 40)
    return frame, red, green
