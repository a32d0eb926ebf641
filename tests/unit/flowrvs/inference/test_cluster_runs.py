"""Client and workers of a cluster in one process: who is given what, and what comes of it.

dask's side of it, real processes and all, is in tests/integration/cluster.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flowrvs
from flowrvs.editing import pieces, spread_together
from flowrvs.editing.pieces import Here
from flowrvs.errors import (
    Cancelled,
    ClusterError,
    DeviceMemoryError,
    InputError,
    MissingPathError,
    VideoError,
)
from flowrvs.inference import make_plan
from flowrvs.inference.cluster import Cluster, SpreadCluster, dispatch, worker
from flowrvs.inference.cluster.wire import pack, unpack
from flowrvs.inference.run import VideoJob, run_jobs
from flowrvs.progress import CancelToken, Progress
from flowrvs.records import SegmentRequest, WindowMasks
from flowrvs.store import Project
from tests.fixtures.segmenters import WindowSegmenter
from tests.fixtures.trackers import ColorTracker

ADDRESS = "tcp://127.0.0.1:8786"
TEXTS = ["the red square", "green", "a dog"]
Event = tuple[dict[str, Any], bytes]


class Network:
    """Stands where the process stands that speaks with dask: workers answer in this one.

    Attributes
    ----------
    workers : list of str
        Who is there; a test may change it at any time.
    answer : callable
        What a worker makes of a message.
    turn : callable
        Chooses, of the numbers that wait, whose answer comes next.
    before : callable, optional
        Called before every answer with the number of answers so far; may return an event.
    asked : list of (str, dict)
        Who was asked what.
    """

    def __init__(self) -> None:
        self.workers = ["a", "b"]
        self.answer: Callable[[str, bytes], bytes] = lambda _, message: worker.answer(message)
        self.turn: Callable[[Any], int] = min
        self.before: Callable[[int], Event | None] = lambda count: None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.links: list[Connection] = []
        self.refusals: Iterator[bool] = itertools.repeat(False)
        self.answers = 0

    def connect(self, scheduler: Any) -> Connection:
        if next(self.refusals):
            raise ClusterError("refused")
        self.links.append(Connection(self))
        return self.links[-1]


class Connection:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.waiting: dict[int, tuple[str, bytes]] = {}
        self.told: list[str] | None = None
        self.closed = False

    def submit(self, number: int, name: str, message: bytes) -> None:
        assert name in self.network.workers and not self.closed
        self.network.asked.append((name, unpack(message)[0]))
        self.waiting[number] = name, message
        held = [each for each, _ in self.waiting.values()]
        assert held.count(name) <= 2, "one that it computes, and the next"

    def cancel(self, numbers: list[int]) -> None:
        for number in numbers:
            del self.waiting[number]

    def get(self, timeout: float) -> Event | None:
        if self.told != self.network.workers:
            self.told = list(self.network.workers)
            return {"event": "workers", "workers": self.told}, b""
        if self.waiting and (event := self.network.before(self.network.answers)) is not None:
            return event
        if self.told != self.network.workers or not self.waiting:
            return None
        self.network.answers += 1
        number = self.network.turn(self.waiting)
        return {"event": "done", "id": number}, self.network.answer(*self.waiting.pop(number))

    def close(self) -> None:
        self.closed = True
        self.waiting.clear()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(dispatch, "Link", network.connect)
    monkeypatch.setattr(dispatch, "_TICK", 0.001)
    monkeypatch.setattr(worker, "_state", worker._State())
    monkeypatch.setattr(flowrvs, "load_segmenter", lambda name, **_: WindowSegmenter())
    # This process is no worker of dask's, whose import takes a second.
    monkeypatch.setitem(sys.modules, "distributed.worker", None)
    return network


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
    "few": {"every": 3, "start": 1, "stop": 29, "window": 5, "overlap": 2},
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


def test_a_job_that_fails_does_not_end_the_others(network: Network, clip: Path) -> None:
    cluster = Cluster(ADDRESS, "window")
    plan = make_plan(30, SegmentRequest.of("red", window=10, overlap=0), cluster)
    jobs = [
        VideoJob(lambda: flowrvs.open_video(clip), plan, {0: ()}, name) for name in ("one", "two")
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
    ((name, error),) = failed
    assert (name, type(error), str(error)) == ("one", VideoError, "Frame 12 is damaged.")
    numbers = itertools.count()
    with pytest.raises(VideoError, match=r"^Frame 12 is damaged\.$"):
        list(run_jobs(jobs, cluster))


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


class TestAnswers:
    """What a worker makes of a message."""

    @pytest.fixture(autouse=True)
    def _here(self, network: Network) -> None:
        pass

    @staticmethod
    def ask(**header: Any) -> dict[str, Any]:
        about = {"flowrvs": flowrvs.__version__, "ask": "model", "model": "x", "options": {}}
        return unpack(worker.answer(pack(about | header)))[0]

    def test_another_version_is_no_worker(self) -> None:
        assert self.ask(flowrvs="0.0.7") == {
            "state": "unfit",
            "reason": f"it has flowrvs {flowrvs.__version__}, not 0.0.7: install that",
            "blobs": [],
        }
        found = self.ask(ask="dance")
        assert (found["state"], found["reason"]) == ("unfit", "it does not know how to dance")

    @pytest.mark.parametrize(
        ("error", "state", "kind", "reason"),
        [
            (MissingPathError("Fetch it."), "unfit", None, "Fetch it."),
            (DeviceMemoryError("Too\nsmall."), "unfit", None, "Too small."),
            (MemoryError(), "unfit", None, "its memory is too small"),
            (ImportError("No module named x"), "unfit", None, "No module named x"),
            (VideoError("Frame 3\n is damaged."), "failed", "VideoError", "Frame 3 is damaged."),
            (KeyError("a"), "failed", "", "internal error, KeyError: 'a'"),
            (
                type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
                "unfit",
                None,
                "its device's memory is too small for the model",
            ),
        ],
    )
    def test_errors_are_told(
        self,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        state: str,
        kind: str | None,
        reason: str,
    ) -> None:
        def load(name: str, **_: Any) -> Any:
            raise error

        monkeypatch.setattr(flowrvs, "load_segmenter", load)
        found = self.ask()
        assert (found["state"], found.get("kind"), found["reason"]) == (state, kind, reason)

    def test_weights_are_kept_until_others_are_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded: list[Any] = []

        def load(name: str, **options: Any) -> Any:
            loaded.append((name, options))
            return WindowSegmenter()

        monkeypatch.setattr(flowrvs, "load_segmenter", load)
        self.ask()
        worker._state.limit = 5
        self.ask()
        assert loaded == [("x", {})] and worker._state.limit == 5
        self.ask(options={"memory": "low"})
        assert loaded[1:] == [("x", {"memory": "low"})]
        assert worker._state.limit is None, "of another model it is not known"
        self.ask(model="y")
        self.ask()
        assert [name for name, _ in loaded] == ["x", "x", "y", "x"]

    def test_other_weights_of_the_same_name_are_not_used(self) -> None:
        found = self.ask(ask="window", expect=["window", "abc"], start=0, stop=5)
        assert found["reason"] == "its model is window , the others' window abc"

    def test_a_few_videos_stay_open(self, tmp_path: Path) -> None:
        wanted, videos = [], []
        for n in range(5):
            np.save(tmp_path / f"{n}.npy", np.full((2, 4, 4, 3), n, np.uint8))
            with flowrvs.open_video(tmp_path / f"{n}.npy") as video:
                content = [video.info.fingerprint, *video.shape]
                wanted.append({"recipe": video.recipe, "content": content})
        state = worker._state
        assert state.video(None) is None
        videos = [state.video(each) for each in wanted[:4]]
        assert state.video(wanted[0]) is videos[0]
        fifth = state.video(wanted[4])
        with pytest.raises(VideoError, match="was closed"):
            videos[1].read(0, 1)  # that was used longest ago
        assert fifth.read(1, 2)[0, 0, 0, 0] == 4 and videos[0].read(0, 1).shape == (1, 4, 4, 3)
        np.save(tmp_path / "1.npy", np.full((2, 4, 4, 3), 9, np.uint8))
        assert state.video(wanted[1]) is None, "the same name, and other content"
        (tmp_path / "1.npy").unlink()
        assert state.video(wanted[1]) is None

    def test_a_task_that_is_no_longer_wanted_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = SimpleNamespace(state="executing")
        here = SimpleNamespace(state=SimpleNamespace(tasks={"k": task}))
        stand_in = SimpleNamespace(get_worker=lambda: here, thread_state=SimpleNamespace(key="k"))
        monkeypatch.setitem(sys.modules, "distributed.worker", stand_in)
        wanted = worker._Wanted()
        wanted.raise_if_cancelled()
        task.state = "cancelled"
        with pytest.raises(Cancelled):
            wanted.raise_if_cancelled()
        monkeypatch.setitem(sys.modules, "distributed.worker", None)
        assert not worker._Wanted().cancelled


# -- spreads ---------------------------------------------------------------------------

DRAWN = {1: (4, 14), 2: (0, 11)}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clip of two textured squares that move, and a project in which they were drawn."""
    folder = tmp_path_factory.mktemp("film")
    rng = np.random.default_rng(3)
    frames = np.repeat(rng.integers(0, 80, (1, 32, 44, 3), np.uint8), 16, axis=0)
    masks = np.zeros((2, 16, 32, 44), bool)
    for place in range(2):
        pattern = rng.integers(0, 60, (10, 10, 3), np.uint8)
        pattern[..., place] += 190
        for t in range(16 if place else 13):
            there = np.s_[4 + 15 * place : 14 + 15 * place, 2 + 2 * t : 12 + 2 * t]
            frames[t][there] = pattern
            masks[place, t][there] = True
    np.save(folder / "film.npy", frames)
    with (
        flowrvs.open_video(folder / "film.npy") as video,
        Project.create(folder / "p.flowrvs", video.info) as project,
    ):
        layer = project.add_layer("drawn")
        for object_id, keys in DRAWN.items():
            assert project.add_object(f"square {object_id}", layer.id).id == object_id
            for t in keys:
                project.write_masks(object_id, t, masks[object_id - 1, t][None])
    return folder / "film.npy", folder / "p.flowrvs"


