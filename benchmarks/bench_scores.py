"""``flowrvs.evaluation.evaluate`` against what the official script does, on the same PNGs.

``python benchmarks/bench_scores.py [--public DIR]`` makes a split of organic shapes at
480 x 854 and predictions for it, scores them with both, one process and one thread each,
in turns, and prints milliseconds of processor time a picture, their ratio, and the
largest difference of J and F. With ``--public DIR``, J and F are the functions of
``DIR/metrics.py`` (a checkout of the public FlowRVS code, or of MeViS); without it, a plain
reference written here that does the same work: decode and add up the truth, read the PNG
with OpenCV, J over the whole stack, F by dilating the boundary of whole pictures.
That one is leaner than the public functions, so the ratio without ``--public`` is lower.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco
from scipy import ndimage
from skimage.morphology import disk

from flowrvs.data.mevis import MevisSplit, MevisWriter
from flowrvs.evaluation import evaluate

HEIGHT, WIDTH = 480, 854

Stack = np.ndarray
Measure = Callable[[Stack, Stack], np.ndarray]


def plain_iou(truth: Stack, pred: Stack) -> np.ndarray:
    """J of every frame."""
    truth, pred = truth.astype(bool), pred.astype(bool)
    union = (truth | pred).sum(axis=(-2, -1))
    return np.where(union == 0, 1.0, (truth & pred).sum(axis=(-2, -1)) / np.maximum(union, 1))


def plain_boundary(truth: Stack, pred: Stack) -> np.ndarray:
    """F of every frame."""
    return np.array([_plain_f(t, p) for t, p in zip(truth, pred, strict=True)])


def _plain_f(truth: np.ndarray, pred: np.ndarray) -> float:
    kernel = disk(int(np.ceil(0.008 * np.linalg.norm(truth.shape)))).astype(np.uint8)
    edges = [_plain_edge(mask.astype(bool)) for mask in (pred, truth)]
    near = [cv2.dilate(edge.astype(np.uint8), kernel) for edge in edges]
    sizes = [edge.sum() for edge in edges]
    if not all(sizes):
        return float(not any(sizes))
    precision = (edges[0] * near[1]).sum() / sizes[0]
    recall = (edges[1] * near[0]).sum() / sizes[1]
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def _plain_edge(mask: np.ndarray) -> np.ndarray:
    around = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ around[:-1, 1:]) | (mask ^ around[1:, :-1]) | (mask ^ around[1:, 1:])


def public_functions(folder: Path) -> tuple[Measure, Measure]:
    """Return J and F of a public checkout; what they do not use may be missing."""
    import types

    for module in ("torch", "torchvision", "torchvision.ops", "torchvision.ops.boxes", "tqdm"):
        stand_in = types.ModuleType(module)
        stand_in.Tensor = stand_in.box_area = stand_in.tqdm = object  # type: ignore[attr-defined]
        sys.modules.setdefault(module, stand_in)
    sys.path.insert(0, str(folder))
    import metrics  # type: ignore[import-not-found]

    return metrics.db_eval_iou, metrics.db_eval_boundary


def official(
    pred: Path, split: MevisSplit, iou: Measure, boundary: Measure
) -> dict[tuple[str, str], tuple[float, float]]:
    """Score as the official script does: stacks of whole frames, one expression at a time."""
    scores = {}
    for video, exp_id in split:
        entry = split.videos[video]
        shape = (len(entry.frames), *cv2.imread(_png(pred, video, exp_id, "00000"), 0).shape)
        truth, found = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        masks = [split.masks(a) for a in entry.expressions[exp_id].anno_id]
        for index, frame in enumerate(entry.frames):
            for annotation in masks:
                if annotation[index]:
                    truth[index] += coco.decode(annotation[index])
            found[index] = cv2.imread(_png(pred, video, exp_id, frame), cv2.IMREAD_GRAYSCALE)
        scores[video, exp_id] = iou(truth, found).mean(), boundary(truth, found).mean()
    return scores


def _png(pred: Path, video: str, exp_id: str, frame: str) -> str:
    return str(pred / video / exp_id / f"{frame}.png")


def make(folder: Path, videos: int, frames: int, seed: int) -> tuple[Path, dict[str, Path]]:
    """Write a split and predictions, as Pillow writes PNGs and as OpenCV does."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    preds = {writer: folder / writer for writer in ("Pillow", "OpenCV")}
    picture = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with MevisWriter(folder / "split") as writer:
        for number in range(videos):
            objects = {key: _moving(rng, frames) for key in (1, 2, 3)}
            # MeViS has some four sentences an object.
            targets = [[1], [1], [1], [2], [2], [2], [3], [2, 3], [2, 3], []]
            writer.add_video(
                f"video{number}",
                (picture for _ in range(frames)),
                objects=objects,
                expressions={str(e): (f"expression {e}", ids) for e, ids in enumerate(targets)},
            )
            for exp_id, ids in enumerate(targets):
                for index in range(frames):
                    mask = np.zeros((HEIGHT, WIDTH), bool)
                    for key in ids:
                        mask |= np.roll(objects[key][index], rng.integers(-6, 7, 2), (0, 1))
                    grey = mask.astype(np.uint8) * 255
                    for made_by, pred in preds.items():
                        path = Path(_png(pred, f"video{number}", str(exp_id), f"{index:05d}"))
                        path.parent.mkdir(parents=True, exist_ok=True)
                        if made_by == "Pillow":
                            Image.fromarray(grey).save(path)
                        else:
                            cv2.imwrite(str(path), grey)
    return folder / "split", preds


