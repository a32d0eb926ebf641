"""What a spread is cut into, and what one piece makes of keys and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flowrvs.editing import spread, spread_together
from flowrvs.editing.pieces import PART, Here, Piece, _answer, certainty_of, compute
from flowrvs.errors import Cancelled, InputError
from flowrvs.progress import CancelToken
from flowrvs.protocols import TrackedObject
from flowrvs.store import ObjectRecord, Project
from flowrvs.video import Video
from tests.fixtures.trackers import ColorTracker


class Planned:
    """Keeps the pieces that it is to compute, and computes none."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.pieces: list[Piece] = []
        self.how: dict[str, Any] = {}

    def run(self, pieces: Any, shape: Any, video: Any, **how: Any) -> Iterator[Any]:
        self.pieces, self.how = list(pieces), {"shape": shape, "video": video, **how}
        yield from ()

    @property
    def plan(self) -> list[Any]:
        """Frames; keys with the objects that are on them; stops."""
        return [
            (piece.frames, {t: sorted(masks) for t, masks in piece.keys.items()}, piece.stops)
            for piece in self.pieces
        ]


def draw(project: Project, thing: ObjectRecord, *frames: int) -> None:
    for t in frames:
        labels = project.labels(thing.layer)
        labels[t] = np.where(np.indices((48, 64))[0] % 9 == thing.id, thing.id, labels[t])


@pytest.fixture
def beside(project: Project, red: ObjectRecord) -> list[ObjectRecord]:
    """Two others in the layer of `red`, and one in another layer."""
    others = [project.add_object(name, red.layer) for name in ("second", "third")]
    return [*others, project.add_object("away", project.add_layer("two").id)]


@pytest.mark.parametrize(
    ("method", "how", "plan"),
    [
        # one key first, as what it gives is final; others in the layer where a person drew them
        (
            "flow",
            {},
            [
                (range(2), {2: [1, 2]}, ()),
                (range(10, 12), {9: [1]}, ()),
                (range(3, 5), {2: [1, 2], 5: [1]}, ()),
                (range(6, 9), {5: [1], 9: [1]}, ()),
            ],
        ),
        (
            "flow",
            {"start": 4, "stop": 7},
            [(range(4, 5), {2: [1, 2], 5: [1]}, ()), (range(6, 7), {5: [1], 9: [1]}, ())],
        ),
        (
            "flow",
            {"keys": [5]},
            [(range(3, 5), {5: [1]}, (2,)), (range(6, 9), {5: [1]}, (9,))],
        ),
        (
            "flow",
            {"keys": [2, 9], "start": 3, "stop": 9},
            [(range(3, 5), {2: [1, 2]}, (5,)), (range(6, 9), {9: [1]}, (5,))],
        ),
        (
            "shape",
            {"keys": [2]},
            [(range(3, 5), {2: [1], 5: [1]}, ()), (range(6, 9), {5: [1], 9: [1]}, ())],
        ),
        (
            "copy",
            {},
            [
                (range(2), {2: [1]}, ()),
                (range(3, 5), {2: [1], 5: [1]}, ()),
                (range(6, 9), {5: [1], 9: [1]}, ()),
                (range(10, 12), {9: [1]}, ()),
            ],
        ),
        (
            "copy",
            {"keys": [5]},
            [
                (range(2), {5: [1]}, (2,)),
                (range(3, 5), {5: [1]}, (2,)),
                (range(6, 9), {5: [1]}, (9,)),
                (range(10, 12), {5: [1]}, (9,)),
            ],
        ),
    ],
)
def test_what_is_spread_from_which_keys(
    project: Project,
    video: Video,
    red: ObjectRecord,
    beside: list[ObjectRecord],
    method: Any,
    how: dict[str, Any],
    plan: list[Any],
) -> None:
    draw(project, red, 2, 5, 9)
    draw(project, beside[0], 2, 7)
    draw(project, beside[2], 2, 5)
    project.mark_absent(beside[1].id, 5, 6)
    runner = Planned()
    preview = spread(project, video, red.id, method=method, runner=runner, **how).finish()
    assert runner.plan == plan
    assert all(piece.method == method and piece.objects == (red.id,) for piece in runner.pieces)
    assert runner.how["shape"] == (12, 48, 64) and runner.how["video"] is video
    verb = {"flow": "spread", "shape": "fill in", "copy": "copy"}[method]
    first, stop = how.get("start", 0), how.get("stop", 12)
    assert preview.name == f"{verb} 'red', frames {first} to {stop - 1}"


