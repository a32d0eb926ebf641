"""Memory, time and disk against the length of a video, sampled from outside.

    python benchmarks/bench_length.py [--frames 2000 20000] [--height 96 --width 160]
                                      [--model tiny] [--plot FILE.svg] [--keep FOLDER]

For every length an H.264 file is made, and a process of its own opens it, steps through a part of
it, segments all of it, looks at it as the review does, undoes and redoes the run, paints and
exports a MeViS split. This process samples its resident memory every 20 ms and takes the
peak of each part. The model is a threshold in numpy unless `--model` names a real one: what
is measured is what lies around it.

The hour, with the bundled model (35 minutes of two cores; 20 GB of disk at most)::

    nohup python benchmarks/bench_length.py --frames 10800 108000 --height 480 --width 854 \\
        --model tiny --keep hour --plot hour.svg > hour.log &

With `--keep` everything stays in a folder: the same command, given after a stop, goes on where
it was, within the run too. ``FOLDER/<frames>/memory.csv`` has the memory second by second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import psutil

_SENTENCE = "the red square"


class RedSegmenter:
    """Finds what is red; a window costs next to nothing."""

    name = "red"
    window_size = 17
    overlap = 4

    def segment_window(self, frames: Any, texts: Sequence[str], **_: Any) -> Iterator[Any]:
        """Yield the lead of red over green."""
        pixels = np.asarray(frames).astype(np.float32) / 255
        for _text in texts:
            yield pixels[..., 0] - pixels[..., 1] - np.float32(0.3)


def write_video(path: Path, frames: int, height: int, width: int) -> None:
    """Write a red square that wanders over a grey ground: a few kilobytes a second."""
    coarse = np.random.default_rng(0).integers(60, 120, (height // 16 + 2, width // 16 + 2))
    rows, columns = np.arange(height) / 16, np.arange(width) / 16
    ground = _smooth(_smooth(coarse, rows).T, columns).T[..., None].astype(np.uint8)
    ground = np.repeat(ground, 3, axis=2)
    side = height // 5
    partial = path.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            picture = ground.copy()
            y = int((height - side) * (0.5 + 0.5 * np.sin(t / 40)))
            x = int((width - side) * (0.5 + 0.5 * np.cos(t / 61)))
            picture[y : y + side, x : x + side] = (220, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    partial.rename(path)


def _smooth(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return what lies between rows of values."""
    first = places.astype(int)
    part = (places - first)[:, None]
    return values[first] * (1 - part) + values[first + 1] * part


