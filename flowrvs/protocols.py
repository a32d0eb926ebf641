"""What a model has to be: a `Segmenter` finds sentences, a `Tracker` marks and key frames.

docs/bring-your-model.md shows how to write one. Nothing here knows torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError
from flowrvs.progress import CancelToken

__all__ = [
    "FrameBlock",
    "InstanceSegmenter",
    "Mark",
    "ReadFrame",
    "RememberingTracker",
    "Segmenter",
    "TrackedObject",
    "Tracker",
    "TrackerMemory",
    "closed",
    "in_turn",
]


T = TypeVar("T")


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
    """What turns frames and sentences into logits.

    A class that inherits from this one needs `name` and `segment_window` alone; one that does
    not has all the attributes itself.

    Attributes
    ----------
    name : str
        Stored as the provenance of the masks it makes. A finished window is computed again
        under another name, so different weights need different names.
    window_size : int
        Frames that it prefers to see at once, 1 or more. Longer videos come in windows.
    overlap : int
        Frames that neighbouring windows should share, 0 to ``window_size - 1``; the logits of
        both are blended there.
    """

    name: str
    window_size: int = 17
    overlap: int = 4

    def segment_window(
        self,
        frames: FrameBlock,
        texts: Sequence[str],
        *,
        steps: int = 1,
        cancel: CancelToken | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the logits of every sentence, in order.

        What the sentences share (the frames' features, say) is best computed once, before
        the first.

        Parameters
        ----------
        frames : FrameBlock of uint8, shape (T, H, W, 3)
            RGB frames, any T >= 1 and any size; `numpy.asarray` gives them at once.
        texts : sequence of str
            One sentence per result.
        steps : int
            Euler steps of a flow; other models leave it alone.
        cancel : CancelToken, optional
            To be checked (`CancelToken.raise_if_cancelled`) before every step.
        on_step : callable, optional
            Called after every finished step, for a bar that moves: once for the frames, then
            `steps` + 1 times for every sentence. Fewer calls do no harm.

        Yields
        ------
        ndarray of float32, shape (n, H, W)
            Logits at source size; > 0 is foreground unless the request says another
            threshold, and a pixel's confidence is their sigmoid. The next n >= 1 frames of a
            sentence: its pieces add up to T, then the next sentence begins. All at once, n = T,
            is as good where it fits the memory.

        Raises
        ------
        Cancelled
            `cancel` was set.
        DeviceMemoryError
            The device is too small for this window, which is then computed in halves. A
            `MemoryError` means the same.
        """
        ...


