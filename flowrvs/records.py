"""Frozen records that the layers hand to each other, and the Segmenter protocol.

They hold numpy arrays and plain values only: no torch, no Qt, no open files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from flowrvs.progress import CancelToken

__all__ = ["Expression", "FrameBlock", "Segmenter", "VideoInfo", "Window", "WindowMasks"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video without decoding its pictures.

    Attributes
    ----------
    path : str or None
        Where it was read from; None for an array in memory.
    kind : str
        ``"video"``, ``"images"``, ``"zarr"``, ``"tiff"`` or ``"array"``.
    frame_count : int
        Number of native frames; frame indices run from 0 to ``frame_count - 1``.
    height, width : int
        Size in pixels as shown, after rotation metadata was applied.
    rate : float or None
        Mean native frame rate in frames per second; None where there is none.
    frame_names : tuple of str
        Stems of the image files for an image folder; empty for other kinds.
    fingerprint : str or None
        Content hash (sha256, hex) that finds a moved video again; None for arrays.
    """

    path: str | None
    kind: str
    frame_count: int
    height: int
    width: int
    rate: float | None = None
    frame_names: tuple[str, ...] = ()
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """A sentence and the set of objects that it means.

    Attributes
    ----------
    exp_id : str
        Unique within its video; also the folder name of its predictions.
    text : str
        The sentence, as the user wrote it.
    object_ids : frozenset of int
        Ids of the objects it refers to; empty for a sentence without target.
    """

    exp_id: str
    text: str
    object_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Window:
    """A run of consecutive native frames that the model sees at once.

    Attributes
    ----------
    index : int
        Position in the plan, from 0.
    start, stop : int
        First frame and one past the last one, in native frame indices.
    """

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class WindowMasks:
    """Final masks of one expression on a run of frames.

    Attributes
    ----------
    expression : int
        Index into the list of sentences of the run.
    start : int
        Native index of the first frame of `masks`.
    masks : ndarray of bool, shape (T, H, W)
        Masks at source size.
    confidence : ndarray of uint8, shape (T, H, W), or None
        ``round(255 * sigmoid(logit))`` where it is kept.
    window : Window
        The window that completed these frames.
    complete : bool
        Whether these are the last frames that the window completes. A window's masks come
        in pieces, in order, so that memory does not grow with its length.
    disagreement : ndarray of float32, shape (T,), or None
        Where windows overlap, 1 - IoU of what they said of the frame (the largest, of more
        than two); NaN where one window alone saw it.
    """

    expression: int
    start: int
    masks: npt.NDArray[np.bool_]
    window: Window
    confidence: npt.NDArray[np.uint8] | None = None
    complete: bool = True
    disagreement: npt.NDArray[np.float32] | None = None

    @property
    def stop(self) -> int:
        """One past the last frame of `masks`."""
        return self.start + len(self.masks)


class FrameBlock(Protocol):
    """Frames to be read piece by piece; a plain array is one, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        ...

    def __len__(self) -> int:
        """T."""
        ...

    def __getitem__(self, index: slice, /) -> npt.NDArray[np.uint8]:
        """Read consecutive frames."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """What turns frames and sentences into logits; `FlowRVSPipeline` adapts to it.

    Attributes
    ----------
    name : str
        Stored as the provenance of the masks it makes.
    window_size : int
        Frames that it prefers to see at once (4k + 1 for a 4x temporal VAE).
    overlap : int
        Frames that neighbouring windows should share.
    """

    name: str
    window_size: int
    overlap: int

    def segment_window(
        self,
        frames: FrameBlock,
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits of every sentence, in order; the video is encoded once.

        Parameters
        ----------
        frames : FrameBlock of uint8, shape (T, H, W, 3)
            RGB frames, any T >= 1 and any size; `numpy.asarray` gives them at once.
        texts : sequence of str
            One sentence per result.
        steps : int
            Euler steps of the flow.
        cancel : CancelToken, optional
            Checked before every step.
        on_step : callable, optional
            Called after every finished model step (encode, each Euler step, decode).

        Yields
        ------
        ndarray of float32, shape (n, H, W)
            Logits at source size, -1 to 1; > 0 is foreground. The next n >= 1 frames of a
            sentence: its pieces add up to T, then the next sentence begins.

        Raises
        ------
        Cancelled
            `cancel` was set.
        DeviceMemoryError
            The device is too small for this window.
        """
        ...
