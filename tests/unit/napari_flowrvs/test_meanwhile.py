"""What a person does while something runs, or waits to be kept: no work goes missing for it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from flowrvs.editing.pick import Mark
from flowrvs.errors import InputError, StorageError
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.correct.presenter import CorrectPresenter, Reprompt, Scope
from napari_flowrvs.desk import Desk
from napari_flowrvs.find.presenter import SegmentInputs, SegmentPresenter
from napari_flowrvs.job import consume
from napari_flowrvs.layers import label_layer, layers_of
from napari_flowrvs.motion import Motion
from napari_flowrvs.objects.presenter import ObjectsPresenter
from napari_flowrvs.pick.presenter import PickPresenter
from napari_flowrvs.projects import Projects, open_projects
from napari_flowrvs.source import VideoSource
from napari_flowrvs.steps import Steps
from napari_flowrvs.transport.panel import OnionSkin
from napari_flowrvs.viewer import ViewerLink
from tests.fixtures.scene import FRAMES, FRAMES_OF_SCENE, TRUTH, iou
from tests.fixtures.segmenters import ThresholdSegmenter

INFO = VideoInfo(None, "array", 6, 8, 9)


def test_what_is_removed_while_it_is_corrected_can_be_brought_back(
    desk: Desk, motion: Motion, project: Project
) -> None:
    """Nobody is told of ids, and what was worked out waits for the object to come back."""
    correct = CorrectPresenter(desk, motion, lambda *_: ThresholdSegmenter())
    said: list[str] = []
    correct.job.failed.connect(lambda failure: said.append(failure.summary))
    correct.frames_ready.connect(lambda start, _: start == 1 and project.remove_object(1))
    correct.spread()
    assert said == [] and correct.preview is not None and not correct.job.busy
    found = correct.preview.mask(1)
    correct.keep()
    name = correct.preview.name
    assert said == [f"'the red square' was removed: undo that to keep {name}, or discard it."]
    project.undo()
    correct.keep()
    assert np.array_equal(project.object_mask(1, 1, 2)[0], found) and found.any()
    # A tool that needs the object goes no further.
    said.clear()
    desk.set_span(1, 12)
    correct.reprompt(Reprompt("green"))
    assert said == [
        "'the red square' was removed meanwhile: undo that and try again, or choose another object."
    ]
    correct.close()


def test_what_waits_is_not_forgotten_for_something_else(
    desk: Desk, motion: Motion, project: Project
) -> None:
    """An hour's spread does not go for a slider that the mouse wheel moves."""
    correct = CorrectPresenter(desk, motion, lambda *_: ThresholdSegmenter())
    other = project.add_object("ground", 1)
    project.labels(1)[0, 60:62, 5:9] = other.id
    desk.set_span(0, 3)
    correct.spread()
    waits = correct.preview
    assert waits is not None
    line = f"The preview of {waits.name} waits: keep it (Y) or discard it (Shift+Y) first."
    actions: list[Callable[[], object]] = [
        lambda: correct.clean("fill", Scope.FRAME),
        lambda: correct.reprompt(Reprompt("green")),
        lambda: correct.try_threshold(0.5),
        lambda: correct.apply_threshold(0.5, Scope.OBJECT),
        lambda: (desk.set_object(other.id), correct.spread()),
    ]
    for act in actions:
        with pytest.raises(InputError) as refused:
            act()
        assert str(refused.value) == line and correct.preview is waits
    desk.set_object(1)
    correct.spread()
    assert correct.preview is not None and correct.preview is not waits, "the same, asked anew"
    correct.discard()
    correct.clean("fill", Scope.FRAME)
    correct.close()


