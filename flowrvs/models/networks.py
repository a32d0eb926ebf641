"""What the stock networks of transformers share here: loading them, and how they see pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from flowrvs.checkpoints.files import fingerprint
from flowrvs.errors import CheckpointError
from flowrvs.models.devices import choose_device, choose_dtype, loading, memory_guard

__all__ = ["LazyFrames", "load_network", "scaled_picture"]


def load_network(
    stock: Any, folder: Path, kind: str, device: str, precision: str
) -> tuple[Any, str, str]:
    """Load a stock class of transformers for use alone, as a `kind` of model.

    Returns
    -------
    network : PreTrainedModel
        In evaluation mode.
    weights : str
        Fingerprint of its weights.
    version : str
        Of weights and number format, for the provenance of masks.
    """
    target = choose_device(device)
    number = choose_dtype(precision, target)
    with loading(folder, kind), memory_guard(f"loading {folder.name}", "use --device cpu"):
        network, info = stock.from_pretrained(
            folder,
            dtype=number,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        network = network.to(target).eval().requires_grad_(False)
    if lacks := sorted(info["missing_keys"]):
        more = f" and {len(lacks) - 3} more" if len(lacks) > 3 else ""
        raise CheckpointError(
            f"{folder} lacks the weights {', '.join(lacks[:3])}{more}; fetch or copy the model "
            "again."
        )
    weights = fingerprint(*sorted(folder.glob("*.safetensors")))[:12]
    suffix = "" if number == torch.float32 else f"+{str(number).removeprefix('torch.')}"
    return network, weights, f"{weights[:8]}{suffix}"


class LazyFrames:
    """The video as a session of transformers sees it: a frame is read when it is asked for."""

    def __init__(self, read: Callable[[int], torch.Tensor], count: int) -> None:
        self._read = read
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._read(index)


def scaled_picture(
    image: npt.NDArray[np.uint8], size: int, mean: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """Return a picture (H, W, 3) as a network takes it, float32 (3, size, size), on the CPU.

    Equals the stock image and video processors: bilinear with antialias on bytes, rounded to
    whole ones, then mean and deviation, shape (3, 1, 1), of channels from 0 to 255.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    scaled = functional.interpolate(
        pixels, (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return (scaled[0].round() - mean) / deviation
