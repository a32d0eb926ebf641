"""Unions and label pictures."""

from __future__ import annotations

import numpy as np
import pytest

from flowrvs.errors import InputError
from flowrvs.masks.compose import paint, union

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
