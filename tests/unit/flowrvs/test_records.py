"""The request: made once, checked and cleaned in one place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.inference import make_plan
from flowrvs.records import SegmentRequest, clean_sentence
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
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"window": 0}, "at least 1"),
        ({"window": "all"}, "window must be a whole number"),
        ({"window": 4, "overlap": 4}, "use 0 to 3"),
        ({"overlap": -1}, "0 or more"),
        ({"window": "whole", "overlap": 1}, "no overlap"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        SegmentRequest(**{"texts": "a dog", **options})


def test_a_request_is_plain_values_and_frozen() -> None:
    request = SegmentRequest("a dog", start=np.int64(3), threshold=np.float32(0.5))
    assert type(request.start) is int and type(request.threshold) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.steps = 2  # type: ignore[misc]
    assert SegmentRequest.of(request) is request
    with pytest.raises(TypeError, match="steps"):
        SegmentRequest.of(request, steps=2)


def test_the_frames_of_a_request() -> None:
    assert SegmentRequest("a dog", start=2).frames(5) == range(2, 5)
    for start, stop in ((-1, 3), (3, 3), (0, 6), (5, None)):
        with pytest.raises(InputError, match="5 frames"):
            SegmentRequest("a dog", start=start, stop=stop).frames(5)


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
