from __future__ import annotations

import numpy as np
import pytest

from flowrvs.editing import (
    Flows,
    Match,
    accept_link,
    doubt,
    link_offer,
    quick_doubt,
    review_order,
)
from flowrvs.errors import Cancelled, InputError
from flowrvs.masks import doubt as measures
from flowrvs.progress import CancelToken
from flowrvs.store import Provenance


@pytest.fixture
def both(project, shapes_masks):
    """The two squares, each in its layer, and a third object that a prompt made of both."""
    ids = []
    for name in ("red", "green"):
        one = project.add_object(name, project.add_layer(name).id)
        project.write_model(one.layer, one.id, 0, shapes_masks[name])
        ids.append(one.id)
    expression, new = project.add_prompt("the squares")
    union = shapes_masks["red"] | shapes_masks["green"]
    union[:, :8] = False
    project.write_model(new.layer, new.id, 0, union)
    return ids, expression, new


def test_a_union_is_offered_linked_and_unlinked(project, both):
    ids, expression, new = both
    other = project.add_object("other", project.add_layer("other").id).id
    project.set_expression_objects(expression.exp_id, {new.id, other})
    apart = project.add_expression("what is of no square", [other]).exp_id
    offer = link_offer(project, new.id)
    assert offer is not None
    assert offer.object_ids == tuple(ids) and 0.8 < offer.iou < 1
    accept_link(project, new.id, offer)
    assert project.expressions[expression.exp_id].object_ids == {*ids, other}
    assert project.expressions[apart].object_ids == {other}
    assert new.id not in project.objects
    project.undo()
    assert project.expressions[expression.exp_id].object_ids == {new.id, other}
    assert project.areas(new.id).all()


def test_few_frames_are_enough_for_an_offer(project, both):
    seen = []
    offer = link_offer(project, both[2].id, most=3, progress=seen.append)
    assert len(seen) == 3 and offer == link_offer(project, both[2].id)
    # Those at the ends and in the middle: the rest may be anything.
    others = np.delete(np.arange(12), [0, 5, 11])
    for t in others.tolist():
        project.write_masks(both[2].id, t, np.zeros((1, 48, 64), bool), provenance=Provenance.MODEL)
    assert link_offer(project, both[2].id, most=3) == offer
    assert link_offer(project, both[2].id) is None


def test_no_offer(project, both):
    ids, _, new = both
    assert link_offer(project, ids[0]) is None
    assert link_offer(project, new.id, threshold=0.99) is None
    with pytest.raises(InputError, match="There is no object 99 in"):
        link_offer(project, 99)
    alone = project.add_object("alone", project.add_layer("alone").id)
    project.write_masks(alone.id, 0, np.ones((1, 48, 64), bool))
    for other in (*ids, new.id):  # where it is seen there is nothing else
        project.mark_absent(other, 0, 2)
    assert link_offer(project, alone.id) is None


def test_a_link_to_itself_or_of_nothing_is_refused(project, both):
    ids, expression, new = both
    before = project.expressions, [*project.objects], len(project.history.steps)
    for object_id, match in ((new.id, Match((ids[0], new.id), 0.9)), (99, Match((ids[0],), 0.9))):
        with pytest.raises(InputError) as error:
            accept_link(project, object_id, match)
        assert str(error.value) == (
            f"Object {object_id} cannot be linked to objects {match.object_ids}."
        )
    assert (project.expressions, [*project.objects], len(project.history.steps)) == before
    accept_link(project, new.id, Match((ids[1],), 0.9))
    assert project.undo_name == "link 'the squares'"
    assert project.expressions[expression.exp_id].object_ids == {ids[1]}


def test_an_offer_counts_what_lies_on_other_frames_too(project, both):
    """Each of the frames on which either of them is seen."""
    ids, _, new = both
    union = project.object_mask(new.id, 0, 12)
    project.write_masks(new.id, 6, np.zeros((6, 48, 64), bool), provenance=Provenance.MODEL)
    squares = project.object_mask(ids[0], 0, 12) | project.object_mask(ids[1], 0, 12)
    wanted = (union[:6] & squares[:6]).sum() / squares.sum()
    offer = link_offer(project, new.id, threshold=0.4)
    assert offer is not None and offer.object_ids == tuple(ids)
    assert offer.iou == pytest.approx(wanted)
    assert link_offer(project, new.id, threshold=wanted + 0.01) is None
    events, cancel = [], CancelToken()

    def stop(event):
        events.append(event)
        cancel.cancel()

    with pytest.raises(Cancelled):
        link_offer(project, new.id, cancel=cancel, progress=stop)
    assert [(e.done, e.total, e.message) for e in events] == [
        (1, 12, "comparing with other objects")
    ]


