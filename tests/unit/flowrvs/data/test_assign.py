"""Videos are assigned to splits by their shares, alike, and the same every time."""

from __future__ import annotations

from collections import Counter

import pytest

from flowrvs.data.preview import assign_kinds as assign
from flowrvs.errors import InputError

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