def test_a_correction_waits_while_another_project_is_looked_at(
    desk: Desk, motion: Motion, project: Project, tmp_path: Path
) -> None:
    pending: list[Callable[[], None]] = []

    def later(work: Any, token: Any, *, item: Any, progress: Any, done: Any) -> None:
        pending.append(lambda: done(consume(work, token, item, progress)))

    correct = CorrectPresenter(desk, motion, lambda *_: ThresholdSegmenter(), later)
    shown, told, sure = list[Any](), list[str](), list[Any]()
    correct.preview_changed.connect(shown.append)
    correct.noted.connect(told.append)
    correct.kept.connect(lambda *what: sure.append(what))
    with Project.create(tmp_path / "other", project.video) as other:
        _, thing = other.add_prompt("another square")
        other.labels(thing.layer)[0, 20:44, 10:34] = thing.id
        correct.spread()
        desk.set_project(other)
        motion.set_source(VideoSource("other", FRAMES, None, FRAMES_OF_SCENE[::-1]))
        assert correct.waiting is project and correct.job.busy
        with pytest.raises(InputError, match="A correction is being computed in clip.flowrvs"):
            correct.spread()
        correct.discard()  # nothing is shown that could be meant
        pending.pop()()
        assert correct.preview is correct.object_id is None and correct.waiting is project
        assert told.pop().endswith("frames 0 to 11 waits in clip.flowrvs.")
        with pytest.raises(InputError, match="waits in clip.flowrvs: choose one of its layers"):
            correct.spread()
        correct.keep()
        correct.discard()
        assert not pending and set(shown) == {None}
        desk.set_project(project)
        made = correct.preview
        assert made is not None and shown[-1] is made and correct.object_id == 1
        assert min(iou(made.mask(t), TRUTH[t]) for t in range(1, FRAMES)) > 0.8, "of its own video"
        correct.keep()
        desk.set_project(other)
        pending.pop()()
        assert project.present(1).all() and correct.waiting is None
        assert told == [f"{made.name}: {FRAMES - 1} frames written."] and sure == []
        desk.set_project(project)
        assert correct.preview is None
        # What was stopped before anything was found does not wait.
        correct.spread()
        correct.discard()
        pending.pop()()
        assert correct.preview is correct.waiting is None
    correct.close()


