"""The pages as forms: what they hold, their keys, their size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from napari.settings import get_settings
from qtpy.QtCore import Qt
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

from flowrvs.errors import InputError
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.find.panel import OptionsPanel, SentencesPanel
from napari_flowrvs.find.presenter import EVERY, SegmentInputs
from napari_flowrvs.job import Failure, Phase
from napari_flowrvs.layers import layers_of
from napari_flowrvs.recent import Recent
from napari_flowrvs.source import VideoSource
from napari_flowrvs.widgets.keys import KEYS
from tests.fixtures.segmenters import ThresholdSegmenter
from tests.unit.napari_flowrvs.conftest import GatedSegmenter, MakeDock, finish

Clip = npt.NDArray[np.uint8]
Load = Callable[[str, str], ThresholdSegmenter]


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


def test_a_spread_goes_to_the_cluster_where_one_is_chosen(opened: Any, qtbot: Any) -> None:
    viewer, dock = opened
    dock.find.draw()
    finish(qtbot, dock)
    options, correct = dock.find.options, dock.correct
    viewer.layers[-1].data[3, 6:16, 3:13] = 1
    assert correct.away.isHidden()
    options.device.value = "a cluster"
    assert not correct.away.isHidden() and not correct.away.isChecked()
    correct.away.setChecked(True)
    dock.commands.run("spread")
    assert dock.footer.problem.line.text().startswith("There is no cluster: type its scheduler's")
    options.scheduler.setText("tcp://192.0.2.1:8786")
    dock.commands.run("spread")
    qtbot.waitUntil(lambda: not correct.presenter.job.busy, timeout=20_000)
    assert "tcp://192.0.2.1:8786 is not encrypted" in dock.footer.problem.line.text()
    options.device.value = "cpu"
    assert correct.away.isHidden()
    dock.commands.run("spread")
    qtbot.waitUntil(lambda: not correct.presenter.job.busy, timeout=20_000)
    assert correct.presenter.preview is not None and dock.footer.problem.isHidden()


def test_what_a_step_was_about_is_said_until_the_next_one(opened: Any, qtbot: Any) -> None:
    viewer, dock = opened
    dock.find.draw()
    finish(qtbot, dock)
    line, layer = dock.footer.progress.status, viewer.layers[-1]
    layer.paint((2, 10, 10), 1)
    dock.commands.run("undo")
    said = "Undone: brush stroke on 'object 1', frame 2"
    qtbot.waitUntil(lambda: line.text() == said)
    qtbot.wait(100)  # the history tells of itself later
    assert line.text() == said
    layer.paint((3, 10, 10), 1)
    qtbot.waitUntil(lambda: line.text() == "")


def test_the_page_pick_says_whose_mask_it_becomes(opened: Any, qtbot: Any) -> None:
    _, dock = opened
    page = dock.pick
    assert page.about.text() == "no object is chosen"
    dock.find.sentences.set_texts(("the red square",))
    dock.find.draw()
    finish(qtbot, dock)
    assert page.about.text() == "object 1: the red square" and page.rule.isEnabled()
    for index, text, ruled in ((1, "a new object", False), (0, "object 1: the red square", True)):
        page.target.setCurrentIndex(index)
        page.target.activated.emit(index)
        assert page.about.text() == text and page.rule.isEnabled() is ruled


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


@pytest.mark.usefixtures("make_napari_viewer")
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


@pytest.mark.usefixtures("make_napari_viewer")
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


@pytest.mark.usefixtures("make_napari_viewer")
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


@pytest.mark.usefixtures("make_napari_viewer")
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


def test_a_range_is_kept_where_it_fits(qtbot: Any, tmp_path: Path) -> None:
    panel = OptionsPanel(Recent(tmp_path / "memory.json"))
    qtbot.addWidget(panel)
    first = VideoSource("a", 20, "/v/a.b.mp4")
    array = VideoSource("my clip", 10, None, np.zeros((10, 2, 2)))

    def asked(source: VideoSource | None) -> tuple[Any, ...]:
        inputs = panel.inputs(source, ("red",))
        return inputs.start, inputs.stop, inputs.project

    panel.set_video(first)
    assert asked(first) == (0, None, None) and panel.last.max == 19
    panel.first.value, panel.last.value = 3, 8
    panel.project.setText(" /x/y.flowrvs ")
    panel.set_video(first)
    assert asked(first) == (3, 9, "/x/y.flowrvs")
    panel.set_video(array)
    assert asked(array) == (3, 9, None), "a folder chosen for one video is not another's"
    assert panel.project.placeholderText() == "in your data folder"
    panel.set_video(VideoSource("c", 9, "/v/c.mp4"))
    assert asked(None)[:2] == (3, 9)
    panel.set_video(VideoSource("c", 8, "/v/c.mp4"))
    assert asked(None)[:2] == (0, None) and (panel.first.value, panel.last.value) == (0, 7)
    panel.first.value = 7
    panel.last.value = 2
    assert (panel.first.value, panel.last.value) == (7, 7) and asked(None)[:2] == (7, 8)
    panel.first.value = 0
    assert asked(None)[:2] == (0, None), "it is all of it again"
    for folder, source, wanted in (
        (tmp_path, first, tmp_path / "a.b.flowrvs"),
        (tmp_path, array, tmp_path / "my clip.flowrvs"),
        (tmp_path / "new", first, tmp_path / "new"),
    ):
        panel.project.setText(str(folder))
        assert panel.project_path(source) == str(wanted)
    panel.set_video(None)
    assert (panel.first.max, panel.last.max) == (0, 0) and panel.project.text() == ""
    panel.device.value, panel.memory.value, panel.look.value = "cpu", "low", EVERY
    panel.steps.value, panel.every.value, panel.cuts.value = 4, 7, False
    panel.model.setEditText(" mine ")
    wanted = SegmentInputs(
        video=None,
        texts=("red",),
        model="mine",
        device="cpu",
        start=0,
        stop=None,
        steps=4,
        project=None,
        memory="low",
        look=EVERY,
        every=7,
        cuts=False,
    )
    assert panel.inputs(None, ("red",)) == wanted
    panel.remember()
    assert Recent(tmp_path / "memory.json").models == ("mine",)
    assert panel.model.findText("mine") >= 0


def test_sentences_are_brought_back_and_offered(qtbot: Any, tmp_path: Path) -> None:
    recent = Recent(tmp_path / "memory.json")
    panel = SentencesPanel(recent)
    qtbot.addWidget(panel)
    control, up, down = Qt.KeyboardModifier.ControlModifier, Qt.Key.Key_Up, Qt.Key.Key_Down
    qtbot.keyClick(panel.edit, up, control)
    assert panel.texts == (), "there are none yet"
    panel.suggest(("of the sample", "old"))
    panel.remember(("new", "old"))
    seen = []
    for key in (up, up, up, up, down, down, down, down):
        qtbot.keyClick(panel.edit, key, control)
        seen.append(panel.edit.toPlainText())
    assert seen == ["of the sample", "old", "new", "new", "old", "of the sample", "", ""]
    asked: list[int] = []
    panel.run_requested.connect(lambda: asked.append(1))
    for key, modifier in ((Qt.Key.Key_Return, control), (Qt.Key.Key_Enter, control)):
        qtbot.keyClick(panel.edit, key, modifier)
    qtbot.keyClick(panel.edit, Qt.Key.Key_Return)
    assert len(asked) == 2 and panel.edit.toPlainText() == "\n"
    panel.insert("a cat")
    panel.insert("a cat")
    panel.insert("a dog")
    assert panel.texts == ("a cat", "a dog")
    panel.offer(("of a project",))
    assert panel.texts == ("a cat", "a dog"), "a person has typed these"
    panel.set_texts(())
    panel.offer(("of a project",))
    panel.offer(("of another one",))
    assert panel.texts == ("of another one",)
    panel._fill_menu()
    actions = panel._menu.actions()
    assert [a.text() for a in actions] == ["of the sample", "old", "new", "", "forget all"]
    actions[-1].trigger()
    assert recent.sentences == ()
