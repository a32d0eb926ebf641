"""Painting on a project's labels against painting on an array in memory.

``python benchmarks/bench_labels.py`` prints milliseconds at 480 x 832 with a brush of 20,
while a model streams masks into the same layer and while it does not, and the memory that
20 000 frames of masks take.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from napari.layers import Labels

from flowrvs.records import VideoInfo
from flowrvs.store import Project

HEIGHT, WIDTH = 480, 832


def _resident() -> float:
    """MiB that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _milliseconds(call: object, *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)  # type: ignore[operator]
    return 1e3 * (time.perf_counter() - start)


def paint(layer: Labels, t: int) -> dict[str, float]:
    """Return medians of what a person does to frame `t`."""
    layer.brush_size = 20
    layer.mode = "paint"
    layer.selected_label = 1
    layer.paint((t, 300, 300), 1)
    rows: dict[str, list[float]] = {k: [] for k in ("stamp", "stroke", "undo", "fill")}
    for i in range(40):
        rows["stamp"].append(_milliseconds(layer.paint, (t, 60 + 9 * i, 100 + i), 1))
    for i in range(5):
        layer._begin_stroke()
        a, b = (t, 30 + 40 * i, 400), (t, 30 + 40 * i, 700)
        rows["stroke"].append(_milliseconds(layer._draw, 1, a, b))
        layer._commit_stroke()
        rows["undo"].append(_milliseconds(layer.undo))
        rows["fill"].append(_milliseconds(layer.fill, (t, 470, 820), 1))
        layer.undo()
    summary = {name: float(np.median(values)) for name, values in rows.items()}
    return {**summary, "stamp p95": float(np.quantile(rows["stamp"], 0.95))}


def main(frames: int = 20_000) -> None:
    """Print the measurements."""
    masks = np.zeros((25, HEIGHT, WIDTH), bool)
    masks[:, 100:300, 200:500] = True
    say = lambda what, row: print(  # noqa: E731
        f"{what:28}" + "  ".join(f"{k} {v:.2f}" for k, v in row.items())
    )
    numpy = Labels(np.zeros((60, HEIGHT, WIDTH), np.uint16))
    with tempfile.TemporaryDirectory() as folder:
        info = VideoInfo(None, "array", frames, HEIGHT, WIDTH)
        with Project.create(Path(folder) / "bench", info) as project:
            _, one = project.add_prompt("one")
            layer = Labels(project.labels(one.layer))
            for _ in range(2):  # the first round compiles and warms up
                row, ours = paint(numpy, 5), paint(layer, 5)
            say("numpy", row)
            say("project", ours)
            before, start = _resident(), time.perf_counter()

            def stream() -> None:
                for t in range(100, frames - 25, 25):
                    project.write_model(one.layer, one.id, t, np.roll(masks, t % 200, axis=1))

            worker = threading.Thread(target=stream)
            worker.start()
            time.sleep(1)
            say("project, a model streaming", paint(layer, 7))
            worker.join()
            took = time.perf_counter() - start
            grown = _resident() - before
            print(f"{frames} frames: +{grown:.0f} MiB, {took / frames * 1e3:.2f} ms each")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
