"""Spread an object's mask from key frames through time, by optical flow and appearance.

A mask is warped from frame to frame. In a band around its edge three things then decide
anew: where the warped edge lies, the local colours inside and outside
(:mod:`flowrvs.masks.colors`), and what the key frame itself shows there, found along the
composed flow or in place. The last two keep errors from adding up. Between two keys the
spreads from both sides are blended.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, uniform_filter

from flowrvs.errors import InputError
from flowrvs.masks.colors import LocalColors
from flowrvs.masks.flow import Flows, Region, block_mean, region_around, sample
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock

__all__ = ["Spread", "propagate"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_MARGIN = 40  # working pixels around the object that are looked at
_OBJECT = 320  # an object longer than this many working pixels is looked at more coarsely
_BAND = 10.0  # pixels on both sides of the edge that are decided anew
_EDGE = 3.0  # pixels over which the warped edge is uncertain
_COLOR = 0.8  # weight of the local colours
_COLOR_MOST = 4.0
_KEY = 4.0  # weight of what the key frame shows
_ALIKE = 3.0  # Lab units within which a patch counts as the same
_RELIABLE = (0.75, 0.95)  # share of pixels that colours put on the right side: no use, full use
_SURE = 8.0  # logits are clipped to this
_COLLAPSE = 0.15  # of the area some frames before: the object is gone
_BLENDED = 1000  # frames before a key within which the spreads from both sides are blended
_LOST = 0.35  # share of the object that flow must find again in the last frame


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
    cancel : CancelToken, optional
        Checked before every frame.
    progress : callable, optional
        Receives a `Progress` after every frame.

    Yields
    ------
    Spread
        In the order in which they are found. Frames where the object is lost (the flow's
        forward-backward check fails, its area collapses, it left the picture) are left out.

    Raises
    ------
    InputError
        There is no key, a mask has another size, or a frame lies outside the video.
    Cancelled
        `cancel` was set.
    """
    total, height, width = flows.shape
    stop = total if stop is None else stop
    if not keys:
        raise InputError("There is no key frame to spread from; draw the object on one first.")
    if not (0 <= start < stop <= total) or not all(0 <= t < total for t in keys):
        raise InputError(f"Frames {start} to {stop} or a key lie outside the {total} frames.")
    walls = sorted({*keys, *stops, -1, total})
    legs = []
    for before, after in zip(walls, walls[1:], strict=False):
        first, last = max(start, before + 1), min(stop, after) - 1
        ends = [t for t in (before, after) if t in keys]
        if first <= last and ends:
            legs.append((ends, first, last))
    # What has one key is final at once, so it comes first.
    legs.sort(key=lambda leg: len(leg[0]))
    clock = ProgressClock(sum(_steps(*leg) for leg in legs))
    if cancel is not None:
        cancel.raise_if_cancelled()
    for beside, first, last in legs:
        masks = {t: _as_mask(keys[t], t, (height, width)) for t in beside}
        masks = {t: mask for t, mask in masks.items() if mask.any()}
        for found in _leg(flows, masks, first, last):
            event = clock.advance("spreading")
            if progress is not None:
                progress(event)
            if cancel is not None:
                cancel.raise_if_cancelled()
            if found is not None:
                yield found


def _steps(ends: list[int], first: int, last: int) -> int:
    """Return how many frames have to be walked for a leg."""
    there = last - ends[0] if ends[0] < first else ends[0] - first
    return there + (ends[1] - max(first, ends[1] - _BLENDED) if len(ends) == 2 else 0)


def _leg(
    flows: Flows, masks: Mapping[int, Mask], first: int, last: int
) -> Generator[Spread | None, None, None]:
    """Fill the frames next to one key or between two; None for a frame out of range."""
    ends = sorted(masks)
    if not ends:
        return
    shape = flows.shape[1:]
    step = max(_step(mask) for mask in masks.values())
    # Only the last frames are held for a blend: a gap may be an hour long.
    meet = max(first, ends[1] - _BLENDED) if len(ends) == 2 else last + 1
    held: dict[int, _Found] = {}
    for found in _Walk(flows, masks, ends[0], step).to(last if ends[0] < first else first):
        t = found.frame
        if t >= meet:
            held[t] = found
        yield found.spread(shape, final=t < meet) if first <= t <= last else None
    if len(ends) < 2:
        return
    for found in _Walk(flows, masks, ends[1], step).to(meet):
        t = found.frame
        other = held.pop(t, None)
        if other is not None:
            near = (ends[1] - t) / (ends[1] - ends[0])
            found = _blend(other, near, found, 1 - near)
        yield found.spread(shape) if first <= t <= last else None
    for t in sorted(held):  # the spread from the later key did not get here
        yield held[t].spread(shape)


