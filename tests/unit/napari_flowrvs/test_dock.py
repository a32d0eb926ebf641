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
from napari.settings import get_settings
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSlider,
    QToolButton,
    QWidget,
)

from flowrvs.errors import CheckpointError, InputError, StorageError
from flowrvs.store import Project, Provenance
from napari_flowrvs.compare.panel import ComparePanel
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.importing.panel import ImportDialog
from napari_flowrvs.job import Failure, Phase
from napari_flowrvs.layers import layers_of
from napari_flowrvs.projects import open_projects
from napari_flowrvs.recent import Recent
from napari_flowrvs.widgets.keys import KEYS
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


def test_strokes_during_a_run_are_kept_and_can_be_undone(
    waiting: tuple[Any, SegmentDock], qtbot: Any, clip: Clip, gated: GatedSegmenter
) -> None:
    viewer, dock = waiting
    dock.find.sentences.set_texts(("red",))
    parts: list[Any] = []
    dock.session.segment.written.connect(lambda project, part: parts.append(part))
    dock.find.run()
    qtbot.waitUntil(lambda: "red" in viewer.layers, timeout=20_000)
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
    assert not dock.find.cancel_button.isEnabled()
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


@pytest.mark.parametrize("error", [RuntimeError("CUDA says no"), StorageError("The disk is full.")])
def test_an_error_is_one_line_with_a_traceback_behind_a_fold(
    opened: tuple[Any, SegmentDock], qtbot: Any, fake: ThresholdSegmenter, error: Exception
) -> None:
    _, dock = opened
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


def test_a_missing_sentence_is_asked_for(opened: tuple[Any, SegmentDock]) -> None:
    viewer, dock = opened
    dock.find.run()
    assert "no sentence" in dock.footer.problem.line.text()
    assert dock.footer.problem.fold.isHidden(), "nobody needs a traceback of that"
    dock.commands.run("range_all")
    assert dock.footer.problem.isHidden(), "something else was done"
    dock.footer.show_failure(Failure.of(InputError("The object has no key frame.")))
    assert dock.footer.problem.fold.isHidden(), "found out in a job, and refused all the same"
    dock.commands.run("range_all")
    assert dock.footer.problem.isHidden()
    dock.find.run()
    dock.footer.problem.close_button.click()
    assert dock.footer.problem.isHidden() and dock.find.offers.hint.isHidden()
    viewer.layers.clear()
    assert not dock.find.offers.hint.isHidden()
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    assert "no video" in dock.footer.problem.line.text()


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


def test_a_closed_dock_is_forgotten(make_dock: MakeDock, qtbot: Any) -> None:
    viewer, dock = make_dock()
    reference = weakref.ref(dock)
    viewer.window.remove_dock_widget(dock)
    del dock
    qtbot.wait(50)
    gc.collect()
    assert reference() is None


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


def test_a_narrowed_range_reaches_the_run(opened: tuple[Any, SegmentDock], qtbot: Any) -> None:
    viewer, dock = opened
    assert (dock.find.options.first.value, dock.find.options.last.value) == (0, 23)
    dock.find.options.first.value = 5
    dock.find.options.last.value = 9
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    found = np.asarray(viewer.layers["red"].data).any(axis=(1, 2))
    assert np.flatnonzero(found).tolist() == [5, 6, 7, 8, 9]


