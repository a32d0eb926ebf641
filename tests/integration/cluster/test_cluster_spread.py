"""Spreading on workers in processes of their own, against this process alone."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import flowrvs
from flowrvs.cli import main
from flowrvs.editing import pieces, spread, spread_together
from flowrvs.editing.pieces import Here
from flowrvs.errors import Cancelled, ClusterError
from flowrvs.inference.cluster import SpreadCluster
from flowrvs.masks.propagate import Spread
from flowrvs.progress import CancelToken
from flowrvs.store import Project
from napari_flowrvs.correct.presenter import CorrectPresenter
from napari_flowrvs.desk import Desk
from napari_flowrvs.motion import Motion
from napari_flowrvs.source import VideoSource
from napari_flowrvs.trackers import Trackers
from tests.fixtures.cluster import LocalCluster
from tests.fixtures.trackers import ColorTracker
from tests.fixtures.without import without_models

pytest.importorskip("distributed")

#: Object, then the frames on which it was drawn.
DRAWN = {1: (4, 9, 20), 2: (0, 15)}
_SLOW = 0.15  # seconds a frame


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Two textured squares that move over a textured ground, and where they are."""
    rng = np.random.default_rng(3)
    ground = rng.integers(0, 80, (48, 64, 3), np.uint8)
    frames = np.repeat(ground[None], 24, axis=0)
    masks = np.zeros((2, 24, 48, 64), bool)
    for place, channel in enumerate((0, 1)):
        pattern = rng.integers(0, 60, (12, 12, 3), np.uint8)
        pattern[..., channel] += 190
        for t in range(24):
            there = np.s_[4 + 24 * place : 16 + 24 * place, 4 + 2 * t : 16 + 2 * t]
            if place == 0 and t > 20:
                continue  # it is gone
            frames[t][there] = pattern[:, : frames[t][there].shape[1]]
            masks[place, t][there] = True
    path = tmp_path_factory.mktemp("film") / "film.npy"
    np.save(path, frames)
    return path, masks


