"""The tables of objects and sentences: the presenter, then the page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QLineEdit

from flowrvs.errors import InputError
from flowrvs.records import VideoInfo
from flowrvs.store import ObjectCounts, Project, Provenance
from flowrvs.store.surgery import _Staged as Staged
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Desk
from napari_flowrvs.footer import Footer
from napari_flowrvs.objects.panel import ObjectsPanel
from napari_flowrvs.objects.presenter import ObjectsPresenter
from napari_flowrvs.objects.tables import _words
from napari_flowrvs.session import Session
from napari_flowrvs.steps import Steps
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import Commands
from napari_flowrvs.widgets.parts import plain
from napari_flowrvs.worker import run_in_thread


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Two prompts of ten frames, the first drawn by a model on eight of them."""
    with Project.create(tmp_path / "clip", VideoInfo(None, "array", 10, 6, 8)) as made:
        _, cat = made.add_prompt("the cat")
        made.add_prompt("the dog")
        made.write_model(cat.layer, cat.id, 0, np.ones((8, 6, 8), bool))
        yield made


@pytest.fixture
def presenter(project: Project) -> ObjectsPresenter:
    desk = Desk()
    presenter = ObjectsPresenter(desk)
    desk.set_project(project)
    return presenter


def attempt(action: Callable[[], object]) -> bool:
    action()
    return True


def test_rows_say_what_there_is(presenter: ObjectsPresenter, project: Project) -> None:
    cat, dog = presenter.objects()
    assert (cat.id, cat.name, cat.layer) == (1, "the cat", "the cat")
    assert (cat.frames.model, cat.frames.empty, dog.frames.empty) == (8, 2, 10)
    project.lock_frames(1, 0, 4)
    assert presenter.objects()[0].frames.locked == 0, "nobody has said so yet"
    presenter.desk.touched(1, 0, 4)
    assert presenter.objects()[0].frames.locked == 4
    first, second = presenter.expressions()
    assert (first.text, first.objects, first.checked, first.total) == ("the cat", "1", 4, 10)
    assert second.objects == "2"


def test_a_sentence_may_mean_several_objects_or_none(
    presenter: ObjectsPresenter, project: Project
) -> None:
    presenter.set_meant(2, True)
    assert not any(row.meant for row in presenter.objects()), "no sentence is chosen"
    presenter.choose_expression("0")
    presenter.set_meant(2, True)
    assert [row.meant for row in presenter.objects()] == [True, True]
    assert presenter.expressions()[0].objects == "1 + 2"
    assert presenter.expressions()[0].total == 20, "frames of both"
    presenter.set_meant(1, False)
    presenter.set_meant(2, False)
    assert presenter.expressions()[0].objects == "none"
    assert project.expressions["0"].object_ids == frozenset()


def test_objects_are_added_renamed_and_recoloured(
    presenter: ObjectsPresenter, project: Project
) -> None:
    heard: list[int] = []
    presenter.desk.catalog_changed.connect(lambda: heard.append(1))
    made = presenter.add()
    assert (made.id, made.layer) == (3, 1) and presenter.desk.object_id == 3
    presenter.rename(3, "  a bird ")
    presenter.rename(3, "   ")
    presenter.recolor(3, (1, 0, 0))
    assert project.objects[3].name == "a bird" and project.objects[3].color == (1, 0, 0)
    presenter.add_expression("the bird that sings")
    assert presenter.expressions()[-1].object_ids == {3}
    presenter.remove_expression()
    assert len(presenter.expressions()) == 2 and len(heard) == 5


@pytest.mark.parametrize(
    ("act", "wanted"),
    [
        ("lock", Provenance.LOCKED),
        ("unlock", Provenance.HUMAN),
        ("release", Provenance.MODEL),
        ("absent", Provenance.HUMAN),
    ],
)
def test_what_is_done_on_a_range_is_done_on_all_of_it_and_no_more(
    presenter: ObjectsPresenter, project: Project, act: str, wanted: Provenance
) -> None:
    if act in ("unlock", "release"):
        project.lock_frames(1, 0, 8)
        before = Provenance.LOCKED
    else:
        before = Provenance.MODEL
    if act == "release":
        project.unlock_frames(1, 0, 8)
        before = Provenance.HUMAN
    # As the keys I on frame 3 and Shift+I on frame 6 do.
    presenter.desk.set_span(3, None)
    presenter.desk.set_span(None, 6 + 1)
    getattr(presenter, act)()
    assert project.provenance(1)[:8].tolist() == [before] * 3 + [wanted] * 4 + [before]
    shown = project.object_mask(1, 0, 8).any(axis=(1, 2))
    assert shown.tolist() == [True] * 3 + [act != "absent"] * 4 + [True]


