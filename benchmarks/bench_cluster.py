"""A cluster of this machine against the process alone: throughput, overhead, bytes.

    python benchmarks/bench_cluster.py [--frames 480] [--window 17] [--model tiny|numpy]
                                       [--workers 1 2] [--seconds 0.5]

A scheduler and workers are started as separate processes on 127.0.0.1. ``--model numpy`` is a
threshold that takes `--seconds` a window, as a GPU would that this machine does not have: it
waits, so that workers do not fight for the processor, and what is left is the overhead.
With ``tiny``, each process computes with `--threads` threads.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import flowrvs
from flowrvs.data.synthetic import generate_clip
from flowrvs.inference.cluster import Cluster, Scheduler
from flowrvs.inference.cluster.link import Link
from flowrvs.inference.cluster.wire import pack_frames
from flowrvs.video.encode import write_overlay
from tests.fixtures.cluster import LocalCluster
from tests.fixtures.segmenters import WindowSegmenter

_TEXTS = ["the red circle", "the blue square moving left"]


def make_clip(path: Path, frames: int) -> None:
    """Write a long clip of shots of the synthetic world."""
    shots = [generate_clip(seed, frames=33).frames for seed in range(-(-frames // 33))]
    pictures = np.concatenate(shots)[:frames]
    empty = np.zeros(pictures.shape[1:3], np.uint16)
    write_overlay(path, iter(pictures), (empty for _ in pictures), rate=30)


def run(path: Any, segmenter: Any, window: int) -> tuple[float, float, bytes]:
    """Return seconds to the first mask and to the end, and all masks."""
    start = time.perf_counter()
    first = 0.0
    said: dict[tuple[int, int], bytes] = {}
    with flowrvs.open_video(path) as video:
        parts = flowrvs.segment(video, _TEXTS, segmenter, window=window, overlap=window // 4)
        for part in parts:
            first = first or time.perf_counter() - start
            for frame, mask in zip(part.frames, part.masks, strict=True):
                said[part.expression, frame] = np.packbits(mask).tobytes()
    return first, time.perf_counter() - start, b"".join(said[key] for key in sorted(said))


class Counted:
    """Counts the bytes of requests and answers of a link."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        submit, get = Link.submit, Link.get

        def counted_submit(link: Link, number: int, worker: str, message: bytes) -> None:
            self.sent += len(message)
            submit(link, number, worker, message)

        def counted_get(link: Link, timeout: float) -> Any:
            got = get(link, timeout)
            self.received += len(got[1]) if got else 0
            return got

        Link.submit, Link.get = counted_submit, counted_get  # type: ignore[method-assign]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--window", type=int, default=17)
    parser.add_argument("--model", default="numpy")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    numpy = args.model == "numpy"
    # Once for the encoder, and for each sentence a step and a decode.
    delay = args.seconds / (1 + 2 * len(_TEXTS))
    real = {} if numpy else {"FLOWRVS_TEST_REAL": "1"}
    bytes_ = Counted()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(folder / "clip.mp4", args.frames)
        with flowrvs.open_video(folder / "clip.mp4") as video:
            frames = video.read(0, len(video))
            windows = len(flowrvs.plan_windows(len(video), args.window, args.window // 4))
        height, width = frames.shape[1:3]
        print(f"{args.frames} frames of {width}x{height}, {windows} windows of {args.window},")
        print(f"{len(_TEXTS)} sentences, model {args.model}, {args.threads} thread(s) a process")
        here: Any = WindowSegmenter(delay=delay) if numpy else flowrvs.load(args.model)
        run(folder / "clip.mp4", here, args.window)  # warm
        first, alone, expected = run(folder / "clip.mp4", here, args.window)
        print(f"process alone:          {alone:7.2f} s, first mask {first:6.2f} s")
        for workers in args.workers:
            with LocalCluster(folder) as cluster:
                for _ in range(workers):
                    cluster.start_worker(**real)
                wait_for(cluster, workers)
                options = {"delay": delay} if numpy else {"device": "cpu"}
                segmenter = Cluster(cluster.address, args.model, **options)
                run(folder / "clip.mp4", segmenter, args.window)  # the weights are there now
                sent, received = bytes_.sent, bytes_.received
                first, took, masks = run(folder / "clip.mp4", segmenter, args.window)
                assert masks == expected, "the masks differ"
                over = 1000 * (took - alone / workers) / windows
                print(
                    f"{workers} worker(s), by path:   {took:7.2f} s, first mask {first:6.2f} s, "
                    f"x{alone / took:.2f}, {over:6.1f} ms more a window than 1/{workers} of it"
                )
                asked = (bytes_.sent - sent) / args.frames
                answered = (bytes_.received - received) / args.frames
                print(f"    bytes a frame: {asked:.0f} asked, {answered:.0f} answered")
                sent = bytes_.sent
                first, took, masks = run(frames, segmenter, args.window)
                assert masks == expected, "the masks differ"
                asked = (bytes_.sent - sent) / args.frames
                print(
                    f"{workers} worker(s), frames sent:{took:6.2f} s, first mask {first:6.2f} s; "
                    f"{asked:.0f} bytes a frame of {height * width * 3}"
                )
        start = time.perf_counter()
        packed = len(pack_frames(frames[:65]))
        mb = frames[:65].nbytes / 2**20
        print(
            f"packing frames: {mb / (time.perf_counter() - start):.0f} MB/s, to "
            f"{packed / frames[:65].nbytes:.0%}"
        )


def wait_for(cluster: LocalCluster, workers: int) -> None:
    """Wait until the workers have come."""
    link = Link(Scheduler.at(cluster.address))
    while got := link.get(60):
        if len(got[0].get("workers", ())) == workers:
            break
    link.close()


if __name__ == "__main__":
    main()
