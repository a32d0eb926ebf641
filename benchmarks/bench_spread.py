"""How well masks spread from a few key frames, on clips whose every frame has a true mask.

``python benchmarks/bench_spread.py --davis DIR [--clips NAME ...] [--frames N]`` reads clips in
the layout of DAVIS (``DIR/JPEGImages/480p/NAME/*.jpg``, ``DIR/Annotations/480p/NAME/*.png``;
all objects of a picture are one). ``--chair DIR`` adds the real clip of ``annotator.py``, and
``--synthetic N`` generated ones. For one key frame (the first, the middle), for the first and
the last (ends), and for four that are evenly apart, it prints mean J and the share of frames
with J >= 0.9 of

- *copy*: the nearest key;
- *shape*: shapes between two keys without a look at the video;
- *warp*: the nearest key, warped from frame to frame by the flow and nothing else;
- *flow*: what the tool does, with seconds a frame, and on how many frames it left the object out.

Key frames are not counted. A frame that a method leaves out counts as an empty mask.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from annotator import chair, jaccard
from PIL import Image

from flowrvs.masks.flow import Flows, Region, has_dis, sample
from flowrvs.masks.interpolate import interpolate
from flowrvs.masks.propagate import propagate

Masks = npt.NDArray[np.bool_]
Keys = Mapping[int, Masks]
Found = dict[int, Masks]


def davis(root: Path, names: list[str], most: int) -> Iterator[tuple[str, np.ndarray, Masks]]:
    for folder in sorted((root / "Annotations" / "480p").iterdir()):
        if names and folder.name not in names:
            continue
        paths = sorted(folder.glob("*.png"))[:most]
        truth = np.stack([np.asarray(Image.open(p)) > 0 for p in paths])
        pictures = root / "JPEGImages" / "480p" / folder.name
        frames = [np.asarray(Image.open(pictures / f"{p.stem}.jpg").convert("RGB")) for p in paths]
        yield folder.name, np.stack(frames), truth


def synthetic(count: int, most: int) -> Iterator[tuple[str, np.ndarray, Masks]]:
    from flowrvs.data.synthetic import generate_clip

    for seed in range(count):
        clip = generate_clip(500 + seed, frames=min(most, 60), height=192, width=320)
        chosen = int(np.argmax(clip.masks.any((2, 3)).sum(1)))
        yield f"synthetic {seed}", clip.frames, clip.masks[chosen]


def copy(flows: Flows, keys: Keys) -> Found:
    return {t: keys[min(keys, key=lambda k: abs(k - t))] for t in range(flows.shape[0])}


def shape(flows: Flows, keys: Keys) -> Found:
    return copy(flows, keys) | dict(interpolate(keys))


def warp(flows: Flows, keys: Keys) -> Found:
    total, height, width = flows.shape
    whole = Region(0, height, 0, width)
    base = np.indices((height, width), dtype=np.float32)
    found: Found = {}
    for t in range(total):
        # from the nearest key on, outwards: every frame is one step from one that is known
        near = min(keys, key=lambda k: abs(k - t))
        order = range(near, t + (1 if t >= near else -1), 1 if t >= near else -1)
        for n in order:
            if n == near:
                found.setdefault(n, keys[near])
            elif n not in found or n == t:
                last = n - order.step
                at = base + np.moveaxis(flows.between(n, last, whole), -1, 0)
                found[n] = sample(found[last].astype(np.float32), *at) > 0.5
    return found


def flow(flows: Flows, keys: Keys) -> Found:
    return {s.frame: s.mask for s in propagate(flows, keys)}


METHODS: dict[str, Callable[[Flows, Keys], Found]] = {
    "copy": copy,
    "shape": shape,
    "warp": warp,
    "flow": flow,
}


def key_frames(total: int) -> dict[str, list[int]]:
    return {
        "first": [0],
        "middle": [total // 2],
        "ends": [0, total - 1],
        "four": [int(t) for t in np.rint(np.linspace(0, total - 1, 4))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--davis", type=Path, help="folder in the layout of DAVIS")
    parser.add_argument("--clips", nargs="*", default=[], help="only these of them")
    parser.add_argument("--chair", type=Path, help="folder of the real clip")
    parser.add_argument("--synthetic", type=int, default=0, help="generated clips")
    parser.add_argument("--frames", type=int, default=10**6, help="at most, of each clip")
    parser.add_argument("--keys", nargs="*", default=["first", "middle", "four"])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--flow", choices=["dis", "ilk"], default="dis" if has_dis() else "ilk")
    parser.add_argument("--save", type=Path, help="folder for every frame's J, as .npz")
    args = parser.parse_args()
    if has_dis():
        import cv2

        cv2.setNumThreads(1)

    def clips() -> Iterator[tuple[str, np.ndarray, Masks]]:
        if args.davis:
            yield from davis(args.davis, args.clips, args.frames)
        if args.chair and (real := chair(args.chair)):
            yield "chair", real[0][: args.frames], real[1][: args.frames]
        yield from synthetic(args.synthetic, args.frames)

    columns = [(k, m) for k in args.keys for m in args.methods if (k, m) != ("first", "shape")]
    columns = [c for c in columns if c != ("middle", "shape")]
    print(f"{'':20}" + "".join(f"{k[:6]:>7} {m:5}" for k, m in columns) + "   s/frame")
    table: list[list[float]] = []
    for name, frames, truth in clips():
        flows = Flows(frames.__getitem__, truth.shape, method=args.flow, cache_bytes=2**20)
        chosen = key_frames(len(truth))
        row, seconds, count, left = [], 0.0, 0, ""
        for which, method in columns:
            keys = {t: truth[t] for t in chosen[which]}
            began = time.process_time()
            found = METHODS[method](flows, keys)
            if method == "flow":
                seconds += time.process_time() - began
                count += len(truth) - len(keys)
                missed = sum(t not in found and t not in keys for t in range(len(truth)))
                left += f" {missed}"
            nothing = np.zeros_like(truth[0])
            js = np.array(
                [
                    jaccard(found.get(t, nothing), truth[t])
                    for t in range(len(truth))
                    if t not in keys
                ]
            )
            row += [float(js.mean()), float((js >= 0.9).mean())]
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                np.savez(args.save / f"{name} {which} {method} {args.flow}.npz", js=js)
        table.append(row)
        cells = "".join(f"   {j:.3f} {good:4.0%}" for j, good in zip(*[iter(row)] * 2, strict=True))
        print(f"{name:20}{cells}   {seconds / max(1, count):.3f}  left out{left}", flush=True)
    if table:
        mean = np.mean(table, axis=0)
        cells = "".join(
            f"   {j:.3f} {good:4.0%}" for j, good in zip(*[iter(mean)] * 2, strict=True)
        )
        print(f"{'mean':20}{cells}")


if __name__ == "__main__":
    main()