def test_an_object_begins_and_ends_on_the_frame_that_is_shown(
    presenter: ObjectsPresenter, project: Project
) -> None:
    told: list[tuple[int | None, int, int]] = []
    presenter.desk.contents_changed.connect(
        lambda change: told.append((change.layer_id, change.start, change.stop))
    )
    presenter.desk.set_frame(2)
    presenter.start_here()
    presenter.desk.set_frame(5)
    presenter.end_here()
    assert told == [(1, 0, 2), (1, 6, 10)], "what shows these frames draws them again"
    shown = project.object_mask(1, 0, 10).any(axis=(1, 2))
    assert np.flatnonzero(shown).tolist() == [2, 3, 4, 5]


def test_others_are_cut_where_an_object_is(presenter: ObjectsPresenter, project: Project) -> None:
    dog = project.objects[2]
    for t in (2, 3, 7):
        project.labels(dog.layer)[t, 1:3, 1:5] = dog.id
    presenter.desk.set_object(2)
    presenter.desk.set_span(2, 4)
    steps = len(project.history.steps)
    presenter.cut_others()
    wanted = np.ones((10, 6, 8), bool)
    wanted[8:] = False
    wanted[2:4, 1:3, 1:5] = False
    assert np.array_equal(project.object_mask(1, 0, 10), wanted), "frame 7 is not in the range"
    assert project.object_mask(2, 2, 4)[:, 1:3, 1:5].all(), "it does not cut itself"
    assert project.provenance(1)[[2, 3]].tolist() == [Provenance.HUMAN] * 2
    assert len(project.history.steps) == steps + 1
    failed: list[Any] = []
    presenter.steps.job.failed.connect(failed.append)
    presenter.cut_others()
    assert failed[0].summary == "Nothing lies over 'the dog' on frames 2 to 3."
    project.undo()
    assert project.object_mask(1, 0, 8).all()


def test_who_must_draw_again_is_told(presenter: ObjectsPresenter, project: Project) -> None:
    """Swapping, merging and deleting: the right masks, and the layers and frames that changed."""
    told: list[tuple[int | None, int, int]] = []
    heard: list[int] = []
    desk = presenter.desk
    desk.contents_changed.connect(lambda c: told.append((c.layer_id, c.start, c.stop)))
    desk.catalog_changed.connect(lambda: heard.append(1))

    def done(act: Callable[[], object]) -> list[tuple[int | None, int, int]]:
        told.clear()
        heard.clear()
        act()
        assert len(heard) == 1
        return sorted(told)  # type: ignore[type-var]

    drawn = np.zeros((10, 6, 8), bool)
    drawn[2:, 1:3, 1:4] = True
    project.write_masks(2, 0, drawn)
    cat, dog = (project.object_mask(i, 0, 10) for i in (1, 2))
    desk.set_frame(3)
    assert done(lambda: presenter.swap(2)) == [(1, 3, 10), (2, 3, 10)]
    for object_id, (first, then) in ((1, (cat, dog)), (2, (dog, cat))):
        found = project.object_mask(object_id, 0, 10)
        assert np.array_equal(found, np.concatenate([first[:3], then[3:]]))
    project.undo()
    assert done(lambda: presenter.merge(2)) == [(1, 0, 10), (2, 0, 10)]
    assert 2 not in project.objects and np.array_equal(project.object_mask(1, 0, 10), cat | dog)
    with pytest.raises(InputError, match="There is no object 2 any more"):
        presenter.merge(2)
    project.undo()
    desk.set_span(2, 4)
    assert done(presenter.cut_others) == [(None, 2, 4)]
    project.undo()
    desk.set_span(2, 3)
    project.labels(1)[2, 2] = 0
    assert done(presenter.split_pieces) == [(1, 2, 3)]
    for object_id, rows in ((1, slice(3, 6)), (3, slice(0, 2))):
        part = np.zeros((6, 8), bool)
        part[rows] = True
        assert np.array_equal(project.object_mask(object_id, 2, 3)[0], part)
    desk.set_object(1)
    assert done(presenter.delete) == [(1, 0, 10)]
    assert desk.object_id == 2 and set(project.objects) == {2, 3}


