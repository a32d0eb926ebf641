"""A split whose truth is known, and ways to write predictions for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowrvs.data.mevis import MevisWriter


@pytest.fixture
def split(tmp_path: Path, shapes_frames, shapes_masks) -> Path:
    """Two videos of the coloured squares; the second is named with a blank and a dot."""
    folder = tmp_path / "valid_u"
    with MevisWriter(folder) as writer:
        for name in ("one", "two v1.0"):
            writer.add_video(
                name,
                shapes_frames,
                objects={1: shapes_masks["red"], 2: shapes_masks["green"]},
                expressions={
                    "0": ("the red square", [1]),
                    "1": ("the green square", [2]),
                    "2": ("nothing at all", []),
                },
            )
    return folder
