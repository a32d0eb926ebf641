from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from qtpy.QtCore import QTimer

from flowrvs.errors import CheckpointError, StorageError
from flowrvs.store import Project, Provenance
from napari_flowrvs import viewer as viewer_module
from napari_flowrvs.compare.panel import ComparePanel
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.importing.panel import ImportDialog
from napari_flowrvs.job import Phase
from napari_flowrvs.layers import layers_of
from napari_flowrvs.projects import open_projects
from napari_flowrvs.recent import Recent
from tests.fixtures.segmenters import ThresholdSegmenter
from tests.unit.napari_flowrvs.conftest import GatedSegmenter, MakeDock, finish, make_clip

Clip = npt.NDArray[np.uint8]
Load = Callable[[str, str], ThresholdSegmenter]


def test_sentences_become_labels_layers(
    opened: tuple[Any, SegmentDock], qtbot: Any, clip: Clip, image_folder: Path
) -> None:
    viewer, dock = opened
    dock.find.sentences.set_texts(("the red square", "the green square"))
    dock.find.run_button.click()
    assert not dock.find.run_button.isEnabled() and dock.find.cancel_button.isEnabled()
    finish(qtbot, dock)
    assert [layer.name for layer in viewer.layers][1:] == ["the red square", "the green square"]
    red, green = viewer.layers[1:]
    assert np.array_equal(np.asarray(red.data) > 0, clip[..., 0] > 150)
    assert np.array_equal(np.asarray(green.data) > 0, clip[..., 1] > 150)
    assert viewer.layers.selection.active is red
    assert (red.selected_label, green.selected_label) == (1, 2)
    assert dock.footer.progress.status.text() == "Done: 2 sentences, 24 frames each."
    assert not dock.footer.problem.line.text()
    assert image_folder.with_name("squares.flowrvs").is_dir()
    assert dock.find.run_button.isEnabled() and not dock.find.cancel_button.isEnabled()


def test_masks_are_shown_while_later_windows_are_computed(
    waiting: tuple[Any, SegmentDock], qtbot: Any, gated: GatedSegmenter
) -> None:
    viewer, dock = waiting
    viewer.dims.set_current_step(0, 2)
    dock.find.sentences.set_texts(("red",))
    seen: list[Any] = []
    dock.session.segment.written.connect(lambda project, part: seen.append(part))
    dock.find.run()
    qtbot.waitUntil(lambda: "red" in viewer.layers, timeout=20_000)
    layer = viewer.layers["red"]
    assert not layer._slice.image.raw.any()
    drawn: list[int] = []
    layer.events.set_data.connect(lambda event: drawn.append(len(seen)))
    gated.allow(1)
    qtbot.waitUntil(lambda: len(seen) == 1, timeout=20_000)
    assert dock.session.segment.job.busy
    assert layer._slice.image.raw.any(), "frame 2 is drawn already"
    times = len(drawn)
    gated.allow()
    finish(qtbot, dock)
    assert len(seen) > 2
    assert len(drawn) == times, "later windows do not hold frame 2: nothing is drawn again"


