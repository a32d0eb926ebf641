"""From source frames to the model's box and back (FlowRVS inference, steps 1, 2 and 6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from flowrvs.errors import VideoError
from flowrvs.records import FrameBlock

__all__ = ["ClipGeometry", "fit_inside", "iter_clip", "normalise", "plan_clip", "resize_logits"]


@dataclass(frozen=True, slots=True)
class ClipGeometry:
    """How a clip was fitted to the model.

    Attributes
    ----------
    frames, height, width : int
        Of the source.
    model_frames, model_height, model_width : int
        Of what the model sees, after padding and resizing.
    """

    frames: int
    height: int
    width: int
    model_frames: int
    model_height: int
    model_width: int


def fit_inside(
    height: int, width: int, box_height: int, box_width: int, multiple: int
) -> tuple[int, int]:
    """Size that fits a picture into a box, each side floored to a multiple.

    Parameters
    ----------
    height, width : int
        Source size in pixels.
    box_height, box_width : int
        The box; 480 x 832 for the production model.
    multiple : int
        Pixels per transformer token along a side (16 for the production model).

    Returns
    -------
    tuple of int
        Height and width, at least one multiple each.
    """
    scale = min(box_height / height, box_width / width)
    fitted = (int(side * scale) // multiple * multiple for side in (height, width))
    new_height, new_width = (max(side, multiple) for side in fitted)
    return new_height, new_width


def plan_clip(
    frames: FrameBlock, *, box: tuple[int, int], multiple: int, temporal: int
) -> ClipGeometry:
    """Decide how a clip is fitted to the model.

    Parameters
    ----------
    frames : FrameBlock of uint8, shape (T, H, W, 3)
    box : tuple of int
        Height and width of the model's box.
    multiple : int
        See `fit_inside`.
    temporal : int
        Frames per latent frame; the last frame is repeated until
        ``(T - 1) % temporal == 0``.

    Raises
    ------
    VideoError
        It is not a clip of RGB frames.
    """
    shape = tuple(frames.shape)
    if len(shape) != 4 or shape[3] != 3 or frames.dtype != np.uint8 or 0 in shape:
        raise VideoError(
            f"The model needs uint8 RGB frames of shape (T, H, W, 3), not {frames.dtype} "
            f"{shape}; open the video with flowrvs.open_video."
        )
    count, height, width = shape[:3]
    padded = count + -(count - 1) % temporal
    return ClipGeometry(count, height, width, padded, *fit_inside(height, width, *box, multiple))


def iter_clip(
    frames: FrameBlock, geometry: ClipGeometry, bounds: Iterable[tuple[int, int]]
) -> Iterator[torch.Tensor]:
    """Read a clip in groups of frames, resized and padded in time.

    Parameters
    ----------
    frames : FrameBlock of uint8, shape (T, H, W, 3)
    geometry : ClipGeometry
        From `plan_clip`.
    bounds : iterable of (int, int)
        Which of the model's frames make up each group.

    Yields
    ------
    Tensor of uint8, shape (n, H', W', 3)
    """
    size = (geometry.model_width, geometry.model_height)
    last: npt.NDArray[np.uint8] | None = None
    for start, stop in bounds:
        native = np.asarray(frames[start : min(stop, geometry.frames)])
        if size != (geometry.width, geometry.height) and len(native):
            native = np.stack([_resized(frame, size) for frame in native])
        if len(native):
            last = native[-1:]
        missing = stop - start - len(native)
        if missing:
            assert last is not None
            native = (
                np.concatenate([native, *[last] * missing])
                if len(native)
                else (np.repeat(last, missing, axis=0))
            )
        yield torch.from_numpy(np.ascontiguousarray(native))


def _resized(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    # PIL and not torch: the published masks were made with its antialiased bilinear.
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def normalise(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn uint8 frames (n, H, W, 3) into the VAE's input, (1, 3, n, H, W) in [-1, 1]."""
    video = frames.permute(3, 0, 1, 2).unsqueeze(0)
    return video.float().div_(255).sub_(0.5).div_(0.5).to(dtype)


def resize_logits(logits: torch.Tensor, geometry: ClipGeometry) -> torch.Tensor:
    """Resize logits to the source size, as the published code does.

    That means in the model's own number format. It also takes the sigmoid in that format,
    so that in bfloat16 a logit up to about 0.008 becomes one half, which is background:
    those are 0 here.

    Parameters
    ----------
    logits : Tensor, shape (n, H', W')

    Returns
    -------
    Tensor of float32, shape (n, H, W)
    """
    size = (geometry.height, geometry.width)
    if logits.shape[1:] != size:
        logits = F.interpolate(
            logits.unsqueeze(1), size=size, mode="bilinear", align_corners=False
        ).squeeze(1)
    if logits.dtype != torch.float32:
        half = (logits > 0) & ~(torch.sigmoid(logits) > 0.5)
        logits = logits.masked_fill(half, 0)
    return logits.float()
