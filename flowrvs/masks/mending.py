"""What one mark turns over where a mask is mended: the piece that it lies in, and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flowrvs.masks.superpixels import ColorCounts, SuperpixelGraph
from flowrvs.protocols import Mark

__all__ = ["MENDING", "mended", "mending_measures"]

Floats = npt.NDArray[np.float32]

_TRUST = 0.5  # in the judgement of single superpixels
_CLOSED = 0.5  # of the lowest step out of a piece, which all steps in it are below
_CLEAR = 0.5  # log odds of a colour

#: What is asked of a superpixel that a mark may turn over, and its weight: a logistic regression on
#: what spreads did wrong on nine clips of DAVIS, with three clicks on each of their frames.
MENDING = {
    "constant": -3.99,
    "colors, like the mark": -0.02,
    "colors, what it would become against what it is": 0.64,
    "colors nearby, what it would become against what it is": 0.18,
    "geodesic, from the mark": -1.14,
    "space, from the mark": -0.86,
    "highest step, from the mark": -0.25,
    "geodesic, from what is so already": -0.11,
    "motion, unlike the mark": -0.22,
}


def mended(
    graph: SuperpixelGraph,
    mark: Mark,
    share: Floats,
    stays: npt.NDArray[np.bool_],
    colors: ColorCounts | None = None,
) -> Floats:
    """Return a mask after a mark: of what contradicts it, the piece that it lies in turns over.

    Parameters
    ----------
    graph : SuperpixelGraph
    mark : Mark
        A point or a scribble. "This" only adds, "not this" only takes away.
    share : ndarray of float32, shape (n,)
        How much of each superpixel is the mask's.
    stays : ndarray of bool, shape (n,)
        What must not turn over: other marks say so.
    colors : ColorCounts, optional
        Of the object and its surroundings on frames nearby.

    Returns
    -------
    ndarray of float32, shape (n,)
    """
    here = np.zeros(graph.count, bool)
    here[graph.under(mark.points)] = True
    wrong = ((share > 0.5) != mark.positive) & ~stays
    measures = mending_measures(graph, mark, share, colors)
    odds = measures @ np.fromiter(MENDING.values(), np.float32)
    likely = np.where(wrong, 1 / (1 + np.exp(-np.clip(odds, -30, 30))), 1).astype(np.float32)
    turned = graph.solve(likely, _TRUST, (here | ~wrong) & ~stays, stays) > 0.5
    # And what is closed by itself, as another object is, whatever its colours; and what the colours
    # say clearly: the fit saw spreads alone, where a piece is small, and never half an object.
    steps = graph.highest_step(np.flatnonzero(here))
    out = steps[~wrong & ~here]
    closed = steps < _CLOSED * (out.min() if len(out) else 0.0)
    clear = measures[:, 2] > _CLEAR
    piece = graph.connected(wrong & (turned | here | closed | clear), np.flatnonzero(here))
    return np.where(piece, np.float32(mark.positive), share)


def mending_measures(
    graph: SuperpixelGraph, mark: Mark, share: Floats, colors: ColorCounts | None
) -> Floats:
    """Return `MENDING` of every superpixel, shape (n, measures)."""
    here = graph.under(mark.points)
    sign = 1 if mark.positive else -1
    other = np.flatnonzero((share > 0.5) == mark.positive)  # what is said to be so already
    claimed = share.copy()
    claimed[here] = mark.positive
    soft = 0.1 * float(np.median(graph.border_distance[0])) + 1e-3
    near = graph.distance(here)
    step = graph.highest_step(here)
    across = graph.distance(other) if len(other) else np.full(graph.count, 10 * soft)
    found = np.zeros((graph.count, len(MENDING)), np.float32)
    found[:, 0] = 1
    found[:, 1] = np.log(graph.likeness(here) + 0.01)
    found[:, 2] = sign * np.clip(graph.color_ratio(claimed, colors), -4, 4)
    found[:, 3] = sign * np.clip(graph.local_color_ratio(claimed), -4, 4)
    found[:, 4] = np.log(near / (10 * soft) + 0.1)
    found[:, 5] = np.log(graph.spatial_distance(here) + 0.02)
    found[:, 6] = np.log(step + 0.02)
    found[:, 7] = np.log(across / (10 * soft) + 0.1)
    if graph.motion is not None:
        gaps = np.hypot(*(graph.motion - graph.motion[here].mean(0)).T)
        found[:, 8] = np.minimum(gaps, 4)
    return found