def test_what_is_on_a_range_asks_for_one(presenter: ObjectsPresenter, project: Project) -> None:
    before = project.provenance(1)
    for act in (presenter.lock, presenter.unlock, presenter.release, presenter.absent):
        with pytest.raises(InputError, match="Choose a range first: on its first and last frame"):
            act()
    assert np.array_equal(project.provenance(1), before)
    failed: list[Any] = []
    presenter.steps.job.failed.connect(failed.append)
    presenter.split_pieces()
    assert failed[0].summary == "'the cat' is in one piece on frames 0 to 9."
    brush: list[int] = []
    presenter.brush_requested.connect(brush.append)
    presenter.desk.set_object(2)
    presenter.split_by_painting()
    assert brush == [3] and project.objects[3].layer == project.objects[2].layer
    presenter.desk.set_object(None)
    with pytest.raises(InputError, match="no object to work on"):
        presenter.split_by_painting()
    assert len(project.objects) == 3
    made = presenter.add()
    assert made.layer == 1, "where no object is chosen, in the first layer"


def test_sentences_are_chosen_worded_and_forgotten(
    presenter: ObjectsPresenter, project: Project
) -> None:
    heard: list[int] = []
    presenter.changed.connect(lambda: heard.append(1))
    presenter.choose_expression("1")
    presenter.choose_expression("1")
    assert len(heard) == 1 and presenter.meant == {2}
    presenter.set_text("1", "  a   dog ")
    presenter.set_text("1", "   ")
    assert project.expressions["1"].text == "a dog"
    presenter.add_expression("  the cat that sleeps ")
    assert presenter.expression_id == "2" and presenter.meant == {1}
    assert project.expressions["2"].text == "the cat that sleeps"
    presenter.desk.set_object(None)
    presenter.add_expression("nobody")
    assert presenter.meant == frozenset()
    presenter.remove_expression()
    presenter.remove_expression()
    assert list(project.expressions) == ["0", "1", "2"] and presenter.expression_id is None
    presenter.choose_expression("0")
    presenter.desk.set_project(None)
    assert presenter.expression_id is None and presenter.meant == frozenset()