def test_doubt_finds_the_bad_frame_and_spares_checked_ones(project, video, red, shapes_masks):
    masks = shapes_masks["red"].copy()
    masks[6] = np.roll(masks[6], 12, axis=0)
    project.write_model(red.layer, red.id, 0, masks)
    flows = Flows(video)
    values = np.array([value for _, value in doubt(project, red.id, flows=flows)])
    assert values.shape == (12,) and (0 <= values).all() and (values <= 1).all()
    assert np.argmax(values) == 6
    assert review_order(values, project.provenance(red.id))[0] == 6
    project.accept_frames(red.id, 6, 7)
    again = dict(doubt(project, red.id, 5, 8, flows=flows))
    assert sorted(again) == [5, 6, 7] and again[6] == 0
    assert 6 not in review_order(values, project.provenance(red.id))


def test_frames_without_a_right_pixel_come_first(project, video, red, shapes_masks):
    """Also in a run, whose frames agree with each other; behind them come masks half right."""
    masks = shapes_masks["red"].copy()
    masks[2] = np.roll(masks[2], 5, axis=0)
    masks[7:10] = np.roll(masks[7:10], (24, -24), axis=(1, 2))
    assert (masks[2] & shapes_masks["red"][2]).sum() > 0.5 * masks[2].sum()
    assert not (masks[7:10] & shapes_masks["red"][7:10]).any()
    masks[11] = False
    project.write_model(red.layer, red.id, 0, masks)
    values = np.array([value for _, value in doubt(project, red.id, flows=Flows(video))])
    assert set(np.argsort(-values)[:4]) == {7, 8, 9, 11}
    assert values[[7, 8, 9, 11]].min() > values[2] > np.median(values)


def test_doubt_by_confidence_and_area_alone(project, red, shapes_masks):
    masks = shapes_masks["red"]
    confidence = np.where(masks, 250, 3).astype(np.uint8)
    confidence[9] = np.where(masks[9], 135, 3)
    project.write_model(red.layer, red.id, 0, masks, confidence)
    values = [value for _, value in doubt(project, red.id)]
    assert np.argmax(values) == 9 and values[9] > 0.5
    assert np.delete(values, 9).max() < 0.2
    project.write_masks(red.id, 9, np.roll(masks[9:10], 3, axis=1), provenance=Provenance.MODEL)
    assert dict(doubt(project, red.id))[9] < 0.1, "a tool drew it: the model's word is void"


def test_doubt_puts_all_that_is_measured_together(project, video, red, shapes_masks):
    """Frame 2 is a person's, 5 the model's without confidence, 8 locked, 9 empty, 11 damaged."""
    masks = np.roll(shapes_masks["red"], np.arange(12) % 3, axis=(1,) * 12)
    masks[[4, 9]] = False
    confidence = np.where(masks, 160 + 5 * np.arange(12)[:, None, None], 40).astype(np.uint8)
    project.write_model(red.layer, red.id, 0, masks, confidence)
    project.write_masks(red.id, 2, masks[2:3], provenance=Provenance.HUMAN)
    project.write_masks(red.id, 5, masks[5:6], provenance=Provenance.MODEL)
    project.lock_frames(red.id, 8, 9)
    chunk = project.path / "confidence" / str(red.layer) / "c.11.0.0"
    chunk.write_bytes(b"junk")
    flows, sure = Flows(video), {1: 0.25, 2: 0.1, 5: 0.5}
    quick = quick_doubt(project, red.id, certainty=sure)
    drawn = project.object_mask(red.id, 0, 12)
    for each in (None, flows):
        found = list(doubt(project, red.id, flows=each, certainty=sure))
        assert [t for t, _ in found] == list(range(12))
        for t, value in found:
            near = [n for n in (t - 4, t - 1, t, t + 1, t + 4) if 0 <= n < 12]
            measured = {}
            if t not in (2, 8):
                if t not in (5, 11):
                    measured["margin"] = measures.margin(confidence[t], drawn[t])
                if each is not None:
                    around = {n: drawn[n] for n in near}
                    measured["warp"] = measures.warp_disagreement(flows, t, around)
                    measured["edge"] = measures.edge_likeness(flows, t, drawn[t])
            together = float(measures.together(**measured)) if measured else 0
            assert value == pytest.approx(1 - (1 - quick[t]) * (1 - together), abs=1e-6), t
    assert dict(found)[2] == dict(found)[8] == 0 and measures.FAR == 4
    part = list(doubt(project, red.id, 5, 8, flows=flows, certainty=sure))
    assert part == found[5:8]
    areas, provenance = project.areas(red.id), project.provenance(red.id)
    jumps = measures.area_jumps(areas)
    expected = measures.together(
        area=jumps,
        gone=np.where(areas == 0, jumps, 0),
        spread=[0, 0.75, 0.9, 0, 0, 0.5, 0, 0, 0, 0, 0, 0],
        gap=measures.gaps(provenance > 0),
    )
    expected[[2, 8]] = 0
    np.testing.assert_allclose(quick, expected, rtol=1e-6)
    checked = np.flatnonzero(provenance >= Provenance.HUMAN).tolist()
    order = review_order(quick, provenance)
    assert sorted([*order, *checked]) == list(range(12)) and checked == [2, 8]
    assert order == measures.queue(quick, provenance < 2, 5, None)
    assert review_order(quick, provenance, 1, 3) == measures.queue(quick, provenance < 2, 1, 3)