def test_a_row_of_what_goes_while_it_is_read_is_left_out(
    desk: Desk, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ObjectsPresenter(desk)
    project.add_prompt("the ground")
    counts = vars(Project)["counts"]

    def removed(self: Project, object_id: int) -> Any:
        if object_id == 2 and 2 in self.objects:
            self.remove_object(2)
        return counts.__get__(self, Project)(object_id)

    monkeypatch.setattr(Project, "counts", removed)
    assert [row.name for row in rows.objects()] == ["the red square"]
    project.undo()
    assert [(row.text, row.total) for row in rows.expressions()] == [
        ("the red square", FRAMES),
        ("the ground", 0),
    ]


def test_what_is_exported_is_closed_once_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects, viewer = Projects(), object()
    project = projects.ensure(tmp_path / "clip.flowrvs", INFO)
    projects.hold(project, viewer)
    with projects.use(project.path) as used, projects.use(tmp_path / "other.flowrvs") as other:
        assert used is project and other is None
        projects.release(project, viewer)
        assert project.writable and projects.get(project.path) is project
        projects.hold(project, viewer)
    assert project.writable, "it is shown again"
    with projects.use(project.path), projects.use(project.path):
        projects.release(project, viewer)
    assert not project.writable and projects.get(project.path) is None
    # One that nobody has let go of stays open: a viewer without the dock shows it.
    project = projects.open(project.path)
    with projects.use(project.path):
        pass
    with projects.use(project.path):
        projects.release(project, viewer)
        assert projects.open(project.path) is project  # its layers are about to come
    assert project.writable
    # One that is being closed is not open to those who come meanwhile.
    close, seen = project.close, list[Any]()

    def read() -> None:
        with projects.use(project.path) as used:
            seen.append(used)

    reader = threading.Thread(target=read)

    def slowly() -> None:
        reader.start()
        reader.join(0.05)
        close()

    monkeypatch.setattr(project, "close", slowly)
    projects.release(project, viewer)
    reader.join()
    assert seen == [None] and not project.writable


def test_closing_goes_on_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written is kept and tried again; no traceback stops the rest."""
    projects = Projects()
    presenter = SegmentPresenter(load=lambda *_: ThresholdSegmenter(), projects=projects)
    source = VideoSource("scene", FRAMES, None, FRAMES_OF_SCENE)
    presenter.begin_by_hand(SegmentInputs(source, project=str(tmp_path / "a.flowrvs")))
    assert presenter.project is not None

    def full(*_: Any) -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(presenter.project, "flush", full)
        assert presenter.close()
    projects.close_all()


def test_frames_that_are_away_are_told_once_and_shown_when_they_are_back(
    qtbot: Any, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is away is one line, not a traceback at every step of the slider."""
    said: list[str] = []
    monkeypatch.setattr("napari_flowrvs.viewer.show_info", said.append)
    (clip,) = layers_of(image_folder)
    folder = tmp_path / "a.flowrvs"
    with Project.create(folder, clip[0].video.info) as made:
        made.add_prompt("one")
        made.labels(1)[15:23, 3:9, 3:9] = 1
    viewer, desk = ViewerModel(), Desk()
    link = ViewerLink(viewer, desk, Bridge(desk), lambda back: None)
    video = link.add(clip)
    labels = link.add(label_layer(open_projects.open(folder), 1))
    onion = OnionSkin(link)
    onion.show(True)
    labels.notify = said.append
    for away, layer in ((image_folder, video), (folder, labels)):
        shutil.move(away, tmp_path / "away")
        first = len(said)
        for t in range(5, 7) if layer is video else range(18, 20):
            viewer.dims.set_current_step(0, t)
            assert desk.frame == t and not layer._slice.image.raw.any()
            onion.overlay.data.frame(t)
        assert len(said) == first + 1 and str(away) in said[-1]
        if layer is labels:
            labels.paint((19, 20, 20), 1)
        shutil.move(tmp_path / "away", away)
        viewer.dims.set_current_step(0, 22)
        assert layer._slice.image.raw.any()
    assert labels.data[19].sum() == 36, "nothing is drawn on what is not known"
    link.let_go()
    open_projects.close_all()


def test_marks_of_another_project_outlast_a_pick_that_is_written(
    desk: Desk, motion: Motion, project: Project, tmp_path: Path
) -> None:
    pending: list[Callable[[], None]] = []

    def later(work: Any, token: Any, *, item: Any, progress: Any, done: Any) -> None:
        pending.append(lambda: done(consume(work, token, item, progress)))

    pick = PickPresenter(desk, motion, steps=Steps(later))
    pick.start()
    desk.set_frame(4)
    pick.add(Mark.point(30, 32))
    pick.keep()
    with Project.create(tmp_path / "other", project.video) as other:
        other.add_prompt("another square")
        desk.set_project(other)
        pick.add(Mark.point(20, 30))
        pending.pop()()
        assert pick.marks == (Mark.point(20, 30),) and project.present(1)[4]
        desk.set_project(project)
        pick.prepare()
        assert not pick.marks, "they were kept"
    pick.close()


def test_marks_wait_while_another_project_is_looked_at(
    desk: Desk, motion: Motion, project: Project, tmp_path: Path
) -> None:
    pick = PickPresenter(desk, motion)
    pick.start()
    desk.set_frame(4)
    pick.add(Mark.point(30, 32))
    assert pick.preview is not None
    found = pick.preview.found
    with Project.create(tmp_path / "other", project.video) as other:
        other.add_prompt("another square")
        desk.set_project(other)
        assert not pick.waiting and pick.preview is None
        desk.set_frame(7)
        for x in (13, 37, 37):
            pick.corner(x, 20 if x == 13 else 44)
        desk.set_project(project)
        assert not pick.waiting and pick.preview is None, "its video is not chosen yet"
        pick.prepare()
        assert pick.marks == (Mark.point(30, 32),) and not pick.corners
        assert pick.preview is not None and np.array_equal(pick.preview.found, found)
        desk.set_frame(4)
        pick.keep()
        assert np.array_equal(project.object_mask(1, 4, 5)[0], found) and not pick.waiting
        desk.set_project(other)
        desk.set_frame(7)
        pick.prepare()
        pick.keep()  # closes the outline
        pick.keep()
        assert other.present(1).tolist() == [t == 7 for t in range(FRAMES)]
    pick.close()
