"""From a few marks on a picture to the mask of an object, without any model.

A `Picker` holds one frame and the marks on it: points (this, not this), a box, scribbles. Every
new mark gives a mask at once, for a person to look at before the next one.

The picture around the marks becomes a graph of superpixels (SLIC). Each is judged by itself (a
logistic regression fitted by `benchmarks/bench_pick.py --fit` on ten clips of DAVIS): distances,
colours, motion, the box. A random walk on the graph joins the judgements, so that edges of the
mask fall on edges of the picture. Other methods were measured, too (docs/pick.md).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, find_objects, label

from flowrvs.errors import InputError
from flowrvs.masks.marks import box_of, check_mark, choose_parts, within_box
from flowrvs.masks.mending import mended
from flowrvs.masks.superpixels import Box, ColorCounts, SuperpixelGraph
from flowrvs.protocols import Mark

__all__ = ["ColorCounts", "Mark", "Picker"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_COARSE, _FINE = (25_000, 1000), (100_000, 8000)  # pixels, superpixels of frame and crop
_MARGIN = 0.3  # of the object's size, around it
_APART = 0.5  # of a thing's size (the root of its area), from another thing
_SPECK = 0.1  # parts without a mark and smaller than this share of the mask go
_HOLE = 0.02  # holes that are smaller than this share of the mask are filled, without a "not this"

#: Stages: the frame after one point; its crop, twice; a box, twice; few, some, many marks.
_FIRST, _CLOSER, _CLOSER_AGAIN, _BOX, _BOX_AGAIN, _FEW, _SOME, _MANY = range(8)
_TRUST = (0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25)  # in the judgement of single superpixels

#: What is asked of a superpixel, its weight in every stage: "marks" say this, "others" not this.
_TABLE = """
constant                               0.44   0.15   0.04  -0.50   0.23  -0.24  -0.36  -0.60
colors, marks against border           0.37   0.12   0.03   0.00   0.00   0.08  -0.02  -0.01
colors, marks against others           0.00   0.00   0.00   0.00   0.00   0.06   0.10   0.09
colors, mask against rest              0.00   0.23   0.10   1.13   0.47   0.23   0.28   0.32
colors nearby, mask against rest       0.00   0.43   0.27   0.06   0.34   0.28   0.30   0.25
geodesic, border against marks         0.25   0.24   0.14   0.00   0.00   0.44   0.41   0.42
geodesic, others against marks         0.00   0.00   0.00   0.00   0.00   0.33   0.15  -0.11
across motion, border against marks    0.55  -0.10   0.05   0.00   0.00   0.10  -0.01   0.09
across motion, others against marks    0.00   0.00   0.00   0.00   0.00  -0.04  -0.09  -0.05
space, others against marks            0.00   0.00   0.00   0.00   0.00  -0.15  -0.10   0.16
geodesic, near the last mark           0.00   0.00   0.00   0.00   0.00   7.33   3.14   2.73
space, near the last mark              0.00   0.00   0.00   0.00   0.00   1.75   1.43   0.72
mask so far, log odds                  0.00   0.64   0.74   0.02   0.47   0.65   0.66   0.64
mask so far, yes or no                 0.00   0.14   0.41   0.05  -0.28   0.49   0.78   0.98
motion, rest against mask              0.00   0.76   0.14   0.64   0.30   0.20   0.20   0.19
depth in the box                       0.00   0.00   0.00  -0.84  -0.84  -0.08  -0.08  -0.25
geodesic, from the marks              -0.93  -0.18  -0.10   0.00   0.00   0.08   0.11   0.07
geodesic, from outside                 0.38   0.24  -0.04   1.42   0.83   0.21   0.19   0.22
across motion, from outside            0.37  -0.58  -0.09   0.27   0.13   0.04   0.10   0.11
near the middle of the box             0.00   0.00   0.00   0.27   0.28   0.26   0.11   0.19
highest step, outside against marks    0.58   0.60   0.32   0.00   0.00   0.20   0.39   0.23
lower step to marks than outside       0.45   0.10  -0.01   0.00   0.00   0.07   0.10   0.13
"""
MEASURES = tuple(line[:36].strip() for line in _TABLE.strip().splitlines())
WEIGHTS = np.array([line[36:].split() for line in _TABLE.strip().splitlines()], np.float32).T


@dataclass(frozen=True, eq=False)
class _Answer:
    """A mask after some marks: one number a superpixel, or what it starts from."""

    graph: SuperpixelGraph | None = None
    share: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    start: Mask | None = None
    before: Floats | None = None  # of the superpixels of a mask that is mended, `start`
    another: bool = False  # the mask to be mended was given up


class Picker:
    """The mask of one object on one frame, from marks that are added one by one.

    Not safe to use from several threads at once.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
        RGB.
    start : array_like of bool, shape (H, W), optional
        The object as it is believed to be, to be mended by marks.
    flow : ndarray of float32, shape (h, w, 2), optional
        Optical flow from this frame to another one nearby, of any resolution: what moves
        together belongs together.
    colors : ColorCounts, optional
        Of the object and its surroundings on frames nearby.
    choose : bool
        Points first choose among the connected parts of `start`, as a model may have found
        several objects: "this" keeps the parts that it lies on, "not this" takes one away.
        From the first mark that no choice satisfies on, what was chosen is mended.
    inside_box : bool
        Never leave the box. By default it may, where a mark of this object lies outside.
    doubtful : bool
        `start` is the word of a model: a first "this" that means another thing gives it up. So it
        is where what the mark means alone lies apart from `start` by half of its size.

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.full((60, 80, 3), 30, np.uint8)
    >>> frame[20:40, 30:60] = 200
    >>> picker = Picker(frame)
    >>> int(picker.add(Mark.point(45, 30)).sum())
    600
    """

    def __init__(
        self,
        frame: npt.NDArray[np.uint8],
        *,
        start: npt.ArrayLike | None = None,
        flow: npt.ArrayLike | None = None,
        colors: ColorCounts | None = None,
        choose: bool = False,
        inside_box: bool = False,
        doubtful: bool = False,
    ) -> None:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise InputError(f"A frame is RGB uint8 (H, W, 3), not {frame.dtype} {frame.shape}.")
        self._frame = frame
        self._start = None if start is None else np.asarray(start, dtype=bool)
        if self._start is not None and self._start.shape != frame.shape[:2]:
            raise InputError(f"A mask {self._start.shape} does not fit a frame {frame.shape[:2]}.")
        self._motion = None if flow is None else _relative(np.asarray(flow, np.float32))
        self._colors = colors
        self._parts = None
        if choose and self._start is not None:
            self._parts = label(self._start, np.ones((3, 3)))[0]
        self._inside_box = inside_box
        self._doubtful = doubtful
        self._coarse: SuperpixelGraph | None = None
        self._marks: list[Mark] = []
        self._answers: list[_Answer] = [_Answer(start=self._start)]
        self._mask: Mask | None = None

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks, in the order in which they count."""
        return tuple(self._marks)

    @property
    def mask(self) -> Mask:
        """The mask after all marks, bool, shape (H, W)."""
        if self._mask is None:
            self._mask = self._painted(self._answers[-1])
            if self._inside_box:  # superpixels cross its sides
                self._mask = within_box(self._mask, self._marks)
        return self._mask.copy()

    def prepare(self) -> None:
        """Do beforehand what the first point will need."""
        if self._coarse is None:
            height, width = self._frame.shape[:2]
            self._coarse = SuperpixelGraph(
                self._frame, (0, 0, width, height), *_COARSE, self._motion
            )

    def add(self, mark: Mark) -> Mask:
        """Take one more mark and return the mask; a new box replaces the old one.

        Raises
        ------
        InputError
            The mark lies outside the frame.
        """
        self._check(mark)
        return self.take([*self._marks, mark])

    def take(self, marks: Iterable[Mark]) -> Mask:
        """Take these marks instead of all before; what begins alike is not solved again."""
        wanted = list(marks)
        for mark in wanted:
            self._check(mark)
        boxes = [m for m in wanted if m.kind == "box"][-1:]
        self._begin([*boxes, *(m for m in wanted if m.kind != "box")])
        return self.mask

    def undo(self) -> Mark | None:
        """Forget the last mark and return it; None where there is none."""
        if not self._marks:
            return None
        self._answers.pop()
        self._mask = None
        return self._marks.pop()

    def remove(self, index: int) -> Mask:
        """Forget a mark by its place in `marks`, and return the mask of the others."""
        marks = list(self._marks)
        del marks[index]
        self._begin(marks)
        return self.mask

    def replace(self, index: int, mark: Mark) -> Mask:
        """Move a mark, or change what it says, and return the mask."""
        self._check(mark)
        marks = list(self._marks)
        if mark.kind == "box" and marks[index].kind != "box":
            raise InputError("A point or scribble cannot become a box; remove it and add the box.")
        marks[index] = mark
        self._begin(marks)
        return self.mask

    # -- inside --------------------------------------------------------------------------

    def _check(self, mark: Mark) -> None:
        check_mark(mark, self._frame.shape[:2])

    def _begin(self, marks: Sequence[Mark]) -> None:
        """Take marks anew; what is alike at the beginning need not be solved again."""
        same = 0
        while same < min(len(marks), len(self._marks)) and marks[same] is self._marks[same]:
            same += 1
        del self._marks[same:], self._answers[same + 1 :]
        self._mask = None
        for mark in marks[same:]:
            longer = [*self._marks, mark]
            self._answers.append(self._answer(longer, self._answers[-1]))
            self._marks = longer

    def _answer(self, marks: list[Mark], last: _Answer) -> _Answer:
        box = box_of(marks)
        positive = any(m.positive for m in marks)
        if self._parts is not None and last.graph is None:
            chosen = choose_parts(self._parts, marks)
            if chosen is not None:
                return _Answer(start=chosen)
        started = last.graph is not None or (last.start is not None and last.start.any())
        if not started and not positive:
            return last  # nothing is known of the object yet
        if not started and box is None:
            return self._first(marks)
        if self._doubtful and len(marks) == 1 and box is None and positive:
            another = self._another(marks, last.start)
            if another is not None:
                return another
        fresh = last.graph is None and marks[-1].kind == "box"
        graph = self._graph(marks, last)
        if last.graph is None:
            start = None if last.start is None else last.start.astype(np.float32)
            share = np.zeros(graph.count, np.float32) if start is None else graph.shares(start)
            if box is not None and not (share > 0.5).any():
                across, down = graph.within(box)
                share = np.where(across**2 + down**2 < 1, np.float32(0.8), np.float32(0))
            elif start is not None:
                fresh = False
        elif graph is last.graph:
            share = last.share
        else:
            share = graph.shares(self._whole(last))
        exact: Mask | None = None
        before: Floats | None = None
        mends = self._start is not None and not last.another
        if mends and not fresh and (share > 0.5).any():
            # What is mended keeps its exact outline where the mark changes nothing.
            exact = self._painted(last)
            before = share = graph.shares(exact.astype(np.float32))
        if before is not None and marks[-1].kind != "box":
            share = self._mended(graph, marks, before)
        elif fresh:
            share = self._solve(graph, marks, share, _BOX)
            share = self._solve(graph, marks, share, _BOX_AGAIN)
        else:
            count = sum(m.kind != "box" for m in marks) + (box is not None)
            stage = _FEW if count < 4 else _SOME if count < 7 else _MANY
            # Twice: what the mark has changed tells of colours, and those change the rest.
            share = self._solve(graph, marks, share, stage)
            share = self._solve(graph, marks, share, stage)
        return _Answer(graph, share, exact, before, last.another)

    def _first(self, marks: list[Mark]) -> _Answer:
        """Answer to the first point or scribble: where on the frame is it, then closer."""
        self.prepare()
        coarse = self._coarse
        assert coarse is not None
        found = _Answer(coarse, self._solve(coarse, marks, None, _FIRST))
        graph = self._graph(marks, found)
        share = graph.shares(self._whole(found))
        share = self._solve(graph, marks, share, _CLOSER)
        return _Answer(graph, self._solve(graph, marks, share, _CLOSER_AGAIN))

    def _another(self, marks: list[Mark], start: Mask | None) -> _Answer | None:
        """Return what a first mark means alone, where that is another thing than `start`."""
        if start is None or any(start[int(y), int(x)] for x, y in marks[0].points):
            return None
        alone = copy.copy(self)
        alone._start, alone._marks = None, marks
        found = alone._first(marks)
        self._coarse = alone._coarse
        return replace(found, another=True) if _apart(alone._painted(found), start) else None

    def _graph(self, marks: list[Mark], last: _Answer) -> SuperpixelGraph:
        """Return the last graph, or that of a better crop."""
        graph = last.graph
        crop = self._crop(marks, last)
        if graph is not None and graph is not self._coarse:
            held = graph.box
            holds = all(
                held[0] <= x < held[2] and held[1] <= y < held[3]
                for m in marks
                if m.kind != "box"
                for x, y in m.points
            )
            large = _size(held) > 2 * _size(crop) and graph.scale < 0.9
            if holds and not large and not self._cut(last):
                return graph
        return SuperpixelGraph(self._frame, crop, *_FINE, self._motion)

    def _cut(self, answer: _Answer) -> bool:
        """Tell whether the mask reaches a side of the crop that is not the frame's."""
        graph, (height, width) = answer.graph, self._frame.shape[:2]
        assert graph is not None
        left, top, right, bottom = graph.box
        inside = answer.share > 0.5
        sides = (
            (left > 0, graph.labels[:, 0]),
            (top > 0, graph.labels[0]),
            (right < width, graph.labels[:, -1]),
            (bottom < height, graph.labels[-1]),
        )
        return any(open_ and inside[side].any() for open_, side in sides)

    def _crop(self, marks: list[Mark], last: _Answer) -> Box:
        height, width = self._frame.shape[:2]
        x, y = np.array([p for m in marks for p in m.points]).T
        x0, y0, x1, y1 = x.min(), y.min(), x.max() + 1, y.max() + 1
        if last.graph is not None:
            graph = last.graph
            parts, _ = label(last.share[graph.labels] > 0.5, np.ones((3, 3)))
            marked = {
                int(parts[graph.labels == graph.at(*p)].max())
                for m in marks
                if m.kind != "box" and m.positive
                for p in m.points[:1]
            }
            places = find_objects(parts)
            chosen = [places[i - 1] for i in marked if i] or [p for p in places if p]
            for rows, columns in chosen:
                x0 = min(x0, graph.box[0] + columns.start / graph.scale)
                x1 = max(x1, graph.box[0] + columns.stop / graph.scale)
                y0 = min(y0, graph.box[1] + rows.start / graph.scale)
                y1 = max(y1, graph.box[1] + rows.stop / graph.scale)
        elif last.start is not None and last.start.any():
            rows, columns = (np.flatnonzero(last.start.any(axis)) for axis in (1, 0))
            x0, x1 = min(x0, columns[0]), max(x1, columns[-1] + 1)
            y0, y1 = min(y0, rows[0]), max(y1, rows[-1] + 1)
        margin = _MARGIN * max(x1 - x0, y1 - y0) + 16
        left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
        return left, top, min(width, int(x1 + margin) + 1), min(height, int(y1 + margin) + 1)

    def _solve(
        self, graph: SuperpixelGraph, marks: list[Mark], share: Floats | None, stage: int
    ) -> Floats:
        inside, outside = _seeds(graph, marks)
        fixed = outside | self._beyond(graph, marks, inside)
        measures = self._measures(graph, marks, share, inside, outside, fixed)
        likely = self._likely(stage, measures, graph)
        return graph.solve(likely, _TRUST[stage], inside, fixed)

    def _mended(self, graph: SuperpixelGraph, marks: list[Mark], share: Floats) -> Floats:
        """Turn over the piece that the last mark lies in, and nothing else."""
        mark = marks[-1]
        inside, outside = _seeds(graph, marks)
        stays = outside | self._beyond(graph, marks, inside) if mark.positive else inside
        return mended(graph, mark, share, stays, self._colors)

    def _beyond(self, graph: SuperpixelGraph, marks: list[Mark], inside: Mask) -> Mask:
        """Return what lies outside the box, unless a mark of the object leaves it."""
        box = box_of(marks)
        if box is not None:
            leaves = any(
                m.positive and not (box[0] <= x <= box[2] and box[1] <= y <= box[3])
                for m in marks
                if m.kind != "box"
                for x, y in m.points
            )
            if self._inside_box or not leaves:
                across, down = graph.within(box)
                away: Mask = (np.maximum(np.abs(across), np.abs(down)) > 1) & ~inside
                return away
        return np.zeros(graph.count, bool)

    def _likely(self, stage: int, measures: Floats, graph: SuperpixelGraph) -> Floats:
        """Return the probability of each superpixel by itself."""
        odds = np.clip(measures @ WEIGHTS[stage], -30, 30)
        likely: Floats = 1 / (1 + np.exp(-odds))
        return likely

    def _measures(
        self,
        graph: SuperpixelGraph,
        marks: list[Mark],
        share: Floats | None,
        inside: Mask,
        outside: Mask,
        fixed: Mask,
    ) -> Floats:
        """Return `MEASURES` of every superpixel, shape (n, measures); 0 where unknown."""
        found = np.zeros((graph.count, len(MEASURES)), np.float32)
        found[:, 0] = 1
        these, others = np.flatnonzero(inside), np.flatnonzero(outside)
        box = box_of(marks)
        away = np.flatnonzero(fixed)
        if box is not None or not len(away):
            away = np.union1d(away, graph.border)
        for kind in range(len(graph.costs)):
            far = graph.distance(away, kind) if fixed.any() else graph.border_distance[kind]
            typical = float(far[~fixed].mean()) if not fixed.all() else 1.0
            found[:, 17 + kind] = np.log(far / (typical + 1e-3) + 0.1)
        if len(these):
            alike = np.log(graph.likeness(these) + 0.01)
            found[:, 1] = alike - np.log(graph.border_likeness + 0.01)
            if len(others):
                found[:, 2] = alike - np.log(graph.likeness(others) + 0.01)
                found[:, 9] = np.log(graph.spatial_distance(others) + 0.02) - np.log(
                    graph.spatial_distance(these) + 0.02
                )
        for kind in range(len(graph.costs)):
            border = graph.border_distance[kind]
            soft = 0.1 * float(np.median(border)) + 1e-3
            if len(these):
                near = graph.distance(these, kind)
                found[:, 5 + 2 * kind] = np.log((border + soft) / (near + soft))
                if len(others):
                    far = graph.distance(others, kind)
                    found[:, 6 + 2 * kind] = np.log((far + soft) / (near + soft))
                if kind == 0:
                    found[:, 16] = np.log(near / (10 * soft) + 0.1)
            last = marks[-1]
            later = len(marks) > 1 or self._start is not None
            if kind == 0 and last.kind != "box" and share is not None and later:
                here = graph.under(last.points)
                sign = 1 if last.positive else -1
                found[:, 10] = sign * np.exp(-graph.distance(here) / (2 * soft))
                found[:, 11] = sign * np.exp(-graph.spatial_distance(here) / 0.06)
        if len(these):
            unlike = np.union1d(np.flatnonzero(fixed), graph.border)
            step, rest = graph.highest_step(these), graph.highest_step(unlike)
            found[:, 20] = np.clip(np.log(rest + 0.02) - np.log(step + 0.02), -2, 2)
            found[:, 21] = np.where(rest > step, 1, -1)
        if share is not None:
            share = np.where(inside, 1, np.where(fixed, 0, share)).astype(np.float32)
            found[:, 3] = graph.color_ratio(share, self._colors)
            found[:, 4] = graph.local_color_ratio(share)
            found[:, 12] = np.log((share + 0.02) / (1.02 - share))
            found[:, 13] = share > 0.5
            if graph.motion is not None:
                weights = share * graph.area, (1 - share) * graph.area
                own, rest = (w @ graph.motion / (w.sum() + 1) for w in weights)
                found[:, 14] = np.hypot(*(graph.motion - rest).T) - np.hypot(
                    *(graph.motion - own).T
                )
        if box is not None:
            across, down = graph.within(box)
            found[:, 15] = np.maximum(1 - np.maximum(np.abs(across), np.abs(down)), -0.4)
            found[:, 19] = np.maximum(1 - across**2 - down**2, -1)
        return found

    def _whole(self, answer: _Answer) -> Floats:
        whole = np.zeros(self._frame.shape[:2], np.float32)
        if answer.graph is not None:
            answer.graph.paint(answer.share, whole)
        return whole

    def _painted(self, answer: _Answer) -> Mask:
        """Return the mask of an answer, without specks and holes that no mark asks for."""
        if answer.graph is None:
            blank = np.zeros(self._frame.shape[:2], bool)
            return blank if answer.start is None else answer.start.copy()
        mask: Mask = self._whole(answer) > 0.5
        if answer.start is not None and answer.before is not None:
            old = self._whole(_Answer(answer.graph, answer.before)) > 0.5
            return np.where(mask == old, answer.start, mask)
        left, top, right, bottom = answer.graph.box
        part = mask[top:bottom, left:right]
        parts, count = label(part, np.ones((3, 3)))
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            kept = sizes > _SPECK * sizes.sum()
            for mark in self._marks:
                if mark.kind != "box" and mark.positive:
                    for x, y in mark.points:
                        row, column = int(y) - top, int(x) - left
                        if 0 <= row < parts.shape[0] and 0 <= column < parts.shape[1]:
                            kept[parts[row, column]] = True
            kept[0] = False
            part[:] = kept[parts]
        holes, count = label(np.pad(~part, 1, constant_values=True))  # 1 is what is around
        if count > 1:
            filled = np.bincount(holes.ravel()) < _HOLE * np.count_nonzero(part)
            for mark in self._marks:
                if not mark.positive:
                    for x, y in mark.points:
                        row, column = int(y) - top + 1, int(x) - left + 1
                        if 0 <= row < holes.shape[0] and 0 <= column < holes.shape[1]:
                            filled[holes[row, column]] = False
            filled[:2] = False
            part[filled[holes[1:-1, 1:-1]]] = True
        return mask


