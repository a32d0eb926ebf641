"""A dask scheduler and workers in processes of their own, against this process alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowrvs
from flowrvs.cli import main
from flowrvs.errors import Cancelled, ClusterError, InputError, MissingPathError
from flowrvs.inference.cluster import Cluster, Scheduler
from flowrvs.progress import CancelToken
from flowrvs.records import WindowMasks
from flowrvs.store import Project
from tests.fixtures.cluster import LocalCluster, free_port
from tests.fixtures.segmenters import WindowSegmenter
from tests.fixtures.without import without_models

pytest.importorskip("distributed")

Masks = dict[tuple[int, int], tuple[Any, ...]]
TEXTS = ["the red square", "green", "a dog"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of noise, in which every window has its own opinion."""
    frames = np.random.default_rng(13).integers(0, 256, (40, 32, 48, 3), np.uint8)
    path = tmp_path_factory.mktemp("clip") / "clip.npy"
    np.save(path, frames)
    return path


@pytest.fixture(scope="module")
def windows(two: LocalCluster) -> Cluster:
    """A model on the two; one connection serves run after run."""
    return Cluster(two.address, "window")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A scheduler with a worker that has real models: importing torch takes it a while."""
    pytest.importorskip("torch")
    with LocalCluster(tmp_path_factory.mktemp("real")) as cluster:
        threads = os.environ["OMP_NUM_THREADS"]
        cluster.start_worker(FLOWRVS_TEST_REAL="1", OMP_NUM_THREADS=threads)
        yield cluster


def by_frame(parts: list[WindowMasks]) -> Masks:
    """Return all that is said of a frame, by sentence and frame; each once."""
    frames: Masks = {}
    for part in parts:
        for n, mask in enumerate(part.masks):
            key = part.expression, part.start + n
            assert key not in frames
            sure = None if part.confidence is None else part.confidence[n].tobytes()
            assert part.disagreement is not None
            last = part.complete and n == len(part.masks) - 1
            frames[key] = mask.tobytes(), sure, part.disagreement[n].tobytes(), last
    return frames


def run(path: Any, segmenter: Any, **options: Any) -> Masks:
    with flowrvs.open_video(path) as video:
        return by_frame(list(flowrvs.segment(video, TEXTS, segmenter, **options)))


@pytest.mark.parametrize(
    "options",
    [
        {"keep_confidence": True, "threshold": -0.05},
        {"window": "whole"},
    ],
    ids=["confidence", "whole"],
)
def test_masks_are_those_of_this_process(
    windows: Cluster, clip: Path, options: dict[str, Any]
) -> None:
    here = run(clip, WindowSegmenter(), **options)
    assert len({value[0] for value in here.values()}) > 10
    there = run(clip, windows, **options)
    assert there == here


def test_frames_are_sent_where_a_worker_does_not_see_them(
    windows: Cluster, clip: Path, tmp_path: Path
) -> None:
    """An array has no file; a worker that sees another file under the path says so."""
    frames = np.load(clip)
    expected = run(clip, WindowSegmenter())
    assert run(frames, windows) == expected
    moved = tmp_path / "clip.npy"
    np.save(moved, frames)
    with flowrvs.open_video(moved) as video:
        np.save(tmp_path / "other.npy", 255 - frames)
        os.replace(tmp_path / "other.npy", moved)  # the one that is open stays as it was
        parts = list(flowrvs.segment(video, TEXTS, windows))
    assert by_frame(parts) == expected


def test_a_project_gets_the_same_and_goes_on(
    two: LocalCluster, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["segment", str(clip), "-p", "red", "--out", str(tmp_path / "p"), "--model", "window"]
    line += ["--scheduler", two.address.removeprefix("tcp://")]
    assert main([*line, "--window", "9", "--overlap", "2"]) == 0
    assert "window 6 of 6" in capsys.readouterr().err
    assert main([*line, "--window", "9", "--overlap", "2"]) == 0
    assert "Everything was finished before" in capsys.readouterr().out
    with Project.open(tmp_path / "p.flowrvs") as project, flowrvs.open_video(clip) as video:
        (drawn,) = project.objects.values()
        here = list(flowrvs.segment(video, ["red"], WindowSegmenter(), window=9, overlap=2))
        for part in here:
            there = project.object_mask(drawn.id, part.start, part.stop)
            np.testing.assert_array_equal(there, part.masks)


def test_many_videos_get_a_project_each(
    two: LocalCluster, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.npy"
    np.save(other, np.load(clip)[::-1])
    line = ["segment", str(clip), str(other), "-p", "red", "--out", str(tmp_path / "all")]
    line += ["--model", "window", "--window", "9", "--every", "2", "--scheduler", two.address]
    assert main(line) == 0
    assert "2 of 2 videos finished" in capsys.readouterr().out
    for path in (clip, other):
        place = tmp_path / "all" / f"{path.stem}.flowrvs"
        with Project.open(place) as project, flowrvs.open_video(path) as video:
            for part in flowrvs.segment(video, "red", WindowSegmenter(), window=9, every=2):
                there = project.object_mask(1, part.start, part.stop)[:: part.step]
                np.testing.assert_array_equal(there, part.masks)


def test_a_split_is_predicted_over_many_videos(
    two: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flowrvs.data.synthetic import write_split
    from flowrvs.evaluation import predict_split

    split = tmp_path / "split"
    assert len(list(write_split(split, videos=3, seed=5, frames=20, expressions=2))) == 3
    here = predict_split(split, tmp_path / "here", WindowSegmenter(), window=9, overlap=2)
    line = ["predict", str(split), "--out", str(tmp_path / "there"), "--model", "window"]
    line += ["--window", "9", "--overlap", "2", "--scheduler", two.address]
    assert main(line) == 0
    assert "3 videos" in capsys.readouterr().out
    mine, theirs = (
        {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*.png"))}
        for root in (here.out, tmp_path / "there")
    )
    assert len(mine) > 50 and mine == theirs


def test_the_client_needs_no_torch(two: LocalCluster, clip: Path, tmp_path: Path) -> None:
    line = ["segment", str(clip), "-p", "red", "--out", "p", "--model", "window"]
    line += ["--scheduler", two.address, "--json"]
    done = without_models(f"from flowrvs.cli import main; sys.exit(main({line!r}))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"computed": 6' in done.stdout


def test_the_bundled_model_gives_the_same_masks(real: LocalCluster, shapes_mp4: Path) -> None:
    with flowrvs.open_video(shapes_mp4) as video:
        here = list(flowrvs.segment(video, TEXTS[:1], flowrvs.load(device="cpu")))
        there = list(flowrvs.segment(video, TEXTS[:1], Cluster(real.address, device="cpu")))
    assert by_frame(there) == by_frame(here)
    assert any(part.masks.any() for part in here)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_trainings_cache_is_that_of_this_process(
    real: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    """The same files with the same bytes: latents of clips and masks, embeddings of sentences."""
    import torch
    from safetensors.torch import load_file

    from flowrvs.training.encoded import ClipEncoder
    from tests.fixtures.micro import micro_pipeline
    from tests.fixtures.training_data import make_mevis

    micro_pipeline().save_pretrained(tmp_path / "micro")
    split = make_mevis(tmp_path / "mevis")
    line = ["train", "flow", "--model", str(tmp_path / "micro"), "--data", str(split)]
    line += ["--device", "cpu", "--max-steps", "1", "--set", "frames=5", "batch_size=2"]
    line += ["cache_variants=2", "validation_share=0", "workers=0", f"precision={precision}"]
    there = ["--scheduler", real.address, "--out", str(tmp_path / "b")]
    assert main([*line, *there]) == 2
    assert "give a folder for it with --cache" in capsys.readouterr().err
    there += ["--cache", str(tmp_path / "there")]
    assert main([*line, "--out", str(tmp_path / "a"), "--cache", str(tmp_path / "here")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(ClipEncoder, "latent")  # nothing is encoded here
        assert main([*line, *there]) == 0
    here, there_ = (
        {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*.safetensors"))}
        for root in (tmp_path / "here", tmp_path / "there")
    )
    kinds = [str(path).split("-")[0] for path in here]
    assert kinds.count("latents") >= 3 and kinds.count("embeddings") >= 3
    assert there_ == here
    latents = (tmp_path / "there").glob("latents-*/*/*.safetensors")
    in_16_bits = [
        torch.equal(value, value.bfloat16().float())
        for value in (load_file(path)["latent"] for path in latents)
    ]
    assert all(in_16_bits) if precision == "mixed" else not any(in_16_bits)


def test_a_killed_worker_costs_its_windows_alone(cluster: LocalCluster, clip: Path) -> None:
    workers = [cluster.start_worker(), cluster.start_worker()]
    told: list[str] = []
    segmenter = Cluster(cluster.address, "window", notice=told.append, delay=0.05)
    with flowrvs.open_video(clip) as video:
        parts = []
        for part in flowrvs.segment(video, TEXTS, segmenter):
            if not parts:
                workers[0].send_signal(signal.SIGKILL)
            parts.append(part)
    assert by_frame(parts) == run(clip, WindowSegmenter())
    gone = [line for line in told if "has gone" in line]
    assert 1 <= len(gone) <= 2  # one that it computed, one that waited
    assert all("are computed again" in line for line in gone)


def test_a_scheduler_that_returns_finds_the_run_going_on(cluster: LocalCluster, clip: Path) -> None:
    cluster.start_worker()
    told: list[str] = []
    segmenter = Cluster(cluster.address, "window", notice=told.append, patience=30, delay=0.03)
    with flowrvs.open_video(clip) as video:
        parts = []
        for part in flowrvs.segment(video, TEXTS, segmenter):
            if not parts:
                cluster.scheduler.kill()
                cluster.scheduler.wait()
                cluster.start_scheduler()
                cluster.start_worker()
            parts.append(part)
    assert by_frame(parts) == run(clip, WindowSegmenter())
    told = [line for line in told if "no workers" not in line]
    assert len(told) == 2 and "has gone; looking for it" in told[0] and "is back" in told[1]


def test_a_scheduler_that_stays_away_ends_the_run(cluster: LocalCluster, clip: Path) -> None:
    cluster.start_worker()
    segmenter = Cluster(cluster.address, "window", notice=lambda line: None, patience=1, delay=0.03)
    with flowrvs.open_video(clip) as video:
        parts = flowrvs.segment(video, TEXTS, segmenter)
        next(parts)
        cluster.scheduler.kill()
        with pytest.raises(ClusterError, match="did not come back.*the same command goes on"):
            list(parts)


def test_workers_that_cannot_are_left_out(cluster: LocalCluster, clip: Path) -> None:
    told: list[str] = []
    cluster.start_worker(FLOWRVS_TEST_VERSION="0.0.7")
    cluster.start_worker(FLOWRVS_TEST_LACKS="window")
    cluster.wait_for_workers()
    with pytest.raises(ClusterError) as caught:
        Cluster(cluster.address, "window", notice=told.append)
    said = " ".join([*told, str(caught.value)])
    assert "it has flowrvs 0.0.7" in said and "not on this machine: fetch it" in said
    assert "No worker can compute this" in str(caught.value) and "\n" not in str(caught.value)
    cluster.start_worker(FLOWRVS_TEST_NO_MEMORY="1")
    cluster.wait_for_workers()
    with pytest.raises(ClusterError, match="No worker can compute this: .*too small"):
        run(clip, Cluster(cluster.address, "window", notice=told.append))
    cluster.start_worker()
    cluster.wait_for_workers()
    del told[:]
    segmenter = Cluster(cluster.address, "window", notice=told.append)
    assert run(clip, segmenter) == run(clip, WindowSegmenter())
    assert told and all("is left out" in line for line in told)


def test_what_a_worker_pickles_is_not_unpickled(
    cluster: LocalCluster, clip: Path, tmp_path: Path
) -> None:
    """A worker that answers with an object which runs code runs none of it here."""
    mark = tmp_path / "code-ran"
    cluster.start_worker(FLOWRVS_TEST_EVIL=str(mark))
    with pytest.raises(ClusterError, match="could not run flowrvs"):
        Cluster(cluster.address, "window")
    # It did where it was told to: in a process that unpickles as dask does.
    code = f"from distributed import Client; c = Client({cluster.address!r}); "
    code += "from flowrvs.inference.cluster.worker import answer; "
    code += "c.submit(answer, b'', pure=False).result()"
    assert not mark.exists()
    subprocess.run([sys.executable, "-c", code], cwd=flowrvs.__path__[0] + "/..", timeout=60)
    assert mark.exists()


def test_cancelling_while_waiting_for_a_worker(cluster: LocalCluster) -> None:
    token = CancelToken()
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        token.cancel()

    with pytest.raises(Cancelled):
        Cluster(cluster.address, "window", notice=tell, cancel=token)
    assert told == [f"{cluster.address} has no workers; waiting for one."]
    with pytest.raises(ClusterError, match="has no workers: start some"):
        Cluster(cluster.address, "window", notice=told.append, timeout=0.5)


def test_tls_with_right_and_wrong_certificates(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "theirs")
    logs = tmp_path / "logs"
    logs.mkdir()
    with LocalCluster(logs, tls=ours) as cluster:
        cluster.start_worker()
        line = ["segment", str(clip), "-p", "red", "--model", "window", "--out"]
        line += [str(tmp_path / "p"), "--scheduler", cluster.address]
        files = {
            name: [f"--tls-{n}={path}" for n, path in made.items()]
            for name, made in (("ours", ours), ("theirs", theirs))
        }
        assert main([*line, *files["theirs"]]) == 2
        said = capsys.readouterr().err
        assert "cannot be reached" in said and "certificate" in said.lower()
        assert said.strip().count("\n") == 0
        assert main([*line, *files["ours"]]) == 0


def make_certificates(folder: Path) -> dict[str, Path]:
    """Run what docs/cluster.md says, word for word."""
    docs = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"
    script = docs.read_text().split("```sh\n# certificates", 1)[1].split("```", 1)[0]
    folder.mkdir()
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True, capture_output=True)
    return {
        "ca": folder / "ca.pem",
        "cert": folder / "cluster.pem",
        "key": folder / "cluster-key.pem",
    }


@pytest.mark.parametrize(
    "address", ["tcp://192.0.2.7:8786", "192.0.2.7:8786", "tcp://no-such-host.invalid:8786"]
)
def test_an_unencrypted_way_is_refused_beyond_this_machine(address: str) -> None:
    with pytest.raises(InputError, match="not encrypted.*--insecure"):
        Scheduler.at(address)
    assert Scheduler.at(address, insecure=True).address.endswith(":8786")


@pytest.mark.parametrize("address", ["", "tcp://:1", "http://a:1", "tls://a", "a:b", "tls://u@h:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="no address of a scheduler"):
        Scheduler.at(address)


def test_a_certificate_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match="none.pem"):
        Scheduler.at("tls://gpu-server:8786", tls_ca=str(tmp_path / "none.pem"))


def test_nobody_there_is_one_line(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = Scheduler.at(f"127.0.0.1:{free_port()}", timeout=1)
    with pytest.raises(ClusterError, match="cannot be reached"):
        Cluster(scheduler, "window")
