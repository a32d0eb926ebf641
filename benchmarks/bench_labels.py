"""Painting on a project's labels against painting on an array in memory.

``python benchmarks/bench_labels.py [FRAMES]`` prints milliseconds at 480 x 832 with a brush
of 20 in a project of 108 000 frames, idle and while a model streams masks into the same
layer, each with its ratio to numpy; then how memory grows with FRAMES (20 000) frames of
masks, and with ten thousand edits.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from napari.layers import Labels

from flowrvs.records import VideoInfo
from flowrvs.store import ObjectRecord, Project
from napari_flowrvs.layers import label_layer
from napari_flowrvs.project_labels import ProjectLabels
from napari_flowrvs.projects import open_projects

LENGTH, HEIGHT, WIDTH = 108_000, 480, 832


def _resident() -> float:
    """MiB that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _milliseconds(call: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)
    return 1e3 * (time.perf_counter() - start)


def paint(layer: Labels, t: int, rounds: int = 10) -> dict[str, float]:
    """Return medians of what a person does to frame `t`, and the p95 of a stamp."""
    layer.brush_size = 20
    layer.mode = "paint"
    layer.selected_label = 1
    layer.data[t : t + 5] = 0  # napari passes over pixels that have the value already
    layer.paint((t, 300, 300), 1)
    rows: dict[str, list[float]] = {k: [] for k in ("stamp", "stroke", "undo", "redo", "fill")}
    for i in range(20 * rounds):
        with layer.block_history():
            place = (t + i // 40 % 5, 20 + 9 * (i % 40), 100 + i % 600)
            rows["stamp"].append(_milliseconds(layer.paint, place, 1))
    for i in range(rounds):
        a, b = (t, 30 + 40 * (i % 10), 400), (t, 30 + 40 * (i % 10), 700)
        with layer.block_history():
            rows["stroke"].append(_milliseconds(layer._draw, 2 + i % 2, a, b))
        rows["undo"].append(_milliseconds(layer.undo))
        rows["redo"].append(_milliseconds(layer.redo))
        rows["fill"].append(_milliseconds(layer.fill, (t, 470, 820), 1))
        layer.undo()
    summary = {name: float(np.median(values)) for name, values in rows.items()}
    return {**summary, "stamp p95": float(np.quantile(rows["stamp"], 0.95))}


def _say(what: str, row: dict[str, float], base: dict[str, float]) -> None:
    cells = (f"{k} {v:6.2f} ({v / base[k]:4.2f}x)" for k, v in row.items())
    print(f"{what:16}" + "  ".join(cells), flush=True)


def _open(folder: str, name: str) -> tuple[Project, ObjectRecord, Labels]:
    info = VideoInfo(None, "array", LENGTH, HEIGHT, WIDTH)
    project = open_projects.ensure(Path(folder) / f"{name}.flowrvs", info)
    _, thing = project.add_prompt("one")
    data, meta, _kind = label_layer(project, thing.layer)
    layer = ProjectLabels(data, **meta)
    return project, thing, layer


def speed(folder: str) -> None:
    """Print what painting costs, idle and under a stream of masks."""
    numpy = Labels(np.zeros((60, HEIGHT, WIDTH), np.uint16))
    project, thing, layer = _open(folder, "speed")
    masks = np.zeros((25, HEIGHT, WIDTH), bool)
    masks[:, 100:300, 200:500] = True
    stop = threading.Event()

    def stream() -> None:
        t = 100
        while not stop.is_set() and t < LENGTH - 25:
            project.write_model(thing.layer, thing.id, t, np.roll(masks, t % 200, axis=1))
            t += 25

    with project:
        for _ in range(2):  # the first round compiles and warms up
            base, ours = paint(numpy, 5), paint(layer, 5)
        _say("numpy", base, base)
        _say("project", ours, base)
        worker = threading.Thread(target=stream)
        worker.start()
        time.sleep(1)
        # numpy under the same load, or the ratio would be the load's.
        busy, ours = paint(numpy, 5), paint(layer, 7)
        stop.set()
        worker.join()
        _say("numpy, busy", busy, busy)
        _say("project, busy", ours, busy)


def length(folder: str, frames: int) -> None:
    """Print how memory grows while a model writes the video."""
    project, thing, layer = _open(folder, "length")
    masks = np.zeros((25, HEIGHT, WIDTH), bool)
    masks[:, 100:300, 200:500] = True
    with project:
        before = _resident()
        for quarter in range(4):
            start = time.perf_counter()
            for t in range(quarter * frames // 4, (quarter + 1) * frames // 4 - 24, 25):
                project.write_model(thing.layer, thing.id, t, np.roll(masks, t % 200, axis=1))
                layer.paint((t, 50, 50), 1)
            took = 4e3 * (time.perf_counter() - start) / frames
            print(
                f"after {(quarter + 1) * frames // 4:6} frames: +{_resident() - before:.0f} MiB, "
                f"{took:.2f} ms a frame",
                flush=True,
            )


def edits(folder: str, count: int = 10_000) -> None:
    """Print what the first and the last of many strokes cost."""
    project, _, layer = _open(folder, "edits")
    layer.brush_size = 20
    rng = np.random.default_rng(0)
    with project:
        before = _resident()
        took = []
        for _ in range(count):
            place = tuple(int(n) for n in rng.integers(0, (LENGTH, HEIGHT, WIDTH)))
            took.append(_milliseconds(layer.paint, place, 1))
        first, last = np.median(took[100:600]), np.median(took[-500:])
        project.flush()
        print(
            f"{count} strokes on as many frames: the last cost {last / first:.2f}x the first, "
            f"+{_resident() - before:.0f} MiB"
        )


def main(frames: int = 20_000) -> None:
    """Print the measurements."""
    with tempfile.TemporaryDirectory() as folder:
        speed(folder)
        length(folder, frames)
        edits(folder)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
