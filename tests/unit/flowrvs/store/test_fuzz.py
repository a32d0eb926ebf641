"""Thousands of random actions against plain numpy, and the order in which they are undone.

Each seed is a test of its own and always does the same. ``FLOWRVS_FUZZ=500`` runs as many
seeds of each kind, and longer ones.
"""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flowrvs.errors import ProjectError
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from flowrvs.store.frames import FrameCache
from tests.unit.flowrvs.store.oracle import Oracle, Timeline

SHAPE = T, H, W = 6, 7, 9
SEEDS = range(int(os.environ.get("FLOWRVS_FUZZ", "6")))
STEPS = 60 if "FLOWRVS_FUZZ" in os.environ else 30


class Dice(random.Random):
    """What is drawn where, by chance."""

    def frames(self) -> tuple[int, int]:
        start = self.randrange(T)
        return start, self.randrange(start, T) + 1

    def mask(self) -> npt.NDArray[np.bool_]:
        mask = np.zeros((H, W), np.bool_)
        y, x = self.randrange(H), self.randrange(W)
        mask[y : y + self.randrange(5), x : x + self.randrange(1, 6)] = True
        return mask

    def masks(self, count: int) -> npt.NDArray[np.bool_]:
        return np.stack([self.mask() for _ in range(count)])

    def cut(self, size: int) -> slice:
        start = self.randrange(size)
        return slice(start, self.randrange(start, size) + 1, self.choice([None, 2]))

    def some(self, size: int, count: int) -> npt.NDArray[np.intp]:
        return np.array([self.randrange(size) for _ in range(count)])

    def flags(self, *shape: int) -> npt.NDArray[np.bool_]:
        return np.array([self.random() < 0.2 for _ in range(int(np.prod(shape)))]).reshape(shape)

    def key(self) -> Any:
        """An index of every kind that numpy takes."""
        t, count = self.randrange(T), self.randrange(1, 9)
        return self.choice(
            [
                lambda: t,
                lambda: (t, self.cut(H), self.cut(W)),
                lambda: (self.cut(T), self.cut(H), self.cut(W)),
                lambda: (t, self.randrange(H), self.randrange(W)),
                lambda: (slice(t, t + 1), self.cut(H), self.cut(W)),
                lambda: (np.full(count, t), self.some(H, count), self.some(W, count)),
                lambda: (self.some(T, count), self.some(H, count), self.some(W, count)),
                lambda: self.flags(T, H, W),
                lambda: (t, self.flags(H, W)),
                lambda: (..., self.randrange(W)),
                lambda: (t, slice(None), self.some(W, 3)),
                lambda: (-1 - t, -1, self.cut(W)),
            ]
        )()


