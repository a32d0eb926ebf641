"""A spread in pieces: frames that depend on some key frames and the video, and on nothing else.

What lies between two neighbouring key frames knows nothing of the rest, so a piece gives the same
masks whoever computes it, and whatever was computed before: this process, or a cluster's worker.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from flowrvs.errors import InputError, VideoError
from flowrvs.masks.flow import Flows
from flowrvs.masks.interpolate import interpolate
from flowrvs.masks.propagate import Spread, leg_steps, part_end, spread_gap
from flowrvs.masks.tracking import Carried
from flowrvs.progress import CancelToken, ProgressCallback, ProgressClock
from flowrvs.protocols import (
    ReadFrame,
    RememberingTracker,
    TrackedObject,
    Tracker,
    closed,
    in_turn,
)

if TYPE_CHECKING:
    from flowrvs.editing.memory import KeptMemory
    from flowrvs.video import Video

__all__ = ["PART", "Here", "Lost", "Method", "Piece", "PieceRunner", "certainty_of", "compute"]

Mask = npt.NDArray[np.bool_]
Method = Literal["flow", "shape", "copy", "memory"]
#: Told of an object, and of frames on which it was lost.
Lost = Callable[[int, range], None]

PART = 200
"""Frames after which a long way from a key frame is cut: another process may go on there."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Frames of one spread that are computed in one go.

    Attributes
    ----------
    method : {"flow", "shape", "copy", "memory"}
        See `flowrvs.editing.spread`.
    frames : range
        In the order in which they are walked.
    keys : mapping of int to mapping of int to ndarray of bool, shape (H, W)
        Frame, then object, then mask; read when they are asked for. For ``"flow"`` also of others
        in the object's layer, which it must not be taken for.
    objects : tuple of int
        One, but for ``"memory"``; ascending.
    stops : tuple of int
        Frames beyond which nothing is carried.
    wanted : ndarray of bool, shape (objects, frames), optional
        For ``"memory"``: which objects want masks on which frames.
    layers : tuple of int
        For ``"memory"``: the layer of each object. Those of one do not overlap.
    kept : KeptMemory, optional
        For ``"memory"``: where what the tracker remembers is kept.
    behind : int
        For ``"memory"``: frames of the walk before `frames` that it remembers already.
    """

    method: Method
    frames: range
    keys: Mapping[int, Mapping[int, Mask]]
    objects: tuple[int, ...]
    stops: tuple[int, ...] = ()
    wanted: Mask | None = None
    layers: tuple[int, ...] = ()
    kept: KeptMemory | None = None
    behind: int = 0

    @property
    def steps(self) -> int:
        """How many frames have to be walked."""
        if self.method != "flow":
            return len(self.frames)
        return leg_steps(sorted(self.keys), self.frames[0], self.frames[-1])

    def looks(self, walked: int, limit: int) -> Sequence[int]:
        """Return the frames of the video that a part looks at, ascending; see `compute`.

        It begins where so many frames of the way were walked, by parts of `limit` frames.
        """
        looked = sorted({*self.frames, *self.keys})
        if self.method != "flow":
            return looked if self.method == "memory" else ()
        ends = sorted(t for t in self.keys if self.keys[t][self.objects[0]].any())
        if not ends:
            return ()
        forwards = ends[0] < self.frames[0]
        at = ends[0] + (walked if forwards else -walked)
        end = part_end(ends, self.frames, at, limit)
        if end is None:
            end = looked[-1] if forwards else self.frames[0]
        return sorted({*range(min(at, end), max(at, end) + 1), *self.keys})


class PieceRunner(Protocol):
    """What computes pieces: `Here`, or a cluster.

    Attributes
    ----------
    name : str
        Of the tracker that it has; "" for none.
    """

    name: str

    def run(
        self,
        pieces: Sequence[Piece],
        shape: tuple[int, int, int],
        video: Video | None,
        *,
        lost: Lost,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> Generator[tuple[int, Spread], None, None]:
        """Yield objects and masks, piece by piece; see `compute` for the rest.

        Parameters
        ----------
        shape : tuple of int
            (T, H, W) of the video.

        Raises
        ------
        VideoError
            At the end: a frame cannot be read. It ends its own piece, and not the others.
        """
        ...


class Here:
    """Computes pieces in this process.

    Parameters
    ----------
    flows : Flows, optional
        What other spreads have computed is used, and this one's kept. Without it every piece
        computes its own, and gives the same to the bit whatever was computed before.
    tracker : Tracker, optional
        For the method ``"memory"``.
    """

    def __init__(self, flows: Flows | None = None, tracker: Tracker | None = None) -> None:
        self.flows, self.tracker = flows, tracker
        self.name = "" if tracker is None else tracker.name

    def run(
        self,
        pieces: Sequence[Piece],
        shape: tuple[int, int, int],
        video: Video | None,
        *,
        lost: Lost,
        cancel: CancelToken | None = None,
        progress: ProgressCallback | None = None,
    ) -> Generator[tuple[int, Spread], None, None]:
        """Yield objects and masks, piece by piece."""
        clock = ProgressClock(sum(piece.steps for piece in pieces))
        message = f"following with {self.name}" if self.name else "spreading"

        def advance(n: int = 1) -> None:
            event = clock.advance(message, n)
            if progress is not None and n:
                progress(event)

        def read(t: int) -> npt.NDArray[np.uint8]:
            assert video is not None
            return video.read(t, t + 1)[0]

        whole = 0
        unreadable: VideoError | None = None
        for piece in pieces:
            left: list[Carried | None] = [None]
            while left:
                parts = compute(
                    piece,
                    shape,
                    read,
                    flows=self.flows,
                    tracker=self.tracker,
                    lost=lost,
                    cancel=cancel,
                    step=advance,
                    begin=left.pop(),
                    limit=PART,
                    carry=left.append,
                )
                try:
                    with closing(parts):
                        yield from parts
                except VideoError as error:
                    unreadable = unreadable or error
            whole += piece.steps
            advance(max(0, whole - clock.done))  # where it was lost there was less to walk
        if unreadable is not None:
            raise unreadable


def compute(
    piece: Piece,
    shape: tuple[int, int, int],
    read: ReadFrame,
    *,
    flows: Flows | None = None,
    tracker: Tracker | None = None,
    lost: Lost,
    cancel: CancelToken | None = None,
    step: Callable[[], None] = lambda: None,
    begin: Carried | None = None,
    limit: int | None = None,
    carry: Callable[[Carried], None] = lambda _: None,
) -> Generator[tuple[int, Spread], None, None]:
    """Compute a piece, or the part of a long one that begins with `begin`.

    Parameters
    ----------
    piece : Piece
    shape : tuple of int
        (T, H, W) of the video.
    read : callable
        Returns a frame; not called by the methods ``"shape"`` and ``"copy"``.
    flows, tracker
        See `Here`.
    lost : callable
        Told of every object, and the frames on which it was lost.
    cancel : CancelToken, optional
        Checked before every frame.
    step : callable
        Called after every frame that was walked.
    begin : dict of str to ndarray, optional
        What `carry` was told; without it the piece begins at its key.
    limit : int, optional
        Frames after which a long way by flow is cut.
    carry : callable
        Told of what the next part needs where this one ends there.

    Yields
    ------
    object_id : int
    found : Spread

    Raises
    ------
    Cancelled
        `cancel` was set.
    DeviceMemoryError
        The device is too small for the tracker.
    InputError
        The tracker's answers are of another size, or of other frames.
    """
    cancel = cancel or CancelToken()
    cancel.raise_if_cancelled()
    if piece.method == "memory":
        assert tracker is not None
        yield from _remember(piece, shape, read, tracker, cancel, step)
        return
    (object_id,) = piece.objects
    keys = {t: dict(masks) for t, masks in piece.keys.items()}
    ends = {t: masks.pop(object_id) for t, masks in keys.items()}
    frames = piece.frames
    if piece.method == "flow":
        for found in spread_gap(
            Flows(read, shape) if flows is None else flows,
            ends,
            frames,
            rivals=lambda t: list(keys[t].values()),
            lost=lambda run: lost(object_id, run),
            cancel=cancel,
            step=step,
            begin=begin,
            limit=limit,
            carry=carry,
        ):
            yield object_id, found
        return
    for found in _shapes(ends, frames) if piece.method == "shape" else _copies(ends, piece):
        cancel.raise_if_cancelled()
        yield object_id, found
        step()


def _shapes(ends: Mapping[int, Mask], frames: range) -> Iterator[Spread]:
    for t, mask in interpolate(ends, frames.start, frames.stop):
        yield Spread(t, mask, 1 / (1 + min(abs(t - end) for end in ends)))


def _copies(ends: Mapping[int, Mask], piece: Piece) -> Iterator[Spread]:
    """Repeat the nearest key, not beyond the stops."""
    for t in piece.frames:
        nearest = min(ends, key=lambda end: (abs(end - t), end))
        if not any(min(nearest, t) <= stop <= max(nearest, t) for stop in piece.stops):
            yield Spread(t, ends[nearest], 1 / (1 + abs(t - nearest)))


def _remember(
    piece: Piece,
    shape: tuple[int, int, int],
    read: ReadFrame,
    tracker: Tracker,
    cancel: CancelToken,
    step: Callable[[], None],
) -> Iterator[tuple[int, Spread]]:
    assert piece.wanted is not None
    layers = dict(zip(piece.objects, piece.layers, strict=True))
    size, kept, memory = shape[1:], piece.kept, None
    if isinstance(tracker, RememberingTracker):
        memory = None if kept is None else kept.memory(piece)
        answers = tracker.follow(
            read, piece.keys, piece.frames, memory=memory, frame_count=shape[0], cancel=cancel
        )
    else:
        answers = tracker.follow(read, piece.keys, piece.frames, cancel=cancel)
    with closed(in_turn(answers, piece.frames, f"The tracker {tracker.name}")) as checked:
        for place, (t, found) in enumerate(checked):
            cancel.raise_if_cancelled()
            for object_id, wanted in zip(piece.objects, piece.wanted[:, place], strict=True):
                if wanted:
                    yield object_id, _answer(t, object_id, found, layers, size, tracker.name)
            step()
            if kept is not None and memory is not None:
                kept.note(piece, place + 1, memory)
    if kept is not None:
        kept.walked()


def _answer(
    t: int,
    object_id: int,
    found: Mapping[int, TrackedObject],
    layers: Mapping[int, int],
    size: tuple[int, int],
    name: str,
) -> Spread:
    answer = found.get(object_id)
    if answer is None:  # left out: it is not there
        return Spread(t, np.zeros(size, bool), 1.0)
    if np.shape(answer.logits) != size:
        raise InputError(
            f"The tracker {name} gave logits of shape {np.shape(answer.logits)}, not {size}."
        )
    mask = answer.mask
    for other, rival in found.items():
        if layers.get(other) != layers[object_id]:
            continue
        # A pixel is that one's of which the tracker is surer, of equals the older one's.
        above = np.greater_equal if other < object_id else np.greater
        mask &= ~(rival.mask & above(rival.logits, answer.logits))
    return Spread(t, mask, certainty_of(answer))


def certainty_of(found: TrackedObject) -> float:
    """Return how sure an answer is, 0 to 1: that the object is there or not, and of its edge.

    The edge is as sure as the mask is the same for a logit of 1 and of -1 (SAM's stability).
    """
    presence = abs(2 * min(1.0, max(0.0, float(found.score))) - 1)
    if found.score < 0.5:
        return presence
    wide = np.count_nonzero(found.logits > -1)
    return presence * (np.count_nonzero(found.logits > 1) / wide if wide else 1.0)
