"""The names of torchvision that the published code imports, and matplotlib where absent.

Only the transforms are ever called; their numbers are those of torchvision: ``Resize``
of a PIL picture is PIL's own bilinear filter, ``ToTensor`` divides bytes by 255. Call
`install` after diffusers and transformers are imported, which would otherwise take the
stand-in for the real package.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = ["install"]


class InterpolationMode(Enum):
    """How to resize."""

    NEAREST = Image.Resampling.NEAREST
    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC


class Resize:
    """Resize a PIL picture to (height, width)."""

    def __init__(
        self,
        size: Sequence[int],
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
        antialias: bool = True,
    ) -> None:
        self.size, self.filter = (int(size[1]), int(size[0])), interpolation.value

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return the resized picture; the same one when it fits already."""
        if picture.size == self.size:
            return picture
        return picture.resize(self.size, self.filter)


class ToTensor:
    """Bytes (H, W, C) to floats (C, H, W) in [0, 1]."""

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """Return the tensor."""
        array = np.array(picture, np.uint8, copy=True)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Normalize:
    """Subtract a mean and divide by a deviation, channel by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the normalised tensor."""
        return tensor.clone().sub_(self.mean).div_(self.std)


class Lambda:
    """Call a function."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self.call = call

    def __call__(self, value: Any) -> Any:
        """Return what the function returns."""
        return self.call(value)


class Compose:
    """Call several in turn."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, value: Any) -> Any:
        """Return what the last one returns."""
        for transform in self.transforms:
            value = transform(value)
        return value


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    """Areas of boxes (x0, y0, x1, y1)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def install() -> None:
    """Make the names importable where the real packages are not installed."""
    if importlib.util.find_spec("torchvision") is None:
        functional = _module("torchvision.transforms.functional")
        transforms = _module(
            "torchvision.transforms",
            functional=functional,
            **{
                kind.__name__: kind
                for kind in (InterpolationMode, Resize, ToTensor, Normalize, Lambda, Compose)
            },
        )
        boxes = _module("torchvision.ops.boxes", box_area=box_area)
        misc = _module("torchvision.ops.misc", interpolate=torch.nn.functional.interpolate)
        ops = _module("torchvision.ops", boxes=boxes, misc=misc)
        datasets = _module("torchvision.datasets", CocoDetection=torch.utils.data.Dataset)
        _module(
            "torchvision", transforms=transforms, ops=ops, datasets=datasets, __version__="0.24.0"
        )
    if importlib.util.find_spec("matplotlib") is None:
        pyplot = _module("matplotlib.pyplot")
        patches = _module("matplotlib.patches", Polygon=object, Rectangle=object)
        collections = _module("matplotlib.collections", PatchCollection=object)
        _module("matplotlib", pyplot=pyplot, patches=patches, collections=collections)


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module
    return module
