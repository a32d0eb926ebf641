"""What a cluster's worker answers: windows, spreads, and what a training has encoded."""

from __future__ import annotations

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
    MissingPathError,
    VideoError,
)
from flowrvs.inference.cluster import SpreadCluster, dispatch, worker
from flowrvs.inference.cluster.wire import pack, unpack
from flowrvs.progress import Progress
from flowrvs.store import Project
from tests.fixtures.network import ADDRESS, Network
from tests.fixtures.segmenters import WindowSegmenter
from tests.fixtures.trackers import ColorTracker


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

    def test_a_worker_without_a_tracker_says_so(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path))
        for name in ("", "classical"):
            found = self.ask(ask="tracker", tracker=name)
            assert (found["state"], found["reason"]) == (
                "unfit",
                "It has no tracker: fetch one there (flowrvs models list).",
            )
        found = self.ask(ask="tracker", tracker=None)
        assert (found["state"], found["name"]) == ("done", "")

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
    for _, header in network.asked:
        assert (header["model"], header["dtype"]) == (str(micro.resolve()), "float32")
        assert header["mixed"] is False and len(header["expect"]) == 2
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
