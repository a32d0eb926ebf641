"""Window planning, by its properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrvs.errors import InputError
from flowrvs.inference import kept_frames, plan_windows
from flowrvs.inference.windows import window_around, windows_to_compute


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    count = draw(st.integers(1, 120))
    start = draw(st.integers(0, count - 1))
    stop = draw(st.integers(start + 1, count))
    size = draw(st.integers(1, 40))
    return count, size, draw(st.integers(0, size - 1)), start, stop


@given(plans())
def test_every_frame_is_kept_once_and_windows_are_full(
    plan: tuple[int, int, int, int, int],
) -> None:
    count, size, overlap, start, stop = plan
    windows = plan_windows(count, size, overlap, start, stop)
    assert [w.index for w in windows] == list(range(len(windows)))
    assert [t for kept in kept_frames(windows) for t in kept] == list(range(start, stop))
    assert all(len(w) == min(size, stop - start) for w in windows)
    assert all(start <= w.start and w.stop <= stop for w in windows)
    for before, after in zip(windows, windows[1:], strict=False):
        assert before.start < after.start
        assert before.stop - after.start >= overlap
        if after is not windows[-1]:
            assert before.stop - after.start == overlap


@given(plans(), st.sets(st.integers(0, 60)))
def test_a_resume_computes_what_is_missing_and_its_seams(
    plan: tuple[int, int, int, int, int], done: set[int]
) -> None:
    count, size, overlap, start, stop = plan
    windows = plan_windows(count, size, overlap, start, stop)
    compute = windows_to_compute(windows, done)
    missing = {w.index for w in windows} - done
    assert missing <= compute
    for index in missing:
        assert {w.index for w in windows[:index] if w.stop > windows[index].start} <= compute
    if overlap == 0 and (stop - start) % size == 0:
        assert compute == missing


def test_examples() -> None:
    spans = lambda *a, **k: [(w.start, w.stop) for w in plan_windows(*a, **k)]  # noqa: E731
    assert spans(33, 33, 8) == [(0, 33)]
    assert spans(5, 33, 8) == [(0, 5)]
    assert spans(34, 33, 8) == [(0, 33), (1, 34)]
    assert spans(60, 33, 8) == [(0, 33), (25, 58), (27, 60)]
    assert spans(100, 10, 0, start=50, stop=70) == [(50, 60), (60, 70)]
    assert windows_to_compute(plan_windows(60, 33, 8), {0, 1}) == {0, 1, 2}
    assert windows_to_compute(plan_windows(58, 33, 8), {1}) == {0}
    assert windows_to_compute(plan_windows(60, 33, 8), {0, 1, 2}) == frozenset()


@given(st.integers(1, 60), st.data(), st.integers(1, 40))
def test_a_window_around_a_frame_is_full_and_as_central_as_it_can_be(
    count: int, data: st.DataObject, size: int
) -> None:
    frame = data.draw(st.integers(0, count - 1))
    start, stop = window_around(count, frame, size)
    possible = [(s, s + size) for s in range(count - size + 1)] or [(0, count)]
    middle = frame - size // 2
    assert (start, stop) == min(possible, key=lambda window: abs(window[0] - middle))
    assert start <= frame < stop


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 5, 1, 5, 5), "not a range"),
        ((10, 5, 1, -1, 5), "not a range"),
        ((10, 5, 1, 0, 11), "0 <= start < stop <= 10"),
        ((0, 5, 1), "not a range"),
        ((10, 0, 0), "at least 1"),
        ((10, 5, 5), "use 0 to 4"),
        ((10, 5, -1), "use 0 to 4"),
    ],
)
def test_impossible_plans(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_windows(*arguments)