def test_a_runs_layer_is_made_and_added_in_turns_of_their_own(
    opened: tuple[Any, SegmentDock], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, dock = opened
    turn = [0]
    seen: dict[str, int] = {}
    timer = QTimer()
    timer.timeout.connect(lambda: turn.__setitem__(0, turn[0] + 1))
    timer.start(0)
    made = viewer_module.make_layer

    def make(layer: Any) -> Any:
        seen["made"] = turn[0]
        return made(layer)

    monkeypatch.setattr(viewer_module, "make_layer", make)
    dock.session.segment.prompted.connect(lambda *_: seen.setdefault("prompted", turn[0]))
    viewer.layers.events.inserted.connect(lambda _event: seen.setdefault("added", turn[0]))
    dock.session.desk.project_changed.connect(lambda _: seen.setdefault("chosen", turn[0]))
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    timer.stop()
    assert seen["prompted"] < seen["made"] < seen["added"] < seen["chosen"]
    assert viewer.layers.selection.active is viewer.layers["red"]


def test_strokes_during_a_run_are_kept_and_can_be_undone(
    waiting: tuple[Any, SegmentDock], qtbot: Any, clip: Clip, gated: GatedSegmenter
) -> None:
    viewer, dock = waiting
    dock.find.sentences.set_texts(("red",))
    parts: list[Any] = []
    dock.session.segment.written.connect(lambda project, part: parts.append(part))
    dock.find.run()
    qtbot.waitUntil(lambda: dock.session.desk.project is not None, timeout=20_000)
    layer = viewer.layers["red"]
    layer.brush_size = 6
    painted: dict[int, npt.NDArray[np.uint16]] = {}
    # Frames the job has yet to write; it writes others of the same layer in between.
    for frame in (22, 19, 16):
        viewer.dims.set_current_step(0, frame)
        layer.paint((frame, 35, 5), 1)
        layer.paint((frame, 30, 20), 1)
        layer.undo()
        painted[frame] = np.asarray(layer.data[frame]).copy()
        if frame > 16:
            before = len(parts)
            gated.allow(1)
            qtbot.waitUntil(lambda n=before: len(parts) > n, timeout=20_000)
    viewer.dims.set_current_step(0, 23)
    layer.fill((23, 2, 2), 1)
    assert dock.session.segment.job.busy
    # And one that the model has written: erased by hand, it stays erased.
    layer.paint((2, 8, 4), 0)
    corrected = np.asarray(layer.data[2]).copy()
    gated.allow()
    finish(qtbot, dock)
    for frame, labels in painted.items():
        assert labels.any() and np.array_equal(layer.data[frame], labels)
        assert not labels[30, 20], "the second stamp was undone"
    assert layer.data[23].all(), "the whole empty frame was filled"
    touched = {2, 23, *painted}
    free = [t for t in range(24) if t not in touched]
    assert np.array_equal(layer.data[free] > 0, clip[free][..., 0] > 150)
    dock.find.options.steps.value = 2  # other settings: every window is computed again
    dock.find.run()
    finish(qtbot, dock)
    assert np.array_equal(layer.data[2], corrected)
    assert not corrected[8, 4] and corrected.any()


def test_cancel_stops_within_a_step_and_keeps_finished_windows(
    waiting: tuple[Any, SegmentDock], qtbot: Any, gated: GatedSegmenter, clip: Clip
) -> None:
    viewer, dock = waiting
    dock.find.sentences.set_texts(("red", "green"))
    parts: list[Any] = []
    dock.session.segment.written.connect(lambda project, part: parts.append(part))
    dock.find.run()
    gated.allow(1)
    qtbot.waitUntil(lambda: len(parts) == 2, timeout=20_000)
    dock.find.cancel_button.click()
    assert dock.session.segment.job.phase is Phase.STOPPING
    dock.find.cancel_button.click()  # once more, which changes nothing
    assert dock.footer.progress.status.text() == "Stopping at the end of this step"
    finish(qtbot, dock)
    assert dock.footer.progress.status.text().startswith("Stopped.")
    assert not dock.footer.problem.line.text()
    stop = max(part.stop for part in parts)
    assert stop < len(clip)
    assert not np.asarray(viewer.layers["red"].data[stop:]).any()
    gated.allow()
    dock.find.run()
    finish(qtbot, dock)
    assert np.array_equal(np.asarray(viewer.layers["red"].data) > 0, clip[..., 0] > 150)
    assert min(part.start for part in parts[2:]) == stop, "finished windows are not repeated"


@pytest.mark.parametrize(
    ("error", "layers_take"),
    [(RuntimeError("CUDA says no"), 0), (StorageError("The disk is full."), 50)],
)
def test_an_error_is_one_line_with_a_traceback_behind_a_fold(
    opened: tuple[Any, SegmentDock],
    qtbot: Any,
    fake: ThresholdSegmenter,
    error: Exception,
    layers_take: int,
) -> None:
    _, dock = opened
    dock.link._next.setInterval(layers_take)  # the error may come before the layer and its project
    fake.fail_at, fake.error = 1, error
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    assert not dock.footer.problem.isHidden()
    assert str(error) in dock.footer.problem.line.text()
    dock.commands.run("range_all")
    assert not dock.footer.problem.isHidden(), "what failed stays until it is dismissed"
    assert "\n" not in dock.footer.problem.line.text()
    assert "Traceback" in dock.footer.problem.details.toPlainText()
    assert dock.footer.problem.details.isHidden()
    dock.footer.problem.fold.button.click()
    assert not dock.footer.problem.details.isHidden()
    assert dock.find.run_button.isEnabled()
    fake.fail_at = None
    dock.find.run()
    finish(qtbot, dock)
    assert dock.footer.problem.isHidden()
    assert dock.footer.progress.status.text().startswith("Done")


def test_loading_a_model_does_not_stop_the_interface(
    make_dock: MakeDock, qtbot: Any, image_folder: Path
) -> None:
    release = threading.Event()

    def slow(model: str, device: str) -> ThresholdSegmenter:
        assert threading.current_thread() is not threading.main_thread()
        release.wait(20)
        raise CheckpointError("no such model")

    _, dock = make_dock(load=slow)
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    ticks: list[int] = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(10)
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    qtbot.waitUntil(
        lambda: "Loading the model tiny" in dock.footer.progress.status.text(), timeout=9_000
    )
    before = len(ticks)
    qtbot.wait(300)
    assert len(ticks) - before >= 10
    release.set()
    finish(qtbot, dock)
    timer.stop()
    assert dock.footer.problem.line.text() == "no such model"


@pytest.mark.usefixtures("make_napari_viewer")
def test_closing_the_dock_stops_the_run_and_saves(
    waiting: tuple[Any, SegmentDock], qtbot: Any
) -> None:
    viewer, dock = waiting
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    qtbot.waitUntil(lambda: "red" in viewer.layers, timeout=20_000)
    layer = viewer.layers["red"]
    layer.paint((20, 20, 20), 1)
    viewer.window.remove_dock_widget(dock)
    assert not dock.session.segment.job.busy
    assert not [t for t in threading.enumerate() if t.name == "flowrvs"]
    project = dock.session.segment.project
    assert project is not None and project.unsaved == 0
    layer.paint((21, 20, 20), 1)
    assert layer.data[21, 20, 20] == 1, "the layer can still be edited"


@pytest.mark.usefixtures("make_napari_viewer")
def test_closing_the_viewer_stops_the_run_and_lets_the_project_go(
    waiting: tuple[Any, SegmentDock], qtbot: Any, image_folder: Path
) -> None:
    viewer, dock = waiting
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    qtbot.waitUntil(lambda: "red" in viewer.layers, timeout=20_000)
    viewer.layers["red"].paint((20, 20, 20), 1)
    path = image_folder.with_name("squares.flowrvs")
    del dock
    viewer.close()
    qtbot.waitUntil(lambda: open_projects.get(path) is None, timeout=10_000)
    assert not [t for t in threading.enumerate() if t.name == "flowrvs"]
    with Project.open(path) as again:
        assert again.labels(1)[20, 20, 20] == 1


@pytest.mark.usefixtures("make_napari_viewer")
def test_a_closed_dock_is_forgotten(make_dock: MakeDock, qtbot: Any) -> None:
    viewer, dock = make_dock()
    reference = weakref.ref(dock)
    viewer.window.remove_dock_widget(dock)
    del dock
    qtbot.wait(50)
    gc.collect()
    assert reference() is None


def test_what_was_put_off_comes_past_a_failure(opened: tuple[Any, SegmentDock], qtbot: Any) -> None:
    _, dock = opened
    came: list[str] = []

    def fail() -> None:
        raise StorageError("the disk is away")

    with qtbot.captureExceptions() as failures:
        dock.link.soon(fail)
        dock.link.soon(lambda: came.append("the next layer"))
        qtbot.waitUntil(lambda: not dock.link.waiting, timeout=2_000)
    assert came == ["the next layer"] and [kind for kind, *_ in failures] == [StorageError]


def test_a_viewer_is_emptied_after_its_dock_has_gone(
    make_napari_viewer: Callable[..., Any],
    qtbot: Any,
    image_folder: Path,
    load: Load,
    tmp_path: Path,
) -> None:
    """A window that a person closes takes the dock along, and the viewer lives on in Python."""
    viewer = make_napari_viewer()
    dock = SegmentDock(viewer, load=load, recent=Recent(tmp_path / "memory.json"))
    viewer.window.add_dock_widget(dock, name="Segment")
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    dock.find.draw()
    finish(qtbot, dock)
    link, correct = dock.link, dock.session.correct
    project = dock.session.desk.project
    for t in (0, 4):
        project.labels(1)[t, 6:16, t : t + 10] = 1
    correct.interpolate()
    qtbot.waitUntil(lambda: not correct.job.busy, timeout=20_000)
    assert correct.preview is not None
    link.soon(lambda: dock.find.offers.refresh())
    gone: list[object] = []
    dock.destroyed.connect(gone.append)
    dock.deleteLater()
    qtbot.waitUntil(lambda: bool(gone))
    qtbot.wait(20)
    viewer.layers.selection.active = viewer.layers[0]
    viewer.layers.clear()
    assert not link.waiting and dock.session.desk.project is not None
    assert correct.waiting is None and open_projects.get(project.path) is None


def test_the_list_of_videos_follows_the_viewer(make_dock: MakeDock, clip: Clip) -> None:
    viewer, dock = make_dock()
    assert dock.head.source is None
    viewer.add_image(clip[0], rgb=True, name="picture")
    assert dock.head.source is None
    one = viewer.add_image(clip, rgb=True, name="one")
    assert dock.head.source.name == "one"
    viewer.add_image(clip[:7], rgb=True, name="two")
    assert dock.head.source.name == "two", "what was opened on top is what is seen"
    viewer.layers.selection.active = one
    assert dock.head.source.name == "one" and dock.find.options.last.value == 23
    one.name = "first"
    combo = dock.head.videos.native
    assert [combo.itemText(i) for i in range(combo.count())] == ["two", "first"]
    viewer.layers.remove(one)
    assert dock.head.source.name == "two"
    assert dock.find.options.last.value == 6
    assert dock.correct.last.value() == 6, "without a project, too"


def test_drawing_begins_without_a_model(
    make_dock: MakeDock, qtbot: Any, image_folder: Path
) -> None:
    def load(model: str, device: str) -> ThresholdSegmenter:
        raise CheckpointError("there are no weights")

    viewer, dock = make_dock(load=load)
    dock.find.draw_button.click()
    assert "no video" in dock.footer.problem.line.text()
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    assert dock.footer.problem.isHidden()
    alien = viewer.add_labels(np.zeros((24, 40, 60), np.uint8), name="mine")
    assert "'mine' is not part of a project" in dock.footer.progress.status.text()
    viewer.layers.remove(alien)
    dock.find.draw_button.click()
    finish(qtbot, dock)
    layer = viewer.layers.selection.active
    assert layer.name == "object 1" and layer.mode == "paint" and layer.selected_label == 1
    assert "Draw “object 1” here" in dock.footer.progress.status.text()
    viewer.dims.set_current_step(0, 3)
    layer.paint((3, 10, 10), 1)
    assert dock.session.desk.provenance()[3] == Provenance.HUMAN
    dock.find.sentences.set_texts(("the red square",))
    dock.find.draw_button.click()
    finish(qtbot, dock)
    assert viewer.layers.selection.active.name == "the red square"
    assert dock.session.desk.object_id == 2 and dock.footer.problem.isHidden()
    assert [e.text for e in dock.session.desk.project.expressions.values()] == ["the red square"]


def test_what_a_project_notices_is_told_once(
    opened: tuple[Any, SegmentDock], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dock = opened
    dock.find.draw_button.click()
    finish(qtbot, dock)
    monkeypatch.setattr(Project, "confidence_notice", "Confidence is not kept any more: why.")
    dock.watch.check()
    assert dock.footer.problem.line.text().startswith("squares.flowrvs: Confidence")
    dock.footer.problem.close_button.click()
    dock.watch.check()
    assert dock.footer.problem.isHidden()


def test_removing_the_layers_closes_the_project(
    opened: tuple[Any, SegmentDock], qtbot: Any, image_folder: Path
) -> None:
    viewer, dock = opened
    dock.find.sentences.set_texts(("red", "green"))
    dock.find.run()
    finish(qtbot, dock)
    path = image_folder.with_name("squares.flowrvs")
    viewer.layers.remove("red")
    assert open_projects.get(path) is not None
    viewer.layers.remove("green")
    qtbot.waitUntil(lambda: open_projects.get(path) is None, timeout=5_000)
    dock.find.run()
    finish(qtbot, dock)
    assert "red" in viewer.layers and np.asarray(viewer.layers["red"].data).any()


def test_a_new_value_becomes_an_object_with_its_colour(
    opened: tuple[Any, SegmentDock], qtbot: Any
) -> None:
    viewer, dock = opened
    dock.find.sentences.set_texts(("red", "green"))
    dock.find.run()
    finish(qtbot, dock)
    layer = viewer.layers["red"]
    keys = type(layer).class_keymap
    keys[next(key for key in keys if str(key) == "M")](layer)
    assert layer.selected_label == 3, "1 is red, 2 is green"
    viewer.dims.set_current_step(0, 4)
    layer.paint((4, 30, 30), layer.selected_label)
    assert dock.session.segment.project.objects[3].layer == 1
    color = dock.session.segment.project.objects[3].color
    assert np.allclose(layer.get_color(3)[:3], color)
    assert layer.selected_label == 3


def test_sample_data_and_arrays_run_too(make_dock: MakeDock, qtbot: Any, tmp_path: Path) -> None:
    viewer, dock = make_dock()
    viewer.add_image(make_clip(), rgb=True, name="in memory", scale=(1, 2, 2))
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    layer = viewer.layers["red"]
    assert tuple(layer.scale) == (1, 2, 2)
    home = Path(layer.metadata["flowrvs"]["project"])
    assert home.is_relative_to(tmp_path) and home.name.startswith("in-memory-")


def test_opening_happens_away_from_the_interface(
    make_dock: MakeDock, qtbot: Any, image_folder: Path, tmp_path: Path
) -> None:
    viewer, dock = make_dock()
    dock.head.open_path(str(image_folder))
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=10_000)
    assert dock.head.source.path == str(image_folder)
    qtbot.waitUntil(lambda: not dock.session.opener.job.busy, timeout=10_000)
    dock.head.open_path(str(tmp_path / "gone.mp4"))
    qtbot.waitUntil(lambda: not dock.session.opener.job.busy, timeout=10_000)
    assert "gone.mp4" in dock.footer.problem.line.text()


def test_reopening_shows_project_and_runs_on(
    make_dock: MakeDock, qtbot: Any, image_folder: Path
) -> None:
    viewer, dock = make_dock()
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    viewer.layers.clear()
    dock.head.open_path(str(image_folder.with_name("squares.flowrvs")))
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
    qtbot.waitUntil(lambda: not dock.session.opener.job.busy, timeout=10_000)
    dock.find.run()
    finish(qtbot, dock)
    assert dock.footer.progress.status.text() == "Everything was finished already."
    assert [layer.name for layer in viewer.layers] == ["squares", "red"]


def test_a_project_from_elsewhere_goes_on_being_used(
    make_dock: MakeDock, qtbot: Any, image_folder: Path, tmp_path: Path
) -> None:
    viewer, dock = make_dock()
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    elsewhere = tmp_path / "results" / "mine.flowrvs"
    dock.find.options.project.setText(str(elsewhere))
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    assert elsewhere.is_dir()
    viewer.layers.clear()
    assert dock.find.options.project.text() == "", "it belonged to the other video"
    dock.head.open_path(str(elsewhere))
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)
    qtbot.waitUntil(lambda: not dock.session.opener.job.busy, timeout=10_000)
    dock.find.sentences.set_texts(("green",))
    dock.find.run()
    finish(qtbot, dock)
    assert [layer.name for layer in viewer.layers] == ["squares", "red", "green"]
    assert not image_folder.with_name("squares.flowrvs").exists()


def test_strokes_that_cannot_be_written_are_told_once(
    opened: tuple[Any, SegmentDock], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dock = opened
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    dock.watch.check()
    assert dock.footer.problem.isHidden()
    error = StorageError("The disk is full: free some space.")
    monkeypatch.setattr(Project, "storage_error", property(lambda self: error))
    dock.watch.check()
    assert dock.footer.problem.line.text() == str(error)
    dock.footer.problem.clear()
    dock.watch.check()
    assert dock.footer.problem.isHidden()


@pytest.mark.usefixtures("make_napari_viewer")
def test_datasets_and_comparisons_are_opened_from_the_dock(make_dock: MakeDock, qtbot: Any) -> None:
    viewer, dock = make_dock()
    action = next(a for a in dock.head.menu.actions() if "correct a dataset" in a.text())
    action.trigger()
    (dialog,) = viewer.window._qt_window.findChildren(ImportDialog)
    dialog.reject()
    dock.find.compare_button.click()
    dock.find.compare_button.click()
    panels = viewer.window._qt_window.findChildren(ComparePanel)
    assert len(panels) == 1, "a second click shows the same one"
    panels[0].close_all()
