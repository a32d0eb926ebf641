"""Export many videos: memory by number of videos, time by number of threads.

Run ``python benchmarks/bench_export.py [--videos 100] [--frames 100] [--height 480]``; as large
as that it takes minutes and 25 GB of disk: run it in the background, each result is printed
when it is there. Every export runs in a process of its own; what counts are the ratios. The
pictures are noise, which is the worst that a JPEG can be asked for.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import flowrvs
from flowrvs.data import export_projects
from flowrvs.store import Project


def make(folder: Path, count: int, frames: int, height: int) -> list[Path]:
    """Make projects of clips that are stored as arrays, two moving objects each."""
    paths = []
    width = height * 16 // 9
    rows, columns = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    for number in range(count):
        clip = folder / f"clip{number:03}.npy"
        data = np.lib.format.open_memmap(
            clip, mode="w+", dtype=np.uint8, shape=(frames, height, width, 3)
        )
        texture = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        for t in range(frames):
            data[t] = np.roll(texture, t, axis=1)
        data.flush()
        del data
        with flowrvs.open_video(clip) as video:
            info = video.info
        with Project.create(folder / f"p{number:03}", info) as project:
            project.history.limit_bytes = -1
            for text in ("one", "two"):
                project.add_prompt(text)
            for t in range(frames):
                for key in (1, 2):
                    x, y = (t * 7 * key) % width, height * key // 3
                    mask = (rows - y) ** 2 + (columns - x) ** 2 < (height // 6) ** 2
                    project.write_model(project.objects[key].layer, key, t, mask[None])
            paths.append(project.path)
    return paths


def run(paths: list[Path], jobs: int) -> dict[str, float]:
    """Export in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--child", out, str(jobs), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peak() -> float:
    """Return the most memory that this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # there, `ru_maxrss` begins with that of the parent
        held = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(held["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(out: str, jobs: int, paths: list[str]) -> None:
    """Export and report the time and the most memory that was used."""
    start, busy = time.perf_counter(), time.process_time()
    export_projects(paths, out, jobs=jobs)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "seconds of the processor": busy, "MiB": peak()}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--height", type=int, default=240)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = make(Path(folder), args.videos, args.frames, args.height)
        fifth = paths[: max(1, args.videos // 5)]
        few = told(f"{len(fifth)} videos, two threads", run(fifth, 2))
        many = told(f"{len(paths)} videos, two threads", run(paths, 2))
        alone = told(f"{len(paths)} videos, one thread", run(paths, 1))
    more = len(paths) / len(fifth)
    print(f"{more:.0f} times the videos: memory x{many['MiB'] / few['MiB']:.2f}", end=", ")
    print(f"time x{many['seconds'] / few['seconds']:.1f}")
    print(f"time of one thread / two threads: {alone['seconds'] / many['seconds']:.2f}")


def told(what: str, found: dict[str, float]) -> dict[str, float]:
    """Print a result at once."""
    numbers = ", ".join(f"{value:.0f} {name}" for name, value in found.items())
    print(f"{what}: {numbers}", flush=True)
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        child(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    else:
        main()