def test_doubt_knows_where_a_spread_was_unsure(project, red, shapes_masks):
    project.write_model(red.layer, red.id, 0, shapes_masks["red"])
    certainty = {3: 0.4, 4: 1.0, 7: 0.4, 8: 0.4}
    values = dict(doubt(project, red.id, certainty=certainty))
    assert values[3] > 0.1 and values[4] == values[5] == 0
    project.accept_frames(red.id, 7, 8)
    project.lock_frames(red.id, 8, 9)
    quick = quick_doubt(project, red.id, certainty=certainty)
    assert quick[3] > 0.1 and quick[7] == quick[8] == 0, "what a person looked at, locked or not"


def test_doubt_knows_where_windows_disagreed(project, red, shapes_masks):
    masks = shapes_masks["red"]
    apart = np.full(12, np.nan, np.float32)
    apart[[3, 4, 8]] = 0, 0.1, 0.9
    written = project.write_model(red.layer, red.id, 0, masks)
    project.keep_disagreement(red.id, 0, apart, written)
    quick = quick_doubt(project, red.id)
    assert np.argmax(quick) == 8 and quick[3] == 0
    assert quick[4] < quick[6] < quick[8], "one window saw it: what lies between counts"
    np.testing.assert_allclose([v for _, v in doubt(project, red.id)], quick, atol=1e-6)
    project.accept_frames(red.id, 8, 9)
    assert quick_doubt(project, red.id)[8] == 0
    project.undo()
    masks[8, 6] = False  # the upper row
    project.write_masks(red.id, 8, masks[8:9], provenance=Provenance.MODEL)
    assert quick_doubt(project, red.id)[8] < 0.5 * quick[8], "what the windows said is void"


def test_what_nobody_drew_is_asked_for_in_the_middle(project, red, shapes_masks):
    assert np.flatnonzero(quick_doubt(project, red.id)).tolist() == [5]
    project.write_model(red.layer, red.id, 0, shapes_masks["red"][:3])
    values = np.array([v for _, v in doubt(project, red.id)])
    assert np.argmax(values) == 7 and values[10] == 0
    assert review_order(values, project.provenance(red.id), most=2)[0] == 7
    with pytest.raises(InputError):
        quick_doubt(project, 99)


def test_a_lost_object_is_more_doubtful_than_a_small_one(project, red, shapes_masks):
    masks = shapes_masks["red"].copy()
    masks[3, :, 20:], masks[7:9] = False, False
    project.write_model(red.layer, red.id, 0, masks)
    values = quick_doubt(project, red.id)
    assert set(np.argsort(-values)[:2]) == {7, 8} and values[7] > 0.5


def test_after_undo_of_a_run_its_confidence_counts_no_more(project, red, shapes_masks):
    masks = shapes_masks["red"]
    run = project.begin_run({"text": "red"}, red.id)
    project.write_model(red.layer, red.id, 0, masks, np.where(masks, 135, 120).astype(np.uint8))
    project.end_run(red.id)
    assert run.id and min(v for _, v in doubt(project, red.id)) > 0.5
    project.undo()
    assert np.flatnonzero([v for _, v in doubt(project, red.id)]).tolist() == [5]
