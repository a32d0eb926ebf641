"""What each key and each button does, what goes on together, and what the foot of the dock says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton, QWidget

from flowrvs.errors import CheckpointError, InputError, ProjectError, StorageError
from flowrvs.progress import Progress
from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs import bridge
from napari_flowrvs.bridge import Bridge, StorageWatch
from napari_flowrvs.correct.presenter import CorrectPresenter, Reprompt, Scope
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.dock import SegmentDock
from napari_flowrvs.export.panel import ExportDialog
from napari_flowrvs.find.presenter import Prompt, Written
from napari_flowrvs.footer import Footer
from napari_flowrvs.history.presenter import HistoryPresenter
from napari_flowrvs.job import Failure, Job, Phase
from napari_flowrvs.layers import layers_of
from napari_flowrvs.objects.presenter import ObjectsPresenter
from napari_flowrvs.pick.presenter import PickPresenter
from napari_flowrvs.projects import open_projects
from napari_flowrvs.review.presenter import ReviewPresenter
from napari_flowrvs.session import Session, closer
from napari_flowrvs.transport.panel import Transport
from napari_flowrvs.transport.presenter import Player
from napari_flowrvs.viewer import ViewerLink
from napari_flowrvs.widgets.keys import KEYS, Commands, set_tip
from tests.unit.napari_flowrvs.conftest import MakeDock, finish, held

Calls = list[tuple[Any, ...]]


def spy(patch: pytest.MonkeyPatch, seen: Calls, kind: type, *names: str) -> None:
    """Note calls of some methods instead of doing them."""
    for name in names:
        patch.setattr(
            kind,
            name,
            lambda self, *a, name=name, **k: seen.append((kind.__name__, name, *a, *k.values())),
        )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Ten frames; three objects in two layers."""
    path = tmp_path / "clip.flowrvs"
    made = open_projects.ensure(path, VideoInfo(None, "array", 10, 6, 8))
    _, cat = made.add_prompt("the cat")
    made.add_object("a & b", cat.layer)
    made.add_prompt("the dog")
    yield made
    open_projects.close(made)


WANTED: dict[str, tuple[Any, ...]] = {
    "play": ("Player", "toggle"),
    "forward": ("Desk", "step", 10),
    "back": ("Desk", "step", -10),
    "first": ("Desk", "go_to_end", False),
    "last": ("Desk", "go_to_end", True),
    "onion": ("Transport", "toggle_onion"),
    "next_object": ("Desk", "choose_next"),
    "previous_object": ("Desk", "choose_next", -1),
    "range_start": ("Desk", "set_span", 4, None),
    "range_stop": ("Desk", "set_span", None, 5),
    "range_all": ("Desk", "set_span", None, None),
    "next": ("ReviewPresenter", "next"),
    "previous": ("ReviewPresenter", "previous"),
    "accept": ("ReviewPresenter", "accept"),
    "accept_here": ("ReviewPresenter", "accept_here"),
    "fix": ("ReviewPresenter", "fix"),
    "absent": ("ReviewPresenter", "absent"),
    "pick": ("SegmentDock", "_pick"),
    "pick_back": ("PickPresenter", "take_back"),
    "spread": ("CorrectPresenter", "spread", "both", None),
    "spread_forward": ("CorrectPresenter", "spread", "forward", None),
    "spread_back": ("CorrectPresenter", "spread", "back", None),
    "interpolate": ("CorrectPresenter", "interpolate"),
    "copy": ("CorrectPresenter", "copy_to_next"),
    "clean": ("CorrectPresenter", "clean", "largest", Scope.FRAME),
    "keep": ("CorrectPresenter", "keep"),
    "discard": ("CorrectPresenter", "discard"),
    "undo": ("HistoryPresenter", "undo"),
    "redo": ("HistoryPresenter", "redo"),
    "cancel": ("Session", "cancel"),
}

