"""Find whether a mask is already there, as one object or as several together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError

__all__ = ["Match", "Overlaps"]


@dataclass(frozen=True, slots=True)
class Match:
    """Objects that a mask coincides with.

    Attributes
    ----------
    object_ids : tuple of int
        One object or several whose union is meant, ascending.
    iou : float
        Intersection over union with them, over all frames together.
    """

    object_ids: tuple[int, ...]
    iou: float


class Overlaps:
    """Counts shared pixels frame by frame, so that a long video needs no memory.

    Objects that overlap each other (in different layers) are counted right: the union is
    counted as pixels, not as a sum.
    """

    def __init__(self) -> None:
        self._new = 0
        # per combination of objects that share a pixel: pixels within the mask and in all
        self._cells: dict[frozenset[int], list[int]] = {}

    def add(self, mask: npt.ArrayLike, objects: Mapping[int, npt.ArrayLike]) -> None:
        """Take in a frame (H, W), or a stack of the same shape for all."""
        new = np.asarray(mask, dtype=bool)
        self._new += int(new.sum())
        code = np.zeros(new.shape, np.int64)
        names: list[frozenset[int]] = [frozenset()]
        for object_id, drawn in objects.items():
            there = np.asarray(drawn, dtype=bool)
            if there.shape != new.shape:
                raise InputError(f"Object {object_id} is {there.shape}, the mask {new.shape}.")
            if not there.any():
                continue
            found, place = np.unique(code[there], return_inverse=True)
            code[there] = len(names) + place
            names += [names[int(c)] | {object_id} for c in found]
        counts = np.bincount(code.ravel(), minlength=len(names))
        shared = np.bincount(code[new], minlength=len(names))
        for name, every, both in zip(names, counts, shared, strict=True):
            if name and every:
                cell = self._cells.setdefault(name, [0, 0])
                cell[0] += int(both)
                cell[1] += int(every)

    def iou(self, object_ids: Iterable[int]) -> float:
        """Return the IoU of the mask with the union of some objects; 0 for nothing at all."""
        chosen = frozenset(object_ids)
        both = every = 0
        for name, (shared, count) in self._cells.items():
            if name & chosen:
                both, every = both + shared, every + count
        either = self._new + every - both
        return both / either if either else 0.0

    def best(self, threshold: float = 0.8) -> Match | None:
        """Return the object, or the union, that coincides best, if it does at all.

        One object that reaches `threshold` is preferred to a union that is hardly better
        (by less than 0.02). Unions grow by the object that helps most.
        """
        ids = sorted(frozenset().union(*self._cells)) if self._cells else []
        if not ids or not self._new:
            return None
        chosen: list[int] = []
        best = 0.0
        while len(chosen) < len(ids):
            rest = [i for i in ids if i not in chosen]
            score, last = max((self.iou([*chosen, i]), -i) for i in rest)
            if score < best + (0.02 if best >= threshold else 1e-9):
                break
            best = score
            chosen.append(-last)
        return Match(tuple(sorted(chosen)), best) if best >= threshold else None
