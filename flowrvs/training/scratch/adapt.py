"""Last stage: the mask decoder learns to read what the flow really predicts.

Stage 1 tunes the mask decoder on encoded masks. A small flow's latents are blurred
where it is unsure, and such a decoder turns doubt into specks. Here the transformer is
frozen and the decoder is tuned on its one-step predictions, with the loss of stage 1.
The encoder stays as it is, so the flow's targets do not change.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan

from flowrvs.data.synth_scene import render_scene, sample_scene
from flowrvs.data.synthetic import describe
from flowrvs.models.vae import decode_frames
from flowrvs.pipelines import FlowRVSPipeline
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.training.objective import LOGIT_SCALE, mask_loss
from flowrvs.training.scratch.config import Phase
from flowrvs.training.scratch.loop import cosine_rate, mixed_precision, update
from flowrvs.training.scratch.pool import TRAINING_MIX
from flowrvs.training.scratch.samples import draw_scene_seed, frame_indices

__all__ = ["adapt_decoder"]

_SCENE_FRAMES = 33


def adapt_decoder(
    pipeline: FlowRVSPipeline,
    phase: Phase,
    *,
    learning_rate: float = 4e-4,
    seed: int = 0,
    autocast: bool = True,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[float]:
    """Tune the mask decoder of a pipeline on the pipeline's own predictions.

    Parameters
    ----------
    pipeline : FlowRVSPipeline
        Its VAE's decoder is changed in place.
    phase : Phase
        Steps, frames, and sentences per step; each step draws one new scene.
    learning_rate : float
        Peak rate; a cosine decay follows.
    seed : int
        Seed of the scenes.
    autocast : bool
        Compute in bfloat16 where that is quicker.
    progress : callable, optional
        Receives a `Progress` after every step.
    cancel : CancelToken, optional
        Checked before every step.

    Returns
    -------
    list of float
        The loss of each step.
    """
    vae: AutoencoderKLWan = pipeline.vae
    vae.requires_grad_(False)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98))
    clock = ProgressClock(phase.steps)
    losses = []
    for step in range(phase.steps):
        if cancel is not None:
            cancel.raise_if_cancelled()
        rng = np.random.default_rng([seed, 5, step])
        with mixed_precision(vae.device, autocast):
            latents, truth = _predictions(pipeline, rng, phase)
            logits = decode_frames(vae, latents, clamp=False).float()
        # The model's box may differ from the scene; inference resizes in the same way.
        logits = F.interpolate(logits, truth.shape[2:], mode="trilinear", align_corners=False)
        loss = mask_loss(LOGIT_SCALE * logits, truth)
        rate = learning_rate * cosine_rate(step, phase.steps, 10)
        update(loss, parameters, [(optimizer, rate)])
        losses.append(loss.item())
        event = clock.advance(f"decoder step {step + 1}, loss {loss.item():.3f}")
        if progress is not None:
            progress(event)
    vae.requires_grad_(False)
    return losses


@torch.no_grad()
def _predictions(
    pipeline: FlowRVSPipeline, rng: np.random.Generator, phase: Phase
) -> tuple[torch.Tensor, torch.Tensor]:
    """One-step predictions on a new scene, and the true masks, 0 or 1, (B, 1, T, H, W)."""
    scene = sample_scene(draw_scene_seed(rng), frames=_SCENE_FRAMES)
    frames, masks = render_scene(scene, frame_indices(rng, phase.frames, _SCENE_FRAMES))
    # A batch is shorter than the mix: it begins anywhere, so that every kind is seen.
    mix = np.roll(TRAINING_MIX, int(rng.integers(len(TRAINING_MIX)))).tolist()
    sentences = describe(scene.objects, rng, phase.batch, mix)
    clip = pipeline.encode_video(frames)
    latents = pipeline.deform(clip, pipeline.encode_prompt([s.text for s in sentences]))
    truth = [np.logical_or.reduce(masks[list(s.objects)], axis=0) for s in sentences]
    device = latents.device
    return latents.float(), torch.from_numpy(np.stack(truth)).float().unsqueeze(1).to(device)
