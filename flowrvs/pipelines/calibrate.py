"""Fitting a model's locator, so that it decodes only where its masks are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from flowrvs.data.mevis import MevisSplit
from flowrvs.data.synthetic import generate_clip
from flowrvs.models.locator import Locator, fit_locator, foreground_pixels
from flowrvs.models.vae import decode_frames
from flowrvs.pipelines.pipeline import FlowRVSPipeline
from flowrvs.pipelines.stages import interruptible
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.video import open_video

__all__ = ["Calibration", "calibrate", "split_clips", "synthetic_clips"]

#: Far from the seeds of tests, demos and training.
_SEED = 900_000


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted locator.

    Attributes
    ----------
    locator : Locator
    kept, foreground : float
        Shares of held-out latent cells: kept by it, and with foreground.
    """

    locator: Locator
    kept: float
    foreground: float


def synthetic_clips(
    count: int, *, frames: int, height: int, width: int, sentences: int = 6
) -> Iterator[tuple[npt.NDArray[np.uint8], list[str]]]:
    """Yield clips of the synthetic world and sentences about them."""
    for index in range(count):
        clip = generate_clip(_SEED + index, frames=frames, height=height, width=width)
        yield clip.frames, [e.text for e in clip.expressions][:sentences]


def split_clips(
    split: str, count: int, *, frames: int, sentences: int = 6
) -> Iterator[tuple[npt.NDArray[np.uint8], list[str]]]:
    """Yield the beginnings of a split's first videos, and sentences about them."""
    source = MevisSplit.open(split)
    for name, entry in list(source.videos.items())[:count]:
        texts = [e.exp for e in entry.expressions.values() if e.exp.strip()][:sentences]
        if texts:
            with open_video(source.folder / "JPEGImages" / name) as video:
                yield video.read(0, min(frames, len(video))), texts


@torch.no_grad()
def calibrate(
    pipeline: FlowRVSPipeline,
    clips: Iterable[tuple[npt.NDArray[np.uint8], list[str]]],
    *,
    total: int = 0,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Calibration:
    """Fit a locator to what a model gives for clips and sentences.

    Parameters
    ----------
    pipeline : FlowRVSPipeline
    clips : iterable of (ndarray of uint8 (T, H, W, 3), list of str)
        The nearer to what it will be used on, the better; see `synthetic_clips`.
    total : int
        How many clips, for the progress.
    cancel : CancelToken, optional
        Checked before every block of the models, and every step of the fit.
    progress : callable, optional
        Called after every clip, and when the fit begins.

    Returns
    -------
    Calibration

    Raises
    ------
    CheckpointError
        The model found too little in them.
    Cancelled
        `cancel` was set.
    """
    samples = []
    clock = ProgressClock(total)
    for frames, texts in clips:
        clip = pipeline.encode_video(frames, cancel=cancel)
        for row in pipeline.encode_prompt(texts):
            latents = pipeline.deform(clip, row[None], cancel=cancel).to(pipeline.vae.dtype)
            with interruptible(pipeline.vae.decoder.up_blocks, cancel):
                logits = decode_frames(pipeline.vae, latents, group=pipeline.latent_group)
            samples.append((latents.float(), foreground_pixels(logits.float(), latents)))
        if progress is not None:
            progress(clock.advance("calibrating"))
    if progress is not None:
        progress(clock.event("fitting"))
    return Calibration(*fit_locator(samples, cancel=cancel))
