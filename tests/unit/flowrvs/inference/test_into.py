"""Running into a project: provenance, resume, cancel."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flowrvs.errors import Cancelled, DeviceMemoryError, ProjectError, StorageError
from flowrvs.inference import plan_windows, segment, segment_into
from flowrvs.inference.into import expected_bytes
from flowrvs.inference.windows import windows_to_compute
from flowrvs.progress import CancelToken
from flowrvs.records import SegmentRequest
from flowrvs.store import Project, ProjectEvent, Provenance
from flowrvs.video import Video, open_video
from tests.fixtures.segmenters import ThresholdSegmenter, WindowSegmenter

TEXTS = ["the red one", "the green one"]
PLAN = {"window": 5, "overlap": 2}


@pytest.fixture
def video(shapes_frames: npt.NDArray[np.uint8]) -> Iterator[Video]:
    with open_video(shapes_frames) as video:
        yield video


@pytest.fixture
def project(tmp_path: Path, video: Video) -> Iterator[Project]:
    with Project.create(tmp_path / "a", video.info) as project:
        yield project


def _masks(project: Project) -> npt.NDArray[np.bool_]:
    return np.stack([project.object_mask(i, 0, 12) for i in sorted(project.objects)])


@pytest.fixture
def whole(video: Video) -> npt.NDArray[np.bool_]:
    """The masks of an uninterrupted run with seams that matter."""
    masks = np.zeros((2, 12, 48, 64), bool)
    for part in segment(video, TEXTS, WindowSegmenter(), **PLAN):
        masks[part.expression, part.start : part.stop] = part.masks
    assert masks.any(axis=(2, 3)).sum() > 12
    return masks


def test_masks_land_in_the_project(
    project: Project, video: Video, shapes_masks: dict[str, npt.NDArray[np.bool_]]
) -> None:
    for part in segment_into(project, video, TEXTS, ThresholdSegmenter(), **PLAN):
        one = project.objects[part.expression + 1]
        # it is written, and on the disk, when it is handed out
        np.testing.assert_array_equal(
            project.object_mask(one.id, part.start, part.stop), part.masks
        )
        assert project.unsaved == 0
    np.testing.assert_array_equal(
        _masks(project), np.stack([shapes_masks["red"], shapes_masks["green"]])
    )
    assert [e.text for e in project.expressions.values()] == TEXTS
    assert (project.provenance(1) == Provenance.MODEL).all()
    assert project.model == "threshold"
    assert [row["text"] for row in project.log if row["event"] == "run"] == TEXTS


def test_prompts_are_there_before_anything_is_computed(project: Project, video: Video) -> None:
    segmenter = ThresholdSegmenter()
    run = segment_into(project, video, TEXTS, segmenter)
    assert len(project.expressions) == 2 and segmenter.calls == []
    assert project.runs == {}, "a run that nobody iterates is never begun"
    project.write_masks(1, 0, np.ones((1, 48, 64), bool), provenance=Provenance.HUMAN)
    project.undo()
    assert not project.object_mask(1, 0, 1).any()
    run.close()


def test_a_persons_frames_survive(project: Project, video: Video) -> None:
    _, red = project.add_prompt("the red one")
    labels = project.labels(red.layer)
    labels[6, 40:44] = red.id
    run = segment_into(project, video, ["the red one"], ThresholdSegmenter(), **PLAN)
    next(run)
    labels[1] = 0  # already written by the model
    labels[11, :2] = red.id  # not computed yet
    drawn = {t: labels[t] for t in (1, 6, 11)}
    list(run)
    for t, frame in drawn.items():
        np.testing.assert_array_equal(labels[t], frame)
    assert np.flatnonzero(project.provenance(red.id) == Provenance.HUMAN).tolist() == [1, 6, 11]


@pytest.mark.parametrize("what", ["removed", "brought back", "moved"])
def test_a_run_goes_on_when_a_person_removes_what_it_draws(
    project: Project, video: Video, whole: npt.NDArray[np.bool_], what: str
) -> None:
    run = segment_into(project, video, TEXTS, WindowSegmenter(), **PLAN)
    next(run)
    if what == "moved":
        project.move_object(1)
    else:
        project.remove_object(1)
    if what == "brought back":
        project.undo()
    list(run)
    masks = _masks(project)
    np.testing.assert_array_equal(masks, whole[1:] if what == "removed" else whole)
    # What the model did not draw itself from end to end is computed again.
    kept = {record.object_id: len(record.done) for record in project.runs.values()}
    assert kept.pop(2) == 4 and kept.get(1, 0) <= 1
    list(segment_into(project, video, TEXTS, WindowSegmenter(), **PLAN))
    np.testing.assert_array_equal(_masks(project)[-2:], whole[::-1] if what == "removed" else whole)


@pytest.mark.parametrize(("what", "every"), [("removed", 1), ("moved", 2)])
def test_a_person_removes_or_moves_what_is_being_written(
    project: Project, video: Video, what: str, every: int
) -> None:
    red, _ = (project.add_prompt(text)[1] for text in TEXTS)
    told: list[int] = []

    def meanwhile(event: ProjectEvent) -> None:
        if event.kind == "pixels" and event.layer_id == red.layer:
            told.append(event.start)
            if len(told) == 2:
                (project.move_object if what == "moved" else project.remove_object)(red.id)

    options = {**PLAN, "every": every}
    project.connect(meanwhile)
    list(segment_into(project, video, TEXTS, WindowSegmenter(), **options))
    assert len(told) >= 2 and list(project.objects) == ([1, 2] if what == "moved" else [2])
    with Project.create(project.path.with_name("b"), video.info) as other:
        list(segment_into(other, video, TEXTS, WindowSegmenter(), **options))
        np.testing.assert_array_equal(_masks(project), _masks(other)[-len(project.objects) :])


@pytest.mark.parametrize("piece", [1, 2])
def test_a_window_counts_once_all_its_pieces_are_there(
    project: Project, video: Video, whole: npt.NDArray[np.bool_], piece: int
) -> None:
    run = segment_into(project, video, TEXTS, WindowSegmenter(piece=piece), **PLAN)
    part = next(run)
    run.close()
    assert not part.complete and not any(record.done for record in project.runs.values())
    list(segment_into(project, video, TEXTS, WindowSegmenter(piece=piece), **PLAN))
    np.testing.assert_array_equal(_masks(project), whole)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
@pytest.mark.parametrize("how", ["cancel", "close", "memory"])
def test_an_interrupted_run_goes_on_to_the_same_masks(
    project: Project, video: Video, whole: npt.NDArray[np.bool_], how: str, stop_after: int
) -> None:
    cancel = CancelToken()
    first = WindowSegmenter(fail_at=(stop_after + 1) // 2 if how == "memory" else None)
    run = segment_into(project, video, TEXTS, first, cancel=cancel, **PLAN)
    finished = set()
    try:
        for part in run:
            finished.add((part.expression, part.window.index))
            if len(finished) == stop_after and how == "cancel":
                cancel.cancel()
            if len(finished) == stop_after and how == "close":
                break
    except (Cancelled, DeviceMemoryError):
        assert how != "close"
    run.close()
    path = project.path
    project.close()

    second = WindowSegmenter()
    with Project.open(path) as again:
        parts = list(segment_into(again, video, TEXTS, second, **PLAN))
        np.testing.assert_array_equal(_masks(again), whole)
        # finished windows are not drawn again; those that reach into the first unfinished
        # window of a sentence are computed again, for its seam
        assert not finished & {(p.expression, p.window.index) for p in parts}
        assert len(parts) + len(finished) == 2 * 4
        asked = sum(len(texts) for _, texts in second.calls)
        windows = plan_windows(12, 5, 2)
        done = [{w for e, w in finished if e == text} for text in range(2)]
        assert asked == sum(len(windows_to_compute(windows, each)) for each in done)

        third = WindowSegmenter()
        assert list(segment_into(again, video, TEXTS, third, **PLAN)) == []
        assert third.calls == []


def test_without_overlap_nothing_is_computed_twice(project: Project, video: Video) -> None:
    run = segment_into(project, video, ["red"], ThresholdSegmenter(), window=4, overlap=0)
    next(run)
    run.close()
    segmenter = ThresholdSegmenter()
    list(segment_into(project, video, ["red"], segmenter, window=4, overlap=0))
    assert len(segmenter.calls) == 2


@pytest.mark.parametrize(
    "other", [{"steps": 2}, {"window": 6}, {"threshold": 0.5}, {"stop": 11}, {"resume": False}]
)
def test_another_request_is_another_run(
    project: Project, video: Video, other: dict[str, int]
) -> None:
    list(segment_into(project, video, ["red"], ThresholdSegmenter(), **PLAN))
    segmenter = ThresholdSegmenter()
    assert list(segment_into(project, video, ["red"], segmenter, **{**PLAN, **other}))
    assert len(project.expressions) == 1
    again = ThresholdSegmenter()  # its masks were replaced: the first run is no longer there
    assert bool(list(segment_into(project, video, ["red"], again, **PLAN))) == (
        "resume" not in other
    )


def test_what_a_run_is_known_by(project: Project, video: Video) -> None:
    class Trained(ThresholdSegmenter):
        weights = "abc"

    list(segment_into(project, video, "red", Trained(), steps=2, threshold=0.25, stop=11, **PLAN))
    key = {"text": "red", "model": "threshold", "weights": "abc", "steps": 2, "threshold": 0.25}
    key |= {"window": 5, "overlap": 2, "range": [0, 11]}
    (run,) = project.runs.values()
    assert (run.key, run.object_id, run.done) == (key, 1, {0, 1, 2})
    list(segment_into(project, video, "green", ThresholdSegmenter(), every=2, cuts=(4, 8), start=1))
    sparse = {"text": "green", "model": "threshold", "weights": "", "steps": 1, "threshold": 0.0}
    sparse |= {"window": 9, "overlap": 2, "range": [1, 12], "every": 2, "cuts": [4, 8]}
    assert [run.key for run in project.runs.values() if run.object_id == 2] == [sparse]


def test_the_disk_that_masks_will_take(video: Video) -> None:
    frame = 48 * 64
    for options, expected in (
        ({}, 24 * (0.02 * frame + 6000)),
        ({"keep_confidence": True}, 24 * (0.42 * frame + 6000)),
        ({"every": 5, "start": 1, "stop": 12}, 2 * 3 * (0.02 * frame + 6000)),
    ):
        assert expected_bytes(video, SegmentRequest.of(TEXTS, **options)) == int(expected)


def test_other_weights_of_the_same_name_are_another_run(project: Project, video: Video) -> None:
    class Trained(ThresholdSegmenter):
        weights = "a"

    list(segment_into(project, video, ["red"], Trained(), **PLAN))
    assert list(segment_into(project, video, ["red"], Trained(), **PLAN)) == []
    Trained.weights = "b"
    assert len(list(segment_into(project, video, ["red"], Trained(), **PLAN))) == 4


def test_a_sentence_can_be_added_to_a_finished_one(project: Project, video: Video) -> None:
    list(segment_into(project, video, TEXTS[:1], ThresholdSegmenter(), **PLAN))
    segmenter = ThresholdSegmenter()
    parts = list(segment_into(project, video, TEXTS, segmenter, **PLAN))
    assert {p.expression for p in parts} == {1}
    assert {texts for _, texts in segmenter.calls} == {("the green one",)}


def test_the_same_sentence_twice_is_computed_once(project: Project, video: Video) -> None:
    segmenter = ThresholdSegmenter(window_size=12)
    parts = list(segment_into(project, video, ["red", " red "], segmenter))
    assert len(parts) == 1 and segmenter.calls == [(12, ("red",))]


def test_confidence_is_kept_on_request(project: Project, video: Video) -> None:
    list(segment_into(project, video, ["red"], ThresholdSegmenter(), keep_confidence=True))
    kept = project.confidence(1, 0, 12)
    assert kept is not None
    np.testing.assert_array_equal(kept > 127, project.object_mask(1, 0, 12))


def _apart(project: Project) -> npt.NDArray[np.float32]:
    return np.stack([project.disagreement(i) for i in sorted(project.objects)])


@pytest.fixture
def doubted(video: Video) -> npt.NDArray[np.float32]:
    """How far windows disagree in an uninterrupted run."""
    apart = np.full((2, 12), np.nan, np.float32)
    for part in segment(video, TEXTS, WindowSegmenter(), **PLAN):
        assert part.disagreement is not None
        apart[part.expression, part.start : part.stop] = part.disagreement
    overlaps = np.flatnonzero(np.isfinite(apart[0]))
    assert overlaps.tolist() == [3, 4, 6, 7, 8, 9, 10] and np.nanmax(apart) > 0.1
    return apart


@pytest.mark.parametrize("stop_after", [0, 1, 3, 7])
@pytest.mark.parametrize("piece", [0, 2])
def test_what_windows_disagreed_about_is_kept_and_survives_a_resume(
    project: Project,
    video: Video,
    doubted: npt.NDArray[np.float32],
    stop_after: int,
    piece: int,
) -> None:
    if stop_after:
        run = segment_into(project, video, TEXTS, WindowSegmenter(piece=piece), **PLAN)
        for _ in range(stop_after):
            next(run)
        run.close()
    list(segment_into(project, video, TEXTS, WindowSegmenter(piece=piece), **PLAN))
    np.testing.assert_allclose(_apart(project), doubted, atol=6e-4)
    project.close()
    with Project.open(project.path, read_only=True) as again:
        np.testing.assert_allclose(_apart(again), doubted, atol=6e-4)


_KILLED = """
import os, signal, sys
import numpy as np
from flowrvs.inference import segment_into
from flowrvs.store import Project
from flowrvs.video import open_video
from tests.fixtures.segmenters import WindowSegmenter
video = open_video(np.load(sys.argv[2]))
project = Project.open(sys.argv[1])
texts = ["the red one", "the green one"]
run = segment_into(project, video, texts, WindowSegmenter(), window=5, overlap=2)
for n, part in enumerate(run):
    if n == 4:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_windows_disagreed_about_survives_a_kill(
    project: Project,
    video: Video,
    shapes_frames: npt.NDArray[np.uint8],
    doubted: npt.NDArray[np.float32],
    tmp_path: Path,
) -> None:
    project.close()
    np.save(tmp_path / "frames.npy", shapes_frames)
    command = [sys.executable, "-c", _KILLED, str(project.path), str(tmp_path / "frames.npy")]
    root = Path(__file__).resolve().parents[4]
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGKILL
    with Project.open(project.path) as again:
        known = np.isfinite(_apart(again))
        np.testing.assert_allclose(_apart(again)[known], doubted[known], atol=6e-4)
        assert known.any()
        list(segment_into(again, video, TEXTS, WindowSegmenter(), **PLAN))
        np.testing.assert_allclose(_apart(again), doubted, atol=6e-4)


