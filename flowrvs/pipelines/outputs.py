"""What the parts of a call hand to each other, and what goes wrong between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from diffusers.utils import BaseOutput

from flowrvs.errors import DeviceMemoryError
from flowrvs.pipelines.geometry import ClipGeometry

__all__ = ["EncodedVideo", "FlowRVSOutput", "memory_guard"]


@dataclass(frozen=True)
class EncodedVideo:
    """A clip as the flow's starting point.

    Attributes
    ----------
    latents : Tensor, shape (1, z_dim, t, h, w)
        Normalised latent mean of the video, ``x0``.
    geometry : ClipGeometry
        How the source was fitted to the model.
    """

    latents: torch.Tensor
    geometry: ClipGeometry


@dataclass
class FlowRVSOutput(BaseOutput):
    """Result of a call.

    Attributes
    ----------
    masks : ndarray of bool, shape (N, T, H, W)
        One mask clip per sentence, at source size.
    logits : ndarray of float32, shape (N, T, H, W)
        Values in [-1, 1]; foreground above 0.
    """

    masks: npt.NDArray[np.bool_]
    logits: npt.NDArray[np.float32]


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turn torch's out-of-memory error, a RuntimeError, into ours."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"The device ran out of memory on {what}; choose a smaller window or --device cpu."
        ) from error
