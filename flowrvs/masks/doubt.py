"""How doubtful an object's mask is on each frame, to show a person the worst first.

Every measure is 0 (no doubt) to 1; `together` joins those that are known. A frame without
the object can be doubtful too: where the object was on the frames around it.
`benchmarks/bench_doubt.py` measures how well each of them, and all together, find bad frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_erosion, median_filter

from flowrvs.errors import InputError
from flowrvs.masks.flow import Flows, Region, block_mean, region_around, sample
from flowrvs.masks.shape import bounding_box, iou

__all__ = [
    "FAR",
    "area_jumps",
    "edge_likeness",
    "gaps",
    "margin",
    "queue",
    "together",
    "warp_disagreement",
]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: Frames to each side up to which a mask is compared with others.
FAR = 4

_USUAL = 127  # a logit of 0
_SHIFT = 12  # of 255: 0.2 of a logit
_FEW = 16  # pixels that make no difference
_NEAR = 15  # frames on each side that an area is compared with
_OBJECT = 128  # working pixels; a doubt needs no fine edges
_AROUND = 24  # working pixels around the object in which flow is computed
_RIM = 3  # working pixels on each side of the edge whose colours are compared
_CHECKED = 0.25  # of its doubt a frame loses beside one that a person has checked
_UNKNOWN = 0.5  # nobody has said anything

# How much each measure counts: they were chosen on synthetic clips with masks of the bundled
# model (seeds 500, 600 to 605) and on spreads over a real clip; the benchmark has other seeds.
_WEIGHTS = {
    "margin": 0.7,
    "windows": 0.5,
    "warp": 0.9,
    "edge": 0.5,
    "area": 0.15,
    "gone": 0.6,
    "spread": 0.5,
    "gap": 1.0,
}


def margin(confidence: npt.NDArray[np.uint8], mask: npt.ArrayLike) -> float | None:
    """Return how much of a mask depends on the exact threshold of the logits.

    Parameters
    ----------
    confidence : ndarray of uint8, shape (H, W)
        ``round(255 * sigmoid(logit))``.
    mask : array_like, shape (H, W)
        The object's mask on this frame.

    Returns
    -------
    float or None
        1 - IoU of the masks that thresholds 0.2 of a logit above and below give. None for a
        mask that is not this model's at any threshold: somebody has drawn it anew.
    """
    drawn = np.asarray(mask, dtype=bool)
    if confidence.shape != drawn.shape:
        raise InputError(f"Confidence {confidence.shape} does not fit the mask {drawn.shape}.")
    if drawn.any():
        most = 1.05 * np.count_nonzero(drawn) + _FEW
        # Of the thresholds that give this mask, the usual one or the nearest to it.
        level = int(confidence[drawn].min()) - 1
        if level > _USUAL and np.count_nonzero(confidence > _USUAL) <= most:
            level = _USUAL
        if np.count_nonzero(confidence > level) > most:
            return None
    else:
        level = max(_USUAL, int(confidence.max()))
    strict = np.count_nonzero(confidence > level + _SHIFT)
    loose = np.count_nonzero(confidence > level - _SHIFT)
    return float(1 - (strict + _FEW) / (loose + _FEW))


def area_jumps(areas: npt.ArrayLike) -> Floats:
    """Return by how much each frame's area falls out of its neighbours'.

    Parameters
    ----------
    areas : array_like of int, shape (T,)
        Pixels of the object on each frame.

    Returns
    -------
    ndarray of float32, shape (T,)
        0 where the area follows its neighbours' median; 1 where it is half or double, or
        where the object is gone on single frames.
    """
    sizes = np.asarray(areas, dtype=np.float64)
    if sizes.ndim != 1:
        raise InputError(f"Areas are one number a frame, not an array of {sizes.shape}.")
    if len(sizes) < 3:
        return np.zeros(len(sizes), np.float32)
    size = min(2 * _NEAR + 1, (len(sizes) - 1) // 2 * 2 + 1)
    usual = median_filter(sizes, size=size, mode="nearest")
    apart = np.abs(np.log2((sizes + 16) / (usual + 16)))
    return np.clip(apart, 0, 1).astype(np.float32)


def warp_disagreement(flows: Flows, t: int, masks: Mapping[int, npt.ArrayLike]) -> float:
    """Return 1 - IoU of a frame's mask with its neighbours' masks, moved here by flow.

    Parameters
    ----------
    flows : Flows
        Of the video.
    t : int
        The frame.
    masks : mapping of int to array_like, shape (H, W)
        Masks of frame `t` and of others, `FAR` frames away at most: those next to it find
        what jumps, the others what drifts.

    Returns
    -------
    float
        The mean of the worst one next to it and of the average of the others; of what there
        is of both. 0 without any.
    """
    drawn = {n: np.asarray(mask, dtype=bool) for n, mask in masks.items()}
    if t not in drawn:
        raise InputError(f"The mask of frame {t} itself is missing.")
    found = _looked_at(drawn)
    if len(drawn) < 2 or found is None:
        return 0.0
    region, small = found
    own = small[t] > 0.5
    apart = {n: 1 - iou(own, _moved(flows, small[n], t, n, region)) for n in drawn if n != t}
    near = [value for n, value in apart.items() if abs(n - t) == 1]
    far = [value for n, value in apart.items() if abs(n - t) > 1]
    parts = [float(np.max(near))] if near else []
    return float(np.mean([*parts, float(np.mean(far))] if far else parts))


def edge_likeness(flows: Flows, t: int, mask: npt.ArrayLike) -> float:
    """Return how alike the colours on both sides of a mask's edge are.

    Parameters
    ----------
    flows : Flows
        Of the video, whose pictures it keeps.
    t : int
        The frame.
    mask : array_like, shape (H, W)
        The object's mask there.

    Returns
    -------
    float
        The overlap of two colour histograms, of the rim inside the edge and of the ring
        outside. 0 for an empty mask. What is camouflaged looks doubtful everywhere.
    """
    found = _looked_at({t: np.asarray(mask, dtype=bool)})
    if found is None:
        return 0.0
    region, small = found
    own = small[t] > 0.5
    rim = own & ~binary_erosion(own, iterations=_RIM, border_value=1)
    ring = binary_dilation(own, iterations=_RIM) & ~own
    if not rim.any() or not ring.any():
        return 0.0
    lab = flows.lab(t, region)
    cells = np.clip(lab / (13, 25, 25) + (0, 4, 4), 0, 7).astype(np.intp) @ (64, 8, 1)
    shares = [np.bincount(cells[part], minlength=512) / part.sum() for part in (rim, ring)]
    return float(np.minimum(*shares).sum())


def gaps(drawn: npt.ArrayLike) -> Floats:
    """Return one half on the middle frame of every run of frames that nobody has drawn.

    There a key frame helps most; the other frames of the run have nothing to be judged.

    Parameters
    ----------
    drawn : array_like of bool, shape (T,)
        Frames about which somebody, or a model, has said something.
    """
    empty = ~np.asarray(drawn, dtype=bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], empty, [0]]).astype(np.int8)))
    values = np.zeros(len(empty), np.float32)
    values[(edges[::2] + edges[1::2] - 1) // 2] = _UNKNOWN
    return values


def together(**measures: npt.ArrayLike | None) -> Floats:
    """Join measures of doubt: ``1 - product of (1 - weight * each)``.

    Parameters
    ----------
    margin, windows, warp, edge, area, gone, spread, gap : array_like, optional
        The measures by name; those that are None, or NaN, are left out. `windows` is what
        overlapping windows disagree about, `gone` the jump of the area where nothing is left
        of the object, `spread` 1 - the certainty of a spread.
    """
    strange = measures.keys() - _WEIGHTS.keys()
    if strange:
        raise InputError(f"{min(strange)!r} is no measure of doubt: use {', '.join(_WEIGHTS)}.")
    known = {k: np.asarray(m, dtype=np.float32) for k, m in measures.items() if m is not None}
    if not known:
        raise InputError("No measure of doubt is given.")
    sure = np.ones(np.broadcast_shapes(*(m.shape for m in known.values())), np.float32)
    for name, each in known.items():
        sure = sure * (1 - _WEIGHTS[name] * np.clip(np.nan_to_num(each, nan=0.0), 0, 1))
    return np.asarray(1 - sure, dtype=np.float32)


def queue(
    doubts: npt.ArrayLike, open_frames: npt.ArrayLike, apart: int = 5, most: int | None = None
) -> list[int]:
    """Return the frames to look at, most doubtful first.

    Parameters
    ----------
    doubts : array_like of float, shape (T,)
    open_frames : array_like of bool, shape (T,)
        Frames that no person has checked; the others are left out.
    apart : int
        A correction spreads: frames nearer than this to one that is already in the queue
        come after all that are not, and those nearer than this to one that was checked count
        as less doubtful.
    most : int, optional
        How many to return; all by default.

    Returns
    -------
    list of int
        Open frames, each once.
    """
    values = np.asarray(doubts, dtype=np.float64)
    waiting = np.asarray(open_frames, dtype=bool)
    if values.shape != waiting.shape or values.ndim != 1:
        raise InputError(f"Doubts {values.shape} and frames {waiting.shape} do not fit.")
    # Of equal doubts the earlier one comes first.
    places = np.flatnonzero(waiting)
    gaps = np.minimum(_gaps(~waiting)[places] / max(1, apart), 1)
    keys = 1e-12 * places - values[places] * (1 - _CHECKED * (1 - gaps))
    enough = len(places) if most is None else most * max(1, 2 * apart - 1)
    if enough < len(places):  # an hour has a hundred thousand frames, and nobody sees them all
        chosen = np.argpartition(keys, enough)[:enough]
        places, keys = places[chosen], keys[chosen]
    blocked, ones = bytearray(len(values)), bytes([1]) * (2 * apart)
    first: list[int] = []
    later: list[int] = []
    for t in places[np.argsort(keys, kind="stable")].tolist():
        if blocked[t]:
            later.append(t)
            continue
        first.append(t)
        if len(first) == most:
            return first
        start, stop = max(0, t - apart + 1), min(len(values), t + apart)
        blocked[start:stop] = ones[: stop - start]
    return (first + later)[:most]


def _gaps(checked: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return how many frames away the nearest checked one is; infinite without any."""
    places = np.arange(len(checked), dtype=np.float64)
    before = np.maximum.accumulate(np.where(checked, places, -np.inf))
    after = np.minimum.accumulate(np.where(checked, places, np.inf)[::-1])[::-1]
    return np.minimum(places - before, after - places)


def _looked_at(drawn: Mapping[int, Mask]) -> tuple[Region, dict[int, Floats]] | None:
    """Return the region around masks, and what of them lies in it, in working pixels."""
    either = np.logical_or.reduce(list(drawn.values()))
    box = bounding_box(either)
    if box is None:
        return None
    step = max(1, -(-max(side.stop - side.start for side in box) // _OBJECT))
    region = region_around(block_mean(either.astype(np.float32), step) > 0, _AROUND, step)
    part = tuple(slice(each.start * step, each.stop * step) for each in region.slices)
    return region, {n: block_mean(m[part].astype(np.float32), step) for n, m in drawn.items()}


def _moved(flows: Flows, mask: Floats, t: int, other: int, region: Region) -> Mask:
    flow = flows.between(t, other, region)
    rows, columns = np.indices(region.shape, dtype=np.float32)
    moved: Mask = sample(mask, rows + flow[..., 0], columns + flow[..., 1]) > 0.5
    return moved
