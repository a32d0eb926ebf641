"""What a project should hold, said again in plain numpy: slow, and short enough to be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.store import Project

__all__ = ["Oracle"]

EMPTY, MODEL, HUMAN, LOCKED = range(4)


class Oracle:
    """Pixels and provenance of a project.

    Attributes
    ----------
    pixels : dict of int to ndarray, shape (T, H, W)
        By layer.
    provenance : dict of int to ndarray, shape (T,)
        By object.
    layer : dict of int to int
        Of each object.
    """

    def __init__(self, project: Project) -> None:
        self.pixels = {i: np.asarray(project.labels(i)) for i in project.layers}
        self.provenance = {i: project.provenance(i) for i in project.objects}
        self.layer = {i: one.layer for i, one in project.objects.items()}
        self.names = {i: one.name for i, one in project.objects.items()}
        self.sentences = {i: (e.text, e.object_ids) for i, e in project.expressions.items()}

    def check(self, project: Project, where: str) -> None:
        """Compare a project with this, areas included."""
        found = Oracle(project)
        assert found.layer == self.layer, where
        for i, pixels in self.pixels.items():
            np.testing.assert_array_equal(found.pixels[i], pixels, err_msg=f"{where}: layer {i}")
        for i, values in self.provenance.items():
            text = f"{where}: object {i}"
            np.testing.assert_array_equal(found.provenance[i], values, err_msg=text)
            areas = (self.pixels[self.layer[i]] == i).sum(axis=(1, 2))
            np.testing.assert_array_equal(project.areas(i), areas, err_msg=text)

    def members(self, layer: int) -> list[int]:
        """Return the objects of a layer."""
        return [i for i, own in self.layer.items() if own == layer]

    def paint(self, layer: int, key: Any, value: Any) -> None:
        """A person assigns: what is locked stays, and what is touched becomes the person's."""
        before = self.pixels[layer]
        after = before.copy()
        after[key] = value
        meant = np.zeros(before.shape, np.bool_)
        meant[key] = True
        for t in np.flatnonzero(meant.any(axis=(1, 2))):
            locked = [i for i in self.members(layer) if self.provenance[i][t] == LOCKED]
            kept = np.isin(before[t], locked) | np.isin(after[t], locked)
            refused = (kept & (before[t] != after[t])).any()
            after[t][kept] = before[t][kept]
            changed = before[t] != after[t]
            if changed.any():
                touched = {*before[t][changed].tolist(), *after[t][changed].tolist()}
            elif refused:
                continue
            else:  # "this is right"
                touched = {*after[t][meant[t]].tolist()} - {0} or {*self.members(layer)}
            for i in touched - {0}:
                if i not in self.layer:
                    self.layer[i] = layer
                    self.provenance[i] = np.zeros(len(before), np.uint8)
                self.provenance[i][t] = max(self.provenance[i][t], HUMAN)
        self.pixels[layer] = after

    def write(
        self, one: int, start: int, masks: npt.NDArray[np.bool_], provenance: int, limit: int
    ) -> list[bool]:
        """Replace masks where the provenance is at most `limit`; return where."""
        written = []
        for t, mask in enumerate(masks, start):
            written.append(bool(self.provenance[one][t] <= limit))
            if not written[-1]:
                continue
            frame = self.pixels[self.layer[one]][t]
            others = [i for i in self.members(self.layer[one]) if i != one]
            floor = LOCKED if provenance == HUMAN else HUMAN
            spared = [i for i in others if self.provenance[i][t] >= floor]
            wanted = mask & ~np.isin(frame, spared)
            lost = {*frame[wanted & (frame != one)].tolist()} & {*others}
            frame[frame == one] = 0
            frame[wanted] = one
            for i in lost if provenance == HUMAN else ():
                self.provenance[i][t] = max(self.provenance[i][t], HUMAN)
            self.provenance[one][t] = provenance
        return written

    def mark(self, verb: str, one: int, start: int, stop: int) -> None:
        """Lock, unlock, release or accept frames."""
        values = self.provenance[one][start:stop]
        if verb == "lock":
            values[:] = LOCKED
        elif verb == "unlock":
            values[values == LOCKED] = HUMAN
        elif verb == "release":
            np.minimum(values, MODEL, out=values)
        else:
            np.maximum(values, HUMAN, out=values)