def _moving(rng: np.random.Generator, frames: int) -> np.ndarray:
    """An ellipse with an uneven outline, some 8 % of the picture, on a straight way."""
    rough = ndimage.gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), 20)
    rough *= 0.35 / rough.std()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    cy, cx = rng.uniform(0.3, 0.7, 2) * (HEIGHT, WIDTH)
    shape = ((y - cy) / (HEIGHT * 0.2)) ** 2 + ((x - cx) / (WIDTH * 0.14)) ** 2 + rough < 1
    step = rng.integers(-3, 4, 2)
    return np.stack([np.roll(shape, step * index, (0, 1)) for index in range(frames)])


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--public", type=Path, metavar="DIR", help="folder with metrics.py")
    parser.add_argument("--videos", type=int, default=1)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    iou, boundary = public_functions(args.public) if args.public else (plain_iou, plain_boundary)
    with tempfile.TemporaryDirectory() as folder:
        split_folder, preds = make(Path(folder), args.videos, args.frames, seed=0)
        split = MevisSplit.open(split_folder)
        pictures = len(split) * args.frames
        evaluate(preds["Pillow"], split)  # Warm: imports, the mask file, the disk cache.
        for made_by, pred in preds.items():
            times: dict[str, list[float]] = {"reference": [], "flowrvs": []}
            for _ in range(args.rounds):
                start = time.process_time()
                expected = official(pred, split, iou, boundary)
                times["reference"].append(time.process_time() - start)
                start = time.process_time()
                scores = evaluate(pred, split)
                times["flowrvs"].append(time.process_time() - start)
            gap = max(
                abs(value - other)
                for e in scores.expressions
                for value, other in zip((e.j, e.f), expected[e.video, e.exp_id], strict=True)
            )
            best = {key: min(values) * 1e3 / pictures for key, values in times.items()}
            middle = [a / b for a, b in zip(times["reference"], times["flowrvs"], strict=True)]
            print(
                f"PNGs by {made_by:7} reference {best['reference']:6.2f} ms a picture, "
                f"flowrvs {best['flowrvs']:5.2f}: {best['reference'] / best['flowrvs']:.1f} times "
                f"(median of rounds {np.median(middle):.1f}); largest difference {gap:.1e}"
            )


if __name__ == "__main__":
    main()
