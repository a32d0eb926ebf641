"""A project about twelve frames of two moving squares, and its video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project
from flowrvs.video import Video, open_video


@pytest.fixture
def video(shapes_frames: np.ndarray) -> Iterator[Video]:
    with open_video(shapes_frames) as opened:
        yield opened


@pytest.fixture
def project(tmp_path: Path, video: Video) -> Iterator[Project]:
    info = VideoInfo(None, "array", 12, 48, 64)
    with Project.create(tmp_path / "a.flowrvs", info) as opened:
        yield opened


@pytest.fixture
def red(project: Project) -> ObjectRecord:
    return project.add_object("red", project.add_layer("one").id)
