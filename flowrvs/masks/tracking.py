"""Carry a mask from frame to frame, from a key frame on, until the object is lost.

A mask is warped from frame to frame. In a band around its edge five things then decide anew:
where the warped edge lies; the local colours inside and outside, and those of the key frames
; what the key frame itself shows there, found along the composed
flow or, with a camera at rest, in place; and whether a pixel moves as the object does or as
what is around it (:mod:`flowrvs.masks.cues`). The key frame keeps errors from adding up:
the composed flow is matched with it anew on every frame.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.masks.cues import LocalColors, blurred, likeness, motion_cue, patch_distance
from flowrvs.masks.flow import Flows, Region, block_mean, region_around, sample
from flowrvs.masks.shape import iou, signed_distance

__all__ = ["SURE", "Carried", "MaskTracker", "TrackedMask"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
#: What a tracker has learnt on its way, as arrays by name.
Carried = dict[str, npt.NDArray[Any]]

SURE = 8.0  # logits are clipped to this
_MARGIN = 40  # working pixels around the object that are looked at
_BAND = 10.0  # pixels on both sides of the edge that are decided anew
_EDGE = 3.0  # pixels over which the warped edge is uncertain
_ALIKE = 3.0  # Lab units within which a patch counts as the same
_COLLAPSE = 0.15  # of the area some frames before: the object is gone
_LOST = 0.35  # share of the object that flow must find again in the last frame
_UNLIKE = 0.36  # a mask with some of the key frame's ground in it must look more like its object
_JUDGED = 32  # pixels apart from the edge from which on that can be told
_STILL = 8.0  # pixels by which the ground may have moved since the key for a look in place
_NEARER = 0.9  # a new match with the key frame must look this much more alike

# Weights of what decides in the band, from logistic regressions on pixels of 13 clips (real
# and synthetic), each checked on the other 12, then rounded. What lags behind a moving object
# is background that was carried along, so beside relative motion ("fast") the warped edge
# counts for less, and something has to speak for the object.
_LEAST = {"fast": 0.9, "slow": 0.2}
_WARPED = {"fast": 0.35, "slow": 1.35}
_LOCAL = 0.4
_ANYWHERE = 0.35
_MOTION = 0.3
_FOUND_AGAIN = 5.0
_IN_PLACE = 3.0
_SMEARED = 6.0  # pixels from the edge from which on flow is that of one side alone
_MOST = 4.0  # evidence of one kind is clipped to this
_UNSTEADY = 1.5  # pixels a frame by which an object's motion changes from one to the next
_OWN = 0.4  # share of a pixel's own colour; the rest is that of the pixels around it


@dataclass(frozen=True, slots=True)
class TrackedMask:
    """A mask that was carried to a frame.

    Attributes
    ----------
    frame : int
        Where.
    logit : ndarray of float16, shape of `region`
        Above 0 inside.
    region : Region
        The part of the picture that was looked at; the object is nowhere else.
    certainty : float
        0 to 1: how much the mask looks like the key's object, and how much of the way from
        there is confirmed.
    """

    frame: int
    logit: npt.NDArray[np.float16]
    region: Region
    certainty: float


@dataclass(frozen=True, slots=True)
class _Look:
    """What a tracker makes of a frame before it has met its rivals."""

    region: Region
    lab: Floats
    trail: Floats
    inside: Mask  # the mask of the last frame, moved here
    kept: float  # share of it that flow finds again
    noise: float
    like: Floats
    logit: Floats
    velocity: npt.NDArray[np.floating]
    strength: Floats  # of a claim to a pixel that a rival claims, too


class MaskTracker:
    """Carries a mask from a key frame on.

    Parameters
    ----------
    flows : Flows
    keys : mapping of int to ndarray of bool, shape (H, W)
        The key to start from and others whose pictures may be compared with.
    key : int
        The one to start from.
    step : int
        Source pixels a working pixel.
    rivals : sequence of ndarray of bool, shape (H, W)
        Other objects on the frame `key`. They are carried along, and a pixel is that one's that
        it fits best: what looks alike is told apart by where it was and how it moved.
    """

    def __init__(
        self,
        flows: Flows,
        keys: Mapping[int, Mask],
        key: int,
        step: int,
        rivals: Sequence[Mask] = (),
    ) -> None:
        self._flows = flows
        self._rivals = {
            i: MaskTracker(flows, {key: mask}, key, step) for i, mask in enumerate(rivals)
        }
        self._key = self._at = key
        self._step = step
        self._labels = {
            t: block_mean(mask.astype(np.float32), step)
            for t, mask in sorted(keys.items(), key=lambda item: abs(item[0] - key))
        }
        self._shape = h, w = self._labels[key].shape
        # A larger part of the key frame, for what moves far; whole pictures may be huge.
        self._around = region_around(self._labels[key] > 0, 4 * _MARGIN, step)
        self._own = flows.lab(key, self._around)
        # how surely a pixel is the object's, on the last frame
        self._mask = self._labels[key].copy()
        self._area = float(self._mask.sum())
        self._trail = np.zeros((h, w, 2), np.float32)  # from there to the key frame
        self._region = region_around(self._mask > 0, _MARGIN, step)
        self._velocity: npt.NDArray[np.floating] | None = None
        self._way = 1.0  # how much of the way from the key frame is confirmed
        seen = []
        for t, label in self._labels.items():
            wide = region_around(label > 0, 4 * _MARGIN, step)
            lab, near = flows.lab(t, wide), region_around(label > 0, _MARGIN, step)
            seen.append((wide, lab, label, near))
        self._colors = LocalColors(
            self._shape,
            np.concatenate([lab[wide.part(near)].reshape(-1, 3) for wide, lab, _, near in seen]),
        )
        for wide, lab, label, near in reversed(seen):  # the key itself last, as the latest
            self._colors.keep(lab, label[wide.slices], 1 - label[wide.slices])
            here = 3 * label[near.slices]
            self._colors.learn(lab[wide.part(near)], near, here, 3 - here)

    def to(self, target: int) -> Generator[TrackedMask, None, None]:
        """Yield the masks of the frames up to `target`, until the object is lost."""
        way = 1 if target > self._key else -1
        for t in range(self._at + way, target + way, way):
            found = self._next(t, t - way)
            if found is None:
                return
            yield found

    def carried(self) -> Carried:
        """Return what was learnt since the key frame; some megabytes at most."""
        region = self._region
        arrays = {
            "at": np.array(self._at),
            "region": np.array(astuple(region)),
            "mask": self._mask[region.slices].copy(),
            "trail": self._trail[region.slices].copy(),
            "velocity": np.asarray(self._velocity),
            "numbers": np.array([self._area, self._way]),
            "colors": self._colors.counts.copy(),
        }
        for i, rival in self._rivals.items():
            arrays |= {f"{i}.{name}": values for name, values in rival.carried().items()}
        return arrays

    def go_on(self, arrays: Carried) -> None:
        """Go on where a tracker of the same keys and rivals had learnt so much.

        The masks are those that it would have found; what it carries differs by roundings.
        """
        region = self._region = Region(*arrays["region"].tolist())
        self._at, self._velocity = int(arrays["at"]), arrays["velocity"]
        self._mask[:] = 0
        self._mask[region.slices], self._trail[region.slices] = arrays["mask"], arrays["trail"]
        self._area, self._way = arrays["numbers"].tolist()
        self._colors.counts[:] = arrays["colors"]
        for i, rival in list(self._rivals.items()):
            own = {n[len(f"{i}.") :]: v for n, v in arrays.items() if n.startswith(f"{i}.")}
            if own:
                rival.go_on(own)
            else:
                del self._rivals[i]  # lost

    def _next(self, t: int, last: int) -> TrackedMask | None:
        look = self._look(t, last)
        if look is None:
            return None
        for i, rival in list(self._rivals.items()):
            other = rival._look(t, last)
            if other is not None:
                _settle(look, other)
            if other is None or rival._keep(t, other) is None:
                del self._rivals[i]  # lost
        return self._keep(t, look)

    def _look(self, t: int, last: int) -> _Look | None:
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
        inside = sample(self._mask, rows, columns) > 0.5
        if inside.sum() < max(4.0, _COLLAPSE * self._area):
            return None
        lab = self._flows.lab(t, region)
        before = sample(self._flows.lab(last, region), rows - region.top, columns - region.left)
        change = patch_distance(before, lab)
        noise = float(np.median(change))
        # Flow is undefined in a flat area; there it is enough that the picture looks the same.
        miss = np.hypot(*np.moveaxis(flow + back, -1, 0))
        found = miss < 1 + 0.1 * np.hypot(*np.moveaxis(flow, -1, 0))
        found |= change < self._tolerance(noise)
        kept = float(found[inside].mean())
        if kept < _LOST:
            return None
        trail = flow + sample(self._trail, rows, columns)
        if last != self._key:
            trail = self._matched(lab, region, trail)

        distance = signed_distance(inside, SURE * _EDGE)
        logit = np.clip(distance / _EDGE, -SURE, SURE)
        band = np.abs(distance) <= _BAND
        moves, slow = motion_cue(flow, distance, found)
        weight, least = (
            each["fast"] + (each["slow"] - each["fast"]) * slow for each in (_WARPED, _LEAST)
        )
        # Flow smears the object's motion over its edge: near it only "not the object" counts.
        moves = np.where(moves > 0, moves * np.minimum(1, np.abs(distance) / _SMEARED), moves)
        decided = weight * logit - least + _MOTION * moves
        decided += self._from_colors(lab, region, band)
        like = likeness(self._key_picture(region, trail), lab, self._tolerance(noise))
        decided += self._from_keys(lab, region, trail, distance, noise, like)
        logit = np.clip(np.where(band, decided, logit), -SURE, SURE)
        velocity = np.median(flow[inside], axis=0)
        usual = velocity if self._velocity is None else self._velocity
        off = ((flow - usual) ** 2).sum(-1) / (2 * _UNSTEADY**2)
        strength = logit + _FOUND_AGAIN * like - np.minimum(off, _MOST)
        return _Look(region, lab, trail, inside, kept, noise, like, logit, velocity, strength)

    def _keep(self, t: int, look: _Look) -> TrackedMask | None:
        """Learn from a frame and go on from there; None where the object is lost."""
        was, region, lab, logit = self._region, look.region, look.lab, look.logit
        mask = logit > 0
        if mask.sum() < max(4.0, _COLLAPSE * self._area):
            return None
        distance = signed_distance(mask, SURE * _EDGE)
        confirmed = self._confirmed(lab, region, look.like, distance, look.noise)
        if confirmed == 0:
            return None
        # the way shrinks by what was not found again and by what had to be changed
        self._way *= (look.kept * iou(mask, look.inside)) ** 0.25
        self._colors.learn(
            lab, region, (distance > 1).astype(np.float32), (distance < -1).astype(np.float32)
        )
        self._mask[was.slices] = 0
        self._mask[region.slices] = 1 / (1 + np.exp(-logit))
        self._trail[was.slices] = 0
        self._trail[region.slices] = look.trail
        self._region, self._velocity, self._at = region, look.velocity, t
        self._area += 0.2 * (float(mask.sum()) - self._area)
        certainty = min(1.0, 0.4 + confirmed) * (1 + self._way) / 2
        return TrackedMask(t, logit.astype(np.float16), region, certainty)

    def _confirmed(
        self, lab: Floats, region: Region, like: Floats, distance: Floats, noise: float
    ) -> float:
        """Return how much a found mask looks like the key's object; 0 where it is none.

        Its own patches count, found along the way, and how much better the key's colours fit
        it than what is around it. A spread that clings to the background has neither: colours
        that fit better around it, or, with a camera at rest, pixels that were there on the key
        frame already. Of an object without pixels apart from its edge nothing can be said.
        (Measured on 16 clips of DAVIS and synthetic ones: of frames with J > 0.5, 0 of 782
        are taken for lost, of those with J < 0.1 50 of 58.)
        """
        if np.count_nonzero(distance > 2) < _JUDGED:
            return 1.0
        inside, around = distance > 0, (distance < -1) & (distance > -8)
        fits, fits_around = (
            float((self._colors.anywhere(lab[part]) > 0).mean()) if part.any() else 0.0
            for part in (inside, around)
        )
        in_place = likeness(self._flows.lab(self._key, region), lab, self._tolerance(noise))
        ground = (in_place > np.maximum(like, 0.5)) & (self._labels[self._key][region.slices] < 0.5)
        share = float(ground[inside].mean())
        own = (float(like[inside].mean()) + 0.3 * max(0.0, fits - fits_around)) * (1 - share)
        return 0.0 if fits < fits_around or (share > 0.1 and own < _UNLIKE) else own

    def _tolerance(self, noise: float) -> float:
        """Return by how much patches that show the same differ: not at all but for noise."""
        return _ALIKE**2 + 3 * noise

    def _from_colors(self, lab: Floats, region: Region, band: Mask) -> Floats:
        """Return what colours say in the band, of the last frames here and of the keys."""
        says = np.zeros(region.shape, np.float32)
        rows, columns, ratio = self._colors.evidence(lab, region, band)
        says[rows, columns] = _LOCAL * np.clip(ratio, -_MOST, _MOST)
        ratio = self._colors.anywhere(lab[rows, columns])
        says[rows, columns] += _ANYWHERE * np.clip(ratio, -_MOST, _MOST)
        # a pixel is hardly ever another object than all that are around it
        return _OWN * says + (1 - _OWN) * blurred(says, band, 2.0)

    def _from_keys(
        self,
        lab: Floats,
        region: Region,
        trail: Floats,
        distance: Floats,
        noise: float,
        alike: Floats,
    ) -> Floats:
        """Return what the key frames say: their labels where they look alike."""
        tolerance = self._tolerance(noise)
        rows, columns = np.indices(region.shape, dtype=np.float32)
        rows, columns = rows + region.top + trail[..., 0], columns + region.left + trail[..., 1]
        label = sample(self._labels[self._key], rows, columns)
        says: Floats = _FOUND_AGAIN * alike * (2 * label - 1)
        ground = trail[distance < -4]
        moved = float(np.median(np.hypot(ground[:, 0], ground[:, 1]))) if len(ground) else 0.0
        still = float(np.exp(-((moved / _STILL) ** 2)))
        if still > 0.01:
            most = np.zeros(region.shape, np.float32)
            here = np.zeros(region.shape, np.float32)
            for t, whole in self._labels.items():
                like = likeness(self._flows.lab(t, region), lab, tolerance)
                here = np.where(like > most, like * (2 * whole[region.slices] - 1), here)
                most = np.maximum(most, like)
            says = says + _IN_PLACE * still * here
        return says

    def _key_picture(self, region: Region, trail: Floats) -> Floats:
        rows, columns = np.indices(region.shape, dtype=np.float32)
        return sample(
            self._own,
            rows + (region.top - self._around.top) + trail[..., 0],
            columns + (region.left - self._around.left) + trail[..., 1],
        )

    def _matched(self, lab: Floats, region: Region, trail: Floats) -> Floats:
        """Match the key frame, moved here, with this frame: composed flow drifts."""
        picture = self._key_picture(region, trail)
        light = np.median((picture - lab).reshape(-1, 3), axis=0)
        rest = self._flows.match(2.55 * lab[..., 0], 2.55 * (picture - light)[..., 0])
        rows, columns = np.indices(region.shape, dtype=np.float32)
        new = rest + sample(trail, rows + rest[..., 0], columns + rest[..., 1])
        better = patch_distance(self._key_picture(region, new) - light, lab)
        nearer = (better < _NEARER * patch_distance(picture - light, lab)).astype(np.float32)
        chosen = blurred(nearer, np.ones(region.shape, bool), 3.0) > 0.5
        matched: Floats = np.where(chosen[..., None], new, trail).astype(np.float32)
        return matched


def _settle(look: _Look, other: _Look) -> None:
    """Give every pixel that two objects claim to the one that it fits better, in place."""
    a, b = look.region, other.region
    top, bottom = max(a.top, b.top), min(a.bottom, b.bottom)
    left, right = max(a.left, b.left), min(a.right, b.right)
    if top >= bottom or left >= right:
        return
    shared = Region(top, bottom, left, right, a.step)
    mine, yours = look.logit[a.part(shared)], other.logit[b.part(shared)]
    both = (mine > 0) & (yours > 0)
    first = look.strength[a.part(shared)] >= other.strength[b.part(shared)]
    mine[both & ~first] *= -1
    yours[both & first] *= -1
