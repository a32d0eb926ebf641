"""The request: made once, checked and cleaned in one place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.inference import make_plan
from flowrvs.records import (
    Expression,
    SegmentRequest,
    VideoInfo,
    Window,
    WindowMasks,
    check_windows,
    clean_sentence,
    frame_range,
    says_nothing,
)
from tests.fixtures.segmenters import ThresholdSegmenter


def test_sentences_are_cleaned_and_their_capitals_kept() -> None:
    request = SegmentRequest(["  The \t Red\u00a0one\n", "The Red one"])
    assert request.texts == ("The Red one", "The Red one")
    assert SegmentRequest("a  dog").texts == ("a dog",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "blank"),
        (" \n", "blank"),
        ('"', "says nothing"),
        ('\\ "', "says nothing"),
        ("&quot;", "says nothing"),
        ("&nbsp;", "says nothing"),
        ("a \ud83d dog", r"'a \\ud83d dog' holds half"),
    ],
)
def test_sentences_that_cannot_be_asked_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        SegmentRequest(["a dog", text])
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"texts": []}, "no sentence"),
        ({"steps": 0}, "1 to 1000"),
        ({"steps": 1001}, "1 to 1000"),
        ({"steps": 1.5}, "^steps must be a whole number, not 1.5.$"),
        ({"every": 0}, "Every 0 frames is impossible; use 1 or more"),
        ({"every": "2"}, "^every must be a whole number, not '2'.$"),
        ({"start": 0.0}, "^start must be a whole number, not 0.0.$"),
        ({"stop": "x"}, "^stop must be a whole number"),
        ({"overlap": 1.0}, "^overlap must be a whole number"),
        ({"cuts": [3, None]}, "^cuts must be a whole number"),
        ({"window": 0}, "at least 1"),
        ({"window": "all"}, "window must be a whole number"),
        (
            {"window": 4, "overlap": 4},
            "^An overlap of 4 frames does not fit windows of 4; use 0 to 3",
        ),
        ({"window": 4, "overlap": -1}, "use 0 to 3"),
        ({"overlap": -1}, "0 or more"),
        ({"window": "whole", "overlap": 1}, "no overlap"),
        ({"threshold": float("nan")}, "^A threshold of nan is impossible; use -1 to 1.$"),
        ({"threshold": float("-inf")}, "threshold of -inf is impossible"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        SegmentRequest(**{"texts": "a dog", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"steps": 1000},
        {"every": 1},
        {"window": 1},
        {"window": 1, "overlap": 0},
        {"window": 4, "overlap": 3},
        {"window": "whole", "overlap": 0},
        {"overlap": 0},
        {"threshold": -1.0},
        {"cuts": "find"},
        {"cuts": ()},
    ],
)
def test_the_last_numbers_that_are_possible(options: dict) -> None:
    request = SegmentRequest("a dog", **options)
    assert {name: getattr(request, name) for name in options} == options


def test_what_a_request_is_by_itself() -> None:
    assert dataclasses.asdict(SegmentRequest("a dog")) == {
        "texts": ("a dog",),
        "start": 0,
        "stop": None,
        "steps": 1,
        "window": None,
        "overlap": None,
        "threshold": 0.0,
        "keep_confidence": False,
        "every": 1,
        "cuts": (),
    }


def test_a_request_is_plain_values_and_frozen() -> None:
    request = SegmentRequest(
        ["a dog"],
        *(np.int64(n) for n in (3, 9, 2, 5, 1)),
        threshold=np.float32(0.5),
        every=np.uint8(2),
        cuts=[np.int32(7), 4, 7],
    )
    plain = (("a dog",), 3, 9, 2, 5, 1, 0.5, False, 2, (4, 7))
    assert dataclasses.astuple(request) == plain
    assert {type(value) for value in (request.start, request.every, *request.cuts)} == {int}
    assert type(request.threshold) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.steps = 2  # type: ignore[misc]
    assert SegmentRequest.of(request) is request
    with pytest.raises(TypeError, match="^the request says steps, stop already$"):
        SegmentRequest.of(request, steps=2, stop=3)
    assert SegmentRequest.of("a dog", steps=2) == SegmentRequest(("a dog",), steps=2)


def test_the_frames_of_a_request() -> None:
    assert SegmentRequest("a dog", start=2).frames(5) == range(2, 5)
    assert SegmentRequest("a dog", start=4, stop=5).frames(5) == range(4, 5)
    assert [*SegmentRequest("a dog", start=1, stop=8, every=3).frames(9)] == [1, 4, 7]
    assert frame_range(5) == range(5) and frame_range(5, 0, 3) == range(3)
    for start, stop in ((-1, 3), (3, 3), (0, 6), (5, None)):
        last = 5 if stop is None else stop
        with pytest.raises(InputError) as error:
            SegmentRequest("a dog", start=start, stop=stop).frames(5)
        assert str(error.value) == (
            f"Frames {start} to {last} (excluded) are not a range of the video's 5 frames; "
            "choose 0 <= start < stop <= 5."
        )


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({}, [(2, 11), (9, 18), (11, 20)]),  # the model's 9 and 2
        ({"overlap": 0}, [(2, 11), (11, 20)]),
        ({"window": 10}, [(2, 12), (10, 20)]),
        ({"window": 3, "stop": 7}, [(2, 5), (4, 7)]),  # the overlap is half a window at most
        ({"window": "whole"}, [(2, 20)]),
        ({"window": "whole", "stop": 3}, [(2, 3)]),
    ],
)
def test_what_a_request_leaves_open_is_the_models(options: dict, windows: list) -> None:
    request = SegmentRequest("a dog", start=2, **options)
    plan = make_plan(20, request, ThresholdSegmenter(window_size=9, overlap=2))
    assert [(w.start, w.stop) for w in plan.windows] == windows


def test_cleaning_twice_changes_nothing() -> None:
    assert clean_sentence(clean_sentence(" a   &amp;quot; dog ")) == "a &amp;quot; dog"


def test_what_is_nothing_once_it_is_cleaned() -> None:
    assert [says_nothing(text) for text in ("", '"\\"', "&quot;", "&amp;quot;", '"a"')] == [
        *(True, True, True),
        *(False, False),
    ]


def test_windows_that_cannot_cover_a_video() -> None:
    for size, overlap in ((1, 0), (5, 4), (5, 0)):
        check_windows(size, overlap)
    for size, overlap in ((0, 0), (1, 1), (5, 5), (5, -1)):
        with pytest.raises(InputError):
            check_windows(size, overlap)


def test_the_frames_of_masks() -> None:
    window = Window(2, 8, 20)
    assert len(window) == 12
    masks = np.zeros((4, 2, 3), bool)
    plain = WindowMasks(0, 8, masks, window)
    assert (plain.frames, plain.stop) == (range(8, 12), 12)
    assert (plain.confidence, plain.complete, plain.disagreement, plain.step) == (
        *(None, True, None),
        1,
    )
    every = WindowMasks(0, 8, masks, window, step=3)
    assert [*every.frames] == [8, 11, 14, 17] and every.stop == 18


def test_what_is_not_known_of_a_video_or_a_sentence() -> None:
    assert dataclasses.astuple(VideoInfo(None, "array", 3, 4, 5))[5:] == (None, (), None)
    assert Expression("0", "a dog").object_ids == frozenset()
