"""A small project on disk for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project

INFO = VideoInfo("/clips/a.mp4", "video", 10, 12, 16, 25.0, fingerprint="f" * 64)


@pytest.fixture
def info() -> VideoInfo:
    """A video of ten frames of 16 x 12 pixels."""
    return INFO


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project, open for writing."""
    project = Project.create(tmp_path / "a.flowrvs", INFO)
    yield project
    project.close()


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    """The object of a sentence, in a layer of its own."""
    return project.add_prompt("the cat")[1]
