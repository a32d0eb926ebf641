"""Rules for a new mask that meets an old one."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError

__all__ = ["Rule", "combine"]

Rule = Literal["keep", "replace", "union", "intersect", "subtract"]


def combine(
    old: npt.ArrayLike, new: npt.ArrayLike, rule: Rule = "replace"
) -> npt.NDArray[np.bool_]:
    """Return what becomes of an object's mask.

    Parameters
    ----------
    old, new : array_like
        Masks or stacks of equal shape; non-zero is the object.
    rule : {"keep", "replace", "union", "intersect", "subtract"}
        ``"keep"`` takes the new mask only on frames where the old one is empty;
        ``"subtract"`` removes the new mask from the old one.

    Returns
    -------
    ndarray of bool
        A new array.

    Raises
    ------
    InputError
        The shapes differ, or the rule is unknown.
    """
    before, after = np.asarray(old, dtype=bool), np.asarray(new, dtype=bool)
    if before.shape != after.shape:
        raise InputError(f"Masks of shape {before.shape} and {after.shape} cannot be combined.")
    if rule == "keep":
        drawn = before.any(axis=(-2, -1), keepdims=True)
        return np.where(drawn, before, after)
    if rule == "replace":
        return after.copy()
    if rule == "union":
        return before | after
    if rule == "intersect":
        return before & after
    if rule == "subtract":
        return before & ~after
    raise InputError(f"Rule {rule!r} is unknown; use one of {', '.join(get_args(Rule))}.")
