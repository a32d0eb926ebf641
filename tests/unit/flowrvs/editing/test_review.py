from __future__ import annotations

import numpy as np
import pytest

from flowrvs.editing import Flows, accept_link, doubt, link_offer, review_order
from flowrvs.errors import InputError


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
    offer = link_offer(project, new.id)
    assert offer is not None
    assert offer.object_ids == tuple(ids) and 0.8 < offer.iou < 1
    accept_link(project, new.id, offer)
    assert project.expressions[expression.exp_id].object_ids == set(ids)
    assert new.id not in project.objects
    project.undo()
    assert project.expressions[expression.exp_id].object_ids == {new.id}
    assert project.areas(new.id).all()


def test_few_frames_are_enough_for_an_offer(project, both):
    seen = []
    offer = link_offer(project, both[2].id, most=3, progress=seen.append)
    assert len(seen) == 3 and offer is not None


def test_no_offer(project, both):
    ids, _, new = both
    assert link_offer(project, ids[0]) is None
    assert link_offer(project, new.id, threshold=0.99) is None
    with pytest.raises(InputError):
        link_offer(project, 99)


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


def test_doubt_by_confidence_and_area_alone(project, red, shapes_masks):
    masks = shapes_masks["red"]
    confidence = np.where(masks, 250, 3).astype(np.uint8)
    confidence[9] = np.where(masks[9], 135, 3)
    project.write_model(red.layer, red.id, 0, masks, confidence)
    values = [value for _, value in doubt(project, red.id)]
    assert np.argmax(values) == 9 and values[9] > 0.5
    assert np.delete(values, 9).max() < 0.2


def test_doubt_knows_where_a_spread_was_unsure(project, red, shapes_masks):
    project.write_model(red.layer, red.id, 0, shapes_masks["red"])
    values = dict(doubt(project, red.id, certainty={3: 0.4, 4: 1.0}))
    assert values[3] == pytest.approx(0.6) and values[4] == values[5] == 0
