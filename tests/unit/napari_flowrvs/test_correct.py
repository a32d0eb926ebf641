"""Corrections as previews, without a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowrvs import editing
from flowrvs.editing.pick import Mark, keep_pick, open_picker
from flowrvs.editing.pieces import Here
from flowrvs.errors import InputError, StorageError
from flowrvs.inference import segment_into
from flowrvs.progress import CancelToken
from flowrvs.store import Project, Provenance
from flowrvs.video import open_video
from napari_flowrvs.correct.presenter import CorrectPresenter, Reprompt, Scope
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.job import consume
from napari_flowrvs.motion import Motion
from napari_flowrvs.source import VideoSource
from napari_flowrvs.trackers import Trackers
from tests.fixtures.scene import FRAMES, FRAMES_OF_SCENE, TRUTH, iou
from tests.fixtures.segmenters import ThresholdSegmenter
from tests.fixtures.trackers import ColorTracker


@pytest.fixture
def correct(desk: Desk, motion: Motion) -> Iterator[CorrectPresenter]:
    presenter = CorrectPresenter(desk, motion, lambda model, device, memory: ThresholdSegmenter())
    failures: list[object] = []
    presenter.job.failed.connect(failures.append)
    yield presenter
    presenter.close()
    motion.close()
    assert not failures


def test_spreading_shows_a_preview_and_writes_it_as_one_step(
    correct: CorrectPresenter, desk: Desk, project: Project
) -> None:
    ready: list[int] = []
    told: list[str] = []
    sure: dict[int, float] = {}
    correct.kept.connect(lambda object_id, certainty: sure.update(certainty))
    correct.frames_ready.connect(lambda start, stop: ready.extend(range(start, stop)))
    correct.noted.connect(told.append)
    correct.spread()
    assert correct.preview is not None and set(ready) >= set(range(1, FRAMES))
    assert not project.object_mask(1, 1, FRAMES).any(), "nothing is written yet"
    shown = [iou(correct.preview.mask(t), TRUTH[t]) for t in range(1, FRAMES)]
    assert min(shown) > 0.8
    correct.keep()
    assert correct.preview is None and f"{FRAMES - 1} frames written" in told[-1]
    assert sorted(sure) == list(range(1, FRAMES)) and all(0 < c <= 1 for c in sure.values())
    masks = project.object_mask(1, 0, FRAMES)
    assert min(iou(m, truth) for m, truth in zip(masks, TRUTH, strict=True)) > 0.8
    assert project.provenance(1).tolist() == [Provenance.HUMAN] + [Provenance.MODEL] * (FRAMES - 1)
    project.undo()
    assert not project.object_mask(1, 1, FRAMES).any() and project.object_mask(1, 0, 1).any()


def test_a_preview_that_cannot_be_written_can_be_kept_later(
    desk: Desk, motion: Motion, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = CorrectPresenter(desk, motion, lambda *_: ThresholdSegmenter())
    failures: list[Any] = []
    correct.job.failed.connect(failures.append)
    correct.spread()
    made = correct.preview

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Project, "write_masks", full)
        correct.keep()
    assert [failure.summary for failure in failures] == ["The disk is full."]
    assert correct.preview is made is not None
    correct.keep()
    assert correct.preview is None and project.object_mask(1, 1, FRAMES).any(axis=(1, 2)).all()
    correct.close()
    motion.close()


def test_a_discarded_preview_leaves_no_trace(correct: CorrectPresenter, project: Project) -> None:
    seen: list[object] = []
    correct.preview_changed.connect(seen.append)
    correct.spread()
    assert correct.preview is not None and len(correct.preview.frames) == FRAMES - 1
    correct.discard()
    assert seen[-1] is None and correct.preview is None
    correct.keep()
    assert not project.object_mask(1, 1, FRAMES).any()


def test_spreading_keeps_to_the_range_and_the_direction(
    correct: CorrectPresenter, desk: Desk, project: Project
) -> None:
    project.labels(1)[6, 20:44, 22:46] = 1
    desk.set_span(3, 9)
    desk.set_frame(5)  # a frame that nobody has drawn: it is spread to, either way
    correct.spread("back")
    assert correct.preview is not None and set(correct.preview.frames) == {3, 4, 5}
    correct.spread("forward")
    assert correct.preview is not None and set(correct.preview.frames) == {5, 7, 8}
    desk.set_frame(6)
    correct.spread("forward")
    assert correct.preview is not None and set(correct.preview.frames) == {7, 8}
    correct.spread("back")
    assert correct.preview is not None and set(correct.preview.frames) == {3, 4, 5}
    correct.keep()
    drawn = np.flatnonzero(project.object_mask(1, 0, FRAMES).any(axis=(1, 2)))
    assert drawn.tolist() == [0, 3, 4, 5, 6]


def test_filling_in_needs_no_video(
    correct: CorrectPresenter, motion: Motion, project: Project
) -> None:
    motion.set_source(None)
    project.labels(1)[10, 20:44, 30:54] = 1
    correct.interpolate()
    correct.keep()
    masks = project.object_mask(1, 0, 11)
    assert min(iou(m, truth) for m, truth in zip(masks, TRUTH[:11], strict=True)) > 0.8


def test_motion_is_of_the_array_that_is_chosen(motion: Motion) -> None:
    video, flows = motion.open()
    motion.set_source(VideoSource("again", FRAMES, None, FRAMES_OF_SCENE))
    assert motion.open() == (video, flows)
    motion.set_source(VideoSource("scene", FRAMES, None, FRAMES_OF_SCENE[::-1]))
    assert motion.open()[0] is not video
    assert np.array_equal(motion.open()[0].read(0, 1)[0], FRAMES_OF_SCENE[-1])


def test_copying_goes_along(correct: CorrectPresenter, desk: Desk, project: Project) -> None:
    correct.copy_to_next()
    correct.copy_to_next()
    assert desk.frame == 2
    assert np.array_equal(project.object_mask(1, 2, 3)[0], TRUTH[0])
    assert project.provenance(1)[:3].tolist() == [Provenance.HUMAN] * 3


def test_cleaning_changes_what_was_asked_for(correct: CorrectPresenter, project: Project) -> None:
    project.labels(1)[0, 30:32, 20:22] = 0
    project.labels(1)[0, 2, 2] = 1
    correct.clean("fill", Scope.FRAME)
    correct.keep()
    assert project.object_mask(1, 0, 1)[0, 30, 20] and project.object_mask(1, 0, 1)[0, 2, 2]
    correct.clean("largest", Scope.OBJECT)
    correct.keep()
    assert np.array_equal(project.object_mask(1, 0, 1)[0], TRUTH[0])


@pytest.mark.parametrize("rule", ["union", "replace"])
def test_asking_again_meets_the_old_masks_by_the_rule(
    correct: CorrectPresenter, desk: Desk, project: Project, rule: str
) -> None:
    project.write_model(1, 1, 2, np.pad(np.ones((4, 8, 8), bool), ((0, 0), (0, 56), (0, 88))))
    desk.set_span(2, 6)
    correct.reprompt(Reprompt("the red thing", rule=rule))
    assert correct.preview is not None and correct.preview.frames == (2, 3, 4, 5)
    correct.keep()
    mask = project.object_mask(1, 3, 4)[0]
    assert iou(mask[10:], TRUTH[3][10:]) > 0.95
    assert mask[2, 2] == (rule == "union")
    with pytest.raises(InputError, match="no sentence"):
        correct.reprompt(Reprompt("   "))


def test_the_threshold_is_shown_live_and_applied(
    correct: CorrectPresenter, desk: Desk, project: Project
) -> None:
    assert not correct.has_confidence()
    with pytest.raises(InputError, match="yours"):
        correct.try_threshold(0.0)
    desk.set_frame(1)
    with pytest.raises(InputError, match="not kept"):
        correct.try_threshold(0.0)
    with open_video(FRAMES_OF_SCENE) as video:
        parts = segment_into(
            project, video, ["the red square"], ThresholdSegmenter(), keep_confidence=True
        )
        list(parts)
    assert correct.has_confidence()
    desk.set_frame(5)
    shown = project.object_mask(1, 5, 6)[0]
    correct.try_threshold(-0.9)
    assert correct.preview is not None and correct.preview.mask(5).sum() > shown.sum()
    correct.try_threshold(0.0)
    assert iou(correct.preview.mask(5), shown) > 0.95
    correct.try_threshold(0.6)
    stricter = correct.preview.mask(5).sum()
    correct.keep()
    assert project.object_mask(1, 5, 6).sum() == stricter < shown.sum()
    assert project.object_mask(1, 6, 7).sum() > stricter, "only this frame"
    # A threshold that is tried goes along with the frame, and is kept for what is shown.
    correct.try_threshold(0.6)
    desk.set_frame(8)
    assert correct.preview is not None and correct.preview.frames == (8,)
    assert not np.array_equal(project.object_mask(1, 8, 9)[0], correct.preview.mask(8))
    kept = correct.preview.mask(8)
    correct.keep()
    assert np.array_equal(project.object_mask(1, 8, 9)[0], kept)
    correct.try_threshold(0.6)
    desk.set_frame(0)
    assert correct.preview is None, "a person's frame has no other threshold"
    with pytest.raises(InputError, match="yours"):
        correct.try_threshold(0.6)
    correct.apply_threshold(0.6, Scope.OBJECT)
    assert project.object_mask(1, 6, 7).sum() < shown.sum()
    assert np.array_equal(project.object_mask(1, 0, 1)[0], TRUTH[0]), "a person's frame"


def test_a_preview_of_nothing_is_not_asked_about(
    correct: CorrectPresenter, desk: Desk, project: Project
) -> None:
    told: list[str] = []
    correct.noted.connect(told.append)
    correct.interpolate()
    assert correct.preview is None and "on two frames" in told[-1]
    correct.clean("fill", Scope.FRAME)
    assert correct.preview is None and "nothing to clean up (fill holes)" in told[-1]
    project.lock_frames(1, 0, FRAMES)
    correct.spread()
    assert correct.preview is None and "nothing to spread" in told[-1]
    desk.set_span(1, 4)
    correct.reprompt(Reprompt("the red thing"))
    correct.keep()
    assert correct.preview is None and "nothing was written" in told[-1]


def test_what_is_asked_again_reaches_the_model_as_it_is(
    desk: Desk, motion: Motion, project: Project
) -> None:
    asked: list[Any] = []

    class Noting(ThresholdSegmenter):
        def segment_window(self, frames: Any, texts: Any, **more: Any) -> Any:
            asked.append((len(frames), *texts, more["steps"]))
            return super().segment_window(frames, texts, **more)

    def load(*what: str) -> ThresholdSegmenter:
        asked.append(what)
        return Noting()

    correct = CorrectPresenter(desk, motion, load)
    told, drawn = list[str](), list[Changed]()
    correct.noted.connect(told.append)
    desk.contents_changed.connect(drawn.append)
    desk.set_span(2, 4)
    correct.reprompt(
        Reprompt("  the   red thing ", "m", "cpu", 3, 0.6, "replace", Scope.RANGE, "low")
    )
    assert asked[0] == ("m", "cpu", "low") and {each[1:] for each in asked[1:]} == {
        ("the red thing", 3)
    }
    name = "ask 'the red thing', frames 2 to 3"
    assert correct.preview is not None and correct.preview.name == name
    share = FRAMES_OF_SCENE[2:4].astype(np.float32) / 255
    logits = share[..., 0] - share[..., 1:].max(axis=-1) - np.float32(0.1)
    clear = np.abs(logits - 0.6) > 1e-3
    for t in (2, 3):
        found = correct.preview.mask(t)
        assert np.array_equal(found[clear[t - 2]], (logits > 0.6)[t - 2][clear[t - 2]])
    correct.keep()
    assert drawn == [Changed(1, 2, 4)] and told == [f"{name}: 2 frames written."]
    assert project.undo_name == name
    correct.close()


def test_nothing_is_kept_while_it_is_computed(desk: Desk, motion: Motion, project: Project) -> None:
    pending: list[Callable[[], None]] = []

    def later(work: Any, token: Any, *, item: Any, progress: Any, done: Any) -> None:
        pending.append(lambda: done(consume(work, token, item, progress)))

    correct = CorrectPresenter(desk, motion, lambda *_: ThresholdSegmenter(), later)
    shown: list[Any] = []
    correct.preview_changed.connect(shown.append)
    correct.clean("largest", Scope.FRAME)
    with pytest.raises(InputError, match="A correction is being computed"):
        correct.spread()
    correct.keep()
    assert shown == [], "there is nothing yet"
    correct.discard()
    pending.pop()()
    assert not correct.job.busy and project.undo_name is not None
    project.labels(1)[0, 2, 2] = 1
    correct.clean("largest", Scope.FRAME)
    pending.pop()()
    assert correct.preview is not None and correct.object_id == 1
    correct.keep()
    with pytest.raises(InputError, match="The preview is still being computed"):
        correct.keep()
    pending.pop()()
    assert correct.preview is None and not project.object_mask(1, 0, 1)[0, 2, 2]
    project.undo()
    correct.clean("largest", Scope.FRAME)
    pending.pop()()
    shown.clear()
    desk.set_project(None)
    assert correct.preview is correct.object_id is None and shown == [None]
    with pytest.raises(InputError, match="There is no cluster: type .* below the device"):
        correct.spread(scheduler="")


def test_a_frame_that_cannot_be_copied_to_stays(
    correct: CorrectPresenter, desk: Desk, project: Project
) -> None:
    failed: list[Any] = []
    drawn: list[Changed] = []
    correct.steps.job.failed.connect(failed.append)
    desk.contents_changed.connect(drawn.append)
    project.lock_frames(1, 1, 2)
    correct.copy_to_next()
    assert failed[0].summary == "Frame 1 is locked or yours already: it stays as it is."
    assert desk.frame == 0 and drawn == []
    project.unlock_frames(1, 1, 2)
    project.release_frames(1, 1, 2)
    correct.copy_to_next(2)
    assert desk.frame == 2 and drawn == [Changed(1, 1, 3)]
    assert all(np.array_equal(mask, TRUTH[0]) for mask in project.object_mask(1, 1, 3))


def test_a_threshold_is_of_the_scores_that_were_kept(
    correct: CorrectPresenter, desk: Desk, project: Project
) -> None:
    with open_video(FRAMES_OF_SCENE) as video:
        for _ in segment_into(
            project, video, ["the red square"], ThresholdSegmenter(), keep_confidence=True
        ):
            pass
    scores = project.confidence(1, 0, FRAMES)
    told, drawn = list[str](), list[Changed]()
    correct.noted.connect(told.append)
    desk.contents_changed.connect(drawn.append)
    desk.set_frame(5)
    for threshold, byte in ((-0.9, 74), (0.0, 128), (0.6, 165)):
        correct.try_threshold(threshold)
        assert correct.preview.name == f"threshold {threshold:+.2f} on frame 5"
        assert correct.object_id == 1
        assert np.array_equal(correct.preview.mask(5), scores[5] > byte)
    before = project.object_mask(1, 0, FRAMES)
    desk.set_span(3, 6)
    correct.apply_threshold(0.6, Scope.RANGE)
    assert correct.preview is None and told == ["Threshold +0.60: 3 frames written."]
    assert drawn == [Changed(1, 3, 6)]
    after = project.object_mask(1, 0, FRAMES)
    assert np.array_equal(after[3:6], scores[3:6] > 165)
    for part in (slice(0, 3), slice(6, None)):
        assert np.array_equal(after[part], before[part])
    desk.set_object(None)
    assert not correct.has_confidence() and correct.own_sentence() == ""


def test_one_line_says_what_is_missing(correct: CorrectPresenter, desk: Desk) -> None:
    desk.set_object(None)
    with pytest.raises(InputError, match="no object"):
        correct.spread()


def test_asking_again_begins_with_the_sentence_that_means_the_object(
    correct: CorrectPresenter, desk: Desk, project: Project
) -> None:
    assert correct.own_sentence() == "the red square"
    drawn = project.add_object("object 2", 1)
    desk.set_object(drawn.id)
    assert correct.own_sentence() == "", "its name is no sentence"
    project.add_expression("all of them", [1, drawn.id])
    assert correct.own_sentence() == "all of them"
    desk.set_object(1)
    assert correct.own_sentence() == "the red square"
    project.set_expression_objects("0", [1, drawn.id])
    project.add_expression("it alone", [1])
    assert correct.own_sentence() == "it alone", "of several that which means the fewest"


def remembering(desk: Desk, motion: Motion) -> tuple[CorrectPresenter, ColorTracker]:
    """A presenter whose tracker knows colours."""
    tracker = ColorTracker(reach=90)
    trackers = Trackers(load=lambda name: tracker)
    trackers.choose("colours")
    return CorrectPresenter(
        desk, motion, lambda *_: ThresholdSegmenter(), trackers=trackers
    ), tracker


def test_a_tracker_spreads_by_memory_as_a_preview(
    desk: Desk, motion: Motion, project: Project
) -> None:
    correct, tracker = remembering(desk, motion)
    kept: list[tuple[int, dict]] = []
    correct.kept.connect(lambda *what: kept.append(what))
    correct.spread()
    assert correct.preview is not None and correct.preview.frames == tuple(range(1, FRAMES))
    assert "with colours" in correct.preview.name
    assert iou(correct.preview.mask(7), TRUTH[7]) > 0.9
    correct.keep()
    assert project.changes(1, 7)[0].who.startswith("colours, keys ")
    [(object_id, sure)] = kept
    assert object_id == 1 and sorted(sure) == list(range(1, FRAMES)) and min(sure.values()) > 0.3
    notes: list[str] = []
    correct.noted.connect(notes.append)
    tracker.walked.clear()
    correct.spread()  # all is there already
    assert correct.preview is None and "from the same frames of yours" in notes[0]
    assert tracker.walked == []
    correct.close()


def test_all_that_was_drawn_is_spread_together(
    desk: Desk, motion: Motion, project: Project
) -> None:
    ground = project.add_object("ground", next(iter(project.layers)))
    mask = np.zeros((64, 96), bool)
    mask[50:60, 5:90] = True
    project.write_masks(ground.id, 0, mask[None])
    project.add_object("nowhere", next(iter(project.layers)))
    correct, tracker = remembering(desk, motion)
    correct.together = True
    kept: list[int] = []
    correct.kept.connect(lambda object_id, _sure: kept.append(object_id))
    desk.set_frame(6)
    correct.spread("forward")
    assert correct.preview is not None and correct.preview.frames == tuple(range(6, FRAMES))
    assert tracker.walked == list(range(FRAMES))  # from the key on
    steps = len(project.history.steps)
    correct.keep()
    assert kept == [1, ground.id] and len(project.history.steps) == steps + 1
    assert project.present(ground.id)[6:].all()
    correct.close()


def test_a_spread_by_memory_is_cancelled_within_a_frame(
    desk: Desk, motion: Motion, project: Project
) -> None:
    correct, tracker = remembering(desk, motion)
    tracker.stop_at = 5
    correct.spread()
    assert correct.preview is not None and correct.preview.frames == (1, 2, 3, 4)
    correct.keep()  # what was found is kept, and the next spread goes on there
    tracker.stop_at = None
    correct.spread()
    assert correct.preview is not None and correct.preview.frames == tuple(range(5, FRAMES))
    correct.close()


def test_asking_again_keeps_what_was_picked(desk: Desk, motion: Motion, project: Project) -> None:
    video = open_video(FRAMES_OF_SCENE)
    segmenter = ThresholdSegmenter(window_size=4)
    for _ in segment_into(project, video, ["the red square"], segmenter):
        pass
    picker = open_picker(project, video, 5, 1, choose=True)
    picked = picker.take([Mark.point(30, 30), Mark.point(22, 22, False)])
    assert picked.any() and keep_pick(project, 5, picked, 1)
    for _ in segment_into(project, video, ["the red square"], segmenter, resume=False):
        pass
    np.testing.assert_array_equal(project.object_mask(1, 5, 6)[0], picked)
    assert project.provenance(1)[5] == Provenance.HUMAN
    correct = CorrectPresenter(desk, motion, lambda *_: segmenter)
    correct.reprompt(Reprompt("green", scope=Scope.OBJECT))
    assert correct.preview is not None
    correct.keep()
    np.testing.assert_array_equal(project.object_mask(1, 5, 6)[0], picked)
    assert not project.present(1)[6]  # the others were asked again
    correct.close()


def test_a_cluster_is_asked_with_all_that_it_needs(
    desk: Desk, motion: Motion, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Cluster(Here):
        def __init__(
            self, scheduler: str, tracker: str | None, *, notice: Any, cancel: Any, timeout: float
        ) -> None:
            super().__init__(tracker=ColorTracker(reach=90) if tracker else None)
            asked.append((scheduler, tracker, type(cancel), timeout))
            notice("Waiting for a worker")

        def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr("flowrvs.inference.cluster.SpreadCluster", Cluster)
    desk.set_span(0, 3)
    by_motion = CorrectPresenter(desk, motion, lambda *_: ThresholdSegmenter())
    by_memory, _ = remembering(desk, motion)
    for correct, tracker in ((by_motion, None), (by_memory, "colours")):
        asked.clear()
        told: list[str] = []
        correct.job.progressed.connect(lambda event, told=told: told.append(event.message))
        correct.spread(scheduler="tls://host:1")
        assert asked == [("tls://host:1", tracker, CancelToken, 30.0), "closed"]
        assert told[:2] == ["Asking the cluster at tls://host:1", "Waiting for a worker"]
        assert correct.preview is not None and correct.preview.frames == (1, 2)
        correct.close()


def test_what_a_preview_says_at_its_end(
    desk: Desk, motion: Motion, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = CorrectPresenter(desk, motion, lambda *_: ThresholdSegmenter())
    noted: list[str] = []
    shown: list[Any] = []
    correct.noted.connect(noted.append)
    correct.preview_changed.connect(shown.append)

    def spread(frames: tuple[int, ...], lost: str, error: Exception | None = None) -> Any:
        def run(*_: Any) -> Any:
            yield from (SimpleNamespace(frame=t) for t in frames)
            if error is not None:
                raise error

        made = SimpleNamespace(name="spread", frames=frames, run=run, lost_text=lost)
        monkeypatch.setattr(editing, "spread", lambda *_, **__: made)
        noted.clear()
        shown.clear()
        correct.spread()
        return made

    made = spread((3, 4), "")
    assert noted == [] and shown == [made] and correct.preview is made
    spread((3, 4), "lost after frame 4")
    assert noted == ["The object is lost after frame 4: draw it where it is seen again."]
    spread((), "lost after frame 0")
    assert noted[0].startswith("There is nothing to spread to: the frames of the range are yours")
    assert noted[0].endswith(" (lost after frame 0)") and correct.preview is None
    spread((), "")
    assert noted[0].endswith("is hidden on them.") and shown[-1] is None
    # What is kept is said, and how sure it was of each frame.
    said: list[str] = []
    kept: list[Any] = []
    drawn: list[Changed] = []
    correct.job.progressed.connect(lambda event: said.append(event.message))
    correct.kept.connect(lambda *what: kept.append(what))
    desk.contents_changed.connect(drawn.append)
    for written, line in (
        ((3, 5), "spread: 2 frames written."),
        ((4,), "spread: 1 frame written."),
        ((), "spread: nothing was written, the frames are yours, locked or empty."),
    ):
        made = spread((3, 4, 5), "")
        made.accept = lambda written=written: np.array(written, np.intp)
        made.certainty = lambda t: t / 10
        correct.keep()
        assert noted == [line] and kept.pop() == (1, {t: t / 10 for t in written})
        assert correct.preview is None
    assert drawn == [Changed(1, 3, 6), Changed(1, 4, 5)] and said == ["Writing spread"] * 3
    failures: list[Any] = []
    correct.job.failed.connect(failures.append)
    spread((), "", InputError("It broke."))
    assert [f.summary for f in failures] == ["It broke."] and correct.preview is None
    assert shown[-1] is None and correct.object_id is None
    made = spread((3,), "", InputError("It broke in the middle."))
    assert correct.preview is made and shown == [made]
    correct.close()
    assert correct.preview is correct.waiting is None
    motion.close()