def _as_mask(key: npt.ArrayLike, t: int, shape: tuple[int, int]) -> Mask:
    mask = np.asarray(key, dtype=bool)
    if mask.shape != shape:
        raise InputError(f"The mask of frame {t} is {mask.shape}; the video is {shape}.")
    return mask


@dataclass(frozen=True, slots=True)
class _Found:
    frame: int
    logit: npt.NDArray[np.float16]
    region: Region
    certainty: float

    def spread(self, shape: tuple[int, int], *, final: bool = True) -> Spread:
        return Spread(self.frame, self.mask(shape), self.certainty, final)

    def mask(self, shape: tuple[int, int]) -> Mask:
        """Return the mask at source size."""
        result = np.zeros(shape, bool)
        step = self.region.step
        top, left = self.region.top * step, self.region.left * step
        part = result[top : self.region.bottom * step, left : self.region.right * step]
        logit = self.logit.astype(np.float32)
        if step > 1:
            rows, columns = (np.indices(part.shape, dtype=np.float32) + 0.5) / step - 0.5
            logit = sample(logit, rows, columns)
        part[:] = logit[: part.shape[0], : part.shape[1]] > 0
        return result


def _blend(a: _Found, near_a: float, b: _Found, near_b: float) -> _Found:
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
    for one in (a, b):
        logits.append(np.full(region.shape, -_SURE, np.float32))
        logits[-1][region.part(one.region)] = one.logit
    logit = weight * logits[0] + (1 - weight) * logits[1]
    certainty = weight * a.certainty + (1 - weight) * b.certainty
    certainty *= _iou(logits[0] > 0, logits[1] > 0)
    return _Found(a.frame, logit.astype(np.float16), region, certainty)


