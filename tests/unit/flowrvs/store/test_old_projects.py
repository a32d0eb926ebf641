"""Projects of earlier versions open with all that is in them, undo history included.

``tests/fixtures/projects`` holds one a format, written by the code of its time, with what it
held then: ``format-2`` by version 0.1 with twenty steps, three of them undone; ``format-1`` by
the first code that kept projects.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.store import FORMAT_VERSION, Project, Provenance

FIXTURES = Path(__file__).parents[3] / "fixtures" / "projects"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    for version in (1, 2):
        with zipfile.ZipFile(FIXTURES / f"format-{version}.zip") as archive:
            archive.extractall(tmp_path)
    return tmp_path


def _check(project: Project, expected: Any, arrays: Any, state: int) -> None:
    """Compare a project with the state that was recorded under a number."""
    names = expected["names"][state]
    if names is None:  # half of a run and its correction
        return
    where = f"state {state}"
    assert {i: layer.name for i, layer in project.layers.items()} == {
        int(i): name for i, name in names["layers"].items()
    }, where
    assert {
        i: [each.name, each.layer, [round(c, 6) for c in each.color]]
        for i, each in project.objects.items()
    } == {int(i): row for i, row in names["objects"].items()}, where
    assert {
        i: [each.text, sorted(each.object_ids)] for i, each in project.expressions.items()
    } == names["expressions"], where
    for i in project.layers:
        np.testing.assert_array_equal(project.labels(i)[:], arrays[f"{state} layer {i}"], where)
    for i in project.objects:
        np.testing.assert_array_equal(
            project.provenance(i), arrays[f"{state} provenance {i}"], f"{where}: {i}"
        )
        np.testing.assert_array_equal(project.areas(i), arrays[f"{state} areas {i}"], where)


def test_format_2_with_its_history(unpacked: Path) -> None:
    expected = json.loads((unpacked / "format-2.json").read_text())
    now, last = expected["current"], len(expected["names"]) - 1
    assert FORMAT_VERSION >= expected["format"] == 2
    with (
        np.load(unpacked / "format-2.npz") as arrays,
        Project.open(unpacked / "format-2") as project,
    ):
        assert project.history.notice is None
        _check(project, expected, arrays, now)
        steps = project.history.steps
        assert sorted(step.name for step in steps) == sorted(expected["steps"])
        assert [step.name for step in steps if step.state == "undone"] == expected["steps"][now:]
        assert {step.who for step in steps} == {"Ada", "tiny"}
        assert [row["event"] for row in project.log] == expected["log"]
        assert {key: [run.object_id, sorted(run.done)] for key, run in project.runs.items()} == (
            expected["runs"]
        )
        rows = [[row.who, row.kind, row.name] for row in project.changes(1, 3)]
        assert rows == expected["changes"]
        assert project.next_label == expected["next_label"]
        for _ in range(2):
            for state in range(now, last):
                assert project.redo_name in expected["steps"]
                assert project.redo() is not None
                _check(project, expected, arrays, state + 1)
            assert not project.history.redo_step
            for state in range(last - 1, -1, -1):
                assert project.undo() is not None
                _check(project, expected, arrays, state)
            assert not project.history.undo_step
            now = 0
        while project.redo() is not None:
            pass
        _check(project, expected, arrays, last)
    with (
        np.load(unpacked / "format-2.npz") as arrays,
        Project.open(unpacked / "format-2") as project,
    ):
        _check(project, expected, arrays, last)


def test_the_confidence_of_format_2(unpacked: Path) -> None:
    expected = json.loads((unpacked / "format-2.json").read_text())
    with (
        np.load(unpacked / "confidence.npz") as arrays,
        Project.open(unpacked / "format-2", read_only=True) as project,
    ):
        np.testing.assert_array_equal(project.confidence(1, 0, 6), arrays["confidence"])
        assert project.confidence_frames(1).tolist() == expected["confidence"]["1"]
        known = [None if np.isnan(x) else round(float(x), 4) for x in project.disagreement(1)]
        assert known == expected["disagreement"]


def test_format_1(unpacked: Path) -> None:
    with np.load(unpacked / "format-1.npz") as arrays:
        for read_only in (True, False):
            with Project.open(unpacked / "format-1", read_only=read_only) as project:
                pixels = project.labels(1)[:]
                np.testing.assert_array_equal(pixels, arrays["layer"])
                for i in (1, 2):
                    np.testing.assert_array_equal(project.provenance(i), arrays[f"provenance {i}"])
                    areas = (pixels == i).sum(axis=(1, 2))
                    np.testing.assert_array_equal(project.areas(i), areas)
                assert [e.text for e in project.expressions.values()] == [
                    "the cat that jumps",
                    "animals",
                ]
                assert project.history.steps == () and project.history.notice is None
                model = project.provenance(1) == Provenance.MODEL
                np.testing.assert_array_equal(project.confidence_frames(1), model)
        with Project.open(unpacked / "format-1") as project:
            project.labels(1)[4] = 0
            project.undo()
            np.testing.assert_array_equal(project.labels(1)[:], arrays["layer"])
