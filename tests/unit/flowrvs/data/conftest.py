"""A small split, written once a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowrvs.data.mevis import MevisWriter


@pytest.fixture
def small_split(tmp_path: Path, shapes_frames, shapes_masks) -> Path:
    """Two videos: the shapes under a name with blanks, and four grey frames."""
    folder = tmp_path / "data" / "valid_u"
    late = np.zeros((4, 20, 30), bool)
    late[2:, 3:9, 5:12] = True
    with MevisWriter(folder) as writer:
        writer.add_video(
            "two shapes v1.2 снег",
            shapes_frames,
            objects={1: shapes_masks["red"], 2: shapes_masks["green"]},
            expressions={
                "0": ("the red square", [1]),
                "1": ("the square that goes right", [1]),
                "2": ("both squares", [1, 2]),
                "3": ("the blue square", []),
            },
        )
        writer.add_video(
            "grey",
            np.full((4, 20, 30, 3), 90, np.uint8),
            frame_names=["a 1", "a 2", "a.3", "b"],
            objects={7: late},
            expressions={"0": ("what comes late", [7])},
        )
    return folder
