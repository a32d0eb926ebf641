"""Seams: joining the logits of windows that share frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flowrvs.records import Window

__all__ = ["Stitcher", "crossfade"]


def crossfade(
    before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Blend two windows' logits of the same n frames, from the earlier to the later one.

    Frame i takes the later window with weight ``(i + 1) / (n + 1)``: a window knows least
    about its first and last frames, where it sees one side of them only.

    Parameters
    ----------
    before, after : ndarray of float32, shape (n, H, W)
        Logits of the earlier and the later window.

    Returns
    -------
    ndarray of float32, shape (n, H, W)
        Each value lies between the two.
    """
    n = len(before)
    weight = (np.arange(1, n + 1, dtype=np.float32) / np.float32(n + 1))[:, None, None]
    blended: npt.NDArray[np.float32] = before + weight * (after - before)
    return blended


class Stitcher:
    """Turns the logits of consecutive windows into final logits, every frame once.

    Parameters
    ----------
    windows : sequence of Window
        The plan; starts and stops never decrease, and neighbours touch or overlap.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = windows
        self._last: int | None = None
        self._tail: npt.NDArray[np.float32] | None = None

    def push(self, index: int, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Take window `index` and return the logits that it completes.

        They begin at the window's first frame and end before the next window's, or at the
        window's own end if it is the last. After a gap in `index` the window begins anew:
        its frames are not blended with those of windows that were left out.

        Parameters
        ----------
        index : int
            The window's place in the plan.
        logits : ndarray of float32, shape (T, H, W)
            Its logits, one frame for each of the window's.
        """
        window = self._windows[index]
        if self._tail is not None and self._last == index - 1 and len(self._tail):
            shared = len(self._tail)
            logits = np.concatenate([crossfade(self._tail, logits[:shared]), logits[shared:]])
        self._last = index
        if index + 1 == len(self._windows):
            self._tail = None
            return logits
        final = self._windows[index + 1].start - window.start
        self._tail = logits[final:].copy()  # a copy: the view would keep the whole window
        return logits[:final]
