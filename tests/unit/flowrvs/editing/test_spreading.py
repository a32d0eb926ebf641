from __future__ import annotations

import numpy as np
import pytest

from flowrvs.editing import Flows, copy_to_next, spread, spread_together
from flowrvs.errors import Cancelled, InputError, ProjectError, VideoError
from flowrvs.progress import CancelToken
from flowrvs.store import Project, Provenance
from flowrvs.video import open_video
from tests.fixtures.twins import crossing_twins


def draw(project, one, t, mask):
    labels = project.labels(one.layer)
    labels[t] = np.where(mask, one.id, labels[t])


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_spread_by_flow_is_previewed_accepted_and_undone(project, video, red, shapes_masks):
    truth = shapes_masks["red"]
    draw(project, red, 4, truth[4])
    events = []
    preview = spread(project, video, red.id)
    assert preview.frames == ()
    found = [s.frame for s in preview.run(progress=events.append)]
    assert sorted(found) == [t for t in range(12) if t != 4]
    assert events[-1].fraction == 1
    assert project.areas(red.id).astype(bool).sum() == 1  # nothing is written yet
    assert np.mean([iou(preview.mask(t), truth[t]) for t in preview.frames]) > 0.9
    steps = len(project.history.steps)
    assert preview.accept().tolist() == sorted(found)
    assert len(project.history.steps) == steps + 1
    expected = np.full(12, Provenance.MODEL)
    expected[4] = Provenance.HUMAN
    np.testing.assert_array_equal(project.provenance(red.id), expected)
    np.testing.assert_array_equal(project.object_mask(red.id, 7, 8)[0], preview.mask(7))
    project.undo()
    assert project.areas(red.id).astype(bool).tolist() == [t == 4 for t in range(12)]
    np.testing.assert_array_equal(project.object_mask(red.id, 4, 5)[0], truth[4])
    project.redo()
    assert project.areas(red.id).all()


def test_a_second_spread_revises_the_first_but_nothing_a_person_drew(
    project, video, red, shapes_masks
):
    truth = shapes_masks["red"]
    draw(project, red, 0, truth[0])
    flows = Flows(video)
    spread(project, video, red.id, flows=flows).finish().accept()
    small = truth[6].copy()
    small[:14] = False
    labels = project.labels(red.layer)
    labels[6] = np.where(small, red.id, 0)
    spread(project, video, red.id, flows=flows).finish().accept()
    np.testing.assert_array_equal(project.object_mask(red.id, 6, 7)[0], small)
    assert iou(project.object_mask(red.id, 7, 8)[0], np.roll(small, 3, 1)) > 0.8


def test_a_person_who_paints_meanwhile_keeps_the_frame(project, video, red, shapes_masks):
    draw(project, red, 0, shapes_masks["red"][0])
    preview = spread(project, video, red.id, stop=6).finish()
    draw(project, red, 3, shapes_masks["green"][3])
    assert preview.accept(checked=True).tolist() == [1, 2, 4, 5]
    np.testing.assert_array_equal(project.object_mask(red.id, 3, 4)[0], shapes_masks["green"][3])
    assert (project.provenance(red.id)[:6] == Provenance.HUMAN).all()


def test_twins_that_a_person_drew_in_one_layer_are_told_apart(tmp_path):
    frames, masks = crossing_twins()
    with open_video(frames) as video, Project.create(tmp_path / "b", video.info) as project:
        layer = project.add_layer("twins").id
        behind, front = (project.add_object(name, layer) for name in ("behind", "front"))
        other = project.add_object("elsewhere", project.add_layer("another").id)
        draw(project, behind, 0, masks[0, 0])
        alone = spread(project, video, behind.id).finish()
        draw(project, front, 0, masks[1, 0])
        draw(project, other, 0, np.ones_like(masks[1, 0]))  # may overlap: it takes nothing
        both = spread(project, video, behind.id).finish()
        assert iou(alone.mask(20), masks[0, 20]) < 0.8 < 0.95 < iou(both.mask(20), masks[0, 20])
        front_too = spread(project, video, front.id).finish()
        assert iou(front_too.mask(20), masks[1, 20]) > 0.95


def test_chosen_keys_stop_at_other_frames_of_a_person(project, video, red, shapes_masks):
    for t in (2, 9):
        draw(project, red, t, shapes_masks["red"][t])
    preview = spread(project, video, red.id, keys=[2], method="flow").finish()
    assert preview.frames == (0, 1, 3, 4, 5, 6, 7, 8)
    copied = spread(project, video, red.id, keys=[2], method="copy").finish()
    assert copied.frames == preview.frames


def test_a_lost_object_is_told(project, red, shapes_frames, shapes_masks):
    frames = shapes_frames.copy()
    frames[7:] = shapes_frames[0, 0, 0]  # the squares are gone
    with open_video(frames) as video:
        draw(project, red, 3, shapes_masks["red"][3])
        preview = spread(project, video, red.id).finish()
        assert preview.frames == (0, 1, 2, 4, 5, 6)
        assert preview.lost == (range(7, 12),) and preview.lost_text == "lost after frame 6"
    assert spread(project, None, red.id, method="copy").finish().lost_text == ""


def test_an_absence_ends_the_spread(project, video, red, shapes_masks):
    draw(project, red, 2, shapes_masks["red"][2])
    project.mark_absent(red.id, 5, 7)
    assert spread(project, video, red.id).finish().frames == (0, 1, 3, 4)