class _Walk:
    """A mask on its way from a key frame.

    Parameters
    ----------
    flows : Flows
    keys : mapping of int to ndarray of bool, shape (H, W)
        The key to start from and others whose pictures may be compared with.
    key : int
        The one to start from.
    step : int
        Source pixels a working pixel.
    """

    def __init__(self, flows: Flows, keys: Mapping[int, Mask], key: int, step: int) -> None:
        self._flows = flows
        self._key = key
        self._step = step
        self._labels = {
            t: block_mean(mask.astype(np.float32), step)
            for t, mask in sorted(keys.items(), key=lambda item: abs(item[0] - key))
        }
        self._shape = h, w = self._labels[key].shape
        # A larger part of the key frame, for what moves far; whole pictures may be huge.
        self._around = region_around(self._labels[key] > 0, 4 * _MARGIN, step)
        self._mask = self._labels[
            key
        ].copy()  # how surely a pixel is the object's, on the last frame
        self._area = float(self._mask.sum())
        self._trail = np.zeros((h, w, 2), np.float32)  # from there to the key frame
        self._region = region_around(self._mask > 0, _MARGIN, step)
        self._certainty = 1.0
        colors = []
        for t, label in self._labels.items():
            near = region_around(label > 0, _MARGIN, step)
            colors.append((near, flows.lab(t, near), label[near.slices]))
        self._colors = LocalColors(
            self._shape, np.concatenate([lab.reshape(-1, 3) for _, lab, _ in colors])
        )
        for near, lab, label in reversed(colors):  # the key itself last, as the latest
            self._colors.learn(lab, near, 3 * label, 3 * (1 - label))

    def to(self, target: int) -> Generator[_Found, None, None]:
        """Yield the masks of the frames up to `target`, until the object is lost."""
        way = 1 if target > self._key else -1
        for t in range(self._key + way, target + way, way):
            found = self._next(t, t - way)
            if found is None:
                return
            yield found

    def _next(self, t: int, last: int) -> _Found | None:
        was = self._region
        if not (self._mask[was.slices] > 0.5).any():
            return None
        region = region_around(
            self._mask[was.slices] > 0.5, _MARGIN, self._step, shape=self._shape, last=was
        )
        flow = self._flows.between(t, last, region)
        rows, columns = np.indices(region.shape, dtype=np.float32) + np.moveaxis(flow, -1, 0)
        back = sample(self._flows.between(last, t, region), rows, columns)
        rows, columns = rows + region.top, columns + region.left
        prior = sample(self._mask, rows, columns)
        inside = prior > 0.5
        area = float(inside.sum())
        if area < max(4.0, _COLLAPSE * self._area):
            return None
        lab = self._flows.lab(t, region)
        before = sample(self._flows.lab(last, region), rows - region.top, columns - region.left)
        apart = _patch_apart(before, lab)
        noise = float(np.median(apart))
        # Flow is undefined in a flat area; there it is enough that the picture looks the same.
        miss = np.hypot(*np.moveaxis(flow + back, -1, 0))
        found = miss < 1 + 0.1 * np.hypot(*np.moveaxis(flow, -1, 0))
        found |= apart < _ALIKE**2 + 3 * noise
        kept = float(found[inside].mean())
        if kept < _LOST:
            return None
        trail = flow + sample(self._trail, rows, columns)

        distance = _signed_distance(inside)
        logit = np.clip(distance / _EDGE, -_SURE, _SURE)
        band = np.abs(distance) <= _BAND
        logit += _COLOR * self._from_colors(lab, region, distance, band)
        logit += _KEY * np.where(band, self._from_keys(lab, region, trail, noise), 0)
        logit = np.clip(logit, -_SURE, _SURE)
        mask = logit > 0
        if mask.sum() < max(4.0, _COLLAPSE * self._area):
            return None
        self._certainty *= _step_certainty(kept, _iou(mask, inside))
        distance = _signed_distance(mask)
        self._colors.learn(
            lab, region, (distance > 1).astype(np.float32), (distance < -1).astype(np.float32)
        )
        self._mask[was.slices] = 0
        self._mask[region.slices] = 1 / (1 + np.exp(-logit))
        self._trail[was.slices] = 0
        self._trail[region.slices] = trail
        self._region = region
        self._area += 0.2 * (float(mask.sum()) - self._area)
        return _Found(t, logit.astype(np.float16), region, self._certainty)

    def _from_colors(self, lab: Floats, region: Region, distance: Floats, band: Mask) -> Floats:
        """Return what the local colours say, as far as they tell both sides apart here."""
        rows, columns, ratio = self._colors.evidence(lab, region, band)
        says = np.zeros(region.shape, np.float32)
        says[rows, columns] = np.clip(ratio, -_COLOR_MOST, _COLOR_MOST)
        known = (band & (np.abs(distance) >= _EDGE)).astype(np.float32)
        right = known * (np.tanh(says) * np.sign(distance) + 1) / 2
        share = uniform_filter(right, 33) / np.maximum(uniform_filter(known, 33), 1e-3)
        return says * np.clip((share - _RELIABLE[0]) / (_RELIABLE[1] - _RELIABLE[0]), 0, 1)

    def _from_keys(self, lab: Floats, region: Region, trail: Floats, noise: float) -> Floats:
        """Return what the key frames say, -1 to 1: their labels where they look alike."""
        alike = np.zeros(region.shape, np.float32)
        says = np.zeros(region.shape, np.float32)
        rows, columns = np.indices(region.shape, dtype=np.float32)
        rows, columns = rows + region.top + trail[..., 0], columns + region.left + trail[..., 1]
        label = sample(self._labels[self._key], rows, columns)
        own = self._flows.lab(self._key, self._around)
        rows, columns = rows - self._around.top, columns - self._around.left
        looks = [(sample(own, rows, columns), label)]
        for t, label in self._labels.items():
            looks.append((self._flows.lab(t, region), label[region.slices]))
        for picture, label in looks:
            light = np.median((picture - lab).reshape(-1, 3), axis=0)
            like = np.exp(-_patch_apart(picture - light, lab) / (_ALIKE**2 + 3 * noise))
            says = np.where(like > alike, like * (2 * label - 1), says)
            alike = np.maximum(alike, like)
        return says


def _patch_apart(a: Floats, b: Floats) -> Floats:
    apart: Floats = uniform_filter(((a - b) ** 2).sum(-1), 5)
    return apart


def _step(mask: Mask) -> int:
    """Return how many source pixels a working pixel takes for an object of this size."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    step = -(-max(box.shape) // _OBJECT)
    if step > 1:  # what is long and thin must not vanish between coarse pixels
        step = min(step, int(distance_transform_edt(np.pad(box, 1)).max() / 2))
    return max(1, step)


def _signed_distance(mask: Mask) -> Floats:
    """Return distances to the edge, positive inside."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, _SURE * _EDGE if mask.any() else -_SURE * _EDGE, np.float32)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    # Edges lie between pixels: without the half, a mask would lose half a pixel a frame.
    signed: Floats = np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32)
    return signed


def _iou(a: Mask, b: Mask) -> float:
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else 1.0


def _step_certainty(kept: float, agreement: float) -> float:
    """Return by how much certainty shrinks with a frame."""
    return (kept * agreement) ** 0.25
