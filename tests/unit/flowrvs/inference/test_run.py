"""The engine, driven by a numpy segmenter on real decoded frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flowrvs.errors import Cancelled, DeviceMemoryError, InputError
from flowrvs.inference import kept_frames, plan_windows, segment
from flowrvs.inference.frames import WindowFrames
from flowrvs.progress import CancelToken, Progress
from flowrvs.video import Video, open_video
from tests.fixtures.segmenters import ThresholdSegmenter, WindowSegmenter


@pytest.fixture
def video(shapes_frames: npt.NDArray[np.uint8]) -> Iterator[Video]:
    with open_video(shapes_frames) as video:
        yield video


def _assemble(parts: list, texts: int, frames: int) -> npt.NDArray[np.bool_]:
    masks = np.zeros((texts, frames, *parts[0].masks.shape[1:]), bool)
    seen = np.zeros((texts, frames), int)
    for part in parts:
        masks[part.expression, part.start : part.stop] = part.masks
        seen[part.expression, part.start : part.stop] += 1
    assert (seen == 1).all()
    return masks


def test_masks_are_found_at_source_size(
    video: Video, shapes_masks: dict[str, npt.NDArray[np.bool_]]
) -> None:
    segmenter = ThresholdSegmenter(window_size=5, overlap=2)
    parts = list(segment(video, ["the red square", "green", "a dog"], segmenter))
    masks = _assemble(parts, 3, 12)
    np.testing.assert_array_equal(masks[0], shapes_masks["red"])
    np.testing.assert_array_equal(masks[1], shapes_masks["green"])
    assert not masks[2].any()
    assert all(part.confidence is None for part in parts)


def test_a_decoded_file_too(shapes_mp4: Path, shapes_masks: dict[str, npt.NDArray]) -> None:
    with open_video(shapes_mp4) as video:
        parts = list(segment(video, ["red"], ThresholdSegmenter(window_size=5, overlap=3)))
    masks = _assemble(parts, 1, 12)[0]
    assert (masks != shapes_masks["red"]).mean() < 0.01


def test_once_a_window_with_all_sentences(video: Video) -> None:
    segmenter = ThresholdSegmenter(window_size=5, overlap=1)
    texts = ("red", "green")
    parts = list(segment(video, texts, segmenter))
    assert segmenter.calls == [(5, texts)] * 3
    order = [(part.window.index, part.expression) for part in parts]
    assert order == [(w, e) for w in range(3) for e in range(2)]
    kept = kept_frames(plan_windows(12, 5, 1))
    assert [range(p.start, p.stop) for p in parts[::2]] == list(kept)


def test_parts_come_as_soon_as_they_are_final(video: Video) -> None:
    segmenter = ThresholdSegmenter(window_size=5, overlap=1)
    run = segment(video, ["red", "green"], segmenter)
    next(run)
    assert len(segmenter.calls) == 1
    run.close()


def test_seams_are_blended(video: Video) -> None:
    """Where two windows disagree, the result moves from one to the other."""
    segmenter = WindowSegmenter(window_size=8, overlap=4)
    masks = _assemble(list(segment(video, ["red"], segmenter)), 1, 12)[0]
    frames = video.read(0, 12)
    first, second = (
        next(iter(segmenter.segment_window(frames[a:b], ["red"]))) for a, b in ((0, 8), (4, 12))
    )
    weights = np.array([1, 2, 3, 4])[:, None, None] / 5
    blend = (1 - weights) * first[4:] + weights * second[:4]
    expected = np.concatenate([first[:4], blend, second[4:]]) > 0
    np.testing.assert_array_equal(masks, expected)


@pytest.mark.parametrize("piece", [1, 3])
def test_pieces_are_stitched_as_whole_windows_are(video: Video, piece: int) -> None:
    def run(piece: int) -> npt.NDArray[np.bool_]:
        segmenter = WindowSegmenter(window_size=8, overlap=4, piece=piece)
        parts = list(segment(video, ["red", "green"], segmenter))
        ends = [(p.expression, p.window.index) for p in parts if p.complete]
        assert ends == [(e, w) for w in range(2) for e in range(2)]
        assert len(parts) == 4 if not piece else len(parts) > 4
        return _assemble(parts, 2, 12)

    np.testing.assert_array_equal(run(piece), run(0))


def test_frames_are_read_when_they_are_asked_for(video: Video) -> None:
    frames = WindowFrames(video, plan_windows(12, 5, 1)[1])
    part = frames.part(1, 4)  # the window begins with frame 4
    np.testing.assert_array_equal(part[:], video.read(5, 8))
    assert frames.shape == (5, 48, 64, 3) and len(frames) == 5
    whole = np.asarray(video.frames)
    np.testing.assert_array_equal(frames, whole[4:9])
    np.testing.assert_array_equal(frames[1:3], whole[5:7])
    np.testing.assert_array_equal(frames[-1], whole[8])
    assert frames[3:3].shape == (0, 48, 64, 3)
    with pytest.raises(IndexError):
        frames[5]


def test_a_range(video: Video, shapes_masks: dict[str, npt.NDArray[np.bool_]]) -> None:
    parts = list(segment(video, ["red"], ThresholdSegmenter(window_size=4), start=3, stop=10))
    np.testing.assert_array_equal(
        np.concatenate([p.masks for p in parts]), shapes_masks["red"][3:10]
    )
    assert parts[0].start == 3 and parts[-1].stop == 10


def test_one_frame_is_a_clip(shapes_frames: npt.NDArray[np.uint8]) -> None:
    with open_video(shapes_frames[:1]) as video:
        (part,) = segment(video, ["red"], ThresholdSegmenter(window_size=33, overlap=8))
    assert part.masks.shape == (1, 48, 64) and part.masks.any()


@pytest.mark.parametrize("skip", [{0}, {1}, {0, 1}, {2}, {0, 2}])
def test_skipped_windows_change_nothing_in_the_others(video: Video, skip: set[int]) -> None:
    def run(**more: object) -> dict[int, npt.NDArray[np.bool_]]:
        segmenter = WindowSegmenter(window_size=6, overlap=3)
        parts = segment(video, ["red"], segmenter, **more)  # type: ignore[arg-type]
        return {part.window.index: part.masks for part in parts}

    whole, rest = run(), run(skip=skip)
    assert rest.keys() == whole.keys() - skip
    for index in rest:
        np.testing.assert_array_equal(rest[index], whole[index])


def test_confidence_goes_with_the_masks(video: Video) -> None:
    parts = list(segment(video, ["red"], ThresholdSegmenter(), keep_confidence=True))
    assert sum(part.masks.sum() for part in parts) > 0
    for part in parts:
        assert part.confidence is not None and part.confidence.dtype == np.uint8
        np.testing.assert_array_equal(part.confidence > 127, part.masks)


class TestProgress:
    def test_units_are_model_steps(self, video: Video) -> None:
        events: list[Progress] = []
        segmenter = ThresholdSegmenter(window_size=5, overlap=1)
        list(segment(video, ["red", "green"], segmenter, steps=3, progress=events.append))
        per_window = 1 + 2 * (3 + 1)
        assert {e.total for e in events} == {3 * per_window}
        done = [e.done for e in events]
        assert done == sorted(done) and done[0] == 0 and done[-1] == 3 * per_window
        assert set(range(3 * per_window + 1)) == set(done)
        # The last step of a window is told with its masks, and the next window once more.
        counts = [done.count(n * per_window) for n in range(4)]
        assert counts == [1, 2, 2, 1]
        assert events[0].remaining is None and events[-1].remaining == 0
        assert "window 1 of 3, frames 0 to 4" in events[0].message

    def test_a_resumed_run_starts_where_it_was(self, video: Video) -> None:
        events: list[Progress] = []
        segmenter = ThresholdSegmenter(window_size=4, overlap=0)
        list(segment(video, ["red"], segmenter, skip={0, 1}, progress=events.append))
        assert (events[0].done, events[-1].done, events[-1].total) == (6, 9, 9)


class TestStopping:
    def test_cancel_within_one_step(self, video: Video) -> None:
        cancel = CancelToken()
        segmenter = ThresholdSegmenter(window_size=5, overlap=1)
        steps = 0

        def count(event: Progress) -> None:
            nonlocal steps
            steps += 1
            if event.done == 8:
                cancel.cancel()

        parts = []
        with pytest.raises(Cancelled):
            for part in segment(video, ["red"], segmenter, steps=4, cancel=cancel, progress=count):
                parts.append(part)
        assert len(parts) == 1  # the first window took six steps
        assert steps <= 8 + 3  # the two windows' own announcements, no further step

    def test_cancelled_before_it_began(self, video: Video) -> None:
        cancel = CancelToken()
        cancel.cancel()
        segmenter = ThresholdSegmenter()
        with pytest.raises(Cancelled):
            list(segment(video, ["red"], segmenter, cancel=cancel))
        assert segmenter.calls == []

    def test_a_full_device_is_one_line(self, video: Video) -> None:
        segmenter = ThresholdSegmenter(window_size=5, overlap=1, fail_at=1)
        parts = []
        with pytest.raises(DeviceMemoryError, match="5 frames of 64x48.*kept") as caught:
            for part in segment(video, ["red"], segmenter):
                parts.append(part)
        assert "\n" not in str(caught.value)
        assert len(parts) == 1

    def test_the_models_own_errors_come_through(self, video: Video) -> None:
        error = DeviceMemoryError("The GPU has 4 GB; choose --memory low.")
        with pytest.raises(DeviceMemoryError, match="--memory low"):
            list(segment(video, ["red"], ThresholdSegmenter(fail_at=0, error=error)))


class TestLittleMemory:
    @pytest.mark.parametrize("room", [5, 7, 11])
    def test_a_window_that_does_not_fit_is_computed_in_parts(
        self, video: Video, room: int, shapes_masks: dict[str, npt.NDArray[np.bool_]]
    ) -> None:
        segmenter = ThresholdSegmenter(window_size=12, overlap=2, room=room)
        parts = list(segment(video, ["green", "red"], segmenter))
        masks = _assemble(parts, 2, 12)  # every frame once
        np.testing.assert_array_equal(masks[0], shapes_masks["green"])
        np.testing.assert_array_equal(masks[1], shapes_masks["red"])
        assert [p.expression for p in parts if p.complete] == [0, 1]

    def test_what_was_answered_before_is_not_asked_again(self, video: Video) -> None:
        segmenter = ThresholdSegmenter(window_size=12, overlap=2, room=5)
        list(segment(video, ["green", "red"], segmenter))
        assert segmenter.calls[0] == (12, ("green", "red"))
        assert all(texts == ("red",) and count == 5 for count, texts in segmenter.calls[1:])

    def test_later_windows_begin_small(self, video: Video) -> None:
        events: list[Progress] = []
        segmenter = ThresholdSegmenter(window_size=6, overlap=0, room=5)
        list(segment(video, ["red"], segmenter, progress=events.append))
        assert [count for count, _ in segmenter.calls] == [6, 5, 5, 5, 5]
        assert "5 at once" in events[-1].message
        assert events[-1].done == events[-1].total

    def test_parts_are_blended_as_windows_are(self, video: Video) -> None:
        small = WindowSegmenter(window_size=5, overlap=2)
        expected = _assemble(list(segment(video, ["red"], small)), 1, 12)
        split = WindowSegmenter(window_size=12, overlap=2, room=5)
        # what the whole window had given before it overflowed stays
        masks = _assemble(list(segment(video, ["red"], split)), 1, 12)
        np.testing.assert_array_equal(masks[:, 2:], expected[:, 2:])


class TestBadInput:
    @pytest.mark.parametrize("texts", [[], [""], ["red", " \n"]])
    def test_blank_sentences(self, video: Video, texts: list[str]) -> None:
        with pytest.raises(InputError, match="sentence"):
            segment(video, texts, ThresholdSegmenter())

    @pytest.mark.parametrize(
        "more", [{"steps": 0}, {"start": 12}, {"stop": 13}, {"window": 0}, {"overlap": 9}]
    )
    def test_numbers(self, video: Video, more: dict[str, int]) -> None:
        with pytest.raises(InputError):
            segment(video, ["red"], ThresholdSegmenter(), **more)  # type: ignore[arg-type]

    def test_a_smaller_window_needs_no_overlap_said(self, video: Video) -> None:
        segmenter = ThresholdSegmenter(window_size=33, overlap=8)
        assert list(segment(video, ["red"], segmenter, window=4))
        assert {n for n, _ in segmenter.calls} == {4}

    def test_one_string_is_one_sentence(self, video: Video) -> None:
        segmenter = ThresholdSegmenter(window_size=12)
        list(segment(video, "the  red\n one", segmenter))
        assert segmenter.calls == [(12, ("the red one",))]

    def test_a_model_that_breaks_its_promise(self, video: Video) -> None:
        class Small(ThresholdSegmenter):
            def _logits(self, encoded: npt.NDArray, text: str) -> npt.NDArray:
                return super()._logits(encoded, text)[:, ::2]

        class Mute(ThresholdSegmenter):
            def segment_window(self, frames, texts, **more):  # type: ignore[no-untyped-def]
                return iter(())

        with pytest.raises(InputError, match="logits of shape"):
            list(segment(video, ["red"], Small()))
        with pytest.raises(InputError, match="0 answers to 1"):
            list(segment(video, ["red"], Mute()))
