"""Time the parts of a call on a device, and compare them with what it could do.

    python stages.py JOB.json

The job names the ``model``'s folder, ``device``, ``memory``, and a clip's ``frames``,
``height`` and ``width``. For encode, deform and decode ``report`` gets seconds, FLOPs
(of convolutions and matrix products), their share of the rate of a large matrix product
measured here, and the operations that take most of the time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import flowrvs


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, best of several."""
    side = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def main() -> None:
    """Do the job."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    device = job["device"]
    pipe = flowrvs.load(job["model"], device=device, memory=job.get("memory", "full"))
    generator = torch.Generator().manual_seed(0)
    size = (job["frames"], job["height"], job["width"], 3)
    frames = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).numpy()
    embeddings = pipe.encode_prompt(["the thing"])
    clip = pipe.encode_video(frames)
    latents = pipe.deform(clip, embeddings)
    stages: dict[str, Callable[[], object]] = {
        "encode": lambda: pipe.encode_video(frames),
        "deform": lambda: pipe.deform(clip, embeddings),
        "decode": lambda: list(pipe.decode_masks(latents, clip)),
    }
    rate = matmul_rate(device, pipe.transformer.dtype)
    report: dict[str, Any] = {"matmul_tflops": rate / 1e12, "stages": {}}
    activities = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
    for name, call in stages.items():
        call()
        times = []
        for _ in range(job.get("repeat", 3)):
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            times.append(time.perf_counter() - start)
        with FlopCounterMode(display=False) as counter:
            call()
        with profile(activities=activities) as profiler:
            call()
            _wait(device)
        key = "self_device_time_total" if len(activities) > 1 else "self_cpu_time_total"
        rows = sorted(profiler.key_averages(), key=lambda e: -getattr(e, key))
        whole = sum(getattr(event, key) for event in rows) or 1
        report["stages"][name] = {
            "seconds": min(times),
            "tflop": counter.get_total_flops() / 1e12,
            "share_of_matmul": counter.get_total_flops() / min(times) / rate,
            "operations": {e.key: getattr(e, key) / whole for e in rows[:8]},
        }
    Path(job["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
