"""A whole clip by keyboard and mouse: prompt, review, fix, spread, undo, export; with pictures.

The pictures go to ``$FLOWRVS_PICTURES``, where it is set, to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtWidgets import QLineEdit

from flowrvs.cli import main
from flowrvs.store import Provenance
from napari_flowrvs.correct.presenter import RULES
from napari_flowrvs.projects import open_projects
from tests.integration.annotator import BROKEN, FRAMES, SIDE, TRUTH, Person, corner, iou

MakePerson = Callable[..., Person]


def test_a_clip_is_annotated_by_keyboard(make_person: MakePerson, tmp_path: Path) -> None:
    person = make_person()
    dock, viewer, desk = person.dock, person.viewer, person.dock.session.desk
    # Prompt; what is typed is no shortcut.
    person.qtbot.keyClicks(dock.find.sentences.edit, "the red square")
    person.press("Ctrl+Return", dock.find.sentences.edit)
    person.rest()
    project = desk.project
    assert project is not None and desk.object_id == 1 and not desk.span_chosen
    assert all(iou(project, t) < 0.6 for t in BROKEN) and iou(project, 5) > 0.99
    # Review: what is doubtful is what is broken, or beside it.
    person.page("Review")
    person.until(
        lambda: not dock.session.review.job.busy and dock.session.review.queue()[0].doubt > 0
    )
    person.press("N")
    assert desk.frame in range(BROKEN.start - 1, BROKEN.stop + 1)
    person.look("review")
    # Fix one frame in the middle with the brush: this alone needs a mouse.
    while desk.frame not in BROKEN[2:4]:
        person.press("Right" if desk.frame < BROKEN[2] else "Left")
    fixed = desk.frame
    person.press("R")
    layer = viewer.layers.selection.active
    assert layer.mode == "paint" and layer.selected_label == 1
    y, x = corner(fixed)
    person.fill(y + SIDE // 2, x, y + SIDE, x + SIDE, size=6)
    assert iou(project, fixed) > 0.9
    assert project.provenance(1)[fixed] == Provenance.HUMAN
    # Spread it over the broken stretch.
    person.page("Correct")
    desk.go_to(BROKEN[0])
    person.press("I")
    desk.go_to(BROKEN[-1])
    person.press("Shift+I")
    assert desk.span == (BROKEN[0], BROKEN[-1] + 1)
    person.press("S")
    person.until(
        lambda: dock.session.correct.preview is not None and not dock.session.correct.job.busy
    )
    person.look("spread")
    assert iou(project, BROKEN[-1]) < 0.6, "a preview writes nothing"
    person.press("Shift+Y")
    assert dock.session.correct.preview is None and not dock.footer.preview.overlay.shown
    person.press("S")
    person.until(
        lambda: dock.session.correct.preview is not None and not dock.session.correct.job.busy
    )
    # An image layer has a Y of its own: the keys are heard all the same.
    person.press("Y")
    person.until(lambda: dock.session.correct.preview is None and not dock.session.correct.job.busy)
    assert min(iou(project, t) for t in BROKEN) > 0.85
    # Undo the spread and do it again.
    person.press("Ctrl+Z")
    person.rest()
    assert iou(project, BROKEN[-1]) < 0.6 and iou(project, fixed) > 0.9
    person.press("Ctrl+Shift+Z")
    person.rest()
    assert min(iou(project, t) for t in BROKEN) > 0.85
    # Onion skin, and watching.
    person.press("G")
    assert dock.footer.transport.onion.overlay.shown
    person.press("G")
    person.press("K")
    before = desk.frame
    person.until(lambda: desk.frame != before)
    person.press("K")
    assert not dock.footer.transport.player.playing
    # Accept: the doubtful ones one by one, then all of it.
    person.press("Alt+I")
    person.page("Review")
    person.until(lambda: not dock.session.review.job.busy)
    person.press("N")
    for _ in range(3):
        person.press("A")
    person.rest()
    assert dock.session.review.progress() == (4, FRAMES)
    person.press("Alt+Left")
    assert desk.frame == 0
    person.press("Alt+Right")
    assert desk.frame == FRAMES - 1
    person.press("Shift+Left")
    assert desk.frame == FRAMES - 11
    person.press("Shift+Right")
    person.press("Shift+A")
    person.rest()
    assert dock.session.review.progress() == (FRAMES, FRAMES) and dock.session.review.queue() == []
    person.look("done")
    assert person.pressed < 70
    # Export; nothing of it needs the window any more.
    project.flush()
    out = tmp_path / "data"
    path = str(project.path)
    viewer.layers.clear()
    person.until(lambda: open_projects.get(path) is None)
    assert desk.project is None
    assert main(["export", path, "--to", str(out)]) == 0
    assert main(["check", str(out / "train")]) == 0


def test_masks_of_a_model_are_corrected_with_every_tool(make_person: MakePerson) -> None:
    person = make_person()
    dock, viewer, desk = person.dock, person.viewer, person.dock.session.desk
    panel = dock.correct
    # Two sentences that mean the same are linked.
    dock.find.sentences.set_texts(("the red square", "the thing that is red"))
    person.click(dock.find.run_button)
    person.rest()
    project = desk.project
    assert project is not None and not dock.footer.question.isHidden()
    assert "looks like object" in dock.footer.question.text.text()
    person.click(dock.footer.question.link_button)
    assert set(project.objects) == {1} and dock.footer.question.isHidden()
    assert [e.object_ids for e in project.expressions.values()] == [{1}, {1}]
    # The threshold: shown while the slider moves, along with the frame; then kept.
    person.page("Correct")
    desk.choose(1)
    desk.go_to(5)
    pixels = project.object_mask(1, 5, 6).sum()
    panel.slider.setFocus()
    for _ in range(6):
        person.press("PageUp", panel.slider)
    assert dock.session.correct.preview is not None and dock.footer.preview.overlay.shown
    assert dock.footer.preview.text.text().endswith("on frame 5")
    person.press("Right")
    assert "on frame 6" in dock.footer.preview.text.text() and desk.frame == 6
    person.click(dock.footer.preview.discard_button)
    assert project.object_mask(1, 5, 6).sum() == pixels
    # Ask again, with two steps on the broken stretch, by every rule; one of them is kept.
    desk.set_span(BROKEN.start, BROKEN.stop)
    panel.steps.setValue(2)
    for rule in (*(rule for rule in RULES if rule != "replace"), "replace"):
        panel.rule.setCurrentText(RULES[rule])
        person.type("the red square", panel.sentence)
        person.click(panel.ask_button)
        person.rest()
        preview = dock.session.correct.preview
        frame = BROKEN[0]
        if preview is None:  # it would change nothing
            assert rule in ("keep", "intersect"), rule
            continue
        area = preview.mask(frame).sum() / TRUTH[frame].sum()
        if rule in ("union", "replace"):
            assert area > 0.95
        else:
            assert area < 0.6
    person.click(dock.footer.preview.keep_button)
    person.rest()
    assert min(iou(project, t) for t in BROKEN) > 0.95
    # Clean up: a hole and a speck on one frame.
    desk.go_to(2)
    layer = viewer.layers["the red square"]
    person.press("1")
    layer.brush_size = 4
    y, x = corner(2)
    person.stroke((y + 18, x + 18))
    person.press("2")
    person.stroke((110, 190))
    assert iou(project, 2) < 0.995
    for tool in ("fill holes", "largest piece only"):
        panel.tool.setCurrentText(tool)
        person.press("Shift+C")
        person.until(
            lambda: dock.session.correct.preview is not None and not dock.session.correct.job.busy
        )
        person.press("Y")
        person.rest()
    assert iou(project, 2) == 1
    # A locked range refuses the brush, and says so.
    desk.go_to(2)
    person.press("I")
    person.press("Shift+I")
    person.page("Objects")
    person.click(dock.objects.lock_button)
    person.rest()
    assert project.provenance(1)[2] == Provenance.LOCKED
    person.stroke((110, 20))
    assert iou(project, 2) == 1
    {a.text().replace("&", ""): a for a in _menu(dock)}["unlock the range"].trigger()
    person.rest()
    # Names, and split by painting; then merged again, and undone.
    row = dock.objects.objects_model.index(0, 1)
    dock.objects.objects.setFocus()
    dock.objects.objects.setCurrentIndex(row)
    person.press("F2", dock.objects.objects)
    person.type("square nadi", dock.objects.objects.findChild(QLineEdit))
    assert project.objects[1].name == "square nadi" and desk.frame == 2, "letters are letters"
    desk.go_to(10)
    person.press("Alt+I")
    actions = {a.text().replace("&", ""): a for a in _menu(dock)}
    actions["split by drawing: paint the part"].trigger()
    assert desk.object_id is not None and desk.object_id != 1
    new, (y, x) = desk.object_id, corner(10)
    person.fill(y, x, y + SIDE, x + 12, size=6)
    assert iou(project, 10) < 0.75 and project.object_mask(new, 10, 11).any()
    desk.choose(1)
    merge = next(a for a in _menu(dock) if a.text().startswith("&merge")).menu()
    assert merge is not None
    merge.actions()[0].trigger()
    person.rest()
    assert set(project.objects) == {1}, dock.footer.problem.line.text()
    assert iou(project, 10) > 0.98
    # It ends here: nothing after it; undone by the button, across a second run.
    desk.go_to(35)
    {a.text().replace("&", ""): a for a in _menu(dock)}["ends on this frame"].trigger()
    person.rest()
    assert not project.object_mask(1, 36, 40).any()
    ended = project.undo_name
    dock.tabs.setCurrentIndex(0)
    dock.find.options.steps.value = 2
    dock.find.sentences.set_texts(("the red square",))
    person.click(dock.find.run_button)
    person.rest()
    assert not project.object_mask(1, 36, 40).any(), "what a person said stays"
    assert iou(project, 20) > 0.95
    undo = dock.footer.history.undo_button
    for _ in range(10):
        last = project.undo_name == ended
        person.until(undo.isEnabled)
        person.click(undo)
        person.rest()
        if last:
            break
    assert project.object_mask(1, 36, 40).any(axis=(1, 2)).all()
    person.look("tools")


def _menu(dock: object) -> list:  # type: ignore[type-arg]
    """Return the entries below *more…*."""
    objects = dock.objects  # type: ignore[attr-defined]
    objects._fill_menu()
    return list(objects.menu.actions())
