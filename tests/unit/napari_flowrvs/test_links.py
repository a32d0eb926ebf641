"""Links after a prompt, and changes that come from other threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrvs.records import VideoInfo
from flowrvs.store import Project
from napari_flowrvs.bridge import Bridge
from napari_flowrvs.desk import Changed, Desk
from napari_flowrvs.links.panel import LinkBar
from napari_flowrvs.links.presenter import Link, LinksPresenter


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Two squares; a third sentence has drawn both of them once more."""
    left, right = np.zeros((2, 8, 40, 60), bool)
    left[:, 5:20, 5:20] = True
    right[:, 15:35, 30:50] = True
    with Project.create(tmp_path / "clip", VideoInfo(None, "array", 8, 40, 60)) as made:
        for text, drawn in (("left", left), ("right", right), ("both squares", left | right)):
            _, one = made.add_prompt(text)
            made.write_model(one.layer, one.id, 0, drawn)
        yield made


@pytest.fixture
def links(project: Project) -> LinksPresenter:
    desk = Desk()
    presenter = LinksPresenter(desk)
    desk.set_project(project)
    return presenter


def test_a_mask_that_is_there_already_is_offered_as_a_link(
    links: LinksPresenter, project: Project
) -> None:
    asked: list[Link | None] = []
    chosen: list[int] = []
    links.asked.connect(asked.append)
    links.desk.object_requested.connect(chosen.append)
    links.look(project, [3])
    assert links.link is not None and asked == [links.link]
    assert links.link.question == "“both squares” looks like objects 1 + 2 (100% the same)."
    links.accept()
    assert project.expressions["2"].object_ids == {1, 2} and 3 not in project.objects
    assert asked[-1] is None and chosen == [1], "the first of those that it means"
    project.undo()
    assert project.expressions["2"].object_ids == {3}
    assert project.object_mask(3, 0, 1).any()


def test_keeping_it_as_new_changes_nothing(links: LinksPresenter, project: Project) -> None:
    links.look(project, [3])
    links.decline()
    assert links.link is None and project.expressions["2"].object_ids == {3}
    links.look(project, [1])
    assert links.link is None, "it is like no other"


def test_of_two_new_objects_the_first_stays(links: LinksPresenter, project: Project) -> None:
    _, twin = project.add_prompt("the same again")
    project.write_model(
        twin.layer, twin.id, 0, project.object_mask(1, 0, project.video.frame_count)
    )
    questions: list[object] = []
    links.asked.connect(questions.append)
    links.look(project, [1, twin.id])
    assert links.link is not None and links.link.object_id == twin.id
    assert links.link.match.object_ids == (1,)
    links.decline()
    assert links.link is None and len(questions) == 2, "not asked the other way round"


def test_the_question_is_asked_in_the_dock(
    qtbot: Any, links: LinksPresenter, project: Project
) -> None:
    def attempt(action: Any) -> bool:
        action()
        return True

    bar = LinkBar(links, attempt)
    qtbot.addWidget(bar)
    assert bar.isHidden()
    links.look(project, [3])
    assert not bar.isHidden() and "objects 1 + 2" in bar.text.text()
    bar.link_button.click()
    assert bar.isHidden() and project.expressions["2"].object_ids == {1, 2}


def test_changes_are_gathered_whichever_thread_they_come_from(qtbot: Any, project: Project) -> None:
    desk = Desk()
    bridge = Bridge(desk)
    drawn: list[Changed] = []
    written: list[Changed] = []
    steps: list[int] = []
    desk.contents_changed.connect(drawn.append)
    desk.masks_written.connect(written.append)
    desk.history_changed.connect(lambda: steps.append(1))
    desk.set_project(project)

    def run() -> None:
        for t in range(4):
            project.write_model(1, 1, t, np.zeros((1, 40, 60), bool))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not written, "not on that thread"
    qtbot.waitUntil(lambda: bool(written), timeout=20_000)
    assert written == [Changed(1, 0, 4)] and not drawn
    project.lock_frames(2, 3, 5)
    qtbot.waitUntil(lambda: bool(drawn) and bool(steps), timeout=20_000)
    assert drawn == [Changed(2, 3, 5)]
    project.labels(2)[6, 0, 0] = 2
    bridge.painted(2)
    before = len(written)
    qtbot.waitUntil(lambda: len(written) > before, timeout=20_000)
    assert len(drawn) == 1, "napari has drawn the stroke itself"
    bridge.close()
    project.lock_frames(2, 0, 1)
    qtbot.wait(100)
    assert len(drawn) == 1


