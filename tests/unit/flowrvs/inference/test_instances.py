"""Sentences whose instances become objects of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowrvs
from flowrvs.cli import main
from flowrvs.errors import Cancelled, InputError
from flowrvs.inference import instances, segment_into
from flowrvs.inference.into import ProjectJob, segment_projects
from flowrvs.progress import CancelToken, Progress
from flowrvs.protocols import InstanceSegmenter, TrackedObject
from flowrvs.records import SegmentRequest
from flowrvs.store import Project, Provenance
from tests.fixtures.segmenters import InstancesByColor, ThresholdSegmenter


@pytest.fixture
def video(shapes_frames: np.ndarray) -> Any:
    with flowrvs.open_video(shapes_frames) as opened:
        yield opened


@pytest.fixture
def project(tmp_path: Path, video: Any) -> Any:
    with Project.create(tmp_path / "a.flowrvs", video.info) as opened:
        yield opened


def masks(project: Project, object_id: int) -> np.ndarray:
    return project.object_mask(object_id, 0, 12)


def test_every_instance_is_an_object_of_the_sentence(
    project: Project, video: Any, shapes_masks: dict[str, np.ndarray]
) -> None:
    segmenter, events = InstancesByColor(), list[Progress]()
    assert isinstance(segmenter, InstanceSegmenter)
    parts = list(segment_into(project, video, ["things", "x"], segmenter, progress=events.append))
    assert [(p.expression, p.start) for p in parts] == [(i, t) for i in (0, 1) for t in range(12)]
    assert [p.complete for p in parts[:12]] == [False] * 11 + [True]
    union = shapes_masks["red"][5] | shapes_masks["green"][5]
    np.testing.assert_array_equal(parts[5].masks[0], union)
    assert events[-1].fraction == 1
    things, nothing = project.expressions.values()
    assert things.object_ids == {1, 2} and len(nothing.object_ids) == 1
    assert [project.objects[i].name for i in (1, 2)] == ["things", "things 2"]
    assert project.objects[1].layer == project.objects[2].layer
    np.testing.assert_array_equal(masks(project, 1), shapes_masks["red"])
    green = shapes_masks["green"].copy()
    green[:4] = False
    np.testing.assert_array_equal(masks(project, 2), green)
    # Also where it is not there somebody has looked.
    for object_id in (1, 2, *nothing.object_ids):
        assert (project.provenance(object_id) == Provenance.MODEL).all()
    assert {run.key["model"] for run in project.runs.values()} == {"instances"}


def test_a_finished_sentence_is_not_asked_again_and_a_stopped_one_is(
    project: Project, video: Any, shapes_masks: dict[str, np.ndarray]
) -> None:
    segmenter = InstancesByColor(stop_at=8)
    with pytest.raises(Cancelled):
        list(segment_into(project, video, "things", segmenter, cancel=CancelToken()))
    assert masks(project, 2)[7].any() and not masks(project, 2)[8].any()
    hand = np.zeros((48, 64), bool)
    hand[40:45, 3:9] = True
    project.write_masks(2, 6, hand[None])  # a person's
    segmenter.stop_at = None
    assert len(list(segment_into(project, video, "things", segmenter))) == 12
    assert list(project.objects) == [1, 2]  # the same ones
    np.testing.assert_array_equal(masks(project, 2)[6], hand)
    np.testing.assert_array_equal(masks(project, 2)[9], shapes_masks["green"][9])
    calls = len(segmenter.calls)
    assert list(segment_into(project, video, "things", segmenter)) == []
    assert len(segmenter.calls) == calls
    assert len(list(segment_into(project, video, "things", segmenter, resume=False))) == 12
    assert list(project.objects) == [1, 2]


def test_sentences_do_not_share_their_instances(project: Project, video: Any) -> None:
    list(segment_into(project, video, "red", ThresholdSegmenter()))  # a run without instances
    list(segment_into(project, video, ["things", "each thing"], InstancesByColor()))
    meant = [sorted(said.object_ids) for said in project.expressions.values()]
    assert meant == [[1], [2, 3], [4, 5]]


def test_frames_before_an_instance_was_seen_are_written_in_blocks(
    project: Project, video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "_TOGETHER", 3)  # it is first seen on frame 4
    hand = np.ones((1, 48, 64), bool)
    list(segment_into(project, video, "things", InstancesByColor(), start=1))
    assert np.flatnonzero(project.provenance(2) == Provenance.MODEL).tolist() == [*range(1, 12)]
    assert not masks(project, 2)[:4].any() and masks(project, 2)[4].any()
    project.write_masks(2, 2, hand)
    list(segment_into(project, video, "things", InstancesByColor(), start=1, resume=False))
    assert masks(project, 2)[2].all() and not masks(project, 2)[3].any(), "a person's stays"


def test_a_run_is_of_these_weights_frames_and_instances(project: Project, video: Any) -> None:
    class Trained(InstancesByColor):
        weights = "a"

    list(segment_into(project, video, "things", Trained(), start=2, stop=11, every=3))
    key = {"text": "things", "model": "instances", "weights": "a", "range": [2, 9], "every": 3}
    runs = sorted(project.runs.values(), key=lambda run: run.object_id)
    assert [run.key for run in runs] == [key | {"instance": 0}, key | {"instance": 1}]
    assert [(run.object_id, run.done) for run in runs] == [(1, {0}), (2, {0})]
    calls = Trained()
    assert list(segment_into(project, video, "things", calls, start=2, stop=11, every=3)) == []
    for changed in ({"start": 1}, {"stop": 12}, {"every": 2}):
        assert list(
            segment_into(
                project, video, "things", calls, **({"start": 2, "stop": 11, "every": 3} | changed)
            )
        )
    Trained.weights = "b"
    assert list(segment_into(project, video, "things", Trained(), start=2, stop=11, every=3))


@pytest.mark.parametrize("every", [1, 3])
def test_other_weights_give_instances_the_objects_that_they_had(
    project: Project, video: Any, shapes_masks: dict[str, np.ndarray], every: int
) -> None:
    class Trained(InstancesByColor):
        weights, seen = "a", 4  # the frame from which it tells two things apart

        def find_instances(self, read: Any, text: str, frames: Any, **options: Any) -> Any:
            for t, found in super().find_instances(read, text, frames, **options):
                yield t, {n: thing for n, thing in found.items() if n == 7 or t >= self.seen}

    def run(weights: str, seen: int, **options: int) -> None:
        Trained.weights, Trained.seen = weights, seen
        list(segment_into(project, video, "things", Trained(), every=every, **options))

    run("a", 4)
    hand = np.ones((1, 48, 64), bool)
    project.write_masks(2, 6, hand)
    for weights, seen in (("b", 9), ("c", 99)):  # sees it later, then not at all
        run(weights, seen)
        assert list(project.objects) == [1, 2]
        assert project.expressions[next(iter(project.expressions))].object_ids == {1, 2}
        green = np.zeros_like(shapes_masks["green"])
        green[seen::every] = shapes_masks["green"][seen::every]
        green[6] = hand  # a person's stays
        np.testing.assert_array_equal(masks(project, 2), green)
        assert [run.key["weights"] for run in project.runs.values()] == [weights] * 2
    run("c", 4, start=3)  # counted from another frame on: others
    assert list(project.objects) == [1, 2, 3]


@pytest.mark.parametrize("forget", [False, True])
def test_an_object_that_was_taken_from_a_sentence_is_left_alone(
    project: Project, video: Any, shapes_masks: dict[str, np.ndarray], forget: bool
) -> None:
    list(segment_into(project, video, "things", InstancesByColor()))
    green = masks(project, 2)
    (said,) = project.expressions.values()
    if forget:
        project.remove_expression(said.exp_id)
    else:
        project.set_expression_objects(said.exp_id, {1})
    project.move_object(2)  # in its layer others would be drawn over it
    list(segment_into(project, video, "things", InstancesByColor(), resume=False))
    np.testing.assert_array_equal(masks(project, 2), green)
    (said,) = project.expressions.values()
    assert said.object_ids == ({3, 4} if forget else {1, 3})
    np.testing.assert_array_equal(masks(project, 4 if forget else 3), green)


# The second instance is seen from frame 4 on; before, the object is all that the layer holds.
@pytest.mark.parametrize(
    ("what", "at"), [("object", 2), ("object", 6), ("sentence", 2), ("sentence", 6)]
)
def test_a_run_goes_on_when_a_person_removes_what_it_draws(
    project: Project, video: Any, shapes_masks: dict[str, np.ndarray], what: str, at: int
) -> None:
    for part in segment_into(project, video, "things", InstancesByColor()):
        if part.start == at and what == "object":
            project.remove_object(1)
        elif part.start == at:
            project.remove_expression(next(iter(project.expressions)))
    assert list(project.objects) == ([2] if what == "object" else [1, 2])
    assert len(project.expressions) == (what == "object")
    np.testing.assert_array_equal(masks(project, 2)[9], shapes_masks["green"][9])
    assert project.runs["2"].done == {0}


def test_several_videos_are_told_apart(
    project: Project, video: Any, tmp_path: Path, shapes_frames: np.ndarray
) -> None:
    events: list[Progress] = []
    with (
        flowrvs.open_video(shapes_frames[::-1]) as other,
        Project.create(tmp_path / "b.flowrvs", other.info) as second,
    ):
        request = SegmentRequest.of("things", stop=2)
        jobs = [ProjectJob(project, video, request, "a"), ProjectJob(second, other, request, "b")]
        told = [
            (job.name, None if what is None else what.start)
            for job, what in segment_projects(jobs, InstancesByColor(), progress=events.append)
        ]
    assert told == [("a", 0), ("a", 1), ("a", None), ("b", 0), ("b", 1), ("b", None)]
    assert [event.message for event in events] == [
        f"{name}: 'things', frame {t}" for name in "ab" for t in (0, 1)
    ]
    assert [(event.done, event.total) for event in events] == [(1, 2), (2, 2)] * 2


def test_of_every_nth_frame_nobody_has_looked_at_the_others(project: Project, video: Any) -> None:
    list(segment_into(project, video, "things", InstancesByColor(), every=3))
    provenance = [np.flatnonzero(project.provenance(i)).tolist() for i in (1, 2)]
    # The second one is seen from frame 6 on.
    assert provenance == [[0, 3, 6, 9], [6, 9]]


def test_answers_that_do_not_fit_are_one_line(project: Project, video: Any) -> None:
    class Small(InstancesByColor):
        def find_instances(self, read: Any, text: str, frames: Any, **_: Any) -> Any:
            yield frames[0], {1: TrackedObject(np.zeros((2, 2), np.float32))}

    with pytest.raises(InputError, match=r"instances gave logits of shape \(2, 2\)"):
        list(segment_into(project, video, "things", Small()))

    class Short(InstancesByColor):
        def find_instances(self, read: Any, text: str, frames: Any, **_: Any) -> Any:
            yield frames[0], {}

    with pytest.raises(InputError, match="no answer for frame 1"):
        list(segment_into(project, video, "things", Short()))


def test_segment_tells_of_all_instances(
    shapes_mp4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        flowrvs, "load_segmenter", lambda *_, **__: InstancesByColor(), raising=False
    )
    out = str(tmp_path / "a.flowrvs")
    line = ["segment", str(shapes_mp4), "-p", "things", "--out", out]
    assert main([*line, "--overlay", str(tmp_path / "o.mp4"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["expressions"]
    assert row["object_ids"] == [1, 2] and row["frames_with_mask"] == 12
    assert main(line) == 0
    assert "Everything was finished before" in capsys.readouterr().out
