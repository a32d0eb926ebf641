"""SIGKILL at random moments of a run, of its client or its workers, and what comes of it.

    python benchmarks/kill_and_resume.py [--kills 8] [--seed 0] [--model window|tiny] [--where all]

`flowrvs segment` is killed again and again, at moments that are drawn by chance, until as many
kills as asked for have hit and the run has finished; then its project is compared with that of a
run that nobody disturbed: masks, provenance, confidence, and how far windows disagreed, to the
bit. ``--where here`` kills a process that computes by itself, ``client`` one that uses a cluster,
``worker`` the workers of one (a new one comes for each). ``window`` is a threshold in numpy that
waits a little in each window; ``tiny`` is the bundled model, here alone.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from flowrvs.data.synthetic import generate_clip
from flowrvs.store import Project
from tests.fixtures.cluster import LocalCluster

_RUN = (
    "import os, sys\n"
    "from tests.fixtures import cluster\n"
    "if not os.environ.get('FLOWRVS_TEST_REAL'): cluster._preload()\n"
    "from flowrvs.cli import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


class Bench:
    """A clip, the answer of an undisturbed run, and the means to disturb others."""

    def __init__(self, folder: Path, model: str, seed: int, frames: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.model = model
        self.env = {**os.environ, "FLOWRVS_TEST_DELAY": "0.03"}
        if model != "window":
            self.env["FLOWRVS_TEST_REAL"] = "1"
        self.clip = folder / "clip.npy"
        if model == "window":  # noise: every window has its own opinion
            pictures = np.random.default_rng(seed).integers(0, 256, (frames, 48, 64, 3), np.uint8)
        else:
            pictures = generate_clip(5, frames=frames).frames
        np.save(self.clip, pictures)

    def start(self, project: Path, *more: str) -> subprocess.Popen[bytes]:
        """Start a run, or go on with it."""
        line = ["segment", str(self.clip), "-p", "the red circle", "-p", "green", "--no-cuts"]
        line += ["--out", str(project), "--model", self.model, "--confidence", *more]
        return subprocess.Popen(
            [sys.executable, "-c", _RUN, *line],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def undisturbed(self) -> tuple[Path, float]:
        """Run it once without kills; return the project and the seconds that it took."""
        project, start = self.folder / "undisturbed.flowrvs", time.monotonic()
        if self.start(project).wait():
            raise SystemExit("the run that nobody disturbs failed")
        return project, time.monotonic() - start

    def wait(self, seconds: float, process: subprocess.Popen[bytes]) -> bool:
        """Return whether it still runs after a while."""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill_clients(self, name: str, kills: int, longest: float, *more: str) -> tuple[Path, int]:
        """Kill the client until the run is complete."""
        hits, number = 0, 0
        project = self.folder / f"{name}-0.flowrvs"
        while True:
            process = self.start(project, *more)
            if hits < kills and self.wait(self.dice.uniform(0.2, longest), process):
                process.send_signal(signal.SIGKILL)
                process.wait()
                hits += 1
                continue
            if process.wait():
                raise SystemExit(f"{name}: the run failed after {hits} kills")
            if hits >= kills:
                return project, hits
            number += 1  # it was over before: another one
            project = self.folder / f"{name}-{number}.flowrvs"


def same(one: Path, other: Path) -> bool:
    """Whether two projects say the same of every frame."""
    with Project.open(one, read_only=True) as a, Project.open(other, read_only=True) as b:
        if {i: o.name for i, o in a.objects.items()} != {i: o.name for i, o in b.objects.items()}:
            return False
        for i, drawn in a.objects.items():
            count = a.video.frame_count
            pairs = [
                (p.object_mask(i, 0, count), p.provenance(i), p.areas(i), p.disagreement(i))
                + (p.confidence(drawn.layer, 0, count),)
                for p in (a, b)
            ]
            for mine, theirs in zip(*pairs, strict=True):
                if np.asarray(mine).tobytes() != np.asarray(theirs).tobytes():
                    return False
        return [sorted(r.done) for r in a.runs.values()] == [
            sorted(r.done) for r in b.runs.values()
        ]


def main() -> None:
    """Disturb runs in every way, compare, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--model", choices=("window", "tiny"), default="window")
    parser.add_argument("--where", choices=("all", "here", "client", "worker"), default="all")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), args.model, args.seed, args.frames)
        expected, took = bench.undisturbed()
        print(f"undisturbed: {took:.1f} s", flush=True)

        def tell(what: str, project: Path, hits: int) -> None:
            nonlocal failed
            equal = same(expected, project)
            failed |= not equal
            print(f"{what}: {hits} kills, {'equal to the bit' if equal else 'OTHER'}", flush=True)

        if args.where in ("all", "here"):
            tell("here", *bench.kill_clients("here", args.kills, took))
        if args.where != "here" and args.model == "window":
            logs = Path(name) / "logs"
            logs.mkdir()
            with LocalCluster(logs) as cluster:
                workers = [cluster.start_worker(**bench.env) for _ in range(2)]
                to = ("--scheduler", cluster.address)
                if args.where in ("all", "client"):
                    tell("client", *bench.kill_clients("client", args.kills, took, *to))
                if args.where in ("all", "worker"):
                    project, hits = Path(name) / "worker.flowrvs", 0
                    while hits < args.kills:
                        process = bench.start(project, "--again", *to)
                        while hits < args.kills and bench.wait(
                            bench.dice.uniform(1.0, 4.0), process
                        ):
                            victim = bench.dice.randrange(2)
                            workers[victim].send_signal(signal.SIGKILL)
                            workers[victim].wait()
                            workers[victim] = cluster.start_worker(**bench.env)
                            hits += 1
                        if process.wait():
                            # Three workers in a row ended with one window: the run says so.
                            print("worker: the run stopped, and goes on", flush=True)
                            if bench.start(project, *to).wait():
                                raise SystemExit("worker: the run failed")
                    tell("worker", project, hits)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
