"""Masks that wait: what is kept of them, whose they become, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from flowrvs.editing import Preview, PreviewGroup
from flowrvs.editing.preview import KeyMasks, _runs, counted
from flowrvs.errors import Cancelled, InputError
from flowrvs.masks.propagate import Spread
from flowrvs.progress import CancelToken, Progress
from flowrvs.store import ObjectRecord, Project, Provenance

T, H, W = 12, 48, 64


@pytest.fixture
def masks() -> np.ndarray:
    """Random ones, of which frame 3 is empty and frame 4 full."""
    found = np.random.default_rng(2).random((T, H, W)) < 0.3
    found[3], found[4] = False, True
    return found


def proposed(project: Project, thing: ObjectRecord, masks: np.ndarray, **how: bool) -> Preview:
    def work(cancel: CancelToken | None, progress: object) -> Iterator[Spread]:
        return iter([Spread(t, mask, t / T) for t, mask in enumerate(masks)])

    return Preview(project, thing.id, "propose", work, **how)


def mixed(project: Project, thing: ObjectRecord) -> np.ndarray:
    """Frame 2 is a person's, 5 to 7 the model's, of which 6 is locked; return all masks."""
    labels = project.labels(thing.layer)
    labels[2] = np.where(np.eye(H, W, dtype=bool), thing.id, 0)
    project.write_masks(thing.id, 5, np.ones((3, H, W), bool), provenance=Provenance.MODEL)
    project.lock_frames(thing.id, 6, 7)
    return project.object_mask(thing.id, 0, T)


def test_it_gives_back_what_it_was_given(
    project: Project, red: ObjectRecord, masks: np.ndarray
) -> None:
    preview = proposed(project, red, masks)
    assert preview.frames == () and preview.certainty(5) == 0
    with pytest.raises(InputError, match="no mask for frame 5"):
        preview.mask(5)
    for found in preview.run():
        assert preview.frames == tuple(range(found.frame + 1))  # at hand before it is told
    for t in range(T):
        np.testing.assert_array_equal(preview.mask(t), masks[t])
        assert preview.certainty(t) == t / T
    preview.take(Spread(0, masks[4], 0.9, False))  # a later word counts
    assert preview.mask(0).all() and preview.certainty(0) == 0.9
    assert not project.areas(red.id).any() and not project.history.steps
    with pytest.raises(InputError, match="no object 9"):
        Preview(project, 9, "propose", lambda *_: iter(()))


@pytest.mark.parametrize(
    ("redraw", "checked", "written", "theirs"),
    [
        (False, False, {0, 1, 3, 4, 5, 7, 8, 9, 10, 11}, set()),
        (True, False, {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11}, set()),
        (False, True, {0, 1, 3, 4, 5, 7, 8, 9, 10, 11}, {0, 1, 3, 4, 5, 7, 8, 9, 10, 11}),
        (True, True, {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11}, {0, 1, 3, 4, 5, 7, 8, 9, 10, 11}),
    ],
)
def test_what_is_accepted_and_whose_it_is(
    project: Project,
    red: ObjectRecord,
    masks: np.ndarray,
    redraw: bool,
    checked: bool,
    written: set[int],
    theirs: set[int],
) -> None:
    before = mixed(project, red)
    steps = len(project.history.steps)
    preview = proposed(project, red, masks, redraw=redraw).finish()
    preview.who = "somebody"
    assert preview.accept(checked=checked).tolist() == sorted(written)
    after, drawn = project.object_mask(red.id, 0, T), project.provenance(red.id)
    for t in range(T):
        np.testing.assert_array_equal(after[t], masks[t] if t in written else before[t])
        owner = Provenance.HUMAN if t in theirs | {2} else Provenance.MODEL
        assert drawn[t] == (Provenance.LOCKED if t == 6 else owner)
    assert len(project.history.steps) == steps + 1 and project.undo_name == "propose"
    row = project.changes(red.id, 0)[0]
    assert (row.who, row.kind) == ("somebody", "human")
    project.undo()
    np.testing.assert_array_equal(project.object_mask(red.id, 0, T), before)


def test_some_of_its_frames(project: Project, red: ObjectRecord, masks: np.ndarray) -> None:
    preview = proposed(project, red, masks[:9]).finish()
    assert preview.accept([8, 1, 8, 11]).tolist() == [1, 8]
    assert np.flatnonzero(project.provenance(red.id)).tolist() == [1, 8]
    steps = len(project.history.steps)
    assert preview.accept([10, 11]).tolist() == [] and len(project.history.steps) == steps


def test_who_stops_looking_ends_the_work(project: Project, red: ObjectRecord) -> None:
    ended = []

    def work(cancel: object, progress: object) -> Iterator[Spread]:
        try:
            for t in range(T):
                yield Spread(t, np.ones((H, W), bool), 1)
        finally:
            ended.append(True)

    preview = Preview(project, red.id, "propose", work)
    run = preview.run()
    next(run)
    run.close()
    assert ended == [True] and preview.frames == (0,)


def test_neighbours_of_one_owner_are_written_together() -> None:
    owners = np.array([1, 1, 2, 3, 0, 0, 1, 2, *[0] * 80], np.uint8)
    frames = (0, 1, 2, 3, 4, 6, 7, *range(10, 80))
    runs = list(_runs(frames, owners))
    assert runs == [(0, 2), (2, 4), (4, 5), (6, 7), (7, 8), (10, 42), (42, 74), (74, 80)]
    assert list(_runs((5,), owners)) == [(5, 6)]


def test_where_it_was_lost(project: Project, red: ObjectRecord, masks: np.ndarray) -> None:
    preview = proposed(project, red, masks[:3]).finish()
    assert preview.lost == () and preview.lost_text == ""
    labels = project.labels(red.layer)
    labels[8] = np.where(masks[4], red.id, 0)
    preview.note_lost(range(9, 12))
    assert preview.lost_text == "lost after frame 8"
    preview.note_lost(range(3, 8))
    preview.note_lost(range(5, 8))
    assert preview.lost == (range(3, 8), range(5, 8), range(9, 12))
    assert preview.lost_text == "lost between frames 2 and 8, before frame 8, after frame 8"


def test_a_group_is_one_step(project: Project, red: ObjectRecord, masks: np.ndarray) -> None:
    blue = project.add_object("blue", project.add_layer("two").id)

    def work(cancel: object, progress: object) -> Iterator[tuple[int, Spread]]:
        for t in range(4):
            yield red.id, Spread(t, masks[t], 0.5)
        yield blue.id, Spread(2, ~masks[2], 0.7)

    group = PreviewGroup(project, [red.id, blue.id], "both", work).finish()
    group.who = "somebody"
    assert group.frames == (0, 1, 2, 3) and group.mask(2).all()
    np.testing.assert_array_equal(group.mask(1), masks[1])
    assert group.previews[blue.id].certainty(2) == 0.7 and group.lost_text == ""
    written = {i: frames.tolist() for i, frames in group.accept([1, 2], checked=True).items()}
    assert written == {red.id: [1, 2], blue.id: [2]}
    assert project.provenance(blue.id)[2] == Provenance.HUMAN
    assert len(project.history.steps) == 1 and project.undo_name == "both"
    assert project.changes(blue.id, 2)[0].who == "somebody"
    np.testing.assert_array_equal(project.object_mask(blue.id, 2, 3)[0], ~masks[2])


def test_key_masks_are_read_when_they_are_asked_for(project: Project, red: ObjectRecord) -> None:
    blue = project.add_object("blue", project.add_layer("two").id)
    keys = KeyMasks(project, {red.id: [5, 2], blue.id: [5, 9]})
    assert list(keys) == [2, 5, 9] and len(keys) == 3 and keys.objects == (red.id, blue.id)
    assert 5 in keys and 3 not in keys
    with pytest.raises(KeyError):
        keys[3]
    project.labels(blue.layer)[5] = np.full((H, W), blue.id, np.uint16)
    assert {i: mask.all() for i, mask in keys[5].items()} == {red.id: False, blue.id: True}
    assert list(keys[2]) == [red.id] and list(keys[9]) == [blue.id]
    project.remove_object(blue.id)
    assert {i: mask.any() for i, mask in keys[5].items()} == {red.id: False, blue.id: False}
    assert keys[9][blue.id].shape == (H, W)


def test_what_was_removed_is_left_out_of_what_is_kept(project: Project, red: ObjectRecord) -> None:
    blue = project.add_object("blue", project.add_layer("two").id)

    def work(cancel: CancelToken | None, progress: object) -> Iterator[tuple[int, Spread]]:
        return ((i, Spread(1, np.ones((H, W), bool), 0.5)) for i in (red.id, blue.id))

    group = PreviewGroup(project, [red.id, blue.id], "both", work).finish()
    project.remove_object(red.id)
    assert {i: frames.tolist() for i, frames in group.accept().items()} == {blue.id: [1]}
    assert project.object_mask(blue.id, 1, 2).all()
    steps = project.history.steps
    project.remove_object(blue.id)
    with pytest.raises(InputError, match=r"^The objects were removed: undo that to keep both, or "):
        group.accept()
    assert len(project.history.steps) == len(steps) + 1


def test_counting_stops_before_the_next_and_tells_what_is_done() -> None:
    cancel, events = CancelToken(), list[Progress]()
    items = counted("abc", 3, "reading", cancel, events.append)
    assert next(items) == "a" and events == []
    assert next(items) == "b"
    assert [(e.done, e.total, e.message) for e in events] == [(1, 3, "reading")]
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(items)
    assert [e.done for e in events] == [1, 2]
    assert list(counted("abc", 3, "reading", None, None)) == ["a", "b", "c"]
