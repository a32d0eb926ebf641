"""Unions, label pictures, and what becomes of an old mask and a new one."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.masks.compose import Rule, combine, paint, union

A = np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
B = np.array([[0, 255, 0], [0, 255, 0]], np.uint8)


def test_union():
    assert union([A, B], (2, 3)).tolist() == [[True, True, False], [False, True, False]]
    assert not union([], (2, 3)).any() and union([], (2, 3)).shape == (2, 3)


def test_the_later_object_is_seen():
    assert paint({4: A, 300: B}, (2, 3)).tolist() == [[4, 300, 0], [0, 300, 0]]
    assert paint({300: B, 4: A}, (2, 3)).tolist() == [[4, 4, 0], [0, 300, 0]]
    assert paint({1: A}, (2, 3), np.uint8).dtype == np.uint8


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="does not fit"):
        union([A.T], (2, 3))
    with pytest.raises(InputError, match="label"):
        paint({0: A}, (2, 3))
    with pytest.raises(InputError, match="label"):
        paint({256: A}, (2, 3), np.uint8)
    with pytest.raises(InputError, match="The label 65536 is not within 1 to 65535"):
        paint({65536: A}, (2, 3))
    with pytest.raises(InputError, match="does not fit"):
        paint({1: A.T}, (2, 3))
    assert paint({65535: A, 1: B}, (2, 3)).tolist() == [[65535, 1, 0], [0, 1, 0]]
    with pytest.raises(InputError, match=r"shape \(2, 3\) and \(3, 2\) cannot be combined"):
        combine(A, A.T)
    with pytest.raises(InputError, match="'xor' is unknown; use one of keep, replace, union"):
        combine(A, A, "xor")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("keep", [1, 1, 0, 0]),
        ("replace", [0, 1, 1, 0]),
        ("union", [1, 1, 1, 0]),
        ("intersect", [0, 1, 0, 0]),
        ("subtract", [1, 0, 0, 0]),
    ],
)
def test_rules(rule, expected):
    old, new = np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 0]])
    np.testing.assert_array_equal(combine(old, new, rule), np.array([expected], bool))


def test_keep_decides_by_frame():
    old, new = np.zeros((2, 2, 2)), np.ones((2, 2, 2))
    old[0, 0, 0] = 1
    assert combine(old, new, "keep").sum((1, 2)).tolist() == [1, 4]
    assert combine(old[0], new[0], "keep").tolist() == [[True, False], [False, False]]
    assert combine(old[1], new[1], "keep").all()


def test_what_is_combined_is_a_new_array():
    old, new = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    for rule in get_args(Rule):
        assert not any(np.shares_memory(combine(old, new, rule), each) for each in (old, new))
    assert combine(old, new).all()