def test_several_by_a_memory_are_planned_as_one(
    project: Project, video: Video, red: ObjectRecord, beside: list[ObjectRecord]
) -> None:
    away = beside[2]
    draw(project, red, 3)
    draw(project, away, 6)
    runner, cancel, events = Planned("far"), CancelToken(), list[Any]()
    group = spread_together(project, video, [away.id, red.id, away.id], runner=runner)
    group.finish(cancel, events.append)
    assert list(group.previews) == [away.id, red.id]
    assert group.name == "spread 'away', 'red' with far, frames 0 to 11"
    assert group.who is not None and group.who.startswith("far, keys ") and group.memory is None
    ahead, back = runner.pieces
    assert ahead.frames == range(3, 12) and back.frames == range(6, -1, -1)
    assert ahead.objects == (red.id, away.id) and ahead.layers == (red.layer, away.layer)
    assert (ahead.stops, ahead.kept, ahead.behind, ahead.steps) == ((), None, 0, 9)
    assert ahead.wanted is not None and back.wanted is not None
    assert ahead.wanted.tolist() == [[t > 3 for t in ahead.frames], [t > 6 for t in ahead.frames]]
    assert back.wanted.tolist() == [[t < 3 for t in back.frames], [t < 6 for t in back.frames]]
    assert list(ahead.keys) == [3, 6] and ahead.looks(0, 1) == list(range(3, 12))
    assert runner.how["cancel"] is cancel
    runner.how["progress"]("event")
    assert events == ["event"]
    runner.how["lost"](away.id, range(4, 6))
    assert group.previews[away.id].lost == (range(4, 6),) and group.previews[red.id].lost == ()


def test_what_cannot_be_spread_is_one_line(
    project: Project, video: Video, red: ObjectRecord
) -> None:
    draw(project, red, 3)
    needs = "Spreading by {} needs the video; open it, or use 'shape' or 'copy'."
    none = "'red' has no key frame to spread from; draw it on one frame first."
    for how, line in (
        ({"method": "magic"}, "Method 'magic' is unknown; use flow, shape, copy, memory."),
        ({"video": None}, needs.format("flow")),
        ({"video": None, "runner": Planned("far")}, needs.format("flow")),
        ({"video": None, "method": "memory", "runner": Planned("far")}, needs.format("memory")),
        (
            {"method": "memory"},
            "Spreading by memory needs a tracker; choose one that 'flowrvs models list' shows.",
        ),
        ({"keys": [-1]}, none),
        ({"keys": [12]}, none),
        ({"keys": []}, none),
        ({"keys": [3, 12]}, none),
    ):
        asked: dict[str, Any] = {"video": video, **how}
        with pytest.raises(InputError) as error:
            spread(project, asked.pop("video"), red.id, **asked)
        assert str(error.value) == line
    with pytest.raises(InputError, match="There is no object to spread; choose one"):
        spread_together(project, video, [], ColorTracker())
    project.mark_absent(red.id, 7, 8)
    with pytest.raises(InputError, match="no key frame"):  # an absence alone is none
        spread(project, video, red.id, keys=[7], method="memory", tracker=ColorTracker())
    assert spread(project, video, red.id, keys=[7], method="flow").finish().frames == ()


def test_copies_are_the_nearest_keys_and_end_at_the_stops() -> None:
    drawn = {t: {1: np.eye(4, 9, t, dtype=bool)} for t in (2, 6)}
    piece = Piece("copy", range(3, 11), drawn, (1,), (8,))
    steps: list[int] = []

    def copied(piece: Piece, **how: Any) -> list[Any]:
        found = compute(piece, (12, 4, 9), pytest.fail, lost=pytest.fail, **how)
        return [(i, s.frame, int(s.mask.argmax()), s.certainty, s.final) for i, s in found]

    rows = [(t, 2 if t <= 4 else 6) for t in (3, 4, 5, 6, 7)]
    assert copied(piece, step=lambda: steps.append(1)) == [
        (1, t, key, 1 / (1 + abs(t - key)), True) for t, key in rows
    ]
    assert len(steps) == 5 and piece.looks(0, 9) == ()
    back = Piece("copy", range(5), {6: drawn[6]}, (1,), (2,))
    assert [row[1] for row in copied(back)] == [3, 4]
    cancel = CancelToken()
    found = compute(piece, (12, 4, 6), pytest.fail, lost=pytest.fail, cancel=cancel)
    assert next(found)[1].frame == 3
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(found)
    with pytest.raises(Cancelled):
        next(compute(piece, (12, 4, 6), pytest.fail, lost=pytest.fail, cancel=cancel))


