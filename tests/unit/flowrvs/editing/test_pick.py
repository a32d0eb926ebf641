"""Marks on a project's frame become a person's step."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.editing.pick import Mark, find_object, keep_pick, open_picker
from flowrvs.errors import InputError
from flowrvs.store import ObjectRecord, Project, Provenance
from flowrvs.video import Video


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_pick_is_kept_as_a_persons_step(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    picker = open_picker(project, video, 3)
    mask = picker.add(Mark.point(18, 14))
    assert iou(mask, shapes_masks["red"][3]) > 0.95
    assert keep_pick(project, 3, mask, red.id)
    assert np.array_equal(project.object_mask(red.id, 3, 4)[0], mask)
    assert project.provenance(red.id)[3] == Provenance.HUMAN
    assert project.undo_name == "pick 'red', frame 3"
    project.undo()
    assert not project.present(red.id).any()


@pytest.mark.parametrize(
    ("rule", "expected"), [("union", [True, True]), ("subtract", [True, False])]
)
def test_rules_for_what_is_there(
    project: Project, red: ObjectRecord, rule: str, expected: list[bool]
) -> None:
    old, new = np.zeros((2, 48, 64), bool)
    old[10:20, 10:30] = True
    new[10:20, 20:40] = True
    project.write_masks(red.id, 5, old[None])
    assert keep_pick(project, 5, new, red.id, rule)
    drawn = project.object_mask(red.id, 5, 6)[0]
    assert [drawn[15, 15], drawn[15, 25]] == expected


def test_a_locked_frame_stays(project: Project, red: ObjectRecord) -> None:
    mask = np.ones((48, 64), bool)
    project.lock_frames(red.id, 2, 3)
    assert not keep_pick(project, 2, mask, red.id)
    assert not project.present(red.id).any()


def test_an_object_on_the_frame_is_mended(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    flawed = shapes_masks["red"][3].copy()
    flawed[14:] = False
    project.write_masks(red.id, 3, flawed[None], provenance=Provenance.MODEL)
    picker = open_picker(project, video, 3, red.id)
    assert np.array_equal(picker.mask, flawed)
    assert iou(picker.add(Mark.point(18, 18)), shapes_masks["red"][3]) > 0.9


@pytest.mark.parametrize("owner", [Provenance.MODEL, Provenance.HUMAN])
def test_a_click_on_another_thing_gives_up_a_mask_that_a_model_drew(
    project: Project,
    video: Video,
    red: ObjectRecord,
    shapes_masks: dict[str, np.ndarray],
    owner: Provenance,
) -> None:
    wrong, meant = shapes_masks["red"][3], shapes_masks["green"][3]
    project.write_masks(red.id, 3, wrong[None], provenance=owner)
    rows, columns = (int(np.median(places)) for places in np.nonzero(meant))
    click = Mark.point(columns, rows)
    mask = open_picker(project, video, 3, red.id).add(click)
    if owner == Provenance.MODEL:
        assert iou(mask, meant) > 0.9
    else:
        assert (mask & wrong).sum() > 0.9 * wrong.sum()
    shown = open_picker(project, video, 3, red.id, start=wrong).add(click)  # a person's outline
    assert (shown & wrong).sum() > 0.9 * wrong.sum()


def test_an_object_on_the_next_frame_gives_the_place(
    project: Project, video: Video, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    project.write_masks(red.id, 4, shapes_masks["red"][4][None])
    picker = open_picker(project, video, 5, red.id)
    assert iou(picker.mask, shapes_masks["red"][5]) > 0.7
    far = open_picker(project, video, 11, red.id)
    assert not far.mask.any()


def test_which_object_a_sentence_means(
    project: Project, red: ObjectRecord, shapes_masks: dict[str, np.ndarray]
) -> None:
    green = project.add_object("green", red.layer)
    project.write_masks(red.id, 0, shapes_masks["red"][:1])
    project.write_masks(green.id, 0, shapes_masks["green"][:1])
    project.add_expression("the squares", [red.id, green.id])
    project.add_expression("nothing at all")
    assert find_object(project, "the  squares", 0, (Mark.point(45, 30),)) == green
    assert find_object(project, "nothing at all", 0, ()) is None
    assert find_object(project, "not said", 0, ()) is None
    with pytest.raises(InputError, match="several objects"):
        find_object(project, "the squares", 0, (Mark.point(1, 1),))


def test_unknown_frames_and_objects(project: Project, video: Video) -> None:
    with pytest.raises(InputError, match="no frame 12; the video has frames 0 to 11"):
        open_picker(project, video, 12)
    with pytest.raises(InputError, match="no object 9 in"):
        open_picker(project, video, 0, 9)
    with pytest.raises(InputError, match="no object 9"):
        keep_pick(project, 0, np.ones((48, 64), bool), 9)
