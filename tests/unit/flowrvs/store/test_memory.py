"""Memory does not grow with the number of edits, even where the disk is the slower one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAINTER = """
import resource, sys
import numpy as np
from flowrvs.records import VideoInfo
from flowrvs.store import Project
project = Project.create(sys.argv[1], VideoInfo(None, "array", 108_000, 480, 832))
one = project.add_object("one", project.add_layer("a").id)
labels = project.labels(one.layer)
rng = np.random.default_rng(0)
frames = rng.choice(108_000, 2000, replace=False)
peaks = []
for half in range(3):
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    for _ in range(400):
        y, x = int(rng.integers(460)), int(rng.integers(812))
        labels[int(rng.choice(frames)), y : y + 20, x : x + 20] = one.id
peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
project.close()
print(*peaks)
"""


def test_edits_faster_than_the_disk_do_not_fill_the_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PAINTER, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=True,
    )
    start, first, _, last = (float(value) for value in done.stdout.split())
    assert last - first < 40, f"peaks in MiB: {done.stdout}"
    assert last - start < 200, f"peaks in MiB: {done.stdout}"
