"""What a project should hold, said again in plain numpy: slow, and short enough to be read."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flowrvs.store import Project

__all__ = ["Oracle", "Timeline"]

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
        #: What was drawn last: by layer and frame the pixels, by object and frame the provenance.
        self.drawn: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}
        self.said: set[tuple[int, int]] = set()
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
        self.drawn, self.said = {}, set()
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
                self.said.add((i, int(t)))
            self.drawn[layer, int(t)] = changed
        self.pixels[layer] = after

    def write(
        self, one: int, start: int, masks: npt.NDArray[np.bool_], provenance: int, limit: int
    ) -> list[bool]:
        """Replace masks where the provenance is at most `limit`; return where."""
        written = []
        self.drawn, self.said = {}, set()
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
            self.drawn[self.layer[one], t] = wanted | (frame == one)
            self.said |= {(i, t) for i in {one, *lost, *frame[wanted].tolist()} - {0}}
            frame[frame == one] = 0
            frame[wanted] = one
            for i in lost if provenance == HUMAN else ():
                self.provenance[i][t] = max(self.provenance[i][t], HUMAN)
            self.provenance[one][t] = provenance
        return written

    def move(self, one: int, layer: int) -> None:
        """Take an object to another layer, where what is there already keeps its pixels."""
        source, there = self.pixels[self.layer[one]], self.pixels[layer]
        part = source == one
        source[part] = 0
        there[part & (there == 0)] = one
        self.layer[one] = layer

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


@dataclass
class Event:
    """A change: what it made of pixels, of provenance, and of the layers of objects."""

    step: Any
    pixels: dict[tuple[int, int], tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint16]]]
    provenance: dict[tuple[int, int], int]
    layer: dict[int, int] = field(default_factory=dict)


@dataclass
class Timeline:
    """The rules of docs/undo.md: what is seen are the changes in force, in their order.

    Attributes
    ----------
    start : Oracle
        Before all of them.
    events : list of Event
        In the order in which they were made.
    done : list
        Steps in the order in which they began, or were redone.
    undone : list
        The last one is redone first.
    """

    start: Oracle
    events: list[Event] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)
    undone: list[Any] = field(default_factory=list)
    open: list[Any] = field(default_factory=list)

    def drew(self, step: Any, oracle: Oracle) -> None:
        """Take in what `Oracle.paint` or `Oracle.write` did last."""
        pixels = {
            (layer, t): (mask, oracle.pixels[layer][t].copy())
            for (layer, t), mask in oracle.drawn.items()
        }
        said = {(i, t): int(oracle.provenance[i][t]) for i, t in oracle.said}
        self.events.append(Event(step, pixels, said))

    def wrote(self, one: int) -> None:
        """A model drew an object: what took it away is not done again, nor what came after."""
        ends = [i + 1 for i, step in enumerate(self.undone) if one in self.moved(step)]
        del self.undone[: max(ends, default=0)]

    def moved(self, step: Any) -> set[int]:
        """Return the objects that a step took to another layer."""
        return {i for event in self.events if event.step == step for i in event.layer}

    def end(self, step: Any, place: int) -> None:
        """A run is over: what it drew is a step, which began at a place among the others."""
        self.open.remove(step)
        if any(event.step == step and event.provenance for event in self.events):
            self.done.insert(place, step)

    def changed(self, step: Any, before: Oracle, after: Oracle) -> None:
        """Take in what is other than before."""
        pixels, said = {}, {}
        for layer, frames in after.pixels.items():
            for t in range(len(frames)):
                mask = before.pixels[layer][t] != frames[t]
                if mask.any():
                    pixels[layer, t] = (mask, frames[t].copy())
                    touched = {*before.pixels[layer][t][mask].tolist(), *frames[t][mask].tolist()}
                    for i in touched & before.provenance.keys():
                        said[i, t] = int(before.provenance[i][t])
        for i, values in after.provenance.items():
            for t in np.flatnonzero(values != before.provenance[i]):
                said[i, int(t)] = int(values[t])
        went = {i: own for i, own in after.layer.items() if own != before.layer[i]}
        self.events.append(Event(step, pixels, said, went))

    def now(self) -> Oracle:
        """Return what is seen."""
        oracle = copy.deepcopy(self.start)
        for event in self.events:
            if event.step in self.done or event.step in self.open:
                for (layer, t), (mask, frame) in event.pixels.items():
                    oracle.pixels[layer][t][mask] = frame[mask]
                for (i, t), value in event.provenance.items():
                    oracle.provenance[i][t] = value
                oracle.layer.update(event.layer)
        return oracle
