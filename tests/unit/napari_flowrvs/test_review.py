"""The review queue and the history, without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.records import VideoInfo
from flowrvs.store import Project, Provenance
from napari_flowrvs.presenters.desk import Desk
from napari_flowrvs.presenters.history import HistoryPresenter
from napari_flowrvs.presenters.review import ReviewPresenter
from napari_flowrvs.presenters.strip import StripPresenter

FRAMES = 16
BROKEN = 9


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A square that moves right and is a quarter as large on one frame; and its shadow."""
    masks = np.zeros((FRAMES, 40, 60), bool)
    for t in range(FRAMES):
        masks[t, 8:24, 4 + 2 * t : 20 + 2 * t] = True
    broken = masks.copy()
    broken[BROKEN, 16:] = False
    broken[BROKEN, :, : 4 + 2 * BROKEN + 8] = False
    with Project.create(tmp_path / "clip", VideoInfo(None, "array", FRAMES, 40, 60)) as made:
        for text, drawn in (("the square", broken), ("the shadow", masks)):
            _, one = made.add_prompt(text)
            made.write_model(one.layer, one.id, 0, drawn)
        yield made


@pytest.fixture
def desk(project: Project) -> Desk:
    desk = Desk()
    desk.frame_requested.connect(desk.set_frame)
    return desk


@pytest.fixture
def review(desk: Desk, project: Project) -> ReviewPresenter:
    presenter = ReviewPresenter(desk)
    desk.set_project(project)
    presenter.set_measuring(True)
    return presenter


def test_the_most_doubtful_frame_comes_first(review: ReviewPresenter, desk: Desk) -> None:
    queue = review.queue()
    assert len(queue) == FRAMES and queue[0].frame == BROKEN and queue[0].doubt > 0.2
    assert {each.object_id for each in queue} == {1}
    assert queue[0].doubt == max(each.doubt for each in queue)
    review.next()
    assert desk.frame == BROKEN
    review.next()
    assert desk.frame == queue[1].frame
    review.previous()
    assert desk.frame == BROKEN


def test_the_strip_shows_the_doubt(review: ReviewPresenter, desk: Desk) -> None:
    strip = StripPresenter(desk)
    review.doubt_changed.connect(strip.set_doubt)
    desk.set_object(2)
    desk.set_object(1)
    assert strip.doubt is not None and int(strip.doubt.argmax()) == BROKEN


def test_verdicts_shorten_the_queue_and_go_on(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    review.next()
    second = review.queue()[1].frame
    review.accept()
    assert project.provenance(1)[BROKEN] == Provenance.HUMAN
    assert project.object_mask(1, BROKEN, BROKEN + 1).any(), "accepted as it is"
    assert desk.frame == second and len(review.queue()) == FRAMES - 1
    review.absent()
    assert not project.object_mask(1, second, second + 1).any()
    assert project.provenance(1)[second] == Provenance.HUMAN
    assert review.progress() == (2, FRAMES)
    desk.set_frame(FRAMES - 1)
    review.accept_here()
    assert review.queue() == [] and review.progress() == (FRAMES, FRAMES)
    review.next()
    assert desk.frame == FRAMES - 1, "nothing is left: stay"


def test_a_sentence_is_reviewed_with_all_its_objects(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    project.set_expression_objects("0", [1, 2])
    review.set_scope("0")
    assert review.objects() == (1, 2) and review.progress() == (0, 2 * FRAMES)
    assert {each.object_id for each in review.queue()} == {1, 2}
    desk.set_frame(3)
    review.accept()
    assert project.provenance(1)[3] == project.provenance(2)[3] == Provenance.HUMAN
    assert project.undo_name == "accept frame 3", "one step for both"
    other = next(each for each in review.queue() if each.object_id == 2)
    review.show(other)
    assert (desk.object_id, desk.frame) == (2, other.frame)


def test_fixing_asks_for_the_brush(review: ReviewPresenter, desk: Desk) -> None:
    asked: list[int] = []
    review.fix_requested.connect(asked.append)
    review.fix()
    assert asked == [1]
    desk.set_object(None)
    with pytest.raises(InputError, match="choose one"):
        review.fix()
    with pytest.raises(InputError, match="nothing to review"):
        review.accept()


def test_a_corrected_frame_is_measured_again(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    before = {each.frame: each.doubt for each in review.queue()}
    project.labels(1)[BROKEN] = 0
    project.labels(1)[BROKEN, 8:24, 4 + 2 * BROKEN : 20 + 2 * BROKEN] = 1
    desk.touched(1, BROKEN, BROKEN + 1)
    review.measure()
    after = {each.frame: each.doubt for each in review.queue()}
    assert BROKEN not in after, "it is a person's now"
    assert after[BROKEN - 1] <= before[BROKEN - 1]


def test_undo_and_redo_go_to_where_something_happened(
    review: ReviewPresenter, desk: Desk, project: Project
) -> None:
    history = HistoryPresenter(desk)
    told: list[str] = []
    history.done.connect(told.append)
    desk.set_frame(4)
    review.accept()
    desk.set_frame(12)
    assert history.undo_name == "accept frame 4"
    history.undo()
    assert project.provenance(1)[4] == Provenance.MODEL
    assert desk.frame == 4 and told == ["Undone: accept frame 4"]
    assert history.redo_name == "accept frame 4"
    history.redo()
    assert project.provenance(1)[4] == Provenance.HUMAN
    desk.set_frame(FRAMES - 1)
    review.accept_here()
    history.undo()
    assert review.progress() == (1, FRAMES)
