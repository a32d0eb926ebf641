"""What speaks for a pixel being the object's: likeness to a known picture, and its motion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, uniform_filter

from flowrvs.masks.flow import sample

__all__ = ["alike", "apart", "blurred", "motion"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_AROUND = 40.0  # pixels over which motion is averaged on either side of the edge
_COARSE = 4  # motion is averaged on every fourth pixel of every fourth row
_EXACT = 0.5  # pixels to which flow is exact at best
_RELATIVE = 1.5  # pixels a frame from which on both sides count as moving apart
_MOST = 4.0


def apart(a: Floats, b: Floats) -> Floats:
    """Return the mean squared difference of two pictures, over patches of 5 by 5 pixels."""
    result: Floats = uniform_filter(((a - b) ** 2).sum(-1), 5)
    return result


def alike(picture: Floats, other: Floats, tolerance: float) -> Floats:
    """Return 0 to 1: how much patches look the same, whatever the light of all of them."""
    light = np.median((picture - other).reshape(-1, 3), axis=0)
    like: Floats = np.exp(-apart(picture - light, other) / tolerance)
    return like


def blurred(values: Floats, where: Mask, sigma: float) -> Floats:
    """Return values blurred with those of neighbours within `where`."""
    count = gaussian_filter(where.astype(np.float32), sigma, truncate=2) + 1e-3
    mean: Floats = gaussian_filter(np.where(where, values, 0), sigma, truncate=2) / count
    return mean


def motion(flow: Floats, distance: Floats, found: Mask) -> tuple[Floats, Floats]:
    """Return whether pixels move as the object does, or as what is around it.

    Parameters
    ----------
    flow : ndarray of float32, shape (h, w, 2)
    distance : ndarray of float32, shape (h, w)
        To the edge of the warped mask, positive inside.
    found : ndarray of bool, shape (h, w)
        Where flow can be trusted.

    Returns
    -------
    says : ndarray of float32, shape (h, w)
        Above 0 for the object; 0 where one side's motion is not known.
    slow : ndarray of float32, shape (h, w)
        1 where object and surroundings move together, towards 0 the more they move apart.
    """
    small = flow[::_COARSE, ::_COARSE]
    sigma = _AROUND / _COARSE
    means, spreads, known = [], [], np.ones(small.shape[:2], bool)
    for side in (distance > 2, distance < -4):
        weight = (side & found)[::_COARSE, ::_COARSE].astype(np.float32) + 1e-6
        count = gaussian_filter(weight, sigma, truncate=2)
        rows, columns = (
            gaussian_filter(each * weight, sigma, truncate=2) / count
            for each in (small[..., 0], small[..., 1])
        )
        off = (small[..., 0] - rows) ** 2 + (small[..., 1] - columns) ** 2
        means += [rows, columns]
        spreads.append(gaussian_filter(off * weight, sigma, truncate=2) / count)
        known &= count > 1e-3
    relative = (means[0] - means[2]) ** 2 + (means[1] - means[3]) ** 2
    slow = 1 / (1 + relative / _RELATIVE**2)
    spread = np.maximum(*spreads) + _EXACT**2
    at = np.indices(flow.shape[:2], dtype=np.float32) / _COARSE
    fine = sample(np.dstack([*means, spread, known, slow]).astype(np.float32), *at)
    from_object = ((flow - fine[..., :2]) ** 2).sum(-1)
    from_around = ((flow - fine[..., 2:4]) ** 2).sum(-1)
    says = np.clip((from_around - from_object) / (2 * fine[..., 4]), -_MOST, _MOST)
    return (says * fine[..., 5]).astype(np.float32), fine[..., 6]
