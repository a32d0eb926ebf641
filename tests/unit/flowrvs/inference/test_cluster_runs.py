"""Client and workers of a cluster in one process: who is given what, and what comes of it.

dask's side of it, real processes and all, is in tests/integration/cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowrvs
from flowrvs.errors import (
    Cancelled,
    ClusterError,
    InputError,
    MissingPathError,
    VideoError,
)
from flowrvs.inference import make_plan
from flowrvs.inference.cluster import Cluster, worker
from flowrvs.inference.cluster.wire import pack, unpack
from flowrvs.inference.run import VideoJob, run_jobs
from flowrvs.progress import CancelToken, Progress
from flowrvs.records import SegmentRequest, WindowMasks
from tests.fixtures.network import ADDRESS, Connection, Event, Network
from tests.fixtures.segmenters import WindowSegmenter

TEXTS = ["the red square", "green", "a dog"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of noise, in which every window has its own opinion."""
    path = tmp_path_factory.mktemp("clip") / "clip.npy"
    np.save(path, np.random.default_rng(13).integers(0, 256, (30, 16, 24, 3), np.uint8))
    return path


def said(parts: list[WindowMasks]) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Return all that is said of a frame, by sentence and frame; each once."""
    frames: dict[tuple[int, int], tuple[Any, ...]] = {}
    for part in parts:
        for n, (t, mask) in enumerate(zip(part.frames, part.masks, strict=True)):
            assert (part.expression, t) not in frames
            sure = None if part.confidence is None else part.confidence[n].tobytes()
            assert part.disagreement is not None
            last = part.complete and n == len(part.masks) - 1
            apart = part.disagreement[n].tobytes()
            frames[part.expression, t] = mask.tobytes(), sure, apart, last, part.window
    return frames


def run(path: Any, segmenter: Any, **options: Any) -> dict[tuple[int, int], tuple[Any, ...]]:
    with flowrvs.open_video(path) as video:
        return said(list(flowrvs.segment(video, TEXTS, segmenter, **options)))


OPTIONS = {
    "plain": {},
    "confidence": {"keep_confidence": True, "threshold": -0.05, "steps": 3},
    "resumed": {"window": 8, "overlap": 6, "skip": (0, 3, 4)},
    "few": {"every": 2, "start": 1, "stop": 29, "window": 5, "overlap": 2},
    "shots": {"cuts": (7, 19), "window": 6, "overlap": 2},
    "no overlap": {"window": 7, "overlap": 0},
}


@pytest.mark.parametrize("turn", [min, max], ids=["in order", "last first"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_masks_are_those_of_this_process(
    network: Network, clip: Path, name: str, turn: Callable[[Any], int]
) -> None:
    network.turn = turn
    here = run(clip, WindowSegmenter(), **OPTIONS[name])
    assert len({value[0] for value in here.values()}) > 8
    assert run(clip, Cluster(ADDRESS, "window"), **OPTIONS[name]) == here
    assert {name for name, _ in network.asked} == {"a", "b"}
    assert all(header["video"] is not None for _, header in network.asked[1:])


def test_what_a_model_is_asked_for(network: Network, clip: Path) -> None:
    cluster = Cluster(ADDRESS, "window", memory="low")
    assert (cluster.name, cluster.weights) == ("window", "")
    assert (cluster.window_size, cluster.overlap, cluster.whole_video) == (9, 2, False)
    with flowrvs.open_video(clip) as video:
        list(flowrvs.segment(video, TEXTS, cluster, skip=(0,), steps=2, stop=20))
    ((_, first), *asked) = network.asked
    assert first == {
        "flowrvs": flowrvs.__version__,
        "ask": "model",
        "model": "window",
        "options": {"memory": "low"},
        "blobs": [],
    }
    # The first window is computed for the second one's seam alone.
    assert [(h["start"], h["stop"], h["head"], h["kept"], h["tail"]) for _, h in asked] == [
        (0, 9, 0, 7, True),
        (7, 16, 2, 4, True),
        (11, 20, 5, 9, False),
    ]
    for _, header in asked:
        assert (header["texts"], header["steps"], header["overlap"]) == (TEXTS, 2, 2)
        assert (header["model"], header["expect"]) == ("window", ["window", ""])
        assert header["frames"] == [0, 20, 1]


def test_progress_counts_as_it_does_here(network: Network, clip: Path) -> None:
    def events(segmenter: Any) -> list[Progress]:
        told: list[Progress] = []
        with flowrvs.open_video(clip) as video:
            list(flowrvs.segment(video, TEXTS, segmenter, skip=(1,), progress=told.append))
        return told

    here, there = events(WindowSegmenter()), events(Cluster(ADDRESS, "window"))
    assert (there[0].done, there[-1].done) == (here[0].done, here[-1].done)
    assert there[-1].total == here[-1].total == there[-1].done
    assert {e.message for e in there} == {e.message for e in here}


def test_a_device_with_little_memory_is_told_of(
    network: Network, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowrvs, "load_segmenter", lambda name, **_: WindowSegmenter(room=5))
    told: list[Progress] = []
    with flowrvs.open_video(clip) as video:
        list(flowrvs.segment(video, "red", Cluster(ADDRESS, "x"), progress=told.append))
    assert told[-1].message.endswith(", frames 21 to 29 (5 at once: little memory)")
    assert worker._state.limit == 5


def test_videos_are_open_while_their_windows_are_under_way(network: Network, clip: Path) -> None:
    cluster = Cluster(ADDRESS, "window")
    open_: list[str] = []
    log: list[str] = []

    class Opened:
        def __init__(self, name: str) -> None:
            self.name, self.video = name, flowrvs.open_video(clip)

        def __enter__(self) -> Any:
            open_.append(self.name)
            log.append(f"open {self.name}")
            return self.video

        def __exit__(self, *error: object) -> None:
            open_.remove(self.name)
            log.append(f"close {self.name}")
            self.video.close()

    request = SegmentRequest.of("red", window=10, overlap=0)
    plan = make_plan(30, request, cluster)
    done = [{0: ()}, {0: (0, 1, 2)}, {0: (0, 1)}, {0: ()}]
    jobs = [
        VideoJob(lambda n=n: Opened(str(n)), plan, each, f"video {n}")
        for n, each in enumerate(done)
    ]
    parts = run_jobs(jobs, cluster)
    found = [(job.name, part.window.index) for job, part in parts]
    assert found == [
        *(("video 0", w) for w in range(3)),
        ("video 2", 2),
        *(("video 3", w) for w in range(3)),
    ]
    assert not open_ and [line for line in log if line.startswith("close")] == [
        "close 0",
        "close 2",
        "close 3",
    ]
    assert "open 1" not in log, "it was finished before"
    # One that ends early closes them, too.
    parts = run_jobs(jobs, cluster)
    next(parts)
    assert open_
    parts.close()
    assert not open_ and network.links[-1].closed


def test_windows_are_joined_video_by_video(network: Network, clip: Path, tmp_path: Path) -> None:
    """The seams of one must not get into the next, which has as many windows."""
    np.save(tmp_path / "other.npy", np.load(clip)[::-1])
    cluster = Cluster(ADDRESS, "window")
    plan = make_plan(30, SegmentRequest.of(TEXTS, window=8, overlap=3), cluster)
    done = dict.fromkeys(range(3), ())
    told: list[Progress] = []

    def rows(segmenter: Any, **more: Any) -> list[Any]:
        jobs = [
            VideoJob(lambda path=path: flowrvs.open_video(path), plan, done, name)
            for name, path in (("one", clip), ("two", tmp_path / "other.npy"))
        ]
        by_job: dict[str, list[WindowMasks]] = {"one": [], "two": []}
        for job, part in run_jobs(jobs, segmenter, **more):
            by_job[job.name].append(part)
        return [said(parts) for parts in by_job.values()]

    here = rows(WindowSegmenter())
    assert here[0] != here[1]
    assert rows(cluster, progress=told.append) == here
    assert {event.message.split(":")[0] for event in told} == {"one", "two"}
    assert told[-1].done == told[-1].total


def test_videos_are_taken_as_they_are_needed(network: Network, clip: Path) -> None:
    cluster = Cluster(ADDRESS, "window")
    plan = make_plan(30, SegmentRequest.of("red", window="whole", stop=9), cluster)
    taken: list[int] = []

    def jobs() -> Iterator[VideoJob]:
        for n in range(30):
            taken.append(n)
            yield VideoJob(lambda: flowrvs.open_video(clip), plan, {0: ()}, str(n))

    parts = run_jobs(jobs(), cluster)
    for n in range(5):
        assert next(parts)[0].name == str(n)
        # Two that each of two workers has, and as many for when those are done.
        assert len(taken) <= n + 1 + 8
    parts.close()
    assert len(taken) < 15


def test_a_job_that_fails_does_not_end_the_others(network: Network, clip: Path) -> None:
    cluster = Cluster(ADDRESS, "window")
    plan = make_plan(30, SegmentRequest.of("red", window=10, overlap=0), cluster)
    paths = {"one": clip, "gone": clip.with_name("gone.npy"), "two": clip}
    jobs = [
        VideoJob(lambda path=path: flowrvs.open_video(path), plan, {0: ()}, name)
        for name, path in paths.items()
    ]
    numbers = itertools.count()

    def answer(name: str, message: bytes) -> bytes:
        if next(numbers) == 1:
            return pack({"state": "failed", "kind": "VideoError", "reason": "Frame 12 is damaged."})
        return worker.answer(message)

    network.answer = answer
    failed: list[tuple[str, Exception]] = []
    parts = run_jobs(jobs, cluster, failed=lambda job, error: failed.append((job.name, error)))
    assert [(job.name, p.window.index) for job, p in parts] == [
        ("one", 0),
        *(("two", w) for w in range(3)),
    ]
    (_, gone), (name, error) = sorted(failed, key=lambda pair: pair[0])
    assert isinstance(gone, MissingPathError)
    assert (name, type(error), str(error)) == ("one", VideoError, "Frame 12 is damaged.")
    del jobs[1]
    numbers = itertools.count()
    with pytest.raises(VideoError, match=r"^Frame 12 is damaged\.$"):
        list(run_jobs(jobs, cluster))


def test_the_rest_of_a_job_that_failed_is_not_computed(network: Network, clip: Path) -> None:
    cluster = Cluster(ADDRESS, "window")
    plan = make_plan(30, SegmentRequest.of("red", window=1, overlap=0), cluster)
    jobs = [VideoJob(lambda: flowrvs.open_video(clip), plan, {0: ()}, name) for name in "ab"]
    asked: list[int] = []

    def answer(name: str, message: bytes) -> bytes:
        asked.append(len(asked))
        if len(asked) == 1:
            return pack({"state": "failed", "kind": "VideoError", "reason": "Frame 0."})
        return worker.answer(message)

    network.answer = answer
    failed: list[str] = []
    parts = list(run_jobs(jobs, cluster, failed=lambda job, _: failed.append(job.name)))
    assert failed == ["a"] and [job.name for job, _ in parts] == ["b"] * 30
    assert len(asked) < 30 + 15


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("InputError", InputError), ("", ClusterError), ("OSError", ClusterError)],
)
def test_an_error_is_one_of_ours(
    network: Network, clip: Path, kind: str, expected: type[Exception]
) -> None:
    cluster = Cluster(ADDRESS, "window")
    network.answer = lambda *_: pack({"state": "failed", "kind": kind, "reason": "So it is."})
    with pytest.raises(expected, match="So it is") as caught:
        run(clip, cluster)
    assert type(caught.value) is expected


class TestWorkers:
    """Those that end, that cannot, that come."""

    def test_one_that_ends_gives_its_tasks_back(self, network: Network, clip: Path) -> None:
        told: list[str] = []
        cluster = Cluster(ADDRESS, "window", notice=told.append)
        here = run(clip, WindowSegmenter())

        def before(count: int) -> None:
            if count == 2 and "a" in network.workers:
                network.workers = ["b"]

        network.before = before
        assert run(clip, cluster) == here
        assert told == ["The worker a has gone; frames 14 to 22 are computed again."]
        (link,) = network.links
        assert not link.waiting

    def test_a_task_that_ends_three_workers_ends_the_run(
        self, network: Network, clip: Path
    ) -> None:
        cluster = Cluster(ADDRESS, "window", notice=lambda line: None)
        names = iter("cdefgh")

        def before(count: int) -> None:
            network.workers = [next(names)]

        network.before = before
        with pytest.raises(ClusterError) as caught:
            run(clip, cluster)
        assert str(caught.value) == (
            "3 workers ended while they computed frames 0 to 8, perhaps for want of memory: give "
            "workers more, or use a smaller window."
        )
        assert next(names) == "f", "after the third, not sooner"

    def test_one_that_comes_is_used(self, network: Network, clip: Path) -> None:
        network.workers = []
        told: list[str] = []
        waited = iter([["a"]])

        get = Connection.get

        def late(self: Connection, timeout: float) -> Event | None:
            event = get(self, timeout)
            if event is None:
                network.workers = next(waited, network.workers)
            return event

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "get", late)
            cluster = Cluster(ADDRESS, "window", notice=told.append)
        assert told == [f"{ADDRESS} has no workers; waiting for one."]

        def before(count: int) -> None:
            if count == 2:
                network.workers = ["a", "b"]

        network.before = before
        run(clip, cluster)
        assert {name for name, _ in network.asked[1:]} == {"a", "b"}

    def test_waiting_for_the_first_ends(self, network: Network) -> None:
        network.workers = []
        with pytest.raises(ClusterError, match="8786 has no workers: start some, and run again"):
            Cluster(ADDRESS, "window", notice=lambda line: None, timeout=0)
        assert network.links[0].closed
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            Cluster(ADDRESS, "window", notice=lambda line: None, cancel=token)

    def test_one_that_cannot_is_left_out(self, network: Network, clip: Path) -> None:
        told: list[str] = []
        cluster = Cluster(ADDRESS, "window", notice=told.append)

        def answer(name: str, message: bytes) -> bytes:
            if name == "b":
                return pack({"state": "unfit", "reason": "it has no GPU."})
            return worker.answer(message)

        network.answer = answer
        network.asked.clear()
        assert run(clip, cluster) == run(clip, WindowSegmenter())
        assert told == ["The worker b is left out: it has no GPU."]
        assert [name for name, _ in network.asked].count("b") <= 2
        # The next run asks it again: who could not compute then may be able to now.
        network.answer = lambda _, message: worker.answer(message)
        network.asked.clear()
        run(clip, cluster)
        assert {name for name, _ in network.asked} == {"a", "b"} and len(told) == 1
        network.answer = lambda name, _: pack({"state": "unfit", "reason": f"{name} is old."})
        with pytest.raises(ClusterError) as caught:
            run(clip, cluster)
        assert str(caught.value) == "No worker can compute this: a is old; b is old."

    def test_one_that_cannot_run_flowrvs(self, network: Network, clip: Path) -> None:
        told: list[str] = []
        cluster = Cluster(ADDRESS, "window", notice=told.append)

        def before(count: int) -> Event | None:
            (link,) = network.links
            for number, (name, _) in list(link.waiting.items()):
                if name == "b":
                    del link.waiting[number]
                    return {"event": "error", "id": number, "reason": "No module"}, b""
            return None

        network.before = before
        assert run(clip, cluster) == run(clip, WindowSegmenter())
        assert told == [
            "The worker b is left out: it could not run flowrvs (No module): install the same "
            "there."
        ]

    def test_what_was_lost_on_the_way_is_asked_again(self, network: Network, clip: Path) -> None:
        cluster = Cluster(ADDRESS, "window")
        network.asked.clear()
        lost: list[int] = []

        def before(count: int) -> Event | None:
            if count == 3 and not lost:
                (link,) = network.links
                lost.append(next(iter(link.waiting)))
                del link.waiting[lost[0]]
                return {"event": "again", "id": lost[0]}, b""
            return None

        network.before = before
        assert run(clip, cluster) == run(clip, WindowSegmenter())
        asked = [header["start"] for _, header in network.asked]
        assert lost and len(asked) == len(set(asked)) + 1

    def test_one_that_does_not_see_the_file_gets_the_frames(
        self, network: Network, clip: Path
    ) -> None:
        cluster = Cluster(ADDRESS, "window")

        def answer(name: str, message: bytes) -> bytes:
            if name == "b" and unpack(message)[0]["video"] is not None:
                return pack({"state": "frames"})
            return worker.answer(message)

        network.answer = answer
        options = {"start": 4, "stop": 25, "window": 8, "overlap": 3}
        assert run(clip, cluster, **options) == run(clip, WindowSegmenter(), **options)
        network.asked[1:] = []
        options = OPTIONS["few"]
        assert run(clip, cluster, **options) == run(clip, WindowSegmenter(), **options)
        sent = [(name, header["video"] is None) for name, header in network.asked[1:]]
        assert ("b", True) in sent and ("a", True) not in sent
        assert [s for n, s in sent if n == "b"] == sorted(s for n, s in sent if n == "b")
        shapes = {tuple(h["shape"]) for _, h in network.asked[1:] if h["video"] is None}
        assert shapes == {(5, 16, 24, 3)}


class TestScheduler:
    """One that goes away."""

    @pytest.fixture
    def gone(self, network: Network) -> Network:
        events = iter([({"event": "lost"}, b"")])
        network.before = lambda count: next(events, None) if count == 3 else None
        return network

    def test_one_that_comes_back(self, gone: Network, clip: Path) -> None:
        told: list[str] = []
        cluster = Cluster(ADDRESS, "window", notice=told.append, patience=60)
        gone.refusals = iter([True, True, False])
        assert run(clip, cluster) == run(clip, WindowSegmenter())
        assert told == [
            f"The scheduler at {ADDRESS} has gone; looking for it for 60 seconds.",
            f"The scheduler at {ADDRESS} is back.",
        ]
        assert [link.closed for link in gone.links] == [True, False]

    def test_one_that_does_not(self, gone: Network, clip: Path) -> None:
        cluster = Cluster(ADDRESS, "window", notice=lambda line: None, patience=0)
        gone.refusals = itertools.repeat(True)
        with pytest.raises(ClusterError) as caught:
            run(clip, cluster)
        assert str(caught.value) == (
            f"The scheduler at {ADDRESS} has gone and did not come back; what is finished is "
            "kept, and the same command goes on from there."
        )
        assert gone.links[-1].closed

    def test_a_connection_serves_run_after_run(self, network: Network, clip: Path) -> None:
        cluster = Cluster(ADDRESS, "window")
        first, second = run(clip, cluster), run(clip, cluster)
        assert first == second and len(network.links) == 1
        token = CancelToken()
        with flowrvs.open_video(clip) as video, pytest.raises(Cancelled):
            for _ in flowrvs.segment(video, TEXTS, cluster, cancel=token):
                token.cancel()
        assert network.links[0].closed, "what was under way is taken back"
        assert run(clip, cluster) == first and len(network.links) == 2