def _relative(flow: Floats) -> Floats:
    """Return flow against that of most of the picture, in units of how much it varies."""
    if flow.ndim != 3 or flow.shape[2] != 2 or not flow.size:
        raise InputError(f"Flow is (h, w, 2), not an array of {flow.shape}.")
    height, width = flow.shape[:2]
    y, x = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    places = np.stack([np.ones_like(x), y, x], axis=-1).astype(np.float32)
    # A camera also zooms and turns, so the motion of most is a plane, fitted again and again
    # to what fits it (Geman and McClure's weights).
    some, values = places[::4, ::4].reshape(-1, 3), flow[::4, ::4].reshape(-1, 2)
    off = values - np.median(values, axis=0)
    for _ in range(6):
        gaps = np.hypot(*off.T)
        scaled = some / (1 + (gaps / (2 * np.median(gaps) + 0.5))[:, None] ** 2) ** 2
        plane = np.linalg.lstsq(scaled.T @ some, scaled.T @ values, rcond=None)[0]
        off = values - some @ plane
    off = flow - places @ plane.astype(np.float32)
    relative: Floats = np.clip(off / (np.median(np.abs(off)) + 1), -6, 6)
    return relative


def _apart(mask: Mask, other: Mask) -> bool:
    """Tell whether a mask lies farther from another one than a share of its own size."""
    reach = _APART * math.sqrt(np.count_nonzero(mask))
    if not other.any() or reach < 1 or (mask & other).any():
        return False
    step = max(1, int(reach / 8))  # as exact as needed, and quick
    near = distance_transform_edt(~_coarse(other, step))[_coarse(mask, step)]
    return bool(step * near.min() > reach)


def _coarse(mask: Mask, step: int) -> Mask:
    """Return which squares of a picture a mask touches."""
    found = np.zeros(-(-np.array(mask.shape) // step), bool)
    rows, columns = np.nonzero(mask)
    found[rows // step, columns // step] = True
    return found


def _seeds(graph: SuperpixelGraph, marks: Sequence[Mark]) -> tuple[Mask, Mask]:
    """Return the superpixels that are known to be the object's, and not to be."""
    inside, outside = np.zeros((2, graph.count), bool)
    chosen = [m for m in marks if m.kind != "box"]
    for mark in chosen:
        side = inside if mark.positive else outside
        if mark.kind == "point":
            side[graph.around(*mark.points[0])] = True
    for mark in chosen:  # the very pixel counts more than what is around another one
        touched = graph.under(mark.points)
        inside[touched], outside[touched] = mark.positive, not mark.positive
    return inside, outside & ~inside


def _size(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