def test_questions_of_what_has_gone_are_not_asked(links: LinksPresenter, project: Project) -> None:
    desk, asked = links.desk, list[Any]()
    chosen: list[int] = []
    links.asked.connect(asked.append)
    desk.object_requested.connect(chosen.append)
    twins = [project.add_prompt(text)[1] for text in ("the same", "and again")]
    for twin in twins:
        project.write_model(twin.layer, twin.id, 0, project.object_mask(2, 0, 8))
    links.look(project, [3, twins[0].id])
    assert [link.object_id for link in links._links] == [twins[0].id, 3]
    project.remove_object(3)
    links.accept()
    assert links.link is None and asked[-1] is None and chosen == [2]
    assert twins[0].id not in project.objects
    assert project.expressions["3"].object_ids == {2}
    links.look(project, [twins[1].id])
    assert links.link is not None and links.link.match.object_ids == (2,)
    desk.set_project(None)
    assert links.link is None and asked[-1] is None
    links.accept()
    assert twins[1].id in project.objects


def test_what_is_removed_takes_its_question_along(
    links: LinksPresenter, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, failed = list[Any](), list[Any]()
    links.asked.connect(asked.append)
    links.job.failed.connect(failed.append)
    twin = project.add_prompt("the same")[1]
    project.write_model(twin.layer, twin.id, 0, project.object_mask(2, 0, 8))
    links.look(project, [3, twin.id])
    first, second = links._links
    assert (first.object_id, second.object_id) == (twin.id, 3) and asked == [first]
    project.remove_object(twin.id)
    links.desk.catalog_changed.emit()
    assert links.link is second and asked == [first, second]
    project.remove_object(1)  # of those that it looks like
    links.desk.catalog_changed.emit()
    assert links.link is None and asked == [first, second, None]
    # While they are compared: the others still are.
    project.undo()
    mask = vars(Project)["object_mask"]

    def removed(self: Project, object_id: int, start: int, stop: int) -> Any:
        if object_id == 1 and 1 in self.objects:
            self.remove_object(1)
            self.add_object("another", 2)
        return mask.__get__(self, Project)(object_id, start, stop)

    twin = project.add_prompt("the same again")[1]
    project.write_model(twin.layer, twin.id, 0, project.object_mask(2, 0, 8))
    monkeypatch.setattr(Project, "object_mask", removed)
    links.look(project, [3, twin.id])
    assert [link.object_id for link in links._links] == [twin.id] and failed == []


def test_a_stroke_of_two_frames_and_what_comes_of_a_closed_one(
    qtbot: Any, project: Project
) -> None:
    desk = Desk()
    bridge = Bridge(desk)
    drawn, written, others = list[Changed](), list[Changed](), list[str]()
    desk.contents_changed.connect(drawn.append)
    desk.masks_written.connect(written.append)
    desk.catalog_changed.connect(lambda: others.append("catalog"))
    desk.history_changed.connect(lambda: others.append("history"))
    desk.set_project(project)
    for t in (5, 2):
        project.labels(2)[t, 0, 0] = 2
    bridge.painted(2)
    qtbot.waitUntil(lambda: bool(drawn), timeout=20_000)
    assert drawn == [Changed(2, 2, 6)] and not written, "napari has drawn one frame at most"
    assert others == ["history"]
    project.labels(2)[3, 1, 1] = 2
    qtbot.waitUntil(lambda: len(drawn) == 2, timeout=20_000)
    assert drawn[1] == Changed(2, 3, 4) and not written, "what was painted is forgotten by then"
    others.clear()
    project.add_object("a new one", 1)
    qtbot.waitUntil(lambda: "catalog" in others, timeout=20_000)
    project.labels(2)[3, 2, 2] = 2
    desk.set_project(None)
    qtbot.wait(60)
    assert len(drawn) == 2, "of a project that is not the desk's any more"
