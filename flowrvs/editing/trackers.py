"""Pick with a tracker: what it keeps of frames, and its answers to marks, one by one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, label

from flowrvs.errors import DeviceMemoryError, InputError
from flowrvs.masks.marks import check_mark, choose_parts, within_box
from flowrvs.protocols import Mark, Tracker

__all__ = ["Encodings", "TrackerPicker"]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_SURE = 10.0  # the logit of a mask that was given


class Encodings:
    """What a tracker has made of the frames that were looked at last; for any thread.

    Parameters
    ----------
    tracker : Tracker
    size : int
        How many frames are kept.
    """

    def __init__(self, tracker: Tracker, size: int = 4) -> None:
        self.tracker = tracker
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def of(self, key: Hashable, image: Callable[[], npt.NDArray[np.uint8]]) -> Any:
        """Return the encoding of a frame, which is read and encoded if need be.

        Who asks for one that is being made waits for it instead of making it again.

        Raises
        ------
        DeviceMemoryError
            The device is too small even with no other frame kept.
        """
        with self._lock:
            if key not in self._kept:
                picture = image()
                try:
                    made = self.tracker.encode(picture)
                except DeviceMemoryError:
                    if not self._kept:
                        raise
                    self._kept.clear()
                    made = self.tracker.encode(picture)
                self._kept[key] = made
                while len(self._kept) > self._size:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept


@dataclass(frozen=True, eq=False)
class _Answer:
    logits: Floats
    asked: bool  # False for a mask that was given, or chosen

    @classmethod
    def given(cls, mask: Mask) -> _Answer:
        return cls(np.where(mask, _SURE, -_SURE).astype(np.float32), False)


class TrackerPicker:
    """The mask of one object on one frame by a tracker; as `flowrvs.masks.pick.Picker` else.

    Parameters
    ----------
    encodings : Encodings
        Of the tracker.
    key : hashable
        What the frame is kept by.
    image : callable
        Reads the frame, uint8 (H, W, 3).
    shape : tuple of int
        (H, W).
    start : array_like of bool, shape (H, W), optional
        The object as it is believed to be, to be mended by marks.
    choose, inside_box : bool
        See `Picker`.
    """

    def __init__(
        self,
        encodings: Encodings,
        key: Hashable,
        image: Callable[[], npt.NDArray[np.uint8]],
        shape: tuple[int, int],
        *,
        start: npt.ArrayLike | None = None,
        choose: bool = False,
        inside_box: bool = False,
    ) -> None:
        self._encodings, self._key, self._image, self._shape = encodings, key, image, shape
        self._start = None if start is None else np.asarray(start, dtype=bool)
        if self._start is not None and self._start.shape != shape:
            raise InputError(f"A mask {self._start.shape} does not fit a frame {shape}.")
        self._parts = None
        if choose and self._start is not None:
            self._parts = label(self._start, np.ones((3, 3)))[0]
        self._inside_box = inside_box
        self._marks: list[Mark] = []
        # After so many marks; None while nothing is known of the object.
        first = self._start if self._start is not None and self._start.any() else None
        self._answers: list[_Answer | None] = [None if first is None else _Answer.given(first)]

    @property
    def name(self) -> str:
        """Of the tracker."""
        return self._encodings.tracker.name

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks, in the order in which they count."""
        return tuple(self._marks)

    @property
    def mask(self) -> Mask:
        """The mask after all marks, bool, shape (H, W)."""
        answer = self._answers[-1]
        if answer is None:
            return np.zeros(self._shape, bool)
        mask: Mask = answer.logits > 0
        return within_box(mask, self._marks) if self._inside_box else mask

    def prepare(self) -> None:
        """Encode the frame: what takes long of the first mark's answer."""
        self._encodings.of(self._key, self._image)

    def add(self, mark: Mark) -> Mask:
        """Take one more mark and return the mask; a new box replaces the old one.

        Raises
        ------
        InputError
            The mark lies outside the frame.
        DeviceMemoryError
            The device is too small.
        """
        return self.take([*self._marks, mark])

    def take(self, marks: Iterable[Mark]) -> Mask:
        """Take these marks instead of all before; what begins alike is not asked again."""
        wanted = list(marks)
        for mark in wanted:
            check_mark(mark, self._shape)
        boxes = [m for m in wanted if m.kind == "box"][-1:]
        wanted = [*boxes, *(m for m in wanted if m.kind != "box")]
        same = 0
        while same < min(len(wanted), len(self._marks)) and wanted[same] == self._marks[same]:
            same += 1
        del self._marks[same:], self._answers[same + 1 :]
        for mark in wanted[same:]:
            self._answers.append(self._answer([*self._marks, mark]))
            self._marks.append(mark)
        return self.mask

    def undo(self) -> Mark | None:
        """Forget the last mark and return it; None where there is none."""
        if not self._marks:
            return None
        self._answers.pop()
        return self._marks.pop()

    def _answer(self, marks: list[Mark]) -> _Answer | None:
        last = self._answers[-1]
        if self._parts is not None and (last is None or not last.asked):
            chosen = choose_parts(self._parts, marks)
            if chosen is not None:
                return _Answer.given(chosen)
        asked = marks
        if not any(mark.positive for mark in marks):
            if last is None:
                return None  # "not this" alone says nothing
            middle = _middle(last.logits > 0, marks)
            if middle is None:
                return last
            asked = [middle, *marks]
        encoded = self._encodings.of(self._key, self._image)
        previous = None if last is None else last.logits
        logits = self._encodings.tracker.pick(encoded, asked, previous)
        if np.shape(logits) != self._shape:
            raise InputError(
                f"The tracker {self.name} gave logits of shape {np.shape(logits)}, not "
                f"{self._shape}."
            )
        return _Answer(np.asarray(logits, dtype=np.float32), True)


def _middle(mask: Mask, marks: Sequence[Mark]) -> Mark | None:
    """Return a click on the place deepest in a mask and away from marks that say "not this"."""
    free = np.pad(mask, 1)
    for mark in marks:
        for x, y in mark.points:
            free[int(y) + 1, int(x) + 1] = False
    depth = distance_transform_edt(free)
    if not depth.any():
        return None
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return Mark.point(column - 0.5, row - 0.5)
