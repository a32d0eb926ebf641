"""Spread an object's mask from key frames through time, by optical flow and appearance.

:mod:`flowrvs.masks.tracking` carries a mask from one key frame on. Here its ways are planned, and
between two keys the spreads from both sides are blended.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from flowrvs.errors import InputError
from flowrvs.masks.flow import Flows, Region, sample
from flowrvs.masks.shape import bounding_box, iou
from flowrvs.masks.tracking import SURE, Carried, MaskTracker, TrackedMask
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.records import frame_range

__all__ = ["Spread", "leg_steps", "part_end", "propagate", "spread_gap"]

Mask = npt.NDArray[np.bool_]

_OBJECT = 320  # an object longer than this many working pixels is looked at more coarsely
_RIVALS = 3  # other objects that are followed, too
_BLENDED = 1000  # frames before a key within which the spreads from both sides are blended


@dataclass(frozen=True, slots=True)
class Spread:
    """A mask that was spread to a frame.

    Attributes
    ----------
    frame : int
        Where.
    mask : ndarray of bool, shape (H, W)
        At source size.
    certainty : float
        0 to 1: how much of the way from the key frame is confirmed.
    final : bool
        False for a first look from one side, which a blend of both sides will replace.
    """

    frame: int
    mask: Mask
    certainty: float
    final: bool = True


def propagate(
    flows: Flows,
    keys: Mapping[int, npt.ArrayLike],
    start: int = 0,
    stop: int | None = None,
    *,
    stops: Collection[int] = (),
    rivals: Callable[[int], Sequence[npt.ArrayLike]] | None = None,
    lost: Callable[[range], None] | None = None,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> Generator[Spread, None, None]:
    """Spread masks from key frames to the frames before, between and after them.

    Parameters
    ----------
    flows : Flows
        Of the video.
    keys : mapping of int to array_like, shape (H, W)
        Masks by frame, taken from the mapping when they are needed. An empty one says that
        the object is absent there: nothing spreads from it or beyond it.
    start, stop : int
        Range of frames to fill, keys excepted. Keys outside of it count too.
    stops : collection of int
        Frames that end a spread though no mask is taken from them.
    rivals : callable, optional
        Returns the masks of other objects on a key frame; the nearest few of them are followed,
        too, so that a pixel is never taken that fits one of them better.
    lost : callable, optional
        Told of every run of frames on which the object was lost.
    cancel : CancelToken, optional
        Checked before every frame.
    progress : callable, optional
        Receives a `Progress` after every frame.

    Yields
    ------
    Spread
        In the order in which they are found. Frames where the object is lost (the flow's
        forward-backward check fails, its area collapses, it left the picture, what was found
        does not look like it) are left out, and all frames behind them.

    Raises
    ------
    InputError
        There is no key, a mask has another size, or a frame lies outside the video.
    Cancelled
        `cancel` was set.
    """
    total, height, width = flows.shape
    if not keys:
        raise InputError("There is no key frame to spread from; draw the object on one first.")
    frames = frame_range(total, start, stop)
    if not all(0 <= t < total for t in keys):
        raise InputError(f"A key frame lies outside the {total} frames.")
    fixed = sorted({*keys, *stops, -1, total})
    legs = []
    for before, after in itertools.pairwise(fixed):
        first, last = max(frames.start, before + 1), min(frames.stop, after) - 1
        ends = [t for t in (before, after) if t in keys]
        if first <= last and ends:
            legs.append((ends, first, last))
    # What has one key is final at once, so it comes first.
    legs.sort(key=lambda leg: len(leg[0]))
    clock = ProgressClock(sum(leg_steps(*leg) for leg in legs))
    if cancel is not None:
        cancel.raise_if_cancelled()

    def step() -> None:
        event = clock.advance("spreading")
        if progress is not None:
            progress(event)

    for beside, first, last in legs:
        yield from spread_gap(
            flows,
            {t: keys[t] for t in beside},
            range(first, last + 1),
            rivals=rivals,
            lost=lost,
            cancel=cancel,
            step=step,
        )


def spread_gap(
    flows: Flows,
    keys: Mapping[int, npt.ArrayLike],
    frames: range,
    *,
    rivals: Callable[[int], Sequence[npt.ArrayLike]] | None = None,
    lost: Callable[[range], None] | None = None,
    cancel: CancelToken | None = None,
    step: Callable[[], None] = lambda: None,
    begin: Carried | None = None,
    limit: int | None = None,
    carry: Callable[[Carried], None] = lambda _: None,
) -> Generator[Spread, None, None]:
    """Spread masks to the frames next to one key, or between two; see `propagate`.

    Parameters
    ----------
    flows, rivals, lost, cancel
        As for `propagate`.
    keys : mapping of int to array_like, shape (H, W)
        One or two.
    frames : range
        Ascending, without the keys.
    step : callable
        Called after every frame that was walked.
    begin : dict of str to ndarray, optional
        What `carry` was told when an earlier part of the way ended.
    limit : int, optional
        Frames after which a long way may end.
    carry : callable
        Told of what the next part needs where this one ends there.
    """
    masks = {t: _as_mask(key, t, flows.shape[1:]) for t, key in keys.items()}
    masks = {t: mask for t, mask in masks.items() if mask.any()}
    missing = {*frames} if masks else set()
    if begin is not None:
        forwards, at = min(masks) < frames[0], int(begin["at"])
        missing = {t for t in missing if (t > at if forwards else t < at)}
    carried: list[Carried] = []
    for found in _leg(flows, masks, frames, rivals, begin, limit, carried.append):
        step()
        if cancel is not None:
            cancel.raise_if_cancelled()
        if found is not None:
            missing.discard(found.frame)
            yield found
    if carried:
        carry(carried[0])
    elif missing and lost is not None:
        lost(range(min(missing), max(missing) + 1))


def leg_steps(ends: list[int], first: int, last: int) -> int:
    """Return how many frames have to be walked for a leg."""
    there = last - ends[0] if ends[0] < first else ends[0] - first
    return there + (ends[1] - max(first, ends[1] - _BLENDED) if len(ends) == 2 else 0)


def part_end(ends: Sequence[int], frames: range, at: int, limit: int | None) -> int | None:
    """Return the frame with which a part of a way ends; None where it goes all the way.

    Frames of which both keys know are not cut: the part that begins before them has them all.
    """
    forwards = ends[0] < frames[0]
    end = at + (limit or 0) * (1 if forwards else -1)
    if limit is None or (end <= frames[0] if not forwards else end >= _meet(ends, frames) - 1):
        return None
    return end


def _meet(ends: Sequence[int], frames: range) -> int:
    """Return the first frame on which the spreads from both sides are blended."""
    return max(frames[0], ends[1] - _BLENDED) if len(ends) == 2 else frames[-1] + 1


def _leg(
    flows: Flows,
    masks: Mapping[int, Mask],
    frames: range,
    rivals: Callable[[int], Sequence[npt.ArrayLike]] | None,
    begin: Carried | None,
    limit: int | None,
    carry: Callable[[Carried], None],
) -> Generator[Spread | None, None, None]:
    """Fill the frames next to one key or between two; None for a frame out of range."""
    ends = sorted(masks)
    if not ends:
        return
    first, last = frames[0], frames[-1]
    shape = flows.shape[1:]
    step = max(_step(mask) for mask in masks.values())

    def tracker(key: int) -> MaskTracker:
        others = [] if rivals is None else [_as_mask(m, key, shape) for m in rivals(key)]
        return MaskTracker(flows, masks, key, step, _nearest(masks[key], others))

    # Only the last frames are held for a blend: a gap may be an hour long.
    meet = _meet(ends, frames)
    held: dict[int, TrackedMask] = {}
    walk = tracker(ends[0])
    if begin is not None:
        walk.go_on(begin)
    end = part_end(ends, frames, ends[0] if begin is None else int(begin["at"]), limit)
    for found in walk.to(last if ends[0] < first else first):
        t = found.frame
        if t >= meet:
            held[t] = found
        yield _spread(found, shape, final=t < meet) if first <= t <= last else None
        if t == end:
            carry(walk.carried())
            return
    if len(ends) < 2:
        return
    for found in tracker(ends[1]).to(meet):
        t = found.frame
        other = held.pop(t, None)
        if other is not None:
            near = (ends[1] - t) / (ends[1] - ends[0])
            found = _blend(other, near, found, 1 - near)
        yield _spread(found, shape) if first <= t <= last else None
    for t in sorted(held):  # the spread from the later key did not get here
        yield _spread(held[t], shape)


def _nearest(mask: Mask, others: Sequence[Mask]) -> list[Mask]:
    """Return the objects that lie nearest, by the middles of their boxes."""

    def middle(each: Mask) -> npt.NDArray[np.float64]:
        rows, columns = np.flatnonzero(each.any(1)), np.flatnonzero(each.any(0))
        return np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2

    here = middle(mask)
    seen = [each for each in others if each.any()]
    return sorted(seen, key=lambda each: float(np.hypot(*(middle(each) - here))))[:_RIVALS]


def _as_mask(key: npt.ArrayLike, t: int, shape: tuple[int, int]) -> Mask:
    mask = np.asarray(key, dtype=bool)
    if mask.shape != shape:
        raise InputError(f"The mask of frame {t} is {mask.shape}; the video is {shape}.")
    return mask


def _spread(found: TrackedMask, shape: tuple[int, int], *, final: bool = True) -> Spread:
    """Return what was found at source size."""
    mask = np.zeros(shape, bool)
    step = found.region.step
    top, left = found.region.top * step, found.region.left * step
    part = mask[top : found.region.bottom * step, left : found.region.right * step]
    logit = found.logit.astype(np.float32)
    if step > 1:
        rows, columns = (np.indices(part.shape, dtype=np.float32) + 0.5) / step - 0.5
        logit = sample(logit, rows, columns)
    part[:] = logit[: part.shape[0], : part.shape[1]] > 0
    return Spread(found.frame, mask, found.certainty, final)


def _blend(a: TrackedMask, near_a: float, b: TrackedMask, near_b: float) -> TrackedMask:
    """Weigh two spreads by how sure they are and how near their keys lie."""
    weight = a.certainty * near_a / max(1e-6, a.certainty * near_a + b.certainty * near_b)
    region = Region(
        min(a.region.top, b.region.top),
        max(a.region.bottom, b.region.bottom),
        min(a.region.left, b.region.left),
        max(a.region.right, b.region.right),
        a.region.step,
    )
    logits = []
    for side in (a, b):
        logits.append(np.full(region.shape, -SURE, np.float32))
        logits[-1][region.part(side.region)] = side.logit
    logit = weight * logits[0] + (1 - weight) * logits[1]
    certainty = weight * a.certainty + (1 - weight) * b.certainty
    certainty *= iou(logits[0] > 0, logits[1] > 0)
    return TrackedMask(a.frame, logit.astype(np.float16), region, certainty)


def _step(mask: Mask) -> int:
    """Return how many source pixels a working pixel takes for an object of this size."""
    box = mask[bounding_box(mask)]
    step = -(-max(box.shape) // _OBJECT)
    if step > 1:  # what is long and thin must not vanish between coarse pixels
        step = min(step, int(distance_transform_edt(np.pad(box, 1)).max() / 2))
    return max(1, step)
