from __future__ import annotations

import numpy as np
import pytest

from flowrvs.editing import clean, combine, split_components
from flowrvs.errors import Cancelled, InputError
from flowrvs.progress import CancelToken
from flowrvs.store import Provenance


@pytest.fixture
def dirty(project, red, shapes_masks):
    """The model drew both squares and a speck as one object; a person drew frame 5 so."""
    masks = shapes_masks["red"] | shapes_masks["green"]
    masks[:, 0, 0] = True
    project.write_model(red.layer, red.id, 0, masks)
    labels = project.labels(red.layer)
    labels[5] = np.where(masks[5], red.id, 0)
    return masks


def test_clean_is_one_step_and_keeps_who_drew(project, red, dirty, shapes_masks):
    preview = clean(project, red.id, 3, 8, "specks", smallest=4).finish()
    assert preview.name == "specks 'red', frames 3 to 7"
    assert preview.frames == (3, 4, 5, 6, 7)
    assert preview.accept().tolist() == [3, 4, 5, 6, 7]
    assert not project.object_mask(red.id, 3, 8)[:, 0, 0].any()
    assert project.object_mask(red.id, 2, 3)[0, 0, 0]
    drawn = project.provenance(red.id)
    assert drawn[5] == Provenance.HUMAN
    assert set(np.delete(drawn, 5)) == {Provenance.MODEL}
    project.undo()
    np.testing.assert_array_equal(project.object_mask(red.id, 0, 12), dirty)


def test_clean_leaves_locked_frames_and_shows_only_changes(project, red, dirty, shapes_masks):
    project.lock_frames(red.id, 4, 5)
    largest = clean(project, red.id, tool="largest").finish()
    done = largest.accept()
    assert 4 not in done and len(done) == 11
    np.testing.assert_array_equal(project.object_mask(red.id, 6, 7)[0], shapes_masks["red"][6])
    assert clean(project, red.id, 5, 12, "largest").finish().frames == ()


@pytest.mark.parametrize(
    ("rule", "of"),
    [
        ("union", lambda old, new: old | new),
        ("subtract", lambda old, new: old & ~new),
        ("intersect", lambda old, new: old & new),
        ("replace", lambda old, new: new),
        ("keep", lambda old, new: old),
    ],
)
def test_combine(project, red, dirty, shapes_masks, rule, of):
    new = shapes_masks["red"].copy()
    new[:, 0, 0:3] = True
    events = []
    preview = combine(project, red.id, [(3, new[3]), (5, new[5]), (7, dirty[7])], rule)
    preview.finish(progress=events.append)
    assert preview.name == f"{rule} 'red'" and [e.done for e in events] == [1, 2, 3]
    assert 3 in preview.frames or rule == "keep"  # whose masks change alone
    assert 7 in preview.frames if rule == "subtract" else 7 not in preview.frames
    preview.accept()
    expected = dirty.copy()
    expected[3], expected[7] = of(dirty[3], new[3]), of(dirty[7], dirty[7])
    np.testing.assert_array_equal(project.object_mask(red.id, 0, 12), expected)


def test_split_components_follows_the_parts(project, red, dirty, shapes_masks):
    steps = len(project.history.steps)
    made = split_components(project, red.id, smallest=4)
    assert len(made) == 1
    assert len(project.history.steps) == steps + 1
    green = project.object_mask(made[0].id, 0, 12)
    np.testing.assert_array_equal(green, shapes_masks["green"])
    assert project.provenance(made[0].id)[5] == Provenance.HUMAN
    red_now = project.object_mask(red.id, 0, 12)
    red_now[:, 0, 0] = False
    np.testing.assert_array_equal(red_now, shapes_masks["red"])
    project.undo()
    np.testing.assert_array_equal(project.object_mask(red.id, 0, 12), dirty)
    assert list(project.objects) == [red.id]


def test_a_part_that_leaps_belongs_to_the_nearest(project, red):
    masks = np.zeros((12, 48, 64), bool)
    masks[0, 4:20, 4:20] = masks[0, 30:40, 40:50] = True
    masks[1, 30:40, 52:62] = True  # beside the smaller one, and the larger one is gone
    project.write_model(red.layer, red.id, 0, masks)
    (made,) = split_components(project, red.id, smallest=4)
    assert project.areas(red.id)[:3].tolist() == [256, 0, 0]
    assert project.areas(made.id)[:3].tolist() == [100, 100, 0]


@pytest.mark.parametrize("together", [2, 5, 64])
def test_parts_are_followed_from_where_they_were_last(project, red, monkeypatch, together):
    """Two that cross far from where they began, beside specks that go with the nearest."""
    monkeypatch.setattr("flowrvs.editing.tools._TOGETHER", together)
    parts = np.zeros((2, 12, 48, 64), bool)
    for t in range(12):
        parts[0, t, 4:16, 2 + 4 * t : 12 + 4 * t] = True
        parts[1, t, 30:40, 50 - 4 * t : 60 - 4 * t] = True
        parts[1, t, 42, 50 - 4 * t] = True  # one pixel
    project.write_model(red.layer, red.id, 0, parts.any(0))
    events = []
    (made,) = split_components(project, red.id, progress=events.append)
    np.testing.assert_array_equal(project.object_mask(red.id, 0, 12), parts[0])
    np.testing.assert_array_equal(project.object_mask(made.id, 0, 12), parts[1])
    assert [(e.done, e.total) for e in events] == [(n, 12) for n in range(1, 13)]


def test_a_split_of_some_frames_leaves_the_others(project, red, dirty, shapes_masks):
    (green,) = split_components(project, red.id, 3, 6, smallest=4)
    there = [0] * 3 + [1] * 3 + [0] * 6
    assert project.areas(green.id).astype(bool).tolist() == [bool(n) for n in there]
    np.testing.assert_array_equal(project.object_mask(red.id, 6, 12), dirty[6:])
    np.testing.assert_array_equal(project.object_mask(green.id, 4, 5)[0], shapes_masks["green"][4])


def test_nothing_to_split(project, red, shapes_masks):
    project.write_model(red.layer, red.id, 0, shapes_masks["red"])
    assert split_components(project, red.id) == []


def test_a_cancelled_split_leaves_no_trace(project, red, dirty, monkeypatch):
    monkeypatch.setattr("flowrvs.editing.tools._TOGETHER", 2)
    token, events = CancelToken(), []

    def progress(event):
        events.append(event)
        if event.done == 5:
            token.cancel()

    with pytest.raises(Cancelled):
        split_components(project, red.id, smallest=4, cancel=token, progress=progress)
    assert len(events) == 5 and list(project.objects) == [red.id]
    np.testing.assert_array_equal(project.object_mask(red.id, 0, 12), dirty)


def test_bad_input_is_told_in_one_line(project, red):
    for call in [
        lambda: clean(project, red.id, tool="polish"),
        lambda: clean(project, red.id, tool="smooth", smallest=3),
        lambda: clean(project, red.id, tool="smooth", radius=-1),
        lambda: clean(project, 99),
        lambda: clean(project, red.id, 5, 3),
        lambda: combine(project, red.id, [], "xor"),
        lambda: split_components(project, red.id, 3, 99),
    ]:
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)
