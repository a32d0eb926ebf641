"""How doubtful an object's mask is on each frame, to show a person the worst first.

Every measure is 0 (no doubt) to 1; `together` joins those that are known. A frame without
the object can be doubtful too: where the object was on the frames around it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_erosion, median_filter

from flowrvs.errors import InputError
from flowrvs.masks.flow import Flows, Region, block_mean, region_around, sample

__all__ = ["area_jumps", "margin", "queue", "together", "warp_disagreement"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_RING = 6  # pixels at most on both sides of the edge in which a model is always unsure
_SUREST = 58.5  # 255 * (sigmoid(1) - 0.5): logits are clamped to 1
_NEAR = 5  # frames on each side that an area is compared with
_OBJECT = 192  # working pixels; a doubt needs no fine edges


def margin(confidence: npt.NDArray[np.uint8], mask: npt.ArrayLike) -> float:
    """Return how close to one half the model was, away from the mask's edge.

    Parameters
    ----------
    confidence : ndarray of uint8, shape (H, W)
        ``round(255 * sigmoid(logit))``. Logits of the model lie within -1 to 1, so that it is
        69 to 186; what lies beyond is sure as well.
    mask : array_like, shape (H, W)
        The object's mask on this frame.

    Returns
    -------
    float
        How undecided the object's inside is on average, and undecided pixels elsewhere
        against its size. Its edge does not count: a sure mask is undecided there as well.
    """
    drawn = np.asarray(mask, dtype=bool)
    if confidence.shape != drawn.shape:
        raise InputError(f"Confidence {confidence.shape} does not fit the mask {drawn.shape}.")
    unsure = 1 - np.clip(np.abs(confidence.astype(np.float32) - 127.5) / _SUREST, 0, 1)
    if not drawn.any():
        return float(np.clip(np.count_nonzero(unsure > 0.25) / 256, 0, 1))
    core, hull = _core_and_hull(drawn)
    elsewhere = unsure[~hull & (unsure > 0.25)].sum() / drawn.sum()
    return float(np.clip(unsure[core].mean() + elsewhere, 0, 1))


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
        Masks of frame `t` and of neighbours, ``t - 1`` and ``t + 1`` as a rule.

    Returns
    -------
    float
        The mean over the neighbours; pixels at the very edge do not count. 0 without any.
    """
    drawn = {n: np.asarray(mask, dtype=bool) for n, mask in masks.items()}
    if t not in drawn:
        raise InputError(f"The mask of frame {t} itself is missing.")
    either = np.logical_or.reduce(list(drawn.values()))
    if len(drawn) < 2 or not either.any():
        return 0.0
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    step = max(1, -(-int(longest) // _OBJECT))
    small = {n: block_mean(mask.astype(np.float32), step) for n, mask in drawn.items()}
    region = region_around(block_mean(either.astype(np.float32), step) > 0, 24, step)
    own = small[t][region.slices] > 0.5
    apart = [_apart(own, _moved(flows, small[n], t, n, region)) for n in sorted(small) if n != t]
    return float(np.mean(apart))


def together(*measures: npt.ArrayLike | None) -> Floats:
    """Join measures of doubt: ``1 - product of (1 - each)``; those that are None are left out."""
    known = [np.asarray(m, dtype=np.float32) for m in measures if m is not None]
    if not known:
        raise InputError("No measure of doubt is given.")
    sure = np.ones_like(known[0])
    for each in known:
        sure = sure * (1 - np.clip(np.nan_to_num(each, nan=0.0), 0, 1))
    return np.asarray(1 - sure, dtype=np.float32)


def queue(doubts: npt.ArrayLike, open_frames: npt.ArrayLike, apart: int = 5) -> list[int]:
    """Return the frames to look at, most doubtful first.

    Parameters
    ----------
    doubts : array_like of float, shape (T,)
    open_frames : array_like of bool, shape (T,)
        Frames that no person has checked; the others are left out.
    apart : int
        A correction spreads: frames nearer than this to one that is already in the queue
        come after all that are not.

    Returns
    -------
    list of int
        Every open frame once.
    """
    values = np.asarray(doubts, dtype=np.float64)
    waiting = np.asarray(open_frames, dtype=bool)
    if values.shape != waiting.shape or values.ndim != 1:
        raise InputError(f"Doubts {values.shape} and frames {waiting.shape} do not fit.")
    order = [int(t) for t in np.argsort(-values, kind="stable") if waiting[t]]
    blocked = np.zeros(len(values), bool)
    first, later = [], []
    for t in order:
        if blocked[t]:
            later.append(t)
        else:
            first.append(t)
            blocked[max(0, t - apart + 1) : t + apart] = True
    return first + later


def _moved(flows: Flows, mask: Floats, t: int, other: int, region: Region) -> Mask:
    flow = flows.between(t, other, region)
    rows, columns = np.indices(region.shape, dtype=np.float32)
    moved: Mask = (
        sample(mask, rows + region.top + flow[..., 0], columns + region.left + flow[..., 1]) > 0.5
    )
    return moved


def _apart(a: Mask, b: Mask) -> float:
    """Return 1 - IoU without the pixels along the edges, where flow is not exact."""
    either = a | b
    if not either.any():
        return 0.0
    differ = binary_erosion(a ^ b, iterations=1)
    return float(min(1.0, np.count_nonzero(binary_dilation(differ)) / np.count_nonzero(either)))


def _core_and_hull(mask: Mask) -> tuple[Mask, Mask]:
    ring = int(np.clip(np.sqrt(mask.sum()) / 8, 1, _RING))
    core: Mask = binary_erosion(mask, iterations=ring)
    return core if core.any() else mask, binary_dilation(mask, iterations=ring)
