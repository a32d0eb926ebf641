"""From source frames to the model's box and back (FlowRVS inference, steps 1, 2 and 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from flowrvs.errors import VideoError

__all__ = ["ClipGeometry", "fit_inside", "preprocess", "resize_logits"]


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


def preprocess(
    frames: npt.NDArray[np.uint8],
    *,
    box: tuple[int, int],
    multiple: int,
    temporal: int,
) -> tuple[torch.Tensor, ClipGeometry]:
    """Resize, pad in time and normalise a clip.

    Parameters
    ----------
    frames : ndarray of uint8, shape (T, H, W, 3)
    box : tuple of int
        Height and width of the model's box.
    multiple : int
        See `fit_inside`.
    temporal : int
        Frames per latent frame; the last frame is repeated until
        ``(T - 1) % temporal == 0``.

    Returns
    -------
    video : Tensor of float32, shape (1, 3, T', H', W')
        Values in [-1, 1].
    geometry : ClipGeometry

    Raises
    ------
    VideoError
        The array is not a clip of RGB frames.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise VideoError(
            f"The model needs uint8 RGB frames of shape (T, H, W, 3), not {frames.dtype} "
            f"{frames.shape}; open the video with flowrvs.open_video."
        )
    count, height, width = frames.shape[:3]
    size = fit_inside(height, width, *box, multiple)
    if size == (height, width):
        resized = frames
    else:
        # PIL and not torch: the published masks were made with its antialiased bilinear.
        resized = np.stack(
            [
                np.asarray(Image.fromarray(f).resize(size[::-1], Image.Resampling.BILINEAR))
                for f in frames
            ]
        )
    video = torch.from_numpy(np.ascontiguousarray(resized)).permute(3, 0, 1, 2).unsqueeze(0)
    video = video.float().div_(255).sub_(0.5).div_(0.5)
    missing = -(count - 1) % temporal
    if missing:
        video = torch.cat([video, video[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    return video, ClipGeometry(count, height, width, video.shape[2], *size)


def resize_logits(logits: torch.Tensor, geometry: ClipGeometry) -> torch.Tensor:
    """Resize logits of shape (n, H', W') to the source size, float32, (n, H, W)."""
    size = (geometry.height, geometry.width)
    return F.interpolate(
        logits.float().unsqueeze(1), size=size, mode="bilinear", align_corners=False
    ).squeeze(1)
