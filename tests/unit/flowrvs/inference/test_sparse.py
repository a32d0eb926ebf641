"""Windows within shots, and every n-th frame alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flowrvs.errors import InputError
from flowrvs.inference import make_plan, segment, segment_into
from flowrvs.records import SegmentRequest
from flowrvs.store import Project, Provenance
from flowrvs.video import Video, cuts, open_video
from tests.fixtures.segmenters import ThresholdSegmenter, WindowSegmenter


@pytest.fixture
def video() -> Iterator[Video]:
    frames = np.random.default_rng(3).integers(0, 256, (40, 24, 32, 3), np.uint8)
    with open_video(frames) as video:
        yield video


def assembled(parts: list, frames: int) -> npt.NDArray[np.bool_]:
    masks = np.zeros((frames, *parts[0].masks.shape[1:]), bool)
    for part in parts:
        masks[list(part.frames)] = part.masks
    return masks


def test_no_window_straddles_a_cut() -> None:
    request = SegmentRequest.of("red", window=9, overlap=3, cuts=(14, 30, 12))
    plan = make_plan(40, request, ThresholdSegmenter())
    spans = [(w.index, w.start, w.stop) for w in plan.windows]
    assert spans == [
        (0, 0, 9), (1, 3, 12), (2, 12, 14), (3, 14, 23), (4, 20, 29), (5, 21, 30), (6, 30, 39),
        (7, 31, 40),
    ]  # fmt: skip
    kept = [frame for w in plan.windows for frame in plan.kept(w.index)]
    assert kept == list(range(40))
    sparse = SegmentRequest.of("red", every=3, start=1, stop=12)
    plan = make_plan(40, sparse, ThresholdSegmenter())
    assert (plan.start, plan.stop) == (1, 11), "to the last frame that is looked at"


def test_a_shot_is_segmented_as_if_it_were_alone(video: Video) -> None:
    segmenter = WindowSegmenter(window_size=9, overlap=3)
    whole = assembled(list(segment(video, "red", segmenter, cuts=(14, 30))), 40)
    for start, stop in ((0, 14), (14, 30), (30, 40)):
        alone = list(segment(video, "red", segmenter, start=start, stop=stop))
        np.testing.assert_array_equal(assembled(alone, 40)[start:stop], whole[start:stop])


def test_cuts_are_found_on_request() -> None:
    dark, light = np.full((10, 24, 32, 3), 20, np.uint8), np.full((9, 24, 32, 3), 220, np.uint8)
    with open_video(np.concatenate([dark, light])) as video:
        parts = list(segment(video, "red", ThresholdSegmenter(window_size=99), cuts="find"))
    assert [(part.window.start, part.window.stop) for part in parts] == [(0, 10), (10, 19)]
    with open_video(np.concatenate([dark, light[:1]])) as video:  # before the very last frame
        parts = list(segment(video, "red", ThresholdSegmenter(window_size=99), cuts="find"))
    assert [(part.window.start, part.window.stop) for part in parts] == [(0, 10), (10, 11)]


def test_a_project_keeps_the_cuts_that_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searched once, whatever is asked of that range later, also after it was opened again."""
    shots = [np.full((10, 24, 32, 3), level, np.uint8) for level in (20, 220, 90)]
    segmenter = ThresholdSegmenter(window_size=99)
    searched: list[tuple[int, int]] = []
    find = cuts.find_cuts

    def counted(video: Video, start: int, stop: int, **how: Any) -> tuple[int, ...]:
        searched.append((start, stop))
        return find(video, start, stop, **how)

    monkeypatch.setattr(cuts, "find_cuts", counted)

    def windows(project: Project, text: str, **options: Any) -> list[tuple[int, int]]:
        parts = segment_into(project, video, text, segmenter, cuts="find", **options)
        return [(part.start, part.stop) for part in parts]

    with open_video(np.concatenate(shots)) as video:
        with Project.create(tmp_path / "p.flowrvs", video.info) as project:
            assert windows(project, "red", stop=15) == [(0, 10), (10, 15)]
            assert windows(project, "part", start=10, stop=25) == [(10, 20), (20, 25)]
            assert windows(project, "red", every=5) == [(0, 6), (10, 16), (20, 26)]
            # What was found of all of it says no more of a part, whose run is finished.
            assert windows(project, "part", start=10, stop=25) == []
            kept = project.notes["cuts"]["searched"]
            assert kept == [{"start": 0, "stop": 30, "cuts": [10, 20]}]
        with Project.open(tmp_path / "p.flowrvs") as project:
            assert windows(project, "red") == [(0, 10), (10, 20), (20, 30)]
            assert windows(project, "blue", start=5, stop=25) == [(5, 10), (10, 20), (20, 25)]
            assert searched == [(0, 15), (10, 25), (0, 30)]
            for damaged in ("x", {"video": video.info.fingerprint, "searched": [{"start": "0"}]}):
                project.note("cuts", damaged)
                assert windows(project, "green", steps=len(searched)) == windows(
                    project, "white", steps=len(searched)
                )
            assert searched == [(0, 15), (10, 25), *[(0, 30)] * 3]


