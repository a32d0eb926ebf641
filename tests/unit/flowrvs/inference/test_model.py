"""A window through a model: what answers must be, and which parts little memory makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from flowrvs.errors import Cancelled, DeviceMemoryError, InputError
from flowrvs.inference.frames import SelectedFrames, WindowFrames
from flowrvs.inference.model import WindowModel
from flowrvs.progress import CancelToken
from flowrvs.records import Window
from flowrvs.video import open_video

SHAPE = (6, 8)


class Answers:
    """A segmenter that answers what it is told to, and notes what it was asked."""

    name = "told"
    window_size, overlap = 9, 2

    def __init__(self, make: Callable[..., Iterator[Any]]) -> None:
        self.make = make
        self.asked: list[tuple[int, tuple[str, ...], dict[str, Any]]] = []

    def segment_window(self, frames: Any, texts: Any, **more: Any) -> Iterator[Any]:
        self.asked.append((len(frames), tuple(texts), more))
        return self.make(frames, texts)


def frames_of(count: int, start: int = 0) -> WindowFrames:
    rng = np.random.default_rng(7)
    video = open_video(rng.integers(0, 256, (count + start, *SHAPE, 3), np.uint8))
    return WindowFrames(video, Window(0, start, start + count))


def model_of(segmenter: Any, **more: Any) -> WindowModel:
    given: dict[str, Any] = {"steps": 3, "overlap": 2, "threshold": 0.0}
    given |= {"cancel": CancelToken(), "on_step": lambda: None}
    return WindowModel(segmenter, **(given | more))


def whole(frames: Any, texts: Any) -> Iterator[Any]:
    for n, _ in enumerate(texts):
        yield np.asarray(frames)[..., 0] / 255 - 0.5 + n


def test_a_window_that_fits_is_asked_for_once() -> None:
    segmenter, token, notify = Answers(whole), CancelToken(), lambda: None
    model = model_of(segmenter, cancel=token, on_step=notify)
    frames = frames_of(7)
    found = list(model.run(frames, ["a", "b"]))
    assert segmenter.asked == [(7, ("a", "b"), {"steps": 3, "cancel": token, "on_step": notify})]
    assert [place for place, _, _ in found] == [0, 1] and (model.limit, model.note) == (None, "")
    for n, (_, logits, apart) in enumerate(found):
        assert logits.dtype == np.float32 and apart.dtype == np.float32
        np.testing.assert_allclose(logits, np.asarray(frames)[..., 0] / 255 - 0.5 + n, atol=1e-6)
        assert apart.shape == (7,) and np.isnan(apart).all()


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([(7, 6, 7)], "gave logits of shape (7, 6, 7), not (1 to 7, 6, 8)."),
        ([(8, 6, 8)], "gave logits of shape (8, 6, 8), not (1 to 7, 6, 8)."),
        ([(0, 6, 8)], "gave logits of shape (0, 6, 8), not (1 to 7, 6, 8)."),
        ([(3, 6, 8), (5, 6, 8)], "gave logits of shape (5, 6, 8), not (1 to 4, 6, 8)."),
        ([(7, 6, 8)], "gave 1 answers to 2 sentences."),
        ([(7, 6, 8), (3, 6, 8)], "gave 1 answers to 2 sentences."),
        ([], "gave 0 answers to 2 sentences."),
        ([(7, 6, 8)] * 3, "gave 3 answers to 2 sentences."),
    ],
)
def test_answers_that_are_none_are_told(pieces: list[tuple[int, ...]], message: str) -> None:
    closed: list[int] = []

    def make(frames: Any, texts: Any) -> Iterator[Any]:
        try:
            for shape in pieces:
                yield np.zeros(shape)
        finally:
            closed.append(1)

    with pytest.raises(InputError) as caught:
        list(model_of(Answers(make)).run(frames_of(7), ["a", "b"]))
    assert str(caught.value) == f"The model told {message}" and closed == ([1])


def test_pieces_of_a_sentence_add_up_to_the_window() -> None:
    def make(frames: Any, texts: Any) -> Iterator[Any]:
        for _ in texts:
            for count in (1, 4, 2):
                yield np.zeros((count, *SHAPE))

    found = list(model_of(Answers(make)).run(frames_of(7), ["a", "b"]))
    assert [(place, len(logits), len(apart)) for place, logits, apart in found] == [
        (place, count, count) for place in (0, 1) for count in (1, 4, 2)
    ]


@pytest.mark.parametrize(
    ("count", "limit"), [(6, 5), (7, 5), (8, 5), (15, 5), (16, 9), (17, 9), (33, 17), (81, 41)]
)
def test_little_memory_halves_a_window(count: int, limit: int) -> None:
    def make(frames: Any, texts: Any) -> Iterator[Any]:
        if len(frames) > limit:
            raise MemoryError
        yield from whole(frames, texts)

    segmenter = Answers(make)
    model, frames = model_of(segmenter), frames_of(count)
    found = list(model.run(frames, ["a"]))
    assert model.limit == limit and model.note == f" ({limit} at once: little memory)"
    assert [n for n, _, _ in segmenter.asked[:2]] == [count, limit]
    assert all(n <= limit for n, _, _ in segmenter.asked[1:])
    logits = np.concatenate([piece for _, piece, _ in found])
    np.testing.assert_allclose(logits, np.asarray(frames)[..., 0] / 255 - 0.5, atol=1e-5)
    apart = np.concatenate([known for _, _, known in found])
    assert np.isfinite(apart).any() and (apart[np.isfinite(apart)] == 0).all()
    # The next window begins with parts; one that fits is asked for at once.
    segmenter.asked.clear()
    list(model.run(frames_of(limit), ["a"]))
    assert [n for n, _, _ in segmenter.asked] == [limit]


def test_parts_overlap_by_half_of_them_at_most() -> None:
    for overlap, starts in ((4, [0, 3, 6, 7]), (1, [0, 4, 7])):
        segmenter = Answers(whole)
        begun: list[int] = []
        model = model_of(segmenter, overlap=overlap, limit=5)
        frames = frames_of(12)
        part = WindowFrames.part

        class Noted(WindowFrames):
            def part(self, start: int, stop: int) -> WindowFrames:
                begun.append(start)  # noqa: B023
                return part(self, start, stop)  # noqa: B023

        frames.__class__ = Noted
        list(model.run(frames, ["a"]))
        assert begun == starts


def test_a_device_that_holds_no_five_frames_is_told() -> None:
    def full(frames: Any, texts: Any) -> Iterator[Any]:
        raise MemoryError("somewhere")
        yield

    with pytest.raises(DeviceMemoryError) as caught:
        list(model_of(Answers(full)).run(frames_of(5), ["a"]))
    assert str(caught.value) == (
        "The memory is too small for a window of 5 frames of 8x6; use a smaller window or a lower "
        "memory setting. Finished windows are kept."
    )
    assert isinstance(caught.value.__cause__, MemoryError)
    own = DeviceMemoryError("Mine.")

    def fails(frames: Any, texts: Any) -> Iterator[Any]:
        raise own
        yield

    with pytest.raises(DeviceMemoryError) as caught:
        list(model_of(Answers(fails)).run(frames_of(3), ["a"]))
    assert caught.value is own


def test_what_was_given_before_the_memory_was_full_is_not_given_again() -> None:
    def make(frames: Any, texts: Any) -> Iterator[Any]:
        values = np.asarray(frames)[..., 0] / 255 - 0.5
        for n, _ in enumerate(texts):
            if len(frames) > 5 and n == 1:
                yield values[:3] + n
                raise MemoryError
            yield values + n

    segmenter = Answers(make)
    frames = frames_of(12, start=4)
    found: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for place, logits, _ in model_of(segmenter).run(frames, ["a", "b", "c"]):
        found[place].append(logits)
    assert segmenter.asked[0][1] == ("a", "b", "c")
    assert all(texts == ("b", "c") for _, texts, _ in segmenter.asked[1:2])
    values = np.asarray(frames)[..., 0] / 255 - 0.5
    assert [len(part) for part in found[1]][0] == 3
    # As of index 0 and 1 in what is asked the second time.
    np.testing.assert_allclose(np.concatenate(found[0]), values, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(found[1])[:3], values[:3] + 1, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(found[1])[3:], values[3:], atol=1e-5)
    np.testing.assert_allclose(np.concatenate(found[2]), values + 1, atol=1e-5)


def test_other_errors_come_through_and_close_the_model() -> None:
    closed: list[int] = []

    def stops(frames: Any, texts: Any) -> Iterator[Any]:
        try:
            yield np.zeros((1, *SHAPE))
            raise Cancelled("So it is.")
        finally:
            closed.append(1)

    with pytest.raises(Cancelled):
        list(model_of(Answers(stops)).run(frames_of(5), ["a"]))
    run = model_of(Answers(stops)).run(frames_of(5), ["a"])
    next(run)
    run.close()
    assert closed == [1, 1]


# -- frames ------------------------------------------------------------------------------

VALUES = np.random.default_rng(1).integers(0, 256, (20, 4, 5, 3), np.uint8)


def test_selected_frames_are_counted_anew() -> None:
    with open_video(VALUES) as video:
        some = SelectedFrames(video, range(3, 19, 4))
        assert some.shape == (4, 4, 5, 3)
        np.testing.assert_array_equal(some.read(0, 4), VALUES[[3, 7, 11, 15]])
        np.testing.assert_array_equal(some.read(1, 3), VALUES[[7, 11]])
        assert some.read(2, 2).shape == (0, 4, 5, 3)
        window = WindowFrames(some, Window(0, 1, 4))
        np.testing.assert_array_equal(window[:], VALUES[[7, 11, 15]])


def test_frames_of_a_window_are_those_of_an_array() -> None:
    with open_video(VALUES) as video:
        frames, there = WindowFrames(video, Window(3, 5, 14)), VALUES[5:14]
        assert (frames.shape, len(frames), frames.ndim) == ((9, 4, 5, 3), 9, 4)
        indices = [0, 8, -1, -9, slice(None), slice(2, 7), slice(-3, None), slice(7, 2)]
        for index in indices:
            np.testing.assert_array_equal(frames[index], there[index])
        for place in (9, -10):
            with pytest.raises(IndexError):
                frames[place]
        with pytest.raises(IndexError, match="^frames of a window are read consecutively$"):
            frames[::2]
        assert np.asarray(frames).dtype == np.uint8
        wide = np.asarray(frames, dtype=np.float64)
        np.testing.assert_array_equal(wide, there.astype(float))
        assert wide.dtype == np.float64
        part = frames.part(2, 5)
        np.testing.assert_array_equal(part, there[2:5])
        np.testing.assert_array_equal(part.part(1, 3)[:], there[3:5])
        assert part.shape == (3, 4, 5, 3)