def test_a_project_of_before_knows_of_no_disagreement(
    project: Project, video: Video, doubted: npt.NDArray[np.float32]
) -> None:
    list(segment_into(project, video, TEXTS, WindowSegmenter(), **PLAN))
    project.close()
    shutil.rmtree(project.path / "disagreement")
    with Project.open(project.path) as again:
        assert np.isnan(_apart(again)).all()
        list(segment_into(again, video, TEXTS, WindowSegmenter(), resume=False, **PLAN))
        np.testing.assert_allclose(_apart(again), doubted, atol=6e-4)
        copy = again.copy_to(again.path.with_name("copy"))
    with Project.open(copy) as copied:
        np.testing.assert_allclose(_apart(copied), doubted, atol=6e-4)


def test_a_repeated_run_replaces_what_windows_disagreed_about(
    project: Project, video: Video, doubted: npt.NDArray[np.float32]
) -> None:
    list(segment_into(project, video, TEXTS, WindowSegmenter(), **PLAN))
    list(segment_into(project, video, TEXTS, WindowSegmenter(), window=12, overlap=0))
    assert np.isnan(_apart(project)).all()
    project.undo()
    project.undo()
    assert np.isnan(_apart(project)).all(), "masks of before, but nothing is known of them"
    list(segment_into(project, video, TEXTS, WindowSegmenter(), resume=False, **PLAN))
    np.testing.assert_allclose(_apart(project), doubted, atol=6e-4)


