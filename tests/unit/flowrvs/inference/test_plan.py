"""What a request comes to: windows, frames and steps, and several videos in turn."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import (
    Cancelled,
    DeviceMemoryError,
    FlowRVSError,
    InputError,
    MissingPathError,
    ProjectError,
    StorageError,
    VideoError,
)
from flowrvs.inference import into, make_plan, segment, segment_into
from flowrvs.inference.into import ProjectJob, segment_projects
from flowrvs.inference.run import (
    VideoJob,
    WindowCount,
    run_jobs,
    to_window_masks,
    windows_and_texts,
    with_cuts,
)
from flowrvs.progress import CancelToken, Progress
from flowrvs.records import SegmentRequest, Window, WindowMasks
from flowrvs.store import Project
from flowrvs.video import open_video
from tests.fixtures.segmenters import InstancesByColor, ThresholdSegmenter, WindowSegmenter

FRAMES = np.random.default_rng(11).integers(0, 256, (20, 12, 16, 3), np.uint8)


def plan_of(count: int = 40, texts: Any = "red", segmenter: Any = None, **options: Any) -> Any:
    request = SegmentRequest.of(texts, **options)
    return make_plan(count, request, segmenter or ThresholdSegmenter(window_size=9, overlap=4))


@pytest.mark.parametrize(
    ("options", "size", "overlap"),
    [
        ({}, 9, 4),
        ({"overlap": 1}, 9, 1),
        ({"overlap": 0}, 9, 0),
        ({"window": 20}, 20, 4),
        ({"window": 8}, 8, 4),
        ({"window": 7}, 7, 3),
        ({"window": 1}, 1, 0),
        ({"window": 7, "overlap": 6}, 7, 6),
        ({"window": "whole"}, 40, 0),
        ({"window": "whole", "start": 3, "every": 5}, 8, 0),
    ],
)
def test_the_models_sizes_stand_in_for_what_is_left_open(
    options: dict, size: int, overlap: int
) -> None:
    plan = plan_of(**options)
    assert (plan.window_size, plan.overlap) == (size, overlap)
    assert len(plan.windows[0]) == min(size, len(plan.frames))


def test_frames_of_a_plan() -> None:
    plan = plan_of(start=3, stop=31, window=10, overlap=2)
    assert (plan.start, plan.stop, plan.frames) == (3, 31, range(3, 31))
    spans = [(w.start, w.stop) for w in plan.windows]
    assert spans == [(3, 13), (11, 21), (19, 29), (21, 31)]
    kept = [range(3, 11), range(11, 19), range(19, 21), range(21, 31)]
    assert [plan.kept(n) for n in range(4)] == kept
    assert plan.native(7) == 7
    few = plan_of(start=3, stop=31, every=4, window=3, overlap=1)
    assert [(w.start, w.stop) for w in few.windows] == [(0, 3), (2, 5), (4, 7)]
    assert (few.start, few.stop, few.native(6)) == (3, 28, 27)
    with open_video(FRAMES) as video:
        assert plan_of(20).source(video) is video
        np.testing.assert_array_equal(
            plan_of(20, start=1, every=6).source(video).read(0, 4), FRAMES[[1, 7, 13, 19]]
        )


@pytest.mark.parametrize(
    ("options", "spans"),
    [
        ({"cuts": (0, 10, 40, 99)}, [(0, 10), (10, 40)]),
        ({"cuts": (10, 39)}, [(0, 10), (10, 39), (39, 40)]),
        ({"cuts": (5, 10, 30), "start": 5, "stop": 30}, [(5, 10), (10, 30)]),
        # Of every 4th frame from 2 on, those that count are 2 6 10 14 ...: places 0 1 2 3 ...
        ({"cuts": (7, 14), "start": 2, "stop": 30, "every": 4}, [(0, 2), (2, 3), (3, 7)]),
        ({"cuts": (2, 3), "start": 2, "stop": 30, "every": 4}, [(0, 1), (1, 7)]),
        ({"cuts": (27,), "start": 2, "stop": 30, "every": 4}, [(0, 7)]),
    ],
)
def test_shots_of_a_plan(options: dict, spans: list[tuple[int, int]]) -> None:
    plan = plan_of(window="whole", **options)
    assert [(w.start, w.stop) for w in plan.windows] == spans
    assert [w.index for w in plan.windows] == list(range(len(spans)))


def test_cuts_are_not_looked_for_in_a_plan() -> None:
    with pytest.raises(InputError, match=r"see flowrvs\.video\.cuts\.find_cuts\.$"):
        plan_of(cuts="find")


def test_windows_are_computed_for_sentences_that_want_them_or_their_seam() -> None:
    plan = plan_of(20, ["a", "b", "c"], window=8, overlap=2)
    assert [(w.start, w.stop) for w in plan.windows] == [(0, 8), (6, 14), (12, 20)]
    wanted = windows_and_texts(plan, {0: (), 2: (0, 1)})
    assert [(w.index, texts) for w, texts in wanted] == [(0, (0,)), (1, (0, 2)), (2, (0, 2))]
    wanted = windows_and_texts(plan, {0: (1, 2), 1: (0, 1, 2)})
    assert [(w.index, texts) for w, texts in wanted] == [(0, (0,))]
    assert windows_and_texts(plan, {}) == []


def test_masks_of_a_window_say_where_they_are() -> None:
    plan = plan_of(40, start=4, every=3, window=5, overlap=2, threshold=0.25, keep_confidence=True)
    window = plan.windows[1]
    logits = np.linspace(-1, 1, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    apart = np.array([0.5, np.nan, 0.1], np.float32)
    made = to_window_masks(plan, 2, window, window.start, logits, apart)
    assert (made.expression, made.window, made.step) == (2, window, 3)
    assert made.start == 4 + 3 * window.start and made.complete
    np.testing.assert_array_equal(made.masks, logits > 0.25)
    assert made.confidence is not None and made.disagreement is apart
    expected = np.rint(255 / (1 + np.exp(-logits)))
    assert np.abs(made.confidence - expected).max() <= 1
    part = to_window_masks(plan, 2, window, window.start, logits[:2], apart[:2])
    assert not part.complete
    bare = to_window_masks(plan_of(), 0, Window(0, 0, 9), 0, logits, apart)
    assert bare.confidence is None and bare.step == 1


def test_steps_are_counted_with_the_plan() -> None:
    told: list[Progress] = []
    plan = plan_of(20, ["a", "b"], window=8, overlap=2, steps=3)
    count = WindowCount(plan, {0: (), 1: ()}, told.append, "clip")
    window = 1 + 2 * (3 + 1)
    count.begin(plan.windows[1], 2, " (5 at once)")
    for _ in range(20):  # more than it should
        count.step()
    count.end()
    assert {e.message for e in told} == {"clip: window 2 of 3, frames 6 to 13 (5 at once)"}
    assert [e.done for e in told] == list(range(window + 1))
    assert {e.total for e in told} == {3 * window}
    told.clear()
    count.begin(plan.windows[2], 1)
    count.step()
    count.end()
    assert [e.done for e in told] == [window, window + 1, window + 5]
    assert told[-1].message == "clip: window 3 of 3, frames 12 to 19"
    # One that goes on begins where it was; without anybody to tell, it is quiet.
    resumed = WindowCount(plan, {0: (0, 1), 1: (0, 1, 2)}, told.append)
    told.clear()
    resumed.begin(plan.windows[1], 1)
    assert (told[0].done, told[0].message) == (3 * window - 10, "window 2 of 3, frames 6 to 13")
    quiet = WindowCount(plan, {0: ()}, None)
    quiet.begin(plan.windows[0], 1)
    quiet.step()
    quiet.end()


def test_a_video_that_fails_does_not_stop_the_others() -> None:
    open_: list[str] = []

    @contextmanager
    def opened(name: str) -> Iterator[Any]:
        if name == "gone":
            raise MissingPathError("Nothing is there.")
        open_.append(name)
        try:
            with open_video(FRAMES) as video:
                yield video
        finally:
            open_.remove(name)

    segmenter = ThresholdSegmenter(
        window_size=10, overlap=0, fail_at=None, error=VideoError("Frame 3.")
    )
    plan = plan_of(20, segmenter=segmenter)
    names = ["a", "b", "gone", "c"]
    jobs = [VideoJob(lambda n=n: opened(n), plan, {0: ()}, n) for n in names]

    def run(**more: Any) -> list[tuple[str, int]]:
        found = []
        for job, part in run_jobs(jobs, segmenter, **more):
            assert open_ == [job.name]
            found.append((job.name, part.window.index))
            segmenter.fail_at = 3 if len(found) == 3 else None
        return found

    failed: list[tuple[str, str]] = []

    def note(job: VideoJob, error: FlowRVSError) -> None:
        failed.append((job.name, str(error)))
        segmenter.fail_at = None

    found = run(failed=note)
    assert failed == [("b", "Frame 3."), ("gone", "Nothing is there.")]
    assert found == [("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1)]
    open_.clear()
    segmenter.calls.clear()
    with pytest.raises(VideoError, match="Frame 3"):
        run()
    segmenter.fail_at, segmenter.error = 0, Cancelled("Stop.")
    open_.clear()
    with pytest.raises(Cancelled):
        run(failed=lambda *_: pytest.fail("nobody failed"))


# -- into projects -----------------------------------------------------------------------


def test_projects_are_drawn_one_after_the_other_and_failures_are_told(tmp_path: Path) -> None:
    events: list[Any] = []
    with (
        open_video(FRAMES) as first,
        open_video(FRAMES[:10]) as second,
        Project.create(tmp_path / "a.flowrvs", first.info) as project,
        Project.create(tmp_path / "b.flowrvs", second.info) as other,
    ):
        request = SegmentRequest.of(["red", "green"], window=10, overlap=0)
        jobs = [ProjectJob(project, first, request, "a"), ProjectJob(other, second, request, "b")]
        segmenter = WindowSegmenter(fail_at=1, error=DeviceMemoryError("Too small."))
        told: list[Progress] = []
        for job, what in segment_projects(iter(jobs), segmenter, progress=told.append):
            events.append((job, what))
            if isinstance(what, FlowRVSError):
                segmenter.fail_at = None
        kinds = [
            (job.name, type(what).__name__ if not hasattr(what, "start") else what.start)
            for job, what in events
        ]
        assert kinds[:2] == [("a", 0), ("a", 0)] and ("a", "DeviceMemoryError") in kinds
        assert all(job in jobs for job, _ in events), "the jobs that were given"
        assert {event.message.split(": ")[0] for event in told} == {"a", "b"}
        assert [run.done for run in project.runs.values()] == [{0}, {0}]
        again = list(segment_projects(jobs, WindowSegmenter()))
        starts = [(job.name, getattr(what, "start", what)) for job, what in again]
        assert starts[:3] == [("a", 10), ("a", 10), ("a", None)]
        assert starts[-1] == ("b", None)
        assert all(run.done == {0, 1} for run in project.runs.values())
        assert len(list(segment_projects(jobs, WindowSegmenter(), resume=False))) == 2 * 2 + 2 + 2


class Ahead(WindowSegmenter):
    """Begins all videos before the first one is computed, as a cluster does."""

    def run_jobs(self, jobs: Iterable[VideoJob], **options: Any) -> Iterator[Any]:
        with closing(run_jobs(list(jobs), WindowSegmenter(), **options)) as parts:
            yield from parts


@pytest.mark.parametrize("segmenter", [WindowSegmenter(), Ahead(), InstancesByColor()])
def test_projects_that_cannot_be_drawn_do_not_stop_the_others(
    tmp_path: Path, segmenter: Any
) -> None:
    told: list[tuple[str, Any]] = []
    with ExitStack() as stack:
        video = stack.enter_context(open_video(FRAMES))
        other = stack.enter_context(open_video(FRAMES[:10]))
        jobs = []
        for name in ("another", "late", "lost", "last"):
            project = Project.create(tmp_path / name, video.info)
            stack.callback(project.close if name == "last" else project.discard)
            request = SegmentRequest.of(["thing, red"], window=10, cuts="find")
            if name == "late":
                request = replace(request, start=20)
            shown = other if name == "another" else video
            jobs.append(ProjectJob(project, shown, request, name))
        for job, what in segment_projects(jobs, segmenter):
            told.append((job.name, type(what)))
            if job.name == "last" or not isinstance(what, WindowMasks):
                continue
            shutil.rmtree(job.project.path, ignore_errors=True)
        ends = {name: kind for name, kind in told if kind is not WindowMasks}
        drawn = jobs[-1].project.present(1).all()
    assert ends == {
        "another": ProjectError,
        "late": InputError,
        "lost": StorageError,
        "last": type(None),
    }
    assert drawn
    if type(segmenter) is not InstancesByColor:  # the rest of it is not computed
        assert [name for name, _ in told].count("lost") == 2
    assert not any(job.project.runs for job in jobs[:2])


def test_a_project_keeps_the_cuts_of_some_ranges_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(into, "_SEARCHES", 3)
    shots = np.concatenate([np.full((10, 12, 16, 3), level, np.uint8) for level in (20, 220)])
    with (
        open_video(shots) as video,
        Project.create(tmp_path / "p.flowrvs", video.info) as project,
    ):
        for start in (0, 4, 8, 12):
            options = {"start": start, "stop": start + 8, "cuts": "find"}
            list(segment_into(project, video, "red", ThresholdSegmenter(), **options))
        kept = project.notes["cuts"]
        assert kept["video"] == video.info.fingerprint
        assert kept["searched"] == [
            {"start": 4, "stop": 12, "cuts": [10]},
            {"start": 8, "stop": 16, "cuts": [10]},
            {"start": 12, "stop": 20, "cuts": []},
        ]
        # A wider one takes the places of those within.
        options = {"start": 3, "stop": 17, "cuts": "find"}
        list(segment_into(project, video, "red", ThresholdSegmenter(), **options))
        assert project.notes["cuts"]["searched"] == [
            {"start": 12, "stop": 20, "cuts": []},
            {"start": 3, "stop": 17, "cuts": [10]},
        ]


def test_a_search_for_cuts_can_be_stopped_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowrvs.video import cuts

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(cuts, "find_cuts", lambda *a, **how: (asked.append(how), (5,))[1])
    token, tell = CancelToken(), list[Progress]().append
    request = SegmentRequest.of("red", cuts="find", start=2, steps=3)
    with open_video(FRAMES) as video, Project.create(tmp_path / "p", video.info) as project:
        assert with_cuts(request, video, token, tell) == replace(request, cuts=(5,))
        known = replace(request, cuts=(7,))
        assert with_cuts(known, video, token, tell) is known
        list(
            segment_into(project, video, request, ThresholdSegmenter(), cancel=token, progress=tell)
        )
        segment(video, request, ThresholdSegmenter(), cancel=token)
    assert asked == [{"cancel": token, "progress": tell}] * 2 + [
        {"cancel": token, "progress": None}
    ]


def test_a_cancel_is_seen_before_anything_is_read() -> None:
    token = CancelToken()
    token.cancel()
    with open_video(FRAMES) as video:
        job = VideoJob(lambda: open_video(FRAMES), plan_of(20), {0: ()})
        segmenter = ThresholdSegmenter()
        with pytest.raises(Cancelled):
            list(run_jobs([job], segmenter, cancel=token))
        assert segmenter.calls == [] and len(video) == 20