def test_sentences_are_remembered_for_the_next_session(
    make_dock: MakeDock, image_folder: Path, qtbot: Any, tmp_path: Path
) -> None:
    _, dock = make_dock()
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    dock.find.sentences.set_texts(("the red one", "green"))
    dock.find.run()
    finish(qtbot, dock)
    from napari_flowrvs.find.panel import SentencesPanel

    later = SentencesPanel(Recent(tmp_path / "memory.json"))
    qtbot.addWidget(later)
    later._fill_menu()
    assert [a.text() for a in later._menu.actions()][:2] == ["the red one", "green"]
    later._menu.actions()[1].trigger()
    later._menu.actions()[0].trigger()
    assert later.texts == ("green", "the red one")
    qtbot.keyClick(later.edit, Qt.Key.Key_Up, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClick(later.edit, Qt.Key.Key_Up, Qt.KeyboardModifier.ControlModifier)
    assert later.texts == ("green", "green")


def test_a_cluster_is_typed_in(make_dock: MakeDock) -> None:
    _, dock = make_dock()
    options = dock.find.options
    assert options.place() == "auto" and options.scheduler.isHidden()
    options.device.value = "a cluster"
    assert options.place() == "" and not options.scheduler.isHidden()
    options.scheduler.setText(" tls://gpu-server:8786 ")
    assert options.inputs(None, ("red",)).device == "tls://gpu-server:8786"
    options.device.value = "cpu"
    assert options.place() == "cpu" and options.scheduler.isHidden()


def test_which_frames_are_looked_at(opened: Any, qtbot: Any) -> None:
    viewer, dock = opened
    options = dock.find.options
    assert options.every.native.isHidden() and dock.find.inputs().look == "every frame"
    options.look.value = "some, then all"
    assert not options.every.native.isHidden()
    options.every.value, options.cuts.value = 7, False
    assert dock.find.inputs().frame == viewer.dims.current_step[0] == 11, "napari begins there"
    viewer.dims.set_current_step(0, 17)
    inputs = dock.find.inputs()
    assert (inputs.look, inputs.every, inputs.cuts) == ("some, then all", 7, False)
    assert inputs.frame == 17
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    assert dock.footer.progress.status.text() == "Done: 1 sentence, 24 frames each."


def test_everything_is_reached_by_keyboard(
    make_dock: MakeDock, image_folder: Path, qtbot: Any, gated: GatedSegmenter
) -> None:
    viewer, dock = make_dock(show=True, load=lambda model, device: gated)
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    window = viewer.window._qt_window
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow, timeout=5_000)
    dock.head.videos.native.setFocus()
    order = [dock.head.videos.native]
    for _ in range(20):
        qtbot.keyClick(dock.focusWidget() or order[-1], Qt.Key.Key_Tab)
        order.append(window.focusWidget())
    wanted = [
        dock.head.videos.native,
        dock.head.open_button,
        dock.find.sentences.edit,
        dock.find.sentences.history,
        dock.find.options.model,
        dock.find.options.model_button,
        dock.find.options.device.native,
        dock.find.options.first.native,
        dock.find.options.last.native,
        dock.find.options.look.native,
        dock.find.options.cuts.native,
        dock.find.options.steps.native,
        dock.find.options.project,
        dock.find.options.project_button,
        dock.find.run_button,
        dock.find.export_button,
    ]
    places = [next((i for i, w in enumerate(order) if w is want), None) for want in wanted]
    assert None not in places, [wanted[i] for i, p in enumerate(places) if p is None]
    assert places == sorted(places)
    qtbot.keyClicks(dock.find.sentences.edit, "red")
    qtbot.keyClick(dock.find.sentences.edit, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert dock.session.segment.job.busy
    qtbot.keyClick(dock.find.sentences.edit, Qt.Key.Key_Escape)
    assert dock.session.segment.job.phase is Phase.STOPPING
    finish(qtbot, dock)


def test_mnemonics_are_unique_and_lead_somewhere(make_dock: MakeDock) -> None:
    _, dock = make_dock()
    letters: list[str] = []
    for label in dock.findChildren(QLabel):
        if "&" in label.text():
            assert label.buddy() is not None, label.text()
            letters.append(label.text()[label.text().index("&") + 1].lower())
    for button in [*dock.findChildren(QPushButton), *dock.findChildren(QToolButton)]:
        if "&" in button.text():
            letters.append(button.text()[button.text().index("&") + 1].lower())
    assert len(letters) == len(set(letters)) >= 11
    assert not set(letters) & set("fvlpwh"), "these open napari's menus"
    assert not set(letters) & set("sc"), "these take napari's pictures of the canvas"
    ours = {each.key for group in KEYS.values() for each in group}
    assert not {f"Alt+{letter.upper()}" for letter in letters} & ours


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


def test_the_memory_mode_is_chosen_in_the_dock(
    make_dock: MakeDock, qtbot: Any, image_folder: Path
) -> None:
    seen: list[str] = []

    def load(model: str, device: str, memory: str = "auto") -> ThresholdSegmenter:
        seen.append(memory)
        fake = ThresholdSegmenter()
        fake.memory_line = f"Memory mode {memory}: about 4 GB."  # type: ignore[attr-defined]
        return fake

    _, dock = make_dock(load=load)
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    assert dock.find.options.estimate.isHidden()
    dock.find.options.memory.value = "low"
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    finish(qtbot, dock)
    assert seen == ["low"]
    assert dock.find.options.estimate.text() == "Memory mode low: about 4 GB."
    assert not dock.find.options.estimate.isHidden()
    dock.find.options.memory.value = "full"
    assert dock.find.options.estimate.isHidden(), "it was of another mode"


def test_letters_are_the_viewers_except_where_one_types(
    opened: tuple[Any, SegmentDock], qtbot: Any
) -> None:
    viewer, dock = opened
    dock.window().show()
    viewer.dims.set_current_step(0, 4)
    panel = dock.correct
    for widget in (panel.clean_scope, panel.first, panel.cut, panel.slider, dock.tabs.tabBar()):
        dock.session.desk.set_span(None, None)
        before = panel.clean_scope.currentIndex()
        qtbot.keyClick(widget, Qt.Key.Key_I)
        assert dock.session.desk.span == (4, 24), widget
        assert panel.clean_scope.currentIndex() == before
    dock.session.desk.set_span(None, None)
    for widget in (dock.find.sentences.edit, panel.sentence):
        qtbot.keyClicks(widget, "iiIaA")
    assert not dock.session.desk.span_chosen and dock.session.desk.project is None
    assert dock.find.sentences.texts == ("iiIaA",) and panel.sentence.text() == "iiIaA"
    panel.first.selectAll()
    qtbot.keyClicks(panel.first, "7")
    assert "7" in panel.first.text()
    dock.find.sentences.edit.setFocus()
    qtbot.keyClick(dock.find.sentences.edit, Qt.Key.Key_Escape)
    assert not dock.find.sentences.edit.hasFocus(), "Esc gives the keys to the viewer"


def test_every_part_of_the_form_has_a_name_and_a_tip(make_dock: MakeDock) -> None:
    _, dock = make_dock()
    kinds = (QAbstractButton, QComboBox, QAbstractSpinBox, QLineEdit, QPlainTextEdit, QSlider)
    buddies = [label.buddy() for label in dock.findChildren(QLabel)]
    for page in (dock.head, dock.find, dock.correct, dock.footer.problem):
        found = [each for kind in kinds for each in page.findChildren(kind)]
        assert found
        for each in found:
            inner = isinstance(each.parent(), QComboBox | QAbstractSpinBox)
            if inner or each.objectName().startswith("qt_"):
                continue
            text = each.text() if isinstance(each, QAbstractButton) else ""
            assert each.accessibleName() or text or each in buddies, each
            assert each.toolTip() or each is dock.find.models.stop, (each, each.accessibleName())


def test_a_long_line_does_not_make_the_window_higher(make_dock: MakeDock) -> None:
    _, dock = make_dock()
    before = dock.minimumSizeHint()
    dock.footer.progress.say("What to do next, and why, and what may come of it. " * 12)
    dock.footer.problem.show_failure(Failure("What went wrong. " * 40, "traceback"))
    assert dock.minimumSizeHint().height() < before.height() + 150
    assert dock.minimumSizeHint().width() == before.width() <= 300


def test_the_size_of_the_letters_is_followed(make_dock: MakeDock, qtbot: Any) -> None:
    _, dock = make_dock(show=True)
    appearance = get_settings().appearance
    before, height = appearance.font_size, dock.head.open_button.fontMetrics().height()
    width = dock.minimumSizeHint().width()
    try:
        appearance.font_size = before * 2
        qtbot.waitUntil(lambda: dock.head.open_button.fontMetrics().height() > height)
        assert dock.minimumSizeHint().width() > width, "nothing is cut off"
    finally:
        appearance.font_size = before


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


def test_it_fits_in_300_pixels(make_dock: MakeDock, qtbot: Any, image_folder: Path) -> None:
    _, dock = make_dock(show=True)
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    dock.setFixedWidth(300)
    dock.footer.problem.line.setText(
        "A long line about what went wrong, and where, and what to do " * 2
    )
    dock.footer.problem.show()
    dock.footer.problem.fold.set_open(True)
    qtbot.wait(100)
    inner = dock.find
    assert inner.width() <= 300
    for child in inner.findChildren(QWidget):
        if child.isVisible() and not dock.footer.problem.isAncestorOf(child) and child.width():
            if isinstance(child.parent(), QComboBox) or child.parent() is None:
                continue
            left = child.mapTo(inner, child.rect().topLeft()).x()
            assert left >= 0 and left + child.width() <= inner.width(), child
    for button in dock.findChildren(QPushButton):
        assert button.width() >= button.fontMetrics().horizontalAdvance(button.text()) * 0.9


def test_the_theme_is_followed(make_dock: MakeDock) -> None:
    viewer, dock = make_dock()
    dark = dock.styleSheet()
    viewer.theme = "light"
    assert dock.styleSheet() != dark
    viewer.theme = "dark"
    assert dock.styleSheet() == dark


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
