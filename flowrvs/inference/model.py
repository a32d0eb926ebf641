"""A window through the model: checked answers, and halves where the device is too small."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt

from flowrvs.errors import DeviceMemoryError, FlowRVSError, InputError
from flowrvs.inference.frames import WindowFrames
from flowrvs.inference.windows import plan_windows
from flowrvs.masks.logits import Stitcher
from flowrvs.progress import CancelToken
from flowrvs.protocols import closed
from flowrvs.records import Segmenter

__all__ = ["WindowModel"]

Floats = npt.NDArray[np.float32]
_Pieces = Generator[tuple[int, Floats, Floats], None, None]

_SMALLEST = 5


class WindowModel:
    """Runs windows through a segmenter.

    A window that overflows the device's memory is planned again in two or three shorter
    ones, blended as windows are; what it had given before is not given again. The windows
    after it are split at once.

    Parameters
    ----------
    segmenter : Segmenter
    steps : int
        Euler steps.
    overlap : int
        Frames that shorter windows share, up to half of them.
    threshold : float
        Logits above it are foreground, where shorter windows are compared.
    cancel : CancelToken
    on_step : callable
        Called after every model step.
    limit : int, optional
        Frames that the device has room for, where that is known.

    Attributes
    ----------
    limit : int or None
        What is known of it by now.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        steps: int,
        overlap: int,
        threshold: float,
        cancel: CancelToken,
        on_step: Callable[[], None],
        limit: int | None = None,
    ) -> None:
        self._segmenter = segmenter
        self._steps = steps
        self._overlap = overlap
        self._threshold = threshold
        self._cancel = cancel
        self._on_step = on_step
        self.limit = limit

    @property
    def note(self) -> str:
        """What to tell about the memory, if anything."""
        return "" if self.limit is None else f" ({self.limit} at once: little memory)"

    def run(self, frames: WindowFrames, texts: Sequence[str]) -> _Pieces:
        """Yield the place of a sentence, logits of its next frames, and how sure they are.

        The pieces of a sentence come in order; those of several may take turns.

        Parameters
        ----------
        frames : WindowFrames
        texts : sequence of str

        Yields
        ------
        place : int
            Index into `texts`.
        logits : ndarray of float32, shape (n, H, W)
        apart : ndarray of float32, shape (n,)
            How far shorter windows disagreed about each of them; NaN where there was one.

        Raises
        ------
        DeviceMemoryError
            Not even five frames fit.
        """
        given = [0] * len(texts)
        if self.limit is None or len(frames) <= self.limit:
            pieces = _logits(
                self._segmenter, frames, texts, self._steps, self._cancel, self._on_step
            )
            try:
                with closing(pieces):
                    for place, logits in pieces:
                        given[place] += len(logits)
                        yield place, logits, np.full(len(logits), np.nan, np.float32)
                return
            except DeviceMemoryError:
                limit = max(_SMALLEST, len(frames) // 8 * 4 + 1)
                if limit >= len(frames):
                    raise
                self.limit = limit
        yield from self._in_parts(frames, texts, given)

    def _in_parts(self, frames: WindowFrames, texts: Sequence[str], given: list[int]) -> _Pieces:
        assert self.limit is not None
        overlap = min(self._overlap, self.limit // 2)
        windows = plan_windows(len(frames), self.limit, overlap)
        left = [place for place, count in enumerate(given) if count < len(frames)]
        stitchers = {place: Stitcher(windows, self._threshold) for place in left}
        for window in windows:
            part = frames.part(window.start, window.stop)
            for index, logits, known in self.run(part, [texts[place] for place in left]):
                place = left[index]
                first, final, apart = stitchers[place].push(window.index, logits, known)
                skip = max(0, given[place] - first)
                if skip < len(final):
                    given[place] += len(final) - skip
                    yield place, final[skip:], apart[skip:]


def _logits(
    segmenter: Segmenter,
    frames: WindowFrames,
    texts: Sequence[str],
    steps: int,
    cancel: CancelToken,
    on_step: Callable[[], None],
) -> Generator[tuple[int, npt.NDArray[np.float32]], None, None]:
    """Yield checked logits and their sentence; only errors of our own tree come out."""
    count, height, width, _ = frames.shape
    sentence, done = 0, 0
    try:
        results = segmenter.segment_window(
            frames, texts, steps=steps, cancel=cancel, on_step=on_step
        )
        with closed(results):
            for logits in results:
                logits = np.asarray(logits, dtype=np.float32)
                if sentence == len(texts):
                    sentence += 1
                    break
                room = count - done
                if logits.shape[1:] != (height, width) or not 1 <= len(logits) <= room:
                    raise InputError(
                        f"The model {segmenter.name} gave logits of shape {logits.shape}, not "
                        f"(1 to {room}, {height}, {width})."
                    )
                yield sentence, logits
                done += len(logits)
                if done == count:
                    sentence, done = sentence + 1, 0
    except MemoryError as error:
        if isinstance(error, FlowRVSError):
            raise
        raise DeviceMemoryError(
            f"The memory is too small for a window of {count} frames of {width}x{height}; use a "
            "smaller window or a lower memory setting. Finished windows are kept."
        ) from error
    if sentence != len(texts) or done:
        raise InputError(
            f"The model {segmenter.name} gave {sentence} answers to {len(texts)} sentences."
        )
