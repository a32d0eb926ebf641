"""Cues for a pixel being the object's: colours, likeness to a known picture, and motion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, uniform_filter

from flowrvs.masks.flow import Region, sample

__all__ = ["LocalColors", "blurred", "likeness", "motion_cue", "patch_distance"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_CELL = 16  # working pixels: colours are told apart by where they are
_SPREAD = 5.0  # Lab units over which a colour stands for its neighbours
_FORGET = 0.8  # per frame
_GRAIN = 4.0  # Lab units within which all colours have the same nearest one of the palette
_GRID = (26, 56, 56)  # cells along L, a and b
_ORIGIN = np.array([0, 28, 28], np.float32)  # the cell of L, a, b = 0

_AROUND = 40.0  # pixels over which motion is averaged on either side of the edge
_COARSE = 4  # motion is averaged on every fourth pixel of every fourth row
_EXACT = 0.5  # pixels to which flow is exact at best
_RELATIVE = 1.5  # pixels a frame from which on both sides count as moving apart
_MOST = 4.0


class LocalColors:
    """Histograms of colour, one for each cell of the picture, inside and outside a mask.

    After the localized classifiers of Video SnapCut (Bai et al., 2009), with one palette for
    all cells.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the working picture.
    lab : ndarray of float32, shape (n, 3)
        Colours, CIE Lab, from which the palette is chosen.
    size : int
        Colours of the palette.

    Attributes
    ----------
    counts : ndarray of float32
        All that `learn` has added.
    """

    def __init__(self, shape: tuple[int, int], lab: Floats, size: int = 128) -> None:
        rng = np.random.default_rng(0)
        some = lab[rng.permutation(len(lab))[:4000]]
        self._palette = _palette(some, size)
        self._table = _table(self._palette)
        gaps = ((self._palette[:, None] - self._palette[None]) ** 2).sum(-1)
        self._alike = np.exp(-gaps / (2 * _SPREAD**2)).astype(np.float32)
        cells = (shape[0] // _CELL + 2, shape[1] // _CELL + 2)
        self.counts = np.zeros((2, *cells, len(self._palette)), np.float32)
        self._always = np.zeros((2, len(self._palette)), np.float32)

    def learn(
        self, lab: Floats, region: Region, inside: Floats, outside: Floats, forget: float = _FORGET
    ) -> None:
        """Take in a frame; what was learnt before counts `forget` times as much as it did.

        Parameters
        ----------
        lab : ndarray of float32, shape (h, w, 3)
            The frame's region.
        region : Region
            Where it lies.
        inside, outside : ndarray of float32, shape (h, w)
            How surely each pixel belongs to the object and to the rest; 0 leaves it out.
        """
        rows, columns = self._cells(np.indices(region.shape), region)
        cells = np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)
        shape = self.counts.shape[1:]
        at = np.ravel_multi_index((*cells, self._nearest(lab)), shape).ravel()
        self.counts *= forget
        for counts, weight in zip(self.counts, (inside, outside), strict=True):
            added = np.bincount(at, weights=weight.ravel(), minlength=counts.size)
            counts += added.reshape(shape).astype(np.float32)

    def keep(self, lab: Floats, inside: Floats, outside: Floats) -> None:
        """Take in a key frame for good, wherever in the picture its colours are."""
        at = self._nearest(lab).ravel()
        for counts, weight in zip(self._always, (inside, outside), strict=True):
            counts += np.bincount(at, weights=weight.ravel(), minlength=counts.size)

    def anywhere(self, lab: Floats) -> Floats:
        """Return the log of the likelihood ratio of colours by the key frames alone."""
        likely = self._always @ self._alike
        likely = np.log((likely + 1) / (likely.sum(-1, keepdims=True) + 200))
        ratio: Floats = (likely[0] - likely[1])[self._nearest(lab)]
        return ratio

    def evidence(
        self, lab: Floats, region: Region, where: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
        """Return how much more likely the object's colours are than the others.

        Parameters
        ----------
        where : ndarray of bool, shape (h, w)
            The pixels asked for.

        Returns
        -------
        rows, columns : ndarray of int
            The pixels, within the region.
        ratio : ndarray of float32
            Log of the likelihood ratio; 0 where only one side's colours are known.
        """
        rows, columns = np.nonzero(where)
        cell_rows, cell_columns = self._cells(np.stack([rows, columns]), region)
        color = self._nearest(lab[rows, columns])
        top, left = max(0, int(region.top / _CELL) - 2), max(0, int(region.left / _CELL) - 2)
        part = np.s_[top : region.bottom // _CELL + 4, left : region.right // _CELL + 4]
        logs, totals = [], []
        for counts in self.counts:
            near = gaussian_filter(counts[part], (0.8, 0.8, 0), truncate=2, mode="constant")
            total = near.sum(-1)
            likely = near @ self._alike
            likely = np.log((likely + 0.1) / (likely.sum(-1, keepdims=True) + 20))
            logs.append(_at(likely, cell_rows - top, cell_columns - left, color))
            totals.append(sample(total, cell_rows - top, cell_columns - left))
        fewer = np.minimum(*totals)
        ratio: Floats = (logs[0] - logs[1]) * fewer / (fewer + 20)
        return rows, columns, ratio

    def _cells(self, places: npt.NDArray[np.integer], region: Region) -> tuple[Floats, Floats]:
        rows, columns = (places[0] + region.top) / _CELL, (places[1] + region.left) / _CELL
        return rows.astype(np.float32), columns.astype(np.float32)

    def _nearest(self, lab: Floats) -> npt.NDArray[np.intp]:
        at = np.clip(lab / _GRAIN + _ORIGIN, 0, np.array(_GRID) - 1).astype(np.intp)
        return self._table[(at[..., 0] * _GRID[1] + at[..., 1]) * _GRID[2] + at[..., 2]]


def _table(palette: Floats) -> npt.NDArray[np.uint8]:
    """Return the nearest colour of the palette for every cell of Lab."""
    cells = np.indices(_GRID, dtype=np.float32).reshape(3, -1).T
    return _nearest((cells + 0.5 - _ORIGIN) * _GRAIN, palette).astype(np.uint8)


def _palette(colors: Floats, size: int) -> Floats:
    """Return `size` colours that stand for all, by Lloyd's algorithm; fewer if there are."""
    distinct = np.unique(np.round(colors), axis=0).astype(np.float32)
    if len(distinct) <= size:
        return distinct
    palette: Floats = distinct[np.linspace(0, len(distinct) - 1, size).astype(np.intp)]
    for _ in range(6):
        owner = _nearest(colors, palette)
        count = np.bincount(owner, minlength=size)[:, None]
        sums = [np.bincount(owner, weights=values, minlength=size) for values in colors.T]
        mean = np.stack(sums, axis=1) / np.maximum(count, 1)
        palette = np.where(count > 0, mean, palette).astype(np.float32)
    return palette


