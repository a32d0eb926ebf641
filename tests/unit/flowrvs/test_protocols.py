"""What marks may be, what a tracked object covers, and answers of models that come in turn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.protocols import InstanceSegmenter, Mark, Segmenter, TrackedObject, closed, in_turn


@pytest.mark.parametrize(
    ("make", "kind", "points", "positive"),
    [
        (lambda: Mark.point(3, 4.5), "point", ((3.0, 4.5),), True),
        (lambda: Mark.point(3, 4, False), "point", ((3.0, 4.0),), False),
        (lambda: Mark.box(9, 2, 4, 7), "box", ((4.0, 2.0), (9.0, 7.0)), True),
        (lambda: Mark.box(4, 7, 9, 2), "box", ((4.0, 2.0), (9.0, 7.0)), True),
        (lambda: Mark.box(0, 0, 1, 1), "box", ((0.0, 0.0), (1.0, 1.0)), True),
        (lambda: Mark("box", ((1, 2), (3, 4)), False), "box", ((1.0, 2.0), (3.0, 4.0)), False),
        (lambda: Mark.scribble(iter([(1, 2)])), "scribble", ((1.0, 2.0),), True),
        (
            lambda: Mark.scribble([(1, 2), (3, 4), (0, 9)], False),
            "scribble",
            ((1.0, 2.0), (3.0, 4.0), (0.0, 9.0)),
            False,
        ),
    ],
)
def test_a_mark_holds_its_points_in_order(
    make: Callable[[], Mark],
    kind: str,
    points: tuple[tuple[float, float], ...],
    positive: bool,
) -> None:
    mark = make()
    assert (mark.kind, mark.points, mark.positive) == (kind, points, positive)
    assert all(type(value) is float for point in mark.points for value in point)


@pytest.mark.parametrize(
    ("kind", "points", "message"),
    [
        ("circle", ((1, 2),), "A mark is a point, box or scribble of numbers, not Mark("),
        ("point", ((np.inf, 2),), "A mark is a point, box or scribble of numbers, not Mark("),
        ("scribble", ((1, 2), (3, np.nan)), "A mark is a point, box or scribble of numbers, not"),
        ("point", (), "A point cannot have 0 points."),
        ("scribble", (), "A scribble cannot have 0 points."),
        ("point", ((1, 2), (3, 4)), "A point cannot have 2 points."),
        ("box", ((1, 2),), "A box cannot have 1 points."),
        ("box", ((1, 2), (3, 4), (5, 6)), "A box cannot have 3 points."),
        ("box", ((0, 0), (0.99, 5)), "A box needs at least one pixel to each side."),
        ("box", ((5, 4), (0, 4.5)), "A box needs at least one pixel to each side."),
    ],
)
def test_what_is_no_mark_is_told(kind: Any, points: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Mark(kind, points)
    assert str(caught.value).startswith(message)


def test_an_object_is_its_logits_above_zero_where_it_can_be_seen() -> None:
    logits = np.array([[-1.0, 0.0, 1e-6], [3.0, -0.0, 2.0]], np.float32)
    there = [[False, False, True], [True, False, True]]
    assert TrackedObject(logits).score == 1.0
    assert TrackedObject(logits).mask.tolist() == there
    assert TrackedObject(logits, 0.5).mask.tolist() == there
    assert not TrackedObject(logits, 0.4999).mask.any()


class _Answers:
    """Answers that are no generator, and tell when they are closed."""

    def __init__(self, *rows: tuple[int, str]) -> None:
        self.rows = list(rows)
        self.is_closed = False

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self

    def __next__(self) -> tuple[int, str]:
        if not self.rows:
            raise StopIteration
        return self.rows.pop(0)

    def close(self) -> None:
        self.is_closed = True


def test_answers_are_closed_whatever_happens() -> None:
    answers = _Answers((1, "a"), (2, "b"))
    with closed(answers) as given:
        assert next(iter(given)) == (1, "a") and not answers.is_closed
    assert answers.is_closed
    answers = _Answers()
    with pytest.raises(KeyError), closed(answers):
        raise KeyError("x")
    assert answers.is_closed
    with closed([1, 2]) as plain:  # which nobody needs to close
        assert list(plain) == [1, 2]


def test_answers_come_one_for_every_frame_in_order() -> None:
    answers = _Answers((4, "a"), (2, "b"))
    assert list(in_turn(answers, [4, 2], "It")) == [(4, "a"), (2, "b")] and answers.is_closed
    assert list(in_turn([], [], "It")) == []
    for rows, frames, before, message in (
        ([(1, "a"), (3, "c")], [1, 2, 3], 1, "It answered for frame 3 out of turn."),
        ([(1, "a"), (1, "b")], [1], 1, "It answered for frame 1 out of turn."),
        ([(1, "a")], [1, 5, 6], 1, "It gave no answer for frame 5."),
        ([], [7], 0, "It gave no answer for frame 7."),
    ):
        answers, got = _Answers(*rows), []
        with pytest.raises(InputError) as caught:
            for answer in in_turn(answers, frames, "It"):
                got.append(answer)
        assert str(caught.value) == message and len(got) == before and answers.is_closed


def test_answers_that_are_not_wanted_any_more_are_closed() -> None:
    answers = _Answers((1, "a"), (2, "b"))
    run = in_turn(answers, [1, 2], "It")
    assert next(run) == (1, "a")
    run.close()
    assert answers.is_closed and answers.rows == [(2, "b")]


def test_a_segmenter_needs_a_name_and_one_method() -> None:
    class Mine(Segmenter):
        name = "mine"

        def segment_window(self, frames: Any, texts: Any, **_: Any) -> Any:
            yield np.zeros(frames.shape[:3], np.float32)

    assert (Mine().window_size, Mine().overlap) == (17, 4)
    assert isinstance(Mine(), Segmenter) and not isinstance(Mine(), InstanceSegmenter)
    asked = inspect.signature(Segmenter.segment_window).parameters
    assert {name: asked[name].default for name in ("steps", "cancel", "on_step")} == {
        "steps": 1,
        "cancel": None,
        "on_step": None,
    }
