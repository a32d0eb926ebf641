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


@pytest.fixture(scope="session")
def disk() -> Clip:
    return moving_disk()


@pytest.fixture(scope="session")
def hidden_disk() -> Clip:
    return moving_disk(26, wall=True)