def test_shapes_without_the_video(project, video, red, shapes_masks):
    for t in (1, 8):
        draw(project, red, t, shapes_masks["red"][t])
    preview = spread(project, None, red.id, method="shape").finish()
    assert preview.frames == (2, 3, 4, 5, 6, 7)
    assert min(iou(preview.mask(t), shapes_masks["red"][t]) for t in preview.frames) > 0.9
    assert preview.certainty(2) > preview.certainty(4)


def test_shapes_go_by_all_frames_that_a_person_drew(project, red, shapes_masks):
    """Also by those that were not chosen: their shapes are known better than any mixture."""
    truth = shapes_masks["red"]
    small = truth[5].copy()
    small[:14] = False
    for t, mask in ((1, truth[1]), (5, small), (9, truth[9])):
        draw(project, red, t, mask)
    preview = spread(project, None, red.id, keys=[1, 9], method="shape").finish()
    assert preview.frames == (2, 3, 4, 6, 7, 8)
    assert preview.mask(4).sum() < 0.75 * truth[4].sum()
    assert preview.certainty(2) == preview.certainty(4) == preview.certainty(6) == 0.5
    np.testing.assert_array_equal(project.object_mask(red.id, 5, 6)[0], small)


def test_copy_takes_the_nearest_key(project, red, shapes_masks):
    truth = shapes_masks["red"]
    draw(project, red, 2, truth[2])
    draw(project, red, 8, truth[8])
    preview = spread(project, None, red.id, method="copy", start=3).finish()
    assert preview.frames == (3, 4, 5, 6, 7, 9, 10, 11)
    for t, key in ((3, 2), (5, 2), (6, 8), (11, 8)):
        np.testing.assert_array_equal(preview.mask(t), truth[key])
    assert preview.certainty(3) == 0.5 and preview.certainty(11) == 0.25
    # A key says nothing of what lies beyond another frame that was drawn.
    for key, reached in ((2, (0, 1, *range(3, 8))), (8, (*range(3, 8), 9, 10, 11))):
        preview = spread(project, None, red.id, keys=[key], method="copy").finish()
        assert preview.frames == reached


def test_copy_to_next_and_back(project, video, red, shapes_masks):
    draw(project, red, 5, shapes_masks["red"][5])
    draw(project, red, 8, shapes_masks["red"][8])
    ahead = copy_to_next(project, red.id, 5, 10).finish()
    assert ahead.frames == (6, 7) and ahead.name == "copy 'red', frame 5 to 7"
    back = copy_to_next(project, red.id, 5, -2)
    assert back.finish().frames == (3, 4) and back.name == "copy 'red', frame 5 to 3"
    assert copy_to_next(project, red.id, 7, 1).name == "copy 'red', frame 7 to 7"
    ahead.accept([6])
    np.testing.assert_array_equal(project.object_mask(red.id, 6, 7)[0], shapes_masks["red"][5])
    assert not project.present(red.id)[7]


def test_a_frame_that_cannot_be_read_ends_its_gap_alone(
    project, video, red, shapes_masks, monkeypatch
):
    green = project.add_object("green", project.add_layer("two").id)
    for t in (3, 8):
        draw(project, red, t, shapes_masks["red"][t])
    draw(project, green, 9, shapes_masks["green"][9])
    read = video.read

    def damaged(start, stop):
        if start <= 6 < stop:
            raise VideoError("Frame 6 is damaged.")
        return read(start, stop)

    monkeypatch.setattr(video, "read", damaged)
    group = spread_together(project, video, [red.id, green.id], method="flow")
    with pytest.raises(VideoError, match=r"^Frame 6 is damaged\.$"):
        group.finish()
    found = {i: {*preview.frames} for i, preview in group.previews.items()}
    assert found[red.id] >= {0, 1, 2, 9, 10, 11} and found[green.id] >= {10, 11}


def test_what_is_removed_before_a_spread_begins_is_left_out(project, red, shapes_masks):
    green = project.add_object("green", project.add_layer("two").id)
    for thing in (red, green):
        draw(project, thing, 3, shapes_masks["red"][3])
    group = spread_together(project, None, [red.id, green.id], method="copy")
    project.remove_object(red.id)
    group.finish()
    assert {i: len(p.frames) for i, p in group.previews.items()} == {red.id: 0, green.id: 11}


def test_cancel_keeps_what_was_found(project, video, red, shapes_masks):
    draw(project, red, 0, shapes_masks["red"][0])
    token = CancelToken()
    preview = spread(project, video, red.id)
    with pytest.raises(Cancelled):
        for part in preview.run(cancel=token):
            if part.frame == 3:
                token.cancel()
    assert preview.frames == (1, 2, 3)
    assert preview.accept().tolist() == [1, 2, 3]


def test_bad_input_is_told_in_one_line(project, video, red, shapes_frames, shapes_masks):
    draw(project, red, 0, shapes_masks["red"][0])
    other = open_video(shapes_frames[:5])
    for kind, call in [
        (InputError, lambda: spread(project, video, 77)),
        (InputError, lambda: spread(project, video, red.id, keys=[])),
        (InputError, lambda: spread(project, video, red.id, keys=[40])),
        (InputError, lambda: spread(project, video, red.id, method="magic")),
        (InputError, lambda: spread(project, video, red.id, start=8, stop=3)),
        (InputError, lambda: spread(project, None, red.id)),
        (InputError, lambda: copy_to_next(project, red.id, 0, 0)),
        (InputError, lambda: spread(project, video, red.id).mask(3)),
        (ProjectError, lambda: spread(project, other, red.id)),
    ]:
        with pytest.raises(kind) as error:
            call()
        assert "\n" not in str(error.value)