def test_shapes_are_as_sure_as_the_nearest_key_is_near() -> None:
    keys = {t: {7: np.full((4, 6), True)} for t in (0, 5)}
    piece = Piece("shape", range(1, 5), keys, (7,))
    found = list(compute(piece, (6, 4, 6), pytest.fail, lost=pytest.fail))
    assert [(i, s.frame, s.certainty) for i, s in found] == [
        (7, 1, 1 / 2), (7, 2, 1 / 3), (7, 3, 1 / 3), (7, 4, 1 / 2)
    ]  # fmt: skip
    assert all(s.mask.all() and s.final for _, s in found)


def test_progress_counts_all_that_is_walked() -> None:
    events: list[Any] = []
    drawn = {3: {1: np.ones((4, 6), bool)}}
    both = [
        Piece("copy", range(4, 10), drawn, (1,), (6,)),  # two of six
        Piece("copy", range(3), drawn, (1,)),
    ]
    runner = Here()
    found = runner.run(both, (12, 4, 6), None, lost=pytest.fail, progress=events.append)
    assert [s.frame for _, s in found] == [4, 5, 0, 1, 2] and runner.name == ""
    assert [(e.done, e.total) for e in events] == [(n, 9) for n in (1, 2, 6, 7, 8, 9)]
    assert {e.message for e in events} == {"spreading"} and PART == 200
    named = Here(None, ColorTracker())
    list(named.run(both[1:], (12, 4, 6), None, lost=pytest.fail, progress=events.append))
    assert named.name == "colours" and events[-1].message == "following with colours"
    quiet = runner.run(both, (12, 4, 6), None, lost=pytest.fail)
    assert len(list(quiet)) == 5
    with pytest.raises(Cancelled):
        cancel = CancelToken()
        cancel.cancel()
        list(runner.run(both, (12, 4, 6), None, lost=pytest.fail, cancel=cancel))


def test_a_pixel_is_that_objects_of_which_the_tracker_is_surest() -> None:
    logits = {
        3: np.array([[1, 2, 3, 4, -1, 0]], np.float32),
        5: np.array([[2, 2, 1, 9, 3, 1]], np.float32),
        8: np.array([[9, 9, 9, 9, 9, 9]], np.float32),  # in another layer
    }
    found = {i: TrackedObject(each) for i, each in logits.items()}
    layers = {3: 1, 5: 1, 8: 2}

    def mask(i: int, found: dict[int, TrackedObject] = found) -> list[int]:
        return _answer(4, i, found, layers, (1, 6), "x").mask.astype(int)[0].tolist()

    assert mask(3) == [0, 1, 1, 0, 0, 0] and mask(5) == [1, 0, 0, 1, 1, 1]
    assert mask(8) == [1] * 6 and mask(3, {3: found[3]}) == [1, 1, 1, 1, 0, 0]
    hidden = {**found, 5: TrackedObject(logits[5], 0.4)}
    assert mask(3, hidden) == [1, 1, 1, 1, 0, 0] and mask(5, hidden) == [0] * 6
    found[99] = TrackedObject(logits[8])  # of no layer that is known: it takes nothing
    assert mask(3) == [0, 1, 1, 0, 0, 0]
    absent = _answer(4, 5, {3: found[3]}, layers, (1, 6), "x")
    assert (absent.frame, absent.certainty, absent.mask.any(), absent.final) == (4, 1, False, True)
    with pytest.raises(InputError, match=r"tracker x gave logits of shape \(1, 6\), not \(2, 3\)"):
        _answer(4, 3, found, layers, (2, 3), "x")


@pytest.mark.parametrize(
    ("logits", "score", "sure"),
    [
        ([2, 2, 0, 0, -2, -2], 1.0, 0.5),
        ([1, 2, 2, -1, -2, -2], 1.0, 2 / 3),  # neither 1 nor -1 itself counts
        ([2, 2, 0, 0, -2, -2], 0.75, 0.25),
        ([2, 2, 0, 0, -2, -2], 0.5, 0),
        ([2, 2, 0, 0, -2, -2], 0.25, 0.5),  # surely not there
        ([2, 2, 0, 0, -2, -2], 7.0, 0.5),
        ([2, 2, 0, 0, -2, -2], -7.0, 1),
        ([-2, -2, -2, -2, -2, -2], 0.9, 0.8),  # there, and no pixel of it
    ],
)
def test_how_sure_an_answer_is(logits: list[int], score: float, sure: float) -> None:
    found = TrackedObject(np.array([logits], np.float32), score)
    assert certainty_of(found) == pytest.approx(sure)