@pytest.fixture(scope="module")
def drawn(film: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which two objects were drawn on some frames."""
    path, masks = film
    place = tmp_path_factory.mktemp("drawn") / "drawn.flowrvs"
    with flowrvs.open_video(path) as video, Project.create(place, video.info) as project:
        layer = project.add_layer("drawn")
        for object_id, frames in DRAWN.items():
            assert project.add_object(f"square {object_id}", layer.id).id == object_id
            for t in frames:
                labels = project.labels(layer.id)
                labels[t] = np.where(masks[object_id - 1, t], object_id, labels[t])
    return place


@pytest.fixture
def copies(drawn: Path, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(drawn, tmp_path / f"{n}.flowrvs")) for n in ("here", "there")]


def written(place: Path) -> dict[int, tuple[bytes, bytes]]:
    """Return all masks of a project, and who made them."""
    with Project.open(place) as project:
        return {
            i: (project.object_mask(i, 0, 24).tobytes(), project.provenance(i).tobytes())
            for i in project.objects
        }


def rows(parts: Iterator[tuple[int, Spread]]) -> list[tuple[int, int, float, bytes]]:
    """Return all that a spread says at last, in its order."""
    return [(i, p.frame, p.certainty, p.mask.tobytes()) for i, p in parts if p.final]


def test_a_project_gets_the_same(
    two: LocalCluster,
    film: tuple[Path, np.ndarray],
    drawn: Path,
    copies: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    here, there = copies
    line = ["--method", "flow", "--json"]
    assert main(["spread", str(here), *line]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main(["spread", str(there), *line, "--scheduler", two.address]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["objects"] == expected["objects"]
    assert written(there) == written(here) != written(drawn)
    assert [row["lost"] for row in said["objects"]] == ["lost after frame 20", ""]
    with Project.open(there) as project:
        truth = film[1][1]
        found = project.object_mask(2, 0, 24)
        assert (found & truth).sum() / (found | truth).sum() > 0.9
        project.undo()  # one step of the command
        assert project.present(2).nonzero()[0].tolist() == list(DRAWN[2])


def test_a_trackers_memory_is_that_of_this_process(
    two: LocalCluster, film: tuple[Path, np.ndarray], copies: list[Path]
) -> None:
    """Two objects of one layer, in both directions; certainties and order, too."""
    runner = SpreadCluster(two.address, "colours")
    assert runner.name == "colours"
    with flowrvs.open_video(film[0]) as video, Project.open(copies[0]) as project:
        found = [
            rows(spread_together(project, video, [2, 1], runner=each, start=1).run())
            for each in (Here(tracker=ColorTracker()), runner)
        ]
        assert found[0] == found[1] and len(found[0]) == 23 - 1 + 23 - 3
        assert len({row[2] for row in found[0]}) == 2  # it is seen, or is not
        assert len({row[3] for row in found[0]}) > 20
        group = spread_together(project, video, [1, 2], runner=runner).finish()
        assert group.who is not None and group.who.startswith("colours, keys ")


def test_frames_are_sent_where_there_is_no_file(
    two: LocalCluster, film: tuple[Path, np.ndarray], copies: list[Path]
) -> None:
    frames = np.load(film[0])
    runners = SpreadCluster(two.address), SpreadCluster(two.address, "colours")
    with flowrvs.open_video(frames) as video, Project.open(copies[0]) as project:
        for method, here, there in (
            ("flow", Here(), runners[0]),
            ("memory", Here(tracker=ColorTracker()), runners[1]),
        ):
            wanted = {"method": method, "keys": {1: [9]}, "start": 6}
            found = [
                rows(spread_together(project, video, [1], runner=each, **wanted).run())
                for each in (here, there)
            ]
            assert found[0] == found[1] and len(found[0]) > 10


def test_the_client_needs_no_torch(two: LocalCluster, copies: list[Path], tmp_path: Path) -> None:
    line = ["spread", str(copies[1]), "--with", "colours", "--scheduler", two.address]
    done = without_models(f"from flowrvs.cli import main; sys.exit(main({line!r}))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Object 1, 'square 1': 21 frames" in done.stdout


def connections() -> set[int]:
    """The processes that connect this one with a cluster."""
    children = psutil.Process().children()
    return {c.pid for c in children if any(part.endswith("bridge") for part in c.cmdline())}


@pytest.mark.parametrize("tracker", [None, "colours"])
def test_the_dock_shows_the_same(
    two: LocalCluster, film: tuple[Path, np.ndarray], copies: list[Path], tracker: str | None
) -> None:
    desk, motion = Desk(), Motion()
    motion.set_source(VideoSource("film", 24, str(film[0]), None))
    trackers = Trackers(load=lambda name: ColorTracker())
    correct = CorrectPresenter(desk, motion, flowrvs.load_segmenter, trackers=trackers)
    failures: list[object] = []
    correct.job.failed.connect(failures.append)
    told: list[str] = []
    correct.job.progressed.connect(lambda event: told.append(event.message))
    shown = []
    with Project.open(copies[0]) as project:
        desk.set_project(project)
        desk.set_object(2)
        if tracker is not None:
            trackers.choose(tracker)
        before = connections()
        for address in (None, two.address):
            correct.spread("both", address)
            assert not failures and correct.preview is not None
            assert connections() <= before, "ended in the job: who keeps a preview need not wait"
            shown.append({t: correct.preview.mask(t).tobytes() for t in correct.preview.frames})
            correct.discard()
        desk.set_project(None)
    assert shown[0] == shown[1] and len(shown[0]) == 22
    assert told.count(f"Asking the cluster at {two.address}") == 1
    motion.close()


def test_a_killed_worker_costs_its_pieces_alone(
    cluster: LocalCluster, film: tuple[Path, np.ndarray], copies: list[Path]
) -> None:
    workers = [cluster.start_worker(FLOWRVS_TEST_DELAY=str(_SLOW)) for _ in range(2)]
    cluster.wait_for_workers()
    told: list[str] = []
    runner = SpreadCluster(cluster.address, notice=told.append)
    with flowrvs.open_video(film[0]) as video, Project.open(copies[0]) as project:
        here = rows(spread_together(project, video, [1], method="flow").run())
        there = []
        for part in spread_together(project, video, [1], method="flow", runner=runner).run():
            if not there:
                workers[0].send_signal(signal.SIGKILL)
            there += rows(iter([part]))
    assert there == here
    gone = [line for line in told if "has gone" in line]
    assert 1 <= len(gone) <= 2  # one that it computed, one that waited
    assert all("are computed again" in line for line in gone)


def test_a_long_way_streams_and_a_killed_worker_costs_one_part(
    cluster: LocalCluster,
    film: tuple[Path, np.ndarray],
    copies: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One key: three parts, each of which begins with what the one before has learnt."""
    monkeypatch.setattr(pieces, "PART", 6)
    workers = [cluster.start_worker(FLOWRVS_TEST_DELAY=str(_SLOW)) for _ in range(2)]
    cluster.wait_for_workers()
    told: list[str] = []
    heard: list[int] = []
    runner = SpreadCluster(cluster.address, notice=told.append)
    frames = np.load(film[0])
    with flowrvs.open_video(film[0]) as video, Project.open(copies[0]) as project:
        wanted = {"keys": {2: [0]}, "stop": 15, "method": "flow"}
        here = rows(spread_together(project, video, [2], **wanted).run())
        there = []
        group = spread_together(project, video, [2], runner=runner, **wanted)
        for part in group.run(progress=lambda event: heard.append(event.done)):
            if len(there) == 6:
                workers[0].send_signal(signal.SIGKILL)
            there += rows(iter([part]))
    assert there == here and [row[1] for row in there] == list(range(1, 15))
    assert heard == [6, 12, 14]
    assert len([line for line in told if "are computed again" in line]) <= 1
    with flowrvs.open_video(frames) as video, Project.open(copies[0]) as project:  # sent
        group = spread_together(project, video, [2], runner=runner, **wanted)
        assert rows(group.run()) == here


def test_cancelling_stops_the_worker_within_a_frame(
    cluster: LocalCluster, film: tuple[Path, np.ndarray], copies: list[Path]
) -> None:
    cluster.start_worker(FLOWRVS_TEST_DELAY="1.5")
    token = CancelToken()
    runner = SpreadCluster(cluster.address)
    with flowrvs.open_video(film[0]) as video, Project.open(copies[0]) as project:
        preview = spread(project, video, 2, keys=[0], stop=15, runner=runner)  # 21 seconds
        parts = preview.run(token)
        threading.Timer(2.0, token.cancel).start()
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            next(parts)
        stopped = time.monotonic() - begun
        again = spread(project, None, 1, method="copy", keys=[4], stop=4, start=3, runner=runner)
        assert again.finish().frames == (3,)
    assert stopped < 2 + 5
    assert time.monotonic() - begun < 15  # the only worker was free again


def test_workers_that_cannot_are_told_of_in_one_line(
    cluster: LocalCluster, copies: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.start_worker(FLOWRVS_TEST_VERSION="0.0.7")
    cluster.start_worker(FLOWRVS_TEST_LACKS="colours")
    cluster.wait_for_workers()
    line = ["spread", str(copies[1]), "--with", "colours", "--scheduler", cluster.address]
    before = written(copies[1])
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "it has flowrvs 0.0.7" in said and "No tracker 'colours'" in said
    assert said.strip().splitlines()[-1].count("No worker can compute this") == 1
    assert main([*line[:2], "--method", "copy", "--scheduler", cluster.address]) == 0
    assert written(copies[1]) != before


def test_a_scheduler_that_stays_away_keeps_what_is_written(
    cluster: LocalCluster, film: tuple[Path, np.ndarray], copies: list[Path]
) -> None:
    cluster.start_worker(FLOWRVS_TEST_DELAY=str(_SLOW))
    runner = SpreadCluster(cluster.address, notice=lambda line: None, patience=1)
    with flowrvs.open_video(film[0]) as video, Project.open(copies[0]) as project:
        preview = spread(project, video, 1, runner=runner)
        parts = preview.run()
        next(parts)
        cluster.scheduler.kill()
        with pytest.raises(
            ClusterError, match="did not come back; .* the same command begins anew"
        ):
            list(parts)
        assert set(preview.frames) >= {0, 1, 2, 3}  # a piece with one key comes first
        assert preview.accept().tolist() == list(preview.frames)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--scheduler", "tcp://192.0.2.7:8786"], "not encrypted"),
        (["--scheduler", "nowhere"], "no address of a scheduler"),
    ],
)
def test_bad_addresses_are_one_line(
    copies: list[Path], words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spread", str(copies[0]), *words]) == 2
    caught = capsys.readouterr().err
    assert line in caught and caught.count("\n") == 1