#: The buttons of the page Correct that have a key.
CORRECT = {
    "← back": "spread_back",
    "both ways": "spread",
    "on →": "spread_forward",
    "fill in between": "interpolate",
    "copy to next": "copy",
    "clean": "clean",
}


def test_every_key_and_every_button_does_what_it_says(
    make_dock: MakeDock, monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    seen: Calls = []
    for kind, *names in (
        (Player, "toggle"),
        (Desk, "step", "go_to_end", "choose_next", "set_span"),
        (Transport, "toggle_onion"),
        (ReviewPresenter, "next", "previous", "accept", "accept_here", "fix", "absent"),
        (SegmentDock, "_pick"),
        (PickPresenter, "take_back", "keep", "discard"),
        (CorrectPresenter, "spread", "interpolate", "copy_to_next", "clean", "keep", "discard"),
        (CorrectPresenter, "reprompt", "try_threshold", "apply_threshold"),
        (HistoryPresenter, "undo", "redo"),
        (Session, "cancel"),
        (ObjectsPresenter, "absent", "lock", "delete", "start_here", "end_here", "unlock"),
        (ObjectsPresenter, "release", "split_pieces", "split_by_painting", "cut_others"),
        (ObjectsPresenter, "merge", "swap", "remove_expression"),
    ):
        spy(monkeypatch, seen, kind, *names)  # type: ignore[arg-type]
    _, dock = make_dock()
    desk = dock.session.desk
    desk.set_project(project)
    desk.set_frame(4)
    assert WANTED.keys() == {each.id for group in KEYS.values() for each in group}

    def done(act: Callable[[], object]) -> Calls:
        seen.clear()
        act()
        return list(seen)

    for name, wanted in WANTED.items():
        assert done(lambda name=name: dock.commands.run(name)) == [wanted]
    footer, panel = dock.footer, dock.correct
    buttons = {**footer.transport.buttons, **dock.review.buttons}
    buttons |= {
        CORRECT[b.text()]: b for b in panel.findChildren(QPushButton) if b.text() in CORRECT
    }
    buttons |= {"pick": dock.pick.pick_button, "pick_back": dock.pick.back_button}
    buttons |= {"undo": footer.history.undo_button, "redo": footer.history.redo_button}
    buttons |= {"keep": footer.preview.keep_button, "discard": footer.preview.discard_button}
    buttons["range_all"] = panel.all_button
    assert len(buttons) == 5 + 6 + 1 + 6 + 2 + 2 + 2 + 1
    for name, button in buttons.items():
        assert done(lambda button=button: button.clicked.emit(False)) == [WANTED[name]], name
    # Of two previews the key means the marks, and a button its own.
    monkeypatch.setattr(PickPresenter, "waiting", True)
    for name in ("keep", "discard"):
        assert done(lambda name=name: dock.commands.run(name)) == [("PickPresenter", name)]
        for bar, kind in ((footer.preview, "CorrectPresenter"), (footer.picked, "PickPresenter")):
            button = getattr(bar, f"{name}_button")
            assert done(lambda button=button: button.clicked.emit(False)) == [(kind, name)]
    # The page Objects, and its menu.
    page = dock.objects
    for button, name in (
        (page.absent_button, "absent"),
        (page.lock_button, "lock"),
        (page.delete_button, "delete"),
        (page.remove_sentence, "remove_expression"),
    ):
        assert done(lambda button=button: button.clicked.emit(False)) == [
            ("ObjectsPresenter", name)
        ]
    page.menu.aboutToShow.emit()
    names = ("start_here", "end_here", "unlock", "release", "split_pieces", "split_by_painting")
    actions = page.menu.actions()
    for action, name in zip(actions, (*names, "cut_others", "merge", "swap"), strict=True):
        if action.menu() is None:
            assert done(action.trigger) == [("ObjectsPresenter", name)]
        else:
            others = action.menu().actions()
            assert [each.text() for each in others] == ["2 a && b", "3 the dog"]
            assert done(others[1].trigger) == [("ObjectsPresenter", name, 3)]
    _check_fields(dock, seen, done)


def _check_fields(dock: SegmentDock, seen: Calls, done: Callable[[Any], Calls]) -> None:
    """The fields of the page Correct reach what is asked for, each in its place."""
    panel, options = dock.correct, dock.find.options
    options.device.value, options.memory.value = "cpu", "low"
    panel.sentence.setText("it")
    panel.steps.setValue(3)
    panel.cut.setValue(-0.4)
    panel.rule.setCurrentIndex(panel.rule.findData("union"))
    panel.ask_scope.setCurrentIndex(panel.ask_scope.findData("FRAME"))
    inputs = Reprompt(
        text="it",
        model="tiny",
        device="cpu",
        steps=3,
        threshold=-0.4,
        rule="union",
        scope=Scope.FRAME,
        memory="low",
    )
    asked = done(lambda: panel.ask_button.clicked.emit(False))
    assert asked == [("CorrectPresenter", "reprompt", inputs)]
    panel.threshold_scope.setCurrentIndex(panel.threshold_scope.findData("OBJECT"))
    assert done(lambda: panel.slider.setValue(-35)) == [
        ("CorrectPresenter", "try_threshold", -0.35)
    ]
    assert panel.threshold_label.text() == "threshold -0.35"
    assert done(lambda: panel.threshold_button.clicked.emit(False)) == [
        ("CorrectPresenter", "apply_threshold", -0.35, Scope.OBJECT)
    ]
    panel.tool.setCurrentIndex(panel.tool.findData("specks"))
    panel.clean_scope.setCurrentIndex(panel.clean_scope.findData("RANGE"))
    assert done(panel.clean) == [("CorrectPresenter", "clean", "specks", Scope.RANGE)]
    options.device.value = "a cluster"
    options.scheduler.setText("tls://host:1")
    assert done(lambda: panel.spread("back")) == [("CorrectPresenter", "spread", "back", None)]
    panel.away.setChecked(True)
    assert done(lambda: panel.spread("back"))[0][-1] == "tls://host:1"
    panel.together.setChecked(True)
    assert dock.session.correct.together
    panel.first.setValue(2)
    assert done(panel.first.editingFinished.emit) == [("Desk", "set_span", 2, None)]
    panel.last.setValue(7)
    assert done(panel.last.editingFinished.emit) == [("Desk", "set_span", None, 8)]


def test_what_cannot_be_done_is_told_and_what_can_is_not(qtbot: Any) -> None:
    told: list[str] = []
    viewer = ViewerModel()
    commands = Commands(viewer, lambda failure: told.append(failure.summary))

    def fail() -> None:
        raise InputError("No.")

    assert not commands.attempt(fail) and told == ["No."]
    commands.report(lambda failure: told.append(failure.summary), lambda: told.append("fine"))
    commands.add(good=lambda: told.append("did"), bad=fail)
    for name in ("good", "bad", "unknown"):
        commands.run(name)
    assert told == ["No.", "did", "fine", "No."]
    with pytest.raises(ValueError, match="a fault of ours"):  # is no refusal
        commands.attempt(lambda: (_ for _ in ()).throw(ValueError("a fault of ours")))
    assert commands.belongs_to(viewer) and not commands.belongs_to(ViewerModel())
    commands.close()
    commands.run("good")
    assert len(told) == 4
    button = QPushButton()
    qtbot.addWidget(button)
    set_tip(button, "accept_here")
    assert button.toolTip() == "Accept all frames up to this one (Shift+A)"


def test_what_cannot_be_changed_is_one_line(
    make_dock: MakeDock, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence, a name, a tick or a colour that cannot be written is no traceback."""
    _, dock = make_dock()
    dock.session.desk.set_project(project)
    page, line = dock.objects, dock.footer.problem.line

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("The disk is full.")

    page.presenter.choose_expression("0")
    changes = ("set_expression_text", "update_object", "set_expression_objects")
    for name in (*changes, "remove_expression", "add_expression", "add_object"):
        monkeypatch.setattr(Project, name, full)
    edit, tick = Qt.ItemDataRole.EditRole, Qt.ItemDataRole.CheckStateRole
    sentences, objects = page.sentences_model, page.objects_model
    for act in (
        lambda: sentences.setData(sentences.index(0, 0), "other", edit),
        lambda: objects.setData(objects.index(0, 1), "other", edit),
        lambda: objects.setData(objects.index(1, 0), Qt.CheckState.Checked.value, tick),
        page.remove_sentence.click,
        page.add_sentence.click,
        page.add_object.click,
    ):
        dock.footer.problem.clear()
        assert not act() and line.text() == "The disk is full."
    assert [row.name for row in page.presenter.objects()] == ["the cat", "a & b", "the dog"]


# -- the tool Pick where there is no project yet --------------------------------------------------


def test_a_pick_that_could_not_begin_is_forgotten(
    make_dock: MakeDock, qtbot: Any, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dock = make_dock()
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    problem, pick = dock.footer.problem, dock.session.pick
    dock.find.options.project.setText("/here")
    dock.commands.run("pick")
    assert problem.line.text() == "/here: the name of a project folder ends in .flowrvs."
    dock.find.options.project.clear()
    ensure = open_projects.ensure

    def broken(*_: Any) -> Project:
        raise ProjectError("It is another video's.")

    monkeypatch.setattr(open_projects, "ensure", broken)
    dock.commands.run("pick")
    finish(qtbot, dock)
    assert problem.line.text() == "It is another video's."
    monkeypatch.setattr(open_projects, "ensure", ensure)
    dock.find.draw()
    finish(qtbot, dock)
    assert not pick.active and dock.link.viewer.layers.selection.active.mode == "paint"
    # Where it does begin, the tool is taken up, and the brush is not.
    dock.link.viewer.layers.selection.clear()
    dock.session.desk.set_project(None)
    dock.commands.run("pick")
    finish(qtbot, dock)
    assert pick.active and dock.footer.progress.status.text().startswith("Click on “object 2”")
    dock.commands.run("pick")
    assert not pick.active


def test_what_waits_to_be_kept_outlasts_what_a_person_does(
    opened: tuple[Any, SegmentDock], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preview is not lost to the tool Pick, to a layer that is removed, or with the window."""
    viewer, dock = opened
    correct, head = dock.session.correct, dock.head
    dock.find.draw()
    finish(qtbot, dock)
    project = dock.session.desk.project
    for t in (0, 4):
        project.labels(1)[t, 6:16, t : t + 10] = 1
    dock.commands.run("interpolate")
    qtbot.waitUntil(lambda: not correct.job.busy, timeout=20_000)
    name = "fill in 'object 1', frames 0 to 23"
    assert correct.preview is not None and correct.preview.name == name
    dock.commands.run("pick")
    waits = f"The preview of {name} waits"
    line = f"{waits}: keep it (Y) or discard it (Shift+Y) first."
    assert dock.footer.problem.line.text() == line and not dock.session.pick.active
    asked: list[str] = []
    answers = iter(["cancel", "close"])
    monkeypatch.setattr(head, "ask", lambda text, copy: asked.append(text) or next(answers))
    assert [dock._may_forget(dock) for _ in range(2)] == [False, True]
    question = f"{waits}, and is lost when the window closes."
    assert asked == [question] * 2
    # So are a copy and an export that are being written.
    window = QWidget()  # a dock that floats is not in it
    qtbot.addWidget(window)
    opener, form = dock.session.opener, ExportDialog(viewer, runner=held, parent=window)
    opener._copied, answers = "squares.flowrvs", iter(["close", "close", "cancel"])
    for job in (opener.job, form.presenter.job):
        job._set_phase(Phase.RUNNING)
    assert not dock._may_forget(window) and asked[3:] == [
        "A copy of squares.flowrvs is being written, and is lost when the window closes.",
        "“Export a dataset” is at work, and is lost when the window closes.",
    ]
    for job in (opener.job, form.presenter.job):
        job._set_phase(Phase.IDLE)
    form.close()
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not dock.link.waiting)
    assert open_projects.get(project.path) is project and correct.preview is not None
    dock.commands.run("keep")
    qtbot.waitUntil(lambda: open_projects.get(project.path) is None, timeout=20_000)
    assert dock.session.desk.project is None and dock._may_forget(dock) and len(asked) == 5
    with Project.open(project.path, read_only=True) as again:
        assert again.present(1)[:5].all()


def test_picking_waits_for_a_run(waiting: tuple[Any, SegmentDock], qtbot: Any, gated: Any) -> None:
    _, dock = waiting
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    dock.commands.run("pick")
    assert dock.footer.problem.line.text() == "A run is going on: wait for it, or cancel it."
    with pytest.raises(InputError, match="A run is going on"):
        dock.find.model()
    gated.allow()
    finish(qtbot, dock)
    dock.find.draw()
    finish(qtbot, dock)
    assert not dock.session.pick.active


# -- what goes on together ------------------------------------------------------------------------


def none(*_: Any) -> Iterator[object]:
    yield from ()


def test_esc_stops_what_a_person_began_and_closing_stops_all(tmp_path: Path) -> None:
    session = Session(lambda model, device: None, held, held)  # type: ignore[arg-type,return-value]
    mine = [session.segment.job, session.correct.job, session.steps.job]
    others = [session.opener.job, session.opener.looking, session.pick.job, session.review.job]
    others += [session.links.job, session.trackers.job, session.models.job]
    assert not session.cancel() and session.stoppable() == []
    for job in (*mine, *others):
        job.start(none, lambda _: None)
    assert session.stoppable() == mine and session.cancel()
    assert {job.phase for job in mine} == {Phase.STOPPING}
    assert {job.phase for job in others} == {Phase.RUNNING}
    assert set(session.jobs()) == {*mine, *others} - {
        session.opener.looking,
        session.trackers.job,
        session.models.job,
    }, "whose failures the foot of the dock shows"
    assert session.close()
    assert not any(job.busy for job in (*mine, *others))


def test_what_is_found_out_in_one_part_reaches_the_others(project: Project) -> None:
    session = Session(lambda model, device: None)  # type: ignore[arg-type,return-value]
    session.desk.set_project(project)
    doubts = np.linspace(0, 1, 10, dtype=np.float32)
    session.review.doubts.shown_changed.emit(doubts)
    assert session.strip.doubt is doubts
    noted: list[Any] = []
    session.correct.kept.disconnect(session.review.doubts.note_certainty)
    session.correct.kept.connect(lambda *what: noted.append(what))
    session.correct.kept.emit(1, {3: 0.5})
    assert noted == [(1, {3: 0.5})]
    assert session.history.steps is session.objects.steps is session.correct.steps
    assert session.review.steps is session.pick.steps is session.steps
    assert session.pick.trackers is session.correct.trackers is session.trackers
    assert session.close()


class Viewer:
    """Something that can be let go of."""

    gone = 0

    def let_go(self) -> None:
        """Count."""
        self.gone += 1


@pytest.mark.parametrize("docked", [True, False])
def test_a_window_that_closes_lets_go_of_its_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, docked: bool
) -> None:
    session, viewer, holder = Session(lambda *_: None), Viewer(), object()  # type: ignore[arg-type,return-value]
    asked: list[Any] = []

    def release(project: Any, by: object) -> None:
        asked.append((project, by))
        raise StorageError("The disk is full.")

    monkeypatch.setattr(open_projects, "release", release)
    session.segment.job = Job(held)
    session.segment.job.start(none, lambda _: None)
    projects: Any = {"one", "two"}
    close = closer(session, projects, holder, {"docked": docked}, viewer.let_go)
    close()
    assert viewer.gone == 1 and not session.segment.job.busy
    wanted = {("one", holder), ("two", holder)} if docked else set()
    assert set(asked) == wanted, "one that cannot be saved does not keep the others open"
    gone = closer(session, projects, holder, {"docked": False}, viewer.let_go)
    del viewer
    gone()


