"""Videos are assigned to splits by their shares, alike, and the same every time."""

from __future__ import annotations

from collections import Counter

import pytest

import flowrvs
from flowrvs.data import preview_export
from flowrvs.data.preview import assign_kinds as assign
from flowrvs.errors import InputError
from flowrvs.store import Project

KINDS = {f"v{n}": (n % 3 == 0, n % 2) for n in range(60)}
SHARES = {"train": 0.8, "valid_u": 0.1, "test": 0.1}


def test_shares_hold_overall_and_within_every_kind():
    found = assign(KINDS, SHARES, 0)
    assert Counter(found.values()) == {"train": 48, "valid_u": 6, "test": 6}
    for kind in set(KINDS.values()):
        names = [name for name in KINDS if KINDS[name] == kind]
        count = Counter(found[name] for name in names)
        assert abs(count["train"] - 0.8 * len(names)) <= 1.5


def test_order_makes_no_difference_and_the_seed_does():
    backwards = dict(reversed(KINDS.items()))
    assert assign(KINDS, SHARES, 3) == assign(backwards, SHARES, 3)
    assert assign(KINDS, SHARES, 3) != assign(KINDS, SHARES, 4)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 11])
def test_small_numbers_leave_no_split_empty_while_there_are_enough(count):
    found = assign({f"v{n}": () for n in range(count)}, SHARES, 1)
    assert len(found) == count and len(set(found.values())) == min(3, count)


@pytest.mark.parametrize("shares", [{}, {"a": 0}, {"a": -1, "b": 2}, {"a": float("inf")}])
def test_impossible_shares(shares):
    with pytest.raises(InputError):
        assign(KINDS, shares, 0)


def test_a_preview_goes_by_split_and_tells_a_persons_share(tmp_path, shapes_frames, shapes_masks):
    projects, videos = [], []
    for name in "abc":
        videos.append(flowrvs.open_video(shapes_frames))
        projects.append(Project.create(tmp_path / name, videos[-1].info))
        _, red = projects[-1].add_prompt("the red square")
        projects[-1].write_model(red.layer, red.id, 0, shapes_masks["red"])
        projects[-1].accept_frames(red.id, 3, 5)
        projects[-1].mark_absent(red.id, 8, 10)  # a person's, and no mask
    try:
        for seed in range(6):
            preview = preview_export(
                projects, shares={"z": 0.4, "a": 0.6}, seed=seed, videos=videos
            )
            assert [row.split for row in preview.rows] == ["z", "a", "a"]
            assert [row.human for row in preview.rows] == [2 / 10] * 3
    finally:
        for each in (*projects, *videos):
            each.close()