@pytest.fixture
def project(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Project:
    if seed % 2:  # hardly a frame stays in memory: undo and redo move files

        def share(cache: FrameCache, caches: int) -> None:
            cache.capacity = 1

        monkeypatch.setattr(FrameCache, "share", share)
    project = Project.create(tmp_path / "a", VideoInfo(None, "array", *SHAPE))
    for layer in "ab":
        project.add_layer(layer)
    for layer_id in (1, 1, 2):
        project.add_object("one", layer_id)
    return project


def _paint(project: Project, dice: Dice, oracle: Oracle) -> None:
    layer = dice.choice([*oracle.pixels])
    labels = [0, *oracle.members(layer)]
    if dice.random() < 0.1:
        labels.append(project.next_label)
    key = dice.key()
    value: Any = dice.choice(labels)
    shape = oracle.pixels[layer][key].shape
    if shape and dice.random() < 0.3:
        value = np.array(dice.choices(labels, k=int(np.prod(shape))), np.uint16).reshape(shape)
    oracle.paint(layer, key, value)
    project.labels(layer)[key] = value


def _write(project: Project, dice: Dice, oracle: Oracle, kind: int) -> None:
    one, overwrite = dice.choice(list(oracle.layer)), dice.choice([1, 2])
    start, stop = dice.frames()
    masks = dice.masks(stop - start)
    wanted = oracle.write(one, start, masks, kind, overwrite)
    names: Any = {1: "model", 2: "human"}
    if kind == 1:
        layer = oracle.layer[one]
        done = project.write_model(layer, one, start, masks, overwrite=names[overwrite])
    else:
        done = project.write_masks(one, start, masks, overwrite=names[overwrite])
    assert done.tolist() == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_seen_are_the_changes_in_force(project: Project, seed: int) -> None:
    """Runs that are open while a person draws and undoes: numpy knows each state in between."""
    dice = Dice(seed)
    timeline, runs = Timeline(Oracle(project)), {}
    choices = ["paint"] * 4 + ["run"] * 5 + ["begin"] * 2 + ["undo"] * 4 + ["redo"] * 3
    choices += ["end", "flush", "reopen", "human", "model", "mark", "swap", "move", "move"]
    for step in range(STEPS):
        what, oracle = dice.choice(choices), timeline.now()
        one, (start, stop) = dice.choice([1, 2, 3]), dice.frames()
        where, key, before = f"seed {seed}, step {step}, {what}", f"{what} {step}", None
        known = {made.id for made in project.history.steps}
        if what == "paint":
            layer = dice.choice([1, 2])
            index, value = dice.key(), dice.choice([0, *oracle.members(layer)])
            oracle.paint(layer, index, value)
            project.labels(layer)[index] = value
        elif what in ("human", "model", "run"):
            masks, kind = dice.masks(stop - start), 2 if what == "human" else 1
            if (what == "run") != (one in runs):
                continue
            written = oracle.write(one, start, masks, kind, 1)
            if kind == 1 and any(written):
                timeline.wrote(one)
            if kind == 1:
                project.write_model(oracle.layer[one], one, start, masks)
            else:
                project.write_masks(one, start, masks)
        elif what == "begin" and one not in runs:
            project.begin_run({"text": "it", "range": [start, stop]}, one)
            runs[one] = (key, len(timeline.done))
            timeline.open.append(key)
        elif what == "end" and runs:
            one = dice.choice(list(runs))
            project.end_run(one)
            timeline.end(*runs.pop(one))
        elif what == "mark":
            before = copy.deepcopy(oracle)
            verb = dice.choice(["lock", "unlock", "release", "accept"])
            oracle.mark(verb, one, start, stop)
            getattr(project, f"{verb}_frames")(one, start, stop)
        elif what == "swap":
            before = oracle
            try:
                project.swap_objects(1, 2, start, stop)
            except ProjectError:
                continue
            oracle = Oracle(project)
        elif what == "move":
            before, layer = copy.deepcopy(oracle), 3 - oracle.layer[one]
            if (oracle.provenance[one] == 3).any():
                continue
            if one in runs:  # what it draws from now on is not undone with what it drew there
                timeline.end(*runs.pop(one))
            oracle.move(one, layer)
            project.move_object(one, layer)
        elif what == "undo":
            while timeline.done and (open_ := timeline.moved(timeline.done[-1]) & runs.keys()):
                for one in open_:
                    timeline.end(*runs.pop(one))
            turned = project.undo()
            assert (turned is None) == (not timeline.done), where
            if turned is not None:
                timeline.undone.append(timeline.done.pop())
                for other, (name, place) in runs.items():
                    runs[other] = (name, min(place, len(timeline.done)))
        elif what == "redo":
            turned = project.redo()
            assert (turned is None) == (not timeline.undone), where
            if turned is not None:
                timeline.done.append(timeline.undone.pop())
        elif what == "flush":
            project.flush()
        elif what == "reopen" and not runs:
            project.close()
            project = Project.open(project.path)
        if what == "run":
            timeline.drew(runs[one][0], oracle)
        elif what in ("paint", "human", "model", "mark", "swap", "move"):
            if {made.id for made in project.history.steps} - known:
                if what != "model":
                    timeline.undone.clear()
                timeline.done.append(key)
                if before is None:
                    timeline.drew(key, oracle)
                else:
                    timeline.changed(key, before, oracle)
        assert len(project.history.steps) == len(timeline.done) + len(timeline.undone), where
        timeline.now().check(project, where)
    project.close()
    timeline.open.clear()
    with Project.open(project.path) as again:
        while again.undo() is not None:
            pass
        timeline.start.check(again, f"seed {seed}, all undone")
        while again.redo() is not None:
            pass
        while again.undo() is not None:
            pass
        timeline.start.check(again, f"seed {seed}, all undone again")


def _surgery(project: Project, dice: Dice) -> None:
    one, other = dice.choices(list(project.objects), k=2)
    start, stop = dice.frames()
    action = dice.choice(
        [
            lambda: project.mark_absent(one, start, stop),
            lambda: project.swap_objects(one, other, start, stop),
            lambda: project.merge_objects(one, other, start, stop),
            lambda: project.merge_objects(one, other) if len(project.objects) > 3 else None,
            lambda: project.split_object(one, start, stop, dice.masks(stop - start)),
            lambda: project.update_object(one, name=f"name {dice.random()}"),
            lambda: project.add_expression(f"sentence {dice.random()}", [one]),
        ]
    )
    try:
        action()
    except ProjectError as error:
        assert "locked" in str(error) or "itself" in str(error)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_after_the_other(project: Project, seed: int) -> None:
    """Every state is what numpy says, and every undo and redo gives the state before and after."""
    dice, oracle = Dice(seed), Oracle(project)
    states, place = [copy.deepcopy(oracle)], 0
    choices = ["paint"] * 6 + ["human", "model", "mark", "surgery"] * 2 + ["undo"] * 4
    choices += ["redo"] * 3 + ["reopen", "copy", "block", "stroke", "flush"]
    for step in range(STEPS):
        what = dice.choice(choices)
        where = f"seed {seed}, step {step}, {what}"
        last = project.history.undo_step
        if what == "model" and project.history.redo_step:
            continue  # it would leave what can be redone
        if what == "paint":
            _paint(project, dice, oracle)
        elif what == "stroke":
            labels = [project.labels(i) for i in project.layers]
            with project.edit("stroke"):
                for _ in range(3):
                    _paint(project, dice, oracle)
            assert labels[0].layer_id == min(project.layers)
        elif what in ("human", "model"):
            _write(project, dice, oracle, {"model": 1, "human": 2}[what])
        elif what == "mark":
            verb = dice.choice(["lock", "unlock", "release", "accept"])
            one, (start, stop) = dice.choice(list(oracle.layer)), dice.frames()
            oracle.mark(verb, one, start, stop)
            getattr(project, f"{verb}_frames")(one, start, stop)
        elif what == "surgery":
            _surgery(project, dice)
            oracle = Oracle(project)
        elif what == "block":
            kept = copy.deepcopy(oracle)
            with pytest.raises(KeyError), project.edit("block"):
                _paint(project, dice, oracle)
                _write(project, dice, oracle, 2)
                raise KeyError
            oracle = kept
        elif what in ("undo", "redo"):
            turned = project.undo() if what == "undo" else project.redo()
            end = 0 if what == "undo" else len(states) - 1
            assert (turned is None) == (place == end), where
            if turned is not None:
                place += -1 if what == "undo" else 1
            oracle = copy.deepcopy(states[place])
        elif what == "reopen":
            project.close()
            project = Project.open(project.path)
        elif what == "copy":
            with Project.open(project.copy_to(project.path.with_name(f"copy{step}"))) as other:
                oracle.check(other, where)
                assert len(other.history.steps) == len(project.history.steps)
        elif what == "flush":
            project.flush()
        oracle.check(project, where)
        if project.history.undo_step != last and what not in ("undo", "redo"):
            oracle = Oracle(project)
            states[place + 1 :] = [copy.deepcopy(oracle)]
            place += 1
        assert len(project.history.steps) == len(states) - 1, where
    with project:
        while project.undo() is not None:
            place -= 1
            states[place].check(project, f"seed {seed}, undone to {place}")
        assert place == 0
        while project.redo() is not None:
            place += 1
            states[place].check(project, f"seed {seed}, redone to {place}")
        assert place == len(states) - 1
    with Project.open(project.path) as again:
        states[-1].check(again, f"seed {seed}, opened again")


@pytest.mark.parametrize("seed", SEEDS)
def test_runs_and_a_person_at_once(project: Project, seed: int) -> None:
    """Whatever was drawn over what while runs were open: undone, all of it is gone."""
    dice, empty = Dice(seed), Oracle(project)
    choices = ["paint"] * 5 + ["model"] * 5 + ["begin"] * 2 + ["undo"] * 2
    choices += ["end", "redo", "flush", "reopen", "human", "mark", "surgery"]
    for _ in range(STEPS):
        what, oracle = dice.choice(choices), Oracle(project)
        one, (start, stop) = dice.choice(list(oracle.layer)), dice.frames()
        if what == "paint":
            _paint(project, dice, oracle)
        elif what in ("human", "model"):
            _write(project, dice, oracle, {"model": 1, "human": 2}[what])
        elif what == "begin":
            project.begin_run({"text": "it", "model": "m", "range": [start, stop]}, one)
        elif what == "end":
            project.end_run(one)
        elif what == "mark":
            verb = dice.choice(["lock", "unlock", "release", "accept"])
            getattr(project, f"{verb}_frames")(one, start, stop)
        elif what == "surgery":
            _surgery(project, dice)
        elif what == "undo":
            project.undo()
        elif what == "redo":
            project.redo()
        elif what == "flush":
            project.flush()
        else:
            project.close()
            project = Project.open(project.path)
        Oracle(project).check(project, f"seed {seed}: areas")
    project.close()
    with Project.open(project.path) as again:
        while again.redo() is not None:
            pass
        while again.undo() is not None:
            Oracle(again).check(again, f"seed {seed}: areas")
        empty.check(again, f"seed {seed}, all undone")
        while again.redo() is not None:
            Oracle(again).check(again, f"seed {seed}: areas")
        while again.undo() is not None:
            pass
        empty.check(again, f"seed {seed}, all undone again")