def _nearest(colors: Floats, palette: Floats) -> npt.NDArray[np.intp]:
    # |a - b|^2 without the term that all share
    apart = colors @ (-2 * palette.T) + (palette**2).sum(1)
    return np.argmin(apart, axis=-1)


def _at(
    values: Floats, rows: Floats, columns: Floats, color: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """Return ``values[row, column, color]``, bilinear in rows and columns."""
    h, w, n = values.shape
    top = np.clip(rows.astype(np.intp), 0, h - 2)
    left = np.clip(columns.astype(np.intp), 0, w - 2)
    down, right = rows - top, columns - left
    flat = values.reshape(-1)
    at = (top * w + left) * n + color
    upper = flat[at] * (1 - right) + flat[at + n] * right
    lower = flat[at + w * n] * (1 - right) + flat[at + (w + 1) * n] * right
    mixed: npt.NDArray[np.float32] = (upper * (1 - down) + lower * down).astype(np.float32)
    return mixed


def patch_distance(a: Floats, b: Floats) -> Floats:
    """Return the mean squared difference of two pictures, over patches of 5 by 5 pixels."""
    result: Floats = uniform_filter(((a - b) ** 2).sum(-1), 5)
    return result


def likeness(picture: Floats, other: Floats, tolerance: float) -> Floats:
    """Return 0 to 1: how much patches look the same, whatever the light of all of them."""
    light = np.median((picture - other).reshape(-1, 3), axis=0)
    like: Floats = np.exp(-patch_distance(picture - light, other) / tolerance)
    return like


def blurred(values: Floats, where: Mask, sigma: float) -> Floats:
    """Return values blurred with those of neighbours within `where`."""
    count = gaussian_filter(where.astype(np.float32), sigma, truncate=2) + 1e-3
    mean: Floats = gaussian_filter(np.where(where, values, 0), sigma, truncate=2) / count
    return mean


def motion_cue(flow: Floats, distance: Floats, found: Mask) -> tuple[Floats, Floats]:
    """Return whether pixels move as the object does, or as what is around it.

    Parameters
    ----------
    flow : ndarray of float32, shape (h, w, 2)
    distance : ndarray of float32, shape (h, w)
        To the edge of the warped mask, positive inside.
    found : ndarray of bool, shape (h, w)
        Where flow can be trusted.

    Returns
    -------
    says : ndarray of float32, shape (h, w)
        Above 0 for the object; 0 where one side's motion is not known.
    slow : ndarray of float32, shape (h, w)
        1 where object and surroundings move together, towards 0 the more they move apart.
    """
    small = flow[::_COARSE, ::_COARSE]
    sigma = _AROUND / _COARSE
    means, spreads, known = [], [], np.ones(small.shape[:2], bool)
    for side in (distance > 2, distance < -4):
        weight = (side & found)[::_COARSE, ::_COARSE].astype(np.float32) + 1e-6
        count = gaussian_filter(weight, sigma, truncate=2)
        rows, columns = (
            gaussian_filter(each * weight, sigma, truncate=2) / count
            for each in (small[..., 0], small[..., 1])
        )
        off = (small[..., 0] - rows) ** 2 + (small[..., 1] - columns) ** 2
        means += [rows, columns]
        spreads.append(gaussian_filter(off * weight, sigma, truncate=2) / count)
        known &= count > 1e-3
    relative = (means[0] - means[2]) ** 2 + (means[1] - means[3]) ** 2
    slow = 1 / (1 + relative / _RELATIVE**2)
    spread = np.maximum(*spreads) + _EXACT**2
    at = np.indices(flow.shape[:2], dtype=np.float32) / _COARSE
    fine = sample(np.dstack([*means, spread, known, slow]).astype(np.float32), *at)
    from_object = ((flow - fine[..., :2]) ** 2).sum(-1)
    from_around = ((flow - fine[..., 2:4]) ** 2).sum(-1)
    says = np.clip((from_around - from_object) / (2 * fine[..., 4]), -_MOST, _MOST)
    return (says * fine[..., 5]).astype(np.float32), fine[..., 6]
