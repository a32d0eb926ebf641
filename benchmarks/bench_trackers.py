"""Clicks and memory of SAM 2 without its weights: how long they take, and that memory stays.

``python benchmarks/bench_trackers.py latency`` makes the stock SAM 2.1 tiny, or with ``--size``
small, at its full size with random weights (the time does not depend on them) and prints the
median seconds of encoding a 480p frame, of clicks, and of a frame of `follow` after one key frame
when the memory is full (seven frames): as a person waits, and of the processor,
which on a busy machine say more. One thread, unless ``OMP_NUM_THREADS`` says otherwise.

``python benchmarks/bench_trackers.py memory [--frames 2000]`` follows an object with a tiny
random model and prints, every 200 frames, the resident memory of the process, the tensors that
are alive, and what ``Memory`` holds; ``--stock`` does the same in a session of transformers, which
keeps everything. The frames are made when they are read.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from flowrvs.models.sam2 import Memory, Sam2Tracker  # noqa: E402
from flowrvs.protocols import Mark  # noqa: E402
from tests.fixtures.sam_models import clip, disc, random_model  # noqa: E402

#: Of the picture encoder (Hiera), as published.
_BLOCKS = {"tiny": [1, 2, 7, 2], "small": [1, 2, 11, 2]}
_GLOBAL = {"tiny": [5, 7, 9], "small": [7, 10, 13]}


def published(size: str) -> Sam2Tracker:
    """Make SAM 2.1 of a size with random weights."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "blocks_per_stage": _BLOCKS[size],
        "global_attention_blocks": _GLOBAL[size],
    }
    vision = {"model_type": "sam2_vision_model", "backbone_config": backbone}
    config = transformers.Sam2VideoConfig(vision_config=vision)
    network = transformers.Sam2VideoModel(config).eval().requires_grad_(False)
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"SAM 2.1 {size}: {count / 1e6:.1f} M parameters, {torch.get_num_threads()} threads")
    return Sam2Tracker(network, size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def tell(what: str, work: Callable[[], object], times: int = 3) -> None:
    """Print the median seconds of `work`."""
    waited, computed = [], []
    for _ in range(times):
        begin, used = time.perf_counter(), time.process_time()
        work()
        waited.append(time.perf_counter() - begin)
        computed.append(time.process_time() - used)
    wall, cpu = statistics.median(waited), statistics.median(computed)
    print(f"{what:34} {wall:7.2f} s waited, {cpu:6.2f} s of the processor", flush=True)


def latency(size: str) -> None:
    """Print the seconds of what a person waits for."""
    tracker = published(size)
    frames = clip(12, 480, 854)
    point = Mark.point(200, 240)
    tell("first click, encoder included", lambda: tracker.pick(tracker.encode(frames[0]), [point]))
    encoded = tracker.encode(frames[0])
    tell("later click", lambda: tracker.pick(encoded, [point], np.zeros((480, 854), np.float32)), 5)
    run = tracker.follow(frames.__getitem__, {0: {1: disc(0, 480, 854)}}, range(12))
    for index in range(8):  # until the memory has its seven frames
        next(run)
        print(f"\rframe {index}", end="", flush=True)
    print("\r", end="")
    tell("a frame by memory, one object", lambda: next(run))


def live_bytes() -> int:
    """Return the bytes of all tensors that are alive."""
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), torch.Tensor)
    }
    return sum(storages.values())


def memory(count: int, *, stock: bool) -> None:
    """Print what is held while an object is followed."""
    network = random_model("sam2")
    tracker = Sam2Tracker(network, "random", (0.5,) * 3, (0.5,) * 3)
    noise = clip(8)
    keys = {0: {1: disc(0)}, count // 2: {1: disc(0)}}
    held = Memory()

    def read(index: int) -> np.ndarray:
        return np.roll(noise[index % 8], index, axis=1)

    if stock:
        session: Any = tracker._session(read, keys, count, None)
        run = ((index, network(session, frame_idx=index)) for index in range(count))
        sizes = [
            outputs["non_cond_frame_outputs"] for outputs in session.output_dict_per_obj.values()
        ]
    else:
        run = tracker.follow(read, keys, range(count), memory=held)
        sizes = []
    process = psutil.Process()
    print("frame  resident MB  tensors MB  frames remembered")
    for index, _ in run:
        if (index + 1) % 200 == 0:
            kept = max(map(len, sizes or held.frames.values()))
            resident = process.memory_info().rss / 1e6
            print(
                f"{index + 1:5}  {resident:11.1f}  {live_bytes() / 1e6:10.2f}  {kept}", flush=True
            )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    time_parser = verbs.add_parser("latency")
    time_parser.add_argument("--size", choices=_BLOCKS, default="tiny")
    memory_parser = verbs.add_parser("memory")
    memory_parser.add_argument("--frames", type=int, default=2000)
    memory_parser.add_argument("--stock", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.verb == "latency":
        latency(args.size)
    else:
        memory(args.frames, stock=args.stock)


if __name__ == "__main__":
    main()
