"""Clicks and memory equal what transformers answers, with random weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from flowrvs.models.sam2 import _CLASSES, Sam2Tracker
from tests.fixtures.sam_models import FAMILIES, clip, random_model

HEIGHT, WIDTH = 60, 90
Keys = Mapping[int, Mapping[int, np.ndarray]]


def tracker(family: str, seed: int = 0, **changes: Any) -> Sam2Tracker:
    network = random_model(family, seed, **changes)
    return Sam2Tracker(network, family, *_CLASSES[network.config.model_type][1])


@pytest.fixture(scope="module", params=FAMILIES)
def ours(request: pytest.FixtureRequest) -> Sam2Tracker:
    return tracker(request.param)


class Stock:
    """What transformers makes of the same: its sessions, and its processors' own methods."""

    def __init__(self, ours: Sam2Tracker, frames: np.ndarray) -> None:
        self.network = ours._network
        name = type(self.network).__name__.removesuffix("Model")
        package = type(self.network).__module__.replace("modeling_", "processing_")
        if name.startswith("EdgeTam"):  # it has the processor of SAM 2
            package = package.replace("edgetam_video", "sam2_video")
        # Its constructor wants torchvision; what is asked of it here does not.
        kind = getattr(
            importlib.import_module(package), name.replace("EdgeTam", "Sam2") + "Processor"
        )
        self.processor = kind.__new__(kind)
        self.processor.target_size = self.network.config.image_size
        self.processor.point_pad_value = -10
        pixels = torch.stack([scaled(frame, name, self.processor.target_size) for frame in frames])
        self.session = getattr(transformers, f"{name}InferenceSession")(
            video=pixels, video_height=HEIGHT, video_width=WIDTH, dtype=torch.float32
        )

    def add(self, frame: int, object_ids: list[int], **inputs: Any) -> np.ndarray:
        self.processor.add_inputs_to_inference_session(self.session, frame, object_ids, **inputs)
        return self.upscaled(self.network(self.session, frame_idx=frame))[0]

    def key(self, keys: Keys) -> Stock:
        for frame, masks in sorted(keys.items()):
            self.add(frame, list(masks), input_masks=list(masks.values()))
        return self

    def upscaled(self, answer: Any) -> np.ndarray:
        size = (HEIGHT, WIDTH)
        masks = torch.nn.functional.interpolate(
            answer.pred_masks, size, mode="bilinear", align_corners=False
        )
        return masks[:, 0].numpy()

    def propagate(self, **how: Any) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {
            answer.frame_idx: (
                self.upscaled(answer),
                answer.object_score_logits.sigmoid().flatten().numpy(),
            )
            for answer in self.network.propagate_in_video_iterator(self.session, **how)
        }


def scaled(frame: np.ndarray, name: str, size: int) -> torch.Tensor:
    """Resize by PIL, a second opinion: bilinear with antialias, then rounded to bytes."""
    channels = [Image.fromarray(frame[..., c].astype(np.float32)) for c in range(3)]
    small = [np.array(c.resize((size, size), Image.Resampling.BILINEAR)) for c in channels]
    values = torch.from_numpy(np.stack(small)).round() / 255
    mean, deviation = _CLASSES["sam3_video" if name.startswith("Sam3") else "sam2_video"][1]
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


def same(found: Any, stock: dict[int, tuple[np.ndarray, np.ndarray]], objects: list[int]) -> None:
    answers = dict(found)
    assert list(answers) == list(stock)
    for frame, (logits, scores) in stock.items():
        for index, key in enumerate(objects):
            np.testing.assert_allclose(answers[frame][key].logits, logits[index], atol=1e-4)
            assert answers[frame][key].score == pytest.approx(scores[index], abs=1e-5)


def test_pictures_are_scaled_as_pil_does(ours: Sam2Tracker) -> None:
    frame = clip(1)[0]
    name = type(ours._network).__name__
    expected = scaled(frame, name, ours._size)
    off = (ours._pixels(frame) - expected).abs() * ours._deviation
    assert off.max() < 1.01 and (off > 0.01).float().mean() < 0.001  # of 255: halves go either way
