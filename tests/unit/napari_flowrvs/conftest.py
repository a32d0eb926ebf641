"""Clips with coloured squares, fakes, and a clean place for everything that is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from napari_flowrvs.projects import open_projects
from tests.fixtures.segmenters import ThresholdSegmenter


def make_clip(frames: int = 24, height: int = 40, width: int = 60) -> npt.NDArray[np.uint8]:
    """A red square that moves right, over a green one that stays."""
    clip = np.full((frames, height, width, 3), 60, np.uint8)
    clip[:, 26:36, 40:52] = (30, 200, 30)
    for t in range(frames):
        clip[t, 6:16, t : t + 10] = (220, 30, 30)
    return clip


@pytest.fixture
def clip() -> npt.NDArray[np.uint8]:
    """24 frames of 40 x 60."""
    return make_clip()


@pytest.fixture
def image_folder(tmp_path: Path, clip: npt.NDArray[np.uint8]) -> Path:
    """The clip as a folder of PNG files, so that no pixel changes."""
    from PIL import Image

    folder = tmp_path / "squares"
    folder.mkdir()
    for t, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{t:05}.png")
    return folder


@pytest.fixture
def fake() -> ThresholdSegmenter:
    """Finds the colour that the sentence names."""
    return ThresholdSegmenter()


@pytest.fixture
def load(fake: ThresholdSegmenter) -> Callable[[str, str], ThresholdSegmenter]:
    """A factory of segmenters that gives the fake."""
    return lambda model, device: fake


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    yield
    open_projects.close_all()