def test_every_nth_frame_is_a_video_of_its_own(video: Video) -> None:
    segmenter = WindowSegmenter(window_size=9, overlap=3)
    parts = list(segment(video, "red", segmenter, every=3, start=2, stop=39, cuts=(20,)))
    frames = [frame for part in parts for frame in part.frames]
    assert frames == list(range(2, 39, 3)) and parts[-1].stop == 39
    with open_video(video.read(2, 39)[::3]) as thin:
        alone = list(segment(thin, "red", segmenter, cuts=(6,)))
    np.testing.assert_array_equal(assembled(parts, 40)[2:39:3], assembled(alone, 13))


def test_a_project_gets_those_frames_alone_and_then_the_rest(tmp_path: Path, video: Video) -> None:
    segmenter = WindowSegmenter(window_size=9, overlap=3)
    with Project.create(tmp_path / "p.flowrvs", video.info) as project:
        parts = list(segment_into(project, video, "red", segmenter, every=4))
        drawn = project.objects[1].id
        made = project.provenance(drawn) == Provenance.MODEL
        assert np.flatnonzero(made).tolist() == list(range(0, 40, 4))
        there = project.object_mask(drawn, 0, 40)
        np.testing.assert_array_equal(there, assembled(parts, 40))
        again = list(segment_into(project, video, "red", segmenter, every=4))
        assert again == []
        rest = list(segment_into(project, video, "red", segmenter))
        np.testing.assert_array_equal(project.object_mask(drawn, 0, 40), assembled(rest, 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every": 0}, "Every 0"), ({"every": 1.5}, "whole number"), ({"cuts": ("a",)}, "cuts")],
)
def test_what_is_impossible(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmentRequest.of("red", **options)


def test_a_full_disk_is_seen_before_and_while(
    tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowrvs.errors import StorageError
    from flowrvs.inference import into

    free = [2**20]
    monkeypatch.setattr(into, "free_bytes", lambda folder: free[-1])
    segmenter = WindowSegmenter(window_size=9, overlap=3)
    with Project.create(tmp_path / "p.flowrvs", video.info) as project:
        with pytest.raises(StorageError, match="about .* will be needed"):
            segment_into(project, video, "red", segmenter)
        assert not project.objects
        free.append(2**30)
        monkeypatch.setattr(into, "_LOOK", 10)
        parts = segment_into(project, video, "red", segmenter)
        next(parts)
        free.append(2**20)
        with pytest.raises(StorageError, match="What is finished is kept"):
            list(parts)
        free.append(2**30)
        assert len(list(segment_into(project, video, "red", segmenter))) == 6  # of seven windows
