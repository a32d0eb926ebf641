"""How many clicks a mask takes, and how long a click: `flowrvs.masks.pick` against others.

``python benchmarks/bench_pick.py --davis DIR [--clips NAME ...] [--chair DIR]`` reads frames with
true masks from clips in the layout of DAVIS (``DIR/JPEGImages/480p/NAME/*.jpg``,
``DIR/Annotations/480p/NAME/*.png``; all objects of a picture are one) and from the real clip
of ``annotator.py``. A simulated person, as in the literature on interactive segmentation (RITM,
f-BRS): she clicks on the middle of the largest wrong part, where the distance to its edge is
largest, this or not this, until J is good enough or she has clicked ``--most`` times. A click that
did not help is never repeated on the same pixel. Printed for every method:

- clicks to J >= 0.85 and >= 0.90 (``--most`` where it is never reached, and how often);
- J after 1, 3, 5, 10 clicks, after a box (3 pixels around the object), and a box and 1, 3 clicks;
- median milliseconds of the first answer, of later ones, of a box; beside them, in the same run,
  those of plain GrabCut from the box on the whole frame.

``polygon`` is the least number of corners, by Visvalingam's simplification of the outlines of all
parts, with which a polygon tool reaches the same J: what a perfect hand would need.

Methods: *pick*; *pick, no motion*; *grabcut* (a disk of 60 pixels around the first click may be
the object; then what was found); and on the superpixels of *pick*, with colours by its
histograms: *walker* (random walk without a prior), *cut* (minimal cut, scipy), *geodesic* (nearest
mark), *watershed* (scikit-image, from the marks on the gradient).

``--with NAME`` adds a tracker (`flowrvs models list`).

``--fit`` fits the weights of *pick* to the clips named (its docstring says which those in the
module were fitted to) and prints them.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from annotator import chair, jaccard
from bench_spread import davis
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from skimage.filters import sobel
from skimage.segmentation import watershed

import flowrvs
from flowrvs.editing.trackers import Encodings, TrackerPicker
from flowrvs.masks import pick
from flowrvs.masks.flow import Flows, Region
from flowrvs.masks.marks import box_of
from flowrvs.masks.pick import Mark, Picker

Mask = npt.NDArray[np.bool_]
Frame = npt.NDArray[np.uint8]
#: Every second clip of DAVIS 2016's validation set by name: the weights are fitted to these.
FITTED = (
    "blackswan breakdance car-roundabout cows dog drift-straight horsejump-high libby "
    "paragliding-launch scooter-black"
).split()


def flow_of(frames: Frame, t: int) -> npt.NDArray[np.float32]:
    other = t + 1 if t + 1 < len(frames) else t - 1
    step = max(1, frames.shape[2] // 400)
    h, w = (n // step for n in frames.shape[1:3])
    flows = Flows(lambda n: frames[n], frames.shape[:3])
    return flows.between(t, other, Region(0, h, 0, w, step))


class Pick:
    """`Picker` behind the interface of the other methods."""

    picker = Picker

    def __init__(self, frame: Frame, flow: npt.NDArray[np.float32] | None) -> None:
        self._picker = self.picker(frame, flow=flow)

    def __call__(self, marks: Sequence[Mark]) -> Mask:
        return self._picker.add(marks[-1])


class NoMotion(Pick):
    def __init__(self, frame: Frame, flow: npt.NDArray[np.float32] | None) -> None:
        super().__init__(frame, None)


class Tracked:
    """A tracker behind the interface of the other methods; the first click encodes."""

    def __init__(self, frame: Frame, encodings: Encodings) -> None:
        self._picker = TrackerPicker(encodings, id(frame), lambda: frame, frame.shape[:2])

    def __call__(self, marks: Sequence[Mark]) -> Mask:
        return self._picker.add(marks[-1])


class GrabCut:
    def __init__(self, frame: Frame, flow: Any) -> None:
        self._frame = np.ascontiguousarray(frame[..., ::-1])
        self._found: Mask | None = None

    def __call__(self, marks: Sequence[Mark]) -> Mask:
        known = np.full(self._frame.shape[:2], cv2.GC_PR_BGD, np.uint8)
        if marks[0].kind == "box":
            known[:] = cv2.GC_BGD
            x0, y0, x1, y1 = (max(0, int(v)) for p in marks[0].points for v in p)
            known[y0:y1, x0:x1] = cv2.GC_PR_FGD if self._found is None else cv2.GC_PR_BGD
        elif self._found is None:
            cv2.circle(known, _pixel(marks[0]), 60, int(cv2.GC_PR_FGD), -1)
        if self._found is not None:
            known[self._found] = cv2.GC_PR_FGD
        for mark in marks:
            if mark.kind == "point":
                label = cv2.GC_FGD if mark.positive else cv2.GC_BGD
                cv2.circle(known, _pixel(mark), 5, int(label), -1)
        if (known % 2 == 1).any():
            models = np.zeros((2, 1, 65))
            cv2.setRNGSeed(0)
            cv2.grabCut(self._frame, known, None, *models, 3, cv2.GC_INIT_WITH_MASK)
        self._found = known % 2 == 1
        return self._found


class OnGraph:
    """A method on the superpixels that `Picker` makes of the whole frame."""

    def __init__(self, frame: Frame, flow: npt.NDArray[np.float32] | None) -> None:
        h, w = frame.shape[:2]
        motion = None if flow is None else pick._relative(flow)
        self.graph = pick.SuperpixelGraph(frame, (0, 0, w, h), *pick._FINE, motion)
        self.shape = (h, w)
        self.share: npt.NDArray[np.float32] | None = None

    def __call__(self, marks: Sequence[Mark]) -> Mask:
        inside, outside = pick._seeds(self.graph, marks)
        if marks[0].kind == "box":
            across, down = self.graph.within(box_of(marks))
            outside |= (np.maximum(np.abs(across), np.abs(down)) > 1) & ~inside
            if not inside.any() and self.share is None:
                self.share = (across**2 + down**2 < 1).astype(np.float32)
        rest = np.zeros(self.graph.count, bool)
        rest[self.graph.border] = True
        rest &= ~inside
        if not outside.any():
            outside = rest
        self.share = self.solve(inside, outside).astype(np.float32)
        whole = np.zeros(self.shape, np.float32)
        self.graph.paint(self.share, whole)
        return whole > 0.5

    def odds(self, inside: Mask, outside: Mask) -> npt.NDArray[np.floating]:
        share = self.share if self.share is not None else inside * 1.0
        share = np.where(inside, 1, np.where(outside, 0, share)).astype(np.float32)
        return self.graph.color_ratio(share)

    def solve(self, inside: Mask, outside: Mask) -> npt.NDArray[np.floating]:
        raise NotImplementedError


class Walker(OnGraph):
    def solve(self, inside: Mask, outside: Mask) -> npt.NDArray[np.floating]:
        likely = 1 / (1 + np.exp(-self.odds(inside, outside)))
        return self.graph.solve(likely.astype(np.float32), 0.02, inside, outside)


class Geodesic(OnGraph):
    def solve(self, inside: Mask, outside: Mask) -> npt.NDArray[np.floating]:
        if not inside.any():
            inside = self.odds(inside, outside) > 1
            inside &= ~outside
        near, far = (
            self.graph.distance(np.flatnonzero(s), 0) if s.any() else np.inf
            for s in (inside, outside)
        )
        return (near < far) * 1.0


class Cut(OnGraph):
    def solve(self, inside: Mask, outside: Mask) -> npt.NDArray[np.floating]:
        n = self.graph.count
        odds = 15 * self.odds(inside, outside) * np.sqrt(self.graph.area)
        odds = np.where(inside, 1e6, np.where(outside, -1e6, odds)).astype(np.int32)
        edges = self.graph._alike.tocoo()
        i, j = edges.coords
        ends = np.arange(n)
        rows = np.concatenate([i, np.full(n, n), ends])
        columns = np.concatenate([j, ends, np.full(n, n + 1)])
        weights = np.concatenate(
            [(edges.data * 30).astype(np.int32), np.maximum(odds, 0), np.maximum(-odds, 0)]
        )
        graph = csr_array((weights, (rows, columns)), shape=(n + 2, n + 2))
        left = graph - maximum_flow(graph, n, n + 1).flow
        left.data = np.maximum(left.data, 0)
        left.eliminate_zeros()
        from scipy.sparse.csgraph import breadth_first_order

        found = np.zeros(n + 2)
        found[breadth_first_order(left, n, return_predecessors=False)] = 1
        return found[:n]


class Watershed:
    def __init__(self, frame: Frame, flow: Any) -> None:
        self._edges = np.max([sobel(frame[..., c]) for c in range(3)], axis=0)

    def __call__(self, marks: Sequence[Mark]) -> Mask:
        seeds = np.zeros(self._edges.shape, np.int32)
        seeds[[0, -1]] = seeds[:, [0, -1]] = 2
        if marks[0].kind == "box":
            x0, y0, x1, y1 = (max(0, int(v)) for p in marks[0].points for v in p)
            seeds[:] = 2
            seeds[y0:y1, x0:x1] = 0
            middle = ((x0 + x1) // 2, (y0 + y1) // 2)
            size = ((x1 - x0) // 6 + 1, (y1 - y0) // 6 + 1)
            cv2.ellipse(seeds, middle, size, 0, 0, 360, 1, -1)
        for mark in marks:
            if mark.kind == "point":
                cv2.circle(seeds, _pixel(mark), 5, 1 if mark.positive else 2, -1)
        return watershed(self._edges, seeds) == 1


METHODS: dict[str, Callable[..., Any]] = {
    "pick": Pick,
    "pick, no motion": NoMotion,
    "grabcut": GrabCut,
    "walker": Walker,
    "cut": Cut,
    "geodesic": Geodesic,
    "watershed": Watershed,
}


def _pixel(mark: Mark) -> tuple[int, int]:
    (x, y) = mark.points[0]
    return int(x), int(y)


def next_click(mask: Mask, truth: Mask, marks: Sequence[Mark]) -> Mark:
    """Return a click on the middle of the largest wrong part."""
    depths = []
    for wrong in (truth & ~mask, mask & ~truth):
        padded = np.pad(wrong, 1).astype(np.uint8)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        for mark in marks:
            if mark.kind == "point":
                x, y = _pixel(mark)
                depth[y, x] = 0
        depths.append(depth)
    positive = depths[0].max() >= depths[1].max()
    depth = depths[0] if positive else depths[1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return Mark.point(int(x), int(y), bool(positive))


def box_around(truth: Mask, pad: float = 3) -> Mark:
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    return Mark.box(columns[0] - pad, rows[0] - pad, columns[-1] + 1 + pad, rows[-1] + 1 + pad)


def session(
    method: Any, truth: Mask, most: int, box: bool = False
) -> tuple[list[float], list[float]]:
    """Return J after every mark, and the seconds that each answer took."""
    marks: list[Mark] = []
    mask = np.zeros_like(truth)
    quality, seconds = [], []
    while len(marks) < most:
        first = box and not marks
        marks.append(box_around(truth) if first else next_click(mask, truth, marks))
        began = time.perf_counter()
        mask = method(marks)
        seconds.append(time.perf_counter() - began)
        quality.append(jaccard(mask, truth))
    return quality, seconds


def corners(truth: Mask, good: float) -> int:
    """Return how many corners a polygon needs for this J."""
    outlines, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    points = [o[:, 0].astype(float) for o in outlines if len(o) >= 3]
    fewest = sum(len(p) for p in points)
    low, high = 0.0, float(truth.size)
    for _ in range(24):  # of the area of the triangle that a corner is worth
        level = (low * high) ** 0.5 if low else high / 4096
        kept = [s for p in points if len(s := _simplified(p, level)) >= 3]
        drawn = np.zeros(truth.shape, np.uint8)
        cv2.fillPoly(drawn, [np.rint(k).astype(np.int32) for k in kept], 1)
        count = sum(map(len, kept))
        if jaccard(drawn > 0, truth) >= good:
            fewest, low = min(fewest, count), level
        else:
            high = level
        if high - low < 0.5:
            break
    return fewest


def _simplified(points: npt.NDArray[np.floating], level: float) -> npt.NDArray[np.floating]:
    """Drop the corner of the smallest triangle until all are larger (Visvalingam)."""
    if len(points) > 400:
        points = points[:: len(points) // 400]
    while len(points) >= 3:
        a, b, c = np.roll(points, 1, 0), points, np.roll(points, -1, 0)
        area = 0.5 * np.abs(
            (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
        )
        least = int(area.argmin())
        if area[least] >= level:
            return points
        points = np.delete(points, least, 0)
    return points[:0]


def pictures(
    args: argparse.Namespace, names: Sequence[str], shares: Sequence[float]
) -> Iterator[tuple[str, Frame, Mask, npt.NDArray[np.float32]]]:
    def clips() -> Iterator[tuple[str, Frame, Mask]]:
        if args.davis:
            yield from davis(args.davis, list(names), 10**6)
        if args.chair and not args.fit and (real := chair(args.chair)):
            yield "chair", *real

    for name, frames, truth in clips():
        for share in shares:
            t = int(len(frames) * share)
            if truth[t].any():
                yield f"{name} {t}", frames[t], truth[t], flow_of(frames, t)


class Watched(Picker):
    """A picker that notes what it measured, and what would have been right."""

    def __init__(self, frame: Frame, truth: Mask, flow: Any, seen: dict[int, list[Any]]) -> None:
        super().__init__(frame, flow=flow)
        self._truth = truth.astype(np.float32)
        self._seen = seen

    def _likely(self, stage: int, measures: Any, graph: Any) -> Any:
        share = graph.shares(self._truth)
        own = max(float(graph.area @ share), 30.0)
        rest = float(graph.area @ (1 - share)) + 1
        # The object counts once, all the rest together 2.5 times at most.
        weight = graph.area * (share + (1 - share) * min(1, 2.5 * own / rest)) / own
        self._seen[stage].append((measures, share, weight))
        return super()._likely(stage, measures, graph)


def fit(args: argparse.Namespace) -> None:
    """Fit the weights: sessions with the last weights, then a logistic regression a stage."""
    data = list(pictures(args, args.clips or FITTED, (0.1, 0.35, 0.6, 0.85)))
    stages = len(pick._TRUST)
    for _ in range(args.fit):
        seen: dict[int, list[tuple[Any, Any, Any]]] = defaultdict(list)
        for number, (_, frame, truth, flow) in enumerate(data):
            for box in (False, True):
                with_flow = (number + box) % 3
                picker = Watched(frame, truth, flow if with_flow else None, seen)
                session(lambda marks, p=picker: p.add(marks[-1]), truth, 9, box)
        for stage in range(stages):
            measures, share, weight = (
                np.concatenate(part) for part in zip(*seen[stage], strict=True)
            )
            pick.WEIGHTS[stage] = logistic(measures, share, weight)
        print("rows fitted", {s: sum(len(r[0]) for r in seen[s]) for s in sorted(seen)})
    for name, row in zip(pick.MEASURES, pick.WEIGHTS.T, strict=True):
        print(f"{name:37}" + " ".join(f"{v:6.2f}" for v in row))


def logistic(measures: Any, share: Any, weight: Any, ridge: float = 1.0) -> Any:
    scale = np.sqrt((measures.astype(float) ** 2).mean(0)) + 1e-6
    scaled, weight = measures / scale, weight / weight.mean()
    found = np.zeros(measures.shape[1])
    pull = np.full(len(found), ridge * len(share) / 1000)
    pull[0] *= 0.1
    for _ in range(12):
        likely = 1 / (1 + np.exp(-np.clip(scaled @ found, -30, 30)))
        curve = weight * likely * (1 - likely) + 1e-9
        slope = scaled.T @ (weight * (share - likely)) - pull * found
        found += np.linalg.solve((scaled * curve[:, None]).T @ scaled + np.diag(pull), slope)
    return np.where(scale > 1e-5, found / scale, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--davis", type=Path, help="folder in the layout of DAVIS")
    parser.add_argument("--clips", nargs="*", default=[], help="only these; else not the fitted")
    parser.add_argument("--chair", type=Path, help="folder of the real clip")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--with", dest="tracker", metavar="NAME", help="a tracker, as a method")
    parser.add_argument("--frames", nargs="*", type=float, default=[0.25, 0.6])
    parser.add_argument("--most", type=int, default=20, help="clicks")
    parser.add_argument("--large", type=float, default=1, help="scale the frames up first")
    parser.add_argument("--fit", type=int, default=0, metavar="ROUNDS")
    args = parser.parse_args()
    if args.fit:
        fit(args)
        return
    if args.tracker:
        tracker = flowrvs.load_tracker(args.tracker)
        METHODS[args.tracker] = lambda frame, flow: Tracked(frame, Encodings(tracker, 1))
        args.methods.append(args.tracker)
    names = args.clips
    if args.davis and not names:
        found = sorted(p.name for p in (args.davis / "Annotations" / "480p").iterdir())
        names = [n for n in found if n not in FITTED]
    rows: dict[str, list[Any]] = defaultdict(list)
    polygon, reference = [], []
    for name, frame, truth, flow in pictures(args, names, args.frames):
        if args.large != 1:
            size = [round(n * args.large) for n in truth.shape[::-1]]
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
            truth = cv2.resize(truth.astype(np.uint8), size) > 0
        polygon.append([corners(truth, 0.85), corners(truth, 0.9)])
        began = time.perf_counter()
        GrabCut(frame, None)([box_around(truth)])
        reference.append(time.perf_counter() - began)
        line = f"{name:22} corners {polygon[-1][0]:3} {polygon[-1][1]:3} "
        for label in args.methods:
            js, seconds = session(METHODS[label](frame, flow), truth, args.most)
            boxed, box_seconds = session(METHODS[label](frame, flow), truth, 4, box=True)
            rows[label].append((name, js, boxed, seconds, box_seconds))
            line += f"| {label} {js[0]:.2f} {js[min(4, args.most - 1)]:.2f} {js[-1]:.2f} "
            line += f"box {boxed[0]:.2f} "
        print(line, flush=True)

    def to_reach(js: Sequence[float], good: float) -> int:
        return next((n for n, j in enumerate(js, 1) if j >= good), args.most)

    for part in ("all", "chair"):
        chosen = [n for n, r in enumerate(rows[args.methods[0]]) if part in ("all", r[0][:5])]
        if not chosen:
            continue
        mean = np.mean([polygon[n] for n in chosen], axis=0)
        base = float(np.median([reference[n] for n in chosen]))
        print(
            f"\n{part}: {len(chosen)} frames; polygon corners {mean[0]:.1f} {mean[1]:.1f}; ", end=""
        )
        print(f"GrabCut of the whole frame from the box {1e3 * base:.0f} ms")
        print(
            f"{'':16} to .85 never  to .90 never   J1   J3   J5  J10   box  +1   +3      ms ratio"
        )
        for label in args.methods:
            some = [rows[label][n] for n in chosen]
            cells = f"{label:16}"
            for good in (0.85, 0.9):
                cells += f" {np.mean([to_reach(r[1], good) for r in some]):6.1f}"
                cells += f" {np.mean([max(r[1]) < good for r in some]):5.0%} "
            for n in (1, 3, 5, 10):
                cells += f" {np.mean([r[1][min(n, args.most) - 1] for r in some]):.2f}"
            cells += " "
            for n in (0, 1, 3):
                cells += f" {np.mean([r[2][n] for r in some]):.2f}"
            times = [
                float(np.median([r[3][0] for r in some])),
                float(np.median([s for r in some for s in r[3][1:]])),
                float(np.median([r[4][0] for r in some])),
            ]
            cells += "  " + " ".join(f"{1e3 * t:.0f}" for t in times)
            cells += "  " + " ".join(f"{t / base:.2f}" for t in times)
            print(cells)


if __name__ == "__main__":
    main()
