"""What the parts of a call hand to each other, and what goes wrong between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from diffusers.utils import BaseOutput

from flowrvs.errors import DeviceMemoryError, FlowRVSError
from flowrvs.pipelines.geometry import ClipGeometry

__all__ = ["EncodedVideo", "FlowRVSOutput", "is_out_of_memory", "memory_guard"]


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch means by this error that a device or the computer is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator, MPS and cuDNN say it in words alone.
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def memory_guard(what: str) -> Iterator[None]:
    """Turn torch's out-of-memory error, a RuntimeError, into ours."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, FlowRVSError) or not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(
            f"The device ran out of memory on {what}; choose a smaller window, --memory low or "
            "--device cpu."
        ) from error