@pytest.fixture
def drawn(film: tuple[Path, Path]) -> Iterator[Project]:
    with Project.open(film[1], read_only=True) as project:
        yield project


@pytest.mark.parametrize(
    ("method", "sent", "turn"),
    [
        ("flow", True, max),
        ("shape", False, max),
        ("copy", False, min),
        ("memory", False, max),
        ("memory", True, min),
    ],
)
def test_a_spread_is_that_of_this_process(
    network: Network,
    film: tuple[Path, Path],
    drawn: Project,
    method: str,
    sent: bool,
    turn: Callable[[Any], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flowrvs import plugins

    monkeypatch.setattr(plugins, "load_tracker", lambda name, **_: ColorTracker())
    monkeypatch.setattr(pieces, "PART", 3)
    network.turn = turn
    memory = method == "memory"
    cluster = SpreadCluster(ADDRESS, "colours" if memory else None)
    assert cluster.name == ("colours" if memory else "")

    def rows(runner: Any) -> tuple[list[Any], Any, Progress]:
        told: list[Progress] = []
        with flowrvs.open_video(np.load(film[0]) if sent else film[0]) as video:
            preview = spread_together(drawn, video, [2, 1], method=method, runner=runner, start=1)
            found = list(preview.run(progress=told.append))
        rows = [(i, p.frame, p.certainty, p.mask.tobytes()) for i, p in found if p.final]
        return rows, {i: p.lost for i, p in preview.previews.items()}, told[-1]

    here = rows(Here(tracker=ColorTracker()) if memory else Here())
    network.asked.clear()
    there = rows(cluster)
    assert there[:2] == here[:2] and len(here[0]) >= 10
    assert there[2].done == there[2].total == here[2].total
    assert {name for name, _ in network.asked} == {"a", "b"}
    if method == "flow":
        walked = {header["walked"] for _, header in network.asked}
        assert {0, 3} <= walked, "a long way goes in parts"


def test_workers_of_another_flow_are_left_out(
    network: Network, film: tuple[Path, Path], drawn: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = SpreadCluster(ADDRESS)
    ours = worker._flow()
    monkeypatch.setattr(worker, "_flow", lambda: "other")
    with flowrvs.open_video(film[0]) as video, pytest.raises(ClusterError) as caught:
        list(spread_together(drawn, video, [1], method="flow", runner=cluster).run())
    assert str(caught.value) == (
        "No worker can compute this: its tracker and flow are none and other, the others' none "
        f"and {ours}."
    )
    monkeypatch.undo()
    monkeypatch.setattr(dispatch, "Link", network.connect)
    cluster.close()
    assert network.links[-1].closed
    assert json.dumps(network.asked[-1][1]["expect"]) == f'["", "{ours}"]'


# -- encoding for a training -----------------------------------------------------------


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from tests.fixtures.micro import micro_pipeline

    folder = tmp_path_factory.mktemp("models") / "micro"
    micro_pipeline().save_pretrained(folder)
    return folder


def test_what_is_encoded_is_what_this_process_encodes(network: Network, micro: Path) -> None:
    import torch

    from flowrvs.inference.cluster.encode import EncodeCluster
    from flowrvs.pipelines.latents import FrozenEncoders

    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (5, 32, 48, 3), np.uint8)
    masks = rng.random((5, 32, 48)) > 0.5
    wanted = [{"clip": lambda: clip, "what is meant": lambda: masks}, {"other": lambda: masks[:1]}]
    here = FrozenEncoders(micro, torch.float32)
    latents = [{"clip": here.latent(clip), "what is meant": here.latent(masks)}]
    latents.append({"other": here.latent(masks[:1])})
    texts = [f"the red circle {n}" for n in range(18)]  # more than a task has
    rows = here.embed(texts, 12, True)
    cluster = EncodeCluster(ADDRESS, micro, torch.float32)
    network.turn = max
    found = list(cluster.latents(wanted))
    assert [list(each) for each in found] == [list(each) for each in latents]
    for ours, theirs in zip(found, latents, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    embedded = list(cluster.embed(texts, 12, True))
    assert len(embedded) == 18
    assert all(torch.equal(a, b) for a, b in zip(embedded, rows, strict=True))
    sizes = [len(header["texts"]) for _, header in network.asked if "texts" in header]
    assert sizes == [16, 2]
    # Other weights under the same path are not taken.
    network.answer = lambda _, message: worker.answer(
        message.replace(network.asked[0][1]["expect"][0].encode(), b"0" * 32)
    )
    with pytest.raises(ClusterError, match="has other weights than the client"):
        list(cluster.latents(wanted))


def test_what_is_no_tensor_that_was_asked_for_is_refused(network: Network, micro: Path) -> None:
    import torch
    from safetensors.torch import save

    from flowrvs.inference.cluster.encode import EncodeCluster

    good = torch.ones(16, 1, 4, 6)
    cluster = EncodeCluster(ADDRESS, micro, torch.float32)

    def ask(*blobs: bytes) -> list[Any]:
        network.answer = lambda *_: pack({"state": "done"}, blobs)
        return list(cluster.latents([{"a": lambda: np.zeros((1, 32, 48), bool)}]))

    assert torch.equal(ask(save({"0": good}))[0]["a"], good)
    for blobs in (
        [],
        [b"no tensors"],
        [save({"1": good})],
        [save({"0": good[0]})],
        [save({"0": good.half()})],
        [save({"0": good * torch.nan})],
    ):
        with pytest.raises(ClusterError, match="no message of flowrvs"):
            ask(*blobs)
