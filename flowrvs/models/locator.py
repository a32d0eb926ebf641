"""Where in a mask latent there is foreground: a tiny network that saves the decoder's work.

It reads a latent cell with its neighbours, in this and the frame before (two layers, some
thousand weights), and is fitted to a model's own decoder: the latents that the flow gives
and the cells in which their decoding has foreground. Its threshold is set on sentences that
it was not fitted to, so that next to none of their foreground is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowrvs.disk import write_bytes
from flowrvs.errors import CheckpointError
from flowrvs.progress import CancelToken

__all__ = ["LOCATOR_FILE", "Locator", "fit_locator", "foreground_pixels"]

#: Name of the file in a model's folder.
LOCATOR_FILE = "locator.safetensors"
_WIDTH = 48
#: Share of the foreground pixels that may lie in cells it does not keep; their neighbours
#: and the boxes around them are decoded too, so that nearly all of these are found as well.
_LOSS = 5e-4


class Locator(torch.nn.Module):
    """Scores of latent cells; foreground is possible where they are above `threshold`.

    Parameters
    ----------
    channels : int
        Of the latent (16).
    threshold : float
        In units of the scores.
    """

    def __init__(self, channels: int = 16, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.near = torch.nn.Conv3d(channels, _WIDTH, (2, 3, 3))
        self.far = torch.nn.Conv3d(_WIDTH, 1, 1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Score cells: (B, channels, t, h, w) to (B, t, h, w)."""
        padded = F.pad(latents.float(), (1, 1, 1, 1, 1, 0), mode="replicate")
        return self.far(F.gelu(self.near(padded)))[:, 0]

    @torch.no_grad()
    def cells(self, latents: torch.Tensor) -> npt.NDArray[np.bool_]:
        """Cells that may hold foreground in any frame, and their neighbours.

        Parameters
        ----------
        latents : Tensor, shape (1, channels, t, h, w)
            Mask latents of one sentence.

        Returns
        -------
        ndarray of bool, shape (h, w)
        """
        found = (self(latents)[0] > self.threshold).any(0).float()
        grown: torch.Tensor = F.max_pool2d(found[None, None], 3, 1, 1)[0, 0] > 0
        return grown.cpu().numpy()

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all.

        Raises
        ------
        StorageError
            The folder cannot be written to; a locator that is there stays.
        """
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        write_bytes(path, save(state, metadata={"threshold": repr(float(self.threshold))}))

    @classmethod
    def load(cls, path: Path) -> Locator:
        """Read it.

        Raises
        ------
        CheckpointError
            The file is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                threshold = float((file.metadata() or {})["threshold"])
            locator = cls(state["near.weight"].shape[1], threshold)
            locator.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is not a locator: run 'flowrvs models calibrate' again."
            ) from error
        return locator.eval().requires_grad_(False)


def foreground_pixels(logits: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """How many foreground pixels each latent cell holds.

    Parameters
    ----------
    logits : Tensor, shape (1, 1, T, H, W)
        Decoded from `latents`, at the model's size.
    latents : Tensor, shape (1, channels, t, h, w)

    Returns
    -------
    Tensor of float32, shape (1, t, h, w)
    """
    frames, (height, width) = latents.shape[2], latents.shape[3:]
    scale = logits.shape[3] // height
    found = (logits[0, 0] > 0).float().reshape(-1, height, scale, width, scale).sum((2, 4))
    parts = [found[:1]]
    if frames > 1:
        parts.append(found[1:].reshape(frames - 1, -1, height, width).sum(1))
    return torch.cat(parts)[None]


def fit_locator(
    samples: Sequence[tuple[torch.Tensor, torch.Tensor]],
    *,
    steps: int = 600,
    seed: int = 0,
    cancel: CancelToken | None = None,
) -> tuple[Locator, float, float]:
    """Fit a locator; every fourth sample is held out and sets its threshold.

    Parameters
    ----------
    samples : sequence of (Tensor, Tensor)
        Latents (1, channels, t, h, w) and `foreground_pixels` (1, t, h, w), at least 8.
    steps : int
        Steps of Adam.
    seed : int
        Of the first weights and of the order of samples.
    cancel : CancelToken, optional
        Checked before every step.

    Returns
    -------
    locator : Locator
    kept : float
        Share of the held-out cells that it keeps.
    foreground : float
        Share of them that hold foreground: the least that it could keep.

    Raises
    ------
    CheckpointError
        There is too little foreground to learn from.
    Cancelled
        `cancel` was set.
    """
    held, used = list(samples[::4]), [s for i, s in enumerate(samples) if i % 4]
    if len(samples) < 8 or not all(any(c.any() for _, c in part) for part in (held, used)):
        raise CheckpointError(
            "The model found too little in the clips to learn from; calibrate it on other ones."
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        locator = Locator(samples[0][0].shape[1]).to(samples[0][0].device)
    optimizer = torch.optim.Adam(locator.parameters(), 3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            if cancel is not None:
                cancel.raise_if_cancelled()
            latents, pixels = used[int(torch.randint(len(used), (), generator=generator))]
            scores = locator(latents)
            # To miss a cell is worse than to keep one too many.
            weight = scores.new_tensor(10.0)
            loss = F.binary_cross_entropy_with_logits(
                scores, (pixels > 0).float(), pos_weight=weight
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    locator.eval().requires_grad_(False)
    with torch.no_grad():
        scores = torch.cat([locator(latents).flatten() for latents, _ in held])
        pixels = torch.cat([counts.flatten() for _, counts in held])
        order = scores.argsort()
        lost = pixels[order].cumsum(0) > _LOSS * pixels.sum()
        locator.threshold = float(scores[order][lost][0]) - 1e-4
        kept = float((scores > locator.threshold).float().mean())
    return locator, kept, float((pixels > 0).float().mean())
