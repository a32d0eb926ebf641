"""SAM 2's own classes, tiny and random, behind the tools of the desk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flowrvs
from flowrvs.editing import spread_together
from flowrvs.editing.pick import open_picker
from flowrvs.editing.trackers import Encodings
from flowrvs.models.sam2 import Sam2Tracker
from flowrvs.protocols import Mark, Tracker
from flowrvs.store import Project
from tests.fixtures.sam_models import clip, disc, random_model

HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def tracker() -> Sam2Tracker:
    return Sam2Tracker(random_model("sam2"), "sam2-random", HALF, HALF)


def test_the_desk_gives_what_the_tracker_gives(tracker: Sam2Tracker, tmp_path: Path) -> None:
    assert isinstance(tracker, Tracker)
    frames = clip(7)
    with (
        flowrvs.open_video(frames) as video,
        Project.create(tmp_path / "a.flowrvs", video.info) as project,
    ):
        layers = [project.add_layer(name).id for name in ("one", "two")]
        first, second = (project.add_object("disc", layer).id for layer in layers)
        for object_id, t in ((first, 1), (second, 1), (first, 4)):
            shift = 0 if object_id == first else 12
            project.write_masks(object_id, t, disc(t, shift=shift)[None])
        keys = {
            t: {i: project.object_mask(i, t, t + 1)[0] for i in ids}
            for t, ids in ((1, (first, second)), (4, (first,)))
        }
        wanted = dict(tracker.follow(frames.__getitem__, keys, range(1, 7), frame_count=7))
        wanted |= dict(tracker.follow(frames.__getitem__, keys, range(1, -1, -1), frame_count=7))
        group = spread_together(project, video, [first, second], tracker).finish()
        assert group.previews[first].frames == (0, 2, 3, 5, 6)
        assert group.previews[second].frames == (0, 2, 3, 4, 5, 6)
        for object_id, preview in group.previews.items():
            for t in preview.frames:
                expected = wanted[t][object_id].mask
                assert np.count_nonzero(preview.mask(t) ^ expected) <= 2
        written = group.accept()
        assert len(written[second]) == 6
        assert project.changes(second, 6)[0].who.startswith("sam2-random, keys ")
        # Clicks: the encoding is kept, and the answer before is given along.
        encodings = Encodings(tracker)
        picker = open_picker(project, video, 5, encodings=encodings)
        marks = [Mark.point(30, 30), Mark.point(60, 10, False)]
        mask = picker.take(marks)
        encoded = tracker.encode(frames[5])
        logits = tracker.pick(encoded, marks[:1])
        logits = tracker.pick(encoded, marks, logits)
        assert np.count_nonzero(mask ^ (logits > 0)) <= 2
