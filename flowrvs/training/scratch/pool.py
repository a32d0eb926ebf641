"""A pool of encoded clips: the frozen encoder's work is used many times.

Encoding a clip costs as much as a training step on it, and a clip has many sentences.
The pool holds the moments of recent clips and the latents of their sentences'
targets, and replaces a few clips every step, so that training never runs dry of new
scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from transformers import T5TokenizerFast

from flowrvs.data.synth_scene import render_scene, sample_scene
from flowrvs.data.synthetic import describe
from flowrvs.models.text import clean_prompt, tokenize
from flowrvs.models.vae import encode_moments, mask_cells, spatial_factor, temporal_factor
from flowrvs.training.scratch.attributes import token_labels
from flowrvs.training.scratch.samples import draw_scene_seed, frame_indices

__all__ = ["TRAINING_MIX", "Batch", "EncodedClip", "LatentPool", "encode_clip"]

# Lengths of the scenes that clips are cut from: in a longer one objects move more slowly, and
# are out of the picture for longer.
_SCENE_FRAMES = (17, 33, 33, 65, 97)

#: Twice the share of sentences that are true of nothing: they are near misses ("the yellow shape
#: heading up", and it stays), and with few of them a model learns to overlook the verb.
TRAINING_MIX = ("motion", "appearance", "none", "motion", "group", "appearance", "none", "motion")


@dataclass(frozen=True)
class EncodedClip:
    """One clip, encoded.

    Attributes
    ----------
    moments : Tensor, shape (2 * z_dim, t, h, w)
        Mean and log-variance of the video's latent.
    targets : Tensor, shape (K, z_dim, t, h, w)
        Latent means of the different targets.
    tokens, mask : Tensor of int64, shape (E, L)
        The sentences.
    target_of : tuple of int
        For each sentence the index of its target.
    kinds : tuple of str
        For each sentence its kind.
    objects : Tensor of float, shape (t, h, w)
        1 in latent cells where any object of the scene is.
    labels : Tensor of int64, shape (4, tokens)
        Attributes by token; see `flowrvs.training.scratch.attributes`.
    """

    moments: torch.Tensor
    targets: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    target_of: tuple[int, ...]
    kinds: tuple[str, ...]
    objects: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Pairs of a clip and a sentence, stacked; fields as in `EncodedClip`."""

    moments: torch.Tensor
    targets: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    objects: torch.Tensor
    labels: torch.Tensor
    kinds: tuple[str, ...]


@torch.no_grad()
def encode_clip(
    vae: AutoencoderKLWan,
    tokenizer: T5TokenizerFast,
    seed: int,
    rng: np.random.Generator,
    *,
    frames: int,
    expressions: int,
    length: int,
    patch: int = 2,
    autocast: bool = False,
) -> EncodedClip:
    """Draw and encode `frames` consecutive frames of the scene of `seed`.

    Single frames get only sentences that do not speak of motion.
    """
    total = max(frames, int(rng.choice(_SCENE_FRAMES)))
    scene = sample_scene(seed, frames=total)
    images, masks = render_scene(scene, frame_indices(rng, frames, total))
    sentences = describe(
        scene.objects, rng, expressions if frames > 1 else 3 * expressions, TRAINING_MIX
    )
    if frames == 1:
        sentences = [s for s in sentences if not s.says_motion][:expressions] or sentences[:1]
    wanted = list(dict.fromkeys(s.objects for s in sentences))
    stack = [images.astype(np.float32) / 127.5 - 1]
    for objects in wanted:
        union = np.logical_or.reduce(masks[list(objects)], axis=0)
        stack.append(np.repeat(union[..., None] * np.float32(2) - 1, 3, axis=-1))
    video = torch.from_numpy(np.stack(stack)).permute(0, 4, 1, 2, 3).to(vae.device)
    with torch.autocast(video.device.type, torch.bfloat16, enabled=autocast):
        moments = encode_moments(vae, video).float()
    cells = mask_cells(np.asarray(masks.any(0)), moments[0])
    tokens, mask = tokenize(tokenizer, [clean_prompt(s.text) for s in sentences], length)
    return EncodedClip(
        moments=moments[0].cpu(),
        targets=moments[1:, : vae.config.z_dim].cpu(),
        tokens=tokens,
        mask=mask,
        target_of=tuple(wanted.index(s.objects) for s in sentences),
        kinds=tuple(s.kind for s in sentences),
        objects=cells,
        labels=token_labels(
            scene.objects, masks, spatial_factor(vae) * patch, temporal_factor(vae)
        ),
    )


class LatentPool:
    """Recent encoded clips, from which batches are drawn.

    Parameters
    ----------
    vae : AutoencoderKLWan
        Its encoder is used and not changed.
    tokenizer : T5TokenizerFast
    capacity : int
        Clips to hold.
    rng : numpy.random.Generator
        Source of every choice.
    **settings
        Passed on to `encode_clip`.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        tokenizer: T5TokenizerFast,
        capacity: int,
        rng: np.random.Generator,
        **settings: Any,
    ) -> None:
        self._vae = vae
        self._tokenizer = tokenizer
        self._capacity = capacity
        self._rng = rng
        self._settings = settings
        self._clips: list[EncodedClip] = []
        self._next = 0

    @property
    def clips(self) -> list[EncodedClip]:
        """The clips that it holds."""
        return self._clips

    def refresh(self, count: int) -> None:
        """Encode `count` new clips; the oldest make room."""
        for _ in range(count):
            clip = encode_clip(
                self._vae,
                self._tokenizer,
                draw_scene_seed(self._rng),
                self._rng,
                **self._settings,
            )
            if len(self._clips) < self._capacity:
                self._clips.append(clip)
            else:
                self._clips[self._next] = clip
                self._next = (self._next + 1) % self._capacity

    def draw(self, size: int) -> Batch:
        """Stack `size` random pairs of a clip and one of its sentences."""
        picks = []
        for _ in range(size):
            clip = self._clips[int(self._rng.integers(len(self._clips)))]
            picks.append((clip, int(self._rng.integers(len(clip.target_of)))))
        return stack_pairs(picks)


def stack_pairs(picks: list[tuple[EncodedClip, int]]) -> Batch:
    """Stack pairs of a clip and the index of one of its sentences."""
    return Batch(
        moments=torch.stack([clip.moments for clip, _ in picks]),
        targets=torch.stack([clip.targets[clip.target_of[i]] for clip, i in picks]),
        tokens=torch.stack([clip.tokens[i] for clip, i in picks]),
        mask=torch.stack([clip.mask[i] for clip, i in picks]),
        objects=torch.stack([clip.objects for clip, _ in picks]),
        labels=torch.stack([clip.labels for clip, _ in picks]),
        kinds=tuple(clip.kinds[i] for clip, i in picks),
    )


def source_latents(
    moments: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, *, sample: bool
) -> torch.Tensor:
    """Normalised start of the flow: a sample (SPA) or the mean of the video's latent."""
    posterior = DiagonalGaussianDistribution(moments)
    latents = posterior.sample() if sample else posterior.mean
    return (latents - mean) / std
