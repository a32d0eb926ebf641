"""A clip without any model: from two drawn frames to a dataset, and what outlives a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flowrvs.cli import main
from flowrvs.errors import CheckpointError
from flowrvs.store import Project, Provenance
from napari_flowrvs.projects import open_projects
from tests.integration.annotator import FRAMES, SIDE, Person, corner, iou

MakePerson = Callable[..., Person]


def no_model(model: str, device: str) -> None:
    raise CheckpointError("There are no weights here.")


def test_two_drawn_frames_make_a_dataset(
    make_person: MakePerson, folder: Path, tmp_path: Path
) -> None:
    person = make_person(no_model)
    dock, viewer, desk = person.dock, person.viewer, person.dock.session.desk
    dock.find.sentences.set_texts(("the red square",))
    person.click(dock.find.run_button)
    person.rest()
    assert dock.footer.problem.line.text() == "There are no weights here."
    person.click(dock.find.draw_button)
    person.rest()
    project = desk.project
    assert project is not None and dock.footer.problem.isHidden()
    assert "Draw “the red square” here" in dock.footer.progress.status.text()
    layer = viewer.layers.selection.active
    # One frame with the brush, one with the polygon, one copied.
    desk.go_to(0)
    person.fill(*corner(0), corner(0)[0] + SIDE, corner(0)[1] + SIDE, size=10)
    assert iou(project, 0) > 0.9
    for _ in range(2):
        person.press("Shift+Right")
    assert desk.frame == 20
    person.press("3")
    assert layer.mode == "polygon"
    y, x = corner(20)
    for point in ((y, x), (y, x + 35), (y + 35, x + 35), (y + 35, x)):
        person.stroke(point)
    person.press("Return")
    assert iou(project, 20) > 0.9
    # Fill in between; forget it, then keep it.
    person.press("T")
    person.until(
        lambda: dock.session.correct.preview is not None and not dock.session.correct.job.busy
    )
    assert not project.object_mask(1, 10, 11).any()
    person.look("by-hand")
    person.click(dock.footer.preview.discard_button)
    person.press("T")
    person.until(
        lambda: dock.session.correct.preview is not None and not dock.session.correct.job.busy
    )
    person.press("Y")
    person.rest()
    assert min(iou(project, t) for t in range(21)) > 0.75
    # Follow the motion to the end, from the drawn frame on; back is Shift+B.
    person.press("Shift+S")
    person.until(
        lambda: dock.session.correct.preview is not None and not dock.session.correct.job.busy
    )
    person.press("Y")
    person.rest()
    assert iou(project, 30) > 0.8
    person.press("Shift+T")
    person.rest()
    assert desk.frame == 21 and project.provenance(1)[21] == Provenance.HUMAN
    # It has left the picture in the last five frames.
    desk.go_to(FRAMES - 5)
    person.press("I")
    desk.go_to(FRAMES - 1)
    person.press("Shift+I")
    person.page("Objects")
    person.click(dock.objects.absent_button)
    person.rest()
    assert not project.object_mask(1, FRAMES - 5, FRAMES).any()
    # A copy beside it; the project itself, and the video, move elsewhere afterwards.
    copy = tmp_path / "copies" / "mine.flowrvs"
    dock.head.copy_project(str(copy))
    person.rest()
    with Project.open(copy, read_only=True) as other:
        assert np.array_equal(other.object_mask(1, 0, FRAMES), project.object_mask(1, 0, FRAMES))
    home = project.path
    masks = project.object_mask(1, 0, FRAMES)
    viewer.layers.clear()
    person.until(lambda: open_projects.get(home) is None)
    shutil.rmtree(copy)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(home, moved / "work.flowrvs")
    shutil.move(folder, moved / "another name")
    dock.head.open_path(str(moved / "work.flowrvs"))
    person.rest()
    person.until(lambda: desk.project is not None and len(viewer.layers) == 2)
    project = desk.project
    assert project is not None and project.path == moved / "work.flowrvs"
    assert np.array_equal(project.object_mask(1, 0, FRAMES), masks)
    assert dock.head.source is not None and "another name" in str(dock.head.source.path)
    # What was done before the move can be undone after it.
    person.click(dock.footer.history.undo_button)
    person.rest()
    assert project.object_mask(1, FRAMES - 5, FRAMES).any()
    person.press("Ctrl+Shift+Z")
    person.rest()
    assert np.array_equal(project.object_mask(1, 0, FRAMES), masks)
    # Out, and in again.
    project.flush()
    path = str(project.path)
    viewer.layers.clear()
    person.until(lambda: open_projects.get(path) is None)
    out = tmp_path / "data"
    assert main(["export", path, "--to", str(out)]) == 0
    assert main(["check", str(out / "train")]) == 0
    dock.head.open_path(str(out / "train"))
    person.rest()
    person.until(lambda: len(viewer.layers) == 2)
    truth = next(layer for layer in viewer.layers if layer.name.endswith("truth"))
    assert np.array_equal(np.asarray(truth.data[10]) > 0, masks[10])
