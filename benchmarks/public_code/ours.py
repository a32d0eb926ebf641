"""Predict splits with what users get: `flowrvs.load` and `predict_split`.

    python ours.py JOB.json

The job names the ``model``'s folder, ``device``, ``memory`` and ``dtype``, and ``runs``:
each a split's folder (``root``), ``steps``, and where to put the pictures (``out``);
``window`` is "whole" or a number of frames. Writes the times to ``report``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

_BEGAN = time.perf_counter()


def main() -> None:
    """Do the job."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    import torch

    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    import flowrvs
    from flowrvs.evaluation import predict_split

    load = flowrvs.load
    report: dict[str, Any] = {"imports": time.perf_counter() - _BEGAN}
    start = time.perf_counter()
    options = {key: job[key] for key in ("device", "memory", "dtype", "fast") if key in job}
    pipe = load(job["model"], **options)
    report["load"] = time.perf_counter() - start
    cuda = job.get("device", "cpu").startswith("cuda")
    report["predict"] = []
    for run in job["runs"]:
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        predict_split(run["root"], run["out"], pipe, steps=run["steps"], window=run.get("window"))
        if cuda:
            torch.cuda.synchronize()
            report.setdefault("cuda_peak", []).append(torch.cuda.max_memory_allocated())
        report["predict"].append(time.perf_counter() - start)
    report["total"] = time.perf_counter() - _BEGAN
    Path(job["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
