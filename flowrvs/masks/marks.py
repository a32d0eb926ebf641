"""What marks on a picture say by themselves, whoever makes a mask of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.protocols import Mark, Point

__all__ = ["box_of", "check_mark", "choose_parts", "within_box"]

Mask = npt.NDArray[np.bool_]


def check_mark(mark: Mark, shape: tuple[int, ...]) -> None:
    """Refuse a mark that lies outside a frame of `shape` (H, W).

    Raises
    ------
    InputError
        It does.
    """
    height, width = shape[:2]
    x, y = np.array(mark.points).T
    if mark.kind == "box":
        if x[0] >= width or y[0] >= height or x[1] <= 0 or y[1] <= 0:
            raise InputError(f"The box {mark.points} lies outside {width} x {height} pixels.")
    elif x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height:
        raise InputError(
            f"A {mark.kind} at {_text(mark.points)} lies outside the picture of "
            f"{width} x {height} pixels."
        )


def box_of(marks: Sequence[Mark]) -> tuple[float, float, float, float] | None:
    """Return the first box among marks, (x0, y0, x1, y1); None where there is none."""
    for mark in marks:
        if mark.kind == "box":
            return *mark.points[0], *mark.points[1]
    return None


def within_box(mask: Mask, marks: Sequence[Mark]) -> Mask:
    """Return what of a mask lies in the first box among marks; all of it where there is none."""
    box = box_of(marks)
    if box is None:
        return mask
    x0, y0, x1, y1 = (max(0, round(value)) for value in box)
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return inside


def choose_parts(parts: npt.NDArray[np.integer], marks: Sequence[Mark]) -> Mask | None:
    """Return the parts that points choose; None if no choice does what the marks say.

    Parameters
    ----------
    parts : ndarray of int, shape (H, W)
        Connected parts, numbered from 1; 0 is none.
    marks : sequence of Mark

    Returns
    -------
    ndarray of bool, shape (H, W), or None
    """
    wanted: set[int] = set()
    unwanted: set[int] = set()
    for mark in marks:
        if mark.kind != "point":
            return None
        x, y = mark.points[0]
        part = int(parts[int(y), int(x)])
        if mark.positive and not part:
            return None
        (wanted if mark.positive else unwanted).add(part)
    left = wanted or set(range(1, int(parts.max()) + 1)) - unwanted
    if wanted & unwanted or not left:
        return None
    chosen: Mask = np.isin(parts, list(left))
    return chosen


def _text(points: Sequence[Point]) -> str:
    return ", ".join(f"({x:g}, {y:g})" for x, y in points[:3])
