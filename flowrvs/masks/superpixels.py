"""A crop of a picture as a graph of superpixels: small enough to solve between two clicks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.sparse.linalg import cg
from scipy.spatial import KDTree
from skimage.color import rgb2lab
from skimage.segmentation import slic

__all__ = ["Box", "ColorCounts", "SuperpixelGraph"]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]

_COMPACTNESS = 0.07  # of colours scaled to 0..1, as scikit-image does
_SMALLEST = 4  # pixels of a superpixel
_STEEP = 5
_FIXED = 1e4  # weight of what a person has said
_COLOR_CELLS = (18, 25, 25)
_COLOR_CELL = 6.0  # Lab units
_PLACE_CELL = 9.0  # Lab units
_PLACES = 10  # cells along the diagonal


class ColorCounts:
    """How often colours occur in an object and around it, to be remembered across frames.

    Parameters
    ----------
    inside, outside : ndarray of float32
        Histograms over CIE Lab that each sum to 1, as `of` makes them.
    """

    def __init__(self, inside: Floats, outside: Floats) -> None:
        self.inside = inside
        self.outside = outside

    @classmethod
    def of(cls, rgb: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> ColorCounts | None:
        """Count the colours of a frame, within three sizes of the object; None without one."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return None
        margin = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 8
        step = max(1, int(margin) // 150)
        part = np.s_[
            max(0, rows[0] - margin) : rows[-1] + margin + 1 : step,
            max(0, columns[0] - margin) : columns[-1] + margin + 1 : step,
        ]
        inside = mask[part]
        cells = _color_cells(rgb2lab(rgb[part]).astype(np.float32))
        size = int(np.prod(_COLOR_CELLS))
        if not inside.any() or inside.all():
            return None
        counts = [np.bincount(cells[each], minlength=size) for each in (inside, ~inside)]
        return cls(*((count / count.sum()).astype(np.float32) for count in counts))

    @classmethod
    def together(cls, counts: Sequence[ColorCounts]) -> ColorCounts | None:
        """Join the counts of several frames, each for as much; None without any."""
        if not counts:
            return None
        inside, outside = (
            np.mean([getattr(c, side) for c in counts], axis=0) for side in ("inside", "outside")
        )
        return cls(inside, outside)


class SuperpixelGraph:
    """Superpixels (SLIC) of a crop, how they touch, and solvers on them.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
        RGB.
    box : tuple of int
        left, top, right, bottom of the crop.
    pixels : int
        A larger crop is scaled down to about so many.
    count : int
        About how many superpixels to make.
    motion : ndarray of float32, shape (h, w, 2), optional
        Of the whole frame, relative to what is around; of any size.
    """

    def __init__(
        self,
        frame: npt.NDArray[np.uint8],
        box: Box,
        pixels: int,
        count: int,
        motion: Floats | None = None,
    ) -> None:
        self.box = box
        left, top, right, bottom = box
        self.scale = min(1.0, float(np.sqrt(pixels / ((right - left) * (bottom - top)))))
        self.width = max(2, round((right - left) * self.scale))
        self.height = max(2, round((bottom - top) * self.scale))
        small = Image.fromarray(np.ascontiguousarray(frame[top:bottom, left:right]))
        small = small.resize((self.width, self.height), Image.Resampling.BOX)
        lab = rgb2lab(np.asarray(small)).astype(np.float32)
        self.labels = _superpixels(lab, max(1, min(count, self.width * self.height // _SMALLEST)))
        flat = self.labels.ravel()
        self.area: Floats = np.bincount(flat).astype(np.float32)
        self.count = len(self.area)

        def mean(values: npt.NDArray[np.number]) -> Floats:
            return (np.bincount(flat, values.ravel()) / self.area).astype(np.float32)

        self.lab = np.stack([mean(lab[..., c]) for c in range(3)], axis=1)
        places: Floats = np.indices(self.labels.shape, dtype=np.float32)
        rows, columns = places[0], places[1]
        self.place = np.stack([mean(columns), mean(rows)], axis=1)  # x, y in working pixels
        self.diagonal = float(np.hypot(self.width, self.height))
        self.motion: Floats | None = None
        if motion is not None:
            high, wide = motion.shape[:2]
            y = (top + (rows[:, 0] + 0.5) / self.scale) * high / frame.shape[0]
            x = (left + (columns[0] + 0.5) / self.scale) * wide / frame.shape[1]
            near = motion[
                np.minimum(y.astype(np.intp), high - 1)[:, None],
                np.minimum(x.astype(np.intp), wide - 1)[None],
            ]
            self.motion = np.stack([mean(near[..., c]) for c in range(2)], axis=1)
        edge = np.concatenate(
            [self.labels[0], self.labels[-1], self.labels[:, 0], self.labels[:, -1]]
        )
        self.border: Ids = np.unique(edge)
        self._connect(lab)
        self.border_distance = [self.distance(self.border, kind) for kind in range(len(self.costs))]
        self.border_likeness = self.likeness(self.border)
        self._cells: tuple[Ids, Ids] = (_color_cells(self.lab), self._place_cells())

    def _connect(self, lab: Floats) -> None:
        """Find which superpixels touch, how hard it is to get across, and how alike they are."""
        labels = self.labels
        one = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
        other = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
        steps = np.concatenate(
            [
                np.abs(lab[:, 1:] - lab[:, :-1]).max(-1).ravel(),
                np.abs(lab[1:] - lab[:-1]).max(-1).ravel(),
            ]
        )
        apart = one != other
        one, other, steps = one[apart], other[apart], steps[apart]
        pairs = np.minimum(one, other).astype(np.int64) * self.count + np.maximum(one, other)
        keys, owner, length = np.unique(pairs, return_inverse=True, return_counts=True)
        i, j = keys // self.count, keys % self.count
        contrast = np.bincount(owner, steps) / length
        gap = np.sqrt(((self.lab[i] - self.lab[j]) ** 2).sum(1))
        unit = np.sqrt(self.width * self.height / self.count)
        way = np.hypot(*(self.place[i] - self.place[j]).T) / unit
        alike = length * np.exp(-0.006 * (gap**2 + contrast**2)) + 1e-3
        costs = [gap + 0.5 * contrast + 0.3 * way]
        if self.motion is not None:
            moved = ((self.motion[i] - self.motion[j]) ** 2).sum(1)
            costs.append(4 * np.sqrt(moved) + 0.3 * way + 0.2 * gap)
            alike = alike * np.exp(-0.05 * moved)
        shape = (self.count, self.count)
        ends = np.concatenate([i, j]), np.concatenate([j, i])

        def both_ways(values: npt.NDArray[np.floating]) -> csr_array:
            return csr_array((np.concatenate([values, values]), ends), shape=shape)

        #: Cost of a way across colours, and across motion where that is known.
        self.costs = [both_ways(cost) for cost in costs]
        # High powers add up to nearly the largest: the step that a watershed floods over.
        self._steps = both_ways((0.05 * (gap + contrast) + 1e-2 * way) ** _STEEP)
        self._alike = both_ways(alike)
        self._degree = np.asarray(self._alike.sum(axis=1)).ravel()

    def at(self, x: float, y: float) -> int:
        """Return the superpixel at a pixel of the frame; the nearest if it lies outside."""
        row = int((y - self.box[1]) * self.scale)
        column = int((x - self.box[0]) * self.scale)
        row, column = np.clip([row, column], 0, [self.height - 1, self.width - 1])
        return int(self.labels[row, column])

    def around(self, x: float, y: float, radius: int = 3) -> Ids:
        """Return the superpixels within some working pixels of a pixel of the frame."""
        row, column = (y - self.box[1]) * self.scale, (x - self.box[0]) * self.scale
        top = int(np.clip(row - radius, 0, self.height - 1))
        left = int(np.clip(column - radius, 0, self.width - 1))
        bottom, right = max(top + 1, int(row + radius + 1)), max(left + 1, int(column + radius + 1))
        return np.unique(self.labels[top:bottom, left:right])

    def under(self, points: Sequence[tuple[float, float]]) -> Ids:
        """Return the superpixels that a stroke through some points goes over."""
        places = np.array(points)
        if len(places) > 1:  # also between its points
            steps = np.hypot(*np.diff(places, axis=0).T) * self.scale / 3
            ways = [
                np.linspace(a, b, int(n) + 1, endpoint=False)
                for a, b, n in zip(places[:-1], places[1:], steps, strict=True)
            ]
            places = np.concatenate([*ways, places[-1:]])
        return np.unique([self.at(x, y) for x, y in places])

    def distance(self, start: Ids, kind: int = 0) -> Floats:
        """Return the geodesic distance of every superpixel to the nearest of some."""
        found: Floats = dijkstra(self.costs[kind], indices=start, min_only=True)
        return found

    def connected(self, among: Flags, start: Ids) -> Flags:
        """Return the superpixels of `among` that hang together with some of `start`."""
        ids = np.flatnonzero(among)
        _, part = connected_components(self._alike[ids][:, ids], directed=False)
        found = np.zeros(self.count, bool)
        found[ids] = np.isin(part, part[np.isin(ids, start)])
        return found

    def highest_step(self, start: Ids) -> Floats:
        """Return about the highest step on the easiest way from some superpixels."""
        found = dijkstra(self._steps, indices=start, min_only=True) ** (1 / _STEEP)
        return found.astype(np.float32)

    def spatial_distance(self, start: Ids) -> Floats:
        """Return the straight distance to the nearest of some superpixels, in diagonals."""
        near: Floats = KDTree(self.place[start]).query(self.place)[0] / self.diagonal
        return near

    def likeness(self, samples: Ids, width: float = 6.0) -> Floats:
        """Return how often colours like each superpixel's occur among some, 0 to 1."""
        other = self.lab[samples]
        # |a - b|^2 as a product of matrices
        gaps = self.lab @ (-2 * other.T) + (self.lab**2).sum(1)[:, None] + (other**2).sum(1)
        dense: Floats = np.exp(gaps / np.float32(-2 * width**2)).mean(1)
        return dense

    def color_ratio(self, share: Floats, known: ColorCounts | None = None) -> Floats:
        """Return the log of how much more often colours occur in a mask than outside.

        Parameters
        ----------
        share : ndarray of float32, shape (n,)
            How much of each superpixel is the object's.
        known : ColorCounts, optional
            Of other frames; they count as much as this one.
        """
        logs = []
        cells = self._cells[0]
        for side in (0, 1):
            weight = (share if side == 0 else 1 - share) * self.area
            counts = np.bincount(cells, weight, int(np.prod(_COLOR_CELLS))) / max(1, weight.sum())
            if known is not None:
                counts = 0.5 * counts + 0.5 * (known.inside if side == 0 else known.outside)
            blurred = gaussian_filter(
                counts.reshape(_COLOR_CELLS).astype(np.float32), 0.8, truncate=2, mode="constant"
            )
            logs.append(np.log(blurred.ravel()[cells] + 2e-4))
        ratio: Floats = logs[0] - logs[1]
        return ratio

    def local_color_ratio(self, share: Floats) -> Floats:
        """Return the same from what is near each superpixel, by a blurred bilateral grid."""
        logs = []
        cells = self._cells[1]
        for weight in (share * self.area, (1 - share) * self.area):
            counts = np.bincount(cells, weight, int(np.prod(self._grid))).astype(np.float32)
            blurred = gaussian_filter(
                counts.reshape(self._grid), (1, 1, 0.7, 0.7, 0.7), truncate=2, mode="constant"
            )
            logs.append(np.log(blurred.ravel()[cells] + 3))
        ratio: Floats = logs[0] - logs[1]
        return ratio

    def _place_cells(self) -> Ids:
        places = self.place / self.diagonal * _PLACES
        cells = np.rint(np.concatenate([places, self.lab / _PLACE_CELL], axis=1)).astype(np.intp)
        cells -= cells.min(0)
        self._grid = tuple(int(n) + 1 for n in cells.max(0))  # no larger than what occurs
        return np.ravel_multi_index(tuple(cells.T), self._grid)

    def solve(self, likely: Floats, trust: float, inside: Flags, outside: Flags) -> Floats:
        """Return how much each superpixel is the object's: a random walk with a prior.

        Parameters
        ----------
        likely : ndarray of float32, shape (n,)
            Probability of each superpixel by itself.
        trust : float
            Weight of that against being like the neighbours.
        inside, outside : ndarray of bool, shape (n,)
            What is known.

        References
        ----------
        Grady, "Multilabel random walker image segmentation using prior models", 2005.
        """
        own = trust * 2 * np.sqrt(self.area)
        system = diags_array(self._degree + own + _FIXED * (inside | outside)) - self._alike
        right = own * likely + _FIXED * inside
        jacobi = diags_array(1 / system.diagonal())
        found, _ = cg(system, right, x0=inside.astype(float), rtol=1e-5, maxiter=500, M=jacobi)
        return np.clip(found, 0, 1).astype(np.float32)

    def shares(self, values: Floats) -> Floats:
        """Return the mean over each superpixel of values on the frame's pixels, shape (H, W)."""
        left, top, right, bottom = self.box
        small = Image.fromarray(np.ascontiguousarray(values[top:bottom, left:right]))
        small = small.resize((self.width, self.height), Image.Resampling.BOX)
        sums = np.bincount(self.labels.ravel(), np.asarray(small, np.float32).ravel())
        return (sums / self.area).astype(np.float32)

    def paint(self, values: Floats, into: Floats) -> None:
        """Write a value per superpixel onto the frame's pixels, smoothly."""
        left, top, right, bottom = self.box
        large = Image.fromarray(values[self.labels].astype(np.float32))
        large = large.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        into[top:bottom, left:right] = np.asarray(large)

    def within(self, box: Sequence[float]) -> tuple[Floats, Floats]:
        """Return where superpixels lie in a box of the frame: -1 to 1 from side to side."""
        x, y = (self.place / self.scale + self.box[:2]).T
        across = (2 * x - box[0] - box[2]) / max(1, box[2] - box[0])
        down = (2 * y - box[1] - box[3]) / max(1, box[3] - box[1])
        return across.astype(np.float32), down.astype(np.float32)


def _superpixels(lab: Floats, count: int) -> npt.NDArray[np.intp]:
    """Return labels 0..n-1 without gaps."""
    labels = slic(
        lab,
        count,
        compactness=_COMPACTNESS,
        max_num_iter=3,
        start_label=0,
        enforce_connectivity=False,
        convert2lab=False,
    )
    there = np.bincount(labels.ravel()) > 0
    packed: npt.NDArray[np.intp] = (np.cumsum(there) - 1)[labels]
    return packed


def _color_cells(lab: Floats) -> Ids:
    cells = np.rint(lab / _COLOR_CELL + (0, 12, 12)).astype(np.intp)
    cells = np.clip(cells, 0, np.array(_COLOR_CELLS) - 1)
    return np.ravel_multi_index(tuple(np.moveaxis(cells, -1, 0)), _COLOR_CELLS)
