"""From logits to masks and confidences, and windows that share frames joined into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flowrvs.masks.shape import iou
from flowrvs.records import Window

__all__ = ["Stitcher", "confidence", "crossfade", "threshold"]

Floats = npt.NDArray[np.float32]


def threshold(logits: npt.NDArray[np.floating], level: float = 0.0) -> npt.NDArray[np.bool_]:
    """Return which pixels are foreground: those whose logit is above `level`.

    A level of 0 is a probability of one half. NaN is background.
    """
    mask: npt.NDArray[np.bool_] = logits > level
    return mask


def confidence(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Return ``round(255 * sigmoid(logit))``, uint8 of the same shape; NaN gives 0."""
    # tanh does not overflow as exp does, whatever the logits.
    share = 0.5 + 0.5 * np.tanh(0.5 * np.asarray(logits, dtype=np.float32))
    return np.rint(255 * np.nan_to_num(share)).astype(np.uint8)


def crossfade(
    before: npt.NDArray[np.float32],
    after: npt.NDArray[np.float32],
    *,
    first: int = 0,
    shared: int | None = None,
) -> npt.NDArray[np.float32]:
    """Blend two windows' logits of the same frames, from the earlier to the later one.

    Of n shared frames, frame i takes the later window with weight ``(i + 1) / (n + 1)``: a
    window knows least about its first and last frames, where it sees one side of them only.

    Parameters
    ----------
    before, after : ndarray of float32, shape (m, H, W)
        Logits of the earlier and the later window.
    first : int
        Place of the first of these frames among the shared ones.
    shared : int, optional
        How many frames are shared; m by default.

    Returns
    -------
    ndarray of float32, shape (m, H, W)
        Each value lies between the two.
    """
    count = len(before) if shared is None else shared
    places = np.arange(first + 1, first + 1 + len(before), dtype=np.float32)
    weight = (places / np.float32(count + 1))[:, None, None]
    blended: npt.NDArray[np.float32] = before + weight * (after - before)
    return blended


class Stitcher:
    """Turns the logits of consecutive windows into final logits, every frame once.

    Parameters
    ----------
    windows : sequence of Window
        The plan; starts and stops never decrease, and neighbours touch or overlap.
    threshold : float
        Logits above it are foreground, where windows are compared.
    """

    def __init__(self, windows: Sequence[Window], threshold: float = 0.0) -> None:
        self._windows = windows
        self._threshold = threshold
        self._index: int | None = None
        self._received = 0
        # Logits and disagreements of the frames that the window before has left open.
        self._before: tuple[Floats, Floats] | None = None
        self._tail: list[tuple[Floats, Floats]] = []

    def push(
        self, index: int, logits: Floats, apart: Floats | None = None
    ) -> tuple[int, Floats, Floats]:
        """Take the next frames of window `index` and return those that are now final.

        A window completes its frames up to the first one of the next window, or all of
        them if it is the last. After a gap in `index` the window begins anew: its frames
        are not blended with those of windows that were left out.

        Parameters
        ----------
        index : int
            The window's place in the plan.
        logits : ndarray of float32, shape (n, H, W)
            Its next n frames; its pieces come in order.
        apart : ndarray of float32, shape (n,), optional
            How far its own parts disagreed, where it was joined of some; NaN elsewhere.

        Returns
        -------
        start : int
            Native index of the first final frame.
        final : ndarray of float32, shape (m, H, W)
            m may be 0.
        apart : ndarray of float32, shape (m,)
            The largest 1 - IoU of what windows say of each of them; NaN where one window
            alone saw it.
        """
        window = self._windows[index]
        if index != self._index:
            self._begin(index)
        first, stop = self._received, self._received + len(logits)
        self._received = stop
        apart = np.full(len(logits), np.nan, np.float32) if apart is None else apart.copy()
        if self._before is not None and first < len(self._before[0]):
            shared = len(self._before[0])
            both = min(stop, shared) - first
            old, known = (each[first : first + both] for each in self._before)
            masks = (threshold(each, self._threshold) for each in (old, logits[:both]))
            found = [1 - iou(*pair) for pair in zip(*masks, strict=True)]
            apart[:both] = np.fmax(np.fmax(apart[:both], known), found)
            blended = crossfade(old, logits[:both], first=first, shared=shared)
            logits = blended if both == len(logits) else np.concatenate([blended, logits[both:]])
        if stop >= window.stop - window.start:
            self._before = None
        if index + 1 == len(self._windows):
            return window.start + first, logits, apart
        final = max(0, self._windows[index + 1].start - window.start - first)
        if final < len(logits):
            # A copy: the view would keep the frames before it.
            self._tail.append((logits[final:].copy(), apart[final:]))
        return window.start + first, logits[:final], apart[:final]

    def skip(self, index: int, count: int) -> None:
        """Pass over the next frames of window `index`, which no other window sees."""
        if index != self._index:
            self._begin(index)
        self._received += count

    def _begin(self, index: int) -> None:
        follows = self._index is not None and self._index == index - 1
        tail = self._tail if follows else []
        self._before = None
        if tail:
            logits, apart = (np.concatenate(each) for each in zip(*tail, strict=True))
            self._before = logits, apart
        self._index, self._received, self._tail = index, 0, []