def test_only_what_has_changed_is_counted_again(
    presenter: ObjectsPresenter, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    counts = Project.counts
    monkeypatch.setattr(Project, "counts", lambda self, i: counted.append(i) or counts(self, i))
    presenter.objects()
    presenter.objects()
    presenter.expressions()
    assert counted == [1, 2]
    for tell, wanted in (
        (lambda: presenter.desk.wrote(2, 0, 1), [2]),
        (lambda: presenter.desk.touched(1, 0, 1), [1]),
        (lambda: presenter.desk.touched(None, 0, 1), [1, 2]),
        (presenter.desk.catalog_changed.emit, [1, 2]),
    ):
        counted.clear()
        tell()
        presenter.objects()
        assert counted == wanted


def test_without_a_project_one_line_says_what_to_do() -> None:
    presenter = ObjectsPresenter(Desk())
    assert presenter.objects() == [] and presenter.expressions() == []
    with pytest.raises(InputError, match="no project yet"):
        presenter.add()


def test_the_first_object_brings_its_layer(tmp_path: Path) -> None:
    with Project.create(tmp_path / "new", VideoInfo(None, "array", 10, 6, 8)) as made:
        presenter = ObjectsPresenter(Desk())
        presenter.desk.set_project(made)
        first, second = presenter.add(), presenter.add()
        assert [record.name for record in made.layers.values()] == ["object 1"]
        assert (first.layer, second.layer) == (1, 1) and presenter.desk.object_id == second.id


def test_what_is_being_typed_outlasts_what_changes_meanwhile(
    qtbot: Any, presenter: ObjectsPresenter, project: Project
) -> None:
    page = ObjectsPanel(presenter, attempt)
    qtbot.addWidget(page)
    page.show()
    page.sentences.edit(page.sentences_model.index(0, 0))
    (editor,) = page.sentences.findChildren(QLineEdit)
    presenter.counted.emit()
    qtbot.wait(300)
    assert editor.selectedText() == "the cat", "masks came in: what is chosen stays chosen"
    qtbot.keyClicks(editor, "a black cat")
    presenter.counted.emit()
    qtbot.wait(300)
    project.add_prompt("a sentence of a run")
    presenter.desk.catalog_changed.emit()
    assert editor.text() == "a black cat" and page.sentences_model.rowCount() == 3
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    first = next(iter(project.expressions))
    qtbot.waitUntil(lambda: project.expressions[first].text == "a black cat")


def test_another_projects_object_can_be_worked_on_at_once(
    qtbot: Any, presenter: ObjectsPresenter, project: Project, tmp_path: Path
) -> None:
    page = ObjectsPanel(presenter, attempt)
    qtbot.addWidget(page)
    assert page.delete_button.isEnabled()
    with Project.create(tmp_path / "other", project.video) as other:
        other.add_prompt("the bird")
        presenter.desk.set_project(other)
        assert presenter.desk.object_id == 1 and page.delete_button.isEnabled()
        presenter.desk.set_object(None)
        assert not page.delete_button.isEnabled()


def test_the_page_ticks_edits_and_chooses(
    qtbot: Any, presenter: ObjectsPresenter, project: Project
) -> None:
    page = ObjectsPanel(presenter, attempt)
    qtbot.addWidget(page)
    page.resize(300, 500)
    page.show()
    model = page.objects_model
    assert [model.index(r, 1).data() for r in range(2)] == ["the cat", "the dog"]
    assert model.index(0, 0).data(Qt.ItemDataRole.CheckStateRole) is None
    page.sentences.setCurrentIndex(page.sentences_model.index(1, 0))
    assert presenter.expression_id == "1"
    states = [model.index(r, 0).data(Qt.ItemDataRole.CheckStateRole) for r in range(2)]
    assert states == [Qt.CheckState.Unchecked, Qt.CheckState.Checked]
    page.objects.setCurrentIndex(model.index(0, 0))
    assert presenter.desk.object_id == 1
    qtbot.keyClick(page.objects, Qt.Key.Key_Space)
    assert project.expressions["1"].object_ids == {1, 2}
    assert model.setData(model.index(1, 1), "a dog")
    assert project.objects[2].name == "a dog"
    presenter.desk.choose(2)
    assert page.objects.currentIndex().row() == 1


def test_letters_pressed_in_a_table_reach_the_viewer(
    qtbot: Any, presenter: ObjectsPresenter
) -> None:
    page = ObjectsPanel(presenter, attempt)
    qtbot.addWidget(page)
    page.show()
    heard: list[Any] = []
    page.keyPressEvent = lambda event: heard.append(event.key())  # type: ignore[method-assign]
    page.objects.setFocus()
    for key in (Qt.Key.Key_A, Qt.Key.Key_N, Qt.Key.Key_Down):
        qtbot.keyClick(page.objects, key)
    assert heard == [Qt.Key.Key_A, Qt.Key.Key_N]


def test_a_running_job_does_not_disturb_an_edit(
    qtbot: Any, presenter: ObjectsPresenter, project: Project
) -> None:
    page = ObjectsPanel(presenter, attempt)
    qtbot.addWidget(page)
    page.show()
    page.objects.setCurrentIndex(page.objects_model.index(1, 1))
    resets: list[int] = []
    page.objects_model.modelReset.connect(lambda: resets.append(1))
    project.write_model(2, 2, 0, np.ones((10, 6, 8), bool))
    presenter.desk.wrote(2, 0, 10)
    presenter.desk.wrote(2, 0, 10)
    row = page.objects_model.index(1, 2)
    qtbot.waitUntil(lambda: row.data(Qt.ItemDataRole.UserRole).model == 10, timeout=3_000)
    assert not resets and page.objects.currentIndex().row() == 1


@pytest.fixture
def painted(tmp_path: Path) -> Iterator[Project]:
    """Two objects in a layer and one in another, on 40 frames each."""
    with Project.create(tmp_path / "long", VideoInfo(None, "array", 40, 6, 8)) as made:
        made.add_prompt("the cat")
        made.add_object("the dog", 1)
        made.add_prompt("the bird")
        masks = np.zeros((40, 6, 8), bool)
        for object_id, columns in ((1, slice(0, 3)), (2, slice(3, 6)), (3, slice(0, 8))):
            masks[:] = False
            masks[:, :, columns] = True
            made.write_model(made.objects[object_id].layer, object_id, 0, masks)
        yield made


LONG: dict[str, Callable[[ObjectsPresenter], None]] = {
    "merge": lambda presenter: presenter.merge(2),
    "merge across": lambda presenter: presenter.merge(3),
    "swap": lambda presenter: presenter.swap(2),
    "delete": lambda presenter: presenter.delete(),
    "absent": lambda presenter: presenter.absent(),
    "begins here": lambda presenter: presenter.start_here(),
    "ends here": lambda presenter: presenter.end_here(),
}


@pytest.mark.parametrize("name", LONG)
def test_long_work_is_done_elsewhere_and_can_be_stopped(
    qtbot: Any, painted: Project, name: str
) -> None:
    desk = Desk()
    presenter = ObjectsPresenter(desk, Steps(run_in_thread))
    desk.set_project(painted)
    desk.set_frame({"begins here": 39, "ends here": 0, "swap": 0}.get(name, 5))
    desk.set_span(0, 39)
    job = presenter.steps.job
    first, gate = threading.Event(), threading.Event()
    threads: set[threading.Thread] = set()
    make = Staged._make

    def held(staged: Staged, t: int) -> Any:
        threads.add(threading.current_thread())
        if t == 20:
            first.set()
            gate.wait(20)
        return make(staged, t)

    before = {i: painted.object_mask(i, 0, 40) for i in painted.objects}
    known = (painted.objects, painted.expressions, painted.history.steps)
    ended: list[str] = []
    job.cancelled.connect(lambda: ended.append("cancelled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staged, "_make", held)
        LONG[name](presenter)
        assert presenter.steps.busy, "the interface is free meanwhile"
        qtbot.waitUntil(first.is_set, timeout=5_000)
        job.cancel()
        gate.set()
        qtbot.waitUntil(lambda: not presenter.steps.busy, timeout=5_000)
    assert ended == ["cancelled"] and threading.main_thread() not in threads
    assert (painted.objects, painted.expressions, painted.history.steps) == known
    for i, masks in before.items():
        np.testing.assert_array_equal(painted.object_mask(i, 0, 40), masks)
    LONG[name](presenter)
    qtbot.waitUntil(lambda: not presenter.steps.busy, timeout=10_000)
    assert len(painted.history.steps) == len(known[2]) + 1
    painted.undo()
    for i, masks in before.items():
        np.testing.assert_array_equal(painted.object_mask(i, 0, 40), masks)


def test_a_button_stops_what_takes_long(qtbot: Any, painted: Project) -> None:
    session = Session(lambda model, device: None, run_in_thread, run_in_thread)  # type: ignore[arg-type,return-value]
    viewer = ViewerModel()
    link = ViewerLink(viewer, session.desk, Bridge(session.desk), lambda back: None)
    footer = Footer(session, link, Commands(viewer))
    qtbot.addWidget(footer)
    footer.show()
    session.desk.set_project(painted)
    known, gate = painted.history.steps, threading.Event()
    make = Staged._make

    def held(staged: Staged, t: int) -> Any:
        if t >= 20:
            gate.wait(0.05)
        return make(staged, t)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staged, "_make", held)
        session.objects.merge(2)
        assert footer.stop_button.isHidden(), "short steps need no button"
        qtbot.waitUntil(footer.stop_button.isVisible, timeout=5_000)
        assert footer.progress.bar.isVisible() and "left" in footer.progress.bar.format()
        footer.stop_button.click()
        qtbot.waitUntil(lambda: not session.steps.busy, timeout=5_000)
    assert footer.stop_button.isHidden()
    assert footer.progress.status.text() == "Stopped: everything is as it was."
    assert painted.history.steps == known
    assert session.close()
    footer.close_all()


ROLES = Qt.ItemDataRole


def test_every_cell_says_what_it_is(
    qtbot: Any, presenter: ObjectsPresenter, project: Project
) -> None:
    page = ObjectsPanel(presenter, attempt)
    qtbot.addWidget(page)
    project.update_object(1, name="the <i>cat</i>", color=(1.0, 0.5, 0.0))
    presenter.desk.catalog_changed.emit()
    cells, said = page.objects_model, page.sentences_model
    counts = cells.rows[0].frames
    words = _words(counts)
    names = ("DisplayRole", "EditRole", "DecorationRole", "CheckStateRole", "UserRole")

    def cell(model: Any, row: int, column: int) -> dict[str, Any]:
        index = model.index(row, column)
        found = {name: index.data(getattr(ROLES, name)) for name in (*names, "AccessibleTextRole")}
        return {name: value for name, value in found.items() if value is not None}

    orange = QColor.fromRgbF(1.0, 0.5, 0.0)
    assert cell(cells, 0, 0) == {"DisplayRole": "1", "DecorationRole": orange}
    name = "the <i>cat</i>"
    assert cell(cells, 0, 1) == {"DisplayRole": name, "EditRole": name}
    assert cell(cells, 0, 2) == {"UserRole": counts, "AccessibleTextRole": words}
    tip = cells.index(0, 2).data(ROLES.ToolTipRole)
    assert tip == plain(f"1 {name}, in layer the cat\n{words}") and "&lt;i&gt;" in tip
    flags = Qt.ItemFlag
    usual = flags.ItemIsSelectable | flags.ItemIsEnabled | flags.ItemNeverHasChildren
    assert [cells.flags(cells.index(0, c)) for c in range(3)] == [
        *(usual, usual | flags.ItemIsEditable, usual)
    ]
    presenter.choose_expression("0")
    assert cell(cells, 0, 0)["CheckStateRole"] == Qt.CheckState.Checked
    assert cell(cells, 1, 0)["CheckStateRole"] == Qt.CheckState.Unchecked
    assert cells.flags(cells.index(0, 0)) == usual | flags.ItemIsUserCheckable
    assert not cells.setData(cells.index(0, 0), "x") and not cells.setData(cells.index(0, 2), "x")
    assert not cells.setData(cells.index(0, 1), "x", ROLES.DisplayRole)
    assert cells.setData(cells.index(0, 0), Qt.CheckState.Unchecked.value, ROLES.CheckStateRole)
    assert project.expressions["0"].object_ids == set()
    assert cell(said, 0, 0) == {"DisplayRole": "the cat", "EditRole": "the cat"}
    assert cell(said, 0, 1) == {"DisplayRole": "none"} and cell(said, 0, 2) == {"DisplayRole": ""}
    assert cell(said, 1, 1) == {"DisplayRole": "2"} and cell(said, 1, 2) == {"DisplayRole": "0%"}
    assert said.index(1, 2).data(ROLES.ToolTipRole) == "the dog\nmeans: 2"
    assert [said.flags(said.index(0, c)) for c in range(3)] == [
        *(usual | flags.ItemIsEditable, usual, usual)
    ]
    assert not said.setData(said.index(0, 0), "a cat", ROLES.DisplayRole)
    assert said.setData(said.index(0, 0), "a cat") and project.expressions["0"].text == "a cat"
    made = ObjectCounts(present=3, empty=1, model=0, human=4, locked=5, first=None, last=None)
    assert _words(made) == "on 3 frames\n4 yours, 5 locked, 1 empty"
    made = replace(made, model=2, first=6, last=8)
    assert _words(made) == "on 3 frames, frames 6 to 8\n2 model, 4 yours, 5 locked, 1 empty"


def test_a_row_is_marked_without_telling_and_keys_are_shared(
    qtbot: Any, presenter: ObjectsPresenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ObjectsPanel(presenter, attempt)
    qtbot.addWidget(page)
    page.show()
    table, chosen, edited = page.objects, list[int](), list[int]()
    table.on_chosen(chosen.append)
    table.setCurrentIndex(page.objects_model.index(0, 1))
    chosen.clear()
    table.select_row(1)
    marked = [index.row() for index in table.selectionModel().selectedRows()]
    assert marked == [1] and chosen == [] and table.currentIndex().column() == 1
    table.select_row(-1)
    assert not table.selectionModel().hasSelection() and chosen == []
    table.select_row(0)
    table.setCurrentIndex(page.objects_model.index(1, 0))
    assert chosen == [1]
    page.objects_model.beginResetModel()
    page.objects_model.endResetModel()
    assert chosen == [1], "no row is chosen where there is none"
    monkeypatch.setattr(table, "edit", lambda index: edited.append(index.row()))
    table.setCurrentIndex(page.objects_model.index(0, 0))
    keys, none = Qt.Key, Qt.KeyboardModifier.NoModifier
    heard: list[Any] = []
    monkeypatch.setattr(page, "keyPressEvent", lambda event: heard.append(event.key()))
    for key, modifier in (
        *((keys.Key_Return, none), (keys.Key_Enter, none), (keys.Key_Down, none)),
        *((keys.Key_Up, none), (keys.Key_PageDown, none), (keys.Key_PageUp, none)),
        *((keys.Key_Left, none), (keys.Key_Home, none)),
        (keys.Key_Down, Qt.KeyboardModifier.ShiftModifier),
    ):
        qtbot.keyClick(table, key, modifier)
    heard.remove(keys.Key_Shift)
    assert edited == [0, 0] and heard == [keys.Key_Left, keys.Key_Home, keys.Key_Down]
    assert table.currentIndex().row() == 0
