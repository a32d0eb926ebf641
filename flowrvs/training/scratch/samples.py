"""Training batches drawn from the synthetic world."""

from __future__ import annotations

import numpy as np
import torch

from flowrvs.data.synth_scene import render_scene, sample_scene
from flowrvs.data.synthetic import TRAINING_SEED_BASE
from flowrvs.training.scratch.config import Phase

__all__ = ["draw_scene_seed", "frame_indices", "mask_clips", "picture_clips"]

_SCENE_FRAMES = 33


def draw_scene_seed(rng: np.random.Generator) -> int:
    """A seed of the training part of the world, apart from the held-out seeds."""
    return TRAINING_SEED_BASE + int(rng.integers(2**40))


def frame_indices(rng: np.random.Generator, frames: int, total: int) -> list[int]:
    """Consecutive frames of a clip at a random place."""
    first = int(rng.integers(total - frames + 1))
    return list(range(first, first + frames))


def picture_clips(rng: np.random.Generator, phase: Phase, share: float) -> torch.Tensor:
    """Clips for the VAE, a `share` of them masks.

    Returns
    -------
    Tensor of float32, shape (B, 3, T, H, W)
        Values in [-1, 1].
    """
    clips = []
    for _ in range(phase.batch):
        frames, masks = _draw(rng, phase)
        if rng.random() < share:
            chosen = _union(rng, masks)
            frames = np.repeat(chosen[..., None], 3, axis=-1).astype(np.uint8) * 255
        clips.append(frames)
    video = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
    return video.float().div_(127.5).sub_(1.0)


def mask_clips(rng: np.random.Generator, phase: Phase) -> torch.Tensor:
    """Mask clips for the mask decoder, float32 0 or 1, shape (B, 1, T, H, W)."""
    clips = [_union(rng, _draw(rng, phase)[1]) for _ in range(phase.batch)]
    return torch.from_numpy(np.stack(clips)).float().unsqueeze(1)


def _union(rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    """The union of a few objects; now and then of none."""
    chosen = rng.random(len(masks)) < 0.45
    if not chosen.any() and rng.random() < 0.8:
        chosen[int(rng.integers(len(masks)))] = True
    return np.logical_or.reduce(masks[chosen], axis=0)


def _draw(rng: np.random.Generator, phase: Phase) -> tuple[np.ndarray, np.ndarray]:
    scene = sample_scene(draw_scene_seed(rng), frames=_SCENE_FRAMES)
    frames, masks = render_scene(scene, frame_indices(rng, phase.frames, _SCENE_FRAMES))
    if phase.height and phase.width:
        top = int(rng.integers(scene.height - phase.height + 1))
        left = int(rng.integers(scene.width - phase.width + 1))
        rows, columns = slice(top, top + phase.height), slice(left, left + phase.width)
        frames, masks = frames[:, rows, columns], masks[:, :, rows, columns]
    if rng.random() < 0.5:
        frames, masks = frames[:, :, ::-1], masks[..., ::-1]
    return np.ascontiguousarray(frames), np.ascontiguousarray(masks)
