"""Frozen records that the layers hand to each other, and what a model has to be.

The protocols of models and what they speak of are in `flowrvs.protocols`; they have their names
here, too.

They hold numpy arrays and plain values only: no torch, no Qt, no open files.
"""

from __future__ import annotations

import html
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.protocols import (
    FrameBlock,
    InstanceSegmenter,
    Mark,
    Segmenter,
    TrackedObject,
    Tracker,
)

__all__ = [
    "Expression",
    "FrameBlock",
    "InstanceSegmenter",
    "Mark",
    "SegmentRequest",
    "Segmenter",
    "TrackedObject",
    "Tracker",
    "VideoInfo",
    "Window",
    "WindowMasks",
    "check_windows",
    "clean_sentence",
    "frame_range",
    "says_nothing",
]


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


def frame_range(frame_count: int, start: int = 0, stop: int | None = None) -> range:
    """Return frames `start` to `stop` of a video that has `frame_count`.

    Raises
    ------
    InputError
        They are none, or not all in the video.
    """
    stop = frame_count if stop is None else stop
    if not 0 <= start < stop <= frame_count:
        raise InputError(
            f"Frames {start} to {stop} (excluded) are not a range of the video's {frame_count} "
            f"frames; choose 0 <= start < stop <= {frame_count}."
        )
    return range(start, stop)


def check_windows(size: int, overlap: int) -> None:
    """Refuse windows that cannot cover a video.

    Raises
    ------
    InputError
        `size` is under 1, or `overlap` not from 0 to ``size - 1``.
    """
    if size < 1:
        raise InputError(f"A window of {size} frames is impossible; use at least 1.")
    if not 0 <= overlap < size:
        raise InputError(
            f"An overlap of {overlap} frames does not fit windows of {size}; use 0 to {size - 1}."
        )


def says_nothing(text: str) -> bool:
    """Tell whether nothing is left of a sentence once a model has cleaned it.

    Examples
    --------
    >>> says_nothing("&quot; &quot;"), says_nothing("a cat")
    (True, False)
    """
    return not html.unescape(text).translate({ord('"'): None, ord("\\"): None}).strip()


def clean_sentence(text: str) -> str:
    """Return a sentence with its white space collapsed; capitals stay as they are.

    Raises
    ------
    InputError
        It is blank, nothing but quotation marks, or holds half of a character (a lone
        surrogate, which no file can keep).

    Examples
    --------
    >>> clean_sentence("  the Red\\n circle ")
    'the Red circle'
    """
    cleaned = " ".join(text.split())
    if not cleaned:
        raise InputError("A sentence is missing or blank; describe what to find.")
    try:
        cleaned.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"The sentence {ascii(cleaned)} holds half of a character; type it again."
        ) from None
    if says_nothing(cleaned):
        raise InputError(f"The sentence {cleaned!r} says nothing; describe what to find.")
    return cleaned


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """What is asked of a model: made and checked once, then handed down unchanged.

    Attributes
    ----------
    texts : tuple of str
        The sentences, cleaned (`clean_sentence`), at least one; a single string is taken
        for one sentence.
    start, stop : int
        First native frame and one past the last; None for the end of the video.
    steps : int
        Euler steps of the flow, 1 to 1000.
    window : int or "whole", optional
        Frames that the model sees at once; "whole" for the whole range, None for the
        model's own choice.
    overlap : int, optional
        Frames that neighbouring windows share; None for the model's own choice.
    threshold : float
        Logits (-1 to 1) above it are foreground.
    keep_confidence : bool
        Whether every pixel's confidence is wanted beside the masks.
    every : int
        Ask about every n-th frame from `start` on; the model sees those alone.
    cuts : tuple of int or "find"
        First native frames of new shots, which no window straddles; "find" looks for them
        (`flowrvs.video.cuts.find_cuts`).

    Raises
    ------
    InputError
        A sentence is blank or there is none, or a number is out of its range.

    Examples
    --------
    >>> SegmentRequest("the  red circle", steps=2).texts
    ('the red circle',)
    """

    texts: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    steps: int = 1
    window: int | Literal["whole"] | None = None
    overlap: int | None = None
    threshold: float = 0.0
    keep_confidence: bool = False
    every: int = 1
    cuts: tuple[int, ...] | Literal["find"] = ()

    def __post_init__(self) -> None:
        texts = (self.texts,) if isinstance(self.texts, str) else tuple(self.texts)
        if not texts:
            raise InputError("There is no sentence; describe what to find.")
        self._set("texts", tuple(clean_sentence(text) for text in texts))
        for name in ("start", "stop", "steps", "window", "overlap", "every"):
            value = getattr(self, name)
            if value is not None and value != "whole":
                self._set(name, _whole_number(name, value))
        if not 1 <= self.steps <= 1000:
            raise InputError(f"{self.steps} steps are impossible; use 1 to 1000.")
        if self.every < 1:
            raise InputError(f"Every {self.every} frames is impossible; use 1 or more.")
        if self.cuts != "find":
            self._set("cuts", tuple(sorted({_whole_number("cuts", cut) for cut in self.cuts})))
        if self.window == "whole" and self.overlap:
            raise InputError("One window has no overlap; give a window of some frames with it.")
        if isinstance(self.window, int):
            check_windows(self.window, self.overlap or 0)
        elif self.overlap is not None and self.overlap < 0:
            raise InputError(f"An overlap of {self.overlap} frames is impossible; use 0 or more.")
        self._set("threshold", float(self.threshold))
        if not math.isfinite(self.threshold):
            raise InputError(f"A threshold of {self.threshold} is impossible; use -1 to 1.")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, texts: SegmentRequest | str | Sequence[str], **options: Any) -> SegmentRequest:
        """Return a request as it is, or make one of sentences and options."""
        if not isinstance(texts, SegmentRequest):
            return cls(texts, **options)  # type: ignore[arg-type]
        if options:
            raise TypeError(f"the request says {', '.join(options)} already")
        return texts

    def frames(self, frame_count: int) -> range:
        """Return the frames that are asked for, of a video that has `frame_count`.

        Raises
        ------
        InputError
            They are none, or not all in the video.
        """
        return frame_range(frame_count, self.start, self.stop)[:: self.every]


def _whole_number(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, not {value!r}.") from None


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
    step : int
        Native frames from one of `masks` to the next.
    """

    expression: int
    start: int
    masks: npt.NDArray[np.bool_]
    window: Window
    confidence: npt.NDArray[np.uint8] | None = None
    complete: bool = True
    disagreement: npt.NDArray[np.float32] | None = None
    step: int = 1

    @property
    def frames(self) -> range:
        """Native frame of each of `masks`."""
        return range(self.start, self.start + self.step * len(self.masks), self.step)

    @property
    def stop(self) -> int:
        """One past the last frame of `masks`."""
        return self.start + self.step * (len(self.masks) - 1) + 1