ReadFrame = Callable[[int], npt.NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class TrackedObject:
    """What a model says of an object on a frame.

    Attributes
    ----------
    logits : ndarray of float32, shape (H, W)
        At source size, as log odds (-5 is hardly, 5 is surely); > 0 is the object.
    score : float
        How sure the model is that the object can be seen there, 0 to 1; below 0.5 it cannot.
    """

    logits: npt.NDArray[np.float32]
    score: float = 1.0

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The object's pixels, shape (H, W); none where it cannot be seen."""
        mask: npt.NDArray[np.bool_] = (self.logits > 0) & (self.score >= 0.5)
        return mask


@runtime_checkable
class InstanceSegmenter(Segmenter, Protocol):
    """A segmenter that tells the instances of a sentence apart, such as SAM 3.

    `flowrvs segment` makes an object of each; where one mask a sentence is wanted (`flowrvs
    predict`), `segment_window` gives their union.
    """

    def find_instances(
        self,
        read: ReadFrame,
        text: str,
        frames: Sequence[int],
        *,
        cancel: CancelToken | None = None,
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        """Yield what the sentence means on every frame, instance by instance.

        Parameters
        ----------
        read : callable
            Returns a frame of the video, uint8 (H, W, 3), RGB.
        text : str
            The sentence.
        frames : sequence of int
            Native frames, ascending; every one gets an answer, in this order.
        cancel : CancelToken, optional
            To be checked before every step.

        Yields
        ------
        frame : int
        instances : dict of int to TrackedObject
            By a number that an instance keeps through the video. One that is left out is not
            there.
        """
        ...


Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a person says about some pixels of a frame.

    Attributes
    ----------
    kind : {"point", "box", "scribble"}
        A box has two points, its corners; it surrounds the object.
    points : tuple of (x, y)
        In pixels of the frame; (0, 0) is the corner of the upper left one.
    positive : bool
        This is the object; False: this is not.
    """

    kind: Literal["point", "box", "scribble"]
    points: tuple[Point, ...]
    positive: bool = True

    def __post_init__(self) -> None:
        points = tuple((float(x), float(y)) for x, y in self.points)
        count = {"point": 1, "box": 2}.get(self.kind)
        if self.kind not in ("point", "box", "scribble") or not all(
            math.isfinite(value) for point in points for value in point
        ):
            raise InputError(f"A mark is a point, box or scribble of numbers, not {self}.")
        if not points or (count is not None and len(points) != count):
            raise InputError(f"A {self.kind} cannot have {len(points)} points.")
        if self.kind == "box":
            (x0, y0), (x1, y1) = points
            points = (min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))
            if points[1][0] - points[0][0] < 1 or points[1][1] - points[0][1] < 1:
                raise InputError("A box needs at least one pixel to each side.")
        object.__setattr__(self, "points", points)

    @classmethod
    def point(cls, x: float, y: float, positive: bool = True) -> Mark:
        """Make a click."""
        return cls("point", ((x, y),), positive)

    @classmethod
    def box(cls, x0: float, y0: float, x1: float, y1: float) -> Mark:
        """Make a box around the object, of any two opposite corners."""
        return cls("box", ((x0, y0), (x1, y1)))

    @classmethod
    def scribble(cls, points: Iterable[Point], positive: bool = True) -> Mark:
        """Make a stroke through points."""
        return cls("scribble", tuple(points), positive)


@runtime_checkable
class Tracker(Protocol):
    """What turns marks on a frame into a mask, and carries masks over a video.

    Attributes
    ----------
    name : str
        Stored as the provenance of the masks it makes, such as "sam2.1-tiny": different
        weights need different names.
    """

    name: str

    def encode(self, image: npt.NDArray[np.uint8]) -> Any:
        """Do what a frame costs once, whatever the marks; the caller keeps it for `pick`.

        Parameters
        ----------
        image : ndarray of uint8, shape (H, W, 3)
            RGB, any size.

        Returns
        -------
        object
            Whatever `pick` wants. It may be kept for some frames, so it should be small
            (tens of megabytes).

        Raises
        ------
        DeviceMemoryError
            The device is too small.
        """
        ...

    def pick(
        self,
        encoded: Any,
        marks: Sequence[Mark],
        previous: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the logits of the object that marks mean.

        Parameters
        ----------
        encoded : object
            From `encode`.
        marks : sequence of Mark
            All of them, in the order in which they were set: one of them at least says "this".
        previous : ndarray of float32, shape (H, W), optional
            Logits of the object as it was before the last mark: the answer to the marks before,
            or +-10 from a mask that is to be mended.

        Returns
        -------
        ndarray of float32, shape (H, W)
            At the image's size, as log odds; > 0 is the object.
        """
        ...

    def follow(
        self,
        read: ReadFrame,
        keys: Mapping[int, Mapping[int, npt.NDArray[np.bool_]]],
        frames: Sequence[int],
        *,
        cancel: CancelToken | None = None,
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        """Carry objects from key frames over other frames, one after the other.

        Memory must not grow with the number of frames.

        Parameters
        ----------
        read : callable
            Returns a frame of the video, uint8 (H, W, 3), RGB; ``IndexError`` where there is
            none.
        keys : mapping of int to mapping of int to ndarray of bool, shape (H, W)
            Masks of the key frames: frame, then object, then mask. They may lie before, within
            and beyond `frames`; a mask without a pixel says that the object is not there.
        frames : sequence of int
            Frames in the order in which to go: ascending is forwards, descending backwards.
            Every one gets an answer; where it is a key frame, the mask of the key.
        cancel : CancelToken, optional
            To be checked before every frame, and within it where that takes long.

        Yields
        ------
        frame : int
        objects : dict of int to TrackedObject
            The objects of `keys`; one that is left out is not there.

        Raises
        ------
        Cancelled
            `cancel` was set.
        DeviceMemoryError
            The device is too small.
        """
        ...


class TrackerMemory(Protocol):
    """What a tracker remembers of the frames that it answered last; it does not grow.

    Attributes
    ----------
    about : dict of str to str
        Notes that are kept with it, for who keeps it.
    """

    about: dict[str, str]

    def copy(self) -> TrackerMemory:
        """Return what is remembered now; `Tracker.follow` goes on changing the one it was given."""
        ...

    def to_bytes(self) -> bytes:
        """Return it with its notes as a file, from which `RememberingTracker.recall` makes it."""
        ...


@runtime_checkable
class RememberingTracker(Tracker, Protocol):
    """A tracker whose memory can be kept, so that a spread that was stopped goes on exactly."""

    def recall(self, data: bytes = b"") -> TrackerMemory:
        """Return an empty memory, or the one that was kept.

        Parameters
        ----------
        data : bytes
            From `TrackerMemory.to_bytes`, perhaps by another process, perhaps damaged, perhaps
            written by somebody who means harm.

        Raises
        ------
        InputError
            It is damaged, or of another kind of tracker.
        """
        ...

    def follow(
        self,
        read: ReadFrame,
        keys: Mapping[int, Mapping[int, npt.NDArray[np.bool_]]],
        frames: Sequence[int],
        *,
        memory: Any = None,
        frame_count: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[tuple[int, dict[int, TrackedObject]]]:
        """Carry objects as `Tracker.follow` does, with a memory that the caller has.

        Parameters
        ----------
        read, keys, frames, cancel
            As for `Tracker.follow`.
        memory : TrackerMemory, optional
            Brought up to date before every answer. One that has answers already goes on from
            there as if it had not stopped: the next of `frames` follows its last one.
        frame_count : int, optional
            Frames of the whole video.
        """
        ...


@contextmanager
def closed(answers: Iterable[T]) -> Iterator[Iterable[T]]:
    """Close a model's answers at the end: they need not be a generator, but mostly are one."""
    try:
        yield answers
    finally:
        getattr(answers, "close", lambda: None)()


def in_turn(
    answers: Iterable[tuple[int, T]], frames: Iterable[int], who: str
) -> Iterator[tuple[int, T]]:
    """Yield a model's answers, one for every frame, in order.

    Raises
    ------
    InputError
        One is missing, or of another frame; `who` gave it.
    """
    left = iter(frames)
    with closed(answers):
        for t, found in answers:
            if t != next(left, None):
                raise InputError(f"{who} answered for frame {t} out of turn.")
            yield t, found
    for t in left:
        raise InputError(f"{who} gave no answer for frame {t}.")