def test_halves_of_a_window_disagree_too(project: Project, video: Video) -> None:
    small = WindowSegmenter(window_size=12, overlap=2, room=6)
    list(segment_into(project, video, ["red"], small))
    assert np.isfinite(project.disagreement(1)).sum() >= 2


def test_disagreement_is_about_the_masks_that_the_model_drew(
    project: Project, video: Video, doubted: npt.NDArray[np.float32]
) -> None:
    list(segment_into(project, video, TEXTS, WindowSegmenter(), **PLAN))
    t = int(np.nanargmax(doubted[0]))
    project.write_masks(1, t, np.zeros((1, 48, 64), bool), provenance=Provenance.MODEL)
    assert np.isnan(project.disagreement(1)[t])
    project.undo()
    assert project.disagreement(1)[t] == pytest.approx(doubted[0, t], abs=6e-4)


def test_another_video_is_refused(project: Project, shapes_frames: npt.NDArray[np.uint8]) -> None:
    with (
        open_video(shapes_frames[:5]) as other,
        pytest.raises(ProjectError, match="another project"),
    ):
        segment_into(project, other, ["red"], ThresholdSegmenter())
    assert project.expressions == {}


def test_a_failing_disk_keeps_finished_windows(project: Project, video: Video) -> None:
    run = segment_into(project, video, ["red"], ThresholdSegmenter(), **PLAN)
    next(run)
    folder = project.path / "layers" / "1"
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    with pytest.raises(StorageError, match="Cannot write"):
        next(run)
    folder.unlink()
    folder.with_name("away").rename(folder)
    (record,) = project.runs.values()
    assert record.done == {0}
    assert list(segment_into(project, video, ["red"], ThresholdSegmenter(), **PLAN))


def test_the_project_moves_with_its_video(project: Project, video: Video, tmp_path: Path) -> None:
    info = replace(video.info, path=str(tmp_path / "moved.mp4"))
    project.check_video(info)
    list(segment_into(project, video, ["red"], ThresholdSegmenter()))
    assert project.video.path == info.path
