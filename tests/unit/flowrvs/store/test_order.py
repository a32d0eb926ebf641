"""What a kill leaves is a state that there was: nothing is durable without what came before it."""

from __future__ import annotations

import copy
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowrvs.store import ObjectRecord, Project, surgery
from flowrvs.store.journal import Batch, Journal
from tests.unit.flowrvs.store.oracle import Oracle


@pytest.fixture
def cat(project: Project) -> ObjectRecord:
    """An object of layer 1; nothing is written in the background."""
    cat = project.add_prompt("the cat")[1]
    project.add_object("dog", project.add_layer("second").id)
    project.flush()
    project._state._saver.stop()
    project._state._scribe.stop()
    return cat


def _killed(project: Project) -> Path:
    copied = project.path.with_name(f"killed{time.monotonic_ns()}.flowrvs")
    return shutil.copytree(project.path, copied)


@pytest.mark.parametrize(
    "write",
    [
        lambda project: project.history.commit(),
        lambda project: project._state.volumes[2].frames.flush(),
        lambda project: project.add_expression("a sentence"),
        lambda project: project.mark_absent(2, 0, 10),
    ],
    ids=["the journal", "the frames of a layer", "names", "surgery elsewhere"],
)
def test_an_older_stroke_is_kept_with_a_newer_one(
    project: Project, cat: ObjectRecord, write: Callable[[Project], object]
) -> None:
    """Frames are handed on when they are drawn on again: the first stroke waits longest."""
    project.labels(1)[1, 2:5] = cat.id
    project.labels(2)[4, 6:9] = 2
    project.labels(1)[2, 2:5] = cat.id
    project.labels(1)[2, 3] = 0
    before = Oracle(project)
    write(project)
    with Project.open(_killed(project)) as again:
        while not (again.undo_name or "edit").startswith("edit"):
            again.undo()  # what was written after the strokes
        before.check(again, "all strokes")
        for pixels in (96, 48, 48, 0):  # of the layer; the second one is of the other
            again.undo()
            assert np.count_nonzero(again.labels(1)) == pixels


def test_each_moment_that_is_written_is_one_that_there_was(
    project: Project, cat: ObjectRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after each transaction, while others go on: strokes in two layers, and surgery."""
    killed: list[Path] = []
    commit = Journal.commit

    def copied(journal: Journal, batch: Batch) -> None:
        commit(journal, batch)
        if journal.path.parents[1] == project.path:
            killed.append(_killed(project))

    monkeypatch.setattr(Journal, "commit", copied)
    states, ended = [copy.deepcopy(Oracle(project))], threading.Event()

    def write() -> None:
        while not ended.is_set():
            project._state.settle()
            project.history.commit()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for i in range(24):
        layer = 1 + i % 2
        half = slice(8 * (i // 12), 8 * (i // 12) + 8)
        project.labels(layer)[(3 * i) % 4, i % 12, half] = (cat.id, 2)[i % 2]
        states.append(copy.deepcopy(Oracle(project)))
        if i == 12:
            project.move_object(2, 1)
            states.append(copy.deepcopy(Oracle(project)))
            project.undo()
            states.append(states[-2])
        time.sleep(0.002)
    ended.set()
    writer.join(20)
    monkeypatch.undo()
    assert len(killed) > 5
    place = 0
    for path in killed[:: max(1, len(killed) // 8)]:
        with Project.open(path) as again:
            place = next(i for i in range(place, len(states)) if _is(states[i], again))
            for earlier in reversed(states[max(0, place - 2) : place] if place < 13 else ()):
                again.undo()
                earlier.check(again, "undone")


def _is(state: Oracle, project: Project) -> bool:
    try:
        state.check(project, "")
    except (AssertionError, KeyError):
        return False
    return True


def test_names_wait_for_who_draws_and_nobody_for_ever(project: Project, cat: ObjectRecord) -> None:
    """Who draws may wait for the names' lock, so that waiting for him would never end."""
    held, go = threading.Event(), threading.Event()

    def draw() -> None:
        with project._state.volumes[2].lock:
            held.set()
            go.wait(20)

    painter = threading.Thread(target=draw, daemon=True)
    painter.start()
    assert held.wait(20)
    project.labels(1)[1, 2:5] = cat.id
    began = time.monotonic()
    project.add_expression("a sentence")
    assert time.monotonic() - began < 5
    attributes = json.loads((project.path / "zarr.json").read_text())["attributes"]
    assert "a sentence" not in json.dumps(attributes)  # the stroke is not there, either
    go.set()
    painter.join(20)
    project.flush()
    with Project.open(_killed(project)) as again:
        Oracle(project).check(again, "both")
        assert [e.text for e in again.expressions.values()][-1:] == ["a sentence"]


def test_a_stroke_that_a_kill_cut_off_ends_redo(project: Project, cat: ObjectRecord) -> None:
    """It was new, whether or not the word that it had ended was written."""
    project.labels(1)[1, 2:5] = cat.id
    project.undo()
    with project.edit("a stroke"):
        project.labels(1)[2, 2:5] = cat.id
        project.history.commit()
        path = _killed(project)
    with Project.open(path) as again:
        Oracle(project).check(again, "the stroke")
        assert again.redo() is None and again.undo_name == "a stroke"


@pytest.mark.parametrize("verb", ["split", "move"])
def test_surgery_that_has_but_named_is_taken_back(
    project: Project, cat: ObjectRecord, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new object without pixels, or a layer in which nothing lives, is half of it."""
    project.labels(1)[1, 2:5] = cat.id
    before, layers = Oracle(project), set(project.layers)
    killed: list[Path] = []
    finish = surgery._Staged.finish

    def kill_before(*arguments: object) -> None:
        project.history.commit()
        killed.append(_killed(project))
        finish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(surgery._Staged, "finish", kill_before)
    if verb == "split":
        project.split_object(cat.id, 0, 10)
    else:
        project.move_object(cat.id)
    with Project.open(killed[0]) as again:
        assert set(again.layers) == layers
        before.check(again, verb)
        assert again.undo_name == "edit on 'the cat', frame 1"