def test_closing_asks_about_what_is_in_memory_only(
    make_dock: MakeDock, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dock = make_dock()
    head, asked, copied = dock.head, list[str](), list[Any]()
    Project.create(tmp_path / "other.flowrvs", project.video).close()
    with Project.open(tmp_path / "other.flowrvs", read_only=True) as other:
        dock.link.projects |= {project, other}
    monkeypatch.setattr(head, "_copy", copied.append)
    answers = iter(["copy", "cancel", "close"])
    monkeypatch.setattr(head, "ask", lambda text: asked.append(text) or next(answers))
    assert head.may_close() and not asked, "one that is only looked at is not asked about"
    with monkeypatch.context() as patch:  # what was drawn last could not be written just now

        def full(self: Project) -> None:
            raise StorageError("Just now.")

        patch.setattr(Project, "flush", full)
        patch.setattr(head, "ask", lambda text: asked.append(text) or "close")
        assert head.may_close()
    assert asked.pop().startswith("clip.flowrvs cannot be saved: Just now.")
    monkeypatch.setattr(Project, "storage_error", property(lambda self: StorageError("Full.")))
    assert [head.may_close() for _ in range(3)] == [False, False, True]
    assert copied == [project] and asked[0] == (
        "clip.flowrvs cannot be saved: Full.\n"
        "What was drawn last is in memory only. Save a copy before you close?"
    )
    dock.link.projects.clear()


# -- the foot of the dock -------------------------------------------------------------------------


def test_what_the_foot_says(qtbot: Any, project: Project) -> None:
    session = Session(lambda model, device: None, held, held)  # type: ignore[arg-type,return-value]
    viewer = ViewerModel()
    link = ViewerLink(viewer, session.desk, Bridge(session.desk), lambda back: None)
    footer = Footer(session, link, Commands(viewer))
    qtbot.addWidget(footer)
    session.desk.set_project(project)
    line, problem = footer.progress.status, footer.problem
    session.review.noted.emit("Accepted.")
    assert line.text() == "Accepted."
    session.history.changed.emit()
    assert line.text() == "Accepted.", "of the same step"
    project.labels(1)[0, 0, 0] = 1
    session.history.changed.emit()
    assert line.text() == ""
    session.correct.noted.emit("Spread.")
    session.pick.job.failed.emit(Failure("Broken.", "Traceback"))
    assert line.text() == "" and problem.line.text() == "Broken."
    problem.pass_by()
    assert not problem.isHidden()
    footer.show_refusal(Failure("Not now.", "Traceback"))
    problem.pass_by()
    assert problem.isHidden()
    for failure, passing in ((Failure("a", "T"), False), (Failure("b", "T", True), True)):
        footer.show_failure(failure)
        problem.pass_by()
        assert problem.isHidden() == passing
    session.steps.job.cancelled.emit()
    assert line.text() == "Stopped: everything is as it was."
    # While a run has the line, steps leave it alone.
    session.segment.job.start(none, lambda _: None)
    footer.progress.say("Step 3 of 9")
    session.steps.job.cancelled.emit()
    footer.show_failure(Failure("c", "T"))
    session.steps.job.phase_changed.emit(Phase.IDLE)
    assert line.text() == "Step 3 of 9"
    session.segment.job.close()
    # The bar of a step goes with it, and so does the button that stops it.
    for phase, gone in ((Phase.RUNNING, False), (Phase.STOPPING, False), (Phase.IDLE, True)):
        footer.progress.show_progress(Progress(1, 4, "Copying"))
        footer.stop_button.show()
        session.steps.job.phase_changed.emit(phase)
        assert footer.stop_button.isHidden() == footer.progress.bar.isHidden() == gone
    assert line.text() == ""
    footer.close_all()
    assert session.close()


def test_what_the_store_notices_is_told_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.flowrvs").mkdir()
    (tmp_path / "b.flowrvs").mkdir()

    def fake(name: str) -> Any:
        return SimpleNamespace(
            path=tmp_path / name,
            history=SimpleNamespace(notice=""),
            confidence_notice="",
            storage_error=None,
        )

    a, b, closed = fake("a.flowrvs"), fake("b.flowrvs"), fake("c.flowrvs")
    known = {a.path: a, b.path: b}
    monkeypatch.setattr(bridge, "open_projects", SimpleNamespace(get=known.get))
    told: list[str] = []
    watch = StorageWatch([a, b, closed], lambda failure: told.append(failure.summary))

    def check() -> list[str]:
        told.clear()
        watch.check()
        watch.check()
        return list(told)

    closed.storage_error = StorageError("It is closed.")
    assert check() == []
    a.history.notice = b.history.notice = "Undo was forgotten."
    b.confidence_notice = "No room."
    lines = ("a.flowrvs: Undo was forgotten.", "b.flowrvs: Undo was forgotten.")
    assert check() == [*lines, "b.flowrvs: No room."]
    error = b.storage_error = StorageError("The disk is full.")
    assert check() == ["The disk is full."]
    b.storage_error = None
    assert check() == []
    b.storage_error = error
    assert check() == ["The disk is full."], "again, after it was well"
    (tmp_path / "a.flowrvs").rmdir()
    (gone,) = check()
    assert gone.startswith("a.flowrvs: its folder was moved or deleted.") and "save a copy" in gone


def test_a_model_that_cannot_be_loaded_is_told_and_drawn_without(
    make_dock: MakeDock, qtbot: Any, image_folder: Path
) -> None:
    """The line of a failure, the focus and the buttons after it."""

    def load(model: str, device: str) -> Any:
        raise CheckpointError("there are no weights")

    _, dock = make_dock(load=load)
    for layer in layers_of(image_folder):
        dock.link.add(layer)
    dock.find.sentences.set_texts(("red",))
    dock.find.run()
    assert dock.find.sentences.edit.isReadOnly() and not dock.find.options.isEnabled()
    assert not dock.head.videos.native.isEnabled()
    finish(qtbot, dock)
    assert dock.footer.problem.line.text() == "there are no weights"
    assert not dock.find.sentences.edit.isReadOnly() and dock.find.options.isEnabled()
    assert dock.head.videos.native.isEnabled() and not dock.find.cancel_button.isEnabled()
    assert dock.session.desk.project is None and dock.link.project_of(dock.head.layer) is None


def test_a_run_that_ends_asks_and_draws_in_its_own_project_only(
    make_dock: MakeDock, qtbot: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dock = make_dock()
    segment, links, desk = dock.session.segment, dock.session.links, dock.session.desk
    looked: list[Any] = []
    written: list[Any] = []
    monkeypatch.setattr(links, "look", lambda *what: looked.append(what))
    desk.masks_written.connect(written.append)
    segment._project, segment._prompts, segment._found = project, (Prompt("cat", 1, 1),), {0}
    for shown in (None, project):
        desk.set_project(shown)
        segment.written.emit(project, Written(1, 2, 5, 3))
        segment.finished.emit("Done.")
        qtbot.waitUntil(lambda: not dock.link.waiting)
        assert dock.footer.progress.status.text() == "Done."
    assert looked == [(project, (1,))] and written == [Changed(1, 2, 5)]
    # A project is let go of once nothing writes to it.
    dock.link.projects.add(project)
    open_projects.hold(project, dock.link.holder)
    for job in (dock.session.steps.job, segment.job):
        job._set_phase(Phase.RUNNING)
        dock.link.labels_removed.emit()
        assert open_projects.get(project.path) is project
        job._set_phase(Phase.IDLE)
    qtbot.waitUntil(lambda: open_projects.get(project.path) is None)
    assert desk.project is None