class _Parts:
    """What is done one after the other; what an earlier process finished is left out."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "parts.json"
        self.done: dict[str, Any] = (
            json.loads(self._file.read_text()) if self._file.exists() else {}
        )

    @contextmanager
    def part(self, name: str) -> Iterator[dict[str, float]]:
        print(json.dumps({"begin": name}), flush=True)
        before = self.done.get(name, {})
        more: dict[str, float] = {}
        start = time.perf_counter()
        try:
            yield more
        finally:
            seconds = before.get("seconds", 0.0) + time.perf_counter() - start
            self.done[name] = {**before, **more, "seconds": round(seconds, 3)}
            self._file.write_text(json.dumps(self.done))
        self.done[name]["complete"] = True
        self._file.write_text(json.dumps(self.done))

    def complete(self, name: str) -> bool:
        return bool(self.done.get(name, {}).get("complete"))


def work(folder: Path, model: str) -> None:
    """Do what a person does with a long video, telling which part it is."""
    import flowrvs
    from flowrvs.data import export_projects
    from flowrvs.editing.review import quick_doubt
    from flowrvs.inference.into import expected_bytes

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    parts = _Parts(folder)
    segmenter: Any = RedSegmenter() if model == "numpy" else flowrvs.load(model, device="cpu")
    place = folder / "clip.flowrvs"
    with parts.part("open"):
        video = flowrvs.open_video(folder / "clip.mp4")
        project = flowrvs.Project.open(place) if place.exists() else None
        if project is None:
            project = flowrvs.Project.create(place, video.info)
    count = len(video)
    with parts.part("step through") as told:
        steps = []
        for t in range(count // 2, count // 2 + min(300, count // 2)):
            start = time.perf_counter()
            video.read(t, t + 1)
            steps.append(time.perf_counter() - start)
        told["p95_ms"] = round(1000 * float(np.percentile(steps, 95)), 2)
    if not parts.complete("segment"):
        expected = expected_bytes(video, flowrvs.SegmentRequest(_SENTENCE))
        with parts.part("segment") as told:
            first = time.perf_counter()
            for n, masks in enumerate(flowrvs.segment_into(project, video, _SENTENCE, segmenter)):
                if n == 0:
                    told["first_ms"] = round(1000 * (time.perf_counter() - first), 1)
                print(json.dumps({"frames": masks.stop}), flush=True)
            project.flush()
            told["seen"] = int(project.present(project.objects[1].id).sum())
            told["expected_mb"], told["disk_mb"] = expected / 2**20, _size(place) / 2**20
    drawn = project.objects[1]
    with parts.part("review"):
        project.areas(drawn.id)
        quick_doubt(project, drawn.id)
    if not parts.complete("undo"):
        with parts.part("undo"):
            while project.present(drawn.id).any():  # a run that was stopped is several steps
                assert project.undo() is not None
            project.flush()
    if not parts.complete("redo"):
        with parts.part("redo"):
            while project.redo() is not None:
                pass
            assert project.present(drawn.id).sum() == parts.done["segment"]["seen"]
            project.flush()
    with parts.part("paint"):
        labels = project.labels(drawn.layer)
        for t in range(0, count, max(1, count // 200)):
            labels[t, 2:9, 2:9] = drawn.id
        project.flush()
    if not parts.complete("export"):
        with parts.part("export") as told:
            shutil.rmtree(folder / "out", ignore_errors=True)
            export_projects([project], folder / "out")
            told["disk_mb"] = _size(folder / "out") / 2**20
    project.close()
    video.close()


def _end_with(parent: int) -> None:
    """End this process, as if it were asked to, once its parent has ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def measure(folder: Path, model: str) -> dict[str, dict[str, float]]:
    """Run `work` in a process and return the time and peak memory of its parts."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--work", str(folder), "--model", model],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    kept = folder / "peaks.json"
    peaks: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    current: list[Any] = ["start", 0]
    about = psutil.Process(process.pid)

    def look() -> float:
        try:
            size = about.memory_info().rss / 2**20
        except psutil.Error:
            return 0.0
        peaks[current[0]] = max(peaks.get(current[0], 0.0), size)
        return size

    def sample() -> None:
        begin, noted = time.monotonic(), 0.0
        with open(folder / "memory.csv", "a") as rows:
            while process.poll() is None:
                size, now = look(), time.monotonic() - begin
                if now - noted >= 1:
                    noted = now
                    print(f"{now:.0f},{current[0]},{current[1]},{size:.1f}", file=rows, flush=True)
                    kept.write_text(json.dumps(peaks))
                time.sleep(0.02)

    sampler = threading.Thread(target=sample)
    sampler.start()
    assert process.stdout is not None
    for line in process.stdout:
        told = json.loads(line)
        if "begin" in told:
            look()  # a part may be shorter than the time between two samples
            current[0] = told["begin"]
            print(f"  {current[0]}", flush=True)
        else:
            current[1] = told["frames"]
    sampler.join()
    kept.write_text(json.dumps(peaks))
    if process.wait():
        raise SystemExit("the work failed; with --keep, the same command goes on")
    parts: dict[str, dict[str, float]] = _Parts(folder).done
    for name, part in parts.items():
        part.pop("complete", None)
        part["peak_mb"] = round(peaks.get(name, float("nan")), 1)
    return parts


def curve(folder: Path) -> npt.NDArray[np.float64]:
    """Return the largest MB of every 500th of the time, second by second, of all runs there."""
    rows = (folder / "memory.csv").read_text().splitlines()
    sizes = np.array([float(row.split(",")[3]) for row in rows])
    return np.array([part.max() for part in np.array_split(sizes, min(500, len(sizes)))])


def plot(curves: dict[int, npt.NDArray[np.float64]], path: Path) -> None:
    """Draw memory over the whole of the work as SVG: lines, one a length."""
    top = 1.1 * max(sizes.max() for sizes in curves.values())
    left, width, height = 60, 500, 260
    colors = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height + 40}" '
        'font-family="sans-serif" font-size="12">',
        f'<path d="M{left} 10V{height}H{left + width}" fill="none" stroke="black"/>',
        f'<text x="4" y="20">{top:.0f} MB</text><text x="40" y="{height}">0</text>',
        f'<text x="{left}" y="{height + 20}">from opening to the end of the export</text>',
    ]
    for n, ((frames, sizes), color) in enumerate(zip(curves.items(), colors, strict=False)):
        places = left + np.linspace(0, width, len(sizes))
        heights = height - (height - 10) * sizes / top
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        lines.append(
            f'<text x="{left + width + 10}" y="{30 + 18 * n}" fill="{color}">{frames} frames</text>'
        )
    path.write_text("\n".join([*lines, "</svg>\n"]), encoding="utf-8")


def main() -> None:
    """Measure every length and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--model", default="numpy")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work here, and go on there")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work, args.model)
        return
    results, curves = {}, {}
    for frames in args.frames:
        with ExitStack() as stack:
            if args.keep is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            else:
                folder = args.keep / str(frames)
                folder.mkdir(parents=True, exist_ok=True)
            # Masks and journal, and an export's pictures, generously.
            need = frames * args.height * args.width * 0.4
            free = shutil.disk_usage(folder).free
            print(f"{frames} frames: {need / 2**30:.1f} GB at most, {free / 2**30:.1f} free")
            if need > free and not (folder / "parts.json").exists():
                raise SystemExit("the disk has no room for that")
            if not (folder / "clip.mp4").exists():
                write_video(folder / "clip.mp4", frames, args.height, args.width)
            results[frames] = measure(folder, args.model)
            curves[frames] = curve(folder)
        print(f"\n{frames} frames of {args.width}x{args.height}, model {args.model}")
        for part, told in results[frames].items():
            more = "  ".join(f"{k} {v}" for k, v in told.items() if k not in ("seconds", "peak_mb"))
            print(f"  {part:14s} {told['seconds']:8.2f} s  peak {told['peak_mb']:7.1f} MB  {more}")
    if len(results) > 1:
        short, long = min(results), max(results)
        print()
        for part in results[long]:
            ratio = results[long][part]["peak_mb"] / results[short][part]["peak_mb"]
            print(f"  {part:14s} peak at {long} frames = {ratio:.2f} x that at {short}")
    if args.plot is not None:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
